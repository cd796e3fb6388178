//! Where a gateway sends a request that was granted, and with which credential (contract sts §22.1).

use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_store::model::{Provider, Resource};
use serde::Serialize;

/// One entry of `upstreams`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Directive {
    url: String,
    auth_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_header: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_scheme: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<String>,
}

/// The directive of a granted resource. A provider of a kind that is not known denies.
pub(crate) fn directive(resource: &Resource, provider: Option<&Provider>) -> Result<Directive, Denial> {
    let Some(url) = resource.upstream_url.clone() else {
        return Err(Denial::forbidden("resource upstream not configured"));
    };
    let provider_id = provider.map(|provider| provider.id.clone());
    match provider.map(|provider| provider.kind.as_str()) {
        Some("none") => {
            Ok(Directive { url, auth_mode: "none", auth_header: None, auth_scheme: None, provider_id })
        }
        None | Some("caracal_mandate") => Ok(Directive {
            url,
            auth_mode: "caracal_jwt",
            auth_header: Some("Authorization"),
            auth_scheme: Some("Bearer"),
            provider_id,
        }),
        Some(kind) => {
            let text = format!("a provider of kind {kind} has no credential to give");
            Err(Denial::new(StatusCode::BAD_GATEWAY, "http_request_failed", text))
        }
    }
}
