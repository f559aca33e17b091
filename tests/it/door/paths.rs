//! Paths and what is judged by them: a06 to a10, against allow everything, `/admin` for others only.

use http::Method;

use super::fixture::{BOTH, Plan, Speaks, host, with_door};

/// Ways to write a path that some program reads as `/admin/secret`.
const DISGUISES: &[&str] = &[
    "/public/../admin/secret",
    "/public/%2e%2e/admin/secret",
    "/public/.%2E/admin/secret",
    "/public/..%2fadmin/secret",
    "/./admin/secret",
    "//admin/secret",
    "/public//../admin/secret",
    "/%61dmin/secret",
    "/admin%2fsecret",
    "/admin%5csecret",
    "/\\admin/secret",
    "/%5cadmin/secret",
    "/admin%252fsecret",
    "/admin;x/secret",
    "/admin;/secret",
    "/public/..;/admin/secret",
    "/admin./secret",
    "/admin%20/secret",
    "/admin%00/secret",
    "/admin%0d%0a/secret",
    "/%c0%ae%c0%ae/admin/secret",
    "/public/%ef%bc%8e%ef%bc%8e/admin/secret",
    "/%ef%bc%8fadmin/secret",
    "/admin%23/secret",
    "/admin%3f/secret",
    "/admin/secret",
    "/admin/",
    "/admin//secret",
    "/admin/./secret",
    "/admin/x/../secret",
];

/// What a careless upstream makes of a path.
fn folded(path: &str) -> String {
    let mut text = path.split(['?', '#']).next().unwrap().to_owned();
    for _ in 0..3 {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let text = text.replace('\\', "/").to_lowercase();
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part.split(';').next().unwrap().trim().trim_end_matches('.') {
            "" if part.starts_with("..") => drop(parts.pop()),
            "" => {}
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[test]
fn a06_a07_a08_no_spelling_of_a_path_gets_around_a_rule() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut http2 = door.client("app", Some(&alice), Speaks::Http2).await;
        for path in DISGUISES {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host("app"));
            let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
            let status: u16 = got.split(' ').nth(1).unwrap_or("0").parse().unwrap();
            assert!([400, 403].contains(&status), "{path}: {got}");
            assert!(got.to_lowercase().contains("doorward-decision: dec_"), "{path}: {got}");
            if path.parse::<http::uri::PathAndQuery>().is_ok() {
                let got = http2.get(path).await;
                assert!([400, 403].contains(&got.status.as_u16()), "{path} by h2: {got:?}");
            }
        }
        for seen in door.raw.seen() {
            assert!(!folded(seen.target()).starts_with("/admin"), "{} reached the upstream", seen.target());
        }
        // And who may, may.
        let carol = door.sign_in("carol").await;
        for speaks in BOTH {
            assert_eq!(door.get("app", Some(&carol), speaks, "/admin/secret").await.status, 200);
            assert_eq!(door.raw.last().target(), "/admin/secret");
            assert_eq!(door.get("app", Some(&carol), speaks, "/public").await.status, 403);
        }
    });
}

#[test]
fn a08_the_path_judged_is_the_path_sent() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for (sent, expected) in [
            ("/a%7Eb", "/a~b"),
            ("/%41", "/A"),
            ("/ADMIN/x", "/ADMIN/x"),
            ("/a/", "/a/"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("/a?b=/../admin&c=%2f", "/a?b=/../admin&c=%2f"),
        ] {
            for speaks in BOTH {
                let before = door.raw.count();
                let got = door.get("app", Some(&alice), speaks, sent).await;
                if door.raw.count() == before {
                    // A literal of a rule in other letters has no route.
                    assert!([400, 403, 404].contains(&got.status.as_u16()), "{sent}: {got:?}");
                    continue;
                }
                assert_eq!(door.raw.last().target().to_ascii_lowercase(), expected.to_ascii_lowercase(), "{sent}");
                let recorded = door.recorded(got.decision()).await;
                let path = recorded.personal(doorward::audit::PersonalField::Path).unwrap().to_owned();
                assert_eq!(door.raw.last().path(), path, "the record says another path than was sent");
            }
        }
    });
}

#[test]
fn a08_a_stricter_route_holds_for_all_that_the_upstream_takes_for_it() {
    let tables = ["DELETE /api/Users/{id}", "GET /console/", "POST /files/{name}"]
        .map(|pattern| format!("[[route]]\nmatch = \"{pattern}\"\naction = \"manage\"\n"));
    let plan = Plan { lines: "encoded_slash = true".to_owned(), tables: tables.concat(), ..Plan::default() };
    with_door(plan, async |door| {
        let (alice, carol) = (door.sign_in("alice").await, door.sign_in("carol").await);
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            let before = door.raw.count();
            for (method, path) in [
                (Method::DELETE, "/api/users/5"),
                (Method::DELETE, "/API/USERS/5"),
                (Method::DELETE, "/api%2Fusers/5"),
                (Method::GET, "/console"),
                (Method::GET, "/Console/"),
                (Method::GET, "/admin%2Fusers"),
                (Method::GET, "/admin%2fusers"),
                (Method::GET, "/ADMIN%2Fusers/5"),
                (Method::POST, "/files%2Fx"),
            ] {
                let got = client.ask(method.clone(), path, &[], b"").await;
                assert_eq!(got.status, 404, "{method} {path}: {got:?}");
                assert_eq!(door.raw.count(), before, "{method} {path} reached the upstream");
                assert!(got.header("doorward-decision").is_some(), "{method} {path}: {got:?}");
            }
            // What is near no such route goes on, as it was judged.
            for (method, path) in [
                (Method::GET, "/api/users/5"),
                (Method::GET, "/consoles"),
                (Method::GET, "/wiki%2Fadmin"),
                (Method::GET, "/Wiki/"),
            ] {
                assert_eq!(client.ask(method.clone(), path, &[], b"").await.status, 200, "{method} {path}");
                assert_eq!(door.raw.last().target(), path);
            }
            // And who may, may.
            let mut client = door.client("app", Some(&carol), speaks).await;
            for (method, path) in
                [(Method::DELETE, "/api/Users/5"), (Method::GET, "/console/"), (Method::GET, "/admin/a%2Fb")]
            {
                assert_eq!(client.ask(method.clone(), path, &[], b"").await.status, 200, "{method} {path}");
                assert_eq!(door.raw.last().target(), path);
            }
        }
    });
}

#[test]
fn a09_a10_target_forms_are_one_form_or_refused() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let own = host("app");
        for target in [
            "/x#/admin".to_owned(),
            "*".to_owned(),
            own.clone(),
            format!("{own}:443"),
            "x".to_owned(),
            "!".to_owned(),
            "https://evil.example/x".to_owned(),
            format!("https://user@{own}/x"),
            format!("ftp://{own}/x"),
            format!("https://{own}/../admin"),
            "?x".to_owned(),
            "".to_owned(),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n");
            let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 400 ") || got.starts_with("HTTP/1.1 421 "), "{target}: {got}");
            assert!(got.contains("doorward-decision: dec_"), "{target}: {got}");
        }
        assert_eq!(door.raw.count(), 0);
        let port = door.address.port();
        let request =
            format!("GET https://{own}:{port}/x?y HTTP/1.1\r\nHost: {own}:{port}\r\nConnection: close\r\n\r\n");
        let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
        assert_eq!(door.raw.last().line(), "GET /x?y HTTP/1.1");
        // Neither query nor the look of a pattern changes what is judged.
        for path in ["/admin/x?/public", "/admin/*", "/admin/x?a=/public/**"] {
            assert_eq!(door.get("app", Some(&alice), Speaks::Http1, path).await.status, 403, "{path}");
        }
        assert_eq!(door.raw.count(), 1);
    });
}
