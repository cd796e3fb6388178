//! Resources (contract admin-audit §5.4). Whatever a gateway has to know of a change is in the change log with it.

use crate::app::{App, Done, archive_row, require_zone, zone_id};
use crate::body::{Body, require_fields};
use crate::gate::{Actor, Call};
use crate::mcp_input;
use crate::names::{self, Field, refuse_reserved};
use crate::object::{Listed, Object, find};
use crate::problem::Problem;
use crate::resource_input::{self, Enforcement, Input, MandateUse, OperationInput};
use crate::row::Row;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use caracal_mandate::id::ZoneId;
use caracal_mandate::mcp::McpEntry;
use caracal_store::SqlConnection;
use caracal_store::change::Change;
use caracal_store::model::Provider;
use caracal_store::{StoreError, WriteTx, ids};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, name, identifier, upstream_url, scopes_json, credential_provider_id, \
     operations_json, operation_enforcement, mandate_use, mcp_json, created_by, created_via_operator, updated_by, \
     updated_via_operator, created_at, updated_at, archived_at FROM resources";
const MAX_PER_ZONE: i64 = 100_000;
const FIELDS: [&str; 9] = [
    "name",
    "identifier",
    "upstream_url",
    "scopes",
    "credential_provider_id",
    "operations",
    "operation_enforcement",
    "mandate_use",
    "mcp",
];

/// Resources.
pub(crate) struct Resource;

impl Object for Resource {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "resources";
    const ENTITY: &'static str = "resources";
    const ABSENT: &'static str = "resource_not_found";
    const LISTED: Listed = Listed::ByStatus;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        row.with_authors(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
            "identifier": row.text("identifier")?, "upstream_url": row.opt_text("upstream_url")?,
            "scopes": row.json("scopes_json")?, "credential_provider_id": row.text("credential_provider_id")?,
            "operations": row.json("operations_json")?,
            "operation_enforcement": row.text("operation_enforcement")?, "mandate_use": row.text("mandate_use")?,
            "mcp": row.json("mcp_json")?,
            "archived_at": row.opt_iso("archived_at")?,
        }))
    }
}

/// The provider and the upstream that every resource needs, in the order in which their absence is told.
fn require_binding<'a>(
    provider: Option<&'a str>,
    upstream: Option<&'a str>,
) -> Result<(&'a str, &'a str), Problem> {
    let provider = provider.ok_or_else(|| Problem::invalid("credential_provider_required"))?;
    let upstream = upstream.ok_or_else(|| Problem::invalid("upstream_url_required"))?;
    resource_input::upstream(upstream)?;
    Ok((provider, upstream))
}

async fn require_provider(connection: &mut SqlConnection, zone: &ZoneId, id: &str) -> Result<(), Problem> {
    match Provider::find(connection, zone, id).await? {
        Some(_) => Ok(()),
        None => Err(Problem::absent("provider_not_found")),
    }
}

/// What would be stored of a body. Whether its provider is there is not known here.
pub(crate) fn preview(actor: &Actor, body: &Body) -> Result<Value, Problem> {
    let (_, input): (_, Input) = body.parse("invalid_resource")?;
    let identifier = resource_input::identifier(input.identifier.as_deref().unwrap_or_default())?;
    refuse_reserved(actor, Field::ResourceIdentifier, identifier.as_str())?;
    let scopes = resource_input::scopes(input.scopes.as_deref().unwrap_or_default())?;
    let operations = resource_input::operations(&input.operations.unwrap_or_default(), &scopes)?;
    let (provider, upstream) = (input.credential_provider_id.flatten(), input.upstream_url.flatten());
    require_binding(provider.as_deref(), upstream.as_deref())?;
    let mcp = input.mcp.flatten();
    stored(mcp.as_ref(), &scopes)?;
    Ok(json!({
        "name": input.name.map_or_else(|| identifier.to_string(), |name| name.0),
        "identifier": identifier.as_str(), "upstream_url": upstream, "scopes": scopes, "operations": operations,
        "operation_enforcement": input.operation_enforcement.unwrap_or(Enforcement::Enforced).as_str(),
        "mandate_use": input.mandate_use.unwrap_or(MandateUse::Single).as_str(), "mcp": mcp,
    }))
}

/// `POST /v1/zones/:z/resources`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, input): (_, Input) = body.parse("invalid_resource")?;
    let invalid = |why: &str| Problem::invalid("invalid_resource").because(why);
    if input.name.is_none() && input.identifier.is_none() {
        return Err(invalid("name or identifier is required"));
    }
    let given = input.identifier.as_deref().map(resource_input::identifier).transpose()?;
    if let Some(identifier) = &given {
        refuse_reserved(&call.actor, Field::ResourceIdentifier, identifier.as_str())?;
    }
    let scopes = input.scopes.as_deref().ok_or_else(|| invalid("scopes are required"))?;
    let scopes = resource_input::scopes(scopes)?;
    let provider = input.credential_provider_id.flatten();
    let upstream = input.upstream_url.flatten();
    require_binding(provider.as_deref(), upstream.as_deref())?;
    let operations = resource_input::operations(&input.operations.unwrap_or_default(), &scopes)?;
    let mcp = stored(input.mcp.flatten().as_ref(), &scopes)?;
    if input.check {
        return Err(Problem::invalid("resource_verification_unsupported"));
    }
    let actor = call.actor.clone();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            require_provider(tx.connection(), &zone, provider.as_deref().unwrap_or_default()).await?;
            if count(tx, &zone, 1).await? > MAX_PER_ZONE {
                return Err(Problem::conflict("resource_quota_exceeded"));
            }
            let name = input.name.map(|name| name.0);
            let identifier = match given {
                Some(identifier) => identifier.to_string(),
                None => free_identifier(tx, &zone, name.as_deref().unwrap_or_default()).await?,
            };
            let (id, now) = (ids::new_id(), tx.now());
            sqlx::query(
                "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, scopes_json, \
                 credential_provider_id, operations_json, operation_enforcement, mandate_use, mcp_json, created_by, \
                 created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(name.unwrap_or_else(|| identifier.clone()))
            .bind(identifier)
            .bind(upstream)
            .bind(json!(scopes).to_string())
            .bind(provider)
            .bind(operations.to_string())
            .bind(input.operation_enforcement.unwrap_or(Enforcement::Enforced).as_str())
            .bind(input.mandate_use.unwrap_or(MandateUse::Single).as_str())
            .bind(mcp)
            .bind(actor.author())
            .bind(now)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "resource_identifier_conflict"))?;
            tx.record_change(&zone, &Change::Resource { id: id.clone() }).await?;
            let row = find::<Resource>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created(("resources", &id), row))
        })
    })
    .await
}

/// What of MCP is declared, as it is stored.
fn stored(mcp: Option<&McpEntry>, scopes: &[String]) -> Result<Option<String>, Problem> {
    let Some(mcp) = mcp else { return Ok(None) };
    mcp_input::check(mcp, scopes)?;
    Ok(Some(json!(mcp).to_string()))
}

/// Counts so many more resources of a zone, and answers how many there are.
async fn count(tx: &mut WriteTx<'_>, zone: &ZoneId, more: i64) -> Result<i64, StoreError> {
    let sql = "UPDATE zones SET resource_count = resource_count + $1 WHERE id = $2 RETURNING resource_count";
    let query = sqlx::query_scalar(sql).bind(more).bind(zone.as_str());
    Ok(query.fetch_one(&mut *tx.connection()).await?)
}

async fn free_identifier(tx: &mut WriteTx<'_>, zone: &ZoneId, name: &str) -> Result<String, Problem> {
    let base = format!("resource://{}", names::slug(name, "resource"));
    let taken: Vec<String> = sqlx::query_scalar(
        "SELECT identifier FROM resources WHERE zone_id = $1 AND identifier = $2 \
         UNION SELECT identifier FROM resources WHERE zone_id = $1 AND identifier >= $3 AND identifier < $4",
    )
    .bind(zone.as_str())
    .bind(base.as_str())
    // What begins with the base and a hyphen: the dot is the next character.
    .bind(format!("{base}-"))
    .bind(format!("{base}."))
    .fetch_all(&mut *tx.connection())
    .await?;
    Ok(names::free(&base, &HashSet::from_iter(taken)))
}

/// A member of a row that this crate wrote.
fn member<T: DeserializeOwned>(row: &Value, name: &str) -> Result<T, StoreError> {
    let value = row.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| StoreError::corrupt(format!("resources.{name}: {error}")))
}

/// `PATCH /v1/zones/:z/resources/:id`. What is not named stays, and the whole is checked again.
pub(crate) async fn patch(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, input): (_, Input) = body.parse("invalid_resource")?;
    require_fields(&value, &FIELDS)?;
    let identifier = input.identifier.as_deref().map(resource_input::identifier).transpose()?;
    if let Some(identifier) = &identifier {
        refuse_reserved(&call.actor, Field::ResourceIdentifier, identifier.as_str())?;
    }
    let scopes = input.scopes.as_deref().map(resource_input::scopes).transpose()?;
    let actor = call.actor.clone();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let before = find::<Resource>(tx.connection(), zone.as_str(), &id).await?;
            let old_identifier: String = member(&before, "identifier")?;
            let scopes = scopes.map_or_else(|| member::<Vec<String>>(&before, "scopes"), Ok)?;
            let operations =
                input.operations.map_or_else(|| member::<Vec<OperationInput>>(&before, "operations"), Ok)?;
            let operations = resource_input::operations(&operations, &scopes)?;
            let mcp = input.mcp.map_or_else(|| member::<Option<McpEntry>>(&before, "mcp"), Ok)?;
            let mcp = stored(mcp.as_ref(), &scopes)?;
            let old_provider: Option<String> = member(&before, "credential_provider_id")?;
            let named_provider = input.credential_provider_id.clone().flatten();
            let provider = input.credential_provider_id.unwrap_or(old_provider);
            let upstream = match input.upstream_url {
                Some(upstream) => upstream,
                None => member(&before, "upstream_url")?,
            };
            let (provider, upstream) = require_binding(provider.as_deref(), upstream.as_deref())?;
            if let Some(named) = named_provider {
                require_provider(tx.connection(), &zone, &named).await?;
            }
            let identifier = identifier.map_or_else(|| old_identifier.clone(), |given| given.to_string());
            let now = tx.now();
            sqlx::query(
                "UPDATE resources SET name = COALESCE($1, name), identifier = $2, upstream_url = $3, \
                 scopes_json = $4, credential_provider_id = $5, operations_json = $6, \
                 operation_enforcement = COALESCE($7, operation_enforcement), \
                 mandate_use = COALESCE($8, mandate_use), mcp_json = $9, updated_by = $10, updated_at = $11 \
                 WHERE id = $12",
            )
            .bind(input.name.map(|name| name.0))
            .bind(identifier.as_str())
            .bind(upstream)
            .bind(json!(scopes).to_string())
            .bind(provider)
            .bind(operations.to_string())
            .bind(input.operation_enforcement.map(Enforcement::as_str))
            .bind(input.mandate_use.map(MandateUse::as_str))
            .bind(mcp)
            .bind(actor.author())
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "resource_identifier_conflict"))?;
            if identifier != old_identifier {
                tx.record_change(&zone, &Change::ResourceGone { identifier: old_identifier }).await?;
            }
            tx.record_change(&zone, &Change::Resource { id: id.clone() }).await?;
            let row = find::<Resource>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::updated(("resources", &id), row))
        })
    })
    .await
}

/// `DELETE /v1/zones/:z/resources/:id`
pub(crate) async fn archive(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let author = call.actor.author();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let before = find::<Resource>(tx.connection(), zone.as_str(), &id).await?;
            archive_row(tx, "resources", &id, &author).await?;
            count(tx, &zone, -1).await?;
            let identifier = member(&before, "identifier")?;
            tx.record_change(&zone, &Change::ResourceGone { identifier }).await?;
            Ok(Done::deleted(("resources", &id)))
        })
    })
    .await
}
