//! What a token endpoint may do wrong: nothing is granted, nothing is used up, and the reason is written down.

use super::idp::{Idp, Script};
use super::support::{Form, GatewayCall, World};
use caracal_store::egress::{Egress, EgressOptions};
use serde_json::{Value, json};

const SERVICE: &str = "oauth2_client_credentials";
const CLIENT_SECRET: &str = "cs-8d0e2b7a41";

async fn set_up(script: Script) -> (Idp, World) {
    let idp = Idp::start(script).await;
    let world = World::new().await.calling(idp.https.egress());
    world.provide(SERVICE, &idp.client(&json!({})), &json!({ "client_secret": CLIENT_SECRET })).await;
    (idp, world)
}

/// The `reason` of the event of the last unavailable credential.
async fn last_reason(world: &World) -> String {
    let events = world.events().await;
    let event = events
        .iter()
        .rfind(|event| event["evaluation_status"] == "provider_credential_unavailable")
        .expect("an event tells of it");
    assert_eq!((&event["event_type"], &event["decision"]), (&json!("token_exchange"), &json!("deny")));
    assert_eq!(event["metadata_json"]["resource"], "resource://orders");
    assert_eq!(event["metadata_json"]["provider_id"], super::idp::PROVIDER);
    event["metadata_json"]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn contract_sts_22_3_every_bad_answer_grants_nothing_and_uses_nothing_up() {
    let cases = [
        (Script::Json(500, json!({})), "token_endpoint_refused"),
        (Script::Json(401, json!({ "error": "invalid_client" })), "token_endpoint_refused"),
        (Script::Json(201, json!({ "access_token": "t" })), "token_endpoint_refused"),
        (Script::Json(200, json!({ "token_type": "Bearer" })), "token_response_invalid"),
        (Script::Json(200, json!({ "access_token": "" })), "token_response_invalid"),
        (Script::Json(200, json!({ "access_token": "a\nb" })), "token_response_invalid"),
        (Script::Text(200, "<html>".to_owned()), "token_response_invalid"),
        (Script::Json(200, json!({ "access_token": "t", "token_type": "mac" })), "token_type_unsupported"),
        (Script::Redirect("https://localhost/elsewhere".to_owned()), "egress_redirect_refused"),
        (Script::Long(70_000), "egress_response_too_large"),
    ];
    for (script, reason) in cases {
        let (idp, world) = set_up(script.clone()).await;
        let mandate = world.mandate().await;
        let records = world.number("SELECT COUNT(*) FROM authority_records").await;
        let answer = world.use_mandate(&mandate).await;
        assert_eq!(answer.error(), (502, "http_request_failed"), "{script:?}: {}", answer.body);
        assert!(answer.body.get("access_token").is_none() && answer.body.get("upstreams").is_none());
        assert_eq!(last_reason(&world).await, reason, "{script:?}");
        assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records, "{script:?}");
        // The mandate is as good as before.
        idp.says(Script::token("svc", 3600));
        let answer = world.use_mandate(&mandate).await;
        assert_eq!(answer.status, 200, "{script:?}: {}", answer.body);
        let said = format!("{:?} {}", world.events().await, answer.body);
        assert!(!said.contains(CLIENT_SECRET), "{script:?}");
    }
}

#[tokio::test]
async fn contract_sts_22_3_a_slow_endpoint_is_given_up() {
    let (idp, world) = set_up(Script::Never).await;
    assert_eq!(world.use_one().await.error(), (502, "http_request_failed"));
    assert_eq!(last_reason(&world).await, "egress_timeout");
    assert_eq!(idp.asked().len(), 1, "whoever waited to the end does not wait again");
}

#[tokio::test]
async fn contract_sts_22_3_who_may_be_called() {
    let idp = Idp::start(Script::token("svc", 3600)).await;
    let trusting = |loopback: &[&str]| {
        idp.https.egress_to(&loopback.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())
    };
    let strange = Egress::new(EgressOptions::new(&[], &["localhost".to_owned()], None).unwrap()).unwrap();
    let private = EgressOptions::new(&["localhost".to_owned()], &[], None).unwrap();
    let cases = [
        ("loopback without the option", trusting(&[]), idp.client(&json!({})), "egress_address_refused"),
        (
            "loopback is no private network",
            Egress::new(private).unwrap(),
            idp.client(&json!({})),
            "egress_address_refused",
        ),
        ("an authority that nobody trusts", strange, idp.client(&json!({})), "egress_connect_failed"),
        (
            "a host outside the list",
            trusting(&["localhost"]),
            idp.client(&json!({ "allowed_token_hosts": ["idp.example.com"] })),
            "provider_config_invalid",
        ),
        (
            "an address that hides another",
            trusting(&["localhost"]),
            idp.client(&json!({ "token_endpoint": "https://[64:ff9b::7f00:1]/token" })),
            "provider_config_invalid",
        ),
        (
            "no https",
            trusting(&["localhost"]),
            idp.client(&json!({ "token_endpoint": idp.https.url("/token").replace("https", "http") })),
            "provider_config_invalid",
        ),
        (
            "a name that leads nowhere",
            trusting(&["localhost"]),
            idp.client(&json!({ "token_endpoint": "https://nowhere.invalid/token" })),
            "egress_name_not_resolved",
        ),
    ];
    for (what, egress, config, reason) in cases {
        let world = World::new().await.calling(egress);
        world.provide(SERVICE, &config, &json!({ "client_secret": CLIENT_SECRET })).await;
        assert_eq!(world.use_one().await.error(), (502, "http_request_failed"), "{what}");
        assert_eq!(last_reason(&world).await, reason, "{what}");
    }
    assert!(idp.asked().is_empty());
}

#[tokio::test]
async fn contract_sts_22_3_what_may_pass_is_tried_twice_and_what_does_not_once() {
    for (script, attempts) in [(Script::Json(503, json!({})), 2), (Script::Json(400, json!({})), 1)] {
        let (idp, world) = set_up(script).await;
        assert_eq!(world.use_one().await.status, 502);
        assert_eq!(idp.asked().len(), attempts);
    }
}

#[tokio::test]
async fn contract_sts_22_3_five_failures_open_the_circuit() {
    let (idp, world) = set_up(Script::Json(400, json!({ "error": "invalid_client" }))).await;
    for _ in 0..5 {
        world.use_one().await;
        assert_eq!(last_reason(&world).await, "token_endpoint_refused");
    }
    idp.says(Script::token("svc", 3600));
    let mandate = world.mandate().await;
    assert_eq!(world.use_mandate(&mandate).await.error(), (502, "http_request_failed"));
    assert_eq!(last_reason(&world).await, "provider_circuit_open");
    assert_eq!(idp.asked().len(), 5, "nobody asks while it is open");
}

#[tokio::test]
async fn contract_sts_8_20_to_26_the_order_of_refusals_stays() {
    let (idp, world) = set_up(Script::token("svc", 3600)).await;
    let mandate = world.mandate().await;
    assert_eq!(world.use_mandate(&mandate).await.status, 200);
    // From here on nothing can be fetched, and nothing is at hand.
    idp.says(Script::Json(400, json!({})));
    let client = idp.client(&json!({ "scopes": ["other"] }));
    world.provide(SERVICE, &client, &json!({ "client_secret": CLIENT_SECRET })).await;
    assert_eq!(world.use_mandate(&mandate).await.error(), (401, "invalid_token"), "used up before");
    let fresh = world.mandate().await;
    let call = GatewayCall::new(Form::usage(&fresh));
    assert_eq!(world.send(call.request()).await.status, 502);
    assert_eq!(world.send(call.request()).await.error(), (401, "access_denied"), "the nonce was used");
    let elsewhere = Form::usage(&fresh).with("request_path", "/v1/other");
    let refused = world.send(GatewayCall::new(elsewhere).request()).await;
    assert_eq!(refused.error(), (403, "operation_not_permitted"));
    world.sql("UPDATE resources SET archived_at = 1 WHERE id = 'R1'").await;
    assert_eq!(world.use_mandate(&fresh).await.status, 403, "the resource is gone");
}

#[tokio::test]
async fn contract_sts_8_26_a_public_exchange_asks_no_provider() {
    let (idp, world) = set_up(Script::Never).await;
    let answer = world.exchange(&Form::mint()).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.get("upstreams").is_none() && idp.asked().is_empty());
}

#[tokio::test]
async fn contract_sts_26_1_what_changes_meanwhile_is_judged_and_fetched_anew() {
    let (idp, world) = set_up(Script::token("old", 3600)).await;
    let mandate = world.mandate().await;
    let call = world.call_that_waits(&idp, &mandate).await;
    world.provide(SERVICE, &idp.client(&json!({})), &json!({ "client_secret": "another" })).await;
    idp.answers_again();
    let answer = call.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(idp.asked().len(), 2, "what was fetched with the old secret is not handed out");
    let mandate = world.mandate().await;
    idp.says(Script::token("new", 3600));
    world.provide(SERVICE, &idp.client(&json!({ "scopes": ["s"] })), &json!({ "client_secret": "a" })).await;
    let call = world.call_that_waits(&idp, &mandate).await;
    world.revoke_edge("E").await;
    idp.answers_again();
    let answer = call.await.unwrap();
    assert_eq!(answer.status, 403, "nothing is granted on what was revoked meanwhile: {}", answer.body);
    assert_eq!(answer.body.get("upstreams"), None::<&Value>);
}
