//! Approvals: to read and to decide (contract admin-audit §5.13).

use crate::common::{BOOTSTRAP, Bench, bench};
use serde_json::{Value, json};

/// Far in the future, unix milliseconds.
const LATE: i64 = 32_503_680_000_000;

async fn hold(bench: &Bench, zone: &str, id: &str, class: &str, changes: &str) {
    bench
        .execute(&format!(
            "INSERT INTO approvals (id, zone_id, principal_id, session_id, application_id, binding, tier, \
             approver_class, privacy_mode, metadata_json, created_at, expires_at) VALUES ('{id}', '{zone}', 'a1', '', \
             'a1', 'hash-{id}', 'high', '{class}', 'identified', '{{\"requested_scopes\":[\"orders:read\"]}}', 0, {LATE}); \
             UPDATE approvals SET created_at = 1000{changes} WHERE id = '{id}'"
        ))
        .await;
}

async fn world() -> (Bench, String) {
    let bench = bench().await;
    let zone = bench.zone("One").await;
    let decided = "approver_subject_id = 'admin:x'";
    for (id, class, changes) in [
        ("p1", "operator", String::new()),
        ("p2", "any", String::new()),
        ("p3", "subject", String::new()),
        ("ok", "operator", format!(", satisfied_at = 1, {decided}")),
        ("no", "operator", format!(", rejected_at = 1, {decided}")),
        ("late", "operator", ", expires_at = 1".to_owned()),
        ("lapsed", "operator", format!(", expires_at = 1, satisfied_at = 1, {decided}")),
        (
            "used",
            "operator",
            format!(", satisfied_at = 1, {decided}, consumed_at = 2, consumed_authority_record_id = 'r'"),
        ),
    ] {
        hold(&bench, &zone, id, class, &changes).await;
    }
    (bench, zone)
}

fn ids(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_13_list_get_and_counts() {
    let (bench, zone) = world().await;
    let path = format!("/v1/zones/{zone}/approvals");
    let cases: [(&str, &[&str]); 9] = [
        ("?state=pending", &["p3", "p2", "p1"]),
        ("?state=approved", &["ok"]),
        ("?state=rejected", &["no"]),
        ("?state=expired", &["late", "lapsed"]),
        ("?state=consumed", &["used"]),
        ("?tier=low", &[]),
        ("?principal=nobody", &[]),
        ("?until=1970-01-01T00:00:01.000Z&state=consumed", &["used"]),
        ("?since=1970-01-01T00:00:01.001Z", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(ids(&bench.get(&format!("{path}{query}")).await.ok()), expected, "{query}");
    }
    assert_eq!(bench.get(&format!("{path}?state=gone")).await.code(), (400, "invalid_query"));
    let counts = bench.get(&format!("{path}/counts")).await.ok();
    assert_eq!(counts, json!({ "pending": 3, "approved": 1, "rejected": 1, "expired": 2, "consumed": 1 }));
    let row = bench.get(&format!("{path}/p1")).await.ok();
    assert_eq!((&row["state"], &row["approval_type"]), (&json!("pending"), &json!("human_approval")));
    assert_eq!((&row["prior_approved"], &row["prior_rejected"]), (&json!(3), &json!(1)));
    assert_eq!(row["metadata_json"]["requested_scopes"], json!(["orders:read"]));
    assert_eq!(bench.get(&format!("{path}/none")).await.code(), (404, "approval_not_found"));
    let other = bench.zone("Two").await;
    assert_eq!(
        bench.get(&format!("/v1/zones/{other}/approvals/p1")).await.code(),
        (404, "approval_not_found")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_13_who_may_decide_what() {
    let (bench, zone) = world().await;
    let other = bench.zone("Two").await;
    let path = format!("/v1/zones/{zone}/approvals");
    let write = bench.token(None, "write").await;
    let read = bench.token(None, "read").await;
    let elsewhere = bench.token(Some(&other), "approve").await;
    let approver = bench.token(Some(&zone), "approve").await;
    let long = json!({ "reason": "x".repeat(501) });
    let cases: Vec<(&str, &str, Value, (u16, &str))> = vec![
        (&write, "p1", json!({}), (403, "approve_capability_required")),
        (&read, "p1", json!({}), (403, "admin_token_read_only")),
        (&elsewhere, "p1", json!({}), (403, "admin_token_zone_mismatch")),
        (&approver, "p1", long, (400, "invalid_body")),
        (&approver, "p1", json!({ "other": 1 }), (400, "invalid_body")),
        (&approver, "none", json!({}), (404, "approval_not_found")),
        (&approver, "p3", json!({}), (403, "subject_approval_required")),
        (&approver, "ok", json!({}), (409, "approval_not_decidable")),
        (&approver, "late", json!({}), (409, "approval_not_decidable")),
        (&approver, "used", json!({}), (409, "approval_not_decidable")),
    ];
    for (token, id, body, expected) in cases {
        for verb in ["approve", "reject"] {
            let answer = bench.call(token, "POST", &format!("{path}/{id}/{verb}"), Some(body.clone())).await;
            assert_eq!(answer.code(), expected, "{verb} {id} {body}");
        }
    }
    let late = bench.call(&approver, "POST", &format!("{path}/late/approve"), None).await;
    assert_eq!(late.body["state"], "expired");

    let events = "SELECT COUNT(*) FROM audit_outbox WHERE event_json LIKE '%step_up_decided%'";
    assert_eq!(bench.number(events).await, 0);
    let approved = bench.call(&approver, "POST", &format!("{path}/p1/approve"), None).await.ok();
    assert_eq!(approved["state"], "approved");
    assert!(approved["approver_subject_id"].as_str().unwrap().starts_with("admin:"));
    assert!(approved["satisfied_at"].is_string() && approved["rejected_at"].is_null());
    let reason = json!({ "reason": "not today" });
    let rejected = bench.call(BOOTSTRAP, "POST", &format!("{path}/p2/reject"), Some(reason)).await.ok();
    assert_eq!(rejected["state"], "rejected");
    assert_eq!(bench.get(&format!("{path}/p2")).await.ok()["decision_reason"], "not today");
    let again = bench.call(&approver, "POST", &format!("{path}/p2/approve"), None).await;
    assert_eq!((again.code(), &again.body["state"]), ((409, "approval_not_decidable"), &json!("rejected")));
    assert_eq!(bench.number(events).await, 2);
}
