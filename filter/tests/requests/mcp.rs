//! MCP through the filter: the body is gathered and judged before the STS hears of the request and before anything is
//! forwarded, and everything is decided once more when it is there.

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{World, gateway_configuration, json_answer, sidecar_configuration};
use caracal_filter::request::{Flow, Request};
use serde_json::{Value, json};

fn reading(mut configuration: Value) -> Value {
    configuration["mcp"] = json!(true);
    configuration["max_body_bytes"] = json!(100_000);
    configuration
}

/// One that is bound to the resource that speaks MCP.
fn sidecar() -> World {
    let mut configuration = reading(sidecar_configuration());
    configuration["binding"] = json!({"fixed": {"zone": "z1", "resource": "resource://tools"}});
    World::new(&configuration)
}

fn sidecar_token(world: &World) -> String {
    world.token(|claims| {
        claims["use"] = json!("resource");
        claims["aud"] = json!(["resource://tools"]);
    })
}

fn call(tool: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}).to_string()
}

fn open(world: &World, method: &str, token: &str, resource: &str, more: &[(&str, &str)]) -> Request {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![
        (":method", method),
        (":path", "/mcp"),
        (":authority", "gateway.example"),
        ("authorization", authorization.as_str()),
        ("x-caracal-resource", resource),
        ("x-request-id", "req-1"),
    ];
    headers.extend_from_slice(more);
    world.stream(&headers)
}

fn post(world: &World, token: &str, resource: &str) -> Request {
    open(world, "POST", token, resource, &[("content-type", "application/json")])
}

/// Hands the body over in two parts.
fn send(world: &World, request: &mut Request, body: &str) -> Flow {
    *world.host.body.borrow_mut() = body.as_bytes().to_vec();
    assert_eq!(request.on_request_body(body.len() / 2), Flow::Pause);
    request.without_body();
    request.on_request_body(body.len())
}

fn reason(world: &World) -> String {
    world.host.filter_state.borrow().get("caracal.reason").cloned().unwrap_or_default()
}

/// What the last event says.
fn event(world: &mut World) -> Value {
    world.host.now.set(world.host.now.get() + 1_000);
    let host = std::rc::Rc::clone(&world.host);
    world.root.on_tick(host.as_ref());
    let batch: Value = serde_json::from_str(&host.last_sent().body).unwrap();
    caracal_mandate::delivery::events(&batch).unwrap().pop().unwrap()
}

#[test]
fn a_sidecar_judges_the_message_before_anything_passes() {
    let mut world = sidecar();
    let token = sidecar_token(&world);
    let mut request = post(&world, &token, "");
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(send(&world, &mut request, &call("find")), Flow::Continue);
    assert_eq!(world.host.resumed.get(), 0);
    assert!(world.host.replies.borrow().is_empty());
    request.on_end();
    let state = world.host.filter_state.borrow().clone();
    assert_eq!(
        (state["caracal.mcp_method"].as_str(), state["caracal.mcp_tool"].as_str()),
        ("tools/call", "find")
    );
    let event = event(&mut world);
    assert_eq!(event["decision"], "allow");
    assert_eq!(event["metadata"]["mcp"], json!([{"method": "tools/call", "tool": "find"}]));
}

#[test]
fn refusals_name_the_reason_the_scopes_and_what_was_called() {
    for (body, status, code) in [
        (call("drop"), 403, "mcp_tool"),
        (call("move"), 403, "scope_missing"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned(), 403, "mcp_method"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","method":"ping"}"#.to_owned(),
            400,
            "mcp_malformed",
        ),
        (format!("[{},{}]", call("find"), call("drop")), 403, "mcp_tool"),
        (String::new(), 400, "mcp_malformed"),
        ("x".repeat(1_001), 413, "payload_too_large"),
    ] {
        let mut world = sidecar();
        let token = sidecar_token(&world);
        let mut request = post(&world, &token, "");
        assert_eq!(request.on_request_headers(), Flow::Pause);
        assert_eq!(send(&world, &mut request, &body), Flow::Pause, "{body}");
        assert_eq!((world.last_refusal().0, reason(&world).as_str()), (status, code), "{body}");
        // Whatever still comes changes nothing.
        assert_eq!(request.on_request_body(5_000), Flow::Pause);
        assert_eq!(request.on_request_trailers(), Flow::Pause);
        request.on_end();
        assert_eq!(world.host.resumed.get() + world.host.resets.get(), 0);
        let challenge = world.host.replies.borrow()[0].headers.iter().any(|(name, value)| {
            name == "www-authenticate" && value.contains("scope=\"orders:read orders:write\"")
        });
        assert_eq!(challenge, code == "scope_missing");
        let event = event(&mut world);
        assert_eq!((&event["decision"], &event["reason"]), (&json!("deny"), &json!(code)));
        if body == call("drop") {
            assert_eq!(event["metadata"]["mcp"], json!([{"method": "tools/call", "tool": "drop"}]));
        }
    }
}

#[test]
fn what_the_headers_rule_out_is_refused_without_the_body() {
    let json = ("content-type", "application/json");
    for (method, more, status, code) in [
        ("POST", vec![], 415, "mcp_content"),
        ("POST", vec![("content-type", "text/json")], 415, "mcp_content"),
        ("POST", vec![json, ("content-encoding", "gzip")], 415, "mcp_content"),
        ("POST", vec![json, ("content-length", "1001")], 413, "payload_too_large"),
        ("POST", vec![json, ("content-length", "x")], 413, "payload_too_large"),
        ("PUT", vec![json], 403, "operation_not_permitted"),
        ("DELETE", vec![], 403, "operation_not_permitted"),
    ] {
        let world = sidecar();
        let mut request = open(&world, method, &sidecar_token(&world), "", &more);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        assert_eq!((world.last_refusal().0, reason(&world).as_str()), (status, code), "{method} {more:?}");
    }
    // No body at all.
    let world = sidecar();
    let mut request = post(&world, &sidecar_token(&world), "");
    request.without_body();
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!((world.last_refusal().0, reason(&world).as_str()), (400, "mcp_malformed"));
    // Trailers are judged by nobody.
    let world = sidecar();
    let mut request = post(&world, &sidecar_token(&world), "");
    request.on_request_headers();
    assert_eq!(request.on_request_trailers(), Flow::Pause);
    assert_eq!((world.last_refusal().0, reason(&world).as_str()), (400, "mcp_malformed"));
    // Headers that say something else than the body.
    let world = sidecar();
    let mut request = open(&world, "POST", &sidecar_token(&world), "", &[json, ("mcp-name", "find")]);
    request.on_request_headers();
    assert_eq!(send(&world, &mut request, &call("move")), Flow::Pause);
    assert_eq!(reason(&world), "mcp_malformed");
}

#[test]
fn a_stream_of_events_needs_no_body_and_takes_none() {
    let world = sidecar();
    let token = sidecar_token(&world);
    let mut request = open(&world, "GET", &token, "", &[]);
    request.without_body();
    assert_eq!(request.on_request_headers(), Flow::Continue);
    let mut request = open(&world, "GET", &token, "", &[]);
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(send(&world, &mut request, &call("find")), Flow::Pause);
    assert_eq!(reason(&world), "mcp_malformed");
}

#[test]
fn a_filter_that_reads_no_bodies_passes_no_mcp() {
    let mut configuration = sidecar_configuration();
    configuration["binding"] = json!({"fixed": {"zone": "z1", "resource": "resource://tools"}});
    let world = World::new(&configuration);
    let mut request = post(&world, &sidecar_token(&world), "");
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!((world.last_refusal().0, reason(&world).as_str()), (503, "mcp_unread"));
}

#[test]
fn another_path_of_the_resource_is_none() {
    let world = sidecar();
    let authorization = format!("Bearer {}", sidecar_token(&world));
    for path in ["/", "/mcp/", "/MCP", "/mcp/x", "/mcp;x"] {
        let headers = [(":method", "POST"), (":path", path), ("authorization", authorization.as_str())];
        assert_eq!(world.refused(&headers).1, "operation_not_permitted", "{path}");
    }
}

#[test]
fn a_gateway_judges_the_message_before_the_sts_hears_of_it() {
    let world = World::new(&reading(gateway_configuration()));
    let token = world.token(|_| {});
    for (body, code) in
        [(call("drop"), "mcp_tool"), (call("move"), "scope_missing"), ("{}".to_owned(), "mcp_malformed")]
    {
        let mut request = post(&world, &token, "resource://tools");
        assert_eq!(request.on_request_headers(), Flow::Pause);
        assert_eq!(send(&world, &mut request, &body), Flow::Pause);
        assert_eq!(reason(&world), code);
    }
    assert_eq!(world.calls(), 0, "the mandate is not spent");
    let mut request = post(&world, &token, "resource://tools");
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(world.calls(), 0);
    assert_eq!(send(&world, &mut request, &call("find")), Flow::Pause);
    assert_eq!(world.calls(), 1);
    let form = world.host.last_sent().form();
    assert_eq!((form["gateway_burn_jti"].as_str(), form["request_path"].as_str()), ("1", "/mcp"));
    let directive = json!({"url": "http://tools.example", "auth_mode": "none"});
    let granted = json!({"access_token": "derived", "upstreams": {"resource://tools": directive}});
    world.answer(&mut request, Some(json_answer(200, &granted)));
    assert_eq!(world.host.resumed.get(), 1);
    assert_eq!(world.host.request_header(":authority"), ["tools.example"]);
}

#[test]
fn a_mandate_for_more_than_one_use_is_judged_each_time() {
    let world = World::new(&reading(gateway_configuration()));
    let token = world.multi_use_token(|_| {});
    for (tool, flow) in [("find", Flow::Continue), ("move", Flow::Pause), ("find", Flow::Continue)] {
        let mut request = post(&world, &token, "resource://reused-tools");
        assert_eq!(request.on_request_headers(), Flow::Pause);
        assert_eq!(send(&world, &mut request, &call(tool)), flow, "{tool}");
    }
    assert_eq!(world.calls(), 0);
}

#[test]
fn what_changes_while_the_body_comes_counts() {
    let token_of = |world: &World| world.multi_use_token(|_| {});
    type Change = fn(&mut World);
    let changes: [(Change, &str); 4] = [
        (|world| world.revoke("T"), "revoked"),
        (|world| world.host.now.set(world.host.now.get() + 60_000), "feed_stale"),
        (
            |world| {
                world.share_delta(&json!({"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 0,
                    "removed_resources": ["resource://reused-tools"]}));
            },
            "resource_unknown",
        ),
        (
            |world| {
                world.share_delta(&json!({"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 0, "resources": [
                    {"identifier": "resource://reused-tools", "enforcement": "transport_uniform", "multi_use": true}]}));
            },
            "mcp_unread",
        ),
    ];
    for (change, code) in changes {
        let mut world = World::new(&reading(gateway_configuration()));
        let mut request = post(&world, &token_of(&world), "resource://reused-tools");
        assert_eq!(request.on_request_headers(), Flow::Pause);
        change(&mut world);
        assert_eq!(send(&world, &mut request, &call("find")), Flow::Pause);
        assert_eq!(reason(&world), code);
    }
}

#[test]
fn a_body_that_comes_while_the_sts_is_asked_is_bounded_as_well() {
    let mut configuration = reading(gateway_configuration());
    configuration["max_body_bytes"] = json!(100);
    let world = World::new(&configuration);
    let authorization = format!("Bearer {}", world.token(|_| {}));
    let mut request = world.stream(&world.good(&authorization));
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(request.on_request_body(100), Flow::Pause);
    assert_eq!(world.host.replies.borrow().len(), 0);
    assert_eq!(request.on_request_body(101), Flow::Pause);
    assert_eq!(world.last_refusal().0, 413);
    world.answer(&mut request, Some(world.granted(&json!({"url": "http://u", "auth_mode": "none"}))));
    assert_eq!(world.host.resumed.get(), 0);
}

#[test]
fn a_dry_run_counts_and_passes() {
    let mut configuration = reading(sidecar_configuration());
    configuration["binding"] = json!({"fixed": {"zone": "z1", "resource": "resource://tools"}});
    configuration["dry_run"] = json!(true);
    let world = World::new(&configuration);
    let mut request = post(&world, &sidecar_token(&world), "");
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(send(&world, &mut request, &call("drop")), Flow::Continue);
    assert_eq!(world.host.counter("caracal_gateway_dry_run_denials_total.reason.mcp_tool"), 1);
}

#[test]
fn a_body_that_could_not_be_held_spends_no_mandate() {
    for (reads, length, calls) in [(true, "1048577", 0), (true, "1048576", 1), (false, "1048577", 1)] {
        let mut configuration = gateway_configuration();
        configuration["mcp"] = json!(reads);
        configuration["max_body_bytes"] = json!(10_000_000);
        let world = World::new(&configuration);
        let authorization = format!("Bearer {}", world.token(|_| {}));
        let mut headers = world.good(&authorization);
        headers.push(("content-length", length));
        assert_eq!(world.stream(&headers).on_request_headers(), Flow::Pause);
        assert_eq!(world.calls(), calls, "{reads} {length}");
        assert_eq!(reason(&world), if calls == 0 { "payload_too_large" } else { "" });
    }
}
