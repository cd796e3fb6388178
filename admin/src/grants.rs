//! Delegated grants: what a person let an application do (contract admin-audit §5.7).

use crate::app::{App, Done, require_zone, zone_id};
use crate::body::{Body, Text};
use crate::cut;
use crate::gate::Call;
use crate::page::{CONFIGURATION, Key, Params, one, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::revoke::Selector;
use caracal_store::{StoreError, WriteTx, ids};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const COLUMNS: &str = "SELECT g.id, g.zone_id, g.application_id, g.user_id, g.resource_id, \
     r.credential_provider_id AS provider_id, a.name AS application_name, r.name AS resource_name, \
     p.name AS provider_name, p.kind AS provider_kind, g.scopes_json, g.status, g.created_by, \
     g.created_via_operator, g.updated_by, g.updated_via_operator, g.created_at, g.updated_at \
     FROM delegated_grants g JOIN applications a ON a.id = g.application_id \
     JOIN resources r ON r.id = g.resource_id JOIN providers p ON p.id = r.credential_provider_id";
const MAX_SCOPES: usize = 64;

#[derive(Debug, Deserialize)]
struct Create {
    application_id: Text<128>,
    user_id: Text<512>,
    resource_id: Text<128>,
    scopes: Vec<Scope>,
}

/// 1 to 200 characters of `a-z 0-9 : _ . / -`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Scope(String);

impl TryFrom<String> for Scope {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":_./-".contains(&byte);
        if (1..=200).contains(&text.len()) && text.bytes().all(known) {
            Ok(Self(text))
        } else {
            Err("a scope has 1 to 200 characters of a-z, 0-9 and : _ . / -".to_owned())
        }
    }
}

fn bare(row: Row<'_>) -> Result<Value, StoreError> {
    let mut object = row.with_authors(json!({
        "id": row.text("id")?, "zone_id": row.text("zone_id")?, "application_id": row.text("application_id")?,
        "user_id": row.text("user_id")?, "resource_id": row.text("resource_id")?,
        "provider_id": row.text("provider_id")?, "scopes": row.json("scopes_json")?, "status": row.text("status")?,
    }))?;
    if let Some(members) = object.as_object_mut() {
        members.remove("updated_at");
    }
    Ok(object)
}

fn with_names(row: Row<'_>) -> Result<Value, StoreError> {
    let mut object = bare(row)?;
    if let Some(members) = object.as_object_mut() {
        for name in ["application_name", "resource_name", "provider_name", "provider_kind"] {
            members.insert(name.to_owned(), row.text(name)?.into());
        }
    }
    Ok(object)
}

async fn find(connection: &mut SqlConnection, zone: &str, id: &str) -> Result<Value, Problem> {
    let select = Select::new(COLUMNS).and_text("g.zone_id = ?", zone).and_text("g.id = ?", id);
    one(connection, select, bare, "grant_not_found").await
}

/// `GET /v1/zones/:z/grants`
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let mut select = Select::new(COLUMNS).and_text("g.zone_id = ?", zone);
    for (name, condition) in [
        ("application_id", "g.application_id = ?"),
        ("resource_id", "g.resource_id = ?"),
        ("provider_id", "r.credential_provider_id = ?"),
    ] {
        if let Some(value) = params.text(name, 128)? {
            select = select.and_text(condition, value);
        }
    }
    let subject = params.text("subject_id", 512)?;
    if let Some(user) = params.text("user_id", 512)?.or(subject) {
        select = select.and_text("g.user_id = ?", user);
    }
    if let Some(status) = params.one_of("status", &["active", "revoked"])? {
        select = select.and_text("g.status = ?", status);
    }
    let scopes = params.text("scopes", 4096)?.unwrap_or_default();
    for scope in scopes.split(',').map(str::trim).filter(|scope| !scope.is_empty()).take(MAX_SCOPES) {
        // Scopes are a JSON array of texts, and a text with its quotes is found nowhere else in it.
        let text = Value::from(scope).to_string();
        select = select.and_text("REPLACE(g.scopes_json, ?, '') <> g.scopes_json", text);
    }
    let key = Key { time: "g.created_at", id: "g.id" };
    page(&app, &params, CONFIGURATION, select, key, with_names).await
}

/// `GET /v1/zones/:z/grants/:id`
pub(crate) async fn get(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    find(&mut connection, &zone, &id).await.map(Json)
}

/// A body that a grant can be made of.
fn checked(body: &Body) -> Result<(Value, Create), Problem> {
    let (value, create): (_, Create) = body.parse("invalid_body")?;
    if create.scopes.is_empty() || create.scopes.len() > MAX_SCOPES {
        let why = format!("1 to {MAX_SCOPES} scopes are expected");
        return Err(Problem::invalid("invalid_body").because(why));
    }
    Ok((value, create))
}

/// What would be stored of a body. Whether what it names is there is not known here.
pub(crate) fn preview(body: &Body) -> Result<Value, Problem> {
    let (_, create) = checked(body)?;
    let scopes: Vec<&str> = create.scopes.iter().map(|scope| scope.0.as_str()).collect();
    Ok(json!({ "user_id": create.user_id.0, "scopes": scopes }))
}

/// The application and the resource are in use, and the resource has all the scopes.
async fn check(tx: &mut WriteTx<'_>, zone: &ZoneId, create: &Create) -> Result<(), Problem> {
    let now = tx.now();
    let application: Option<String> = sqlx::query_scalar(
        "SELECT id FROM applications WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL \
         AND (expires_at IS NULL OR expires_at > $3)",
    )
    .bind(zone.as_str())
    .bind(create.application_id.0.as_str())
    .bind(now)
    .fetch_optional(&mut *tx.connection())
    .await?;
    application.ok_or_else(|| Problem::absent("application_not_found"))?;
    let scopes: Option<String> = sqlx::query_scalar(
        "SELECT scopes_json FROM resources WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(create.resource_id.0.as_str())
    .fetch_optional(&mut *tx.connection())
    .await?;
    let scopes = scopes.ok_or_else(|| Problem::absent("resource_not_found"))?;
    let scopes: Vec<String> = serde_json::from_str(&scopes)
        .map_err(|error| StoreError::corrupt(format!("resources.scopes_json: {error}")))?;
    match create.scopes.iter().find(|scope| !scopes.contains(&scope.0)) {
        Some(Scope(scope)) => Err(Problem::forbidden("grant_scopes_exceed_resource")
            .because(format!("the resource has no scope {scope:?}"))),
        None => Ok(()),
    }
}

/// `POST /v1/zones/:z/grants`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create) = checked(&body)?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            check(tx, &zone, &create).await?;
            let (id, now) = (ids::new_id(), tx.now());
            let scopes: Value = create.scopes.iter().map(|scope| scope.0.as_str()).collect();
            sqlx::query(
                "INSERT INTO delegated_grants (id, zone_id, application_id, user_id, resource_id, scopes_json, status, \
                 created_by, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, 'active', $7, $8, $8)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.application_id.0)
            .bind(create.user_id.0)
            .bind(create.resource_id.0)
            .bind(scopes.to_string())
            .bind(author)
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
            let row = find(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created(("grants", &id), row))
        })
    })
    .await
}

/// `DELETE /v1/zones/:z/grants/:id`. Everything that stems from the person ends, not only what used this grant: which
/// mandate was minted because of which grant is not known.
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let cause = cut::cause(&call, &zone, "grant_revoked");
    let author = call.actor.author();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let row = find(tx.connection(), zone.as_str(), &id).await?;
            let user = row.get("user_id").and_then(Value::as_str).unwrap_or_default();
            let now = tx.now();
            sqlx::query(
                "UPDATE delegated_grants SET status = 'revoked', updated_by = $1, updated_at = $2 WHERE id = $3",
            )
            .bind(author)
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            // A person, and not an application that is called the same.
            let known: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM authority_records WHERE zone_id = $1 AND subject_id = $2 \
                 AND session_type = 'user'",
            )
            .bind(zone.as_str())
            .bind(user)
            .fetch_one(&mut *tx.connection())
            .await?;
            if known > 0 {
                cut::cut(tx, &cause, &Selector::Subject { id: user.to_owned() }).await?;
            }
            Ok(Done::deleted(("grants", &id)))
        })
    })
    .await
}
