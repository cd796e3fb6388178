//! Who asks: an application with its secret, or a gateway on an application's behalf (contract sts §9).

use super::control::{is_control_request, may_invoke};
use super::judge::describe;
use super::live::Live;
use super::request::ExchangeRequest;
use crate::Sts;
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_mandate::id::{ApplicationId, ZoneId};
use caracal_store::audit::AuditEvent;
use caracal_store::many::{list, pieces};
use caracal_store::model::Application;
use caracal_store::{StoreError, WriteTx};
use std::collections::HashSet;

/// The window of failed authentications, in milliseconds.
const LOCKOUT_WINDOW: i64 = 60_000;
/// How many failures one window allows.
const LOCKOUT_FAILURES: i64 = 60;

impl Sts {
    /// Has this application failed too often just now? (contract sts §9.4)
    pub(super) async fn check_lockout(&self, request: &ExchangeRequest) -> Result<(), Denial> {
        let now = self.store().now();
        let mut connection = self.store().read().await?;
        let since: Option<i64> = sqlx::query_scalar(
            "SELECT window_start FROM counters WHERE key = $1 AND count > $2 AND window_start > $3",
        )
        .bind(lockout_key(request))
        .bind(LOCKOUT_FAILURES)
        .bind(now - LOCKOUT_WINDOW)
        .fetch_optional(&mut *connection)
        .await
        .map_err(StoreError::from)?;
        since.map_or(Ok(()), |since| Err(locked_out(since + LOCKOUT_WINDOW - now)))
    }

    /// The application that asks. A wrong secret and an unknown application are told apart by nobody.
    pub(super) async fn authenticate(
        &self,
        live: &mut Live<'_>,
        request: &ExchangeRequest,
        now: i64,
    ) -> Result<Application, Denial> {
        let id =
            ApplicationId::new(request.application_id.as_str()).map_err(|_| Denial::unauthenticated())?;
        let zone = request.zone_id.as_deref().map(ZoneId::new).transpose();
        let zone = zone.map_err(|_| Denial::unauthenticated())?;
        if zone.is_none() && !is_control_request(request, self.control_audience()) {
            return Err(Denial::unauthenticated());
        }
        let found = live.application(&id, now).await?;
        let found = found.filter(|application| zone.is_some() || may_invoke(application));
        let Some(application) = found else {
            // The same work is done for an application that does not exist.
            let _ = self.vault().matches(request.client_secret.as_deref().unwrap_or_default(), "");
            return Err(Denial::unauthenticated());
        };
        caracal_store::trace::zone(&application.zone_id);
        if request.gateway.is_some() {
            let own_zone = zone.as_ref() == Some(&application.zone_id) && request.subject_token.is_some();
            return if own_zone { Ok(application) } else { Err(Denial::unauthenticated()) };
        }
        let hash = application.client_secret_hash.as_deref().unwrap_or_default();
        let secret = request.client_secret.as_deref().unwrap_or_default();
        if hash.is_empty() || secret.is_empty() || !self.vault().matches(secret, hash) {
            let event = AuditEvent::new(
                application.zone_id.as_str(),
                "token_exchange",
                &request.request_id,
                "deny",
                now,
            )
            .with_status("client_authentication_failed")
            .with_metadata(serde_json::json!({ "application_id": application.id.as_str() }));
            return Err(Denial::unauthenticated().with_event(event));
        }
        if let Some(zone) = zone.filter(|zone| *zone != application.zone_id) {
            let text = format!("the application belongs to zone {}, not to {zone}", application.zone_id);
            let denial = Denial::new(StatusCode::FORBIDDEN, "zone_invalid", text);
            return Err(describe(denial, request, &application, "zone_invalid", now));
        }
        Ok(application)
    }
}

/// What every event says of the application.
pub(super) fn about(application: &Application) -> serde_json::Value {
    serde_json::json!({
        "application_id": application.id.as_str(),
        "application_name": application.name,
        "application_registration_method": application.registration_method.as_str(),
    })
}

/// Counts a failed authentication. One too many locks the application out for a whole window from then on.
pub(super) async fn count_failure(
    tx: &mut WriteTx<'_>,
    request: &ExchangeRequest,
) -> Result<Option<Denial>, StoreError> {
    let now = tx.now();
    let failures: i64 = sqlx::query_scalar(
        "INSERT INTO counters (key, window_start, count) VALUES ($1, $2, 1) ON CONFLICT (key) DO UPDATE SET \
           count = CASE WHEN counters.window_start <= $3 THEN 1 ELSE counters.count + 1 END, \
           window_start = CASE WHEN counters.window_start <= $3 OR counters.count = $4 \
             THEN excluded.window_start ELSE counters.window_start END \
         RETURNING count",
    )
    .bind(lockout_key(request))
    .bind(now)
    .bind(now - LOCKOUT_WINDOW)
    .bind(LOCKOUT_FAILURES)
    .fetch_one(&mut *tx.connection())
    .await?;
    Ok((failures > LOCKOUT_FAILURES).then(|| locked_out(LOCKOUT_WINDOW)))
}

/// Which of these counters lock their applications out now.
pub(super) async fn locked_out_among(
    tx: &mut WriteTx<'_>,
    keys: &[String],
) -> Result<HashSet<String>, StoreError> {
    let now = tx.now();
    let mut locked = HashSet::new();
    for piece in pieces(keys) {
        let sql = format!(
            "SELECT key FROM counters WHERE count > $1 AND window_start > $2 AND key IN {}",
            list(piece.len(), 2)
        );
        let mut query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql))
            .bind(LOCKOUT_FAILURES)
            .bind(now - LOCKOUT_WINDOW);
        for key in piece {
            query = query.bind(key.as_str());
        }
        locked.extend(query.fetch_all(&mut *tx.connection()).await?);
    }
    Ok(locked)
}

fn locked_out(remaining: i64) -> Denial {
    let seconds = remaining.saturating_add(999) / 1000;
    Denial::too_often("too many failed authentications", u32::try_from(seconds).unwrap_or(1).max(1))
}

/// The counter of an application's failures.
pub(super) fn lockout_key(request: &ExchangeRequest) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, request.application_id.as_bytes());
    format!("auth-failures:{}", caracal_mandate::gateway_signature::to_hex(digest.as_ref()))
}
