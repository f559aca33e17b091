//! A small company for the tests of requests and grants: nodes on one database that are stopped and
//! started, people with and without rights, and policies that change while people work.

use std::path::Path;
use std::sync::{Arc, Mutex};

use doorward::control::access::{self, AccessError, Asked};
use doorward::control::caller::{Evidence, Provenance, Shown, prove};
use doorward::control::session::{self, NewSession};
use doorward::control::{Caller, ConnectionFacts, Desk};
use doorward::identity::certificate::{ClientCertificate, Issuer};
use doorward::model::{
    AccessRequest, Clock, EntitlementName, Grant, GrantId, NodeId, Principal, RequestId, SessionEnd, SessionId,
    SessionKind, Thumbprint, Timestamp, Ttl,
};
use doorward::policy::{PolicySet, load};
use doorward::server::tasks::Feed;
use prometheus_client::metrics::histogram::Histogram;

use crate::api_house::{House, facts};
use crate::policy::{settings, shown};
use crate::support::{TestClock, temporary_folder};

/// What a company's policies say beside who is who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Entitlements open one action more.
    pub wider: bool,
    /// Nobody may ask for `one` and `queue`.
    pub closed: bool,
    /// `lead1` is `lead0`, and `dev3` is `dev0`.
    pub linked: bool,
    /// `one` and `queue` last 20 minutes at most.
    pub shorter: bool,
    /// `one` and `queue` need two approvals.
    pub stricter: bool,
    /// `queue` and `refuse` have two places.
    pub roomier: bool,
    /// Leads approve nothing but `two`.
    pub few: bool,
}

impl Rules {
    /// One by number: each bit is one of the changes.
    pub fn of(number: u8) -> Self {
        let bit = |place: u8| number >> place & 1 == 1;
        Self {
            wider: bit(0),
            closed: bit(1),
            linked: bit(2),
            shorter: bit(3),
            stricter: bit(4),
            roomier: bit(5),
            few: bit(6),
        }
    }

    /// The longest grant.
    pub fn max(self, name: &str) -> Ttl {
        match name {
            "one" | "queue" if self.shorter => Ttl::minutes(20),
            "one" | "queue" | "refuse" | "rest" => Ttl::hours(1),
            "two" => Ttl::hours(2),
            "auto" | "lazy" => Ttl::minutes(30),
            other => panic!("{other}"),
        }
    }

    /// How many must approve.
    pub fn approvals(self, name: &str) -> usize {
        match name {
            "one" | "queue" if self.stricter => 2,
            "two" => 2,
            _ => 1,
        }
    }

    /// How many may hold it at once.
    pub fn capacity(self, name: &str) -> Option<usize> {
        matches!(name, "queue" | "refuse").then_some(if self.roomier { 2 } else { 1 })
    }

    /// The actions that it opens.
    pub fn opens(self, name: &str) -> &'static [&'static str] {
        if self.wider && name != "auto" { &["wipe", "write"] } else { &["write"] }
    }

    pub fn may_ask(self, groups: &[String], name: &str) -> bool {
        groups.iter().any(|group| group == "staff") && !(self.closed && matches!(name, "one" | "queue"))
    }

    pub fn may_approve(self, groups: &[String], name: &str) -> bool {
        groups.iter().any(|group| group == "leads") && (!self.few || name == "two")
    }

    fn text(self) -> (String, String, String) {
        let mut service =
            "description = \"a service\"\nhosts = [\"svc\"]\nupstreams = [\"http://127.0.0.1:9080\"]\n".to_owned();
        for (place, action) in [("GET /r", "read"), ("POST /w", "write"), ("DELETE /x", "wipe")] {
            service.push_str(&format!("[[route]]\nmatch = \"{place}\"\naction = \"{action}\"\n"));
        }
        let mut access = String::new();
        for name in ENTITLEMENTS {
            let (max, approvals) = (self.max(name), self.approvals(name));
            service.push_str(&format!(
                "[entitlement.{name}]\ndescription = \"{name}\"\nmax = \"{max}\"\ndefault = \"10m\"\nmin = \"1m\"\n\
                 approvals = {approvals}\nactions = {:?}\n",
                self.opens(name)
            ));
            if let Some(capacity) = self.capacity(name) {
                let full = if name == "queue" { "queue" } else { "refuse" };
                service.push_str(&format!("capacity = {capacity}\nwhen_full = \"{full}\"\n"));
            }
            match name {
                "one" => service.push_str("extended_max = \"2h\"\nemergency = true\nemergency_max = \"10m\"\n"),
                "two" => service.push_str("answer_within = \"4h\"\n"),
                "rest" => service.push_str("break = \"15m\"\nearliest_start = \"5m\"\nextended_max = \"1h\"\n"),
                "lazy" => service.push_str("idle = \"5m\"\n"),
                _ => {}
            }
            for action in self.opens(name) {
                access.push_str(&format!(
                    "permit (principal in Entitlement::\"svc/{name}\", action == Action::\"{action}\", resource);\n"
                ));
            }
        }
        access.push_str("permit (principal in Group::\"staff\", action == Action::\"read\", resource);\n");
        access.push_str("permit (principal in Group::\"staff\", action == Action::\"request\", resource);\n");
        if self.closed {
            for name in ["one", "queue"] {
                access.push_str(&format!(
                    "forbid (principal, action == Action::\"request\", resource == Entitlement::\"svc/{name}\");\n"
                ));
            }
        }
        let which = if self.few { " == Entitlement::\"svc/two\"" } else { "" };
        access.push_str(&format!(
            "permit (principal in Group::\"leads\", action == Action::\"approve\", resource{which});\n\
             permit (principal in Group::\"staff\", action == Action::\"auto_approve\", resource == Entitlement::\"svc/auto\");\n\
             permit (principal in Group::\"staff\", action == Action::\"auto_approve\", resource == Entitlement::\"svc/lazy\");\n\
             permit (principal in Group::\"owners\", action == Action::\"revoke\", resource);\n"
        ));
        let people = if self.linked {
            "[[person]]\nname = \"Lea\"\naccounts = [\"dev|lead0\", \"dev|lead1\"]\n\
             [[person]]\nname = \"Dee\"\naccounts = [\"dev|dev0\", \"dev|dev3\"]\n"
                .to_owned()
        } else {
            String::new()
        };
        (service, access, people)
    }

    /// Writes the files.
    pub fn write(self, folder: &Path) {
        let (service, access, people) = self.text();
        std::fs::create_dir(folder.join("svc")).unwrap();
        std::fs::write(folder.join("svc/service.toml"), service).unwrap();
        std::fs::write(folder.join("svc/access.cedar"), access).unwrap();
        let global = "permit (principal in Group::\"owners\", action in [Action::\"revoke\", Action::\"lock\"], \
                      resource == Installation::\"doorward\");\n";
        std::fs::write(folder.join("global.cedar"), global).unwrap();
        if !people.is_empty() {
            std::fs::write(folder.join("people.toml"), people).unwrap();
        }
    }

    /// The policies, read from files as always.
    fn load(self) -> PolicySet {
        let folder = temporary_folder();
        self.write(folder.path());
        load(folder.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
    }

    /// The same, loaded once.
    pub fn set(self) -> Arc<PolicySet> {
        static SETS: Mutex<Vec<(Rules, Arc<PolicySet>)>> = Mutex::new(Vec::new());
        let mut sets = SETS.lock().unwrap();
        if let Some((_, set)) = sets.iter().find(|(rules, _)| *rules == self) {
            return Arc::clone(set);
        }
        let set = Arc::new(self.load());
        sets.push((self, Arc::clone(&set)));
        set
    }
}

pub const ENTITLEMENTS: [&str; 7] = ["one", "two", "queue", "refuse", "auto", "rest", "lazy"];

/// How long `lazy` may go unused.
pub const IDLE: Ttl = Ttl::minutes(5);
/// The break after `rest`.
pub const BREAK: Ttl = Ttl::minutes(15);
/// How long before `rest` begins.
pub const LEAD: Ttl = Ttl::minutes(5);

/// Whether policy approves it by itself.
pub fn is_auto(name: &str) -> bool {
    matches!(name, "auto" | "lazy")
}

pub fn entitlement(name: &str) -> EntitlementName {
    EntitlementName::parse(&format!("svc/{name}")).unwrap()
}

/// The people of the small company: `twin` has the e-mail address of `lead0`.
pub const PEOPLE: [&str; 11] =
    ["dev0", "dev1", "dev2", "dev3", "lead0", "lead1", "lead2", "lead3", "owner", "twin", "stranger"];

pub fn principal(name: &str) -> Principal {
    Principal::user("dev", name).unwrap()
}

/// The groups of who has them all.
pub fn groups(name: &str) -> Vec<String> {
    let groups: &[&str] = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "dev" => &["staff"],
        "lead" | "twin" => &["staff", "leads"],
        "owner" => &["staff", "leads", "owners"],
        _ => &[],
    };
    groups.iter().map(ToString::to_string).collect()
}

pub fn email(name: &str) -> String {
    let name = if name == "twin" { "lead0" } else { name };
    format!("{name}@example.com")
}

/// A node: what it knows, and how far it has heard of the others.
pub struct Node {
    pub house: House,
    pub feed: Feed,
    number: u8,
}

impl Node {
    pub async fn start(url: &str, clock: &TestClock, number: u8, seed: u64) -> Self {
        let house =
            House::node(url, clock.clone(), number, seed, |settings| settings.lifetime = Ttl::hours(24 * 400)).await;
        let (desk, now) = (&house.desk, clock.now());
        desk.clock_guard.begin(&desk.store, &desk.directory, None, now).await.unwrap();
        let feed = Feed::begin(&desk.store, &desk.directory, now).await.unwrap();
        Self { house, feed, number }
    }

    pub const fn desk(&self) -> &Arc<Desk> {
        &self.house.desk
    }

    /// The time that it goes by: what its clock shows, and never less than before.
    pub fn now(&self) -> Timestamp {
        self.desk().clock.now()
    }

    /// Whether it grants nothing new, since its clock can't be believed.
    pub fn doubts(&self) -> bool {
        self.desk().clock_guard.check().is_err()
    }

    pub async fn follow(&mut self) {
        let (desk, now) = (Arc::clone(&self.house.desk), self.now());
        self.feed.follow(&desk.store, &desk.directory, &Histogram::new([1.0]), now).await.unwrap();
    }

    pub async fn sweep(&self) -> Result<(), AccessError> {
        access::sweep::round(self.desk(), NodeId::from_bytes([self.number; 16]), self.now()).await
    }

    /// Signs `name` in with these groups; none while they are locked.
    pub async fn sign_in(&self, name: &str, groups: Vec<String>) -> Option<SessionId> {
        let now = self.now();
        let new = NewSession {
            email: Some(email(name)),
            email_verified: true,
            name: Some(name.to_owned()),
            groups,
            amr: vec!["pwd".to_owned()],
            ..crate::support::new_session(SessionKind::Cli, principal(name), now)
        };
        Some(session::start(self.desk(), new, None, &facts(None), now).await.ok()?.stored.session.id)
    }

    pub async fn sign_out(&self, id: SessionId) {
        let (desk, actor) = (self.desk(), doorward::audit::Actor::default());
        session::end(desk, id, SessionEnd::Logout, &actor, None, self.now()).await.unwrap();
    }

    /// Whoever shows the certificate of that session.
    pub async fn caller(&self, session: SessionId) -> Option<Caller> {
        self.caller_from(session, facts(None).address).await
    }

    /// The same from somewhere else.
    pub async fn caller_from(&self, session: SessionId, address: std::net::IpAddr) -> Option<Caller> {
        let now = self.now();
        let certificate = ClientCertificate {
            issuer: Issuer::Ours,
            thumbprint: Thumbprint::of(session.bytes()),
            not_before: now.minus(Ttl::hours(1)),
            not_after: now.plus(Ttl::hours(1)),
            session: Some(session),
            spiffe_id: None,
            common_name: "a session".to_owned(),
        };
        let connection = Arc::new(ConnectionFacts { address, certificate: Some(certificate) });
        let evidence = Evidence {
            connection: &connection,
            cookie: Shown::Absent,
            bearer: Shown::Absent,
            provenance: Provenance::NoPage,
        };
        prove(self.desk(), evidence, now).await.ok()
    }

    pub async fn ask(&self, caller: &Caller, asked: &Asked) -> Result<(AccessRequest, Option<Grant>), AccessError> {
        access::create(self.desk(), caller, asked, self.now()).await
    }

    pub async fn approve(&self, caller: &Caller, id: RequestId) -> Result<access::Seen, AccessError> {
        access::approve(self.desk(), caller, id, None, None, self.now()).await
    }

    pub async fn revoke(&self, caller: &Caller, id: GrantId) -> Result<access::GrantSeen, AccessError> {
        access::revoke(self.desk(), caller, id, "it has to end", self.now()).await
    }

    /// The grants by which `name` is let through here and now.
    pub fn held(&self, name: &str) -> Vec<(GrantId, EntitlementName, Timestamp)> {
        let held = self.desk().directory.grants(&principal(name), self.now());
        held.into_iter().map(|grant| (grant.id, grant.entitlement, grant.expires_at)).collect()
    }
}

/// `name`, signed in with their groups.
pub async fn caller(node: &Node, name: &str) -> Caller {
    let session = node.sign_in(name, groups(name)).await.unwrap();
    node.caller(session).await.unwrap()
}

/// Something that is asked for as plainly as can be.
pub fn asked(name: &str, length: Ttl) -> Asked {
    Asked {
        entitlement: entitlement(name),
        reason: Some("work".to_owned()),
        ticket: None,
        length: Some(length),
        start: None,
        params: std::collections::BTreeMap::new(),
        emergency: false,
    }
}

/// Polls a future so often at most, as if whoever waits for it went away.
pub async fn cut<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
            std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
            std::task::Poll::Pending => std::task::Poll::Pending,
        }
    })
    .await
}
