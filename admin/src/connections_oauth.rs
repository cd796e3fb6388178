//! Connecting a person through a browser: where it is sent, and its return (contract admin-audit §5.6, RFC 6749 §4.1,
//! RFC 7636).
//!
//! The return is public: the state that it brings back is the credential. It is good for one use and ten minutes, and
//! only its keyed hash is stored. What comes of it is recorded as the change of whoever began the flow.

use crate::app::{App, Done, zone_id};
use crate::attribution::Attribution;
use crate::body::{Body, Text};
use crate::connections::{connect, connectable, subject};
use crate::cut;
use crate::gate::{Actor, Call, Capability, record_refusal};
use crate::page::Params;
use crate::problem::{Problem, RefusedWith};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::{Extension, Json};
use caracal_mandate::id::ZoneId;
use caracal_store::egress::EgressError;
use caracal_store::http::{RequestId, header_text};
use caracal_store::trace::with_this_request;
use caracal_store::{StoreError, WriteTx, clock};
use caracal_sts::providers::{CredentialError, Flow, Hidden, Kind, ProviderConfig, Source, Tokens};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::Row as _;
use std::sync::Arc;

/// How long a flow may take, in milliseconds.
const FLOW_LIFE: i64 = 600_000;
/// How many flows that nobody finished one new flow clears away.
const SWEEP: i64 = 100;
/// The longest state and the longest code, in bytes.
const MAX_STATE: usize = 512;
const MAX_CODE: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorize {
    provider_id: Text<128>,
    subject_id: Option<Text<512>>,
}

/// Is it the return of a browser, which brings no token of ours?
pub(crate) fn is_callback(method: &Method, path: &str) -> bool {
    let of_zone = path.strip_prefix("/v1/zones/").and_then(|rest| rest.split_once('/'));
    *method == Method::GET && of_zone.is_some_and(|(_, rest)| rest == "provider-connections/oauth/callback")
}

fn place(zone: &ZoneId, state_hash: &str) -> String {
    format!("zones/{zone}/providerOauthFlows/{state_hash}")
}

/// `POST /v1/zones/:z/provider-connections/oauth/authorize`
pub(crate) async fn authorize(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, asked): (_, Authorize) = body.parse("invalid_provider_oauth_authorize")?;
    let flow = Flow::new()?;
    let state_hash = app.vault.hash(flow.state.expose());
    let verifier = app.vault.seal(flow.verifier.expose().as_bytes(), &place(&zone, &state_hash))?;
    let (provider_id, subject) = (asked.provider_id.0, subject(asked.subject_id));
    let actor = call.actor.clone();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let provider = connectable(tx.connection(), &zone, &provider_id).await?;
            let config = ProviderConfig::parse(Kind::AuthorizationCode, &provider.config);
            let user = match config.map(|config| config.source) {
                Ok(Source::User(user)) => user,
                Ok(_) => return Err(Problem::invalid("provider_connection_unsupported")),
                Err(error) if error.member == "authorization_endpoint" => {
                    let problem = Problem::invalid("provider_authorization_endpoint_invalid");
                    return Err(problem.because(error.to_string()));
                }
                Err(error) => {
                    return Err(Problem::invalid("invalid_provider_config").because(error.to_string()));
                }
            };
            let expires_at = tx.now().saturating_add(FLOW_LIFE);
            sweep(tx).await?;
            sqlx::query(
                "INSERT INTO provider_oauth_flows (state_hash, zone_id, provider_id, subject_id, verifier_envelope, \
                 actor_id, actor_name, actor_zone_id, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(state_hash)
            .bind(zone.as_str())
            .bind(provider.id.as_str())
            .bind(subject)
            .bind(verifier)
            .bind(actor.id)
            .bind(actor.name)
            .bind(actor.zone)
            .bind(expires_at)
            .execute(&mut *tx.connection())
            .await?;
            let body = json!({
                "authorization_url": flow.authorization_url(&user), "state": flow.state.expose(),
                "expires_at": clock::iso(expires_at),
            });
            Ok(Done::new(StatusCode::OK, crate::app::Kind::Action, ("providers", &provider.id), body))
        })
    })
    .await
}

async fn sweep(tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
    let now = tx.now();
    sqlx::query(
        "DELETE FROM provider_oauth_flows WHERE state_hash IN \
         (SELECT state_hash FROM provider_oauth_flows WHERE expires_at <= $1 LIMIT $2)",
    )
    .bind(now)
    .bind(SWEEP)
    .execute(&mut *tx.connection())
    .await?;
    Ok(())
}

/// A flow that a browser came back from. It is over with that, whatever comes of it.
struct Returned {
    zone: ZoneId,
    provider_id: String,
    subject: String,
    verifier: Result<Hidden, StoreError>,
    call: Call,
}

/// `GET /v1/zones/:z/provider-connections/oauth/callback?state=…&code=…`
pub(crate) async fn callback(
    State(app): State<App>,
    Extension(request_id): Extension<RequestId>,
    Path(zone): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let accept = header_text(&headers, &header::ACCEPT).unwrap_or_default();
    let browser = accept.contains("text/html") && !accept.contains("application/json");
    let finished = async {
        let zone = zone_id(&zone)?;
        let invalid = |_| Problem::invalid("invalid_oauth_callback");
        let state = params.text("state", MAX_STATE).map_err(invalid)?;
        let state =
            state.ok_or_else(|| Problem::invalid("invalid_oauth_callback").because("state: is missing"))?;
        let returned = app.take_flow(state, request_id.0, uri.path()).await?;
        let (call, asked) = (returned.call.clone(), (zone, params));
        // It is finished even if the browser goes away: the code is spent.
        let finishing = tokio::spawn({
            let app = app.clone();
            with_this_request(async move { app.finish_flow(returned, asked).await })
        });
        let finished = finishing.await.unwrap_or_else(|_| Err(internal()));
        if let Err(problem) = &finished {
            let response = problem.clone().into_response();
            let code = response.extensions().get::<RefusedWith>().map(|code| code.0.clone());
            record_refusal(&app, &call, response.status(), code).await;
        }
        finished
    };
    match (finished.await, browser) {
        (Ok(_), true) => page(StatusCode::CREATED, "Connected", "You can close this window."),
        (Ok(done), false) => (done.status, Json(done.body)).into_response(),
        (Err(problem), false) => problem.into_response(),
        (Err(problem), true) => {
            let response = problem.into_response();
            let code = response.extensions().get::<RefusedWith>().map(|code| code.0.clone());
            page(response.status(), "Not connected", &code.unwrap_or_default())
        }
    }
}

fn internal() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
}

/// A page without anything of the request in it: `text` is a text or a code of ours.
fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><h1>{title}</h1><p>{text}</p></html>"
    );
    let mut response = (status, Html(html)).into_response();
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

impl App {
    /// Takes the flow of a state out of the store, so that it is good for one use.
    async fn take_flow(&self, state: &str, request_id: String, path: &str) -> Result<Returned, Problem> {
        let state_hash = self.vault.hash(state);
        let hash = state_hash.clone();
        let row = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let row = sqlx::query(
                        "DELETE FROM provider_oauth_flows WHERE state_hash = $1 RETURNING zone_id, provider_id, \
                         subject_id, verifier_envelope, actor_id, actor_name, actor_zone_id, expires_at",
                    )
                    .bind(hash)
                    .fetch_optional(&mut *tx.connection())
                    .await?;
                    Ok::<_, StoreError>(row)
                })
            })
            .await?;
        let expired = || Problem::invalid("oauth_state_expired");
        let row = row.ok_or_else(expired)?;
        let expires_at: i64 = row.try_get("expires_at")?;
        let actor_id: String = row.try_get("actor_id")?;
        // Whoever began it has to be allowed to, still.
        let live: Option<String> = sqlx::query_scalar(
            "SELECT capability FROM admin_tokens WHERE id = $1 AND revoked_at IS NULL AND capability IN ('admin', 'write')",
        )
        .bind(actor_id.as_str())
        .fetch_optional(&mut *self.store.read().await?)
        .await?;
        if expires_at <= self.store.now() || live.is_none() {
            return Err(expired());
        }
        let zone: String = row.try_get("zone_id")?;
        let zone = ZoneId::new(zone)
            .map_err(|error| StoreError::corrupt(format!("provider_oauth_flows.zone_id: {error}")))?;
        let envelope: String = row.try_get("verifier_envelope")?;
        let verifier = self.vault.open(&envelope, &place(&zone, &state_hash)).and_then(|bytes| {
            String::from_utf8(bytes).map(Hidden::new).map_err(|_| StoreError::Seal("opened"))
        });
        Ok(Returned {
            zone,
            provider_id: row.try_get("provider_id")?,
            subject: row.try_get("subject_id")?,
            verifier,
            call: Call {
                actor: Actor {
                    id: actor_id,
                    name: row.try_get("actor_name")?,
                    zone: row.try_get("actor_zone_id")?,
                    capability: Capability::Write,
                    bootstrap: false,
                    attribution: Attribution::default(),
                },
                request_id,
                method: Method::GET,
                path: path.to_owned(),
            },
        })
    }

    async fn finish_flow(&self, flow: Returned, (zone, params): (ZoneId, Params)) -> Result<Done, Problem> {
        if flow.zone != zone {
            return Err(Problem::invalid("oauth_state_mismatch"));
        }
        let verifier = flow.verifier.map_err(|_| Problem::invalid("oauth_state_invalid"))?;
        let invalid = |_| Problem::invalid("invalid_oauth_callback");
        if params.text("error", usize::MAX).map_err(invalid)?.is_some() {
            return Err(Problem::invalid("provider_oauth_denied"));
        }
        let code = params.text("code", MAX_CODE).map_err(invalid)?;
        let code = code.ok_or_else(|| Problem::invalid("authorization_code_required"))?;
        let provider = {
            let mut connection = self.store.read().await?;
            connectable(&mut connection, &zone, &flow.provider_id).await?
        };
        let tokens: Tokens =
            self.providers.exchange_code(&zone, &provider, code, &verifier).await.map_err(of_exchange)?;
        let cause = cut::cause(&flow.call, &zone, "authorized");
        let (app, subject) = (self.clone(), flow.subject);
        self.commit(&flow.call, None, move |tx| {
            Box::pin(async move {
                let found = connectable(tx.connection(), &cause.zone, &provider.id).await?;
                if found != provider {
                    let why = "the provider was changed meanwhile";
                    return Err(Problem::invalid("invalid_provider_config").because(why));
                }
                let row = connect(tx, &app, &cause, (&provider.id, &subject), &tokens).await?;
                let id = row.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
                Ok(Done::created(("provider-connections", &id), row))
            })
        })
        .await
    }
}

/// What the exchange of a code failed for.
fn of_exchange(error: CredentialError) -> Problem {
    let code = match &error {
        CredentialError::Store => {
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable");
        }
        CredentialError::Config(why) => {
            return Problem::invalid("invalid_provider_config").because(why.to_string());
        }
        CredentialError::Egress(
            EgressError::AddressRefused { .. } | EgressError::HostNotAllowed { .. } | EgressError::Url { .. },
        ) => return Problem::invalid("provider_token_endpoint_not_allowed"),
        CredentialError::Sealed | CredentialError::SecretMissing(_) => "secret_backend_unavailable",
        CredentialError::TokenType => "provider_token_type_unsupported",
        CredentialError::Answer(_) => "provider_token_response_invalid",
        _ => "provider_token_exchange_failed",
    };
    tracing::warn!(%error, "an authorization code could not be exchanged");
    Problem::new(StatusCode::BAD_GATEWAY, code).because(error.reason())
}
