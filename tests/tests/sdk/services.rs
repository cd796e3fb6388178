//! Service sessions of the official Python SDK 1.0.0: heartbeats, a lapsed lease, and a second process that takes over.

use caracal_tests::{Options, Script, Stack, Upstream, World};
use serde_json::json;
use std::time::Duration;

/// Starts the service of `service.py`; answers the script, the session, its parent and its delegation.
async fn start(world: &World) -> (Script, String, String, String) {
    let mut holder = world.script(&["service.py", "start"]);
    let started = holder.said().await;
    assert_eq!(started["generation"], 1, "{started}");
    let text = |name: &str| started[name].as_str().unwrap().to_owned();
    (holder, text("session"), text("parent"), text("delegation"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_service_beats_is_suspended_and_fenced_by_the_next_holder() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let operator = stack.coordinator_token();
    let (mut holder, session, parent, delegation) = start(&world).await;
    assert_eq!(holder.ask("beat").await, json!({ "beat": "done", "status": "active" }));
    assert_eq!(holder.ask("call").await["call"], 200);

    // An operator suspends it: what it holds is refused, it mints nothing, and it learns of it by its heartbeat.
    holder.ask("hold").await;
    world.switch_session(&operator, &session, "suspend").await;
    assert_eq!(holder.ask("use").await["use"], 401);
    assert_eq!(holder.ask("mint").await["mint"], "access_denied");
    assert_eq!(holder.ask("beat").await, json!({ "beat": "done", "status": "suspended" }));
    world.switch_session(&operator, &session, "resume").await;
    assert_eq!(holder.ask("beat").await, json!({ "beat": "done", "status": "active" }));
    assert_eq!(holder.ask("call").await["call"], 200);

    // A second process takes the lease over. The first may not beat any more, nor end what is not its own.
    let mut next = world.script(&["service.py", "attach", &parent, &session, &delegation]);
    assert_eq!(next.ask("attach").await["generation"], 2);
    assert_eq!(holder.ask("beat").await["beat"], "session_lease_fenced");
    assert_eq!(holder.ask("close").await["close"], "done");
    assert_eq!(next.ask("beat").await, json!({ "beat": "done", "status": "active" }));
    assert_eq!(next.ask("call").await["call"], 200);
    assert_eq!(next.ask("close").await["close"], "done");
    assert_eq!(next.ask("beat").await["beat"], "session_not_live");
    assert_eq!(next.ask("mint").await["mint"], "access_denied");
    holder.end().await;
    next.end().await;
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_service_is_taken_over_after_its_lease_lapsed() {
    let arguments = ["--service-agent-lease-seconds", "6"].map(str::to_owned).to_vec();
    let stack = Stack::start_with(Options { arguments, ..Options::default() }).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&stack, &upstream).await;
    let operator = stack.coordinator_token();
    let (mut holder, session, parent, delegation) = start(&world).await;
    assert_eq!(holder.ask("call").await["call"], 200);
    holder.ask("hold").await;

    // The process hangs; its heartbeats stay away until the lease has run out.
    holder.signal("STOP").await;
    while world.session(&operator, &session).await["status"] != "suspended" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut early = world.script(&["service.py", "attach", &parent, &session, &delegation]);
    assert_eq!(early.ask("attach").await["refused"], "session_suspended");
    early.end().await;

    // The operator resumes, and another process takes over. Its lease is short too, so it goes on beating.
    while world.session(&operator, &parent).await["status"] != "suspended" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut next = world.script(&["service.py", "attach", &parent, &session, &delegation]);
    world.switch_session(&operator, &parent, "resume").await;
    let taken = next.ask("attach").await;
    assert_eq!(taken["generation"], 2, "{taken}");
    assert_eq!(next.ask("beat").await, json!({ "beat": "done", "status": "active" }));

    // The first comes back to life, is fenced by its generation, and is told so once.
    holder.signal("CONT").await;
    assert_eq!(holder.ask("lost").await["lost"], "session_lease_fenced");
    assert_eq!(next.ask("beat").await["beat"], "done");
    assert_eq!(next.ask("call").await["call"], 200);
    assert_eq!(next.ask("close").await["close"], "done");
    assert_eq!(holder.ask("use").await["use"], 401);
    assert_eq!(holder.ask("mint").await["mint"], "access_denied");
    next.end().await;
    holder.end().await;
    assert_eq!(upstream.seen().len(), 2);
    let row = world.session(&operator, &session).await;
    assert_eq!((&row["status"], &row["lease_generation"]), (&json!("terminated"), &json!(2)), "{row}");
}
