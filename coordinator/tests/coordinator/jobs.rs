//! What ends by itself (contract §12).

use crate::support::{World, text};
use caracal_coordinator::{Limits, expire_edges, expire_sessions, run_jobs, suspend_lost_services};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn coordinator_23_26_each_job_ends_what_is_due_once() {
    let limits = Limits { sweep_batch: 2, ..Limits::default() };
    let world = World::with(limits).await;
    let token = world.token("a", "").await;
    let mut tasks = Vec::new();
    for _ in 0..5 {
        tasks.push(world.task(&token, None, "none").await);
    }
    let child = world.task(&token, Some(&tasks[0]), "none").await;
    let edge = world.edge(&token, &tasks[1], &tasks[2], json!({ "constraints": { "max_hops": 2 } })).await;
    let below = world.edge(&token, &tasks[2], &tasks[3], json!({ "ttl_seconds": 60 })).await;
    let service = json!({ "application_id": "a", "lifecycle": "service" });
    let service = text(&world.start(&token, service).await.ok(), "agent_session_id");
    let config = &world.config;
    assert_eq!(expire_sessions(config).await.unwrap(), 0);
    assert_eq!(suspend_lost_services(config).await.unwrap(), 0);
    assert_eq!(expire_edges(config).await.unwrap(), 0);
    world.sql("UPDATE delegation_edges SET expires_at = 1").await;
    let (one, other) = tokio::join!(expire_edges(config), expire_edges(config));
    assert_eq!(one.unwrap() + other.unwrap(), 2);
    for edge in [&edge, &below] {
        assert_eq!(world.status("delegation_edges", edge).await, "expired");
    }
    world.sql("UPDATE sessions SET heartbeat_deadline_at = 1 WHERE lifecycle = 'service'").await;
    assert_eq!(suspend_lost_services(config).await.unwrap(), 1);
    assert_eq!(suspend_lost_services(config).await.unwrap(), 0);
    assert_eq!(world.status("sessions", &service).await, "suspended");
    world.sql("UPDATE sessions SET started_at = 1 WHERE lifecycle = 'task' AND parent_id IS NULL").await;
    let (one, other) = tokio::join!(expire_sessions(config), expire_sessions(config));
    assert_eq!(one.unwrap() + other.unwrap(), 6);
    for task in &tasks {
        assert_eq!(world.status("sessions", task).await, "expired");
    }
    assert_eq!(world.status("sessions", &child).await, "terminated");
    let events = world.texts("SELECT event_json FROM audit_outbox").await;
    let count = |kind: &str| events.iter().filter(|event| event.contains(&format!("\"{kind}\""))).count();
    assert_eq!(
        (count("session_expired"), count("session_terminated"), count("session_suspended")),
        (5, 1, 1)
    );
    assert_eq!(count("delegation_expired"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_12_jobs_run_until_they_are_told_to_stop() {
    let quick = Duration::from_millis(5);
    let limits = Limits { ttl_sweep: quick, lease_sweep: quick, edge_sweep: quick, ..Limits::default() };
    let world = World::with(limits).await;
    let token = world.token("a", "").await;
    let task = world.task(&token, None, "none").await;
    let mut changes = world.store.changes();
    changes.mark_unchanged();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let jobs = tokio::spawn(run_jobs(world.config.clone(), async move {
        let _ = stopped.await;
    }));
    world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{task}'")).await;
    changes.changed().await.unwrap();
    assert_eq!(world.status("sessions", &task).await, "expired");
    stop.send(()).unwrap();
    jobs.await.unwrap();
}
