//! Secrets at rest: sealed for their place, opened where they are needed, and sealed anew under a new key.

use super::idp::{Idp, PROVIDER, Script};
use super::support::{VAULT_KEY, World, zone};
use caracal_store::StoreError;
use caracal_store::egress::{Egress, EgressOptions};
use caracal_store::secrets::Vault;
use caracal_sts::providers::{Hidden, Providers, Tokens, keep};
use serde_json::json;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

const NEXT_KEY: &str = "0f9e8d7c6b5a49382716a5b4c3d2e1f00112a3b4c5d6e7f8091a2b3c4d5e6f70";
const API_KEY: &str = "ak-6b1f0c5d9e7742a3";
const ACCESS: &str = "at-c0ffee5ea1ed0001";
const REFRESH: &str = "rt-c0ffee5ea1ed0002";
const CLIENT: &str = "cs-c0ffee5ea1ed0003";
const RENEWED: &str = "at-c0ffee5ea1ed0004";

/// Everything that is logged in this test binary.
fn logged() -> &'static Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || Log(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    })
}

fn providers(world: &World, vault: &Vault) -> Providers {
    let egress = Egress::new(EgressOptions::default()).unwrap();
    Providers::new(world.store.clone(), vault.clone(), egress, 3600)
}

async fn connect(world: &World, refresh: bool) {
    let tokens = Tokens {
        access: Hidden::new(ACCESS),
        refresh: refresh.then(|| Hidden::new(REFRESH)),
        expires_at: refresh.then_some(1),
    };
    let vault = world.vault.clone();
    let kept: Result<String, StoreError> = world
        .store
        .write(move |tx| {
            Box::pin(async move { keep(tx, &vault, &zone(), (PROVIDER, "a1"), &tokens, "admin:test").await })
        })
        .await;
    kept.unwrap();
}

#[tokio::test]
async fn contract_admin_8_2_a_new_key_takes_over() {
    let world = World::new().await;
    world.provide("api_key", &json!({ "header_name": "X-Key" }), &json!({ "api_key": API_KEY })).await;
    connect(&world, true).await;
    world.mandate().await;
    let hash_key = super::support::HASH_KEY;
    let both = Vault::new(NEXT_KEY, Some(VAULT_KEY), hash_key).unwrap();
    let new_alone = Vault::new(NEXT_KEY, None, hash_key).unwrap();
    let opened = world.opened_with(both.clone()).await;
    assert_eq!(opened.directive().await["provider_token"], API_KEY, "the previous key still opens");
    let stranger = world.opened_with(new_alone.clone()).await;
    let refused = providers(&stranger, &new_alone).reseal().await;
    assert!(matches!(refused, Err(StoreError::Seal(_))), "what no key opens is told, and not dropped");
    let providers = providers(&world, &both);
    let versions = "SELECT SUM(version) FROM secret_store";
    let before = world.number(versions).await;
    assert_eq!(providers.reseal().await.unwrap(), 2, "one document and one connection");
    assert_eq!(providers.reseal().await.unwrap(), 0, "once is enough");
    assert_eq!(world.number(versions).await, before, "the secrets are the same");
    let moved = world.opened_with(both).await;
    assert_eq!(moved.keys.reseal().await.unwrap(), 1);
    let moved = world.opened_with(new_alone).await;
    assert_eq!(moved.directive().await["provider_token"], API_KEY, "the previous key can be dropped");
}

#[tokio::test]
async fn contract_sts_22_2_a_secret_opens_for_its_own_provider_alone() {
    let world = World::new().await;
    world.provide("api_key", &json!({ "header_name": "X-Key" }), &json!({ "api_key": API_KEY })).await;
    let sealed = world.vault.seal(br#"{"api_key":"of another"}"#, "zones/z1/providers/other/secretConfig");
    let sealed = sealed.unwrap();
    world.sql(&format!("UPDATE secret_store SET envelope = '{sealed}'")).await;
    let answer = world.use_one().await;
    assert_eq!(answer.error(), (502, "http_request_failed"));
    assert!(answer.description().contains("provider_secret_sealed"), "{}", answer.description());
}

#[tokio::test]
async fn contract_sts_25_no_secret_is_stored_open_logged_or_told() {
    let log = logged();
    let idp = Idp::start(Script::Json(400, json!({ "error": CLIENT, "error_description": REFRESH }))).await;
    let world = World::new().await.calling(idp.https.egress());
    world
        .provide(
            "oauth2_authorization_code",
            &idp.user_client(&json!({})),
            &json!({ "client_secret": CLIENT }),
        )
        .await;
    connect(&world, true).await;
    let refused = world.use_one().await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    world.sql("UPDATE provider_connections SET failed_at = NULL").await;
    idp.says(Script::token(RENEWED, 3600));
    assert_eq!(world.directive().await["provider_token"], RENEWED);
    world.provide("api_key", &json!({ "header_name": "X-Key" }), &json!({ "api_key": API_KEY })).await;
    assert_eq!(world.directive().await["provider_token"], API_KEY);
    world.provide("api_key", &json!({ "header_name": "Host" }), &json!({ "api_key": API_KEY })).await;
    let unusable = world.use_one().await;
    let everything = format!("{}{}{}", world.everything_stored().await, refused.body, unusable.body);
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert!(log.contains("could not be renewed"), "the log is watched");
    for secret in [API_KEY, ACCESS, REFRESH, CLIENT, RENEWED] {
        assert!(!everything.contains(secret), "{secret} is stored or told");
        assert!(!log.contains(secret), "{secret} is logged");
    }
}
