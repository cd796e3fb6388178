//! A gateway beside the services: it outlives them, and they may be away.

use crate::support::{NOT_ADDRESSABLE, clusters_at, served, start, until};
use caracal_envoy::{
    BootstrapOptions, ControlCredential, ControlPlace, ControlPlane, Endpoint, GatewayOptions, Shape, render,
};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::GatewayId;
use caracal_tests::{
    Agent, Place, Relay, Sidecar, Stack, Upstream, World, envoy_binary, filter_module, gateway_key,
};
use reqwest::StatusCode;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

fn address(stack: &Stack, service: &str) -> SocketAddr {
    stack.running[service].as_str().unwrap().parse().unwrap()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip().to_string(), address.port())
}

fn socket(stack: &Stack) -> PathBuf {
    stack.folder().join("xds.sock")
}

/// A gateway of this id with the credential of that one.
fn options(stack: &Stack, id: &str, credential_of: &str, socket: PathBuf) -> BootstrapOptions {
    let key = GatewayKey::from_hex(&gateway_key(stack)).unwrap();
    let credential = key.configuration_credential(&GatewayId::new(credential_of).unwrap());
    let control =
        ControlPlane { place: ControlPlace::Socket(socket), credential: ControlCredential::new(credential) };
    let shape = Shape::Gateway(GatewayOptions { control: Some(control), ..GatewayOptions::default() });
    let mut options = BootstrapOptions::new(GatewayId::new(id).unwrap(), shape, filter_module());
    options.listener = Endpoint::loopback(0);
    options
}

/// A gateway of its own, and the ways by which it reaches the services.
struct Edge {
    stack: Stack,
    world: World,
    agent: Agent,
    upstream: Upstream,
    gateway: Sidecar,
    control: Relay,
    services: Vec<(&'static str, Relay)>,
    _folder: TempDir,
}

impl Edge {
    async fn prepare() -> Self {
        let (stack, upstream) = (start().await, Upstream::start().await);
        let world = World::configure(&stack, &upstream).await;
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("xds.sock");
        let control = Relay::unix(&at, socket(&stack));
        let (sts, sts_at) = Relay::tcp(address(&stack, "sts")).await;
        let (audit, audit_at) = Relay::tcp(address(&stack, "audit")).await;
        let mut options = options(&stack, "edge", "edge", at);
        (options.sts, options.audit) = (endpoint(sts_at), endpoint(audit_at));
        // The listener is what the server says, at the place that the gateway says.
        let gateway = Sidecar::start_with(&stack, &render(&options), 401).await;
        let agent = world.agent().await;
        let services = vec![("sts", sts), ("audit", audit)];
        let edge = Self { stack, world, agent, upstream, gateway, control, services, _folder: folder };
        edge.passes("to begin with", edge.world.resource).await;
        edge
    }

    async fn call(&self, mandate: &str, resource: &str) -> (StatusCode, Value) {
        let request = self.world.http.get(format!("{}/v1/orders", self.gateway.url)).bearer_auth(mandate);
        let answer = request.header("x-caracal-resource", resource).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    async fn passes(&self, what: &str, resource: &'static str) {
        let world = World { resource, ..self.world.clone() };
        until(what, async || {
            let mandate = world.mint(&self.agent).await;
            self.call(&mandate, resource).await.0 == StatusCode::OK
        })
        .await;
    }

    async fn served(&self) -> usize {
        served(&clusters_at(&self.world.http, &self.gateway.admin).await).len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_control_plane_is_away_envoy_keeps_what_it_has_and_the_filter_still_decides() {
    let edge = Edge::prepare().await;
    edge.control.lead_to(None);
    edge.passes("what was there", edge.world.resource).await;
    // What is new is not known yet, and nothing guesses where it may be.
    let other = Upstream::start().await;
    let held = edge.world.mint(&edge.agent).await;
    edge.world.add_resource_named("resource://new", other.address).await;
    assert_eq!(edge.served().await, 1);
    // What is taken away is refused all the same: the filter follows the feed, and asks the STS.
    edge.world.end_session(&edge.agent.bearer, &edge.agent.root).await;
    let before = edge.upstream.seen().len();
    assert!(edge.call(&held, edge.world.resource).await.0.is_client_error());
    assert_eq!((edge.upstream.seen().len(), other.seen().len()), (before, 0));
    edge.control.lead_to(Some(Place::Unix(socket(&edge.stack))));
    until("the new resource", async || edge.served().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_moved_unknown_to_envoy_goes_nowhere() {
    let edge = Edge::prepare().await;
    edge.control.lead_to(None);
    let moved = Upstream::start().await;
    crate::support::patch(&edge.world, &format!("http://{}", moved.address)).await;
    let before = edge.upstream.seen().len();
    for _ in 0..3 {
        let mandate = edge.world.mint(&edge.agent).await;
        let (status, body) = edge.call(&mandate, edge.world.resource).await;
        assert_eq!((status, &body["error_description"]), (StatusCode::BAD_GATEWAY, &NOT_ADDRESSABLE.into()));
    }
    assert_eq!((edge.upstream.seen().len(), moved.seen().len()), (before, 0));
    edge.control.lead_to(Some(Place::Unix(socket(&edge.stack))));
    edge.passes("the move", edge.world.resource).await;
    assert!(!moved.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_killed_and_come_back_are_found_again() {
    let mut edge = Edge::prepare().await;
    let held = edge.world.mint(&edge.agent).await;
    edge.stack.kill().await;
    for (_, service) in &edge.services {
        service.lead_to(None);
    }
    let before = edge.upstream.seen().len();
    for _ in 0..3 {
        let (status, _) = edge.call(&held, edge.world.resource).await;
        assert!(status.is_server_error() || status.is_client_error(), "{status}");
    }
    assert_eq!(edge.upstream.seen().len(), before, "something was forwarded");
    assert_eq!(edge.served().await, 1, "Envoy keeps what it had");
    edge.stack.restart().await;
    for (name, service) in &edge.services {
        service.lead_to(Some(Place::Tcp(address(&edge.stack, name))));
    }
    let mut world = edge.world.clone();
    world.moved_to(&edge.stack);
    edge.world = world;
    edge.passes("the old resource", edge.world.resource).await;
    let other = Upstream::start().await;
    edge.world.add_resource_named("resource://new", other.address).await;
    until("the new resource", async || edge.served().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_with_a_wrong_credential_is_told_nothing_and_serves_nothing() {
    let stack = start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("envoy.json");
    let bootstrap = render(&options(&stack, "edge", "another", socket(&stack)));
    std::fs::write(&config, bootstrap.to_string()).unwrap();
    let admin = folder.path().join("admin");
    let mut command = Command::new(envoy_binary());
    command.arg("--config-path").arg(&config).arg("--admin-address-path").arg(&admin);
    command.args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "off"]);
    command.env(caracal_envoy::KEY_VARIABLE, gateway_key(&stack)).stdin(Stdio::null()).stdout(Stdio::null());
    let _child = command.kill_on_drop(true).spawn().unwrap();
    let http = reqwest::Client::new();
    until("the refusal", async || {
        let metrics = http.get(format!("{}/metrics", stack.url("admin"))).send().await.unwrap();
        let refused = "caracal_xds_refused_streams_total{reason=\"wrong_credential\"}";
        metrics.text().await.unwrap().contains(refused)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let admin = std::fs::read_to_string(admin).unwrap();
    let listeners = http.get(format!("http://{}/listeners", admin.trim())).send().await.unwrap();
    assert_eq!(listeners.text().await.unwrap().trim(), "");
    assert_eq!(served(&clusters_at(&http, &format!("http://{}", admin.trim())).await), Vec::<String>::new());
    let report = crate::support::status(&stack).await;
    assert!(report["gateway_configuration"]["status"]["gateways"].get("edge").is_none(), "{report}");
}
