//! What is removed, and what stays (contract §12).

use crate::support::{World, text};
use caracal_coordinator::{Limits, remove_old_rows};
use http::Method;
use serde_json::json;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

async fn end(world: &World, token: &str, session: &str) {
    world.ask(Method::DELETE, &format!("/zones/z1/agents/{session}"), token, None).await.ok();
}

async fn count(world: &World, table: &str) -> i64 {
    world.number(&format!("SELECT COUNT(*) FROM {table}")).await
}

#[tokio::test]
async fn contract_12_what_ended_long_ago_is_removed_leaves_first() {
    let world = World::with(Limits { sweep_batch: 1, ..Limits::default() }).await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "inherit").await;
    let child = world.task(&token, Some(&root), "none").await;
    let first = world.edge(&token, &root, &child, json!({ "constraints": { "max_hops": 3 } })).await;
    let heir = world.task(&token, Some(&child), "inherit").await;
    let live = world.task(&token, None, "none").await;
    let body = json!({ "application_id": "a", "endpoint_url": "http://agent.test" });
    let service = world.ask(Method::POST, "/zones/z1/agent-services", &token, Some(body)).await.ok();
    let call = json!({ "service_id": service["id"], "idempotency_key": "k", "method": "plan",
        "source_session_id": heir, "target_session_id": live });
    let call = text(&world.ask(Method::POST, "/zones/z1/invocations", &token, Some(call)).await.ok(), "id");
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 0, "nothing has ended");
    end(&world, &token, &root).await;
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 0, "nothing has ended long ago");
    world.sql("UPDATE sessions SET terminated_at = 1 WHERE terminated_at IS NOT NULL").await;
    assert_eq!(
        remove_old_rows(&world.config).await.unwrap(),
        0,
        "a session stays while a delegation names it"
    );
    world.sql("UPDATE delegation_edges SET updated_at = 1").await;
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 5, "three sessions, two delegations");
    assert_eq!((count(&world, "sessions").await, count(&world, "delegation_edges").await), (1, 0));
    assert_eq!(world.status("sessions", &live).await, "active");
    let path = format!("/zones/z1/invocations/{call}");
    let shown = world.ask(Method::GET, &path, &token, None).await.ok();
    assert_eq!((&shown["source_session_id"], &shown["target_session_id"]), (&json!(null), &json!(live)));
    assert_eq!(
        world.ask(Method::GET, &format!("/zones/z1/agents/{child}"), &token, None).await.code().0,
        404
    );
    let path = format!("/zones/z1/delegations/{first}/revoke");
    assert_eq!(world.ask(Method::PATCH, &path, &token, None).await.code(), (404, "delegation_not_found"));
    let told =
        world.texts("SELECT event_json FROM audit_outbox WHERE event_json LIKE '%retention_removed%'").await;
    assert!(!told.is_empty(), "what is removed is told");
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 0);
}

#[tokio::test]
async fn contract_12_a_delegation_binds_its_receiver_for_as_long_as_that_lives() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let source = world.task(&token, None, "none").await;
    let body = json!({ "application_id": "a", "lifecycle": "service" });
    let bound = text(&world.start(&token, body).await.ok(), "agent_session_id");
    let below = world.task(&token, Some(&bound), "none").await;
    let edge = world.edge(&token, &source, &bound, json!({})).await;
    world.ask(Method::PATCH, &format!("/zones/z1/delegations/{edge}/revoke"), &token, None).await.ok();
    end(&world, &token, &source).await;
    world.sql("UPDATE delegation_edges SET updated_at = 1").await;
    world.sql("UPDATE sessions SET terminated_at = 1 WHERE terminated_at IS NOT NULL").await;
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 0, "without it, the receiver would be a root");
    let other = world.task(&token, None, "none").await;
    for giver in [&bound, &below] {
        let answer = world.delegate(&token, giver, &other, json!({})).await;
        assert_eq!(answer.code(), (403, "parent_delegation_not_active"));
    }
    let path = format!("/zones/z1/agents/{bound}");
    world.ask(Method::DELETE, &path, &token, Some(json!({ "lease_generation": 1 }))).await.ok();
    assert_eq!(remove_old_rows(&world.config).await.unwrap(), 2, "the delegation and where it came from");
}

#[tokio::test]
async fn contract_12_sessions_and_delegations_are_kept_for_as_long_as_is_set() {
    for (sessions, delegations, removed) in [(DAY, 30 * DAY, 0), (30 * DAY, DAY, 1), (DAY, DAY, 3)] {
        let limits =
            Limits { session_retention: sessions, delegation_retention: delegations, ..Limits::default() };
        let world = World::with(limits).await;
        let token = world.token("a", "").await;
        let (one, other) = (world.task(&token, None, "none").await, world.task(&token, None, "none").await);
        world.edge(&token, &one, &other, json!({})).await;
        for session in [&one, &other] {
            end(&world, &token, session).await;
        }
        let week_ago = world.store.now() - 7 * 86_400_000;
        world.sql(&format!("UPDATE sessions SET terminated_at = {week_ago}")).await;
        world.sql(&format!("UPDATE delegation_edges SET updated_at = {week_ago}")).await;
        assert_eq!(remove_old_rows(&world.config).await.unwrap(), removed, "{sessions:?} {delegations:?}");
    }
}
