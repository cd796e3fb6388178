//! Gateways that take their configuration from the xDS server: resources come, change and go while Envoy runs, and no
//! change leads where no upstream may be (`docs/xds.md`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod away;
mod network;
mod support;

use caracal_tests::{Authority, TlsUpstream, Upstream, World};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{
    NOT_ADDRESSABLE, admin_of, clusters, diagnosis, patch, resource_path, served, start, start_with, status,
    until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_comes_moves_and_goes_while_envoy_runs() {
    let (stack, upstream) = (start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    let (admin, envoy) = (admin_of(&stack), stack.running["envoy_pid"].clone());
    assert_eq!(served(&clusters(&admin).await), Vec::<String>::new());

    world.add_resource(upstream.address).await;
    let begun = Instant::now();
    let agent = world.agent().await;
    until("the new resource", async || {
        world.read(&world.mint(&agent).await).await.status() == StatusCode::OK
    })
    .await;
    println!(
        "a new resource passes {:?} after the Admin API's answer, with a session and a mint",
        begun.elapsed()
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(upstream.seen().last().unwrap().target, "/v1/orders");
    let zone = &world.zone;
    let name = |address| format!("upstream|{zone}|resource://orders|http|127.0.0.1|{address}");
    let all = clusters(&admin).await;
    assert_eq!(served(&all), [name(upstream.address.port())]);
    // What Envoy says it has is what the pure translation renders, so the bytes between them are right.
    let has = all.iter().find(|cluster| cluster["name"] == name(upstream.address.port())).unwrap();
    let expected = json!({
        "name": name(upstream.address.port()),
        "alt_stat_name": format!("upstream/{zone}/resource_//orders"),
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": 4096, "max_pending_requests": 8192, "max_requests": 16384, "max_retries": 0}
        ]},
        "load_assignment": {
            "cluster_name": name(upstream.address.port()),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": "127.0.0.1", "port_value": upstream.address.port()
            }}}}]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "90s"},
            "explicit_http_config": {"http_protocol_options": {}},
        }},
    });
    let mut has = has.clone();
    // STATIC is the default; Envoy need not say so.
    let kind = has.as_object_mut().unwrap().remove("type").unwrap_or_else(|| json!("STATIC"));
    assert_eq!((kind, &has), (json!("STATIC"), &expected));

    let moved = Upstream::start().await;
    patch(&world, &format!("http://{}", moved.address)).await;
    until("the move", async || {
        let status = world.read(&world.mint(&agent).await).await.status();
        assert!(status == StatusCode::OK || status == StatusCode::BAD_GATEWAY, "{status}");
        !moved.seen().is_empty()
    })
    .await;
    let before = upstream.seen().len();
    for _ in 0..5 {
        assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::OK);
    }
    assert_eq!(upstream.seen().len(), before, "nothing goes to where it was");
    until("the old cluster's end", async || served(&clusters(&admin).await) == [name(moved.address.port())])
        .await;

    let held = world.mint(&agent).await;
    world.operate(Method::DELETE, &resource_path(&world).await, Value::Null).await;
    let seen = moved.seen().len();
    let refused = world.read(&held).await;
    assert!(refused.status().is_client_error(), "{}", refused.status());
    until("the cluster's end", async || served(&clusters(&admin).await).is_empty()).await;
    assert_eq!(moved.seen().len(), seen);

    let report = status(&stack).await;
    assert_eq!(report["gateway_configuration"]["ok"], true, "{report}");
    let gateway = &report["gateway_configuration"]["status"]["gateways"]["embedded"];
    assert_eq!((&gateway["streams"], &gateway["rejections"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!(stack.running["envoy_pid"], envoy);
    assert!(!stack.envoy_log().contains("error"), "{}", stack.envoy_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_no_resource_leads_where_no_upstream_may_be() {
    let (stack, upstream) = (start().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    until("the resource", async || world.read(&world.mint(&agent).await).await.status() == StatusCode::OK)
        .await;
    // Those that are written out are refused where they are configured.
    let path = resource_path(&world).await;
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]",
        "http://0.0.0.0:1",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://100.100.100.200",
        "http://168.63.129.16",
    ] {
        let request = world.http.patch(format!("{}{path}", world.admin)).bearer_auth(&world.admin_token);
        let answer = request.json(&json!({ "upstream_url": url })).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{url}");
    }
    // The services' own ports, by address and by name.
    for service in ["admin", "sts", "coordinator", "audit"] {
        for host in ["127.0.0.1", "127.9.9.9", "localhost", "[::ffff:127.0.0.1]"] {
            let url = stack.url(service).replace("127.0.0.1", host);
            patch(&world, &url).await;
            let answer = world.read(&world.mint(&agent).await).await;
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{url}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error_description"], NOT_ADDRESSABLE, "{url}: {body}");
        }
    }
    let admin = admin_of(&stack);
    until("the clusters' end", async || served(&clusters(&admin).await).is_empty()).await;
    let report = status(&stack).await;
    let left = &report["gateway_configuration"]["status"]["left_out_resources"][0];
    assert_eq!((&left["resource"], &left["reason"]), (&json!("resource://orders"), &json!("protected")));
    let (ok, followed) = diagnosis(&stack, "gateway_configuration").await.unwrap();
    assert_eq!((ok.as_str(), followed.as_str()), ("ok", "1 gateways follow"));
    let (warn, left) = diagnosis(&stack, "resources left out").await.unwrap();
    assert!(
        warn == "warn" && left.contains("resource://orders") && left.ends_with("protected"),
        "{warn}: {left}"
    );
    // An upstream that is named passes, and is told apart by its name.
    patch(&world, &format!("http://localhost:{}", upstream.address.port())).await;
    until("the named upstream", async || {
        world.read(&world.mint(&agent).await).await.status() == StatusCode::OK
    })
    .await;
    let host = upstream.seen().last().unwrap().headers["host"].to_str().unwrap().to_owned();
    assert_eq!(host, format!("localhost:{}", upstream.address.port()));
    // A second resource behind the same name has a cluster and addresses of its own, as soon as the first.
    let first = world.operate(Method::GET, &path, Value::Null).await;
    let body = json!({
        "identifier": "resource://twin",
        "upstream_url": first["upstream_url"],
        "scopes": first["scopes"],
        "credential_provider_id": first["credential_provider_id"],
        "operations": [],
        "operation_enforcement": "transport_uniform",
    });
    world.operate(Method::POST, &world.path("resources"), body).await;
    let begun = Instant::now();
    until("both addresses", async || {
        let answer = admin.get("http://envoy/clusters?format=json").send().await.unwrap();
        let all: Value = answer.json().await.unwrap();
        let all = all["cluster_statuses"].as_array().unwrap();
        let hosts = |cluster: &Value| cluster["host_statuses"].as_array().map_or(0, Vec::len);
        all.iter()
            .filter(|all| all["name"].as_str().unwrap().contains("|localhost|") && hosts(all) > 0)
            .count()
            == 2
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_verified_by_authority_and_name_and_what_is_rejected_blocks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (trusted, ca) = (Authority::new(), folder.path().join("ca.pem"));
    trusted.write(&ca);
    let stack = start_with(&["--upstream-ca-file", ca.to_str().unwrap()]).await;
    let named = TlsUpstream::start(&trusted, "localhost").await;
    let addressed = TlsUpstream::start(&trusted, "127.0.0.1").await;
    let misnamed = TlsUpstream::start(&trusted, "elsewhere.example").await;
    let untrusted = TlsUpstream::start(&Authority::new(), "localhost").await;
    let mut world = World::prepare(&stack).await;
    world.add_resource(named.address).await;
    let agent = world.agent().await;
    for (host, upstream, passes) in [
        ("localhost", &named, true),
        ("127.0.0.1", &addressed, true),
        ("127.0.0.1", &named, false),
        ("localhost", &misnamed, false),
        ("localhost", &untrusted, false),
        ("localhost", &named, true),
    ] {
        let what = format!("https://{host}:{}", upstream.address.port());
        patch(&world, &what).await;
        let before = upstream.requests();
        if passes {
            until(&what, async || world.read(&world.mint(&agent).await).await.status() == StatusCode::OK)
                .await;
            continue;
        }
        let admin = admin_of(&stack);
        let port = format!("|{}", upstream.address.port());
        until(&what, async || served(&clusters(&admin).await).iter().any(|name| name.ends_with(&port))).await;
        for _ in 0..3 {
            let answer = world.read(&world.mint(&agent).await).await;
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{what}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error_description"], "upstream unreachable", "{what}");
        }
        assert_eq!(upstream.requests(), before, "{what}");
    }

    // Envoy rejects a cluster whose authorities it cannot read: that one alone is missing, and it is seen.
    std::fs::remove_file(&ca).unwrap();
    let bad = TlsUpstream::start(&trusted, "localhost").await;
    patch(&world, &format!("https://localhost:{}", bad.address.port())).await;
    until("the rejection", async || {
        status(&stack).await["gateway_configuration"]["status"]["gateways"]["embedded"]["rejections"]
            != json!(0)
    })
    .await;
    let report = status(&stack).await;
    assert_eq!(report["gateway_configuration"]["ok"], false, "{report}");
    let rejected = &report["gateway_configuration"]["status"]["gateways"]["embedded"]["rejected"]["cluster"];
    assert!(rejected["message"].as_str().unwrap().contains("ca.pem"), "{report}");
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(bad.requests(), 0);
    let plain = Upstream::start().await;
    patch(&world, &format!("http://{}", plain.address)).await;
    until("a plain one", async || world.read(&world.mint(&agent).await).await.status() == StatusCode::OK)
        .await;
    assert_eq!(status(&stack).await["gateway_configuration"]["ok"], true);
    let metrics = world.http.get(format!("{}/metrics", stack.url("admin"))).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let rejections = metrics.lines().find(|line| line.starts_with("caracal_xds_rejections_total")).unwrap();
    assert!(rejections.contains("type=\"cluster\""), "{rejections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_resources_reach_envoy_and_one_more_follows_soon() {
    let (stack, upstream) = (start().await, Upstream::start().await);
    let mut world = World::prepare(&stack).await;
    world.add_resource(upstream.address).await;
    let path = resource_path(&world).await;
    let first = world.operate(Method::GET, &path, Value::Null).await;
    for number in 0..1_000 {
        let body = json!({
            "identifier": format!("resource://many-{number}"),
            "upstream_url": format!("https://10.0.{}.{}:8443", number / 250, 1 + number % 250),
            "scopes": ["orders:read"],
            "credential_provider_id": first["credential_provider_id"],
            "operations": [],
            "operation_enforcement": "transport_uniform",
        });
        world.operate(Method::POST, &world.path("resources"), body).await;
    }
    let begun = Instant::now();
    let admin = admin_of(&stack);
    let stat = async |name: &str| {
        let url = format!("http://envoy/stats?filter=^cluster_manager.{name}$");
        let stats = admin.get(url).send().await.unwrap().text().await.unwrap();
        stats.trim().rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()
    };
    // Three lead to the services.
    until("all clusters", async || stat("active_clusters").await == 3 + 1_001).await;
    println!("1,000 resources: Envoy has the last {:?} after the Admin API's answer", begun.elapsed());
    let agent = world.agent().await;
    until("a call", async || world.read(&world.mint(&agent).await).await.status() == StatusCode::OK).await;
    let moved = Upstream::start().await;
    let added = stat("cluster_added").await;
    let begun = Instant::now();
    let body = json!({ "upstream_url": format!("http://{}", moved.address) });
    world.operate(Method::PATCH, &path, body).await;
    until("a move", async || stat("cluster_added").await == added + 1).await;
    let took = begun.elapsed();
    println!("one of 1,000 changed: Envoy has it {took:?} after the Admin API was asked");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Envoy that is told a thousand clusters anew, after a restart of everything, is ready.
    let mut stack = stack;
    stack.kill().await;
    let begun = Instant::now();
    stack.restart().await;
    println!("everything is up again with 1,000 resources after {:?}", begun.elapsed());
    let admin = admin_of(&stack);
    until("all clusters again", async || served(&clusters(&admin).await).len() == 1_001).await;
}
