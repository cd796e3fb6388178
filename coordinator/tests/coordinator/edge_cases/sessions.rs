//! Sessions: §23 cases 1 to 9, 12 and 14.

use crate::support::{World, text};
use caracal_coordinator::Limits;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// A root, a child that it narrowed, and the edge between them.
async fn narrowed(world: &World, token: &str) -> (String, String, String) {
    let root = world.task(token, None, "inherit").await;
    let child = world.task(token, Some(&root), "none").await;
    let edge = world.edge(token, &root, &child, json!({ "constraints": { "max_hops": 3 } })).await;
    (root, child, edge)
}

fn below(parent: &str, more: Value) -> Value {
    let mut body = json!({ "application_id": "a", "parent_id": parent });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn coordinator_23_01_a_lapsed_delegation_breeds_no_free_child() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    for revoked in [true, false] {
        let (_, child, edge) = narrowed(&world, &token).await;
        if revoked {
            let path = format!("/zones/z1/delegations/{edge}/revoke");
            world.ask(Method::PATCH, &path, &token, None).await.ok();
        } else {
            world.sql(&format!("UPDATE delegation_edges SET expires_at = 1 WHERE id = '{edge}'")).await;
        }
        let before = world.number("SELECT COUNT(*) FROM sessions").await;
        for more in [json!({}), json!({ "inherit_parent_edge_id": edge })] {
            let answer = world.start(&token, below(&child, more)).await;
            assert_eq!(answer.code(), (409, "inherit_parent_edge_not_active"), "revoked: {revoked}");
        }
        assert_eq!(
            world.number("SELECT COUNT(*) FROM sessions").await,
            before,
            "a refused start leaves nothing"
        );
    }
}

#[tokio::test]
async fn coordinator_23_02_of_several_delegations_one_has_to_be_named() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (_, child, _) = narrowed(&world, &token).await;
    let other = world.task(&token, None, "none").await;
    let more = json!({ "scopes": ["orders:write"], "constraints": { "max_hops": 2 } });
    let second = world.edge(&token, &other, &child, more).await;
    let answer = world.start(&token, below(&child, json!({}))).await;
    assert_eq!(answer.code(), (409, "inherit_parent_edge_ambiguous"));
    let chosen = world.start(&token, below(&child, json!({ "inherit_parent_edge_id": second }))).await.ok();
    let mirrored = world
        .texts(&format!(
            "SELECT parent_edge_id || ' ' || scopes_json FROM delegation_edges WHERE id = '{}'",
            text(&chosen, "delegation_edge_id")
        ))
        .await;
    assert_eq!(mirrored, [format!(r#"{second} ["orders:write"]"#)]);
    let answer = world.start(&token, below(&child, json!({ "inherit_parent_edge_id": "gone" }))).await;
    assert_eq!(answer.code(), (409, "inherit_parent_edge_not_active"));
}

#[tokio::test]
async fn coordinator_23_03_none_inherits_nothing() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (_, child, edge) = narrowed(&world, &token).await;
    // Neither does it ask what there would be to inherit: a lapsed delegation is no reason to refuse.
    for lapsed in [false, true] {
        if lapsed {
            world.sql(&format!("UPDATE delegation_edges SET expires_at = 1 WHERE id = '{edge}'")).await;
        }
        let started = world.start(&token, below(&child, json!({ "parent_authority": "none" }))).await.ok();
        assert_eq!(started["delegation_edge_id"], Value::Null);
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM delegation_edges").await, 1);
}

#[tokio::test]
async fn coordinator_23_04_a_dcr_application_has_one_task_alone() {
    let world = World::new().await;
    let (a, d) = (world.token("a", "").await, world.token("d", "").await);
    let parent = world.task(&a, None, "inherit").await;
    let start = |more: Value| {
        let mut body = json!({ "application_id": "d" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.start(&d, body)
    };
    let service = start(json!({ "lifecycle": "service" })).await;
    assert_eq!(service.code(), (409, "dcr_application_cannot_host_service"));
    assert_eq!(start(json!({ "parent_id": parent })).await.code(), (409, "dcr_application_cannot_be_child"));
    let bound = text(&start(json!({})).await.ok(), "agent_session_id");
    assert_eq!(start(json!({})).await.code(), (409, "dcr_application_already_bound"));
    let under = world.token("a", "coordinator.spawn_under:d").await;
    let answer = world.start(&under, below(&bound, json!({}))).await;
    assert_eq!(answer.code(), (409, "dcr_application_cannot_start_child"));
    assert_eq!(answer.body["former_error"], "dcr_application_cannot_spawn", "contract §24 row 9");
    // One at a time: after the end, there may be another.
    world.ask(Method::DELETE, &format!("/zones/z1/agents/{bound}"), &d, None).await.ok();
    assert_eq!(start(json!({})).await.status, 201);
}

#[tokio::test]
async fn coordinator_23_05_a_task_starts_no_service() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let task = world.task(&token, None, "inherit").await;
    let service = json!({ "application_id": "a", "lifecycle": "service" });
    let service = text(&world.start(&token, service).await.ok(), "agent_session_id");
    for (parent, lifecycle, expected) in [
        (&task, "task", (201, "")),
        (&task, "service", (409, "task_session_cannot_start_service")),
        (&service, "task", (201, "")),
        (&service, "service", (201, "")),
    ] {
        let answer = world.start(&token, below(parent, json!({ "lifecycle": lifecycle }))).await;
        assert_eq!(answer.code(), expected, "{lifecycle}");
        let former = answer.body["former_error"].as_str();
        assert_eq!(former, (expected.0 == 409).then_some("task_agent_cannot_spawn_service"));
    }
}

#[tokio::test]
async fn coordinator_23_06_a_service_has_no_time_to_live() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let generation = world.number("SELECT value FROM sequences WHERE name = 'change_log'").await;
    let body = json!({ "application_id": "a", "lifecycle": "service", "ttl_seconds": 60 });
    let answer = world.start(&token, body).await;
    assert_eq!(answer.code(), (400, "invalid_body"));
    assert_eq!(answer.body["details"]["issues"][0]["path"], json!(["ttl_seconds"]));
    for table in ["sessions", "audit_outbox", "idempotency_receipts"] {
        assert_eq!(world.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(world.number("SELECT value FROM sequences WHERE name = 'change_log'").await, generation);
    let task = world.start(&token, json!({ "application_id": "a", "ttl_seconds": 60 })).await.ok();
    assert_eq!(task["ttl_seconds"], 60);
}

#[tokio::test]
async fn coordinator_23_07_labels_are_bounded() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    for (labels, status) in [
        (json!(vec!["x"; 33]), 400),
        (json!(["x".repeat(65)]), 400),
        (json!(["é".repeat(65)]), 400),
        (json!(["  "]), 400),
        (json!([7]), 400),
        (json!("x"), 400),
        (json!(vec!["x"; 32]), 201),
        (json!(["é".repeat(64)]), 201),
        (json!([]), 201),
    ] {
        let answer = world.start(&token, json!({ "application_id": "a", "labels": labels })).await;
        assert_eq!(answer.status.as_u16(), status, "{labels}");
        if status == 400 {
            assert_eq!(answer.code().1, "invalid_body");
            assert_eq!(answer.body["details"]["issues"][0]["path"][0], "labels", "{labels}");
        }
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM sessions").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_23_08_as_many_start_at_once_as_there_is_room() {
    let limits = Limits { sessions_per_application: 7, ..Limits::default() };
    let world = Arc::new(World::with(limits).await);
    let token = world.token("a", "").await;
    let starts: Vec<_> = (0..40)
        .map(|_| {
            let (world, token) = (Arc::clone(&world), token.clone());
            tokio::spawn(async move { world.start(&token, json!({ "application_id": "a" })).await })
        })
        .collect();
    let mut started = 0;
    for start in starts {
        let answer = start.await.unwrap();
        match answer.code() {
            (201, "") => started += 1,
            refused => assert_eq!(refused, (429, "session_limit_exceeded")),
        }
    }
    assert_eq!(started, 7);
    // What started is told, and nothing else is: both in one transaction.
    let told = "SELECT COUNT(*) FROM audit_outbox WHERE event_json LIKE '%\"session_started\"%'";
    assert_eq!((world.number(told).await, world.number("SELECT COUNT(*) FROM sessions").await), (7, 7));
}

#[tokio::test]
async fn coordinator_23_09_a_session_stands_on_the_bearers_record() {
    let world = World::new().await;
    let claims = world.claims("z1", "a", None).await;
    let token = world.keys.sign(&claims).await.unwrap();
    for named in [false, true] {
        let mut body = json!({ "application_id": "a" });
        if named {
            body["subject_session_id"] = json!(claims.sid);
        }
        let started = world.start(&token, body).await.ok();
        assert_eq!(started["subject_authority_record_id"], json!(claims.sid));
    }
}

#[tokio::test]
async fn coordinator_23_12_the_end_of_a_session_revokes_no_record() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let user = world.claims("z1", "a", Some("ada@idp")).await;
    let proof = world.keys.sign(&user).await.unwrap();
    let mut sessions = Vec::new();
    for subject in [None, None, Some(&proof), Some(&proof)] {
        let mut body = json!({ "application_id": "a" });
        if let Some(proof) = subject {
            body["subject_token"] = json!(proof);
        }
        sessions.push(text(&world.start(&token, body).await.ok(), "agent_session_id"));
    }
    for session in sessions {
        world.ask(Method::DELETE, &format!("/zones/z1/agents/{session}"), &token, None).await.ok();
        let revoked = "SELECT COUNT(*) FROM authority_records WHERE status <> 'active'";
        assert_eq!(world.number(revoked).await, 0, "also where it was the last one");
        let anchors = "SELECT COUNT(*) FROM revoked_anchors WHERE kind <> 'agent_session'";
        assert_eq!(world.number(anchors).await, 0);
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM revoked_anchors").await, 4, "each session is told");
}

#[tokio::test]
async fn coordinator_23_14_a_bad_reason_ends_nothing() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let task = world.task(&token, None, "inherit").await;
    let events = world.number("SELECT COUNT(*) FROM audit_outbox").await;
    for reason in [String::new(), "x".repeat(257)] {
        let path = format!("/zones/z1/agents/{task}?reason={reason}");
        assert_eq!(world.ask(Method::DELETE, &path, &token, None).await.code(), (400, "invalid_query"));
    }
    assert_eq!(world.status("sessions", &task).await, "active");
    assert_eq!(world.number("SELECT COUNT(*) FROM audit_outbox").await, events);
    let path = format!("/zones/z1/agents/{task}?reason={}", "x".repeat(256));
    assert_eq!(world.ask(Method::DELETE, &path, &token, None).await.status, 204);
}
