//! Cutting someone off in the transaction of the change that asks for it (contract admin-audit §5.2, §5.7, §5.8).

use crate::gate::Call;
use crate::problem::Problem;
use caracal_mandate::id::ZoneId;
use caracal_store::revoke::{Cause, Counts, Ending, Reach, Selector, SelectorError};
use caracal_store::{StoreError, WriteTx};

/// Who does it, and why.
pub(crate) fn cause(call: &Call, zone: &ZoneId, reason: &str) -> Cause {
    Cause {
        zone: zone.clone(),
        request_id: call.request_id.clone(),
        actor: call.actor.identity(),
        reason: reason.to_owned(),
    }
}

/// Ends all that the selector reaches, and answers how much that was.
pub(crate) async fn cut(tx: &mut WriteTx<'_>, cause: &Cause, selector: &Selector) -> Result<Counts, Problem> {
    let now = tx.now();
    let reach =
        Reach::of(tx.connection(), &cause.zone, selector, now).await.map_err(|error| match error {
            SelectorError::Store(error) => error,
            other => StoreError::corrupt(other.to_string()),
        })?;
    reach.end(tx, cause, Ending::Revoked).await?;
    Ok(reach.counts())
}
