//! What a collector of OpenTelemetry sees of governed requests, and what it never sees.

use caracal_envoy::{BootstrapOptions, Endpoint, GatewayOptions, Shape, render};
use caracal_mandate::gateway_signature::to_hex;
use caracal_mandate::header::Traceparent;
use caracal_mandate::id::GatewayId;
use caracal_tests::{
    Collector, Options, Sidecar, Stack, TraceSpan, Upstream, World, binary, envoy_binary, filter_module,
};
use reqwest::Response;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;

const AGENT: &str = "b7ad6b7169203331";
const EXCHANGE: &str = "POST /oauth/2/token";
const COLLECTORS_SECRET: &str = "what-proves-us-to-the-collector";

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-{AGENT}-01")
}

/// Reads through the gateway, in this trace or in none.
async fn read(world: &World, mandate: &str, traceparent: Option<&str>) -> Response {
    let request = world.http.get(format!("{}/v1/orders", world.gateway));
    let request = request.header("x-caracal-resource", world.resource).bearer_auth(mandate);
    let request =
        traceparent.into_iter().fold(request, |request, value| request.header("traceparent", value));
    request.send().await.unwrap()
}

fn header(headers: &reqwest::header::HeaderMap, name: &str) -> String {
    headers[name].to_str().unwrap().to_owned()
}

/// The span of an exchange and its steps, which ended before it.
async fn exchange(collector: &Collector, trace: &str) -> (TraceSpan, Vec<TraceSpan>) {
    let whole = collector.wait_for(1, |span| span.trace == trace && span.name == EXCHANGE).await.remove(0);
    assert_eq!(whole.service, "caracal-sts");
    let spans = collector.spans().into_iter();
    let below: Vec<_> = spans
        .filter(|span| span.trace == trace && span.service == whole.service && span.id != whole.id)
        .collect();
    assert!(below.iter().all(|step| step.parent == whole.id), "{below:#?}");
    (whole, below)
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_lead_from_the_agent_through_the_gateway_to_the_sts() {
    let collector = Collector::start().await;
    let mut environment = collector.environment();
    let headers = format!("x-collector={COLLECTORS_SECRET}");
    environment.push(("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), headers));
    environment.push(("OTEL_RESOURCE_ATTRIBUTES".to_owned(), "deployment.environment.name=test".to_owned()));
    let stack = Stack::start_with(Options { environment, ..Options::default() }).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;

    // The agent's own trace goes to the upstream and to the STS.
    let mandate = world.mint(&agent).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let answer = read(&world, &mandate, Some(&traceparent(trace))).await;
    assert_eq!(answer.status(), 200);
    let request_id = header(answer.headers(), "x-request-id");
    let (whole, steps) = exchange(&collector, trace).await;
    assert_eq!(whole.parent, AGENT);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/oauth/2/token"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("caracal.zone_id", world.zone.as_str()),
        ("caracal.request_id", request_id.as_str()),
    ] {
        assert_eq!(whole.attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    let mut names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["evaluate policy", "write"]);
    assert_eq!(header(&upstream.seen().last().unwrap().headers, "traceparent"), traceparent(trace));

    // Without one the gateway begins it, and the upstream is in the same.
    let untraced = world.mint(&agent).await;
    assert_eq!(read(&world, &untraced, None).await.status(), 200);
    let made = header(&upstream.seen().last().unwrap().headers, "traceparent");
    let made = Traceparent::parse(made.as_bytes()).unwrap();
    let (whole, _) = exchange(&collector, &to_hex(&made.trace_id)).await;
    assert_eq!((whole.parent, made.sampled), (to_hex(&made.parent_id), true));

    // A refusal says why: at the STS, and of the STS to the gateway.
    let trace = "1af7651916cd43dd8448eb211c80319c";
    let form = [
        ("scope", "orders:write"),
        ("agent_session_id", &agent.session),
        ("delegation_edge_id", &agent.edge),
    ];
    let refused = refused_mint(&world, &form, &traceparent(trace)).await;
    assert_eq!(refused.status(), 403);
    let (whole, _) = exchange(&collector, trace).await;
    let said = &world.audit("decision=deny").await[0];
    assert_eq!(whole.attributes["caracal.reason"], "binding_rejected");
    assert_eq!(said["evaluation_status"], "binding_rejected", "as the record of it says");
    let trace = "2af7651916cd43dd8448eb211c80319c";
    assert_eq!(read(&world, &mandate, Some(&traceparent(trace))).await.status(), 401, "it was used before");
    let (whole, _) = exchange(&collector, trace).await;
    assert_eq!(
        (whole.parent.as_str(), whole.attributes["http.response.status_code"].as_str()),
        (AGENT, "401")
    );
    assert!(!whole.attributes["caracal.reason"].is_empty());

    // What could not be authenticated is logged, and the line names the trace.
    let logged = "3af7651916cd43dd8448eb211c80319c";
    let forged = world.http.get(format!("{}/internal/gateway/feed?gateway=g", world.sts));
    let forged =
        forged.header("x-caracal-gateway-signature", "00").header("traceparent", traceparent(logged));
    assert_eq!(forged.send().await.unwrap().status(), 401);
    collector.wait_for(1, |span| span.trace == logged).await;

    // Probes leave no trace, and nobody's secret is in any.
    for service in ["sts", "admin", "coordinator", "audit"] {
        for probe in ["health", "ready", "metrics"] {
            world.http.get(format!("{}/{probe}", stack.url(service))).send().await.unwrap();
        }
    }
    let trace = "4af7651916cd43dd8448eb211c80319c";
    let last = world.http.get(format!("{}/v1/zones/{}/audit", world.admin, world.zone));
    last.header("traceparent", traceparent(trace)).bearer_auth(&world.admin_token).send().await.unwrap();
    let last = collector.wait_for(1, |span| span.trace == trace && span.service == "caracal-api").await;
    assert_eq!(last[0].name, "GET /v1/zones/{zone}/audit");
    let probes = ["/health", "/ready", "/metrics"];
    let probed = |span: &TraceSpan| probes.iter().any(|probe| span.name.contains(probe));
    assert!(!collector.spans().iter().any(probed));
    assert!(collector.spans().iter().any(|span| span.service == "caracal-coordinator"));
    let derived = header(&upstream.seen()[0].headers, "authorization");
    let secrets = [
        mandate.as_str(),
        untraced.as_str(),
        derived.trim_start_matches("Bearer "),
        &agent.bearer,
        &world.secret,
        &world.admin_token,
        &stack.coordinator_token(),
        COLLECTORS_SECRET,
    ];
    for (headers, body) in collector.got() {
        assert_eq!(header(&headers, "x-collector"), COLLECTORS_SECRET);
        assert_eq!(header(&headers, "content-type"), "application/x-protobuf");
        for secret in secrets {
            // The signature of a token alone would be as bad.
            for part in secret.split('.').filter(|part| part.len() > 8) {
                assert!(
                    !body.windows(part.len()).any(|bytes| bytes == part.as_bytes()),
                    "a secret is exported"
                );
            }
        }
    }
    assert!(!stack.log().contains(COLLECTORS_SECRET));
    let line = format!("\"trace_id\":\"{logged}\"");
    let log = eventually("the line", async || Some(stack.log()).filter(|log| log.contains(&line))).await;
    assert!(log.lines().any(|text| text.contains(&line) && text.contains("the feed was refused")), "{log}");
}

async fn refused_mint(world: &World, fields: &[(&str, &str)], traceparent: &str) -> Response {
    let mut form = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", world.zone.as_str()),
        ("application_id", world.application.as_str()),
        ("client_secret", world.secret.as_str()),
        ("resource", world.resource),
    ];
    form.extend_from_slice(fields);
    let request = world.http.post(format!("{}/oauth/2/token", world.sts)).form(&form);
    request.header("traceparent", traceparent).send().await.unwrap()
}

/// Looks until there is something to see.
async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

/// How many spans were lost for a reason, as a scraper sees it.
async fn lost(stack: &Stack, world: &World, reason: &str) -> Option<f64> {
    let text =
        world.http.get(format!("{}/metrics", stack.url("sts"))).send().await.unwrap().text().await.unwrap();
    let name = format!("caracal_trace_spans_dropped_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.parse().unwrap())
}

/// The gateway's bootstrap, with Envoy's own tracing as the documentation has it.
fn traced_gateway(stack: &Stack, collector: &Collector) -> Value {
    let shape = Shape::Gateway(GatewayOptions::default());
    let mut options = BootstrapOptions::new(GatewayId::new("edge").unwrap(), shape, filter_module());
    options.listener = Endpoint::loopback(0);
    let endpoint = |service: &str| {
        let address: std::net::SocketAddr = stack.running[service].as_str().unwrap().parse().unwrap();
        Endpoint::new(address.ip().to_string(), address.port())
    };
    (options.sts, options.audit) = (endpoint("sts"), endpoint("audit"));
    let mut bootstrap = render(&options);
    let page = include_str!("../../../docs/tracing.md");
    let tracing = page.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    bootstrap.pointer_mut(manager).unwrap()["tracing"] = serde_json::from_str(tracing).unwrap();
    let at = json!({"socket_address": {"address": "127.0.0.1", "port_value": collector.address.port()}});
    let cluster = json!({
        "name": "collector", "type": "STATIC",
        "load_assignment": {"cluster_name": "collector", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}]},
    });
    bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
    // Each span as it ends.
    let soon = json!({"tracing": {"opentelemetry": {"min_flush_spans": 1, "flush_interval_ms": 50}}});
    let layer = json!({"name": "soon", "static_layer": soon});
    match bootstrap.pointer_mut("/layered_runtime/layers").and_then(Value::as_array_mut) {
        Some(layers) => layers.push(layer),
        None => bootstrap["layered_runtime"] = json!({"layers": [layer]}),
    }
    bootstrap
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_hold_envoys_own_spans_too() {
    let collector = Collector::start().await;
    let environment = collector.environment();
    let stack = Stack::start_with(Options { environment, ..Options::default() }).await;
    let upstream = Upstream::start().await;
    let mut world = World::configure(&stack, &upstream).await;
    let envoy = Sidecar::start_with(&stack, &traced_gateway(&stack, &collector), 401).await;
    world.gateway.clone_from(&envoy.url);
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    let trace = "5af7651916cd43dd8448eb211c80319c";
    assert_eq!(read(&world, &mandate, Some(&traceparent(trace))).await.status(), 200);
    let (whole, _) = exchange(&collector, trace).await;
    assert_eq!(whole.parent, AGENT, "the STS is beside Envoy");
    let envoys = collector.wait_for(1, |span| span.trace == trace && span.service == "envoy").await;
    assert_eq!((envoys.len(), envoys[0].parent.as_str()), (1, AGENT), "{envoys:#?}");
    let sent = header(&upstream.seen().last().unwrap().headers, "traceparent");
    assert_eq!(sent, format!("00-{trace}-{}-01", envoys[0].id), "the upstream is below Envoy");

    // Without the agent's there are two traces, which have the request's id in common.
    let answer = read(&world, &world.mint(&agent).await, None).await;
    let request_id = header(answer.headers(), "x-request-id");
    let sent = header(&upstream.seen().last().unwrap().headers, "traceparent");
    let sent = Traceparent::parse(sent.as_bytes()).unwrap();
    let envoys = collector.wait_for(1, |span| span.id == to_hex(&sent.parent_id)).await;
    assert_eq!(envoys[0].trace, to_hex(&sent.trace_id));
    let the_sts = |span: &TraceSpan| span.attributes.get("caracal.request_id") == Some(&request_id);
    let the_sts = collector.wait_for(1, the_sts).await;
    assert_ne!(the_sts[0].trace, envoys[0].trace);
    assert_eq!(envoys[0].attributes["guid:x-request-id"], request_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_that_no_collector_takes_change_no_answer() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (address, reason) in [(gone, "unreachable"), (hangs.local_addr().unwrap(), "timeout")] {
        let environment = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://{address}/traces")),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "200".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let stack = Stack::start_with(Options { environment, ..Options::default() }).await;
        let upstream = Upstream::start().await;
        let world = World::configure(&stack, &upstream).await;
        let agent = world.agent().await;
        for _ in 0..5 {
            let mandate = world.mint(&agent).await;
            assert_eq!(read(&world, &mandate, None).await.status(), 200, "{reason}");
            assert_eq!(read(&world, &mandate, None).await.status(), 401, "{reason}");
        }
        let lost =
            eventually(reason, async || lost(&stack, &world, reason).await.filter(|lost| *lost > 1.0)).await;
        assert!(lost > 1.0);
        let told = "spans did not get to the collector";
        let log =
            eventually("the warning", async || Some(stack.log()).filter(|log| log.contains(told))).await;
        assert_eq!(log.matches(told).count(), 1, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_in_another_protocol_are_refused_at_start() {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.arg("up").arg("--data").arg(data.path().join("data"));
    command.arg("--envoy").arg(envoy_binary()).arg("--filter").arg(filter_module());
    for port in ["--admin-port", "--sts-port", "--gateway-port", "--coordinator-port", "--audit-port"] {
        command.args([port, "0"]);
    }
    command.args(["--otlp-endpoint", "http://127.0.0.1:4317"]).env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success());
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL is \"grpc\": only http/protobuf is spoken"), "{said}");
}
