//! Who calls, and not too often (contract sts §23).

use super::Call;
use super::workload::Workload;
use crate::Sts;
use crate::reasons::reason_of;
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_store::SqlConnection;
use caracal_store::{StoreError, WriteTx};
use serde_json::Value;

/// The window of the limits, in milliseconds.
const WINDOW: i64 = 60_000;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Manifest,
    Credential,
}

impl Door {
    /// Calls of unknown workloads share one counter: whoever makes ids up fills no table, and cannot tell by the answer
    /// which ids there are.
    fn counter(self, workload: Option<&Workload>) -> String {
        let id = workload.map_or("unknown", |workload| workload.id.as_str());
        match self {
            Self::Manifest => format!("rl:run-manifest:{id}:fetch"),
            Self::Credential => format!("rl:run-credential:{id}:mint"),
        }
    }
}

/// One text for every cause, so that nothing can be learnt from it.
pub(super) fn unauthenticated() -> Denial {
    Denial::new(StatusCode::UNAUTHORIZED, "access_denied", "workload authentication failed")
}

impl Sts {
    /// The workload that calls. Each call counts before it is known whether the secret is right. The inner error is
    /// what the caller is told: the count and the event about it stay.
    pub(super) async fn admit_workload(
        &self,
        tx: &mut WriteTx<'_>,
        call: &Call,
        door: Door,
    ) -> Result<Result<Workload, Denial>, StoreError> {
        let now = tx.now();
        let found = Workload::find(tx.connection(), &call.workload_id).await?;
        if tx.count(&door.counter(found.as_ref()), WINDOW).await? > self.mint_limit_per_minute() {
            return Ok(Err(Denial::too_often("the workload calls too often", 60)));
        }
        let Some(workload) = found else {
            // The same work is done for a workload that does not exist.
            let _ = self.vault().matches(&call.secret, "");
            tracing::warn!(request = call.request_id, "an unknown workload was refused");
            return Ok(Err(unauthenticated()));
        };
        if !self.vault().matches(&call.secret, &workload.secret_hash) {
            let event = call.event(&workload, "run_launch", "deny", Value::Null, now);
            let event = event.with_status("workload_auth_failed");
            tx.audit(&event).await?;
            return Ok(Err(Denial { reason: reason_of(&[event]), ..unauthenticated() }));
        }
        Ok(Ok(workload))
    }

    /// The workload as it stands now, after it was admitted.
    pub(super) async fn still_admitted(
        &self,
        connection: &mut SqlConnection,
        call: &Call,
    ) -> Result<Workload, Denial> {
        let found = Workload::find(connection, &call.workload_id).await?;
        found
            .filter(|workload| self.vault().matches(&call.secret, &workload.secret_hash))
            .ok_or_else(unauthenticated)
    }
}
