//! Suspend, resume, terminate and their cascades (contract §4.6, §25).

use crate::support::{OPERATOR, World, text};
use http::Method;
use serde_json::json;

async fn anchors(world: &World) -> Vec<String> {
    world.texts("SELECT kind || ':' || id FROM revoked_anchors ORDER BY kind, id").await
}

#[tokio::test]
async fn contract_4_6_suspend_is_reversible() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "inherit").await;
    let child = world.task(&token, Some(&root), "inherit").await;
    let edge = world.edge(&token, &root, &child, json!({})).await;
    let act = |id: &str, verb: &str| {
        let path = format!("/zones/z1/agents/{id}/{verb}");
        let (world, token) = (&world, token.clone());
        async move { world.ask(Method::PATCH, &path, &token, None).await }
    };
    let epoch = world.number("SELECT authority_epoch FROM zones WHERE id = 'z1'").await;
    assert_eq!(act(&root, "suspend").await.ok(), json!({ "suspended": 2 }));
    assert_eq!(world.number("SELECT authority_epoch FROM zones WHERE id = 'z1'").await, epoch + 1);
    let mut sessions = [format!("agent_session:{root}"), format!("agent_session:{child}")];
    sessions.sort();
    assert_eq!(anchors(&world).await, sessions);
    assert_eq!(world.status("delegation_edges", &edge).await, "active");
    assert_eq!(act(&root, "suspend").await.code(), (409, "session_not_found_or_not_active"));
    assert_eq!(act(&child, "resume").await.code(), (409, "session_ancestor_not_active"));
    assert_eq!(act(&root, "resume").await.ok(), json!({ "resumed": 2 }));
    assert_eq!(anchors(&world).await, Vec::<String>::new());
    assert_eq!(act(&root, "resume").await.code(), (409, "session_not_found_or_not_suspended"));
    assert_eq!(act("gone", "resume").await.code(), (404, "session_not_found"));
    let revoked = world.number("SELECT COUNT(*) FROM authority_records WHERE status <> 'active'").await;
    assert_eq!(revoked, 0, "no record was revoked");
    // A task whose time is up is not brought back.
    act(&root, "suspend").await.ok();
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{root}'")).await;
    assert_eq!(act(&root, "resume").await.code(), (409, "session_not_found_or_not_suspended"));
    let b = world.token("b", "").await;
    let answer = world.ask(Method::PATCH, &format!("/zones/z1/agents/{root}/suspend"), &b, None).await;
    assert_eq!(answer.code(), (403, "application_ownership_required"));
    let kinds = world.texts("SELECT event_json FROM audit_outbox ORDER BY created_at, id").await;
    let count = |kind: &str| kinds.iter().filter(|event| event.contains(&format!("\"{kind}\""))).count();
    assert_eq!((count("session_suspended"), count("session_resumed")), (4, 2));
}

#[tokio::test]
async fn coordinator_24_24_resume_leaves_what_is_over() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "none").await;
    let over = world.task(&token, Some(&root), "none").await;
    let below = world.task(&token, Some(&over), "none").await;
    let patch = |verb: &str| {
        let path = format!("/zones/z1/agents/{root}/{verb}");
        let (world, token) = (&world, token.clone());
        async move { world.ask(Method::PATCH, &path, &token, None).await.ok() }
    };
    patch("suspend").await;
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{over}'")).await;
    assert_eq!(patch("resume").await, json!({ "resumed": 1 }));
    for (id, status) in [(&root, "active"), (&over, "suspended"), (&below, "suspended")] {
        assert_eq!(world.status("sessions", id).await, status);
    }
    assert_eq!(anchors(&world).await.len(), 2, "the two that stay suspended stay revoked");
}

#[tokio::test]
async fn coordinator_23_11_terminate_takes_the_subtree_and_the_lineage() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "inherit").await;
    let child = world.task(&token, Some(&root), "none").await;
    let grandchild = world.task(&token, Some(&child), "none").await;
    let peer = world.task(&token, None, "none").await;
    let behind = world.task(&token, None, "none").await;
    let more = |hops: u32, ttl: u32| json!({ "constraints": { "max_hops": hops }, "ttl_seconds": ttl });
    let first = world.edge(&token, &child, &peer, more(3, 300)).await;
    // Its ends live on, but what it descends from does not.
    let second = world.edge(&token, &peer, &behind, more(2, 200)).await;
    let path = format!("/zones/z1/agents/{child}?reason=done");
    assert_eq!(world.ask(Method::DELETE, &path, &token, None).await.status, 204);
    assert_eq!(world.ask(Method::DELETE, &path, &token, None).await.code(), (404, "session_not_found"));
    for (id, status) in [
        (&root, "active"),
        (&child, "terminated"),
        (&grandchild, "terminated"),
        (&peer, "active"),
        (&behind, "active"),
    ] {
        assert_eq!(world.status("sessions", id).await, status);
    }
    for edge in [&first, &second] {
        assert_eq!(world.status("delegation_edges", edge).await, "revoked");
    }
    let reasons = world
        .texts("SELECT termination_reason FROM sessions WHERE status = 'terminated' ORDER BY depth")
        .await;
    assert_eq!(reasons, ["done", "parent_terminated"]);
    assert_eq!(world.number(&format!("SELECT child_count FROM sessions WHERE id = '{root}'")).await, 0);
    let mut expected = [
        format!("agent_session:{child}"),
        format!("agent_session:{grandchild}"),
        format!("delegation_edge:{first}"),
        format!("delegation_edge:{second}"),
    ];
    expected.sort();
    assert_eq!(anchors(&world).await, expected);
    assert_eq!(world.number("SELECT graph_epoch FROM zones WHERE id = 'z1'").await, 1);
    assert_eq!(world.number("SELECT COUNT(*) FROM change_log WHERE change_json LIKE '%revoked%'").await, 1);
}

#[tokio::test]
async fn contract_4_6_terminate_bodies() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    for body in [None, Some(json!({})), Some(json!(null)), Some(json!({ "lease_generation": 1 }))] {
        let path = format!("/zones/z1/agents/{}", world.task(&token, None, "inherit").await);
        assert_eq!(world.ask(Method::DELETE, &path, &token, body.clone()).await.status, 204, "{body:?}");
    }
}

#[tokio::test]
async fn coordinator_23_13_a_service_is_ended_by_who_holds_its_lease() {
    let world = World::new().await;
    let (token, b) = (world.token("a", "").await, world.token("b", "").await);
    let body = json!({ "application_id": "a", "lifecycle": "service" });
    let service = text(&world.start(&token, body).await.ok(), "agent_session_id");
    let path = format!("/zones/z1/agents/{service}");
    let theirs = world.ask(Method::DELETE, &path, &b, Some(json!({ "lease_generation": 1 }))).await;
    assert_eq!(theirs.code(), (403, "application_ownership_required"));
    let end = |query: &str, body: serde_json::Value| {
        let path = format!("{path}{query}");
        let (world, token) = (&world, token.clone());
        async move { world.ask(Method::DELETE, &path, &token, Some(body)).await }
    };
    assert_eq!(end("", json!({ "lease_generation": 0 })).await.code(), (400, "invalid_body"));
    assert_eq!(end("", json!({})).await.code(), (400, "lease_generation_required"));
    assert_eq!(end("", json!({ "lease_generation": 2 })).await.code(), (409, "session_lease_fenced"));
    assert_eq!(end("", json!({ "lease_generation": 1 })).await.status, 204);
    let second = json!({ "application_id": "a", "lifecycle": "service" });
    let second = text(&world.start(&token, second).await.ok(), "agent_session_id");
    let answer = world.ask(Method::DELETE, &format!("/zones/z1/agents/{second}"), OPERATOR, None).await;
    assert_eq!(answer.status, 204, "the operator needs no generation");
}
