//! The page that asks whether a program on this computer is the person's own (RFC 8252 §8.6).

use doorward::audit::EventType;
use doorward::model::Ttl;
use doorward::store::EventFilter;
use doorward::wire::oauth::program_letters;

use crate::api_house::{Caller, House, ORIGIN, REDIRECT, authorize_path, challenge, query_of};
use crate::support::databases;

#[tokio::test]
async fn a_browser_that_is_signed_in_gives_no_program_a_code_by_itself() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, _) = house.browser("alice").await;
        let asked = house.get(&browser, &authorize_path(&[])).await;
        assert_eq!(asked.status, 303);
        let page_path = asked.header("location").to_owned();
        assert!(page_path.starts_with("/signin/program?"), "{page_path}");
        assert_eq!(query_of(&page_path, "code"), None);
        assert_eq!(query_of(&page_path, "state").as_deref(), Some("a state & more"));

        let page = house.get(&browser, &page_path).await;
        assert_eq!(page.status, 200, "{page:?}");
        let text = page.body.as_str().unwrap();
        for shown in [program_letters(&challenge()).as_str(), "127.0.0.1:49152", "192.0.2.7", "alice", "dev|alice"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert!(!text.contains("code="), "the page itself has no code");
        // A browser holds this against the redirect that follows the form.
        let policy = page.header("content-security-policy");
        assert!(policy.contains("form-action 'self' http://127.0.0.1:49152;"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && page.header("x-frame-options") == "DENY");
        assert!(!house.get(&browser, "/signed-in").await.header("content-security-policy").contains("127.0.0.1"));

        let agreed = house.agree(&browser, &[]).await;
        assert_eq!(agreed.status, 303, "{agreed:?}");
        let location = agreed.header("location");
        assert!(location.starts_with(&format!("{REDIRECT}?")), "{location}");
        assert_eq!(query_of(location, "state").as_deref(), Some("a state & more"));
        assert_eq!(query_of(location, "iss").as_deref(), Some(ORIGIN));
        let code = query_of(location, "code").unwrap();
        assert_eq!(house.exchange(&code, &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a51_only_the_page_itself_agrees_to_a_program() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    let (other, _) = house.browser("alice").await;
    let foreign = other.form_token();
    for form in ["x", foreign.as_str(), ""] {
        let refused = house.agree(&browser, &[("form", form)]).await;
        assert_eq!((refused.status.as_u16(), refused.header("location")), (403, ""), "{form}");
    }
    // From elsewhere, with the right token all the same: another site, a sibling host, no page at all.
    let path = authorize_path(&[]);
    let mut fields: Vec<(String, String)> =
        form_urlencoded::parse(path.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
    fields.push(("form".to_owned(), browser.form_token()));
    fields.push(("answer".to_owned(), "agree".to_owned()));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let elsewhere: [&[(&'static str, &str)]; 4] = [
        &[],
        &[("origin", "https://evil.example")],
        &[("origin", "http://127.0.0.1:49152")],
        &[("origin", ORIGIN), ("sec-fetch-site", "cross-site")],
    ];
    for headers in elsewhere {
        let mut sent = browser.clone();
        sent.headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let refused = house.form(&sent, "/signin/program", &fields).await;
        assert_eq!((refused.status.as_u16(), refused.header("location")), (403, ""), "{headers:?}");
    }
    // A link does nothing but ask, whatever it says.
    let asked = house.get(&browser, &format!("/signin/program?{}&answer=agree", path.split_once('?').unwrap().1)).await;
    assert_eq!((asked.status.as_u16(), asked.header("location")), (200, ""));
    // Neither a stranger nor the command line's certificate is asked.
    let stranger = house.get(&Caller::default(), "/signin/program").await;
    assert!(stranger.header("location").starts_with("/signin?return_to="), "{stranger:?}");
    let (command_line, _, _) = house.command_line("alice").await;
    assert_eq!(house.get(&command_line, &path.replace("/oauth2/authorize", "/signin/program")).await.status, 403);
    // Nothing but yes and no is an answer, and what is asked is checked again.
    assert_eq!(house.agree(&browser, &[("answer", "maybe")]).await.status, 400);
    for (name, value) in [("code_challenge_method", "plain"), ("client_id", "other"), ("code_challenge", "short")] {
        assert_eq!(house.agree(&browser, &[(name, value)]).await.status, 400, "{name}");
    }
    assert_eq!(house.agree(&browser, &[]).await.status, 303);
}

#[tokio::test]
async fn who_refuses_a_program_tells_it_so_and_it_is_on_record() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, session) = house.browser("alice").await;
        house.clock.advance(Ttl::seconds(1));
        let refused = house.agree(&browser, &[("answer", "refuse")]).await;
        let location = refused.header("location");
        assert!(location.starts_with(REDIRECT), "{refused:?}");
        assert_eq!(query_of(location, "error").as_deref(), Some("access_denied"));
        assert_eq!(query_of(location, "code"), None);
        let filter = EventFilter { kind: Some(EventType::SignInFailed), ..EventFilter::default() };
        let events = house.desk.store.event_list(&filter, 10).await.unwrap();
        let [event] = events.as_slice() else { panic!("{} events", events.len()) };
        assert_eq!(event.text("/reason"), Some("program_refused"));
        assert_eq!(event.text("/actor/session"), Some(session.session.id.to_string().as_str()));
    }
}
