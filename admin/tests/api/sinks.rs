//! Notification sinks, and what they are sent, by real HTTPS (contract admin-audit §5.15).

use crate::common::{BOOTSTRAP, Bench, CHAIN_KEY, bench, id};
use crate::https::Https;
use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use caracal_admin::Notifier;
use caracal_store::StoreError;
use caracal_store::audit::AuditEvent;
use caracal_store::egress::{Egress, EgressOptions};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What came in, and what is answered next.
#[derive(Clone, Default)]
struct Received {
    requests: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    answer: Arc<Mutex<u16>>,
}

async fn receive(
    State(received): State<Received>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, HeaderMap) {
    received.requests.lock().unwrap().push((headers, body));
    let answer = match *received.answer.lock().unwrap() {
        0 => 204,
        status => status,
    };
    let mut headers = HeaderMap::new();
    if answer == 302 {
        headers.insert("location", "https://localhost/elsewhere".parse().unwrap());
    }
    (StatusCode::from_u16(answer).unwrap(), headers)
}

struct World {
    bench: Bench,
    zone: String,
    https: Https,
    received: Received,
    notifier: Notifier,
}

impl World {
    async fn new() -> Self {
        let bench = bench().await;
        let zone = bench.zone("z").await;
        let received = Received::default();
        let routes = Router::new().fallback(receive).with_state(received.clone());
        let https = Https::start(routes).await;
        let notifier = notifier(&bench, https.egress());
        Self { bench, zone, https, received, notifier }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/zones/{}/notification-sinks{rest}", self.zone)
    }

    async fn sink(&self, more: Value) -> Value {
        let mut body = json!({ "name": "s", "url": self.https.url("/hook?x=1") });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.bench.post(&self.path(""), body).await.ok()
    }

    async fn tell(&self, kinds: &[&str]) {
        let events: Vec<AuditEvent> = kinds
            .iter()
            .map(|kind| {
                AuditEvent::new(&self.zone, kind, "r", "pending", self.bench.store.now())
                    .with_metadata(json!({ "challenge_id": "c", "session_id": "never-told", "tier": "high" }))
            })
            .collect();
        let told = self.bench.store.write(move |tx| {
            Box::pin(async move {
                for event in &events {
                    tx.audit(event).await?;
                }
                Ok::<_, StoreError>(())
            })
        });
        told.await.unwrap();
    }

    fn answers(&self, status: u16) {
        *self.received.answer.lock().unwrap() = status;
    }

    fn took(&self) -> Vec<(HeaderMap, String)> {
        std::mem::take(&mut *self.received.requests.lock().unwrap())
    }

    async fn deliveries(&self, sink: &Value) -> Vec<Value> {
        let list = self.bench.get(&self.path(&format!("/{}/deliveries", id(sink)))).await.ok();
        list["items"].as_array().unwrap().clone()
    }

    /// As if the waits were over.
    async fn later(&self) {
        self.bench
            .execute("UPDATE notification_deliveries SET available_at = 0 WHERE delivered_at IS NULL")
            .await;
    }
}

fn notifier(bench: &Bench, egress: Egress) -> Notifier {
    Notifier::new(bench.store.clone(), bench.vault.clone(), CHAIN_KEY.to_vec(), egress)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

fn kinds(took: &[(HeaderMap, String)]) -> Vec<&str> {
    took.iter().map(|(headers, _)| header(headers, "x-caracal-event")).collect()
}

fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
        format!("{timestamp}.{body}").as_bytes(),
    );
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_15_sinks_are_made_changed_and_removed() {
    let world = World::new().await;
    let (bench, all) = (&world.bench, world.path(""));
    let made =
        world.sink(json!({ "event_types": ["step_up_decided", "step_up_issued", "step_up_decided"] })).await;
    assert_eq!(made["event_types"], json!(["step_up_issued", "step_up_decided"]));
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.len() == 52 && secret.starts_with("nsk_"), "{secret}");
    let one = world.path(&format!("/{}", id(&made)));
    let row = bench.get(&one).await.ok();
    assert_eq!(
        (&row["active"], &row["consecutive_failures"], row.get("secret")),
        (&json!(true), &json!(0), None)
    );
    let hook = |url: &str| json!({ "name": "s", "url": url });
    let mut cases = vec![
        ("POST", all.clone(), json!({ "url": "https://x.example" }), (400, "invalid_sink")),
        (
            "POST",
            all.clone(),
            json!({ "name": "s", "url": "https://x.example", "event_types": [] }),
            (400, "invalid_sink"),
        ),
        (
            "POST",
            all.clone(),
            json!({ "name": "s", "url": "https://x.example", "event_types": ["token_exchange"] }),
            (400, "invalid_sink"),
        ),
        ("PATCH", one.clone(), json!({}), (400, "no_fields")),
        ("PATCH", one.clone(), json!({ "url": "http://x.example" }), (400, "invalid_sink_url")),
        ("PATCH", world.path("/none"), json!({ "active": true }), (404, "sink_not_found")),
        ("DELETE", world.path("/none"), json!({}), (404, "sink_not_found")),
        ("POST", world.path("/none/rotate-secret"), json!({}), (404, "sink_not_found")),
        ("POST", "/v1/zones/none/notification-sinks".to_owned(), json!({}), (404, "zone_not_found")),
    ];
    for url in [
        "http://x.example",
        "https://u:p@x.example",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://x.example/#f",
        "x",
    ] {
        cases.push(("POST", all.clone(), hook(url), (400, "invalid_sink_url")));
    }
    for (method, path, body, code) in cases {
        assert_eq!(
            bench.call(BOOTSTRAP, method, &path, Some(body.clone())).await.code(),
            code,
            "{method} {path} {body}"
        );
    }
    let patched = bench.patch(&one, json!({ "name": "renamed", "active": false })).await.ok();
    assert_eq!((&patched["name"], &patched["active"]), (&json!("renamed"), &json!(false)));
    let rotated = bench.call(BOOTSTRAP, "POST", &format!("{one}/rotate-secret"), None).await.ok();
    assert_ne!(rotated["secret"], json!(secret));
    for _ in 1..20 {
        world.sink(json!({})).await;
    }
    assert_eq!(bench.post(&all, hook("https://x.example")).await.code(), (409, "sink_limit_reached"));
    let rotated = rotated["secret"].as_str().unwrap();
    let sealed: Vec<String> = sqlx::query_scalar("SELECT envelope FROM secret_store")
        .fetch_all(&mut *bench.store.read().await.unwrap())
        .await
        .unwrap();
    assert!(sealed.len() == 20 && sealed.iter().all(|envelope| !envelope.contains(rotated)));
    let record = bench.get(&format!("/v1/zones/{}/admin-audit", world.zone)).await.ok();
    assert!(!record.to_string().contains("nsk_"));
    let kinds: Vec<_> =
        record["items"].as_array().unwrap().iter().map(|item| &item["payload_json"]["change_kind"]).collect();
    assert!(kinds.contains(&&json!("secret_rotation")), "a rotation is recorded as one");
    assert_eq!(bench.delete(&one).await.status, 204);
    assert_eq!(bench.get(&one).await.code(), (404, "sink_not_found"));
    assert_eq!(bench.get(&format!("{one}/deliveries")).await.ok()["items"], json!([]));
    assert_eq!(bench.number("SELECT COUNT(*) FROM secret_store").await, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_15_what_happens_is_told_in_order_signed_and_once() {
    let world = World::new().await;
    world.tell(&["step_up_issued"]).await;
    let sink = world.sink(json!({ "event_types": ["step_up_issued", "step_up_consumed"] })).await;
    world
        .tell(&["step_up_issued", "token_exchange", "step_up_decided", "step_up_consumed", "step_up_issued"])
        .await;
    assert_eq!(world.notifier.pass().await.unwrap(), 3, "not what was before, and not other types");
    let took = world.took();
    assert_eq!(kinds(&took), ["step_up_issued", "step_up_consumed", "step_up_issued"]);
    for (headers, body) in &took {
        let told: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&told["zone_id"], &told["decision"]), (&json!(world.zone), &json!("pending")));
        assert_eq!(told["type"], header(headers, "x-caracal-event"));
        assert_eq!(told["data"], json!({ "challenge_id": "c", "session_id": "[redacted]", "tier": "high" }));
        assert!(told["occurred_at"].as_str().unwrap().ends_with('Z') && told["id"].is_string());
        assert_eq!(header(headers, "x-caracal-sink"), id(&sink));
        assert_eq!(header(headers, "content-type"), "application/json");
        let expected =
            signature(sink["secret"].as_str().unwrap(), header(headers, "x-caracal-timestamp"), body);
        assert_eq!(header(headers, "x-caracal-signature"), expected);
    }
    let deliveries = world.deliveries(&sink).await;
    assert!(deliveries.iter().all(|delivery| delivery["delivered_at"].is_string()));
    assert_eq!((&deliveries[0]["attempts"], &deliveries[0]["response_status"]), (&json!(1), &json!(204)));
    assert_eq!(world.notifier.pass().await.unwrap(), 0, "and never again");
    // Another secret signs from now on.
    let rotated = world
        .bench
        .call(BOOTSTRAP, "POST", &world.path(&format!("/{}/rotate-secret", id(&sink))), None)
        .await;
    world.tell(&["step_up_issued"]).await;
    world.notifier.pass().await.unwrap();
    let (headers, body) = &world.took()[0];
    let secret = rotated.ok()["secret"].as_str().unwrap().to_owned();
    assert_eq!(
        header(headers, "x-caracal-signature"),
        signature(&secret, header(headers, "x-caracal-timestamp"), body)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_15_failures_are_tried_again_in_order_and_abandoned_after_eight() {
    let world = World::new().await;
    let sink = world.sink(json!({})).await;
    world.tell(&["step_up_issued", "step_up_decided"]).await;
    for (attempt, status) in [500, 302, 404, 429, 500, 503, 500].into_iter().enumerate() {
        world.answers(status);
        assert_eq!(world.notifier.pass().await.unwrap(), 1, "{attempt}: the first alone");
        assert_eq!(kinds(&world.took()), ["step_up_issued"], "{attempt}");
        assert_eq!(world.notifier.pass().await.unwrap(), 0, "{attempt}: not before its time");
        let row = world.bench.get(&world.path(&format!("/{}", id(&sink)))).await.ok();
        assert_eq!(row["consecutive_failures"], json!(attempt + 1));
        assert!(row["last_failure_at"].is_string() && row["last_success_at"].is_null());
        world.later().await;
    }
    // The eighth failure gives it up, so that the next one has its turn.
    world.answers(400);
    assert_eq!(world.notifier.pass().await.unwrap(), 2);
    assert_eq!(kinds(&world.took()), ["step_up_issued", "step_up_decided"]);
    world.later().await;
    world.answers(0);
    assert_eq!(world.notifier.pass().await.unwrap(), 1);
    assert_eq!(kinds(&world.took()), ["step_up_decided"]);
    let deliveries = world.deliveries(&sink).await;
    let first = deliveries.iter().find(|delivery| delivery["event_type"] == "step_up_issued").unwrap();
    assert_eq!((&first["attempts"], &first["response_status"]), (&json!(8), &json!(400)));
    assert!(first["abandoned_at"].is_string() && first["delivered_at"].is_null());
    let row = world.bench.get(&world.path(&format!("/{}", id(&sink)))).await.ok();
    assert_eq!((&row["consecutive_failures"], &row["last_error"]), (&json!(0), &Value::Null));
    // What is long settled is forgotten.
    world.bench.execute("UPDATE notification_deliveries SET created_at = 1, delivered_at = 1").await;
    world.notifier.pass().await.unwrap();
    assert_eq!(world.deliveries(&sink).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn contract_admin_5_15_any_number_of_processes_send_a_delivery_once() {
    let world = World::new().await;
    let sinks = [world.sink(json!({})).await, world.sink(json!({})).await];
    let paused = world.sink(json!({})).await;
    let path = world.path(&format!("/{}", id(&paused)));
    world.bench.patch(&path, json!({ "active": false })).await.ok();
    let many: Vec<&str> = (0..100).map(|_| "step_up_issued").collect();
    world.tell(&many).await;
    let passes: Vec<_> = (0..4)
        .map(|_| {
            let notifier = notifier(&world.bench, world.https.egress());
            tokio::spawn(async move { notifier.pass().await.unwrap() })
        })
        .collect();
    let mut attempted = 0;
    for pass in passes {
        attempted += pass.await.unwrap();
    }
    attempted += world.notifier.pass().await.unwrap();
    assert_eq!(attempted, 200);
    let took = world.took();
    let mut seen: Vec<_> =
        took.iter().map(|(headers, _)| header(headers, "x-caracal-delivery").to_owned()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!((took.len(), seen.len()), (200, 200));
    for sink in sinks {
        assert_eq!(world.deliveries(&sink).await.len(), 100);
    }
    assert_eq!(world.deliveries(&paused).await.len(), 0);
    world.bench.patch(&path, json!({ "active": true })).await.ok();
    assert_eq!(world.notifier.pass().await.unwrap(), 100, "told once it is active again");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_15_no_address_is_called_that_may_not_be_and_no_change_waits() {
    let world = World::new().await;
    let sink = world.sink(json!({})).await;
    world.tell(&["step_up_issued"]).await;
    // Without an operator's word this machine is not called.
    let strict = notifier(&world.bench, Egress::new(EgressOptions::default()).unwrap());
    assert_eq!(strict.pass().await.unwrap(), 1);
    assert_eq!(world.took().len(), 0);
    let delivery = &world.deliveries(&sink).await[0];
    assert_eq!(
        (&delivery["last_error"], &delivery["response_status"]),
        (&json!("egress_address_refused"), &Value::Null)
    );
    // A secret that cannot be opened sends nothing unsigned.
    world.later().await;
    world.bench.execute("UPDATE secret_store SET envelope = 'broken'").await;
    assert_eq!(world.notifier.pass().await.unwrap(), 1);
    assert_eq!(world.took().len(), 0);
    assert_eq!(world.deliveries(&sink).await[0]["last_error"], "the secret cannot be opened");
    // And whatever becomes of sinks, what they are told of has long happened.
    let renamed = world.bench.patch(&format!("/v1/zones/{}", world.zone), json!({ "name": "y" })).await;
    assert_eq!(renamed.status, 200);
    let removed = world.bench.delete(&world.path(&format!("/{}", id(&sink)))).await;
    assert_eq!(removed.status, 204);
    assert_eq!(world.notifier.pass().await.unwrap(), 0);
}

/// Waits until so many requests came in and are written down as delivered.
async fn received(world: &World, count: i64) {
    const DELIVERED: &str = "SELECT COUNT(*) FROM notification_deliveries WHERE delivered_at IS NOT NULL";
    let enough = async {
        while world.bench.number(DELIVERED).await < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), enough).await.expect("nothing came in");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_10_the_job_tells_as_things_happen_survives_a_failure_and_ends_when_told() {
    let world = World::new().await;
    world.sink(json!({})).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let job = world.notifier.clone().every(Duration::from_millis(20));
    let job = tokio::spawn(async move {
        job.run(async {
            let _ = stopped.await;
        })
        .await;
    });
    for (count, kind) in [(1, "step_up_issued"), (2, "step_up_decided")] {
        world.tell(&[kind]).await;
        received(&world, count).await;
    }
    // Passes that fail are followed by others.
    world.bench.execute("ALTER TABLE notification_deliveries RENAME TO gone").await;
    world.tell(&["step_up_consumed"]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!job.is_finished());
    world.bench.execute("ALTER TABLE gone RENAME TO notification_deliveries").await;
    received(&world, 3).await;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), job).await.expect("it goes on").unwrap();
    world.tell(&["step_up_issued"]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(kinds(&world.took()), ["step_up_issued", "step_up_decided", "step_up_consumed"]);
    // What was missed meanwhile the next one tells.
    assert_eq!(world.notifier.pass().await.unwrap(), 1);
}
