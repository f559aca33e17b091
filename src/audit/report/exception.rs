//! What stands out: exceptions that somebody has to explain, and what is worth a look though it is how
//! things should go.

use serde::Deserialize;

use super::seen::Cited;

/// Rows of one kind that a report lists; all are counted.
pub const ROWS_MAX: usize = 50;
/// Failed sign-ins of one account or address in one hour that stand out (PCI DSS 8.3.4: ten).
pub const FAILURES_PER_HOUR: u64 = 10;
/// How many people review an opening or an emergency grant.
pub const REVIEWERS: usize = 2;
/// Standing access that was not used for so many days stands out.
pub const UNUSED_DAYS: u32 = 90;
/// How old the last drill may be, in days.
pub const DRILL_DAYS: u32 = 90;
/// How long content must be kept, in days (PCI DSS 10.5.1: twelve months).
pub const RETENTION_DAYS: u32 = 365;

/// Whether it weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Somebody has to explain it.
    Exception,
    /// The control at work, or something to know.
    Notable,
}

impl Weight {
    /// One word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Exception => "exception",
            Self::Notable => "notable",
        }
    }
}

macro_rules! exceptions {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $weight:ident, $title:literal, $about:literal;)*) => {
        /// A kind of thing that stands out.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub enum Exception { $($(#[$doc])* $name,)* }

        impl Exception {
            /// All of them, in the order in which reports show them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in the mapping and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether it weighs.
            #[must_use]
            pub const fn weight(self) -> Weight {
                match self { $(Self::$name => Weight::$weight,)* }
            }

            /// What it is, for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// By which rule it is found.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

exceptions! {
    /// Many failures of one account or address.
    FailedSignIns = "failed_sign_ins", Exception, "Failed sign-ins over the threshold",
        "One account or address failed ten times or more within one clock hour (UTC). What was refused beyond \
         the recorded rate is in the summaries and has no address.";
    /// Somebody approved what they asked for.
    SelfApproved = "self_approved", Exception, "Requests approved by who asked",
        "Requester and approver of an approval are the same account.";
    /// A grant with fewer approvals than its request needed.
    UnapprovedGrants = "unapproved_grants", Exception, "Grants without the approvals that were needed",
        "A grant other than an emergency became active and fewer different people than its request asked for \
         are on record as its approvers. Grants whose request is not in the period are not judged.";
    /// An emergency without its review.
    UnreviewedBreakGlass = "unreviewed_break_glass", Exception, "Openings not reviewed by two people",
        "An opening of the emergency path, of the period or of before it, has fewer than two reviewers on record \
         by the end of the period.";
    /// An emergency grant without its review.
    UnreviewedEmergencyGrants = "unreviewed_emergency_grants", Exception, "Emergency grants not reviewed by two people",
        "An emergency grant has fewer than two reviewers, other than its holder, on record by the end of the period.";
    /// A grant that nobody used.
    UnusedGrants = "unused_grants", Exception, "Grants that nobody used",
        "A grant became active and no allowed request names it by the end of the period.";
    /// Standing access that is not used.
    UnusedStanding = "unused_standing_access", Exception, "Standing access that was not used for 90 days",
        "A request to an action of a service was allowed without a grant, and the last such one lies 90 days \
         or more before the end of the period: of an account that signed in since, is not barred and was not \
         refused the same since; and, apart from that, of anybody. What was never used in the period is not \
         in the record: access reviews list every rule. Whether today's policies and the provider's groups \
         still allow it is theirs to say.";
    /// Credentials that outlived what they rest on.
    OrphanedCredentials = "orphaned_credentials", Exception, "Credentials that outlived what they rest on",
        "A certificate or token was issued under a session that had ended, lasts longer than its session or \
         than the grant that it names and was not withdrawn, or its holder is barred and the session was not \
         ended. The end of a session on record ends what was issued before it at every node, so that is not \
         listed: a service that checks tokens by itself may take one to its own end, 15 minutes at most. \
         Sessions begun before the period are judged by what is in it.";
    /// Rules that were to go.
    RemovalsOpen = "removals_open", Exception, "Rules that a review decided to remove and that are still there",
        "The latest event about a rule of an access review says that it is to be removed, and none since says \
         that it is gone from the policies. Removing it is the work of those who own the policy files; the \
         gateway notes when it is done, and reminds every week until then, so that a period of a week or \
         longer shows it.";
    /// Rules that nobody decided.
    ReviewsUndecided = "reviews_undecided", Exception, "Rules that were not decided in time",
        "An access review was due by the end of the period, or was closed, and rules of it have neither been \
         kept nor removed.";
    /// No drill.
    DrillOverdue = "drill_overdue", Exception, "Drill of the emergency path overdue",
        "There are events of the emergency path, and no successful drill is on record in the last 90 days of \
         the period.";
    /// Events were lost.
    RecordsLost = "records_lost", Exception, "Records lost in buffered mode",
        "A node counted decisions of a service with buffered recording that it could not keep.";
    /// Content went too early.
    PrunedEarly = "pruned_early", Exception, "Content pruned before twelve months",
        "Only the leaf of an event is left although it is younger than 365 days.";
    /// A credential that could not be withdrawn.
    RevocationFailed = "revocation_failed", Exception, "Credentials that could not be withdrawn",
        "Withdrawing a credential failed and was put on record as failed.";
    /// A notice that nobody got.
    DeadNotices = "dead_notices", Exception, "Notices that nobody got",
        "A notice to people was given up after its retries.";
    /// A receiver of the record that did not get it.
    StreamsBehind = "streams_behind", Exception, "Streams of the record that stood still or have a gap",
        "A stream's receiver took nothing for too long, or events were pruned before they were sent to it.";
    /// A clock that jumped.
    ClockStepped = "clock_stepped", Exception, "Clocks that stepped",
        "A node's clock stepped, so that times around it need care.";
    /// Nothing of an emergency path.
    NoEmergencyPath = "no_emergency_path", Notable, "No sign of an emergency path",
        "No event of the emergency path is on record, not even a drill: it is not configured, or it was neither \
         used nor tried in the period.";
    /// Policies that did not load.
    PoliciesRefused = "policies_refused", Notable, "Policies refused at load",
        "Policies with a fault were refused, and those before stayed in force.";
    /// Requests that were denied.
    RequestsDenied = "requests_denied", Notable, "Access requests denied", "An approver said no.";
    /// Sessions that were ended by somebody.
    SessionsRevoked = "sessions_revoked", Notable, "Sessions ended by somebody else than their owner",
        "Revoked, ended by the provider, or ended because a refresh token was used twice.";
    /// Grants that were revoked.
    GrantsRevoked = "grants_revoked", Notable, "Grants revoked", "A grant was ended by somebody else than its holder.";
    /// Locks that are not lifted.
    LocksStanding = "locks_standing", Notable, "Locks set in the period and still in force",
        "Whoever is locked is barred from everything. Locks set before the period are not seen.";
    /// The record was read or left the installation.
    AuditLeft = "audit_left", Notable, "The record was read or exported",
        "Each reading and export of the record, with who did it.";
    /// Custodians changed.
    CustodiansChanged = "custodians_changed", Notable, "Custodians of the emergency path changed",
        "Custodians or threshold are not those that were recorded before.";
    /// Content that is gone.
    ContentGone = "content_gone", Notable, "Events without their whole content",
        "Pruned when their time was over, or personal values erased; their leaves and proofs stay.";
    /// People who were erased.
    PeopleErased = "people_erased", Notable, "People erased from the record",
        "Each erasure of a person, with who erased, why, and what is kept by which rule. Values and their salts \
         are gone; leaves, proofs and the pseudonym stay.";
    /// A node that ended without saying so.
    UncleanStops = "unclean_stops", Notable, "Nodes that ended without saying so",
        "A node started while its log has no stop since its last start: a crash, a kill, or a lost machine.";
}

impl TryFrom<String> for Exception {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|exception| exception.name() == text);
        found.ok_or_else(|| format!("`{text}` is no exception that is computed"))
    }
}

/// What was found of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// How many.
    pub count: u64,
    /// For how many of them the rows stand.
    listed: u64,
    /// The first of them.
    pub rows: Vec<Row>,
}

/// One that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The event that shows it; none where it is that there is no event.
    pub event: Option<Cited>,
    /// What to know about it.
    pub note: String,
}

impl Found {
    /// Nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { count: 0, listed: 0, rows: Vec::new() }
    }

    /// Notes one that stands for `count`.
    pub fn add(&mut self, count: u64, event: Option<Cited>, note: impl Into<String>) {
        self.count += count;
        if self.rows.len() < ROWS_MAX {
            self.listed += count;
            self.rows.push(Row { event, note: note.into() });
        }
    }

    /// How many are counted beyond those that are listed.
    #[must_use]
    pub const fn unlisted(&self) -> u64 {
        self.count.saturating_sub(self.listed)
    }
}
