//! The published verifier for resource servers, unmodified, beside the filter: it accepts what the filter forwards, and
//! refuses what the filter refuses.

use caracal_tests::{Script, Sidecar, Stack, Upstream, World, claims};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What the verifier says of a token: nothing, or a code.
async fn verdict(script: &mut Script, token: &str, asked: Value) -> Option<String> {
    let mut order = asked;
    order["token"] = token.into();
    let answer = script.ask(&order.to_string()).await;
    answer["code"].as_str().map(str::to_owned)
}

/// What the sidecar says.
async fn call(world: &World, sidecar: &Sidecar, method: Method, token: &str) -> u16 {
    let request = world.http.request(method, format!("{}/v1/orders", sidecar.url)).bearer_auth(token);
    request.send().await.unwrap().status().as_u16()
}

/// The token with another part in the place of one of its three.
fn with_part(token: &str, number: usize, part: &str) -> String {
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[number] = part;
    parts.join(".")
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_accepts_what_the_filter_forwards_and_refuses_what_it_refuses() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    let sidecar = Sidecar::start(&stack, &world.zone, world.resource, upstream.address).await;
    world.add_resource(sidecar.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    world.add_resource_named("resource://other", upstream.address).await;
    let other = Sidecar::start(&stack, &world.zone, "resource://other", upstream.address).await;
    let agent = world.agent().await;
    let gateway_mandate = world.mint(&agent).await;
    assert_eq!(world.read(&gateway_mandate).await.status(), StatusCode::OK);
    let authorization = upstream.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    let mandate = authorization.strip_prefix("Bearer ").unwrap();
    let issuer = claims(mandate)["iss"].as_str().unwrap().to_owned();
    let mut script = world.script(&["verify.py", &issuer]);

    // What was forwarded stands every test that a resource server can ask for.
    let everything = json!({
        "scopes": ["orders:read"], "targets": [world.resource], "session": true, "delegation": true,
        "chain": [world.application],
    });
    for asked in [json!({}), everything] {
        assert_eq!(verdict(&mut script, mandate, asked.clone()).await, None, "{asked}");
    }
    assert_eq!(call(&world, &sidecar, Method::GET, mandate).await, 200);

    // What both refuse, at the same door.
    let signature = mandate.rsplit('.').next().unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let forged = with_part(mandate, 2, &format!("{flipped}{}", signature.get(1..).unwrap()));
    let unsigned = with_part(mandate, 0, "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0");
    let session = world.bootstrap().await;
    for (name, token) in [
        ("a gateway's mandate", gateway_mandate.as_str()),
        ("a session's mandate", &session),
        ("a forged signature", &forged),
        ("no algorithm", &unsigned),
        ("no signature", &with_part(mandate, 2, "")),
        ("no token", "a.b.c"),
    ] {
        assert_eq!(verdict(&mut script, token, json!({})).await.as_deref(), Some("invalid_token"), "{name}");
        assert_eq!(call(&world, &sidecar, Method::GET, token).await, 401, "{name}");
    }

    // Another scope, another resource, another zone.
    let wider = verdict(&mut script, mandate, json!({ "scopes": ["orders:write"] })).await;
    assert_eq!(wider.as_deref(), Some("insufficient_scope"));
    assert_eq!(call(&world, &sidecar, Method::POST, mandate).await, 403);
    let elsewhere = verdict(&mut script, mandate, json!({ "audience": "resource://other" })).await;
    assert_eq!(elsewhere.as_deref(), Some("invalid_token"));
    assert_eq!(call(&world, &other, Method::GET, mandate).await, 401);
    let zone = world.operate(Method::POST, "/v1/zones", json!({ "name": "elsewhere" })).await;
    let keyless = verdict(&mut script, mandate, json!({ "zone": zone["id"] })).await;
    assert_eq!(keyless.as_deref(), Some("no_keys"));

    // An anchor is revoked: the filter hears of it by the feed, the verifier by its own store.
    world.end_session(&agent.bearer, &agent.root).await;
    while call(&world, &sidecar, Method::GET, mandate).await == 200 {
        tokio::task::yield_now().await;
    }
    let ended = verdict(&mut script, mandate, json!({ "revoked": [agent.session] })).await;
    assert_eq!(ended.as_deref(), Some("session_revoked"));
    script.end().await;
}
