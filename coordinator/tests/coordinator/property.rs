//! Whatever happens in whatever order: no session and no delegation is ever more than what it comes from.

use crate::support::{World, text};
use caracal_coordinator::{expire_edges, expire_sessions};
use caracal_store::model::{AgentSession, DelegationEdge, EdgeStatus, SessionStatus};
use http::Method;
use proptest::prelude::*;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

#[derive(Debug, Clone)]
enum Step {
    Start { parent: Option<usize>, inherits: bool },
    Delegate { from: usize, to: usize, wide: bool, hops: u32, ttl: u32 },
    Revoke(usize),
    Suspend(usize),
    Resume(usize),
    Terminate(usize),
    TimeIsUp(usize),
    EdgeIsUp(usize),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::option::weighted(0.7, 0usize..12), any::<bool>())
            .prop_map(|(parent, inherits)| Step::Start { parent, inherits }),
        8 => (0usize..12, 0usize..12, any::<bool>(), 1u32..5, 50u32..400)
            .prop_map(|(from, to, wide, hops, ttl)| Step::Delegate { from, to, wide, hops, ttl }),
        2 => (0usize..12).prop_map(Step::Revoke),
        2 => (0usize..12).prop_map(Step::Suspend),
        2 => (0usize..12).prop_map(Step::Resume),
        1 => (0usize..12).prop_map(Step::Terminate),
        1 => (0usize..12).prop_map(Step::TimeIsUp),
        1 => (0usize..12).prop_map(Step::EdgeIsUp),
        1 => Just(Step::Sweep),
    ]
}

/// Three delegations in a row and one inheritance, so that there is something to fall apart.
fn long_path() -> Vec<Step> {
    let start = Step::Start { parent: None, inherits: false };
    let delegate =
        |from: usize, hops: u32, ttl: u32| Step::Delegate { from, to: from + 1, wide: true, hops, ttl };
    let heir = Step::Start { parent: Some(3), inherits: true };
    let starts = std::iter::repeat_n(start, 4);
    starts.chain([delegate(0, 4, 400), delegate(1, 3, 350), delegate(2, 2, 300), heir]).collect()
}

async fn run(world: &World, token: &str, step: Step, sessions: &mut Vec<String>, edges: &mut Vec<String>) {
    let pick = |list: &[String], at: usize| list.get(at % list.len().max(1)).cloned();
    let path = |id: &str, verb: &str| format!("/zones/z1/agents/{id}/{verb}");
    match step {
        Step::Start { parent, inherits } => {
            let parent = parent.and_then(|at| pick(sessions, at));
            let authority = if inherits { "inherit" } else { "none" };
            let body = json!({ "application_id": "a", "parent_id": parent, "parent_authority": authority });
            let answer = world.start(token, body).await;
            if answer.status.is_success() {
                sessions.push(text(&answer.body, "agent_session_id"));
                edges.extend(answer.body["delegation_edge_id"].as_str().map(str::to_owned));
            }
        }
        Step::Delegate { from, to, wide, hops, ttl } => {
            let (Some(from), Some(to)) = (pick(sessions, from), pick(sessions, to)) else { return };
            let scopes = if wide { json!(["orders:read", "orders:write"]) } else { json!(["orders:read"]) };
            let more = json!({ "scopes": scopes, "constraints": { "max_hops": hops }, "ttl_seconds": ttl });
            let answer = world.delegate(token, &from, &to, more).await;
            assert!(!answer.status.is_server_error(), "{}", answer.body);
            if answer.status.is_success() {
                edges.push(text(&answer.body, "delegation_edge_id"));
            }
        }
        Step::Revoke(at) => {
            let Some(edge) = pick(edges, at) else { return };
            world.ask(Method::PATCH, &format!("/zones/z1/delegations/{edge}/revoke"), token, None).await;
        }
        Step::Suspend(at) => {
            let Some(id) = pick(sessions, at) else { return };
            world.ask(Method::PATCH, &path(&id, "suspend"), token, None).await;
        }
        Step::Resume(at) => {
            let Some(id) = pick(sessions, at) else { return };
            world.ask(Method::PATCH, &path(&id, "resume"), token, None).await;
        }
        Step::Terminate(at) => {
            let Some(id) = pick(sessions, at) else { return };
            world.ask(Method::DELETE, &format!("/zones/z1/agents/{id}"), token, None).await;
        }
        Step::TimeIsUp(at) => {
            let Some(id) = pick(sessions, at) else { return };
            world.sql(&format!("UPDATE sessions SET started_at = 1 WHERE id = '{id}'")).await;
        }
        Step::EdgeIsUp(at) => {
            // The end of an edge comes no later for what descends from it.
            let Some(id) = pick(edges, at) else { return };
            world
                .sql(&format!(
                    "WITH RECURSIVE line (id) AS (SELECT '{id}' UNION SELECT e.id FROM delegation_edges e \
                     JOIN line ON e.parent_edge_id = line.id) \
                     UPDATE delegation_edges SET expires_at = 1 WHERE id IN (SELECT id FROM line)"
                ))
                .await;
        }
        Step::Sweep => {
            expire_sessions(&world.config).await.unwrap();
            expire_edges(&world.config).await.unwrap();
        }
    }
}

/// Reads all state and holds it against what must be so at every moment.
async fn check(world: &World) {
    // All of it is of one moment.
    let mut connection = world.store.read().await.unwrap().of_one_moment().await.unwrap();
    let sql = format!("SELECT {} FROM sessions", AgentSession::COLUMNS);
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap();
    let sessions: HashMap<String, AgentSession> = rows
        .iter()
        .map(|row| AgentSession::from_row(row).unwrap())
        .map(|session| (session.id.to_string(), session))
        .collect();
    let sql = format!("SELECT {} FROM delegation_edges", DelegationEdge::COLUMNS);
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap();
    let edges: HashMap<String, DelegationEdge> = rows
        .iter()
        .map(|row| DelegationEdge::from_row(row).unwrap())
        .map(|edge| (edge.id.to_string(), edge))
        .collect();
    let revoked: Vec<String> = sqlx::query_scalar("SELECT kind || ':' || id FROM revoked_anchors")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    let counted: Vec<(String, i64)> = sqlx::query_as(
        "SELECT application_id, count FROM live_sessions WHERE zone_id = 'z1' AND count > 0 ORDER BY 1",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    drop(connection);
    let live = sessions
        .values()
        .filter(|session| matches!(session.status, SessionStatus::Active | SessionStatus::Suspended));
    let live = i64::try_from(live.count()).unwrap();
    let expected = ["", "a"].map(|application| (application.to_owned(), live));
    assert_eq!(
        counted,
        if live > 0 { expected.to_vec() } else { Vec::new() },
        "what is counted is what is there"
    );
    for session in sessions.values() {
        let anchor = format!("agent_session:{}", session.id);
        let takes_away = session.status != SessionStatus::Active;
        assert_eq!(revoked.contains(&anchor), takes_away, "{anchor} is {:?}", session.status);
        let Some(parent) = session.parent_id.as_ref().map(|id| &sessions[id.as_str()]) else { continue };
        // A start at 1 is what makes time be up here; only what was started before that may end later.
        if parent.started_at > 1 {
            assert!(session.ends_at() <= parent.ends_at(), "{} outlives {}", session.id, parent.id);
        }
        match session.status {
            SessionStatus::Active => assert_eq!(parent.status, SessionStatus::Active, "below {}", parent.id),
            SessionStatus::Suspended => {
                assert!(matches!(parent.status, SessionStatus::Active | SessionStatus::Suspended));
            }
            _ => {}
        }
    }
    for edge in edges.values() {
        let stands = edge.status == EdgeStatus::Active;
        assert_eq!(revoked.contains(&format!("delegation_edge:{}", edge.id)), !stands, "{:?}", edge.status);
        if !stands {
            continue;
        }
        for end in [&edge.source_session_id, &edge.target_session_id] {
            let status = sessions[end.as_str()].status;
            assert!(
                matches!(status, SessionStatus::Active | SessionStatus::Suspended),
                "{} leads to {status:?}",
                edge.id
            );
        }
        let Some(parent) = edge.parent_edge_id.as_ref().map(|id| &edges[id.as_str()]) else { continue };
        assert_eq!(parent.status, EdgeStatus::Active, "{} descends from a dead one", edge.id);
        assert_eq!(parent.target_session_id, edge.source_session_id);
        assert_eq!(parent.receiver_application_id, edge.issuer_application_id);
        assert!(edge.scopes.is_subset(&parent.scopes));
        assert!(edge.expires_at <= parent.expires_at);
        assert!(edge.constraints.ttl_seconds <= parent.constraints.ttl_seconds);
        assert_eq!(edge.resource_id, parent.resource_id);
        let (hops, above) = (edge.constraints.hops().unwrap(), parent.constraints.hops().unwrap());
        let floor = u32::from(edge.inherited);
        assert!(hops <= (above - 1).max(floor), "{hops} hops below {above}");
        // By counting the edges that were not inherited, the root allows the whole path.
        let (mut counted, mut at) = (u32::from(!edge.inherited), edge);
        while let Some(parent) = at.parent_edge_id.as_ref().map(|id| &edges[id.as_str()]) {
            counted += u32::from(!parent.inherited);
            at = parent;
        }
        assert!(counted <= at.constraints.hops().unwrap());
    }
}

/// Several workers on two processes at once; all the while, what must be so at every moment is so.
async fn run_at_once(workers: Vec<Vec<Step>>) {
    let world = Arc::new(World::new().await);
    let replica = Arc::new(world.replica().await);
    let token = world.token("a", "").await;
    let (mut sessions, mut edges) = (Vec::new(), Vec::new());
    for step in long_path() {
        run(&world, &token, step, &mut sessions, &mut edges).await;
    }
    let known = Arc::new(Mutex::new((sessions, edges)));
    let mut tasks = JoinSet::new();
    for (number, steps) in workers.into_iter().enumerate() {
        let world = Arc::clone(if number % 2 == 0 { &world } else { &replica });
        let (known, token) = (Arc::clone(&known), token.clone());
        tasks.spawn(async move {
            for step in steps {
                let (mut sessions, mut edges) = known.lock().unwrap().clone();
                let before = (sessions.len(), edges.len());
                run(&world, &token, step, &mut sessions, &mut edges).await;
                let mut known = known.lock().unwrap();
                known.0.extend(sessions.drain(before.0..));
                known.1.extend(edges.drain(before.1..));
            }
        });
    }
    while !tasks.is_empty() {
        check(&replica).await;
        while let Some(done) = tasks.try_join_next() {
            done.unwrap();
        }
    }
    check(&world).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn authority_only_ever_shrinks_on_its_way_down(steps in proptest::collection::vec(step(), 10..50)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let token = world.token("a", "").await;
            let (mut sessions, mut edges) = (Vec::new(), Vec::new());
            for step in long_path() {
                run(&world, &token, step, &mut sessions, &mut edges).await;
            }
            assert_eq!((sessions.len(), edges.len()), (5, 4), "the path stands before anything happens to it");
            for step in steps {
                run(&world, &token, step, &mut sessions, &mut edges).await;
                check(&world).await;
            }
        });
    }

    #[test]
    fn authority_only_ever_shrinks_also_where_many_act_at_once(
        workers in proptest::collection::vec(proptest::collection::vec(step(), 8..20), 4..7),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run_at_once(workers));
    }
}
