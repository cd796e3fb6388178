//! Connections of persons: whose serves whom, and how they are renewed.

use super::idp::{Idp, PROVIDER, Script};
use super::support::{Form, GatewayCall, ORDERS, World, zone};
use caracal_store::StoreError;
use caracal_sts::providers::{Hidden, SHARED_SUBJECT, Tokens, keep};
use serde_json::json;

const USER: &str = "oauth2_authorization_code";

async fn set_up(script: Script) -> (Idp, World) {
    let idp = Idp::start(script).await;
    let world = World::new().await.calling(idp.https.egress());
    world.provide(USER, &idp.user_client(&json!({})), &json!({ "client_secret": "s" })).await;
    (idp, world)
}

/// Connects a subject; `ends_in` seconds.
async fn connect(world: &World, subject: &str, access: &str, refresh: Option<&str>, ends_in: Option<i64>) {
    let tokens = Tokens {
        access: Hidden::new(access),
        refresh: refresh.map(Hidden::new),
        expires_at: ends_in.map(|seconds| world.store.now() + seconds * 1000),
    };
    let (vault, subject) = (world.vault.clone(), subject.to_owned());
    let kept: Result<String, StoreError> = world
        .store
        .write(move |tx| {
            Box::pin(
                async move { keep(tx, &vault, &zone(), (PROVIDER, &subject), &tokens, "admin:test").await },
            )
        })
        .await;
    kept.unwrap();
}

async fn status(world: &World) -> String {
    let mut connection = world.store.read().await.unwrap();
    sqlx::query_scalar("SELECT status FROM provider_connections").fetch_one(&mut *connection).await.unwrap()
}

#[tokio::test]
async fn contract_sts_22_4_whose_connection_serves() {
    let (_idp, world) = set_up(Script::Never).await;
    let answer = world.use_one().await;
    assert_eq!(answer.error(), (403, "access_denied"), "{}", answer.body);
    let events = world.events().await;
    let event = events.iter().rfind(|event| event["event_type"] == "token_exchange").unwrap();
    assert_eq!(event["evaluation_status"], "credential_not_provisioned");
    assert_eq!(event["metadata_json"]["reason"], "no_provider_connection");
    connect(&world, "somebody-else", "other", None, None).await;
    assert_eq!(world.use_one().await.status, 403, "nobody is served by another's connection");
    connect(&world, SHARED_SUBJECT, "shared", None, None).await;
    assert_eq!(world.directive().await["provider_token"], "shared");
    connect(&world, "a1", "own", None, Some(3600)).await;
    let directive = world.directive().await;
    assert_eq!(directive["provider_token"], "own");
    assert_eq!(directive["auth_mode"], "provider_oauth");
    assert!(directive["connection_id"].is_string() && directive["expires_at"].is_i64(), "{directive}");
    connect(&world, "a1", "newer", None, Some(3600)).await;
    assert_eq!(world.directive().await["provider_token"], "newer", "it took the place of the one before");
    assert_eq!(world.number("SELECT COUNT(*) FROM provider_connections").await, 3);
}

#[tokio::test]
async fn contract_sts_22_4_what_expired_and_cannot_be_renewed_is_over() {
    let (idp, world) = set_up(Script::Never).await;
    connect(&world, "a1", "old", None, Some(-1)).await;
    let answer = world.use_one().await;
    assert_eq!(answer.error(), (403, "credential_expired_not_renewable"), "{}", answer.body);
    assert_eq!(status(&world).await, "expired");
    world.sql("UPDATE provider_connections SET failed_at = 1").await;
    assert_eq!(world.use_one().await.error(), (403, "access_denied"), "now there is none");
    assert!(idp.asked().is_empty());
    let stored =
        world.number("SELECT COUNT(*) FROM provider_connections WHERE access_token_envelope IS NOT NULL");
    assert_eq!(stored.await, 0, "its token is gone");
    let told = world.events().await;
    assert!(told.iter().any(|event| event["event_type"] == "provider_connection_expired"));
}

#[tokio::test]
async fn contract_sts_22_4_renewed_shortly_before_its_end() {
    for (ends_in, asked) in [(60, 0), (29, 1), (-100, 1)] {
        let (idp, world) = set_up(Script::Rotating { next: "rt-0".to_owned(), number: 0 }).await;
        connect(&world, "a1", "at-0", Some("rt-0"), Some(ends_in)).await;
        let wanted = if asked == 0 { "at-0" } else { "at-1" };
        for _ in 0..2 {
            assert_eq!(world.directive().await["provider_token"], wanted, "{ends_in}");
        }
        assert_eq!(idp.asked().len(), asked, "{ends_in}");
        if asked == 1 {
            let form = idp.asked().pop().unwrap().form;
            assert_eq!(form["grant_type"], "refresh_token");
            assert_eq!(form["refresh_token"], "rt-0");
        }
    }
}

#[tokio::test]
async fn contract_sts_22_4_a_refresh_token_that_is_not_given_anew_stays() {
    let (idp, world) = set_up(Script::token("at-1", 20)).await;
    connect(&world, "a1", "at-0", Some("rt-0"), Some(0)).await;
    for asked in 1..=2 {
        // It lives for less than the margin, and is served all the same.
        assert_eq!(world.directive().await["provider_token"], "at-1");
        assert_eq!(world.directive().await["provider_token"], "at-1");
        assert_eq!(idp.asked().len(), asked);
        world.sql("UPDATE provider_connections SET expires_at = 1").await;
    }
    assert!(idp.asked().iter().all(|asked| asked.form["refresh_token"] == "rt-0"));
}

#[tokio::test]
async fn contract_sts_22_4_rotation_under_concurrency_in_two_processes() {
    let (idp, world) = set_up(Script::Rotating { next: "rt-0".to_owned(), number: 0 }).await;
    let other = world.opened_again().await.calling(idp.https.egress());
    connect(&world, "a1", "at-0", Some("rt-0"), Some(0)).await;
    let mut mandates = Vec::new();
    for _ in 0..24 {
        mandates.push(world.mandate().await);
    }
    idp.holds_answers();
    let calls: Vec<_> = mandates
        .iter()
        .enumerate()
        .map(|(number, mandate)| {
            let request = GatewayCall::new(Form::usage(mandate)).request();
            if number % 2 == 0 { world.spawn(request) } else { other.spawn(request) }
        })
        .collect();
    idp.was_asked(1).await;
    idp.answers_again();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(answer.body["upstreams"][ORDERS]["provider_token"], "at-1", "{}", answer.body);
    }
    assert_eq!(idp.asked().len(), 1, "a refresh token is used once");
    world.sql("UPDATE provider_connections SET expires_at = 1").await;
    assert_eq!(world.directive().await["provider_token"], "at-2", "the new refresh token was kept");
}

#[tokio::test]
async fn contract_sts_22_4_who_goes_away_does_not_lose_a_rotated_token() {
    let (idp, world) = set_up(Script::Rotating { next: "rt-0".to_owned(), number: 0 }).await;
    connect(&world, "a1", "at-0", Some("rt-0"), Some(0)).await;
    let mandate = world.mandate().await;
    let call = world.call_that_waits(&idp, &mandate).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    idp.answers_again();
    assert_eq!(world.use_mandate(&mandate).await.body["upstreams"][ORDERS]["provider_token"], "at-1");
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test]
async fn contract_sts_22_4_what_a_failed_renewal_does() {
    let refused = Script::Json(400, json!({ "error": "invalid_grant" }));
    let cases = [
        (refused, "expired", "provider_connection_expired"),
        (Script::Json(500, json!({})), "active", "provider_connection_refresh_failed"),
        (
            Script::Json(401, json!({ "error": "invalid_client" })),
            "active",
            "provider_connection_refresh_failed",
        ),
        (
            Script::Json(200, json!({ "access_token": "a", "token_type": "mac" })),
            "active",
            "provider_connection_refresh_failed",
        ),
        (Script::Text(200, String::new()), "active", "provider_connection_refresh_failed"),
    ];
    for (script, after, event) in cases {
        let (idp, world) = set_up(script.clone()).await;
        connect(&world, "a1", "at-0", Some("rt-0"), Some(0)).await;
        let answer = world.use_one().await;
        assert_eq!(answer.error(), (403, "credential_expired_not_renewable"), "{script:?}: {}", answer.body);
        assert_eq!(status(&world).await, after, "{script:?}");
        let events = world.events().await;
        assert!(events.iter().any(|found| found["event_type"] == event), "{script:?}");
        let denied = |found: &serde_json::Value| found["evaluation_status"] == "credential_refresh_failed";
        assert!(events.iter().any(denied), "{script:?}");
        // Others take that for their answer for a moment, rather than ask again.
        world.use_one().await;
        assert_eq!(idp.asked().len(), 1, "{script:?}: a refresh token is never tried twice at once");
    }
}

#[tokio::test]
async fn contract_sts_22_4_one_persons_refusal_does_not_open_the_circuit_for_all() {
    let (idp, world) = set_up(Script::Json(400, json!({ "error": "invalid_grant" }))).await;
    for _ in 0..6 {
        connect(&world, "a1", "at-0", Some("rt-0"), Some(0)).await;
        assert_eq!(world.use_one().await.status, 403);
    }
    assert_eq!(idp.asked().len(), 6);
}

#[tokio::test]
async fn contract_sts_22_4_what_is_revoked_while_it_is_renewed_stays_revoked() {
    let (idp, world) = set_up(Script::Rotating { next: "rt-0".to_owned(), number: 0 }).await;
    connect(&world, "a1", "at-0", Some("rt-0"), Some(0)).await;
    let mandate = world.mandate().await;
    let call = world.call_that_waits(&idp, &mandate).await;
    let revoked: Result<Vec<String>, StoreError> = world
        .store
        .write(|tx| {
            Box::pin(async move {
                let whose = caracal_sts::providers::Whose::One { provider: PROVIDER, subject: "a1" };
                caracal_sts::providers::revoke(tx, &zone(), whose, "admin:test").await
            })
        })
        .await;
    assert_eq!(revoked.unwrap().len(), 1);
    idp.answers_again();
    assert_eq!(call.await.unwrap().error(), (403, "access_denied"));
    assert_eq!(status(&world).await, "revoked");
    let stored = "SELECT COUNT(*) FROM provider_connections WHERE access_token_envelope IS NOT NULL \
                  OR refresh_token_envelope IS NOT NULL";
    assert_eq!(world.number(stored).await, 0);
}
