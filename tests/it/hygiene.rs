//! Header hygiene, request and response.

use doorward::gateway::hygiene::{
    Duplicate, PassAuthorization, accepts_trailers, own_cookie, strip_client_headers, strip_client_trailers,
    strip_response_headers,
};
use doorward::identity::cookie::{FLOW_COOKIE, SESSION_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    map
}

fn stripped(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = headers(fields);
    strip_client_headers(&mut map, PassAuthorization::Withhold);
    map
}

/// Names that some upstream believes.
const BELIEVED: [&str; 86] = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Server",
    "X-Forwarded-Method",
    "Forwarded",
    "Remote-User",
    "Remote-Groups",
    "Remote-Name",
    "Remote-Email",
    "Remote-Addr",
    "X-Remote-User",
    "X-Remote-Group",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Groups",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Client-Cert",
    "SSL-Client-Cert",
    "SSL-Client-S-DN",
    "X-SSL-Client-Verify",
    "X-Real-IP",
    "X-Original-URL",
    "X-Original-URI",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "Doorward-Assertion",
    "Doorward-Decision",
    "Doorward-Token",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Proxy",
    "Via",
    "True-Client-IP",
    "X-WebAuth-User",
    "X-Goog-IAP-JWT-Assertion",
    "X-Amzn-Oidc-Data",
    "X-MS-Client-Principal",
    "Cf-Access-Jwt-Assertion",
    "Tailscale-User-Login",
    "X-User",
    "X-User-Email",
    "X-Authentik-Username",
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "X-Anonymous-Consumer",
    "X-Amzn-Mtls-Clientcert",
    "X-Auth-Roles",
    "X-Auth-Groups",
    "X-Auth-Email",
    "X-Auth-Subject",
    "X-Jwt-Payload",
    "OIDC-CLAIM-Email",
    "SM-User",
    "SM-UniversalID",
    "IV-User",
    "IV-Groups",
    "IV-Creds",
    "OAM-Remote-User",
    "Shib-Identity",
    "Shib-Session-ID",
    "eppn",
    "Mellon-Name",
    "ADFS-User",
    "X-AuthUser",
    "X-RemoteUser",
    "X-RemoteUser-Name",
    "X-Auth-Id",
    "X-Auth-Login",
    "X-Auth-Name",
    "X-Auth-User",
];

#[test]
fn a01_identity_headers_go_in_every_spelling() {
    for name in BELIEVED {
        let spellings = [
            name.to_owned(),
            name.to_lowercase(),
            name.to_uppercase(),
            name.replace('-', "_"),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
            name.replace('-', "~"),
            name.replace('-', "!"),
            name.replace('-', "|"),
            name.replace('-', "'").to_uppercase(),
            name.char_indices()
                .map(|(place, c)| if place % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
                .collect(),
            name.replace('-', "_").to_uppercase(),
        ];
        for spelling in &spellings {
            let left = stripped(&[("accept", "*/*"), (spelling, "alice"), ("x-app", "1"), (spelling, "alice, bob")]);
            assert_eq!(left, headers(&[("accept", "*/*"), ("x-app", "1")]), "{spelling}");
        }
    }
}

#[test]
fn a01_trailers_carry_no_identity_either() {
    let mut trailers = headers(&[
        ("grpc-status", "0"),
        ("X-Forwarded-User", "root"),
        ("remote_user", "root"),
        ("Authorization", "Basic x"),
        ("Cookie", "a=b"),
        ("Host", "x"),
        ("Content-Length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Doorward-Assertion", "x"),
        ("digest", "y"),
    ]);
    strip_client_trailers(&mut trailers);
    assert_eq!(trailers, headers(&[("grpc-status", "0"), ("digest", "y")]));
}

#[test]
fn a01_every_name_with_an_underscore_goes() {
    assert_eq!(stripped(&[("x_app", "1"), ("_", "1"), ("x-app", "1"), ("a_", "1")]), headers(&[("x-app", "1")]));
}

#[test]
fn what_applications_need_stays() {
    let fields = [
        ("host", "a"),
        ("user-agent", "curl"),
        ("accept", "*/*"),
        ("content-type", "text/plain"),
        ("content-length", "0"),
        ("cookie", "a=b; c=d"),
        ("origin", "https://a"),
        ("sec-websocket-key", "x"),
        ("x-request-id", "1"),
        ("x-user-preferences", "dark"),
        ("x-csrf-token", "t"),
        ("x-requested-with", "XMLHttpRequest"),
        ("grpc-timeout", "1S"),
        ("traceparent", "00-a"),
        ("idempotency-key", "k"),
        ("x-api-key", "k"),
        ("x-auth-token", "k"),
        ("x-auth-nonce", "1"),
        ("smart", "1"),
        ("ivy", "1"),
        ("ssladmin", "1"),
        ("trailer", "digest"),
        ("x.app", "1"),
        ("depth", "1"),
        ("x-amz-date", "d"),
        ("x-grafana-org-id", "1"),
    ];
    assert_eq!(stripped(&fields), headers(&fields));
}

#[test]
fn a02_hop_by_hop_fields_and_those_named_by_connection_go() {
    let left = stripped(&[
        ("Connection", "close, X-Secret-Hop , ,\"odd\""),
        ("connection", "x-other,KEEP-ALIVE"),
        ("x-secret-hop", "1"),
        ("X-Other", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("HTTP2-Settings", "x"),
        ("Proxy-Connection", "x"),
        ("Expect", "100-continue"),
        ("x-app", "1"),
    ]);
    assert_eq!(left, headers(&[("x-app", "1")]));
    assert!(accepts_trailers(&headers(&[("te", "gzip, Trailers")])));
    assert!(!accepts_trailers(&headers(&[("te", "gzip")])));
}

#[test]
fn a05_authorization_passes_only_where_the_service_says_so() {
    let fields = [("authorization", "Bearer x"), ("doorward-token", "y")];
    assert_eq!(stripped(&fields), HeaderMap::new());
    let mut map = headers(&fields);
    strip_client_headers(&mut map, PassAuthorization::Pass);
    assert_eq!(map, headers(&[("authorization", "Bearer x")]));
}

#[test]
fn a05_our_cookies_never_reach_an_upstream() {
    for (sent, kept) in [
        ("a=b; __Host-doorward=secret; c=d", Some("a=b; c=d")),
        ("__Host-doorward=secret", None),
        ("__Host-doorward-flow=x;__Host-doorward=y", None),
        ("  __host-DOORWARD = x ;a=b", Some("a=b")),
        ("=__Host-doorward=x; a=b", Some("a=b")),
        ("__Host-doorward-anything=x; a=b", Some("a=b")),
        ("a=__Host-doorward", Some("a=__Host-doorward")),
        ("", None),
        ("a=b;c=d", Some("a=b;c=d")),
    ] {
        let left = stripped(&[("cookie", sent)]);
        assert_eq!(left.get("cookie").map(|value| value.to_str().unwrap()), kept, "{sent}");
    }
}

#[test]
fn a18_cookie_crumbs_become_one_field() {
    let left = stripped(&[("cookie", "a=b"), ("cookie", "__Host-doorward=x"), ("cookie", "c=d; e=f"), ("cookie", "")]);
    assert_eq!(left, headers(&[("cookie", "a=b; c=d; e=f")]));
}

#[test]
fn a42_our_cookie_twice_is_reported() {
    let one = headers(&[("cookie", "a=b; __Host-doorward=x=y; __Host-doorward-flow=z")]);
    assert_eq!(own_cookie(&one, SESSION_COOKIE), Ok(Some("x=y")));
    assert_eq!(own_cookie(&one, FLOW_COOKIE), Ok(Some("z")));
    assert_eq!(own_cookie(&headers(&[("cookie", "a=b")]), SESSION_COOKIE), Ok(None));
    assert_eq!(own_cookie(&HeaderMap::new(), SESSION_COOKIE), Ok(None));
    for fields in [
        &[("cookie", "__Host-doorward=x; __Host-doorward=x")][..],
        &[("cookie", "__Host-doorward=x"), ("cookie", "__Host-doorward=y")][..],
        &[("cookie", "__Host-doorward; a=b; __Host-doorward=y")][..],
    ] {
        assert_eq!(own_cookie(&headers(fields), SESSION_COOKIE), Err(Duplicate));
    }
    assert_eq!(own_cookie(&headers(&[("cookie", "__Host-doorward")]), SESSION_COOKIE), Ok(Some("")));
    assert_eq!(
        own_cookie(&headers(&[("cookie", "__Host-doorward=\u{e9}\u{e9}; o=\u{fc}")]), SESSION_COOKIE),
        Ok(Some("\u{e9}\u{e9}"))
    );
}

#[test]
fn responses_lose_what_is_not_the_upstreams_to_say() {
    let mut map = headers(&[
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "x"),
        ("proxy-authenticate", "Basic"),
        ("doorward-decision", "dec_forged"),
        ("alt-svc", "h3=\":443\""),
        ("server", "x"),
        ("set-cookie", "a=b; Path=/"),
        ("set-cookie", "__Host-doorward=stolen; Path=/"),
        ("set-cookie", " =__HOST-Doorward-Flow=x"),
        ("set-cookie", "c=d"),
        ("trailer", "grpc-status"),
        ("content-length", "3"),
    ]);
    strip_response_headers(&mut map);
    let left = headers(&[
        ("server", "x"),
        ("set-cookie", "a=b; Path=/"),
        ("set-cookie", "c=d"),
        ("trailer", "grpc-status"),
        ("content-length", "3"),
    ]);
    assert_eq!(map, left);
}
