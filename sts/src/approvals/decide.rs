//! `POST /approvals/{id}/decision`: the person on whose behalf a request runs approves or rejects it
//! (contract sts §16.7).

use super::hold::{Hold, is_uuid};
use super::status::unknown;
use crate::Sts;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::claims::{Claims, MandateUse, SubjectType};
use caracal_mandate::gateway_signature::to_hex;
use caracal_mandate::id::{AuthorityRecordId, ZoneId};
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::audit::AuditEvent;
use caracal_store::http::{Refusal, bearer, read_body};
use caracal_store::keys::MandateError;
use caracal_store::model::AuthorityRecord;
use serde::Deserialize;

/// The largest body, in bytes.
const MAX_BODY_BYTES: usize = 65_536;
/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 500;
/// The longest line of records that is followed.
const MAX_ANCESTORS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Approved,
    Rejected,
}

#[derive(Debug, Clone, Deserialize)]
struct Decision {
    decision: Verdict,
    #[serde(default)]
    binding: String,
    #[serde(default)]
    reason: Option<String>,
}

/// The route.
pub(crate) async fn decide(State(sts): State<Sts>, Path(id): Path<String>, request: Request) -> Response {
    let mut response = match sts.decide(&id, request).await {
        Ok(hold) => axum::Json(hold.to_status(sts.store().now())).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"caracal-sts\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    crate::routes::no_store(&mut response);
    response
}

fn unauthenticated() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_token").because("a user's session mandate is required")
}

fn denied(why: &'static str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "access_denied").because(why)
}

fn conflict(why: &'static str) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "access_denied").because(why)
}

fn malformed(why: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_token").because(why)
}

fn unavailable(error: impl Into<StoreError>) -> Refusal {
    Refusal::unavailable(&error.into())
}

/// A failure of the store inside the deciding transaction, or a refusal.
enum Undecided {
    Refused(Refusal),
    Store(StoreError),
}

impl From<StoreError> for Undecided {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Sts {
    async fn decide(&self, id: &str, request: Request) -> Result<Hold, Refusal> {
        if !is_uuid(id) {
            return Err(unknown());
        }
        let (parts, body) = request.into_parts();
        let token = bearer(&parts.headers).ok_or_else(unauthenticated)?;
        let body = read_body(body, MAX_BODY_BYTES).await;
        let body = body.map_err(|_| malformed("the body could not be read"))?;
        let decision: Decision =
            serde_json::from_slice(&body).map_err(|_| malformed("the body is no decision"))?;
        if decision.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
            return Err(malformed("the reason is longer than 500 bytes"));
        }
        let hold = {
            let mut connection = self.store().read().await.map_err(unavailable)?;
            Hold::find(&mut connection, id).await.map_err(unavailable)?.ok_or_else(unknown)?
        };
        let zone = ZoneId::new(hold.zone_id.as_str()).map_err(|_| unknown())?;
        let claims = self.keys().verify(&zone, token, self.issuer(), MandateUse::Session).await;
        let claims = claims.map_err(|error| match error {
            MandateError::Store(error) => unavailable(error),
            _ => unauthenticated(),
        })?;
        let id = hold.id;
        let settled = self
            .store()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    // Everything that the decision rests on is read in the transaction that makes it.
                    let hold = Hold::find(tx.connection(), &id).await?;
                    let hold = hold.ok_or_else(|| Undecided::Refused(unknown()))?;
                    check(tx.connection(), &hold, &zone, &claims, &decision.binding, now).await?;
                    settle(tx, hold, &zone, &claims, decision).await
                })
            })
            .await;
        settled.map_err(|error| match error {
            Undecided::Refused(refusal) => refusal,
            Undecided::Store(error) => unavailable(error),
        })
    }
}

async fn check(
    connection: &mut SqlConnection,
    hold: &Hold,
    zone: &ZoneId,
    claims: &Claims,
    binding: &str,
    now: i64,
) -> Result<(), Undecided> {
    let refuse = |refusal: Refusal| Err(Undecided::Refused(refusal));
    if claims.sub_type != SubjectType::User {
        return refuse(denied("only a user decides here"));
    }
    let Some(application) = hold.application_id.as_deref() else {
        return refuse(denied("this approval belongs to no application"));
    };
    let record = AuthorityRecord::find(connection, zone, &claims.sid).await?;
    let own = record.is_some_and(|record| {
        record.is_live(now)
            && record.subject_type == SubjectType::User
            && !claims.sub.is_empty()
            && record.subject_id == claims.sub
    });
    if !own || claims.client_id.as_str() != application {
        return refuse(denied("the mandate's authority record is not active for the requesting application"));
    }
    if hold.approver_class == "operator" {
        return refuse(denied("an operator has to decide this"));
    }
    if hold.subject_anchor.as_ref().is_some_and(|anchor| *anchor != claims.sub) {
        return refuse(denied("this approval is for another subject"));
    }
    if related(connection, zone, claims.sid.as_str(), &hold.session_id).await? {
        return refuse(denied("the request runs on this very mandate's authority"));
    }
    if binding != hold.binding {
        return refuse(conflict("the decision is not for what is asked"));
    }
    Ok(())
}

/// Is one of two records the other, or above the other?
async fn related(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    one: &str,
    other: &str,
) -> Result<bool, StoreError> {
    if other.is_empty() {
        return Ok(false);
    }
    let above_one = line(connection, zone, one).await?;
    let above_other = line(connection, zone, other).await?;
    Ok(above_one.iter().any(|id| id == other) || above_other.iter().any(|id| id == one))
}

/// A record and those above it.
async fn line(connection: &mut SqlConnection, zone: &ZoneId, id: &str) -> Result<Vec<String>, StoreError> {
    let mut ids = Vec::new();
    let mut next = AuthorityRecordId::new(id).ok();
    while let Some(id) = next {
        if ids.len() >= MAX_ANCESTORS {
            return Err(StoreError::corrupt("authority_records: a line of records does not end"));
        }
        ids.push(id.to_string());
        next = AuthorityRecord::find(connection, zone, &id).await?.and_then(|record| record.parent_id);
    }
    Ok(ids)
}

/// How the approver is written down (contract sts §16.7).
fn approver(hold: &Hold, claims: &Claims) -> String {
    match hold.privacy_mode.as_str() {
        "identified" => format!("subject:{}", claims.sub),
        "pseudonymous" => {
            let text = format!("{}\0{}", hold.zone_id, claims.sub);
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
            let short: String = to_hex(digest.as_ref()).chars().take(16).collect();
            format!("subject:pseudonym:{short}")
        }
        _ => "subject:redacted".to_owned(),
    }
}

async fn settle(
    tx: &mut caracal_store::WriteTx<'_>,
    hold: Hold,
    zone: &ZoneId,
    claims: &Claims,
    decision: Decision,
) -> Result<Hold, Undecided> {
    let now = tx.now();
    let approved = decision.decision == Verdict::Approved;
    let (satisfied_at, rejected_at) = if approved { (Some(now), None) } else { (None, Some(now)) };
    // An anonymous decision keeps no trail to who made it.
    let session = (hold.privacy_mode == "identified").then(|| claims.sid.to_string());
    let result = sqlx::query(
        "UPDATE approvals SET satisfied_at = $1, rejected_at = $2, approver_subject_id = $3, \
         approver_session_id = $4, decision_reason = $5 WHERE id = $6 AND satisfied_at IS NULL \
         AND rejected_at IS NULL AND consumed_at IS NULL AND expires_at > $7",
    )
    .bind(satisfied_at)
    .bind(rejected_at)
    .bind(approver(&hold, claims))
    .bind(session.clone())
    .bind(decision.reason)
    .bind(hold.id.as_str())
    .bind(now)
    .execute(&mut *tx.connection())
    .await
    .map_err(StoreError::from)?;
    if result.rows_affected() != 1 {
        return Err(Undecided::Refused(conflict("this approval is settled already")));
    }
    let mut fields = hold.to_event_fields();
    if let Some(object) = fields.as_object_mut() {
        object.insert("approver_plane".into(), "subject".into());
        if let Some(session) = session {
            object.insert("approver_session_id".into(), session.into());
        }
        if hold.privacy_mode != "identified" {
            object.remove("subject_anchor");
        }
    }
    let word = if approved { "approved" } else { "rejected" };
    let event = AuditEvent::new(zone.as_str(), "step_up_decided", &hold.id, word, now).with_metadata(fields);
    tx.audit(&event).await?;
    tx.announce_decision();
    Ok(Hold { satisfied_at, rejected_at, ..hold })
}
