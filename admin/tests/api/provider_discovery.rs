//! What issuers say of themselves, by real HTTPS (contract admin-audit §5.5).

use crate::common::{Answer, Bench, bench_calling};
use crate::https::Https;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use caracal_store::egress::{Egress, EgressOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Documents by their paths.
type Documents = Arc<Mutex<BTreeMap<String, (u16, String)>>>;

async fn answer(State(documents): State<Documents>, uri: Uri) -> (StatusCode, String) {
    let known = documents.lock().unwrap().get(uri.path()).cloned();
    let (status, body) = known.unwrap_or((404, String::new()));
    (StatusCode::from_u16(status).unwrap(), body)
}

struct World {
    bench: Bench,
    path: String,
    https: Https,
    documents: Documents,
}

impl World {
    async fn new() -> Self {
        let documents = Documents::default();
        let https = Https::start(Router::new().fallback(answer).with_state(Arc::clone(&documents))).await;
        let bench = bench_calling(https.egress()).await;
        let path = format!("/v1/zones/{}/providers/discovery", bench.zone("z").await);
        Self { bench, path, https, documents }
    }

    fn says(&self, path: &str, status: u16, body: &str) {
        self.documents.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    async fn ask(&self, issuer: &str) -> Answer {
        // The limit is another test's.
        self.bench.execute("DELETE FROM counters").await;
        self.bench.post(&self.path, json!({ "issuer": issuer })).await
    }
}

fn document(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "token_endpoint": format!("{issuer}/token"),
        "authorization_endpoint": format!("{issuer}/authorize"), "jwks_uri": format!("{issuer}/keys"),
        "scopes_supported": ["read", "", "x".repeat(201)], "token_endpoint_auth_methods_supported": ["none"],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_5_both_documents_are_read_and_held_to_their_issuer() {
    let world = World::new().await;
    let issuer = world.https.url("/realms/a");
    let expected = json!({
        "issuer": issuer, "token_endpoint": format!("{issuer}/token"),
        "authorization_endpoint": format!("{issuer}/authorize"), "scopes_supported": ["read"],
        "token_endpoint_auth_methods_supported": ["none"],
    });
    let oauth = "/.well-known/oauth-authorization-server/realms/a";
    world.says(oauth, 200, &document(&issuer).to_string());
    assert_eq!(world.ask(&issuer).await.ok(), expected, "RFC 8414, where there is no other");
    let openid = "/realms/a/.well-known/openid-configuration";
    world.says(oauth, 500, "");
    world.says(openid, 200, &document(&issuer).to_string());
    assert_eq!(world.ask(&issuer).await.ok(), expected);
    let other = document("https://localhost/realms/b").to_string();
    let mut insecure = document(&issuer);
    insecure["token_endpoint"] = "http://localhost/token".into();
    for (status, body, why) in [
        (404, "", "is not there"),
        (302, "", "redirect"),
        (200, "<html>", "is no JSON"),
        (200, "{\"issuer\":\"x\"}", "is no JSON"),
        (200, other.as_str(), "is of another issuer"),
        (200, insecure.to_string().as_str(), "names an endpoint"),
        (200, "x".repeat(70_000).as_str(), ""),
    ] {
        world.says(openid, status, body);
        let answer = world.ask(&issuer).await;
        assert_eq!(answer.code(), (422, "provider_discovery_failed"), "{status} {}", answer.body);
        let told = answer.body["error_description"].as_str().unwrap();
        assert!(told.contains(why) && !told.contains("<html>"), "{told}");
    }
    for wrong in ["x", "http://localhost", "https://u:p@localhost", "https://localhost/?q=1", ""] {
        assert_eq!(world.ask(wrong).await.code(), (400, "invalid_issuer"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_5_discovery_reaches_no_private_address_and_is_counted() {
    let world = World::new().await;
    let strict = bench_calling(Egress::new(EgressOptions::default()).unwrap()).await;
    let path = format!("/v1/zones/{}/providers/discovery", strict.zone("z").await);
    for issuer in [world.https.url(""), "https://169.254.169.254".to_owned(), "https://[::1]".to_owned()] {
        let answer = strict.post(&path, json!({ "issuer": issuer })).await;
        assert_eq!(answer.code(), (422, "provider_discovery_failed"), "{issuer}");
    }
    let mut last = 0;
    // A minute may end meanwhile.
    for _ in 0..22 {
        last = strict.post(&path, json!({ "issuer": "https://[::1]" })).await.status.as_u16();
        if last == 429 {
            break;
        }
    }
    let answer = strict.post(&path, json!({ "issuer": "https://[::1]" })).await;
    assert!(
        last == 429 && answer.code() == (429, "provider_discovery_rate_limited"),
        "{last} {}",
        answer.body
    );
}
