//! Taking `jwt_authn`'s word for a signature: only what it verified, for this request, and this very token.

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{RESOURCE, World, sidecar_configuration};
use caracal_filter::request::Flow;
use caracal_mandate::jws::CompactJws;
use serde_json::{Value, json};

const PROPERTY: &str = "metadata/filter_metadata/envoy.filters.http.jwt_authn/caracal";

fn world() -> World {
    let mut configuration = sidecar_configuration();
    configuration["jwt_authn_payload"] = json!("caracal");
    World::new(&configuration)
}

/// As Envoy writes the payload of a token that `jwt_authn` verified.
fn written(value: &Value) -> Vec<u8> {
    let pairs = |pairs: Vec<(Vec<u8>, Vec<u8>)>| {
        let length = |bytes: &Vec<u8>| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let lengths = pairs.iter().flat_map(|(name, value)| [length(name), length(value)].concat());
        let mut all: Vec<u8> =
            u32::try_from(pairs.len()).unwrap().to_le_bytes().into_iter().chain(lengths).collect();
        for (name, value) in &pairs {
            all.extend([name, &b"\0"[..], value, b"\0"].concat());
        }
        all
    };
    match value {
        Value::Null => Vec::new(),
        Value::Bool(flag) => vec![u8::from(*flag)],
        Value::Number(number) => number.as_f64().unwrap().to_le_bytes().to_vec(),
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Array(items) => pairs(items.iter().map(|item| (written(item), Vec::new())).collect()),
        Value::Object(members) => {
            pairs(members.iter().map(|(name, value)| (name.as_bytes().to_vec(), written(value))).collect())
        }
    }
}

/// `jwt_authn` ran, and verified this token; or did not.
fn verified(world: &World, token: Option<&str>) {
    let mut properties = world.host.properties.borrow_mut();
    properties.clear();
    let Some(token) = token else { return };
    let payload = CompactJws::split(token.as_bytes()).unwrap().payload().unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    properties.insert(PROPERTY.to_owned(), written(&payload));
    properties.insert(format!("{PROPERTY}/jti"), payload["jti"].as_str().unwrap().as_bytes().to_vec());
}

fn ask(world: &World, token: &str) -> (Flow, String) {
    let authorization = format!("Bearer {token}");
    let before = world.host.replies.borrow().len();
    world.host.filter_state.borrow_mut().remove("caracal.reason");
    let flow = world.stream(&world.good(&authorization)).on_request_headers();
    assert_eq!(flow == Flow::Pause, world.host.replies.borrow().len() > before);
    (flow, world.host.filter_state.borrow().get("caracal.reason").cloned().unwrap_or_default())
}

fn with(world: &World, jti: &str, change: impl FnOnce(&mut Value)) -> String {
    world.token(|claims| {
        claims["use"] = json!("resource");
        claims["aud"] = json!([RESOURCE]);
        claims["jti"] = json!(jti);
        change(claims);
    })
}

#[test]
fn what_jwt_authn_verified_is_authorised_without_verifying_it_again() {
    let world = world();
    // The signature is another's: the filter does not look at it.
    let token = world.resource_token();
    let (signed, _) = token.rsplit_once('.').unwrap();
    let unverifiable = format!("{signed}.{}", "A".repeat(86));
    verified(&world, Some(&unverifiable));
    for _ in 0..3 {
        assert_eq!(ask(&world, &unverifiable).0, Flow::Continue);
    }
    // It still authorises.
    let narrow = with(&world, "j2", |claims| claims["scope"] = json!("orders:write"));
    verified(&world, Some(&narrow));
    assert_eq!(ask(&world, &narrow), (Flow::Pause, "scope_missing".into()));
    let foreign = with(&world, "j3", |claims| claims["iss"] = json!("http://other"));
    verified(&world, Some(&foreign));
    assert_eq!(ask(&world, &foreign), (Flow::Pause, "issuer_mismatch".into()));
}

#[test]
fn where_it_did_not_run_for_this_request_nothing_passes() {
    let world = world();
    let token = world.resource_token();
    verified(&world, None);
    assert_eq!(ask(&world, &token), (Flow::Pause, "signature_invalid".into()));
    // A good answer of another request is none for this one.
    verified(&world, Some(&token));
    assert_eq!(ask(&world, &token).0, Flow::Continue);
    verified(&world, None);
    assert_eq!(ask(&world, &token), (Flow::Pause, "jwt_authn_missing".into()));
    let replied = world.last_refusal();
    assert_eq!((replied.0, replied.2.as_str()), (401, "bearer not verified"));
}

#[test]
fn another_token_that_it_verified_proves_nothing_for_this_one() {
    let mut world = world();
    let own = with(&world, "j1", |claims| claims["scope"] = json!("orders:write"));
    let same_id = with(&world, "j1", |_| {});
    let other = with(&world, "j2", |_| {});
    for forged in [&same_id, &other] {
        verified(&world, Some(&own));
        assert_eq!(ask(&world, forged), (Flow::Pause, "signature_invalid".into()));
    }
    // One that was proved before, in a request of another.
    verified(&world, Some(&other));
    assert_eq!(ask(&world, &other).0, Flow::Continue);
    verified(&world, Some(&own));
    assert_eq!(ask(&world, &other), (Flow::Pause, "jwt_authn_missing".into()));
    // Headers of the token are still read.
    let (_, rest) = own.split_once('.').unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{rest}");
    verified(&world, Some(&own));
    assert_eq!(ask(&world, &unsigned), (Flow::Pause, "signature_invalid".into()));
    // A key that is gone verifies nothing, whatever jwt_authn still has in its cache.
    verified(&world, Some(&other));
    world.share_delta(&json!({"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 0, "keys": []}));
    assert_eq!(ask(&world, &other), (Flow::Pause, "signature_invalid".into()));
}
