//! The resource role, the worker's view of the feed, the singleton, and evidence.

// Helpers of tests may fail loudly, like the tests themselves.

use std::rc::Rc;

use crate::support::{
    ANSWERED, FAILED, FakeHost, ISSUER, NOW, World, anchor, gateway_configuration, json_answer, poller,
    sidecar_configuration,
};
use caracal_filter::host::{Host, Level};
use caracal_filter::request::Flow;
use caracal_filter::root::Root;
use caracal_filter::snapshot::{STATUS_KEY, Status};
use serde_json::{Value, json};

fn pass(world: &World, authorization: &str) -> Flow {
    world.stream(&world.good(authorization)).on_request_headers()
}

#[test]
fn a_resource_mandate_is_decided_without_the_sts() {
    let world = World::new(&sidecar_configuration());
    let token = world.resource_token();
    let authorization = format!("Bearer {token}");
    let mut headers = world.good(&authorization);
    headers.push(("x-caracal-identity", "forged"));
    let mut request = world.stream(&headers);
    assert_eq!(request.on_request_headers(), Flow::Continue);
    assert_eq!(request.on_request_body(100), Flow::Continue);
    assert_eq!(world.host.request_header("authorization"), [authorization.as_str()]);
    assert!(world.host.request_header("x-caracal-identity").is_empty());
    assert!(world.host.sent.borrow().is_empty());

    let mut stripping = sidecar_configuration();
    stripping["forward_mandate"] = json!(false);
    let world = World::new(&stripping);
    assert_eq!(pass(&world, &authorization), Flow::Continue);
    assert!(world.host.request_header("authorization").is_empty());
}

#[test]
fn what_is_not_for_this_resource_is_refused() {
    let world = World::new(&sidecar_configuration());
    type Change = fn(&mut Value);
    let cases: [(Change, u16, &str); 7] = [
        (|claims| claims["use"] = json!("gateway"), 401, "mandate class not accepted here"),
        (|claims| claims["aud"] = json!(["resource://other"]), 401, "audience not accepted here"),
        (
            |claims| claims["target"] = json!(["resource://other"]),
            403,
            "mandate not granted for this resource",
        ),
        (|claims| claims["zone_id"] = json!("z2"), 401, "mandate of another zone"),
        (|claims| claims["iss"] = json!("http://evil"), 401, "issuer not accepted"),
        (|claims| claims["scope"] = json!("orders:write"), 403, "operation not permitted"),
        (|claims| claims["exp"] = json!(NOW / 1000), 401, "credential expiring within pre-flight window"),
    ];
    for (change, status, description) in cases {
        let token = world.token(|claims| {
            claims["use"] = json!("resource");
            claims["aud"] = json!(["resource://orders"]);
            change(claims);
        });
        let answer = world.refused(&world.good(&format!("Bearer {token}")));
        assert_eq!((answer.0, answer.2.as_str()), (status, description));
    }
}

#[test]
fn route_metadata_binds_the_resource() {
    let mut configuration = sidecar_configuration();
    configuration["binding"] = json!("metadata");
    let world = World::new(&configuration);
    let authorization = format!("Bearer {}", world.resource_token());
    assert_eq!(world.refused(&world.good(&authorization)).0, 400);
    let property = "xds/route_metadata/filter_metadata/caracal";
    let set = |name: &str, value: &str| {
        world.host.properties.borrow_mut().insert(format!("{property}/{name}"), value.as_bytes().to_vec());
    };
    set("resource", "resource://orders");
    assert_eq!(pass(&world, &authorization), Flow::Continue);
    set("zone", "z2");
    assert_eq!(world.refused(&world.good(&authorization)).2, "mandate of another zone");
}

#[test]
fn route_metadata_binds_the_operation() {
    let mut configuration = sidecar_configuration();
    configuration["binding"] = json!("metadata");
    let world = World::new(&configuration);
    let authorization = format!("Bearer {}", world.resource_token());
    let property = "xds/route_metadata/filter_metadata/caracal";
    let set = |name: &str, value: &[u8]| {
        world.host.properties.borrow_mut().insert(format!("{property}/{name}"), value.to_vec());
    };
    set("resource", b"resource://orders");
    let mut headers = world.good(&authorization);
    headers.retain(|(name, _)| *name != ":path");
    headers.push((":path", "/rewritten/later"));
    assert_eq!(world.refused(&headers).1, "operation_not_permitted");
    set("operation", b"GET /v1/orders");
    assert_eq!(world.stream(&headers).on_request_headers(), Flow::Continue);
    assert_eq!(world.host.request_header(":path"), ["/rewritten/later"]);
    for other in ["DELETE /v1/orders", "GET /v1/orders/", "/v1/orders", "", "GET"] {
        set("operation", other.as_bytes());
        assert_eq!(world.refused(&headers).1, "operation_not_permitted", "{other}");
    }
    set("operation", b"GET /v1/orders\xff");
    assert_eq!(world.refused(&headers).1, "operation_not_permitted");
    // The operation that is bound is the one that the STS is asked about.
    set("operation", b"POST /v1/orders");
    let newer = world.token(|claims| {
        claims["use"] = json!("resource");
        claims["aud"] = json!(["resource://orders"]);
        claims["authority_epoch"] = json!(9);
    });
    let newer = format!("Bearer {newer}");
    headers.retain(|(name, _)| *name != "authorization");
    headers.push(("authorization", newer.as_str()));
    assert_eq!(world.stream(&headers).on_request_headers(), Flow::Pause);
    let form = world.host.last_sent().form();
    assert_eq!((form["request_method"].as_str(), form["request_path"].as_str()), ("POST", "/v1/orders"));
}

#[test]
fn a_worker_follows_deltas_snapshots_and_new_lineages() {
    let mut world = World::new(&sidecar_configuration());
    let authorization = format!("Bearer {}", world.resource_token());
    assert_eq!(pass(&world, &authorization), Flow::Continue);
    for session in ["x1", "x2", "T", "x3"] {
        world.revoke(session);
    }
    assert_eq!(world.refused(&world.good(&authorization)).2, "session revoked");

    // The STS starts over, with lower generations: nothing of the old state stays.
    world.lineage = 2;
    world.generation = 3;
    world.share_snapshot(&[]);
    assert_eq!(pass(&world, &authorization), Flow::Continue);

    // A delta is missing: the snapshot is what counts.
    world.generation = 9;
    world.share_status();
    assert_eq!(world.refused(&world.good(&authorization)).0, 503);
    world.share_snapshot(&["T"]);
    assert_eq!(world.refused(&world.good(&authorization)).2, "session revoked");
}

#[test]
fn a_vm_that_starts_empty_refuses_until_there_is_a_snapshot() {
    let mut world = World::without_feed(&sidecar_configuration());
    let authorization = format!("Bearer {}", world.resource_token());
    assert_eq!(world.refused(&world.good(&authorization)).0, 503);
    world.share_status();
    assert_eq!(world.refused(&world.good(&authorization)).0, 503, "a status without a snapshot");
    world.share_snapshot(&[]);
    assert_eq!(pass(&world, &authorization), Flow::Continue);
}

#[test]
fn a_stream_is_cut_when_its_mandate_is_revoked() {
    let mut world = World::new(&sidecar_configuration());
    let authorization = format!("Bearer {}", world.resource_token());
    let mut request = world.stream(&world.good(&authorization));
    request.on_request_headers();
    request.on_response_headers();
    assert_eq!(request.on_response_body(5), Flow::Continue);
    world.host.now.set(NOW + 600_000);
    assert_eq!(request.on_response_body(5), Flow::Continue, "an old feed does not cut streams");
    world.revoke("T");
    assert_eq!(request.on_response_body(5), Flow::Pause);
    assert_eq!(request.on_response_body(5), Flow::Pause);
    assert_eq!(world.host.resets.get(), 1);
}

#[test]
fn configuration_that_cannot_work_is_refused_and_says_why() {
    for (text, key, expected) in [
        ("{", Some("ab".repeat(32)), "JSON"),
        ("{\"service\":\"feed\",\"gateway_id\":\"g\",\"sts\":{}}", None, "CARACAL_GATEWAY_STS_HMAC_KEY"),
        ("{\"service\":\"feed\",\"gateway_id\":\"g\",\"sts\":{}}", Some("ab".into()), "shorter"),
        (
            "{\"service\":\"feed\",\"gateway_id\":\"g\",\"sts\":{},\"wait\":1}",
            Some("ab".repeat(32)),
            "`wait`",
        ),
    ] {
        let host = Rc::new(FakeHost::default());
        if let Some(key) = key {
            host.environment.borrow_mut().insert("CARACAL_GATEWAY_STS_HMAC_KEY".into(), key);
        }
        let as_host: Rc<dyn Host> = host.clone();
        assert!(Root::configure(&as_host, text.as_bytes()).is_none(), "{text}");
        let logs = host.logs.borrow();
        assert!(logs.iter().any(|line| line.contains(expected)), "{text}: {logs:?}");
    }
    FakeHost::default().log(Level::Info, "");
}

fn answer_poll(host: &Rc<FakeHost>, poller: &mut caracal_filter::feed::FeedPoller, body: &Value) {
    *host.answer.borrow_mut() = Some(json_answer(200, body));
    let token = host.last_sent().token;
    poller.on_answer(host.as_ref(), token, ANSWERED);
}

fn status(host: &FakeHost) -> Option<Status> {
    Status::from_bytes(&host.shared(STATUS_KEY)?)
}

#[test]
fn the_singleton_polls_shares_and_polls_again_at_once() {
    let world = World::without_feed(&sidecar_configuration());
    let host = Rc::clone(&world.host);
    let mut poller = poller(&host);
    poller.on_tick(host.as_ref());
    poller.on_tick(host.as_ref());
    assert_eq!(host.sent.borrow().len(), 1, "one poll at a time");
    assert_eq!(host.last_sent().header(":path"), "/internal/gateway/feed?gateway=gw-1&since=0&wait=7");
    answer_poll(&host, &mut poller, &world.snapshot(&[]));
    assert_eq!(host.last_sent().header(":path"), "/internal/gateway/feed?gateway=gw-1&since=10&wait=7");
    let authorization = format!("Bearer {}", world.resource_token());
    assert_eq!(pass(&world, &authorization), Flow::Continue);

    // Nothing changed: the same generation, heard again.
    host.now.set(NOW + 5_000);
    let empty = json!({"previous": 10, "generation": 10, "snapshot": false, "issuer": ISSUER, "time": NOW, "zones": []});
    answer_poll(&host, &mut poller, &empty);
    assert_eq!(status(&host).unwrap().polled_at, NOW + 5_000);
    assert_eq!(pass(&world, &authorization), Flow::Continue);

    // Many deltas, with generations that collide in the ring: every worker still finds its way.
    let mut previous = 10;
    for step in 0..200_u64 {
        let generation = previous + if step % 3 == 0 { 256 } else { 1 };
        let session = if step == 150 { "T".to_owned() } else { format!("other-{step}") };
        let delta = json!({
            "previous": previous, "generation": generation, "snapshot": false, "issuer": ISSUER, "time": NOW,
            "zones": [{"zone_id": "z1", "authority_epoch": 3, "policy_epoch": 0, "revoked": [anchor(&session)]}],
        });
        answer_poll(&host, &mut poller, &delta);
        previous = generation;
        if step % 7 == 0 {
            let passes = pass(&world, &authorization) == Flow::Continue;
            assert_eq!(passes, step < 150, "step {step}");
        }
    }
    assert_eq!(world.refused(&world.good(&authorization)).2, "session revoked");
}

#[test]
fn a_poll_that_fails_is_tried_again_after_a_pause_and_a_gap_asks_for_everything() {
    let world = World::without_feed(&sidecar_configuration());
    let host = Rc::clone(&world.host);
    let mut poller = poller(&host);
    poller.on_tick(host.as_ref());
    poller.on_answer(host.as_ref(), host.last_sent().token, FAILED);
    poller.on_tick(host.as_ref());
    assert_eq!(host.sent.borrow().len(), 1, "not at once");
    assert!(status(&host).is_none(), "a failed poll proves nothing");
    host.now.set(NOW + 200);
    poller.on_tick(host.as_ref());
    assert_eq!(host.sent.borrow().len(), 2);
    answer_poll(&host, &mut poller, &world.snapshot(&[]));
    let known = status(&host).unwrap();
    let gap = json!({"previous": 77, "generation": 78, "snapshot": false, "issuer": ISSUER, "time": NOW, "zones": []});
    answer_poll(&host, &mut poller, &gap);
    assert_eq!(status(&host).unwrap(), known, "a gap is no news");
    host.now.set(NOW + 10_000);
    poller.on_tick(host.as_ref());
    assert!(host.last_sent().header(":path").contains("since=0"));
    answer_poll(&host, &mut poller, &world.snapshot(&[]));
    assert_ne!(status(&host).unwrap().lineage, known.lineage);
}

#[test]
fn a18_every_decision_leaves_one_event() {
    let mut world = World::new(&gateway_configuration());
    let token = world.token(|_| {});
    let authorization = format!("Bearer {token}");
    world.refused(&[(":method", "GET"), (":path", "/secret?key=value")]);
    let mut request = world.stream(&world.good(&authorization));
    request.on_request_headers();
    let directive =
        json!({"url": "http://upstream.example", "auth_mode": "caracal_jwt", "provider_id": "p1"});
    *world.host.answer.borrow_mut() = Some(world.granted(&directive));
    request.on_answer(world.host.last_sent().token, ANSWERED);
    *world.host.response.borrow_mut() = vec![(":status".into(), b"201".to_vec())];
    request.on_response_headers();
    request.on_response_body(7);
    request.on_end();
    request.on_end();
    let mut waiting = world.stream(&world.good(&authorization));
    waiting.on_request_headers();
    waiting.on_end();

    let host = Rc::clone(&world.host);
    world.root.on_tick(host.as_ref());
    let before = host.sent.borrow().len();
    host.now.set(NOW + 200);
    world.root.on_tick(host.as_ref());
    assert_eq!(host.sent.borrow().len(), before + 1);
    let sent = host.last_sent();
    assert_eq!((sent.cluster.as_str(), sent.header(":path")), ("audit", "/internal/audit/gateway-events"));
    let batch: Value = serde_json::from_str(&sent.body).unwrap();
    let events = caracal_mandate::delivery::events(&batch).unwrap();
    assert_eq!(batch["gateway"], "gw-1");
    assert_eq!(events.len(), 3);
    assert_eq!(
        (&events[0]["event_type"], &events[0]["reason"]),
        (&json!("gateway_denied"), &json!("missing_bearer"))
    );
    assert_eq!(events[1]["decision"], "allow");
    assert_eq!(events[1]["zone_id"], "z1");
    let metadata = &events[1]["metadata"];
    for (name, value) in [
        ("application_id", json!("a1")),
        ("resource", json!("resource://orders")),
        ("method", json!("GET")),
        ("gateway_status", json!(201)),
        ("result_class", json!("success")),
        ("response_bytes", json!(7)),
        ("upstream_host", json!("upstream.example")),
        ("provider_id", json!("p1")),
        ("subject_kind", json!("application")),
    ] {
        assert_eq!(metadata[name], value, "{name}");
    }
    assert_eq!(metadata["subject_fingerprint"].as_str().unwrap().len(), 16);
    assert_eq!(events[2]["evaluation_status"], "cancelled");
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3]);
    for secret in [token.as_str(), "/secret", "key=value", "/v1/orders"] {
        assert!(!sent.body.contains(secret), "{secret}");
    }
}

#[test]
fn events_wait_until_audit_acknowledges_and_a_full_buffer_refuses() {
    let mut small = gateway_configuration();
    small["audit"]["capacity"] = json!(10);
    let mut world = World::new(&small);
    let host = Rc::clone(&world.host);
    let anonymous = [(":method", "GET"), (":path", "/")];
    // Refused, but by someone who is known: a mandate for another resource.
    let elsewhere =
        format!("Bearer {}", world.token(|claims| claims["target"] = json!(["resource://other"])));
    let known = |world: &World| world.refused(&world.good(&elsewhere)).0;
    for _ in 0..10 {
        assert_eq!(known(&world), 403);
    }
    let answer = world.refused(&anonymous);
    assert_eq!(answer, (503, "sts_unavailable".into(), "evidence cannot be recorded".into()));

    host.now.set(NOW + 200);
    world.root.on_tick(host.as_ref());
    world.root.on_answer(host.as_ref(), host.last_sent().token, FAILED);
    world.root.on_tick(host.as_ref());
    assert_eq!(host.sent.borrow().len(), 1, "not at once");
    host.now.set(NOW + 1_000);
    world.root.on_tick(host.as_ref());
    assert_eq!(host.sent.borrow().len(), 2);
    *host.answer.borrow_mut() = Some(json_answer(200, &json!({"acknowledged": 4})));
    world.root.on_answer(host.as_ref(), host.last_sent().token, ANSWERED);
    assert_eq!(world.worker().evidence.borrow().pending(), 6);
    assert_eq!(known(&world), 403);

    host.now.set(NOW + 2_000);
    world.root.on_tick(host.as_ref());
    let batch: Value = serde_json::from_str(&host.last_sent().body).unwrap();
    let seqs: Vec<u64> =
        batch["rows"].as_array().unwrap().iter().map(|row| row[1].as_u64().unwrap()).collect();
    assert_eq!(seqs, [5, 6, 7, 8, 9, 10, 12], "the request without evidence is a gap");

    let mut careless = small;
    careless["audit"]["on_backlog"] = json!("allow");
    let world = World::new(&careless);
    for _ in 0..12 {
        assert_eq!(known(&world), 403);
    }
    assert_eq!(world.host.counter("caracal_gateway_audit_dropped_total"), 2);
}

#[test]
fn callers_without_a_mandate_cannot_fill_the_buffer() {
    let mut small = gateway_configuration();
    small["audit"]["capacity"] = json!(10);
    let world = World::new(&small);
    let long = "M".repeat(15_000);
    for _ in 0..100 {
        assert_eq!(world.refused(&[(":method", long.as_str()), (":path", "/")]).0, 401);
    }
    assert_eq!(world.worker().evidence.borrow().pending(), 5);
    let elsewhere =
        format!("Bearer {}", world.token(|claims| claims["target"] = json!(["resource://other"])));
    assert_eq!(world.refused(&world.good(&elsewhere)).0, 403);
    assert_eq!(world.worker().evidence.borrow().pending(), 6);
}

#[test]
fn events_that_audit_refuses_are_sent_in_smaller_parts_and_the_bad_one_becomes_a_gap() {
    let mut world = World::new(&gateway_configuration());
    let host = Rc::clone(&world.host);
    for _ in 0..4 {
        world.refused(&[(":method", "GET"), (":path", "/")]);
    }
    let mut sizes = Vec::new();
    let mut answer = |world: &mut World, status: u16, body: Value| {
        host.now.set(host.now.get() + 10_000);
        world.root.on_tick(host.as_ref());
        let batch: Value = serde_json::from_str(&host.last_sent().body).unwrap();
        sizes.push(batch["rows"].as_array().unwrap().len());
        *host.answer.borrow_mut() = Some(json_answer(status, &body));
        world.root.on_answer(host.as_ref(), host.last_sent().token, ANSWERED);
    };
    for status in [413, 400, 400] {
        answer(&mut world, status, json!({"error": "invalid_body"}));
    }
    answer(&mut world, 200, json!({"acknowledged": 2}));
    answer(&mut world, 200, json!({"acknowledged": 4}));
    assert_eq!(sizes, [4, 2, 1, 1, 2]);
    assert_eq!(world.worker().evidence.borrow().pending(), 0);
    assert_eq!(world.host.counter("caracal_gateway_audit_dropped_total"), 1);
}

#[test]
fn the_service_gets_the_path_that_was_judged_and_no_override() {
    let world = World::new(&sidecar_configuration());
    let authorization = format!("Bearer {}", world.resource_token());
    let mut headers = world.good(&authorization);
    headers.retain(|(name, _)| *name != ":path");
    headers.push((":path", "/v1%2Forders?a=%2F"));
    headers.push(("x-http-method-override", "DELETE"));
    headers.push(("x-original-url", "/admin"));
    assert_eq!(world.stream(&headers).on_request_headers(), Flow::Continue);
    assert_eq!(world.host.request_header(":path"), ["/v1/orders?a=%2F"]);
    assert!(world.host.request_header("x-http-method-override").is_empty());
    assert!(world.host.request_header("x-original-url").is_empty());
}
