//! Revocation by a selector, and whether every gateway has taken it.
//!
//! A dry run counts with the same search that the revocation acts with. The revocation itself is one transaction: rows,
//! epoch, change log, evidence and the record of who asked.

use crate::app::{App, Done, Kind, require_zone, zone_id};
use crate::body::{Body, Text};
use crate::gate::Call;
use crate::page::{EVENTS, Key, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_store::revoke::{
    Cause, ClosureStatus, Counts, GatewayState, Reach, Revocation, Selector, SelectorError, assess, gateways,
    settle,
};
use caracal_store::{StoreError, clock};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, selector_json, reason, requested_by, sessions, edges, records, generation, \
     committed_at, closed_at FROM revocations";

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    selector: Selector,
    #[serde(default)]
    reason: Option<Text<256>>,
    #[serde(default)]
    dry_run: bool,
}

impl From<SelectorError> for Problem {
    fn from(error: SelectorError) -> Self {
        match error {
            SelectorError::Store(error) => error.into(),
            SelectorError::NoResource { .. } => Self::absent("resource_not_found").because(error.to_string()),
            _ => Self::invalid("invalid_revocation_request").because(error.to_string()),
        }
    }
}

fn counts_json(counts: Counts) -> Value {
    json!({ "sessions": counts.sessions, "delegations": counts.edges, "authority_records": counts.records })
}

/// `POST /v1/zones/:z/revocations`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, create): (_, Create) = body.parse("invalid_revocation_request")?;
    if create.dry_run {
        let mut connection = app.store.read().await?;
        require_zone(&mut connection, &zone).await?;
        let reach = Reach::of(&mut connection, &zone, &create.selector, app.store.now()).await?;
        let body = json!({
            "dry_run": true, "zone_id": zone, "selector": create.selector, "counts": counts_json(reach.counts()),
        });
        return Ok((StatusCode::OK, Json(body)).into_response());
    }
    let Some(Text(reason)) = create.reason else {
        let why = "reason: say why, in 1 to 256 characters";
        return Err(Problem::invalid("invalid_revocation_request").because(why));
    };
    let cause = Cause {
        zone: zone.clone(),
        request_id: call.request_id.clone(),
        actor: call.actor.identity(),
        reason,
    };
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let revocation = Revocation::commit(tx, &cause, &create.selector).await?;
            let gateways = gateways(tx.connection()).await?;
            let now = tx.now();
            let standing = Standing {
                generation: revocation.generation,
                committed_at: revocation.committed_at,
                closed_at: None,
            };
            let mut body = json!({
                "id": revocation.id, "zone_id": zone, "selector": create.selector, "reason": cause.reason,
                "requested_by": cause.actor, "counts": counts_json(revocation.counts),
            });
            standing.describe(&mut body, &gateways, now);
            Ok(Done::new(StatusCode::CREATED, Kind::Action, ("revocations", &revocation.id), body))
        })
    })
    .await
}

/// What tells how far a revocation has come.
struct Standing {
    generation: i64,
    committed_at: i64,
    closed_at: Option<i64>,
}

impl Standing {
    fn of(row: Row<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            generation: row.int("generation")?,
            committed_at: row.int("committed_at")?,
            closed_at: row.opt_int("closed_at")?,
        })
    }

    /// Adds the status, the times and the gateways to a revocation.
    fn describe(&self, body: &mut Value, states: &[GatewayState], now: i64) {
        let closure = assess(states, self.generation, self.committed_at, now);
        // Once closed, closed: a gateway that comes later begins with a snapshot that has it.
        let closed_at = self.closed_at.or(closure.closed_at);
        let status = if closed_at.is_some() { ClosureStatus::Closed } else { closure.status };
        let gateways: Vec<Value> = states
            .iter()
            .map(|gateway| {
                let took = gateway.acknowledged >= self.generation;
                json!({
                    "id": gateway.id, "live": gateway.is_live(now), "acknowledged": took,
                    "last_seen_at": clock::iso(gateway.last_seen_at),
                })
            })
            .collect();
        let took = closed_at.map(|at| at.saturating_sub(self.committed_at));
        if let Some(members) = body.as_object_mut() {
            members.insert("status".to_owned(), json!(status));
            members.insert("generation".to_owned(), self.generation.to_string().into());
            members.insert("committed_at".to_owned(), clock::iso(self.committed_at).into());
            members.insert("closed_at".to_owned(), closed_at.map(clock::iso).into());
            members.insert("time_to_closure_ms".to_owned(), took.into());
            members.insert("gateways".to_owned(), gateways.into());
        }
    }
}

fn to_json(row: Row<'_>, states: &[GatewayState], now: i64) -> Result<Value, StoreError> {
    let mut body = json!({
        "id": row.text("id")?, "zone_id": row.text("zone_id")?, "selector": row.json("selector_json")?,
        "reason": row.text("reason")?, "requested_by": row.text("requested_by")?,
        "counts": {
            "sessions": row.int("sessions")?, "delegations": row.int("edges")?,
            "authority_records": row.int("records")?,
        },
    });
    Standing::of(row)?.describe(&mut body, states, now);
    Ok(body)
}

/// `GET /v1/zones/:z/revocations`
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    settle(&app.store).await?;
    let states = {
        let mut connection = app.store.read().await?;
        require_zone(&mut connection, &zone_id(&zone)?).await?;
        gateways(&mut connection).await?
    };
    let now = app.store.now();
    let select = Select::new(COLUMNS).and_text("zone_id = ?", zone);
    let key = Key { time: "committed_at", id: "id" };
    page(&app, &params, EVENTS, select, key, |row| to_json(row, &states, now)).await
}

/// `GET /v1/zones/:z/revocations/:id`
pub(crate) async fn get(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    settle(&app.store).await?;
    let mut connection = app.store.read().await?;
    let rows = Select::new(COLUMNS)
        .and_text("zone_id = ?", zone)
        .and_text("id = ?", id)
        .all(&mut connection, "")
        .await?;
    let row = rows.first().ok_or_else(|| Problem::absent("revocation_not_found"))?;
    let states = gateways(&mut connection).await?;
    Ok(Json(to_json(Row(row), &states, app.store.now())?))
}
