//! A collector of traces (OTLP over HTTP, protobuf) that remembers what it got.

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use caracal_mandate::gateway_signature::to_hex;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A span as it was exported.
#[derive(Debug, Clone)]
pub struct TraceSpan {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first of its trace.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
}

pub struct Collector {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    arrived: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, (tell, arrived)) = (Arc::<Mutex<Vec<_>>>::default(), watch::channel(0));
        let remembered = Arc::clone(&got);
        let take = move |headers: HeaderMap, body: Bytes| {
            remembered.lock().unwrap().push((headers, body));
            tell.send_modify(|requests| *requests += 1);
            async {}
        };
        let router = Router::new().route("/v1/traces", post(take));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, got, arrived, task }
    }

    /// What makes a Caracal send its traces here, soon.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "20")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Every request so far: its headers, and its body as it came.
    pub fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().unwrap().clone()
    }

    pub fn spans(&self) -> Vec<TraceSpan> {
        self.got().into_iter().flat_map(|(_, body)| spans(body)).collect()
    }

    /// Waits for as many spans that `fits` as there have to be.
    pub async fn wait_for(&self, count: usize, fits: impl Fn(&TraceSpan) -> bool) -> Vec<TraceSpan> {
        let mut arrived = self.arrived.clone();
        let all = async {
            loop {
                arrived.borrow_and_update();
                let found: Vec<_> = self.spans().into_iter().filter(&fits).collect();
                if found.len() >= count {
                    return found;
                }
                arrived.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), all).await {
            Ok(found) => found,
            Err(_) => panic!("{count} spans did not come: {:#?}", self.spans()),
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn spans(body: Bytes) -> Vec<TraceSpan> {
    let mut found = Vec::new();
    for of_service in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        let resource = attributes(&of_service.resource.unwrap_or_default().attributes);
        for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(TraceSpan {
                service: resource["service.name"].clone(),
                name: span.name,
                trace: to_hex(&span.trace_id),
                id: to_hex(&span.span_id),
                parent: to_hex(&span.parent_span_id),
                attributes: attributes(&span.attributes),
            });
        }
    }
    found
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}
