//! Receipts (contract §10, §24 row 2).

use crate::support::{World, text};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn coordinator_23_10_the_same_key_gets_the_same_answer() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let start = |token: String, key: &'static str, body: Value| {
        let world = &world;
        async move {
            let headers = [("idempotency-key", key), ("idempotency-key-kind", "generated")];
            world.ask_with(Method::POST, "/zones/z1/agents", &token, Some(body), &headers).await
        }
    };
    let body = json!({ "application_id": "a", "metadata": { "b": 1, "a": 2 } });
    let first = start(token.clone(), "k1", body.clone()).await;
    assert!(first.headers.get("idempotency-replayed").is_none());
    let first = first.ok();
    // Also after the application has a fresh mandate, with a record of its own.
    let renewed = world.token("a", "").await;
    let again = start(renewed, "k1", json!({ "metadata": { "a": 2, "b": 1 }, "application_id": "a" })).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.status, 201);
    assert_eq!(again.body, first);
    let other = json!({ "application_id": "a", "metadata": { "a": 3 } });
    let conflict = start(token.clone(), "k1", other.clone()).await;
    assert_eq!(conflict.code(), (409, "idempotency_key_conflict"));
    assert!(conflict.body["message"].is_string());
    assert_ne!(
        text(&start(token.clone(), "k2", other).await.ok(), "agent_session_id"),
        text(&first, "agent_session_id")
    );
    let path = format!("/zones/z1/agents/{}", text(&first, "agent_session_id"));
    world.ask(Method::DELETE, &path, &token, None).await.ok();
    assert_eq!(start(token.clone(), "k1", body.clone()).await.code(), (409, "idempotency_result_inactive"));
    for key in [" k", "", "k\u{e9}\t", "k\u{1}"] {
        let request = http::Request::builder()
            .method(Method::POST)
            .uri("/zones/z1/agents")
            .header("authorization", format!("Bearer {token}"));
        let Ok(value) = http::HeaderValue::from_bytes(key.as_bytes()) else { continue };
        let request = request.header("idempotency-key", value).body(body.to_string().into()).unwrap();
        assert_eq!(world.send(request).await.code(), (400, "idempotency_key_invalid"), "{key:?}");
    }
    let twice = [("idempotency-key", "x"), ("idempotency-key", "y")];
    let answer = world.ask_with(Method::POST, "/zones/z1/agents", &token, Some(body), &twice).await;
    assert_eq!(answer.code(), (400, "idempotency_key_multiple"));
    world.sql("UPDATE idempotency_receipts SET expires_at = 1").await;
    let fresh = start(token, "k1", json!({ "application_id": "a" })).await;
    assert_eq!(fresh.status, 201, "an expired receipt binds nobody");
}

#[tokio::test]
async fn contract_10_fifty_at_once_start_one_session() {
    let world = std::sync::Arc::new(World::new().await);
    let token = world.token("a", "").await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (world, token) = (world.clone(), token.clone());
            tokio::spawn(async move {
                let headers = [("idempotency-key", "same")];
                let body = Some(json!({ "application_id": "a" }));
                let answer = world.ask_with(Method::POST, "/zones/z1/agents", &token, body, &headers).await;
                text(&answer.ok(), "agent_session_id")
            })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap());
    }
    assert_eq!((ids.len(), world.number("SELECT COUNT(*) FROM sessions").await), (1, 1));
}

#[tokio::test]
async fn contract_10_delegations_and_the_limit_of_receipts() {
    let limits = caracal_coordinator::Limits { receipts: 1, ..Default::default() };
    let world = World::with(limits).await;
    let token = world.token("a", "").await;
    let (source, target) = (world.task(&token, None, "none").await, world.task(&token, None, "none").await);
    let body = |scopes: Value| {
        json!({ "source_session_id": source, "target_session_id": target, "issuer_application_id": "a",
            "receiver_application_id": "a", "scopes": scopes, "resource_id": "resource://orders", "ttl_seconds": 60 })
    };
    let delegate = |key: &'static str, body: Value| {
        let (world, token) = (&world, token.clone());
        async move {
            let headers = [("idempotency-key", key)];
            world.ask_with(Method::POST, "/zones/z1/delegations", &token, Some(body), &headers).await
        }
    };
    let first = delegate("k", body(json!(["orders:read", "orders:write"]))).await.ok();
    let again = delegate("k", body(json!(["orders:write", "orders:read"]))).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.body, first);
    assert_eq!(delegate("k", body(json!([]))).await.code(), (409, "idempotency_key_conflict"));
    assert_eq!(delegate("l", body(json!([]))).await.code(), (429, "idempotency_receipt_limit_exceeded"));
    let path = format!("/zones/z1/delegations/{}/revoke", text(&first, "delegation_edge_id"));
    world.ask(Method::PATCH, &path, &token, None).await.ok();
    let dead = delegate("k", body(json!(["orders:read", "orders:write"]))).await;
    assert_eq!(dead.code(), (409, "idempotency_result_inactive"));
}
