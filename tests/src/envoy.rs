//! An Envoy of a test's own, as an operator would run one beside a service.

use crate::{Leash, Stack, envoy_binary, filter_module};
use caracal_envoy::{BootstrapOptions, Endpoint, KEY_VARIABLE, Shape, SidecarOptions, render};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A running sidecar in front of one upstream.
pub struct Sidecar {
    pub url: String,
    /// Where Envoy's administration listens.
    pub admin: String,
    child: Child,
    folder: TempDir,
}

fn endpoint(stack: &Stack, service: &str) -> Endpoint {
    let address: SocketAddr = stack.running[service].as_str().unwrap().parse().unwrap();
    Endpoint::new(address.ip().to_string(), address.port())
}

/// The bootstrap of a sidecar that follows this Caracal.
pub fn sidecar_bootstrap(stack: &Stack, zone: &str, resource: &str, upstream: SocketAddr) -> Value {
    render(&sidecar_options(stack, zone, resource, upstream))
}

/// What it is rendered from.
pub fn sidecar_options(stack: &Stack, zone: &str, resource: &str, upstream: SocketAddr) -> BootstrapOptions {
    let shape = Shape::Sidecar(SidecarOptions {
        zone: ZoneId::new(zone).unwrap(),
        resource: ResourceIdentifier::new(resource).unwrap(),
        upstream: Endpoint::new(upstream.ip().to_string(), upstream.port()),
        forward_mandate: true,
        dry_run: false,
    });
    let mut options = BootstrapOptions::new(GatewayId::new("sidecar").unwrap(), shape, filter_module());
    options.listener = Endpoint::loopback(0);
    options.sts = endpoint(stack, "sts");
    options.audit = endpoint(stack, "audit");
    options
}

fn command(folder: &Path, bootstrap: &Value, key: &str) -> Command {
    let config = folder.join("envoy.json");
    std::fs::write(&config, bootstrap.to_string()).unwrap();
    let mut command = Command::new(envoy_binary());
    command
        .arg("--config-path")
        .arg(config)
        .arg("--admin-address-path")
        .arg(folder.join("admin"))
        .args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"])
        .env(KEY_VARIABLE, key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs Envoy with a bootstrap that it has to refuse, until it does.
pub async fn refused(bootstrap: &Value, key: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), bootstrap, key);
    let output = command.stderr(Stdio::piped()).output();
    tokio::time::timeout(Duration::from_secs(60), output).await.expect("Envoy took the bootstrap").unwrap()
}

/// The key that this Caracal shares with its gateways.
pub fn gateway_key(stack: &Stack) -> String {
    std::fs::read_to_string(stack.folder().join("secrets/gatewayStsHmacKey")).unwrap().trim().to_owned()
}

impl Sidecar {
    /// Starts one and waits until it decides.
    pub async fn start(stack: &Stack, zone: &str, resource: &str, upstream: SocketAddr) -> Self {
        Self::start_with(stack, &sidecar_bootstrap(stack, zone, resource, upstream), 401).await
    }

    /// Starts one with this bootstrap, and waits until it answers a request without a mandate like this.
    pub async fn start_with(stack: &Stack, bootstrap: &Value, ready: u16) -> Self {
        Self::start_in(stack, bootstrap, ready, &[]).await
    }

    /// The same with further variables in its environment.
    pub async fn start_in(
        stack: &Stack,
        bootstrap: &Value,
        ready: u16,
        environment: &[(&str, &Path)],
    ) -> Self {
        Self::launch(bootstrap, &gateway_key(stack), ready, environment).await
    }

    /// Starts any Envoy with this key, and waits until it answers a request without a mandate like this.
    pub async fn launch(bootstrap: &Value, key: &str, ready: u16, environment: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path(), bootstrap, key);
        let child = command.envs(environment.iter().copied()).spawn().unwrap();
        let reach = async {
            loop {
                if let Some(url) = listener(&folder.path().join("admin")).await {
                    let answer = reqwest::get(format!("{url}/")).await;
                    if answer.is_ok_and(|answer| answer.status() == ready) {
                        return url;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let url =
            tokio::time::timeout(Duration::from_secs(60), reach).await.expect("the sidecar is not ready");
        let admin = std::fs::read_to_string(folder.path().join("admin")).unwrap();
        Self { url, admin: format!("http://{}", admin.trim()), child, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Ends it when this program ends, for a sidecar that is never dropped.
    pub fn leash(&self) -> Leash {
        Leash::on(self.child.id().unwrap(), self.folder.path())
    }
}

async fn listener(admin: &Path) -> Option<String> {
    let admin = std::fs::read_to_string(admin).ok()?;
    let answer = reqwest::get(format!("http://{}/listeners?format=json", admin.trim())).await.ok()?;
    let listeners: Value = answer.json().await.ok()?;
    let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
    Some(format!("http://{}:{}", address["address"].as_str()?, address["port_value"].as_u64()?))
}

/// Changes the filter's own configuration inside a rendered bootstrap.
pub fn change_filter(bootstrap: &mut Value, change: impl FnOnce(&mut Value)) {
    let mut change = Some(change);
    visit(bootstrap, &mut |value| {
        let is_text = value.get("@type").and_then(Value::as_str)
            == Some("type.googleapis.com/google.protobuf.StringValue");
        let text = value.get("value").and_then(Value::as_str).filter(|text| text.contains("\"role\""));
        if let (true, Some(text)) = (is_text, text) {
            let mut configuration: Value = serde_json::from_str(text).unwrap();
            if let Some(change) = change.take() {
                change(&mut configuration);
            }
            value["value"] = configuration.to_string().into();
        }
    });
    assert!(change.is_none(), "the bootstrap has no filter");
}

fn visit(value: &mut Value, look: &mut impl FnMut(&mut Value)) {
    look(value);
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| visit(member, look)),
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, look)),
        _ => {}
    }
}
