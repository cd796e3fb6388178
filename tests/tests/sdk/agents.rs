//! The official Python SDK 1.0.0, unmodified, against everything that is real.

use caracal_tests::{Stack, Upstream, World};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn session_narrowed_child_call_replay_and_end() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let mut script = world.script(&["session.py"]);
    let outcome = script.said().await;
    script.end().await;
    assert_eq!(outcome["root_delegation"], Value::Null, "{outcome}");
    assert!(outcome["child_delegation"].is_string());
    assert_eq!(outcome["hop"], 1);
    assert_eq!(outcome["fetch"], json!([200, { "orders": [] }]));
    assert_eq!(outcome["first_use"], 200);
    assert_eq!(outcome["replay"], json!([401, "invalid_token"]));
    assert_eq!(outcome["wider"], "access_denied");
    assert!(outcome["grandchild_delegation"].is_string());
    assert_eq!(outcome["grandchild_fetch"], 200);
    assert_eq!(outcome["after_end"], json!([401, "invalid_token"]));
    assert_eq!(outcome["mint_after_end"], "access_denied");
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3);
    let leaked =
        seen.iter().flat_map(|seen| seen.headers.keys()).find(|name| name.as_str().starts_with("x-caracal"));
    assert_eq!(leaked, None);
    assert!(seen.iter().all(|seen| {
        !seen.headers.get("baggage").is_some_and(|baggage| baggage.as_bytes().starts_with(b"caracal"))
    }));
}
