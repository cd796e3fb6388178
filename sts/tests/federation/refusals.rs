//! What is refused, and what the ledger says of it (contract sts §21, §28.19).

use crate::https::before;
use crate::issuer::{AUDIENCE, ISSUER, Issuer, Key, Mode};
use crate::support::PEER_SECRET;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_tokens_that_are_not_accepted() {
    let issuer = Issuer::new().await;
    let now = issuer.world.store.now() / 1000;
    let stranger = Key::ec("P-256");
    let header = issuer.header();
    let with = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        header
    };
    let good = issuer.token(&[]);
    let (input, signature) = good.rsplit_once('.').unwrap();
    let head = good.split('.').next().unwrap();
    let rsa = Key::rsa();
    let other_payload =
        URL_SAFE_NO_PAD.encode(json!({ "iss": ISSUER, "sub": "root", "aud": AUDIENCE }).to_string());
    let doubled = issuer.claims().to_string().replacen('{', "{\"sub\":\"root\",", 1);
    let cases: Vec<(&str, String, &str)> = vec![
        ("untrusted issuer", issuer.token(&[("iss", json!("https://idp.example"))]), "issuer_not_trusted"),
        (
            "issuer in other letters",
            issuer.token(&[("iss", json!("https://IDP.example/"))]),
            "issuer_not_trusted",
        ),
        ("no issuer", issuer.token(&[("iss", Value::Null)]), "token_malformed"),
        ("another audience", issuer.token(&[("aud", json!("other"))]), "audience_mismatch"),
        (
            "audience as a prefix",
            issuer.token(&[("aud", json!(format!("{AUDIENCE}-2")))]),
            "audience_mismatch",
        ),
        ("no audience", issuer.token(&[("aud", Value::Null)]), "token_malformed"),
        ("expired", issuer.token(&[("exp", json!(now - 120))]), "token_expired"),
        ("no expiry", issuer.token(&[("exp", Value::Null)]), "token_malformed"),
        ("issued in the future", issuer.token(&[("iat", json!(now + 120))]), "token_not_yet_valid"),
        ("not valid yet", issuer.token(&[("nbf", json!(now + 120))]), "token_not_yet_valid"),
        ("another's signature", stranger.token(&header, &issuer.claims()), "signature_invalid"),
        ("an RSA signature", rsa.token(&with("alg", json!("RS256")), &issuer.claims()), "signature_invalid"),
        (
            "another algorithm",
            issuer.key.token(&with("alg", json!("ES384")), &issuer.claims()),
            "signature_invalid",
        ),
        ("a changed payload", format!("{head}.{other_payload}.{signature}"), "token_malformed"),
        ("no signature", format!("{input}."), "signature_invalid"),
        (
            "alg none",
            issuer.key.token(&with("alg", json!("none")), &issuer.claims()),
            "algorithm_not_allowed",
        ),
        (
            "alg HS256",
            issuer.key.token(&with("alg", json!("HS256")), &issuer.claims()),
            "algorithm_not_allowed",
        ),
        (
            "alg PS256",
            issuer.key.token(&with("alg", json!("PS256")), &issuer.claims()),
            "algorithm_not_allowed",
        ),
        (
            "alg EdDSA",
            issuer.key.token(&with("alg", json!("EdDSA")), &issuer.claims()),
            "algorithm_not_allowed",
        ),
        (
            "critical extension",
            issuer.key.token(&with("crit", json!(["x"])), &issuer.claims()),
            "critical_extension",
        ),
        ("no kid", issuer.key.token(&json!({ "alg": "ES256" }), &issuer.claims()), "key_id_missing"),
        (
            "an embedded key",
            stranger.token(&with("jwk", stranger.to_jwk("k1")), &issuer.claims()),
            "signature_invalid",
        ),
        ("a claim twice", issuer.key.token_of(&header, &doubled), "token_malformed"),
        ("no object", issuer.key.token_of(&header, "[]"), "token_malformed"),
        ("no token", "x".to_owned(), "token_malformed"),
        ("too long", issuer.token(&[("groups", json!("g".repeat(20_000)))]), "token_malformed"),
    ];
    for (name, token, reason) in cases {
        let expected = (401, "invalid_token".to_owned(), format!("subject_federation_rejected/{reason}"));
        assert_eq!(issuer.verdict(&token).await, expected, "{name}");
    }
    issuer.federate(&good).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_19_hostile_subjects() {
    let issuer = Issuer::new().await;
    let long = "é".repeat(257);
    let hostile = [
        "",
        " u",
        "u ",
        "\u{a0}u",
        "u\u{2003}",
        "u\nv",
        "u\u{0}v",
        "u\u{7f}",
        "u\u{9f}v",
        "caracal:shared",
        "caracal:",
        "u\u{fffd}v",
        "u\u{202a}v",
        "u\u{202e}v",
        "u\u{2066}v",
        "u\u{2069}",
        long.as_str(),
    ];
    for name in hostile {
        let expected =
            (401, "invalid_token".to_owned(), "subject_federation_rejected/subject_not_accepted".to_owned());
        assert_eq!(issuer.verdict(&issuer.token(&[("sub", name.into())])).await, expected, "{name:?}");
    }
    let number = issuer.verdict(&issuer.token(&[("sub", 7.into())])).await;
    assert_eq!(number.2, "subject_federation_rejected/token_malformed");
    let lone = issuer.claims().to_string().replace("auth0|u-1", "u\\ud800");
    let lone = issuer.verdict(&issuer.key.token_of(&issuer.header(), &lone)).await;
    assert_eq!(lone.2, "subject_federation_rejected/token_malformed");
    assert_eq!(issuer.world.number("SELECT COUNT(*) FROM federated_subjects").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_a_token_is_exchanged_alone() {
    let issuer = Issuer::new().await;
    let token = issuer.token(&[]);
    let extras = [
        ("resource", "resource://orders"),
        ("scope", "agent:lifecycle"),
        ("session_id", "rec-a1"),
        ("agent_session_id", "T"),
        ("delegation_edge_id", "E"),
        ("approval_id", "0190f0c1-7d1e-4a57-8f0e-1c2d3e4f5a6b"),
    ];
    for (name, value) in extras {
        let id = format!("extra-{name}");
        let answer = issuer.world.send(Issuer::form(&token).with(name, value).request_as(&id)).await;
        assert_eq!(answer.error(), (400, "invalid_token"), "{name}");
        assert_eq!(
            issuer.world.verdicts(&id).await,
            ["token_exchange deny/subject_federation_invalid"],
            "{name}"
        );
    }
    assert_eq!(issuer.asked(), 0, "the issuer is not asked for what cannot be granted");
}

/// Who asks is known before anything of the token is looked at, and nobody is asked for keys on a stranger's behalf.
#[tokio::test(flavor = "multi_thread")]
async fn sts_21_the_application_comes_first() {
    let issuer = Issuer::new().await;
    let form = Issuer::form(&issuer.token(&[]));
    let cases = [
        (form.clone().with("client_secret", "wrong"), (401, "access_denied")),
        (form.clone().with("application_id", "nobody"), (401, "access_denied")),
        (form.clone().with("application_id", "gone"), (401, "access_denied")),
        (form.clone().with("zone_id", "z2"), (403, "zone_invalid")),
        (form.clone().without("zone_id"), (401, "access_denied")),
        (form.clone().without("subject_token"), (400, "invalid_token")),
        (form.clone().without("subject_token_type"), (400, "invalid_token")),
        (
            form.clone().with("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            (400, "invalid_token"),
        ),
    ];
    for (form, expected) in cases {
        let answer = issuer.world.exchange(&form).await;
        assert_eq!(answer.error(), expected, "{form:?}");
    }
    assert_eq!(issuer.asked(), 0);
    let peer = form.with("application_id", "a2").with("client_secret", PEER_SECRET);
    assert_eq!(issuer.world.exchange(&peer).await.claims()["client_id"], "a2");
}

/// What changes while the issuer's keys are on their way counts.
#[tokio::test(flavor = "multi_thread")]
async fn sts_21_nothing_is_granted_on_what_was_taken_away_meanwhile() {
    let changes = [
        ("UPDATE applications SET archived_at = 1 WHERE id = 'a1'", (401, "access_denied")),
        ("UPDATE applications SET client_secret_hash = 'x' WHERE id = 'a1'", (401, "access_denied")),
        ("UPDATE zones SET archived_at = 1 WHERE id = 'z1'", (401, "access_denied")),
        ("UPDATE subject_issuers SET archived_at = 1 WHERE id = 'i1'", (401, "invalid_token")),
        ("UPDATE subject_issuers SET audience = 'other' WHERE id = 'i1'", (401, "invalid_token")),
        (
            "UPDATE subject_issuers SET jwks_url = 'https://other.example/' WHERE id = 'i1'",
            (401, "invalid_token"),
        ),
    ];
    for (sql, expected) in changes {
        let issuer = Issuer::new().await;
        issuer.set(Mode::Gated);
        let mut answer = issuer.world.spawn(Issuer::form(&issuer.token(&[])).request());
        before(&mut answer, issuer.arrived()).await;
        issuer.world.sql(sql).await;
        issuer.open_gate();
        assert_eq!(answer.await.unwrap().error(), expected, "{sql}");
        let users =
            issuer.world.number("SELECT COUNT(*) FROM authority_records WHERE session_type = 'user'").await;
        assert_eq!(users, 1, "only the one that was seeded: {sql}");
    }
}
