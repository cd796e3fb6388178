//! What operators and clients see of decisions: challenges, metadata, labels, access logs, dry runs, operations by
//! pattern, and an Envoy without a singleton.

use caracal_envoy::{FeedSource, Shape, render};
use caracal_tests::{Sidecar, Stack, Upstream, World, sidecar_options};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// Looks until something is there.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.unwrap_or_else(|_| panic!("{what} never came"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_challenges_and_tells_whom_to_ask() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let bare = world.http.get(format!("{}/v1/orders", world.gateway)).send().await.unwrap();
    let challenge = bare.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let url = challenge.strip_prefix("Bearer resource_metadata=\"").unwrap().strip_suffix('"').unwrap();
    assert_eq!(url, format!("{}/.well-known/oauth-protected-resource", world.gateway));
    let metadata: Value = world.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(metadata["resource"], world.gateway);
    assert_eq!(metadata["authorization_servers"], json!(["http://sts.caracal.test"]));

    let mandate = world.mint(&world.agent().await).await;
    let unscoped = world.call(Method::POST, "/v1/orders", &mandate).await;
    assert_eq!(unscoped.status(), StatusCode::FORBIDDEN);
    let challenge = unscoped.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"orders:write\"")
    );
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_knows_operations_by_template_and_prefix() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let resource = world.path(&format!("resources/{}", resources["items"][0]["id"].as_str().unwrap()));
    let body = json!({ "operations": [
        { "method": "GET", "path": "/v1/orders/{id}", "scope": "orders:read", "match": "template" },
        { "method": "GET", "path": "/v1/orders/export", "scope": "orders:write" },
        { "method": "GET", "path": "/static", "scope": "orders:read", "match": "prefix" },
    ] });
    world.operate(Method::PATCH, &resource, body).await;
    let agent = world.agent().await;
    // The gateway has heard of the patterns as soon as it knows the template.
    eventually("the template", || async {
        let answer = world.call(Method::GET, "/v1/orders/0", &world.mint(&agent).await).await;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    let before = upstream.seen().len();
    for (path, status) in [
        ("/v1/orders/42?x=/..", 200),
        ("/static/css/a.css", 200),
        ("/v1/orders/export", 403),
        ("/v1/orders/42/lines", 403),
        ("/v1/orders/42%2Flines", 403),
        ("/v1/orders/42%252Flines", 403),
        ("/v1/orders/..;/admin", 403),
        ("/v1/orders/", 403),
        ("/v1/orders", 403),
        ("/staticfile", 403),
        ("/static/%252e%252e/v1", 400),
    ] {
        let answer = world.call(Method::GET, path, &world.mint(&agent).await).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
    let targets: Vec<String> = upstream.seen().iter().skip(before).map(|seen| seen.target.clone()).collect();
    assert_eq!(targets, ["/v1/orders/42?x=%2F..", "/static/css/a.css"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_passes_and_tells_in_metrics_log_and_ledger() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let mut options = sidecar_options(&stack, &world.zone, world.resource, upstream.address);
    options.access_log = Some(log.clone());
    if let Shape::Sidecar(sidecar) = &mut options.shape {
        sidecar.dry_run = true;
    }
    let sidecar = Sidecar::start_with(&stack, &render(&options), 200).await;
    // Until the feed is there the reason is another one; it passes all the same.
    let label = "caracal_gateway_dry_run_denials_total{reason=\"missing_bearer\"";
    let metrics = eventually("the label", || async {
        let answer = world.http.get(format!("{}/v1/orders?token=secret", sidecar.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let metrics = world.http.get(format!("{}/stats/prometheus", sidecar.admin)).send().await.unwrap();
        Some(metrics.text().await.unwrap()).filter(|text| text.contains(label))
    })
    .await;
    assert!(!metrics.contains("caracal_gateway_denials_total{"), "nothing was refused");

    let query = "event_type=gateway_dry_run";
    let events = eventually("the event", || async {
        let events = world.audit(query).await;
        events.iter().any(|event| event.to_string().contains("missing_bearer")).then_some(events)
    })
    .await;
    assert!(
        events.iter().all(|event| event["decision"] == "allow" && event["evaluation_status"] == "dry_run")
    );
    let named: Vec<&str> =
        events.iter().filter_map(|event| event["metadata_json"]["decision_id"].as_str()).collect();
    let line = eventually("the line", || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut known =
            lines.filter(|line| named.contains(&line["decision_id"].as_str().unwrap_or_default()));
        known.find(|line| line["reason"] == "missing_bearer")
    })
    .await;
    assert_eq!((&line["method"], &line["status"]), (&json!("GET"), &json!(200)));
    assert!(!std::fs::read_to_string(&log).unwrap().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_a_singleton_decides_and_learns_of_revocation() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    let mut options = sidecar_options(&stack, &world.zone, world.resource, upstream.address);
    options.feed = FeedSource::Workers;
    let sidecar = Sidecar::start_with(&stack, &render(&options), 401).await;
    world.add_resource(sidecar.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let agent = world.agent().await;
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);
    let authorization = upstream.seen()[0].headers["authorization"].clone();
    let call = || async {
        let request = world.http.get(format!("{}/v1/orders", sidecar.url));
        request.header("authorization", authorization.clone()).send().await.unwrap().status()
    };
    assert_eq!(call().await, StatusCode::OK);
    world.end_session(&agent.bearer, &agent.root).await;
    eventually("the revocation", || async { (call().await == StatusCode::UNAUTHORIZED).then_some(()) }).await;
    // Refused by label, as everywhere.
    let metrics = world.http.get(format!("{}/stats/prometheus", sidecar.admin)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("caracal_gateway_denials_total{reason=\"revoked\""), "{metrics}");
}
