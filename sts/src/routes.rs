//! The HTTP face of the STS.

use crate::Sts;
use crate::exchange::ExchangeRequest;
use crate::feed::MAX_WAIT_SECONDS;
use crate::form::{Form, receive};
use crate::refusal::Denial;
use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::claims::MandateUse;
use caracal_mandate::epoch::Generation;
use caracal_mandate::feed::FEED_PATH;
use caracal_mandate::header::accepted_request_id;
use caracal_mandate::id::{GatewayId, ZoneId};
use caracal_mandate::jwks::JwkSet;
use caracal_store::StoreError;
use caracal_store::http::{REQUEST_ID, Refusal};
use caracal_store::internal::{authenticate, claims_to_be_gateway};
use std::collections::HashMap;
use std::time::Duration;

pub(crate) const TOKEN_PATH: &str = "/oauth/2/token";
pub(crate) const CHECK_PATH: &str = "/internal/gateway/check";

pub(crate) fn router(sts: Sts) -> Router {
    let (router, _) = crate::api::routes().into_parts();
    router
        .fallback(|| async {
            Refusal::new(StatusCode::NOT_FOUND, "resource_not_found").because("no such route")
        })
        .with_state(sts)
}

/// The token endpoint. The request id is chosen and echoed before anything else (contract sts §4).
pub(crate) async fn token(State(sts): State<Sts>, request: Request) -> Response {
    let request_id = request_id_of(&request);
    let answer = async {
        let (request, _) = read_exchange(&sts, request, &request_id).await?;
        Ok(axum::Json(sts.exchange(request).await?).into_response())
    };
    finish(answer.await, &request_id)
}

/// A gateway asks whether a mandate that may be used more than once still stands. Nothing is used up or minted.
pub(crate) async fn check(State(sts): State<Sts>, request: Request) -> Response {
    let request_id = request_id_of(&request);
    let answer = async {
        let (mut request, form) = read_exchange(&sts, request, &request_id).await?;
        let call = request.gateway.as_mut().ok_or_else(Denial::unauthenticated)?;
        call.usage = match form.trimmed("mandate_use") {
            Some("gateway") => MandateUse::Gateway,
            Some("resource") => MandateUse::Resource,
            _ => return Err(Denial::malformed("mandate_use is neither gateway nor resource")),
        };
        sts.check(request).await?;
        Ok(axum::Json(serde_json::json!({ "active": true })).into_response())
    };
    finish(answer.await, &request_id)
}

/// The request's id is chosen before anything else.
fn request_id_of(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| accepted_request_id(value.as_bytes()));
    given.map_or_else(caracal_store::ids::new_id, str::to_owned)
}

fn finish(answer: Result<Response, Denial>, request_id: &str) -> Response {
    let mut response = answer.unwrap_or_else(|denial| denial.into_response(request_id));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    no_store(&mut response);
    response
}

/// Reads a form of the token endpoint's kind, and who signed it if somebody did.
async fn read_exchange(
    sts: &Sts,
    request: Request,
    request_id: &str,
) -> Result<(ExchangeRequest, Form), Denial> {
    let (parts, body) = receive(request).await?;
    let form = Form::parse(&body)?;
    let proof = if claims_to_be_gateway(&parts.headers) {
        if form.trimmed("gateway_request_id") != Some(request_id) {
            return Err(Denial::unauthenticated());
        }
        let now = sts.store().now();
        let proof = authenticate(sts.gateway_key(), &parts.headers, "POST", parts.uri.path(), &body, now);
        Some(proof.map_err(|error| {
            tracing::warn!(%error, "a gateway could not be authenticated");
            Denial::unauthenticated()
        })?)
    } else {
        None
    };
    let request = ExchangeRequest::from_form(&form, request_id, proof)?;
    Ok((request, form))
}

/// The public keys of a zone (contract sts §20).
pub(crate) async fn jwks(State(sts): State<Sts>, RawQuery(query): RawQuery) -> Response {
    let query = parse_query(query.as_deref());
    let Some(zone) = query.get("zone_id").filter(|zone| !zone.is_empty()) else {
        return Refusal::new(StatusCode::BAD_REQUEST, "invalid_token")
            .because("zone_id is missing")
            .into_response();
    };
    let unknown =
        || Refusal::new(StatusCode::NOT_FOUND, "resource_not_found").because("no keys for this zone");
    let Ok(zone) = ZoneId::new(zone.as_str()) else { return unknown().into_response() };
    let keys = match sts.keys().verification_keys(&zone).await {
        Ok(keys) if keys.is_empty() => return unknown().into_response(),
        Ok(keys) => keys,
        Err(StoreError::Seal(_)) => {
            return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
                .because("no key of this zone can be opened")
                .into_response();
        }
        Err(error) => return Refusal::unavailable(&error).into_response(),
    };
    let headers = [
        (header::CACHE_CONTROL, "public, max-age=300, must-revalidate"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, axum::Json(JwkSet { keys })).into_response()
}

/// The long poll of the gateways, signed by them.
pub(crate) async fn feed(State(sts): State<Sts>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match poll_feed(&sts, &parts).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn poll_feed(sts: &Sts, request: &Parts) -> Result<Response, Refusal> {
    let target = request.uri.path_and_query().map_or(FEED_PATH, |target| target.as_str());
    let denied = || Refusal::new(StatusCode::UNAUTHORIZED, "access_denied").because("not a known gateway");
    let now = sts.store().now();
    let proof =
        authenticate(sts.gateway_key(), &request.headers, "GET", target, b"", now).map_err(|error| {
            tracing::warn!(%error, "the feed was refused");
            denied()
        })?;
    let query = parse_query(request.uri.query());
    let bad = |what: &'static str| Refusal::new(StatusCode::BAD_REQUEST, "invalid_token").because(what);
    let gateway = query.get("gateway").and_then(|id| GatewayId::new(id.as_str()).ok());
    let gateway = gateway.ok_or_else(|| bad("gateway is missing or malformed"))?;
    let number = |name: &str| query.get(name).map_or(Ok(0), |text| text.parse::<u64>());
    let since = number("since").map_err(|_| bad("since is not a number"))?;
    let wait = number("wait").map_err(|_| bad("wait is not a number"))?;
    let wait = Duration::from_secs(wait.min(MAX_WAIT_SECONDS));
    let unavailable = |error: caracal_store::StoreError| Refusal::unavailable(&error);
    if !sts.acknowledge(proof, &gateway, Generation(since)).await.map_err(unavailable)? {
        return Err(denied());
    }
    let response = sts.feed(Generation(since), wait).await.map_err(unavailable)?;
    let mut response = axum::Json(response).into_response();
    no_store(&mut response);
    Ok(response)
}

pub(crate) async fn health() -> StatusCode {
    StatusCode::OK
}

pub(crate) async fn ready(State(sts): State<Sts>) -> Response {
    match sts.store().ping().await {
        Ok(()) => axum::Json(serde_json::json!({ "ok": true, "ready": true })).into_response(),
        Err(error) => {
            tracing::error!(%error, "not ready");
            let body = serde_json::json!({ "ok": false, "ready": false, "reason": "postgres_unreachable" });
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

fn parse_query(query: Option<&str>) -> HashMap<String, String> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect()
}

/// Nobody keeps this answer.
pub(crate) fn no_store(response: &mut Response) {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("pragma"), HeaderValue::from_static("no-cache"));
}
