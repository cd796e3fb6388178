//! How often one address may ask (contract coordinator §2.3).

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use caracal_store::http::{Peer, REQUEST_ID, RateLimit, header_text, peer_of};
use caracal_store::metrics::Service;
use std::sync::Arc;

/// Requests a minute of one address; 0 is no limit. `Default` has the contract's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// All requests but `/health`.
    pub all: u32,
    /// `/ready`.
    pub ready: u32,
    /// `/v1/verify`.
    pub verify: u32,
    /// Is the last address of `X-Forwarded-For` the caller's?
    pub trust_proxy: bool,
}

impl Default for Rates {
    fn default() -> Self {
        Self { all: 600, ready: 120, verify: 60, trust_proxy: false }
    }
}

struct Addresses {
    all: RateLimit<Peer>,
    ready: RateLimit<Peer>,
    verify: RateLimit<Peer>,
    trust_proxy: bool,
}

/// The Coordinator's router behind its limits per address. They come before everything else.
pub fn limit_addresses(router: Router, rates: Rates) -> Router {
    let per_minute = |name, per_minute| RateLimit::new(Service::Coordinator, name, per_minute);
    let addresses = Addresses {
        all: per_minute("address", rates.all),
        ready: per_minute("ready", rates.ready),
        verify: per_minute("verify", rates.verify),
        trust_proxy: rates.trust_proxy,
    };
    router.layer(from_fn_with_state(Arc::new(addresses), before))
}

async fn before(State(addresses): State<Arc<Addresses>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/health" {
        return next.run(request).await;
    }
    let (peer, now) = (peer_of(&request, addresses.trust_proxy), caracal_store::clock::now());
    let verifies = path == "/v1/verify" && request.method() == Method::POST;
    let taken = addresses.all.take(peer, now).and_then(|()| match path {
        "/ready" => addresses.ready.take(peer, now),
        _ if verifies => addresses.verify.take(peer, now),
        _ => Ok(()),
    });
    let Err(too_many) = taken else { return next.run(request).await };
    let mut refusal = too_many.refusal();
    if verifies {
        refusal = refusal.with("valid", false);
    }
    let id = header_text(request.headers(), &REQUEST_ID);
    if let Some(id) = id.filter(|text| caracal_store::ids::is_request_id(text)) {
        refusal = refusal.of_request(id).with("request_id", id);
    }
    refusal.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use std::net::SocketAddr;
    use tower::ServiceExt as _;

    async fn ask(router: &Router, peer: &str, method: &str, path: &str) -> (u16, bool, String) {
        let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        let response = router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, headers.contains_key("retry-after"), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn contract_coordinator_2_3_limits_per_address() {
        let rates = Rates { all: 6, ready: 2, verify: 1, trust_proxy: false };
        let (one, other) = ("192.0.2.1:5", "192.0.2.2:5");
        let steps = [
            (one, "POST", "/v1/verify", 200),
            (one, "POST", "/v1/verify", 429),
            (one, "GET", "/ready", 200),
            (one, "GET", "/ready", 200),
            (one, "GET", "/ready", 429),
            (one, "GET", "/zones/z/agents", 200),
            (one, "GET", "/zones/z/agents", 429),
            (one, "GET", "/health", 200),
            (other, "GET", "/zones/z/agents", 200),
        ];
        loop {
            let minute = || caracal_store::clock::now() / 60_000;
            let begun = minute();
            let router = limit_addresses(Router::new().fallback(|| async { "served" }), rates);
            let mut answers = Vec::new();
            for (peer, method, path, _) in steps {
                answers.push(ask(&router, peer, method, path).await);
            }
            if minute() != begun {
                continue;
            }
            for ((peer, method, path, expected), (status, retry, body)) in steps.into_iter().zip(answers) {
                assert_eq!(status, expected, "{peer} {method} {path}");
                assert_eq!(retry, expected == 429);
                if expected == 429 {
                    assert!(body.contains("\"error\":\"rate_limited\""), "{body}");
                    assert_eq!(body.contains("\"valid\":false"), path == "/v1/verify", "{body}");
                }
            }
            return;
        }
    }
}
