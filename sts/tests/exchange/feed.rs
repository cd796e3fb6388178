//! The gateway feed: snapshot, delta, long poll and acknowledgement.

use crate::support::{Form, GatewayCall, ISSUER, World, edge_revoked, session_anchor};
use axum::body::Body;
use axum::http::Request;
use caracal_mandate::feed::{FEED_PATH, FeedResponse};
use caracal_store::change::Change;
use serde_json::json;

impl World {
    pub(crate) async fn poll(&self, query: &str) -> FeedResponse {
        let answer = self.send(GatewayCall::poll(query)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("cache-control"), "no-store");
        serde_json::from_value(answer.body).unwrap()
    }

    async fn acknowledged(&self) -> i64 {
        self.number("SELECT acknowledged FROM gateways WHERE id = 'g1'").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_signed_poll_is_answered_and_only_once() {
    let world = World::new().await;
    let unsigned = Request::get(format!("{FEED_PATH}?gateway=g1")).body(Body::empty()).unwrap();
    assert_eq!(world.send(unsigned).await.error(), (401, "access_denied"));
    let mut other = GatewayCall::poll("gateway=g1&since=0");
    *other.uri_mut() = format!("{FEED_PATH}?gateway=g1&since=9").parse().unwrap();
    assert_eq!(world.send(other).await.error(), (401, "access_denied"));
    let once = GatewayCall::poll("gateway=g1");
    let (parts, _) = once.into_parts();
    let again = || Request::from_parts(parts.clone(), Body::empty());
    assert_eq!(world.send(again()).await.status, 200);
    assert_eq!(world.send(again()).await.error(), (401, "access_denied"));
    for query in
        ["", "gateway=", "gateway=a%20b", "gateway=g1&since=x", "gateway=g1&since=-1", "gateway=g1&wait=x"]
    {
        assert_eq!(world.send(GatewayCall::poll(query)).await.error(), (400, "invalid_token"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_holds_all_zones() {
    let world = World::new().await;
    world.exchange(&Form::bootstrap()).await.granted();
    world.revoke_edge("E").await;
    let generation = world.number("SELECT value FROM sequences WHERE name = 'change_log'").await;
    for query in ["gateway=g1", "gateway=g1&since=0&wait=30", "gateway=g1&since=99999&wait=30"] {
        let feed = world.poll(query).await;
        assert_eq!((feed.snapshot, feed.previous.0, feed.issuer.as_str()), (true, 0, ISSUER), "{query}");
        assert_eq!(i64::try_from(feed.generation.0).unwrap(), generation, "{query}");
        let zones: Vec<_> = feed.zones.iter().map(|zone| zone.zone_id.as_str()).collect();
        assert_eq!(zones, ["z1", "z2"], "{query}");
        let zone = &feed.zones[0];
        assert_eq!(zone.keys.as_ref().unwrap().len(), 1, "{query}");
        assert_eq!(zone.resources.len(), 6, "{query}: all but the archived one");
        assert_eq!(zone.revoked.len(), 1, "{query}");
        assert!(zone.restored.is_empty() && zone.removed_resources.is_empty(), "{query}");
        assert!(feed.zones[1].keys.as_ref().unwrap().is_empty(), "{query}");
    }
    assert_eq!(world.acknowledged().await, 0, "a generation that does not exist acknowledges nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_tells_what_changed_and_no_more() {
    let world = World::new().await;
    world.exchange(&Form::bootstrap()).await.granted();
    let start = world.poll("gateway=g1").await.generation.0;
    let quiet = world.poll(&format!("gateway=g1&since={start}&wait=0")).await;
    assert_eq!(
        (quiet.snapshot, quiet.previous.0, quiet.generation.0, quiet.zones.len()),
        (false, start, start, 0)
    );

    world.change("SELECT 1", Change::Revoked { anchors: session_anchor("T") }).await;
    world.change("SELECT 1", Change::Revoked { anchors: session_anchor("Y") }).await;
    world.change("SELECT 1", Change::Restored { anchors: session_anchor("T") }).await;
    world
        .change(
            "UPDATE resources SET mandate_use = 'multi', mcp_json = '{\"path\":\"/mcp\"}' WHERE id = 'R1'",
            Change::Resource { id: "R1".into() },
        )
        .await;
    let gone = Change::ResourceGone { identifier: "resource://peer".into() };
    world.change("UPDATE resources SET archived_at = 1 WHERE id = 'R6'", gone).await;
    let delta = world.poll(&format!("gateway=g1&since={start}&wait=30")).await;
    assert_eq!((delta.snapshot, delta.previous.0, delta.generation.0), (false, start, start + 5));
    assert_eq!(delta.zones.len(), 1);
    let zone = &delta.zones[0];
    assert_eq!(
        zone.revoked.iter().map(|revoked| revoked.anchor.clone()).collect::<Vec<_>>(),
        session_anchor("Y")
    );
    assert_eq!(zone.restored, session_anchor("T"));
    assert!(zone.keys.is_none());
    assert_eq!(zone.resources.len(), 1);
    assert!(zone.resources[0].multi_use);
    let mcp = zone.resources[0].mcp.as_ref().unwrap();
    assert_eq!((mcp.path.as_str(), mcp.max_body_bytes), ("/mcp", 65_536));
    assert_eq!(zone.removed_resources.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["resource://peer"]);

    let middle = world.poll(&format!("gateway=g1&since={}", start + 2)).await;
    assert_eq!((middle.previous.0, middle.generation.0), (start + 2, start + 5));
    world.keys.rotate(&crate::support::zone(), "rotation").await.unwrap().unwrap();
    let keys = world.poll(&format!("gateway=g1&since={}", start + 5)).await;
    assert_eq!(keys.zones[0].keys.as_ref().unwrap().len(), 2);

    let archived = "UPDATE zones SET archived_at = 1 WHERE id = 'z1'";
    world.change(archived, Change::ZoneGone).await;
    let gone = world.poll(&format!("gateway=g1&since={}", start + 6)).await;
    assert_eq!((gone.zones.len(), gone.removed_zones.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_leads_to_a_snapshot() {
    let world = World::new().await;
    let start = world.poll("gateway=g1").await.generation.0;
    for _ in 0..3 {
        world.change("SELECT 1", Change::Revoked { anchors: session_anchor("T") }).await;
    }
    for cut in [format!("seq = {}", start + 1), format!("seq > {start}")] {
        world.sql(&format!("DELETE FROM change_log WHERE {cut}")).await;
        let feed = world.poll(&format!("gateway=g1&since={start}")).await;
        assert_eq!((feed.snapshot, feed.generation.0), (true, start + 3), "{cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_wakes_the_poll_and_the_next_poll_acknowledges_it() {
    let world = World::new().await;
    let start = world.poll("gateway=g1").await.generation.0;
    let waiting = world.spawn(GatewayCall::poll(&format!("gateway=g1&since={start}&wait=30")));
    // The poll is under way as soon as its acknowledgement is written.
    while world.acknowledged().await != i64::try_from(start).unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    world.change("SELECT 1", edge_revoked("E")).await;
    let answer = waiting.await.unwrap();
    let feed: FeedResponse = serde_json::from_value(answer.body).unwrap();
    assert_eq!((feed.snapshot, feed.generation.0, feed.zones[0].revoked.len()), (false, start + 1, 1));
    assert_eq!(world.acknowledged().await, i64::try_from(start).unwrap());
    world.poll(&format!("gateway=g1&since={}&wait=0", start + 1)).await;
    assert_eq!(world.acknowledged().await, i64::try_from(start + 1).unwrap());
    let at = world.number("SELECT acknowledged_at FROM gateways WHERE id = 'g1'").await;
    world.poll(&format!("gateway=g1&since={}&wait=0", start + 1)).await;
    assert_eq!(
        world.number("SELECT acknowledged_at FROM gateways WHERE id = 'g1'").await,
        at,
        "when it came that far"
    );
    assert!(world.number("SELECT last_seen_at FROM gateways WHERE id = 'g1'").await >= at);
    world.poll("gateway=g1").await;
    assert_eq!(world.acknowledged().await, 0, "a gateway that begins anew has applied nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_another_process_ends_the_wait_too() {
    let world = World::new().await;
    let start = world.poll("gateway=g1").await.generation.0;
    let other = world.opened_again().await;
    let waiting = world.spawn(GatewayCall::poll(&format!("gateway=g1&since={start}&wait=30")));
    while world.acknowledged().await != i64::try_from(start).unwrap() {
        tokio::task::yield_now().await;
    }
    other.change("SELECT 1", edge_revoked("E")).await;
    let feed: FeedResponse = serde_json::from_value(waiting.await.unwrap().body).unwrap();
    assert_eq!((feed.generation.0, feed.zones[0].revoked.len()), (start + 1, 1));
}

/// More gateways than connections, all of which need the keys that just changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thirty_gateways_wake_at_once() {
    let world = World::new().await;
    world.exchange(&Form::bootstrap()).await.granted();
    let start = world.poll("gateway=g0").await.generation.0;
    let polls: Vec<_> = (0..30)
        .map(|number| world.spawn(GatewayCall::poll(&format!("gateway=g{number}&since={start}&wait=30"))))
        .collect();
    world.keys.rotate(&crate::support::zone(), "rotation").await.unwrap().unwrap();
    for poll in polls {
        let answer = poll.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let feed: FeedResponse = serde_json::from_value(answer.body).unwrap();
        assert_eq!(feed.zones[0].keys.as_ref().unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_without_its_provider_is_gone_until_it_has_one_again() {
    let world = World::new().await;
    let start = world.poll("gateway=g1").await.generation.0;
    let gone = Change::ResourceGone { identifier: "resource://ledger".into() };
    world.change("UPDATE providers SET archived_at = 1 WHERE id = 'p-none'", gone).await;
    let touched = Change::Resource { id: "R6".into() };
    world.change("UPDATE resources SET name = 'Other' WHERE id = 'R6'", touched).await;
    let delta = world.poll(&format!("gateway=g1&since={start}")).await;
    let zone = &delta.zones[0];
    let removed: Vec<_> = zone.removed_resources.iter().map(|name| name.as_str()).collect();
    assert_eq!(removed, ["resource://ledger", "resource://peer"]);
    assert!(zone.resources.is_empty(), "{:?}", zone.resources);
    let snapshot = world.poll("gateway=g1").await;
    let named: Vec<_> = snapshot.zones[0].resources.iter().map(|entry| entry.identifier.as_str()).collect();
    assert!(!named.contains(&"resource://ledger") && !named.contains(&"resource://peer"), "{named:?}");
    assert!(named.contains(&"resource://orders"), "{named:?}");

    let again = Change::Resource { id: "R2".into() };
    world.change("UPDATE resources SET credential_provider_id = 'p-mandate' WHERE id = 'R2'", again).await;
    let delta = world.poll(&format!("gateway=g1&since={}", delta.generation.0)).await;
    let back: Vec<_> = delta.zones[0].resources.iter().map(|entry| entry.identifier.as_str()).collect();
    assert_eq!(back, ["resource://ledger"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_tells_what_a_local_decision_needs() {
    let world = World::new().await;
    let before = u64::try_from(world.store.now()).unwrap();
    let feed = world.poll("gateway=g1").await;
    assert!(feed.time >= before && feed.time <= u64::try_from(world.store.now()).unwrap());
    let entry = |name: &str| {
        let entry = feed.zones[0].resources.iter().find(|entry| entry.identifier.as_str() == name);
        serde_json::to_value(entry.unwrap()).unwrap()
    };
    for (name, upstream) in [
        ("resource://orders", json!({ "url": "https://orders.internal", "credential": "mandate" })),
        ("resource://ledger", json!({ "url": "https://ledger.internal", "credential": "none" })),
        ("resource://keyed", json!({ "url": "https://keyed.internal", "credential": "brokered" })),
        ("resource://nowhere", json!(null)),
    ] {
        assert_eq!(entry(name)["upstream"], upstream, "{name}");
    }
    assert_eq!(entry("resource://orders")["scopes"], json!(["orders:read", "orders:write"]));
    // A delta tells the same, and its own time.
    world
        .change(
            "UPDATE providers SET kind = 'none' WHERE id = 'p-mandate'",
            Change::Resource { id: "R1".into() },
        )
        .await;
    let delta = world.poll(&format!("gateway=g1&since={}", feed.generation.0)).await;
    let told = serde_json::to_value(&delta.zones[0].resources[0]).unwrap();
    assert_eq!(told["upstream"]["credential"], "none");
    assert!(delta.time >= feed.time);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_are_long_gone_are_forgotten() {
    let world = World::new().await;
    let start = world.poll("gateway=g1").await.generation.0;
    let day = 24 * 3_600_000;
    for (id, seen) in [("gone", world.store.now() - day - 1_000), ("quiet", world.store.now() - day + 60_000)]
    {
        world
            .sql(&format!(
                "INSERT INTO gateways (id, acknowledged, acknowledged_at, last_seen_at) VALUES ('{id}', 1, 1, {seen})"
            ))
            .await;
    }
    world.poll(&format!("gateway=g1&since={start}&wait=0")).await;
    assert_eq!(world.number("SELECT COUNT(*) FROM gateways").await, 3);
    world.poll("gateway=g2").await;
    assert_eq!(world.number("SELECT COUNT(*) FROM gateways WHERE id = 'gone'").await, 0);
    assert_eq!(world.number("SELECT COUNT(*) FROM gateways").await, 3);
}
