//! The example configurations: the lint passes them, a real Envoy takes them, and each governs a request as it stands,
//! with nothing changed but ids, addresses and the module's file.

use caracal_envoy::KEY_VARIABLE;
use caracal_envoy::lint::lint;
use caracal_mandate::jws::{CompactJws, signing_input};
use caracal_tests::{Agent, Sidecar, Stack, Upstream, World, claims, envoy_binary, filter_module};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const MODULE: &str = "/opt/caracal/caracal_filter.wasm";
/// Those that a plain Envoy reads.
const BOOTSTRAPS: [&str; 4] = ["behind-jwt-authn", "gateway", "route-metadata", "sidecar"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/examples")
}

fn example(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap()
}

#[test]
fn the_lint_passes_every_example() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            assert_eq!(lint(&std::fs::read_to_string(&path).unwrap()).unwrap(), [], "{}", path.display());
            names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    let known = ["behind-jwt-authn", "envoy-gateway-extension-policy", "gateway", "istio-wasm-plugin"];
    assert_eq!(names, [&known[..], &["route-metadata", "sidecar"]].concat());
}

#[tokio::test]
async fn envoy_takes_every_bootstrap() {
    for name in BOOTSTRAPS {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy.yaml");
        std::fs::write(&file, example(name).replace(MODULE, filter_module().to_str().unwrap())).unwrap();
        let mut command = Command::new(envoy_binary());
        command.args(["--mode", "validate", "--log-level", "error", "--config-path"]).arg(file);
        let output = command.env(KEY_VARIABLE, "ab".repeat(32)).kill_on_drop(true).output().await.unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The example for this Caracal. Each change has to meet something, so that none goes stale.
fn adapted(name: &str, stack: &Stack, zone: &str, issuer: &str, upstream: SocketAddr) -> Value {
    let port = |service: &str| {
        let address: SocketAddr = stack.running[service].as_str().unwrap().parse().unwrap();
        format!("port_value: {}\n", address.port())
    };
    let mut changes = vec![
        (MODULE, filter_module().to_str().unwrap().to_owned()),
        ("gateway-1", "example".to_owned()),
        ("port_value: 8080\n", port("sts")),
        ("port_value: 9090\n", port("audit")),
        ("port_value: 8081\n", "port_value: 0\n".to_owned()),
        ("port_value: 9901\n", "port_value: 0\n".to_owned()),
    ];
    if name != "gateway" {
        changes.push(("zone-1", zone.to_owned()));
        changes.push(("port_value: 9000\n", format!("port_value: {}\n", upstream.port())));
    }
    if name == "behind-jwt-authn" {
        changes.push(("http://localhost:8080", issuer.to_owned()));
    }
    let mut text = example(name);
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, &to);
    }
    serde_saphyr::from_str(&text).unwrap()
}

async fn call(world: &World, envoy: &Sidecar, path: &str, mandate: &str) -> StatusCode {
    let request = world.http.get(format!("{}{path}", envoy.url)).bearer_auth(mandate);
    request.header("x-caracal-resource", world.resource).send().await.unwrap().status()
}

/// A mandate for the service itself, as it comes from the gateway.
async fn resource_mandate(world: &World, agent: &Agent, upstream: &Upstream) -> String {
    assert_eq!(world.read(&world.mint(agent).await).await.status(), StatusCode::OK);
    let seen = upstream.seen();
    let authorization = seen.last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
    authorization.strip_prefix("Bearer ").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bootstrap_of_a_service_governs_its_requests() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = resource_mandate(&world, &agent, &upstream).await;
    let issuer = claims(&mandate)["iss"].as_str().unwrap().to_owned();
    for name in BOOTSTRAPS.into_iter().filter(|name| *name != "gateway") {
        let bootstrap = adapted(name, &stack, &world.zone, &issuer, upstream.address);
        // A path without a route names no resource.
        let ready = if name == "route-metadata" { 400 } else { 401 };
        let envoy = Sidecar::start_with(&stack, &bootstrap, ready).await;
        // Both answers may come before the filter has its snapshot.
        let ready = async {
            while call(&world, &envoy, "/v1/orders", &mandate).await == StatusCode::SERVICE_UNAVAILABLE {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect(name);
        let before = upstream.seen().len();
        assert_eq!(call(&world, &envoy, "/v1/orders", &mandate).await, StatusCode::OK, "{name}");
        // A mandate of the gateway is well signed, and still none for the service.
        let foreign = world.mint(&agent).await;
        assert_eq!(call(&world, &envoy, "/v1/orders", &foreign).await, StatusCode::UNAUTHORIZED, "{name}");
        let (latest, undeclared) = match name {
            "route-metadata" => (StatusCode::OK, StatusCode::BAD_REQUEST),
            _ => (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN),
        };
        assert_eq!(call(&world, &envoy, "/latest", &mandate).await, latest, "{name}");
        assert_eq!(call(&world, &envoy, "/v2", &mandate).await, undeclared, "{name}");
        let allowed = if latest == StatusCode::OK { 2 } else { 1 };
        assert_eq!(upstream.seen().len(), before + allowed, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_governs_its_requests() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let bootstrap = adapted("gateway", &stack, &world.zone, "", upstream.address);
    let envoy = Sidecar::start_with(&stack, &bootstrap, 401).await;
    let mandate = world.mint(&agent).await;
    assert_eq!(call(&world, &envoy, "/v1/orders", &mandate).await, StatusCode::OK);
    assert_eq!(call(&world, &envoy, "/v1/orders", &mandate).await, StatusCode::UNAUTHORIZED);
    assert_eq!(upstream.seen().len(), 1);
}

/// The example with `jwt_authn`, with this done to its HTTP filters.
async fn behind_jwt_authn(
    stack: &Stack,
    world: &World,
    issuer: &str,
    upstream: &Upstream,
    change: impl FnOnce(&mut Vec<Value>),
) -> Sidecar {
    let mut bootstrap = adapted("behind-jwt-authn", stack, &world.zone, issuer, upstream.address);
    let filters = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    change(bootstrap.pointer_mut(filters).unwrap().as_array_mut().unwrap());
    Sidecar::start_with(stack, &bootstrap, 401).await
}

/// What a request with this `Authorization` comes to, once the filter has its snapshot.
async fn comes_to(world: &World, method: Method, url: &str, authorization: &str) -> (u16, String) {
    let answered = async {
        loop {
            let request = world.http.request(method.clone(), url).header("authorization", authorization);
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            // An answer that is under way when its mandate is revoked is cut.
            let text = answer.text().await.unwrap_or_default();
            if status != 503 {
                return (status, text);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.expect("no snapshot")
}

/// The token with another claim and its old signature.
fn altered(token: &str, claim: &str, value: Value) -> String {
    let mut claims = claims(token);
    claims[claim] = value;
    let key_id = CompactJws::split(token.as_bytes()).unwrap().key_id().unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    format!("{}.{signature}", signing_input(&key_id, claims.to_string().as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_jwt_authn_only_what_it_verified_for_this_request_counts() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = resource_mandate(&world, &agent, &upstream).await;
    let issuer = claims(&mandate)["iss"].as_str().unwrap().to_owned();
    let envoy = behind_jwt_authn(&stack, &world, &issuer, &upstream, |_| {}).await;
    let orders = format!("{}/v1/orders", envoy.url);
    let before = upstream.seen().len();
    assert_eq!(comes_to(&world, Method::GET, &orders, &format!("Bearer {mandate}")).await.0, 200);
    assert_eq!(upstream.seen().len(), before + 1);
    let forged = altered(&mandate, "scope", "orders:read orders:write".into());
    let refused = comes_to(&world, Method::GET, &orders, &format!("Bearer {forged}")).await;
    assert_eq!(refused.0, 401, "by jwt_authn itself: {}", refused.1);
    // jwt_authn does not know this spelling of the scheme, and takes the good token of the query for the caller's.
    let beside = format!("{orders}?access_token={mandate}");
    for method in [Method::GET, Method::POST] {
        let (status, body) = comes_to(&world, method, &beside, &format!("bearer {forged}")).await;
        assert!(status == 401 && body.contains("bearer signature invalid"), "{status} {body}");
    }
    let (status, _) = comes_to(&world, Method::GET, &beside, &format!("bearer {mandate}")).await;
    assert_eq!(status, 200, "both are the same token");
    // Where the operator's rules ask for no token, jwt_authn does not run.
    let open = format!("{}/.well-known/oauth-protected-resource/x", envoy.url);
    for token in [&forged, &mandate] {
        let (status, body) = comes_to(&world, Method::POST, &open, &format!("Bearer {token}")).await;
        assert!(status == 401 && body.contains("bearer"), "{status} {body}");
    }
    // The filter still knows what was revoked.
    assert_eq!(comes_to(&world, Method::POST, &orders, &format!("Bearer {mandate}")).await.0, 403);
    world.end_session(&agent.bearer, &agent.root).await;
    let told = async {
        while comes_to(&world, Method::GET, &orders, &format!("Bearer {mandate}")).await.0 == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("the filter never heard of the revocation");

    // A configuration from which jwt_authn, or what it leaves, was lost lets nothing through.
    let agent = world.agent().await;
    let mandate = resource_mandate(&world, &agent, &upstream).await;
    let seen = upstream.seen().len();
    let gone = behind_jwt_authn(&stack, &world, &issuer, &upstream, |filters| {
        filters.remove(0);
    })
    .await;
    let silent = behind_jwt_authn(&stack, &world, &issuer, &upstream, |filters| {
        let provider = filters[0].pointer_mut("/typed_config/providers/caracal").unwrap();
        assert!(provider.as_object_mut().unwrap().remove("payload_in_metadata").is_some());
    })
    .await;
    for envoy in [gone, silent] {
        let orders = format!("{}/v1/orders", envoy.url);
        let (status, body) = comes_to(&world, Method::GET, &orders, &format!("Bearer {mandate}")).await;
        assert!(status == 401 && body.contains("bearer signature invalid"), "{status} {body}");
    }
    assert_eq!(upstream.seen().len(), seen);
}
