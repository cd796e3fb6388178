//! What operators and clients see beside a decision: discovery, dry runs, labels, access logs, and the feed without a
//! singleton.

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{
    ANSWERED, FAILED, ISSUER, NOW, RESOURCE, World, anchor, gateway_configuration, json_answer,
    sidecar_configuration,
};
use caracal_filter::request::Flow;
use serde_json::{Value, json};

fn with(mut configuration: Value, field: &str, value: Value) -> Value {
    configuration[field] = value;
    configuration
}

/// The challenge of the last refusal.
fn challenge(world: &World) -> Option<String> {
    let replied = world.host.replies.borrow().last().cloned().expect("no reply");
    let header = replied.headers.into_iter().find(|(name, _)| name == "www-authenticate");
    header.map(|(_, value)| value)
}

#[test]
fn rfc_6750_and_rfc_9728_challenges() {
    let url = "resource_metadata=\"http://gateway.example/.well-known/oauth-protected-resource\"";
    let world = World::new(&sidecar_configuration());
    let unscoped = world.token(|claims| {
        claims["use"] = json!("resource");
        claims["aud"] = json!([RESOURCE]);
        claims["scope"] = json!("orders:write");
    });
    let unscoped = format!("Bearer {unscoped}");
    let good = format!("Bearer {}", world.resource_token());
    let mut undeclared = world.good(&good);
    undeclared.retain(|(name, _)| *name != ":path");
    undeclared.push((":path", "/v2"));
    let mut bare = world.good(&good);
    bare.retain(|(name, _)| *name != "authorization");
    let invalid = "Bearer error=\"invalid_token\", error_description=\"malformed bearer token\", ";
    let scope = "Bearer error=\"insufficient_scope\", error_description=\"operation not permitted\", \
                 scope=\"orders:read\", ";
    for (headers, status, expected) in [
        (bare, 401, Some(format!("Bearer {url}"))),
        (world.good("Bearer a.b"), 401, Some(format!("{invalid}{url}"))),
        (world.good(&unscoped), 403, Some(format!("{scope}{url}"))),
        (undeclared, 403, None),
    ] {
        assert_eq!(world.refused(&headers).0, status);
        assert_eq!(challenge(&world), expected);
    }
    world.host.now.set(NOW + 60_000);
    assert_eq!(world.refused(&world.good(&good)).0, 503);
    assert_eq!(challenge(&world), None, "another mandate would change nothing");

    // A name that could leave the quotes is not repeated; an operator's own URL is.
    let world = World::new(&sidecar_configuration());
    for authority in ["a\"b", "a b", "a\\b", "a/b", ""] {
        world.refused(&[(":method", "GET"), (":path", "/"), (":authority", authority)]);
        assert_eq!(challenge(&world).as_deref(), Some("Bearer"), "{authority}");
    }
    let public = with(sidecar_configuration(), "public_url", json!("https://api.example:8443/mcp"));
    let world = World::new(&public);
    world.refused(&[(":method", "GET"), (":path", "/")]);
    let expected =
        "Bearer resource_metadata=\"https://api.example:8443/.well-known/oauth-protected-resource/mcp\"";
    assert_eq!(challenge(&world).as_deref(), Some(expected));
    let silent = World::new(&with(sidecar_configuration(), "resource_metadata", json!(false)));
    silent.refused(&[(":method", "GET"), (":path", "/"), (":authority", "a")]);
    assert_eq!(challenge(&silent).as_deref(), Some("Bearer"));
}

#[test]
fn rfc_9728_the_metadata_of_the_resource() {
    const PATH: &str = "/.well-known/oauth-protected-resource";
    let ask = |world: &World, method: &str, path: &str| {
        let headers =
            [(":method", method), (":path", path), (":authority", "h:1"), ("x-forwarded-proto", "https")];
        let mut request = world.stream(&headers);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        request.on_end();
        let replied = world.host.replies.borrow().last().cloned().unwrap();
        (replied.status, replied.body)
    };
    let world = World::new(&sidecar_configuration());
    let document = |resource: &str| {
        json!({
            "resource": resource, "authorization_servers": [ISSUER], "bearer_methods_supported": ["header"],
            "scopes_supported": ["orders:read"], "caracal_resource": RESOURCE,
        })
    };
    assert_eq!(ask(&world, "GET", PATH), (200, document("https://h:1")));
    assert_eq!(ask(&world, "HEAD", &format!("{PATH}/mcp?x=1")), (200, document("https://h:1/mcp")));
    for (method, path) in [("POST", PATH), ("GET", "/.well-known/oauth-protected-resourcex"), ("GET", "/x")] {
        assert_eq!(ask(&world, method, path).0, 401, "{method} {path}");
    }
    assert_eq!(world.worker().evidence.borrow().pending(), 3, "only refusals leave evidence");
    assert_eq!(world.host.counter("caracal_gateway_resource_metadata_total"), 2);
    world.host.now.set(NOW + 60_000);
    assert_eq!(ask(&world, "GET", PATH).0, 503, "nothing is told from an old feed");

    let public = World::new(&with(sidecar_configuration(), "public_url", json!("https://api.example/mcp")));
    assert_eq!(ask(&public, "GET", &format!("{PATH}/mcp")), (200, document("https://api.example/mcp")));
    assert_eq!(ask(&public, "GET", PATH).0, 401);
    let gateway = World::new(&gateway_configuration());
    let (status, body) = ask(&gateway, "GET", PATH);
    assert_eq!((status, &body["authorization_servers"]), (200, &json!([ISSUER])));
    assert!(body.get("scopes_supported").is_none(), "no resource is named");
    let off = World::new(&with(sidecar_configuration(), "resource_metadata", json!(false)));
    assert_eq!(ask(&off, "GET", PATH).0, 401);
}

fn last_event(world: &mut World) -> Value {
    world.host.now.set(world.host.now.get() + 1_000);
    let host = std::rc::Rc::clone(&world.host);
    world.root.on_tick(host.as_ref());
    let batch: Value = serde_json::from_str(&host.last_sent().body).unwrap();
    caracal_mandate::delivery::events(&batch).unwrap().pop().unwrap()
}

#[test]
fn a_dry_run_decides_counts_writes_down_and_lets_pass() {
    let mut world = World::new(&with(sidecar_configuration(), "dry_run", json!(true)));
    let good = format!("Bearer {}", world.resource_token());
    assert_eq!(world.stream(&world.good(&good)).on_request_headers(), Flow::Continue);
    let mut headers = world.good("Basic dXNlcjpwdw==");
    headers.push(("x-caracal-identity", "forged"));
    let mut request = world.stream(&headers);
    assert_eq!(request.on_request_headers(), Flow::Continue);
    assert_eq!(request.on_request_body(1_000_000), Flow::Continue);
    assert_eq!(request.on_request_trailers(), Flow::Continue);
    assert_eq!(
        world.host.request_header("authorization"),
        ["Basic dXNlcjpwdw=="],
        "the service's own affair"
    );
    assert!(world.host.request_header("x-caracal-identity").is_empty());
    *world.host.response.borrow_mut() = vec![(":status".into(), b"204".to_vec())];
    assert_eq!(request.on_response_headers(), Flow::Continue);
    assert_eq!(request.on_response_body(3), Flow::Continue);
    request.on_end();
    assert!(world.host.replies.borrow().is_empty());
    assert_eq!(world.host.counter("caracal_gateway_dry_run_denials_total.reason.missing_bearer"), 1);
    assert_eq!(world.host.counter("caracal_gateway_requests_denied_total"), 0);
    let event = last_event(&mut world);
    for (name, value) in [
        ("event_type", "gateway_dry_run"),
        ("decision", "allow"),
        ("evaluation_status", "dry_run"),
        ("reason", "missing_bearer"),
    ] {
        assert_eq!(event[name], value, "{name}");
    }
    assert_eq!(event["metadata"]["gateway_status"], 204);
}

#[test]
fn a_dry_run_counts_what_happens_to_a_request_that_was_allowed_once() {
    let mut world = World::new(&with(sidecar_configuration(), "dry_run", json!(true)));
    let good = format!("Bearer {}", world.resource_token());
    let mut request = world.stream(&world.good(&good));
    request.on_request_headers();
    for _ in 0..3 {
        assert_eq!(request.on_request_body(101), Flow::Continue);
    }
    let mut other = world.stream(&world.good(&good));
    other.on_request_headers();
    world.revoke("T");
    for _ in 0..3 {
        assert_eq!(other.on_response_body(1), Flow::Continue);
    }
    assert_eq!(world.host.resets.get(), 0);
    let counted =
        |reason: &str| world.host.counter(&format!("caracal_gateway_dry_run_denials_total.reason.{reason}"));
    assert_eq!((counted("payload_too_large"), counted("revoked")), (1, 1));

    // In doubt it asks, and passes whatever the answer.
    world.share_delta(&json!({"zone_id": "z1", "authority_epoch": 9, "policy_epoch": 9, "restored": [
        {"kind": "agent_session", "id": "T"}]}));
    for (answer, resumed) in [(Some(json_answer(403, &json!({"error": "access_denied"}))), 1), (None, 2)] {
        let mut request = world.stream(&world.good(&good));
        assert_eq!(request.on_request_headers(), Flow::Pause);
        world.answer(&mut request, answer);
        assert_eq!((world.host.resumed.get(), world.host.replies.borrow().len()), (resumed, 0));
    }
}

#[test]
fn a_dry_run_is_per_resource_and_never_at_a_gateway() {
    let configuration = with(sidecar_configuration(), "binding", json!("metadata"));
    let world = World::new(&configuration);
    let property = "xds/route_metadata/filter_metadata/caracal";
    let set = |name: &str, value: &[u8]| {
        world.host.properties.borrow_mut().insert(format!("{property}/{name}"), value.to_vec());
    };
    set("resource", RESOURCE.as_bytes());
    let bare = [(":method", "GET"), (":path", "/v1/orders")];
    for (flag, passes) in
        [(&b"\x00"[..], false), (b"\x01", true), (b"true", true), (b"yes", false), (b"", false)]
    {
        set("dry_run", flag);
        let flow = world.stream(&bare).on_request_headers();
        assert_eq!(flow == Flow::Continue, passes, "{flag:?}");
    }
    let host: std::rc::Rc<dyn caracal_filter::host::Host> = world.host.clone();
    let gateway = with(gateway_configuration(), "dry_run", json!(false));
    assert!(caracal_filter::root::Root::configure(&host, gateway.to_string().as_bytes()).is_none());
    assert!(world.host.logs.borrow().iter().any(|line| line.contains("`dry_run`")));
}

#[test]
fn reasons_are_labels_and_access_logs_learn_who_acted() {
    let mut world = World::new(&sidecar_configuration());
    let good = format!("Bearer {}", world.resource_token());
    world.stream(&world.good(&good)).on_request_headers();
    let state = |world: &World, key: &str| world.host.filter_state.borrow().get(key).cloned();
    for (key, value) in [("caracal.subject", "a1"), ("caracal.application", "a1"), ("caracal.session", "T")] {
        assert_eq!(state(&world, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(state(&world, "caracal.reason"), None);
    let first = state(&world, "caracal.decision_id").unwrap();
    world.host.filter_state.borrow_mut().clear();
    world.refused(&[(":method", "GET"), (":path", "/")]);
    assert_eq!(state(&world, "caracal.reason").as_deref(), Some("missing_bearer"));
    assert_eq!(state(&world, "caracal.subject"), None, "nobody is known");
    assert_eq!(world.host.counter("caracal_gateway_denials_total.reason.missing_bearer"), 1);
    let second = state(&world, "caracal.decision_id").unwrap();
    assert_ne!(first, second);
    assert_eq!(last_event(&mut world)["metadata"]["decision_id"], second);
}

#[test]
fn where_there_is_no_singleton_a_worker_polls_for_itself() {
    let mut world = World::without_feed(&with(sidecar_configuration(), "feed", json!("worker")));
    let host = std::rc::Rc::clone(&world.host);
    let good = format!("Bearer {}", world.resource_token());
    assert_eq!(world.refused(&world.good(&good)).0, 503, "nothing is known yet");
    world.root.on_tick(host.as_ref());
    let poll = host.last_sent();
    let path = poll.header(":path").to_owned();
    let name = path.strip_prefix("/internal/gateway/feed?gateway=gw-1.").unwrap();
    assert_eq!(name.split('&').next().unwrap().len(), 16, "each worker acknowledges for itself: {path}");
    assert!(path.ends_with("&since=0&wait=10"));
    *host.answer.borrow_mut() = Some(json_answer(200, &world.snapshot(&[])));
    world.root.on_answer(host.as_ref(), poll.token, ANSWERED);
    assert_eq!(world.stream(&world.good(&good)).on_request_headers(), Flow::Continue);
    assert!(host.shared.borrow().is_empty(), "it keeps that to itself");

    let again = host.last_sent();
    assert!(again.header(":path").ends_with("&since=10&wait=10"), "that is the acknowledgement");
    let delta = json!({"previous": 10, "generation": 11, "snapshot": false, "issuer": ISSUER, "time": NOW,
                       "zones": [{"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 0, "revoked": [anchor("T")]}]});
    *host.answer.borrow_mut() = Some(json_answer(200, &delta));
    world.root.on_answer(host.as_ref(), again.token, ANSWERED);
    assert_eq!(world.refused(&world.good(&good)).2, "session revoked");

    // A poll that fails, and then silence: the state grows stale.
    world.root.on_answer(host.as_ref(), host.last_sent().token, FAILED);
    host.now.set(NOW + 30_001);
    assert_eq!(world.refused(&world.good(&good)).2, "revocation state unavailable");
}
