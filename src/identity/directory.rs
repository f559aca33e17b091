//! What this node knows of sessions, cookies, locks and grants at this moment.
//!
//! The data path asks it on every request and never waits for it; control operations and the
//! revocation feed update it entry by entry. It is a memory of the database, never ahead of it:
//! a change is entered after its commit and before the operation answers, so that an answer means
//! that this node obeys. INVARIANT: a session that was entered as ended is never entered as live
//! again, however late an older view of it arrives (`version` only grows).

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use papaya::{Compute, HashMap, Operation};
use tokio_util::sync::CancellationToken;

use super::breakglass::{EmergencyState, Opening, OpeningRules};
pub use super::live_grant::{Idle, LiveGrant, UntoldUse, Uses};
use super::session_use::SessionUse;
use crate::model::breakglass::Challenge;
use crate::model::clock_watch::STEP_MIN;
use crate::model::{
    BreakGlassId, EntitlementName, Grant, GrantId, GrantState, HealthBoard, Principal, PrincipalKind, Session,
    SessionEnd, SessionId, Timestamp, Ttl,
};

/// A session with the means to cut the streams that are open under it.
#[derive(Debug)]
pub struct LiveSession {
    /// The session as last committed.
    pub session: Session,
    /// Cancelled when its open streams must end: at its end, or when its principal is locked.
    pub streams: CancellationToken,
    /// When it was last used by its cookie.
    pub used: Arc<SessionUse>,
}

/// A browser's cookie: which session at which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieEntry {
    /// Whose cookie it is.
    pub session: SessionId,
    /// The one host that it is good at.
    pub host: Arc<str>,
}

/// How long an ended grant is remembered as such: longer than any older view of it is under way.
const ENDED_KEPT: Ttl = Ttl::minutes(10);

/// SHA-256 of a cookie's value: the value itself is nowhere kept.
pub type CookieHash = [u8; 32];

/// A token of ours that this node has seen used, or heard to be withdrawn.
#[derive(Debug)]
struct KnownToken {
    streams: CancellationToken,
    expires_at: Timestamp,
    revoked: bool,
}

/// What a node knows that began with its clock behind its record.
#[derive(Debug)]
struct BeganBehind {
    /// What it had recorded last.
    latest: Timestamp,
    /// When it began.
    now: Timestamp,
    by: Ttl,
    /// Grants that were there when it began.
    granted: HashMap<GrantId, ()>,
}

/// A bar as it was set here: set again, it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar(u64);

/// An opening that was let through here.
#[derive(Debug, Clone)]
struct UsedOpening {
    /// SHA-256 of its challenge's text.
    challenge: [u8; 32],
    /// What custodians signed: judged again when the rules change.
    signed: Arc<Challenge>,
    /// What cuts its streams.
    streams: CancellationToken,
}

/// That an opening has an id under which another challenge was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherChallenge;

/// The view of one node. Shared by all of its threads.
#[derive(Debug, Default)]
pub struct Directory {
    sessions: HashMap<SessionId, Arc<LiveSession>>,
    cookies: HashMap<CookieHash, CookieEntry>,
    locks: HashMap<Principal, Bar>,
    /// Counts bars that were set here.
    bars: AtomicU64,
    /// Whether somebody is barred here could not be held against the database.
    locks_in_doubt: AtomicBool,
    /// Tokens of ours by `jti`: withdrawn ones, and those that streams are open under.
    tokens: HashMap<String, Arc<KnownToken>>,
    /// What cuts the streams of those who come without a session: machines by their certificates, people by
    /// their providers' tokens. They are as many as there are, and are kept.
    sessionless: HashMap<Principal, CancellationToken>,
    /// Openings that were used here.
    openings: HashMap<BreakGlassId, UsedOpening>,
    /// What is known of the emergency path.
    pub emergency: EmergencyState,
    /// What checks found out about upstreams.
    pub upstreams: HealthBoard,
    grants: HashMap<Principal, Arc<[LiveGrant]>>,
    /// Whether there ever was a grant here that ends for want of use.
    idle_grants: AtomicBool,
    /// Grants that ended early and when they would have: never entered as live again.
    ended: HashMap<GrantId, Timestamp>,
    /// Where this node began with a clock behind what it had recorded: grants of before that end
    /// so much earlier by it.
    began_behind: OnceLock<BeganBehind>,
    /// When the revocation feed was last known to be complete, in milliseconds.
    confirmed_at: AtomicI64,
}

impl Directory {
    /// The session, live or ended, as far as this node has heard of it.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Arc<LiveSession>> {
        self.sessions.pin().get(&id).cloned()
    }

    /// Enters a session as committed. An older version than the known one changes nothing; the
    /// open streams of a session that goes on stay open.
    pub fn insert(&self, session: Session) {
        let sessions = self.sessions.pin();
        let ends = session.ended.is_some();
        let outcome = sessions.compute(session.id, |known| match known {
            Some((_, known)) if known.session.version >= session.version || known.session.ended.is_some() => {
                Operation::<_, ()>::Abort(())
            }
            known => {
                let (streams, used) =
                    known.map(|(_, known)| (known.streams.clone(), Arc::clone(&known.used))).unwrap_or_default();
                Operation::Insert(Arc::new(LiveSession { session: session.clone(), streams, used }))
            }
        });
        if ends && let Compute::Inserted(_, entry) | Compute::Updated { new: (_, entry), .. } = outcome {
            entry.streams.cancel();
        }
    }

    /// Ends a session: its next request is refused and its open streams are cut.
    pub fn end(&self, id: SessionId, why: SessionEnd, now: Timestamp) {
        let known = self.session(id);
        if let Some(known) = known {
            let mut session = known.session.clone();
            session.version = session.version.saturating_add(1);
            session.ended = Some((why, now));
            self.insert(session);
        }
    }

    /// Sessions under which something was sent over an open stream since this was last asked.
    #[must_use]
    pub fn sessions_moved(&self) -> Vec<Arc<LiveSession>> {
        self.sessions.pin().values().filter(|entry| entry.used.has_moved()).cloned().collect()
    }

    /// Sessions that this node has not heard the end of, whatever the time.
    #[must_use]
    pub fn sessions_not_ended(&self) -> Vec<SessionId> {
        let sessions = self.sessions.pin();
        sessions.iter().filter(|(_, entry)| entry.session.ended.is_none()).map(|(id, _)| *id).collect()
    }

    /// Enters a cookie.
    pub fn cookie_insert(&self, hash: CookieHash, entry: CookieEntry) {
        self.cookies.pin().insert(hash, entry);
    }

    /// The cookie of that hash.
    #[must_use]
    pub fn cookie(&self, hash: &CookieHash) -> Option<CookieEntry> {
        self.cookies.pin().get(hash).cloned()
    }

    /// Bars a principal: requests are refused and open streams are cut at once.
    pub fn lock(&self, principal: &Principal) {
        let bar = Bar(self.bars.fetch_add(1, Ordering::Relaxed));
        self.locks.pin().insert(principal.clone(), bar);
        if principal.kind() == PrincipalKind::BreakGlass
            && let Ok(id) = BreakGlassId::parse(principal.id())
        {
            // Once the bar is lifted, new streams of the opening hang on a new token.
            self.opening_interrupt(id);
        }
        if let Some(streams) = self.sessionless.pin().remove(principal) {
            streams.cancel();
        }
        let sessions = self.sessions.pin();
        let theirs: Vec<SessionId> =
            sessions.iter().filter(|(_, entry)| entry.session.principal == *principal).map(|(id, _)| *id).collect();
        for id in theirs {
            sessions.update(id, |entry| {
                entry.streams.cancel();
                let (session, used) = (entry.session.clone(), Arc::clone(&entry.used));
                Arc::new(LiveSession { session, streams: CancellationToken::new(), used })
            });
        }
    }

    /// What cuts the streams of one who comes without a session. ORDER: whether they are barred is asked after
    /// this, so that a bar which is set meanwhile is met by one or the other.
    #[must_use]
    pub fn sessionless(&self, principal: &Principal) -> CancellationToken {
        let known = self.sessionless.pin();
        if let Some(streams) = known.get(principal) {
            return streams.clone();
        }
        known.get_or_insert_with(principal.clone(), CancellationToken::new).clone()
    }

    /// What cuts the streams of an opening; none where this node has not let it through yet.
    ///
    /// # Errors
    /// When what was let through under this id is another challenge.
    pub fn opening(&self, id: BreakGlassId, challenge: &[u8; 32]) -> Result<Option<CancellationToken>, OtherChallenge> {
        match self.openings.pin().get(&id) {
            None if self.emergency.is_other(id, challenge) => Err(OtherChallenge),
            None => Ok(None),
            Some(used) if used.challenge == *challenge => Ok(Some(used.streams.clone())),
            Some(_) => Err(OtherChallenge),
        }
    }

    /// An opening is on record and may be used.
    ///
    /// # Errors
    /// When another challenge of this id was let through meanwhile.
    pub fn opening_insert(&self, opening: &Opening) -> Result<CancellationToken, OtherChallenge> {
        let (challenge, signed) = (opening.sha256, Arc::new(opening.challenge.clone()));
        let new = || UsedOpening { challenge, signed, streams: CancellationToken::new() };
        let openings = self.openings.pin();
        let used = openings.get_or_insert_with(opening.challenge.id, new);
        if used.challenge == challenge { Ok(used.streams.clone()) } else { Err(OtherChallenge) }
    }

    /// Whether this node let an opening of that id and challenge through: its custodians were counted then.
    #[must_use]
    pub fn has_opened(&self, id: BreakGlassId, challenge: &[u8; 32]) -> bool {
        self.openings.pin().get(&id).is_some_and(|used| used.challenge == *challenge)
    }

    /// Other rules are in force: what is open under openings that they do not hold for is cut. ORDER: after the
    /// rules are put in force, since a request takes what cuts its streams before it asks whether they hold.
    pub fn openings_judge(&self, rules: Option<&OpeningRules>, now: Timestamp) {
        let holds = |used: &UsedOpening| rules.is_some_and(|rules| rules.holds(&used.signed, now).is_ok());
        let openings = self.openings.pin();
        let fallen: Vec<BreakGlassId> = openings.iter().filter(|(_, used)| !holds(used)).map(|(id, _)| *id).collect();
        self.emergency.put_fallen(&fallen);
        for id in fallen {
            self.opening_interrupt(id);
        }
    }

    /// Cuts the streams of an opening; new ones, if it may have any, hang on a new token.
    fn opening_interrupt(&self, id: BreakGlassId) {
        let openings = self.openings.pin();
        let anew = openings.get(&id).map(|used| UsedOpening { streams: CancellationToken::new(), ..used.clone() });
        if let Some(before) = anew.and_then(|anew| openings.insert(id, anew)) {
            before.streams.cancel();
        }
    }

    /// Cuts the streams of an opening that was closed, for good. ORDER: it is known as closed before, so
    /// that one which comes meanwhile finds that out after it is entered here.
    pub fn opening_cut(&self, id: BreakGlassId) {
        if let Some(used) = self.openings.pin().get(&id) {
            used.streams.cancel();
        }
    }

    /// Lifts the bar, whoever set it and when.
    pub fn unlock(&self, principal: &Principal) {
        self.locks.pin().remove(principal);
    }

    /// Lifts this bar; one that was set since stays. ORDER: the bar is looked up before it is asked whether it
    /// stands, so that one which is set while that is asked is another.
    pub fn unlock_if(&self, principal: &Principal, bar: Bar) {
        // Whether there was one makes no difference.
        let _ = self.locks.pin().remove_if(principal, |_, known| *known == bar);
    }

    /// The bar on the principal.
    #[must_use]
    pub fn bar(&self, principal: &Principal) -> Option<Bar> {
        self.locks.pin().get(principal).copied()
    }

    /// All bars.
    #[must_use]
    pub fn bars(&self) -> Vec<(Principal, Bar)> {
        self.locks.pin().iter().map(|(principal, bar)| (principal.clone(), *bar)).collect()
    }

    /// A bar may stand here that was lifted, or be missing: whoever follows the feed reads all of them.
    pub fn doubt_locks(&self) {
        self.locks_in_doubt.store(true, Ordering::Release);
    }

    /// Whether locks are in doubt. It is told once. ORDER: before they are read.
    #[must_use]
    pub fn takes_doubt(&self) -> bool {
        self.locks_in_doubt.swap(false, Ordering::AcqRel)
    }

    /// Whether the principal is barred.
    #[must_use]
    pub fn is_locked(&self, principal: &Principal) -> bool {
        self.locks.pin().contains_key(principal)
    }

    /// A token of ours is withdrawn: it is refused from now on, and streams that are open under it
    /// are cut.
    pub fn token_revoke(&self, jti: &str, expires_at: Timestamp) {
        let withdrawn = Arc::new(KnownToken { streams: CancellationToken::new(), expires_at, revoked: true });
        if let Some(known) = self.tokens.pin().insert(jti.to_owned(), withdrawn) {
            known.streams.cancel();
        }
    }

    /// Whether a token of ours was withdrawn.
    #[must_use]
    pub fn is_token_revoked(&self, jti: &str) -> bool {
        self.tokens.pin().get(jti).is_some_and(|known| known.revoked)
    }

    /// What cuts the streams under a token: its own end before time, or that of its session, whose
    /// streams hang on `session`. `None` when it is withdrawn.
    #[must_use]
    pub fn token_streams(
        &self,
        jti: &str,
        expires_at: Timestamp,
        session: &CancellationToken,
    ) -> Option<CancellationToken> {
        let tokens = self.tokens.pin();
        tokens.compute(jti.to_owned(), |known| match known {
            Some((_, known)) if known.revoked || !known.streams.is_cancelled() => Operation::<_, ()>::Abort(()),
            // Cut with its session's streams, by a lock that has been lifted: it begins anew.
            _ => {
                let streams = session.child_token();
                Operation::Insert(Arc::new(KnownToken { streams, expires_at, revoked: false }))
            }
        });
        tokens.get(jti).filter(|known| !known.revoked).map(|known| known.streams.clone())
    }

    /// This node begins at `now` and has recorded something at `latest`: where that is later, its clock
    /// was set back while it was away. What was granted before lasts no longer for that.
    pub fn began_behind(&self, latest: Timestamp, now: Timestamp) {
        let by = latest.since(now);
        if by > STEP_MIN {
            // A node begins once.
            let _ = self.began_behind.set(BeganBehind { latest, now, by, granted: HashMap::new() });
        }
    }

    /// The end of what was granted at `from`, as this node's clock shows it. What begins later is a grant by
    /// the clock that was put right, though the wrong one had shown that time before.
    fn by_this_clock(&self, id: GrantId, from: Timestamp, until: Timestamp) -> Timestamp {
        let Some(behind) = self.began_behind.get().filter(|behind| from <= behind.latest) else { return until };
        let granted = behind.granted.pin();
        if self.confirmed_at.load(Ordering::Acquire) == 0 {
            // All that is active is read before the feed is confirmed for the first time.
            granted.insert(id, ());
        }
        if from <= behind.now || granted.contains_key(&id) { until.minus(behind.by) } else { until }
    }

    /// Enters a grant as committed: it began, it lasts longer, or it is over. The streams that are
    /// open under a grant that lasts longer stay open.
    pub fn grant_enter(&self, grant: &Grant) {
        let principal = &grant.holder.principal;
        let (active_at, expires_at) = match grant.state {
            GrantState::Active { from, until } => (from, self.by_this_clock(grant.id, from, until)),
            GrantState::Over { .. } => return self.grant_leave(principal, grant.id),
            GrantState::Scheduled | GrantState::Queued => return,
        };
        self.grants.pin().compute(principal.clone(), |known| {
            // In here: of two who change a principal's grants the second looks once more, and so sees the
            // end that the first entered.
            if self.ended.pin().contains_key(&grant.id) {
                return Operation::<_, ()>::Abort(());
            }
            let known = known.map(|(_, held)| &**held).unwrap_or_default();
            let before = known.iter().find(|held| held.id == grant.id);
            let entered = LiveGrant {
                id: grant.id,
                entitlement: grant.entitlement.clone(),
                actions: grant.actions.clone().into(),
                params: Arc::new(grant.params.clone()),
                active_at,
                // Views of one grant differ by an extension at most, which never shortens.
                expires_at: before.map_or(expires_at, |held| held.expires_at.max(expires_at)),
                over: before
                    // Another node, whose clock is behind, may have prolonged what was over here.
                    .filter(|held| !held.over.is_cancelled() || held.expires_at >= expires_at)
                    .map_or_else(CancellationToken::new, |held| held.over.clone()),
                idle: grant.idle.map(|length| {
                    let uses = before.and_then(LiveGrant::uses).cloned().unwrap_or_default();
                    let used = self.by_this_clock(
                        grant.id,
                        active_at,
                        grant.used_at.map_or(active_at, |at| at.max(active_at)),
                    );
                    self.idle_grants.store(true, Ordering::Release);
                    Idle::entered(length, uses, used)
                }),
            };
            let others = known.iter().filter(|held| held.id != grant.id).cloned();
            Operation::Insert(others.chain(std::iter::once(entered)).collect())
        });
    }

    /// A grant is over: the next request under it is refused, and streams that no other grant
    /// permits are cut.
    pub fn grant_leave(&self, principal: &Principal, id: GrantId) {
        let grants = self.grants.pin();
        let known = grants.get(principal).and_then(|held| held.iter().find(|grant| grant.id == id)).cloned();
        let until = known.as_ref().map_or(self.confirmed_at(), |grant| grant.expires_at);
        self.ended.pin().insert(id, until);
        // Written where nothing is held too, so that who is just entering the grant looks once more.
        grants.compute(principal.clone(), |held| {
            let held = held.map(|(_, held)| &**held).unwrap_or_default();
            Operation::<_, ()>::Insert(held.iter().filter(|grant| grant.id != id).cloned().collect())
        });
        // ORDER: after it is gone from the list, since whoever is woken by this looks there.
        if let Some(known) = known {
            known.over.cancel();
        }
    }

    /// A grant of a principal as far as this node has heard of it; one that ended early is gone.
    #[must_use]
    pub fn grant(&self, principal: &Principal, id: GrantId) -> Option<LiveGrant> {
        let grants = self.grants.pin();
        grants.get(principal).and_then(|held| held.iter().find(|grant| grant.id == id)).cloned()
    }

    /// All grants that this node has heard of and not the end, with their holders, whatever the time.
    #[must_use]
    pub fn grants_known(&self) -> Vec<(GrantId, Principal)> {
        let grants = self.grants.pin();
        grants.iter().flat_map(|(holder, held)| held.iter().map(|grant| (grant.id, holder.clone()))).collect()
    }

    /// Whether any grant that this node has heard of ends for want of use.
    #[must_use]
    pub fn knows_idle_grants(&self) -> bool {
        self.idle_grants.load(Ordering::Acquire)
    }

    /// Uses that the database is to be told of by now.
    #[must_use]
    pub fn grant_uses_untold(&self, now: Timestamp) -> Vec<UntoldUse> {
        let untold = |grant: &LiveGrant| grant.idle.as_ref()?.untold(grant.id, now);
        self.grants.pin().values().flat_map(|held| held.iter().filter_map(untold)).collect()
    }

    /// Another node told of a use.
    pub fn grant_used_elsewhere(&self, principal: &Principal, id: GrantId, at: Timestamp) {
        if let Some(uses) = self.grant(principal, id).as_ref().and_then(LiveGrant::uses) {
            uses.told(at);
        }
    }

    /// Whether this node has heard of the end of a grant before its time.
    #[must_use]
    pub fn has_ended(&self, id: GrantId) -> bool {
        self.ended.pin().contains_key(&id)
    }

    /// Grants of a principal that are in force at `now`.
    #[must_use]
    pub fn grants(&self, principal: &Principal, now: Timestamp) -> Vec<LiveGrant> {
        let grants = self.grants.pin();
        let held = grants.get(principal).map(|held| &**held).unwrap_or_default();
        held.iter().filter(|grant| grant.is_live(now)).cloned().collect()
    }

    /// Entitlements that a principal is a member of at `now`, each once, by name.
    #[must_use]
    pub fn entitlements(&self, principal: &Principal, now: Timestamp) -> Vec<EntitlementName> {
        let mut names: Vec<EntitlementName> =
            self.grants(principal, now).into_iter().map(|grant| grant.entitlement).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How many grants are in force at `now`.
    #[must_use]
    pub fn grants_active(&self, now: Timestamp) -> usize {
        self.grants.pin().values().map(|held| held.iter().filter(|grant| grant.is_live(now)).count()).sum()
    }

    /// The revocation feed was read to its end at `now`.
    pub fn confirm(&self, now: Timestamp) {
        self.confirmed_at.fetch_max(now.millis(), Ordering::AcqRel);
    }

    /// When the feed was last read to its end.
    #[must_use]
    pub fn confirmed_at(&self) -> Timestamp {
        Timestamp::from_millis(self.confirmed_at.load(Ordering::Acquire))
    }

    /// Forgets what is over but tokens: sessions past their end and the cookies of sessions that are unknown.
    pub fn sweep(&self, now: Timestamp) {
        self.sessions.pin().retain(|_, entry| {
            let over = entry.session.expires_at.is_over(now);
            if over {
                entry.streams.cancel();
            }
            !over
        });
        // One that was only not used may turn out to have been used elsewhere.
        self.grants.pin().retain(|_, held| held.iter().any(|grant| grant.is_live(now) || !grant.over.is_cancelled()));
        self.ended.pin().retain(|_, until| !until.plus(ENDED_KEPT).is_over(now));
        let sessions = self.sessions.pin();
        self.cookies.pin().retain(|_, cookie| sessions.contains_key(&cookie.session));
    }

    /// Forgets tokens that are over. Not by a clock that may be ahead: the data path asks no database whether
    /// one was withdrawn, so that it would be good again once the clock is put right.
    pub fn tokens_sweep(&self, now: Timestamp) {
        self.tokens.pin().retain(|_, known| !known.expires_at.is_over(now));
    }
}
