//! The kept numbers of live sessions (contract §4.3 rows 11 and 13): always those of the rows, and never the last word at
//! a limit.

use crate::support::{World, text};
use caracal_coordinator::Limits;
use http::Method;
use serde_json::json;

impl World {
    /// Every kept number is the number of rows.
    async fn check_live_sessions(&self, expected: i64) {
        let live = "SELECT COUNT(*) FROM sessions WHERE status IN ('active', 'suspended')";
        assert_eq!(self.number(live).await, expected);
        for id in ["", "a"] {
            let sql =
                format!("SELECT count FROM live_sessions WHERE zone_id = 'z1' AND application_id = '{id}'");
            assert_eq!(self.number(&sql).await, expected, "{id:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_sessions_are_counted_as_they_start_and_end() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "inherit").await;
    let child = world.task(&token, Some(&root), "inherit").await;
    for _ in 0..3 {
        world.task(&token, Some(&child), "inherit").await;
    }
    let other = world.task(&token, None, "inherit").await;
    world.check_live_sessions(6).await;
    // What is refused is not counted, and what is suspended lives.
    let refused = json!({ "application_id": "a", "parent_id": "nobody" });
    assert_eq!(world.start(&token, refused).await.code(), (404, "parent_not_found"));
    let path = format!("/zones/z1/agents/{other}/suspend");
    world.ask(Method::PATCH, &path, &token, None).await.ok();
    world.check_live_sessions(6).await;
    world.ask(Method::DELETE, &format!("/zones/z1/agents/{child}"), &token, None).await.ok();
    world.check_live_sessions(2).await;
    for id in [&root, &other] {
        world.ask(Method::DELETE, &format!("/zones/z1/agents/{id}"), &token, None).await.ok();
    }
    world.check_live_sessions(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_sessions_whose_time_is_up_take_no_room() {
    let limits = Limits { sessions_per_zone: 2, sessions_per_application: 2, ..Limits::default() };
    let world = World::with(limits).await;
    let token = world.token("a", "").await;
    let body = || json!({ "application_id": "a" });
    let first = text(&world.start(&token, body()).await.ok(), "agent_session_id");
    world.start(&token, body()).await.ok();
    assert_eq!(world.start(&token, body()).await.code(), (429, "session_zone_limit_exceeded"));
    world.check_live_sessions(2).await;
    // No job has ended it yet, so it is still in the kept number.
    world.sql(&format!("UPDATE sessions SET started_at = 0 WHERE id = '{first}'")).await;
    world.start(&token, body()).await.ok();
    world.check_live_sessions(3).await;
    assert_eq!(world.start(&token, body()).await.code(), (429, "session_zone_limit_exceeded"));
}
