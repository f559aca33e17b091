//! Sessions: started, renewed, regrouped, ended, told of.
//!
//! What happens when a session ends: 1. the guarded update finds it live and counts its version up;
//! 2. event and feed entry commit with it; 3. this node's directory ends it, which cuts its open
//! streams; 4. other nodes do the same when they read the feed. INVARIANT: of two that end one
//! session, one gets the row and writes the event.
//!
//! What happens when a browser session ends while a command line is signed in from it: who starts
//! the new session holds the row of the old one (`Tx::session_hold`), and who ends all sessions of
//! a sign-in looks again until none is left. So either the old one is found ended, or the new one is
//! found and ended too.
//!
//! ORDER: whoever changes sessions takes their rows first, by their ids, then what is kept of the person,
//! and the counter of the feed last. Everybody needs the counter, and who has it waits for no row: so a
//! logout and a renewal of the same moment wait for each other and don't deadlock.

mod end;
pub mod idle;
mod regroup;
mod start;
mod view;

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::model::{SessionId, Timestamp};

use super::desk::Desk;

pub use end::{RevokeError, end, end_by_link, end_by_logout, end_many_within, end_within, logged_out, obey, revoke};
pub use regroup::groups_replace;
pub use start::{NewSession, StartError, Started, enter, renew, renew_within, start, start_within};
pub use view::{Whose, fetch, fetch_by_cookie, list, sweep};

fn event(desk: &Desk, kind: EventType, actor: &Actor, id: SessionId, now: Timestamp) -> Event {
    let mut event = Event::new(desk.event_id(now), now, kind, Outcome::Success);
    event.actor = actor.clone();
    event.resource = Some(id.to_string().into());
    event
}
