//! Policies and their versions, which never change (contract admin-audit §5.10).

use crate::app::{App, Done, require_zone, zone_id};
use crate::body::{Body, Text};
use crate::gate::Call;
use crate::names::{Field, refuse_reserved};
use crate::object::{Listed, Object, find};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::id::ZoneId;
use caracal_store::{StoreError, WriteTx, clock, ids};
use caracal_sts::policy::{POLICY_SCHEMA_VERSION, PolicyDocument, ValidationError};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, name, description, created_by, created_via_operator, updated_by, \
     updated_via_operator, created_at, updated_at FROM policies";

#[derive(Debug, Deserialize)]
struct Create {
    name: Text<200>,
    description: Option<String>,
    content: Content,
}

#[derive(Debug, Deserialize)]
struct OnlyContent {
    content: Content,
}

/// The text of a policy, at least one character.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Content(String);

impl TryFrom<String> for Content {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() { Err("content is empty") } else { Ok(Self(text)) }
    }
}

/// Policies.
pub(crate) struct Policy;

impl Object for Policy {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "policies";
    const ENTITY: &'static str = "policies";
    const ABSENT: &'static str = "policy_not_found";
    const LISTED: Listed = Listed::InUse;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        row.with_authors(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
            "description": row.opt_text("description")?,
        }))
    }
}

/// Checks a text on a thread where it may take its time.
async fn parse(text: String) -> Result<Result<PolicyDocument, ValidationError>, Problem> {
    let parsed = tokio::task::spawn_blocking(move || PolicyDocument::parse(&text)).await;
    parsed.map_err(|error| StoreError::corrupt(format!("a policy check did not end: {error}")).into())
}

/// 422 `invalid_rego` with the code as description.
fn refused(error: &ValidationError) -> Problem {
    let place = error.position.map(|at| json!({ "line": at.line, "column": at.column }));
    let details = json!({ "message": error.to_string(), "position": place });
    Problem::unprocessable("invalid_rego").because(error.code()).with("details", details)
}

async fn accepted(content: Content) -> Result<PolicyDocument, Problem> {
    parse(content.0).await?.map_err(|error| refused(&error))
}

/// `POST /v1/policies/validate`
pub(crate) async fn validate(body: Body) -> Result<Json<Value>, Problem> {
    let (_, request): (_, OnlyContent) = body.parse("invalid_body")?;
    let document = parse(request.content.0).await?.map_err(|error| refused(&error).with("valid", false))?;
    Ok(Json(json!({
        "valid": true,
        "schema_version": document.schema_version(),
        "input_schema_version": POLICY_SCHEMA_VERSION,
        "output_contract": {
            "package": "caracal.authz", "rule": "result", "decision": ["allow", "deny"],
            "evaluation_status": ["complete"],
        },
        "preview": document.preview(),
    })))
}

/// `GET /v1/zones/:z/policies/:id`, with all versions, newest first.
pub(crate) async fn get(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    let mut policy = find::<Policy>(&mut connection, &zone, &id).await?;
    let rows = Select::new(
        "SELECT id, policy_id, version, content, content_sha256, schema_version, created_by, created_via_operator, \
         created_at FROM policy_versions",
    )
    .and_text("policy_id = ?", id)
    .all(&mut connection, " ORDER BY version DESC")
    .await?;
    let version = |row: Row<'_>| {
        Ok(json!({
            "id": row.text("id")?, "policy_id": row.text("policy_id")?, "version": row.int("version")?,
            "content": row.text("content")?, "content_sha256": row.text("content_sha256")?,
            "schema_version": row.text("schema_version")?, "created_by": row.opt_text("created_by")?,
            "created_via_operator": row.flag("created_via_operator")?, "created_at": row.iso("created_at")?,
        }))
    };
    let versions = rows.iter().map(|row| version(Row(row))).collect::<Result<Vec<_>, StoreError>>()?;
    if let Some(members) = policy.as_object_mut() {
        members.insert("versions".to_owned(), Value::Array(versions));
    }
    Ok(Json(policy))
}

/// `POST /v1/zones/:z/policies`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_body")?;
    refuse_reserved(&call.actor, Field::Name, &create.name.0)?;
    let document = accepted(create.content).await?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let (id, now) = (ids::new_id(), tx.now());
            sqlx::query(
                "INSERT INTO policies (id, zone_id, name, description, created_by, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $6)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.name.0.as_str())
            .bind(create.description.as_deref())
            .bind(author.as_str())
            .bind(now)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "policy_name_conflict"))?;
            let version = insert_version(tx, &zone, &id, &document, &author).await?;
            let body = json!({
                "id": id, "version_id": version.get("id"), "zone_id": zone.as_str(), "name": create.name.0,
                "description": create.description, "version": version,
            });
            let first = version.get("id").and_then(Value::as_str).unwrap_or_default();
            Ok(Done::created(("policies", &id), body).with_first("policy_versions", first))
        })
    })
    .await
}

async fn insert_version(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    policy: &str,
    document: &PolicyDocument,
    author: &str,
) -> Result<Value, Problem> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT MAX(version) FROM policy_versions WHERE policy_id = $1")
            .bind(policy)
            .fetch_one(&mut *tx.connection())
            .await?;
    let (id, version, now) = (ids::new_id(), last.unwrap_or(0) + 1, tx.now());
    sqlx::query(
        "INSERT INTO policy_versions (id, policy_id, zone_id, version, content, content_sha256, schema_version, \
         created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(id.as_str())
    .bind(policy)
    .bind(zone.as_str())
    .bind(version)
    .bind(document.source())
    .bind(document.content_sha256())
    .bind(document.schema_version())
    .bind(author)
    .bind(now)
    .execute(&mut *tx.connection())
    .await?;
    Ok(json!({
        "id": id, "policy_id": policy, "version": version, "content_sha256": document.content_sha256(),
        "schema_version": document.schema_version(), "created_at": clock::iso(now),
    }))
}

/// `POST /v1/zones/:z/policies/:id/versions`
pub(crate) async fn add_version(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, request): (_, OnlyContent) = body.parse("invalid_body")?;
    let mut connection = app.store.read().await?;
    find::<Policy>(&mut connection, zone.as_str(), &id).await?;
    drop(connection);
    let document = accepted(request.content).await?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find::<Policy>(tx.connection(), zone.as_str(), &id).await?;
            let mut version = insert_version(tx, &zone, &id, &document, &author).await?;
            let now = tx.now();
            sqlx::query("UPDATE policies SET updated_at = $1, updated_by = $2 WHERE id = $3")
                .bind(now)
                .bind(author)
                .bind(id.as_str())
                .execute(&mut *tx.connection())
                .await?;
            let version_id = version.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Some(members) = version.as_object_mut() {
                members.insert("version_id".to_owned(), version_id.as_str().into());
            }
            Ok(Done::versioned(("policies", &id), ("policy_versions", &version_id), version))
        })
    })
    .await
}
