//! Requests for another protocol: refused, or governed until they end.

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{ANSWERED, NOW, World, gateway_configuration, json_answer, sidecar_configuration};
use caracal_filter::request::{Flow, Request};
use serde_json::{Value, json};

fn allowing(mut configuration: Value) -> Value {
    configuration["upgrades"] = json!(["websocket"]);
    configuration["max_body_bytes"] = json!(100);
    configuration
}

fn open(world: &World, authorization: &str, more: &[(&str, &str)]) -> Request {
    let mut headers = world.good(authorization);
    headers.extend_from_slice(more);
    world.stream(&headers)
}

const ASKS: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];

const EVENTS: [(&str, &str); 1] = [("accept", "application/json, text/event-stream")];

fn reason(world: &World) -> String {
    world.host.filter_state.borrow().get("caracal.reason").cloned().unwrap_or_default()
}

/// The upstream agrees.
fn agree(world: &World, request: &mut Request) {
    let headers = [(":status", "101"), ("connection", "Upgrade"), ("upgrade", "websocket"), ("server", "x")];
    *world.host.response.borrow_mut() =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    assert_eq!(request.on_response_headers(), Flow::Continue);
}

#[test]
fn what_is_not_allowed_is_refused_and_spends_nothing() {
    for (configuration, more) in [
        (sidecar_configuration(), &ASKS[..]),
        (allowing(sidecar_configuration()), &[("connection", "upgrade"), ("upgrade", "h2c")]),
        (allowing(sidecar_configuration()), &[("connection", "upgrade"), ("upgrade", "websocket, h2c")]),
        (allowing(sidecar_configuration()), &[("upgrade", "websocket")]),
        (
            allowing(sidecar_configuration()),
            &[("connection", "upgrade, x-api-key"), ("upgrade", "websocket")],
        ),
        (
            allowing(sidecar_configuration()),
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
        ),
        (
            allowing(sidecar_configuration()),
            &[("connection", "upgrade"), ("connection", "x"), ("upgrade", "websocket")],
        ),
        (allowing(sidecar_configuration()), &[(":protocol", "websocket")]),
    ] {
        let world = World::new(&configuration);
        let authorization = format!("Bearer {}", world.resource_token());
        let mut request = open(&world, &authorization, more);
        assert_eq!(request.on_request_headers(), Flow::Pause, "{more:?}");
        assert_eq!(world.last_refusal(), (403, "access_denied".into(), "upgrade not supported".into()));
        assert_eq!(reason(&world), "upgrade_refused");
    }
    let world = World::new(&gateway_configuration());
    let authorization = format!("Bearer {}", world.token(|_| {}));
    assert_eq!(open(&world, &authorization, &ASKS).on_request_headers(), Flow::Pause);
    assert_eq!((world.calls(), reason(&world).as_str()), (0, "upgrade_refused"));
    // Who proved nothing is told of nothing else.
    assert_eq!(open(&world, "Bearer a.b", &ASKS).on_request_headers(), Flow::Pause);
    assert_eq!(world.last_refusal().0, 401);
}

#[test]
fn a_gateway_keeps_what_the_upgrade_needs_and_nothing_else() {
    let world = World::new(&allowing(gateway_configuration()));
    let authorization = format!("Bearer {}", world.token(|_| {}));
    let mut request = open(&world, &authorization, &ASKS);
    assert_eq!(request.on_request_headers(), Flow::Pause);
    world.answer(&mut request, Some(world.granted(&json!({"url": "http://u", "auth_mode": "none"}))));
    assert_eq!(world.host.resumed.get(), 1);
    assert_eq!(world.host.request_header("connection"), ["upgrade"]);
    assert_eq!(world.host.request_header("upgrade"), ["websocket"]);
    agree(&world, &mut request);
    let names = world.host.response_names();
    assert!(names.contains(&"upgrade".to_owned()) && names.contains(&"connection".to_owned()));
    assert!(!names.contains(&"server".to_owned()));
    // An upstream that only says so agrees to nothing.
    let mut plain = open(&world, &authorization, &[]);
    plain.on_request_headers();
    world.answer(&mut plain, Some(world.granted(&json!({"url": "http://u", "auth_mode": "none"}))));
    assert!(world.host.request_header("upgrade").is_empty());
}

#[test]
fn it_is_cut_in_both_directions_when_the_mandate_is_revoked_or_expires() {
    type Change = fn(&mut World);
    let changes: [(Change, &str, &str); 2] = [
        (|world| world.revoke("T"), "caracal_gateway_streams_revoked_total", "revocation_interrupted"),
        (
            |world| world.host.now.set(NOW + 300_000),
            "caracal_gateway_streams_expired_total",
            "expiry_interrupted",
        ),
    ];
    for (change, metric, told) in changes {
        for from_caller in [true, false] {
            let mut world = World::new(&allowing(sidecar_configuration()));
            let authorization = format!("Bearer {}", world.resource_token());
            let mut request = open(&world, &authorization, &ASKS);
            assert_eq!(request.on_request_headers(), Flow::Continue);
            agree(&world, &mut request);
            for _ in 0..5 {
                assert_eq!(request.on_request_body(90), Flow::Continue, "frames are no body");
                assert_eq!(request.on_response_body(90), Flow::Continue);
            }
            change(&mut world);
            let cut = if from_caller { request.on_request_body(5) } else { request.on_response_body(5) };
            assert_eq!((cut, world.host.resets.get(), world.host.counter(metric)), (Flow::Pause, 1, 1));
            assert_eq!((request.on_request_body(5), request.on_response_body(5)), (Flow::Pause, Flow::Pause));
            assert_eq!((world.host.resets.get(), world.host.replies.borrow().len()), (1, 0));
            request.on_end();
            world.host.now.set(world.host.now.get() + 1_000);
            let host = std::rc::Rc::clone(&world.host);
            world.root.on_tick(host.as_ref());
            let batch: Value = serde_json::from_str(&host.last_sent().body).unwrap();
            assert_eq!(caracal_mandate::delivery::events(&batch).unwrap()[0]["metadata"][told], true);
        }
    }
}

#[test]
fn a_plain_response_runs_on_after_its_mandate_expired() {
    let world = World::new(&allowing(sidecar_configuration()));
    let authorization = format!("Bearer {}", world.resource_token());
    let mut request = open(&world, &authorization, &[]);
    assert_eq!(request.on_request_headers(), Flow::Continue);
    request.on_response_headers();
    world.host.now.set(NOW + 900_000);
    assert_eq!(request.on_response_body(5), Flow::Continue);
}

#[test]
fn a_resource_that_speaks_mcp_never_upgrades() {
    let mut configuration = allowing(gateway_configuration());
    configuration["mcp"] = json!(true);
    let world = World::new(&configuration);
    let authorization = format!("Bearer {}", world.multi_use_token(|_| {}));
    let headers = [
        (":method", "GET"),
        (":path", "/mcp"),
        ("authorization", authorization.as_str()),
        ("x-caracal-resource", "resource://reused-tools"),
        ASKS[0],
        ASKS[1],
    ];
    assert_eq!(world.stream(&headers).on_request_headers(), Flow::Pause);
    assert_eq!(reason(&world), "upgrade_refused");
}

fn answer(world: &World, request: &mut Request, headers: &[(&str, &str)]) {
    *world.host.response.borrow_mut() =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    assert_eq!(request.on_response_headers(), Flow::Continue);
}

#[test]
fn what_is_silent_is_cut_on_the_next_tick() {
    let mut world = World::new(&allowing(sidecar_configuration()));
    let authorization = format!("Bearer {}", world.resource_token());
    let mut streams: Vec<Request> = [&ASKS[..], &EVENTS, &EVENTS, &EVENTS]
        .iter()
        .zip(1_u32..)
        .map(|(more, context)| {
            let mut request = open(&world, &authorization, more).at(context);
            assert_eq!(request.on_request_headers(), Flow::Continue);
            request
        })
        .collect();
    agree(&world, &mut streams[0]);
    let events = [(":status", "200"), ("content-type", "text/event-stream; charset=utf-8")];
    answer(&world, &mut streams[1], &events);
    answer(&world, &mut streams[2], &events);
    answer(&world, &mut streams[3], &[(":status", "200"), ("content-type", "application/json")]);
    assert_eq!(world.worker().live.borrow().len(), 3, "a plain answer does not last");
    let tick = |world: &mut World| {
        let host = std::rc::Rc::clone(&world.host);
        world.root.on_tick(host.as_ref());
        host.cut_streams.take()
    };
    streams[2].on_end();
    assert_eq!(tick(&mut world), Vec::<u32>::new());
    // An expired mandate ends the other protocol, and no stream of events.
    world.host.now.set(NOW + 300_000);
    world.share_status();
    assert_eq!(tick(&mut world), [1]);
    world.revoke("T");
    assert_eq!(tick(&mut world), [2]);
    assert_eq!(tick(&mut world), Vec::<u32>::new());
    assert_eq!(world.host.counter("caracal_gateway_streams_revoked_total"), 1);
    assert_eq!(world.host.counter("caracal_gateway_streams_expired_total"), 1);
    assert_eq!(streams[1].on_response_body(5), Flow::Pause, "nothing passes until the host has ended it");
    assert_eq!(world.host.resets.get(), 0);
    for stream in &mut streams {
        stream.on_end();
    }
    assert!(world.worker().live.borrow().is_empty());
    // Of the first stream that ended, Audit was told already.
    let host = std::rc::Rc::clone(&world.host);
    *host.answer.borrow_mut() = Some(json_answer(200, &json!({"acknowledged": 1})));
    let token = host.last_sent().token;
    world.root.on_answer(host.as_ref(), token, ANSWERED);
    world.host.now.set(world.host.now.get() + 1_000);
    tick(&mut world);
    let sent = world.host.sent.borrow();
    let batch: Value = serde_json::from_str(&sent.last().unwrap().body).unwrap();
    let events = caracal_mandate::delivery::events(&batch).unwrap();
    let told = |name: &str| events.iter().filter(|event| event["metadata"][name] == true).count();
    assert_eq!((told("revocation_interrupted"), told("expiry_interrupted")), (1, 1));
}
