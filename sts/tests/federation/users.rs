//! The user after the exchange: the sessions that act for them, and what a revocation takes away.

use crate::issuer::{ISSUER, Issuer, USER};
use crate::support::{Form, LEDGER, zone};
use caracal_mandate::anchor::{AnchorKey, AnchorSet};
use caracal_mandate::claims::Claims;
use caracal_store::StoreError;
use caracal_store::change::revoked_anchors;
use caracal_store::revoke::{Cause, Revocation, Selector};
use serde_json::{Value, json};

const SECOND_ISSUER: &str = "https://other.example/";

impl Issuer {
    /// Starts session `U` on a user's record, with a delegation from it to session `V`.
    async fn start_session(&self, record: &str) {
        for id in ["U", "V"] {
            self.world.add_session(id, "a1", r#"["reader"]"#).await;
        }
        let ends = self.world.store.now() + 3_600_000;
        let terms = format!("NULL, '[\"orders:read\",\"ledger:read\"]', '{{}}', 'active', {ends}");
        self.world.add_edge("UV", "U", "V", &terms).await;
        let sql = format!("UPDATE sessions SET subject_authority_record_id = '{record}' WHERE id = 'U'");
        self.world.sql(&sql).await;
    }

    fn mint() -> Form {
        Form::mint().with("agent_session_id", "V").with("delegation_edge_id", "UV")
    }

    async fn revoke(&self, selector: Selector) {
        let cause = Cause {
            zone: zone(),
            request_id: "r".to_owned(),
            actor: "test".to_owned(),
            reason: "left".to_owned(),
        };
        let done: Result<(), StoreError> = self
            .world
            .store
            .write(move |tx| {
                Box::pin(async move {
                    Revocation::commit(tx, &cause, &selector)
                        .await
                        .map_err(|error| StoreError::corrupt(error.to_string()))?;
                    Ok(())
                })
            })
            .await;
        done.unwrap();
    }

    /// What every gateway is told to refuse.
    async fn revoked(&self) -> AnchorSet {
        let now = self.world.store.now();
        let mut connection = self.world.store.read().await.unwrap();
        let mut set = AnchorSet::default();
        for anchor in revoked_anchors(&mut connection, &zone(), now).await.unwrap() {
            set.revoke(anchor);
        }
        set
    }
}

fn parsed(claims: &Value) -> Claims {
    Claims::from_json(claims.to_string().as_bytes()).unwrap()
}

/// A mandate of a session that acts for a user names the user's record, and never outlives it.
#[tokio::test(flavor = "multi_thread")]
async fn sts_28_13_a_users_record_is_the_root_of_what_is_minted_for_them() {
    let issuer = Issuer::new().await;
    let user =
        issuer.world.exchange(&Issuer::form(&issuer.token(&[])).with("ttl_seconds", "120")).await.claims();
    issuer.start_session(user["sid"].as_str().unwrap()).await;
    let answer = issuer.world.exchange(&Issuer::mint()).await;
    let claims = answer.claims();
    assert_eq!(claims["root_sid"], user["sid"]);
    assert_ne!(claims["sid"], user["sid"]);
    assert_eq!(claims["exp"], user["exp"], "not after the user's record");
    // What a gateway gets for it has the same root.
    let derived = issuer.world.present(&answer.granted()).await.claims();
    assert_eq!(derived["root_sid"], user["sid"]);
    // A session that acts for nobody but its application is its own root, as before.
    let own = issuer.world.exchange(&Form::mint()).await.claims();
    assert_eq!(own["root_sid"], own["sid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_24_3_revoking_a_subject_reaches_all_that_acts_for_them() {
    let record = |claims: &Value| claims["sid"].as_str().unwrap().to_owned();
    for by in ["subject", "record"] {
        let issuer = Issuer::new().await;
        let before = issuer.token(&[]);
        let user = issuer.federate(&before).await.claims();
        issuer.start_session(&record(&user)).await;
        let single = issuer.world.exchange(&Issuer::mint()).await;
        let multi = issuer
            .world
            .exchange(&Issuer::mint().with("resource", LEDGER).with("scope", "ledger:read"))
            .await;
        let bystander = issuer.world.mandate().await;
        assert_eq!(multi.claims()["multi_use"], true);
        let selector = match by {
            "subject" => Selector::Subject { id: USER.to_owned() },
            _ => serde_json::from_value(json!({ "by": "authority_record", "id": record(&user) })).unwrap(),
        };
        issuer.revoke(selector).await;
        let revoked = issuer.revoked().await;
        for held in [user, single.claims(), multi.claims()] {
            let anchors = parsed(&held).anchors();
            assert!(revoked.first_revoked(&AnchorKey::of_all(&anchors)).is_some(), "{by}: {held}");
            let root = [anchor_of_root(&held)];
            assert!(
                revoked.first_revoked(&AnchorKey::of_all(&root)).is_some(),
                "{by}: by its root alone: {held}"
            );
        }
        assert_eq!(issuer.world.exchange(&Issuer::mint()).await.error(), (403, "access_denied"), "{by}");
        assert_eq!(issuer.world.present(&single.granted()).await.error(), (403, "access_denied"), "{by}");
        issuer.world.present(&bystander).await.granted();
        // The subject's revocation outlasts the token that they signed in with; a record's does not touch the subject.
        let again = issuer.verdict(&before).await;
        let expected = if by == "subject" {
            (
                401,
                "invalid_token".to_owned(),
                "subject_federation_rejected/issued_before_revocation".to_owned(),
            )
        } else {
            (200, String::new(), "complete/".to_owned())
        };
        assert_eq!(again, expected, "{by}");
    }
}

fn anchor_of_root(claims: &Value) -> caracal_mandate::anchor::Anchor {
    serde_json::from_value(json!({ "kind": "authority_record", "id": claims["root_sid"] })).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_21_a_revoked_user_comes_back_by_signing_in_again() {
    let issuer = Issuer::new().await;
    issuer.federate(&issuer.token(&[])).await.granted();
    issuer.revoke(Selector::Subject { id: USER.to_owned() }).await;
    let now = issuer.world.store.now() / 1000;
    let cases = [
        (json!(now - 30), "subject_federation_rejected/issued_before_revocation"),
        (json!(now), "subject_federation_rejected/issued_before_revocation"),
        (Value::Null, "subject_federation_rejected/issued_before_revocation"),
        (json!(now + 2), "complete/"),
    ];
    for (issued_at, expected) in cases {
        let verdict = issuer.verdict(&issuer.token(&[("iat", issued_at.clone())])).await;
        assert_eq!(verdict.2, expected, "{issued_at}");
    }
    issuer.federate(&issuer.token(&[("sub", json!("someone else"))])).await.granted();
}

/// Names are an issuer's own. Where two issuers of a zone use the same name, the second is somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn sts_21_another_issuer_does_not_vouch_for_a_known_user() {
    let issuer = Issuer::new().await;
    issuer.trust("i2", SECOND_ISSUER, "/keys").await;
    let other = issuer.token(&[("iss", json!(SECOND_ISSUER))]);
    issuer.federate(&issuer.token(&[])).await.granted();
    assert_eq!(issuer.verdict(&other).await.2, "subject_federation_rejected/issuer_conflict");
    issuer.federate(&issuer.token(&[("iss", json!(SECOND_ISSUER)), ("sub", json!("u-2"))])).await.granted();
    // An issuer that is trusted no more holds no names.
    issuer.world.sql("UPDATE subject_issuers SET archived_at = 1 WHERE id = 'i1'").await;
    issuer.federate(&other).await.granted();
    issuer.trust("i3", ISSUER, "/keys").await;
    assert_eq!(issuer.verdict(&issuer.token(&[])).await.2, "subject_federation_rejected/issuer_conflict");
}
