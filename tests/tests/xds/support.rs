//! A Caracal whose gateway is configured by xDS, and what its Envoy says of itself.

use caracal_tests::{Options, Stack, World, binary};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// What a caller is told where no cluster is.
pub(crate) const NOT_ADDRESSABLE: &str = "upstream not addressable";

pub(crate) async fn start() -> Stack {
    start_with(&[]).await
}

pub(crate) async fn start_with(more: &[&str]) -> Stack {
    let arguments = ["--gateway-config", "xds"].iter().chain(more).map(|text| (*text).to_owned()).collect();
    Stack::start_with(Options { arguments, ..Options::default() }).await
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what} never came"));
}

/// A client of the administration of the stack's own Envoy.
pub(crate) fn admin_of(stack: &Stack) -> reqwest::Client {
    let socket = Path::new(stack.running["envoy_admin"].as_str().unwrap());
    reqwest::Client::builder().unix_socket(socket).build().unwrap()
}

/// The clusters that Envoy was told of, as it has them.
pub(crate) async fn clusters(admin: &reqwest::Client) -> Vec<Value> {
    clusters_at(admin, "http://envoy").await
}

pub(crate) async fn clusters_at(admin: &reqwest::Client, url: &str) -> Vec<Value> {
    let answer =
        admin.get(format!("{url}/config_dump?resource=dynamic_active_clusters")).send().await.unwrap();
    let dump: Value = answer.json().await.unwrap();
    let configs = dump["configs"].as_array().cloned().unwrap_or_default();
    let cluster = |config: Value| {
        let mut cluster = config["cluster"].clone();
        cluster.as_object_mut().unwrap().remove("@type");
        cluster
    };
    configs.into_iter().map(cluster).collect()
}

/// The names of those that are upstreams.
pub(crate) fn served(clusters: &[Value]) -> Vec<String> {
    let mut names: Vec<String> =
        clusters.iter().map(|cluster| cluster["name"].as_str().unwrap().to_owned()).collect();
    names.retain(|name| name.starts_with("upstream|"));
    names.sort();
    names
}

/// Moves the world's resource.
pub(crate) async fn patch(world: &World, url: &str) {
    let path = resource_path(world).await;
    world.operate(Method::PATCH, &path, json!({ "upstream_url": url })).await;
}

/// Where the world's resource is configured.
pub(crate) async fn resource_path(world: &World) -> String {
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let items = resources["items"].as_array().unwrap();
    let resource = items.iter().find(|item| item["identifier"] == world.resource).unwrap();
    world.path(&format!("resources/{}", resource["id"].as_str().unwrap()))
}

/// What `caracal status --json` says.
pub(crate) async fn status(stack: &Stack) -> Value {
    told("status", stack).await
}

/// What `caracal doctor --json` says of one thing: how it is, and in which words.
pub(crate) async fn diagnosis(stack: &Stack, check: &str) -> Option<(String, String)> {
    let report = told("doctor", stack).await;
    let found = report["checks"].as_array()?.iter().find(|found| found["check"] == check)?;
    Some((found["status"].as_str()?.to_owned(), found["detail"].as_str()?.to_owned()))
}

async fn told(command: &str, stack: &Stack) -> Value {
    let output = Command::new(binary())
        .arg(command)
        .arg("--json")
        .arg("--data")
        .arg(stack.folder())
        .output()
        .await
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}
