//! What the services count of one governed request, as an operator's scraper sees it.

use caracal_tests::{Options, Stack, Upstream, World};
use serde_json::Value;
use std::collections::BTreeMap;

const BEARER: &str = "token-of-the-scraper";

/// A service's metrics: name and labels to value.
async fn scrape(stack: &Stack, world: &World, service: &str) -> BTreeMap<String, f64> {
    let url = format!("{}/metrics", stack.url(service));
    let refused = world.http.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 401, "{service} without the token");
    let text = world.http.get(&url).bearer_auth(BEARER).send().await.unwrap().text().await.unwrap();
    for secret in [BEARER, &world.secret, &world.admin_token, &world.zone, &world.application] {
        assert!(!text.contains(secret), "{service} shows an id or a secret");
    }
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[track_caller]
fn at_least(samples: &BTreeMap<String, f64>, name: &str, least: f64) {
    let value = samples.get(name).copied();
    assert!(value.is_some_and(|value| value >= least), "{name}: {value:?} in {samples:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_a_governed_request() {
    let environment = vec![("METRICS_BEARER".to_owned(), BEARER.to_owned())];
    let stack = Stack::start_with(Options { environment, ..Options::default() }).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    assert_eq!(world.read(&mandate).await.status(), 200);
    assert_eq!(world.try_mint(&agent, "orders:write").await.status(), 403);
    world.audit("").await;

    let sts = scrape(&stack, &world, "sts").await;
    for (name, least) in [
        ("caracal_sts_mints_total{use=\"session\"}", 1.0),
        ("caracal_sts_mints_total{use=\"gateway\"}", 1.0),
        ("caracal_sts_mints_total{use=\"resource\"}", 1.0),
        ("caracal_sts_opa_eval_total", 2.0),
        ("caracal_sts_opa_compile_total", 1.0),
        ("caracal_sts_policy_evaluation_seconds_count", 2.0),
        ("caracal_sts_graph_traversals_total", 1.0),
        ("caracal_sts_feed_gateways", 1.0),
        ("caracal_store_commit_group_size_count", 5.0),
        ("caracal_http_connections{service=\"sts\"}", 1.0),
        (
            "caracal_http_requests_total{method=\"POST\",route=\"/oauth/2/token\",service=\"sts\",status=\"2xx\"}",
            3.0,
        ),
    ] {
        at_least(&sts, name, least);
    }
    let denied = |name: &&String| name.starts_with("caracal_sts_denials_total{error=\"access_denied\"");
    assert!(sts.keys().any(|name| denied(&name)), "{sts:#?}");

    let admin = scrape(&stack, &world, "admin").await;
    at_least(&admin, "caracal_secret_backend_operations_total", 1.0);
    let route =
        "caracal_http_requests_total{method=\"POST\",route=\"/v1/zones\",service=\"api\",status=\"2xx\"}";
    at_least(&admin, route, 1.0);
    assert!(!admin.contains_key("caracal_sts_opa_eval_total"));

    let coordinator = scrape(&stack, &world, "coordinator").await;
    at_least(&coordinator, "caracal_coordinator_sessions{status=\"active\"}", 1.0);
    at_least(&coordinator, "caracal_ttl_sweeper_runs_total", 1.0);

    let audit = scrape(&stack, &world, "audit").await;
    at_least(&audit, "caracal_audit_inserts_total", 2.0);
    assert_eq!(audit["caracal_store_up"], 1.0);

    let url = format!("{}/metrics.json", stack.url("sts"));
    let document: Value = world.http.get(url).bearer_auth(BEARER).send().await.unwrap().json().await.unwrap();
    assert!(document["opa"]["eval_total"].as_i64().unwrap() >= 2);
    assert_eq!(document["opa"]["decision_contract_sha256"].as_str().unwrap().len(), 64);
}
