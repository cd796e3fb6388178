//! What is away, and who is affected: `docs/operating.md`, "When something is down". Nothing is forwarded that should
//! not be, and everything comes back by itself.
//!
//! One process holds all services, so a single one is taken away by cutting what Envoy reaches it by; all of them
//! together by freezing or killing the process.

use caracal_envoy::{BootstrapOptions, Endpoint, GatewayOptions, Shape, render};
use caracal_mandate::id::GatewayId;
use caracal_tests::{
    Agent, Clock, Link, LinkState, Sidecar, Stack, Upstream, World, filter_module, sidecar_options,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// How old the feed may be: short, so that a test sees it grow too old.
const MAX_FEED_AGE_MS: u64 = 3_000;
/// Events that a worker holds while Audit is away: as few as can be.
const FEW: u32 = 10;
/// The same, where it is not to matter.
const MANY: u32 = 10_000;
/// Why the sidecar refuses.
const OLD_FEED: &str = "revocation state unavailable";
const BACKLOG: &str = "evidence cannot be recorded";

/// A Caracal, and a gateway and a sidecar that reach its STS and its Audit over links.
struct Field {
    stack: Stack,
    world: World,
    agent: Agent,
    upstream: Upstream,
    sts: Link,
    audit: Link,
    sidecar: Sidecar,
    gateway: Sidecar,
    /// Good at the sidecar, as often as one likes.
    mandate: String,
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip().to_string(), address.port())
}

fn address(stack: &Stack, service: &str) -> SocketAddr {
    stack.running[service].as_str().unwrap().parse().unwrap()
}

impl Field {
    async fn prepare(capacity: u32) -> Self {
        let (stack, upstream) = (Stack::start().await, Upstream::start().await);
        let mut world = World::prepare(&stack).await;
        let sts = Link::to(address(&stack, "sts")).await;
        let audit = Link::to(address(&stack, "audit")).await;
        let over_links = |mut options: BootstrapOptions| {
            (options.sts, options.audit) = (endpoint(sts.address), endpoint(audit.address));
            (options.max_feed_age_ms, options.feed_wait_s) = (MAX_FEED_AGE_MS, 1);
            options.evidence_capacity = capacity;
            render(&options)
        };
        let beside = over_links(sidecar_options(&stack, &world.zone, world.resource, upstream.address));
        let shape = Shape::Gateway(GatewayOptions::default());
        let mut options = BootstrapOptions::new(GatewayId::new("edge").unwrap(), shape, filter_module());
        options.listener = Endpoint::loopback(0);
        let edge = over_links(options);
        for bootstrap in [&beside, &edge] {
            let coordinator = address(&stack, "coordinator").port().to_string();
            assert!(!bootstrap.to_string().contains(&format!("\"port_value\":{coordinator}")));
        }
        let sidecar = Sidecar::start_with(&stack, &beside, 401).await;
        let gateway = Sidecar::start_with(&stack, &edge, 401).await;
        world.add_resource(upstream.address).await;
        let agent = world.agent().await;
        // What Caracal's own gateway carries on is a mandate for the resource.
        assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);
        let authorization = upstream.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
        let mandate = authorization.strip_prefix("Bearer ").unwrap().to_owned();
        let field = Self { stack, world, agent, upstream, sts, audit, sidecar, gateway, mandate };
        field.passes_again("to begin with").await;
        field
    }

    /// The governed request of an agent: a mandate of its own, used up at the gateway.
    async fn govern(&self, mandate: &str) -> StatusCode {
        let request = self.world.http.get(format!("{}/v1/orders", self.gateway.url)).bearer_auth(mandate);
        request.header("x-caracal-resource", self.world.resource).send().await.unwrap().status()
    }

    /// The request of a service that holds a mandate for the resource.
    async fn reuse(&self) -> StatusCode {
        let request = self.world.http.get(format!("{}/v1/orders", self.sidecar.url));
        request.bearer_auth(&self.mandate).send().await.unwrap().status()
    }

    fn forwarded(&self) -> usize {
        self.upstream.seen().len()
    }

    /// Calls until the sidecar refuses for this reason, and for no other; answers how many it passed before.
    async fn sidecar_closes(&self, what: &str, why: &str) -> usize {
        let before = self.forwarded();
        let closing = async {
            loop {
                let request = self.world.http.get(format!("{}/v1/orders", self.sidecar.url));
                let answer = request.bearer_auth(&self.mandate).send().await.unwrap();
                if answer.status() != StatusCode::OK {
                    return (answer.status(), answer.json::<Value>().await.unwrap());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (status, body) = tokio::time::timeout(Duration::from_secs(60), closing).await.expect(what);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{what}: {body}");
        assert_eq!(body["error_description"], why, "{what}");
        self.forwarded() - before
    }

    /// Neither lets anything through.
    async fn all_closed(&self, what: &str, mandates: &[String]) {
        let before = self.forwarded();
        for mandate in mandates {
            let status = self.govern(mandate).await;
            assert!(status.is_server_error(), "{what}: the gateway answers {status}");
            let status = self.reuse().await;
            assert!(status.is_server_error(), "{what}: the sidecar answers {status}");
        }
        assert_eq!(self.forwarded(), before, "{what}: something was forwarded");
    }

    /// Both do their work again, by themselves.
    async fn passes_again(&self, what: &str) {
        let passing = async {
            while self.reuse().await != StatusCode::OK
                || self.govern(&self.world.mint(&self.agent).await).await != StatusCode::OK
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), passing).await.expect(what);
    }

    async fn mandates(&self, count: usize) -> Vec<String> {
        let mut mandates = Vec::new();
        for _ in 0..count {
            mandates.push(self.world.mint(&self.agent).await);
        }
        mandates
    }

    /// Waits until the ledger holds so many requests that were allowed.
    async fn allowed(&self, expected: usize) {
        let query = "event_type=gateway_resource_request&decision=allow";
        let all = async {
            loop {
                let count = self.world.audit(query).await.len();
                assert!(count <= expected, "{count} events of {expected} requests");
                if count == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("evidence is missing");
    }

    fn signal(&self, signal: &str) {
        let pid = self.stack.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_sts_nothing_that_needs_it_passes_and_nothing_at_all_once_the_feed_is_old() {
    for state in [LinkState::Cut, LinkState::Silent] {
        let field = Field::prepare(MANY).await;
        let what = format!("{state:?} STS");
        let mandates = field.mandates(3).await;
        let before = field.forwarded();
        field.sts.become_state(state);
        let status = field.govern(&mandates[0]).await;
        assert!(status.is_server_error(), "{what}: {status}");
        assert_eq!(field.forwarded(), before, "{what}");
        field.sidecar_closes(&what, OLD_FEED).await;
        field.all_closed(&what, &mandates[1..]).await;
        // What is taken away meanwhile is not used when the STS is back: the first answer already knows.
        field.world.end_session(&field.agent.bearer, &field.agent.root).await;
        let before = field.forwarded();
        field.sts.become_state(LinkState::Open);
        let answer = async {
            loop {
                let status = field.reuse().await;
                if status != StatusCode::SERVICE_UNAVAILABLE {
                    return status;
                }
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(60), answer).await.expect(&what);
        assert_eq!(answer, StatusCode::UNAUTHORIZED, "{what}");
        for mandate in &mandates {
            assert_ne!(field.govern(mandate).await, StatusCode::OK, "{what}");
        }
        assert_eq!(field.forwarded(), before, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_audit_requests_pass_while_evidence_can_be_kept_and_none_is_lost() {
    for state in [LinkState::Cut, LinkState::Silent] {
        let field = Field::prepare(FEW).await;
        let what = format!("{state:?} Audit");
        let mandates = field.mandates(usize::try_from(FEW).unwrap() * 2).await;
        field.audit.become_state(state);
        let passed = field.sidecar_closes(&what, BACKLOG).await;
        assert!(passed <= usize::try_from(FEW).unwrap(), "{what}: {passed} passed");
        let before = field.forwarded();
        for mandate in &mandates {
            field.govern(mandate).await;
        }
        let governed = field.forwarded() - before;
        assert!(governed <= usize::try_from(FEW).unwrap(), "{what}: {governed} passed");
        field.all_closed(&what, &field.mandates(2).await).await;
        field.audit.become_state(LinkState::Open);
        field.passes_again(&what).await;
        // One event for each request that reached the upstream.
        field.allowed(field.forwarded()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_control_plane_closes_everything_and_all_comes_back_with_it() {
    let field = Field::prepare(MANY).await;
    let mandates = field.mandates(2).await;
    field.signal("-STOP");
    field.sidecar_closes("frozen", OLD_FEED).await;
    field.all_closed("frozen", &mandates).await;
    field.signal("-CONT");
    field.passes_again("thawed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_control_plane_closes_everything() {
    let mut field = Field::prepare(MANY).await;
    let mandates = field.mandates(2).await;
    field.stack.kill().await;
    field.sidecar_closes("killed", OLD_FEED).await;
    field.all_closed("killed", &mandates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_nothing_is_minted_started_changed_or_used_up() {
    let field = Field::prepare(MANY).await;
    let mandates = field.mandates(2).await;
    for name in ["caracal.db", "caracal.db-wal", "caracal.db-shm"] {
        std::fs::remove_file(field.stack.folder().join(name)).unwrap();
    }
    let minted = field.world.try_mint(&field.agent, "orders:read").await;
    assert_eq!(minted.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = json!({ "application_id": field.world.application });
    let started = field.world.coordinate(Method::POST, "agents", &field.agent.bearer, Some(body)).await;
    assert!(started.status().is_server_error(), "{}", started.status());
    let zones = format!("{}/v1/zones", field.world.admin);
    let change = field.world.http.post(zones).bearer_auth(&field.world.admin_token);
    let changed = change.json(&json!({ "name": "another" })).send().await.unwrap();
    assert!(changed.status().is_server_error(), "{}", changed.status());
    let body: Value = changed.json().await.unwrap();
    assert!(body["error"].is_string(), "{body}");
    let before = field.forwarded();
    for mandate in &mandates {
        let status = field.govern(mandate).await;
        assert!(status.is_server_error(), "the gateway answers {status}");
    }
    assert_eq!(field.forwarded(), before);
    field.sidecar_closes("without the database", OLD_FEED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_stepped_lets_nothing_pass_that_is_expired_or_revoked() {
    let field = Field::prepare(MANY).await;
    let clock = Clock::build();
    let mut options =
        sidecar_options(&field.stack, &field.world.zone, field.world.resource, field.upstream.address);
    (options.max_feed_age_ms, options.feed_wait_s) = (MAX_FEED_AGE_MS, 1);
    let bootstrap = render(&options);
    let stepped = Sidecar::start_in(&field.stack, &bootstrap, 401, &clock.environment()).await;
    let call = async |mandate: &str| {
        let request = field.world.http.get(format!("{}/v1/orders", stepped.url)).bearer_auth(mandate);
        request.send().await.unwrap().status()
    };
    let until = async |mandate: &str, expected: StatusCode| {
        let answer = async {
            while call(mandate).await != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answer).await.expect("the answer stays another");
    };
    until(&field.mandate, StatusCode::OK).await;
    let ended = field.world.agent().await;
    assert_eq!(field.world.read(&field.world.mint(&ended).await).await.status(), StatusCode::OK);
    let seen = field.upstream.seen();
    let authorization = seen.last().unwrap().headers["authorization"].to_str().unwrap();
    let revoked = authorization.strip_prefix("Bearer ").unwrap();
    until(revoked, StatusCode::OK).await;
    field.world.end_session(&ended.bearer, &ended.root).await;
    until(revoked, StatusCode::UNAUTHORIZED).await;
    for hours in [2_i64, -2, 24, -24] {
        clock.step(hours * 3600);
        // Long enough for the feed to be too old by any clock.
        until(&field.mandate, StatusCode::SERVICE_UNAVAILABLE).await;
        let before = field.forwarded();
        for mandate in [revoked, &field.mandate].repeat(20) {
            assert_ne!(call(mandate).await, StatusCode::OK, "{hours} hours");
        }
        assert_eq!(field.forwarded(), before, "{hours} hours");
        clock.step(0);
        until(&field.mandate, StatusCode::OK).await;
        assert_eq!(call(revoked).await, StatusCode::UNAUTHORIZED);
    }
}
