//! `POST /v1/verify`: is this a mandate that stands? For everyone (contract coordinator §9).
//!
//! Only a session mandate is addressed to the issuer; all others are for gateways and resources. What it rests on has to
//! stand as well, so a mandate that was taken back is not valid here for as long as its time runs.

use crate::body::{self, Fields};
use crate::caller::{self, Caller};
use crate::config::Config;
use crate::failure::{Code, Failure};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use caracal_mandate::claims::Claims;
use caracal_mandate::id::ZoneId;
use caracal_store::http::{Refusal, RequestId};
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest token, in bytes, as for bearers.
const MAX_TOKEN: usize = 4096;

/// Why a token is not called valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Request,
    MissingToken,
    Token,
}

/// What is asked.
#[derive(Debug)]
struct Question {
    token: String,
    zone: ZoneId,
    scope: Option<String>,
    needs_session: bool,
    needs_delegation: bool,
}

impl Question {
    /// Reads the body, which has no other members than these.
    fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut fields = Fields::parse(bytes).map_err(|_| Invalid::Request)?;
        let zone = fields.required("zone_id");
        let (authorization, token) = (fields.text("authorization"), fields.text("token"));
        let scope = fields.text("required_scope");
        let words = ["require_session", "require_delegation"].map(|name| fields.flag(name).unwrap_or(false));
        let [needs_session, needs_delegation] = words;
        if !fields.is_empty() {
            return Err(Invalid::Request);
        }
        fields.finish().map_err(|_| Invalid::Request)?;
        let zone = zone.ok_or(Invalid::Request)?;
        let bearer = match authorization {
            None => None,
            Some(header) => {
                let bearer = caracal_mandate::header::bearer(header.as_bytes());
                Some(bearer.map_err(|_| Invalid::MissingToken)?.to_owned())
            }
        };
        let token = match (bearer, token) {
            // Two tokens, and no telling which is asked about.
            (Some(one), Some(other)) if one != other => return Err(Invalid::Request),
            (one, other) => one.or(other).filter(|token| !token.is_empty()).ok_or(Invalid::MissingToken)?,
        };
        Ok(Self { token, zone, scope, needs_session, needs_delegation })
    }

    fn is_met_by(&self, claims: &Claims) -> bool {
        claims.zone_id == self.zone
            && self.scope.as_ref().is_none_or(|scope| claims.scopes().contains(scope))
            && (!self.needs_session || claims.agent_session_id.is_some())
            && (!self.needs_delegation || claims.delegation_edge_id.is_some())
    }
}

/// `POST /v1/verify`
pub(crate) async fn route(
    State(config): State<Arc<Config>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    body: Body,
) -> Result<Response, Failure> {
    let bytes = body::read(body, config.limits.body_bytes).await?;
    let question = match Question::parse(&bytes) {
        Ok(question) => question,
        Err(invalid) => return Ok(invalid.answer(&request_id)),
    };
    match ask(&config, &question, &request_id).await {
        Ok(claims) if question.is_met_by(&claims) => {
            Ok(Json(json!({ "valid": true, "claims": claims_json(&claims) })).into_response())
        }
        Ok(_) | Err(Failure::Refused(_)) => Ok(Invalid::Token.answer(&request_id)),
        Err(failure) => Err(failure),
    }
}

async fn ask(config: &Config, question: &Question, request_id: &str) -> Result<Claims, Failure> {
    if question.token.len() > MAX_TOKEN {
        return Err(Code::InvalidToken.into());
    }
    let claims = caller::verify(config, &question.token).await?;
    let caller = Caller::of_mandate(claims.clone(), request_id.to_owned());
    let mut connection = config.store.read().await?;
    caller.check_stands(&mut connection, config.store.now()).await?;
    Ok(claims)
}

impl Invalid {
    fn answer(self, request_id: &str) -> Response {
        let (status, code) = match self {
            Self::Request => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::MissingToken => (StatusCode::BAD_REQUEST, "missing_token"),
            Self::Token => (StatusCode::UNAUTHORIZED, "token_invalid"),
        };
        let refusal = Refusal::new(status, code).of_request(request_id);
        refusal.with("valid", false).with("request_id", request_id).into_response()
    }
}

/// The claims under the names that verifying libraries give them.
fn claims_json(claims: &Claims) -> Value {
    let hops = claims.delegation_chain.iter().map(|hop| {
        without_nothing([
            ("applicationId", json!(hop.application_id)),
            ("sessionId", json!(hop.agent_session_id)),
            ("delegationId", json!(hop.delegation_edge_id)),
        ])
    });
    let of_path = |value: u64| (claims.hop_count > 0).then_some(value);
    without_nothing([
        ("sub", json!(claims.sub)),
        ("zoneId", json!(claims.zone_id)),
        ("clientId", json!(claims.client_id)),
        ("authorityRecordId", json!(claims.sid)),
        ("rootAuthorityRecordId", json!(claims.root_sid)),
        ("use", json!(claims.usage)),
        ("subType", json!(claims.sub_type)),
        ("jti", json!(claims.jti)),
        ("issuedAt", json!(claims.iat)),
        ("expiresAt", json!(claims.exp)),
        ("scope", json!(claims.scope)),
        ("targetResources", json!(claims.target)),
        ("sessionId", json!(claims.agent_session_id)),
        ("delegationId", json!(claims.delegation_edge_id)),
        ("sourceSessionId", json!(claims.source_session_id)),
        ("targetSessionId", json!(claims.target_session_id)),
        ("delegationPath", json!(claims.delegation_path)),
        ("delegationChain", hops.collect()),
        ("hopCount", json!(of_path(claims.hop_count))),
        ("graphEpoch", json!(of_path(claims.delegation_graph_epoch))),
    ])
}

/// An object without what a mandate does not carry.
fn without_nothing<const N: usize>(members: [(&str, Value); N]) -> Value {
    let is_there = |value: &Value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty());
    let there = members.into_iter().filter(|(_, value)| is_there(value));
    Value::Object(there.map(|(name, value)| (name.to_owned(), value)).collect())
}
