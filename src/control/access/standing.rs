//! Which approvals of a request still count: asked when another follows, when a grant that waited begins, and
//! by whoever looks at a request, so that what people are shown is what is judged. Once a request is closed, or
//! its grant has begun, nothing hangs on it any more: what counted then is written down, and told from then on.
//!
//! When and how approvers came was judged when they answered and is not held against them later: they are
//! judged as they came then, in a session of that moment. Who they are is asked of what is known now.

use crate::model::{AccessRequest, Answer, Approval, Circumstances, Timestamp};
use crate::policy::{Ambient, DeviceContext, EntitlementAction, PolicySet, SessionContext};
use crate::store::{StoreError, Tx};

use super::super::desk::Desk;
use super::human::{Human, Shelf, human_of};

/// Whether each of these answers counts as an approval: of this very request, by somebody who may still give
/// it, and the first of one human.
pub(super) async fn standing(
    desk: &Desk,
    mut shelf: Shelf<'_>,
    policies: &PolicySet,
    request: &AccessRequest,
    requester: &Human,
    given: &[Approval],
    now: Timestamp,
) -> Result<Vec<bool>, StoreError> {
    let mut humans: Vec<Human> = Vec::new();
    let mut standing = Vec::with_capacity(given.len());
    for approval in given {
        let by = &approval.by;
        // Accounts can turn out to be one human after they answered.
        let counts = approves(request, approval)
            && !requester.is(by)
            && !humans.iter().any(|known| known.is(by))
            && !shelf.is_locked(&by.principal).await?
            && may_still_approve(desk, &mut shelf, policies, request, approval, now).await?;
        if counts {
            humans.push(human_of(shelf.again(), policies, by, now).await?);
        }
        standing.push(counts);
    }
    Ok(standing)
}

/// Writes down which answers to a request that is closed, or whose grant begins, count at this moment.
pub(super) async fn write_down(
    desk: &Desk,
    tx: &mut Tx,
    policies: &PolicySet,
    request: &AccessRequest,
    now: Timestamp,
) -> Result<(), StoreError> {
    let given = tx.access_approval_list(request.id).await?;
    if given.is_empty() {
        return Ok(());
    }
    let requester = human_of(Shelf::Tx(tx), policies, &request.requester, now).await?;
    let counted = standing(desk, Shelf::Tx(tx), policies, request, &requester, &given, now).await?;
    tx.access_approval_weigh(request.id, &given, &counted).await
}

/// Whether an answer is an approval of what the request is.
pub(super) fn approves(request: &AccessRequest, approval: &Approval) -> bool {
    approval.answer == Answer::Approve && approval.hash == request.hash
}

/// Whether so many approvals are as many as a request takes.
pub(super) fn is_enough(counted: usize, request: &AccessRequest) -> bool {
    counted >= usize::try_from(request.approvals_needed).unwrap_or(usize::MAX)
}

async fn may_still_approve(
    desk: &Desk,
    shelf: &mut Shelf<'_>,
    policies: &PolicySet,
    request: &AccessRequest,
    approval: &Approval,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (name, action) = (&request.entitlement, EntitlementAction::Approve);
    // Somebody who has signed out since keeps their word; somebody who is known now must still have the right.
    let Some(session) = shelf.session_newest(&approval.by.principal, now).await? else { return Ok(true) };
    let unknown = Circumstances { address: request.address, amr: Vec::new(), device: None };
    let came = match &approval.came {
        Some(came) => came,
        None => {
            let reads = policies.entitlement_reads(name, action);
            // Policy asks how they came, which nobody knows: that is not held against them.
            if reads.address || reads.session || reads.device {
                return Ok(true);
            }
            &unknown
        }
    };
    let ambient = Ambient {
        address: came.address,
        now: approval.time,
        session: Some(SessionContext { created_at: approval.time, authenticated_at: approval.time, amr: &came.amr }),
        device: came.device.as_deref().map(|id| DeviceContext { id, trusted: true }),
        token_scope: None,
    };
    let subject = desk.subject_now(policies, &session, now);
    Ok(policies.entitlement_decide(&subject, action, name, &ambient).allow)
}
