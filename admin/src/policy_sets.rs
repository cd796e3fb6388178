//! Policy sets and their versions (contract admin-audit §5.12). A version is a list of policy versions that compile
//! together; one that does not compile is never stored.

use crate::app::{App, Done, archive_row, require_zone, zone_id};
use crate::body::{Body, Text};
use crate::gate::Call;
use crate::object::{Listed, Object, find, find_or};
use crate::page::{CONFIGURATION, CREATED, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_store::SqlConnection;
use caracal_store::change::Change;
use caracal_store::{StoreError, clock, ids};
use caracal_sts::policy::bundle::MAX_DOCUMENTS;
use caracal_sts::policy::{Bundle, POLICY_SCHEMA_VERSION, manifest_sha256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, name, description, active_version_id, created_by, created_via_operator, \
     updated_by, updated_via_operator, created_at, updated_at FROM policy_sets";
const VERSION_COLUMNS: &str = "SELECT id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, \
     created_by, created_via_operator, created_at FROM policy_set_versions";

#[derive(Debug, Deserialize)]
struct Create {
    name: Text<200>,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NewVersion {
    manifest: Vec<Entry>,
}

/// One line of a manifest.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) policy_version_id: String,
}

/// Policy sets.
pub(crate) struct PolicySet;

impl Object for PolicySet {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "policy_sets";
    const ENTITY: &'static str = "policy-sets";
    const ABSENT: &'static str = "policy_set_not_found";
    const LISTED: Listed = Listed::InUse;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        row.with_authors(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
            "description": row.opt_text("description")?, "active_version_id": row.opt_text("active_version_id")?,
        }))
    }
}

/// `POST /v1/zones/:z/policy-sets`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_body")?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let (id, now) = (ids::new_id(), tx.now());
            sqlx::query(
                "INSERT INTO policy_sets (id, zone_id, name, description, created_by, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $6)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.name.0)
            .bind(create.description)
            .bind(author)
            .bind(now)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "policy_set_name_conflict"))?;
            let row = find::<PolicySet>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created(("policy-sets", &id), row))
        })
    })
    .await
}

/// The documents of a manifest, in its order: 422 unless every one is there, in this zone, once.
pub(crate) async fn documents(
    connection: &mut SqlConnection,
    zone: &str,
    manifest: &[Entry],
) -> Result<Vec<(String, String)>, Problem> {
    let refuse = |why: String| Err(Problem::unprocessable("invalid_policy_contract").because(why));
    if !(1..=MAX_DOCUMENTS).contains(&manifest.len()) {
        return refuse(format!("a manifest has 1 to {MAX_DOCUMENTS} policy versions"));
    }
    let mut seen = HashSet::new();
    let mut documents = Vec::with_capacity(manifest.len());
    for Entry { policy_version_id: id } in manifest {
        if !seen.insert(id.as_str()) {
            return refuse(format!("policy version {id} is there twice"));
        }
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT content, schema_version FROM policy_versions WHERE id = $1 AND zone_id = $2",
        )
        .bind(id.as_str())
        .bind(zone)
        .fetch_optional(&mut *connection)
        .await?;
        match row {
            None => return refuse(format!("there is no policy version {id} in this zone")),
            Some((_, schema)) if schema != POLICY_SCHEMA_VERSION => {
                return refuse(format!(
                    "policy version {id} has schema {schema}, not {POLICY_SCHEMA_VERSION}"
                ));
            }
            Some((content, _)) => documents.push((id.clone(), content)),
        }
    }
    Ok(documents)
}

/// 409 where a version of a manifest that was stored is not there any more.
pub(crate) async fn require_versions(
    connection: &mut SqlConnection,
    zone: &str,
    manifest: &[Entry],
) -> Result<(), Problem> {
    for Entry { policy_version_id: id } in manifest {
        let there: Option<String> =
            sqlx::query_scalar("SELECT id FROM policy_versions WHERE id = $1 AND zone_id = $2")
                .bind(id.as_str())
                .bind(zone)
                .fetch_optional(&mut *connection)
                .await?;
        if there.is_none() {
            let why = format!("policy version {id} is gone");
            return Err(Problem::conflict("referenced_policy_version_missing").because(why));
        }
    }
    Ok(())
}

/// Compiles on a thread where it may take its time. The inner error says why the documents do not make a bundle.
pub(crate) async fn try_compile(documents: Vec<(String, String)>) -> Result<Result<Bundle, String>, Problem> {
    let compiled = tokio::task::spawn_blocking(move || Bundle::compile(&documents)).await;
    let compiled =
        compiled.map_err(|error| StoreError::corrupt(format!("a compilation did not end: {error}")))?;
    Ok(compiled.map_err(|error| error.to_string()))
}

/// The same: 422 where the documents do not make a bundle.
pub(crate) async fn compile(documents: Vec<(String, String)>) -> Result<Bundle, Problem> {
    let refuse = |why: String| Problem::unprocessable("invalid_policy_bundle").because(why);
    try_compile(documents).await?.map_err(refuse)
}

/// `POST /v1/zones/:z/policy-sets/:id/versions`
pub(crate) async fn add_version(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, request): (_, NewVersion) = body.parse("invalid_body")?;
    let mut connection = app.store.read().await?;
    find::<PolicySet>(&mut connection, &zone, &id).await?;
    let documents = documents(&mut connection, &zone, &request.manifest).await?;
    drop(connection);
    compile(documents).await?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find::<PolicySet>(tx.connection(), &zone, &id).await?;
            let last: Option<i64> =
                sqlx::query_scalar("SELECT MAX(version) FROM policy_set_versions WHERE policy_set_id = $1")
                    .bind(id.as_str())
                    .fetch_one(&mut *tx.connection())
                    .await?;
            let (version_id, version, now) = (ids::new_id(), last.unwrap_or(0) + 1, tx.now());
            let entries: Vec<_> = request.manifest.iter().map(|entry| entry.policy_version_id.as_str()).collect();
            let sha = manifest_sha256(&entries);
            sqlx::query(
                "INSERT INTO policy_set_versions (id, policy_set_id, zone_id, version, manifest_json, \
                 manifest_sha256, schema_version, created_by, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(version_id.as_str())
            .bind(id.as_str())
            .bind(zone)
            .bind(version)
            .bind(json!(request.manifest).to_string())
            .bind(sha.as_str())
            .bind(POLICY_SCHEMA_VERSION)
            .bind(author)
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
            let body = json!({
                "version_id": version_id, "id": version_id, "policy_set_id": id, "version": version,
                "manifest_sha256": sha, "schema_version": POLICY_SCHEMA_VERSION, "created_at": clock::iso(now),
            });
            Ok(Done::versioned(("policy-sets", &id), ("policy_set_versions", &version_id), body))
        })
    })
    .await
}

fn version_json(row: Row<'_>) -> Result<Value, StoreError> {
    Ok(json!({
        "id": row.text("id")?, "policy_set_id": row.text("policy_set_id")?, "version": row.int("version")?,
        "manifest_sha256": row.text("manifest_sha256")?, "schema_version": row.text("schema_version")?,
        "created_by": row.opt_text("created_by")?, "created_via_operator": row.flag("created_via_operator")?,
        "created_at": row.iso("created_at")?,
    }))
}

/// `GET /v1/zones/:z/policy-sets/:id/versions`
pub(crate) async fn list_versions(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    find::<PolicySet>(&mut connection, &zone, &id).await?;
    drop(connection);
    let select = Select::new(VERSION_COLUMNS).and_text("policy_set_id = ?", id);
    page(&app, &params, CONFIGURATION, select, CREATED, version_json).await
}

/// A version of a set: its row as JSON, and its manifest.
pub(crate) async fn version(
    connection: &mut SqlConnection,
    set: &str,
    version: &str,
    absent: &'static str,
) -> Result<(Value, Vec<Entry>), Problem> {
    let select = Select::new(VERSION_COLUMNS).and_text("policy_set_id = ?", set);
    let rows = select.and_text("id = ?", version).all(connection, "").await?;
    let row = rows.first().map(Row).ok_or_else(|| Problem::absent(absent))?;
    let manifest = serde_json::from_value(row.json("manifest_json")?)
        .map_err(|error| StoreError::corrupt(format!("policy_set_versions {version}: {error}")))?;
    Ok((version_json(row)?, manifest))
}

/// `GET /v1/zones/:z/policy-sets/:id/versions/:version`
pub(crate) async fn get_version(
    State(app): State<App>,
    Path((zone, id, version_id)): Path<(String, String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    let absent = "policy_set_version_not_found";
    find_or::<PolicySet>(&mut connection, &zone, &id, absent).await?;
    let (mut row, manifest) = version(&mut connection, &id, &version_id, absent).await?;
    let mut policies = Vec::with_capacity(manifest.len());
    for entry in &manifest {
        let policy: Option<String> =
            sqlx::query_scalar("SELECT policy_id FROM policy_versions WHERE id = $1")
                .bind(entry.policy_version_id.as_str())
                .fetch_optional(&mut *connection)
                .await?;
        policies.extend(policy);
    }
    if let Some(members) = row.as_object_mut() {
        members.insert("manifest_json".to_owned(), json!(manifest));
        members.insert("policies".to_owned(), json!(policies));
    }
    Ok(Json(row))
}

/// `DELETE /v1/zones/:z/policy-sets/:id`. Was it the active one, the zone denies everything from now on.
pub(crate) async fn archive(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let author = call.actor.author();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let before = find::<PolicySet>(tx.connection(), zone.as_str(), &id).await?;
            archive_row(tx, "policy_sets", &id, &author).await?;
            sqlx::query("UPDATE policy_sets SET active_version_id = NULL, activated_at = NULL WHERE id = $1")
                .bind(id.as_str())
                .execute(&mut *tx.connection())
                .await?;
            if before.get("active_version_id").is_some_and(Value::is_string) {
                tx.record_change(&zone, &Change::Policy).await?;
            }
            Ok(Done::deleted(("policy-sets", &id)))
        })
    })
    .await
}
