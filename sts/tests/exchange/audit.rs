//! Contract sts §25: every decision leaves its event, and nothing secret is ever stored.

use crate::support::{Form, GatewayCall, LEDGER, ORDERS, PEER_SECRET, SECRET, World, claims_of};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_18_contract_25_3_every_verdict_has_its_event() {
    let world = World::new().await;
    let form = Form::bootstrap();
    let cases: Vec<(Form, &[&str])> = vec![
        (form.clone(), &["allow/complete"]),
        (Form::mint(), &["allow/complete"]),
        (form.clone().with("client_secret", "wrong"), &["deny/client_authentication_failed"]),
        (form.clone().with("application_id", "b1"), &["deny/zone_invalid"]),
        (form.clone().with("application_id", "nobody"), &[]),
        (form.clone().with("resource", "resource://none"), &["deny/resource_not_found"]),
        (form.clone().with("scope", "agent:lifecycle orders:fly"), &["deny/scope_mismatch"]),
        (form.clone().with("resource", "resource://peer"), &["deny/complete"]),
        (form.clone().with("resource", "caracal-control"), &["deny/control_resource_requires_control_key"]),
        (form.clone().and("resource", "resource://none"), &["deny/resource_not_found", "allow/complete"]),
        (form.clone().with("session_id", "rec-a2"), &["deny/binding_rejected"]),
        (Form::mint().with("agent_session_id", "Y"), &["deny/binding_rejected"]),
        (Form::mint().with("resource", LEDGER).with("scope", "ledger:read"), &["deny/binding_rejected"]),
    ];
    for (number, (form, expected)) in cases.into_iter().enumerate() {
        let id = format!("request-{number}");
        world.send(form.request_as(&id)).await;
        let expected: Vec<_> = expected.iter().map(|verdict| format!("token_exchange {verdict}")).collect();
        assert_eq!(world.verdicts(&id).await, expected, "{form:?}");
    }
    let token = world.mandate().await;
    let usages: Vec<(Form, &str)> = vec![
        (Form::usage("a.b.c"), "deny/subject_rejected"),
        (Form::usage(&token).with("agent_session_id", "Y"), "deny/subject_rejected"),
        (Form::usage(&token).with("request_method", "POST"), "deny/operation_not_permitted"),
        (Form::usage(&token).with("resource", LEDGER), "deny/resource_outside_delegation"),
        (Form::usage(&token), "allow/complete"),
    ];
    for (form, expected) in usages {
        let call = GatewayCall::new(form);
        world.send(call.request()).await;
        assert_eq!(world.verdicts(&call.request_id).await, [format!("token_exchange {expected}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_25_2_the_event_of_a_use() {
    let world = World::new().await;
    let token = world.mandate().await;
    let call = GatewayCall::new(Form::usage(&token));
    world.send(call.request()).await.granted();
    let events = world.events().await;
    let event = events.iter().find(|event| event["request_id"] == call.request_id.as_str()).unwrap();
    assert_eq!(event["zone_id"], "z1");
    assert_eq!(event["determining_policies_json"], json!([{ "policy": "caracal-orders-app-use" }]));
    assert_eq!(event["policy_set_version_id"], "sv1");
    assert_eq!(event["manifest_sha"].as_str().unwrap().len(), 64);
    assert_eq!(
        event["metadata_json"],
        json!({
            "application_id": "a1", "application_name": "Orders", "application_registration_method": "managed",
            "resource": ORDERS, "requested_scopes": [], "subject_kind": "application", "method": "GET",
            "carried_scopes": ["orders:read"],
            "decision_contract_sha": caracal_sts::policy::decision_contract_sha256(),
            "session_id": claims_of(&token)["sid"], "agent_session_id": "T", "agent_lifecycle": "task",
            "agent_labels": ["reader"], "agent_depth": 0, "delegation_edge_id": "E", "delegation_hop_count": 1,
            "delegation_graph_epoch": 7, "delegation_chain": claims_of(&token)["delegation_chain"],
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_token_is_stored_anywhere() {
    let world = World::new().await;
    let mut told = vec![SECRET.to_owned(), PEER_SECRET.to_owned(), "wrong-but-nearly".to_owned()];
    let mandate = world.mandate().await;
    told.push(world.exchange(&Form::bootstrap()).await.granted());
    world.exchange(&Form::bootstrap().with("client_secret", "wrong-but-nearly")).await;
    world.exchange(&Form::bootstrap().with("application_id", "b1")).await;
    for form in [
        Form::usage(&mandate).with("request_method", "PUT"),
        Form::usage(&mandate),
        Form::usage(&mandate),
        Form::usage(&format!("{mandate}x")),
    ] {
        let answer = world.send(GatewayCall::new(form).request()).await;
        told.extend(answer.body["access_token"].as_str().map(str::to_owned));
    }
    told.push(mandate);
    let stored = world.everything_stored().await;
    assert!(stored.contains("replay_detected") && stored.contains("applications: a1"), "the dump is whole");
    for secret in told {
        let signature = secret.rsplit('.').next().unwrap();
        let payload = secret.split('.').nth(1).unwrap_or(signature);
        for part in [signature, payload] {
            assert!(!stored.contains(part), "found in a row, {} characters long", part.len());
        }
    }
    assert!(!stored.contains("PRIVATE KEY"));
}
