//! The official admin SDK 1.0.0, unmodified, against a running Admin API.

use caracal_tests::{Agent, Stack, Upstream, World, python};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use tokio::process::Command;

const GATE: &str = "risk := [{\"scope\": \"orders:write\", \"tier\": \"high\"}]\n\
                    approval_tiers := [{\"tier\": \"high\", \"approver\": \"operator\"}]\n";

/// A clerk below another, who asks to write and is held.
async fn held(world: &World) -> Agent {
    let bearer = world.bootstrap().await;
    let root = world.start_session(&bearer, json!({ "labels": ["clerk"] })).await;
    let child = json!({ "labels": ["clerk"], "parent_id": root, "parent_authority": "none" });
    let session = world.start_session(&bearer, child).await;
    let body = json!({
        "issuer_application_id": world.application, "receiver_application_id": world.application,
        "source_session_id": root, "target_session_id": session,
        "scopes": ["orders:read", "orders:write"], "resource_id": world.resource, "ttl_seconds": 300,
    });
    let answer = world.coordinate(Method::POST, "delegations", &bearer, Some(body)).await;
    let made: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let edge = made["delegation_edge_id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let agent = Agent { bearer, root, session, edge };
    assert!(!world.try_mint(&agent, "orders:write").await.status().is_success());
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_15_the_published_admin_sdk_drives_every_object() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    world.activate("gated", &world.policy(&world.application, "", GATE)).await;
    held(&world).await;
    let tree = held(&world).await;
    let tree = json!({ "root": tree.root, "session": tree.session, "edge": tree.edge }).to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/admin.py");
    let output = Command::new(python())
        .arg(script)
        .env("CARACAL_ADMIN_URL", &world.admin)
        .env("CARACAL_ADMIN_TOKEN", &world.admin_token)
        .env("CARACAL_COORDINATOR_URL", &world.coordinator)
        .env("CARACAL_COORDINATOR_TOKEN", stack.coordinator_token())
        .env("CARACAL_TREE", tree)
        .env("CARACAL_ZONE_ID", &world.zone)
        .env("CARACAL_APPLICATION_ID", &world.application)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    let binding =
        json!({ "env": "ORDERS_TOKEN", "resource": "resource://orders", "scopes": ["orders:read"] });
    let surface = json!({
        "patched": "third renamed", "machine": [true, "oauth2_client_credentials", ["client_secret"]],
        "governed": [true, ["pay:write"]], "activated": [true, true],
        "widened": ["pay:read", "pay:write"], "sets": ["application-grant-policy", "second"],
        "template": "resource-grants", "trusted": "https://people.example.com", "by_operator": true,
        "flow": true, "connection": ["active", "revoked", "unsupported"],
        "holds": ["pending", "pending", "high"], "decided": ["approved", "rejected"],
        "children": [true], "parent": true, "switched": ["suspended", "active"], "authority": [true, 1],
        "delegations": true, "both_ends": [["items", "next_cursor"], ["items", "next_cursor"]],
        "traversed": 1, "impact": [true, true], "revoked": 1, "ended": true,
        "never_called": [], "never_used": [],
    });
    let expected = json!({
        "zone": "sdk renamed", "zone_listed": true, "zone_gone": [404, "zone_not_found"],
        "secret_rotated": true, "secret_revealed": true, "registered": "dcr", "dcr": 1,
        "application_gone": [404, "application_not_found"],
        "resource_converged": true, "application_converged": true, "policy_converged": true, "versions": 1,
        "propagation": "loaded", "simulated": true, "validated": true, "invalid": [422, "invalid_rego"],
        "templates": 6, "provider": ["X-Other-Key", ["api_key"]],
        "bindings": [binding], "workload_secret": true, "blocked": [400, "invalid_credential_env"], "workloads": [],
        "grants": [[true, "active", "Orders"]], "grant_revoked": "revoked",
        "grant_wider": [403, "grant_scopes_exceed_resource"],
        "issuer_twice": [409, "subject_issuer_exists"], "issuer": "other", "issuers": [],
        "active": [true, 4], "events": true, "by_request": true, "explained": true,
        "cut": [true, 4, 2, 0], "cut_again": [0, 0, 0], "nobody": [404, "subject_not_found"],
        "sessions_left": [], "recorded": "POST",
    });
    let expected: Vec<_> = [&surface, &expected].iter().flat_map(|part| part.as_object().unwrap()).collect();
    for (what, value) in &expected {
        assert_eq!(&&outcome[*what], value, "{what} in {outcome}");
    }
    assert_eq!(outcome.as_object().unwrap().len(), expected.len(), "{outcome}");
    // What the SDK cut off, the gateway refuses, and the STS gives no more of.
    assert_eq!(world.read(&mandate).await.status(), 401);
    assert!(!world.try_mint(&agent, "orders:read").await.status().is_success());
}
