//! Introspection (RFC 7662), revocation (RFC 7009), metadata (RFC 8414).

use crate::support::{Answer, FORM, Form, GatewayCall, ISSUER, PEER_SECRET, SECRET, World};
use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use serde_json::json;

impl World {
    async fn ask(&self, path: &str, client: (&str, &str), token: &str) -> Answer {
        let pairs = [("application_id", client.0), ("client_secret", client.1), ("token", token)];
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let request = Request::post(path).header("content-type", FORM);
        self.send(request.body(Body::from(form)).unwrap()).await
    }

    async fn active(&self, token: &str) -> bool {
        let answer = self.ask("/oauth/2/introspect", ("a1", SECRET), token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("cache-control"), "no-store");
        let active = answer.body["active"].as_bool().unwrap();
        assert!(active || answer.body == json!({ "active": false }), "{}", answer.body);
        active
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc_7662_a_mandate_is_active_as_long_as_all_that_it_rests_on_stands() {
    let world = World::new().await;
    let session = world.exchange(&Form::bootstrap()).await.granted();
    let mandate = world.mandate().await;
    let used = world.send(GatewayCall::new(Form::usage(&mandate)).request()).await.granted();
    for token in [&session, &mandate, &used] {
        assert!(world.active(token).await);
    }
    let answer = world.ask("/oauth/2/introspect", ("a2", PEER_SECRET), &mandate).await;
    assert_eq!((&answer.body["client_id"], &answer.body["iss"]), (&json!("a1"), &json!(ISSUER)));
    assert!(!world.active("a.b.c").await);
    assert!(!world.active(&format!("{mandate}x")).await);
    let elsewhere = world.ask("/oauth/2/introspect", ("b1", SECRET), &mandate).await;
    assert_eq!(elsewhere.body, json!({ "active": false }), "another zone's");
    world.revoke_edge("E").await;
    assert!(world.active(&session).await);
    assert!(!world.active(&mandate).await && !world.active(&used).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc_7009_revocation_takes_all_that_came_of_a_mandate() {
    let world = World::new().await;
    let mandate = world.mandate().await;
    let used = world.send(GatewayCall::new(Form::usage(&mandate)).request()).await.granted();
    let peer = world.ask("/oauth/2/revoke", ("a2", PEER_SECRET), &mandate).await;
    assert_eq!(peer.error(), (403, "access_denied"));
    assert!(world.active(&mandate).await);
    let before = world.number("SELECT value FROM sequences WHERE name = 'change_log'").await;
    for token in [mandate.as_str(), mandate.as_str(), "a.b.c"] {
        assert_eq!(world.ask("/oauth/2/revoke", ("a1", SECRET), token).await.status, 200);
    }
    assert!(!world.active(&mandate).await && !world.active(&used).await);
    assert_eq!(world.number("SELECT COUNT(*) FROM revoked_anchors WHERE kind = 'authority_record'").await, 2);
    let after = world.number("SELECT value FROM sequences WHERE name = 'change_log'").await;
    assert_eq!(after, before + 1, "one change for all of it, and none for what is over");
    let again = world.send(GatewayCall::new(Form::usage(&mandate)).request()).await;
    assert_ne!(again.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc_7662_and_7009_only_a_client_is_answered() {
    let world = World::new().await;
    for path in ["/oauth/2/introspect", "/oauth/2/revoke"] {
        for client in [("a1", "wrong"), ("nobody", SECRET), ("gone", SECRET), ("a3", "")] {
            let answer = world.ask(path, client, "a.b.c").await;
            assert_eq!(answer.error(), (401, "access_denied"), "{path} {client:?}");
        }
        assert_eq!(world.ask(path, ("a1", SECRET), "").await.error(), (400, "invalid_token"), "{path}");
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("a1:{SECRET}"));
        let request = Request::post(path)
            .header("content-type", FORM)
            .header("authorization", format!("Basic {basic}"));
        assert_eq!(world.send(request.body(Body::from("token=x")).unwrap()).await.status, 200, "{path}");
    }
    for _ in 0..61 {
        world.ask("/oauth/2/introspect", ("a2", "wrong"), "x").await;
    }
    assert_eq!(world.ask("/oauth/2/introspect", ("a2", PEER_SECRET), "x").await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc_8414_the_metadata_name_what_is_there() {
    let world = World::new().await;
    let path = "/.well-known/oauth-authorization-server";
    let answer = world.send(Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status, &answer.body["issuer"]), (200, &json!(ISSUER)));
    assert_eq!(answer.body["token_endpoint"], format!("{ISSUER}/oauth/2/token"));
    assert_eq!(answer.body["revocation_endpoint"], format!("{ISSUER}/oauth/2/revoke"));
}
