//! Hostile messages by class, and the good ones that must not suffer.

use Expect::{Ambiguous, Refused, Served};

/// What is to become of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expect {
    /// The guard refuses with one of these; at most this good request is served before.
    Refused(&'static [u16], Option<&'static str>),
    /// The guard passes it and the canonical reading doesn't.
    Ambiguous,
    /// It is served.
    Served(&'static [&'static str]),
}

const BAD: Expect = Refused(&[400], None);
const BAD_OR_UNKNOWN: Expect = Refused(&[400, 501], None);
const UNKNOWN: Expect = Refused(&[501], None);

/// The messages of the classes: name, bytes, what is to become of them.
pub(super) fn messages() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let post = "POST /p HTTP/1.1\r\nHost: a\r\n";
    let chunked = "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut list: Vec<(&'static str, Vec<u8>, Expect)> = Vec::new();
    let mut add = |name, bytes: String, expect| list.push((name, bytes.into_bytes(), expect));

    // Good ones: the guard is of no use if it refuses these.
    add("get", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Served(&["GET /x"]));
    add(
        "get_with_fields",
        "GET /x?q=\\ HTTP/1.1\r\nhOST:a\r\nAccept: */*\r\nEmpty:\r\nTabs:\t a \t\r\nObs: \u{e9}\r\n\r\n".into(),
        Served(&["GET /x?q=\\"]),
    );
    add("length", format!("{post}Content-Length: 5\r\n\r\nhello"), Served(&["POST /p hello"]));
    add("length_zero", format!("{post}Content-Length: 0\r\n\r\n"), Served(&["POST /p"]));
    add("chunks", format!("{chunked}5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"), Served(&["POST /p hello!"]));
    add(
        "chunks_upper",
        format!("{}A\r\n0123456789\r\n00\r\n\r\n", chunked.replace("chunked", "CHUNKED")),
        Served(&["POST /p 0123456789"]),
    );
    add("chunk_extension", format!("{chunked}5;a=b;c\r\nhello\r\n0;z\r\n\r\n"), Served(&["POST /p hello"]));
    add("trailers", format!("{chunked}0\r\nDigest: x y\r\nZ:\r\n\r\n"), Served(&["POST /p"]));
    add(
        "pipelined",
        format!(
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{post}Content-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
        Served(&["GET /1", "POST /p hi", "GET /2"]),
    );
    add(
        "pipelined_chunks",
        format!("{chunked}2\r\nhi\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"),
        Served(&["POST /p hi", "GET /2"]),
    );
    add("absolute_form", "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Served(&["GET /x"]));
    add("old_version", "GET /x HTTP/1.0\r\nHost: a\r\n\r\n".into(), Served(&["GET /x"]));
    add(
        "refused_upgrade_then_more",
        "GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n".into(),
        Served(&["GET /x"]),
    );

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
    add(
        "a12_get_with_smuggled",
        format!("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        Served(&["GET /x GET /admin HTTP/1.1\r\nHost: a"]),
    );

    // A13: transfer codings.
    add("a13_old_te", "POST /p HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), BAD);
    for (name, value) in [
        ("a13_comma_chunked", ",chunked"),
        ("a13_chunked_comma", "chunked,"),
        ("a13_gzip_chunked", "gzip, chunked"),
        ("a13_chunked_gzip", "chunked, gzip"),
        ("a13_chunked_twice", "chunked, chunked"),
        ("a13_identity", "identity"),
        ("a13_chunked_identity", "chunked, identity"),
        ("a13_xchunked", "xchunked"),
        ("a13_chunked_parameter", "chunked;q=1"),
        ("a13_quoted", "\"chunked\""),
        ("a13_empty", ""),
        ("a13_space_in_it", "chun ked"),
        ("a13_cow", "cow"),
        ("a13_obs", "chunked\u{e9}"),
    ] {
        add(name, format!("{post}Transfer-Encoding: {value}\r\n\r\n0\r\n\r\n{smuggled}"), BAD_OR_UNKNOWN);
    }
    add(
        "a13_two_lines",
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        BAD,
    );
    add(
        "a13_two_lines_mixed",
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n"),
        BAD_OR_UNKNOWN,
    );
    add("a13_vertical_tab", format!("{post}Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_space_before_colon", format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_folded", format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), BAD);
    add("a13_folded_next", format!("{post}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), BAD);

    // A14: chunks.
    for (name, body) in [
        ("a14_bare_lf_size", "5\nhello\r\n0\r\n\r\n"),
        ("a14_bare_lf_data", "5\r\nhello\n0\r\n\r\n"),
        ("a14_bare_cr_size", "5\rhello\r\n0\r\n\r\n"),
        ("a14_0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a14_underscore", "1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
        ("a14_plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a14_minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a14_empty_size", "\r\nhello\r\n0\r\n\r\n"),
        ("a14_space_size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a14_size_space", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a14_size_tab", "5\t\r\nhello\r\n0\r\n\r\n"),
        ("a14_overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a14_overflow_sign", "fffffffffffffff0\r\nhello\r\n0\r\n\r\n"),
        ("a14_letters", "g\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_lf", "5;a\nhello\r\n0\r\n\r\n"),
        ("a14_extension_cr", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_empty", "5;\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_nul", "5;a\0\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_value", "5;a=\r\nhello\r\n0\r\n\r\n"),
        ("a14_extension_space", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("a14_junk_after_data", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("a14_short_data", "5\r\nhell\r\n0\r\n\r\n"),
        ("a14_nul_size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("a14_last_lf", "0\n\n"),
        ("a14_end_lf", "0\r\n\n"),
        ("a14_end_cr", "0\r\n\rX"),
        ("a14_trailer_lf", "0\r\nX: y\n\r\n"),
        ("a14_trailer_space_name", "0\r\nX : y\r\n\r\n"),
        ("a14_trailer_fold", "0\r\nX: y\r\n z\r\n\r\n"),
        ("a14_trailer_no_colon", "0\r\nX\r\n\r\n"),
        ("a14_trailer_nul", "0\r\nX: \0\r\n\r\n"),
        ("a14_obs_size", "\u{e9}\r\n\r\n"),
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
        ("a16_userinfo", "a@b"),
        ("a16_empty", ""),
        ("a16_list", "a, b"),
        ("a16_space", "a b"),
        ("a16_path", "a/b"),
        ("a16_port", "a:b"),
        ("a16_port_huge", "a:99999"),
        ("a16_obs", "\u{e9}"),
    ] {
        add(name, format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"), Ambiguous);
    }
    add("a16_other_absolute", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Ambiguous);
    add("a16_userinfo_absolute", "GET http://x@a/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Ambiguous);

    // A06–A09: targets.
    for (name, target) in [
        ("a06_dots", "/a/../admin"),
        ("a06_encoded_dots", "/%2e%2e/admin"),
        ("a07_nul", "/%00"),
        ("a07_slash", "/a%2fb"),
        ("a08_double_slash", "//admin"),
        ("a08_parameter", "/admin;x"),
        ("a08_trailing_dot", "/admin."),
    ] {
        add(name, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), Ambiguous);
    }
    for (name, target) in [
        ("a09_fragment", "/x#y"),
        ("a09_fragment_query", "/x?a#y"),
        ("a09_bang", "!"),
        ("a09_relative", "x"),
        ("a09_asterisk", "*"),
        ("a09_backslash", "/\\admin"),
        ("a09_backslash_first", "\\admin"),
        ("a09_obs", "/\u{e9}"),
        ("a09_ftp", "ftp://a/x"),
        ("a09_authority", "a:80"),
        ("a09_query_only", "?x"),
        ("a09_obs_query", "/x?\u{e9}"),
        ("a09_quote_in_query", "/x?a=\""),
        ("a09_angles_in_query", "/x?a=<>"),
        ("a09_angle", "/a>"),
        ("a09_backtick", "/a`"),
        ("a09_no_url", "http://a{b/x"),
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
