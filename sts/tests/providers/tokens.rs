//! How a service's token is fetched, kept and shared.

use super::idp::{Idp, Script};
use super::support::World;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SERVICE: &str = "oauth2_client_credentials";

fn form(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn contract_sts_22_3_how_the_client_proves_itself() {
    let basic = format!("Basic {}", STANDARD.encode("client+1:s%3Aecret"));
    let scoped = json!({
        "scopes": ["a", "b"], "audience": "aud", "resource": "res", "token_params": { "tenant": "t1" },
    });
    let cases = [
        (json!({}), Some(basic.as_str()), form(&[("grant_type", "client_credentials")])),
        (
            scoped,
            Some(basic.as_str()),
            form(&[
                ("grant_type", "client_credentials"),
                ("scope", "a b"),
                ("audience", "aud"),
                ("resource", "res"),
                ("tenant", "t1"),
            ]),
        ),
        (
            json!({ "client_auth_method": "client_secret_post" }),
            None,
            form(&[
                ("grant_type", "client_credentials"),
                ("client_id", "client 1"),
                ("client_secret", "s:ecret"),
            ]),
        ),
        (
            json!({ "client_auth_method": "none" }),
            None,
            form(&[("grant_type", "client_credentials"), ("client_id", "client 1")]),
        ),
    ];
    let idp = Idp::start(Script::token("svc", 3600)).await;
    let world = World::new().await.calling(idp.https.egress());
    for (number, (more, authorization, fields)) in cases.into_iter().enumerate() {
        world.provide(SERVICE, &idp.client(&more), &json!({ "client_secret": "s:ecret" })).await;
        assert_eq!(world.directive().await["provider_token"], "svc");
        let asked = idp.asked();
        assert_eq!(asked.len(), number + 1, "each configuration fetches its own token");
        let last = asked.last().unwrap();
        assert_eq!((last.authorization.as_deref(), &last.form), (authorization, &fields), "{more}");
    }
}

/// The claims of an assertion that this key signed.
fn verified(assertion: &str, key: &rcgen::KeyPair) -> (Value, Value) {
    let (input, signature) = assertion.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.der_bytes());
    public.verify(input.as_bytes(), &signature).unwrap();
    let part = |text: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    (part(header), part(claims))
}

#[tokio::test]
async fn contract_sts_22_3_assertions_of_the_client_and_for_a_subject() {
    let key = rcgen::KeyPair::generate().unwrap();
    let secrets = json!({ "private_key": key.serialize_pem() });
    let idp = Idp::start(Script::token("svc", 3600)).await;
    let endpoint = idp.https.url("/token");
    let world = World::new().await.calling(idp.https.egress());
    let own = json!({ "client_auth_method": "private_key_jwt", "key_id": "k1" });
    let subject = json!({
        "grant_type": "jwt_bearer", "assertion_subject": "svc@example.com", "assertion_audience": "https://aud",
        "scopes": ["x", "y"],
    });
    let plain = json!({ "grant_type": "jwt_bearer" });
    // Configuration, the field of the assertion, `sub`, `aud`, life, `scope`.
    let cases = [
        (own, "client_assertion", "client 1", endpoint.as_str(), 60, None),
        (subject, "assertion", "svc@example.com", "https://aud", 300, Some("x y")),
        (plain, "assertion", "client 1", endpoint.as_str(), 300, None),
    ];
    let mut seen = Vec::new();
    for (more, field, sub, aud, life, scope) in cases {
        world.provide(SERVICE, &idp.client(&more), &secrets).await;
        world.directive().await;
        let asked = idp.asked().pop().unwrap();
        let (header, claims) = verified(&asked.form[field], &key);
        assert_eq!(header["alg"], "ES256");
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("client 1"), &json!(sub)));
        assert_eq!((&claims["aud"], claims.get("scope")), (&json!(aud), scope.map(Value::from).as_ref()));
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), life);
        assert_eq!(asked.form["client_id"], "client 1");
        assert_eq!(asked.authorization, None);
        seen.push(claims["jti"].clone());
        let grant = if field == "assertion" {
            "urn:ietf:params:oauth:grant-type:jwt-bearer"
        } else {
            assert_eq!(header["kid"], "k1");
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            assert_eq!(asked.form["client_assertion_type"], kind);
            "client_credentials"
        };
        assert_eq!(asked.form["grant_type"], grant);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "no jti twice");
}

#[tokio::test]
async fn contract_sts_22_3_fifty_exchanges_at_once_make_one_request() {
    let idp = Idp::start(Script::token("svc", 3600)).await;
    let world = World::new().await.calling(idp.https.egress());
    world.provide(SERVICE, &idp.client(&json!({})), &json!({ "client_secret": "s" })).await;
    let mut mandates = Vec::new();
    for _ in 0..50 {
        mandates.push(world.mandate().await);
    }
    idp.holds_answers();
    let calls: Vec<_> = mandates
        .iter()
        .map(|mandate| {
            let usage = super::support::Form::usage(mandate);
            world.spawn(super::support::GatewayCall::new(usage).request())
        })
        .collect();
    idp.was_asked(1).await;
    idp.answers_again();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(
            answer.body["upstreams"][super::support::ORDERS]["provider_token"],
            "svc",
            "{}",
            answer.body
        );
    }
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test]
async fn contract_sts_22_3_how_long_a_token_is_kept() {
    let idp = Idp::start(Script::token("short", 29)).await;
    let world = World::new().await.calling(idp.https.egress());
    let config = idp.client(&json!({}));
    world.provide(SERVICE, &config, &json!({ "client_secret": "s" })).await;
    for asked in 1..=3 {
        assert_eq!(world.directive().await["provider_token"], "short");
        assert_eq!(idp.asked().len(), asked, "what is about to end is not kept");
    }
    idp.says(Script::token("long", 3600));
    for _ in 0..3 {
        assert_eq!(world.directive().await["provider_token"], "long");
    }
    assert_eq!(idp.asked().len(), 4, "what lasts is kept");
    world.provide(SERVICE, &config, &json!({ "client_secret": "other" })).await;
    world.directive().await;
    assert_eq!(idp.asked().len(), 5, "another secret is another token");
    let other = idp.client(&json!({ "scopes": ["more"] }));
    world.provide(SERVICE, &other, &json!({ "client_secret": "other" })).await;
    world.directive().await;
    assert_eq!(idp.asked().len(), 6, "another configuration as well");
    idp.says(Script::Json(200, json!({ "access_token": "endless", "expires_in": 0 })));
    world.provide(SERVICE, &other, &json!({ "client_secret": "third" })).await;
    let now = world.store.now() / 1000;
    let end = world.directive().await["expires_at"].as_i64().unwrap();
    assert!((now + 3500..now + 3700).contains(&end), "no usable life is the longest: {end}");
}
