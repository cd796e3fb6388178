//! What happens when the module traps: nothing passes, and it comes back.

use caracal_tests::{Options, Stack, Upstream, World, trapping_filter_module};
use reqwest::StatusCode;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_trapped_module_lets_nothing_pass_and_recovers() {
    let options = Options {
        filter: trapping_filter_module(),
        arguments: vec!["--envoy-workers".into(), "1".into()],
        ..Options::default()
    };
    let (stack, upstream) = (Stack::start_with(options).await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);

    let mandate = world.mint(&agent).await;
    let trapping = world
        .http
        .get(format!("{}/v1/orders", world.gateway))
        .header("x-caracal-resource", world.resource)
        .header("x-caracal-test-trap", "1")
        .bearer_auth(&mandate)
        .send()
        .await;
    if let Ok(answer) = trapping {
        assert!(answer.status().is_server_error(), "{}", answer.status());
    }
    assert_eq!(upstream.seen().len(), 1, "the request that trapped reached the upstream");

    // Until the module is back, every call is refused, with whatever mandate.
    let mut refused = 0;
    let mut passed = 1;
    let recovered = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let bare = world.http.get(format!("{}/v1/orders", world.gateway)).send().await.unwrap();
            assert!(!bare.status().is_success(), "a call without a mandate passed");
            if world.read(&world.mint(&agent).await).await.status() == StatusCode::OK {
                passed += 1;
                break;
            }
            refused += 1;
        }
    });
    recovered.await.expect("the module did not come back");
    assert!(refused > 0, "the trap was not noticed");
    assert_eq!(upstream.seen().len(), passed);
}
