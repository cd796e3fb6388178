//! While eight clients mint, something is taken away. What a client asks after the answer to that change is never
//! granted on what was taken, and a storage that is away is nobody's failed authentication (contract sts §27.19).

use caracal_mandate::jws::CompactJws;
use caracal_tests::{Agent, Options, Stack, Upstream, World, python};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
/// How many requests each client has answered before the change, and how many it begins after it.
const EACH: usize = 5;

/// One request of the load.
struct Outcome {
    began: Instant,
    ended: Instant,
    status: u16,
    error: String,
    /// The key that signed what was granted.
    kid: String,
}

/// A world under load.
struct Load {
    stack: Stack,
    world: Arc<World>,
    /// Kept so that the upstream lives on.
    _upstream: Upstream,
    answered: Arc<Vec<AtomicUsize>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Vec<Outcome>>,
}

impl Load {
    /// Starts the load and waits until every client has been granted something.
    async fn start() -> Self {
        let arguments = vec!["--mint-limit".to_owned(), "1000000".to_owned()];
        let stack = Stack::start_with(Options { arguments, ..Options::default() }).await;
        let upstream = Upstream::start().await;
        let world = Arc::new(World::configure(&stack, &upstream).await);
        let agent = Arc::new(world.agent().await);
        let answered: Arc<Vec<AtomicUsize>> = Arc::new((0..CLIENTS).map(|_| AtomicUsize::new(0)).collect());
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (world, agent, answered) = (Arc::clone(&world), Arc::clone(&agent), Arc::clone(&answered));
            clients.spawn(mint(client, world, agent, answered, stopped.clone()));
        }
        let load = Self { stack, world, _upstream: upstream, answered, stop, clients };
        load.each_is_answered(EACH).await;
        load
    }

    /// Waits until each client has had so many more answers, and one that was under way before.
    async fn each_is_answered(&self, times: usize) {
        let goals: Vec<usize> =
            self.answered.iter().map(|count| count.load(Ordering::SeqCst) + times + 1).collect();
        while self.answered.iter().zip(&goals).any(|(count, goal)| count.load(Ordering::SeqCst) < *goal) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load; answers what came before the change was answered, and what began after it.
    async fn end(mut self, changed: Instant) -> (Self, Vec<Outcome>, Vec<Outcome>) {
        self.each_is_answered(EACH).await;
        self.stop.send(true).unwrap();
        let mut all = Vec::new();
        while let Some(outcomes) = self.clients.join_next().await {
            all.extend(outcomes.unwrap());
        }
        let (after, before): (Vec<_>, Vec<_>) = all.into_iter().partition(|outcome| outcome.began > changed);
        assert!(after.len() >= CLIENTS * EACH && before.len() >= CLIENTS * EACH);
        assert!(before.iter().any(|outcome| outcome.status == 200), "there was a load");
        (self, before, after)
    }
}

/// Mints until it is told to stop: for itself, or for its agent, in turn.
async fn mint(
    client: usize,
    world: Arc<World>,
    agent: Arc<Agent>,
    answered: Arc<Vec<AtomicUsize>>,
    stopped: watch::Receiver<bool>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while !*stopped.borrow() {
        let began = Instant::now();
        let answer = if (client + outcomes.len()).is_multiple_of(2) {
            world.exchange(&[("scope", "agent:lifecycle")]).await
        } else {
            world.try_mint(&agent, "orders:read").await
        };
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let kid = match body["access_token"].as_str() {
            Some(token) => CompactJws::split(token.as_bytes()).unwrap().key_id().unwrap().to_string(),
            None => String::new(),
        };
        outcomes.push(Outcome { began, ended: Instant::now(), status, error: text("error"), kid });
        answered[client].fetch_add(1, Ordering::SeqCst);
    }
    outcomes
}

/// All of them are one of these.
fn all_are(what: &str, outcomes: &[Outcome], allowed: &[(u16, &str)]) {
    for outcome in outcomes {
        let told = (outcome.status, outcome.error.as_str());
        assert!(allowed.contains(&told), "{what}: {told:?}");
    }
}

const GRANTED: (u16, &str) = (200, "");
const STRANGER: (u16, &str) = (401, "access_denied");
const DENIED: (u16, &str) = (403, "access_denied");
const TOO_OFTEN: (u16, &str) = (429, "provider_rate_limited");
const AWAY: (u16, &str) = (503, "sts_unavailable");

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_rotated_key_signs_all_that_is_asked_after_it() {
    let load = Load::start().await;
    let path = format!("{}/internal/zones/{}/signing-key/rotate", load.world.sts, load.world.zone);
    let rotation = load.world.http.post(path).bearer_auth(load.stack.sts_admin_token());
    let rotated: Value = rotation.send().await.unwrap().json().await.unwrap();
    let changed = Instant::now();
    let (load, before, after) = load.end(changed).await;
    all_are("before", &before, &[GRANTED]);
    all_are("after", &after, &[GRANTED]);
    let kid = rotated["kid"].as_str().unwrap();
    assert!(after.iter().all(|outcome| outcome.kid == kid), "something was signed with the old key");
    let agent = load.world.agent().await;
    let mandate = load.world.mint(&agent).await;
    assert_eq!(load.world.read(&mandate).await.status(), StatusCode::OK, "gateways know the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_rotated_secret_is_no_secret_any_more() {
    let load = Load::start().await;
    let path = load.world.path(&format!("applications/{}/rotate-secret", load.world.application));
    let rotated = load.world.operate(Method::POST, &path, Value::Null).await;
    let changed = Instant::now();
    let (load, before, after) = load.end(changed).await;
    // Sixty-one failures of the old secret lock the application out.
    all_are("before", &before, &[GRANTED, STRANGER, TOO_OFTEN]);
    all_are("after", &after, &[STRANGER, TOO_OFTEN]);
    assert_ne!(rotated["client_secret"].as_str().unwrap(), load.world.secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_an_archived_resource_is_granted_to_nobody() {
    let load = Load::start().await;
    let list = load.world.operate(Method::GET, &load.world.path("resources"), Value::Null).await;
    let resource = load.world.path(&format!("resources/{}", list["items"][0]["id"].as_str().unwrap()));
    load.world.operate(Method::DELETE, &resource, Value::Null).await;
    let changed = Instant::now();
    let (_, before, after) = load.end(changed).await;
    all_are("before", &before, &[GRANTED, DENIED]);
    all_are("after", &after, &[DENIED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_an_archived_application_is_a_stranger() {
    let load = Load::start().await;
    let path = load.world.path(&format!("applications/{}", load.world.application));
    load.world.operate(Method::DELETE, &path, Value::Null).await;
    let changed = Instant::now();
    let (_, before, after) = load.end(changed).await;
    all_are("before", &before, &[GRANTED, STRANGER, DENIED, TOO_OFTEN]);
    all_are("after", &after, &[STRANGER, TOO_OFTEN]);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_lockout_holds_for_the_right_secret_too() {
    let load = Load::start().await;
    let wrong = World {
        http: reqwest::Client::new(),
        secret: "wrong".to_owned(),
        zone: load.world.zone.clone(),
        application: load.world.application.clone(),
        sts: load.world.sts.clone(),
        admin: String::new(),
        gateway: String::new(),
        coordinator: String::new(),
        admin_token: String::new(),
        resource: load.world.resource,
    };
    let mut failures = 0;
    loop {
        let answer = wrong.exchange(&[("scope", "agent:lifecycle")]).await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        failures += 1;
        assert!(failures <= 60, "nobody is locked out");
    }
    let changed = Instant::now();
    let (_, before, after) = load.end(changed).await;
    all_are("before", &before, &[GRANTED, TOO_OFTEN]);
    all_are("after", &after, &[TOO_OFTEN]);
}

/// A process that keeps the database locked until its input ends.
async fn lock(stack: &Stack) -> Child {
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n\
                  db.execute('BEGIN IMMEDIATE')\n\
                  print('locked', flush=True)\n\
                  sys.stdin.read()\n\
                  db.execute('ROLLBACK')\n";
    let mut child = Command::new(python())
        .args(["-c", script])
        .arg(stack.folder().join("caracal.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("locked"));
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_database_that_another_process_locks_grants_nothing_and_locks_nobody_out() {
    let load = Load::start().await;
    let mut keeper = lock(&load.stack).await;
    let locked = Instant::now();
    // Everybody waits for the lock, gives up, and asks again.
    load.each_is_answered(1).await;
    let unlocking = Instant::now();
    drop(keeper.stdin.take());
    assert!(keeper.wait().await.unwrap().success());
    let unlocked = Instant::now();
    let (load, before, after) = load.end(unlocked).await;
    let (meanwhile, before): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|outcome| outcome.began > locked);
    all_are("before", &before, &[GRANTED, AWAY]);
    all_are("meanwhile", &meanwhile, &[GRANTED, AWAY]);
    assert!(meanwhile.iter().filter(|outcome| outcome.status == 503).count() >= CLIENTS);
    let granted = meanwhile.iter().filter(|outcome| outcome.status == 200);
    for outcome in granted {
        assert!(outcome.ended >= unlocking, "granted while nothing could be written");
    }
    all_are("after", &after, &[GRANTED, AWAY]);
    let answer = load.world.exchange(&[("scope", "agent:lifecycle")]).await;
    assert_eq!(answer.status(), StatusCode::OK, "the application is not locked out");
    let denied = load.world.audit("decision=deny").await;
    assert_eq!(denied, Vec::<Value>::new(), "nobody was denied anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_database_that_is_deleted_grants_nothing() {
    let load = Load::start().await;
    for name in ["caracal.db", "caracal.db-wal", "caracal.db-shm"] {
        std::fs::remove_file(load.stack.folder().join(name)).unwrap();
    }
    let changed = Instant::now();
    let (load, before, after) = load.end(changed).await;
    all_are("before", &before, &[GRANTED, AWAY]);
    all_are("after", &after, &[AWAY]);
    let ready = load.world.http.get(format!("{}/ready", load.world.sts)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
}
