//! Mandates that may be used more than once: what the gateway decides alone, and what it asks the STS.

use caracal_tests::{Agent, Stack, Upstream, World, claims};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// A zone whose resource takes mandates more than once, with a provider of this kind.
async fn multi_use(stack: &Stack, upstream: &Upstream, kind: &str) -> World {
    let world = World::configure(stack, upstream).await;
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let resource = world.path(&format!("resources/{}", resources["items"][0]["id"].as_str().unwrap()));
    let provider =
        world.operate(Method::POST, &world.path("providers"), json!({ "name": "p", "kind": kind })).await;
    let body = json!({ "mandate_use": "multi", "credential_provider_id": provider["id"] });
    world.operate(Method::PATCH, &resource, body).await;
    world
}

/// Waits until the ledger holds `count` events that `query` selects.
async fn events(world: &World, query: &str, count: usize) -> Vec<Value> {
    let all = async {
        loop {
            let events = world.audit(query).await;
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the events never came")
}

/// Who decided the requests, the newest first.
async fn deciders(world: &World, count: usize) -> Vec<String> {
    let events = events(world, "event_type=gateway_resource_request", count).await;
    let by = |event: &Value| event["metadata_json"]["decided_by"].as_str().unwrap_or_default().to_owned();
    events.iter().map(by).collect()
}

/// How many workers this Envoy has at most: one for each processor.
fn workers() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

async fn reads(world: &World, mandate: &str, times: usize) {
    for _ in 0..times {
        let answer = world.read(mandate).await;
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }
}

/// Reads until the gateway has heard of what makes it answer otherwise.
async fn reads_until(world: &World, mandate: &str, status: StatusCode) -> Value {
    let told = async {
        loop {
            let answer = world.read(mandate).await;
            if answer.status() == status {
                return answer.json().await.unwrap();
            }
            assert_eq!(answer.status(), StatusCode::OK);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the gateway never heard of it")
}

async fn forbid(world: &World) {
    let nobody =
        world.policy(&world.application, "", "").replace("reader", "nobody").replace("clerk", "none");
    world.activate("nobody", &nobody).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_reaches_an_upstream_without_a_credential_alone() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = multi_use(&stack, &upstream, "none").await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    assert_eq!(claims(&mandate)["multi_use"], true);
    reads(&world, &mandate, 5).await;
    let seen = upstream.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "the mandate stays here");
    assert!(deciders(&world, 5).await.iter().all(|by| by == "filter"));
    let refused = world.call(Method::POST, "/v1/orders", &mandate).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    world.end_session(&agent.bearer, &agent.root).await;
    let body = reads_until(&world, &mandate, StatusCode::UNAUTHORIZED).await;
    assert_eq!(body["error_description"], "session revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_asks_for_a_derived_mandate_once() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = multi_use(&stack, &upstream, "caracal_mandate").await;
    let Agent { bearer, root, .. } = &world.agent().await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    reads(&world, &mandate, 30).await;
    let seen = upstream.seen();
    let carried: Vec<&str> =
        seen.iter().map(|seen| seen.headers["authorization"].to_str().unwrap()).collect();
    let distinct: std::collections::HashSet<&&str> = carried.iter().collect();
    assert!(distinct.len() <= workers(), "a derived mandate is used again");
    let derived = claims(carried[0].strip_prefix("Bearer ").unwrap());
    assert_eq!((&derived["use"], &derived["aud"]), (&json!("resource"), &json!([world.resource])));
    let by = deciders(&world, 30).await;
    assert!(by.iter().filter(|by| *by == "sts").count() <= workers(), "every worker asks once: {by:?}");
    // Another session's end changes nothing for this one; its own does.
    world.end_session(bearer, root).await;
    reads(&world, &mandate, 1).await;
    world.end_session(&agent.bearer, &agent.root).await;
    reads_until(&world, &mandate, StatusCode::UNAUTHORIZED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_asks_once_for_each_mandate_after_a_change_of_policy() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = multi_use(&stack, &upstream, "none").await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    reads(&world, &mandate, 1).await;
    world.activate("same", &world.policy(&world.application, "", "")).await;
    // The gateway hears of it at its own time; from then on it asks once.
    let asked = async {
        while world.audit("event_type=mandate_check").await.is_empty() {
            reads(&world, &mandate, 1).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("the gateway never asked");
    reads(&world, &mandate, 30).await;
    let checks = events(&world, "event_type=mandate_check", 1).await;
    assert!(checks.len() <= workers(), "every worker asks once: {checks:?}");
    assert!(checks.iter().all(|check| check["decision"] == "allow"));

    forbid(&world).await;
    let body = reads_until(&world, &mandate, StatusCode::FORBIDDEN).await;
    assert_eq!(body["error"], "access_denied");
    for _ in 0..30 {
        assert_eq!(world.read(&mandate).await.status(), StatusCode::FORBIDDEN);
    }
    let denied = events(&world, "event_type=mandate_check&decision=deny", 1).await;
    assert!(denied.len() <= workers(), "a refusal by policy is remembered: {denied:?}");
}
