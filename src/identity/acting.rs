//! Who acts for the subject of a token of ours (RFC 8693 §4.1), and who may come to (§4.4).
//!
//! INVARIANT: only workloads act for others: a rule of `workloads.toml` says for whose groups, and the
//! subject's own token names the workload. `act` is nested: the outermost acts now, those within handed
//! it on before. A claim that can't be read whole makes its token worthless.

use serde_json::{Map, Value};

use crate::model::{Principal, PrincipalKind, SessionId};

/// How many may act one for the other.
pub const ACTORS_MAX: usize = 4;
/// The claim that says who acts.
pub const ACT: &str = "act";
/// The claim that says who may.
pub const MAY_ACT: &str = "may_act";

/// One who acts for the subject of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    /// Who.
    pub principal: Principal,
    /// Under which session: its end ends what is done by the token.
    pub session: SessionId,
}

/// Those who act by a token, who acts now first; none where its subject acts itself. `None` when the
/// claim is not one of ours.
#[must_use]
pub fn read(claims: &Map<String, Value>) -> Option<Vec<Acting>> {
    let mut actors = Vec::new();
    let mut next = claims.get(ACT);
    while let Some(value) = next {
        let act = value.as_object()?;
        let text = |name: &str| act.get(name).and_then(Value::as_str);
        let principal = Principal::parse(text("principal")?).filter(|it| it.kind() == PrincipalKind::Workload)?;
        actors.push(Acting { principal, session: SessionId::parse(text("sid")?).ok()? });
        if actors.len() > ACTORS_MAX {
            return None;
        }
        next = act.get(ACT);
    }
    Some(actors)
}

/// The claim for those who act, who acts now first.
#[must_use]
pub fn claim(actors: &[Acting], issuer: &str) -> Option<Value> {
    actors.iter().rev().fold(None, |within: Option<Value>, actor| {
        let mut act = Map::new();
        act.insert("iss".to_owned(), issuer.into());
        act.insert("sub".to_owned(), actor.principal.id().into());
        act.insert("principal".to_owned(), actor.principal.to_string().into());
        act.insert("sid".to_owned(), actor.session.to_string().into());
        act.extend(within.map(|within| (ACT.to_owned(), within)));
        Some(Value::Object(act))
    })
}

/// The workload that may act for the subject of a token, as the token says.
#[must_use]
pub fn may_act(claims: &Map<String, Value>) -> Option<Principal> {
    let text = claims.get(MAY_ACT)?.as_object()?.get("principal")?.as_str()?;
    Principal::parse(text).filter(|it| it.kind() == PrincipalKind::Workload)
}

/// The claim that names who may act.
#[must_use]
pub fn may_act_claim(actor: &Principal, issuer: &str) -> Value {
    serde_json::json!({ "iss": issuer, "sub": actor.id(), "principal": actor.to_string() })
}
