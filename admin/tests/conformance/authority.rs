//! Contract admin-audit §18, 30 and 31: what ends with a grant or a subject, and approvals.

use crate::common::{Bench, bench, id};
use serde_json::{Value, json};
use std::sync::Arc;

/// Far in the future, unix milliseconds.
const LATE: i64 = 32_503_680_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_30_all_that_a_person_has_ends_however_much_it_is() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let body = json!({ "name": "a", "registration_method": "managed" });
    let application = id(&bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok());
    let provider = bench.provider(&zone, "p").await;
    let resource = id(&bench.resource(&zone, &provider, "orders").await);
    let grant = json!({
        "application_id": application, "user_id": "ann", "resource_id": resource, "scopes": ["orders:read"],
    });
    let grant = id(&bench.post(&format!("/v1/zones/{zone}/grants"), grant).await.ok());
    // 2500 records of Ann, each with one of the application's below it, and one of Bob.
    bench
        .execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
             INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, parent_id, status, \
               expires_at, authenticated_at, created_at) \
             SELECT 'u' || i, '{zone}', 'user', 'ann', '{application}', NULL, 'active', {LATE}, 1, i FROM n UNION ALL \
             SELECT 'x' || i, '{zone}', 'application', '{application}', '{application}', 'u' || i, 'active', {LATE}, 1, i \
             FROM n UNION ALL SELECT 'bob', '{zone}', 'user', 'bob', '{application}', NULL, 'active', {LATE}, 1, 1; \
             INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, lifecycle, status, depth, \
               ttl_seconds, started_at, last_active_at, updated_at) \
             VALUES ('s1', '{zone}', '{application}', 'x2500', 'task', 'active', 0, 60, 1, 1, 1)"
        ))
        .await;
    let before = bench.last_change().await;
    let path = format!("/v1/zones/{zone}/grants/{grant}");
    assert_eq!(bench.delete(&path).await.status, 204);
    assert_eq!(bench.number("SELECT COUNT(*) FROM authority_records WHERE status = 'active'").await, 1);
    assert_eq!(bench.number("SELECT COUNT(*) FROM sessions WHERE status = 'active'").await, 0);
    let told: usize = bench
        .changes_after(before)
        .await
        .iter()
        .map(|change| change["anchors"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(told, 5001, "gateways are told of each");
    assert_eq!(bench.delete(&path).await.status, 204, "also a second time");
    let revoke = format!("/v1/zones/{zone}/subjects/revoke");
    let zeros = json!({ "subject_id": "ann", "authority_records": 0, "sessions": 0, "delegations": 0, "connections": 0 });
    for _ in 0..2 {
        assert_eq!(bench.post(&revoke, json!({ "subject_id": "ann" })).await.ok(), zeros);
    }
    assert_eq!(bench.post(&revoke, json!({ "subject_id": "bob" })).await.ok()["authority_records"], 1);
}

async fn hold(bench: &Bench, zone: &str, id: &str, class: &str, rest: &str) {
    bench
        .execute(&format!(
            "INSERT INTO approvals (id, zone_id, principal_id, binding, tier, approver_class, privacy_mode, created_at, \
             expires_at, satisfied_at, approver_subject_id) \
             VALUES ('{id}', '{zone}', 'a', '{id}', 'high', '{class}', 'identified', 1, {rest})"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn admin_18_31_an_approval_is_decided_once() {
    let bench = Arc::new(bench().await);
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/approvals");
    hold(&bench, &zone, "open", "operator", &format!("{LATE}, NULL, NULL")).await;
    hold(&bench, &zone, "theirs", "subject", &format!("{LATE}, NULL, NULL")).await;
    hold(&bench, &zone, "late", "any", "2, NULL, NULL").await;
    hold(&bench, &zone, "unused", "any", "2, 1, 'admin:x'").await;
    let decided: Vec<_> = (0..10)
        .map(|number| {
            let verb = if number % 2 == 0 { "approve" } else { "reject" };
            let (bench, path) = (bench.clone(), format!("{path}/open/{verb}"));
            tokio::spawn(async move { bench.post(&path, json!({})).await })
        })
        .collect();
    let (mut verdicts, mut refused): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for answer in decided {
        let answer = answer.await.unwrap();
        if answer.status == 200 {
            verdicts.push(answer.body["state"].clone());
        } else {
            assert_eq!(answer.code(), (409, "approval_not_decidable"));
            refused.push(answer.body["state"].clone());
        }
    }
    assert_eq!((verdicts.len(), refused), (1, vec![verdicts[0].clone(); 9]), "all are told the one verdict");
    assert_eq!(bench.get(&format!("{path}/open")).await.ok()["state"], verdicts[0]);
    let events = "SELECT COUNT(*) FROM audit_outbox WHERE event_json LIKE '%step_up_decided%'";
    assert_eq!(bench.number(events).await, 1);
    let cases = [
        ("theirs", (403, "subject_approval_required"), Value::Null),
        ("late", (409, "approval_not_decidable"), json!("expired")),
        ("unused", (409, "approval_not_decidable"), json!("expired")),
    ];
    for (id, code, state) in cases {
        let answer = bench.post(&format!("{path}/{id}/approve"), json!({})).await;
        assert_eq!((answer.code(), &answer.body["state"]), (code, &state), "{id}");
    }
    assert_eq!(bench.get(&format!("{path}/unused")).await.ok()["state"], "expired", "approved, but too late");
}
