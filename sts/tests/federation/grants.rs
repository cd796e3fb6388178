//! What a good token is exchanged for (contract sts §21, §31.4).

use crate::issuer::{AUDIENCE, ISSUER as IDP, Issuer, Key, USER};
use crate::support::{Form, GatewayCall, ISSUER, ORDERS, SECRET};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn sts_31_4_the_mandate_says_who_the_user_is_and_nothing_more() {
    let issuer = Issuer::new().await;
    let answer = issuer.world.send(Issuer::form(&issuer.token(&[])).request_as("r-1")).await;
    let claims = answer.claims();
    let sid = claims["sid"].as_str().unwrap().to_owned();
    let expected = json!({
        "iss": ISSUER, "sub": USER, "aud": [ISSUER], "exp": claims["iat"].as_i64().unwrap() + 900,
        "iat": claims["iat"], "jti": claims["jti"], "zone_id": "z1", "client_id": "a1", "sid": sid, "root_sid": sid,
        "use": "session", "sub_type": "user", "authority_epoch": claims["authority_epoch"],
    });
    assert_eq!(claims, expected);
    let mut members: Vec<&String> = answer.body.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["access_token", "expires_in", "issued_token_type", "token_type"]);
    assert_eq!(answer.body["expires_in"], 900);
    let record = issuer
        .world
        .number(&format!(
            "SELECT COUNT(*) FROM authority_records WHERE id = '{sid}' AND session_type = 'user' \
             AND subject_id = '{USER}' AND application_id = 'a1' AND parent_id IS NULL AND status = 'active' \
             AND claims_json = '{{\"iss\":\"{IDP}\"}}'"
        ))
        .await;
    assert_eq!(record, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_the_ledger_knows_the_issuer_and_never_the_subject() {
    let issuer = Issuer::new().await;
    let token = issuer.token(&[]);
    let sid = {
        let answer = issuer.world.send(Issuer::form(&token).request_as("r-1")).await;
        answer.claims()["sid"].clone()
    };
    let refused = issuer.token(&[("aud", "other".into())]);
    issuer.world.send(Issuer::form(&refused).request_as("r-2")).await;
    let events = issuer.world.events().await;
    let event = events.iter().find(|event| event["request_id"] == "r-1").unwrap();
    assert_eq!((&event["event_type"], &event["decision"]), (&json!("token_exchange"), &json!("allow")));
    assert_eq!(event["evaluation_status"], "complete");
    assert_eq!(event["determining_policies_json"], json!([{ "policy": "caracal-subject-federation" }]));
    let metadata = json!({
        "application_id": "a1", "application_name": "Orders", "application_registration_method": "managed",
        "federated_user_issuer": IDP, "session_id": sid, "subject_kind": "user",
    });
    assert_eq!(event["metadata_json"], metadata);
    let text = Value::from(events).to_string();
    for secret in [USER, "someone@example.com", token.as_str(), refused.as_str(), SECRET] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_every_allowed_algorithm() {
    for curve in ["P-256", "P-384", "P-521"] {
        let issuer = Issuer::with_key(Key::ec(curve)).await;
        issuer.federate(&issuer.token(&[])).await.granted();
    }
    let issuer = Issuer::with_key(Key::rsa()).await;
    for algorithm in ["RS256", "RS384", "RS512"] {
        let token = issuer.key.token(&json!({ "alg": algorithm, "kid": "k1" }), &issuer.claims());
        issuer.federate(&token).await.granted();
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_what_a_token_may_be_like() {
    let issuer = Issuer::new().await;
    let now = issuer.world.store.now() / 1000;
    let cases: &[&[(&str, Value)]] = &[
        &[("aud", json!(["someone", AUDIENCE]))],
        &[("iat", Value::Null)],
        &[("exp", json!(now - 55))],
        &[("iat", json!(now + 55))],
        &[("exp", json!(now as f64 + 90.5))],
        &[("sub", json!("Ünï|日本 e\u{301}"))],
        &[("sub", json!("u".repeat(512)))],
        &[("groups", json!(vec!["a group of many"; 300]))],
    ];
    for changes in cases {
        let claims = issuer.federate(&issuer.token(changes)).await.claims();
        if let Some((_, sub)) = changes.iter().find(|(name, _)| *name == "sub") {
            assert_eq!(claims["sub"], *sub);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_time_to_live() {
    let issuer = Issuer::new().await;
    let form = Issuer::form(&issuer.token(&[]));
    for (ttl, life) in [("0", 900), ("1", 1), ("3600", 3600)] {
        let answer = issuer.world.exchange(&form.clone().with("ttl_seconds", ttl)).await;
        let claims = answer.claims();
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), life, "{ttl}");
    }
    for ttl in ["-1", "3601"] {
        let answer = issuer.world.exchange(&form.clone().with("ttl_seconds", ttl)).await;
        assert_eq!(answer.error(), (400, "invalid_token"), "{ttl}");
    }
}

/// The mandate opens nothing: not as a session of a mint, not as a subject token, not at a gateway.
#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_the_minted_record_cannot_mint_resources() {
    let issuer = Issuer::new().await;
    let answer = issuer.federate(&issuer.token(&[])).await;
    let (token, sid) = (answer.granted(), answer.claims()["sid"].as_str().unwrap().to_owned());
    let access = "urn:ietf:params:oauth:token-type:access_token";
    let mints = [
        Form::bootstrap().with("session_id", &sid),
        Form::mint().with("session_id", &sid),
        Form::bootstrap().with("subject_token", &token).with("subject_token_type", access),
        Form::mint()
            .with("scope", "orders:read")
            .with("subject_token", &token)
            .with("subject_token_type", access),
    ];
    for form in mints {
        let answer = issuer.world.exchange(&form).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{form:?}: {}", answer.body);
    }
    let answer = issuer.world.send(GatewayCall::new(Form::usage(&token)).request()).await;
    assert_eq!(answer.error(), (401, "invalid_token"));
    let external = Form::usage(&issuer.token(&[]))
        .with("subject_token_type", crate::issuer::ID_TOKEN)
        .with("resource", ORDERS);
    let answer = issuer.world.send(GatewayCall::new(external).request()).await;
    assert_eq!(answer.error(), (401, "invalid_token"), "a gateway does not federate: {}", answer.body);
}
