//! Which policies each node has in force: whether a change has arrived everywhere. It stands in the
//! record, since every load and every refusal to load is an event of its node.

use crate::audit::EventType;
use crate::audit::filter::{Filter, FilterText};
use crate::model::{EventId, NodeId, Timestamp};

use super::audit::read::{self, ReadError};
use super::caller::Caller;
use super::desk::Desk;

/// Events of a page, and pages that are looked through: a node that loaded nothing in so many loads
/// of the others has been away for long.
const PAGE: u32 = 200;
const PAGES_MAX: usize = 20;

/// What one node has in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePolicies {
    /// The node.
    pub node: NodeId,
    /// The version; none where its last load is older than what was looked through.
    pub version: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it last refused files that it was to load, if that was after.
    pub refused_at: Option<Timestamp>,
    /// Whether it is the version that is in force here.
    pub agrees: bool,
}

/// What every node has in force, in the order in which the nodes first came.
///
/// # Errors
/// When the caller may not read the record, or the database is away.
pub async fn list(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<Vec<NodePolicies>, ReadError> {
    read::admit(desk, caller, "policies in force", now).await?;
    let here = desk.policies.load().version().to_string();
    let mut found: Vec<NodePolicies> = Vec::new();
    for entry in desk.store.log_list().await? {
        let node = *entry.log.node();
        found.push(NodePolicies { node, version: None, since: None, refused_at: None, agrees: false });
    }
    newest(
        desk,
        EventType::PolicyLoaded,
        &mut found,
        |known| known.since.is_some(),
        |known, at, version| {
            known.agrees = version.as_deref() == Some(&*here);
            (known.version, known.since) = (version, Some(at));
        },
    )
    .await?;
    newest(
        desk,
        EventType::PolicyRefused,
        &mut found,
        |known| known.refused_at.is_some(),
        |known, at, _| {
            known.refused_at = Some(at);
        },
    )
    .await?;
    for known in &mut found {
        known.refused_at = known.refused_at.filter(|at| known.since.is_none_or(|since| *at > since));
    }
    Ok(found)
}

/// Tells `note` of the newest event of this type of each node of which `has` knows none yet.
async fn newest(
    desk: &Desk,
    kind: EventType,
    found: &mut [NodePolicies],
    has: impl Fn(&NodePolicies) -> bool,
    mut note: impl FnMut(&mut NodePolicies, Timestamp, Option<String>),
) -> Result<(), ReadError> {
    let text = FilterText { kind: Some(kind.name().to_owned()), ..FilterText::default() };
    // The name of a type is always one that a filter takes.
    let Ok(filter) = Filter::parse(&text) else { return Ok(()) };
    let mut before: Option<EventId> = None;
    for _ in 0..PAGES_MAX {
        let page = desk.store.event_search(&filter, before, PAGE).await?;
        for event in &page {
            if let Some(known) = found.iter_mut().find(|known| known.node == event.log && !has(known)) {
                note(known, event.clear().time, event.text("/policy_version").map(str::to_owned));
            }
        }
        before = page.last().map(|event| event.clear().id);
        let whole = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        if whole || found.iter().all(&has) {
            break;
        }
    }
    Ok(())
}
