//! To which trace a request belongs, and who is told (contract gateway §A15.4, §A15.6).

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{World, gateway_configuration, json_answer};
use caracal_filter::request::{Flow, Request};
use serde_json::json;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A request that the STS is asked to exchange a mandate for, with these headers besides.
fn asking(world: &World, more: &[(&str, &str)]) -> Request {
    let authorization = format!("Bearer {}", world.token(|_| {}));
    let mut headers = world.good(&authorization);
    headers.extend_from_slice(more);
    let mut request = world.stream(&headers);
    assert_eq!(request.on_request_headers(), Flow::Pause);
    request
}

#[test]
fn a15_the_exchange_and_the_upstream_get_one_traceparent() {
    let later = format!("{}-more", TRACE.replacen("00-", "01-", 1));
    for (given, kept) in [
        (Some(TRACE), true),
        (Some(later.as_str()), true),
        (Some("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"), false),
        (Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"), false),
        (None, false),
    ] {
        let world = World::new(&gateway_configuration());
        let mut request =
            asking(&world, &given.map(|given| ("traceparent", given)).into_iter().collect::<Vec<_>>());
        let asked = world.host.last_sent().header("traceparent").to_owned();
        assert_eq!(Some(asked.as_str()) == given, kept, "{given:?}: {asked}");
        assert!(caracal_mandate::header::valid_traceparent(asked.as_bytes()), "{asked}");
        let granted =
            world.granted(&json!({"url": "http://upstream.example:9000", "auth_mode": "caracal_jwt"}));
        world.answer(&mut request, Some(granted));
        assert_eq!(world.host.request_header("traceparent"), [asked]);
    }
}

#[test]
fn a_check_tells_of_no_trace() {
    let mut world = World::new(&gateway_configuration());
    let authorization = format!("Bearer {}", world.multi_use_token(|_| {}));
    world.share_delta(&json!({"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 4}));
    let mut headers = world.good(&authorization);
    headers.retain(|(name, _)| *name != "x-caracal-resource");
    headers.extend([("x-caracal-resource", "resource://open"), ("traceparent", TRACE)]);
    let mut request = world.stream(&headers);
    assert_eq!(request.on_request_headers(), Flow::Pause);
    let sent = world.host.last_sent();
    assert_eq!((sent.header(":path"), sent.header("traceparent")), ("/internal/gateway/check", ""));
    world.answer(&mut request, Some(json_answer(200, &json!({"active": true}))));
    assert_eq!(world.host.request_header("traceparent"), [TRACE], "it goes on to the upstream");
}
