//! The export: events of all logs with everything that proves them, as a stream of lines.
//!
//! 1. `begin` takes each log's newest checkpoint: the export is of exactly what they are over.
//! 2. It puts together the evidence: statement, checkpoints, installation log, hashes of what lies
//!    before and after.
//! 3. It notes how much is gone, so that nobody can take away more and call it pruned, erased or not wanted.
//! 4. `next` gives the lines, page by page, log by log.
//!
//! INVARIANT: memory holds one page. What the filter leaves out within a log's range is there with its
//! leaf, so that the range still leads to the log's root.

use std::collections::{BTreeSet, VecDeque};

use crate::audit::checkpoint::LogName;
use crate::audit::evidence::{Evidence, Extent, Gone, RangeProof, StatementText};
use crate::audit::filter::Filter;
use crate::audit::leaf_read::Leaf;
use crate::audit::line::{Withheld, line_of, withheld_line};
use crate::audit::merkle::cover;
use crate::audit::note::NoteKey;
use crate::audit::{Event, EventType, Outcome};
use crate::control::caller::Caller;
use crate::control::desk::Desk;
use crate::model::{NodeId, Timestamp, Ttl};
use crate::policy::InstallationAction;
use crate::store::{Log, Recorded, Store, StoreError};

use super::read::ReadError;
use super::root::Root;
use super::tree::node_hashes;

/// Events that are read at a time.
const PAGE: u32 = 500;
/// How long an export may be on its way while old events go on being pruned.
const UNDER_WAY: Ttl = Ttl::hours(24);
/// People who were erased that a statement names at most, being one note: of more it does not say who they are.
const PEOPLE_MAX: u32 = 1_000;

/// An export under way.
pub struct Export {
    store: Store,
    filter: Filter,
    logs: VecDeque<(Log, u64, u64)>,
    page: u32,
    /// Whether the columns beside a leaf are compared with it, too.
    columns: bool,
}

/// What an export begins with.
pub struct Begun {
    /// What is said of it, not signed yet.
    pub statement: StatementText,
    /// Everything beside the events; its statement is empty.
    pub evidence: Evidence,
    /// The events.
    pub export: Export,
}

/// Begins an export for the caller, and puts that on record.
///
/// # Errors
/// When no policy lets them, or the database is away.
pub async fn begin_for(
    desk: &Desk,
    caller: &Caller,
    filter: &Filter,
    format: &str,
    now: Timestamp,
) -> Result<(Evidence, Export), ReadError> {
    let action = InstallationAction::ExportAudit;
    if !caller.may(desk, action, now) {
        return Err(ReadError::Denied(action));
    }
    let root = Root::open(&desk.store, &desk.sealer).await?;
    let Begun { statement, mut evidence, export } = begin(&desk.store, root.key(), filter, now).await?;
    evidence.statement = statement.sign(root.signer());
    let event = exported(desk, caller, now);
    let lines: u64 = statement.logs.iter().map(|extent| extent.to - extent.from).sum();
    let filter = serde_json::to_value(&statement.filter).unwrap_or_default();
    let event = event.with("filter", filter).with("format", format).with("lines", lines);
    let mut tx = desk.store.begin().await?;
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok((evidence, export))
}

/// Leaves of a log that are missing of an export that broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The log.
    pub log: NodeId,
    /// The first one.
    pub from: u64,
    /// The first that is not missing any more.
    pub to: u64,
}

/// Goes on with an export that broke off, for the caller, and puts that on record. What it is of, its first
/// line said; the checkpoints that it has lead to the same leaves for ever.
///
/// # Errors
/// When no policy lets them, a log or leaf is not here, or the database is away.
pub async fn go_on_for(
    desk: &Desk,
    caller: &Caller,
    filter: &Filter,
    missing: &[Missing],
    now: Timestamp,
) -> Result<Export, ReadError> {
    let action = InstallationAction::ExportAudit;
    if !caller.may(desk, action, now) {
        return Err(ReadError::Denied(action));
    }
    let known = desk.store.log_list().await?;
    let mut logs = VecDeque::with_capacity(missing.len());
    for part in missing {
        let entry = known.iter().find(|entry| *entry.log.node() == part.log);
        let entry = entry.filter(|entry| u64::try_from(entry.size).is_ok_and(|size| part.to <= size));
        logs.push_back((entry.ok_or(ReadError::OtherLog)?.log, part.from, part.to));
    }
    let lines: u64 = missing.iter().map(|part| part.to - part.from).sum();
    let filter_text = serde_json::to_value(filter.text()).unwrap_or_default();
    let event = exported(desk, caller, now).with("filter", filter_text).with("lines", lines).with("resumed", true);
    let mut tx = desk.store.begin().await?;
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok(Export::of(&desk.store, filter, logs))
}

/// The event of an export.
fn exported(desk: &Desk, caller: &Caller, now: Timestamp) -> Event {
    let mut event = Event::new(desk.event_id(now), now, EventType::AuditExported, Outcome::Success);
    event.actor = caller.actor();
    event.action = Some(InstallationAction::ExportAudit.name().into());
    event.resource = Some("Installation::\"doorward\"".into());
    event
}

/// Begins an export of what the newest checkpoints are over.
///
/// # Errors
/// When the database is away, or has no installation log yet.
pub async fn begin(store: &Store, root: &NoteKey, filter: &Filter, now: Timestamp) -> Result<Begun, ReadError> {
    // ORDER: the installation log first: a log that it names a moment later is not missing then.
    let installation = store.checkpoint_last(LogName::Installation).await?.ok_or(ReadError::NotFound)?;
    let statements = store.statement_list(installation.size).await?;
    let named: Vec<String> = statements.iter().filter_map(|leaf| named_by(leaf)).collect();
    let mut checkpoints = vec![installation.note];
    let (mut extents, mut proofs, mut logs) = (Vec::new(), Vec::new(), VecDeque::new());
    for entry in store.log_list().await? {
        let name = LogName::Node(*entry.log.node());
        if !named.contains(&name.to_string()) {
            continue;
        }
        let Some(head) = store.checkpoint_last(name).await? else { continue };
        let (from, to) = if filter.from.is_none() && filter.to.is_none() {
            (0, head.size)
        } else {
            let bounds = store.event_bounds(entry.log, filter.from, filter.to).await?;
            bounds.map_or((head.size, head.size), |(first, last)| (first.min(head.size), (last + 1).min(head.size)))
        };
        let left = node_hashes(store, name, &cover(0, from)).await?;
        let right = node_hashes(store, name, &cover(to, head.size)).await?;
        let filtered = match filter.is_of_content() {
            true => Some((to - from).saturating_sub(store.event_count_shown(entry.log, (from, to), filter).await?)),
            false => None,
        };
        extents.push(Extent { log: name.to_string(), size: head.size, from, to, filtered });
        proofs.push(RangeProof::new(*entry.log.node(), &left, &right));
        checkpoints.push(head.note);
        logs.push_back((entry.log, from, to));
    }
    let gone = gone(store, &extents, Some(now)).await?;
    let mut statement = StatementText::new(now, filter, root, extents);
    statement.installation = Some(installation.size);
    statement.gone = Some(gone);
    let evidence = Evidence { statement: String::new(), checkpoints, installation: statements, proofs };
    Ok(Begun { statement, evidence, export: Export::of(store, filter, logs) })
}

/// What is gone of the record, as far as these parts of it could show. Where a server goes on with it, which gives
/// numbers to what was committed a moment ago, `running` is the time there, and more may go meanwhile.
///
/// # Errors
/// When the database is away.
pub async fn gone(store: &Store, extents: &[Extent], running: Option<Timestamp>) -> Result<Gone, ReadError> {
    let logs = store.log_list().await?;
    let erased = store.erasure_sum().await?;
    let mut gone = Gone { values: erased.values, ..Gone::default() };
    let is_kept = |log: NodeId, seq| extents.iter().any(|it| it.log == log.to_string() && seq < it.size);
    let before = store.pruned_before(is_kept).await?;
    gone.pruned_before = before.map(|before| before.plus(running.map_or(Ttl::ZERO, |_| UNDER_WAY)).to_string());
    let (most, mut people_ahead) = (usize::try_from(PEOPLE_MAX).unwrap_or(usize::MAX), BTreeSet::new());
    for entry in logs {
        let name = entry.log.node().to_string();
        let extent = extents.iter().find(|extent| extent.log == name);
        let size = extent.map_or(0, |extent| extent.size);
        let (values, people) = store.erased_ahead(entry.log, size, running).await?;
        gone.values_ahead += values;
        people_ahead.extend(people);
        // Counting reads the whole log: not where nothing was erased as a whole.
        if let Some(extent) = extent.filter(|_| erased.events > 0) {
            gone.events += store.event_count_erased(entry.log, (extent.from, extent.to)).await?;
        }
    }
    // What is about to go may go while it is read.
    gone.events += erased.events_due;
    // ORDER: after the events that tell of it, so that nobody is among those and not among these.
    let people = store.erasure_people(PEOPLE_MAX + 1).await?;
    gone.people = (people.len() <= most).then_some(people);
    gone.people_ahead = (people_ahead.len() <= most).then(|| people_ahead.into_iter().collect());
    Ok(gone)
}

fn named_by(leaf: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(leaf).ok()?;
    value.get("name")?.as_str().map(str::to_owned)
}

impl Export {
    fn of(store: &Store, filter: &Filter, logs: VecDeque<(Log, u64, u64)>) -> Self {
        Self { store: store.clone(), filter: filter.clone(), logs, page: PAGE, columns: false }
    }

    /// From now on an event whose columns are not what its leaf says gives a line that says so.
    pub const fn compare_columns(&mut self) {
        self.columns = true;
    }

    /// The next lines; none after the last.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, StoreError> {
        while let Some((log, from, to)) = self.logs.front().copied() {
            let page = match from < to {
                true => match self.store.event_range(log, from, to, self.page).await {
                    // Once more alone, so that whoever reads knows which of them can't be read.
                    Err(_) if self.page > 1 => {
                        self.page = 1;
                        continue;
                    }
                    page => page?,
                },
                false => Vec::new(),
            };
            let Some(last) = page.last().and_then(|event| event.seq).and_then(|seq| u64::try_from(seq).ok()) else {
                self.logs.pop_front();
                continue;
            };
            if let Some((_, next, _)) = self.logs.front_mut() {
                *next = last + 1;
            }
            let lines = page.iter().filter_map(|event| self.line(event)).collect();
            return Ok(Some(lines));
        }
        Ok(None)
    }

    /// The line of an event; an event that was altered gives the line that shows it.
    fn line(&self, event: &Recorded) -> Option<String> {
        if self.columns
            && let Err(error) = event.verify()
        {
            // No line at all: whoever checks it finds that it can't be read.
            return Some(error.to_string());
        }
        let text = std::str::from_utf8(event.leaf.as_deref()?).ok()?;
        let leaf = Leaf::parse(text.as_bytes()).ok()?;
        let wanted = event.sealed.is_gone() || self.filter.wants(event.clear());
        Some(if wanted { line_of(text, &leaf, &event.sealed) } else { withheld_line(text, &leaf, Withheld::Filtered) })
    }
}
