//! Revocation by selector, its dry run, and its closure from acknowledgements.

use crate::common::{Bench, bench, id};
use serde_json::{Value, json};

/// Two users of one application: `u1` with a service session, a task below it and a delegation between; `u2` with a task
/// that received the broad delegation's child.
async fn world() -> (Bench, String, String) {
    let bench = bench().await;
    let zone = bench.zone("Production").await;
    let provider = bench.provider(&zone, "mandates").await;
    let resource = bench.resource(&zone, &provider, "orders").await;
    let identifier = resource["identifier"].as_str().unwrap().to_owned();
    let resource = id(&resource);
    let now = bench.store.now();
    let (old, end) = (now - 100_000, now + 600_000);
    for application in ["a", "b"] {
        bench
            .execute(&format!(
                "INSERT INTO applications (id, zone_id, name, registration_method, created_at, updated_at) \
                 VALUES ('{application}', '{zone}', '{application}', 'managed', 0, 0)"
            ))
            .await;
    }
    for (id, kind, subject, application, parent, made) in [
        ("r1", "user", "u1", "a", "NULL", old),
        ("r1-child", "user", "u1", "a", "'r1'", now),
        ("r2", "user", "u2", "b", "NULL", now),
    ] {
        bench
            .execute(&format!(
                "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, parent_id, \
                 status, expires_at, authenticated_at, created_at) VALUES ('{id}', '{zone}', '{kind}', '{subject}', \
                 '{application}', {parent}, 'active', {end}, 0, {made})"
            ))
            .await;
    }
    for (id, application, parent, record, labels, made) in [
        ("s1", "a", "NULL", "r1", r#"["lead"]"#, old),
        ("s2", "a", "'s1'", "r1", r#"["worker"]"#, now),
        ("s3", "b", "NULL", "r2", r#"["worker"]"#, now),
    ] {
        bench
            .execute(&format!(
                "INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, \
                 labels_json, status, depth, child_count, ttl_seconds, started_at, last_active_at, updated_at) VALUES \
                 ('{id}', '{zone}', '{application}', {parent}, '{record}', 'task', '{labels}', 'active', 0, 1, 3600, \
                 {made}, 0, 0)"
            ))
            .await;
    }
    for (id, source, target, issuer, receiver, parent, resource, constraints, made) in [
        ("e1", "s1", "s2", "a", "a", "NULL", format!("'{resource}'"), "{}".to_owned(), old),
        (
            "e2",
            "s2",
            "s3",
            "a",
            "b",
            "'e1'",
            "NULL".to_owned(),
            format!(r#"{{"resources":["{identifier}"]}}"#),
            now,
        ),
        ("e3", "s3", "s1", "b", "a", "NULL", "NULL".to_owned(), r#"{"resources":["other"]}"#.to_owned(), now),
    ] {
        bench
            .execute(&format!(
                "INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, \
                 issuer_application_id, receiver_application_id, parent_edge_id, resource_id, scopes_json, \
                 constraints_json, status, expires_at, created_at, updated_at) VALUES ('{id}', '{zone}', '{source}', \
                 '{target}', '{issuer}', '{receiver}', {parent}, {resource}, '[\"orders:read\"]', '{constraints}', \
                 'active', {end}, {made}, 0)"
            ))
            .await;
    }
    (bench, zone, identifier)
}

async fn dry(bench: &Bench, zone: &str, selector: Value) -> (i64, i64, i64) {
    let body = json!({ "selector": selector, "dry_run": true });
    let answer = bench.post(&format!("/v1/zones/{zone}/revocations"), body).await.ok();
    let count = |name: &str| answer["counts"][name].as_i64().unwrap();
    (count("sessions"), count("delegations"), count("authority_records"))
}

#[tokio::test]
async fn each_selector_counts_what_it_would_end_and_ends_it() {
    let (_, _, identifier) = world().await;
    let cases = [
        (json!({ "by": "session", "id": "s1" }), (2, 3, 0)),
        (json!({ "by": "session", "id": "s3" }), (1, 2, 0)),
        (json!({ "by": "session", "id": "gone" }), (0, 0, 0)),
        (json!({ "by": "subtree", "id": "s1" }), (2, 3, 0)),
        (json!({ "by": "edge", "id": "e1" }), (0, 2, 0)),
        (json!({ "by": "edge", "id": "e2" }), (0, 1, 0)),
        (json!({ "by": "authority_record", "id": "r1-child" }), (0, 0, 1)),
        (json!({ "by": "authority_record", "id": "r1" }), (2, 3, 2)),
        (json!({ "by": "subject", "id": "u2" }), (1, 2, 1)),
        (json!({ "by": "application", "id": "b" }), (1, 2, 1)),
        (json!({ "by": "resource", "id": identifier }), (0, 2, 0)),
        (json!({ "by": "label", "label": "worker" }), (2, 3, 0)),
        (json!({ "by": "label", "label": "work" }), (0, 0, 0)),
        (json!({ "by": "age", "older_than_seconds": 60 }), (2, 3, 2)),
        (json!({ "by": "age", "older_than_seconds": 3600 }), (0, 0, 0)),
    ];
    for (selector, counts) in cases {
        let (bench, zone, _) = world().await;
        let epoch = "SELECT authority_epoch FROM zones WHERE name = 'Production'";
        let before = bench.number(epoch).await;
        assert_eq!(dry(&bench, &zone, selector.clone()).await, counts, "{selector}");
        assert_eq!(bench.number(epoch).await, before, "a dry run changes nothing: {selector}");
        let body = json!({ "selector": selector, "reason": "incident" });
        let answer = bench.post(&format!("/v1/zones/{zone}/revocations"), body).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.body["counts"]["sessions"], counts.0, "{selector}");
        assert_eq!(dry(&bench, &zone, selector.clone()).await, (0, 0, 0), "nothing is left: {selector}");
        let ended = [
            "SELECT COUNT(*) FROM sessions WHERE status = 'terminated'",
            "SELECT COUNT(*) FROM delegation_edges WHERE status = 'revoked'",
            "SELECT COUNT(*) FROM authority_records WHERE status = 'revoked'",
        ];
        let ended =
            (bench.number(ended[0]).await, bench.number(ended[1]).await, bench.number(ended[2]).await);
        assert_eq!(ended, counts, "{selector}");
        let total = counts.0 + counts.1 + counts.2;
        assert_eq!(bench.number("SELECT COUNT(*) FROM revoked_anchors").await, total, "{selector}");
        let raised = i64::from(total > 0);
        assert_eq!(bench.number(epoch).await, before + raised, "one change for all of it: {selector}");
        let evidence = "SELECT COUNT(*) FROM audit_outbox";
        assert_eq!(bench.number(evidence).await, total + 1, "one event each, and one for all: {selector}");
        let record = "SELECT COUNT(*) FROM admin_audit_events WHERE entity_type = 'revocations'";
        assert_eq!(bench.number(record).await, 1, "{selector}");
    }
}

#[tokio::test]
async fn closure_is_said_from_acknowledgements_only() {
    let (bench, zone, _) = world().await;
    let path = format!("/v1/zones/{zone}/revocations");
    let body = json!({ "selector": { "by": "session", "id": "s1" }, "reason": "incident" });
    let made = bench.post(&path, body).await.ok();
    assert_eq!(made["status"], "UNKNOWN", "no gateway has ever been heard");
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let generation: i64 = made["generation"].as_str().unwrap().parse().unwrap();
    let committed = bench.number("SELECT committed_at FROM revocations").await;
    let heard = |id: &'static str, acknowledged: i64, at: i64| {
        format!(
            "INSERT INTO gateways (id, acknowledged, acknowledged_at, last_seen_at) \
             VALUES ('{id}', {acknowledged}, {at}, {}) ON CONFLICT (id) DO UPDATE SET \
             acknowledged = excluded.acknowledged, acknowledged_at = excluded.acknowledged_at",
            committed + 3_000_000
        )
    };
    bench.execute(&heard("g1", generation, committed + 40)).await;
    bench.execute(&heard("g2", generation - 1, committed - 5)).await;
    let open = bench.get(&one).await.ok();
    assert_eq!((&open["status"], &open["closed_at"]), (&json!("PARTIAL"), &Value::Null));
    assert_eq!(open["gateways"][1]["acknowledged"], false);
    bench.execute(&heard("g2", generation, committed + 70)).await;
    let closed = bench.get(&one).await.ok();
    assert_eq!((&closed["status"], &closed["time_to_closure_ms"]), (&json!("CLOSED"), &json!(70)));
    // A gateway that comes later begins with a snapshot; what was closed stays closed.
    bench.execute(&heard("g3", 0, committed + 90)).await;
    let list = bench.get(&path).await.ok();
    assert_eq!(
        (&list["items"][0]["status"], &list["items"][0]["time_to_closure_ms"]),
        (&json!("CLOSED"), &json!(70))
    );
    let events = "SELECT COUNT(*) FROM audit_outbox WHERE event_json LIKE '%revocation_closed%'";
    assert_eq!(bench.number(events).await, 1);
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let (bench, zone, _) = world().await;
    let path = format!("/v1/zones/{zone}/revocations");
    let session = json!({ "by": "session", "id": "s1" });
    for (body, code) in [
        (json!({}), (400, "invalid_revocation_request")),
        (json!({ "selector": session }), (400, "invalid_revocation_request")),
        (json!({ "selector": { "by": "all" }, "reason": "x" }), (400, "invalid_revocation_request")),
        (
            json!({ "selector": { "by": "session", "id": "s1", "x": 1 }, "reason": "x" }),
            (400, "invalid_revocation_request"),
        ),
        (
            json!({ "selector": { "by": "session", "id": "../s" }, "reason": "x" }),
            (400, "invalid_revocation_request"),
        ),
        (
            json!({ "selector": { "by": "resource", "id": "resource://none" }, "reason": "x" }),
            (404, "resource_not_found"),
        ),
    ] {
        assert_eq!(bench.post(&path, body.clone()).await.code(), code, "{body}");
    }
    let body = json!({ "selector": session, "reason": "x" });
    assert_eq!(bench.post("/v1/zones/none/revocations", body.clone()).await.code(), (404, "zone_not_found"));
    assert_eq!(bench.get(&format!("{path}/none")).await.code(), (404, "revocation_not_found"));
    let other = bench.zone("Other").await;
    let elsewhere = bench.post(&format!("/v1/zones/{other}/revocations"), body).await.ok();
    assert_eq!(elsewhere["counts"]["sessions"], 0, "a zone never reaches into another");
}
