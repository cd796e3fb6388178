//! The gateway role against a host in memory: contract gateway §A5, §A10, §A13, §A15, §A16.

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{
    ANSWERED, FAILED, NOW, RESOURCE, World, gateway_configuration, gateway_key, json_answer,
};
use caracal_filter::host::{Answer, CallToken, Host as _};
use caracal_filter::request::Flow;
use serde_json::{Value, json};

fn world() -> World {
    World::new(&gateway_configuration())
}

fn plain() -> Value {
    json!({"url": "http://upstream.example:9000/base", "auth_mode": "caracal_jwt"})
}

#[test]
fn a5_row_1_precedes_everything() {
    let without = World::without_feed(&gateway_configuration());
    let stale = world();
    stale.host.now.set(NOW + 30_001);
    let backwards = world();
    backwards.host.now.set(NOW - 1);
    for world in [without, stale, backwards] {
        let answer = world.refused(&[(":method", "GET"), (":path", "/")]);
        assert_eq!(answer, (503, "sts_unavailable".into(), "revocation state unavailable".into()));
    }
    let edge = world();
    edge.host.now.set(NOW + 30_000);
    assert_eq!(edge.refused(&[(":method", "GET"), (":path", "/")]).0, 401);
}

#[test]
fn a5_rows_2_to_13() {
    let mut world = world();
    let bearer = |token: String| format!("Bearer {token}");
    let good = bearer(world.token(|_| {}));
    let long = format!("Bearer {}", "a".repeat(4097));
    let padded = "Bearer e30=.e30=.e30=".to_owned();
    let expiring = bearer(world.token(|claims| claims["exp"] = json!(NOW / 1000 + 34)));
    let zoneless = bearer(world.token(|claims| claims["zone_id"] = json!("../z")));
    let clientless = bearer(world.token(|claims| claims["client_id"] = json!(7)));
    let elsewhere = bearer(world.token(|claims| claims["zone_id"] = json!("z9")));
    let session_use = bearer(world.token(|claims| claims["use"] = json!("session")));
    let resource_use = bearer(world.token(|claims| claims["use"] = json!("resource")));
    let issuer = bearer(world.token(|claims| claims["iss"] = json!("http://evil")));
    let revoked = bearer(world.token(|claims| claims["agent_session_id"] = json!("R")));
    let mut forged = good.clone();
    forged.truncate(forged.len() - 4);
    forged.push_str("AAAA");
    world.revoke("R");

    type Change<'a> = (&'a str, Option<&'a str>);
    let cases: Vec<(&str, Vec<Change<'_>>, u16, &str, &str)> = vec![
        ("row 2", vec![("authorization", None)], 401, "invalid_token", "missing bearer token"),
        ("row 2", vec![("authorization", Some("Token x"))], 401, "invalid_token", "missing bearer token"),
        ("row 3", vec![("authorization", Some(&long))], 401, "invalid_token", "bearer token too large"),
        (
            "row 4",
            vec![("authorization", Some("Bearer a.b"))],
            401,
            "invalid_token",
            "malformed bearer token",
        ),
        ("row 4", vec![("authorization", Some(&padded))], 401, "invalid_token", "malformed bearer token"),
        (
            "row 5",
            vec![("authorization", Some(&expiring))],
            401,
            "credential_expired_not_renewable",
            "credential expiring within pre-flight window",
        ),
        (
            "row 6",
            vec![("x-caracal-client-id", Some("a1"))],
            400,
            "invalid_token",
            "client identity derives from the bearer token",
        ),
        ("row 7", vec![("x-caracal-resource", None)], 400, "invalid_token", "missing routing headers"),
        ("row 7", vec![("x-caracal-resource", Some("  "))], 400, "invalid_token", "missing routing headers"),
        ("row 8", vec![("authorization", Some(&zoneless))], 401, "invalid_token", "missing token zone"),
        ("row 9", vec![("authorization", Some(&clientless))], 401, "invalid_token", "missing token client"),
        (
            "row 10",
            vec![(":path", Some("/v1/%2e%2e/x"))],
            400,
            "invalid_token",
            "path traversal not permitted",
        ),
        ("row 11", vec![("authorization", Some(&forged))], 401, "invalid_token", "bearer signature invalid"),
        (
            "row 11",
            vec![("authorization", Some(&elsewhere))],
            401,
            "invalid_token",
            "bearer signature invalid",
        ),
        ("row 13", vec![("authorization", Some(&revoked))], 401, "invalid_token", "session revoked"),
        (
            "D5.6",
            vec![("authorization+", Some("x"))],
            401,
            "invalid_token",
            "more than one authorization header",
        ),
        (
            "D5.6",
            vec![("x-caracal-resource+", Some("x"))],
            400,
            "invalid_token",
            "more than one resource header",
        ),
        (
            "use",
            vec![("authorization", Some(&session_use))],
            401,
            "invalid_token",
            "mandate class not accepted here",
        ),
        (
            "use",
            vec![("authorization", Some(&resource_use))],
            401,
            "invalid_token",
            "mandate class not accepted here",
        ),
        ("iss", vec![("authorization", Some(&issuer))], 401, "invalid_token", "issuer not accepted"),
        (
            "A12",
            vec![(":path", Some("/v1/orders/"))],
            403,
            "operation_not_permitted",
            "operation not permitted",
        ),
        (
            "resource",
            vec![("x-caracal-resource", Some("resource://x"))],
            403,
            "access_denied",
            "mandate not granted for this resource",
        ),
    ];
    for (row, changes, status, error, description) in cases {
        let mut headers = world.good(&good);
        for (name, value) in changes {
            if let Some(repeated) = name.strip_suffix('+') {
                headers.push((repeated, value.unwrap()));
                continue;
            }
            headers.retain(|(header, _)| *header != name);
            headers.extend(value.map(|value| (name, value)));
        }
        let (got_status, got_error, got_description) = world.refused(&headers);
        assert_eq!((got_status, got_error.as_str()), (status, error), "{row}: {got_description}");
        assert_eq!(got_description, description, "{row}");
    }
}

#[test]
fn request_ids_are_kept_or_replaced() {
    let world = world();
    for (sent, kept) in [("req-7", true), ("has space", false), ("", false)] {
        world.refused(&[(":method", "GET"), (":path", "/"), ("x-request-id", sent)]);
        let replied =
            world.host.replies.borrow().last().unwrap().body["requestId"].as_str().unwrap().to_owned();
        assert_eq!(replied == sent, kept);
        assert!(kept || replied.len() == 36);
    }
}

#[test]
fn a10_the_exchange_is_signed_and_complete() {
    let world = world();
    let token = world.token(|_| {});
    let authorization = format!("bearer {token} ");
    let mut request = world.stream(&world.good(&authorization));
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(request.on_request_body(10), Flow::Pause, "nothing passes while the STS is asked");
    let sent = world.host.last_sent();
    assert_eq!((sent.cluster.as_str(), sent.header(":path")), ("sts", "/oauth/2/token"));
    assert_eq!(sent.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(sent.header("x-request-id"), "req-1");
    let form = sent.form();
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", "z1"),
        ("application_id", "a1"),
        ("subject_token", token.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("resource", RESOURCE),
        ("request_method", "GET"),
        ("request_path", "/v1/orders"),
        ("gateway_request_id", "req-1"),
        ("gateway_burn_jti", "1"),
    ] {
        assert_eq!(form.get(name).map(String::as_str), Some(value), "{name}");
    }
    let signed = caracal_mandate::gateway_signature::Signed {
        timestamp: sent.header("x-caracal-gateway-timestamp"),
        nonce: sent.header("x-caracal-gateway-request"),
        method: "POST",
        path: "/oauth/2/token",
        body: sent.body.as_bytes(),
    };
    assert_eq!(signed.nonce.len(), 64);
    assert!(gateway_key().verify(&signed, sent.header("x-caracal-gateway-signature")));
}

#[test]
fn a15_and_a16_a_granted_request_goes_upstream_clean() {
    let world = world();
    world.host.properties.borrow_mut().insert("source/address".into(), b"10.1.2.3:5555".to_vec());
    let authorization = format!("Bearer {}", world.token(|_| {}));
    let mut headers = world.good(&authorization);
    headers.extend([
        ("baggage", "caracal.hop=1,tenant=a"),
        ("baggage", "caracal.session=s"),
        ("cookie", "a=b"),
        ("forwarded", "for=6.6.6.6"),
        ("proxy-authorization", "Basic x"),
        ("x-caracal-identity", "forged"),
        ("x-caracal-upstream", "sts"),
        ("x-envoy-retry-on", "5xx"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("te", "trailers"),
    ]);
    let mut request = world.stream(&headers);
    request.on_request_headers();
    *world.host.answer.borrow_mut() = Some(world.granted(&plain()));
    let token = world.host.last_sent().token;
    request.on_answer(token, ANSWERED);
    assert_eq!(world.host.resumed.get(), 1);

    let header = |name: &str| world.host.request_header(name);
    assert_eq!(header(":path"), ["/base/v1/orders?page=1"]);
    assert_eq!(header(":authority"), ["upstream.example:9000"]);
    assert_eq!(header("x-caracal-upstream"), ["dfp_plain"]);
    assert_eq!(header("authorization"), ["Bearer derived"]);
    assert_eq!(header("baggage"), ["tenant=a"]);
    assert_eq!(header("cookie"), ["a=b"]);
    assert_eq!(header("x-forwarded-for"), ["10.1.2.3"]);
    assert_eq!(header("x-forwarded-host"), ["gateway.example"]);
    assert_eq!(header("x-request-id"), ["req-1"]);
    assert_eq!(header("traceparent").len(), 1);
    for gone in [
        "forwarded",
        "proxy-authorization",
        "x-caracal-identity",
        "x-caracal-resource",
        "x-envoy-retry-on",
        "x-real-ip",
        "te",
    ] {
        assert!(header(gone).is_empty(), "{gone}");
    }

    // A second answer, or one to another call, finds nothing to act on.
    request.on_answer(token, ANSWERED);
    request.on_answer(CallToken(99), FAILED);
    assert_eq!((world.host.resumed.get(), world.host.replies.borrow().len()), (1, 0));
    assert_eq!(request.on_request_body(100), Flow::Continue);

    let response = [
        (":status", "302"),
        ("connection", "keep-alive, x-secret"),
        ("x-secret", "s"),
        ("location", "http://internal/"),
        ("content-location", "/fine"),
        ("server", "x"),
        ("x-caracal-identity", "x"),
        ("set-cookie", "a=1"),
    ];
    *world.host.response.borrow_mut() =
        response.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    assert_eq!(request.on_response_headers(), Flow::Continue);
    let names = world.host.response_names();
    assert_eq!(
        names,
        [":status", "content-location", "set-cookie", "x-caracal-token-expires-in", "x-request-id"]
    );
    assert_eq!(request.on_response_body(5), Flow::Continue);
    request.on_end();
    assert_eq!(world.host.counter("caracal_gateway_requests_allowed_total"), 1);
}

#[test]
fn a5_rows_15_to_19_never_forward() {
    let ok = |directive: Value| {
        Some(json_answer(200, &json!({"access_token": "t", "upstreams": {RESOURCE: directive}})))
    };
    let mode = |mode: &str| json!({"url": "http://h", "auth_mode": mode});
    let cases: Vec<(&str, Option<Answer>, u16, &str, &str)> = vec![
        ("transport", None, 502, "sts_unavailable", "sts unavailable"),
        (
            "denied",
            Some(json_answer(
                403,
                &json!({"error": "access_denied", "error_description": "no", "approval_id": "x"}),
            )),
            403,
            "access_denied",
            "no",
        ),
        (
            "replay",
            Some(json_answer(
                401,
                &json!({"error": "invalid_token", "error_description": "token replay detected"}),
            )),
            401,
            "invalid_token",
            "token replay detected",
        ),
        (
            "no upstream",
            Some(json_answer(200, &json!({"access_token": "t"}))),
            403,
            "access_denied",
            "resource upstream not configured",
        ),
        (
            "row 16",
            ok(json!({"url": "http://169.254.169.254/", "auth_mode": "none"})),
            502,
            "internal_error",
            "upstream not addressable",
        ),
        (
            "row 16",
            ok(json!({"url": "file:///x", "auth_mode": "none"})),
            502,
            "internal_error",
            "upstream not addressable",
        ),
        (
            "row 17",
            ok(json!({"url": "http://h", "auth_mode": "none", "allowed_token_hosts": ["other"]})),
            502,
            "internal_error",
            "provider credential not allowed for upstream host",
        ),
        ("row 18", ok(mode("surprise")), 400, "internal_error", "upstream request build failed"),
        ("row 18", ok(mode("provider_oauth")), 400, "internal_error", "upstream request build failed"),
        (
            "row 18",
            ok(json!({"url": "http://h", "auth_mode": "caracal_jwt", "auth_header": "Host"})),
            400,
            "internal_error",
            "upstream request build failed",
        ),
        (
            "row 18",
            ok(json!({"url": "http://h", "auth_mode": "provider_apikey", "provider_token": "a\r\nb: c"})),
            400,
            "internal_error",
            "upstream request build failed",
        ),
    ];
    for (row, answer, status, error, description) in cases {
        let world = world();
        let authorization = format!("Bearer {}", world.token(|_| {}));
        let mut request = world.stream(&world.good(&authorization));
        assert_eq!(request.on_request_headers(), Flow::Pause);
        let size = if answer.is_some() { ANSWERED } else { FAILED };
        *world.host.answer.borrow_mut() = answer;
        request.on_answer(world.host.last_sent().token, size);
        assert_eq!(world.host.resumed.get(), 0, "{row}");
        let got = world.last_refusal();
        assert_eq!((got.0, got.1.as_str(), got.2.as_str()), (status, error, description), "{row}");
        assert_eq!(request.on_request_body(1), Flow::Pause, "{row}");
        assert_eq!(request.on_request_trailers(), Flow::Pause, "{row}");
        assert!(world.host.request_header("x-caracal-upstream").is_empty(), "{row}");
    }
}

#[test]
fn bodies_over_the_limit_are_413() {
    let world = world();
    let authorization = format!("Bearer {}", world.token(|_| {}));
    let mut headers = world.good(&authorization);
    headers.push(("content-length", "101"));
    let mut request = world.stream(&headers);
    request.on_request_headers();
    *world.host.answer.borrow_mut() = Some(world.granted(&plain()));
    request.on_answer(world.host.last_sent().token, ANSWERED);
    assert_eq!(world.last_refusal().0, 413);
    assert_eq!(world.host.resumed.get(), 0);

    let mut request = world.stream(&world.good(&authorization));
    request.on_request_headers();
    request.on_answer(world.host.last_sent().token, ANSWERED);
    assert_eq!(request.on_request_body(60), Flow::Continue);
    assert_eq!(request.on_request_body(41), Flow::Pause);
    assert_eq!(world.last_refusal(), (413, "payload_too_large".into(), "request body too large".into()));
}

#[test]
fn a10_the_circuit_opens_after_three_failures_and_asks_again_later() {
    let mut world = world();
    let authorization = format!("Bearer {}", world.token(|_| {}));
    for _ in 0..3 {
        let mut request = world.stream(&world.good(&authorization));
        request.on_request_headers();
        request.on_answer(world.host.last_sent().token, FAILED);
    }
    let answer = world.refused(&world.good(&authorization));
    assert_eq!(answer, (503, "sts_unavailable".into(), "sts unavailable".into()));
    world.host.now.set(NOW + 10_000);
    world.share_snapshot(&[]);
    let mut request = world.stream(&world.good(&authorization));
    request.on_request_headers();
    assert_eq!(world.host.sent.borrow().len(), 4);
    *world.host.answer.borrow_mut() = Some(world.granted(&plain()));
    request.on_answer(world.host.last_sent().token, ANSWERED);
    assert_eq!(world.host.resumed.get(), 1);
}

#[test]
fn d1_a_call_that_cannot_start_is_502() {
    let world = world();
    world.host.no_clusters.set(true);
    let authorization = format!("Bearer {}", world.token(|_| {}));
    assert_eq!(world.refused(&world.good(&authorization)).0, 502);
}

#[test]
fn a_mandate_revoked_while_the_sts_is_asked_is_refused() {
    let mut world = world();
    let authorization = format!("Bearer {}", world.token(|_| {}));
    let mut request = world.stream(&world.good(&authorization));
    request.on_request_headers();
    world.revoke("T");
    *world.host.answer.borrow_mut() = Some(world.granted(&plain()));
    request.on_answer(world.host.last_sent().token, ANSWERED);
    assert_eq!(world.last_refusal(), (401, "invalid_token".into(), "session revoked".into()));
    assert_eq!(world.host.resumed.get(), 0);
}

#[test]
fn only_multi_use_mandates_for_multi_use_resources_are_not_spent() {
    for (resource, multi_use, burnt) in
        [(RESOURCE, true, true), ("resource://multi", false, true), ("resource://multi", true, false)]
    {
        let world = world();
        let authorization =
            format!("Bearer {}", world.token(|claims| claims["multi_use"] = json!(multi_use)));
        let mut headers = world.good(&authorization);
        headers.retain(|(name, _)| *name != "x-caracal-resource");
        headers.push(("x-caracal-resource", resource));
        let mut request = world.stream(&headers);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        assert_eq!(
            world.host.last_sent().form().contains_key("gateway_burn_jti"),
            burnt,
            "{resource} {multi_use}"
        );
    }
}

#[test]
fn no_secret_is_logged() {
    let world = world();
    let token = world.token(|_| {});
    let authorization = format!("Bearer {token}");
    for _ in 0..3 {
        let mut request = world.stream(&world.good(&authorization));
        request.on_request_headers();
        request.on_answer(world.host.last_sent().token, FAILED);
    }
    for line in world.host.logs.borrow().iter() {
        assert!(!line.contains(&token) && !line.contains(&"ab".repeat(32)), "{line}");
    }
    assert!(world.host.shared("status").is_some());
}
