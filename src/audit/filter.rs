//! Which events of the record are wanted: by time, service, actor, type, grant and session.

use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::leaf::Clear;
use super::leaf_read::Leaf;
use crate::model::{GrantId, ServiceName, SessionId, Timestamp, UserRef};

/// What an event must be to be wanted. Empty: all are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
    /// Of this type.
    pub kind: Option<EventType>,
    /// About this service.
    pub service: Option<ServiceName>,
    /// By this actor, by pseudonym.
    pub actor: Option<UserRef>,
    /// Belonging to this grant.
    pub grant: Option<GrantId>,
    /// Of this session.
    pub session: Option<SessionId>,
}

/// A filter as it is written; its texts are those of the ids and names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterText {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `decision.deny`
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `ops-api`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `usr_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// `grt_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// `ses_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl FilterText {
    /// What is asked for, by the names that the API takes.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { from, to, kind, service, actor, grant, session } = self;
        let parts = [
            ("from", from),
            ("to", to),
            ("type", kind),
            ("service", service),
            ("actor", actor),
            ("grant", grant),
            ("session", session),
        ];
        parts.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

impl Filter {
    /// Whether everything is wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn wants(&self, clear: &Clear) -> bool {
        self.wants_clear(clear.time, clear.kind, clear.service.as_ref())
            && self.actor.is_none_or(|actor| clear.actor == Some(actor))
            && self.grant.is_none_or(|grant| clear.grant == Some(grant))
            && self.session.is_none_or(|session| clear.session == Some(session))
    }

    /// Whether leaves alone don't show which events are wanted.
    #[must_use]
    pub const fn is_of_content(&self) -> bool {
        self.actor.is_some() || self.grant.is_some() || self.session.is_some()
    }

    /// Whether an event of which only the leaf is known would certainly have been wanted.
    #[must_use]
    pub fn surely_wants(&self, leaf: &Leaf) -> bool {
        self.wants_clear(leaf.time, leaf.kind, leaf.service.as_ref()) && !self.is_of_content()
    }

    fn wants_clear(&self, time: Timestamp, kind: EventType, service: Option<&ServiceName>) -> bool {
        self.from.is_none_or(|from| time >= from)
            && self.to.is_none_or(|to| time < to)
            && self.kind.is_none_or(|wanted| wanted == kind)
            && self.service.as_ref().is_none_or(|wanted| service == Some(wanted))
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> FilterText {
        FilterText {
            from: self.from.map(|time| time.to_string()),
            to: self.to.map(|time| time.to_string()),
            kind: self.kind.map(|kind| kind.name().to_owned()),
            service: self.service.as_ref().map(|name| name.as_str().to_owned()),
            actor: self.actor.map(|id| id.to_string()),
            grant: self.grant.map(|id| id.to_string()),
            session: self.session.map(|id| id.to_string()),
        }
    }

    /// Reads what is written.
    ///
    /// # Errors
    /// Names the field that can't be read, and how it is written.
    pub fn parse(text: &FilterText) -> Result<Self, &'static str> {
        fn read<T, E>(
            text: Option<&String>,
            read: impl Fn(&str) -> Result<T, E>,
            what: &'static str,
        ) -> Result<Option<T>, &'static str> {
            text.map(|text| read(text)).transpose().map_err(|_| what)
        }
        let time = |text: &str| Timestamp::parse(text).ok_or(());
        Ok(Self {
            from: read(text.from.as_ref(), time, "`from` is a time, 2026-11-22T10:15:00Z")?,
            to: read(text.to.as_ref(), time, "`to` is a time, 2026-11-22T10:15:00Z")?,
            kind: read(
                text.kind.as_ref(),
                |text| EventType::parse(text).ok_or(()),
                "`type` is a type of event, such as `decision.deny`",
            )?,
            service: read(text.service.as_ref(), ServiceName::parse, "`service` is the name of a service")?,
            actor: read(
                text.actor.as_ref(),
                UserRef::parse,
                "`actor` is a pseudonym `usr_…`, a principal `User::\"<provider>|<subject>\"`, or an opening `brk_…`",
            )?,
            grant: read(text.grant.as_ref(), GrantId::parse, "`grant` is a grant, `grt_…`")?,
            session: read(text.session.as_ref(), SessionId::parse, "`session` is a session, `ses_…`")?,
        })
    }
}
