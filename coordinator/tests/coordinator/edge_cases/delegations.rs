//! Delegations: §23 cases 17 to 23.

use crate::support::{World, text};
use http::Method;
use serde_json::{Value, json};

/// Two tasks of application `a`.
async fn pair(world: &World, token: &str) -> (String, String) {
    (world.task(token, None, "none").await, world.task(token, None, "none").await)
}

#[tokio::test]
async fn coordinator_23_17_every_delegation_ends() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (source, target) = pair(&world, &token).await;
    let past = "2020-01-01T00:00:00Z";
    for (more, code) in [
        (json!({ "ttl_seconds": "-" }), "delegation_expiry_required"),
        (json!({ "ttl_seconds": "-", "constraints": { "max_hops": 2 } }), "delegation_expiry_required"),
        (json!({ "expires_at": past }), "delegation_expired"),
        (json!({ "ttl_seconds": "-", "constraints": { "expires_at": past } }), "delegation_expired"),
    ] {
        let answer = world.delegate(&token, &source, &target, more.clone()).await;
        assert_eq!(answer.code(), (400, code), "{more}");
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM delegation_edges").await, 0);
    let soon = caracal_store::clock::iso(world.store.now() + 60_000);
    for more in [
        json!({ "ttl_seconds": "-", "expires_at": soon }),
        json!({ "ttl_seconds": "-", "constraints": { "expires_at": soon } }),
        json!({ "ttl_seconds": "-", "constraints": { "ttl_seconds": 60 } }),
        // The earliest of all counts.
        json!({ "expires_at": soon, "constraints": { "expires_at": "2099-01-01T00:00:00Z" } }),
    ] {
        let target = world.task(&token, None, "none").await;
        let made = world.delegate(&token, &source, &target, more.clone()).await.ok();
        let end = caracal_store::clock::parse_iso(&text(&made, "expires_at")).unwrap();
        assert!(end <= world.store.now() + 60_000, "{more}");
    }
}

#[tokio::test]
async fn coordinator_23_18_only_the_issuer_offers_and_to_another() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let (source, _) = pair(&world, &a).await;
    let peer = text(&world.start(&b, json!({ "application_id": "b" })).await.ok(), "agent_session_id");
    let to_b = json!({ "receiver_application_id": "b" });
    let answer = world.delegate(&b, &source, &peer, to_b.clone()).await;
    assert_eq!(answer.code(), (403, "issuer_ownership_required"));
    // The issuer is looked at before anything that is stored.
    let answer = world.delegate(&b, "gone", "gone-too", json!({})).await;
    assert_eq!(answer.code(), (403, "issuer_ownership_required"));
    let answer = world.delegate(&a, &source, &source, json!({})).await;
    assert_eq!(answer.code(), (400, "self_delegation_denied"));
    let offered = world.delegate(&a, &source, &peer, to_b).await.ok();
    assert_eq!(offered["receiver_application_id"], "b");
    let on_behalf = world.token("b", "coordinator.delegate_from:a").await;
    let target = world.task(&a, None, "none").await;
    assert_eq!(world.delegate(&on_behalf, &source, &target, json!({})).await.status, 201);
}

#[tokio::test]
async fn coordinator_23_19_constraints_are_known_and_in_bounds() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (source, target) = pair(&world, &token).await;
    let events = world.number("SELECT COUNT(*) FROM audit_outbox").await;
    for (constraints, code) in [
        (json!({ "color": "red" }), "invalid_delegation_constraint"),
        (json!({ "resource": "resource://orders" }), "invalid_delegation_constraint"),
        (json!({ "scopes": ["orders:read"] }), "invalid_delegation_constraint"),
        (json!([]), "invalid_delegation_constraint"),
        (json!({ "max_hops": 11 }), "invalid_max_hops"),
        (json!({ "max_depth": 11 }), "invalid_max_depth"),
        (json!({ "max_depth": 2, "max_hops": 3 }), "invalid_max_hops"),
        (json!({ "budget": 1 }), "invalid_budget"),
        (json!({ "ttl_seconds": 0 }), "invalid_ttl_seconds"),
        (json!({ "resources": vec!["x"; 65] }), "invalid_resources"),
        (json!({ "policy_approved": 1 }), "invalid_policy_approved"),
        (json!({ "broad_reason": "x".repeat(257) }), "invalid_broad_reason"),
        (json!({ "expires_at": "tomorrow" }), "invalid_expires_at"),
    ] {
        for member in ["constraints", "constraints_json"] {
            let answer = world.delegate(&token, &source, &target, json!({ member: constraints })).await;
            assert_eq!(answer.code(), (400, code), "{member}: {constraints}");
        }
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM audit_outbox").await, events, "before anything is written");
    let deep =
        world.delegate(&token, &source, &target, json!({ "constraints": { "max_depth": 10 } })).await.ok();
    assert_eq!(deep["constraints_json"]["max_hops"], 10);
}

#[tokio::test]
async fn coordinator_23_20_a_delegation_without_a_resource_needs_a_right_of_its_own() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (source, target) = pair(&world, &token).await;
    let broad = json!({ "resource_id": null });
    let answer = world.delegate(&token, &source, &target, broad.clone()).await;
    assert_eq!(answer.code(), (403, "broad_delegation_permission_required"));
    let of_another = world.token("a", "coordinator.delegate_broad:b").await;
    let answer = world.delegate(&of_another, &source, &target, broad.clone()).await;
    assert_eq!(answer.code(), (403, "broad_delegation_permission_required"));
    for right in ["coordinator.delegate_broad", "coordinator.delegate_broad:a", "coordinator.admin"] {
        let elevated = world.token("a", right).await;
        let target = world.task(&token, None, "none").await;
        let made = world.delegate(&elevated, &source, &target, broad.clone()).await.ok();
        assert_eq!(
            made["warnings"],
            json!(["resource_null_delegation_broadens_resource_matching"]),
            "{right}"
        );
        assert_eq!(made["allow_reason"][1], "broad_delegation_elevated");
        assert_eq!(
            (&made["effective_authority"]["broad"], &made["effective_authority"]["resource_id"]),
            (&json!(true), &Value::Null)
        );
        let stored = &made["constraints_json"];
        assert_eq!(
            (&stored["broad_reason"], &stored["policy_approved"]),
            (&json!("resource_null_delegation"), &json!(true))
        );
    }
}

#[tokio::test]
async fn coordinator_23_21_scopes_are_those_of_the_named_resources_together() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (source, target) = pair(&world, &token).await;
    let with = |scopes: Value| {
        json!({ "resource_id": null, "scopes": scopes,
            "constraints": { "resources": ["resource://orders", "res-invoices"] } })
    };
    for scopes in [json!(["orders:read", "orders:delete"]), json!(["x"])] {
        let answer = world.delegate(&token, &source, &target, with(scopes)).await;
        assert_eq!(answer.code(), (403, "delegation_scopes_exceed_resource"));
    }
    let union =
        world.delegate(&token, &source, &target, with(json!(["orders:read", "invoices:read"]))).await.ok();
    let both = json!(["resource://invoices", "resource://orders"]);
    assert_eq!(union["constraints_json"]["resources"], both, "by identifier, however they were named");
    assert_eq!(union["effective_authority"]["resources"], both);
}

#[tokio::test]
async fn coordinator_23_22_a_delegation_comes_from_one_chosen_parent_and_within_it() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (one, other) = pair(&world, &token).await;
    let (middle, leaf) = pair(&world, &token).await;
    let more = |hops: u32, ttl: u32| json!({ "constraints": { "max_hops": hops }, "ttl_seconds": ttl });
    let first = world.edge(&token, &one, &middle, more(3, 300)).await;
    let wider = json!({ "scopes": ["orders:write"], "ttl_seconds": 60 });
    let answer = world.delegate(&token, &middle, &leaf, wider).await;
    assert_eq!(answer.code(), (403, "delegation_exceeds_parent_authority"));
    let alone = world.delegate(&token, &middle, &leaf, more(2, 60)).await.ok();
    assert_eq!(text(&alone, "parent_edge_id"), first);
    let second = world.edge(&token, &other, &middle, more(5, 300)).await;
    let answer = world.delegate(&token, &middle, &leaf, more(2, 60)).await;
    assert_eq!(answer.code(), (409, "parent_delegation_ambiguous"));
    let named = |edge: &str| {
        let mut named = more(2, 60);
        named["parent_edge_id"] = json!(edge);
        world.delegate(&token, &middle, &leaf, named)
    };
    let chosen = named(&second).await.ok();
    assert_eq!(text(&chosen, "parent_edge_id"), second);
    assert_eq!(chosen["effective_authority"]["parent_edges_considered"], json!([second]));
    assert_eq!(chosen["allow_reason"][2], "parent_authority_narrowed");
    for edge in [&first, &second] {
        world.ask(Method::PATCH, &format!("/zones/z1/delegations/{edge}/revoke"), &token, None).await.ok();
        assert_eq!(named(edge).await.code(), (403, "parent_delegation_not_active"));
    }
    // What was bound stays bound: a lapsed delegation makes neither its receiver nor what is below it a root.
    let below = world.task(&token, Some(&middle), "none").await;
    for source in [&middle, &below] {
        let answer = world.delegate(&token, source, &leaf, more(1, 60)).await;
        assert_eq!(answer.code(), (403, "parent_delegation_not_active"));
    }
}

#[tokio::test]
async fn coordinator_23_23_no_cycles_no_strangers_and_nothing_that_is_over() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (first, second) = pair(&world, &token).await;
    let (third, over) = pair(&world, &token).await;
    let more = |hops: u32, ttl: u32| json!({ "constraints": { "max_hops": hops }, "ttl_seconds": ttl });
    world.edge(&token, &first, &second, more(5, 300)).await;
    world.edge(&token, &second, &third, more(4, 200)).await;
    let back = world.delegate(&token, &third, &first, more(3, 100)).await;
    assert_eq!(back.code(), (409, "delegation_cycle_denied"));
    let wrong = json!({ "receiver_application_id": "b" });
    let answer = world.delegate(&token, &first, &third, wrong).await;
    assert_eq!(answer.code(), (409, "delegation_application_mismatch"));
    let elsewhere = world.token("other", "").await;
    let body = Some(json!({ "application_id": "other" }));
    let foreign = world.ask(Method::POST, "/zones/z2/agents", &elsewhere, body).await.ok();
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{over}'")).await;
    for target in [over, text(&foreign, "agent_session_id"), "gone".to_owned()] {
        let answer = world.delegate(&token, &first, &target, json!({})).await;
        assert_eq!(answer.code(), (404, "delegation_endpoint_not_found"), "{target}");
    }
    world
        .sql(
            "INSERT INTO providers (id, zone_id, name, identifier, kind, created_at, updated_at) \
             VALUES ('p2', 'z2', 'p', 'p', 'caracal_mandate', 0, 0)",
        )
        .await;
    world
        .sql(
            "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, scopes_json, \
             credential_provider_id, created_at, updated_at) VALUES ('res-z2', 'z2', 'x', 'resource://z2', \
             'http://z2', '[\"orders:read\"]', 'p2', 0, 0)",
        )
        .await;
    for resource in ["res-z2", "resource://z2", "resource://archived", "resource://none"] {
        let answer = world.delegate(&token, &first, &third, json!({ "resource_id": resource })).await;
        assert_eq!(answer.code(), (404, "resource_not_found"), "{resource}");
    }
}
