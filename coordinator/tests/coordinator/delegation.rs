//! Delegations (contract §6).

use crate::support::{OPERATOR, World, text};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn contract_22_c_literal_delegation() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "inherit").await;
    let child = world.task(&token, Some(&root), "none").await;
    let mut body =
        world.delegate(&token, &root, &child, json!({ "constraints": { "max_hops": 2 } })).await.ok();
    let object = body.as_object_mut().unwrap();
    let (id, end) = (object.remove("delegation_edge_id").unwrap(), object["expires_at"].clone());
    assert!(id.is_string() && object.remove("expires_at").is_some() && object.remove("created_at").is_some());
    object["effective_authority"]
        .as_object_mut()
        .unwrap()
        .retain(|name, value| name != "expires_at" || *value != end);
    let expected = json!({
        "zone_id": "z1", "source_session_id": root, "target_session_id": child, "issuer_application_id": "a",
        "receiver_application_id": "a", "parent_edge_id": null, "resource_id": "res-orders",
        "scopes": ["orders:read"], "constraints_json": { "max_hops": 2, "ttl_seconds": 300 }, "status": "active",
        "edge_version": 0, "revoked_at": null, "warnings": [],
        "allow_reason": ["same_zone_endpoints_active", "resource_scope_checked", "source_authority_root",
            "typed_constraints_validated"],
        "effective_authority": { "source_session_id": root, "target_session_id": child, "parent_edge_id": null,
            "resource_id": "res-orders", "resources": ["resource://orders"], "scopes": ["orders:read"],
            "max_hops": 2, "ttl_seconds": 300, "broad": false, "parent_edges_considered": [] },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn contract_6_4_decision_order() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let source = world.task(&token, None, "none").await;
    let target = world.task(&token, None, "none").await;
    let over = world.task(&token, None, "none").await;
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{over}'")).await;
    let cases = [
        (json!({ "scopes": null }), (400, "invalid_body")),
        (json!({ "scopes": ["a b"] }), (400, "invalid_body")),
        (json!({ "ttl_seconds": 86_401 }), (400, "invalid_body")),
        (json!({ "expires_at": "tomorrow" }), (400, "invalid_body")),
        (json!({ "source_session_id": "-" }), (400, "invalid_body")),
        (json!({ "constraints": { "budget": 2 } }), (400, "invalid_budget")),
        (json!({ "constraints": { "what": 2 } }), (400, "invalid_delegation_constraint")),
        (json!({ "ttl_seconds": "-" }), (400, "delegation_expiry_required")),
        (json!({ "issuer_application_id": "b" }), (403, "issuer_ownership_required")),
        (json!({ "target_session_id": source }), (400, "self_delegation_denied")),
        (json!({ "resource_id": null }), (403, "broad_delegation_permission_required")),
        (json!({ "target_session_id": "gone" }), (404, "delegation_endpoint_not_found")),
        (json!({ "target_session_id": over }), (404, "delegation_endpoint_not_found")),
        (json!({ "source_session_id": over }), (404, "delegation_endpoint_not_found")),
        (json!({ "receiver_application_id": "b" }), (409, "delegation_application_mismatch")),
        (json!({ "resource_id": "resource://none" }), (404, "resource_not_found")),
        (json!({ "resource_id": "resource://archived" }), (404, "resource_not_found")),
        (
            json!({ "constraints": { "resources": ["resource://invoices"] } }),
            (400, "delegation_resource_scope_mismatch"),
        ),
        (json!({ "scopes": ["invoices:read"] }), (403, "delegation_scopes_exceed_resource")),
        (json!({ "parent_edge_id": "gone" }), (403, "parent_delegation_not_active")),
        (json!({ "expires_at": "2020-01-01T00:00:00Z" }), (400, "delegation_expired")),
    ];
    for (more, expected) in cases {
        let answer = world.delegate(&token, &source, &target, more.clone()).await;
        assert_eq!(answer.code(), expected, "{more}: {}", answer.body);
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM delegation_edges").await, 0);
    world.edge(&token, &source, &target, json!({})).await;
    let cycle = world.delegate(&token, &target, &source, json!({ "ttl_seconds": 60 })).await;
    assert_eq!(cycle.code(), (403, "delegation_exceeds_parent_authority"), "one hop is all that was given");
}

#[tokio::test]
async fn contract_6_5_a_child_is_within_its_parent() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let wide = world.token("a", "coordinator.delegate_broad").await;
    let (root, middle, leaf) = (
        world.task(&token, None, "none").await,
        world.task(&token, None, "none").await,
        world.task(&token, None, "none").await,
    );
    let parent = json!({ "resource_id": null, "scopes": ["orders:read", "invoices:read"], "ttl_seconds": 300,
        "constraints": { "max_hops": 3, "resources": ["resource://orders", "resource://invoices"] } });
    world.edge(&token, &root, &middle, parent).await;
    let end = caracal_store::clock::iso(world.store.now() + 60_000);
    let cases = [
        (json!({ "scopes": ["orders:write"] }), 403),
        (json!({ "ttl_seconds": 301 }), 403),
        (json!({ "ttl_seconds": "-", "expires_at": end }), 403),
        (json!({ "ttl_seconds": 60, "constraints": { "max_hops": 3 } }), 403),
        (json!({ "ttl_seconds": 60, "resource_id": null }), 403),
        (json!({ "ttl_seconds": 60, "expires_at": "2099-01-01T00:00:00Z" }), 403),
        (json!({ "ttl_seconds": 60, "constraints": { "max_hops": 2 } }), 201),
        (
            json!({ "ttl_seconds": 60, "resource_id": "resource://invoices", "scopes": ["invoices:read"] }),
            201,
        ),
        (
            json!({ "ttl_seconds": 60, "resource_id": null, "constraints": { "resources": ["resource://orders"] } }),
            201,
        ),
    ];
    for (more, status) in cases {
        let answer = world.delegate(&wide, &middle, &leaf, more.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{more}: {}", answer.body);
        if status == 403 {
            assert_eq!(answer.body["error"], "delegation_exceeds_parent_authority", "{more}");
            assert!(answer.body["error_description"].is_string());
        }
    }
}

#[tokio::test]
async fn coordinator_23_25_revoke_takes_its_lineage_and_ends_no_session() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let source = world.task(&a, None, "none").await;
    let peer = text(&world.start(&b, json!({ "application_id": "b" })).await.ok(), "agent_session_id");
    let leaf = text(&world.start(&b, json!({ "application_id": "b" })).await.ok(), "agent_session_id");
    let to_b = json!({ "receiver_application_id": "b", "constraints": { "max_hops": 2 } });
    let first = world.edge(&a, &source, &peer, to_b).await;
    let second = world.edge(&a, &source, &peer, json!({ "receiver_application_id": "b" })).await;
    let on = json!({ "issuer_application_id": "b", "receiver_application_id": "b", "ttl_seconds": 60, "parent_edge_id": first });
    let below = world.edge(&b, &peer, &leaf, on).await;
    let traverse =
        world.ask(Method::GET, &format!("/zones/z1/delegations/{first}/traverse"), OPERATOR, None).await.ok();
    let depths: Vec<(String, i64)> = traverse
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "id"), row["depth"].as_i64().unwrap()))
        .collect();
    assert_eq!(depths, [(first.clone(), 0), (below.clone(), 1)]);
    let impact =
        world.ask(Method::GET, &format!("/zones/z1/delegations/{first}/impact"), OPERATOR, None).await.ok();
    assert_eq!(impact["affected_edges"], json!([first, below]));
    assert_eq!(impact["affected_agents"], impact["affected_sessions"]);
    for verb in ["traverse", "impact"] {
        let answer = world.ask(Method::GET, &format!("/zones/z1/delegations/{first}/{verb}"), &a, None).await;
        assert_eq!(answer.code(), (403, "coordinator_admin_required"));
    }
    let path = format!("/zones/z1/delegations/{first}/revoke");
    assert_eq!(world.ask(Method::PATCH, &path, &b, None).await.code(), (403, "issuer_ownership_required"));
    let counts = json!({ "revoked_edges": 2, "affected_sessions": 2, "terminated_sessions": 0 });
    assert_eq!(world.ask(Method::PATCH, &path, &a, None).await.ok(), counts);
    assert_eq!(world.ask(Method::PATCH, &path, &a, None).await.code(), (404, "delegation_not_found"));
    for (edge, status) in [(&first, "revoked"), (&below, "revoked"), (&second, "active")] {
        assert_eq!(world.status("delegation_edges", edge).await, status);
    }
    for session in [&source, &peer, &leaf] {
        assert_eq!(world.status("sessions", session).await, "active");
    }
    let anchors =
        world.texts("SELECT id FROM revoked_anchors WHERE kind = 'delegation_edge' ORDER BY id").await;
    assert_eq!(anchors, [first, below]);
    assert_eq!(world.number("SELECT COUNT(*) FROM revoked_anchors").await, 2);
}

#[tokio::test]
async fn coordinator_23_24_reads_show_what_is_the_callers() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let source = world.task(&a, None, "none").await;
    let peer = text(&world.start(&b, json!({ "application_id": "b" })).await.ok(), "agent_session_id");
    let edge = world.edge(&a, &source, &peer, json!({ "receiver_application_id": "b" })).await;
    let get = |token: &str, path: String| {
        let (world, token) = (&world, token.to_owned());
        async move { world.ask(Method::GET, &format!("/zones/z1/delegations/{path}"), &token, None).await }
    };
    let probe = get(&b, format!("inbound/{peer}/{edge}")).await.ok();
    assert_eq!((&probe["id"], &probe["status"]), (&json!(edge), &json!("active")));
    assert_eq!(get(&a, format!("inbound/{peer}/{edge}")).await.code(), (404, "delegation_not_found"));
    assert_eq!(get(&b, format!("inbound/{source}/{edge}")).await.code(), (404, "delegation_not_found"));
    let first = |value: Value| value["items"][0]["id"].clone();
    assert_eq!(first(get(&b, format!("inbound/{peer}")).await.ok()), json!(edge));
    assert_eq!(first(get(&a, format!("outbound/{source}")).await.ok()), json!(edge));
    assert_eq!(get(&a, format!("inbound/{peer}")).await.code(), (404, "session_not_found"));
    assert_eq!(get(&b, format!("outbound/{source}")).await.code(), (404, "session_not_found"));
    for token in [&a, &b, &OPERATOR.to_owned()] {
        let item = get(token, "active".into()).await.ok()["items"][0].clone();
        assert_eq!((&item["id"], &item["broad_reason"]), (&json!(edge), &Value::Null));
    }
    let effective = |id: String| {
        let (world, token) = (&world, b.clone());
        async move {
            world.ask(Method::GET, &format!("/zones/z1/agents/{id}/effective-authority"), &token, None).await
        }
    };
    let held = effective(peer.clone()).await.ok();
    assert_eq!(held["inbound_edges"], json!([edge]));
    assert_eq!(held["effective_resources"], json!(["resource://orders"]));
    assert_eq!(
        (&held["effective_max_hops"], &held["effective_resource_constrained"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(effective(source.clone()).await.code(), (404, "session_not_found"));
    // A suspended giver gives nothing.
    world.ask(Method::PATCH, &format!("/zones/z1/agents/{source}/suspend"), &a, None).await.ok();
    assert_eq!(get(&b, format!("inbound/{peer}/{edge}")).await.code(), (404, "delegation_not_found"));
    let held = effective(peer).await.ok();
    assert_eq!((&held["inbound_edges"], &held["effective_max_hops"]), (&json!([]), &json!(0)));
    assert_eq!(held.get("effective_resource_ids"), None);
}
