//! What authority a session of the official Python SDK 1.0.0 has: inherited, handed over by a peer, or its
//! application's own.

use caracal_tests::{Script, Stack, Upstream, World};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread")]
async fn sdk_inherits_down_three_levels_and_still_mints() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let mut script = world.script(&["inherit.py"]);
    let outcome = script.said().await;
    script.end().await;
    // With one hop the last allowed one is inherited and cannot be handed on; with six there is room below.
    for (case, again) in [("one_hop", "delegation_exceeds_parent_authority"), ("six_hops", "done")] {
        let outcome = &outcome[case];
        let levels = outcome["levels"].as_array().unwrap();
        assert_eq!(levels.len(), 4, "{outcome}");
        let edges: BTreeSet<&str> =
            levels.iter().map(|level| level["delegation"].as_str().unwrap()).collect();
        assert_eq!(edges.len(), 4, "each level has an edge of its own: {outcome}");
        for (depth, level) in levels.iter().enumerate() {
            assert_eq!(level["hop"], depth + 1, "{outcome}");
            assert_eq!(
                (&level["call"], &level["wider"]),
                (&json!(200), &json!("access_denied")),
                "{outcome}"
            );
        }
        assert_eq!(outcome["narrowed_again"], again, "{outcome}");
        assert_eq!(outcome["widened"], "delegation_exceeds_parent_authority", "{outcome}");
        assert_eq!(outcome["free_below"], "access_denied", "{outcome}");
        assert_eq!(outcome["after_end"], json!(vec!["access_denied"; 4]), "{outcome}");
    }
    assert_eq!(upstream.seen().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_delegates_to_a_peer_application_and_takes_it_back() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let peer = world.add_application("peer").await;
    // The peer owns the resource and reads by its role; with what, it has to be handed. The issuer owns another one.
    world.add_resource_named("resource://ledger", upstream.address).await;
    let policy = world
        .policy(&peer.application, "", "")
        .replace("app_ids := {", &format!("app_ids := {{\"issuer\": \"{}\", ", world.application))
        .replace(
            "grants := {",
            "grants := {\"resource://ledger\": {\"application\": \"issuer\", \"roles\": {}}, ",
        );
    world.activate("peers", &policy).await;
    let mut issuer = world.script(&["peer.py", "issuer", "resource://ledger"]);
    let mut receiver = Script::start(&world, &peer, &["peer.py", "receiver"]);
    let started = receiver.said().await;
    assert_eq!(started["without"], "access_denied", "{started}");
    let session = started["session"].as_str().unwrap();
    let handed = issuer.ask(&format!("{session} {}", peer.application)).await;
    assert_eq!(handed["refused"], "delegation_scopes_exceed_resource", "{handed}");
    assert_eq!(handed["scopes"], json!(["orders:read"]));
    let accepted = receiver.ask(handed["delegation"].as_str().unwrap()).await;
    let expected = json!({ "call": 200, "hop": 1, "wider": "access_denied", "below": 200 });
    assert_eq!(accepted, expected);
    assert_eq!(upstream.seen().len(), 2);
    let revoked = issuer.ask("revoke").await;
    assert_eq!(revoked["again"], "delegation_not_found", "{revoked}");
    let cut = receiver.ask("again").await;
    // The reference ends the receiver's session with the delegation. Here it lives on, but as one that lost what bound
    // it: nobody inherits from it.
    let expected = json!({
        "held": [401, "invalid_token"], "mint": "access_denied", "accept": "RuntimeError",
        "inheriting_child": "inherit_parent_edge_not_active", "bare_child": "done",
    });
    assert_eq!(cut, expected);
    issuer.tell("end").await;
    issuer.end().await;
    receiver.end().await;
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_application_transport_calls_as_the_application() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let own = format!(", \"{}\": [\"orders:read\"]", world.application);
    world.activate("own", &world.policy(&world.application, &own, "")).await;
    let mut script = world.script(&["application_transport.py"]);
    let outcome = script.said().await;
    script.end().await;
    assert_eq!(outcome["together"], json!(vec![200; 4]), "{outcome}");
    assert_eq!((&outcome["written"], &outcome["default"]), (&json!(200), &json!(200)), "{outcome}");
    assert_eq!(outcome["no_role"], "access_denied", "{outcome}");
    assert_eq!(outcome["no_scope"], "delegation_scopes_exceed_resource", "{outcome}");
    assert_eq!(upstream.seen().len(), 6);
    // Every request had a mandate of its own.
    let used: BTreeSet<String> = upstream
        .seen()
        .iter()
        .map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(used.len(), 6);
    // Closing the client ended every session that it had started.
    let bearer = world.bootstrap().await;
    let list = world.coordinate(Method::GET, "agents?limit=100", &bearer, None).await;
    let list: Value = list.json().await.unwrap();
    let sessions = list["items"].as_array().unwrap();
    assert_eq!(sessions.len(), 10, "{list}");
    assert!(sessions.iter().all(|session| session["status"] == "terminated"), "{list}");
}
