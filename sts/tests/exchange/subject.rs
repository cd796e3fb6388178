//! Contract sts §10: the mandate that a gateway presents.

use crate::support::{Form, GatewayCall, ISSUER, World, claims_of, header_of};
use caracal_mandate::claims::Claims;
use serde_json::{Value, json};

impl World {
    /// A token with changed claims, signed with the zone's true key.
    pub(crate) async fn forged(&self, token: &str, changes: &[(&str, Value)]) -> String {
        let mut claims = claims_of(token);
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        let claims: Claims = serde_json::from_value(claims).unwrap();
        self.keys.sign(&claims).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_13_contract_10_1_signature_and_claims() {
    let world = World::new().await;
    let token = world.mandate().await;
    let session = world.exchange(&Form::bootstrap()).await.granted();
    let now = world.store.now() / 1000;
    let resource = world.present(&world.mandate().await).await.granted();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let cases = [
        ("not a token", "x.y.z".to_owned()),
        ("empty signature", format!("{signed}.")),
        ("another signature", format!("{signed}.{flipped}{}", signature.get(1..).unwrap())),
        ("session mandate", session),
        ("resource mandate", resource),
        ("another issuer", world.forged(&token, &[("iss", json!("http://other"))]).await),
        ("another audience", world.forged(&token, &[("aud", json!(["resource://orders"]))]).await),
        ("expired", world.forged(&token, &[("exp", json!(now - 61))]).await),
        ("from the future", world.forged(&token, &[("iat", json!(now + 120))]).await),
        ("resource use", world.forged(&token, &[("use", json!("resource"))]).await),
    ];
    for (name, token) in cases {
        let answer = world.present(&token).await;
        assert_eq!(answer.error(), (401, "invalid_token"), "{name}: {}", answer.body);
    }
    assert_eq!(claims_of(&token)["iss"], ISSUER);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_10_1_another_zones_mandate() {
    let world = World::new().await;
    let token = world.mandate().await;
    // Signed by the key of z2, and says so.
    let foreign = world.forged(&token, &[("zone_id", json!("z2"))]).await;
    assert_eq!(world.present(&foreign).await.error(), (401, "invalid_token"));
    let answer = world
        .send(
            GatewayCall::new(Form::usage(&foreign).with("zone_id", "z2").with("application_id", "b1"))
                .request(),
        )
        .await;
    assert_eq!(answer.error(), (403, "access_denied"), "its record is in z1: {}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_13_contract_10_2_and_10_3_the_record_and_the_binding() {
    let world = World::new().await;
    let token = world.mandate().await;
    let sid = claims_of(&token)["sid"].as_str().unwrap().to_owned();
    for (name, token) in [
        ("no such record", world.forged(&token, &[("sid", json!("none"))]).await),
        ("another's record", world.forged(&token, &[("sid", json!("rec-a2"))]).await),
        ("expired record", world.forged(&token, &[("sid", json!("rec-over"))]).await),
        ("another subject", world.forged(&token, &[("sub", json!("a2"))]).await),
        ("empty subject", world.forged(&token, &[("sub", json!(""))]).await),
        ("another client", world.forged(&token, &[("client_id", json!("a2"))]).await),
    ] {
        let answer = world.present(&token).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body);
    }
    for (name, form) in [
        ("session_id differs", Form::usage(&token).with("session_id", "rec-a1")),
        ("agent session differs", Form::usage(&token).with("agent_session_id", "Y")),
        ("delegation differs", Form::usage(&token).with("delegation_edge_id", "other")),
    ] {
        let answer = world.send(GatewayCall::new(form).request()).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body);
    }
    let same = Form::usage(&token)
        .with("session_id", &sid)
        .with("agent_session_id", "T")
        .with("delegation_edge_id", "E");
    world.send(GatewayCall::new(same).request()).await.granted();
    let token = world.mandate().await;
    let sid = claims_of(&token)["sid"].as_str().unwrap().to_owned();
    world.sql(&format!("UPDATE authority_records SET status = 'revoked' WHERE id = '{sid}'")).await;
    assert_eq!(world.present(&token).await.error(), (403, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_02_contract_8_21_a_session_mandate_mints_nothing_in_public() {
    let world = World::new().await;
    let session = world.exchange(&Form::bootstrap()).await.granted();
    let form =
        Form::mint().with("subject_token", &session).with("subject_token_type", crate::support::ACCESS_TOKEN);
    let records = world.number("SELECT COUNT(*) FROM authority_records").await;
    assert_eq!(world.exchange(&form).await.error(), (403, "access_denied"));
    let gateway = world.mandate().await;
    assert_eq!(world.exchange(&form.with("subject_token", &gateway)).await.error(), (401, "invalid_token"));
    assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_a_key_that_another_process_made_verifies_at_once() {
    let world = World::new().await;
    let other = world.opened_again().await;
    let first = world.mandate().await;
    world.present(&first).await.granted();
    other.keys.rotate(&crate::support::zone(), "rotation").await.unwrap().unwrap();
    let second = other.mandate().await;
    assert_ne!(header_of(&first)["kid"], header_of(&second)["kid"]);
    world.present(&second).await.granted();
    assert_eq!(other.present(&second).await.error(), (401, "invalid_token"), "and it is used up for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_13_contract_20_a_key_in_grace_verifies_and_one_after_it_does_not() {
    let world = World::new().await;
    let first = world.mandate().await;
    let kept = world.mandate().await;
    world.keys.rotate(&crate::support::zone(), "rotation").await.unwrap().unwrap();
    world.present(&first).await.granted();
    // A day later.
    world.sql("UPDATE signing_keys SET created_at = created_at - 86400001").await;
    world.keys.forget(&crate::support::zone());
    assert_eq!(world.present(&kept).await.error(), (401, "invalid_token"));
    let fresh = world.mandate().await;
    world.present(&fresh).await.granted();
}
