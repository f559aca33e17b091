//! `[breakglass]`: who can open the door on the worst day, and for how long.

use std::path::PathBuf;

use crate::identity::breakglass::settings::{InForce, OpeningRules, changed_since_recorded, read_custodians};
use crate::model::Ttl;
use crate::model::breakglass::{DURATION_MAX, SIGNATURES_MAX};

use super::problem::Place;
use super::section::Section;

/// The emergency path of an installation.
#[derive(Debug, Clone)]
pub struct BreakGlass {
    /// `custodians`: an OpenSSH allowed_signers file.
    pub custodians: PathBuf,
    /// What challenges are judged by: the file as read, `threshold`, `max_duration`, the domain.
    pub rules: OpeningRules,
    /// `review_blocks`: an opening that nobody has reviewed makes the next one need one custodian more.
    pub review_blocks: bool,
    /// `drill_every`: how old the last drill may be.
    pub drill_every: Ttl,
}

impl BreakGlass {
    /// What a node goes by.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        InForce { rules: self.rules.clone(), review_blocks: self.review_blocks, drill_every: self.drill_every }
    }
}

/// How old the last drill may be where nothing is said.
const DRILL_EVERY: Ttl = Ttl::hours(24 * 90);

pub(in crate::config) fn read(mut section: Section<'_>, domain: Option<&str>) -> Option<BreakGlass> {
    let given = section.has("custodians") || section.has("threshold") || section.has("max_duration");
    let file = section.path("custodians");
    let most = u32::try_from(SIGNATURES_MAX).unwrap_or(2);
    let threshold = section.count("threshold", 2, 2..=most);
    let duration_max = section.ttl("max_duration", DURATION_MAX, Ttl::seconds(1)..=DURATION_MAX);
    let review_blocks = section.flag("review_blocks");
    let drill_every = section.ttl("drill_every", DRILL_EVERY, Ttl::hours(1)..=Ttl::hours(24 * 366));
    if !given && *section.place() == Place::Whole {
        return None;
    }
    for key in ["custodians", "threshold"] {
        if !section.has(key) {
            section.missing(key, "name the custodians' allowed_signers file, and how many of them must sign");
        }
    }
    let file = file?;
    let help = "one line a custodian, `NAME ssh-ed25519 AAAA…`, as ssh-keygen(1) has it under ALLOWED SIGNERS";
    let custodians = match read_custodians(&file) {
        Ok(custodians) => custodians,
        Err(message) => {
            section.error("custodians", message, help);
            return None;
        }
    };
    let count = custodians.count();
    if usize::try_from(threshold).unwrap_or(usize::MAX) > count {
        let message = format!("`breakglass.threshold` is {threshold}, and there are {count} custodians");
        section.error("threshold", message, "name more custodians, or ask for fewer of them");
        return None;
    }
    if review_blocks && usize::try_from(threshold).is_ok_and(|threshold| threshold == count) {
        let message =
            format!("`breakglass.review_blocks` asks for one custodian more than {threshold}, and there are {count}");
        let help = "name one more, or nothing opens while an opening waits for its review";
        section.ledger().warning(&section.place_of("review_blocks"), message, Some(help.to_owned()));
    }
    let rules = OpeningRules { custodians, threshold, duration_max, trust_domain: domain?.to_owned() };
    if let Some(changed) = changed_since_recorded(section.folder(), &rules) {
        let message = format!("custodians are not those that were last put on record: {changed}");
        let help = "if nobody of you changed them, somebody did; the change goes on record at the next start or reload";
        section.ledger().warning(&section.place_of("custodians"), message, Some(help.to_owned()));
    }
    Some(BreakGlass { custodians: file, rules, review_blocks, drill_every })
}
