//! The registry of services (contract §7) and what heartbeats say of them (contract §5.2).

use crate::support::{OPERATOR, World, text};
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/zones/z1/agent-services";

fn registration() -> Value {
    json!({
        "application_id": "a", "endpoint_url": "https://agent.test/run", "protocol_versions": ["a2a/1"],
        "framework": { "name": "frame", "version": "2" }, "capabilities": ["plan"], "metadata": { "team": "x" },
    })
}

#[tokio::test]
async fn contract_7_registered_once_and_renewed() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let answer = world.ask(Method::POST, PATH, &token, Some(registration())).await;
    assert_eq!(answer.status, 201);
    let made = answer.ok();
    let id = text(&made, "id");
    let expected = json!({
        "id": id, "zone_id": "z1", "application_id": "a", "endpoint_url": "https://agent.test/run",
        "protocol_versions": ["a2a/1"], "framework_name": "frame", "framework_version": "2",
        "capabilities": ["plan"], "health": "starting", "metadata_json": { "team": "x" }, "last_heartbeat_at": null,
    });
    assert_eq!(made, expected);
    let body = json!({ "application_id": "a", "lifecycle": "service" });
    let session = text(&world.start(&token, body).await.ok(), "agent_session_id");
    let beat = |service: &str| {
        let body = json!({
            "lease_generation": 1, "service_id": service, "status": "degraded", "metadata": { "load": 3 },
        });
        let path = format!("/zones/z1/agents/{session}/heartbeat");
        let (world, token) = (&world, token.clone());
        async move { world.ask(Method::POST, &path, &token, Some(body)).await }
    };
    let answer = beat(&id).await.ok();
    assert_eq!(answer["service"]["health"], "degraded");
    assert_eq!(answer["service"]["metadata_json"], json!({ "team": "x", "load": 3 }));
    assert_eq!(beat("none").await.code(), (404, "agent_service_not_found"));
    // Registered again: the same row, whose health is left alone.
    let mut again = registration();
    again["capabilities"] = json!(["plan", "act"]);
    let again = world.ask(Method::POST, PATH, &token, Some(again)).await.ok();
    assert_eq!((&again["id"], &again["health"]), (&json!(id), &json!("degraded")));
    assert_eq!(again["capabilities"], json!(["plan", "act"]));
    let b = world.token("b", "").await;
    let mut other = registration();
    other["application_id"] = json!("b");
    let other = text(&world.ask(Method::POST, PATH, &b, Some(other)).await.ok(), "id");
    assert_eq!(beat(&other).await.code(), (404, "agent_service_not_found"), "another application's service");
}

#[tokio::test]
async fn contract_7_refusals() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let with = |name: &str, value: Value| {
        let mut body = registration();
        body[name] = value;
        body
    };
    for (body, code) in [
        (json!({}), (400, "invalid_body")),
        (with("endpoint_url", json!("agent.test/run")), (400, "invalid_body")),
        (with("endpoint_url", json!("ftp://agent.test")), (400, "invalid_body")),
        (with("endpoint_url", json!("https://user:word@agent.test")), (400, "invalid_body")),
        (with("framework", json!({ "version": "1" })), (400, "invalid_body")),
        (with("capabilities", json!([""])), (400, "invalid_body")),
        (with("application_id", json!("gone")), (404, "application_not_found")),
        (with("application_id", json!("other")), (404, "application_not_found")),
        (with("application_id", json!("b")), (403, "application_ownership_required")),
    ] {
        let answer = world.ask(Method::POST, PATH, &token, Some(body.clone())).await;
        assert_eq!(answer.code(), code, "{body}");
    }
    let spawner = world.token("a", "coordinator.spawn_for:b").await;
    let body = with("application_id", json!("b"));
    assert_eq!(world.ask(Method::POST, PATH, &spawner, Some(body)).await.status, 201);
    let answer = world.ask(Method::POST, PATH, OPERATOR, Some(registration())).await;
    assert_eq!(answer.code(), (401, "invalid_token"), "the operator only lists");
}

#[tokio::test]
async fn contract_7_the_zone_is_listed_without_the_notes_of_others() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    for port in 1..=3 {
        let mut body = registration();
        body["endpoint_url"] = json!(format!("http://agent.test:{port}"));
        world.ask(Method::POST, PATH, &a, Some(body)).await.ok();
    }
    let first = world.ask(Method::GET, &format!("{PATH}?limit=2"), &b, None).await.ok();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert!(first["items"][0].get("metadata_json").is_none(), "another's notes");
    let next = format!("{PATH}?limit=2&cursor={}", text(&first, "next_cursor"));
    let second = world.ask(Method::GET, &next, &b, None).await.ok();
    assert_eq!((second["items"].as_array().unwrap().len(), &second["next_cursor"]), (1, &Value::Null));
    for (token, seen) in [(a.as_str(), true), (OPERATOR, true)] {
        let list = world.ask(Method::GET, PATH, token, None).await.ok();
        assert_eq!(list["items"][0].get("metadata_json").is_some(), seen);
    }
    let answer = world.ask(Method::GET, &format!("{PATH}?cursor=gone"), &a, None).await;
    assert_eq!(answer.code(), (400, "invalid_cursor"));
}
