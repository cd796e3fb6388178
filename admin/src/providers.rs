//! Providers of credentials (contract admin-audit §5.5). Their secrets are sealed together, and never read again
//! here.

use crate::app::{App, Done, archive_row, require_zone, zone_id};
use crate::body::{Body, Text, require_fields};
use crate::custody;
use crate::gate::{Actor, Call};
use crate::names::{self, Field, refuse_reserved};
use crate::object::{Listed, Object, find};
use crate::problem::Problem;
use crate::provider_check;
use crate::provider_config::{self, Config};
use crate::row::Row;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use caracal_mandate::id::ZoneId;
use caracal_store::change::Change;
use caracal_store::secrets::Vault;
use caracal_store::{StoreError, WriteTx, ids};
use caracal_sts::providers::{
    CredentialError, Kind as ProviderKind, Probe, SealedSecrets, Secrets, Whose, revoke, secret_place,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, name, identifier, kind, config_json, secret_config_keys_json, \
     connectivity_failed_at, created_by, created_via_operator, updated_by, updated_via_operator, created_at, \
     updated_at, archived_at FROM providers";
const PREFIX: &str = "provider://";

#[derive(Debug, Deserialize)]
struct Create {
    name: Option<String>,
    identifier: Option<String>,
    kind: Text<64>,
    #[serde(default)]
    config_json: Map<String, Value>,
    #[serde(default)]
    check: bool,
}

#[derive(Debug, Deserialize)]
struct Patch {
    name: Option<Text<200>>,
    identifier: Option<String>,
    kind: Option<Text<64>>,
    config_json: Option<Map<String, Value>>,
}

/// Providers.
pub(crate) struct ProviderRow;

impl Object for ProviderRow {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "providers";
    const ENTITY: &'static str = "providers";
    const ABSENT: &'static str = "provider_not_found";
    const LISTED: Listed = Listed::ByStatus;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        row.with_authors(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "name": row.text("name")?,
            "identifier": row.text("identifier")?, "kind": row.text("kind")?, "config_json": row.json("config_json")?,
            "secret_config_keys": row.json("secret_config_keys_json")?,
            "connectivity_failed_at": row.opt_iso("connectivity_failed_at")?,
            "archived_at": row.opt_iso("archived_at")?,
        }))
    }
}

/// Seals the secrets of a configuration in place of those before, and answers their names, sorted.
async fn seal(
    tx: &mut WriteTx<'_>,
    vault: &Vault,
    place: &str,
    config: &Config,
) -> Result<String, StoreError> {
    if config.secret.is_empty() {
        custody::forget(tx, place).await?;
    } else {
        custody::keep(tx, vault, place, &Value::Object(config.secret.clone()).to_string()).await?;
    }
    let names: Value = config.secret.keys().map(String::as_str).collect();
    Ok(names.to_string())
}

/// Are all the secrets there that the configuration needs?
fn require_secrets(config: &Config, there: impl Fn(&str) -> bool) -> Result<(), Problem> {
    match config.needs.iter().find(|key| !there(key)) {
        Some(key) => Err(Problem::invalid("invalid_provider_config").because(format!("{key}: is missing"))),
        None => Ok(()),
    }
}

/// The sealed key has to fit a configuration that came without one.
async fn check_sealed_key(
    tx: &mut WriteTx<'_>,
    vault: &Vault,
    (zone, id): (&ZoneId, &str),
    config: &Config,
) -> Result<(), Problem> {
    if !config.needs.contains(&"private_key") {
        return Ok(());
    }
    let sealed = SealedSecrets::read(tx.connection(), zone, id).await.map_err(of_secrets)?;
    let opened = sealed.open(vault).map_err(of_secrets)?;
    provider_config::check_signing_key(&config.parsed, opened.get("private_key").ok())
}

/// Sealed secrets that cannot be read.
pub(crate) fn of_secrets(error: CredentialError) -> Problem {
    match error {
        CredentialError::Store => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
        _ => Problem::new(StatusCode::BAD_GATEWAY, "secret_backend_unavailable"),
    }
}

fn check_identifier(identifier: &str) -> Result<(), Problem> {
    let parts = identifier.strip_prefix(PREFIX).map(|rest| rest.split('-'));
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if parts.is_some_and(|mut parts| parts.all(word)) && identifier.len() <= 512 {
        return Ok(());
    }
    let why = "an identifier is provider:// and words of lower-case letters and digits, joined by hyphens";
    Err(Problem::invalid("invalid_provider_identifier").because(why))
}

/// What would be stored of a body. Secrets may be left out: `secret_keys` names those that were given, and `needs` those
/// that it cannot do without.
pub(crate) fn preview(actor: &Actor, body: &Body) -> Result<Value, Problem> {
    let (_, create): (_, Create) = body.parse("invalid_provider")?;
    let identifier = given(create.identifier).unwrap_or_default();
    check_identifier(&identifier)?;
    refuse_reserved(actor, Field::ProviderIdentifier, &identifier)?;
    let name = given(create.name).unwrap_or_else(|| identifier.clone());
    if name.chars().count() > 200 {
        return Err(Problem::invalid("invalid_provider").because("a name has at most 200 characters"));
    }
    let config = provider_config::check(&create.kind.0, create.config_json)?;
    let secret_keys: Vec<&String> = config.secret.keys().collect();
    Ok(json!({
        "name": name, "identifier": identifier, "kind": create.kind.0, "secret_keys": secret_keys,
        "needs": config.needs, "config_json": config.public,
    }))
}

/// Blank texts count as absent.
fn given(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// `POST /v1/zones/:z/providers`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_provider")?;
    let (name, identifier) = (given(create.name), given(create.identifier));
    if name.is_none() && identifier.is_none() {
        return Err(Problem::invalid("invalid_provider").because("name or identifier is required"));
    }
    if name.as_ref().is_some_and(|name| name.chars().count() > 200) {
        return Err(Problem::invalid("invalid_provider").because("a name has at most 200 characters"));
    }
    if let Some(identifier) = &identifier {
        check_identifier(identifier)?;
        refuse_reserved(&call.actor, Field::ProviderIdentifier, identifier)?;
    }
    let config = provider_config::check(&create.kind.0, create.config_json)?;
    require_secrets(&config, |key| config.secret.contains_key(key))?;
    if create.check && !config.kind.is_fetched() {
        return Err(Problem::invalid("provider_check_unsupported"));
    }
    if create.check {
        let entered = Secrets::entered(&config.secret);
        let (probe, body) = provider_check::check(&app, &zone, &config.parsed, &entered).await?;
        if probe != Probe::Ok {
            let problem = Problem::unprocessable("provider_check_failed");
            return Err(problem.with("details", json!({ "check": body })));
        }
    }
    // Until it was tried, nobody knows that it works.
    let untried = config.kind.is_fetched() && !create.check;
    let (actor, vault) = (call.actor.clone(), app.vault.clone());
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let identifier = match identifier {
                Some(identifier) => identifier,
                None => free_identifier(tx, &zone, name.as_deref().unwrap_or_default()).await?,
            };
            refuse_reserved(&actor, Field::ProviderIdentifier, &identifier)?;
            let (id, now) = (ids::new_id(), tx.now());
            let secret_keys = seal(tx, &vault, &secret_place(zone.as_str(), &id), &config).await?;
            sqlx::query(
                "INSERT INTO providers (id, zone_id, name, identifier, kind, config_json, secret_config_keys_json, \
                 created_by, created_at, updated_at, connectivity_failed_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(name.unwrap_or_else(|| identifier.clone()))
            .bind(identifier)
            .bind(create.kind.0)
            .bind(Value::Object(config.public).to_string())
            .bind(secret_keys)
            .bind(actor.author())
            .bind(now)
            .bind(untried.then_some(now))
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "provider_identifier_conflict"))?;
            let row = find::<ProviderRow>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created(("providers", &id), row))
        })
    })
    .await
}

async fn free_identifier(tx: &mut WriteTx<'_>, zone: &ZoneId, name: &str) -> Result<String, Problem> {
    let base = format!("{PREFIX}{}", names::slug(name, "provider"));
    let taken: Vec<String> = sqlx::query_scalar("SELECT identifier FROM providers WHERE zone_id = $1")
        .bind(zone.as_str())
        .fetch_all(&mut *tx.connection())
        .await?;
    Ok(names::free(&base, &HashSet::from_iter(taken)))
}

/// `PATCH /v1/zones/:z/providers/:id`
pub(crate) async fn patch(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, patch): (_, Patch) = body.parse("invalid_provider")?;
    require_fields(&value, &["name", "identifier", "kind", "config_json"])?;
    if patch.kind.is_some() && patch.config_json.is_none() {
        return Err(Problem::invalid("provider_config_required"));
    }
    let identifier = given(patch.identifier);
    if let Some(identifier) = &identifier {
        check_identifier(identifier)?;
        refuse_reserved(&call.actor, Field::ProviderIdentifier, identifier)?;
    }
    let (author, vault) = (call.actor.author(), app.vault.clone());
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let before = find::<ProviderRow>(tx.connection(), zone.as_str(), &id).await?;
            let old_kind = before.get("kind").and_then(Value::as_str).unwrap_or_default();
            let kind = patch.kind.map_or_else(|| old_kind.to_owned(), |kind| kind.0);
            let configured = patch.config_json.is_some();
            let (mut public, mut secret_keys) = (None, None);
            if let Some(config) = patch.config_json {
                let config = provider_config::check(&kind, config)?;
                // Without a secret, those that are sealed stay; another kind needs its own.
                if kind != old_kind || !config.secret.is_empty() {
                    require_secrets(&config, |key| config.secret.contains_key(key))?;
                    secret_keys = Some(seal(tx, &vault, &secret_place(zone.as_str(), &id), &config).await?);
                } else {
                    let sealed = before.get("secret_config_keys").and_then(Value::as_array);
                    let sealed = |key: &str| sealed.is_some_and(|keys| keys.iter().any(|name| name == key));
                    require_secrets(&config, sealed)?;
                    check_sealed_key(tx, &vault, (&zone, &id), &config).await?;
                }
                public = Some(Value::Object(config.public).to_string());
            }
            let fetched = i64::from(ProviderKind::parse(&kind).is_some_and(ProviderKind::is_fetched));
            let now = tx.now();
            sqlx::query(
                "UPDATE providers SET name = COALESCE($1, name), identifier = COALESCE($2, identifier), kind = $3, \
                 config_json = COALESCE($4, config_json), \
                 secret_config_keys_json = COALESCE($5, secret_config_keys_json), updated_by = $6, updated_at = $7, \
                 connectivity_failed_at = CASE WHEN $9 = 1 THEN connectivity_failed_at ELSE NULL END WHERE id = $8",
            )
            .bind(patch.name.map(|name| name.0))
            .bind(identifier)
            .bind(kind.as_str())
            .bind(public)
            .bind(secret_keys)
            .bind(author.as_str())
            .bind(now)
            .bind(id.as_str())
            .bind(fetched)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "provider_identifier_conflict"))?;
            if kind != old_kind {
                // What persons allowed, they allowed to the provider as it was.
                revoke(tx, &zone, Whose::Provider(&id), &author).await?;
            }
            if kind != old_kind || configured {
                for (resource, _) in bound(tx, &id).await? {
                    tx.record_change(&zone, &Change::Resource { id: resource }).await?;
                }
            }
            let row = find::<ProviderRow>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::updated(("providers", &id), row))
        })
    })
    .await
}

/// Row id and identifier of the resources that take their credential from this provider.
async fn bound(tx: &mut WriteTx<'_>, provider: &str) -> Result<Vec<(String, String)>, StoreError> {
    let sql =
        "SELECT id, identifier FROM resources WHERE credential_provider_id = $1 AND archived_at IS NULL";
    Ok(sqlx::query_as(sql).bind(provider).fetch_all(&mut *tx.connection()).await?)
}

/// `DELETE /v1/zones/:z/providers/:id`. The resources that it served stay, and are out of reach.
pub(crate) async fn archive(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let author = call.actor.author();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            find::<ProviderRow>(tx.connection(), zone.as_str(), &id).await?;
            archive_row(tx, "providers", &id, &author).await?;
            custody::forget(tx, &secret_place(zone.as_str(), &id)).await?;
            revoke(tx, &zone, Whose::Provider(&id), &author).await?;
            for (_, identifier) in bound(tx, &id).await? {
                tx.record_change(&zone, &Change::ResourceGone { identifier }).await?;
            }
            Ok(Done::deleted(("providers", &id)))
        })
    })
    .await
}
