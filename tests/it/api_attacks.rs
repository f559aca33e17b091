//! Attacks on the control API as HTTP: bombs in bodies (a24), and answers that tell apart what the
//! caller may not know (a48).

use std::time::{Duration, Instant};

use axum::body::Body;
use doorward::api::ROUTES;
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::support::databases;

const JSON: Option<&str> = Some("application/json");
const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

/// Bodies that cost a careless reader its stack, its memory or its time, or that two readers read differently.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let many: String = (0..5000).map(|n| format!("\"k{n}\":0,")).collect();
    let same = "\"reason\":\"a\",".repeat(4000);
    vec![
        ("depth of arrays", "[".repeat(60_000).into_bytes()),
        ("depth of objects", "{\"a\":".repeat(10_000).into_bytes()),
        ("depth within a field", format!("{{\"reason\":{}", "[".repeat(50_000)).into_bytes()),
        ("depth within an unknown field", format!("{{\"x\":{}", "[".repeat(50_000)).into_bytes()),
        ("closed depth", format!("{}{}", "[".repeat(30_000), "]".repeat(30_000)).into_bytes()),
        ("many keys", format!("{{{}\"z\":0}}", many).into_bytes()),
        ("one key many times", format!("{{{}\"z\":0}}", same).into_bytes()),
        ("a huge number", format!("{{\"reason\":1{}}}", "0".repeat(60_000)).into_bytes()),
        ("a huge exponent", b"{\"reason\":1e999999999}".to_vec()),
        ("a lone surrogate", b"{\"reason\":\"\\ud800\"}".to_vec()),
        ("no UTF-8", b"{\"reason\":\"\xff\xfe\"}".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("NUL", b"{\"reason\":\"\\u0000\"}".to_vec()),
        ("two documents", b"{}{}".to_vec()),
        ("a comment", b"{/* */}".to_vec()),
        ("NaN", b"{\"reason\":NaN}".to_vec()),
        ("not an object", b"null".to_vec()),
        ("a gzip of zeros", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 99, 96, 0, 0]),
        ("more than is read", vec![b'x'; 10 * 1024 * 1024]),
        ("a reason of 10 MB", format!("{{\"reason\":\"{}\"}}", "x".repeat(10 * 1024 * 1024)).into_bytes()),
    ]
}

#[tokio::test]
async fn a24_no_body_costs_a_route_more_than_a_refusal() {
    let house = House::new(&databases()[0]).await;
    let (carol, ..) = house.command_line("carol").await;
    let mut tried = 0;
    for route in ROUTES.iter().filter(|route| route.method == "POST") {
        let path = route.path.replace("{id}", "req_06h01rs2cto0b2afh7rgi8mlbg");
        let content_type = if path.starts_with("/oauth2/") { FORM } else { JSON };
        for (what, bytes) in bombs() {
            let began = Instant::now();
            let answer = house.send(&carol, "POST", &path, content_type, Body::from(bytes)).await;
            let status = answer.status.as_u16();
            assert!((400..500).contains(&status), "{path}, {what}: {answer:?}");
            assert!(began.elapsed() < Duration::from_secs(3), "{path}, {what}: {:?}", began.elapsed());
            tried += 1;
        }
        // Said to be packed: nothing here unpacks, so that it can't become large.
        let mut packed = carol.clone();
        packed.headers.push(("content-encoding", "gzip".to_owned()));
        let answer = house.send(&packed, "POST", &path, content_type, Body::from(vec![0x1f, 0x8b, 8])).await;
        assert!((400..500).contains(&answer.status.as_u16()), "{path}: {answer:?}");
    }
    assert!(tried > 300, "{tried}");
    assert_eq!(house.get(&carol, "/api/v1/whoami").await.status, 200);
}

#[tokio::test]
async fn a24_forms_are_bounded_in_fields_names_and_repetition() {
    let house = House::new(&databases()[0]).await;
    let fields = |count: usize| (0..count).map(|n| format!("f{n}=1")).collect::<Vec<_>>().join("&");
    for form in [
        fields(40),
        fields(5000),
        "grant_type=a&grant_type=b".to_owned(),
        "&".repeat(60_000),
        "%".repeat(60_000),
        "%00=%00".to_owned(),
        format!("grant_type=refresh_token&refresh_token={}", "x".repeat(60_000)),
        format!("grant_type=authorization_code&code={}", "%ff".repeat(20_000)),
        format!(
            "grant_type={}&subject_token={}",
            "urn:ietf:params:oauth:grant-type:token-exchange",
            ".".repeat(60_000)
        ),
    ] {
        for path in ["/oauth2/token", "/oauth2/revoke", "/oauth2/introspect", "/oauth2/device_authorization"] {
            let began = Instant::now();
            let answer = house.send(&Caller::default(), "POST", path, FORM, Body::from(form.clone())).await;
            let start = &form[..form.len().min(40)];
            // RFC 7009 §2.2: a token that is none is withdrawn already.
            let fine =
                (400..500).contains(&answer.status.as_u16()) || (path == "/oauth2/revoke" && answer.status == 200);
            assert!(fine, "{path} {start}: {answer:?}");
            assert!(began.elapsed() < Duration::from_secs(2), "{path} {start}");
        }
    }
}

#[tokio::test]
async fn a24_tokens_of_any_shape_are_refused_at_once() {
    let house = House::new(&databases()[0]).await;
    let (_, answer, _) = house.command_line("alice").await;
    let good = answer["access_token"].as_str().unwrap().to_owned();
    let (head, rest) = good.split_once('.').unwrap();
    for bearer in [
        ".".repeat(60_000),
        ".".repeat(2),
        "a".repeat(60_000),
        format!("{good}{}", "A".repeat(9000)),
        format!("{head}.{}.{rest}", "A".repeat(5000)),
        // JWE (RFC 7516): five parts, packed.
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIiwiemlwIjoiREVGIn0..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA"
            .to_owned(),
        "e30.e30.".to_owned(),
        format!("{}.e30.AAAA", "e30".repeat(1000)),
    ] {
        let caller = Caller { bearer: Some(bearer.clone()), ..Caller::default() };
        let began = Instant::now();
        let refused = house.get(&caller, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "bad_credential"), "{:.40}", bearer);
        assert!(began.elapsed() < Duration::from_secs(1), "{:.40}", bearer);
        let form = [("token", bearer.as_str()), ("client_id", "doorward-cli")];
        let revoked = house.form(&Caller::default(), "/oauth2/revoke", &form).await;
        assert!([200, 400].contains(&revoked.status.as_u16()), "{revoked:?}");
    }
}

/// What a stranger can tell two answers apart by: everything but the decision's own id.
fn outside(answer: &Answer) -> (u16, Value, Vec<String>) {
    let mut body = answer.body.clone();
    if let Some(decision) = body.get_mut("decision") {
        *decision = json!("dec");
    }
    let mut names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
    names.sort();
    (answer.status.as_u16(), body, names)
}

#[tokio::test]
async fn a48_what_is_of_others_is_answered_like_what_does_not_exist() {
    let house = House::new(&databases()[0]).await;
    let (bob, bobs, _) = house.command_line("bob").await;
    let (alice, ..) = house.command_line("alice").await;
    let (dave, ..) = house.command_line("dave").await;
    let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "a test", "ticket": "OPS-1" });
    let request = house.json(&alice, "/api/v1/requests", &asked).await.text("/id").to_owned();
    let granted =
        house.json(&bob, &format!("/api/v1/requests/{request}/approvals"), &json!({ "answer": "approve" })).await;
    assert_eq!(granted.status, 200, "{granted:?}");
    let grant = granted.text("/grant").to_owned();
    let session = bobs["session"]["id"].as_str().unwrap().to_owned();
    let decision = house.get(&bob, "/api/v1/decisions/nonsense").await.header("doorward-decision").to_owned();
    let of = |kind: &str| format!("{kind}_06h01rs2cto0b2afh7rgi8mlbg");
    let places = [
        ("GET", "/api/v1/requests/{}", &request, "req", json!(null)),
        ("GET", "/api/v1/requests/{}/approvals", &request, "req", json!(null)),
        ("POST", "/api/v1/requests/{}/approvals", &request, "req", json!({ "answer": "approve" })),
        ("POST", "/api/v1/requests/{}/withdraw", &request, "req", json!({})),
        ("GET", "/api/v1/grants/{}", &grant, "grt", json!(null)),
        ("POST", "/api/v1/grants/{}/extend", &grant, "grt", json!({ "for": "1m" })),
        ("POST", "/api/v1/grants/{}/drop", &grant, "grt", json!({})),
        ("POST", "/api/v1/grants/{}/revoke", &grant, "grt", json!({ "reason": "a test" })),
        ("POST", "/api/v1/sessions/{}/revoke", &session, "ses", json!({ "reason": "a test" })),
        ("GET", "/api/v1/decisions/{}", &decision, "dec", json!(null)),
    ];
    for (method, path, real, kind, body) in places {
        let mut answers = Vec::new();
        let odd = real.to_uppercase();
        for id in [real.as_str(), &of(kind), "nonsense", &odd, &format!("{real}%20"), &format!("%20{real}")] {
            let path = path.replace("{}", id);
            let answer = match method {
                "GET" => house.get(&dave, &path).await,
                _ => house.json(&dave, &path, &body).await,
            };
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            answers.push(outside(&answer));
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{method} {path}: {answers:#?}");
    }
    // Whom somebody without leave names makes no difference either, in any spelling.
    for path in ["/api/v1/locks", "/api/v1/locks/clear"] {
        let mut answers = Vec::new();
        for principal in ["dev|bob", "User::\"dev|bob\"", "bob@example.com", "BOB@example.com", " dev|bob", "nobody"] {
            let answer = house.json(&dave, path, &json!({ "principal": principal, "reason": "a test" })).await;
            answers.push(outside(&answer));
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{path}: {answers:#?}");
    }
    // Nothing of it changed anything.
    assert_eq!(house.get(&alice, &format!("/api/v1/grants/{grant}")).await.text("/state"), "active");
    assert_eq!(house.get(&bob, "/api/v1/whoami").await.status, 200);
}

#[tokio::test]
async fn a48_codes_and_tokens_that_are_over_of_others_or_made_up_are_answered_alike() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    let (alice, answer, _) = house.command_line("alice").await;
    let used = house.code(&browser).await;
    assert_eq!(house.exchange(&used, &[]).await.status, 200);
    let fresh = house.code(&browser).await;
    let longer = format!("{}x", house.code(&browser).await);
    let wrong_verifier = [("code_verifier", "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww")];
    let codes = [
        house.exchange(&used, &[]).await,
        house.exchange("made-up", &[]).await,
        house.exchange(&longer, &[]).await,
        house.exchange(&fresh, &wrong_verifier).await,
        house.exchange(&fresh, &[]).await,
    ];
    let codes: Vec<_> = codes.iter().map(outside).collect();
    assert!(codes.windows(2).all(|pair| pair[0] == pair[1]), "{codes:#?}");
    assert_eq!(codes[0].0, 400);
    // Refreshing: tokens that never were. (One that lives, over another's certificate, is `invalid_client`:
    // whoever has it knows already that it is one.)
    let (bob, bobs, _) = house.command_line("bob").await;
    let refresh = answer["refresh_token"].as_str().unwrap();
    let refreshed = [
        house.refresh(&alice, "made-up", &[]).await,
        house.refresh(&alice, &refresh.to_uppercase(), &[]).await,
        house.refresh(&bob, &format!("{refresh}x"), &[]).await,
        house.refresh(&alice, &refresh[1..], &[]).await,
    ];
    let refreshed: Vec<_> = refreshed.iter().map(outside).collect();
    assert!(refreshed.windows(2).all(|pair| pair[0] == pair[1]), "{refreshed:#?}");
    // Introspection of what one may not know: not active, and not a word more (RFC 7662 §2.2).
    let access = bobs["access_token"].as_str().unwrap();
    let mut told = Vec::new();
    for token in [&access[..access.len() - 4], "made-up", "", "a.b.c"] {
        let answer = house.form(&alice, "/oauth2/introspect", &[("token", token)]).await;
        if answer.status == 200 {
            assert_eq!(answer.body, json!({ "active": false }), "{token:.20}");
            told.push(outside(&answer));
        }
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:#?}");
}
