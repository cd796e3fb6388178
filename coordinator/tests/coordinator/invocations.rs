//! Calls between agents (contract §8).

use crate::support::{Answer, OPERATOR, World, text};
use caracal_coordinator::end_late_attempts;
use http::Method;
use serde_json::{Value, json};

/// A verb, its body, and what it answers: status, and the new state or the refusal.
type Step<'a> = (&'a str, &'a Value, (u16, &'a str));

const PATH: &str = "/zones/z1/invocations";

async fn service(world: &World, token: &str, application: &str) -> String {
    let body = json!({ "application_id": application, "endpoint_url": "http://agent.test" });
    text(&world.ask(Method::POST, "/zones/z1/agent-services", token, Some(body)).await.ok(), "id")
}

async fn invoke(world: &World, token: &str, service: &str, more: Value) -> Answer {
    let mut body = json!({ "service_id": service, "idempotency_key": "k", "method": "plan" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.ask(Method::POST, PATH, token, Some(body)).await
}

async fn step(world: &World, token: &str, id: &str, verb: &str, body: Value) -> Answer {
    world.ask(Method::PATCH, &format!("{PATH}/{id}/{verb}"), token, Some(body)).await
}

#[tokio::test]
async fn contract_8_created_once_per_key_and_shown_without_its_payload() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let service = service(&world, &token, "a").await;
    let (source, target) = (world.task(&token, None, "none").await, world.task(&token, None, "none").await);
    let more = json!({
        "source_session_id": source, "target_session_id": target, "params": { "question": "why" }, "timeout_ms": 5000,
        "retry_policy": { "max_attempts": 2, "backoff_ms": 0 },
    });
    let first = invoke(&world, &token, &service, more.clone()).await;
    assert_eq!(first.status, 201);
    let first = first.ok();
    assert_eq!(
        (&first["status"], &first["attempts"], &first["max_attempts"]),
        (&json!("pending"), &json!(0), &json!(2))
    );
    assert!(first.get("params_json").is_none());
    let again = invoke(&world, &token, &service, more.clone()).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(), first);
    let answer = invoke(&world, &token, &service, json!({ "source_session_id": source })).await;
    assert_eq!(answer.code(), (409, "idempotency_key_conflict"));
    let id = text(&first, "id");
    let shown = world.ask(Method::GET, &format!("{PATH}/{id}"), &token, None).await.ok();
    assert_eq!(shown["params_json"], json!({ "question": "why" }));
    for (query, count) in [
        ("", 1),
        ("?status=pending", 1),
        ("?status=running", 0),
        (&format!("?session_id={target}"), 1),
        (&format!("?service_id={service}"), 1),
        ("?service_id=none", 0),
    ] {
        for token in [token.as_str(), OPERATOR] {
            let list = world.ask(Method::GET, &format!("{PATH}{query}"), token, None).await.ok();
            assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
        }
    }
    let b = world.token("b", "").await;
    assert_eq!(world.ask(Method::GET, PATH, &b, None).await.ok()["items"], json!([]));
    let answer = world.ask(Method::GET, &format!("{PATH}/{id}"), &b, None).await;
    assert_eq!(answer.code(), (404, "invocation_not_found"));
    let events =
        world.texts("SELECT event_json FROM audit_outbox WHERE event_json LIKE '%invocation_created%'").await;
    assert_eq!(events.len(), 1);
    assert!(!events[0].contains("why"), "the payload is no evidence");
}

#[tokio::test]
async fn contract_8_refusals_in_order() {
    let world = World::new().await;
    let (token, b) = (world.token("a", "").await, world.token("b", "").await);
    let own = service(&world, &token, "a").await;
    let task = world.task(&token, None, "none").await;
    let body = json!({ "application_id": "a", "lifecycle": "service" });
    let lasting = text(&world.start(&token, body).await.ok(), "agent_session_id");
    for (token, service, more, code) in [
        (&token, own.as_str(), json!({ "idempotency_key": " k" }), (400, "idempotency_key_invalid")),
        (&token, &own, json!({ "timeout_ms": 0 }), (400, "invalid_body")),
        (&token, &own, json!({ "retry_policy": { "max_attempts": 11 } }), (400, "invalid_body")),
        (&token, &own, json!({ "method": "" }), (400, "invalid_body")),
        (&token, "none", json!({}), (404, "agent_service_not_found")),
        (&token, &own, json!({ "source_session_id": "none" }), (404, "session_not_found")),
        (&token, &own, json!({ "target_session_id": lasting }), (404, "session_not_found")),
        (
            &token,
            &own,
            json!({ "source_session_id": task, "target_session_id": task }),
            (404, "session_not_found"),
        ),
        (&b, &own, json!({}), (403, "invoker_ownership_required")),
        (&b, &own, json!({ "source_session_id": task }), (403, "invoker_ownership_required")),
    ] {
        assert_eq!(invoke(&world, token, service, more.clone()).await.code(), code, "{more}");
    }
    let invoker = world.token("b", "coordinator.invoke_from:a").await;
    assert_eq!(invoke(&world, &invoker, &own, json!({ "source_session_id": task })).await.status, 201);
}

#[tokio::test]
async fn contract_8_each_step_from_each_state() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let service = service(&world, &token, "a").await;
    let done = json!({ "status": "succeeded", "metadata": { "took": 1 } });
    let failed = json!({ "status": "failed", "error": { "why": "no" } });
    let ok = |status: &'static str| (200, status);
    // From a fresh call, the steps with what each answers: the new status or the refusal.
    let walks: Vec<Vec<Step<'_>>> = vec![
        vec![
            ("complete", &done, (409, "invocation_not_completable")),
            ("start", &Value::Null, ok("running")),
            ("start", &Value::Null, (409, "invocation_not_startable")),
            ("complete", &failed, ok("failed")),
            ("cancel", &Value::Null, (409, "invocation_not_cancelable")),
            ("start", &Value::Null, ok("running")),
            ("complete", &failed, ok("failed")),
            ("start", &Value::Null, (409, "invocation_not_startable")),
        ],
        vec![
            ("cancel", &Value::Null, ok("canceled")),
            ("start", &Value::Null, (409, "invocation_not_startable")),
            ("cancel", &Value::Null, (409, "invocation_not_cancelable")),
        ],
        vec![
            ("start", &Value::Null, ok("running")),
            ("cancel", &Value::Null, ok("cancel_requested")),
            ("cancel", &Value::Null, (409, "invocation_not_cancelable")),
            ("complete", &done, ok("succeeded")),
            ("complete", &done, (409, "invocation_not_completable")),
        ],
    ];
    for (number, walk) in walks.into_iter().enumerate() {
        let more = json!({ "idempotency_key": number.to_string(), "retry_policy": { "max_attempts": 2 } });
        let id = text(&invoke(&world, &token, &service, more).await.ok(), "id");
        for (verb, body, (status, word)) in walk {
            let body = if body.is_null() { json!({}) } else { body.clone() };
            let answer = step(&world, &token, &id, verb, body).await;
            let said = answer.body["status"].as_str().or(answer.body["error"].as_str()).unwrap_or("");
            assert_eq!((answer.status.as_u16(), said), (status, word), "walk {number}: {verb}");
        }
    }
    let id = world.texts("SELECT id FROM agent_invocations ORDER BY id LIMIT 1").await.remove(0);
    let body = json!({ "status": "done" });
    assert_eq!(step(&world, &token, &id, "complete", body).await.code(), (400, "invalid_body"));
    assert_eq!(step(&world, &token, "none", "start", json!({})).await.code(), (404, "invocation_not_found"));
    let b = world.token("b", "").await;
    assert_eq!(step(&world, &b, &id, "start", json!({})).await.code(), (403, "invoker_ownership_required"));
}

#[tokio::test]
async fn contract_12_a_deadline_ends_the_attempt_and_at_last_the_call() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let service = service(&world, &token, "a").await;
    let more = json!({ "retry_policy": { "max_attempts": 2 } });
    let id = text(&invoke(&world, &token, &service, more).await.ok(), "id");
    for status in ["failed", "timed_out"] {
        step(&world, &token, &id, "start", json!({})).await.ok();
        assert_eq!(end_late_attempts(&world.config).await.unwrap(), 0, "within its time");
        world.sql("UPDATE agent_invocations SET deadline_at = 1").await;
        assert_eq!(end_late_attempts(&world.config).await.unwrap(), 1);
        let shown = world.ask(Method::GET, &format!("{PATH}/{id}"), &token, None).await.ok();
        assert_eq!(
            (&shown["status"], &shown["error_json"]["reason"]),
            (&json!(status), &json!("deadline_exceeded"))
        );
    }
    let answer = step(&world, &token, &id, "start", json!({})).await;
    assert_eq!(answer.code(), (409, "invocation_not_startable"));
}

#[tokio::test]
async fn coordinator_24_17_a_call_that_is_asked_to_stop_does_by_its_deadline() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let service = service(&world, &token, "a").await;
    let id = text(&invoke(&world, &token, &service, json!({})).await.ok(), "id");
    step(&world, &token, &id, "start", json!({})).await.ok();
    step(&world, &token, &id, "cancel", json!({ "reason": "enough" })).await.ok();
    assert_eq!(end_late_attempts(&world.config).await.unwrap(), 0, "within its time");
    world.sql("UPDATE agent_invocations SET deadline_at = 1").await;
    assert_eq!(end_late_attempts(&world.config).await.unwrap(), 1);
    let shown = world.ask(Method::GET, &format!("{PATH}/{id}"), &token, None).await.ok();
    assert_eq!(shown["status"], "canceled", "and not failed, which would be tried again");
    let answer = step(&world, &token, &id, "start", json!({})).await;
    assert_eq!(answer.code(), (409, "invocation_not_startable"));
}
