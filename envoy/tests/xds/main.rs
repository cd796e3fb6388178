//! The xDS server on a real store, over its real socket, against a client that speaks the protocol as Envoy does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod network;
mod support;

use caracal_envoy::xds::{Lookup, Status, listen};
use caracal_store::change::Change;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{CLUSTER, ENDPOINTS, Gateway, LISTENER, ROUTES, World};
use tonic::Code;

/// Long enough for whatever would come to have come.
const QUIET: Duration = Duration::from_millis(300);

fn nobody() -> Lookup {
    Lookup::new(|_| async { Err(std::io::Error::other("nobody is asked")) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_comes_changes_and_goes_and_nothing_else_is_said() {
    let world = World::start(nobody()).await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want(CLUSTER, &[]).await;
    assert_eq!(gateway.taken().await, (vec![], vec![]));
    world.put("orders", "http://10.0.0.1:9000").await;
    let (added, removed) = gateway.taken().await;
    assert_eq!(added, ["upstream|z1|resource://orders|http|10.0.0.1|9000"]);
    assert!(removed.is_empty());
    // What is of no interest to gateways, and what changes nothing for them.
    world.change(Change::Application { id: "a".into() }).await;
    world.change(Change::Resource { id: "orders".into() }).await;
    world.put("orders", "http://10.0.0.1:9000/other/base?path=1").await;
    assert!(gateway.silent(QUIET).await);
    world.put("orders", "http://10.0.0.2:9000").await;
    let (added, removed) = gateway.taken().await;
    assert_eq!(added, ["upstream|z1|resource://orders|http|10.0.0.2|9000"]);
    assert_eq!(removed, ["upstream|z1|resource://orders|http|10.0.0.1|9000"]);
    world.archive("orders").await;
    let (added, removed) = gateway.taken().await;
    assert!(added.is_empty());
    assert_eq!(removed, ["upstream|z1|resource://orders|http|10.0.0.2|9000"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_or_a_zone_that_is_gone_takes_its_resources_along() {
    let world = World::start(nobody()).await;
    world.put_and_serve("a", "http://10.0.0.1").await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want(CLUSTER, &[]).await;
    assert_eq!(gateway.taken().await.0.len(), 1);
    world.run("UPDATE providers SET archived_at = 1", Change::Resource { id: "a".into() }).await;
    assert_eq!(gateway.taken().await.1.len(), 1);
    world.run("UPDATE providers SET archived_at = NULL", Change::Resource { id: "a".into() }).await;
    assert_eq!(gateway.taken().await.0.len(), 1);
    world.run("UPDATE zones SET archived_at = 1", Change::ZoneGone).await;
    assert_eq!(gateway.taken().await.1.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_one_zone_is_told_of_that_zone_alone() {
    for (zone, served) in [("z1", 1), ("z2", 0)] {
        let world = World::start_for(Some(zone), nobody()).await;
        world.put("a", "http://10.0.0.1").await;
        tokio::time::sleep(QUIET).await;
        assert_eq!(world.until(|status| status.left_out == 0).await.resources, served, "{zone}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_gateway_with_its_own_credential_is_told_anything() {
    let world = World::start(nobody()).await;
    world.put_and_serve("orders", "http://10.0.0.1").await;
    let own = world.credential("edge");
    let other = world.credential("edge2");
    for (node, authorization, code) in [
        ("edge", None, Code::Unauthenticated),
        ("edge", Some(String::new()), Code::Unauthenticated),
        ("edge", Some(own.clone()), Code::Unauthenticated),
        ("edge", Some(format!("bearer {own}")), Code::Unauthenticated),
        ("edge", Some("Bearer ".to_owned()), Code::Unauthenticated),
        ("edge", Some(format!("Bearer {}", "0".repeat(64))), Code::Unauthenticated),
        ("edge", Some(format!("Bearer {other}")), Code::Unauthenticated),
        ("edge2", Some(format!("Bearer {own}")), Code::Unauthenticated),
        ("", Some(format!("Bearer {own}")), Code::InvalidArgument),
        ("no id", Some(format!("Bearer {own}")), Code::InvalidArgument),
    ] {
        let refused = Gateway::refused(&world, node, authorization.as_deref()).await;
        assert_eq!(refused, code, "{node} {authorization:?}");
    }
    assert!(world.status().await.gateways.is_empty());
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want(CLUSTER, &[]).await;
    assert_eq!(gateway.taken().await.0.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_gateway_has_a_listener_of_its_own_and_routes_that_stay() {
    let world = World::start(nobody()).await;
    let mut listeners = Vec::new();
    for id in ["edge", "edge2"] {
        let mut gateway = Gateway::connect(&world, id).await;
        gateway.want(LISTENER, &[]).await;
        listeners.push(gateway.next().await.resources);
        gateway.want(ROUTES, &["caracal"]).await;
        assert_eq!(gateway.taken().await.0, ["caracal"]);
        world.put(id, "http://10.0.0.1").await;
        assert!(gateway.silent(QUIET).await, "a resource changes neither listener nor routes");
    }
    let text =
        |at: usize| String::from_utf8_lossy(&listeners[at][0].resource.as_ref().unwrap().value).into_owned();
    assert!(text(0).contains(r#""gateway_id":"edge""#) && text(1).contains(r#""gateway_id":"edge2""#));
    assert!(text(0).contains(r#""clusters":"resource""#));
    assert!(!text(0).contains("dynamic_forward_proxy"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_rejects_is_shown_and_holds_up_nothing() {
    let world = World::start(nobody()).await;
    world.put_and_serve("a", "http://10.0.0.1").await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want(CLUSTER, &[]).await;
    let first = gateway.next().await;
    gateway.reject(&first, "a: no such file").await;
    let status = world.until(|status| status.gateways["edge"].rejections == 1).await;
    assert_eq!(status.gateways["edge"].rejected["cluster"].message, "a: no such file");
    world.put("b", "http://10.0.0.2").await;
    let (added, _) = gateway.taken().await;
    assert_eq!(added, ["upstream|z1|resource://b|http|10.0.0.2|80"], "what was rejected is not sent again");
    let status = world.until(|status| status.gateways["edge"].rejected.is_empty()).await;
    assert_eq!((status.gateways["edge"].rejections, status.resources), (1, 2));
    assert_eq!(status.gateways["edge"].version.as_deref(), Some(status.version.as_str()));
    drop(gateway);
    world.until(|status| status.gateways["edge"].streams == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_names_are_resolved_and_judged_here_and_their_addresses_follow() {
    let answers: Arc<Mutex<Vec<IpAddr>>> = Arc::new(Mutex::new(vec!["10.0.0.1".parse().unwrap()]));
    let told = Arc::clone(&answers);
    let lookup = Lookup::new(move |name: String| {
        let told = told.lock().unwrap().clone();
        async move {
            match name.as_str() {
                "api.example" => Ok(told),
                "metadata.example" => Ok(vec!["169.254.169.254".parse().unwrap()]),
                _ => Err(std::io::Error::other("no such name")),
            }
        }
    });
    let world = World::start(lookup).await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want(CLUSTER, &[]).await;
    gateway.taken().await;
    world.put("meta", "http://metadata.example").await;
    world.put("nowhere", "http://nowhere.example").await;
    world.put("link", "http://169.254.169.254").await;
    world.put("api", "http://api.example:9000").await;
    let mut added = Vec::new();
    while added.is_empty() {
        added = gateway.taken().await.0;
    }
    assert_eq!(added, ["upstream|z1|resource://api|http|api.example|9000"]);
    gateway.want(ENDPOINTS, &[&added[0]]).await;
    assert_eq!(gateway.taken().await.0, added);
    // A name that was not looked up yet is told as unresolved.
    let restricted = |status: &Status| {
        status.left_out_resources.iter().filter(|left| left.reason == "restricted").count() == 2
    };
    let status = world.until(restricted).await;
    let left: Vec<_> =
        status.left_out_resources.iter().map(|left| (left.resource.as_str(), left.reason.as_str())).collect();
    let expected = [
        ("resource://link", "restricted"),
        ("resource://meta", "restricted"),
        ("resource://nowhere", "unresolved"),
    ];
    assert_eq!(left, expected);
    assert!(gateway.silent(QUIET).await);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_resources_are_told_soon_and_one_more_at_once() {
    let world = World::start(nobody()).await;
    world.put_many(1_000).await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    world.until(|status| status.resources == 1_000).await;
    let begun = Instant::now();
    gateway.want(CLUSTER, &[]).await;
    assert_eq!(gateway.taken().await.0.len(), 1_000);
    let all = begun.elapsed();
    let begun = Instant::now();
    world.put("another", "http://10.1.0.1").await;
    assert_eq!(gateway.taken().await.0.len(), 1);
    let one = begun.elapsed();
    println!("1,000 resources: {all:?}; one more: {one:?}");
    assert!(all < Duration::from_secs(10) && one < Duration::from_secs(10), "{all:?} {one:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_tells_only_what_changed_meanwhile() {
    let world = World::start(nobody()).await;
    world.put_and_serve("a", "http://10.0.0.1").await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want(CLUSTER, &[]).await;
    let had = gateway.next().await.resources;
    let world = world.restart(nobody()).await;
    world.put("b", "http://10.0.0.2").await;
    world.until(|status| status.resources == 2).await;
    let mut gateway = Gateway::connect(&world, "edge").await;
    gateway.want_having(CLUSTER, &had).await;
    assert_eq!(gateway.taken().await.0, ["upstream|z1|resource://b|http|10.0.0.2|80"]);
    world.stop().await;
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_replaces_nothing_but_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("xds.sock");
    drop(listen(&path).unwrap());
    let listener = listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(listener);
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(listen(&file).unwrap_err().to_string().contains("no socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_streams_than_the_operator_allows() {
    let world = World::start_for_streams(NonZeroU16::new(2).unwrap(), nobody()).await;
    world.put_and_serve("orders", "http://10.0.0.1").await;
    let mut streams = Vec::new();
    for id in ["one", "two"] {
        let mut gateway = Gateway::connect(&world, id).await;
        gateway.want(CLUSTER, &[]).await;
        assert_eq!(gateway.taken().await.0.len(), 1);
        streams.push(gateway);
    }
    let authorization = format!("Bearer {}", world.credential("three"));
    assert_eq!(Gateway::refused(&world, "three", Some(&authorization)).await, Code::ResourceExhausted);
    assert_eq!(world.refusals("too_many").await, 1);
    streams.pop();
    world.until(|status| status.gateways["two"].streams == 0).await;
    let mut third = Gateway::connect(&world, "three").await;
    third.want(CLUSTER, &[]).await;
    assert_eq!(third.taken().await.0.len(), 1);
    world.stop().await;
}
