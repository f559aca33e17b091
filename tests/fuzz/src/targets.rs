//! What must hold for any bytes. Shared by the fuzz targets and by the replay on stable.

use doorward::gateway::canonical::{PathRules, canonical, canonical_path, parse_host};
use doorward::gateway::guard::WireRefusal;
use doorward::gateway::guard_h1::{Framing, H1Limits, Stage};
use doorward::gateway::guard_h2::{Frames, H2Limits};
use doorward::gateway::hygiene::{PassAuthorization, own_cookie, strip_client_headers, strip_response_headers};
use doorward::model::Ttl;
use doorward::model::breakglass::{
    CHALLENGE_BYTES_MAX, Challenge, DURATION_MAX, Evidence, SIGNATURE_BYTES_MAX, SIGNATURES_MAX,
};
use doorward::model::closing::{CLOSING_BYTES_MAX, Closing};
use http::{HeaderMap, HeaderName, HeaderValue, Request};

/// As in `identity/cookie.rs`, which stands on more than is built here.
const SESSION_COOKIE: &str = "__Host-doorward";

/// Feeds a stream in pieces as the guard does; gives the bytes that passed and where it stands.
fn h1_in_pieces<'a>(limits: H1Limits, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Stage) {
    let mut framing = Framing::new(limits);
    let (mut held, mut passed) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        let good = framing.inspect(&held);
        assert!(good <= held.len());
        passed.extend(held.drain(..good));
        match framing.stage() {
            Stage::Hold => framing.no_tunnel(),
            Stage::Refused(_) => break,
            Stage::Idle | Stage::Body => assert!(held.is_empty()),
            Stage::Head => assert!(held.len() <= limits.head_bytes_max),
            Stage::Tunnel => unreachable!("nobody granted one"),
        }
    }
    (passed, framing.stage())
}

/// HTTP/1 bytes: the outcome doesn't depend on the cuts, and what passes passes again.
pub fn guard_h1(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let limits = H1Limits { head_bytes_max: 512, headers_max: 8, ..H1Limits::default() };
    let (whole, stage) = h1_in_pieces(limits, std::iter::once(bytes));
    let size = usize::from(*cut).max(1);
    let (cut, cut_stage) = h1_in_pieces(limits, bytes.chunks(size));
    let upgrades = bytes.to_ascii_lowercase().windows(7).any(|window| window == b"upgrade");
    if !upgrades {
        assert_eq!(whole.len(), cut.len());
        match (stage, cut_stage) {
            // A head that can't become good is refused early if it comes at once, at its end or by
            // the clock if it trickles.
            (Stage::Refused(_), Stage::Head) => {}
            (Stage::Refused(one), Stage::Refused(other)) => {
                let large = |refusal| matches!(refusal, WireRefusal::HeadTooLarge | WireRefusal::TooManyHeaders);
                assert!(one.status() == other.status() || large(one) || large(other), "{one:?} {other:?}");
            }
            (one, other) => assert_eq!(one, other),
        }
    }
    let (again, _) = h1_in_pieces(limits, std::iter::once(&whole[..]));
    assert_eq!(again, whole);
}

/// HTTP/2 bytes: neither the count nor what passes depends on the cuts.
pub fn guard_h2(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let limits = H2Limits {
        control_frames_max: 8,
        resets_max: 2,
        window_updates_max: 4,
        empty_data_max: 2,
        header_block_bytes_max: 256,
        header_block_frames_max: 3,
        frame_bytes_max: 1024,
        ..H2Limits::default()
    };
    let now = tokio::time::Instant::now();
    let mut whole = Frames::new(limits);
    let passed = whole.inspect(bytes, now);
    assert!(passed <= bytes.len());
    assert_eq!(passed == bytes.len(), whole.refusal().is_none());
    let mut pieces = Frames::new(limits);
    let mut total = 0;
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        total += pieces.inspect(piece, now);
        if pieces.refusal().is_some() {
            break;
        }
    }
    assert_eq!((passed, whole.refusal()), (total, pieces.refusal()));
}

/// A host, a path and a query: what is accepted is its own normal form.
pub fn canonical_target(data: &[u8]) {
    if let Ok((host, port)) = parse_host(data) {
        let again = match port {
            None => host.clone(),
            Some(port) => format!("{host}:{port}"),
        };
        assert_eq!(parse_host(again.as_bytes()), Ok((host, port)));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for encoded_slash in [false, true] {
        let rules = PathRules { encoded_slash };
        if let Ok(path) = canonical_path(text, rules) {
            assert_eq!(canonical_path(&path, rules).as_deref(), Ok(path.as_str()));
            assert!(
                path.starts_with('/')
                    && !path.contains("//")
                    && !path.contains("/../")
                    && !path.contains(['\\', ';', '?', '#'])
            );
        }
        let Ok(request) = Request::builder().uri(text).header("host", "a").body(()) else { continue };
        if let Ok(first) = canonical(&request, rules) {
            let sent = Request::builder()
                .uri(first.target())
                .header("host", "a")
                .body(())
                .expect("what is accepted can be sent");
            assert_eq!(sent.uri().path(), first.path);
            assert_eq!(canonical(&sent, rules).as_ref(), Ok(&first));
        }
    }
}

/// Lines of `name: value`: what is stripped is gone and stays gone, and nothing panics.
pub fn hygiene(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let mut response = headers.clone();
    strip_response_headers(&mut response);
    assert!(response.keys().all(|name| !name.as_str().starts_with("doorward-")));
    strip_client_headers(&mut headers, PassAuthorization::Withhold);
    assert_eq!(own_cookie(&headers, SESSION_COOKIE), Ok(None));
    for name in headers.keys() {
        let folded = name.as_str().replace(|character: char| !character.is_ascii_alphanumeric(), "-");
        assert!(
            !name.as_str().contains('_')
                && !folded.starts_with("x-forwarded")
                && !folded.starts_with("doorward-")
                && folded != "remote-user"
        );
    }
    let once = headers.clone();
    strip_client_headers(&mut headers, PassAuthorization::Withhold);
    assert_eq!(headers, once);
}

/// What anybody may show who wants to open or close the emergency path: a challenge and a closing have one
/// text, the extension one form, and whatever is accepted is within its bounds.
pub fn breakglass(data: &[u8]) {
    if let Ok(challenge) = Challenge::parse(data) {
        assert_eq!(challenge.text().as_bytes(), data);
        assert!(data.len() <= CHALLENGE_BYTES_MAX && challenge.is_plain());
        let length = challenge.expires.since(challenge.not_before);
        assert!(length > Ttl::ZERO && length <= DURATION_MAX);
        assert_eq!(Challenge::parse(challenge.text().as_bytes()), Ok(challenge));
    }
    if let Some(closing) = Closing::parse(data) {
        assert!(closing.text().as_bytes() == data && data.len() <= CLOSING_BYTES_MAX);
    }
    if let Some(evidence) = Evidence::from_der(data) {
        assert_eq!(evidence.to_der(), data);
        assert!(evidence.challenge.len() <= CHALLENGE_BYTES_MAX && evidence.signatures.len() <= SIGNATURES_MAX);
        assert!(evidence.signatures.iter().all(|signature| signature.len() <= SIGNATURE_BYTES_MAX));
    }
    // Whatever a client puts in arrives as it was, or not at all.
    let (challenge, rest) = data.split_at(data.len() / 3);
    let size = usize::from(data.first().copied().unwrap_or(0)) * 20 + 1;
    let signatures: Vec<Vec<u8>> = rest.chunks(size).map(<[u8]>::to_vec).collect();
    let evidence = Evidence { challenge: challenge.to_vec(), signatures };
    let fits = evidence.challenge.len() <= CHALLENGE_BYTES_MAX
        && evidence.signatures.len() <= SIGNATURES_MAX
        && evidence.signatures.iter().all(|signature| signature.len() <= SIGNATURE_BYTES_MAX);
    assert_eq!(Evidence::from_der(&evidence.to_der()), fits.then_some(evidence));
}
