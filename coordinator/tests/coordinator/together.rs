//! Starts and ends that are written together are the same starts and ends, and no more of them.

use crate::support::{Answer, World, text};
use axum::http::Method;
use caracal_coordinator::Limits;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

/// Asks all at once.
async fn at_once<F>(asked: impl Iterator<Item = F>) -> Vec<Answer>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let tasks: Vec<_> = asked.map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn statuses(answers: &[Answer]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status.as_u16()).or_default() += 1;
    }
    counts
}

/// Each start of its application at once, each with these headers.
async fn starts(world: &Arc<World>, asked: Vec<(String, &'static str, Option<String>)>) -> Vec<Answer> {
    at_once(asked.into_iter().map(|(token, application, key)| {
        let world = Arc::clone(world);
        async move {
            let body =
                json!({ "application_id": application, "labels": ["x"], "metadata": { "of": application } });
            let headers =
                [("idempotency-key", key.as_deref().unwrap_or("")), ("idempotency-key-kind", "generated")];
            let headers = if key.is_some() { &headers[..] } else { &[] };
            world.ask_with(Method::POST, "/zones/z1/agents", &token, Some(body), headers).await
        }
    }))
    .await
}

async fn ends(world: &Arc<World>, asked: Vec<(String, String)>) -> Vec<Answer> {
    at_once(asked.into_iter().map(|(token, path)| {
        let world = Arc::clone(world);
        async move { world.ask(Method::DELETE, &format!("/zones/z1/agents/{path}"), &token, None).await }
    }))
    .await
}

async fn event_count(world: &World, kind: &str) -> i64 {
    let sql =
        format!("SELECT COUNT(*) FROM audit_outbox WHERE event_json LIKE '%\"event_type\":\"{kind}\"%'");
    world.number(&sql).await
}

/// FAQ 006: a limit is exact, however many start at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_is_reached_exactly() {
    let limits = Limits { sessions_per_application: 25, ..Limits::default() };
    let world = Arc::new(World::with(limits).await);
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let asked = (0..60_u32)
        .map(|n| if n.is_multiple_of(2) { (a.clone(), "a", None) } else { (b.clone(), "b", None) });
    let answers = starts(&world, asked.collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(201, 50), (429, 10)]));
    for application in ["a", "b"] {
        let of = format!("WHERE application_id = '{application}'");
        assert_eq!(
            world.number(&format!("SELECT COUNT(*) FROM sessions {of} AND status = 'active'")).await,
            25
        );
        assert_eq!(world.number(&format!("SELECT count FROM live_sessions {of}")).await, 25);
    }
    assert_eq!(event_count(&world, "session_started").await, 50);
}

/// Contract coordinator §10: one key, one session, also within a group.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_starts_one_session() {
    let world = Arc::new(World::new().await);
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let asked = (0..48).map(|n| {
        let key = Some(format!("key-{}", n % 6));
        if n < 24 { (a.clone(), "a", key) } else { (b.clone(), "b", key) }
    });
    let answers = starts(&world, asked.collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(201, 48)]));
    let replayed =
        answers.iter().filter(|answer| answer.headers.contains_key("idempotency-replayed")).count();
    let ids: BTreeSet<String> = answers.iter().map(|answer| text(&answer.body, "agent_session_id")).collect();
    assert_eq!((ids.len(), replayed), (12, 36));
    assert_eq!(world.number("SELECT COUNT(*) FROM sessions").await, 12);
    assert_eq!(world.number("SELECT COUNT(*) FROM idempotency_receipts").await, 12);
    let again = starts(&world, vec![(a.clone(), "a", Some("key-0".to_owned()))]).await;
    assert_eq!(again[0].headers["idempotency-replayed"], "true");
}

/// Contract coordinator §4.6: each session ends once, with its own reason; whoever may not end one ends none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_ends_once_and_for_its_own_reason() {
    let world = Arc::new(World::new().await);
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(world.task(&a, None, "none").await);
    }
    let parent = world.task(&a, None, "none").await;
    let child = world.task(&a, Some(&parent), "none").await;
    let (source, target) = (world.task(&a, None, "none").await, world.task(&a, None, "none").await);
    let edge = world.edge(&a, &source, &target, json!({})).await;
    let kept = world.task(&a, None, "none").await;
    let before = world.number("SELECT authority_epoch FROM zones WHERE id = 'z1'").await;
    let mut asked: Vec<(String, String)> = Vec::new();
    for (n, session) in sessions.iter().enumerate() {
        asked.push((a.clone(), format!("{session}?reason=reason-{}", n % 3)));
        asked.push((a.clone(), session.clone()));
        asked.push((b.clone(), session.clone()));
    }
    asked.push((a.clone(), parent.clone()));
    asked.push((a.clone(), target.clone()));
    asked.push((b.clone(), kept.clone()));
    asked.push((a.clone(), "nowhere".to_owned()));
    let answers = ends(&world, asked.clone()).await;
    for ((token, path), answer) in asked.iter().zip(&answers) {
        let status = answer.status.as_u16();
        // A stranger is told that it owns nothing, before the end and after it.
        let expected: &[u16] = if *token == b { &[403] } else { &[204, 404] };
        assert!(expected.contains(&status), "{path}: {status} {}", answer.body);
    }
    let ended = answers.iter().filter(|answer| answer.status == 204).count();
    assert_eq!(ended, 22, "each once");
    for session in sessions.iter().chain([&parent, &child, &target]) {
        assert_eq!(world.status("sessions", session).await, "terminated");
        let anchor =
            format!("SELECT COUNT(*) FROM revoked_anchors WHERE kind = 'agent_session' AND id = '{session}'");
        assert_eq!(world.number(&anchor).await, 1, "the gateways are told of {session}");
    }
    assert_eq!(world.status("delegation_edges", &edge).await, "revoked");
    assert_eq!(world.status("sessions", &source).await, "active");
    assert_eq!(world.status("sessions", &kept).await, "active");
    assert_eq!(event_count(&world, "session_terminated").await, 23);
    assert_eq!(world.number("SELECT count FROM live_sessions WHERE application_id = 'a'").await, 2);
    let raised = world.number("SELECT authority_epoch FROM zones WHERE id = 'z1'").await - before;
    assert!((1..=22).contains(&raised), "{raised}");
}

/// A service is ended by whoever holds its lease, or the operator; also with others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_is_asked_for_in_a_group_too() {
    let world = Arc::new(World::new().await);
    let (a, admin) = (world.token("a", "").await, world.token("a", "coordinator.admin").await);
    let mut services = Vec::new();
    for _ in 0..12 {
        let body = json!({ "application_id": "a", "lifecycle": "service" });
        services.push(text(&world.start(&a, body).await.ok(), "agent_session_id"));
    }
    let answers = ends(&world, services.iter().map(|service| (a.clone(), service.clone())).collect()).await;
    for answer in &answers {
        assert_eq!(
            (answer.status.as_u16(), &answer.body["error"]),
            (400, &Value::from("lease_generation_required"))
        );
    }
    let answers =
        ends(&world, services.iter().map(|service| (admin.clone(), service.clone())).collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(204, 12)]));
}

/// A mandate whose record is revoked starts and ends nothing, whoever else is in the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revoked_caller_takes_part_in_nothing() {
    let world = Arc::new(World::new().await);
    let good = world.token("a", "").await;
    let mut claims = world.claims("z1", "a", None).await;
    claims.scope = "agent:lifecycle".to_owned();
    let bad = world.keys.sign(&claims).await.unwrap();
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(world.task(&good, None, "none").await);
    }
    world.sql(&format!("UPDATE authority_records SET status = 'revoked' WHERE id = '{}'", claims.sid)).await;
    let token = |n: usize| if n.is_multiple_of(2) { good.clone() } else { bad.clone() };
    let answers = starts(&world, (0..20).map(|n| (token(n), "a", None)).collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(201, 10), (401, 10)]));
    let answers =
        ends(&world, sessions.iter().enumerate().map(|(n, id)| (token(n), id.clone())).collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(204, 10), (401, 10)]));
    let left = "SELECT COUNT(*) FROM sessions WHERE status = 'active'";
    assert_eq!(world.number(left).await, 20);
}
