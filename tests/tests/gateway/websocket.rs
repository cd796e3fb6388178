//! WebSockets through a real Envoy, by a real client and a real server: refused unless allowed, governed until they end.

use caracal_envoy::render;
use caracal_tests::{Agent, Options, Script, Sidecar, Stack, World, sidecar_options};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

async fn stack() -> Stack {
    let arguments = ["--upgrades", "websocket"].map(str::to_owned).to_vec();
    Stack::start_with(Options { arguments, ..Options::default() }).await
}

async fn server() -> (Script, SocketAddr) {
    let mut script = Script::plain(&["ws.py", "server"]);
    let port = script.said().await.as_u64().unwrap();
    (script, SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())))
}

async fn world(stack: &Stack, address: SocketAddr) -> World {
    let mut world = World::prepare(stack).await;
    world.add_resource(address).await;
    world
}

/// A client at this gateway or sidecar, and what it says first.
async fn connect(world: &World, url: &str, mandate: &str) -> (Script, Value) {
    let url = format!("{}/v1/orders", url.replace("http://", "ws://"));
    let mut client = world.script(&["ws.py", "client", &url, world.resource, mandate]);
    let first = client.said().await;
    (client, first)
}

/// Ends the session, and waits until the connection is cut: by what the server pushes, or by what the client sends.
async fn is_cut(world: &World, agent: &Agent, client: &mut Script, order: &str) {
    world.end_session(&agent.bearer, &agent.root).await;
    let cut = async {
        while client.ask(order).await.get("closed").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), cut).await.expect("the connection was never cut");
}

async fn evidence(world: &World, query: &str, found: impl Fn(&Value) -> bool) {
    let search = async {
        while !world.audit(query).await.iter().any(|event| found(&event["metadata_json"])) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), search).await.expect("no such evidence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_governs_what_it_lets_upgrade() {
    let stack = stack().await;
    let (mut server, address) = server().await;
    let world = world(&stack, address).await;
    let (_, refused) = connect(&world, &world.gateway, "").await;
    assert_eq!((&refused["status"], &refused["body"]["error"]), (&json!(401), &json!("invalid_token")));
    let (_, refused) = connect(&world, &world.gateway, "a.b.c").await;
    assert_eq!(refused["status"], 401);

    for order in ["wait", "again"] {
        let agent = world.agent().await;
        let mandate = world.mint(&agent).await;
        let (mut client, first) = connect(&world, &world.gateway, &mandate).await;
        assert_eq!(first, json!({ "open": true }));
        assert_eq!(client.ask("hello").await, json!({ "got": "echo hello" }));
        assert_eq!(client.ask("ticks").await, json!({ "got": "tick" }));
        // Its only use is used up.
        let (_, replayed) = connect(&world, &world.gateway, &mandate).await;
        assert_eq!(replayed["status"], 401);
        is_cut(&world, &agent, &mut client, order).await;
        client.end().await;
    }
    let seen = server.ask("").await;
    assert_eq!(seen["headers"].as_array().unwrap().len(), 2);
    for headers in seen["headers"].as_array().unwrap() {
        assert_eq!((&headers["upgrade"], &headers["connection"]), (&json!("websocket"), &json!("upgrade")));
        assert!(headers.get("x-caracal-resource").is_none(), "{headers}");
        let authorization = headers["authorization"].as_str().unwrap();
        assert_eq!(caracal_tests::claims(authorization.strip_prefix("Bearer ").unwrap())["use"], "resource");
    }
    evidence(&world, "event_type=gateway_resource_request", |told| told["revocation_interrupted"] == true)
        .await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_for_more_than_one_use_opens_connections_until_it_is_revoked() {
    let stack = stack().await;
    let (server, address) = server().await;
    let world = world(&stack, address).await;
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let resource = world.path(&format!("resources/{}", resources["items"][0]["id"].as_str().unwrap()));
    world.operate(Method::PATCH, &resource, json!({ "mandate_use": "multi" })).await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    let (mut one, _) = connect(&world, &world.gateway, &mandate).await;
    let (mut other, _) = connect(&world, &world.gateway, &mandate).await;
    assert_eq!(one.ask("1").await, json!({ "got": "echo 1" }));
    assert_eq!(other.ask("ticks").await, json!({ "got": "tick" }));
    is_cut(&world, &agent, &mut one, "again").await;
    let cut = async { while other.ask("wait").await.get("closed").is_none() {} };
    tokio::time::timeout(Duration::from_secs(10), cut).await.expect("the other was never cut");
    // Nobody says anything on this one, neither the caller nor the upstream.
    let agent = world.agent().await;
    let (mut silent, first) = connect(&world, &world.gateway, &world.mint(&agent).await).await;
    assert_eq!(first, json!({ "open": true }));
    world.end_session(&agent.bearer, &agent.root).await;
    let told = tokio::time::timeout(Duration::from_secs(5), silent.ask("wait")).await;
    assert!(told.expect("a silent connection was never cut").get("closed").is_some());
    silent.end().await;
    one.end().await;
    other.end().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_never_reaches_the_upstream() {
    let stack = Stack::start().await;
    let (mut server, address) = server().await;
    let world = world(&stack, address).await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    let unsupported = |told: &Value| {
        assert_eq!(told["status"], 403, "{told}");
        let body = &told["body"];
        let expected = (&json!("access_denied"), &json!("upgrade not supported"));
        assert_eq!((&body["error"], &body["error_description"]), expected);
        assert!(body["requestId"].is_string());
    };
    // Envoy itself, and the mandate is not spent.
    unsupported(&connect(&world, &world.gateway, &mandate).await.1);
    let bad = world.read(&mandate).await;
    assert_ne!(bad.status(), 401, "{:?}", bad.text().await);

    // An Envoy that would let it through, with a filter that is told of no protocol.
    let mut options = sidecar_options(&stack, &world.zone, world.resource, address);
    options.upgrades = vec!["websocket".to_owned()];
    let told = r#"\"upgrades\":[\"websocket\"]"#;
    let bootstrap = render(&options).to_string();
    assert!(bootstrap.contains(told));
    let bootstrap = serde_json::from_str(&bootstrap.replace(told, r#"\"upgrades\":[]"#)).unwrap();
    let closed = Sidecar::start_with(&stack, &bootstrap, 401).await;
    let open = Sidecar::start_with(&stack, &render(&options), 401).await;
    // A mandate of the resource role, from what the gateway forwards.
    let upstream = caracal_tests::Upstream::start().await;
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let resource = world.path(&format!("resources/{}", resources["items"][0]["id"].as_str().unwrap()));
    let to = json!({ "upstream_url": format!("http://{}", upstream.address) });
    world.operate(Method::PATCH, &resource, to).await;
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), 200);
    let authorization = upstream.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    let mandate = authorization.strip_prefix("Bearer ").unwrap();
    let ready = async {
        loop {
            let (client, told) = connect(&world, &open.url, mandate).await;
            if told["status"] != 503 {
                return (client, told);
            }
        }
    };
    let (mut client, first) =
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("no snapshot");
    assert_eq!(first, json!({ "open": true }));
    assert_eq!(client.ask("hello").await, json!({ "got": "echo hello" }));
    assert_eq!(connect(&world, &open.url, "").await.1["status"], 401);
    let refused = async {
        loop {
            let told = connect(&world, &closed.url, mandate).await.1;
            if told["status"] != 503 {
                return told;
            }
        }
    };
    unsupported(&tokio::time::timeout(Duration::from_secs(30), refused).await.expect("no snapshot"));
    evidence(&world, "event_type=gateway_denied", |told| told["reason"] == "upgrade_refused").await;
    is_cut(&world, &agent, &mut client, "again").await;
    assert_eq!(server.ask("").await["headers"].as_array().unwrap().len(), 1, "one connection came through");
    client.end().await;
    server.end().await;
}
