//! Pruning and tampering on a real SQLite file: what is left verifies, and what was done to a chain is found and kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use axum::body::Body;
use axum::http::Request;
use caracal_audit::chain::{ChainKey, Fault, Head};
use caracal_audit::integrity::{Integrity, acknowledge};
use caracal_audit::verify::verify_zone;
use caracal_audit::{Audit, Ledger};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_store::settings::{self, Setting};
use caracal_store::{Store, StoreError};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const KEY: &[u8] = b"chain-key-of-32-bytes-or-more-00";
const DAY: i64 = 24 * 60 * 60 * 1000;

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    audit: Audit,
}

fn key() -> ChainKey {
    ChainKey::new(KEY.to_vec())
}

/// The service of a process of its own.
fn audit(store: &Store) -> Audit {
    let gateway_key = GatewayKey::from_hex(&"ab".repeat(32)).unwrap();
    Audit::new(store.clone(), KEY.to_vec(), gateway_key).with_retention_days(365)
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
        let audit = audit(&store);
        Self { _dir: dir, store, audit }
    }

    async fn execute(&self, sql: &str) {
        let sql = sql.to_owned();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx.connection()).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .unwrap();
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *self.store.read().await.unwrap()).await.unwrap()
    }

    /// Rows as the ledger took them so many days ago, after those that are there.
    async fn taken(&self, zone: &'static str, days_ago: i64, count: i64) {
        self.taken_as("token_exchange", zone, days_ago, count).await;
    }

    async fn taken_as(&self, kind: &'static str, zone: &'static str, days_ago: i64, count: i64) {
        let at = self.store.now() - days_ago * DAY;
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    let head: Option<(i64, String)> = sqlx::query_as(
                        "SELECT chain_seq, content_sha256 FROM audit_events WHERE zone_id = $1 \
                         ORDER BY chain_seq DESC LIMIT 1",
                    )
                    .bind(zone)
                    .fetch_optional(&mut *tx.connection())
                    .await?;
                    let mut head = head.map(|(seq, content_sha256)| Head { seq, content_sha256 });
                    for _ in 0..count {
                        let id = caracal_store::ids::new_id();
                        let content = json!({
                            "id": id, "zone_id": zone, "event_type": kind, "request_id": "r",
                            "decision": "allow", "policy_set_version_id": null, "manifest_sha": null,
                            "evaluation_status": "complete", "determining_policies_json": [],
                            "diagnostics_json": [], "metadata_json": null, "occurred_at": at, "ingested_at": at,
                        });
                        let link = key().link(head.as_ref(), &content);
                        sqlx::query(
                            "INSERT INTO audit_events (id, zone_id, chain_seq, event_type, request_id, decision, \
                             evaluation_status, determining_policies_json, diagnostics_json, occurred_at, \
                             ingested_at, content_sha256, prev_content_sha256, chain_hmac) VALUES \
                             ($1, $2, $3, $8, 'r', 'allow', 'complete', '[]', '[]', $4, $4, $5, $6, $7)",
                        )
                        .bind(id)
                        .bind(zone)
                        .bind(link.seq)
                        .bind(at)
                        .bind(link.content_sha256.as_str())
                        .bind(link.prev.as_deref())
                        .bind(link.hmac.as_str())
                        .bind(kind)
                        .execute(&mut *tx.connection())
                        .await?;
                        head = Some(Head { seq: link.seq, content_sha256: link.content_sha256 });
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .unwrap();
    }

    async fn keep_for(&self, days: i64) {
        self.store
            .write(move |tx| {
                Box::pin(async move { settings::set(tx, Setting::AuditRetentionDays, days, "test").await })
            })
            .await
            .unwrap();
    }

    /// Places, faults, and how many rows were checked.
    async fn verified(&self, zone: &str) -> (u64, Vec<(i64, Fault)>) {
        let report = verify_zone(&self.store, &key(), zone).await.unwrap();
        (report.checked, report.findings.iter().map(|found| (found.chain_seq, found.fault)).collect())
    }

    /// What the pruning events of a zone say, oldest first.
    async fn told(&self, zone: &str, kind: &str) -> Vec<Value> {
        let ledger = Ledger::new(self.store.clone(), KEY.to_vec());
        let page = ledger.list(zone, &Default::default(), None, 1000).await.unwrap();
        let told = page.items.into_iter().rev().filter(|stored| stored.event.event_type == kind);
        told.map(|stored| stored.event.metadata_json.unwrap()).collect()
    }

    async fn ready(&self) -> (u16, Value) {
        let request = Request::get("/ready").body(Body::empty()).unwrap();
        let response = self.audit.router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn integrity(&self) -> Integrity {
        Integrity::read(&mut self.store.read().await.unwrap(), None).await.unwrap()
    }

    /// Runs the service for as long as it takes to say that it takes events.
    async fn run(&self) {
        self.audit.run(async {}).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_8_old_rows_go_in_batches_and_what_is_left_verifies() {
    let bench = Bench::new().await;
    bench.taken("z1", 40, 1_200).await;
    bench.taken("z1", 3, 5).await;
    bench.taken("z2", 2, 3).await;
    assert_eq!(bench.audit.prune().await.unwrap(), 0, "a year is not over");
    bench.keep_for(30).await;
    assert_eq!(bench.audit.prune().await.unwrap(), 1_200);
    assert_eq!(bench.number("SELECT MIN(chain_seq) FROM audit_events WHERE zone_id = 'z1'").await, 1_201);
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_events WHERE zone_id = 'z2'").await, 3);
    assert_eq!(bench.audit.prune().await.unwrap(), 0, "safe to run again");
    let told = bench.told("z1", "audit_retention_pruned").await;
    let named: Vec<_> = told
        .iter()
        .map(|one| (one["pruned"].as_i64().unwrap(), one["last_chain_seq"].as_i64().unwrap()))
        .collect();
    assert_eq!(named, [(500, 500), (500, 1_000), (200, 1_200)], "bounded, and each told of");
    assert_eq!((&told[2]["first_chain_seq"], &told[2]["retention_days"]), (&json!(1_001), &json!(30)));
    assert_eq!(bench.verified("z1").await, (8, vec![]), "five rows and three tellings");
    let prev: String =
        sqlx::query_scalar("SELECT prev_content_sha256 FROM audit_events WHERE chain_seq = 1201")
            .fetch_one(&mut *bench.store.read().await.unwrap())
            .await
            .unwrap();
    assert_eq!(told[2]["last_content_sha256"], prev, "who kept the telling can link what is left");
    bench.audit.check().await.unwrap();
    assert_eq!(bench.integrity().await.status(), "intact");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_17_the_newest_row_stays_and_a_zone_where_nothing_happens_comes_to_rest() {
    let bench = Bench::new().await;
    bench.taken("z1", 400, 4).await;
    assert_eq!(bench.audit.prune().await.unwrap(), 3, "the ceiling counts where nothing is set");
    bench.told("z1", "audit_retention_pruned").await;
    assert_eq!(bench.audit.prune().await.unwrap(), 1, "it is the newest no more");
    // Where the tellings are old too, they do not tell of each other for ever.
    bench.taken_as("audit_retention_pruned", "z2", 400, 3).await;
    assert_eq!(bench.audit.prune().await.unwrap(), 0);
    assert_eq!(bench.verified("z2").await, (3, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_8_any_number_of_processes_prune_a_row_once() {
    let bench = Bench::new().await;
    bench.taken("z1", 400, 2_300).await;
    bench.taken("z1", 1, 1).await;
    let prunings: Vec<_> = (0..4)
        .map(|_| {
            let audit = audit(&bench.store);
            tokio::spawn(async move { audit.prune().await.unwrap() })
        })
        .collect();
    let mut pruned = 0;
    for pruning in prunings {
        pruned += pruning.await.unwrap();
    }
    pruned += bench.audit.prune().await.unwrap();
    assert_eq!(pruned, 2_300);
    let told = bench.told("z1", "audit_retention_pruned").await;
    assert_eq!(told.iter().map(|one| one["pruned"].as_i64().unwrap()).sum::<i64>(), 2_300);
    assert_eq!(bench.verified("z1").await.1, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_17_02_a_base_cannot_be_forged_and_a_faulty_chain_keeps_its_rows() {
    let bench = Bench::new().await;
    bench.taken("z1", 400, 10).await;
    bench.taken("z1", 1, 3).await;
    bench.audit.prune().await.unwrap();
    let before = bench.told("z1", "audit_retention_pruned").await.len();
    for (what, sql, expected) in [
        (
            "a base that says more is gone",
            "DELETE FROM audit_events WHERE chain_seq = 11; UPDATE audit_bases SET chain_seq = 11, content_sha256 = \
             (SELECT prev_content_sha256 FROM audit_events WHERE chain_seq = 12)",
            vec![(11, Fault::Base), (12, Fault::Gap), (12, Fault::Link)],
        ),
        ("no base", "DELETE FROM audit_bases", vec![(12, Fault::Gap), (12, Fault::Link)]),
    ] {
        bench.execute(sql).await;
        assert_eq!(bench.verified("z1").await.1, expected, "{what}");
    }
    bench.taken("z2", 400, 10).await;
    bench.execute("UPDATE audit_events SET decision = 'deny' WHERE zone_id = 'z2' AND chain_seq = 4").await;
    assert_eq!(bench.audit.prune().await.unwrap(), 0, "evidence of tampering stays");
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_events WHERE zone_id = 'z2'").await, 10);
    assert_eq!(bench.told("z1", "audit_retention_pruned").await.len(), before);
    let found = bench.told("z2", "audit_tamper_detected").await;
    assert_eq!(found[0]["findings"][0]["fault"], "content", "and is told of: {found:?}");
    assert_eq!(bench.audit.prune().await.unwrap(), 0, "until someone has taken note of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_19_03_what_was_done_to_a_chain_makes_the_ledger_unready_until_it_is_acknowledged() {
    let bench = Bench::new().await;
    bench.run().await;
    bench.taken("z1", 1, 6).await;
    assert_eq!(bench.integrity().await.status(), "unchecked");
    bench.audit.check().await.unwrap();
    let seen = bench.integrity().await;
    assert_eq!((seen.status(), seen.chains, seen.rows), ("intact", 1, 6));
    bench.execute("UPDATE audit_events SET metadata_json = '{}' WHERE chain_seq = 2").await;
    bench.audit.check().await.unwrap();
    let seen = bench.integrity().await;
    let found: Vec<_> = seen.findings.iter().map(|open| (open.chain_seq, open.fault.as_str())).collect();
    assert_eq!((seen.status(), seen.open, found), ("tampered", 1, vec![(2, "content")]));
    assert_eq!(bench.told("z1", "audit_tamper_detected").await.len(), 1);
    // Changing it back does not make it unseen, and it is told of once.
    bench.execute("UPDATE audit_events SET metadata_json = NULL WHERE chain_seq = 2").await;
    bench.audit.check().await.unwrap();
    bench.audit.check().await.unwrap();
    assert_eq!(bench.integrity().await.open, 1);
    assert_eq!(bench.told("z1", "audit_tamper_detected").await.len(), 1);
    let noted = bench.store.write(|tx| Box::pin(async move { acknowledge(tx, "admin:a").await })).await;
    assert_eq!(noted.unwrap(), 1);
    assert_eq!(bench.integrity().await.status(), "intact");
    let kept = "SELECT COUNT(*) FROM audit_findings WHERE acknowledged_by = 'admin:a'";
    assert_eq!(bench.number(kept).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_6_a_cut_off_end_is_found_by_who_saw_it_and_by_who_starts_later() {
    let cut = "DELETE FROM audit_events WHERE zone_id = 'z1' AND chain_seq > 4";
    let all = "DELETE FROM audit_events WHERE zone_id = 'z1'";
    for (what, sql, restarted) in [
        ("the end", cut, false),
        ("the end, seen by an earlier process", cut, true),
        ("everything", all, false),
        (
            "the end, and what was written of the check",
            "DELETE FROM audit_checks; DELETE FROM audit_events",
            false,
        ),
    ] {
        let bench = Bench::new().await;
        bench.taken("z1", 1, 6).await;
        bench.audit.check().await.unwrap();
        bench.execute(sql).await;
        let checking = if restarted { audit(&bench.store) } else { bench.audit.clone() };
        checking.check().await.unwrap();
        let seen = bench.integrity().await;
        let found: Vec<_> = seen.findings.iter().map(|open| (open.chain_seq, open.fault.as_str())).collect();
        assert_eq!(found, [(6, "truncated")], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_11_10_readiness_names_tampering() {
    let bench = Bench::new().await;
    bench.taken("z1", 1, 3).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn({
        let audit = bench.audit.clone();
        async move {
            audit
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        }
    });
    let becomes = async |expected: (u16, Value)| {
        let wait = async {
            while bench.ready().await != expected {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let last = tokio::time::timeout(std::time::Duration::from_secs(30), wait).await;
        assert!(last.is_ok(), "{expected:?} and not {:?}", bench.ready().await);
    };
    becomes((200, json!({ "ready": true }))).await;
    bench.execute("UPDATE audit_events SET chain_hmac = 'x' WHERE chain_seq = 1").await;
    bench.audit.check().await.unwrap();
    becomes((503, json!({ "ready": false, "reason": "ledger_tampered" }))).await;
    bench.store.write(|tx| Box::pin(async move { acknowledge(tx, "admin:a").await })).await.unwrap();
    becomes((200, json!({ "ready": true }))).await;
    stop.send(()).unwrap();
    running.await.unwrap();
}
