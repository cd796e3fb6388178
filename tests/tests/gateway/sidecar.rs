//! The role `resource`: an Envoy in front of one service, which decides alone; and configurations that Envoy refuses.

use caracal_envoy::render;
use caracal_tests::{
    Sidecar, Stack, Upstream, World, change_filter, gateway_key, refused, sidecar_bootstrap, sidecar_options,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

async fn call(world: &World, sidecar: &Sidecar, method: Method, mandate: &str) -> StatusCode {
    let request = world.http.request(method, format!("{}/v1/orders", sidecar.url)).bearer_auth(mandate);
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_decides_alone_and_learns_of_revocation() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    let sidecar = Sidecar::start(&stack, &world.zone, world.resource, upstream.address).await;
    world.add_resource(sidecar.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let agent = world.agent().await;

    // Agent, gateway, sidecar, service.
    let mandate = world.mint(&agent).await;
    assert_eq!(world.read(&mandate).await.status(), StatusCode::OK);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    let authorization = seen[0].headers["authorization"].to_str().unwrap().to_owned();
    let resource_mandate = authorization.strip_prefix("Bearer ").unwrap();

    // The mandate of the gateway is none for the service; its own one is good for what it says, more than once.
    let bare = world.http.get(format!("{}/v1/orders", sidecar.url)).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        call(&world, &sidecar, Method::GET, &world.mint(&agent).await).await,
        StatusCode::UNAUTHORIZED
    );
    for _ in 0..3 {
        assert_eq!(call(&world, &sidecar, Method::GET, resource_mandate).await, StatusCode::OK);
    }
    assert_eq!(call(&world, &sidecar, Method::POST, resource_mandate).await, StatusCode::FORBIDDEN);
    assert_eq!(upstream.seen().len(), 4);

    world.end_session(&agent.bearer, &agent.root).await;
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        while call(&world, &sidecar, Method::GET, resource_mandate).await == StatusCode::OK {
            tokio::task::yield_now().await;
        }
    });
    told.await.expect("the sidecar never heard of the revocation");
    assert_eq!(call(&world, &sidecar, Method::GET, resource_mandate).await, StatusCode::UNAUTHORIZED);
}

/// Calls until the answer is another than it was; returns that.
async fn called_until(world: &World, sidecar: &Sidecar, mandate: &str, before: StatusCode) -> StatusCode {
    let told = async {
        loop {
            let status = call(world, sidecar, Method::GET, mandate).await;
            if status != before {
                return status;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the sidecar never heard of it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_in_doubt_asks_the_sts() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    let sidecar = Sidecar::start(&stack, &world.zone, world.resource, upstream.address).await;
    world.add_resource(sidecar.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let agent = world.agent().await;
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);
    let authorization = upstream.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    let mandate = authorization.strip_prefix("Bearer ").unwrap();
    assert_eq!(call(&world, &sidecar, Method::GET, mandate).await, StatusCode::OK);

    world.activate("same", &world.policy(&world.application, "", "")).await;
    let asked = async {
        while world.audit("event_type=mandate_check").await.is_empty() {
            assert_eq!(call(&world, &sidecar, Method::GET, mandate).await, StatusCode::OK);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("the sidecar never asked");
    for _ in 0..3 {
        assert_eq!(call(&world, &sidecar, Method::GET, mandate).await, StatusCode::OK);
    }
    assert_eq!(world.audit("event_type=mandate_check").await.len(), 1);

    let nobody =
        world.policy(&world.application, "", "").replace("reader", "nobody").replace("clerk", "none");
    world.activate("nobody", &nobody).await;
    let status = called_until(&world, &sidecar, mandate, StatusCode::OK).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_the_sts_denies_what_is_in_doubt_and_nothing_else() {
    let (mut stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    let mut options = sidecar_options(&stack, &world.zone, world.resource, upstream.address);
    options.max_feed_age_ms = 600_000;
    let sidecar = Sidecar::start_with(&stack, &render(&options), 401).await;
    world.add_resource(sidecar.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let agent = world.agent().await;
    let mut mandates = Vec::new();
    for number in 0..2 {
        assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);
        let authorization = upstream.seen()[number].headers["authorization"].to_str().unwrap().to_owned();
        mandates.push(authorization.strip_prefix("Bearer ").unwrap().to_owned());
    }
    // One is checked under the new policy before the STS is gone, the other is not.
    world.activate("same", &world.policy(&world.application, "", "")).await;
    let asked = async {
        while world.audit("event_type=mandate_check").await.is_empty() {
            assert_eq!(call(&world, &sidecar, Method::GET, &mandates[0]).await, StatusCode::OK);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("the sidecar never asked");
    assert_eq!(call(&world, &sidecar, Method::GET, &mandates[0]).await, StatusCode::OK);
    stack.kill().await;
    for _ in 0..5 {
        assert_eq!(call(&world, &sidecar, Method::GET, &mandates[0]).await, StatusCode::OK);
        let request = world.http.get(format!("{}/v1/orders", sidecar.url)).bearer_auth(&mandates[1]);
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error_description"], "policy changed since this mandate was minted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_refuses_a_bad_configuration_and_names_the_field() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let good = sidecar_bootstrap(&stack, "z1", "resource://orders", upstream.address);
    let key = gateway_key(&stack);
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 4] = [
        (|configuration| configuration["rolle"] = "resource".into(), "rolle"),
        (|configuration| configuration["role"] = "door".into(), "role"),
        (|configuration| configuration["gateway_id"] = "a b".into(), "gateway_id"),
        (|configuration| configuration["max_feed_age_ms"] = "soon".into(), "max_feed_age_ms"),
    ];
    for (change, field) in cases {
        let mut bootstrap = good.clone();
        change_filter(&mut bootstrap, change);
        let output = refused(&bootstrap, &key).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{field}");
        assert!(errors.contains("refused to start") && errors.contains(field), "{field}: {errors}");
    }
    for (key, what) in [("", "missing"), ("abc", "hexadecimal"), ("abcd", "shorter")] {
        let output = refused(&good, key).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains("CARACAL_GATEWAY_STS_HMAC_KEY"),
            "{what}: {errors}"
        );
    }
}
