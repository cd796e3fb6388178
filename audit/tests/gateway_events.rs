//! What gateways deliver, through the router: signed, counted, gaps told of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use axum::body::Body;
use axum::http::{Request, StatusCode};
use caracal_audit::query::Filter;
use caracal_audit::{Audit, Ledger};
use caracal_mandate::gateway_signature::{
    GatewayKey, NONCE_HEADER, SIGNATURE_HEADER, Signed, TIMESTAMP_HEADER,
};
use caracal_store::audit::AuditEvent;
use caracal_store::{Store, ids};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const PATH: &str = "/internal/audit/gateway-events";
const KEY: &[u8] = b"chain-key-of-32-bytes-or-more-00";

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    audit: Audit,
    key: GatewayKey,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    let key = GatewayKey::from_hex(&"ab".repeat(32)).unwrap();
    let audit = Audit::new(store.clone(), KEY.to_vec(), key.clone());
    Bench { _dir: dir, store, audit, key }
}

impl Bench {
    fn signed(&self, body: &str, nonce: &str, seconds: i64, key: &GatewayKey) -> Request<Body> {
        let timestamp = seconds.to_string();
        let signed =
            Signed { timestamp: &timestamp, nonce, method: "POST", path: PATH, body: body.as_bytes() };
        Request::post(PATH)
            .header(TIMESTAMP_HEADER, &timestamp)
            .header(NONCE_HEADER, nonce)
            .header(SIGNATURE_HEADER, key.sign(&signed))
            .body(Body::from(body.to_owned()))
            .unwrap()
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.audit.router().oneshot(request).await.unwrap();
        assert!(response.headers().contains_key("x-request-id"));
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn deliver(&self, body: &Value) -> (StatusCode, Value) {
        let request = self.signed(&body.to_string(), &ids::new_id(), self.store.now() / 1000, &self.key);
        self.send(request).await
    }

    async fn events(&self, zone: &str) -> Vec<(String, Value)> {
        let page =
            Ledger::new(self.store.clone(), KEY.to_vec()).list(zone, &Filter::default(), None, 1_000).await;
        let mut events = page.unwrap().items;
        // As they stand in their chain.
        events.sort_by_key(|stored| stored.link.seq);
        let told = |event: AuditEvent| (event.event_type, event.metadata_json.unwrap());
        events.into_iter().map(|stored| told(stored.event)).collect()
    }
}

fn one(seq: u64) -> Value {
    json!({
        "seq": seq, "occurred_at": 1000 + seq, "zone_id": "z1", "request_id": format!("r{seq}"),
        "event_type": "gateway_resource_request", "decision": "allow", "evaluation_status": "executed",
        "metadata": { "application_id": "a", "gateway_status": 200 },
    })
}

fn delivery(seqs: &[u64]) -> Value {
    json!({ "gateway": "g1", "worker": "w1", "incarnation": 7, "events": seqs.iter().map(|seq| one(*seq)).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread")]
async fn architecture_evidence_events_are_counted_once_and_gaps_are_told_of() {
    let bench = bench().await;
    let steps: [(&[u64], u64); 5] = [(&[1, 2], 2), (&[1, 2, 3], 3), (&[2], 3), (&[6, 7], 7), (&[], 7)];
    for (seqs, acknowledged) in steps {
        let answer = bench.deliver(&delivery(seqs)).await;
        assert_eq!(answer, (StatusCode::OK, json!({ "acknowledged": acknowledged })), "{seqs:?}");
    }
    let events = bench.events("z1").await;
    let kinds: Vec<_> =
        events.iter().map(|(kind, metadata)| (kind.as_str(), metadata["gateway_seq"].as_u64())).collect();
    let request = "gateway_resource_request";
    assert_eq!(
        kinds,
        [
            (request, Some(1)),
            (request, Some(2)),
            (request, Some(3)),
            ("evidence_gap", None),
            (request, Some(6)),
            (request, Some(7))
        ]
    );
    let gap = &events[3].1;
    assert_eq!(
        (gap["from"].as_u64(), gap["to"].as_u64(), gap["missing"].as_u64()),
        (Some(4), Some(5), Some(2))
    );
    assert_eq!(events[0].1["gateway_incarnation"], "7");
    // Another start of the worker counts from 1 again.
    let mut other = delivery(&[1]);
    other["incarnation"] = json!("8");
    assert_eq!(bench.deliver(&other).await.1, json!({ "acknowledged": 1 }));
    assert_eq!(bench.events("z1").await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_delivery_is_written_in_pieces_and_sent_again_it_adds_nothing() {
    let bench = bench().await;
    let seqs: Vec<u64> = (1..=100).chain(103..=300).collect();
    for _ in 0..2 {
        let answer = bench.deliver(&delivery(&seqs)).await;
        assert_eq!(answer, (StatusCode::OK, json!({ "acknowledged": 300 })));
    }
    let events = bench.events("z1").await;
    let told: Vec<_> = events.iter().filter_map(|(_, metadata)| metadata["gateway_seq"].as_u64()).collect();
    assert_eq!(told, seqs);
    assert_eq!((events[100].0.as_str(), &events[100].1["missing"]), ("evidence_gap", &json!(2)));
    let integrity = Ledger::new(bench.store.clone(), KEY.to_vec()).check("z1").await.unwrap();
    assert_eq!((integrity.rows, integrity.open), (299, 0), "{integrity:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_zone_or_with_a_reason_is_kept() {
    let bench = bench().await;
    let mut body = delivery(&[1]);
    body["events"][0]["zone_id"] = Value::Null;
    body["events"][0]["decision"] = json!("deny");
    body["events"][0]["reason"] = json!("token_expired");
    assert_eq!(bench.deliver(&body).await.0, StatusCode::OK);
    let events = bench.events("unknown").await;
    assert_eq!(events[0].1["reason"], "token_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_7_only_a_gateway_may_deliver() {
    let bench = bench().await;
    let body = delivery(&[1]).to_string();
    let now = bench.store.now() / 1000;
    let other = GatewayKey::from_hex(&"cd".repeat(32)).unwrap();
    let unsigned = Request::post(PATH).body(Body::from(body.clone())).unwrap();
    let requests = [
        ("unsigned", unsigned),
        ("another key", bench.signed(&body, "n1", now, &other)),
        ("too old", bench.signed(&body, "n2", now - 120, &bench.key)),
        ("too new", bench.signed(&body, "n3", now + 120, &bench.key)),
    ];
    for (name, request) in requests {
        let (status, answer) = bench.send(request).await;
        assert_eq!(
            (status, &answer["error"]),
            (StatusCode::UNAUTHORIZED, &json!("gateway_unauthorized")),
            "{name}"
        );
    }
    assert!(bench.events("z1").await.is_empty());
    assert_eq!(bench.send(bench.signed(&body, "n4", now, &bench.key)).await.0, StatusCode::OK);
    let again = delivery(&[1, 2]).to_string();
    let replayed = bench.send(bench.signed(&again, "n4", now, &bench.key)).await;
    assert_eq!(replayed.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.events("z1").await.len(), 1, "a replayed call has no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_events_share_is_said_once_and_recorded_with_each() {
    let bench = bench().await;
    let mut body = delivery(&[1]);
    body["shared"] = json!([{
        "zone_id": "z1", "event_type": "gateway_denied", "decision": "deny", "reason": "revoked",
        "metadata": { "application_id": "b", "gateway_status": 401 },
    }]);
    body["events"].as_array_mut().unwrap().extend([
        json!({"as": 0, "seq": 2, "occurred_at": 1, "request_id": "r2", "metadata": {"latency_ms": 1}}),
        json!({"as": 0, "seq": 3, "occurred_at": 1, "request_id": "r3", "metadata": {"latency_ms": 2}}),
    ]);
    assert_eq!(bench.deliver(&body).await, (StatusCode::OK, json!({ "acknowledged": 3 })));
    let events = bench.events("z1").await;
    let told = |at: usize, name: &str| events[at].1[name].clone();
    assert_eq!((told(0, "application_id"), told(0, "reason")), (json!("a"), Value::Null));
    for at in [1, 2] {
        assert_eq!(events[at].0, "gateway_denied");
        let whole = ["application_id", "gateway_status", "reason", "latency_ms"].map(|name| told(at, name));
        assert_eq!(whole, [json!("b"), json!(401), json!("revoked"), json!(at)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_recorded_as_the_events_that_they_are() {
    let bench = bench().await;
    let mut body = delivery(&[1]);
    body["incarnation"] = json!(26);
    let worker = body["worker"].as_str().unwrap().to_owned();
    body["shared"] = json!([
        {"zone_id": "z1", "event_type": "gateway_denied", "decision": "deny", "reason": "revoked",
         "metadata": {"application_id": "b", "gateway_status": 401}},
        {"metadata": {"jti": "j"}},
    ]);
    body["columns"] = json!([
        "as",
        "seq",
        "occurred_at",
        "request_id",
        "metadata.latency_ms",
        "decision",
        "metadata.trace_id"
    ]);
    body["rows"] = json!([[0, 2, 1, "r2", 1, 255], [[0, 1], 4, 1, "r4", 2, null, "t"]]);
    assert_eq!(bench.deliver(&body).await, (StatusCode::OK, json!({ "acknowledged": 4 })));
    let events = bench.events("z1").await;
    let types: Vec<&str> = events.iter().map(|(event_type, _)| event_type.as_str()).collect();
    assert_eq!(types, ["gateway_resource_request", "gateway_denied", "evidence_gap", "gateway_denied"]);
    let told = |at: usize| {
        ["application_id", "reason", "jti", "latency_ms", "decision_id", "trace_id", "gateway_seq"]
            .map(|name| events[at].1[name].clone())
    };
    let name = format!("{worker}-1a-ff");
    assert_eq!(
        told(1),
        [json!("b"), json!("revoked"), json!(null), json!(1), json!(name), json!(null), json!(2)]
    );
    assert_eq!(
        told(3),
        [json!("b"), json!("revoked"), json!("j"), json!(2), json!(null), json!("t"), json!(4)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_delivery_is_refused_whole() {
    let bench = bench().await;
    let change = |path: &str, value: Value| {
        let mut body = delivery(&[1, 2]);
        *body.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        body
    };
    let mut unknown = delivery(&[1]);
    unknown["events"][0]["extra"] = json!(1);
    let sharing = |shared: Value| {
        let mut body = delivery(&[1]);
        body["shared"] = json!([shared]);
        body["events"][0]["as"] = json!(0);
        body
    };
    let with = |member: &str, value: Value| {
        let mut body = delivery(&[1]);
        body[member] = value;
        body
    };
    let cases = [
        (
            "what is not shared",
            change("/events/1", json!({"as": 0, "seq": 2, "occurred_at": 1, "request_id": "r"})),
        ),
        ("shared, and unknown", sharing(json!({"extra": 1}))),
        ("shared, and a list", sharing(json!([]))),
        ("shared, and too large", sharing(json!({"metadata": {"x": "x".repeat(17_000)}}))),
        ("rows without columns", with("rows", json!([[2]]))),
        ("a column twice", with("columns", json!(["seq", "seq"]))),
        ("a row that is none", with("rows", json!([{"seq": 2}]))),
        ("too many in rows and events", with("rows", json!(vec![json!([]); 1_000]))),
        ("no object", json!([])),
        ("gateway", change("/gateway", json!("a b"))),
        ("worker", change("/worker", json!(""))),
        ("seq of zero", change("/events/0/seq", json!(0))),
        ("seqs that fall", change("/events/0/seq", json!(3))),
        ("same seq twice", change("/events/0/seq", json!(2))),
        ("negative time", change("/events/0/occurred_at", json!(-1))),
        ("time out of range", change("/events/0/occurred_at", json!(u64::MAX))),
        ("zone", change("/events/0/zone_id", json!("../z"))),
        ("decision", change("/events/0/decision", json!("maybe"))),
        ("metadata", change("/events/1/metadata", json!([]))),
        ("control characters", change("/events/1/request_id", json!("a\nb"))),
        ("unknown member", unknown),
    ];
    for (name, body) in cases {
        let (status, answer) = bench.deliver(&body).await;
        assert_eq!((status, &answer["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_body")), "{name}");
        assert!(answer["error_description"].is_string(), "{name}");
    }
    let twice = delivery(&[1]).to_string().replacen("\"seq\":", "\"seq\":1,\"seq\":", 1);
    let twice = bench.signed(&twice, &ids::new_id(), bench.store.now() / 1000, &bench.key);
    assert_eq!(bench.send(twice).await.0, StatusCode::BAD_REQUEST);
    let numbers: Vec<u64> = (1..=1001).collect();
    assert_eq!(bench.deliver(&delivery(&numbers)).await.0, StatusCode::BAD_REQUEST);
    assert!(bench.events("z1").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_10_health_tells_whether_events_are_taken() {
    let bench = bench().await;
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    assert_eq!(bench.send(get("/health")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bench.send(get("/ready")).await.1["reason"], "consumer_unhealthy");
    bench.audit.run(std::future::ready(())).await;
    assert_eq!(bench.send(get("/ready")).await.0, StatusCode::SERVICE_UNAVAILABLE, "it has stopped");
    assert_eq!(bench.send(get("/nothing")).await.0, StatusCode::NOT_FOUND);
}
