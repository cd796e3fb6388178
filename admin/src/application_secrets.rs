//! Client secrets: rotation, custody, and clients that register for a short time (contract admin-audit §5.2, §8.1).

use crate::app::{App, Done, Kind, require_zone, zone_id};
use crate::applications::find;
use crate::body::{Body, Text};
use crate::custody;
use crate::gate::Call;
use crate::names::{Field, refuse_reserved};
use crate::problem::Problem;
use crate::zones::live_dcr;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_store::change::Change;
use caracal_store::ids;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Registrations per zone and token in one second.
const REGISTRATIONS_PER_SECOND: i64 = 10;
/// Live registered clients per zone.
const MAX_LIVE_CLIENTS: usize = 1000;
/// The longest life of a registered client, in seconds.
const MAX_CLIENT_LIFE: i64 = 3600;

/// The place of an application's secret. It is sealed for this place and for no other.
pub(crate) fn place(zone: &str, id: &str) -> String {
    format!("zones/{zone}/applications/{id}/clientSecret")
}

/// `POST /v1/zones/:z/applications/:id/rotate-secret`
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (vault, actor) = (app.vault.clone(), call.actor.clone());
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let found = find(tx.connection(), &actor, &zone, &id).await?;
            let (now, secret) = (tx.now(), ids::new_secret("cs_")?);
            sqlx::query(
                "UPDATE applications SET client_secret_hash = $1, updated_by = $2, updated_at = $3 WHERE id = $4",
            )
            .bind(vault.hash(&secret))
            .bind(actor.author())
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            if found.managed {
                custody::keep(tx, &vault, &place(&zone, &id), &secret).await?;
            }
            tx.record_change(&zone_id(&zone)?, &Change::Application { id: id.clone() }).await?;
            let row = find(tx.connection(), &actor, &zone, &id).await?.json;
            let body = custody::shown("client_secret", row, &secret);
            Ok(Done::new(StatusCode::OK, Kind::SecretRotation, ("applications", &id), body))
        })
    })
    .await
}

/// `GET /v1/zones/:z/applications/:id/client-secret`. It takes the capability `admin`; whoever has it is named in the
/// ledger before the secret leaves.
pub(crate) async fn reveal(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    call.require_admin()?;
    let zone = zone_id(&zone)?;
    let place = place(zone.as_str(), &id);
    let (actor, request_id, taken_from) = (call.actor.clone(), call.request_id.clone(), place.clone());
    let envelope: String = app
        .store
        .write(move |tx| {
            Box::pin(async move {
                let found = find(tx.connection(), &actor, zone.as_str(), &id).await?;
                if !found.managed {
                    return Err(Problem::absent("application_not_found"));
                }
                let metadata = json!({
                    "credential": "application_client_secret",
                    "application_id": id,
                    "application_name": found.name,
                    "actor": actor.identity(),
                });
                let taken = custody::take(tx, &taken_from, zone.as_str(), &request_id, metadata).await?;
                taken.ok_or_else(|| Problem::absent("client_secret_not_stored"))
            })
        })
        .await?;
    Ok(Json(json!({ "client_secret": custody::open(&app.vault, &envelope, &place)? })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    name: Text<200>,
    #[serde(default)]
    expires_in: Life,
}

/// Seconds that a registered client lives.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "i64")]
struct Life(i64);

impl Default for Life {
    fn default() -> Self {
        Self(MAX_CLIENT_LIFE)
    }
}

impl TryFrom<i64> for Life {
    type Error = String;
    fn try_from(seconds: i64) -> Result<Self, String> {
        if (1..=MAX_CLIENT_LIFE).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(format!("a registered client lives 1 to {MAX_CLIENT_LIFE} seconds"))
        }
    }
}

/// `POST /v1/zones/:z/applications/dcr`
pub(crate) async fn register(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, registration): (_, Registration) = body.parse("invalid_application")?;
    refuse_reserved(&call.actor, Field::Name, &registration.name.0)?;
    let (vault, actor) = (app.vault.clone(), call.actor.clone());
    let too_often = |code| Problem::new(StatusCode::TOO_MANY_REQUESTS, code);
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let key = format!("rl:dcr:{zone}:{}", actor.id);
            if tx.count(&key, 1000).await? > REGISTRATIONS_PER_SECOND {
                return Err(too_often("dcr_rate_limit_exceeded"));
            }
            require_zone(tx.connection(), &zone).await?;
            let enabled: i64 = sqlx::query_scalar("SELECT dcr_enabled FROM zones WHERE id = $1")
                .bind(zone.as_str())
                .fetch_one(&mut *tx.connection())
                .await?;
            if enabled == 0 {
                return Err(Problem::forbidden("dcr_disabled"));
            }
            let now = tx.now();
            if live_dcr(tx.connection(), &zone, now).await?.len() >= MAX_LIVE_CLIENTS {
                return Err(too_often("dcr_limit_exceeded"));
            }
            let (id, secret) = (ids::new_id(), ids::new_secret("cs_")?);
            sqlx::query(
                "INSERT INTO applications (id, zone_id, name, registration_method, client_secret_hash, expires_at, \
                 created_by, created_at, updated_at) VALUES ($1, $2, $3, 'dcr', $4, $5, $6, $7, $7)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(registration.name.0)
            .bind(vault.hash(&secret))
            .bind(now + registration.expires_in.0 * 1000)
            .bind(actor.author())
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
            let row = find(tx.connection(), &actor, zone.as_str(), &id).await?.json;
            Ok(Done::created(("applications", &id), custody::shown("client_secret", row, &secret)))
        })
    })
    .await
}
