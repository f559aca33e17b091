//! A person's browser: pages, the way to sign in and back, cookies; a42, a68.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use doorward::gateway::limit::PREFLIGHTS_BURST;
use doorward::model::Ttl;
use http::{Method, StatusCode};
use url::Url;

use super::fixture::{Door, Got, POLICY, Plan, Speaks, full, host, with_door};

const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml");

/// A browser with a jar for each host.
struct Browser<'a> {
    door: &'a Door,
    jars: BTreeMap<String, BTreeMap<String, String>>,
}

impl Browser<'_> {
    async fn visit(&mut self, url: &Url) -> Got {
        let name = url.host_str().unwrap().to_owned();
        let jar = self.jars.entry(name.clone()).or_default();
        let cookies: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut headers = vec![PAGE];
        let cookies = cookies.join("; ");
        if !cookies.is_empty() {
            headers.push(("cookie", cookies.as_str()));
        }
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let got = if url.scheme() == "https" {
            let service = name.strip_suffix("doorward.localhost").unwrap().trim_end_matches('.');
            self.door.client(service, None, Speaks::Http1).await.ask(Method::GET, path, &headers, b"").await
        } else {
            let address = format!("{name}:{}", url.port().unwrap());
            let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let io = hyper_util::rt::TokioIo::new(stream);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::get(path).header("host", address).body(full("")).unwrap();
            super::fixture::read(sender.send_request(request).await.unwrap()).await
        };
        let jar = self.jars.entry(name).or_default();
        for set in got.headers.get_all("set-cookie") {
            let text = set.to_str().unwrap();
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            if name.starts_with("__Host-") {
                assert!(text.contains("Secure") && text.contains("HttpOnly") && text.contains("Path=/"), "{text}");
                assert!(!text.to_lowercase().contains("domain="), "{text}");
            }
            if text.contains("Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        got
    }

    /// Goes on until there is no redirect; all places on the way.
    async fn follow(&mut self, from: Url, person: &str) -> (Vec<Url>, Got) {
        let mut places = vec![from];
        for _ in 0..20 {
            let mut url = places.last().unwrap().clone();
            if url.path() == "/authorize" && url.scheme() == "http" {
                url.query_pairs_mut().append_pair("login_hint", person);
            }
            let got = self.visit(&url).await;
            if !got.status.is_redirection() {
                return (places, got);
            }
            places.push(url.join(got.header("location").unwrap()).unwrap());
        }
        panic!("{places:?}");
    }
}

#[test]
fn a_browser_is_sent_to_sign_in_and_comes_back_with_a_cookie_of_this_host_alone() {
    let services = vec![("wiki", "{raw}".to_owned(), "client_certificate = \"optional\"")];
    with_door(Plan { services, ..Plan::default() }, async |door| {
        let mut browser = Browser { door, jars: BTreeMap::new() };
        let port = door.address.port();
        let start = Url::parse(&format!("https://{}:{port}/page?a=b", host("web"))).unwrap();
        let (places, got) = browser.follow(start.clone(), "alice").await;
        assert_eq!(got.status, 200, "{places:?} {}", got.text());
        assert_eq!(got.text(), "GET /page?a=b HTTP/1.1");
        assert_eq!(places.last(), Some(&start));
        assert!(places.iter().any(|url| url.path() == "/signin/service"));
        let callback = places.iter().find(|url| url.path() == "/.doorward/callback").unwrap().clone();
        assert!(!door.raw.last().head.contains("__Host-"), "{}", door.raw.last().head);
        assert_eq!(door.raw.count(), 1);
        let cookie = browser.jars[&host("web")]["__Host-doorward"].clone();
        let with = async |service: &str, person: Option<&super::fixture::Person>, headers: &[(&str, &str)]| {
            let mut client = door.client(service, person, Speaks::Http2).await;
            client.ask(Method::GET, "/x", headers, b"").await
        };
        let own = format!("__Host-doorward={cookie}");
        assert_eq!(with("web", None, &[("cookie", &own)]).await.status, 200);
        // a42: two of them, in one field or two; another host's; another case is no cookie of ours.
        let twice = format!("{own}; {own}");
        for headers in [vec![("cookie", twice.as_str())], vec![("cookie", own.as_str()), ("cookie", own.as_str())]] {
            assert_eq!(with("web", None, &headers).await.status, 401);
        }
        assert_eq!(with("wiki", None, &[("cookie", &own)]).await.status, 401);
        // a code is good once, and in this browser only: whoever comes with it is a stranger.
        let mut stranger = Browser { door, jars: BTreeMap::new() };
        stranger.visit(&callback).await;
        assert!(!stranger.jars[&host("web")].contains_key("__Host-doorward"));
        browser.visit(&callback).await;
        assert_eq!(browser.jars[&host("web")]["__Host-doorward"], cookie);
        // a68: a cookie of one over the certificate of another.
        let bob = door.sign_in("bob").await;
        let got = with("web", Some(&bob), &[("cookie", &own)]).await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"));
        // a69 for cookies.
        for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "same-site")] {
            let mut client = door.client("web", None, Speaks::Http2).await;
            let got = client.ask(Method::POST, "/x", &[("cookie", &own), (name, value)], b"").await;
            assert_eq!(got.status, 403);
        }
        // The session at the control host brings the next service without a question.
        let (places, got) =
            browser.follow(Url::parse(&format!("https://{}:{port}/", host("wiki"))).unwrap(), "nobody").await;
        assert_eq!(got.status, 200, "{places:?}");
        assert_ne!(browser.jars[&host("wiki")]["__Host-doorward"], cookie);
    });
}

#[test]
fn a_browser_is_never_sent_in_a_circle() {
    with_door(Plan::default(), async |door| {
        let at = |path: &str| Url::parse(&format!("https://{}:{}{path}", host("web"), door.address.port())).unwrap();
        let mut browser = Browser { door, jars: BTreeMap::new() };
        // Two tabs that sign in at once share the cookie that binds their ways back.
        let (one, two) = (browser.visit(&at("/one")).await, browser.visit(&at("/two")).await);
        let mut callback = None;
        for (tab, path) in [(one, "/one"), (two, "/two")] {
            let (places, got) = browser.follow(Url::parse(tab.header("location").unwrap()).unwrap(), "alice").await;
            assert_eq!((got.status.as_u16(), got.text()), (200, format!("GET {path} HTTP/1.1")), "{places:?}");
            callback = places.into_iter().find(|url| url.path() == "/.doorward/callback");
        }
        // A way back that is used, too short, or that of a browser without cookies, ends on a page.
        let used = callback.unwrap();
        let mut stranger = Browser { door, jars: BTreeMap::new() };
        for got in [
            browser.visit(&used).await,
            browser.visit(&at("/.doorward/callback?code=short")).await,
            browser.visit(&at("/.doorward/callback")).await,
            stranger.visit(&used).await,
        ] {
            assert_eq!((got.status.as_u16(), got.header("location")), (401, None), "{got:?}");
            assert!(got.header("www-authenticate").is_some());
            assert!(got.text().contains("href=\"/\"") && got.text().contains("bad_credential"), "{}", got.text());
        }
        // What stays there whoever signs in: a token, another `Authorization`, two cookies, a certificate.
        let alice = door.sign_in("alice").await;
        let cookie = format!("__Host-doorward={}", "A".repeat(43));
        let twice = format!("{cookie}; {cookie}");
        for (person, headers) in [
            (None, vec![("authorization", "Basic eDp5")]),
            (None, vec![("authorization", "Bearer nonsense")]),
            (None, vec![("doorward-token", "nonsense")]),
            (None, vec![("cookie", twice.as_str())]),
            (Some(&alice), vec![("cookie", cookie.as_str())]),
        ] {
            let headers = [&[PAGE][..], &headers].concat();
            let got = door.client("web", person, Speaks::Http2).await.ask(Method::GET, "/x", &headers, b"").await;
            assert_eq!((got.status.as_u16(), got.header("location")), (401, None), "{headers:?}");
            assert!(got.header("www-authenticate").is_some(), "{got:?}");
        }
        // A cookie of nobody is replaced.
        let headers = [PAGE, ("cookie", cookie.as_str())];
        let got = door.client("web", None, Speaks::Http2).await.ask(Method::GET, "/x", &headers, b"").await;
        assert_eq!(got.status, 303);
    });
}

#[test]
fn a_link_with_a_long_query_is_arrived_at_after_signing_in_and_one_beyond_all_at_the_front_page() {
    with_door(Plan::default(), async |door| {
        let at = |path: &str| Url::parse(&format!("https://{}:{}{path}", host("web"), door.address.port())).unwrap();
        let long = format!("/page?path=C:\\temp&q={}", "%7B%22".repeat(330));
        let beyond = format!("/page?q={}", "%7B%22".repeat(2500));
        for (path, arrived) in [(long.as_str(), long.as_str()), (&beyond, "/")] {
            let mut browser = Browser { door, jars: BTreeMap::new() };
            let (places, got) = browser.follow(at(path), "alice").await;
            assert_eq!((got.status.as_u16(), got.text()), (200, format!("GET {arrived} HTTP/1.1")), "{places:?}");
        }
    });
}

#[test]
fn codes_that_are_made_up_are_counted_before_they_are_looked_for() {
    let environment = vec![
        ("DOORWARD__SERVER__LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS", "1".to_owned()),
        ("DOORWARD__SERVER__LIMITS__BURST_PER_ADDRESS", "60".to_owned()),
    ];
    with_door(Plan { environment, ..Plan::default() }, async |door| {
        let at = |path: &str| Url::parse(&format!("https://{}:{}{path}", host("web"), door.address.port())).unwrap();
        let mut browser = Browser { door, jars: BTreeMap::new() };
        let mut next = at("/page");
        while next.path() != "/.doorward/callback" {
            if next.path() == "/authorize" {
                next.query_pairs_mut().append_pair("login_hint", "alice");
            }
            let got = browser.visit(&next).await;
            next = next.join(got.header("location").unwrap()).unwrap();
        }
        let made_up = format!("/.doorward/callback?code={}", "A".repeat(43));
        let flow = format!("__Host-doorward-flow={}", "B".repeat(43));
        let mut client = door.client("web", None, Speaks::Http2).await;
        let mut last = 0;
        for _ in 0..200 {
            last = client.ask(Method::GET, &made_up, &[("cookie", &flow)], b"").await.status.as_u16();
            if last == 429 {
                break;
            }
        }
        assert_eq!(last, 429);
        // One that is good waits its turn like all others, and is not used up.
        let mut got = browser.visit(&next).await;
        assert_eq!(got.status, 429, "{got:?}");
        for _ in 0..100 {
            if got.status == 303 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            got = browser.visit(&next).await;
        }
        assert_eq!(got.header("location"), Some("/page"));
    });
}

#[test]
fn preflights_take_no_part_in_what_else_is_counted_by_address_and_too_many_are_refused_quietly() {
    let environment = vec![
        ("DOORWARD__SERVER__LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS", "1".to_owned()),
        ("DOORWARD__SERVER__LIMITS__BURST_PER_ADDRESS", "40".to_owned()),
    ];
    let lines = "origins = [\"https://friend.example\"]".to_owned();
    with_door(Plan { environment, lines, ..Plan::default() }, async |door| {
        let asks = [("origin", "https://friend.example"), ("access-control-request-method", "DELETE")];
        let mut client = door.client("web", None, Speaks::Http2).await;
        for _ in 0..200 {
            assert_eq!(client.ask(Method::OPTIONS, "/x", &asks, b"").await.status, 204);
        }
        // As if others at the address sent all that they may.
        let (shared, address) = (&door.running().shared, std::net::IpAddr::from([127, 0, 0, 1]));
        let all = std::num::NonZeroU32::new(PREFLIGHTS_BURST).unwrap();
        while shared.preflights.check_key(&address).is_ok() {}
        assert!(shared.preflights.check_key_n(&address, all).unwrap().is_err(), "no such many at once");
        let stop = Arc::new(AtomicBool::new(false));
        let others = std::thread::spawn({
            let (stop, shared) = (Arc::clone(&stop), Arc::clone(shared));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = shared.preflights.check_key(&address);
                }
            }
        });
        let mut refused = None;
        for _ in 0..200 {
            let got = client.ask(Method::OPTIONS, "/x", &asks, b"").await;
            if got.status == 429 {
                refused = Some(got);
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        others.join().unwrap();
        let refused = refused.expect("one too many");
        assert_eq!(refused.reason(), "rate_limited");
        assert!(refused.header("retry-after").is_some());
        // Whoever signs in there is not touched by any of it, nor is anybody refused for another reason.
        let start = Url::parse(&format!("https://{}:{}/page", host("web"), door.address.port())).unwrap();
        let (places, got) = Browser { door, jars: BTreeMap::new() }.follow(start, "alice").await;
        assert_eq!(got.status, 200, "{places:?}");
        let nobody = client.get("/x").await;
        assert_eq!(nobody.status, 401);
        door.recorded(nobody.decision()).await;
        assert!(door.running().desk.store.decision_fetch(&refused.decision()).await.unwrap().is_none());
    });
}

#[test]
fn a_person_gets_a_page_that_says_why() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for speaks in super::fixture::BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            let got = client.ask(Method::GET, "/admin/x", &[PAGE], b"").await;
            assert_eq!(got.status, StatusCode::FORBIDDEN);
            assert!(got.header("content-type").unwrap().starts_with("text/html"));
            assert!(got.text().contains(&got.decision().to_string()), "{}", got.text());
            assert_eq!(got.header("strict-transport-security"), Some("max-age=31536000"));
            let got = client.ask(Method::POST, "/admin/x", &[PAGE], b"").await;
            assert_eq!(got.reason(), "no_policy_match");
            // A form that they sent is answered by a page, too.
            let shown =
                [PAGE, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", "none")];
            let got = client.ask(Method::POST, "/admin/x", &shown, b"").await;
            assert_eq!(got.status, StatusCode::FORBIDDEN);
            assert!(got.header("content-type").unwrap().starts_with("text/html"), "{got:?}");
        }
    });
}

#[test]
fn a_form_that_nobody_is_signed_in_for_is_told_so_and_sent_nowhere() {
    with_door(Plan::default(), async |door| {
        let shown = [PAGE, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", "none")];
        let got = door.client("web", None, Speaks::Http2).await.ask(Method::POST, "/x", &shown, b"").await;
        assert_eq!((got.status.as_u16(), got.header("location")), (401, None), "{got:?}");
        assert!(got.header("www-authenticate").is_some());
        let link = format!("href=\"{}/signin/service?host=", door.origin);
        assert!(got.text().contains(&link) && !got.text().contains("doorward login"), "{}", got.text());
    });
}

#[test]
fn a_browser_whose_sign_in_is_too_old_signs_in_again_and_comes_back() {
    // A moved clock leaves the feed of revocations behind for a moment: not what is tried here.
    let lines = "on_stale = \"continue\"".to_owned();
    with_door(Plan { lines, ..Plan::default() }, async |door| {
        let barred = format!(
            "{POLICY}\n@id(\"not-old\")\nforbid (principal, action == Action::\"open\", resource)\n\
             when {{ context has session && context.session.auth_age_seconds >= 40 }};\n"
        );
        door.write("web/access.cedar", &barred);
        door.running().reload().unwrap();
        let at = |path: &str| Url::parse(&format!("https://{}:{}{path}", host("web"), door.address.port())).unwrap();
        let mut browser = Browser { door, jars: BTreeMap::new() };
        let (places, got) = browser.follow(at("/page?a=b"), "alice").await;
        assert_eq!(got.status, 200, "{places:?} {}", got.text());
        door.clock.advance(Ttl::seconds(50));
        let got = browser.visit(&at("/page?a=b")).await;
        assert_eq!((got.status.as_u16(), got.header("location")), (403, None), "{got:?}");
        // The command line has another session: signing in there would not help here.
        assert!(!got.text().contains("doorward login"), "{}", got.text());
        let link = got.text().split("href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&#38;", "&");
        assert!(link.starts_with(&format!("{}/signin?max_age=0&return_to=", door.origin)), "{link}");
        let (places, got) = browser.follow(Url::parse(&link).unwrap(), "alice").await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "GET /page?a=b HTTP/1.1".to_owned()), "{places:?}");
        assert_eq!(places.last(), Some(&at("/page?a=b")));
    });
}
