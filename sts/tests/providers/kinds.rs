//! Each kind's directive, and what a filter makes of it.

use super::idp::{Idp, PROVIDER, Script};
use super::support::World;
use caracal_mandate::upstream::Directive;
use serde_json::{Value, json};

fn expected(members: &Value) -> Value {
    let mut directive = json!({ "url": "https://orders.internal", "provider_id": PROVIDER });
    directive.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    directive
}

/// The header or parameter that a filter sends for this directive.
fn sent(directive: &Value) -> (Option<String>, Option<String>, bool) {
    let credential = Directive::from_json(directive).unwrap().credential("MANDATE").unwrap();
    let line = |pair: Option<(String, String)>, between: &str| {
        pair.map(|(name, value)| format!("{name}{between}{value}"))
    };
    (line(credential.header, ": "), line(credential.query, "="), credential.identity.is_some())
}

#[tokio::test]
async fn contract_sts_22_1_each_kind_and_what_the_filter_makes_of_it() {
    let cases = [
        ("none", json!({}), json!({}), json!({ "auth_mode": "none" }), (None, None, false)),
        (
            "caracal_mandate",
            json!({}),
            json!({}),
            json!({ "auth_mode": "caracal_jwt", "auth_header": "Authorization", "auth_scheme": "Bearer" }),
            (Some("authorization: Bearer MANDATE"), None, false),
        ),
        (
            "api_key",
            json!({ "header_name": "X-Api-Key", "allowed_token_hosts": ["Orders.internal"] }),
            json!({ "api_key": "k-1" }),
            json!({
                "auth_mode": "provider_apikey", "auth_location": "header", "auth_header": "X-Api-Key",
                "provider_token": "k-1", "allowed_token_hosts": ["orders.internal"],
            }),
            (Some("x-api-key: k-1"), None, false),
        ),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "key", "forward_caracal_identity": true }),
            json!({ "api_key": "k-1" }),
            json!({
                "auth_mode": "provider_apikey", "auth_location": "query", "query_param_name": "key",
                "provider_token": "k-1", "forward_caracal_identity": true,
            }),
            (None, Some("key=k-1"), true),
        ),
        (
            "bearer_token",
            json!({ "auth_header": "X-Token", "auth_scheme": "Token" }),
            json!({ "bearer_token": "t-1" }),
            json!({
                "auth_mode": "provider_oauth", "auth_header": "X-Token", "auth_scheme": "Token",
                "provider_token": "t-1",
            }),
            (Some("x-token: Token t-1"), None, false),
        ),
        (
            "http_basic",
            json!({ "username": "user" }),
            json!({ "password": "pass:word" }),
            json!({
                "auth_mode": "provider_oauth", "auth_header": "Authorization", "auth_scheme": "Basic",
                "provider_token": "dXNlcjpwYXNzOndvcmQ=",
            }),
            (Some("authorization: Basic dXNlcjpwYXNzOndvcmQ="), None, false),
        ),
    ];
    let world = World::new().await;
    for (kind, config, secrets, members, (header, query, identity)) in cases {
        world.provide(kind, &config, &secrets).await;
        let directive = world.directive().await;
        assert_eq!(directive, expected(&members), "{kind}");
        let wanted = (header.map(str::to_owned), query.map(str::to_owned), identity);
        assert_eq!(sent(&directive), wanted, "{kind}");
    }
}

#[tokio::test]
async fn contract_sts_22_3_a_service_token_with_its_end() {
    let idp = Idp::start(Script::token("svc-1", 7200)).await;
    let world = World::new().await.calling(idp.https.egress());
    world
        .provide("oauth2_client_credentials", &idp.client(&json!({})), &json!({ "client_secret": "s" }))
        .await;
    let before = world.store.now() / 1000;
    let mut directive = world.directive().await;
    let end = directive.as_object_mut().unwrap().remove("expires_at").unwrap().as_i64().unwrap();
    // What the provider says, but an hour at most.
    assert!((before + 3590..=before + 3700).contains(&end), "{before} {end}");
    let members = json!({
        "auth_mode": "provider_oauth", "auth_header": "Authorization", "auth_scheme": "Bearer",
        "provider_token": "svc-1",
    });
    assert_eq!(directive, expected(&members));
    assert_eq!(sent(&directive).0.as_deref(), Some("authorization: Bearer svc-1"));
}

#[tokio::test]
async fn contract_sts_28_20_what_cannot_be_used_denies() {
    let cases = [
        ("from_the_future", json!({}), json!({}), "provider_kind_unknown"),
        ("api_key", json!({}), json!({ "api_key": "k" }), "provider_config_invalid"),
        ("api_key", json!({ "header_name": "X" }), json!({}), "provider_secret_missing"),
        (
            "bearer_token",
            json!({ "auth_header": "Host" }),
            json!({ "bearer_token": "t" }),
            "provider_config_invalid",
        ),
        ("http_basic", json!({ "username": "u" }), json!({ "password": "" }), "provider_secret_missing"),
        ("bearer_token", json!({}), json!({ "bearer_token": 7 }), "provider_secret_sealed"),
    ];
    let world = World::new().await;
    for (kind, config, secrets, reason) in cases {
        world.provide(kind, &config, &secrets).await;
        let answer = world.use_one().await;
        assert_eq!(answer.error(), (502, "http_request_failed"), "{kind} {config}: {}", answer.body);
        assert!(answer.description().contains(reason), "{kind} {config}: {}", answer.description());
    }
}
