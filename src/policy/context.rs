//! The circumstances of a question, and their Cedar context.
//!
//! Only what the policies of an action read is built (`reads.rs` errs towards building more), so
//! a policy set that asks nothing of the clock or the address costs nothing for them.

use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::{Context, ContextCreationError, RestrictedExpression};
use jiff::tz::TimeZone;

use super::reads::Reads;
use crate::model::{Session, Timestamp};

/// What is so whoever asks and whatever is asked.
#[derive(Debug, Clone)]
pub struct Ambient<'a> {
    /// Where the caller's connection comes from.
    pub address: IpAddr,
    /// The one `now` of the operation.
    pub now: Timestamp,
    /// The session, where there is one.
    pub session: Option<SessionContext<'a>>,
    /// The device shown at sign-in, where there is one.
    pub device: Option<DeviceContext<'a>>,
    /// The scopes of the token, where one was shown.
    pub token_scope: Option<&'a [String]>,
}

/// The session as policies see it.
#[derive(Debug, Clone)]
pub struct SessionContext<'a> {
    /// When it was started.
    pub created_at: Timestamp,
    /// When the person proved themselves to the provider.
    pub authenticated_at: Timestamp,
    /// How (`amr`, RFC 8176).
    pub amr: &'a [String],
}

/// The device as policies see it.
#[derive(Debug, Clone)]
pub struct DeviceContext<'a> {
    /// Its id.
    pub id: &'a str,
    /// Whether its certificate's CA is one of `[trust]`.
    pub trusted: bool,
}

impl<'a> Ambient<'a> {
    /// Of whoever has this session and shows no token of a narrower scope.
    #[must_use]
    pub fn of_session(session: &'a Session, address: IpAddr, now: Timestamp) -> Self {
        let (device, session) = (DeviceContext::of(session), SessionContext::of(session));
        Self { address, now, session: Some(session), device, token_scope: None }
    }
}

impl<'a> SessionContext<'a> {
    /// Of a session.
    #[must_use]
    pub fn of(session: &'a Session) -> Self {
        Self { created_at: session.created_at, authenticated_at: session.authenticated_at, amr: &session.amr }
    }
}

impl<'a> DeviceContext<'a> {
    /// The one that was shown when a session was started: no other than a trusted one is kept with it.
    #[must_use]
    pub fn of(session: &'a Session) -> Option<Self> {
        session.device.as_ref().map(|device| Self { id: &device.id, trusted: true })
    }
}

/// A request to a service, canonical.
#[derive(Debug, Clone)]
pub struct RequestContext<'a> {
    /// The method.
    pub method: &'a str,
    /// The canonical path: the one that is sent.
    pub path: &'a str,
    /// The host: lower case, no port.
    pub host: &'a str,
    /// What the route's `{name}`s matched.
    pub params: &'a [(Arc<str>, String)],
    /// The rest.
    pub ambient: Ambient<'a>,
}

type Pairs = Vec<(String, RestrictedExpression)>;

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn texts(values: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| text(value)))
}

/// A record of distinct, fixed keys. A repeated key can't happen; were it to, the context is refused.
fn record(pairs: Pairs) -> Option<RestrictedExpression> {
    RestrictedExpression::new_record(pairs).ok()
}

/// Why no context could be built.
#[derive(Debug)]
pub(super) struct Unbuilt(pub(super) String);

impl From<ContextCreationError> for Unbuilt {
    fn from(error: ContextCreationError) -> Self {
        Self(error.to_string())
    }
}

/// The context of a service's action.
pub(super) fn of_request(context: &RequestContext<'_>, reads: Reads, zone: &TimeZone) -> Result<Context, Unbuilt> {
    let mut pairs = Pairs::new();
    if reads.method {
        pairs.push(("method".to_owned(), text(context.method)));
    }
    if reads.path {
        pairs.push(("path".to_owned(), text(context.path)));
    }
    if reads.host {
        pairs.push(("host".to_owned(), text(context.host)));
    }
    if reads.params {
        let params = context.params.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        push(&mut pairs, "params", record(params))?;
    }
    ambient(&mut pairs, &context.ambient, reads, zone)?;
    Ok(Context::from_pairs(pairs)?)
}

/// The context of a built-in action.
pub(super) fn of_builtin(context: &Ambient<'_>, reads: Reads, zone: &TimeZone) -> Result<Context, Unbuilt> {
    let mut pairs = Pairs::new();
    ambient(&mut pairs, context, reads, zone)?;
    Ok(Context::from_pairs(pairs)?)
}

fn push(pairs: &mut Pairs, key: &str, value: Option<RestrictedExpression>) -> Result<(), Unbuilt> {
    let value = value.ok_or_else(|| Unbuilt(format!("`context.{key}` names a key twice")))?;
    pairs.push((key.to_owned(), value));
    Ok(())
}

fn ambient(pairs: &mut Pairs, context: &Ambient<'_>, reads: Reads, zone: &TimeZone) -> Result<(), Unbuilt> {
    if reads.address {
        // An IPv4 address is one, however the socket spells it.
        let address = context.address.to_canonical().to_string();
        pairs.push(("address".to_owned(), RestrictedExpression::new_ip(address)));
    }
    if reads.time {
        push(pairs, "time", record(time(context.now, zone)?))?;
    }
    if let Some(session) = context.session.as_ref().filter(|_| reads.session) {
        let age = |since| RestrictedExpression::new_long(context.now.since(since).as_seconds());
        let session = vec![
            ("age_seconds".to_owned(), age(session.created_at)),
            ("auth_age_seconds".to_owned(), age(session.authenticated_at)),
            ("amr".to_owned(), texts(session.amr)),
        ];
        push(pairs, "session", record(session))?;
    }
    if let Some(device) = context.device.as_ref().filter(|_| reads.device) {
        let device = vec![
            ("id".to_owned(), text(device.id)),
            ("trusted".to_owned(), RestrictedExpression::new_bool(device.trusted)),
        ];
        push(pairs, "device", record(device))?;
    }
    if let Some(scope) = context.token_scope.filter(|_| reads.token) {
        push(pairs, "token", record(vec![("scope".to_owned(), texts(scope))]))?;
    }
    Ok(())
}

/// `hour` 0 to 23, `weekday` 1 (Monday) to 7 (ISO 8601), `unix` in seconds.
fn time(now: Timestamp, zone: &TimeZone) -> Result<Pairs, Unbuilt> {
    let instant = jiff::Timestamp::from_millisecond(now.millis()).map_err(|error| Unbuilt(error.to_string()))?;
    let local = zone.to_datetime(instant);
    let long = |value: i64| RestrictedExpression::new_long(value);
    Ok(vec![
        ("hour".to_owned(), long(local.hour().into())),
        ("weekday".to_owned(), long(local.weekday().to_monday_one_offset().into())),
        ("unix".to_owned(), long(now.seconds())),
    ])
}
