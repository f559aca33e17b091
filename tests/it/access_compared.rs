//! The books before and after one act of a small company: whether whoever did it might, and whether
//! all of it is there and nothing else.

use doorward::control::access::sweep::UNFIT_MAX;
use doorward::control::access::{AccessError, Asked};
use doorward::model::{AccessRequest, Grant, GrantEnd, GrantId, GrantState, RequestId, RequestState, Timestamp, Ttl};

use crate::access_ledger::Ledger;
use crate::access_steps::{Act, Came, Company, of};
use crate::access_world::{BREAK, IDLE, LEAD, PEOPLE, is_auto};

/// The books before and after somebody did something.
pub struct Compared<'a> {
    pub company: &'a Company,
    pub before: &'a Ledger,
    pub after: &'a Ledger,
    pub now: Timestamp,
    pub who: usize,
}

impl Compared<'_> {
    /// Fails where the books say what that act may not have done, or don't say what it must have.
    pub fn check(&self, act: &Act, came: &Came, node: usize) {
        if let Some(Err(error)) = came {
            assert!(!matches!(error, AccessError::Store(_)), "{act:?}: {error}");
            assert_eq!(self.before.requests, self.after.requests, "{act:?} was refused ({error}) and did something");
            assert_eq!((&self.before.answers, &self.before.grants), (&self.after.answers, &self.after.grants));
        }
        if let Some(Err(AccessError::Clock(_))) = came {
            assert!(self.company.doubts(node), "{act:?}: its clock goes as it should");
        }
        let done = matches!(came, Some(Ok(())));
        let (requests, grants) = (self.before.changed_requests(self.after), self.before.changed_grants(self.after));
        if self.company.is_behind(node) {
            let began = |id: &GrantId| {
                let (before, after) = (self.before.grants.get(id), &self.after.grants[id]);
                let end = |grant: &Grant| grant.state.at(self.now).expires_at();
                after.state.is_active(self.now) && end(after) > before.and_then(end)
            };
            assert!(!grants.iter().any(began), "{act:?} granted something by a clock that is behind");
        }
        match act {
            Act::Ask(asked) => self.asked(asked, &requests, &grants, done),
            Act::Answer(id, yes) => self.answered(*id, *yes, came, &requests, &grants),
            Act::Withdraw(id) => {
                self.closed(*id, RequestState::Withdrawn, &requests, &grants, done);
                if !requests.is_empty() {
                    assert_eq!(of(self.after.requests[id].requester.principal.subject()), self.who);
                }
            }
            Act::Extend(id, length) => self.extended(*id, *length, &requests, &grants, done),
            Act::Drop(id) => self.ended(*id, GrantEnd::Dropped, &requests, &grants, done),
            Act::Revoke(id) => self.ended(*id, GrantEnd::Revoked, &requests, &grants, done),
            Act::Lock(who, set) => {
                assert!(requests.is_empty() && grants.is_empty());
                assert!(!done || self.after.locks.iter().any(|name| name == PEOPLE[*who]) == *set);
            }
            Act::Sweep => self.swept(&requests, &grants, came, node),
        }
    }

    fn asked(&self, asked: &Asked, requests: &[RequestId], grants: &[GrantId], done: bool) {
        assert!(requests.len() <= 1 && grants.len() <= 1 && (!done || requests.len() == 1));
        let [id] = requests else { return };
        let (request, name) = (&self.after.requests[id], asked.entitlement.name());
        assert_eq!(of(request.requester.principal.subject()), self.who);
        let groups = &self.company.session(self.who).unwrap().groups;
        assert!(self.company.rules.may_ask(groups, name), "{request:?}");
        let at_once = asked.emergency && name == "one" || is_auto(name);
        if name == "rest" {
            let earliest = Some(request.created_at.plus(LEAD)).max(self.rested(request, None));
            assert!(request.start >= earliest, "{request:?} begins before {earliest:?}");
        }
        assert_eq!(request.state == RequestState::Approved, at_once, "{request:?}");
        assert_eq!(grants.len(), usize::from(at_once));
        grants.iter().for_each(|grant| self.granted(&self.after.grants[grant], request));
    }

    /// When whoever asks for `rest` has had their break from it, as things were before.
    fn rested(&self, request: &AccessRequest, but: Option<GrantId>) -> Option<Timestamp> {
        let who = of(request.requester.principal.subject());
        let theirs = self.before.grants.values().filter(|grant| {
            grant.entitlement.name() == "rest"
                && Some(grant.id) != but
                && self.company.one(of(grant.holder.principal.subject()), who)
        });
        let ends = theirs.filter_map(|grant| {
            grant.state.active_at()?;
            grant.state.at(self.now).ended_at().or(grant.state.expires_at())
        });
        ends.max().map(|end| end.plus(BREAK))
    }

    /// Whoever begins to hold `rest` has waited for it and had their break.
    fn has_rested(&self, grant: &Grant, request: &AccessRequest) {
        if grant.entitlement.name() == "rest" && grant.state.is_active(self.now) {
            assert!(request.created_at.plus(LEAD) <= self.now, "{grant:?}");
            let rested = self.rested(request, Some(grant.id));
            assert!(rested.is_none_or(|from| from.is_over(self.now)), "{grant:?} before {rested:?}");
        }
    }

    /// Whether whoever asked may still have it.
    fn eligible(&self, request: &AccessRequest) -> bool {
        let locked = self.after.locks.iter().any(|name| name == request.requester.principal.subject());
        let groups = self.company.groups_for(request);
        !locked && self.company.rules.may_ask(&groups, request.entitlement.name())
    }

    /// A grant that a request made.
    fn granted(&self, grant: &Grant, request: &AccessRequest) {
        let (rules, name) = (self.company.rules, request.entitlement.name());
        assert_eq!((grant.request, &grant.holder.principal), (request.id, &request.requester.principal));
        assert_eq!((grant.length, &grant.entitlement), (request.length, &request.entitlement));
        assert!(grant.length <= rules.max(name), "{name} lasts {} at most: {grant:?}", rules.max(name));
        let opens: Vec<String> = grant.actions.iter().map(ToString::to_string).collect();
        assert_eq!(opens, rules.opens(name), "{grant:?}");
        assert_eq!(grant.idle, (name == "lazy").then_some(IDLE));
        self.has_rested(grant, request);
        let waited = self.before.grants.values().filter(|it| it.state == GrantState::Queued);
        self.has_place(grant, waited.filter(|it| it.entitlement.name() == name).count());
    }

    /// A grant that began took a free place, that none of so many waited for.
    fn has_place(&self, grant: &Grant, waited: usize) {
        let name = grant.entitlement.name();
        let Some(capacity) = self.company.rules.capacity(name) else { return };
        let (before, after) = (self.before.holders(name, self.now), self.after.holders(name, self.now));
        assert!(after <= capacity.max(before), "{after} hold {name}, which has {capacity} places");
        if grant.state == GrantState::Queued {
            assert!(after + waited >= capacity, "{name} has a place: {grant:?}");
        } else if grant.state.is_active(self.now) {
            assert!(after + waited <= capacity.max(before + waited), "{grant:?} is before {waited} who wait");
        }
    }

    fn answered(&self, id: RequestId, yes: bool, came: &Came, requests: &[RequestId], grants: &[GrantId]) {
        if !yes {
            self.closed(id, RequestState::Denied, requests, grants, matches!(came, Some(Ok(()))));
        }
        let (before, after) = (&self.before.requests[&id], &self.after.requests[&id]);
        let key = (id.to_string(), format!("dev|{}", PEOPLE[self.who]));
        let answer = self.after.answers.get(&key).filter(|answer| self.before.answers.get(&key) != Some(answer));
        assert!(requests.iter().all(|changed| *changed == id), "{requests:?}");
        assert!(!matches!(came, Some(Ok(())) if answer.is_none()), "{key:?} is lost");
        let name = before.entitlement.name();
        let groups = &self.company.session(self.who).unwrap().groups;
        let requester = of(before.requester.principal.subject());
        let rules = self.company.rules;
        let counted = self.counted(after);
        let fits = !self.company.one(self.who, requester)
            && rules.may_approve(groups, name)
            && before.state_at(self.now) == RequestState::Pending;
        if answer.is_some() {
            assert!(fits, "{} may not answer {before:?}", PEOPLE[self.who]);
        }
        if !yes {
            return;
        }
        let again = self.approved_by(before, &after.hash).any(|other| self.company.one(other, self.who));
        let Some((word, hash, _)) = answer else {
            assert!(requests.is_empty() && grants.is_empty());
            if let Some(Err(error)) = came {
                let could = fits && !again && self.eligible(before) && before.length <= rules.max(name);
                let hindered =
                    matches!(error, AccessError::Full { .. } | AccessError::NotActive { .. } | AccessError::Clock(_))
                        || before.extends.is_some() && matches!(error, AccessError::Ineligible(_))
                        || matches!(error, AccessError::AnsweredAlready);
                assert!(!could || hindered, "refused for no reason: {error}, {before:?}");
            }
            return;
        };
        assert_eq!((word.as_str(), hash), ("approve", &after.hash));
        let standing = self.counted_with(Vec::new(), after);
        let again = standing.iter().any(|human| self.company.one(*human, self.who));
        assert!(!again || standing.len() >= rules.approvals(name), "{key:?} counts and was given twice");
        assert!(self.eligible(before), "{before:?} is granted to who may not ask");
        let enough = counted.len() >= rules.approvals(name);
        assert_eq!(after.state == RequestState::Approved, enough, "{counted:?} approved {after:?}");
        assert_eq!(grants.len(), usize::from(enough), "{grants:?}");
        for id in grants {
            let grant = &self.after.grants[id];
            match before.extends {
                None => self.granted(grant, after),
                Some(extends) => {
                    assert_eq!(extends, *id);
                    let end = self.before.grants[id].state.expires_at().unwrap();
                    assert_eq!(grant.state.expires_at(), Some(end.plus(after.length)));
                    let whole = grant.state.expires_at().unwrap().since(grant.state.active_at().unwrap());
                    assert!(name != "one" || whole <= Ttl::hours(2), "{grant:?}");
                    assert!(name != "rest" || whole <= Ttl::hours(1), "{grant:?}");
                    assert!(after.length <= rules.max(name), "{grant:?}");
                }
            }
        }
    }

    /// Who approved what the request is at that hash.
    fn approved_by<'a>(&'a self, request: &AccessRequest, hash: &'a str) -> impl Iterator<Item = usize> + 'a {
        let id = request.id.to_string();
        let here = self
            .before
            .answers
            .iter()
            .filter(move |((of, _), (word, seen, _))| *of == id && word == "approve" && seen == hash);
        here.map(|((_, who), _)| of(who.strip_prefix("dev|").unwrap()))
    }

    /// The humans whose approval counts, whoever answers now among them.
    fn counted(&self, request: &AccessRequest) -> Vec<usize> {
        self.counted_with(vec![self.who], request)
    }

    /// The humans whose approval counts, after these.
    fn counted_with(&self, mut humans: Vec<usize>, request: &AccessRequest) -> Vec<usize> {
        let requester = of(request.requester.principal.subject());
        let name = request.entitlement.name();
        for other in self.approved_by(request, &request.hash) {
            let locked = self.after.locks.iter().any(|name| name == PEOPLE[other]);
            let may = self.company.session(other).is_none_or(|it| self.company.rules.may_approve(&it.groups, name));
            let known = |human: &usize| self.company.one(*human, other);
            if !locked && may && !self.company.one(other, requester) && !humans.iter().any(known) {
                humans.push(other);
            }
        }
        humans
    }

    fn closed(&self, id: RequestId, state: RequestState, requests: &[RequestId], grants: &[GrantId], done: bool) {
        assert!(requests.iter().all(|changed| *changed == id) && grants.is_empty());
        if done || !requests.is_empty() {
            assert_eq!(self.before.requests[&id].state_at(self.now), RequestState::Pending);
            assert_eq!(self.after.requests[&id].state, state);
        }
    }

    fn extended(&self, id: GrantId, length: Ttl, requests: &[RequestId], grants: &[GrantId], done: bool) {
        assert!(requests.len() <= 1 && grants.iter().all(|changed| *changed == id) && (!done || requests.len() == 1));
        let [request] = requests else { return };
        let (request, grant) = (&self.after.requests[request], &self.after.grants[&id]);
        assert!(self.before.grants[&id].state.is_active(self.now));
        assert_eq!(
            (request.extends, request.length, of(grant.holder.principal.subject())),
            (Some(id), length, self.who)
        );
        let auto = is_auto(request.entitlement.name());
        assert_eq!(grants.len(), usize::from(auto));
        if auto {
            let end = self.before.grants[&id].state.expires_at().unwrap();
            assert_eq!(grant.state.expires_at(), Some(end.plus(length)));
        }
    }

    fn ended(&self, id: GrantId, end: GrantEnd, requests: &[RequestId], grants: &[GrantId], done: bool) {
        assert!(grants.iter().all(|changed| *changed == id) && (!done || !grants.is_empty()));
        if grants.is_empty() {
            assert!(requests.is_empty());
            return;
        }
        // Who asked for more of it waits for nothing any more.
        let state = if end == GrantEnd::Dropped { RequestState::Withdrawn } else { RequestState::TimedOut };
        for closed in requests {
            let (before, after) = (&self.before.requests[closed], &self.after.requests[closed]);
            assert_eq!(
                (after.extends, before.state, after.state),
                (Some(id), RequestState::Pending, state),
                "{after:?}"
            );
        }
        let waiting = self
            .after
            .requests
            .values()
            .find(|request| request.extends == Some(id) && request.state_at(self.now) == RequestState::Pending);
        assert!(waiting.is_none(), "{waiting:?}");
        let own = of(self.after.grants[&id].holder.principal.subject()) == self.who;
        let owner = self.company.session(self.who).unwrap().groups.iter().any(|group| group == "owners");
        assert!(own || end == GrantEnd::Revoked && owner);
        assert!(matches!(self.after.grants[&id].state, GrantState::Over { end: how, .. } if how == end));
    }

    fn swept(&self, requests: &[RequestId], grants: &[GrantId], came: &Came, node: usize) {
        for id in requests {
            let request = &self.after.requests[id];
            let over = |id: GrantId| grants.contains(&id) && self.after.grants[&id].state.ended_at().is_some();
            let due = request.answer_by.is_over(self.now) || request.extends.is_some_and(over);
            assert!(request.state == RequestState::TimedOut && due, "{request:?}");
        }
        let waits = |grant: &Grant| matches!(grant.state, GrantState::Scheduled | GrantState::Queued);
        for id in grants {
            let (before, after) = (&self.before.grants[id], &self.after.grants[id]);
            let request = &self.before.requests[&after.request];
            if after.state.is_active(self.now) {
                assert!(waits(before) && self.may_begin(before, request), "{after:?}");
                self.has_rested(after, request);
                self.has_place(after, 0);
            } else if waits(before) && !waits(after) {
                assert!(!self.may_begin(before, request), "ended for no reason: {after:?}");
                assert!(!self.is_left_to_others(before, request), "another node might have begun it: {after:?}");
            } else if waits(before) {
                self.has_place(after, 0);
            } else if after.idle.is_some() && after.state.ended_at() < before.state.expires_at() {
                let used = self.company.last_use(*id).max(before.state.active_at()).unwrap();
                assert!(used.plus(IDLE).is_over(self.now), "{after:?} was used at {used}");
            }
        }
        let (holder, until) = self.company.duty;
        if !matches!(came, Some(Ok(()))) || holder != node && until > self.now {
            return;
        }
        // What time did is written down, and who can begin has begun.
        let overdue = self.after.requests.values().find(|request| request.state != request.state_at(self.now));
        assert!(overdue.is_none(), "{overdue:?}");
        for grant in self.after.grants.values() {
            assert_eq!(grant.state, grant.state.at(self.now));
            let unused = grant.idle_ends_at();
            assert!(unused.is_none_or(|end| !end.plus(Ttl::seconds(2)).is_over(self.now)), "{grant:?}");
            if self.company.doubts(node) {
                continue;
            }
            let request = &self.after.requests[&grant.request];
            if !self.may_begin(grant, request) && self.is_left_to_others(grant, request) {
                continue;
            }
            if waits(grant) && grant.starts_at.is_over(self.now) {
                assert_eq!(grant.state, GrantState::Queued, "{grant:?}");
                self.has_place(grant, 0);
            }
        }
    }

    /// Whether a grant that may not begin by the rules of one node waits for others: not where its holder is
    /// locked, which is so for all.
    fn is_left_to_others(&self, grant: &Grant, request: &AccessRequest) -> bool {
        let locked = self.after.locks.iter().any(|name| name == request.requester.principal.subject());
        !locked && !grant.starts_at.plus(UNFIT_MAX).is_over(self.now)
    }

    fn may_begin(&self, grant: &Grant, request: &AccessRequest) -> bool {
        let (rules, name) = (self.company.rules, grant.entitlement.name());
        let wider = rules.opens(name).iter().any(|action| grant.actions.iter().all(|it| it.to_string() != *action));
        let fewer =
            request.approvals_needed > 0 && usize::try_from(request.approvals_needed).unwrap() < rules.approvals(name);
        let standing = self.counted_with(Vec::new(), request).len();
        grant.starts_at.is_over(self.now)
            && self.eligible(request)
            && standing >= usize::try_from(request.approvals_needed).unwrap()
            && !wider
            && !fewer
            && grant.length <= rules.max(name)
    }
}
