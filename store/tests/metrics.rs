//! The exposition of metrics: what it shows, to whom, and that the documentation names all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use axum::Router;
use axum::routing::get;
use caracal_store::Store;
use caracal_store::http::Server;
use caracal_store::metrics::{self, Access, Exposition, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tokio::net::TcpListener;

const DOCUMENTATION: &str = include_str!("../../docs/metrics.md");
const SERVICES: [Service; 4] = [Service::Admin, Service::Audit, Service::Coordinator, Service::Sts];

async fn store(dir: &tempfile::TempDir) -> Store {
    Store::open_file(&dir.path().join("caracal.db")).await.unwrap()
}

/// Serves the metrics of a service beside one route, and answers its address.
async fn serve(service: Service, exposition: Exposition) -> String {
    let router = Router::new()
        .route("/things/{thing}", get(|| async { "thing" }))
        .route("/refuses", get(|| async { axum::http::StatusCode::FORBIDDEN }))
        .merge(exposition.routes());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(Server::new(service).serve(listener, router, std::future::pending()));
    address
}

async fn body(url: String) -> String {
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

/// The lines of a text exposition: name and labels to value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The first cells of the table of all metrics.
fn documented() -> Vec<(&'static str, &'static str, &'static str)> {
    let table = DOCUMENTATION.split("## All metrics").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `caracal_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`'), cells[2], cells[3])
    })
    .collect()
}

#[test]
fn contract_sts_26_2_the_documentation_names_every_metric_and_no_other() {
    let documented: Vec<&str> = documented().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(metrics::names(), documented);
    let once: BTreeSet<&&str> = documented.iter().collect();
    assert_eq!(once.len(), documented.len());
}

#[test]
fn the_documentation_names_every_span_and_all_that_it_may_hold() {
    let page = include_str!("../../docs/tracing.md");
    let table = |head: &str| {
        let rows =
            page.split(head).nth(1).unwrap().lines().skip(2).take_while(|line| line.starts_with("| `"));
        let mut names: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
        names.sort_unstable();
        names
    };
    let (spans, attributes) = caracal_store::trace::names();
    assert_eq!(table("| span | kind | what |"), spans);
    assert_eq!(table("| attribute | of | what |"), attributes);
}

#[tokio::test]
async fn contract_sts_26_2_every_service_shows_its_own_metrics_in_the_documented_type() {
    metrics::minted("session");
    metrics::denied("access_denied", "no_rule_matched");
    metrics::idempotency("created");
    metrics::job_ran("ttl_sweeper", Some(2));
    metrics::job_ran("edge_sweeper", None);
    metrics::configuration_pushed("cluster");
    metrics::configuration_rejected("cluster");
    metrics::configuration_stream_refused("wrong_credential");
    metrics::configuration_streams(1);
    metrics::configuration_certificates_loaded(true);
    metrics::resources_served(2);
    metrics::resources_left_out("restricted", 1);
    metrics::name_looked_up(true);
    metrics::spans_exported(2);
    metrics::spans_dropped("queue_full", 1);
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    for service in SERVICES {
        let text = {
            let address = serve(service, Exposition::new(service, store.clone(), Access::Open)).await;
            body(format!("{address}/things/1")).await;
            let answer = reqwest::get(format!("{address}/metrics")).await.unwrap();
            assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
            answer.text().await.unwrap()
        };
        let types: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        let name = match service {
            Service::Admin => "Admin API",
            Service::Audit => "Audit",
            Service::Coordinator => "Coordinator",
            Service::Sts => "STS",
        };
        for (metric, kind, owner) in documented() {
            let shown = types.get(metric);
            if owner != name && owner != "every" {
                assert_eq!(shown, None, "{metric} at {name}");
            } else if let Some(shown) = shown {
                assert_eq!(*shown, kind, "{metric}");
            } else {
                let silent = [
                    "rate_limited",
                    "panics",
                    "connections_ended",
                    "invocations",
                    "sessions",
                    "provider_requests",
                    "retention_runs",
                ];
                assert!(silent.iter().any(|part| metric.contains(part)), "{metric} is not shown at {name}");
            }
        }
    }
}

#[tokio::test]
async fn contract_sts_26_2_requests_are_counted_by_route_template() {
    let dir = tempfile::tempdir().unwrap();
    let exposition = Exposition::new(Service::Sts, store(&dir).await, Access::Open);
    let address = serve(Service::Sts, exposition).await;
    let before = samples(&body(format!("{address}/metrics")).await);
    for path in ["things/secret-1", "things/secret-2", "refuses", "nowhere/secret-3"] {
        body(format!("{address}/{path}")).await;
    }
    let text = body(format!("{address}/metrics")).await;
    assert!(!text.contains("secret-"), "only templates are labels");
    let after = samples(&text);
    let counted = |route: &str, status: &str| {
        let name = format!(
            "caracal_http_requests_total{{method=\"GET\",route=\"{route}\",service=\"sts\",status=\"{status}\"}}"
        );
        after[&name] - before.get(&name).copied().unwrap_or(0.0)
    };
    assert!(counted("/things/{thing}", "2xx") >= 2.0);
    assert!(counted("/refuses", "4xx") >= 1.0);
    assert!(counted("none", "4xx") >= 1.0);
    let histogram = "caracal_http_request_duration_seconds_count{method=\"GET\",route=\"/things/{thing}\",service=\"sts\"}";
    assert!(after[histogram] >= 2.0);
    assert!(after["caracal_http_connections{service=\"sts\"}"] >= 1.0);
    assert!(!text.contains("service=\"api\""), "nothing of another service");
}

#[tokio::test]
async fn contract_sts_26_2_who_may_read_metrics() {
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let anywhere: IpAddr = "0.0.0.0".parse().unwrap();
    assert_eq!(Access::of(None, loopback), Access::Open);
    assert_eq!(Access::of(None, anywhere), Access::Closed);
    let bearer = Access::of(Some("m-token".to_owned()), loopback);
    assert_eq!(bearer, Access::Bearer("m-token".to_owned()));
    assert!(!format!("{bearer:?}").contains("m-token"));
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let client = reqwest::Client::new();
    for service in SERVICES {
        let operator = service == Service::Coordinator;
        for (access, given, allowed) in [
            (bearer.clone(), Some("m-token"), true),
            (bearer.clone(), Some("m-tokeN"), false),
            (bearer.clone(), Some("o-token"), operator),
            (bearer.clone(), None, false),
            (Access::Closed, Some("m-token"), false),
            (Access::Closed, None, false),
            (Access::Open, None, true),
        ] {
            let mut exposition = Exposition::new(service, store.clone(), access.clone());
            if operator {
                exposition = exposition.with_operator_token("o-token".to_owned());
            }
            let address = serve(service, exposition).await;
            for path in ["metrics", "metrics.json"] {
                let mut request = client.get(format!("{address}/{path}"));
                if let Some(token) = given {
                    request = request.bearer_auth(token);
                }
                let answer = request.send().await.unwrap();
                let what = format!("{service:?} {access:?} {given:?} {path}");
                if allowed {
                    assert_eq!(answer.status(), 200, "{what}");
                    continue;
                }
                assert_eq!(answer.status(), 401, "{what}");
                assert!(answer.headers().contains_key("www-authenticate"), "{what}");
                let text = answer.text().await.unwrap();
                let plain = matches!(service, Service::Audit | Service::Sts);
                if plain {
                    assert_eq!(text, "unauthorized", "{what}");
                } else {
                    assert!(text.contains("\"error\":\"unauthorized\""), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn contract_sts_26_2_the_json_of_the_sts() {
    metrics::policy_evaluated(std::time::Duration::from_micros(40), true);
    let dir = tempfile::tempdir().unwrap();
    let exposition = Exposition::new(Service::Sts, store(&dir).await, Access::Open)
        .with_fact("decision_contract_version", "2026-07-12");
    let address = serve(Service::Sts, exposition).await;
    let document: serde_json::Value = body(format!("{address}/metrics.json")).await.parse().unwrap();
    for name in ["eval_total", "eval_errors", "eval_duration_ns", "compile_total", "compile_errors"] {
        assert!(document["opa"][name].is_i64(), "{name}: {document}");
    }
    assert_eq!(document["opa"]["decision_contract_version"], "2026-07-12");
    assert_eq!(document["sts"]["store_up"], 1);
    assert!(document["sts"]["graph_traversals_total"].is_i64());
    assert!(document["sts"]["policy_evaluation_seconds"]["count"].as_i64().unwrap() >= 1);
}

#[tokio::test]
async fn contract_audit_11_10_what_waits_is_read_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let exposition = Exposition::new(Service::Audit, store.clone(), Access::Open);
    let address = serve(Service::Audit, exposition).await;
    let lag = || async {
        let document: serde_json::Value = body(format!("{address}/metrics.json")).await.parse().unwrap();
        document["consumer_lag"].as_i64()
    };
    assert_eq!(lag().await, Some(0));
    let event = caracal_store::audit::AuditEvent::new("z", "token_exchange", "r", "allow", store.now());
    store.write(move |tx| Box::pin(async move { tx.audit(&event).await })).await.unwrap();
    assert_eq!(lag().await, Some(1));
    store.close().await;
    let document: serde_json::Value = body(format!("{address}/metrics.json")).await.parse().unwrap();
    assert_eq!(document["store_up"], 0);
    assert!(document.get("consumer_lag").is_none(), "what is not known is not told");
}
