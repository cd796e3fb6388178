//! Requests are recorded, and what is recorded gets to a collector or is counted as lost.

use super::queue::Tracer;
use super::settings::ENDPOINT;
use super::{Settings, Traces, begin, call, end, policy_evaluation, with_this_request, zone};
use crate::Store;
use crate::http::{Refusal, Server, identify_requests};
use crate::metrics::{Service, spans_dropped_so_far};
use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use caracal_mandate::id::ZoneId;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const AGENT: &str = "b7ad6b7169203331";

/// A collector that answers so, and what it gets.
async fn collector(status: StatusCode, body: Vec<u8>) -> (SocketAddr, mpsc::UnboundedReceiver<Bytes>) {
    let (sender, received) = mpsc::unbounded_channel();
    let take = move |bytes: Bytes| {
        let _ = sender.send(bytes);
        async move { (status, body) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, received)
}

fn traces(collector: SocketAddr, more: &[(&str, &str)]) -> Traces {
    let variable = |name: &str| match name {
        ENDPOINT => Some(format!("http://{collector}")),
        other => more.iter().find(|(name, _)| *name == other).map(|(_, value)| (*value).to_owned()),
    };
    Traces::start(Settings::read(variable, "1.2.3").unwrap().unwrap()).unwrap()
}

/// Serves some routes as the STS, and answers their address.
async fn serve(tracer: Option<Tracer>, store: Store) -> String {
    let things = move || {
        let store = store.clone();
        async move {
            drop(policy_evaluation());
            let write = |tx: &mut crate::WriteTx<'_>| tx.now();
            store
                .write(move |tx| Box::pin(async move { Ok::<_, crate::StoreError>(write(tx)) }))
                .await
                .unwrap();
            let calls =
                with_this_request(async { call("POST", "https", "idp.example", Some(443)).answered(503) });
            tokio::spawn(calls).await.unwrap();
            StatusCode::OK
        }
    };
    let refuse = || async {
        zone(&ZoneId::new("z2").unwrap());
        Refusal::new(StatusCode::FORBIDDEN, "access_denied")
    };
    let fail = || async { Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "sts_unavailable") };
    let router = Router::new()
        .route("/v1/zones/{zone}/things", get(things))
        .route("/refuse", get(refuse))
        .route("/fail", get(fail))
        .route("/health", get(|| async { "" }))
        .layer(axum::middleware::from_fn(identify_requests));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::new(Service::Sts).with_tracer(tracer);
    tokio::spawn(server.serve(listener, router, std::future::pending()));
    address
}

fn attributes(of: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |pair: &KeyValue| match pair.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    of.iter().map(|pair| (pair.key.as_str(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    caracal_mandate::gateway_signature::to_hex(bytes)
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} among {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    found[0]
}

#[tokio::test]
async fn a_request_and_its_steps_are_one_trace() {
    let (address, mut received) = collector(StatusCode::OK, Vec::new()).await;
    let traces = traces(address, &[]);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    let sts = serve(traces.tracer(Service::Sts), store).await;
    let http = reqwest::Client::new();
    let ask = |path: &str| {
        let request = http.get(format!("{sts}{path}")).header("x-request-id", "r-1");
        request.header("traceparent", format!("00-{TRACE}-{AGENT}-01")).send()
    };
    for (path, status) in [
        ("/v1/zones/z1/things?token=secret", 200),
        ("/refuse", 403),
        ("/fail", 503),
        ("/health", 200),
        ("/nowhere", 404),
    ] {
        assert_eq!(ask(path).await.unwrap().status(), status, "{path}");
    }
    traces.stop().await;

    let bytes = received.recv().await.unwrap();
    assert!(!bytes.windows(6).any(|part| part == b"secret"));
    let request = ExportTraceServiceRequest::decode(bytes).unwrap();
    let [sts] = request.resource_spans.as_slice() else { panic!("one service was asked") };
    let resource = attributes(&sts.resource.as_ref().unwrap().attributes);
    assert_eq!(
        (resource["service.name"].as_str(), resource["service.version"].as_str()),
        ("caracal-sts", "1.2.3")
    );
    let spans = &sts.scope_spans[0].spans;
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:?}");
    assert!(spans.iter().all(|span| !span.name.contains("health")), "{spans:?}");

    let whole = one(spans, "GET /v1/zones/{zone}/things");
    assert_eq!((hex(&whole.parent_span_id).as_str(), whole.kind), (AGENT, 2));
    let expected = [
        ("caracal.request_id", "r-1"),
        ("caracal.zone_id", "z1"),
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1/zones/{zone}/things"),
        ("url.scheme", "http"),
    ];
    assert_eq!(attributes(&whole.attributes), expected.map(|(name, value)| (name, value.to_owned())).into());
    let steps = ["evaluate policy", "write", "POST"].map(|name| one(spans, name));
    assert!(steps.iter().all(|step| step.parent_span_id == whole.span_id), "{steps:?}");
    assert_eq!(steps.map(|step| step.kind), [1, 1, 3]);
    let [_, write, call] = steps.map(|step| attributes(&step.attributes));
    assert!(write["caracal.write.waited_us"].parse::<u64>().is_ok());
    let called = (call["server.address"].as_str(), call["server.port"].as_str(), call["error.type"].as_str());
    assert_eq!(called, ("idp.example", "443", "503"));

    let refused = one(spans, "GET /refuse");
    let of = attributes(&refused.attributes);
    assert_eq!((of["caracal.reason"].as_str(), of["caracal.zone_id"].as_str()), ("access_denied", "z2"));
    assert_eq!(refused.status.as_ref().unwrap().code, 0, "a refusal is no fault of the service");
    let failed = one(spans, "GET /fail");
    let of = attributes(&failed.attributes);
    assert_eq!((of["caracal.reason"].as_str(), of["error.type"].as_str()), ("sts_unavailable", "503"));
    assert_eq!(failed.status.as_ref().unwrap().code, 2);
    assert!(!attributes(&one(spans, "GET").attributes).contains_key("http.route"));
}

/// Records so many requests.
fn record(traces: &Traces, requests: usize) {
    let tracer = traces.tracer(Service::Audit);
    for _ in 0..requests {
        let scope = begin(tracer.as_ref(), &Request::default(), None);
        end(&scope, &StatusCode::OK.into_response());
    }
}

/// How many spans are lost while this is done.
async fn lost(reason: &'static str, done: impl Future<Output = ()>) -> u64 {
    let before = spans_dropped_so_far(reason);
    done.await;
    spans_dropped_so_far(reason) - before
}

#[tokio::test]
async fn whatever_a_collector_does_what_it_does_not_take_is_counted() {
    let (refusing, _received) = collector(StatusCode::INTERNAL_SERVER_ERROR, Vec::new()).await;
    let partial = ExportTracePartialSuccess { rejected_spans: 2, ..ExportTracePartialSuccess::default() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
    let (choosy, _received) = collector(StatusCode::OK, answer.encode_to_vec()).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (address, reason, expected) in [
        (refusing, "refused", 3),
        (choosy, "refused", 2),
        (gone, "unreachable", 3),
        (silent.local_addr().unwrap(), "timeout", 3),
    ] {
        let traces = traces(address, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "100")]);
        record(&traces, 3);
        assert_eq!(lost(reason, traces.stop()).await, expected, "{reason}");
    }
}

#[tokio::test]
async fn what_finds_no_place_is_dropped_at_once() {
    let (address, mut received) = collector(StatusCode::OK, Vec::new()).await;
    let traces = traces(address, &[("OTEL_BSP_MAX_QUEUE_SIZE", "2")]);
    // Nothing is taken out meanwhile: this is the only thread.
    assert_eq!(lost("queue_full", async { record(&traces, 5) }).await, 3);
    traces.stop().await;
    let request = ExportTraceServiceRequest::decode(received.recv().await.unwrap()).unwrap();
    assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_two_seconds_and_no_longer() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let traces = traces(silent.local_addr().unwrap(), &[]);
    record(&traces, 1);
    let begun = tokio::time::Instant::now();
    traces.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn without_a_collector_nothing_is_recorded() {
    let request = Request::default();
    assert!(matches!(begin(None, &request, None), super::scope::Scope::None));
    let mut named = Request::default();
    named.headers_mut().insert("traceparent", format!("00-{TRACE}-{AGENT}-01").parse().unwrap());
    let scope = begin(None, &named, None);
    let told = scope.around(async { (super::log_id().map(|id| id.to_string()), policy_evaluation()) }).await;
    assert_eq!(told.0.as_deref(), Some(TRACE), "logs name the caller's trace all the same");
    assert!(format!("{:?}", told.1).contains("None"), "{:?}", told.1);
    assert_eq!(super::log_id(), None);
}
