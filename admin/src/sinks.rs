//! Notification sinks: who is told of a zone's approvals (contract admin-audit §5.15). What they are sent is in
//! [`crate::notifier`].

use crate::app::{App, Done, Kind, require_zone, zone_id};
use crate::body::{Body, Text, require_fields};
use crate::custody;
use crate::gate::Call;
use crate::object::{Listed, Object, find};
use crate::page::{CONFIGURATION, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_store::{StoreError, ids};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, name, url, event_types_json, active, consecutive_failures, \
     last_success_at, last_failure_at, last_error, created_at, updated_at FROM notification_sinks";
const DELIVERY_COLUMNS: &str = "SELECT d.id, d.sink_id, d.event_id, d.event_type, d.attempts, d.available_at, \
     d.delivered_at, d.abandoned_at, d.response_status, d.last_error, d.created_at FROM notification_deliveries d \
     JOIN notification_sinks s ON s.id = d.sink_id";
/// Of one zone.
const MAX_SINKS: i64 = 20;

/// The events that a sink may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(crate) enum EventType {
    #[serde(rename = "step_up_issued")]
    Issued,
    #[serde(rename = "step_up_decided")]
    Decided,
    #[serde(rename = "step_up_consumed")]
    Consumed,
}

impl EventType {
    const ALL: [Self; 3] = [Self::Issued, Self::Decided, Self::Consumed];
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: Text<120>,
    url: Text<2048>,
    event_types: Option<Vec<EventType>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: Option<Text<120>>,
    url: Option<Text<2048>>,
    event_types: Option<Vec<EventType>>,
    active: Option<bool>,
}

/// Each once, in the order of the contract; at least one.
fn types(mut types: Vec<EventType>) -> Result<String, Problem> {
    types.sort_unstable();
    types.dedup();
    if types.is_empty() {
        return Err(Problem::invalid("invalid_sink").because("event_types: at least one is expected"));
    }
    Ok(json!(types).to_string())
}

/// An `https` URL without credentials, of a name: which addresses it has is looked at when it is called.
fn require_url(url: &str) -> Result<(), Problem> {
    let plain = !url.contains(['#', '@', '\\']) && url.bytes().all(|byte| byte.is_ascii_graphic());
    let uri: Option<Uri> = url.parse().ok().filter(|_| plain);
    let named = |host: &str| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        !host.is_empty() && bare.parse::<std::net::IpAddr>().is_err()
    };
    if uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(named)) {
        return Ok(());
    }
    let why = "an https URL of a host name without credentials and fragment is expected";
    Err(Problem::invalid("invalid_sink_url").because(why))
}

/// What would be stored of a body.
pub(crate) fn preview(body: &Body) -> Result<Value, Problem> {
    let (_, create): (_, Create) = body.parse("invalid_sink")?;
    require_url(&create.url.0)?;
    let mut kept = create.event_types.unwrap_or_else(|| EventType::ALL.to_vec());
    kept.sort_unstable();
    kept.dedup();
    types(kept.clone())?;
    Ok(json!({ "name": create.name.0, "url": create.url.0, "event_types": kept }))
}

/// Where the secret of a sink is sealed.
pub(crate) fn place(zone: &str, id: &str) -> String {
    format!("zones/{zone}/notificationSinks/{id}/secret")
}

fn new_secret() -> Result<String, StoreError> {
    let mut secret = "nsk_".to_owned();
    for byte in ids::random_bytes::<24>()? {
        let _ = write!(secret, "{byte:02x}");
    }
    Ok(secret)
}

/// Notification sinks.
pub(crate) struct Sink;

impl Object for Sink {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "notification_sinks";
    const ENTITY: &'static str = "notification-sinks";
    const ABSENT: &'static str = "sink_not_found";
    const LISTED: Listed = Listed::All;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        Ok(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
            "url": row.text("url")?, "event_types": row.json("event_types_json")?, "active": row.flag("active")?,
            "consecutive_failures": row.int("consecutive_failures")?,
            "last_success_at": row.opt_iso("last_success_at")?, "last_failure_at": row.opt_iso("last_failure_at")?,
            "last_error": row.opt_text("last_error")?, "created_at": row.iso("created_at")?,
            "updated_at": row.iso("updated_at")?,
        }))
    }
}

fn delivery_json(row: Row<'_>) -> Result<Value, StoreError> {
    Ok(json!({
        "id": row.text("id")?, "sink_id": row.text("sink_id")?, "event_id": row.text("event_id")?,
        "event_type": row.text("event_type")?, "attempts": row.int("attempts")?,
        "available_at": row.iso("available_at")?, "delivered_at": row.opt_iso("delivered_at")?,
        "abandoned_at": row.opt_iso("abandoned_at")?, "response_status": row.opt_int("response_status")?,
        "last_error": row.opt_text("last_error")?, "created_at": row.iso("created_at")?,
    }))
}

/// `GET /v1/zones/:z/notification-sinks/:id/deliveries`; of a sink that is not there, none.
pub(crate) async fn deliveries(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let select = Select::new(DELIVERY_COLUMNS).and_text("s.zone_id = ?", zone).and_text("s.id = ?", id);
    let key = crate::page::Key { time: "d.created_at", id: "d.id" };
    page(&app, &params, CONFIGURATION, select, key, delivery_json).await
}

/// `POST /v1/zones/:z/notification-sinks`. It is told of what happens from now on.
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_sink")?;
    require_url(&create.url.0)?;
    let types = types(create.event_types.unwrap_or_else(|| EventType::ALL.to_vec()))?;
    let vault = app.vault.clone();
    // What waits for the ledger now has happened before.
    app.ledger.catch_up().await?;
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM notification_sinks WHERE zone_id = $1")
                .bind(zone.as_str())
                .fetch_one(&mut *tx.connection())
                .await?;
            if count >= MAX_SINKS {
                let why = format!("a zone has at most {MAX_SINKS} sinks");
                return Err(Problem::conflict("sink_limit_reached").because(why));
            }
            let (id, now, secret) = (ids::new_id(), tx.now(), new_secret()?);
            sqlx::query(
                "INSERT INTO notification_sinks (id, zone_id, name, url, event_types_json, cursor_chain_seq, \
                 created_at, updated_at) SELECT $1, $2, $3, $4, $5, COALESCE(MAX(chain_seq), 0), $6, $6 \
                 FROM audit_events WHERE zone_id = $2",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.name.0)
            .bind(create.url.0)
            .bind(types)
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
            custody::keep(tx, &vault, &place(zone.as_str(), &id), &secret).await?;
            let row = find::<Sink>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created(("notification-sinks", &id), custody::shown("secret", row, &secret)))
        })
    })
    .await
}

/// `PATCH /v1/zones/:z/notification-sinks/:id`. What happens while a sink is not active is told once it is.
pub(crate) async fn patch(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, patch): (_, Patch) = body.parse("invalid_sink")?;
    require_fields(&value, &["name", "url", "event_types", "active"])?;
    if let Some(url) = &patch.url {
        require_url(&url.0)?;
    }
    let types = patch.event_types.map(types).transpose()?;
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find::<Sink>(tx.connection(), &zone, &id).await?;
            let now = tx.now();
            sqlx::query(
                "UPDATE notification_sinks SET name = COALESCE($1, name), url = COALESCE($2, url), \
                 event_types_json = COALESCE($3, event_types_json), active = COALESCE($4, active), \
                 updated_at = $5 WHERE id = $6",
            )
            .bind(patch.name.map(|name| name.0))
            .bind(patch.url.map(|url| url.0))
            .bind(types)
            .bind(patch.active.map(i64::from))
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            let row = find::<Sink>(tx.connection(), &zone, &id).await?;
            Ok(Done::updated(("notification-sinks", &id), row))
        })
    })
    .await
}

/// `POST /v1/zones/:z/notification-sinks/:id/rotate-secret`. The next delivery is signed with the new one.
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let vault = app.vault.clone();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let row = find::<Sink>(tx.connection(), &zone, &id).await?;
            let secret = new_secret()?;
            custody::keep(tx, &vault, &place(&zone, &id), &secret).await?;
            let body = custody::shown("secret", row, &secret);
            Ok(Done::new(StatusCode::OK, Kind::SecretRotation, ("notification-sinks", &id), body))
        })
    })
    .await
}

/// `DELETE /v1/zones/:z/notification-sinks/:id`: with all that it was still to be told.
pub(crate) async fn remove(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            find::<Sink>(tx.connection(), &zone, &id).await?;
            for sql in [
                "DELETE FROM notification_deliveries WHERE sink_id = $1",
                "DELETE FROM notification_sinks WHERE id = $1",
            ] {
                sqlx::query(sql).bind(id.as_str()).execute(&mut *tx.connection()).await?;
            }
            custody::forget(tx, &place(&zone, &id)).await?;
            Ok(Done::deleted(("notification-sinks", &id)))
        })
    })
    .await
}
