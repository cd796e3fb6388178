//! Starting and reading sessions (contract §4.2 to §4.5, §22).

use crate::support::{OPERATOR, World, text};
use caracal_coordinator::Limits;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn contract_22_b_and_f_literal_starts() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let body = json!({ "application_id": "a", "ttl_seconds": 600, "metadata": { "task": "reconcile" },
        "labels": [" clerk "], "parent_authority": "inherit", "unknown": 1 });
    let answer = world.start(&token, body).await;
    assert_eq!(answer.status, 201);
    let mut body = answer.body;
    let object = body.as_object_mut().unwrap();
    for member in ["agent_session_id", "subject_authority_record_id", "started_at"] {
        assert!(object.remove(member).unwrap().is_string(), "{member}");
    }
    let expected = json!({ "zone_id": "z1", "application_id": "a", "parent_id": null, "lifecycle": "task",
        "labels": ["clerk"], "status": "active", "depth": 0, "ttl_seconds": 600, "last_heartbeat_at": null,
        "heartbeat_deadline_at": null, "lease_generation": 0, "delegation_edge_id": null });
    assert_eq!(body, expected);
    let service = world.start(&token, json!({ "application_id": "a", "lifecycle": "service" })).await.ok();
    assert_eq!((&service["ttl_seconds"], &service["lease_generation"]), (&Value::Null, &json!(1)));
    assert!(service["heartbeat_deadline_at"].is_string());
    let path = format!("/zones/z1/agents/{}", text(&service, "agent_session_id"));
    let read = world.ask(Method::GET, &path, &token, None).await.ok();
    assert_eq!(read["lease_generation"], 1, "an integer in reads as well");
    let events = world.texts("SELECT event_json FROM audit_outbox ORDER BY created_at, id").await;
    assert_eq!(events.len(), 2);
    let event: Value = serde_json::from_str(&events[0]).unwrap();
    assert_eq!(
        (&event["event_type"], &event["metadata_json"]["application_id"]),
        (&json!("session_started"), &json!("a"))
    );
}

#[tokio::test]
async fn contract_4_2_schema() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let cases: Vec<(Value, &str)> = vec![
        (json!({}), "application_id"),
        (json!({ "application_id": "" }), "application_id"),
        (json!({ "application_id": 7 }), "application_id"),
        (json!({ "application_id": "a", "ttl_seconds": 0 }), "ttl_seconds"),
        (json!({ "application_id": "a", "ttl_seconds": 86_401 }), "ttl_seconds"),
        (json!({ "application_id": "a", "ttl_seconds": "5" }), "ttl_seconds"),
        (json!({ "application_id": "a", "lifecycle": "robot" }), "lifecycle"),
        (json!({ "application_id": "a", "parent_authority": "all" }), "parent_authority"),
        (json!({ "application_id": "a", "metadata": [] }), "metadata"),
        (json!({ "application_id": "a", "inherit_parent_edge_id": null }), "inherit_parent_edge_id"),
    ];
    for (body, member) in cases {
        let answer = world.start(&token, body.clone()).await;
        assert_eq!(answer.code(), (400, "invalid_body"), "{body}");
        assert_eq!(answer.body["details"]["issues"][0]["path"][0], member, "{body}");
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM sessions").await, 0);
}

#[tokio::test]
async fn contract_4_3_ownership() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let parent = world.task(&a, None, "inherit").await;
    let start = |token: &str, application: &str, parent: Option<&str>| {
        let body = json!({ "application_id": application, "parent_id": parent });
        let token = token.to_owned();
        let world = &world;
        async move { world.start(&token, body).await }
    };
    assert_eq!(start(&a, "b", None).await.code(), (403, "application_ownership_required"));
    assert_eq!(start(&b, "b", Some(&parent)).await.code(), (403, "parent_ownership_required"));
    assert_eq!(start(&a, "a", Some("gone")).await.code(), (404, "parent_not_found"));
    for application in ["gone", "other"] {
        let token = world.token("a", &format!("coordinator.spawn_for:{application}")).await;
        assert_eq!(start(&token, application, None).await.code(), (404, "application_not_found"));
    }
    let under_a = world.token("b", "coordinator.spawn_under:a").await;
    assert_eq!(start(&under_a, "b", Some(&parent)).await.status, 201);
}

#[tokio::test]
async fn contract_4_3_limits() {
    let limits = Limits {
        sessions_per_zone: 5,
        sessions_per_application: 4,
        children: 2,
        depth: 2,
        ..Limits::default()
    };
    let world = World::with(limits).await;
    let a = world.token("a", "").await;
    let root = world.task(&a, None, "inherit").await;
    let child = world.task(&a, Some(&root), "inherit").await;
    let grandchild = world.task(&a, Some(&child), "inherit").await;
    let start = |parent: &str| world.start(&a, json!({ "application_id": "a", "parent_id": parent }));
    assert_eq!(start(&grandchild).await.code(), (429, "session_depth_limit_exceeded"));
    world.task(&a, Some(&root), "inherit").await;
    assert_eq!(start(&root).await.code(), (429, "session_limit_exceeded"));
    let b = world.token("b", "").await;
    world.start(&b, json!({ "application_id": "b" })).await.ok();
    assert_eq!(
        world.start(&b, json!({ "application_id": "b" })).await.code(),
        (429, "session_zone_limit_exceeded")
    );
    // What is over does not count, also where nobody has swept it yet.
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{grandchild}'")).await;
    assert_eq!(start(&root).await.code(), (429, "session_children_limit_exceeded"));
    assert_eq!(start(&child).await.status, 201);
}

#[tokio::test]
async fn contract_25_a_child_never_outlives_its_parent() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let body = json!({ "application_id": "a", "ttl_seconds": 100 });
    let root = text(&world.start(&token, body).await.ok(), "agent_session_id");
    let start = json!({ "application_id": "a", "parent_id": root, "ttl_seconds": 500 });
    let child = world.start(&token, start.clone()).await.ok();
    assert!((98..=100).contains(&child["ttl_seconds"].as_i64().unwrap()), "{child}");
    world.sql(&format!("UPDATE sessions SET started_at = started_at - 200000 WHERE id = '{root}'")).await;
    assert_eq!(world.start(&token, start).await.code(), (404, "parent_not_found"));
    // Nor does it begin below a session whose ancestor is over.
    let below = json!({ "application_id": "a", "parent_id": child["agent_session_id"] });
    assert_eq!(world.start(&token, below).await.code(), (404, "parent_not_found"));
}

#[tokio::test]
async fn contract_4_1_lists_are_paged_filtered_and_scoped() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let mut ids = Vec::new();
    for labels in [json!(["x"]), json!(["y", "x"]), json!(["y\"x"])] {
        let body = json!({ "application_id": "a", "labels": labels, "parent_id": ids.first() });
        ids.push(text(&world.start(&a, body).await.ok(), "agent_session_id"));
    }
    let theirs = text(&world.start(&b, json!({ "application_id": "b" })).await.ok(), "agent_session_id");
    let list = |token: String, query: String| {
        let world = &world;
        async move {
            let answer = world.ask(Method::GET, &format!("/zones/z1/agents{query}"), &token, None).await.ok();
            let items: Vec<String> = answer["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| text(item, "agent_session_id"))
                .collect();
            (items, answer["next_cursor"].clone())
        }
    };
    let newest: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(list(a.clone(), String::new()).await, (newest.clone(), Value::Null));
    assert_eq!(list(OPERATOR.into(), String::new()).await.0.len(), 4);
    assert_eq!(list(b.clone(), "?application_id=a".into()).await.0, Vec::<String>::new());
    assert_eq!(list(a.clone(), "?label=x".into()).await.0, [ids[1].clone(), ids[0].clone()]);
    assert_eq!(list(a.clone(), "?limit=2".into()).await, (newest[..2].to_vec(), json!(ids[1])));
    assert_eq!(
        list(a.clone(), format!("?limit=2&cursor={}", ids[1])).await,
        (newest[2..].to_vec(), Value::Null)
    );
    assert_eq!(list(a.clone(), "?status=suspended".into()).await.0.len(), 0);
    let children =
        world.ask(Method::GET, &format!("/zones/z1/agents/{}/children", ids[0]), &a, None).await.ok();
    assert_eq!(children["items"].as_array().unwrap().len(), 2);
    for path in [format!("/zones/z1/agents/{theirs}"), format!("/zones/z1/agents/{theirs}/children")] {
        assert_eq!(world.ask(Method::GET, &path, &a, None).await.code(), (404, "session_not_found"));
    }
}

#[tokio::test]
async fn contract_4_5_an_heir_has_what_its_parent_has() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "inherit").await;
    let narrowed = world.task(&token, Some(&root), "none").await;
    let edge = world.edge(&token, &root, &narrowed, json!({ "constraints": { "max_hops": 3 } })).await;
    let heir = |parent: String| world.start(&token, json!({ "application_id": "a", "parent_id": parent }));
    let child = heir(narrowed.clone()).await.ok();
    let row = |id: String| async {
        let id = id;
        world.texts(&format!(
            "SELECT parent_edge_id || ' ' || inherited || ' ' || resource_id || ' ' || scopes_json || ' ' || \
             constraints_json FROM delegation_edges WHERE id = '{id}'"
        )).await.remove(0)
    };
    let mirrored = text(&child, "delegation_edge_id");
    let expected = |parent: &str, hops: u32| {
        format!(r#"{parent} 1 res-orders ["orders:read"] {{"max_hops":{hops},"ttl_seconds":300}}"#)
    };
    assert_eq!(row(mirrored.clone()).await, expected(&edge, 2));
    // The last hop stays, so that an heir of an heir can still mint.
    let grandchild = heir(text(&child, "agent_session_id")).await.ok();
    let heirs_edge = text(&grandchild, "delegation_edge_id");
    assert_eq!(row(heirs_edge.clone()).await, expected(&mirrored, 1));
    let last = heir(text(&grandchild, "agent_session_id")).await.ok();
    assert_eq!(row(text(&last, "delegation_edge_id")).await, expected(&heirs_edge, 1));
    let ends: i64 = world.number("SELECT COUNT(DISTINCT expires_at) FROM delegation_edges").await;
    assert_eq!(ends, 1);
}
