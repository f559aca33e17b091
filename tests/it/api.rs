//! The control API through HTTP: who may what, credentials that disagree, bodies out of bounds,
//! and that every refusal can be explained afterwards.

use std::time::Duration;

use axum::body::Body;
use doorward::api::{Needs, ROUTES, openapi};
use doorward::audit::{Event, EventType, Outcome};
use doorward::identity::certificate::{ClientCertificate, Issuer};
use doorward::model::{DecisionId, EventId, Ttl};
use serde_json::{Value, json};

use crate::api_house::{Caller, House, ORIGIN, authorize_path, device};
use crate::support::databases;

/// Every route, with what nobody, a stranger without groups, an engineer and an auditor get.
const SURFACE: &[(&str, &str, [u16; 4])] = &[
    ("GET", "/api/v1/whoami", [401, 200, 200, 200]),
    ("GET", "/api/v1/services", [401, 200, 200, 200]),
    ("GET", "/api/v1/entitlements", [401, 200, 200, 200]),
    ("GET", "/api/v1/sessions", [401, 200, 200, 200]),
    // The session is bob's: only security may know that it exists, and carol is of security.
    ("POST", "/api/v1/sessions/{id}/revoke", [401, 404, 404, 200]),
    ("GET", "/api/v1/requests", [401, 200, 200, 200]),
    ("POST", "/api/v1/requests", [401, 403, 201, 403]),
    // The request is bob's, and there is no such grant.
    ("GET", "/api/v1/requests/{id}", [401, 404, 404, 200]),
    ("GET", "/api/v1/requests/{id}/approvals", [401, 404, 404, 200]),
    ("POST", "/api/v1/requests/{id}/approvals", [401, 404, 404, 403]),
    ("POST", "/api/v1/requests/{id}/withdraw", [401, 404, 404, 403]),
    ("GET", "/api/v1/grants", [401, 200, 200, 200]),
    ("GET", "/api/v1/grants/{id}", [401, 404, 404, 404]),
    ("POST", "/api/v1/grants/{id}/extend", [401, 404, 404, 404]),
    ("POST", "/api/v1/grants/{id}/drop", [401, 404, 404, 404]),
    ("POST", "/api/v1/grants/{id}/revoke", [401, 404, 404, 404]),
    ("GET", "/api/v1/credentials", [401, 200, 200, 200]),
    // The certificate is bob's; withdrawing it would end his session, which carol may.
    ("GET", "/api/v1/credentials/{id}", [401, 404, 404, 200]),
    ("POST", "/api/v1/credentials/{id}/revoke", [401, 404, 404, 200]),
    ("GET", "/api/v1/leases", [401, 200, 200, 200]),
    ("GET", "/api/v1/locks", [401, 200, 200, 200]),
    // Only security may bar; the principal that is named is none, which only they are told.
    ("POST", "/api/v1/locks", [401, 403, 403, 404]),
    ("POST", "/api/v1/locks/clear", [401, 403, 403, 404]),
    // Who may neither read the record nor bar sees none, and there is no such notice.
    ("GET", "/api/v1/notices", [401, 200, 200, 200]),
    ("POST", "/api/v1/notices/{id}/retry", [401, 404, 404, 404]),
    // Who may not review sees none; the first review of ops-api is carol's.
    ("GET", "/api/v1/reviews", [401, 200, 200, 200]),
    ("POST", "/api/v1/reviews", [401, 403, 403, 200]),
    ("GET", "/api/v1/reviews/{id}", [401, 404, 404, 404]),
    ("POST", "/api/v1/reviews/{id}/items/{item}/decision", [401, 403, 403, 404]),
    ("POST", "/api/v1/reviews/{id}/close", [401, 403, 403, 404]),
    ("GET", "/api/v1/breakglass", [401, 200, 200, 200]),
    // There is no emergency path in this house.
    ("GET", "/api/v1/breakglass/terms", [404, 404, 404, 404]),
    ("POST", "/api/v1/breakglass/check", [400, 400, 400, 400]),
    ("POST", "/api/v1/breakglass/drills", [400, 400, 400, 400]),
    ("GET", "/api/v1/breakglass/{id}", [401, 404, 404, 404]),
    ("POST", "/api/v1/breakglass/{id}/close", [400, 400, 400, 400]),
    ("POST", "/api/v1/breakglass/{id}/reviews", [401, 403, 403, 404]),
    // The decision is bob's.
    ("GET", "/api/v1/decisions/{id}", [401, 404, 404, 200]),
    ("GET", "/api/v1/audit/events", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/export", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/who", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/grants/{id}", [401, 403, 403, 404]),
    ("GET", "/api/v1/audit/logs", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/checkpoint", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/inclusion", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/consistency", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/streams", [401, 403, 403, 200]),
    ("GET", "/api/v1/audit/schema", [401, 200, 200, 200]),
    // Nobody administers by the policies that come with the product.
    ("GET", "/api/v1/audit/erasures", [401, 403, 403, 403]),
    ("POST", "/api/v1/audit/erasures", [401, 403, 403, 403]),
    ("GET", "/api/v1/audit/erasures/{id}", [401, 403, 403, 403]),
    ("GET", "/api/v1/policies/convergence", [401, 403, 403, 200]),
    ("GET", "/api/v1/openapi.json", [200, 200, 200, 200]),
    ("GET", "/oauth2/authorize", [303, 303, 303, 303]),
    ("POST", "/oauth2/token", [400, 400, 400, 400]),
    ("POST", "/oauth2/device_authorization", [401, 401, 401, 401]),
    ("POST", "/oauth2/introspect", [401, 400, 400, 400]),
    ("POST", "/oauth2/revoke", [400, 400, 400, 400]),
    ("GET", "/oauth2/jwks", [200, 200, 200, 200]),
    ("GET", "/.well-known/oauth-authorization-server", [200, 200, 200, 200]),
    ("GET", "/.well-known/openid-configuration", [200, 200, 200, 200]),
    ("GET", "/.well-known/oauth-protected-resource", [200, 200, 200, 200]),
];

#[tokio::test]
async fn every_route_lets_in_whom_it_must_and_nobody_else() {
    let listed: Vec<_> = SURFACE.iter().map(|(method, path, _)| (*method, *path)).collect();
    let there: Vec<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    assert_eq!(listed, there, "every route stands in the table");

    let house = House::new(&databases()[0]).await;
    let (bob, bob_answer, _) = house.command_line("bob").await;
    let bobs_session = bob_answer["session"]["id"].as_str().unwrap();
    let bobs_decision = house.get(&bob, "/api/v1/decisions/nonsense").await.header("doorward-decision").to_owned();
    let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "a test", "ticket": "OPS-1" });
    let bobs_request = house.json(&bob, "/api/v1/requests", &asked).await;
    let (second, second_answer, _) = house.command_line("bob").await;
    let credentials = house.get(&second, "/api/v1/credentials").await;
    let of_kind = |item: &&Value| item["kind"] == "x509" && item["session"] == second_answer["session"]["id"];
    let newest = credentials.body["items"].as_array().unwrap().iter().find(of_kind).unwrap();
    let bobs_credential = newest["id"].as_str().unwrap().to_owned();
    let mut people = vec![Caller::default()];
    for person in ["dave", "alice", "carol"] {
        people.push(house.command_line(person).await.0);
    }
    for (method, path, expected) in SURFACE {
        let id = match path.split('/').nth(3) {
            Some("decisions") => bobs_decision.as_str(),
            Some("requests") => bobs_request.text("/id"),
            Some("grants" | "audit") => "grt_06h01rs2cto0b2afh7rgi8mlb0",
            Some("reviews") => "rev_06h01rs2cto0b2afh7rgi8mlb0",
            Some("credentials") => bobs_credential.as_str(),
            _ => bobs_session,
        };
        let mut path = path.replace("{id}", id).replace("{item}", "1");
        for (proof, query) in [("/inclusion", "index=0"), ("/consistency", "from=1")] {
            if path.ends_with(proof) {
                path = format!("{path}?log=installation&{query}");
            }
        }
        if path == "/oauth2/authorize" {
            path = authorize_path(&[]);
        }
        for (caller, expected) in people.iter().zip(expected) {
            let answer = match *method {
                "GET" => house.get(caller, &path).await,
                _ if path == "/api/v1/requests" => house.json(caller, &path, &asked).await,
                _ if path.ends_with("/approvals") => house.json(caller, &path, &json!({ "answer": "deny" })).await,
                _ if path.ends_with("/extend") => house.json(caller, &path, &json!({ "for": "1m" })).await,
                _ if path.ends_with("/withdraw") || path.ends_with("/drop") => {
                    house.json(caller, &path, &json!({})).await
                }
                _ if path == "/api/v1/reviews" => house.json(caller, &path, &json!({ "service": "ops-api" })).await,
                _ if path.starts_with("/api/v1/reviews/") && path.ends_with("/close") => {
                    house.json(caller, &path, &json!({})).await
                }
                _ if path.starts_with("/api/v1/reviews/") => {
                    house.json(caller, &path, &json!({ "decision": "keep", "reason": "a test" })).await
                }
                _ if path.ends_with("/retry") => house.json(caller, &path, &json!({})).await,
                _ if path.ends_with("/reviews") => house.json(caller, &path, &json!({ "finding": "a test" })).await,
                _ if path.starts_with("/api/v1/locks") => {
                    house.json(caller, &path, &json!({ "principal": "nobody-at-all", "reason": "a test" })).await
                }
                _ if path.ends_with("/erasures") => {
                    house.json(caller, &path, &json!({ "person": "dev|nobody", "reason": "a test" })).await
                }
                _ if path.starts_with("/api/") => house.json(caller, &path, &json!({ "reason": "a test" })).await,
                _ => house.form(caller, &path, &[]).await,
            };
            assert_eq!(answer.status.as_u16(), *expected, "{method} {path}: {answer:?}");
        }
    }
    for route in ROUTES.iter().filter(|route| route.needs == Needs::Session) {
        assert_eq!(SURFACE.iter().find(|(_, path, _)| *path == route.path).unwrap().2[0], 401);
    }
}

#[tokio::test]
async fn the_api_describes_every_route() {
    let document = openapi::describe(ORIGIN);
    let mut operations = 0;
    for path in document["paths"].as_object().unwrap().values() {
        operations += path.as_object().unwrap().len();
    }
    assert_eq!(operations, ROUTES.len());
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{}", route.path);
    }
    let names = |path: &str, method: &str| {
        let listed = document["paths"][path][method]["parameters"].as_array().cloned().unwrap_or_default();
        listed.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(names("/api/v1/sessions", "get").contains(&"limit".to_owned()));
    for route in ROUTES.iter().filter(|route| route.method == "POST" && route.path.starts_with("/api/")) {
        let takes_key = names(route.path, "post").contains(&"Idempotency-Key".to_owned());
        assert_eq!(takes_key, route.needs != Needs::Nobody, "{}", route.path);
    }
    let mut references = Vec::new();
    collect(&document, &mut references);
    for reference in references {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(reference) if key == "$ref" => found.push(reference.to_owned()),
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn lists_come_in_pages_and_a_cursor_is_good_though_what_it_names_is_gone() {
    let house = House::new(&databases()[0]).await;
    let (carol, _, _) = house.command_line("carol").await;
    for subject in ["one", "two", "three"] {
        let body = json!({ "principal": format!("dev|{subject}"), "reason": "test" });
        assert_eq!(house.json(&carol, "/api/v1/locks", &body).await.status, 200);
    }
    for (list, key) in [("services", "name"), ("entitlements", "name"), ("locks", "id"), ("breakglass", "id")] {
        let whole = house.get(&carol, &format!("/api/v1/{list}")).await.body["items"].clone();
        let (mut paged, mut next) = (Vec::new(), None::<String>);
        loop {
            let cursor = next.map_or_else(String::new, |cursor| format!("&cursor={}", cursor.replace('/', "%2F")));
            let page = house.get(&carol, &format!("/api/v1/{list}?limit=1{cursor}")).await.body;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 1, "{page}");
            paged.extend(items.iter().cloned());
            match page["next"].as_str() {
                Some(cursor) => next = Some(cursor.to_owned()),
                None => break,
            }
        }
        assert_eq!(Value::Array(paged), whole, "{list}");
        for bad in ["limit=0", "limit=201", "limit=x", "limit=", "cursor=", "limt=1"] {
            let answer = house.get(&carol, &format!("/api/v1/{list}?{bad}")).await;
            assert_eq!(answer.status, 400, "{list}?{bad}");
        }
        let keys: Vec<&str> = whole.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap()).collect();
        assert!(list == "breakglass" || keys.is_sorted(), "{list}: {keys:?}");
    }
    let unknown = house.get(&carol, "/api/v1/audit/events?typ=lock.set").await;
    assert_eq!((unknown.status.as_u16(), unknown.text("/reason")), (400, "invalid_request"));
    assert!(unknown.text("/detail").contains("unknown parameter `typ`") && unknown.text("/detail").contains("`type`"));
    // Who bars themselves could not lift the bar.
    let own = json!({ "principal": "dev|carol", "reason": "test" });
    let refused = house.json(&carol, "/api/v1/locks", &own).await;
    assert_eq!((refused.status.as_u16(), refused.text("/reason")), (409, "self_lock"), "{refused:?}");
    let first = house.get(&carol, "/api/v1/locks?limit=1").await.body["items"][0].clone();
    let body = json!({ "principal": first["principal"]["id"], "reason": "test" });
    assert_eq!(house.json(&carol, "/api/v1/locks/clear", &body).await.status, 200);
    let rest = house.get(&carol, &format!("/api/v1/locks?cursor={}", first["id"].as_str().unwrap())).await;
    assert_eq!((rest.status.as_u16(), rest.body["items"].as_array().unwrap().len()), (200, 2), "{:?}", rest.body);
}

#[tokio::test]
async fn services_say_what_is_allowed_can_be_asked_for_or_is_denied() {
    let house = House::new(&databases()[0]).await;
    let access = async |person: &str| {
        let (caller, _, _) = house.command_line(person).await;
        let answer = house.get(&caller, "/api/v1/services").await;
        let services = answer.body["items"].as_array().unwrap();
        services.iter().find(|service| service["name"] == "ops-api").unwrap().clone()
    };
    let action = |service: &Value, name: &str| {
        let actions = service["actions"].as_array().unwrap();
        actions.iter().find(|action| action["name"] == name).unwrap().clone()
    };
    let of_alice = access("alice").await;
    assert_eq!(of_alice["url"], json!("https://ops-api.doorward.localhost:8443"));
    assert_eq!(of_alice["access"], json!("allowed"));
    assert_eq!(action(&of_alice, "status")["access"], json!("allowed"));
    assert_eq!(action(&of_alice, "admin")["access"], json!("denied"));
    // Staging is hers, production is to be asked for.
    let deploy = json!({ "name": "deploy", "access": "allowed", "entitlement": "ops-api/deploy-prod" });
    assert_eq!(action(&of_alice, "deploy"), deploy);
    assert_eq!(of_alice["entitlements"], json!(["ops-api/deploy-prod"]));
    let of_dave = access("dave").await;
    assert_eq!((&of_dave["access"], &of_dave["entitlements"]), (&json!("denied"), &json!([])));

    let (alice, _, _) = house.command_line("alice").await;
    let entitlements = house.get(&alice, "/api/v1/entitlements").await;
    let items = entitlements.body["items"].as_array().unwrap();
    let prod = items.iter().find(|item| item["name"] == "ops-api/deploy-prod").unwrap();
    assert_eq!((&prod["max"], &prod["default"], &prod["min"]), (&json!("1h"), &json!("30m"), &json!("2s")));
    assert_eq!((&prod["ticket"], &prod["may_request"]), (&json!("^[A-Z]+-[0-9]+$"), &json!(true)));
}

#[tokio::test]
async fn why_finds_every_refusal_for_its_owner_and_for_auditors() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, answer, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let path = format!("/api/v1/sessions/{}/revoke", answer["session"]["id"].as_str().unwrap());
        let refused = house.json(&bob, &path, &json!({ "reason": "curious" })).await;
        let decision = refused.text("/decision").to_owned();
        assert_eq!(decision, refused.header("doorward-decision"));
        DecisionId::parse(&decision).unwrap();

        let why = format!("/api/v1/decisions/{decision}");
        let told = house.get(&bob, &why).await;
        assert_eq!(told.status, 200, "{told:?}");
        assert_eq!((told.text("/outcome"), told.text("/reason")), ("deny", "not_found"));
        assert_eq!(told.body["request"], json!({ "method": "POST", "host": "doorward.localhost", "path": path }));
        assert!(told.text("/policy_version").starts_with("sha256:"));
        assert_eq!(house.get(&alice, &why).await.status, 404);
        let reads = async || {
            let kind = Some(doorward::audit::EventType::AuditRead);
            let filter = doorward::store::EventFilter { kind, ..Default::default() };
            house.desk.store.event_list(&filter, 10).await.unwrap().len()
        };
        assert_eq!(reads().await, 0, "reading one's own is no audit read");
        let by_auditor = house.get(&carol, &why).await;
        assert_eq!(by_auditor.text("/principal/id"), "dev|bob");
        assert_eq!(reads().await, 1);

        // What the certificate of the connection says is enough to read what was refused before anybody was asked.
        let mut refusals = vec![
            house.get(&bob, "/api/v1/nowhere").await,
            house.send(&bob, "DELETE", "/api/v1/whoami", None, Body::empty()).await,
        ];
        let exchange = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", "x"),
            ("subject_token_type", "urn:doorward:params:oauth:token-type:session-certificate"),
            ("audience", "ops-api"),
        ];
        refusals.push(house.form(&bob, "/oauth2/token", &exchange).await);
        for refused in refusals {
            assert!(refused.status.is_client_error(), "{refused:?}");
            let why = format!("/api/v1/decisions/{}", refused.header("doorward-decision"));
            let told = house.get(&bob, &why).await;
            assert_eq!((told.status.as_u16(), told.text("/principal/id")), (200, "dev|bob"), "{refused:?}");
            assert_eq!(house.get(&alice, &why).await.status, 404);
        }
        let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "x", "for": "1d" });
        for (path, body, action, resource) in [
            ("/api/v1/requests", asked, "request", "Entitlement::\"ops-api/deploy-prod\""),
            ("/api/v1/locks", json!({ "principal": "dev|alice", "reason": "x" }), "lock", "Installation::\"doorward\""),
        ] {
            let refused = house.json(&bob, path, &body).await;
            assert!(refused.status.is_client_error(), "{refused:?}");
            let told = house.get(&bob, &format!("/api/v1/decisions/{}", refused.header("doorward-decision"))).await;
            assert_eq!((told.text("/action"), told.text("/resource")), (action, resource), "{told:?}");
        }

        let anonymous = house.get(&Caller::default(), "/api/v1/whoami").await;
        assert_eq!(anonymous.text("/reason"), "no_credential");
        assert!(anonymous.header("www-authenticate").starts_with("Bearer realm=\"doorward\", resource_metadata="));
        let why = format!("/api/v1/decisions/{}", anonymous.header("doorward-decision"));
        assert_eq!(house.get(&carol, &why).await.text("/reason"), "no_credential");
        assert_eq!(house.get(&bob, &why).await.status, 404);
    }
}

#[tokio::test]
async fn a68_credentials_that_disagree_are_refused() {
    let house = House::new(&databases()[0]).await;
    let (alice, alice_answer, _) = house.command_line("alice").await;
    let (bob, bob_answer, _) = house.command_line("bob").await;
    let (browser, _) = house.browser("alice").await;
    let token = |answer: &Value| answer["access_token"].as_str().map(str::to_owned);
    let agree = Caller { certificate: alice.certificate.clone(), bearer: token(&alice_answer), ..Caller::default() };
    assert_eq!(house.get(&agree, "/api/v1/whoami").await.status, 200);
    let rubbish = |text: &str| Caller { bearer: Some(text.to_owned()), ..alice.clone() };
    let cases = [
        Caller { cookie: browser.cookie.clone(), ..bob.clone() },
        // The same person, but another session.
        Caller { cookie: browser.cookie.clone(), ..alice.clone() },
        Caller { bearer: token(&bob_answer), ..alice.clone() },
        Caller { cookie: browser.cookie.clone(), bearer: token(&alice_answer), ..Caller::default() },
        rubbish("rubbish"),
        rubbish(""),
        Caller { headers: vec![("authorization", "Basic eDp5".to_owned())], ..alice.clone() },
        Caller { headers: vec![("doorward-token", token(&alice_answer).unwrap())], ..agree.clone() },
        Caller { cookie: Some("__Host-doorward=rubbish".to_owned()), ..alice.clone() },
        // A42: a second cookie of the name could be anybody's.
        Caller { cookie: browser.cookie.as_ref().map(|cookie| format!("{cookie}; {cookie}")), ..Caller::default() },
    ];
    for (number, caller) in cases.iter().enumerate() {
        let refused = house.get(caller, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "bad_credential"), "case {number}");
    }
}

#[tokio::test]
async fn a69_a_page_of_another_site_changes_nothing_with_ambient_credentials() {
    let house = House::new(&databases()[0]).await;
    let (cli, answer, _) = house.command_line("alice").await;
    let (browser, stored) = house.browser("alice").await;
    let id = stored.session.id;
    let path = format!("/api/v1/sessions/{id}/revoke");
    let reason = json!({ "reason": "a test" });
    let from = |caller: &Caller, headers: &[(&'static str, &str)]| Caller {
        headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        ..caller.clone()
    };
    let refused = [
        from(&browser, &[]),
        from(&browser, &[("origin", "https://evil.example")]),
        from(&browser, &[("origin", "null")]),
        from(&browser, &[("origin", "https://ops-api.doorward.localhost:8443")]),
        from(&browser, &[("origin", ORIGIN), ("origin", ORIGIN)]),
        from(&browser, &[("sec-fetch-site", "cross-site")]),
        from(&cli, &[("origin", "https://evil.example")]),
        from(&cli, &[("sec-fetch-site", "cross-site")]),
        from(&cli, &[("sec-fetch-site", "same-site")]),
    ];
    for (number, caller) in refused.iter().enumerate() {
        let answer = house.json(caller, &path, &reason).await;
        assert_eq!((answer.status.as_u16(), answer.text("/reason")), (403, "forbidden_by_policy"), "case {number}");
    }
    // A form post of a page can't be JSON, and JSON under another name is not taken.
    let ours = from(&browser, &[("origin", ORIGIN)]);
    let disguised = house.send(&ours, "POST", &path, Some("text/plain"), Body::from(reason.to_string())).await;
    assert_eq!(disguised.status, 415);
    assert_eq!(house.json(&ours, &path, &reason).await.status, 200);
    let path = format!("/api/v1/sessions/{}/revoke", answer["session"]["id"].as_str().unwrap());
    assert_eq!(house.json(&cli, &path, &reason).await.status, 200, "curl says no origin");
}

#[tokio::test]
async fn a55_a_body_with_unknown_fields_or_out_of_bounds_is_refused() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    let path = format!("/api/v1/sessions/{}/revoke", answer["session"]["id"].as_str().unwrap());
    let deep = format!("{}{}", "[".repeat(100_000 / 2), "]".repeat(100_000 / 2));
    let nested = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let long = json!({ "reason": "x".repeat(1001) }).to_string();
    let cases = [
        (json!({ "reason": "x", "admin": true }).to_string(), 400),
        (json!({ "Reason": "x" }).to_string(), 400),
        (json!({ "reason": "  " }).to_string(), 400),
        ("{\"reason\":\"a\",\"reason\":\"b\"}".to_owned(), 400),
        (long, 400),
        ("{".to_owned(), 400),
        (nested, 400),
        (deep, 413),
    ];
    for (body, expected) in cases {
        let answer = house.send(&alice, "POST", &path, Some("application/json"), Body::from(body)).await;
        assert_eq!(answer.status.as_u16(), expected, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(house.get(&alice, "/api/v1/whoami").await.status, 200, "nothing of it ended the session");
}

#[tokio::test]
async fn what_is_not_there_is_told_as_a_problem_with_a_decision() {
    let house = House::new(&databases()[0]).await;
    let nobody = Caller::default();
    for (method, path, expected) in [
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/whoami/", 404),
        ("POST", "/api/v1/whoami", 405),
        ("GET", "/oauth2/token", 405),
        ("GET", "/api/v1/sessions/x/revoke", 405),
    ] {
        let answer = house.send(&nobody, method, path, None, Body::empty()).await;
        assert_eq!((answer.status.as_u16(), answer.text("/reason")), (expected, "no_route"), "{method} {path}");
        assert_eq!(answer.body["status"], json!(expected));
    }
}

#[tokio::test]
async fn an_expired_certificate_is_no_credential_whatever_else_is_shown() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (browser, _) = house.browser("alice").await;
    house.clock.advance(Ttl::hours(1));
    for caller in [alice.clone(), Caller { cookie: browser.cookie, ..alice }] {
        assert_eq!(house.get(&caller, "/api/v1/whoami").await.text("/reason"), "bad_credential");
    }
}

#[tokio::test]
async fn without_its_database_the_control_host_says_so_soon() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    house.desk.store.close().await;
    let asked = async {
        let refused = house.get(&alice, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (503, "unavailable"));
        assert_eq!(refused.header("retry-after"), "2");
        let token = answer["refresh_token"].as_str().unwrap();
        let refused = house.refresh(&alice, token, &[]).await;
        assert_eq!((refused.status.as_u16(), refused.text("/error")), (503, "temporarily_unavailable"));
        assert_eq!(house.get(&Caller::default(), "/oauth2/jwks").await.status, 200);
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
}

#[tokio::test]
async fn a68_an_emergency_certificate_never_goes_together_with_a_session() {
    let house = House::new(&databases()[0]).await;
    let (mut browser, _) = house.browser("alice").await;
    assert_eq!(house.get(&browser, "/api/v1/whoami").await.status, 200);
    for issuer in [Issuer::Spiffe, Issuer::BreakGlass] {
        browser.certificate = Some(ClientCertificate { issuer, ..device("other", house.now()) });
        let refused = house.get(&browser, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "bad_credential"), "{issuer:?}");
    }
}

#[tokio::test]
async fn whether_policies_have_arrived_is_told_node_by_node() {
    let url = &databases()[0];
    let house = House::new(url).await;
    let second = House::node(url, house.clock.clone(), 2, 77, |_| {}).await;
    let load = async |node: &House, kind, version: Option<&str>| {
        node.clock.advance(Ttl::seconds(1));
        let mut event = Event::new(EventId::fresh(node.now(), &*node.desk.entropy), node.now(), kind, Outcome::Success);
        event.policy_version = version.map(Into::into);
        node.desk.recorder.submit(event).await.unwrap();
    };
    let here = house.desk.policies.load().version().to_string();
    let (carol, ..) = house.command_line("carol").await;
    let told = async || {
        let answer = house.get(&carol, "/api/v1/policies/convergence").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["items"].as_array().unwrap().clone()
    };
    load(&house, EventType::PolicyLoaded, Some("v0")).await;
    load(&house, EventType::PolicyLoaded, Some(&here)).await;
    load(&second, EventType::PolicyLoaded, Some("v0")).await;
    let items = told().await;
    assert_eq!(items.len(), 2);
    let of = |items: &[Value], member: &str| items.iter().map(|item| item[member].clone()).collect::<Vec<_>>();
    assert_eq!(of(&items, "policy_version"), [json!(here), json!("v0")]);
    assert_eq!(of(&items, "agrees"), [json!(true), json!(false)]);
    // The second node does not get on: its files are refused.
    load(&second, EventType::PolicyRefused, None).await;
    let items = told().await;
    assert!(items[0]["refused_at"].is_null() && items[1]["refused_at"].is_string(), "{items:?}");
    load(&second, EventType::PolicyLoaded, Some(&here)).await;
    let items = told().await;
    assert_eq!(of(&items, "agrees"), [json!(true), json!(true)]);
    assert!(items[1]["refused_at"].is_null(), "{items:?}");
}
