//! Where the reference is weak (contract sts §27), and what is done instead. `docs/conformance.md` has the whole list.

use crate::approvals::OPERATOR;
use crate::internal_policy::signed;
use crate::support::{Form, PEER_SECRET, World, edge_revoked, revocation_of_edge};
use axum::body::Body;
use axum::http::Request;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_01_only_the_shapes_that_policy_knows_succeed() {
    let world = World::new().await;
    let direct = Form::bootstrap().with("scope", "orders:read");
    assert_eq!(world.exchange(&direct).await.description(), "policy denied (no_rule_matched)");
    let in_a_session = direct.with("agent_session_id", "T");
    assert_eq!(world.exchange(&in_a_session).await.description(), "policy denied (no_rule_matched)");
    world.exchange(&Form::bootstrap()).await.granted();
    world.present(&world.mandate().await).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_08_a_budget_that_nobody_would_keep_never_mints() {
    let world = World::new().await;
    world.sql(r#"UPDATE delegation_edges SET constraints_json = '{"budget":5}' WHERE id = 'E'"#).await;
    assert_eq!(world.exchange(&Form::mint()).await.error(), (403, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_09_authority_may_pass_through_three_applications() {
    let world = World::new().await;
    let ends = world.store.now() + 600_000;
    let terms = |hops: i32| format!("'R6', '[\"peer:read\"]', '{{\"max_hops\":{hops}}}', 'active', {ends}");
    world.sql("UPDATE applications SET zone_id = 'z1' WHERE id = 'b1'").await;
    // The grant is the last application's; the authority comes from the first.
    world
        .activate(
            "2",
            "package caracal.authz\nimport rego.v1\napp_ids := {\"last\": \"b1\"}\n\
             grants := {\"resource://peer\": {\"application\": \"last\", \"roles\": {\"reader\": [\"peer:read\"]}}}\n",
        )
        .await;
    world.sql("INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, status, expires_at, \
               authenticated_at, created_at) VALUES ('rec-b1', 'z1', 'application', 'b1', 'b1', 'active', 32503680000000, 0, 0)")
        .await;
    world.add_session("Z", "b1", r#"["reader"]"#).await;
    world.add_edge("one", "P", "X", &terms(2)).await;
    world.add_edge("two", "X", "Z", &terms(1)).await;
    world.sql("UPDATE delegation_edges SET parent_edge_id = 'one' WHERE id = 'two'").await;
    let form = Form::mint()
        .with("application_id", "b1")
        .with("scope", "peer:read")
        .with("resource", "resource://peer")
        .with("agent_session_id", "Z")
        .with("delegation_edge_id", "two");
    let claims = world.exchange(&form).await.claims();
    let applications: Vec<_> = claims["delegation_chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop["application_id"].clone())
        .collect();
    assert_eq!(applications, ["a1", "a2", "b1"]);
    world.sql("UPDATE delegation_edges SET issuer_application_id = 'a1' WHERE id = 'two'").await;
    assert_eq!(world.exchange(&form).await.error(), (403, "access_denied"), "a break in between is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_10_a_revocation_of_nothing_but_a_delegation_reaches_gateways_and_mints() {
    let world = World::new().await;
    let since = world.poll("gateway=g1").await.generation.0;
    world.revoke_edge("E").await;
    let told = world.poll(&format!("gateway=g1&since={since}")).await;
    let anchors: Vec<String> =
        told.zones[0].revoked.iter().map(|revoked| revoked.anchor.to_string()).collect();
    assert_eq!(anchors, ["delegation_edge:E"]);
    assert_eq!(world.exchange(&Form::mint()).await.error(), (403, "access_denied"));
    // Whoever hears of it twice is no worse off.
    world.change(&revocation_of_edge("E"), edge_revoked("E")).await;
    assert_eq!(
        world.poll(&format!("gateway=g1&since={since}")).await.zones[0].authority_epoch.0,
        told.zones[0].authority_epoch.0 + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_12_every_decision_names_the_contract_that_made_it() {
    let world = World::new().await;
    let contract = caracal_sts::policy::decision_contract_sha256();
    world.send(Form::mint().request_as("allowed")).await.granted();
    world.send(Form::bootstrap().with("resource", "resource://peer").request_as("denied")).await;
    for id in ["allowed", "denied"] {
        let events = world.events().await;
        let event = events.iter().find(|event| event["request_id"] == id).unwrap();
        assert_eq!(event["metadata_json"]["decision_contract_sha"], contract, "{id}");
        assert_eq!(event["policy_set_version_id"], "sv1", "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_13_a_verdict_without_policy_has_empty_lists_and_no_null() {
    let world = World::new().await;
    world.exchange(&Form::bootstrap().with("client_secret", "wrong")).await;
    world.exchange(&Form::mint()).await.granted();
    for event in world.events().await {
        assert!(
            event["determining_policies_json"].is_array() && event["diagnostics_json"].is_array(),
            "{event}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_17_a_derived_mandate_ends_with_what_it_rests_on() {
    let world = World::new().await;
    let short = world.exchange(&Form::mint().with("ttl_seconds", "45")).await;
    let derived = world.present(&short.granted()).await;
    assert!(derived.claims()["exp"].as_i64().unwrap() <= short.claims()["exp"].as_i64().unwrap());
    let sid = short.claims()["sid"].as_str().unwrap().to_owned();
    let parent = format!("SELECT COUNT(*) FROM authority_records WHERE parent_id = '{sid}'");
    assert_eq!(world.number(&parent).await, 1, "so that a revocation of the one reaches the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_20_a_hold_that_is_raised_before_anything_is_loaded_binds_the_active_policy() {
    let world = World::gated(OPERATOR).await.restarted().await;
    let (id, _) = world.held().await;
    world.operator("satisfied_at").await;
    world.exchange(&Form::mint().with("approval_id", &id)).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_22_the_status_tells_a_policy_from_the_want_of_one() {
    let world = World::new().await;
    let path = "/internal/policy/status/z1";
    world.exchange(&Form::bootstrap()).await.granted();
    let active = world.send(signed("GET", path, "", &world)).await.body;
    assert_eq!((&active["loaded"], active.get("fallback")), (&json!(true), None));
    world
        .change("UPDATE policy_sets SET active_version_id = NULL", caracal_store::change::Change::Policy)
        .await;
    world.exchange(&Form::bootstrap()).await;
    let none = world.send(signed("GET", path, "", &world)).await.body;
    assert_eq!((&none["loaded"], &none["fallback"]), (&json!(true), &json!("deny_all")));
    assert_eq!(none["manifest_sha256"], "no_active_policy_set");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_24_a_zone_that_never_signed_has_no_keys_until_it_does() {
    let world = World::new().await;
    let jwks = || Request::get("/.well-known/jwks.json?zone_id=z1").body(Body::empty()).unwrap();
    assert_eq!(world.send(jwks()).await.error(), (404, "resource_not_found"));
    let peer = Form::bootstrap().with("application_id", "a2").with("client_secret", PEER_SECRET);
    assert_eq!(world.exchange(&peer).await.status, 403, "nothing is granted");
    assert_eq!(world.send(jwks()).await.status, 404, "so nothing is made");
    world.mandate().await;
    assert_eq!(world.send(jwks()).await.body["keys"].as_array().unwrap().len(), 1);
}
