//! Contract sts §7: calls that a gateway signs.

use crate::support::{Form, GatewayCall, World};

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_09_contract_7_what_is_signed_and_how() {
    let world = World::new().await;
    let token = world.mandate().await;
    let good = GatewayCall::new(Form::usage(&token));
    let fresh = || GatewayCall::new(Form::usage(&token));
    let cases = [
        ("another key", GatewayCall { key: "7a".repeat(32), ..fresh() }),
        ("too old", GatewayCall { skew: -62, ..fresh() }),
        ("from the future", GatewayCall { skew: 62, ..fresh() }),
        ("another path", GatewayCall { path: "/oauth/2/other".into(), ..fresh() }),
        ("tampered body", GatewayCall { appended: "&agent_session_id=Y".into(), ..fresh() }),
        ("another request id", GatewayCall { named_request_id: "other".into(), ..fresh() }),
        (
            "request id with a space",
            GatewayCall { request_id: "a b".into(), named_request_id: "a b".into(), ..fresh() },
        ),
        ("nonce too long", GatewayCall { nonce: "n".repeat(129), ..fresh() }),
    ];
    for (name, call) in cases {
        let answer = world.send(call.request()).await;
        assert_eq!(answer.error(), (401, "access_denied"), "{name}");
    }
    for header in ["x-caracal-gateway-timestamp", "x-caracal-gateway-request", "x-caracal-gateway-signature"]
    {
        for value in [None, Some(""), Some("zz")] {
            let mut request = fresh().request();
            request.headers_mut().remove(header);
            if let Some(value) = value {
                request.headers_mut().insert(header, value.parse().unwrap());
            }
            assert_eq!(world.send(request).await.error(), (401, "access_denied"), "{header} {value:?}");
        }
    }
    // One header alone already claims to be a gateway, whatever else stands in the form.
    let mut request = Form::bootstrap().request();
    request.headers_mut().insert("x-caracal-gateway-signature", "00".parse().unwrap());
    assert_eq!(world.send(request).await.error(), (401, "access_denied"));
    // None of it used the mandate up, and none of it locks anyone out.
    world.send(good.request()).await.granted();
    assert_eq!(world.number("SELECT COUNT(*) FROM counters WHERE key LIKE 'auth-failures:%'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_09_contract_7_a_nonce_is_spent_by_every_outcome() {
    let world = World::new().await;
    let token = world.mandate().await;
    let refused = GatewayCall::new(Form::usage(&token).with("request_path", "/v1/other"));
    assert_eq!(world.send(refused.request()).await.error(), (403, "operation_not_permitted"));
    let events = world.events().await.len();
    assert_eq!(world.send(refused.request()).await.error(), (401, "access_denied"));
    let same_nonce = GatewayCall { nonce: refused.nonce.clone(), ..GatewayCall::new(Form::usage(&token)) };
    assert_eq!(world.send(same_nonce.request()).await.error(), (401, "access_denied"));
    // Whenever another call says that it was signed, as far as it may.
    for skew in [-59, -30, 30, 59] {
        let same_nonce = GatewayCall { skew, ..GatewayCall::new(Form::usage(&token)) };
        let same_nonce = GatewayCall { nonce: refused.nonce.clone(), ..same_nonce };
        assert_eq!(world.send(same_nonce.request()).await.error(), (401, "access_denied"), "{skew}");
    }
    assert_eq!(world.events().await.len(), events, "a replay writes nothing");
    let granted = GatewayCall::new(Form::usage(&token));
    world.send(granted.request()).await.granted();
    let world = world.restarted().await;
    let answer = world.send(granted.request()).await;
    assert_eq!(answer.error(), (401, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_09_contract_7_what_gateway_authentication_changes() {
    let world = World::new().await;
    let token = world.mandate().await;
    let usage = Form::usage(&token);
    let cases = [
        (
            "no subject token",
            usage.clone().without("subject_token").without("subject_token_type"),
            (401, "access_denied"),
        ),
        (
            "an application that is not known",
            usage.clone().with("application_id", "nobody"),
            (401, "access_denied"),
        ),
        ("another zone", usage.clone().with("zone_id", "z2"), (401, "access_denied")),
        ("no zone", usage.clone().without("zone_id"), (401, "access_denied")),
        ("a malformed zone", usage.clone().with("zone_id", "a b"), (401, "access_denied")),
        ("another application", usage.clone().with("application_id", "a2"), (403, "access_denied")),
    ];
    for (name, form, expected) in cases {
        let answer = world.send(GatewayCall::new(form).request()).await;
        assert_eq!(answer.error(), expected, "{name}: {}", answer.body);
    }
    // Method and path mean nothing where no gateway signed them.
    let form = Form::mint().with("request_method", "DELETE").with("request_path", "/x");
    let answer = world.exchange(&form).await;
    answer.granted();
    assert!(answer.body.get("upstreams").is_none());
}
