//! `kill -9` under load: what was answered is still there, what was used up stays used up.

use caracal_tests::{Stack, Upstream, World};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Answered {
    sessions: Vec<String>,
    ended: Vec<String>,
    used: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_and_used_mandates_stay_used() {
    let (mut stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::configure(&stack, &upstream).await;
    let agent = Arc::new(world.agent().await);
    let answered: Arc<Mutex<Answered>> = Arc::default();
    let shared = Arc::new(World { http: reqwest::Client::new(), ..copy(&world) });
    let load: Vec<_> = (0..4)
        .map(|worker| {
            tokio::spawn(work(worker, Arc::clone(&shared), Arc::clone(&agent), Arc::clone(&answered)))
        })
        .collect();
    // Enough has been answered; then the power goes, in the middle of it.
    while answered.lock().unwrap().used.len() < 40 || answered.lock().unwrap().ended.len() < 20 {
        tokio::task::yield_now().await;
        assert!(load.iter().all(|task| !task.is_finished()), "the load ended early");
    }
    stack.kill().await;
    for task in load {
        task.await.unwrap();
    }
    stack.restart().await;
    world.moved_to(&stack);
    let answered = std::mem::take(&mut *answered.lock().unwrap());
    for session in &answered.sessions {
        let path = format!("agents/{session}");
        let answer = world.coordinate(Method::GET, &path, &agent.bearer, None).await;
        assert_eq!(answer.status(), StatusCode::OK, "session {session} is gone");
        let row: Value = answer.json().await.unwrap();
        let expected = if answered.ended.contains(session) { "terminated" } else { "active" };
        if expected == "terminated" {
            assert_eq!(row["status"], expected, "{row}");
        }
    }
    let before = upstream.seen().len();
    for mandate in &answered.used {
        assert_eq!(world.read(mandate).await.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(upstream.seen().len(), before);
    let fresh = world.mint(&agent).await;
    assert_eq!(world.read(&fresh).await.status(), StatusCode::OK);
}

fn copy(world: &World) -> World {
    World {
        http: world.http.clone(),
        admin: world.admin.clone(),
        sts: world.sts.clone(),
        gateway: world.gateway.clone(),
        coordinator: world.coordinator.clone(),
        admin_token: world.admin_token.clone(),
        zone: world.zone.clone(),
        application: world.application.clone(),
        secret: world.secret.clone(),
        resource: world.resource,
    }
}

/// Starts and ends sessions and uses mandates until nobody answers any more.
async fn work(
    worker: usize,
    world: Arc<World>,
    agent: Arc<caracal_tests::Agent>,
    answered: Arc<Mutex<Answered>>,
) {
    loop {
        let result = if worker.is_multiple_of(2) {
            use_a_mandate(&world, &agent, &answered).await
        } else {
            start_and_end(&world, &agent, &answered).await
        };
        if result.is_err() {
            return;
        }
    }
}

async fn use_a_mandate(
    world: &World,
    agent: &caracal_tests::Agent,
    answered: &Mutex<Answered>,
) -> Result<(), reqwest::Error> {
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", &world.zone),
        ("application_id", &world.application),
        ("client_secret", &world.secret),
        ("resource", world.resource),
        ("scope", "orders:read"),
        ("agent_session_id", &agent.session),
        ("delegation_edge_id", &agent.edge),
    ];
    let answer = world.http.post(format!("{}/oauth/2/token", world.sts)).form(&form).send().await?;
    let body: Value = answer.error_for_status()?.json().await?;
    let mandate = body["access_token"].as_str().unwrap_or_default().to_owned();
    let request = world.http.get(format!("{}/v1/orders", world.gateway)).bearer_auth(&mandate);
    let answer = request.header("x-caracal-resource", world.resource).send().await?;
    if answer.status() == StatusCode::OK {
        answered.lock().unwrap().used.push(mandate);
    }
    Ok(())
}

async fn start_and_end(
    world: &World,
    agent: &caracal_tests::Agent,
    answered: &Mutex<Answered>,
) -> Result<(), reqwest::Error> {
    let url = format!("{}/zones/{}/agents", world.coordinator, world.zone);
    let body = json!({ "application_id": world.application, "labels": ["reader"] });
    let answer =
        world.http.post(&url).bearer_auth(&agent.bearer).json(&body).send().await?.error_for_status()?;
    let row: Value = answer.json().await?;
    let session = row["agent_session_id"].as_str().unwrap_or_default().to_owned();
    answered.lock().unwrap().sessions.push(session.clone());
    world
        .http
        .delete(format!("{url}/{session}"))
        .bearer_auth(&agent.bearer)
        .send()
        .await?
        .error_for_status()?;
    answered.lock().unwrap().ended.push(session);
    Ok(())
}
