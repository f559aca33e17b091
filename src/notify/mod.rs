//! Telling people what happened: webhooks and mail, derived from committed events.
//!
//! 1. `delivery` reads on in the record for each channel and keeps a notice of every event that the
//!    channel wants (`pattern`), in the transaction that moves the channel's cursor.
//! 2. What is due is claimed, made into a `notice` from the event as it stands, and sent by
//!    `webhook` (signed by `signature`, or in the form that chat programs read) or `mail`.
//!    `audience` says who beside fixed addresses a request waits for; each of them gets a mail.
//! 3. What was not taken is tried again with growing pauses, and given up on record.
//! 4. `alert` tells at once what can't wait for the database: the emergency path.
//!
//! INVARIANTS: nothing on the data path and no control operation waits for a notice. A notice names
//! only what `notice` lists, so no token or secret can be in it. The id of a message is the id of
//! its event: who is told twice can see that it is the same.

pub mod alert;
pub mod audience;
pub mod delivery;
pub mod mail;
pub mod notice;
pub mod pattern;
pub mod settings;
pub mod signature;
pub mod webhook;

pub use alert::{Alert, Alerts};
pub use audience::Audience;
pub use delivery::{Channel, Channels, Counted, Tried};
pub use notice::Notice;
pub use pattern::EventPattern;
pub use settings::{Format, NotifySettings, SmtpSettings, SmtpTls, WebhookSettings};
