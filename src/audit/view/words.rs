//! What happened to a grant, in words for people; programs have the data beside it.

use crate::audit::event::EventType;
use crate::audit::format::Entry;

/// A step in words.
pub(super) fn words(kind: EventType, entry: &Entry<'_>) -> String {
    use EventType as T;
    let of = |key: &str| entry.text(&format!("/data/{key}"));
    let mut parts: Vec<String> = Vec::new();
    let mut add = |before: &str, key: &str| {
        if let Some(text) = of(key) {
            parts.push(format!("{before}{text}"));
        }
    };
    match kind {
        T::RequestCreated => {
            add("asked for ", "for");
            add("", "reason");
            add("ticket ", "ticket");
            add("", "hash");
        }
        T::RequestApproved | T::RequestDenied => {
            add("", "answer_reason");
            add("", "hash");
        }
        T::RequestVoided => add("approvals void: it changed to ", "hash_now"),
        T::GrantScheduled => add("begins ", "starts_at"),
        T::GrantActive | T::GrantExtended => add("until ", "expires_at"),
        T::GrantExpired | T::GrantRevoked | T::GrantDropped => add("", "reason"),
        T::TokenIssued => {
            add("for ", "audience");
            add("scope ", "scope");
            add("until ", "expires_at");
        }
        T::CredentialIssued => add("until ", "expires_at"),
        T::TokenRevoked | T::CredentialRevoked | T::CredentialRevokeFailed => add("", "reason"),
        T::BreakGlassReviewed => add("", "finding"),
        _ => {}
    }
    parts.join(" · ")
}
