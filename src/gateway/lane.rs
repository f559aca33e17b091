//! The way of one request to an upstream, and what is known of a request that got no answer on it.
//!
//! INVARIANT: a connection of HTTP/1.1 goes back to those that lie idle from a lane that still has it, and
//! from no other: what was given up is never used again.

use std::error::Error;
use std::rc::Rc;

use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::body::Relay;
use super::multiplexed::Stream;
use super::upstream::Target;

/// What is sent to an upstream as body: the client's, passing through.
pub type UpstreamBody = Relay;

/// A way to send one request. Its upstream counts it as load until this is dropped.
pub struct Lane {
    target: Rc<Target>,
    sender: Option<Sender>,
}

/// What a request is sent with.
pub enum Sender {
    /// A connection that it has for itself.
    Http1(http1::SendRequest<UpstreamBody>),
    /// A place on one that others use too.
    Http2(Stream),
}

/// Why a request did not get an answer.
pub enum Unsent {
    /// Nothing of it was sent: it may go another way.
    Again(Box<Request<UpstreamBody>>),
    /// It was sent, at least its head, and the upstream says that it has done nothing of it: it may go another
    /// way, if there is another copy of it.
    Refused,
    /// Some of it was, or may have been.
    Failed,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let connection = match self.sender.take() {
            Some(Sender::Http1(sender)) => Some(sender),
            Some(Sender::Http2(_)) | None => None,
        };
        self.target.left(connection);
    }
}

impl Lane {
    /// A lane to this upstream.
    pub(super) fn to(target: &Rc<Target>, sender: Sender) -> Self {
        target.entered();
        Self { target: Rc::clone(target), sender: Some(sender) }
    }

    /// The scheme that requests name where they go out as HTTP/2, which is how they do: servers refuse one that
    /// is not the connection's own (RFC 9113 §8.3.1).
    #[must_use]
    pub fn http2_scheme(&self) -> Option<Scheme> {
        let scheme = if self.target.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        matches!(self.sender, Some(Sender::Http2(_))).then_some(scheme)
    }

    /// Sends the request. The lane must be kept until the answer's body has been read.
    ///
    /// # Errors
    /// The request itself when the connection was found dead with nothing sent on it; else what
    /// went wrong.
    pub async fn send(&mut self, request: Request<UpstreamBody>) -> Result<Response<Incoming>, Unsent> {
        let outcome = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.try_send_request(request).await,
            Some(Sender::Http2(stream)) => stream.sender().try_send_request(request).await,
            None => return Err(Unsent::Failed),
        };
        match outcome {
            Ok(response) => Ok(response),
            Err(mut error) => {
                let given_back = error.take_message();
                let refused = given_back.is_none() && self.is_refused(error.error());
                self.discard();
                match given_back {
                    Some(request) => Err(Unsent::Again(Box::new(request))),
                    None if refused => Err(Unsent::Refused),
                    None => Err(Unsent::Failed),
                }
            }
        }
    }

    /// Whether the upstream says that it has done nothing of a request (RFC 9113 §8.7): it refused the stream, or
    /// went away before it, which is what an error of a stream by a GOAWAY of the other side is.
    fn is_refused(&self, error: &hyper::Error) -> bool {
        let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()) else {
            return false;
        };
        if let (true, Some(Sender::Http2(stream))) = (cause.is_go_away(), &self.sender) {
            stream.going();
        }
        cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
    }

    /// Gives the connection up: what was read from it can't be trusted to have ended cleanly. Of HTTP/2
    /// it is the one stream that is given up.
    pub fn discard(&mut self) {
        self.sender = None;
    }

    /// Gives the connection up because its answer is overdue. One of HTTP/2 on which nothing else came
    /// either gets no new requests until something does.
    pub fn in_vain(&mut self) {
        if let Some(Sender::Http2(stream)) = &self.sender {
            stream.in_vain();
        }
        self.discard();
    }
}
