//! Workloads: the identities of launchers, and which credential goes into which variable (contract admin-audit §5.3).

use crate::app::{App, Done, Kind, require_zone, zone_id};
use crate::body::{Body, Text, require_fields};
use crate::custody;
use crate::gate::Call;
use crate::object::{Listed, Object, find};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_store::{StoreError, ids};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, name, bindings_json, created_by, created_via_operator, updated_by, \
     updated_via_operator, created_at, updated_at FROM workloads";
const MAX_BINDINGS: usize = 64;
const MAX_SCOPES: usize = 32;
/// Variables that make a program load code.
const BLOCKED: [&str; 6] = [
    "BUN_OPTIONS",
    "DYLD_INSERT_LIBRARIES",
    "DYLD_LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NODE_OPTIONS",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: Text<200>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    name: Option<Text<200>>,
    bindings: Option<Vec<Binding>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum OnFailure {
    #[default]
    Error,
    Warn,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    env: Text<200>,
    resource: Text<500>,
    #[serde(default)]
    scopes: Vec<Text<200>>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    on_failure: OnFailure,
}

impl Binding {
    /// As it is stored: what says nothing is left out.
    fn stored(&self) -> Value {
        let mut stored = Map::new();
        stored.insert("env".to_owned(), self.env.0.as_str().into());
        stored.insert("resource".to_owned(), self.resource.0.as_str().into());
        if !self.scopes.is_empty() {
            stored.insert("scopes".to_owned(), self.scopes.iter().map(|scope| scope.0.as_str()).collect());
        }
        if self.optional {
            stored.insert("optional".to_owned(), true.into());
            stored.insert("on_failure".to_owned(), json!(self.on_failure));
        }
        Value::Object(stored)
    }
}

/// May a credential be put into this environment variable?
#[must_use]
pub fn is_credential_variable(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let rest = name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
    begins && rest && !BLOCKED.contains(&name.to_ascii_uppercase().as_str())
}

fn check(bindings: &[Binding]) -> Result<(), Problem> {
    let refuse = |code, env: &str| Err(Problem::invalid(code).with("details", json!({ "env": env })));
    if bindings.len() > MAX_BINDINGS || bindings.iter().any(|binding| binding.scopes.len() > MAX_SCOPES) {
        let why = format!("at most {MAX_BINDINGS} bindings of at most {MAX_SCOPES} scopes");
        return Err(Problem::invalid("invalid_workload").because(why));
    }
    let mut seen = HashSet::new();
    for Binding { env, .. } in bindings {
        let name = env.0.as_str();
        if !is_credential_variable(name) {
            return refuse("invalid_credential_env", name);
        }
        if !seen.insert(name) {
            return refuse("duplicate_credential_env", name);
        }
    }
    Ok(())
}

/// What would be stored of the bodies that make a workload and bind its variables: one object with the members of both.
pub(crate) fn preview(body: &Body) -> Result<Value, Problem> {
    let (_, update): (_, Update) = body.parse("invalid_workload")?;
    let name = update.name.ok_or_else(|| Problem::invalid("invalid_workload").because("name: is missing"))?;
    let bindings = update.bindings.unwrap_or_default();
    check(&bindings)?;
    let bindings: Value = bindings.iter().map(Binding::stored).collect();
    Ok(json!({ "name": name.0, "bindings": bindings }))
}

/// Launcher identities.
pub(crate) struct Workload;

impl Object for Workload {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "workloads";
    const ENTITY: &'static str = "workloads";
    const ABSENT: &'static str = "workload_not_found";
    const LISTED: Listed = Listed::All;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        row.with_authors(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
            "bindings": row.json("bindings_json")?,
        }))
    }
}

/// The place of a workload's secret. It is sealed for this place and for no other.
fn place(zone: &str, id: &str) -> String {
    format!("zones/{zone}/workloads/{id}/secret")
}

/// `POST /v1/zones/:z/workloads`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_workload")?;
    let (vault, author) = (app.vault.clone(), call.actor.author());
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let (id, now, secret) = (ids::new_id(), tx.now(), ids::new_secret("ws_")?);
            sqlx::query(
                "INSERT INTO workloads (id, zone_id, name, secret_hash, created_by, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $6)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.name.0)
            .bind(vault.hash(&secret))
            .bind(author)
            .bind(now)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "workload_name_taken"))?;
            custody::keep(tx, &vault, &place(zone.as_str(), &id), &secret).await?;
            let row = find::<Workload>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created(("workloads", &id), custody::shown("secret", row, &secret)))
        })
    })
    .await
}

/// `PUT /v1/zones/:z/workloads/:id`
pub(crate) async fn update(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, update): (_, Update) = body.parse("invalid_workload")?;
    require_fields(&value, &["name", "bindings"])?;
    check(update.bindings.as_deref().unwrap_or_default())?;
    let bindings = update.bindings.map(|bindings| bindings.iter().map(Binding::stored).collect::<Value>());
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find::<Workload>(tx.connection(), &zone, &id).await?;
            let now = tx.now();
            sqlx::query(
                "UPDATE workloads SET name = COALESCE($1, name), bindings_json = COALESCE($2, bindings_json), \
                 updated_by = $3, updated_at = $4 WHERE id = $5",
            )
            .bind(update.name.map(|name| name.0))
            .bind(bindings.map(|bindings| bindings.to_string()))
            .bind(author)
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "workload_name_taken"))?;
            let row = find::<Workload>(tx.connection(), &zone, &id).await?;
            Ok(Done::updated(("workloads", &id), row))
        })
    })
    .await
}

/// `POST /v1/zones/:z/workloads/:id/rotate-secret`
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (vault, author) = (app.vault.clone(), call.actor.author());
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            find::<Workload>(tx.connection(), &zone, &id).await?;
            let (now, secret) = (tx.now(), ids::new_secret("ws_")?);
            sqlx::query(
                "UPDATE workloads SET secret_hash = $1, updated_by = $2, updated_at = $3 WHERE id = $4",
            )
            .bind(vault.hash(&secret))
            .bind(author)
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            custody::keep(tx, &vault, &place(&zone, &id), &secret).await?;
            let body =
                custody::shown("secret", find::<Workload>(tx.connection(), &zone, &id).await?, &secret);
            Ok(Done::new(StatusCode::OK, Kind::SecretRotation, ("workloads", &id), body))
        })
    })
    .await
}

/// `GET /v1/zones/:z/workloads/:id/secret`. Who may only read may not read secrets.
pub(crate) async fn reveal(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    call.require_admin()?;
    let place = place(&zone, &id);
    let taken_from = place.clone();
    let envelope: String = app
        .store
        .write(move |tx| {
            Box::pin(async move {
                let row = find::<Workload>(tx.connection(), &zone, &id).await?;
                let metadata = json!({
                    "credential": "workload_secret", "workload_id": id, "workload_name": row.get("name"),
                    "actor": call.actor.identity(),
                });
                let taken = custody::take(tx, &taken_from, &zone, &call.request_id, metadata).await?;
                taken.ok_or_else(|| Problem::absent("workload_secret_not_stored"))
            })
        })
        .await?;
    Ok(Json(json!({ "secret": custody::open(&app.vault, &envelope, &place)? })))
}

/// `DELETE /v1/zones/:z/workloads/:id`: nothing of it stays but its record.
pub(crate) async fn remove(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            find::<Workload>(tx.connection(), &zone, &id).await?;
            sqlx::query("DELETE FROM workloads WHERE id = $1")
                .bind(id.as_str())
                .execute(&mut *tx.connection())
                .await?;
            custody::forget(tx, &place(&zone, &id)).await?;
            Ok(Done::deleted(("workloads", &id)))
        })
    })
    .await
}
