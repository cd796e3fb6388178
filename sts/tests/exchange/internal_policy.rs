//! Contract sts §14.6: simulation and status, signed.

use crate::support::{Form, GATEWAY_KEY, World};
use axum::body::Body;
use axum::http::Request;
use caracal_mandate::gateway_signature::{GatewayKey, Signed};
use serde_json::{Value, json};

pub(crate) fn signed(method: &str, path: &str, body: &str, world: &World) -> Request<Body> {
    let timestamp = (world.store.now() / 1000).to_string();
    let nonce = caracal_store::ids::new_id();
    let parts = Signed { timestamp: &timestamp, nonce: &nonce, method, path, body: body.as_bytes() };
    Request::builder()
        .method(method)
        .uri(path)
        .header("x-caracal-gateway-timestamp", &timestamp)
        .header("x-caracal-gateway-request", &nonce)
        .header("x-caracal-gateway-signature", GatewayKey::from_hex(GATEWAY_KEY).unwrap().sign(&parts))
        .body(Body::from(body.to_owned()))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_14_6_simulate() {
    let world = World::new().await;
    let path = "/internal/policy/simulate";
    let body = |content: &str| {
        json!({ "policy_set_id": "s", "version_id": "v", "manifest_sha256": "m", "input": {},
            "policies": [{ "id": "p", "content": content }] })
        .to_string()
    };
    let good = body("package caracal.authz\nrestrict := [\"all\"]\n");
    let answer = world.send(signed("POST", path, &good, &world)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        (&answer.body["version_id"], &answer.body["result"]["decision"]),
        (&json!("v"), &json!("deny"))
    );
    assert_eq!(answer.body["result"]["diagnostics"][0]["reason"], "restriction_active");
    for (body, status) in [
        (body("package caracal.authz\nresult := 1\n"), 422),
        (json!({ "policies": [] }).to_string(), 400),
        ("{".to_owned(), 400),
    ] {
        assert_eq!(world.send(signed("POST", path, &body, &world)).await.status, status, "{body}");
    }
    let unsigned = Request::post(path).body(Body::from(good)).unwrap();
    assert_eq!(world.send(unsigned).await.error(), (401, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_14_6_status_tells_what_is_loaded_and_loads_nothing() {
    let world = World::new().await;
    let path = "/internal/policy/status/z1";
    let before = world.send(signed("GET", path, "", &world)).await;
    assert_eq!(before.body, json!({ "zone_id": "z1", "loaded": false }));
    world.exchange(&Form::bootstrap()).await.granted();
    let after = world.send(signed("GET", path, "", &world)).await;
    assert_eq!(
        (&after.body["loaded"], &after.body["policy_set_version_id"]),
        (&Value::Bool(true), &json!("sv1"))
    );
    assert!(after.body["loaded_at"].is_string() && after.body["age_seconds"].is_i64());
    let unsigned = Request::get(path).body(Body::empty()).unwrap();
    assert_eq!(world.send(unsigned).await.error(), (401, "access_denied"));
}
