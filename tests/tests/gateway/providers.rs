//! Credentials of providers, from a token endpoint over TLS to what reaches the upstream through Envoy, and a new
//! key-encryption key under all of them.

use caracal_tests::{Options, Script, Stack, Upstream, World};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;

struct Setting {
    stack: Stack,
    world: World,
    upstream: Upstream,
    endpoint: Script,
    agent: caracal_tests::Agent,
    base: String,
}

impl Setting {
    async fn new(folder: &Path) -> Self {
        let mut endpoint = Script::plain(&["token_endpoint.py", folder.to_str().unwrap()]);
        let base = endpoint.said().await.as_str().unwrap().to_owned();
        let stack = Stack::start_with(Options::calling_this_machine(&folder.join("ca.pem"))).await;
        let upstream = Upstream::start().await;
        let world = World::configure(&stack, &upstream).await;
        let agent = world.agent().await;
        Self { stack, world, upstream, endpoint, agent, base }
    }

    /// Makes the orders take their credential from a new provider; answers its id.
    async fn provide(&self, kind: &str, mut config: Value) -> String {
        config["token_endpoint"] = format!("{}/token", self.base).into();
        config["client_id"] = "caracal".into();
        config["client_secret"] = "client-secret-1".into();
        let body = json!({ "name": kind, "kind": kind, "config_json": config });
        let made = self.world.operate(Method::POST, &self.world.path("providers"), body).await;
        let resources = self.world.operate(Method::GET, &self.world.path("resources"), Value::Null).await;
        let resource = resources["items"][0]["id"].as_str().unwrap();
        let change = json!({ "credential_provider_id": made["id"] });
        self.world.operate(Method::PATCH, &self.world.path(&format!("resources/{resource}")), change).await;
        made["id"].as_str().unwrap().to_owned()
    }

    /// What a read through the Gateway comes to.
    async fn read(&self) -> (StatusCode, Value) {
        let mandate = self.world.mint(&self.agent).await;
        let answer = self.world.read(&mandate).await;
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// The credential that the upstream is called with.
    async fn credential(&self) -> String {
        let (status, body) = self.read().await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let seen = self.upstream.seen().pop().unwrap();
        seen.headers["authorization"].to_str().unwrap().to_owned()
    }

    async fn asked(&mut self) -> Value {
        self.endpoint.ask("asked").await
    }

    async fn restart(&mut self) {
        self.stack.kill().await;
        self.stack.restart().await;
        self.world.moved_to(&self.stack);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_a_services_token_reaches_the_upstream_and_a_new_key_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut setting = Setting::new(folder.path()).await;
    setting.provide("oauth2_client_credentials", json!({})).await;
    for _ in 0..2 {
        assert_eq!(setting.credential().await, "Bearer service-1");
    }
    assert_eq!(setting.asked().await, json!(["client_credentials"]), "one request for both");

    let secrets = setting.stack.folder().join("secrets");
    let (current, previous) = (secrets.join("secretStoreKek"), secrets.join("secretStoreKekPrevious"));
    let before = std::fs::read(&current).unwrap();
    setting.stack.kill().await;
    std::fs::rename(&current, &previous).unwrap();
    setting.stack.restart().await;
    setting.world.moved_to(&setting.stack);
    assert_ne!(std::fs::read(&current).unwrap(), before, "there is a new key");
    assert_eq!(setting.credential().await, "Bearer service-2");
    std::fs::remove_file(&previous).unwrap();
    setting.restart().await;
    assert_eq!(setting.credential().await, "Bearer service-3", "the previous key is not needed any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_a_persons_consent_from_the_browser_to_its_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let mut setting = Setting::new(folder.path()).await;
    let config = json!({
        "authorization_endpoint": format!("{}/authorize", setting.base),
        "revocation_endpoint": format!("{}/revoke", setting.base),
        "redirect_uri": "https://console.example/callback",
    });
    let provider = setting.provide("oauth2_authorization_code", config).await;
    let (status, body) = setting.read().await;
    assert_eq!((status, &body["error"]), (StatusCode::FORBIDDEN, &json!("access_denied")), "{body}");

    let connections = setting.world.path("provider-connections");
    let begin = json!({ "provider_id": provider });
    let path = format!("{connections}/oauth/authorize");
    let flow = setting.world.operate(Method::POST, &path, begin.clone()).await;
    let url = reqwest::Url::parse(flow["authorization_url"].as_str().unwrap()).unwrap();
    let (_, challenge) = url.query_pairs().find(|(name, _)| name == "code_challenge").unwrap();
    let code = setting.endpoint.ask(&format!("consent {challenge}")).await;
    let back = format!(
        "{}{connections}/oauth/callback?state={}&code={}",
        setting.world.admin,
        flow["state"].as_str().unwrap(),
        code.as_str().unwrap()
    );
    // A browser brings no token of ours.
    let connected = setting.world.http.get(&back).send().await.unwrap();
    assert_eq!(connected.status(), StatusCode::CREATED);
    assert_eq!(setting.world.http.get(&back).send().await.unwrap().status(), StatusCode::BAD_REQUEST);

    for _ in 0..2 {
        assert_eq!(setting.credential().await, "Bearer user-2", "it was renewed before it was used");
    }
    assert_eq!(setting.asked().await, json!(["authorization_code", "refresh_token"]));

    let revoked = setting.world.operate(Method::POST, &format!("{connections}/revoke"), begin).await;
    assert_eq!(revoked["upstream_revocation"], "revoked");
    let calls = setting.upstream.seen().len();
    let (status, body) = setting.read().await;
    assert_eq!((status, &body["error"]), (StatusCode::FORBIDDEN, &json!("access_denied")), "{body}");
    assert_eq!(setting.upstream.seen().len(), calls);
    let kinds = ["provider_connected", "provider_connection_refreshed", "provider_connection_revoked"];
    for kind in kinds {
        assert!(!setting.world.audit(&format!("event_type={kind}")).await.is_empty(), "{kind}");
    }
}
