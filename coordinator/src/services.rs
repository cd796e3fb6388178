//! Where agents can be called: the registry of services (contract coordinator §7).

use crate::body::{self, Fields};
use crate::caller::Caller;
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::page::{self, Page, Table};
use crate::sessions::{QueryArgument, members};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use caracal_mandate::id::ApplicationId;
use caracal_store::SqlConnection;
use caracal_store::clock::iso;
use caracal_store::model::Application;
use caracal_store::{StoreError, WriteTx, ids};
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::sync::Arc;

const COLUMNS: &str = "id, zone_id, application_id, endpoint_url, protocol_versions_json, framework_name, \
     framework_version, capabilities_json, health, metadata_json, last_heartbeat_at";
const MAX_ITEMS: usize = 64;
const MAX_TEXT: usize = 2048;

/// What is registered.
#[derive(Debug)]
struct Registration {
    application: ApplicationId,
    endpoint_url: String,
    protocol_versions: Vec<String>,
    framework: Option<(String, Option<String>)>,
    capabilities: Vec<String>,
    metadata: Value,
}

impl Registration {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut fields = Fields::parse(bytes)?;
        let application = fields.required("application_id");
        let endpoint_url = fields.text("endpoint_url");
        if !endpoint_url.as_deref().is_some_and(is_endpoint) {
            fields.issue(&["endpoint_url"], "is required, an absolute http or https URL");
        }
        let text = |text: &str| (1..=MAX_TEXT).contains(&text.len()).then(|| text.to_owned());
        let protocol_versions =
            fields.list("protocol_versions", MAX_ITEMS, "is not a text that says something", text);
        let capabilities = fields.list("capabilities", MAX_ITEMS, "is not a text that says something", text);
        let mut framework = fields.object("framework");
        let named = !framework.is_empty();
        let mut word = |name: &str| framework.remove(name).and_then(|value| value.as_str().and_then(text));
        let (name, version) = (word("name"), word("version"));
        if named && name.is_none() {
            fields.issue(&["framework", "name"], "is required, a text");
        }
        let metadata = Value::Object(fields.object("metadata"));
        fields.finish()?;
        Ok(Self {
            application: fields.whole(application)?,
            endpoint_url: fields.whole(endpoint_url)?,
            protocol_versions,
            framework: name.map(|name| (name, version)),
            capabilities,
            metadata,
        })
    }
}

/// Is it an absolute http or https URL without credentials?
fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let scheme = uri.scheme_str().is_some_and(|scheme| scheme == "http" || scheme == "https");
    let host = uri
        .authority()
        .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    text.len() <= MAX_TEXT && scheme && host
}

/// `POST /zones/{zone}/agent-services`
pub(crate) async fn register_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let bytes = body::read(body, config.limits.body_bytes).await?;
    let registration = Registration::parse(&bytes)?;
    let service = config
        .store
        .write(move |tx| Box::pin(async move { register(tx, &caller, &registration).await }))
        .await?;
    Ok((StatusCode::CREATED, Json(service)))
}

async fn register(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    registration: &Registration,
) -> Result<Value, Failure> {
    let now = tx.now();
    caller.check_stands(tx.connection(), now).await?;
    let application = Application::find_active(tx.connection(), &registration.application, now).await?;
    if application.is_none_or(|application| application.zone_id != caller.zone) {
        return Err(Code::ApplicationNotFound.into());
    }
    if !caller.acts_for(&registration.application, "spawn_for") {
        return Err(Code::ApplicationOwnershipRequired.into());
    }
    let (framework, version) = registration.framework.clone().unzip();
    let sql = format!(
        "INSERT INTO agent_services (id, zone_id, application_id, endpoint_url, protocol_versions_json, \
         framework_name, framework_version, capabilities_json, health, metadata_json, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'starting', $9, $10, $10) \
         ON CONFLICT (zone_id, application_id, endpoint_url) DO UPDATE SET \
         protocol_versions_json = excluded.protocol_versions_json, framework_name = excluded.framework_name, \
         framework_version = excluded.framework_version, capabilities_json = excluded.capabilities_json, \
         metadata_json = excluded.metadata_json, updated_at = excluded.updated_at RETURNING {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(ids::new_id())
        .bind(caller.zone.as_str())
        .bind(registration.application.as_str())
        .bind(registration.endpoint_url.as_str())
        .bind(json!(registration.protocol_versions).to_string())
        .bind(framework)
        .bind(version.flatten())
        .bind(json!(registration.capabilities).to_string())
        .bind(registration.metadata.to_string())
        .bind(now)
        .fetch_one(&mut *tx.connection())
        .await?;
    let service = to_json(&row)?;
    caller.cause("registered").write(tx, "agent_service_registered", service.clone()).await?;
    Ok(service)
}

/// `GET /zones/{zone}/agent-services`: all of the zone, so that agents find each other; what others wrote into
/// `metadata_json` is theirs.
pub(crate) async fn list_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    let page = Page::parse(&members(query)?)?;
    let table = Table { name: "agent_services", columns: COLUMNS };
    let conditions = vec![("zone_id = ?".to_owned(), vec![caller.zone.to_string()])];
    let mut connection = config.store.read().await?;
    let rows = page::rows(&mut connection, &table, conditions, &page).await?;
    let mut items = rows.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
    for item in &mut items {
        let owner = item.get("application_id").and_then(Value::as_str) == Some(caller.name());
        if let Some(members) = item.as_object_mut().filter(|_| !owner && !caller.is_admin()) {
            members.remove("metadata_json");
        }
    }
    let last = page::last_id(&rows)?;
    Ok(Json(page.body(items, last.as_deref())))
}

/// The application that a service belongs to.
pub(crate) async fn owner(
    connection: &mut SqlConnection,
    caller: &Caller,
    service: &str,
) -> Result<ApplicationId, Failure> {
    let sql = "SELECT application_id FROM agent_services WHERE zone_id = $1 AND id = $2";
    let owner: Option<String> =
        sqlx::query_scalar(sql).bind(caller.zone.as_str()).bind(service).fetch_optional(connection).await?;
    let owner = owner.ok_or(Code::AgentServiceNotFound)?;
    ApplicationId::new(owner)
        .map_err(|error| StoreError::corrupt(format!("agent_services.application_id: {error}")).into())
}

/// Writes down what a session's heartbeat says of its service, whose metadata is merged.
pub(crate) async fn beat(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    application: &ApplicationId,
    service: &str,
    health: &str,
    metadata: serde_json::Map<String, Value>,
) -> Result<Value, Failure> {
    let now = tx.now();
    let sql =
        "SELECT metadata_json FROM agent_services WHERE zone_id = $1 AND application_id = $2 AND id = $3";
    let stored: Option<String> = sqlx::query_scalar(sql)
        .bind(caller.zone.as_str())
        .bind(application.as_str())
        .bind(service)
        .fetch_optional(&mut *tx.connection())
        .await?;
    let stored = stored.ok_or(Code::AgentServiceNotFound)?;
    let mut merged: serde_json::Map<String, Value> = serde_json::from_str(&stored)
        .map_err(|error| StoreError::corrupt(format!("agent_services.metadata_json: {error}")))?;
    merged.extend(metadata);
    let sql = format!(
        "UPDATE agent_services SET health = $1, metadata_json = $2, last_heartbeat_at = $3, updated_at = $3 \
         WHERE zone_id = $4 AND id = $5 RETURNING {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(health)
        .bind(Value::Object(merged).to_string())
        .bind(now)
        .bind(caller.zone.as_str())
        .bind(service)
        .fetch_one(&mut *tx.connection())
        .await?;
    to_json(&row)
}

fn to_json(row: &AnyRow) -> Result<Value, Failure> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let optional = |column: &str| row.try_get::<Option<String>, _>(column);
    Ok(json!({
        "id": text("id")?,
        "zone_id": text("zone_id")?,
        "application_id": text("application_id")?,
        "endpoint_url": text("endpoint_url")?,
        "protocol_versions": page::json_column(row, "protocol_versions_json")?,
        "framework_name": optional("framework_name")?,
        "framework_version": optional("framework_version")?,
        "capabilities": page::json_column(row, "capabilities_json")?,
        "health": text("health")?,
        "metadata_json": page::json_column(row, "metadata_json")?,
        "last_heartbeat_at": row.try_get::<Option<i64>, _>("last_heartbeat_at")?.map(iso),
    }))
}
