//! How the keys of an issuer are got and kept (contract sts §21, §27.21).

use crate::https::{Https, before};
use crate::issuer::{ISSUER, Issuer, Key, Mode};
use serde_json::{Value, json};

fn rejected(reason: &str) -> (u16, String, String) {
    (401, "invalid_token".to_owned(), format!("subject_federation_rejected/{reason}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_key_sets_that_cannot_be_used() {
    let key = Key::ec("P-256").to_jwk("k1");
    let with = |name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        json!({ "keys": [key] }).to_string().into_bytes()
    };
    let symmetric = json!({ "keys": [{ "kty": "oct", "kid": "k1", "k": "c2VjcmV0", "alg": "HS256" }] });
    let cases: Vec<(&str, Mode, &str)> = vec![
        ("symmetric only", Mode::Body(symmetric.to_string().into_bytes()), "keys_unusable"),
        ("for encryption", Mode::Body(with("use", json!("enc"))), "keys_unusable"),
        ("without an id", Mode::Body(with("kid", json!(""))), "keys_unusable"),
        ("off the curve", Mode::Body(with("x", json!("A".repeat(43)))), "keys_unusable"),
        ("no keys", Mode::Body(b"{\"keys\":[]}".to_vec()), "keys_unusable"),
        ("no JSON", Mode::Body(b"<html>".to_vec()), "keys_unusable"),
        ("out of order", Mode::Status(503), "keys_status"),
        ("not found", Mode::Status(404), "keys_status"),
        ("empty answer", Mode::Status(204), "keys_status"),
        ("redirected", Mode::Redirect, "egress_redirect_refused"),
        ("too large", Mode::Body(vec![b' '; 256 * 1024 + 1]), "egress_response_too_large"),
    ];
    for (name, mode, reason) in cases {
        let issuer = Issuer::new().await;
        issuer.set(mode);
        let token = issuer.token(&[]);
        assert_eq!(issuer.verdict(&token).await, rejected(reason), "{name}");
        // A failure is not remembered.
        issuer.set(Mode::Keys);
        issuer.federate(&token).await.granted();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_an_issuer_that_does_not_answer_in_time() {
    let issuer = Issuer::new().await;
    issuer.set(Mode::Silent);
    assert_eq!(issuer.verdict(&issuer.token(&[])).await, rejected("egress_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_addresses_that_are_not_called() {
    let issuer = Issuer::new().await;
    let stranger = Https::start(axum::Router::new()).await;
    let port = stranger.url("/").trim_start_matches("https://localhost:").trim_end_matches('/').to_owned();
    let cases = [
        (format!("https://127.0.0.1:{port}/keys"), "egress_address_refused"),
        (format!("https://[::1]:{port}/keys"), "egress_address_refused"),
        (format!("https://[::ffff:127.0.0.1]:{port}/keys"), "egress_address_refused"),
        ("https://169.254.169.254/keys".to_owned(), "egress_address_refused"),
        ("https://[64:ff9b::a9fe:a9fe]/keys".to_owned(), "egress_address_refused"),
        ("https://10.0.0.1/keys".to_owned(), "egress_address_refused"),
        ("https://2130706433/keys".to_owned(), "egress_address_refused"),
        ("http://localhost/keys".to_owned(), "egress_url_invalid"),
        ("https://user@localhost/keys".to_owned(), "egress_url_invalid"),
        // Its certificate is from an authority that nobody here trusts.
        (stranger.url("/keys"), "egress_connect_failed"),
        ("https://no-such-host.invalid/keys".to_owned(), "egress_name_not_resolved"),
    ];
    for (number, (url, reason)) in cases.into_iter().enumerate() {
        let id = format!("x{number}");
        let name = format!("https://idp-{number}.example/");
        issuer.trust(&id, &name, "/keys").await;
        issuer.world.sql(&format!("UPDATE subject_issuers SET jwks_url = '{url}' WHERE id = '{id}'")).await;
        let token = issuer.token(&[("iss", json!(name))]);
        assert_eq!(issuer.verdict(&token).await, rejected(reason), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_keys_are_fetched_once_for_many() {
    let issuer = Issuer::new().await;
    issuer.set(Mode::Gated);
    let mut asking: Vec<_> =
        (0..20).map(|_| issuer.world.spawn(Issuer::form(&issuer.token(&[])).request())).collect();
    before(&mut asking[0], issuer.arrived()).await;
    issuer.set(Mode::Keys);
    issuer.open_gate();
    for answer in asking {
        answer.await.unwrap().granted();
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_21_a_rotated_key_works_at_once() {
    let mut issuer = Issuer::new().await;
    issuer.federate(&issuer.token(&[])).await.granted();
    let (old, next) = (issuer.key.to_jwk("k1"), Key::rsa());
    issuer.publish(&[next.to_jwk("k2"), old]);
    let token = next.token(&json!({ "alg": "RS256", "kid": "k2" }), &issuer.claims());
    issuer.federate(&token).await.granted();
    issuer.federate(&issuer.token(&[])).await.granted();
    assert_eq!(issuer.asked(), 2);
    // The old key is gone with the next fetch, and whatever comes in its name afterwards.
    issuer.publish(&[next.to_jwk("k2"), Key::ec("P-384").to_jwk("k3")]);
    issuer.key = Key::ec("P-256");
    let unknown = issuer.key.token(&json!({ "alg": "ES256", "kid": "k4" }), &issuer.claims());
    assert_eq!(issuer.verdict(&unknown).await, rejected("key_unknown"));
    assert_eq!(issuer.verdict(&issuer.token(&[])).await, rejected("key_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_21_unknown_keys_do_not_make_the_issuer_be_asked_without_end() {
    let issuer = Issuer::new().await;
    issuer.federate(&issuer.token(&[])).await.granted();
    for number in 0..50 {
        let header = json!({ "alg": "ES256", "kid": format!("stray-{number}") });
        let token = issuer.key.token(&header, &issuer.claims());
        assert_eq!(issuer.verdict(&token).await, rejected("key_unknown"));
    }
    assert!((2..15).contains(&issuer.asked()), "{}", issuer.asked());
    issuer.federate(&issuer.token(&[])).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_a_changed_url_makes_the_keys_be_fetched_again() {
    let issuer = Issuer::new().await;
    issuer.federate(&issuer.token(&[])).await.granted();
    issuer.publish(&[Key::ec("P-256").to_jwk("k1")]);
    // The keys at hand are still good for ten minutes.
    issuer.federate(&issuer.token(&[])).await.granted();
    assert_eq!(issuer.asked(), 1);
    let url = issuer.server.url("/keys?v=2");
    issuer.world.sql(&format!("UPDATE subject_issuers SET jwks_url = '{url}' WHERE id = 'i1'")).await;
    assert_eq!(issuer.verdict(&issuer.token(&[])).await, rejected("signature_invalid"));
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_an_archived_issuer_is_not_trusted() {
    let issuer = Issuer::new().await;
    issuer.federate(&issuer.token(&[])).await.granted();
    issuer.world.sql("UPDATE subject_issuers SET archived_at = 1 WHERE id = 'i1'").await;
    assert_eq!(issuer.verdict(&issuer.token(&[])).await, rejected("issuer_not_trusted"));
    issuer.trust("i2", ISSUER, "/keys").await;
    issuer.federate(&issuer.token(&[])).await.granted();
}
