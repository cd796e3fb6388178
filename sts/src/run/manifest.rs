//! Which variables a workload may fill (contract sts §23).

use super::Call;
use super::admission::Door;
use crate::Sts;
use crate::refusal::Denial;
use axum::http::StatusCode;
use serde_json::{Value, json};

impl Sts {
    /// The bindings as they are stored.
    pub(super) async fn manifest(&self, call: Call) -> Result<Value, Denial> {
        let sts = self.clone();
        let answered: Result<Result<Value, Denial>, Denial> = self
            .store()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let workload = match sts.admit_workload(tx, &call, Door::Manifest).await? {
                        Ok(workload) => workload,
                        Err(denial) => return Ok(Err(denial)),
                    };
                    let bindings: Vec<Value> = workload.bindings()?;
                    let more = json!({ "binding_count": bindings.len() });
                    if bindings.is_empty() {
                        let event = call.event(&workload, "run_launch", "deny", more, now);
                        tx.audit(&event.with_status("resource_not_found")).await?;
                        let status = StatusCode::NOT_FOUND;
                        return Ok(Err(Denial::new(
                            status,
                            "resource_not_found",
                            "the workload has no bindings",
                        )));
                    }
                    tx.audit(&call.event(&workload, "run_launch", "allow", more, now)).await?;
                    Ok(Ok(json!({
                        "zone_id": workload.zone_id, "workload_id": workload.id, "bindings": bindings,
                    })))
                })
            })
            .await;
        answered?
    }
}
