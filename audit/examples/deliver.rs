//! What Audit spends on an event that a gateway delivers: `deliver DELIVERIES EVENTS` sends so many signed deliveries of so many
//! warm requests, as the filter makes them, through the router into a database in the current folder, and prints processor
//! time and time of one event. Where it goes: `perf record -e cpu-clock -g -- deliver 500 100`.
#![allow(clippy::expect_used)]

use axum::body::Body;
use axum::http::{Request, StatusCode};
use caracal_audit::Audit;
use caracal_mandate::gateway_signature::{
    GatewayKey, NONCE_HEADER, SIGNATURE_HEADER, Signed, TIMESTAMP_HEADER,
};
use caracal_store::{Store, ids};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use tower::ServiceExt as _;

const PATH: &str = "/internal/audit/gateway-events";
const COLUMNS: &str = r#"["as","seq","occurred_at","request_id","metadata.latency_ms","metadata.response_bytes","decision","metadata.trace_id","metadata.mcp","metadata.revocation_interrupted","metadata.expiry_interrupted"]"#;
/// How many mandates call in turns.
const MANDATES: u64 = 32;

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let deliveries = numbers.next().expect("how many deliveries");
    let events = numbers.next().expect("how many events in each");
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let store = Store::open_file(&folder.path().join("caracal.db")).await.expect("a database");
    let key = GatewayKey::from_hex(&"ab".repeat(32)).expect("a key");
    let audit = Audit::new(store.clone(), b"chain-key-of-32-bytes-or-more-00".to_vec(), key.clone());
    let router = audit.router();
    // What the gateway does is not measured.
    let bodies: Vec<String> = (0..deliveries).map(|number| body(number * events, events)).collect();
    let requests: Vec<_> = bodies.into_iter().map(|body| signed(body, &key, store.now())).collect();
    let (begun, before) = (Instant::now(), processor_time());
    for (number, request) in (1..).zip(requests) {
        let response = router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let answer = axum::body::to_bytes(response.into_body(), 1_000).await.expect("its body");
        assert_eq!(answer, format!("{{\"acknowledged\":{}}}", number * events));
    }
    let (spent, took) = (processor_time().saturating_sub(before), begun.elapsed());
    let each = |time: Duration| time.as_secs_f64() * 1e6 / (deliveries * events).max(1) as f64;
    println!("processor_time {:.2} us/event", each(spent));
    println!("time {:.2} us/event", each(took));
    store.close().await;
}

fn signed(body: String, key: &GatewayKey, now: i64) -> Request<Body> {
    let (timestamp, nonce) = ((now / 1000).to_string(), ids::new_id());
    let signed =
        Signed { timestamp: &timestamp, nonce: &nonce, method: "POST", path: PATH, body: body.as_bytes() };
    Request::post(PATH)
        .header(TIMESTAMP_HEADER, &timestamp)
        .header(NONCE_HEADER, &nonce)
        .header(SIGNATURE_HEADER, key.sign(&signed))
        .body(Body::from(body))
        .expect("a request")
}

/// A delivery of events that follow number `after`.
fn body(after: u64, events: u64) -> String {
    let mut json = format!(
        "{{\"gateway\":\"gw-1\",\"worker\":\"w0\",\"incarnation\":1795251661007,\"columns\":{COLUMNS},\"rows\":["
    );
    for number in after + 1..=after + events {
        let separator = if number > after + 1 { "," } else { "" };
        let (mandate, at, latency) = (number % MANDATES + 1, 1_795_251_661_007 + number / 8, number % 4);
        // Requests have random ids.
        let request = request_id(number);
        let _ =
            write!(json, "{separator}[[0,{mandate}],{number},{at},\"{request}\",{latency},1024,{number}]");
    }
    json.push_str(
        "],\"shared\":[{\"zone_id\":\"0199c0de-5eed-7000-8000-000000000001\",\"event_type\":\"gateway_resource_request\",\
         \"decision\":\"allow\",\"evaluation_status\":\"executed\",\"metadata\":{\"role\":\"resource\",\
         \"application_id\":\"0199c0de-5eed-7000-8000-000000000002\",\"resource\":\"https://orders.example.com/v1\",\
         \"subject_kind\":\"user\",\"method\":\"GET\",\"gateway_status\":200,\"result_class\":\"success\",\
         \"upstream_host\":\"orders.example.com\",\"auth_mode\":\"mandate\",\"decided_by\":\"filter\"}}",
    );
    for mandate in 0..MANDATES {
        let _ = write!(
            json,
            ",{{\"metadata\":{{\"subject_fingerprint\":\"{:016x}\",\"jti\":\"0199c0de-5eed-7000-8000-{mandate:012}\"}}}}",
            mix(mandate)
        );
    }
    json.push_str("]}");
    json
}

fn request_id(number: u64) -> String {
    let (high, low) = (mix(number), mix(!number));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

/// A number whose bits are all over.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// What this process took of the processors, in user and kernel, by the kernel's count of nanoseconds.
fn processor_time() -> Duration {
    let of_task = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    Duration::from_nanos(tasks.map(of_task).sum())
}
