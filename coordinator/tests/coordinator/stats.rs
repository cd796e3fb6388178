//! `GET /stats` (contract §9).

use crate::support::{OPERATOR, World};
use caracal_coordinator::{expire_sessions, remove_old_rows, suspend_lost_services};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn contract_9_stats_are_the_operators_and_count_what_there_is_and_what_was_done() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let get = |token: &str| {
        let (world, token) = (&world, token.to_owned());
        async move { world.ask(Method::GET, "/stats", &token, None).await }
    };
    assert_eq!(get("").await.code(), (401, "missing_token"));
    assert_eq!(get(&token).await.code(), (403, "operator_token_required"));
    assert_eq!(get("x").await.code(), (403, "operator_token_required"));
    let task = world.task(&token, None, "none").await;
    let other = world.task(&token, None, "none").await;
    world.edge(&token, &task, &other, json!({})).await;
    for (key, ttl) in [("k", 60), ("k", 60), ("k", 61), (" k", 60)] {
        let body = Some(json!({ "application_id": "a", "ttl_seconds": ttl }));
        world.ask_with(Method::POST, "/zones/z1/agents", &token, body, &[("idempotency-key", key)]).await;
    }
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{task}'")).await;
    assert_eq!(expire_sessions(&world.config).await.unwrap(), 1);
    suspend_lost_services(&world.config).await.unwrap();
    let stats = get(OPERATOR).await.ok();
    assert_eq!(stats["sessions"], json!({ "active": 2, "expired": 1 }));
    assert_eq!(stats["delegations"], json!({ "revoked": 1 }));
    assert_eq!(stats["invocations"], json!({}));
    // Three starts, a delegation, the end of a session and of the delegation.
    assert_eq!(stats["outbox"], json!({ "pending": 6 }));
    let keys = json!({ "created": 1, "replayed": 1, "conflicts": 1, "invalid": 1 });
    assert_eq!((&stats["idempotency"]["rows"], &stats["idempotency"]["outcomes"]), (&json!(1), &keys));
    assert!(stats["idempotency"]["oldestSeconds"].is_u64());
    assert_eq!(stats["ttl_sweeper"], json!({ "runs": 1, "failures": 0, "terminated": 1 }));
    assert_eq!(stats["service_lease_sweeper"], json!({ "runs": 1, "failures": 0, "suspended": 0 }));
    assert_eq!(stats["retention_cleaner"], json!({ "runs": 0, "failures": 0, "deleted": 0 }));
    world.sql("ALTER TABLE sessions RENAME TO gone").await;
    remove_old_rows(&world.config).await.unwrap_err();
    world.sql("ALTER TABLE gone RENAME TO sessions").await;
    let stats = get(OPERATOR).await.ok();
    assert_eq!(stats["retention_cleaner"], json!({ "runs": 1, "failures": 1, "deleted": 0 }));
}
