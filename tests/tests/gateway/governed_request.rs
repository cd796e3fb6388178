//! One request, from mandate to upstream, through everything that is real.

use caracal_tests::{Stack, Upstream, World, claims};
use reqwest::{Method, StatusCode};
use serde_json::Value;

async fn error_of(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/json");
    let body: Value = answer.json().await.unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_governed_request_and_its_refusals() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;

    let bare = world.http.get(format!("{}/v1/orders", world.gateway)).send().await.unwrap();
    assert_eq!(error_of(bare).await, (401, "invalid_token".into()));

    let mandate = world.mint(&agent).await;
    let answer = world.call(Method::GET, "/v1/orders?page=2", &mandate).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("x-request-id"));
    assert!(answer.headers().contains_key("x-caracal-token-expires-in"));
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/v1/orders?page=2");
    let authorization = seen[0].headers["authorization"].to_str().unwrap();
    let inner = claims(authorization.strip_prefix("Bearer ").unwrap());
    assert_eq!(inner["use"], "resource");
    assert_eq!(inner["aud"], serde_json::json!([world.resource]));
    assert_eq!(inner["root_sid"], claims(&mandate)["sid"]);
    assert!(
        seen[0].headers.keys().all(|name| !name.as_str().starts_with("x-caracal")),
        "{:?}",
        seen[0].headers
    );

    assert_eq!(error_of(world.read(&mandate).await).await, (401, "invalid_token".into()));
    let other = world.mint(&agent).await;
    let outside = world.call(Method::POST, "/v1/orders", &other).await;
    assert_eq!(error_of(outside).await, (403, "operation_not_permitted".into()));
    let wider = world.try_mint(&agent, "orders:write").await;
    assert_eq!(error_of(wider).await, (403, "access_denied".into()));
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_a_time_use_a_mandate_once() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = std::sync::Arc::new(World::configure(&stack, &upstream).await);
    let mandate = world.mint(&world.agent().await).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (world, mandate) = (std::sync::Arc::clone(&world), mandate.clone());
            tokio::spawn(async move { world.read(&mandate).await.status().as_u16() })
        })
        .collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 49, "{statuses:?}");
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(world.audit("event_type=replay_detected").await.len(), 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_refuses_every_mandate_minted_before() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(world.mint(&agent).await);
    }
    assert_eq!(world.read(&held.pop().unwrap()).await.status(), StatusCode::OK);
    world.end_session(&agent.bearer, &agent.root).await;
    for mandate in held {
        let (status, error) = error_of(world.read(&mandate).await).await;
        assert!(status == 401 || status == 403, "{status} {error}");
    }
    assert_eq!(upstream.seen().len(), 1);
    let (status, error) = error_of(world.try_mint(&agent, "orders:read").await).await;
    assert_eq!((status, error.as_str()), (403, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_never_trap_the_filter() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let address = world.gateway.strip_prefix("http://").unwrap().to_owned();
    for name in [
        "authorization",
        "x-caracal-resource",
        "x-caracal-client-id",
        "x-request-id",
        "baggage",
        "traceparent",
        "x-any",
    ] {
        for byte in 0x80..=0xffu8 {
            let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let mut request = b"GET /v1/orders HTTP/1.1\r\nhost: g\r\n".to_vec();
            request.extend_from_slice(name.as_bytes());
            request.extend_from_slice(&[b':', b' ', b'B', byte, byte, b'\r', b'\n', b'\r', b'\n']);
            stream.write_all(&request).await.unwrap();
            let mut answer = Vec::new();
            while !answer.contains(&b'\n') {
                assert!(
                    stream.read_buf(&mut answer).await.unwrap() > 0,
                    "{name} {byte:#x}: closed without an answer"
                );
            }
            let line = String::from_utf8_lossy(&answer);
            let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
            assert!(status == "400" || status == "401", "{name} {byte:#x}: {line}");
        }
    }
    assert_eq!(upstream.seen().len(), 0);
    let mandate = world.mint(&world.agent().await).await;
    assert_eq!(world.read(&mandate).await.status(), StatusCode::OK);
    assert!(!stack.envoy_log().contains("wasm trap"), "{}", stack.envoy_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upstream_leads_to_the_services_themselves() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let path = world.path(&format!("resources/{}", resources["items"][0]["id"].as_str().unwrap()));
    for service in ["admin", "sts", "coordinator", "audit"] {
        for host in ["127.0.0.1", "127.9.9.9", "localhost", "[::ffff:127.0.0.1]"] {
            let url = stack.url(service).replace("127.0.0.1", host);
            world.operate(Method::PATCH, &path, serde_json::json!({ "upstream_url": url })).await;
            let answer = world.read(&world.mint(&agent).await).await;
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{url}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error_description"], "upstream not addressable", "{url}: {body}");
        }
    }
}
