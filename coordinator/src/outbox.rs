//! The outbox, for administrators (contract coordinator §9).
//!
//! Here it holds evidence that the ledger has not taken yet. The ledger takes all of it, in order, in the transaction
//! that removes it from the outbox, and takes what it cannot read as a `malformed_event`. So nothing in it is ever
//! dead, and nothing is ever lost or sent twice: there is a list, and a requeue finds nothing to do.

use crate::caller::Caller;
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::page::Page;
use crate::sessions::{QueryArgument, members};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use caracal_store::audit::Waiting;
use caracal_store::clock::iso;
use caracal_store::ids;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /zones/{zone}/outbox`: what of the zone waits for the ledger, newest first.
pub(crate) async fn list_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    let page = Page::parse(&members(query)?)?;
    check_admin(&caller)?;
    let mut connection = config.store.read().await?;
    if let Some(cursor) = &page.cursor
        && Waiting::find(&mut connection, &caller.zone, cursor).await?.is_none()
    {
        return Err(Code::InvalidCursor.into());
    }
    let waiting = Waiting::list(&mut connection, &caller.zone, page.cursor.as_deref(), page.limit).await?;
    let last = waiting.last().map(|entry| entry.id.clone());
    Ok(Json(page.body(waiting.iter().map(to_json).collect(), last.as_deref())))
}

/// `POST /zones/{zone}/outbox/{entry}/requeue`
pub(crate) async fn requeue_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, entry)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    check_admin(&caller)?;
    if !ids::is_uuid(&entry) {
        return Err(Failure::body("the entry's id is no UUID", Vec::new()));
    }
    let mut connection = config.store.read().await?;
    let why = match Waiting::find(&mut connection, &caller.zone, &entry).await? {
        Some(_) => "the entry waits for the ledger, which takes it by itself: no entry is ever dead",
        None => "no entry with this id waits for the ledger: it was taken, or there never was one",
    };
    Err(Failure::because(Code::DeadOutboxNotFound, why))
}

fn check_admin(caller: &Caller) -> Result<(), Failure> {
    if caller.is_admin() { Ok(()) } else { Err(Code::CoordinatorAdminRequired.into()) }
}

fn to_json(entry: &Waiting) -> Value {
    json!({
        "id": entry.id,
        "status": "pending",
        "topic": "audit",
        "event": entry.event_type,
        "created_at": iso(entry.created_at),
    })
}
