//! Applications (contract admin-audit §5.2).

use crate::app::{App, Done, Kind, archive_row, require_zone, zone_id};
use crate::application_secrets::place;
use crate::body::{Body, Text, require_fields};
use crate::custody;
use crate::cut;
use crate::gate::{Actor, Call};
use crate::names::{Field, refuse_reserved};
use crate::page::{CONFIGURATION, CREATED, Params, by_status, page};
use crate::problem::Problem;
use crate::row::Row;
use crate::traits;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::{ApplicationId, ZoneId};
use caracal_store::SqlConnection;
use caracal_store::change::Change;
use caracal_store::revoke::Selector;
use caracal_store::{StoreError, ids};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) const COLUMNS: &str = "SELECT id, zone_id, name, registration_method, client_secret_hash, traits_json, \
     expires_at, created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at, \
     archived_at FROM applications";
const MIN_SECRET_CHARACTERS: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: Text<200>,
    #[serde(rename = "registration_method")]
    _registration_method: Managed,
    #[serde(default)]
    traits: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Managed {
    Managed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: Option<Text<200>>,
    client_secret: Option<ChosenSecret>,
    traits: Option<Vec<String>>,
}

/// A secret that the caller brings along. Never printed.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ChosenSecret(String);

impl std::fmt::Debug for ChosenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChosenSecret(…)")
    }
}

impl TryFrom<String> for ChosenSecret {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if (MIN_SECRET_CHARACTERS..=1024).contains(&text.chars().count()) {
            Ok(Self(text))
        } else {
            Err(format!("a client secret has {MIN_SECRET_CHARACTERS} to 1024 characters"))
        }
    }
}

fn to_json(actor: &Actor, row: Row<'_>) -> Result<Value, StoreError> {
    let mut object = row.with_authors(json!({
        "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
        "registration_method": row.text("registration_method")?, "expires_at": row.opt_iso("expires_at")?,
        "archived_at": row.opt_iso("archived_at")?,
    }))?;
    // Traits are for global actors only.
    if let Some(members) = object.as_object_mut().filter(|_| actor.zone.is_none()) {
        members.insert("traits".to_owned(), row.json("traits_json")?);
    }
    Ok(object)
}

/// An application that is in use.
pub(crate) struct Found {
    pub(crate) json: Value,
    pub(crate) name: String,
    pub(crate) managed: bool,
    pub(crate) has_secret: bool,
}

pub(crate) async fn find(
    connection: &mut SqlConnection,
    actor: &Actor,
    zone: &str,
    id: &str,
) -> Result<Found, Problem> {
    let select = Select::new(COLUMNS).and_text("zone_id = ?", zone).and_text("id = ?", id);
    let rows = select.and("archived_at IS NULL").all(connection, "").await?;
    let row = rows.first().map(Row).ok_or_else(|| Problem::absent("application_not_found"))?;
    Ok(Found {
        json: to_json(actor, row)?,
        name: row.text("name")?,
        managed: row.text("registration_method")? == "managed",
        has_secret: row.opt_text("client_secret_hash")?.is_some(),
    })
}

async fn refuse_taken(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    name: &str,
    except: &str,
) -> Result<(), Problem> {
    // Compared here and not in SQL, whose LOWER knows ASCII only.
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM applications WHERE zone_id = $1 AND id <> $2 AND archived_at IS NULL \
         AND registration_method = 'managed'",
    )
    .bind(zone.as_str())
    .bind(except)
    .fetch_all(connection)
    .await?;
    if names.iter().any(|taken| taken.to_lowercase() == name.to_lowercase()) {
        return Err(Problem::conflict("application_name_taken"));
    }
    Ok(())
}

/// `GET /v1/zones/:z/applications`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let select = by_status(Select::new(COLUMNS).and_text("zone_id = ?", zone), &params)?;
    page(&app, &params, CONFIGURATION, select, CREATED, |row| to_json(&call.actor, row)).await
}

/// `GET /v1/zones/:z/applications/:id`
pub(crate) async fn get(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    Ok(Json(find(&mut connection, &call.actor, &zone, &id).await?.json))
}

/// A body that an application can be made of.
fn checked(actor: &Actor, body: &Body) -> Result<(Value, Create), Problem> {
    let (value, create): (_, Create) = body.parse("invalid_application")?;
    traits::check(actor, &create.traits)?;
    refuse_reserved(actor, Field::Name, &create.name.0)?;
    Ok((value, create))
}

/// What would be stored of a body.
pub(crate) fn preview(actor: &Actor, body: &Body) -> Result<Value, Problem> {
    let (_, create) = checked(actor, body)?;
    Ok(json!({ "name": create.name.0, "traits": create.traits }))
}

/// `POST /v1/zones/:z/applications`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create) = checked(&call.actor, &body)?;
    let (vault, actor) = (app.vault.clone(), call.actor.clone());
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            refuse_taken(tx.connection(), &zone, &create.name.0, "").await?;
            let (id, now, secret) = (ids::new_id(), tx.now(), ids::new_secret("cs_")?);
            sqlx::query(
                "INSERT INTO applications (id, zone_id, name, registration_method, client_secret_hash, traits_json, \
                 created_by, created_at, updated_at) VALUES ($1, $2, $3, 'managed', $4, $5, $6, $7, $7)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.name.0)
            .bind(vault.hash(&secret))
            .bind(json!(create.traits).to_string())
            .bind(actor.author())
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
            custody::keep(tx, &vault, &place(zone.as_str(), &id), &secret).await?;
            let row = find(tx.connection(), &actor, zone.as_str(), &id).await?;
            Ok(Done::created(("applications", &id), custody::shown("client_secret", row.json, &secret)))
        })
    })
    .await
}

/// `PATCH /v1/zones/:z/applications/:id`
pub(crate) async fn patch(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, patch): (_, Patch) = body.parse("invalid_application")?;
    require_fields(&value, &["name", "client_secret", "traits"])?;
    if let Some(traits) = &patch.traits {
        traits::check(&call.actor, traits)?;
    }
    if let Some(name) = &patch.name {
        refuse_reserved(&call.actor, Field::Name, &name.0)?;
    }
    let (vault, actor) = (app.vault.clone(), call.actor.clone());
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let found = find(tx.connection(), &actor, zone.as_str(), &id).await?;
            if let Some(name) = patch.name.as_ref().filter(|_| found.managed) {
                refuse_taken(tx.connection(), &zone, &name.0, &id).await?;
            }
            let secret = patch.client_secret.map(|secret| secret.0);
            // Events name the application, so its name counts as well.
            let changes_what_is_kept = patch.traits.is_some() || patch.name.is_some();
            if let Some(secret) = &secret {
                if !found.has_secret {
                    return Err(Problem::invalid("client_secret_not_configured"));
                }
                if found.managed {
                    custody::keep(tx, &vault, &place(zone.as_str(), &id), secret).await?;
                }
            }
            let now = tx.now();
            sqlx::query(
                "UPDATE applications SET name = COALESCE($1, name), traits_json = COALESCE($2, traits_json), \
                 client_secret_hash = COALESCE($3, client_secret_hash), updated_by = $4, updated_at = $5 WHERE id = $6",
            )
            .bind(patch.name.map(|name| name.0))
            .bind(patch.traits.map(|traits| json!(traits).to_string()))
            .bind(secret.as_deref().map(|secret| vault.hash(secret)))
            .bind(actor.author())
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            if secret.is_some() || changes_what_is_kept {
                tx.record_change(&zone, &Change::Application { id: id.clone() }).await?;
            }
            let row = find(tx.connection(), &actor, zone.as_str(), &id).await?.json;
            let kind = if secret.is_some() { Kind::SecretRotation } else { Kind::Update };
            Ok(Done::new(StatusCode::OK, kind, ("applications", &id), row))
        })
    })
    .await
}

/// `DELETE /v1/zones/:z/applications/:id`
pub(crate) async fn archive(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let application = ApplicationId::new(id).map_err(|_| Problem::invalid("invalid_params"))?;
    let actor = call.actor.clone();
    let cause = cut::cause(&call, &zone, "application_archived");
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let id = application.to_string();
            find(tx.connection(), &actor, zone.as_str(), &id).await?;
            archive_row(tx, "applications", &id, &actor.author()).await?;
            custody::forget(tx, &place(zone.as_str(), &id)).await?;
            let anchors = vec![Anchor::Application(application.clone())];
            tx.record_change(&zone, &Change::Revoked { anchors }).await?;
            cut::cut(tx, &cause, &Selector::Application { id: application }).await?;
            Ok(Done::deleted(("applications", &id)))
        })
    })
    .await
}
