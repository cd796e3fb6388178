//! What all kinds of objects of a zone have in common: how a row is found, listed, read and archived.

use crate::app::{App, Done, archive_row};
use crate::gate::Call;
use crate::page::{CONFIGURATION, CREATED, Params, by_status, one, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use serde_json::Value;
use std::sync::Arc;

/// Which rows a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// All: what is not needed any more is deleted.
    All,
    /// Those in use, or with `status=archived` the others.
    ByStatus,
    /// Those in use.
    InUse,
}

/// A kind of object of a zone.
pub(crate) trait Object: 'static {
    /// `SELECT … FROM …`, with `id`, `zone_id` and `created_at`.
    const COLUMNS: &'static str;
    /// The table.
    const TABLE: &'static str;
    /// The word for it in the record of changes.
    const ENTITY: &'static str;
    /// The code where there is none.
    const ABSENT: &'static str;
    /// Which rows a list has.
    const LISTED: Listed;

    /// A row as it is answered.
    fn to_json(row: Row<'_>) -> Result<Value, StoreError>;
}

fn of_zone<O: Object>(zone: &str) -> Select {
    Select::new(O::COLUMNS).and_text("zone_id = ?", zone)
}

/// The one that is in use; 404 where there is none.
pub(crate) async fn find<O: Object>(
    connection: &mut SqlConnection,
    zone: &str,
    id: &str,
) -> Result<Value, Problem> {
    find_or::<O>(connection, zone, id, O::ABSENT).await
}

/// The same, with another code where there is none.
pub(crate) async fn find_or<O: Object>(
    connection: &mut SqlConnection,
    zone: &str,
    id: &str,
    absent: &'static str,
) -> Result<Value, Problem> {
    let select = of_zone::<O>(zone).and_text("id = ?", id);
    let select = if O::LISTED == Listed::All { select } else { select.and("archived_at IS NULL") };
    one(connection, select, O::to_json, absent).await
}

/// `GET /v1/zones/:z/…`
pub(crate) async fn list<O: Object>(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let select = of_zone::<O>(&zone);
    let select = match O::LISTED {
        Listed::All => select,
        Listed::ByStatus => by_status(select, &params)?,
        Listed::InUse => select.and("archived_at IS NULL"),
    };
    page(&app, &params, CONFIGURATION, select, CREATED, O::to_json).await
}

/// `GET /v1/zones/:z/…/:id`
pub(crate) async fn get<O: Object>(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    find::<O>(&mut connection, &zone, &id).await.map(Json)
}

/// `DELETE /v1/zones/:z/…/:id`, of what nothing else ends with.
pub(crate) async fn archive<O: Object>(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let author = call.actor.author();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            find::<O>(tx.connection(), &zone, &id).await?;
            archive_row(tx, O::TABLE, &id, &author).await?;
            Ok(Done::deleted((O::ENTITY, &id)))
        })
    })
    .await
}
