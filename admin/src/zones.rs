//! Zones (contract admin-audit §5.1).

use crate::app::{App, Done, archive_row, zone_id};
use crate::body::{Body, Text, require_fields};
use crate::cut;
use crate::gate::{Actor, Call};
use crate::names::{self, Field, refuse_reserved};
use crate::page::{CONFIGURATION, CREATED, Params, one, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::{ApplicationId, ZoneId};
use caracal_store::SqlConnection;
use caracal_store::change::Change;
use caracal_store::revoke::{Cause, Selector};
use caracal_store::{StoreError, WriteTx, ids};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, name, slug, dcr_enabled, operator_coauthor_badge, operator_governed, created_by, \
     created_via_operator, updated_by, updated_via_operator, created_at, updated_at FROM zones";

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Slug(String);

impl TryFrom<String> for Slug {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=120).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err("a slug has 1 to 120 lower-case letters, digits and hyphens")
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: Text<120>,
    slug: Option<Slug>,
    #[serde(default)]
    dcr_enabled: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: Option<Text<120>>,
    slug: Option<Slug>,
    dcr_enabled: Option<bool>,
    operator_coauthor_badge: Option<bool>,
    operator_governed: Option<bool>,
    dcr_shutdown: Option<DcrShutdown>,
}

/// What becomes of live clients when dynamic registration is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DcrShutdown {
    KeepLive,
    RevokeLive,
}

fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
    row.with_authors(json!({
        "id": row.text("id")?, "name": row.text("name")?, "slug": row.text("slug")?,
        "dcr_enabled": row.flag("dcr_enabled")?,
        "operator_coauthor_badge": row.flag("operator_coauthor_badge")?,
        "operator_governed": row.flag("operator_governed")?,
    }))
}

async fn find(connection: &mut SqlConnection, zone: &str) -> Result<Value, Problem> {
    one(
        connection,
        Select::new(COLUMNS).and_text("id = ?", zone).and("archived_at IS NULL"),
        to_json,
        "zone_not_found",
    )
    .await
}

/// `GET /v1/zones`
pub(crate) async fn list(State(app): State<App>, params: Params) -> Result<Json<Value>, Problem> {
    let select = Select::new(COLUMNS)
        .and("archived_at IS NULL")
        .and("slug NOT LIKE 'caracal-sys-%'")
        .and("LOWER(name) NOT LIKE 'caracal.sys/%'");
    page(&app, &params, CONFIGURATION, select, CREATED, to_json).await
}

/// `GET /v1/zones/:id`
pub(crate) async fn get(State(app): State<App>, Path(zone): Path<String>) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    find(&mut connection, &zone).await.map(Json)
}

/// A body that a zone can be made of.
fn checked(actor: &Actor, body: &Body) -> Result<(Value, Create), Problem> {
    let (value, create): (_, Create) = body.parse("invalid_zone")?;
    refuse_reserved(actor, Field::Name, &create.name.0)?;
    if let Some(slug) = &create.slug {
        refuse_reserved(actor, Field::ZoneSlug, &slug.0)?;
    }
    Ok((value, create))
}

/// What would be stored of a body.
pub(crate) fn preview(actor: &Actor, body: &Body) -> Result<Value, Problem> {
    let (_, create) = checked(actor, body)?;
    let slug = create.slug.map_or_else(|| names::slug(&create.name.0, "zone"), |slug| slug.0);
    Ok(json!({ "name": create.name.0, "slug": slug, "dcr_enabled": create.dcr_enabled }))
}

/// `POST /v1/zones`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, create) = checked(&call.actor, &body)?;
    let actor = call.actor.clone();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let slug = match create.slug {
                Some(Slug(slug)) => slug,
                None => free_slug(tx, &create.name.0).await?,
            };
            refuse_reserved(&actor, Field::ZoneSlug, &slug)?;
            let (id, now): (ZoneId, i64) = (new_id()?, tx.now());
            sqlx::query(
                "INSERT INTO zones (id, name, slug, dcr_enabled, created_by, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $6)",
            )
            .bind(id.as_str())
            .bind(create.name.0)
            .bind(slug)
            .bind(i64::from(create.dcr_enabled))
            .bind(actor.author())
            .bind(now)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "zone_slug_conflict"))?;
            tx.record_change(&id, &Change::Zone).await?;
            let row = find(tx.connection(), id.as_str()).await?;
            let mut done = Done::created(("zones", id.as_str()), row);
            done.zone = Some(id.to_string());
            Ok(done)
        })
    })
    .await
}

fn new_id() -> Result<ZoneId, StoreError> {
    ids::new().map_err(|_| StoreError::corrupt("a new zone id"))
}

async fn free_slug(tx: &mut WriteTx<'_>, name: &str) -> Result<String, Problem> {
    let base = names::slug(name, "zone");
    let taken: Vec<String> = sqlx::query_scalar("SELECT slug FROM zones WHERE slug = $1 OR slug LIKE $2")
        .bind(base.as_str())
        .bind(format!("{base}-%"))
        .fetch_all(&mut *tx.connection())
        .await?;
    Ok(names::free(&base, &HashSet::from_iter(taken)))
}

/// `PATCH /v1/zones/:id`
pub(crate) async fn patch(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, patch): (_, Patch) = body.parse("invalid_zone")?;
    let known =
        ["name", "slug", "dcr_enabled", "operator_coauthor_badge", "operator_governed", "dcr_shutdown"];
    require_fields(&value, &known)?;
    if patch.dcr_shutdown.is_some() && patch.dcr_enabled != Some(false) {
        return Err(Problem::invalid("dcr_shutdown_not_applicable"));
    }
    if let Some(name) = &patch.name {
        refuse_reserved(&call.actor, Field::Name, &name.0)?;
    }
    if let Some(slug) = &patch.slug {
        refuse_reserved(&call.actor, Field::ZoneSlug, &slug.0)?;
    }
    let zone = zone_id(&zone)?;
    let author = call.actor.author();
    let cause = cut::cause(&call, &zone, "dcr_shutdown");
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find(tx.connection(), zone.as_str()).await?;
            if patch.dcr_enabled == Some(false) {
                shut_down_registration(tx, &zone, patch.dcr_shutdown, &author, &cause).await?;
            }
            let now = tx.now();
            sqlx::query(
                "UPDATE zones SET name = COALESCE($1, name), slug = COALESCE($2, slug), \
                 dcr_enabled = COALESCE($3, dcr_enabled), \
                 operator_coauthor_badge = COALESCE($4, operator_coauthor_badge), \
                 operator_governed = COALESCE($5, operator_governed), updated_by = $6, updated_at = $7 WHERE id = $8",
            )
            .bind(patch.name.map(|name| name.0))
            .bind(patch.slug.map(|slug| slug.0))
            .bind(patch.dcr_enabled.map(i64::from))
            .bind(patch.operator_coauthor_badge.map(i64::from))
            .bind(patch.operator_governed.map(i64::from))
            .bind(author)
            .bind(now)
            .bind(zone.as_str())
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "zone_slug_conflict"))?;
            let row = find(tx.connection(), zone.as_str()).await?;
            Ok(Done::updated(("zones", zone.as_str()), row))
        })
    })
    .await
}

async fn shut_down_registration(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    shutdown: Option<DcrShutdown>,
    author: &str,
    cause: &Cause,
) -> Result<(), Problem> {
    let now = tx.now();
    let live = live_dcr(tx.connection(), zone, now).await?;
    match shutdown {
        None if !live.is_empty() => {
            let details = json!({ "live_dcr_applications": live.len() });
            let why = "registered clients are alive: say dcr_shutdown keep_live or revoke_live";
            Err(Problem::conflict("dcr_shutdown_required").because(why).with("details", details))
        }
        Some(DcrShutdown::RevokeLive) if !live.is_empty() => {
            let mut anchors = Vec::new();
            for id in live {
                archive_row(tx, "applications", id.as_str(), author).await?;
                cut::cut(tx, cause, &Selector::Application { id: id.clone() }).await?;
                anchors.push(Anchor::Application(id));
            }
            tx.record_change(zone, &Change::Revoked { anchors }).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The applications that registered themselves and have not ended.
pub(crate) async fn live_dcr(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    now: i64,
) -> Result<Vec<ApplicationId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM applications WHERE zone_id = $1 AND registration_method = 'dcr' AND archived_at IS NULL \
         AND expires_at > $2",
    )
    .bind(zone.as_str())
    .bind(now)
    .fetch_all(connection)
    .await?;
    let parse =
        |id| ApplicationId::new(id).map_err(|error| StoreError::corrupt(format!("applications: {error}")));
    ids.into_iter().map(parse).collect()
}

/// `DELETE /v1/zones/:id`
pub(crate) async fn archive(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let author = call.actor.author();
    let gone = zone.clone();
    let response = app
        .change(&call, None, move |tx| {
            Box::pin(async move {
                find(tx.connection(), zone.as_str()).await?;
                archive_row(tx, "zones", zone.as_str(), &author).await?;
                tx.record_change(&zone, &Change::ZoneGone).await?;
                Ok(Done::deleted(("zones", zone.as_str())))
            })
        })
        .await?;
    app.keys.forget(&gone);
    Ok(response)
}

/// `GET /v1/zones/:id/dcr-status`
pub(crate) async fn dcr_status(
    State(app): State<App>,
    Path(zone): Path<String>,
) -> Result<Json<Value>, Problem> {
    let zone = zone_id(&zone)?;
    let mut connection = app.store.read().await?;
    let row = find(&mut connection, zone.as_str()).await?;
    let live = live_dcr(&mut connection, &zone, app.store.now()).await?;
    Ok(Json(json!({
        "id": zone.as_str(), "dcr_enabled": row.get("dcr_enabled"), "live_dcr_applications": live.len(),
    })))
}
