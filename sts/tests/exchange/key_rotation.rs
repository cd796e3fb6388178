//! Rotating a zone's signing key and the key that seals it (contract sts §20).

use crate::support::{ADMIN_TOKEN, Answer, Form, HASH_KEY, VAULT_KEY, World, header_of, zone};
use axum::body::Body;
use axum::http::Request;
use caracal_store::secrets::Vault;
use serde_json::json;

const OTHER_VAULT_KEY: &str = "0f9e8d7c6b5a49382716a5b4c3d2e1f00112a3b4c5d6e7f8091a2b3c4d5e6f70";

impl World {
    async fn rotate(&self, zone: &str, token: &str) -> Answer {
        let request = Request::post(format!("/internal/zones/{zone}/signing-key/rotate"));
        let request = request.header("authorization", format!("Bearer {token}"));
        self.send(request.header("x-request-id", "rotation-1").body(Body::empty()).unwrap()).await
    }

    async fn key_ids(&self) -> (u16, Vec<String>) {
        let path = "/.well-known/jwks.json?zone_id=z1";
        let answer = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        let keys = answer.body["keys"].as_array().cloned().unwrap_or_default();
        (answer.status, keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect())
    }
}

fn kid(token: &str) -> String {
    header_of(token)["kid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_rotation_is_an_operators() {
    let world = World::new().await;
    world.mandate().await;
    let before = world.key_ids().await;
    let cases = [
        ("z1", "", 401, ""),
        ("z1", "sat_wrong", 401, ""),
        ("", "sat_wrong", 401, ""),
        ("", ADMIN_TOKEN, 400, "zone_invalid"),
        ("no%20zone", ADMIN_TOKEN, 400, "zone_invalid"),
        ("z9", ADMIN_TOKEN, 400, "zone_invalid"),
    ];
    for (zone, token, status, code) in cases {
        let answer = world.rotate(zone, token).await;
        assert_eq!(answer.error(), (status, code), "{zone:?} {token:?}");
        let challenge = if status == 401 { "Bearer realm=\"caracal-sts\"" } else { "" };
        assert_eq!(answer.header("www-authenticate"), challenge);
    }
    assert_eq!(world.key_ids().await, before);
    let answer = world.rotate("z1", ADMIN_TOKEN).await;
    let (_, ids) = world.key_ids().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({ "rotated": true, "zone_id": "z1", "kid": ids[0] }));
    assert_eq!(ids[1..], before.1[..], "the key before verifies for a day");
    assert_eq!(world.verdicts("rotation-1").await, ["signing_key_rotated allow/complete"]);
    assert!(!world.everything_stored().await.contains(ADMIN_TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_without_an_admin_token_there_is_no_rotation() {
    let world = World::new().await.without_admin_token();
    assert_eq!(world.rotate("z1", ADMIN_TOKEN).await.status, 404);
    assert_eq!(world.rotate("z1", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_06_contract_20_every_process_signs_with_the_new_key_at_once() {
    let world = World::new().await;
    let other = world.opened_again().await;
    let (first, seen) = (world.mandate().await, other.mandate().await);
    assert_eq!(kid(&first), kid(&seen), "both keep the key in memory");
    let rotated = world.rotate("z1", ADMIN_TOKEN).await;
    let new = rotated.body["kid"].as_str().unwrap();
    for process in [&world, &other] {
        assert_eq!(kid(&process.mandate().await), new);
        assert_eq!(process.key_ids().await.1[0], new);
    }
    other.present(&first).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_no_process_believes_a_key_that_was_rotated_twice() {
    let world = World::new().await;
    let other = world.opened_again().await;
    let (first, second) = (other.mandate().await, other.mandate().await);
    let session = other.exchange(&Form::bootstrap()).await.granted();
    other.present(&first).await.granted();
    world.rotate("z1", ADMIN_TOKEN).await;
    world.rotate("z1", ADMIN_TOKEN).await;
    assert_eq!(other.present(&second).await.error(), (401, "invalid_token"));
    let usage = caracal_mandate::claims::MandateUse::Session;
    let verified = other.keys.verify(&zone(), &session, crate::support::ISSUER, usage).await;
    assert!(verified.is_err(), "nor do the other services");
    assert_eq!(other.key_ids().await.1.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_sealed_keys_move_to_another_key_encryption_key() {
    let world = World::new().await;
    let first = world.mandate().await;
    let moving = Vault::new(OTHER_VAULT_KEY, Some(VAULT_KEY), HASH_KEY).unwrap();
    let moved = world.opened_with(moving).await;
    assert_eq!(kid(&moved.mandate().await), kid(&first), "what the previous key sealed is still read");
    assert_eq!(moved.keys.reseal().await.unwrap(), 1);
    assert_eq!(moved.keys.reseal().await.unwrap(), 0, "once is enough");
    let alone = world.opened_with(Vault::new(OTHER_VAULT_KEY, None, HASH_KEY).unwrap()).await;
    assert_eq!(kid(&alone.mandate().await), kid(&first));
    alone.present(&first).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_20_contract_26_4_a_key_that_cannot_be_opened_grants_nothing() {
    let world = World::new().await;
    let held = world.mandate().await;
    let blind = world.opened_with(Vault::new(OTHER_VAULT_KEY, None, HASH_KEY).unwrap()).await;
    let records = "SELECT COUNT(*) FROM authority_records";
    let before = world.number(records).await;
    assert_eq!(blind.exchange(&Form::mint()).await.error(), (500, "internal_error"));
    assert_eq!(blind.present(&held).await.error(), (401, "invalid_token"));
    assert_eq!(blind.key_ids().await.0, 500);
    assert_eq!(world.number(records).await, before, "what cannot be signed is not granted");
    blind.rotate("z1", ADMIN_TOKEN).await;
    assert_eq!(blind.key_ids().await.1.len(), 1, "a bad key among good ones is left out");
    blind.mandate().await;
}
