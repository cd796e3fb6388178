//! Contract sts §12 to §15 and §17: every resource, the operation floor, the budget, policy and time to live.

use crate::support::{Form, GatewayCall, LEDGER, ORDERS, World};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_12_what_is_skipped_and_what_aborts() {
    let world = World::new().await;
    let both = Form::bootstrap().and("resource", LEDGER);
    let cases = [
        (
            "unknown next to known",
            Form::bootstrap().and("resource", "resource://none"),
            Some(json!([ORDERS])),
        ),
        (
            "archived next to known",
            Form::bootstrap().and("resource", "resource://archived"),
            Some(json!([ORDERS])),
        ),
        (
            "a peer's next to one's own",
            Form::bootstrap().and("resource", "resource://peer"),
            Some(json!([ORDERS])),
        ),
        ("both", both, Some(json!([LEDGER, ORDERS]))),
        ("one by identifier and by row id", Form::bootstrap().and("resource", "R1"), Some(json!([ORDERS]))),
        ("by row id", Form::bootstrap().with("resource", "R1"), Some(json!([ORDERS]))),
        ("no upstream, so no lifecycle", Form::bootstrap().with("resource", "resource://nowhere"), None),
        ("unknown", Form::bootstrap().with("resource", "resource://none"), None),
        ("scope not declared", Form::bootstrap().with("scope", "agent:lifecycle orders:fly"), None),
        ("outside the delegation", Form::mint().with("resource", LEDGER).with("scope", "ledger:read"), None),
        ("outside the role", Form::mint().with("scope", "orders:write"), None),
        ("control next to known aborts", Form::bootstrap().and("resource", "caracal-control"), None),
    ];
    for (name, form, targets) in cases {
        let answer = world.exchange(&form).await;
        match targets {
            Some(targets) => {
                let claims = answer.claims();
                assert_eq!(
                    (&answer.body["target_resources"], &claims["target"]),
                    (&targets, &targets),
                    "{name}"
                );
            }
            None => assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_10_contract_12_4_operation_floor() {
    let world = World::new().await;
    let cases = [
        ("get", "/v1/orders", 200),
        ("GET", "/v1/orders ", 403),
        ("GET", " /v1/orders", 403),
        ("POST", "/v1/orders", 403),
        ("DELETE", "/v1/orders", 403),
        ("GET", "/v1/orders/", 403),
        ("GET", "/v1/orders/7", 403),
        ("", "", 403),
    ];
    for (method, path, status) in cases {
        let form =
            Form::usage(&world.mandate().await).with("request_method", method).with("request_path", path);
        let answer = world.send(GatewayCall::new(form).request()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        if status == 403 {
            assert_eq!(answer.body["error"], "operation_not_permitted");
        }
    }
    let ends = world.store.now() + 600_000;
    world.add_edge("EL", "P", "T", &format!("'R2', '[\"ledger:read\"]', '{{}}', 'active', {ends}")).await;
    let ledger =
        Form::mint().with("delegation_edge_id", "EL").with("scope", "ledger:read").with("resource", LEDGER);
    let token = world.exchange(&ledger).await.granted();
    let form = Form::usage(&token)
        .with("resource", LEDGER)
        .with("request_method", "PATCH")
        .with("request_path", "/any");
    let answer = world.send(GatewayCall::new(form).request()).await;
    assert_eq!(
        answer.body["upstreams"],
        json!({ LEDGER: { "url": "https://ledger.internal", "auth_mode": "none", "provider_id": "p-none" } }),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_05_contract_12_5_the_budget_of_mints() {
    let world = World::with_mint_limit(3).await;
    // At most one window ends meanwhile.
    let mut granted = 0;
    let mut refused = None;
    for _ in 0..7 {
        let answer = world.exchange(&Form::bootstrap()).await;
        if answer.status == 200 {
            granted += 1;
        } else {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the budget ends");
    assert!((3..=6).contains(&granted), "{granted}");
    assert_eq!(refused.error(), (429, "provider_rate_limited"));
    assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(world.verdicts(refused.header("x-request-id")).await, ["token_exchange deny/rate_limited"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_20_contract_12_8_a_provider_that_is_not_known_denies_and_burns_nothing() {
    let world = World::new().await;
    let ends = world.store.now() + 600_000;
    for (edge, resource, identifier, status, code) in [
        ("EK", "R4", "resource://keyed", 502, "http_request_failed"),
        ("EN", "R3", "resource://nowhere", 403, "access_denied"),
    ] {
        let scope = format!("{}:read", identifier.trim_start_matches("resource://"));
        world
            .add_edge(edge, "P", "T", &format!("'{resource}', '[\"{scope}\"]', '{{}}', 'active', {ends}"))
            .await;
        let mint =
            Form::mint().with("delegation_edge_id", edge).with("scope", &scope).with("resource", identifier);
        let token = world.exchange(&mint).await.granted();
        let call = GatewayCall::new(Form::usage(&token).with("resource", identifier));
        let answer = world.send(call.request()).await;
        assert_eq!(answer.error(), (status, code), "{}", answer.body);
        assert_eq!(world.verdicts(&call.request_id).await.len(), 1, "{identifier}");
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM used_once WHERE key LIKE 'mandate:%'").await, 0);
    world.sql("UPDATE providers SET archived_at = 1 WHERE id = 'p-mandate'").await;
    let answer = world.exchange(&Form::mint()).await;
    assert_eq!(answer.error(), (403, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_14_policy_counts_from_its_activation_on() {
    let world = World::new().await;
    let token = world.mandate().await;
    let narrowed = r#"package caracal.authz
import rego.v1
app_ids := {"orders-app": "a1"}
grants := {"resource://orders": {"application": "orders-app", "roles": {"reader": ["orders:write"]}}}
"#;
    world.activate("2", narrowed).await;
    let used = world.send(GatewayCall::new(Form::usage(&token)).request()).await;
    assert_eq!(
        (used.error(), used.description()),
        ((403, "access_denied"), "policy denied (role_scope_mismatch)")
    );
    assert_eq!(world.exchange(&Form::mint()).await.description(), "policy denied (role_scope_mismatch)");
    world.exchange(&Form::bootstrap()).await.granted();
    world.activate("3", &format!("{narrowed}\nrestrict := [\"all\"]\n")).await;
    assert_eq!(world.exchange(&Form::bootstrap()).await.description(), "policy denied (restriction_active)");
    let gated = r#"package caracal.authz
import rego.v1
app_ids := {"orders-app": "a1"}
grants := {"resource://orders": {"application": "orders-app", "roles": {"reader": ["orders:read"]}}}
risk := [{"scope": "orders:read", "tier": "high"}]
approval_tiers := [{"tier": "high"}]
"#;
    world.activate("4", gated).await;
    assert_eq!(
        world.exchange(&Form::mint()).await.error(),
        (401, "interaction_required"),
        "an approval is never skipped"
    );
    for (version, document) in [
        ("5", "package caracal.authz\nimport rego.v1\nresult := {\"decision\": \"allow\"}\n".to_owned()),
        ("6", "package caracal.authz\nimport rego.v1\napp_ids := {".to_owned()),
    ] {
        world.activate(version, &document).await;
        let answer = world.exchange(&Form::bootstrap()).await;
        assert_eq!(answer.error(), (503, "policy_eval_failed"), "{document}");
    }
    world.activate("7", narrowed).await;
    world.exchange(&Form::bootstrap()).await.granted();
    world
        .change(
            "UPDATE policy_set_versions SET manifest_sha256 = 'wrong' WHERE id = 'sv7'",
            caracal_store::change::Change::Policy,
        )
        .await;
    assert_eq!(world.exchange(&Form::bootstrap()).await.error(), (503, "policy_eval_failed"));
    world
        .change("UPDATE policy_sets SET active_version_id = NULL", caracal_store::change::Change::Policy)
        .await;
    assert_eq!(
        world.exchange(&Form::bootstrap()).await.description(),
        "policy denied (no_active_policy_set)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_16_contract_17_time_to_live() {
    let world = World::new().await;
    let cases = [
        ("default", Form::bootstrap(), (200, 900)),
        ("zero", Form::bootstrap().with("ttl_seconds", "0"), (200, 900)),
        ("one", Form::bootstrap().with("ttl_seconds", "1"), (200, 1)),
        ("most", Form::bootstrap().with("ttl_seconds", "3600"), (200, 3600)),
        ("too much", Form::bootstrap().with("ttl_seconds", "3601"), (400, 0)),
        ("negative", Form::bootstrap().with("ttl_seconds", "-1"), (400, 0)),
        ("far too much", Form::bootstrap().with("ttl_seconds", "9223372036854775807"), (400, 0)),
        ("capped by the edge's constraint", Form::mint(), (200, 300)),
        ("below it", Form::mint().with("ttl_seconds", "60"), (200, 60)),
    ];
    for (name, form, (status, seconds)) in cases {
        let answer = world.exchange(&form).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        if status == 200 {
            let claims = answer.claims();
            assert_eq!(answer.body["expires_in"], seconds, "{name}");
            assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), seconds, "{name}");
        }
    }
    // A gateway exchange: 900 at most, and never longer than the mandate that it rests on.
    let long = GatewayCall::new(Form::usage(&world.mandate().await).with("ttl_seconds", "901"));
    assert_eq!(world.send(long.request()).await.error(), (400, "invalid_token"));
    let short = world.exchange(&Form::mint().with("ttl_seconds", "60")).await;
    let used = world.send(GatewayCall::new(Form::usage(&short.granted())).request()).await;
    assert!(used.claims()["exp"].as_i64().unwrap() <= short.claims()["exp"].as_i64().unwrap());
    // The edge ends first.
    world
        .sql(&format!(
            "UPDATE delegation_edges SET expires_at = {} WHERE id = 'E'",
            world.store.now() + 30_000
        ))
        .await;
    let answer = world.exchange(&Form::mint()).await;
    assert!((1..=30).contains(&answer.body["expires_in"].as_i64().unwrap()), "{}", answer.body);
}
