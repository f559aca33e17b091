//! The strict reader under hyper's HTTP/1, with a real hyper server behind it. Time stands still but
//! for the timers: a connection that nobody refuses ends as idle, at once.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use doorward::gateway::canonical::{PathRules, canonical};
use doorward::gateway::guard_h1::{GuardControl, GuardH1, H1Limits, PaceLimits, WireRefusal};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

/// A client that sends its pieces one by one, then nothing, and takes everything.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    breath: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A pause before each piece, so that hyper and the service work on what they have.
        self.breath = !self.breath;
        if self.breath {
            if !self.pieces.is_empty() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let Some(mut piece) = self.pieces.pop_front() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// What the service would have passed on: method, target, body.
    served: Vec<String>,
    /// What the canonical reading refused.
    ambiguous: usize,
    refusal: Option<WireRefusal>,
    /// Status codes that hyper wrote by itself or for the service.
    statuses: Vec<u16>,
}

fn statuses(written: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(written)
        .match_indices("HTTP/1.")
        .map(|(place, _)| String::from_utf8_lossy(&written[place + 9..place + 12]).parse().unwrap())
        .collect()
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, limits: H1Limits) -> (Vec<String>, usize, GuardControl) {
    let control = GuardControl::new();
    let served = Arc::new(Mutex::new(Vec::new()));
    let ambiguous = Arc::new(Mutex::new(0));
    let guard = GuardH1::new(io, limits, control.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (control, served, ambiguous) = (control.clone(), served.clone(), ambiguous.clone());
        async move {
            let exchange = control.exchange();
            let upgrade = request.headers().contains_key("upgrade");
            let read = canonical(&request, PathRules::default());
            let status = match read {
                Err(why) => {
                    *ambiguous.lock().unwrap() += 1;
                    why.status()
                }
                Ok(read) => {
                    let body = request.into_body().collect().await?.to_bytes();
                    let line = format!("{} {} {}", read.method, read.target(), String::from_utf8_lossy(&body));
                    served.lock().unwrap().push(line.trim_end().to_owned());
                    200
                }
            };
            if upgrade {
                control.no_tunnel();
            }
            drop(exchange);
            Ok::<_, hyper::Error>(Response::builder().status(status).body(Full::new(Bytes::new())).unwrap())
        }
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(guard), service).await;
    let served = served.lock().unwrap().clone();
    let ambiguous = *ambiguous.lock().unwrap();
    (served, ambiguous, control)
}

async fn send(pieces: Vec<Vec<u8>>) -> Outcome {
    let written = Arc::new(Mutex::new(Vec::new()));
    let io = Pieces { pieces: pieces.into(), breath: false, written: written.clone() };
    let (served, ambiguous, control) = serve(io, H1Limits::default()).await;
    let statuses = statuses(&written.lock().unwrap());
    Outcome { served, ambiguous, refusal: control.refusal(), statuses }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(future)
}

/// What is to become of a message.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// The guard refuses with one of these; at most this good request is served before.
    Refused(&'static [u16], Option<&'static str>),
    /// The guard passes it and the canonical reading doesn't.
    Ambiguous,
    /// It is served.
    Served(&'static [&'static str]),
}
use Expect::{Ambiguous, Refused, Served};

const BAD: Expect = Refused(&[400], None);
const BAD_OR_UNKNOWN: Expect = Refused(&[400, 501], None);
const UNKNOWN: Expect = Refused(&[501], None);

/// The messages of the classes: name, bytes, what is to become of them.
fn messages() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let post = "POST /p HTTP/1.1\r\nHost: a\r\n";
    let chunked = "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut list: Vec<(&'static str, Vec<u8>, Expect)> = Vec::new();
    let mut add = |name, bytes: String, expect| list.push((name, bytes.into_bytes(), expect));

    // Good ones: the guard is of no use if it refuses these.
    add("get", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Served(&["GET /x"]));
    add("get_with_fields", "GET /x?q=\\ HTTP/1.1\r\nhOST:a\r\nAccept: */*\r\nEmpty:\r\nTabs:\t a \t\r\nObs: \u{e9}\r\n\r\n".into(), Served(&["GET /x?q=\\"]));
    add("length", format!("{post}Content-Length: 5\r\n\r\nhello"), Served(&["POST /p hello"]));
    add("length_zero", format!("{post}Content-Length: 0\r\n\r\n"), Served(&["POST /p"]));
    add("chunks", format!("{chunked}5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"), Served(&["POST /p hello!"]));
    add("chunks_upper", format!("{}A\r\n0123456789\r\n00\r\n\r\n", chunked.replace("chunked", "CHUNKED")), Served(&["POST /p 0123456789"]));
    add("chunk_extension", format!("{chunked}5;a=b;c\r\nhello\r\n0;z\r\n\r\n"), Served(&["POST /p hello"]));
    add("trailers", format!("{chunked}0\r\nDigest: x y\r\nZ:\r\n\r\n"), Served(&["POST /p"]));
    add("pipelined", format!("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{post}Content-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"), Served(&["GET /1", "POST /p hi", "GET /2"]));
    add("pipelined_chunks", format!("{chunked}2\r\nhi\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"), Served(&["POST /p hi", "GET /2"]));
    add("absolute_form", "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Served(&["GET /x"]));
    add("old_version", "GET /x HTTP/1.0\r\nHost: a\r\n\r\n".into(), Served(&["GET /x"]));
    add("refused_upgrade_then_more", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n".into(), Served(&["GET /x"]));

    // A12: length and coding that disagree.
    add("a12_cl_te", format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), BAD);
    add("a12_te_cl", format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}"), BAD);
    add("a12_cl_cl_equal", format!("{post}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), BAD);
    add("a12_cl_cl_other", format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"), BAD);
    add("a12_cl_list", format!("{post}Content-Length: 5, 5\r\n\r\nhello"), BAD);
    add("a12_cl_plus", format!("{post}Content-Length: +5\r\n\r\nhello"), BAD);
    add("a12_cl_minus", format!("{post}Content-Length: -5\r\n\r\nhello"), BAD);
    add("a12_cl_hex", format!("{post}Content-Length: 0x5\r\n\r\nhello"), BAD);
    add("a12_cl_zeros", format!("{post}Content-Length: 05\r\n\r\nhello"), BAD);
    add("a12_cl_empty", format!("{post}Content-Length:\r\n\r\n"), BAD);
    add("a12_cl_words", format!("{post}Content-Length: 5 5\r\n\r\nhello"), BAD);
    add("a12_cl_huge", format!("{post}Content-Length: 18446744073709551621\r\n\r\nhello"), BAD);
    add("a12_cl_point", format!("{post}Content-Length: 5.0\r\n\r\nhello"), BAD);
    add("a12_cl_underscore", format!("{post}Content-Length: 1_0\r\n\r\n0123456789"), BAD);
    add("a12_cl_quoted", format!("{post}Content-Length: \"5\"\r\n\r\nhello"), BAD);
    add("a12_cl_space_name", format!("{post}Content-Length : 5\r\n\r\nhello"), BAD);
    add("a12_cl_tab_name", format!("{post}Content-Length\t: 5\r\n\r\nhello"), BAD);
    add("a12_cl_short", format!("{post}Content-Length: 2\r\n\r\nhello"), Refused(&[400, 408], Some("POST /p he")));
    add("a12_body_without_length", format!("{post}\r\nhello\r\n\r\n"), Refused(&[400], Some("POST /p")));
    add("a12_get_with_smuggled", format!("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()), Served(&["GET /x GET /admin HTTP/1.1\r\nHost: a"]));

    // A13: transfer codings.
    add("a13_old_te", "POST /p HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), BAD);
    for (name, value) in [
        ("a13_comma_chunked", ",chunked"), ("a13_chunked_comma", "chunked,"), ("a13_gzip_chunked", "gzip, chunked"),
        ("a13_chunked_gzip", "chunked, gzip"), ("a13_chunked_twice", "chunked, chunked"), ("a13_identity", "identity"),
        ("a13_chunked_identity", "chunked, identity"), ("a13_xchunked", "xchunked"), ("a13_chunked_parameter", "chunked;q=1"),
        ("a13_quoted", "\"chunked\""), ("a13_empty", ""), ("a13_space_in_it", "chun ked"), ("a13_cow", "cow"), ("a13_obs", "chunked\u{e9}"),
    ] {
        add(name, format!("{post}Transfer-Encoding: {value}\r\n\r\n0\r\n\r\n{smuggled}"), BAD_OR_UNKNOWN);
    }
    add("a13_two_lines", format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_two_lines_mixed", format!("{post}Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n"), BAD_OR_UNKNOWN);
    add("a13_vertical_tab", format!("{post}Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_space_before_colon", format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_folded", format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_folded_next", format!("{post}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), BAD);

    // A14: chunks.
    for (name, body) in [
        ("a14_bare_lf_size", "5\nhello\r\n0\r\n\r\n"), ("a14_bare_lf_data", "5\r\nhello\n0\r\n\r\n"), ("a14_bare_cr_size", "5\rhello\r\n0\r\n\r\n"),
        ("a14_0x", "0x5\r\nhello\r\n0\r\n\r\n"), ("a14_underscore", "1_0\r\n0123456789abcdef\r\n0\r\n\r\n"), ("a14_plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a14_minus", "-5\r\nhello\r\n0\r\n\r\n"), ("a14_empty_size", "\r\nhello\r\n0\r\n\r\n"), ("a14_space_size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a14_size_space", "5 \r\nhello\r\n0\r\n\r\n"), ("a14_size_tab", "5\t\r\nhello\r\n0\r\n\r\n"), ("a14_overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a14_overflow_sign", "fffffffffffffff0\r\nhello\r\n0\r\n\r\n"), ("a14_letters", "g\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_lf", "5;a\nhello\r\n0\r\n\r\n"), ("a14_extension_cr", "5;a\rb\r\nhello\r\n0\r\n\r\n"), ("a14_extension_empty", "5;\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_nul", "5;a\0\r\nhello\r\n0\r\n\r\n"), ("a14_extension_value", "5;a=\r\nhello\r\n0\r\n\r\n"), ("a14_extension_space", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("a14_junk_after_data", "5\r\nhelloX\r\n0\r\n\r\n"), ("a14_short_data", "5\r\nhell\r\n0\r\n\r\n"), ("a14_nul_size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("a14_last_lf", "0\n\n"), ("a14_end_lf", "0\r\n\n"), ("a14_end_cr", "0\r\n\rX"), ("a14_trailer_lf", "0\r\nX: y\n\r\n"),
        ("a14_trailer_space_name", "0\r\nX : y\r\n\r\n"), ("a14_trailer_fold", "0\r\nX: y\r\n z\r\n\r\n"), ("a14_trailer_no_colon", "0\r\nX\r\n\r\n"),
        ("a14_trailer_nul", "0\r\nX: \0\r\n\r\n"), ("a14_obs_size", "\u{e9}\r\n\r\n"),
    ] {
        add(name, format!("{chunked}{body}{smuggled}"), BAD);
    }
    add("a14_no_last_crlf", format!("{chunked}0\r\n{smuggled}"), BAD);

    // A15: lines.
    add("a15_bare_lf", "GET /x HTTP/1.1\nHost: a\n\n".into(), BAD);
    add("a15_bare_lf_first", "GET /x HTTP/1.1\nHost: a\r\n\r\n".into(), BAD);
    add("a15_bare_lf_field", "GET /x HTTP/1.1\r\nX: y\nHost: a\r\n\r\n".into(), BAD);
    add("a15_bare_lf_last", "GET /x HTTP/1.1\r\nHost: a\n\r\n".into(), BAD);
    add("a15_bare_lf_end", "GET /x HTTP/1.1\r\nHost: a\r\n\n".into(), BAD);
    add("a15_bare_cr", "GET /x HTTP/1.1\rHost: a\r\r".into(), Refused(&[400, 408], None));
    add("a15_bare_cr_value", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n".into(), BAD);
    add("a15_nul_value", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".into(), BAD);
    add("a15_nul_name", "GET /x HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n".into(), BAD);
    add("a15_nul_target", "GET /x\0 HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_fold", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n".into(), BAD);
    add("a15_fold_first", "GET /x HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_space_colon", "GET /x HTTP/1.1\r\nHost : a\r\n\r\n".into(), BAD);
    add("a15_no_colon", "GET /x HTTP/1.1\r\nHost: a\r\nX\r\n\r\n".into(), BAD);
    add("a15_no_name", "GET /x HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".into(), BAD);
    add("a15_obs_name", "GET /x HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n".into(), BAD);
    add("a15_delete", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\u{7f}b\r\n\r\n".into(), BAD);
    add("a15_leading_crlf", "\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_leading_lf", "\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_two_spaces", "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_two_spaces_version", "GET /x  HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_tab", "GET\t/x\tHTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_leading_space", " GET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_version_space", "GET /x HTTP/1.1 \r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_version_2", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_version_1_2", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_version_lower", "GET /x http/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_version_none", "GET /x\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_method_odd", "G(T /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);
    add("a15_method_lower", "get /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Ambiguous);
    add("a15_preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), BAD);
    add("a15_tls", "\u{16}\u{3}\u{1}\r\n\r\n".into(), BAD);
    add("a15_proxy_protocol", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), BAD);

    // A16: hosts.
    add("a16_no_host", "GET /x HTTP/1.1\r\n\r\n".into(), BAD);
    add("a16_no_host_old", "GET /x HTTP/1.0\r\n\r\n".into(), Ambiguous);
    add("a16_two_hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), BAD);
    add("a16_two_hosts_old", "GET /x HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n".into(), BAD);
    for (name, host) in [
        ("a16_userinfo", "a@b"), ("a16_empty", ""), ("a16_list", "a, b"), ("a16_space", "a b"), ("a16_path", "a/b"), ("a16_port", "a:b"),
        ("a16_port_huge", "a:99999"), ("a16_obs", "\u{e9}"),
    ] {
        add(name, format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"), Ambiguous);
    }
    add("a16_other_absolute", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Ambiguous);
    add("a16_userinfo_absolute", "GET http://x@a/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Ambiguous);

    // A06–A09: targets.
    for (name, target) in [
        ("a06_dots", "/a/../admin"), ("a06_encoded_dots", "/%2e%2e/admin"), ("a07_nul", "/%00"), ("a07_slash", "/a%2fb"),
        ("a08_double_slash", "//admin"), ("a08_parameter", "/admin;x"), ("a08_trailing_dot", "/admin."),
    ] {
        add(name, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), Ambiguous);
    }
    for (name, target) in [
        ("a09_fragment", "/x#y"), ("a09_fragment_query", "/x?a#y"), ("a09_bang", "!"), ("a09_relative", "x"), ("a09_asterisk", "*"),
        ("a09_backslash", "/\\admin"), ("a09_backslash_first", "\\admin"), ("a09_obs", "/\u{e9}"), ("a09_ftp", "ftp://a/x"), ("a09_authority", "a:80"),
        ("a09_query_only", "?x"), ("a09_obs_query", "/x?\u{e9}"),
    ] {
        add(name, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BAD);
    }

    // A17: upgrades and tunnels.
    add("a17_connect", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".into(), UNKNOWN);
    add("a17_connect_path", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), UNKNOWN);
    add("a17_h2c", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n".into(), UNKNOWN);
    add("a17_upgrade_twice", "GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n".into(), BAD);
    add("a17_upgrade_old", "GET /x HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\n\r\n".into(), BAD);
    add("a17_upgrade_body", format!("{post}Upgrade: websocket\r\nContent-Length: 3\r\n\r\nabc"), BAD);
    add("a17_upgrade_chunked", format!("{post}Upgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a17_wrong_version", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".into(), Ambiguous);
    list
}

fn check(name: &str, expect: Expect, outcome: &Outcome, cut: &str) {
    let context = format!("{name} cut {cut}: {outcome:?}");
    match expect {
        Refused(statuses, before) => {
            let refusal = outcome.refusal.unwrap_or_else(|| panic!("{context}"));
            assert!(statuses.contains(&refusal.status()) && refusal != WireRefusal::Idle, "{context}");
            assert!(outcome.served.iter().map(String::as_str).eq(before.filter(|_| !outcome.served.is_empty())), "{context}");
            // hyper says nothing of its own about it.
            assert!(outcome.statuses.iter().all(|status| *status == 200), "{context}");
            assert!(outcome.statuses.len() <= usize::from(before.is_some()), "{context}");
            assert_eq!(outcome.ambiguous, 0, "{context}");
        }
        Ambiguous => {
            assert_eq!((outcome.served.len(), outcome.ambiguous), (0, 1), "{context}");
            assert_eq!(outcome.statuses, [400], "{context}");
        }
        Served(requests) => {
            assert_eq!(outcome.served, requests, "{context}");
            assert_eq!(outcome.statuses.len(), requests.len(), "{context}");
            // HTTP/1.0 ends by itself.
            assert!(matches!(outcome.refusal, None | Some(WireRefusal::Idle)), "{context}");
        }
    }
}

#[test]
fn a12_to_a17_hostile_messages_never_become_two_requests() {
    let messages = messages();
    assert!(messages.len() >= 109, "{}", messages.len());
    for (name, bytes, expect) in messages {
        let outcome = run(send(vec![bytes]));
        check(name, expect, &outcome, "nowhere");
    }
}

#[test]
fn a12_to_a17_no_cut_of_the_bytes_changes_the_outcome() {
    for (name, bytes, expect) in messages() {
        for place in 1..bytes.len() {
            let outcome = run(send(vec![bytes[..place].to_vec(), bytes[place..].to_vec()]));
            check(name, expect, &outcome, &place.to_string());
        }
        let outcome = run(send(bytes.iter().map(|byte| vec![*byte]).collect()));
        check(name, expect, &outcome, "everywhere");
    }
}

#[test]
fn a12_a_bad_message_behind_a_good_one_leaves_one_request() {
    let good = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, bytes, expect) in messages() {
        if !matches!(expect, Refused(_, None)) {
            continue;
        }
        let outcome = run(send(vec![[good.as_bytes(), &bytes].concat()]));
        assert!(outcome.refusal.is_some_and(|refusal| refusal != WireRefusal::Idle), "{name}: {outcome:?}");
        assert!(outcome.served.is_empty() || outcome.served == ["GET /good"], "{name}: {outcome:?}");
        assert_eq!(outcome.ambiguous, 0, "{name}");
    }
}

#[test]
fn a22_heads_that_are_too_large_are_refused() {
    let head = |fields: usize, bytes: usize| {
        let mut text = String::from("GET /x HTTP/1.1\r\nHost: a\r\n");
        for field in 1..fields {
            text.push_str(&format!("X-{field}: {}\r\n", "y".repeat(bytes)));
        }
        text.push_str("\r\n");
        text.into_bytes()
    };
    for pieces in [1, 2, 7] {
        let cut = |bytes: Vec<u8>| bytes.chunks(bytes.len().div_ceil(pieces)).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(run(send(cut(head(100, 500)))).served, ["GET /x"]);
        assert_eq!(run(send(cut(head(101, 1)))).refusal, Some(WireRefusal::TooManyHeaders));
        let outcome = run(send(cut(head(50, 1400))));
        assert_eq!((outcome.refusal, outcome.served.len()), (Some(WireRefusal::HeadTooLarge), 0));
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(66_000)).into_bytes();
        assert_eq!(run(send(cut(long))).refusal, Some(WireRefusal::HeadTooLarge));
    }
    let endless = vec![b"GET /x HTTP/1.1\r\n".to_vec(), b"X: ".to_vec(), vec![b'y'; 70_000]];
    assert_eq!(run(send(endless)).refusal, Some(WireRefusal::HeadTooLarge));
}

/// The client's end of a connection whose other end is served.
fn connect(limits: H1Limits) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<(Vec<String>, usize, GuardControl)>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    (client, tokio::spawn(serve(server, limits)))
}

#[test]
fn a23_a_head_has_ten_seconds_from_its_first_byte() {
    run(async {
        let (mut client, server) = connect(H1Limits::default());
        tokio::time::sleep(Duration::from_secs(50)).await;
        let start = Instant::now();
        for byte in b"GET /x HTTP/1.1\r\nHost: a\r\n" {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (served, _, control) = server.await.unwrap();
        assert_eq!((served.len(), control.refusal()), (0, Some(WireRefusal::HeadTimeout)));
        assert!(control.may_answer());
        assert!(start.elapsed() >= Duration::from_secs(10));
    });
}

#[test]
fn a23_an_idle_connection_ends_quietly() {
    run(async {
        let start = Instant::now();
        let (_client, server) = connect(H1Limits::default());
        let (_, _, control) = server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::Idle));
        assert!(!control.may_answer());
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(61), "{waited:?}");
    });
}

#[test]
fn a23_idle_time_begins_again_with_each_request() {
    run(async {
        let (mut client, server) = connect(H1Limits::default());
        let start = Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        }
        let (served, _, control) = server.await.unwrap();
        assert_eq!((served.len(), control.refusal()), (5, Some(WireRefusal::Idle)));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(310) && waited < Duration::from_secs(311), "{waited:?}");
    });
}

#[test]
fn a23_a_slow_body_is_cut_and_a_steady_one_is_not() {
    for (every, bytes, cut) in [(1000, 200, true), (1000, 1200, false), (9000, 10, true), (500, 1, true), (20_000, 30_000, false)] {
        run(async {
            let (mut client, server) = connect(H1Limits::default());
            let start = Instant::now();
            let length = bytes * 60;
            client.write_all(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await.unwrap();
            for _ in 0..60 {
                if client.write_all(&vec![b'y'; bytes]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(every)).await;
            }
            let waited = start.elapsed();
            let (served, _, control) = server.await.unwrap();
            if cut {
                assert_eq!((served.len(), control.refusal()), (0, Some(WireRefusal::BodyTooSlow)), "{every} {bytes}");
                assert!(waited < Duration::from_secs(35), "{waited:?}");
                assert!(!control.may_answer());
            } else {
                assert_eq!((served.len(), control.refusal()), (1, Some(WireRefusal::Idle)), "{every} {bytes}");
            }
        });
    }
}

#[test]
fn a23_a_body_that_stops_is_cut_after_its_credit() {
    run(async {
        let (mut client, server) = connect(H1Limits::default());
        client.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..100 {
            client.write_all(format!("1000\r\n{}\r\n", "y".repeat(4096)).as_bytes()).await.unwrap();
        }
        let start = Instant::now();
        let (_, _, control) = server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::BodyTooSlow));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(29) && waited < Duration::from_secs(31), "{waited:?}");
    });
}

/// Serves one endless response, chunk after chunk as the channel gives them.
fn stream(limits: H1Limits, buffer: usize) -> (tokio::io::DuplexStream, tokio::sync::mpsc::Sender<Bytes>, tokio::task::JoinHandle<GuardControl>) {
    let (client, server) = tokio::io::duplex(buffer);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let control = GuardControl::new();
    let guard = GuardH1::new(server, limits, control.clone());
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let task = tokio::spawn(async move {
        let service = service_fn(|_: Request<Incoming>| {
            let (receiver, exchange) = (receiver.clone(), control.exchange());
            async move {
                let receiver = receiver.lock().unwrap().take().unwrap();
                let frames = futures_util::stream::unfold((receiver, exchange), |(mut receiver, exchange)| async move {
                    let bytes = receiver.recv().await?;
                    Some((Ok::<_, io::Error>(hyper::body::Frame::data(bytes)), (receiver, exchange)))
                });
                Ok::<_, io::Error>(Response::new(http_body_util::StreamBody::new(Box::pin(frames))))
            }
        });
        let _ended = http1::Builder::new().serve_connection(TokioIo::new(guard), service).await;
        control
    });
    (client, sender, task)
}

#[test]
fn a23_a_silent_stream_is_not_idle() {
    run(async {
        let (mut client, sender, server) = stream(H1Limits::default(), 64 * 1024);
        client.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut buffer = vec![0; 4096];
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            sender.send(Bytes::from_static(b"data: x\n\n")).await.unwrap();
            assert!(client.read(&mut buffer).await.unwrap() > 0);
        }
        assert!(!server.is_finished());
        drop(sender);
        let start = Instant::now();
        assert_eq!(server.await.unwrap().refusal(), Some(WireRefusal::Idle));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(60) && waited <= Duration::from_secs(121), "{waited:?}");
    });
}

#[test]
fn a23_a_client_that_takes_nothing_is_cut_off() {
    run(async {
        let (mut client, sender, server) = stream(H1Limits::default(), 4096);
        client.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let start = Instant::now();
        while sender.send(Bytes::from(vec![b'x'; 16 * 1024])).await.is_ok() {}
        let control = server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::WriteStalled));
        assert!(!control.may_answer());
        assert!(start.elapsed() < Duration::from_secs(31), "{:?}", start.elapsed());
    });
}

#[test]
fn a23_a_client_that_takes_its_time_is_served() {
    run(async {
        let (mut client, sender, server) = stream(H1Limits::default(), 4096);
        client.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let reader = tokio::spawn(async move {
            let (mut total, mut buffer) = (0, vec![0; 4096]);
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                match client.read(&mut buffer).await {
                    Ok(0) | Err(_) => return total,
                    Ok(length) => total += length,
                }
            }
        });
        for _ in 0..20 {
            sender.send(Bytes::from(vec![b'x'; 16 * 1024])).await.unwrap();
        }
        drop(sender);
        assert_eq!(server.await.unwrap().refusal(), None);
        assert!(reader.await.unwrap() > 20 * 16 * 1024);
    });
}

/// A guard alone, with the other ends of its stream and control in the test's hands.
fn alone() -> (tokio::io::DuplexStream, GuardH1<tokio::io::DuplexStream>, GuardControl) {
    let (client, server) = tokio::io::duplex(4096);
    let control = GuardControl::new();
    let limits = H1Limits { body: PaceLimits::default(), ..H1Limits::default() };
    (client, GuardH1::new(server, limits, control.clone()), control)
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a17_nothing_is_read_between_an_upgrade_and_its_answer() {
    run(async {
        let (mut client, mut guard, control) = alone();
        let mut buffer = vec![0; 4096];
        client.write_all(UPGRADE).await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), UPGRADE.len());
        client.write_all(b"\x81\x00raw").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer)).await.is_err());
        let other = control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.tunnel();
        });
        assert_eq!(guard.read(&mut buffer).await.unwrap(), 5);
        client.write_all(b"GET / smuggled\n\n").await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), 16);
        // A tunnel's silence is the pipeline's to bound.
        assert!(tokio::time::timeout(Duration::from_secs(86_400), guard.read(&mut buffer)).await.is_err());
        assert_eq!(control.refusal(), None);
    });
}

#[test]
fn a17_without_a_tunnel_the_next_bytes_are_a_request() {
    run(async {
        let (mut client, mut guard, control) = alone();
        let mut buffer = vec![0; 4096];
        for _ in 0..2 {
            client.write_all(UPGRADE).await.unwrap();
            assert_eq!(guard.read(&mut buffer).await.unwrap(), UPGRADE.len());
            control.no_tunnel();
        }
        client.write_all(b"\x81\x00raw\r\n\r\n").await.unwrap();
        let error = guard.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(control.refusal().map(|refusal| refusal.status()), Some(400));
    });
}

#[test]
fn a17_bytes_behind_an_upgrade_refuse_it() {
    run(async {
        let (mut client, mut guard, control) = alone();
        client.write_all(&[UPGRADE, b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await.unwrap();
        let mut buffer = vec![0; 4096];
        assert!(guard.read(&mut buffer).await.is_err());
        assert_eq!(control.refusal().map(|refusal| refusal.status()), Some(400));
        assert!(control.may_answer());
        // An early verdict, or one that nobody waits for, opens nothing.
        let (mut client, mut guard, control) = alone();
        control.tunnel();
        client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(guard.read(&mut buffer).await.is_ok());
        control.tunnel();
        client.write_all(b"raw\n\n").await.unwrap();
        assert!(guard.read(&mut buffer).await.is_err());
    });
}

#[test]
fn a17_a_verdict_before_its_upgrade_counts_for_nothing() {
    run(async {
        let (mut client, mut guard, control) = alone();
        control.tunnel();
        let mut buffer = vec![0; 4096];
        client.write_all(UPGRADE).await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), UPGRADE.len());
        client.write_all(b"raw").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(60), guard.read(&mut buffer)).await.is_err());
    });
}

#[test]
fn a_refused_connection_can_still_be_told_why() {
    run(async {
        let (mut client, server) = tokio::io::duplex(4096);
        let control = GuardControl::new();
        let guard = GuardH1::new(server, H1Limits::default(), control.clone());
        let task = tokio::spawn(async move {
            let service = service_fn(|_: Request<Incoming>| async { Ok::<_, io::Error>(Response::new(Full::new(Bytes::new()))) });
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(guard), service);
            let _either = Pin::new(&mut connection).await;
            let mut io = connection.into_parts().io.into_inner().into_inner();
            assert!(control.may_answer());
            io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 400 Bad Request\r\n\r\n");
        task.await.unwrap();
    });
}
