//! Who asks, and whether they may (contract admin-audit §2.4).
//!
//! The order: who it is (401), what its capability allows, which zone its token is bound to, what is reserved for the
//! platform (all 403), and only then whether the path makes sense. Refusals of those who are known are recorded.

use crate::app::App;
use crate::attribution::Attribution;
use crate::connections_oauth;
use crate::names;
use crate::problem::{Problem, RefusedWith};
use crate::record::Draft;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::id::ZoneId;
use caracal_store::StoreError;
use caracal_store::http::{RequestId, bearer};
use sqlx::Row as _;
use std::sync::Arc;

/// How often a token's last use is written down, in milliseconds.
const LAST_USED_EVERY: i64 = 60_000;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    Admin,
    Approve,
    Read,
    Write,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The zone that its token is bound to; `None` for all.
    pub(crate) zone: Option<String>,
    pub(crate) capability: Capability,
    /// Is it the credential from the environment?
    pub(crate) bootstrap: bool,
    /// In whose name.
    pub(crate) attribution: Attribution,
}

impl Actor {
    /// Whose token it is: what stands in records.
    pub(crate) fn identity(&self) -> String {
        format!("admin:{}", self.id)
    }

    /// What stands in `created_by` and `updated_by`.
    pub(crate) fn author(&self) -> String {
        self.attribution.authorized_by.clone().unwrap_or_else(|| self.identity())
    }
}

/// One request of someone who is known.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) actor: Actor,
    pub(crate) request_id: String,
    pub(crate) method: Method,
    pub(crate) path: String,
}

impl Call {
    /// The zone in the path.
    pub(crate) fn zone(&self) -> Option<&str> {
        let zone = self.path.strip_prefix("/v1/zones/")?.split('/').next()?;
        Some(zone).filter(|zone| !zone.is_empty())
    }

    fn changes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS) && !self.validates()
    }

    fn validates(&self) -> bool {
        self.method == Method::POST && self.path == "/v1/policies/validate"
    }

    fn lists_templates(&self) -> bool {
        self.method == Method::GET && self.path == "/v1/policy-templates"
    }

    fn decides_approval(&self) -> bool {
        let mut end = self.path.rsplit('/');
        let verdict = matches!(end.next(), Some("approve" | "reject"));
        verdict && end.nth(1) == Some("approvals") && self.method == Method::POST
    }

    /// What neither reading nor writing is enough for: secrets, the life of evidence, tokens that approve.
    pub(crate) fn require_admin(&self) -> Result<(), Problem> {
        match self.actor.capability {
            _ if self.actor.bootstrap => Ok(()),
            Capability::Admin => Ok(()),
            Capability::Read => Err(Problem::forbidden("admin_token_read_only")),
            Capability::Approve => Err(Problem::forbidden("admin_token_approve_only")),
            Capability::Write => {
                let why = "it takes a token with the capability admin, or the bootstrap credential";
                Err(Problem::forbidden("admin_capability_required").because(why))
            }
        }
    }

    /// Rows b, c, d and e of the contract's table.
    fn permit(&self) -> Result<(), Problem> {
        let actor = &self.actor;
        match actor.capability {
            Capability::Read if self.changes() => return Err(Problem::forbidden("admin_token_read_only")),
            Capability::Approve if self.changes() && !self.decides_approval() => {
                return Err(Problem::forbidden("admin_token_approve_only"));
            }
            Capability::Admin | Capability::Write if self.decides_approval() && !actor.bootstrap => {
                return Err(Problem::forbidden("approve_capability_required"));
            }
            _ => {}
        }
        let everywhere = self.validates() || self.lists_templates();
        if actor.zone.is_some() && !everywhere && actor.zone.as_deref() != self.zone() {
            return Err(Problem::forbidden("admin_token_zone_mismatch"));
        }
        Ok(())
    }

    /// Row f: what belongs to the platform only the bootstrap credential may change.
    async fn permit_reserved(&self, app: &App) -> Result<(), Problem> {
        let Some(zone) = self.zone().filter(|_| self.changes() && !self.actor.bootstrap) else {
            return Ok(());
        };
        let mut connection = app.store.read().await?;
        let row: Option<(String, String)> = sqlx::query_as("SELECT name, slug FROM zones WHERE id = $1")
            .bind(zone)
            .fetch_optional(&mut *connection)
            .await?;
        match row {
            Some((name, slug)) if names::is_reserved_zone(&name, &slug) => {
                Err(Problem::forbidden("system_zone_read_only"))
            }
            _ => Ok(()),
        }
    }

    /// Every part of the path follows the pattern of ids.
    fn check_path(&self) -> Result<(), Problem> {
        let parts = self.path.trim_start_matches("/v1").split('/').skip(1);
        for part in parts {
            if ZoneId::new(part).is_err() {
                return Err(Problem::invalid("invalid_params"));
            }
        }
        Ok(())
    }

    async fn check(&self, app: &App) -> Result<(), Problem> {
        self.permit()?;
        self.permit_reserved(app).await?;
        app.rates.token(&self.actor.id, app.store.now())?;
        self.check_path()
    }
}

/// The middleware before everything.
pub(crate) async fn gate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let peer = app.rates.peer(&request);
    if path != "/v1" && !path.starts_with("/v1/") {
        let ready = if path == "/ready" { app.rates.ready(peer, app.store.now()) } else { Ok(()) };
        return match ready {
            Err(problem) => problem.into_response(),
            Ok(()) => next.run(request).await,
        };
    }
    if let Err(problem) = app.rates.address(peer, app.store.now()) {
        return harden(problem.into_response());
    }
    if connections_oauth::is_callback(request.method(), path) {
        return harden(next.run(request).await);
    }
    let call = {
        let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
        let (method, path) = (request.method().clone(), path.to_owned());
        identify(&app, request.headers(), method, path, request_id.unwrap_or_default())
    };
    let response = match call.await {
        Err(problem) => app.rates.failure(&app.store, peer, problem).await.into_response(),
        Ok(call) => {
            let call = Arc::new(call);
            let response = match call.check(&app).await {
                Err(problem) => problem.into_response(),
                Ok(()) => {
                    request.extensions_mut().insert(Arc::clone(&call));
                    next.run(request).await
                }
            };
            let code = response.extensions().get::<RefusedWith>().map(|code| code.0.clone());
            // Who asks too often could otherwise fill the record.
            let too_often = code.as_deref() == Some("rate_limited");
            if response.status().as_u16() >= 400 && !too_often {
                record_refusal(&app, &call, response.status(), code).await;
            }
            response
        }
    };
    harden(response)
}

fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn identify(
    app: &App,
    headers: &HeaderMap,
    method: Method,
    path: String,
    request_id: String,
) -> Result<Call, Problem> {
    let unknown = || Problem::new(StatusCode::UNAUTHORIZED, "invalid_admin_token");
    let token = bearer(headers).ok_or_else(unknown)?;
    let hash = app.vault.hash(token);
    let mut connection = app.store.read().await?;
    let row = sqlx::query(
        "SELECT id, name, zone_id, capability, created_by, last_used_at FROM admin_tokens \
         WHERE token_hash = $1 AND revoked_at IS NULL",
    )
    .bind(hash)
    .fetch_optional(&mut *connection)
    .await?
    .ok_or_else(unknown)?;
    drop(connection);
    let capability: String = row.try_get("capability")?;
    let created_by: String = row.try_get("created_by")?;
    let actor = Actor {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        zone: row.try_get("zone_id")?,
        capability: match capability.as_str() {
            "admin" => Capability::Admin,
            "write" => Capability::Write,
            "approve" => Capability::Approve,
            _ => Capability::Read,
        },
        bootstrap: created_by == crate::seed::BOOTSTRAP_AUTHOR,
        attribution: Attribution::of(headers),
    };
    touch(app, &actor.id, row.try_get("last_used_at")?).await;
    Ok(Call { actor, request_id, method, path })
}

/// Writes down that the token was used, if that has not happened for a while. Nothing depends on it.
async fn touch(app: &App, id: &str, last: Option<i64>) {
    if last.is_some_and(|last| app.store.now() - last < LAST_USED_EVERY) {
        return;
    }
    let id = id.to_owned();
    let written = app
        .store
        .write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                sqlx::query("UPDATE admin_tokens SET last_used_at = $1 WHERE id = $2")
                    .bind(now)
                    .bind(id)
                    .execute(&mut *tx.connection())
                    .await?;
                Ok::<_, StoreError>(())
            })
        })
        .await;
    if let Err(error) = written {
        tracing::warn!(%error, "the last use of an admin token could not be written down");
    }
}

/// Best effort: a refusal stands, whether or not its record does (contract admin-audit §13.1).
pub(crate) async fn record_refusal(app: &App, call: &Call, status: StatusCode, code: Option<String>) {
    let draft = Draft::of(call, Vec::new());
    let key = app.ledger.key().clone();
    let written = app
        .store
        .write(move |tx| {
            Box::pin(async move { draft.write_refusal(tx, &key, status, code.as_deref()).await })
        })
        .await;
    if let Err(error) = written {
        tracing::error!(%error, "a refusal could not be recorded");
    }
}
