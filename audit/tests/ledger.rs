//! The ledger on a real SQLite file: taken once, listed at once, tampering found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use caracal_audit::chain::{ChainKey, Fault};
use caracal_audit::keyset::Cursor;
use caracal_audit::query::Filter;
use caracal_audit::verify::{Finding, verify_zone};
use caracal_audit::{Audit, Ledger};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_store::audit::AuditEvent;
use caracal_store::{Store, StoreError};
use serde_json::{Value, json};

const KEY: &[u8] = b"chain-key-of-32-bytes-or-more-00";

async fn store(dir: &tempfile::TempDir) -> Store {
    Store::open_file(&dir.path().join("caracal.db")).await.unwrap()
}

fn event(zone: &str, number: i64) -> AuditEvent {
    AuditEvent::new(zone, "token_exchange", &format!("r{number}"), "allow", 1_000 + number)
        .with_metadata(json!({ "application_id": "a", "number": number }))
}

async fn write(store: &Store, events: Vec<AuditEvent>) {
    store
        .write(move |tx| {
            Box::pin(async move {
                for event in &events {
                    tx.audit(event).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
}

async fn execute(store: &Store, sql: &'static str) {
    store
        .write(move |tx| {
            Box::pin(async move {
                sqlx::raw_sql(sql).execute(&mut *tx.connection()).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut *store.read().await.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_5_changed_removed_and_swapped_rows_are_found() {
    type Change = (&'static str, &'static str, &'static [(i64, Fault)]);
    let changes: [Change; 9] = [
        ("nothing", "SELECT 1", &[]),
        (
            "changed metadata",
            "UPDATE audit_events SET metadata_json = '{\"application_id\":\"b\"}' WHERE zone_id = 'z1' AND chain_seq = 3",
            &[(3, Fault::Content)],
        ),
        (
            "changed decision",
            "UPDATE audit_events SET decision = 'deny' WHERE zone_id = 'z1' AND chain_seq = 5",
            &[(5, Fault::Content)],
        ),
        (
            "changed time of ingest",
            "UPDATE audit_events SET ingested_at = ingested_at + 1 WHERE zone_id = 'z1' AND chain_seq = 1",
            &[(1, Fault::Content)],
        ),
        (
            "no JSON any more",
            "UPDATE audit_events SET diagnostics_json = '' WHERE zone_id = 'z1' AND chain_seq = 2",
            &[(2, Fault::Content)],
        ),
        (
            "removed",
            "DELETE FROM audit_events WHERE zone_id = 'z1' AND chain_seq = 3",
            &[(4, Fault::Gap), (4, Fault::Link)],
        ),
        (
            "first removed",
            "DELETE FROM audit_events WHERE zone_id = 'z1' AND chain_seq = 1",
            &[(2, Fault::Gap), (2, Fault::Link)],
        ),
        (
            "swapped",
            "UPDATE audit_events SET chain_seq = 99 WHERE zone_id = 'z1' AND chain_seq = 2; \
             UPDATE audit_events SET chain_seq = 2 WHERE zone_id = 'z1' AND chain_seq = 3; \
             UPDATE audit_events SET chain_seq = 3 WHERE zone_id = 'z1' AND chain_seq = 99",
            &[(2, Fault::Content), (2, Fault::Link), (3, Fault::Content), (3, Fault::Link), (4, Fault::Link)],
        ),
        (
            "signed by another",
            "UPDATE audit_events SET chain_hmac = replace(chain_hmac, '1', '2') WHERE zone_id = 'z1' AND chain_seq = 4",
            &[(4, Fault::Hmac)],
        ),
    ];
    for (name, sql, expected) in changes {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        write(&store, (1..=6).map(|number| event("z1", number)).collect()).await;
        write(&store, vec![event("z2", 1)]).await;
        Ledger::new(store.clone(), KEY.to_vec()).catch_up().await.unwrap();
        execute(&store, sql).await;
        let report = verify_zone(&store, &ChainKey::new(KEY.to_vec()), "z1").await.unwrap();
        let expected: Vec<_> = expected.to_vec();
        let found: Vec<_> =
            report.findings.iter().map(|Finding { chain_seq, fault, .. }| (*chain_seq, *fault)).collect();
        assert_eq!(found, expected, "{name}");
        let other = verify_zone(&store, &ChainKey::new(KEY.to_vec()), "z2").await.unwrap();
        assert_eq!((other.checked, other.findings), (1, vec![]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_verifies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    write(&store, vec![event("z1", 1)]).await;
    Ledger::new(store.clone(), KEY.to_vec()).catch_up().await.unwrap();
    let report = verify_zone(&store, &ChainKey::new(b"another".to_vec()), "z1").await.unwrap();
    assert_eq!(report.findings.iter().map(|finding| finding.fault).collect::<Vec<_>>(), [Fault::Hmac]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_3_an_event_is_taken_once_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let ledger = Ledger::new(store.clone(), KEY.to_vec());
    let first = event("z1", 1);
    write(&store, vec![first.clone()]).await;
    ledger.catch_up().await.unwrap();
    // Again, and twice at once.
    write(&store, vec![first.clone(), first.clone()]).await;
    ledger.catch_up().await.unwrap();
    let second = event("z1", 2);
    write(&store, vec![second.clone(), second.clone()]).await;
    ledger.catch_up().await.unwrap();
    assert_eq!(count(&store, "SELECT COUNT(*) FROM audit_events").await, 2);
    execute(&store, "DELETE FROM audit_events WHERE chain_seq = 2").await;
    assert_eq!(count(&store, "SELECT COUNT(*) FROM audit_events").await, 1);
    let changed = AuditEvent { decision: "deny".to_owned(), ..first.clone() };
    write(&store, vec![changed]).await;
    let page = ledger.list("z1", &Filter::default(), None, 10).await.unwrap();
    let kinds: Vec<_> = page.items.iter().map(|stored| stored.event.evaluation_status.as_str()).collect();
    assert_eq!(kinds, ["content_mismatch", "complete"]);
    assert_eq!(page.items[1].event, first, "what was there first stays");
    assert_eq!(page.items[0].event.metadata_json.as_ref().unwrap()["event_id"], Value::from(first.id));
    execute(&store, "INSERT INTO audit_outbox (id, event_json, created_at) VALUES ('bad', '{\"id\":', 0)")
        .await;
    let page = ledger.list("unknown", &Filter::default(), None, 10).await.unwrap();
    assert_eq!(page.items[0].event.evaluation_status, "malformed_event");
    assert_eq!(page.items[0].event.metadata_json.as_ref().unwrap()["text"], "{\"id\":");
    assert_eq!(count(&store, "SELECT COUNT(*) FROM audit_outbox").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_and_two_readers_make_one_unbroken_chain() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let ledger = Ledger::new(store.clone(), KEY.to_vec());
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let (store, ledger) = (store.clone(), ledger.clone());
            tokio::spawn(async move {
                for number in 0..20 {
                    let event = event("z1", task * 100 + number);
                    write(&store, vec![event.clone()]).await;
                    // What was answered is always in the list.
                    let filter = Filter { request_id: Some(event.request_id.clone()), ..Filter::default() };
                    assert_eq!(ledger.list("z1", &filter, None, 5).await.unwrap().items.len(), 1);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let report = verify_zone(&store, ledger.key(), "z1").await.unwrap();
    assert_eq!((report.checked, report.findings), (400, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_6_1_filters() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let ledger = Ledger::new(store.clone(), KEY.to_vec());
    let with = |number: i64, kind: &str, decision: &str, metadata: Value| {
        AuditEvent::new("z1", kind, &format!("r{number}"), decision, number).with_metadata(metadata)
    };
    write(
        &store,
        vec![
            with(
                1,
                "token_exchange",
                "allow",
                json!({ "application_id": "a_1", "agent_labels": ["ops", "a\"b"] }),
            ),
            with(2, "token_exchange", "deny", json!({ "application_id": "ax1", "agent_session_id": "s1" })),
            with(3, "replay_detected", "deny", json!({ "application_id": "A_1", "session_id": "rec" })),
            with(
                4,
                "step_up_issued",
                "pending",
                json!({ "reason": "ops", "nested": { "session_id": "rec" } }),
            ),
            AuditEvent::new("z2", "token_exchange", "r9", "allow", 5),
        ],
    )
    .await;
    let none = Filter::default;
    let text = |text: &str| Some(text.to_owned());
    let cases: Vec<(&str, Filter, &[&str])> = vec![
        ("all", none(), &["r4", "r3", "r2", "r1"]),
        ("since is inclusive", Filter { since: Some(3), ..none() }, &["r4", "r3"]),
        ("until is exclusive", Filter { until: Some(3), ..none() }, &["r2", "r1"]),
        ("request", Filter { request_id: text("r2"), ..none() }, &["r2"]),
        ("decision", Filter { decision: text("deny"), ..none() }, &["r3", "r2"]),
        (
            "types",
            Filter { event_types: vec!["token_exchange".into(), "step_up_issued".into()], ..none() },
            &["r4", "r2", "r1"],
        ),
        ("application, exactly", Filter { application_id: text("a_1"), ..none() }, &["r1"]),
        ("session", Filter { session_id: text("s1"), ..none() }, &["r2"]),
        ("authority record, not nested", Filter { authority_record_id: text("rec"), ..none() }, &["r3"]),
        ("label", Filter { label: text("ops"), ..none() }, &["r1"]),
        ("label with a quote", Filter { label: text("a\"b"), ..none() }, &["r1"]),
        ("label with a wildcard", Filter { label: text("op%"), ..none() }, &[]),
    ];
    for (name, filter, expected) in cases {
        let page = ledger.list("z1", &filter, None, 10).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|stored| stored.event.request_id.as_str()).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(page.next, None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_3_1_pages_lose_nothing_at_equal_times() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let ledger = Ledger::new(store.clone(), KEY.to_vec());
    let events: Vec<_> = (0..25)
        .map(|number| {
            AuditEvent::new("z1", "token_exchange", &format!("r{number}"), "allow", 7)
                .with_metadata(json!({ "application_id": if number % 2 == 0 { "a" } else { "b" } }))
        })
        .collect();
    write(&store, events).await;
    let only_a = Filter { application_id: Some("a".to_owned()), ..Filter::default() };
    for (filter, total) in [(Filter::default(), 25), (only_a, 13)] {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = ledger.list("z1", &filter, cursor.as_ref(), 4).await.unwrap();
            seen.extend(page.items.into_iter().map(|stored| stored.event.id));
            // As a client sends it back.
            cursor = page.next.and_then(|next| Cursor::parse(&next.to_text()));
            if cursor.is_none() {
                break;
            }
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((seen.len(), sorted.len()), (total, total));
        sorted.reverse();
        assert_eq!(seen, sorted, "newest id first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_10_the_service_takes_events_as_they_come_and_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let gateway_key = GatewayKey::from_hex(&"ab".repeat(32)).unwrap();
    let audit = Audit::new(store.clone(), KEY.to_vec(), gateway_key);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn({
        let audit = audit.clone();
        async move {
            audit
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        }
    });
    for number in 0..10 {
        write(&store, vec![event("z1", number)]).await;
    }
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(count(&store, "SELECT COUNT(*) FROM audit_outbox").await, 0);
    let report = verify_zone(&store, &ChainKey::new(KEY.to_vec()), "z1").await.unwrap();
    assert_eq!((report.checked, report.findings.len()), (10, 0));
}
