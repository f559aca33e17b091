//! Populations: which events of the record belong to which question of an auditor.
//!
//! INVARIANT: the match over types is exhaustive: a new type does not build until it is said where it
//! belongs. Each population has a second way of counting it, a filter for `jq` over an evidence
//! export, which must give the same number.

use serde::Deserialize;

use super::seen::Seen;
use crate::audit::event::EventType;
use crate::model::PrincipalKind;

macro_rules! populations {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $title:literal, $filter:literal;)*) => {
        /// A set of events that controls are judged by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub enum Population { $($(#[$doc])* $name,)* }

        impl Population {
            /// All of them, in the order in which reports show them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in the mapping and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it is, for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What `select(…)` of jq must hold for a line of an export to belong to it.
            #[must_use]
            pub const fn filter(self) -> &'static str {
                match self { $(Self::$name => $filter,)* }
            }
        }
    };
}

populations! {
    /// Everything.
    Events = "events", "Everything on record", "true";
    /// Requests that were judged.
    Decisions = "decisions", "Decisions about requests, allowed and refused",
        r#".type == "decision.allow" or .type == "decision.deny""#;
    /// Requests that were refused.
    Refusals = "refusals", "Requests refused", r#".type == "decision.deny""#;
    /// Refusals that were counted, not recorded one by one.
    RefusalsCounted = "refusals_counted", "Summaries of refusals beyond the recorded rate",
        r#".type == "decision.deny_counted""#;
    /// Ends of what was passed on.
    Exchanges = "exchanges", "Outcomes of requests passed on (status, bytes, duration)", r#".type == "exchange.ended""#;
    /// Sign-ins.
    SignIns = "sign_ins", "Sign-ins of people and workloads", r#".type == "session.start""#;
    /// What failed to sign in or showed a bad credential.
    SignInFailures = "sign_in_failures", "Failed sign-ins and bad credentials",
        r#".type == "session.start_failed" or .type == "token.exchange_refused" or (.type == "decision.deny" and .reason == "bad_credential")"#;
    /// Ends of sessions.
    SessionEnds = "session_ends", "Sessions ended before their time", r#".type == "session.end""#;
    /// What the provider changed.
    GroupChanges = "group_changes", "Group memberships changed by the identity provider during a session",
        r#".type == "session.groups_changed""#;
    /// Certificates.
    Certificates = "certificates", "Client certificates issued and renewed",
        r#".type == "credential.issued" or .type == "session.renewed""#;
    /// Tokens.
    Tokens = "tokens", "Tokens issued", r#".type == "token.issued""#;
    /// Everything that was taken away.
    Withdrawals = "withdrawals", "Sessions, grants, tokens and credentials withdrawn",
        r#"(.type == "session.end" and .withheld == null and .data.end != "logout") or .type == "grant.revoked" or .type == "token.revoked" or .type == "credential.revoked" or .type == "credential.revoke_failed""#;
    /// Access that was asked for.
    Requests = "requests", "Access requests", r#".type == "request.created""#;
    /// Approvals and denials.
    Answers = "answers", "Answers to access requests (approved, denied)",
        r#".type == "request.approved" or .type == "request.denied""#;
    /// Requests that ended otherwise.
    RequestEnds = "request_ends", "Requests withdrawn, timed out or voided",
        r#".type == "request.withdrawn" or .type == "request.timed_out" or .type == "request.voided""#;
    /// Grants.
    Grants = "grants", "Temporary grants that became active", r#".type == "grant.active""#;
    /// Changes of grants.
    GrantChanges = "grant_changes", "Grants scheduled or extended",
        r#".type == "grant.scheduled" or .type == "grant.extended""#;
    /// Ends of grants.
    GrantEnds = "grant_ends", "Grants ended (expired, dropped, revoked)",
        r#".type == "grant.expired" or .type == "grant.dropped" or .type == "grant.revoked""#;
    /// Uses of grants.
    GrantUses = "grant_uses", "Requests allowed because of a grant", r#".type == "decision.allow" and .grant != null"#;
    /// Grants without approval, to be reviewed afterwards.
    EmergencyGrants = "emergency_grants", "Emergency grants (approval replaced by later review)",
        r#".type == "grant.active" and .data.emergency == true"#;
    /// Openings of the emergency path.
    BreakGlass = "break_glass", "Openings of the emergency path", r#".type == "breakglass.opened""#;
    /// What was done under them.
    BreakGlassUses = "break_glass_uses", "Requests allowed over the emergency path",
        r#".type == "decision.allow" and .actor.kind == "BreakGlass""#;
    /// Failed openings.
    BreakGlassRefusals = "break_glass_refusals", "Failed attempts at the emergency path",
        r#".type == "breakglass.refused""#;
    /// Ends of openings.
    BreakGlassEnds = "break_glass_ends", "Openings of the emergency path ended",
        r#".type == "breakglass.closed" or .type == "breakglass.expired""#;
    /// Reviews.
    BreakGlassReviews = "break_glass_reviews", "Reviews of openings and emergency grants",
        r#".type == "breakglass.reviewed""#;
    /// Drills.
    Drills = "drills", "Drills of the emergency path", r#".type == "breakglass.drilled""#;
    /// Bars.
    Locks = "locks", "Locks set and lifted", r#".type == "lock.set" or .type == "lock.cleared""#;
    /// Policies.
    PolicyChanges = "policy_changes", "Policies put in force or refused at load",
        r#".type == "policy.loaded" or .type == "policy.refused""#;
    /// Keys.
    KeyChanges = "key_changes", "Signing keys, log keys and custodians changed",
        r#".type == "key.changed" or .type == "audit.log_opened" or .type == "breakglass.custodians_changed""#;
    /// Readings of the record.
    AuditAccess = "audit_access", "Readings and exports of the record",
        r#".type == "audit.read" or .type == "audit.exported""#;
    /// What became of the record itself.
    AuditUpkeep = "audit_upkeep", "Pruning, erasure, merged spools and losses of the record, and streams of it that stood still",
        r#".type == "audit.pruned" or .type == "audit.erased" or .type == "audit.spool_merged" or .type == "record.lost" or .type == "audit.stream_stalled" or .type == "audit.stream_recovered" or .type == "audit.stream_gap""#;
    /// People who were erased.
    Erasures = "erasures", "People erased from the record", r#".type == "audit.person_erased""#;
    /// Access reviews.
    AccessReviews = "access_reviews", "Access reviews: begun, decided, closed, and what became of decisions",
        r#".type == "review.started" or .type == "review.decided" or .type == "review.closed" or .type == "review.outstanding" or .type == "review.rule_removed""#;
    /// Starts and stops.
    NodeRuns = "node_runs", "Starts and stops of gateway nodes",
        r#".type == "node.started" or .type == "node.stopped""#;
    /// Clock steps.
    ClockSteps = "clock_steps", "Steps of a node's clock", r#".type == "clock.stepped""#;
    /// Undelivered notices.
    NoticesDead = "notices_dead", "Notices that could not be delivered", r#".type == "notice.dead""#;
}

impl TryFrom<String> for Population {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|population| population.name() == text);
        found.ok_or_else(|| format!("`{text}` is no population that is computed"))
    }
}

/// Gives `each` every population that the event belongs to, beside [`Population::Events`].
///
/// Where only the clear part of an event is left, it belongs to those that follow from its type.
pub fn belongs(seen: &Seen<'_>, mut each: impl FnMut(Population)) {
    use EventType as T;
    use Population as P;
    match seen.leaf.kind {
        T::DecisionAllow => {
            each(P::Decisions);
            if seen.text("/grant").is_some() {
                each(P::GrantUses);
            }
            if seen.text("/actor/kind") == Some(PrincipalKind::BreakGlass.name()) {
                each(P::BreakGlassUses);
            }
        }
        T::DecisionDeny => {
            each(P::Decisions);
            each(P::Refusals);
            if seen.is_bad_credential() {
                each(P::SignInFailures);
            }
        }
        T::DecisionDenyCounted => each(P::RefusalsCounted),
        T::ExchangeEnded => each(P::Exchanges),
        T::SessionStart => each(P::SignIns),
        T::SignInFailed | T::ExchangeRefused => each(P::SignInFailures),
        T::SessionEnd => {
            each(P::SessionEnds);
            if seen.is_withdrawn_session() {
                each(P::Withdrawals);
            }
        }
        T::SessionGroups => each(P::GroupChanges),
        T::CredentialIssued | T::SessionRenewed => each(P::Certificates),
        T::TokenIssued => each(P::Tokens),
        T::TokenRevoked | T::CredentialRevoked | T::CredentialRevokeFailed => each(P::Withdrawals),
        T::RequestCreated => each(P::Requests),
        T::RequestApproved | T::RequestDenied => each(P::Answers),
        T::RequestWithdrawn | T::RequestTimedOut | T::RequestVoided => each(P::RequestEnds),
        T::GrantActive => {
            each(P::Grants);
            if seen.is_emergency() {
                each(P::EmergencyGrants);
            }
        }
        T::GrantScheduled | T::GrantExtended => each(P::GrantChanges),
        T::GrantExpired | T::GrantDropped => each(P::GrantEnds),
        T::GrantRevoked => {
            each(P::GrantEnds);
            each(P::Withdrawals);
        }
        T::BreakGlassOpened => each(P::BreakGlass),
        T::BreakGlassRefused => each(P::BreakGlassRefusals),
        T::BreakGlassClosed | T::BreakGlassExpired => each(P::BreakGlassEnds),
        T::BreakGlassReviewed => each(P::BreakGlassReviews),
        T::BreakGlassDrilled => each(P::Drills),
        T::LockSet | T::LockCleared => each(P::Locks),
        T::PolicyLoaded | T::PolicyRefused => each(P::PolicyChanges),
        T::KeyChanged | T::AuditLogOpened | T::BreakGlassCustodiansChanged => each(P::KeyChanges),
        T::AuditRead | T::AuditExported => each(P::AuditAccess),
        T::AuditPruned
        | T::AuditErased
        | T::AuditSpoolMerged
        | T::RecordLost
        | T::AuditStreamStalled
        | T::AuditStreamRecovered
        | T::AuditStreamGap => each(P::AuditUpkeep),
        T::AuditPersonErased => each(P::Erasures),
        T::ReviewStarted | T::ReviewDecided | T::ReviewClosed | T::ReviewOutstanding | T::ReviewRemoved => {
            each(P::AccessReviews);
        }
        T::NodeStarted | T::NodeStopped => each(P::NodeRuns),
        T::ClockStepped => each(P::ClockSteps),
        T::NoticeDead => each(P::NoticesDead),
        // Their drill and their dead notice are counted.
        T::BreakGlassChannelsTested | T::BreakGlassDrillOverdue | T::NoticeRetried => {}
    }
}
