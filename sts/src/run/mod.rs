//! The run endpoints: what a launcher may put into the environment of a program (contract sts §23).
//!
//! A workload is known by its id and secret. Its manifest names the variables; a credential is given for one of them at a
//! time, if policy allows it and an approval is there where one is wanted. No mandate is minted and no record written.

mod admission;
mod approval;
mod credential;
mod judge;
mod manifest;
mod workload;

use crate::Sts;
use crate::form::{Form, receive};
use crate::reasons::reason_of;
use crate::refusal::{Denial, INTERACTION_REQUIRED};
use crate::routes::no_store;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderName;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::header::accepted_request_id;
use caracal_store::audit::AuditEvent;
use caracal_store::http::{REQUEST_ID, header_text};
use caracal_store::{StoreError, ids};
use serde_json::{Value, json};
use uuid::Uuid;
use workload::Workload;

pub(crate) const MANIFEST_PATH: &str = "/v1/run/manifest";
pub(crate) const CREDENTIAL_PATH: &str = "/v1/run/credential";

const LAUNCH_ID: HeaderName = HeaderName::from_static("x-caracal-launch-id");

/// One call of a launcher.
#[derive(Debug, Clone)]
struct Call {
    request_id: String,
    /// What the launcher calls this start of its program, where that is a UUID.
    launch_id: Option<Uuid>,
    workload_id: String,
    secret: String,
}

impl Call {
    fn new(parts: &Parts, form: &Form, request_id: &str) -> Result<Self, Denial> {
        let missing = |name: &str| Denial::malformed(format!("{name} is missing"));
        let secret = form.raw("secret").filter(|secret| !secret.is_empty());
        Ok(Self {
            request_id: request_id.to_owned(),
            launch_id: header_text(&parts.headers, &LAUNCH_ID).and_then(|text| Uuid::try_parse(text).ok()),
            workload_id: form.trimmed("workload_id").ok_or_else(|| missing("workload_id"))?.to_owned(),
            secret: secret.ok_or_else(|| missing("secret"))?.to_owned(),
        })
    }

    /// An event about a workload, with further members.
    fn event(
        &self,
        workload: &Workload,
        event_type: &str,
        decision: &str,
        more: Value,
        now: i64,
    ) -> AuditEvent {
        let mut metadata = json!({ "workload_id": workload.id, "workload_name": workload.name });
        if let Some(object) = metadata.as_object_mut() {
            if let Some(launch) = self.launch_id {
                object.insert("launch_id".to_owned(), launch.hyphenated().to_string().into());
            }
            if let Value::Object(more) = more {
                object.extend(more);
            }
        }
        AuditEvent::new(workload.zone_id.as_str(), event_type, &self.request_id, decision, now)
            .with_metadata(metadata)
    }
}

/// `POST /v1/run/manifest`
pub(crate) async fn manifest(State(sts): State<Sts>, request: Request) -> Response {
    answer(request, async |parts, form, id| sts.manifest(Call::new(parts, form, id)?).await).await
}

/// `POST /v1/run/credential`
pub(crate) async fn credential(State(sts): State<Sts>, request: Request) -> Response {
    answer(request, async |parts, form, id| {
        let call = Call::new(parts, form, id)?;
        let env = form.trimmed("env").ok_or_else(|| Denial::malformed("env is missing"))?.to_owned();
        sts.credential(call, env, form.trimmed("approval_id").map(str::to_owned)).await
    })
    .await
}

/// The request id stands in the ledger, and in the answer only where an approval is awaited.
async fn answer(
    request: Request,
    work: impl AsyncFnOnce(&Parts, &Form, &str) -> Result<Value, Denial>,
) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|value| accepted_request_id(value.as_bytes()));
    let request_id = given.map_or_else(ids::new_id, str::to_owned);
    let outcome = async {
        let (parts, body) = receive(request).await?;
        work(&parts, &Form::parse(&body)?, &request_id).await
    };
    let mut response = match outcome.await {
        Ok(body) => Json(body).into_response(),
        Err(denial) if denial.code == INTERACTION_REQUIRED => denial.into_response(&request_id),
        Err(denial) => denial.into_response(""),
    };
    no_store(&mut response);
    response
}

impl Sts {
    /// Writes down what was refused. What cannot be written down is answered as 503.
    async fn note_refusal<T>(&self, mut denial: Denial) -> Result<T, Denial> {
        let events = std::mem::take(&mut denial.events);
        if !events.is_empty() {
            denial.reason = reason_of(&events);
            let written: Result<(), StoreError> = self
                .store()
                .write(move |tx| {
                    Box::pin(async move {
                        for event in &events {
                            tx.audit(event).await?;
                        }
                        Ok(())
                    })
                })
                .await;
            written?;
        }
        Err(denial)
    }
}
