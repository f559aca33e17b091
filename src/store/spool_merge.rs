//! From the spool into the database when that is back, step by step: the database takes an empty batch
//! again → the spool is read page by page from its beginning and each page is written like any batch, while
//! new decisions still go behind it → when no more than a page is left, new ones wait that moment →
//! `audit.spool_merged` tells of count, first and last id, and chain → the spool is emptied → events go to
//! the database again.
//!
//! INVARIANT: an id that is there already is left as it is, so a merge that broke off begins anew.

use std::pin::pin;

use data_encoding::HEXLOWER;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::record_writer::{Writer, beside};
use super::spool::{Page, Spool};
use super::spool_file::SpoolError;
use crate::audit::spool::Chain;
use crate::audit::{Event, EventType, Outcome, Sealed};
use crate::model::EventId;

/// What was merged so far.
#[derive(Default)]
struct Merged {
    count: u64,
    added: usize,
    first: Option<EventId>,
    last: Option<EventId>,
    start: Chain,
    chain: Chain,
}

impl Writer {
    /// Writes all of the spool into the database. Says whether events may go there again.
    pub(super) async fn merge(&self, cancel: &CancellationToken) -> bool {
        let Some(spool) = &self.shared.spool else {
            return true;
        };
        let (mut merged, mut from) = (Merged::default(), None);
        loop {
            let page = match spool.read(from).await {
                Ok(page) => page,
                Err(SpoolError::Altered { at }) => return self.give_up(spool, &merged, at).await,
                Err(error) => {
                    // The database is back and must not wait for a disk: `look_after_spool` comes back.
                    tracing::error!(%error, "the spool can't be merged yet");
                    self.note(error.to_string());
                    return true;
                }
            };
            from = Some(page.next);
            let last = page.last;
            if !self.merge_page(page, &mut merged).await {
                return false;
            }
            if last {
                break;
            }
            if cancel.is_cancelled() {
                return false;
            }
        }
        if merged.count > 0 {
            let event = self.sealing().seal(&self.merged_event(&merged));
            if self.merge_write(std::slice::from_ref(&event), true).await.is_none() {
                return false;
            }
            tracing::warn!(events = merged.count, added = merged.added, "the spool was merged into the record");
        }
        if let Err(error) = spool.clear().await {
            // It is emptied before it is used again; a second merge of the same would add nothing.
            tracing::error!(%error, "the spool was merged but could not be emptied yet");
        }
        true
    }

    async fn merge_page(&self, page: Page, merged: &mut Merged) -> bool {
        let Some(added) = self.merge_write(&page.events, page.last).await else {
            return false;
        };
        merged.start = page.start;
        merged.chain = page.next.chain;
        merged.count = page.next.count;
        merged.added += added;
        let id = |event: Option<&Sealed>| event.map(|event| event.clear().id);
        merged.first = merged.first.or(id(page.events.first()));
        merged.last = id(page.events.last()).or(merged.last);
        self.shared.lock().state.merged += u64::try_from(added).unwrap_or(0);
        true
    }

    /// While it writes, new decisions go to the spool, but for the last page: behind that there must
    /// be nothing.
    async fn merge_write(&self, events: &[Sealed], last: bool) -> Option<usize> {
        if events.is_empty() {
            return Some(0);
        }
        let settings = self.shared.settings;
        let limit = if last { settings.spool_after } else { settings.write_timeout };
        let mut write = pin!(timeout(limit, self.merge_once(events)));
        let done = loop {
            tokio::select! {
                done = &mut write => break done,
                () = self.shared.wake.notified(), if !last => {
                    if let Some(done) = beside(self.spool_due(false), write.as_mut()).await {
                        break done;
                    }
                }
            }
        };
        let error = match done {
            Ok(Ok(added)) => return Some(added),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database did not answer in time".to_owned(),
        };
        tracing::warn!(error, "the spool could not be merged yet");
        self.note(error);
        None
    }

    /// The rest of the spool can't be read: it is kept aside and told of as lost.
    async fn give_up(&self, spool: &Spool, merged: &Merged, at: u64) -> bool {
        let lost = spool.state().events.saturating_sub(merged.count);
        match spool.set_aside().await {
            Ok(kept) => tracing::error!(at, lost, kept = %kept.display(), "the spool can't be read back; it was kept"),
            Err(error) => tracing::error!(at, lost, %error, "the spool can't be read back, nor kept"),
        }
        self.shared.lock().lose(lost);
        true
    }

    fn merged_event(&self, merged: &Merged) -> Event {
        let text = |id: Option<EventId>| id.map(|id| id.to_string()).unwrap_or_default();
        // The same spool has the same event, however often it is merged: time of the last event,
        // then the chain.
        let mut bytes = *merged.last.unwrap_or(EventId::from_bytes([0; 16])).bytes();
        for (byte, of_chain) in bytes.iter_mut().skip(6).zip(merged.chain) {
            *byte = of_chain;
        }
        Event::new(EventId::from_bytes(bytes), self.clock.now(), EventType::AuditSpoolMerged, Outcome::Success)
            .with("count", merged.count)
            .with("added", merged.added)
            .with("first", text(merged.first))
            .with("last", text(merged.last))
            .with("start", HEXLOWER.encode(&merged.start))
            .with("chain", HEXLOWER.encode(&merged.chain))
    }
}
