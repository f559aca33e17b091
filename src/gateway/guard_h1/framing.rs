//! Where requests begin and end in a client's HTTP/1 bytes. Pure: bytes in, verdict out; no I/O.
//!
//! INVARIANT: a head is passed only as a whole and only if it is good, and the outcome for a stream of
//! bytes does not depend on how the network cut it into pieces, save that bytes sent along with an
//! upgrade are seen only if they come in the same piece.

use super::H1Limits;
use super::chunked::{Chunked, Step};
use super::head::{self, Follows};
use crate::gateway::guard::WireRefusal;

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    /// After an upgrade's head, until somebody says what became of it.
    Hold,
    Tunnel,
    Refused(WireRefusal),
}

/// The reading of one connection.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// How much of an incomplete head has been looked at.
    scanned: usize,
    limits: H1Limits,
}

/// Where a connection stands between two reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Between requests.
    Idle,
    /// A head has begun.
    Head,
    /// A body has begun.
    Body,
    /// An upgrade waits for its answer.
    Hold,
    /// Bytes pass unread.
    Tunnel,
    /// Nothing passes any more.
    Refused(WireRefusal),
}

impl Framing {
    /// Before the first byte.
    #[must_use]
    pub const fn new(limits: H1Limits) -> Self {
        Self { state: State::Head, scanned: 0, limits }
    }

    /// Reads `bytes`: those that the last call did not pass, and new ones behind them. Gives how many
    /// may be handed on; the rest is a head that isn't whole, or refused.
    pub fn inspect(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            match &mut self.state {
                State::Head => match self.inspect_head(rest) {
                    Ok(Some((length, follows))) => {
                        self.scanned = 0;
                        self.state = match follows {
                            Follows::Nothing => State::Head,
                            Follows::Length(left) => State::Length(left),
                            Follows::Chunked => State::Chunked(Chunked::new()),
                            Follows::Verdict if length < rest.len() => {
                                // Who sends on before the answer wants some reader to take it for a request.
                                State::Refused(WireRefusal::Malformed {
                                    what: "there are bytes behind a request with `Upgrade`",
                                })
                            }
                            Follows::Verdict => State::Hold,
                        };
                        if matches!(self.state, State::Refused(_)) {
                            return passed;
                        }
                        passed += length;
                    }
                    Ok(None) => return passed,
                    Err(refusal) => {
                        self.state = State::Refused(refusal);
                        return passed;
                    }
                },
                State::Length(left) => {
                    let taken = (rest.len() as u64).min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    passed += usize::try_from(taken).unwrap_or(rest.len());
                }
                State::Chunked(chunked) => match chunked.step(rest) {
                    Step::More => return bytes.len(),
                    Step::End(length) => {
                        self.state = State::Head;
                        passed += length;
                    }
                    Step::Refused(length, what) => {
                        self.state = State::Refused(WireRefusal::Malformed { what });
                        return passed + length;
                    }
                },
                State::Tunnel => return bytes.len(),
                State::Hold | State::Refused(_) => return passed,
            }
        }
        passed
    }

    /// A head at the start of `bytes`, if it is whole. One that comes in one piece is parsed once; one
    /// that comes in many is searched for its end first, so that single bytes don't make us parse it
    /// again and again.
    fn inspect_head(&mut self, bytes: &[u8]) -> Result<Option<(usize, Follows)>, WireRefusal> {
        let found = if self.scanned == 0 { head::parse(bytes, self.limits.headers_max)? } else { None };
        let found = match found {
            Some(found) => Some(found),
            None => match self.scan(bytes)? {
                None => None,
                Some(end) => {
                    let head = bytes.get(..end).unwrap_or_default();
                    match head::parse(head, self.limits.headers_max)? {
                        Some((length, follows)) if length == end => Some((length, follows)),
                        _ => return Err(WireRefusal::Malformed { what: "the request head ends in two places" }),
                    }
                }
            },
        };
        let length = found.map_or(bytes.len(), |(length, _)| length);
        if length > self.limits.head_bytes_max { Err(WireRefusal::HeadTooLarge) } else { Ok(found) }
    }

    /// Looks at what is new for the end of the head, and refuses lines that don't end in CRLF.
    fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, WireRefusal> {
        if bytes.first().is_some_and(|first| *first == b'\r' || *first == b'\n') {
            return Err(WireRefusal::Malformed { what: "there is an empty line before the request" });
        }
        while let Some(offset) = bytes.get(self.scanned..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let place = self.scanned + offset;
            let line_end = bytes.get(..=place).unwrap_or_default();
            if !line_end.ends_with(b"\r\n") {
                return Err(WireRefusal::Malformed { what: "a line does not end in CRLF" });
            }
            if line_end.ends_with(b"\r\n\r\n") {
                return Ok(Some(place + 1));
            }
            self.scanned = place + 1;
        }
        self.scanned = bytes.len();
        Ok(None)
    }

    /// Where the connection stands. A head that has begun counts as [`Stage::Head`].
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.state {
            State::Head if self.scanned == 0 => Stage::Idle,
            State::Head => Stage::Head,
            State::Length(_) | State::Chunked(_) => Stage::Body,
            State::Hold => Stage::Hold,
            State::Tunnel => Stage::Tunnel,
            State::Refused(refusal) => Stage::Refused(refusal),
        }
    }

    /// The upgrade was granted. Nothing happens to a connection that holds none.
    pub const fn tunnel(&mut self) {
        if matches!(self.state, State::Hold) {
            self.state = State::Tunnel;
        }
    }

    /// The upgrade was not granted.
    pub const fn no_tunnel(&mut self) {
        if matches!(self.state, State::Hold) {
            self.state = State::Head;
        }
    }
}
