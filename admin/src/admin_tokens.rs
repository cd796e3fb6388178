//! Admin tokens (contract admin-audit §5.16). Only a token for all zones handles tokens. To make one that approves takes
//! the capability `admin`, and to make one with that capability the bootstrap credential.

use crate::app::{App, Done, Kind, require_zone};
use crate::body::{Body, Text};
use crate::gate::Call;
use crate::page::{CONFIGURATION, CREATED, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use crate::seed::BOOTSTRAP_AUTHOR;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::id::ZoneId;
use caracal_store::ids;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, name, scope, capability, zone_id, created_by, created_at, last_used_at, revoked_at \
     FROM admin_tokens";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: Text<120>,
    scope: Scope,
    zone_id: Option<ZoneId>,
    #[serde(default)]
    capability: Capability,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Global,
    Zone,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Admin,
    Approve,
    Read,
    #[default]
    Write,
}

impl Capability {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Approve => "approve",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// `GET /v1/admin-tokens`
pub(crate) async fn list(State(app): State<App>, params: Params) -> Result<Json<Value>, Problem> {
    page(&app, &params, CONFIGURATION, Select::new(COLUMNS), CREATED, |row: Row<'_>| {
        Ok(json!({
            "id": row.text("id")?, "name": row.text("name")?, "scope": row.text("scope")?,
            "capability": row.text("capability")?, "zone_id": row.opt_text("zone_id")?,
            "created_by": row.text("created_by")?, "created_at": row.iso("created_at")?,
            "last_used_at": row.opt_iso("last_used_at")?, "revoked_at": row.opt_iso("revoked_at")?,
        }))
    })
    .await
}

/// `POST /v1/admin-tokens`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, create): (_, Create) = body.parse("invalid_admin_token_request")?;
    match (create.scope, &create.zone_id) {
        (Scope::Zone, None) => return Err(Problem::invalid("zone_id_required")),
        (Scope::Global, Some(_)) => return Err(Problem::invalid("zone_id_not_allowed_for_global")),
        _ => {}
    }
    match create.capability {
        Capability::Approve => call.require_admin()?,
        Capability::Admin if !call.actor.bootstrap => {
            let why = "a token that administers is made with the bootstrap credential only";
            return Err(Problem::forbidden("bootstrap_credential_required").because(why));
        }
        _ => {}
    }
    let (vault, author) = (app.vault.clone(), call.actor.identity());
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            if let Some(zone) = &create.zone_id {
                require_zone(tx.connection(), zone).await?;
            }
            let (id, now, token) = (ids::new_id(), tx.now(), ids::new_secret("cat_")?);
            let scope = if create.scope == Scope::Zone { "zone" } else { "global" };
            let zone = create.zone_id.as_ref().map(ZoneId::to_string);
            sqlx::query(
                "INSERT INTO admin_tokens (id, name, token_hash, scope, zone_id, capability, created_by, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(id.as_str())
            .bind(create.name.0.as_str())
            .bind(vault.hash(&token))
            .bind(scope)
            .bind(zone.as_deref())
            .bind(create.capability.as_str())
            .bind(author.as_str())
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
            let body = json!({
                "id": id, "name": create.name.0, "scope": scope, "capability": create.capability.as_str(),
                "zone_id": zone, "created_by": author, "created_at": caracal_store::clock::iso(now), "token": token,
            });
            Ok(Done::created(("admin-tokens", &id), body))
        })
    })
    .await
}

/// `DELETE /v1/admin-tokens/:id`. The bootstrap credential is changed in the environment, not here: nobody can lock
/// everybody out.
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let author: Option<String> = sqlx::query_scalar(
                "SELECT created_by FROM admin_tokens WHERE id = $1 AND revoked_at IS NULL",
            )
            .bind(id.as_str())
            .fetch_optional(&mut *tx.connection())
            .await?;
            match author.as_deref() {
                None => return Err(Problem::absent("admin_token_not_found")),
                Some(BOOTSTRAP_AUTHOR) => {
                    let why = "the bootstrap credential is replaced by configuring another";
                    return Err(Problem::conflict("admin_token_not_revocable").because(why));
                }
                Some(_) => {}
            }
            let now = tx.now();
            sqlx::query("UPDATE admin_tokens SET revoked_at = $1 WHERE id = $2")
                .bind(now)
                .bind(id.as_str())
                .execute(&mut *tx.connection())
                .await?;
            Ok(Done::new(StatusCode::NO_CONTENT, Kind::Delete, ("admin-tokens", &id), Value::Null))
        })
    })
    .await
}
