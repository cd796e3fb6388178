//! MCP through a real Envoy: the official client and server, and what no client of good faith sends.

use caracal_envoy::render;
use caracal_tests::{Options, Script, Sidecar, Stack, Upstream, World, sidecar_options};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// A Caracal whose gateway reads bodies.
async fn stack() -> Stack {
    Stack::start_with(Options { arguments: vec!["--mcp".to_owned()], ..Options::default() }).await
}

/// A zone whose resource speaks MCP, behind this address.
async fn world(stack: &Stack, upstream: SocketAddr, provider: &str, mandate_use: &str) -> World {
    let world = World::prepare(stack).await;
    add_resource(&world, upstream, provider, mandate_use).await;
    world
}

async fn add_resource(world: &World, upstream: SocketAddr, provider: &str, mandate_use: &str) {
    let body = json!({ "name": "p", "kind": provider });
    let provider = world.operate(Method::POST, &world.path("providers"), body).await;
    let body = json!({
        "identifier": world.resource, "upstream_url": format!("http://{upstream}"),
        "scopes": ["orders:read", "orders:write"], "credential_provider_id": provider["id"],
        "operation_enforcement": "transport_uniform", "mandate_use": mandate_use,
        "mcp": {
            "path": "/mcp", "max_body_bytes": 4096, "stream": [], "end": [],
            "methods": [
                { "name": "initialize", "scopes": [] },
                { "name": "notifications/initialized", "scopes": [] },
                { "name": "notifications/cancelled", "scopes": [] },
                { "name": "server/discover", "scopes": [] },
                { "name": "tools/list", "scopes": ["orders:read"] },
            ],
            "tools": [
                { "name": "list_orders", "scopes": ["orders:read"] },
                { "name": "watch", "scopes": ["orders:read"] },
                { "name": "drop_orders", "scopes": ["orders:read", "orders:write"] },
            ],
        },
    });
    let made = world.operate(Method::POST, &world.path("resources"), body.clone()).await;
    assert_eq!(made["mcp"], body["mcp"]);
}

/// The official server.
async fn server() -> (Script, SocketAddr) {
    let mut script = Script::plain(&["mcp_server.py"]);
    let port = script.said().await.as_u64().unwrap();
    (script, SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())))
}

fn call(tool: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": {} } })
        .to_string()
}

fn initialize() -> String {
    let params = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" },
    });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string()
}

async fn send(world: &World, url: &str, mandate: &str, headers: &[(&str, &str)], body: String) -> Response {
    let mut request = world.http.post(format!("{url}/mcp")).bearer_auth(mandate).body(body);
    request = request
        .header("x-caracal-resource", world.resource)
        .header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn status(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    (status, body["error_description"].as_str().unwrap_or_default().to_owned())
}

/// The audit events of these messages, as soon as one is there.
async fn evidence(world: &World, query: &str, names: &Value) -> Value {
    let found = async {
        loop {
            let events = world.audit(query).await;
            if let Some(event) = events.iter().find(|event| event["metadata_json"]["mcp"] == *names) {
                return event.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("no such evidence")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_judged_is_what_the_upstream_gets() {
    let (stack, upstream) = (stack().await, Upstream::start().await);
    let world = world(&stack, upstream.address, "caracal_mandate", "single").await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    let batch = format!("[{},{}]", call("list_orders"), call("drop_orders"));
    let doubled = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"ping"}"#;
    let cased = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_orders","Name":"drop_orders"}}"#;
    let unnamed = "mcp tool not permitted";
    let malformed = "not a well-formed mcp message";
    let content = "mcp takes application/json without content-encoding";
    for (headers, body, expected) in [
        (vec![JSON], call("drop_orders"), (403, "operation not permitted")),
        (vec![JSON], call("burn_orders"), (403, unnamed)),
        (vec![JSON], batch, (403, "operation not permitted")),
        (
            vec![JSON],
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned(),
            (403, "mcp method not permitted"),
        ),
        (vec![JSON], doubled.to_owned(), (400, malformed)),
        (vec![JSON], cased.to_owned(), (400, malformed)),
        (vec![JSON], String::new(), (400, malformed)),
        (vec![JSON], "[]".to_owned(), (400, malformed)),
        (vec![JSON, ("mcp-name", "list_orders")], call("watch"), (400, malformed)),
        (vec![("content-type", "text/plain")], call("list_orders"), (415, content)),
        (vec![JSON, ("content-encoding", "gzip")], call("list_orders"), (415, content)),
        (vec![JSON], " ".repeat(5_000), (413, "request body too large")),
    ] {
        let answer = send(&world, &world.gateway, &mandate, &headers, body.clone()).await;
        let challenge =
            answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
        let told = status(answer).await;
        assert_eq!((told.0, told.1.as_str()), expected, "{headers:?} {body}");
        if body == call("drop_orders") {
            assert!(challenge.unwrap().contains("scope=\"orders:read orders:write\""));
        }
    }
    for (method, path) in [(Method::PUT, "/mcp"), (Method::POST, "/mcp/"), (Method::POST, "/other")] {
        let answer = world.call(method, path, &mandate).await;
        assert_eq!(status(answer).await, (403, "operation not permitted".to_owned()), "{path}");
    }
    assert_eq!(upstream.seen().len(), 0);
    // Nothing of all that spent the mandate; a call that is permitted does.
    let body = format!("  {}\n", call("list_orders"));
    assert_eq!(send(&world, &world.gateway, &mandate, &[JSON], body.clone()).await.status(), 200);
    assert_eq!(upstream.seen()[0].body, body.as_bytes(), "the same bytes");
    let replayed = send(&world, &world.gateway, &mandate, &[JSON], body).await;
    assert_eq!(status(replayed).await, (401, "token replay detected".to_owned()));

    let names = json!([{ "method": "tools/call", "tool": "burn_orders" }]);
    let refused = evidence(&world, "event_type=gateway_denied", &names).await;
    assert_eq!(
        (&refused["decision"], &refused["metadata_json"]["reason"]),
        (&json!("deny"), &json!("mcp_tool"))
    );
    let names = json!([{ "method": "tools/call", "tool": "list_orders" }]);
    assert_eq!(evidence(&world, "event_type=gateway_resource_request", &names).await["decision"], "allow");
}

/// Sends a request piece by piece, with pauses; the first line of what comes back.
async fn trickle(address: &str, head: &str, pieces: &[&str]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    for piece in pieces {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        // Whoever is refused early may have closed already.
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed without an answer");
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_in_pieces_is_judged_as_a_whole() {
    let (stack, upstream) = (stack().await, Upstream::start().await);
    let world = world(&stack, upstream.address, "none", "single").await;
    let agent = world.agent().await;
    let address = world.gateway.strip_prefix("http://").unwrap().to_owned();
    let head = |mandate: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n",
            world.resource
        )
    };
    let body = call("list_orders");
    let (first, second) = body.split_at(body.len() / 2);
    let mandate = world.mint(&agent).await;
    assert_eq!(trickle(&address, &head(&mandate), &[first, second]).await, "HTTP/1.1 200 OK");
    assert_eq!(upstream.seen()[0].body, body.as_bytes());
    let mandate = world.mint(&agent).await;
    let endless = " ".repeat(3_000);
    let answer = trickle(&address, &head(&mandate), &[&endless, &endless, &body]).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Who loses the right while sending is refused, though all was well when the headers came.
    let body = call("list_orders");
    let (first, rest) = body.split_at(5);
    let (second, third) = rest.split_at(5);
    let (headers, pieces) = (head(&mandate), [first, second, third]);
    let slow = trickle(&address, &headers, &pieces);
    let (answer, ()) = tokio::join!(slow, async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        world.end_session(&agent.bearer, &agent.root).await;
    });
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_calls_what_its_mandate_permits() {
    let stack = stack().await;
    let (mut server, address) = server().await;
    let world = world(&stack, address, "none", "multi").await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    let url = format!("{}/mcp", world.gateway);
    let mut client = world.script(&["mcp_client.py", &url, world.resource, &mandate]);
    assert_eq!(client.said().await, json!({ "initialized": true }));
    let tools = client.ask(r#"{"list":1}"#).await;
    assert_eq!(tools["tools"], json!(["list_orders", "drop_orders", "watch"]));
    let listed = client.ask(r#"{"call":"list_orders"}"#).await;
    assert_eq!(listed, json!({ "content": ["one", "two"], "failed": false }));
    for refused in [r#"{"call":"drop_orders"}"#, r#"{"call":"burn_orders"}"#, r#"{"ping":1}"#] {
        assert_eq!(client.ask(refused).await["refused"], json!([403]), "{refused}");
    }
    assert_eq!(client.ask(r#"{"call":"list_orders"}"#).await["failed"], json!(false), "the session goes on");
    assert_eq!(server.ask("called").await, json!(["list_orders", "list_orders"]));
    world.end_session(&agent.bearer, &agent.root).await;
    let cut = async { while client.ask(r#"{"list":1}"#).await["refused"] != json!([401]) {} };
    tokio::time::timeout(Duration::from_secs(30), cut).await.expect("the client was never refused");
    client.end().await;
    server.end().await;
}

/// Opens a stream of events, ends the session once it runs, and waits until it breaks off.
async fn cut(
    world: &World,
    url: &str,
    mandate: &str,
    headers: &[(&str, &str)],
    agent: &caracal_tests::Agent,
) {
    // A server tells of its progress only who asks for it.
    let params = json!({ "name": "watch", "arguments": {}, "_meta": { "progressToken": "p" } });
    let watch = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }).to_string();
    let mut answer = send(world, url, mandate, headers, watch).await;
    assert_eq!(answer.status(), 200);
    let mut text = String::new();
    while text.matches("notifications/progress").count() < 3 {
        let chunk = answer.chunk().await.unwrap().expect("the stream ended");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    world.end_session(&agent.bearer, &agent.root).await;
    // The server itself would go on for half a minute, and end the stream as it should.
    let broken = async {
        loop {
            match answer.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    };
    let broken =
        tokio::time::timeout(Duration::from_secs(10), broken).await.expect("the stream was never cut");
    assert!(broken, "the stream ended by itself");
}

/// The header of a session with the server.
async fn session(world: &World, url: &str, mandate: &str) -> String {
    let answer = send(world, url, mandate, &[JSON], initialize()).await;
    assert_eq!(answer.status(), 200);
    answer.headers()["mcp-session-id"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_is_cut_when_its_session_ends() {
    let stack = stack().await;
    let (server, address) = server().await;
    for mandate_use in ["single", "multi"] {
        let world = world(&stack, address, "none", mandate_use).await;
        let agent = world.agent().await;
        let id = session(&world, &world.gateway, &world.mint(&agent).await).await;
        let mandate = world.mint(&agent).await;
        cut(&world, &world.gateway, &mandate, &[JSON, ("mcp-session-id", &id)], &agent).await;
        let interrupted = async {
            loop {
                let events = world.audit("event_type=gateway_resource_request").await;
                if events.iter().any(|event| event["metadata_json"]["revocation_interrupted"] == true) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), interrupted).await.expect(mandate_use);
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_judges_mcp_as_well() {
    let stack = stack().await;
    let (mut server, address) = server().await;
    let upstream = Upstream::start().await;
    let world = World::prepare(&stack).await;
    let mut options = sidecar_options(&stack, &world.zone, world.resource, address);
    options.mcp = true;
    let sidecar = Sidecar::start_with(&stack, &render(&options), 401).await;
    // The mandate of the resource role comes from where the gateway forwards it to.
    add_resource(&world, upstream.address, "caracal_mandate", "single").await;
    let agent = world.agent().await;
    let forwarded =
        send(&world, &world.gateway, &world.mint(&agent).await, &[JSON], call("list_orders")).await;
    assert_eq!(forwarded.status(), 200);
    let authorization = upstream.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    let mandate = authorization.strip_prefix("Bearer ").unwrap();
    let known = async {
        while send(&world, &sidecar.url, mandate, &[JSON], initialize()).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), known).await.expect("the sidecar never knew the resource");
    let id = session(&world, &sidecar.url, mandate).await;
    let headers = [JSON, ("mcp-session-id", id.as_str())];
    let listed = send(&world, &sidecar.url, mandate, &headers, call("list_orders")).await;
    assert_eq!(listed.status(), 200);
    assert!(listed.text().await.unwrap().contains("two"));
    assert_eq!(send(&world, &sidecar.url, mandate, &headers, call("drop_orders")).await.status(), 403);
    assert_eq!(server.ask("called").await, json!(["list_orders"]));
    cut(&world, &sidecar.url, mandate, &headers, &agent).await;

    // One that reads no bodies lets no message through.
    let closed = Sidecar::start(&stack, &world.zone, world.resource, address).await;
    let agent = world.agent().await;
    let forwarded =
        send(&world, &world.gateway, &world.mint(&agent).await, &[JSON], call("list_orders")).await;
    assert_eq!(forwarded.status(), 200);
    let seen = upstream.seen();
    let authorization = seen.last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
    let mandate = authorization.strip_prefix("Bearer ").unwrap();
    let refused = async {
        loop {
            let told = status(send(&world, &closed.url, mandate, &[JSON], call("list_orders")).await).await;
            if told.1 != "revocation state unavailable" {
                return told;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(30), refused).await.expect("no snapshot");
    assert_eq!(refused, (503, "mcp is not enabled at this gateway".to_owned()));
    server.end().await;
}
