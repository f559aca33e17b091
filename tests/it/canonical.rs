//! One reading of a request: host, path, query and upgrade.

use doorward::gateway::canonical::{Ambiguity, PathRules, Upgrade, canonical, canonical_path, host_of, parse_host};
use http::{Method, Request, Version};
use proptest::prelude::*;

const STRICT: PathRules = PathRules { encoded_slash: false };
const SLASHED: PathRules = PathRules { encoded_slash: true };

fn get(target: &str, host: &str) -> Request<()> {
    Request::builder().uri(target).header("host", host).body(()).unwrap()
}

#[test]
fn a12_a_length_is_one_number_in_plain_digits() {
    let of = |lengths: &[&str]| {
        let request = Request::builder().method("POST").uri("https://a.example/x").version(Version::HTTP_2);
        let with = lengths.iter().fold(request, |request, length| request.header("content-length", *length));
        canonical(&with.body(()).unwrap(), STRICT).map(|it| it.path)
    };
    for lengths in [&[][..], &["0"], &["5"], &["1024"]] {
        assert_eq!(of(lengths).as_deref(), Ok("/x"), "{lengths:?}");
    }
    for lengths in
        [&["5", "5"][..], &["5", "6"], &["5, 5"], &["010"], &["00"], &["+5"], &["-1"], &["0x5"], &["5 "], &[""]]
    {
        assert_eq!(of(lengths), Err(Ambiguity::LengthForm), "{lengths:?}");
    }
}

#[test]
fn ordinary_paths_stay_as_they_are() {
    for path in [
        "/",
        "/a",
        "/a/",
        "/a/b.c",
        "/.well-known/jwks.json",
        "/~alice/x",
        "/a:b@c",
        "/a!$&'()*+,=b",
        "/v1/deployments/prod",
        "/caf%C3%A9",
        "/a%20b",
        "/%E2%82%AC",
        "/a..b",
        "/..a",
        "/x%2By",
        "/%40me",
        "/%E3%83%8E%E3%83%BC%E3%83%88",
    ] {
        assert_eq!(canonical_path(path, STRICT).as_deref(), Ok(path), "{path}");
    }
}

#[test]
fn equal_encodings_become_one() {
    for (path, normal) in [
        ("/%61dmin", "/admin"),
        ("/%41", "/A"),
        ("/a%2dz", "/a-z"),
        ("/%7ealice", "/~alice"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%2eb", "/a.b"),
        ("/x%5by%5D", "/x%5By%5D"),
    ] {
        assert_eq!(canonical_path(path, STRICT).as_deref(), Ok(normal), "{path}");
    }
}

#[test]
fn a06_dot_segments_are_refused_in_every_spelling() {
    for path in [
        "/a/../admin",
        "/..",
        "/.",
        "/./",
        "/a/.",
        "/a/./b",
        "/%2e%2e/admin",
        "/.%2e/",
        "/%2E./x",
        "/a/%2e",
        "/public/%2e%2E/admin",
    ] {
        assert_eq!(canonical_path(path, STRICT), Err(Ambiguity::DotSegment), "{path}");
    }
    for path in ["/public/..%2fadmin", "/..%5cadmin", "/..;/admin", "/..%00/admin", "/...", "/public/.../x", "/..%20/x"]
    {
        assert!(canonical_path(path, STRICT).is_err(), "{path}");
    }
    for path in ["/public/..%2Fadmin", "/public%2F..%2Fadmin", "/a%2f.", "/a%2F%2e%2e/b"] {
        assert_eq!(canonical_path(path, SLASHED), Err(Ambiguity::DotSegment), "{path}");
    }
}

#[test]
fn a07_encodings_that_hide_are_refused() {
    for (path, why) in [
        ("/a%2fb", Ambiguity::EncodedSlash),
        ("/a%2Fb", Ambiguity::EncodedSlash),
        ("/a%5cb", Ambiguity::Backslash),
        ("/a\\b", Ambiguity::Backslash),
        ("/\\admin", Ambiguity::Backslash),
        ("/a%252fb", Ambiguity::DoubleEncoding),
        ("/%25%32%66", Ambiguity::DoubleEncoding),
        ("/%2525", Ambiguity::DoubleEncoding),
        ("/%00", Ambiguity::EncodedControl),
        ("/a%0d%0aX:y", Ambiguity::EncodedControl),
        ("/%09", Ambiguity::EncodedControl),
        ("/%7f", Ambiguity::EncodedControl),
        ("/%c0%ae%c0%ae/", Ambiguity::PathNotUtf8),
        ("/%c0%af", Ambiguity::PathNotUtf8),
        ("/%e0%80%ae", Ambiguity::PathNotUtf8),
        ("/%ed%a0%80", Ambiguity::PathNotUtf8),
        ("/%ff", Ambiguity::PathNotUtf8),
        ("/%c3", Ambiguity::PathNotUtf8),
        ("/%ef%bc%8e%ef%bc%8e/", Ambiguity::Lookalike),
        ("/a%ef%bc%8fb", Ambiguity::Lookalike),
        ("/a%e2%88%95b", Ambiguity::Lookalike),
        ("/%ef%bd%81dmin", Ambiguity::Lookalike),
        ("/adm%e2%80%8bin", Ambiguity::Lookalike),
        ("/%e2%80%aenimda", Ambiguity::Lookalike),
        ("/admin%c2%a0", Ambiguity::Lookalike),
        ("/%c2%85", Ambiguity::Lookalike),
        ("/%u002e", Ambiguity::PathEncoding),
        ("/%", Ambiguity::PathEncoding),
        ("/%2", Ambiguity::PathEncoding),
        ("/%2g", Ambiguity::PathEncoding),
        ("/%+2", Ambiguity::PathEncoding),
        ("/caf\u{e9}", Ambiguity::PathCharacter),
        ("/a b", Ambiguity::PathCharacter),
        ("/a\u{0}b", Ambiguity::PathCharacter),
        ("/a|b", Ambiguity::PathCharacter),
        ("/a\"b", Ambiguity::PathCharacter),
        ("/a<b", Ambiguity::PathCharacter),
        ("/a#b", Ambiguity::PathCharacter),
        ("/a?b", Ambiguity::PathCharacter),
        ("/a%3fb", Ambiguity::EncodedDelimiter),
        ("/a%23b", Ambiguity::EncodedDelimiter),
    ] {
        assert_eq!(canonical_path(path, STRICT), Err(why), "{path}");
    }
}

#[test]
fn a07_encoded_slash_is_kept_where_the_service_says_so() {
    assert_eq!(canonical_path("/projects/a%2fb/x", SLASHED).as_deref(), Ok("/projects/a%2Fb/x"));
    for path in ["/%2f", "/a%2f", "/%2fadmin", "/a%2f%2fb", "/a/%2Fb", "/a%2F/b"] {
        assert_eq!(canonical_path(path, SLASHED), Err(Ambiguity::EmptySegment), "{path}");
    }
    assert_eq!(canonical_path("/a%5cb", SLASHED), Err(Ambiguity::Backslash));
    assert_eq!(canonical_path("/a%252fb", SLASHED), Err(Ambiguity::DoubleEncoding));
}

#[test]
fn a08_what_upstreams_fold_away_is_refused() {
    for (path, why) in [
        ("/admin;x", Ambiguity::PathParameter),
        ("/admin;/x", Ambiguity::PathParameter),
        ("/;/admin", Ambiguity::PathParameter),
        ("/admin%3bx", Ambiguity::PathParameter),
        ("//admin", Ambiguity::EmptySegment),
        ("/a//b", Ambiguity::EmptySegment),
        ("/a//", Ambiguity::EmptySegment),
        ("/admin.", Ambiguity::TrimmedSegment),
        ("/admin./x", Ambiguity::TrimmedSegment),
        ("/admin%20", Ambiguity::TrimmedSegment),
        ("/%20admin", Ambiguity::TrimmedSegment),
        ("/admin%2e", Ambiguity::TrimmedSegment),
        ("/admin%20/x", Ambiguity::TrimmedSegment),
        ("/a/...", Ambiguity::TrimmedSegment),
    ] {
        assert_eq!(canonical_path(path, STRICT), Err(why), "{path}");
    }
}

#[test]
fn a09_target_forms_other_than_path_and_url_are_refused() {
    let ask = |request: Request<()>| canonical(&request, STRICT).map(|canonical| canonical.path);
    assert_eq!(ask(get("*", "a")), Err(Ambiguity::TargetForm));
    assert_eq!(ask(get("a:80", "a:80")), Err(Ambiguity::TargetForm));
    assert_eq!(ask(get("ftp://a/x", "a")), Err(Ambiguity::TargetForm));
    assert_eq!(ask(get("http://b/x", "a")), Err(Ambiguity::HostDisagrees));
    assert_eq!(ask(get("http://a@b/x", "b")), Err(Ambiguity::HostForm));
    assert_eq!(ask(get("http://a:8443/x", "a")), Err(Ambiguity::HostDisagrees));
    assert_eq!(ask(get("https://A.example./x", "a.EXAMPLE")).as_deref(), Ok("/x"));
    assert_eq!(ask(get("https://a", "a")).as_deref(), Ok("/"));
    let connect = Request::builder().method("CONNECT").uri("a:80").header("host", "a:80").body(()).unwrap();
    assert_eq!(ask(connect), Err(Ambiguity::MethodRefused));
    assert_eq!(Ambiguity::MethodRefused.status(), 405);
}

#[test]
fn a05_methods_that_show_what_is_added_for_the_upstream_are_refused() {
    for method in ["TRACE", "TRACK"] {
        let request = Request::builder().method(method).uri("/x").header("host", "a").body(()).unwrap();
        assert_eq!(canonical(&request, STRICT), Err(Ambiguity::MethodRefused), "{method}");
    }
    for method in ["get", "Get", "GE!T", "-GET"] {
        let request = Request::builder().method(method).uri("/x").header("host", "a").body(()).unwrap();
        assert_eq!(canonical(&request, STRICT), Err(Ambiguity::MethodForm), "{method}");
    }
    for method in ["GET", "VERSION-CONTROL", "M-SEARCH", "PATCH"] {
        let request = Request::builder().method(method).uri("/x").header("host", "a").body(()).unwrap();
        assert_eq!(canonical(&request, STRICT).unwrap().method.as_str(), method);
    }
}

#[test]
fn a16_a_request_names_one_host() {
    let none = Request::builder().uri("/x").body(()).unwrap();
    assert_eq!(host_of(&none), Err(Ambiguity::HostMissing));
    let absolute_only = Request::builder().uri("http://a/x").body(()).unwrap();
    assert_eq!(host_of(&absolute_only), Err(Ambiguity::HostMissing));
    let two = Request::builder().uri("/x").header("host", "a").header("host", "a").body(()).unwrap();
    assert_eq!(host_of(&two), Err(Ambiguity::HostRepeated));
    let authority = Request::builder().version(Version::HTTP_2).uri("https://a:8443/x").body(()).unwrap();
    assert_eq!(host_of(&authority), Ok(("a".to_owned(), Some(8443))));
    for (host, agrees) in [("b", false), ("a", false), ("a:8443", true), ("A.:8443", true), ("a:443", false)] {
        let both =
            Request::builder().version(Version::HTTP_2).uri("https://a:8443/x").header("host", host).body(()).unwrap();
        assert_eq!(host_of(&both).is_ok(), agrees, "{host}");
    }
}

#[test]
fn a16_hosts_that_are_no_hosts_are_refused() {
    for (text, host, port) in [
        ("Ops-API.Doorward.localhost:8443", "ops-api.doorward.localhost", Some(8443)),
        ("a.", "a", None),
        ("127.0.0.1:80", "127.0.0.1", Some(80)),
        ("[::1]:80", "[::1]", Some(80)),
        ("[0:0::1]", "[::1]", None),
    ] {
        assert_eq!(parse_host(text.as_bytes()), Ok((host.to_owned(), port)), "{text}");
    }
    for text in [
        "",
        ".",
        "a..b",
        ".a",
        "a..",
        "a@b",
        "a:b@c",
        "a:",
        "a:0",
        "a:080",
        "a:65536",
        "a:+80",
        "a:80:80",
        "a b",
        "a,b",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a%2eb",
        "::1",
        "[::1",
        "[::1]x",
        "[::1%25eth0]",
        "[fe80::1%eth0]",
        "[127.0.0.1]",
        "caf\u{e9}",
        "a\u{ff0e}b",
        "a\tb",
        "a\0b",
        "*.a",
        "a;b",
        "[]",
        "a: 80",
        " a",
    ] {
        assert!(parse_host(text.as_bytes()).is_err(), "{text}");
    }
    assert!(parse_host(format!("{}.a", "x".repeat(64)).as_bytes()).is_err());
    assert!(parse_host("a.".repeat(140).as_bytes()).is_err());
    assert!(parse_host(b"\xff").is_err());
}

#[test]
fn a10_queries_go_on_raw_or_not_at_all() {
    let ask = |target: &str| canonical(&get(target, "a"), STRICT).map(|canonical| canonical.target());
    assert_eq!(ask("/x?").as_deref(), Ok("/x?"));
    assert_eq!(ask("/x?a=%2f&b=../..;c//").as_deref(), Ok("/x?a=%2f&b=../..;c//"));
    assert_eq!(ask("/x?a={b|c}[]^`").as_deref(), Ok("/x?a={b|c}[]^`"));
    assert_eq!(ask("/x?caf\u{e9}"), Err(Ambiguity::QueryCharacter));
}

fn upgrade(headers: &[(&str, &str)]) -> Result<Option<Upgrade>, Ambiguity> {
    let mut builder = Request::builder().uri("/ws").header("host", "a");
    for (name, value) in headers {
        builder = match *name {
            ":method" => builder.method(Method::from_bytes(value.as_bytes()).unwrap()),
            ":version" => builder.version(if *value == "1.0" { Version::HTTP_10 } else { Version::HTTP_2 }),
            name => builder.header(name, *value),
        };
    }
    canonical(&builder.body(()).unwrap(), STRICT).map(|canonical| canonical.upgrade)
}

#[test]
fn a17_only_a_whole_websocket_handshake_is_one() {
    let whole = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(upgrade(&whole), Ok(Some(Upgrade::WebSocket)));
    assert_eq!(upgrade(&[("connection", "upgrade")]), Ok(None));
    assert_eq!(upgrade(&[]), Ok(None));
    for (index, value) in [
        (0, "keep-alive"),
        (0, "upgraded"),
        (1, "websocket, h2c"),
        (1, ""),
        (2, "12"),
        (2, "13, 13"),
        (2, "013"),
        (3, ""),
        (3, "dGhlIHNhbXBsZSBub25jZQ"),
        (3, "dGhl"),
        (3, "!!!!"),
    ] {
        let mut broken = whole;
        broken[index].1 = value;
        assert_eq!(upgrade(&broken), Err(Ambiguity::UpgradeForm), "{broken:?}");
    }
    for extra in [
        (":method", "POST"),
        (":version", "1.0"),
        (":version", "2"),
        ("upgrade", "websocket"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        let mut broken = whole.to_vec();
        broken.push(extra);
        assert_eq!(upgrade(&broken), Err(Ambiguity::UpgradeForm), "{extra:?}");
    }
    for missing in 0..whole.len() {
        let mut broken = whole.to_vec();
        broken.remove(missing);
        assert_eq!(upgrade(&broken).ok().flatten(), None, "{broken:?}");
    }
}

#[test]
fn a17_h2c_is_no_tunnel() {
    for protocol in ["h2c", "H2C", "h2c-14", "h2c, websocket"] {
        assert_eq!(upgrade(&[("connection", "upgrade"), ("upgrade", protocol)]), Err(Ambiguity::UpgradeForm));
    }
    assert_eq!(
        upgrade(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), (":method", "POST")]),
        Ok(Some(Upgrade::Other("SPDY/3.1".to_owned())))
    );
}

/// What a lenient upstream makes of a path: it decodes (twice), folds `\`, drops parameters, trims and resolves dots.
pub(crate) fn as_a_lenient_upstream(path: &str) -> Vec<String> {
    let mut text = path.to_owned();
    for _ in 0..2 {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let mut resolved: Vec<String> = Vec::new();
    for segment in text.replace('\\', "/").split('/') {
        let segment = segment.split([';', '?', '#', '\0']).next().unwrap_or("");
        match segment.trim() {
            "" | "." => {}
            ".." => drop(resolved.pop()),
            segment => resolved.push(segment.trim_end_matches('.').to_owned()),
        }
    }
    resolved
}

/// What a strict one makes of it.
pub(crate) fn as_a_strict_upstream(path: &str) -> Vec<String> {
    let path = path.strip_prefix('/').unwrap();
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Vec::new();
    }
    path.split('/')
        .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8().unwrap().into_owned())
        .collect()
}

fn hostile_path() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        Just("/".to_owned()),
        Just(".".to_owned()),
        Just("..".to_owned()),
        Just("admin".to_owned()),
        Just("public".to_owned()),
        Just("%".to_owned()),
        Just("%25".to_owned()),
        Just("%2e".to_owned()),
        Just("%2F".to_owned()),
        Just("%20".to_owned()),
        Just(";".to_owned()),
        Just("\\".to_owned()),
        Just("%c0%ae".to_owned()),
        Just("%ef%bc%8e".to_owned()),
        any::<u8>().prop_map(|byte| format!("%{byte:02x}")),
        any::<char>().prop_map(|character| character.to_string()),
        "[a-zA-Z0-9~!$&'()*+,=:@_-]{1,3}",
    ];
    proptest::collection::vec(atom, 0..12).prop_map(|atoms| format!("/{}", atoms.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a08_the_normal_form_is_its_own_normal_form(path in hostile_path(), encoded_slash: bool) {
        let rules = PathRules { encoded_slash };
        if let Ok(normal) = canonical_path(&path, rules) {
            let again = canonical_path(&normal, rules);
            prop_assert_eq!(again.as_deref(), Ok(normal.as_str()));
        }
    }

    #[test]
    fn a06_lenient_and_strict_upstreams_read_an_accepted_path_alike(path in hostile_path()) {
        if let Ok(normal) = canonical_path(&path, STRICT) {
            prop_assert_eq!(as_a_lenient_upstream(&normal), as_a_strict_upstream(&normal));
            // The client's own spelling means the same as ours.
            prop_assert_eq!(as_a_strict_upstream(&path), as_a_strict_upstream(&normal));
        }
    }

    #[test]
    fn a09_the_judged_path_is_the_sent_path(path in hostile_path(), query in proptest::option::of("[!-~]{0,12}")) {
        let target = match &query { None => path.clone(), Some(query) => format!("{path}?{query}") };
        let Ok(uri) = target.parse::<http::Uri>() else { return Ok(()) };
        let request = Request::builder().uri(uri).header("host", "a").body(()).unwrap();
        if let Ok(first) = canonical(&request, STRICT) {
            let sent = Request::builder().uri(first.target()).header("host", first.host.as_str()).body(()).unwrap();
            prop_assert_eq!(sent.uri().path(), first.path.as_str());
            let second = canonical(&sent, STRICT);
            prop_assert_eq!(second, Ok(first));
        }
    }

    #[test]
    fn a16_a_parsed_host_parses_to_itself(text in "[a-zA-Z0-9:.\\[\\]@%_-]{0,24}") {
        if let Ok((host, port)) = parse_host(text.as_bytes()) {
            let again = match port { None => host.clone(), Some(port) => format!("{host}:{port}") };
            prop_assert_eq!(parse_host(again.as_bytes()), Ok((host, port)));
        }
    }
}
