//! What a decision rested on, under which names the record keeps it: enough to judge it anew later.
//!
//! What belongs to a sign-in is kept once, with `session.start` (and `session.groups_changed`), and
//! costs a request nothing. A decision's own event adds only what can differ from request to request:
//! the grants that counted and the scope of a token; groups only where there is no session to look
//! at. A name, and claims that name a person, are in neither.

/// Groups that the provider told, or a trust rule gave; those of `groups.toml` are not among them.
pub const GROUPS: &str = "groups";
/// Whether the provider verified the e-mail.
pub const EMAIL_VERIFIED: &str = "email_verified";
/// When the person proved themselves to the provider.
pub const AUTHENTICATED_AT: &str = "authenticated_at";
/// How (`amr`, RFC 8176).
pub const AMR: &str = "amr";
/// What a workload was recognised by.
pub const CLAIMS: &str = "claims";
/// Groups that came, and that went.
pub const GROUPS_ADDED: &str = "added";
/// See [`GROUPS_ADDED`].
pub const GROUPS_REMOVED: &str = "removed";
/// Actions that the token was narrowed to.
pub const SCOPE: &str = "scope";
/// Who acted for the subject by a token (RFC 8693 §4.1), who acted itself first: workloads, as policies
/// name them.
pub const ACT: &str = "act";
/// Grants that counted: `{grant, entitlement, active_at}`. Left out where there are none, unless the
/// decision names a grant: that of a token whose holder needs none.
pub const GRANTS: &str = "grants";
/// See [`GRANTS`].
pub const GRANT: &str = "grant";
/// See [`GRANTS`].
pub const ENTITLEMENT: &str = "entitlement";
/// See [`GRANTS`].
pub const ACTIVE_AT: &str = "active_at";
