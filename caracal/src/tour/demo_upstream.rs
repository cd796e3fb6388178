//! The upstream of the tour: answers with what it saw.

use crate::error::Error;
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running demo upstream.
pub(super) struct DemoUpstream {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl DemoUpstream {
    /// Starts one on a port that the system hands out.
    pub(super) async fn start() -> Result<Self, Error> {
        let failed =
            |source| Error::Bind { what: "the demo upstream", address: "127.0.0.1:0".into(), source };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().fallback(tell_what_was_seen);
        let task = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
        });
        Ok(Self { address, stop, task })
    }

    /// Stops it. Connections that Envoy keeps open do not hold it up.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn tell_what_was_seen(request: Request) -> Response {
    let headers: Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let path = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let seen = json!({ "method": request.method().as_str(), "path": path, "headers": headers });
    axum::Json(seen).into_response()
}
