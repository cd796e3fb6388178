//! Approvals through the official Python SDK 1.0.0: a hold, the wait for a person, the decision, and one release.

use caracal_tests::{Stack, Upstream, World};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const GATE: &str = "risk := [{\"scope\": \"orders:write\", \"tier\": \"high\"}]\n\
                    approval_tiers := [{\"tier\": \"high\", \"approver\": \"operator\"}]\n";

/// Waits for the one approval that is pending, and decides it as an operator; answers its id.
async fn decide(world: &World, verb: &str) -> String {
    loop {
        let pending = world.operate(Method::GET, &world.path("approvals?state=pending"), Value::Null).await;
        if let Some(approval) = pending["items"].as_array().unwrap().first() {
            let id = approval["id"].as_str().unwrap().to_owned();
            world.operate(Method::POST, &world.path(&format!("approvals/{id}/{verb}")), json!({})).await;
            return id;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_approval_is_held_waited_for_decided_and_released_once() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    world.activate("gated", &world.policy(&world.application, "", GATE)).await;
    let mut script = world.script(&["approval.py"]);
    let held = script.said().await;
    assert_eq!(
        (&held["free"], &held["tier"], &held["state"]),
        (&json!(200), &json!("high"), &json!("pending"))
    );
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(decide(&world, "approve").await, held["approval"].as_str().unwrap());
    let released = script.said().await;
    let expected =
        json!({ "decided": "approved", "written": 200, "other_scope": "access_denied", "then": "consumed" });
    assert_eq!(released, expected);
    assert_eq!(upstream.seen().len(), 2);

    let second = decide(&world, "approve").await;
    assert_ne!(held["approval"], second.as_str());
    assert_eq!(script.said().await["second"], 200);
    assert_eq!(upstream.seen().len(), 3);

    script.tell("third").await;
    let third = decide(&world, "reject").await;
    let turned_down = script.said().await;
    let expected = json!({ "third": "held", "approval": third, "late": "access_denied" });
    assert_eq!(turned_down, expected);
    script.end().await;
    assert_eq!(upstream.seen().len(), 3);
    let told = world.audit("event_type=step_up_consumed").await;
    assert_eq!(told.len(), 2, "{told:?}");
}
