//! Outbox, evidence and what SDKs rely on: §23 cases 27, 29 and 30.

use crate::support::{OPERATOR, World, text};
use caracal_coordinator::remove_old_rows;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn coordinator_23_27_the_outbox_holds_what_the_ledger_has_not_taken_and_none_of_it_dies() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let task = world.task(&token, None, "inherit").await;
    world.ask(Method::DELETE, &format!("/zones/z1/agents/{task}"), &token, None).await.ok();
    let elsewhere = world.token("other", "").await;
    let body = Some(json!({ "application_id": "other" }));
    world.ask(Method::POST, "/zones/z2/agents", &elsewhere, body).await.ok();
    let list = |token: String, query: String| {
        let world = &world;
        async move { world.ask(Method::GET, &format!("/zones/z1/outbox{query}"), &token, None).await }
    };
    assert_eq!(list(token.clone(), String::new()).await.code(), (403, "coordinator_admin_required"));
    let all = list(OPERATOR.into(), String::new()).await.ok();
    let events: Vec<&str> =
        all["items"].as_array().unwrap().iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["session_terminated", "session_started"], "newest first, and of this zone alone");
    assert_eq!((&all["items"][0]["status"], &all["next_cursor"]), (&json!("pending"), &Value::Null));
    let first = list(OPERATOR.into(), "?limit=1".into()).await.ok();
    let next = text(&first, "next_cursor");
    let second = list(OPERATOR.into(), format!("?limit=1&cursor={next}")).await.ok();
    assert_eq!(second["items"][0]["event"], "session_started");
    assert_eq!(list(OPERATOR.into(), "?cursor=gone".into()).await.code(), (400, "invalid_cursor"));
    let requeue = |token: String, id: String| {
        let world = &world;
        async move { world.ask(Method::POST, &format!("/zones/z1/outbox/{id}/requeue"), &token, None).await }
    };
    let waiting = text(&all["items"][0], "id");
    assert_eq!(requeue(token, waiting.clone()).await.code(), (403, "coordinator_admin_required"));
    assert_eq!(requeue(OPERATOR.into(), "no-uuid".into()).await.code(), (400, "invalid_body"));
    for id in [waiting, caracal_store::ids::new_id()] {
        let answer = requeue(OPERATOR.into(), id).await;
        assert_eq!(answer.code(), (404, "dead_outbox_not_found"));
        assert!(answer.body["detail"].is_string(), "it tells why there is nothing to do");
    }
    // However old: only the ledger takes an event out.
    world.sql("UPDATE audit_outbox SET created_at = 1").await;
    world.sql("UPDATE sessions SET terminated_at = 1 WHERE status = 'terminated'").await;
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 1);
    assert_eq!(world.number("SELECT COUNT(*) FROM audit_outbox WHERE created_at = 1").await, 3);
}

#[tokio::test]
async fn coordinator_23_29_what_cannot_be_told_does_not_happen() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (task, other) = (world.task(&token, None, "none").await, world.task(&token, None, "none").await);
    let edge = world.edge(&token, &task, &other, json!({})).await;
    let paths = ["/health", "/ready", "/zones/z1/agents", &format!("/zones/z1/agents/{task}")];
    let events = world.number("SELECT COUNT(*) FROM audit_outbox").await;
    for path in paths {
        world.ask(Method::GET, path, &token, None).await.ok();
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM audit_outbox").await, events, "reads leave nothing");
    let epoch = "SELECT authority_epoch FROM zones WHERE id = 'z1'";
    let before = world.number(epoch).await;
    world.sql("ALTER TABLE audit_outbox RENAME TO gone").await;
    let refused = [
        world.start(&token, json!({ "application_id": "a" })).await,
        world.delegate(&token, &other, &task, json!({ "ttl_seconds": 60 })).await,
        world.ask(Method::PATCH, &format!("/zones/z1/agents/{task}/suspend"), &token, None).await,
        world.ask(Method::DELETE, &format!("/zones/z1/agents/{task}"), &token, None).await,
        world.ask(Method::PATCH, &format!("/zones/z1/delegations/{edge}/revoke"), &token, None).await,
    ];
    world.sql("ALTER TABLE gone RENAME TO audit_outbox").await;
    for (number, answer) in refused.iter().enumerate() {
        // The second is refused for what it asks for before anything is written.
        let expected = if number == 1 {
            (403, "delegation_exceeds_parent_authority")
        } else {
            (503, "coordinator_unavailable")
        };
        assert_eq!(answer.code(), expected, "{number}");
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM sessions WHERE status = 'active'").await, 2);
    assert_eq!(world.status("delegation_edges", &edge).await, "active");
    assert_eq!(
        (world.number(epoch).await, world.number("SELECT COUNT(*) FROM revoked_anchors").await),
        (before, 0)
    );
    assert_eq!(world.number("SELECT COUNT(*) FROM audit_outbox").await, events);
    world.store.close().await;
    assert_eq!(world.ask(Method::GET, "/health", "", None).await.ok(), json!({ "ok": true }));
    let unready = world.ask(Method::GET, "/ready", "", None).await;
    assert_eq!(unready.code(), (503, "database_unreachable"));
    assert_eq!((&unready.body["ok"], &unready.body["dependency"]), (&json!(false), &json!("database")));
}

/// What the SDKs do with answers is theirs; what they rely on for it is here. `cargo xtask test --e2e sdk` runs them.
#[tokio::test]
async fn coordinator_23_30_what_sdks_rely_on() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    // A retry has the same key: one session, however often it is sent.
    let headers =
        [("idempotency-key", "5f0c1b7e2a9d4c3fb6f1d2e3a4b5c6d7"), ("idempotency-key-kind", "generated")];
    let body = json!({ "application_id": "a" });
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answer =
            world.ask_with(Method::POST, "/zones/z1/agents", &token, Some(body.clone()), &headers).await;
        ids.insert(text(&answer.ok(), "agent_session_id"));
    }
    assert_eq!(ids.len(), 1);
    let root = ids.pop_first().unwrap();
    // A narrow that is refused: the child is ended, and nothing stays.
    let child = world.task(&token, Some(&root), "none").await;
    let refused = world.delegate(&token, &root, &child, json!({ "scopes": ["orders:delete"] })).await;
    assert_eq!(refused.code(), (403, "delegation_scopes_exceed_resource"));
    assert!(refused.body.is_object() && refused.body["request_id"].is_string());
    let path = format!("/zones/z1/agents/{child}");
    assert_eq!(world.ask(Method::DELETE, &path, &token, None).await.status, 204);
    assert_eq!(world.ask(Method::DELETE, &path, &token, None).await.code(), (404, "session_not_found"));
    // A rejected bearer is 401, so that it is renewed once.
    world.sql("UPDATE authority_records SET status = 'revoked', revoked_at = 1").await;
    let answer = world.start(&token, body.clone()).await;
    assert_eq!(answer.code(), (401, "identity_revoked"));
    // The pairs of nineteen application transports fit beside each other: two starts and a delegation each.
    let token = world.token("a", "").await;
    for _ in 0..19 {
        let mut pair = Vec::new();
        for _ in 0..2 {
            let body = json!({ "application_id": "a", "ttl_seconds": 1020, "labels": ["a"] });
            pair.push(text(&world.start(&token, body).await.ok(), "agent_session_id"));
        }
        let more = json!({ "resource_id": null, "constraints": { "resources": ["resource://orders"] }, "ttl_seconds": 1020 });
        world.edge(&token, &pair[0], &pair[1], more).await;
    }
    // Who lost its lease is told with a code that the SDKs take as the end.
    let service = json!({ "application_id": "a", "lifecycle": "service" });
    let service = text(&world.start(&token, service).await.ok(), "agent_session_id");
    world.ask(Method::POST, &format!("/zones/z1/agents/{service}/lease"), &token, None).await.ok();
    let beat = Some(json!({ "status": "healthy", "lease_generation": 1 }));
    let path = format!("/zones/z1/agents/{service}/heartbeat");
    assert_eq!(world.ask(Method::POST, &path, &token, beat).await.code(), (409, "session_lease_fenced"));
}
