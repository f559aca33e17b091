//! Mail to the people whom a request waits for, and to those whom an emergency passed over: on both
//! engines, over a mail server that refuses some mailboxes.

use std::sync::Arc;

use doorward::control::access;
use doorward::control::session::{self, NewSession};
use doorward::model::{Clock, RequestId, SessionKind, Ttl};
use doorward::notify::delivery::{PAUSES, Round};
use doorward::notify::{Channels, Counted, EventPattern, NotifySettings, SmtpSettings, SmtpTls};
use doorward::store::{NoticeState, Recorded, StoreError};
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;

use crate::access_world::{Node, Rules, asked, email, groups, principal};
use crate::api_house::facts;
use crate::mail_sink::MailSink;
use crate::support::{SeededEntropy, TestClock, databases, sqlite_database};

const ORIGIN: &str = "https://control.example.com";

struct Post {
    node: Node,
    round: Round,
    sink: MailSink,
    clock: TestClock,
}

impl Post {
    async fn open(url: &str, to: &[&str]) -> Self {
        let clock = TestClock::new();
        let node = Node::start(url, &clock, 1, 71).await;
        node.desk().policies.store(Rules::default().set());
        let sink = MailSink::default();
        let smtp = SmtpSettings {
            host: "localhost".into(),
            port: sink.start().await,
            tls: SmtpTls::None,
            from: "doorward@example.com".into(),
            login: None,
            to: to.iter().map(ToString::to_string).collect(),
            to_approvers: true,
            events: vec![EventPattern::All],
            authorities: Vec::new(),
            allow_loopback: true,
        };
        let settings = NotifySettings { webhooks: Vec::new(), smtp: Some(smtp) };
        let shared = Arc::clone(&node.desk().clock);
        let channels = Channels::new(&settings, ORIGIN, &shared, Counted::new(&mut Registry::default())).unwrap();
        let desk = Arc::clone(node.desk());
        let audience = move |event: Recorded| -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
            let desk = Arc::clone(&desk);
            Box::pin(async move { access::audience(&desk, &event, desk.clock.now()).await })
        };
        let round = Round {
            store: node.desk().store.clone(),
            channels: Arc::new(channels),
            clock: shared,
            entropy: Arc::new(SeededEntropy::new(9)),
            audience: Arc::new(audience),
        };
        for channel in round.channels.iter() {
            round.store.notice_channel_open(channel.name(), clock.now()).await.unwrap();
        }
        Self { node, round, sink, clock }
    }

    /// Numbers what was committed, and one round of each channel.
    async fn go(&self) {
        for log in self.round.store.log_list().await.unwrap() {
            self.round.store.number_pending(log.log, self.clock.now()).await.unwrap();
        }
        for channel in self.round.channels.iter() {
            self.round.run(channel).await.unwrap();
        }
    }

    /// People sign in; nobody stays.
    async fn meet(&self, names: &[&str]) {
        for name in names {
            let id = self.node.sign_in(name, groups(name)).await.unwrap();
            self.node.sign_out(id).await;
        }
    }

    async fn ask(&self, who: &str, what: &str, emergency: bool) -> RequestId {
        let id = self.node.sign_in(who, groups(who)).await.unwrap();
        let caller = self.node.caller(id).await.unwrap();
        let mut asked = asked(what, Ttl::minutes(5));
        asked.emergency = emergency;
        self.node.ask(&caller, &asked).await.unwrap().0.id
    }

    /// How many mails of a request somebody got.
    fn mails(&self, name: &str, id: RequestId) -> usize {
        self.sink.of(&email(name)).iter().filter(|mail| mail.text.contains(&id.to_string())).count()
    }
}

#[tokio::test]
async fn who_may_approve_gets_a_mail_with_link_and_command_and_nobody_else_does() {
    for url in databases() {
        let post = Post::open(&url, &["security@example.com"]).await;
        post.meet(&["lead0", "lead1", "lead2", "dev1", "stranger"]).await;
        post.node.desk().directory.lock(&principal("lead2"));
        let id = post.ask("dev0", "one", false).await;
        post.go().await;
        post.go().await;
        for (name, expected) in [("lead0", 1), ("lead1", 1), ("lead2", 0), ("dev0", 0), ("dev1", 0), ("stranger", 0)] {
            assert_eq!(post.mails(name, id), expected, "{name}");
        }
        let mail = &post.sink.of(&email("lead0"))[0];
        assert_eq!(mail.to, [email("lead0")], "one mail each: nobody reads who else may approve");
        for wanted in [
            "dev0@example.com asks for svc/one for 5m",
            &format!("{ORIGIN}/requests/{id}"),
            &format!("doorward approve {id}"),
            &format!("doorward deny {id} --reason"),
        ] {
            assert!(mail.text.contains(wanted), "{wanted}: {}", mail.text);
        }
        // The fixed address hears of it too, without a command that it may not use.
        let security = post.sink.of("security@example.com");
        assert!(security.iter().any(|mail| mail.text.contains("asks for svc/one")));
        assert!(!security.iter().any(|mail| mail.text.contains("doorward approve")));
    }
}

#[tokio::test]
async fn an_emergency_tells_everyone_whom_it_passed_over_although_it_waits_for_nobody() {
    for url in databases() {
        let post = Post::open(&url, &["security@example.com"]).await;
        post.meet(&["lead0", "lead1"]).await;
        let id = post.ask("dev0", "one", true).await;
        assert_eq!(post.node.held("dev0").len(), 1, "it is active at once");
        post.go().await;
        for name in ["lead0", "lead1"] {
            let mails = post.sink.of(&email(name));
            assert_eq!(mails.len(), 1, "{name}: {mails:?}");
            for wanted in ["EMERGENCY: dev0@example.com took svc/one", "passed over", &format!("/requests/{id}")] {
                assert!(mails[0].text.contains(wanted), "{wanted}: {}", mails[0].text);
            }
        }
        let security = post.sink.of("security@example.com");
        assert!(
            security.iter().any(|mail| mail.text.contains("EMERGENCY: dev0@example.com took svc/one")),
            "{security:?}"
        );
        let events = post.node.desk().store.grant_list_emergency(None, 10).await.unwrap();
        assert_eq!(events.len(), 1, "and it waits for its review");
    }
}

#[tokio::test]
async fn a_mailbox_that_refuses_keeps_no_other_approver_from_hearing_and_nobody_hears_twice() {
    for url in databases() {
        let post = Post::open(&url, &[]).await;
        post.meet(&["lead0", "lead1", "lead3"]).await;
        post.sink.refused.lock().unwrap().push(email("lead0"));
        let id = post.ask("dev0", "one", false).await;
        post.go().await;
        assert_eq!([post.mails("lead0", id), post.mails("lead1", id), post.mails("lead3", id)], [0, 1, 1]);
        let store = &post.node.desk().store;
        let waiting = store.notice_list(Some(NoticeState::Waiting), None, 10).await.unwrap();
        let error = waiting[0].error.clone().unwrap();
        assert!(error.contains("1 of 3 who may approve could not be mailed") && error.contains("550"), "{error}");
        assert!(!error.contains("lead0"), "whose mailbox it is stands nowhere: {error}");
        post.sink.refused.lock().unwrap().clear();
        post.clock.advance(PAUSES[0]);
        post.clock.advance(PAUSES[0]);
        post.go().await;
        assert_eq!([post.mails("lead0", id), post.mails("lead1", id), post.mails("lead3", id)], [1, 1, 1]);
        assert_eq!(store.notice_count("mail_approvers", NoticeState::Delivered).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn what_was_answered_meanwhile_is_told_to_nobody_and_what_policy_grants_to_no_approver() {
    let post = Post::open(&sqlite_database(), &[]).await;
    post.meet(&["lead0"]).await;
    let lead = post.node.sign_in("lead1", groups("lead1")).await.unwrap();
    let lead = post.node.caller(lead).await.unwrap();
    let id = post.ask("dev0", "one", false).await;
    post.node.approve(&lead, id).await.unwrap();
    post.ask("dev0", "auto", false).await;
    post.go().await;
    assert_eq!(post.sink.got.lock().unwrap().len(), 0);
    assert_eq!(post.node.desk().store.notice_count("mail_approvers", NoticeState::Delivered).await.unwrap(), 2);
}

#[tokio::test]
async fn somebody_whom_their_provider_does_not_know_any_more_is_forgotten() {
    for url in databases() {
        let post = Post::open(&url, &[]).await;
        post.meet(&["lead0", "lead1"]).await;
        let store = &post.node.desk().store;
        let known = async || -> Vec<String> {
            let people = store.person_list(None, 10).await.unwrap();
            people.into_iter().map(|known| known.person.principal.to_string()).collect()
        };
        assert_eq!(known().await, [principal("lead0").to_string(), principal("lead1").to_string()]);
        let mut tx = store.begin().await.unwrap();
        tx.person_forget(&principal("lead0")).await.unwrap();
        tx.commit().await.unwrap();
        let id = post.ask("dev0", "one", false).await;
        post.go().await;
        assert_eq!([post.mails("lead0", id), post.mails("lead1", id)], [0, 1]);
        // Nobody is kept for longer than a quarter of a year.
        post.clock.advance(Ttl::hours(91 * 24));
        doorward::control::session::sweep(post.node.desk(), post.node.now()).await.unwrap();
        assert_eq!(known().await.len(), 0);
    }
}

#[tokio::test]
async fn notices_that_ended_long_ago_are_forgotten_some_at_a_time() {
    for url in databases() {
        let post = Post::open(&url, &["security@example.com"]).await;
        post.meet(&["lead0"]).await;
        post.ask("dev0", "one", false).await;
        post.go().await;
        let store = &post.node.desk().store;
        let kept = async || store.notice_list(None, None, 200).await.unwrap().len();
        let before = kept().await;
        assert!(before >= 2);
        let prune = async |before| {
            let mut tx = store.begin().await.unwrap();
            let gone = tx.notice_prune(before).await.unwrap();
            tx.commit().await.unwrap();
            gone
        };
        assert_eq!(prune(post.clock.now().minus(Ttl::hours(1))).await, 0);
        post.clock.advance(Ttl::hours(2));
        assert!(prune(post.clock.now().minus(Ttl::hours(1))).await >= 3, "notices, and who was told of them");
        assert_eq!(kept().await, 0);
    }
}

#[tokio::test]
async fn an_address_that_two_accounts_spell_differently_gets_one_mail() {
    let post = Post::open(&sqlite_database(), &["security@example.com"]).await;
    // In the order of their bytes `lead0` comes between the two.
    post.meet(&["lead0"]).await;
    let spelt = ["Zoe@example.com", "zoe@example.com"];
    for (account, email) in ["zoe1", "zoe2"].into_iter().zip(spelt) {
        let now = post.clock.now();
        let new = NewSession {
            email: Some(email.to_owned()),
            email_verified: true,
            groups: groups("lead0"),
            ..crate::support::new_session(SessionKind::Cli, principal(account), now)
        };
        session::start(post.node.desk(), new, None, &facts(None), now).await.unwrap();
    }
    let id = post.ask("dev0", "one", false).await;
    post.go().await;
    let mails = spelt.iter().flat_map(|address| post.sink.of(address));
    assert_eq!(mails.filter(|mail| mail.text.contains(&id.to_string())).count(), 1);
}
