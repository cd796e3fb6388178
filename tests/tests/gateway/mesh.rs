//! The examples for Istio and Envoy Gateway in a real Envoy. No control plane runs here: these tests do with a document what
//! the control planes' own sources do with it, and everything after that is real.
//!
//! - Istio (`pilot/pkg/model/extensions.go`, `pilot/pkg/networking/core/extension`, `pkg/wasm/convert.go`): the filter
//!   stands in the connection manager by name, its configuration comes by extension discovery, and the agent beside Envoy
//!   has put the module into a file. Extension discovery is from a file here, not from the agent.
//! - Envoy Gateway (`internal/xds/translator/wasm.go`): the filter is disabled but for the routes that the policy names, and
//!   Envoy fetches the module by HTTP, by its digest.

use axum::Router;
use axum::routing::get;
use caracal_envoy::KEY_VARIABLE;
use caracal_tests::{Agent, Sidecar, Stack, Upstream, World, filter_module};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const RUNTIME: &str = "envoy.wasm.runtime.v8";

/// An example as an operator adapts it: only the zone is another one.
fn document(name: &str, zone: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../envoy/examples/{name}.yaml"));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("zone-1"));
    serde_saphyr::from_str(&text.replace("zone-1", zone)).unwrap()
}

fn text_of(configuration: &Value) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration.to_string()})
}

fn name_of(document: &Value) -> (&str, &str) {
    let part = |name: &str| document["metadata"][name].as_str().unwrap();
    (part("namespace"), part("name"))
}

/// What Istio makes of a `WasmPlugin`: the resource that extension discovery answers with.
fn of_wasm_plugin(plugin: &Value, module: &Path) -> Value {
    assert_eq!(
        (&plugin["apiVersion"], &plugin["kind"]),
        (&json!("extensions.istio.io/v1alpha1"), &json!("WasmPlugin"))
    );
    let spec = &plugin["spec"];
    let mut own = json!({"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "4711"});
    let mut of_host = Vec::new();
    for variable in spec["vmConfig"]["env"].as_array().unwrap() {
        match variable["valueFrom"].as_str() {
            Some("HOST") => of_host.push(variable["name"].clone()),
            _ => own[variable["name"].as_str().unwrap()] = variable["value"].clone(),
        }
    }
    let failure_policy = match spec["failStrategy"].as_str() {
        Some("FAIL_OPEN") => "FAIL_OPEN",
        Some("FAIL_RELOAD") => "FAIL_RELOAD",
        _ => "FAIL_CLOSED",
    };
    let (namespace, name) = name_of(plugin);
    let name = format!("{namespace}.{name}");
    json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": name,
        "typed_config": {"@type": WASM, "config": {
            "name": name,
            "root_id": spec["pluginName"].as_str().unwrap_or_default(),
            "configuration": text_of(&spec["pluginConfig"]),
            "failure_policy": failure_policy,
            "vm_config": {
                "runtime": RUNTIME,
                "code": {"local": {"filename": module}},
                "environment_variables": {"key_values": own, "host_env_keys": of_host},
            },
        }},
    })
}

/// What Envoy Gateway makes of an `EnvoyExtensionPolicy`: the filter of its first module, which it serves there.
fn of_extension_policy(policy: &Value, module_at: &str, sha256: &str) -> Value {
    let kind = (&policy["apiVersion"], &policy["kind"]);
    assert_eq!(kind, (&json!("gateway.envoyproxy.io/v1alpha1"), &json!("EnvoyExtensionPolicy")));
    let (namespace, name) = name_of(policy);
    let wasm = &policy["spec"]["wasm"][0];
    let id = format!("envoyextensionpolicy/{namespace}/{name}/wasm/0");
    json!({
        "name": format!("envoy.filters.http.wasm/{id}"),
        "disabled": true,
        "typed_config": {"@type": WASM, "config": {
            "name": wasm["name"],
            "configuration": text_of(&wasm["config"]),
            "fail_open": wasm["failOpen"],
            "vm_config": {
                "vm_id": id,
                "runtime": RUNTIME,
                "code": {"remote": {
                    "http_uri": {"uri": module_at, "cluster": "wasm_cluster", "timeout": "10s"},
                    "sha256": sha256,
                }},
                "environment_variables": {"host_env_keys": wasm["env"]["hostKeys"]},
            },
        }},
    })
}

fn address(stack: &Stack, service: &str) -> SocketAddr {
    stack.running[service].as_str().unwrap().parse().unwrap()
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    let (host, port) = (address.ip().to_string(), address.port());
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": host, "port_value": port}}}}]}]},
    })
}

/// A proxy with this connection manager and these clusters.
fn proxy(mut manager: Value, clusters: &[(&str, SocketAddr)]) -> Value {
    let any_port = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    manager["@type"] =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager".into();
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let clusters: Vec<Value> = clusters.iter().map(|(name, address)| cluster(name, *address)).collect();
    json!({
        "node": {"id": "proxy", "cluster": "proxy"},
        "admin": {"address": any_port},
        "static_resources": {
            "listeners": [{"name": "http", "address": any_port, "filter_chains": [{"filters": [filter]}]}],
            "clusters": clusters,
        },
    })
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

/// A mandate for the service itself, as it comes from the gateway.
async fn resource_mandate(world: &World, agent: &Agent, upstream: &Upstream) -> String {
    assert_eq!(world.read(&world.mint(agent).await).await.status(), 200);
    let seen = upstream.seen();
    let authorization = seen.last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
    authorization.strip_prefix("Bearer ").unwrap().to_owned()
}

/// What a request comes to, once the worker has its snapshot.
async fn comes_to(world: &World, method: Method, url: &str, bearer: &str) -> u16 {
    let answered = async {
        loop {
            let request = world.http.request(method.clone(), url).bearer_auth(bearer);
            let answer = request.header("x-caracal-identity", "forged").send().await.unwrap();
            if answer.status() != 503 {
                return answer.status().as_u16();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.expect("no snapshot")
}

/// It governs: what is good passes, and nothing else does.
async fn governs(envoy: &Sidecar, world: &World, agent: &Agent, mandate: &str, upstream: &Upstream) {
    let orders = format!("{}/v1/orders", envoy.url);
    let before = upstream.seen().len();
    assert_eq!(comes_to(world, Method::GET, &orders, mandate).await, 200);
    let seen = upstream.seen();
    assert_eq!(seen.len(), before + 1);
    let (last, refused_from_here) = (seen.last().unwrap(), seen.len());
    assert_eq!((last.method.as_str(), last.target.as_str()), ("GET", "/v1/orders"));
    assert!(!last.headers.contains_key("x-caracal-identity"), "only the filter may say who somebody is");
    assert_eq!(world.http.get(&orders).send().await.unwrap().status(), 401, "no mandate");
    assert_eq!(comes_to(world, Method::POST, &orders, mandate).await, 403, "another scope");
    assert_eq!(comes_to(world, Method::GET, &format!("{orders}/1"), mandate).await, 403, "not declared");
    let foreign = world.mint(agent).await;
    assert_eq!(comes_to(world, Method::GET, &orders, &foreign).await, 401, "a mandate for the gateway");
    world.end_session(&agent.bearer, &agent.root).await;
    let told = async {
        while comes_to(world, Method::GET, &orders, mandate).await == 200 {
            tokio::task::yield_now().await;
        }
        comes_to(world, Method::GET, &orders, mandate).await
    };
    let refused =
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("a revoked mandate passes");
    assert_eq!(refused, 401);
    let mut passed = upstream.seen();
    passed.drain(..refused_from_here);
    assert!(passed.iter().all(|seen| seen.method == "GET" && seen.target == "/v1/orders"), "{passed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_istio_makes_of_a_wasm_plugin_governs_in_envoy() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = resource_mandate(&world, &agent, &upstream).await;
    let extension = of_wasm_plugin(&document("istio-wasm-plugin", &world.zone), &filter_module());
    let name = extension["name"].as_str().unwrap().to_owned();
    let of_host = &extension["typed_config"]["config"]["vm_config"]["environment_variables"]["host_env_keys"];
    assert_eq!(of_host, &json!([KEY_VARIABLE]), "the key is never part of what discovery sends");
    let folder = tempfile::tempdir().unwrap();
    let discovered = folder.path().join("extensions.json");
    std::fs::write(&discovered, json!({"version_info": "1", "resources": [extension]}).to_string()).unwrap();
    let filter = json!({"name": name, "config_discovery": {
        "config_source": {
            "path_config_source": {"path": discovered}, "resource_api_version": "V3", "initial_fetch_timeout": "0s",
        },
        "type_urls": [WASM, "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"],
    }});
    let route = json!({"name": "default", "match": {"prefix": "/"}, "route": {
        "cluster": "inbound|9000||", "timeout": "0s",
        "max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"},
    }});
    let manager = json!({
        "stat_prefix": "inbound_0.0.0.0_9000",
        "route_config": {"name": "inbound|9000||", "validate_clusters": false, "virtual_hosts": [
            {"name": "inbound|http|9000", "domains": ["*"], "routes": [route]}]},
        "http_filters": [filter, router()],
        "server_name": "istio-envoy", "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": false, "forward_client_cert_details": "APPEND_FORWARD",
        "upgrade_configs": [{"upgrade_type": "websocket"}], "stream_idle_timeout": "0s", "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    });
    let clusters = [
        ("inbound|9000||", upstream.address),
        ("outbound|8080||sts.caracal.svc.cluster.local", address(&stack, "sts")),
        ("outbound|9090||audit.caracal.svc.cluster.local", address(&stack, "audit")),
    ];
    let envoy = Sidecar::start_with(&stack, &proxy(manager, &clusters), 401).await;
    governs(&envoy, &world, &agent, &mandate, &upstream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_gateway_makes_of_an_extension_policy_governs_in_envoy() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = resource_mandate(&world, &agent, &upstream).await;
    let module = std::fs::read(filter_module()).unwrap();
    let sha256: String = hmac_sha256::Hash::hash(&module).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = format!("/{sha256}.wasm");
    let served = Upstream::serving(Router::new().route(&path, get(move || async move { module }))).await;
    let policy = document("envoy-gateway-extension-policy", &world.zone);
    let target = &policy["spec"]["targetRefs"][0];
    assert_eq!((&target["kind"], &target["name"]), (&json!("HTTPRoute"), &json!("orders")));
    let filter = of_extension_policy(&policy, &format!("http://envoy-gateway:18002{path}"), &sha256);
    let name = filter["name"].as_str().unwrap().to_owned();
    // The routes of the HTTPRoute that the policy targets; the other HTTPRoute has no policy.
    let orders = json!({
        "name": "httproute/orders/orders/rule/0/match/0/*", "match": {"prefix": "/"}, "route": {"cluster": "orders"},
        "typed_per_filter_config": {
            name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}},
    });
    let other = json!({
        "name": "httproute/orders/other/rule/0/match/0/*", "match": {"path_separated_prefix": "/other"},
        "route": {"cluster": "orders"},
    });
    let manager = json!({
        "stat_prefix": "http-10080",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "http_filters": [filter, router()],
        "route_config": {"name": "orders/gateway/http", "ignore_port_in_host_matching": true, "virtual_hosts": [
            {"name": "orders/gateway/http/*", "domains": ["*"], "routes": [other, orders]}]},
        "merge_slashes": true, "normalize_path": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "server_header_transformation": "PASS_THROUGH", "use_remote_address": true,
    });
    let clusters = [
        ("orders", upstream.address),
        ("sts", address(&stack, "sts")),
        ("audit", address(&stack, "audit")),
        ("wasm_cluster", served.address),
    ];
    let envoy = Sidecar::start_with(&stack, &proxy(manager, &clusters), 401).await;
    let reached = upstream.seen().len();
    let other = world.http.get(format!("{}/other", envoy.url)).send().await.unwrap();
    assert_eq!(
        (other.status().as_u16(), upstream.seen().len()),
        (200, reached + 1),
        "a route without the policy"
    );
    governs(&envoy, &world, &agent, &mandate, &upstream).await;
}
