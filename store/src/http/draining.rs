//! What a service says while it ends: it lives, it is not ready, and everything else is for another instance.

use super::Refusal;
use crate::metrics::Service;
use axum::Json;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpStream;

/// Answers one request of a connection, which may take this long.
pub(super) async fn answer(service: Service, socket: TcpStream, time: Duration) {
    let serve = http1::Builder::new().keep_alive(false).header_read_timeout(None).serve_connection(
        TokioIo::new(socket),
        service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(of_path(service, request.uri().path()))
        }),
    );
    if let Ok(Err(error)) = tokio::time::timeout(time, serve).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn of_path(service: Service, path: &str) -> Response {
    match path {
        "/health" => Json(json!({ "ok": true })).into_response(),
        // Each service says so in its own words (contract admin-audit §1.2 and §11.10, coordinator §9, sts §26.1).
        "/ready" => {
            let body = match service {
                Service::Admin | Service::Coordinator => json!({ "ok": false, "draining": true }),
                Service::Audit => json!({ "ready": false, "reason": "draining" }),
                Service::Sts => json!({ "ok": false, "ready": false, "reason": "draining" }),
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
        _ => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "draining")
            .because("the service is ending; ask another instance, or again when it is back")
            .retry_after(1)
            .into_response(),
    }
}
