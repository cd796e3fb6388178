//! The official admin SDK 1.0.0, unmodified, against a running Admin API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use caracal_tests::{Stack, Upstream, World, python};
use serde_json::{Value, json};
use std::path::Path;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_15_the_published_admin_sdk_drives_every_object() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/admin.py");
    let output = Command::new(python())
        .arg(script)
        .env("CARACAL_ADMIN_URL", &world.admin)
        .env("CARACAL_ADMIN_TOKEN", &world.admin_token)
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
        "active": [true, 2], "events": true, "by_request": true, "explained": true,
        "cut": [true, 2, 1, 0], "cut_again": [0, 0, 0], "nobody": [404, "subject_not_found"],
        "sessions_left": [], "recorded": "POST",
    });
    for (what, value) in expected.as_object().unwrap() {
        assert_eq!(&outcome[what], value, "{what} in {outcome}");
    }
    assert_eq!(outcome.as_object().unwrap().len(), expected.as_object().unwrap().len(), "{outcome}");
    // What the SDK cut off, the gateway refuses, and the STS gives no more of.
    assert_eq!(world.read(&mandate).await.status(), 401);
    assert!(!world.try_mint(&agent, "orders:read").await.status().is_success());
}
