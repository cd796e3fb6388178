//! What ends by itself (contract §12).

use crate::support::{OPERATOR, World, text};
use caracal_coordinator::{Limits, expire_edges, expire_sessions, run_jobs, suspend_lost_services};
use http::Method;
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

#[tokio::test(flavor = "multi_thread")]
async fn contract_12_two_replicas_do_everything_once() {
    const EACH: usize = 24;
    let quick = Duration::from_millis(1);
    let limits = Limits {
        ttl_sweep: quick,
        lease_sweep: quick,
        edge_sweep: quick,
        deadline_sweep: quick,
        closure_sweep: quick,
        retention_sweep: quick,
        sweep_batch: 5,
        ..Limits::default()
    };
    let world = World::with(limits).await;
    let replica = world.replica().await;
    let token = world.token("a", "").await;
    let body = json!({ "application_id": "a", "endpoint_url": "http://agent.test" });
    let service = world.ask(Method::POST, "/zones/z1/agent-services", &token, Some(body)).await.ok();
    let steady = world.task(&token, None, "none").await;
    for number in 0..EACH {
        let task = world.task(&token, None, "none").await;
        world.task(&token, Some(&task), "none").await;
        let lasting = json!({ "application_id": "a", "lifecycle": "service" });
        world.start(&token, lasting).await.ok();
        let target = world.task(&token, None, "none").await;
        world.sql(&format!("UPDATE sessions SET metadata_json = '1' WHERE id = '{target}'")).await;
        world.edge(&token, &steady, &target, json!({})).await;
        let call =
            json!({ "service_id": service["id"], "idempotency_key": number.to_string(), "method": "plan" });
        let id = text(&world.ask(Method::POST, "/zones/z1/invocations", &token, Some(call)).await.ok(), "id");
        let path = format!("/zones/z1/invocations/{id}/start");
        world.ask(Method::PATCH, &path, &token, None).await.ok();
    }
    // All of it is due at once.
    for due in [
        "UPDATE delegation_edges SET expires_at = 1",
        "UPDATE agent_invocations SET deadline_at = 1",
        "UPDATE sessions SET heartbeat_deadline_at = 1 WHERE lifecycle = 'service'",
        "UPDATE sessions SET started_at = 1 WHERE parent_id IS NULL AND lifecycle = 'task' AND metadata_json <> '1' \
         AND id <> (SELECT source_session_id FROM delegation_edges LIMIT 1)",
    ] {
        world.sql(due).await;
    }
    let run = |config: caracal_coordinator::Config| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let jobs = run_jobs(config, async move {
            let _ = stopped.await;
        });
        (stop, tokio::spawn(jobs))
    };
    let running = [run(world.config.clone()), run(replica.config.clone())];
    let due = "SELECT (SELECT COUNT(*) FROM sessions WHERE status = 'active') \
         + (SELECT COUNT(*) FROM delegation_edges WHERE status = 'active') \
         + (SELECT COUNT(*) FROM agent_invocations WHERE status = 'running')";
    // The steady task and the receivers go on.
    while world.number(due).await > i64::try_from(EACH + 1).unwrap() {
        tokio::time::sleep(quick).await;
    }
    for (stop, jobs) in running {
        stop.send(()).unwrap();
        jobs.await.unwrap();
    }
    let events = world.texts("SELECT event_json FROM audit_outbox").await;
    for kind in [
        "session_expired",
        "session_terminated",
        "session_suspended",
        "delegation_expired",
        "invocation_timed_out",
    ] {
        let told = events.iter().filter(|event| event.contains(&format!("\"{kind}\""))).count();
        assert_eq!(told, EACH, "{kind}");
    }
    let mut sums = [0; 4];
    for world in [&world, &replica] {
        let stats = world.ask(Method::GET, "/stats", OPERATOR, None).await.ok();
        let names = [
            ("ttl_sweeper", "terminated"),
            ("service_lease_sweeper", "suspended"),
            ("edge_sweeper", "expired_edges"),
            ("deadline_enforcer", "ended"),
        ];
        for (sum, (job, effect)) in sums.iter_mut().zip(names) {
            assert_eq!(stats[job]["failures"], 0, "{job}");
            *sum += usize::try_from(stats[job][effect].as_u64().unwrap()).unwrap();
        }
    }
    assert_eq!(sums, [2 * EACH, EACH, EACH, EACH], "what the replicas did together");
    assert_eq!(world.number("SELECT COUNT(*) FROM revoked_anchors").await, i64::try_from(4 * EACH).unwrap());
}
