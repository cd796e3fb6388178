//! What the other services ask about policy, signed as gateways sign (contract sts §14.6).

use crate::Sts;
use crate::approvals::rfc3339;
use crate::policy::{Bundle, PolicyInput};
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::id::ZoneId;
use caracal_store::http::{Refusal, read_body};
use caracal_store::internal::authenticate;
use serde::Deserialize;
use serde_json::{Value, json};

/// The largest body, in bytes.
const MAX_BODY_BYTES: usize = 65_536;

#[derive(Deserialize)]
struct Simulation {
    #[serde(default)]
    policy_set_id: String,
    #[serde(default)]
    version_id: String,
    #[serde(default)]
    manifest_sha256: String,
    #[serde(default)]
    policies: Vec<Source>,
    #[serde(default)]
    input: PolicyInput,
}

#[derive(Deserialize)]
struct Source {
    id: String,
    content: String,
}

/// `POST /internal/policy/simulate`: evaluates what is sent, and changes nothing.
pub(crate) async fn simulate(State(sts): State<Sts>, request: Request) -> Response {
    match sts.simulate(request).await {
        Ok(body) => Json(body).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// `GET /internal/policy/status/{zone}`: what is loaded of a zone, without loading it.
pub(crate) async fn status(State(sts): State<Sts>, Path(zone): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match sts.admit(&parts, b"").await {
        Ok(()) => Json(sts.loaded(&zone)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_token").because(why.into())
}

impl Sts {
    /// A signed call, and the first with its nonce.
    async fn admit(&self, parts: &Parts, body: &[u8]) -> Result<(), Refusal> {
        let denied =
            || Refusal::new(StatusCode::UNAUTHORIZED, "access_denied").because("not a known service");
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let now = self.store().now();
        let proof =
            authenticate(self.gateway_key(), &parts.headers, parts.method.as_str(), target, body, now);
        let proof = proof.map_err(|error| {
            tracing::warn!(%error, "an internal call was refused");
            denied()
        })?;
        match proof.spend_now(self.store()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(denied()),
            Err(error) => Err(Refusal::unavailable(&error)),
        }
    }

    async fn simulate(&self, request: Request) -> Result<Value, Refusal> {
        let (parts, body) = request.into_parts();
        let body = read_body(body, MAX_BODY_BYTES).await;
        let body = body.map_err(|_| malformed("the body could not be read"))?;
        self.admit(&parts, &body).await?;
        let asked: Simulation =
            serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        if asked.policies.is_empty() {
            return Err(malformed("policies is empty"));
        }
        let Simulation { policy_set_id, version_id, manifest_sha256, policies, input } = asked;
        let failed =
            |why: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "policy_eval_failed").because(why);
        let evaluated = tokio::task::spawn_blocking(move || {
            let documents: Vec<(String, String)> =
                policies.into_iter().map(|source| (source.id, source.content)).collect();
            let bundle = Bundle::compile(&documents).map_err(|error| error.to_string())?;
            let decision = bundle.evaluate(&input).map_err(|error| error.to_string())?;
            Ok::<_, String>(decision.to_result_json())
        });
        let result = evaluated.await.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        Ok(json!({
            "policy_set_id": policy_set_id, "version_id": version_id, "manifest_sha256": manifest_sha256,
            "result": result,
        }))
    }

    fn loaded(&self, zone: &str) -> Value {
        let loaded = ZoneId::new(zone).ok().and_then(|id| self.bundles().loaded(&id));
        let Some(active) = loaded else { return json!({ "zone_id": zone, "loaded": false }) };
        let age = self.store().now().saturating_sub(active.loaded_at).max(0) / 1000;
        let mut body = json!({
            "zone_id": zone, "loaded": true, "manifest_sha256": active.manifest_sha,
            "loaded_at": rfc3339(active.loaded_at), "age_seconds": age,
        });
        if let Some(object) = body.as_object_mut() {
            match &active.policy_set_version_id {
                Some(version) => object.insert("policy_set_version_id".into(), version.as_str().into()),
                // What is loaded is the want of a policy: it denies everything.
                None => object.insert("fallback".into(), "deny_all".into()),
            };
        }
        body
    }
}
