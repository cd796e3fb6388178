//! What an operator sets while everything runs.

use caracal_tests::{Stack, Upstream, World};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

/// The STS looks every five seconds; far more than that is a fault.
const TRIES: u32 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_mint_limit_is_in_force_without_a_restart() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    assert_eq!(world.try_mint(&agent, "orders:read").await.status(), 200);
    let set = world.operate(Method::PUT, "/v1/mint-rate-limit", json!({ "limit_per_minute": 1 })).await;
    assert_eq!((&set["limit_per_minute"], &set["max_per_minute"]), (&json!(1), &json!(1000)));
    let mut refused = None;
    for _ in 0..TRIES {
        let answer = world.try_mint(&agent, "orders:read").await;
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = refused.expect("the limit is in force");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let body: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "provider_rate_limited");
}
