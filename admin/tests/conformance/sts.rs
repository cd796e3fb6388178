//! A zone that is configured through the Admin API alone, and the STS that decides in it.

use crate::common::{Answer, Bench, id};
use crate::policy::{activate, policy, set, version};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_mandate::gateway_signature::{GatewayKey, Signed};
use caracal_store::egress::{Egress, EgressOptions};
use caracal_store::keys::ZoneKeys;
use caracal_sts::{Config, Sts};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const TOKEN_PATH: &str = "/oauth/2/token";
const CHECK_PATH: &str = "/internal/gateway/check";
const GATEWAY_KEY: &str = "5d1f0c8e9b2a47366ac1d0e4f7b89325c6d7e8f9a0b1c2d3e4f5061728394a5b";
const LATE: i64 = 32_503_680_000_000;

/// The fields of a form.
pub(crate) type Form<'a> = Vec<(&'a str, &'a str)>;

/// A zone with one application, one provider, one resource and one policy set, and sessions that delegate the resource.
pub(crate) struct Governed {
    pub(crate) zone: String,
    pub(crate) application: String,
    pub(crate) secret: String,
    pub(crate) resource: Value,
    pub(crate) set: String,
    sts: Router,
}

/// What lets the application's readers have these scopes of the orders.
pub(crate) fn document(application: &str, scopes: &[&str]) -> String {
    let grants =
        json!({ "resource://orders": { "application": "orders-app", "roles": { "reader": scopes } } });
    let keys = json!({ "orders-app": application });
    format!(
        "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\napp_ids := {keys}\ngrants := {grants}\n"
    )
}

impl Governed {
    /// Everything but a policy: what is asked is denied.
    pub(crate) async fn new(bench: &Bench, name: &str, provider: Value) -> Self {
        let zone = bench.zone(name).await;
        let path = |rest: &str| format!("/v1/zones/{zone}/{rest}");
        let body = json!({ "name": "orders-app", "registration_method": "managed" });
        let made = bench.post(&path("applications"), body).await.ok();
        let (application, secret) = (id(&made), made["client_secret"].as_str().unwrap().to_owned());
        let provider = id(&bench.post(&path("providers"), provider).await.ok());
        let body = json!({
            "name": "orders", "scopes": ["orders:read", "orders:write"], "credential_provider_id": provider,
            "upstream_url": "https://orders-1.example",
            "operations": [
                { "method": "GET", "path": "/orders", "scope": "orders:read" },
                { "method": "POST", "path": "/orders", "scope": "orders:write" },
            ],
        });
        let resource = bench.post(&path("resources"), body).await.ok();
        let set = set(bench, &zone, "all").await;
        let sts = Sts::new(Config {
            store: bench.store.clone(),
            keys: ZoneKeys::new(bench.store.clone(), bench.vault.clone()),
            vault: bench.vault.clone(),
            issuer: "http://sts:8080".to_owned(),
            gateway_key: GatewayKey::from_hex(GATEWAY_KEY).unwrap(),
            mint_limit_per_minute: 1000,
            control_audience: "caracal-control".to_owned(),
            max_grant_ttl_seconds: 3600,
            admin_token: None,
            egress: Egress::new(EgressOptions::default()).unwrap(),
        })
        .router();
        let governed = Self { zone, application, secret, resource, set, sts };
        governed.delegate(bench).await;
        governed
    }

    /// A session that reads, below one that hands it the orders, as the Coordinator makes them.
    async fn delegate(&self, bench: &Bench) {
        let Self { zone, application, .. } = self;
        let resource = id(&self.resource);
        let now = bench.store.now();
        bench
            .execute(&format!(
                "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, status, expires_at, \
                   authenticated_at, created_at) \
                 VALUES ('R{zone}', '{zone}', 'application', '{application}', '{application}', 'active', {LATE}, 0, 0); \
                 INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, lifecycle, labels_json, \
                   status, depth, ttl_seconds, started_at, last_active_at, updated_at) VALUES \
                   ('P{zone}', '{zone}', '{application}', 'R{zone}', 'task', '[]', 'active', 0, 3600, {now}, {now}, {now}), \
                   ('T{zone}', '{zone}', '{application}', 'R{zone}', 'task', '[\"reader\"]', 'active', 0, 3600, {now}, {now}, \
                   {now}); \
                 INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id, \
                   receiver_application_id, resource_id, scopes_json, constraints_json, status, expires_at, created_at, \
                   updated_at) VALUES ('E{zone}', '{zone}', 'P{zone}', 'T{zone}', '{application}', '{application}', \
                   '{resource}', '[\"orders:read\",\"orders:write\"]', '{{}}', 'active', {LATE}, 0, 0); \
                 UPDATE zones SET authority_epoch = authority_epoch + 1"
            ))
            .await;
    }

    /// Activates a set of this one document; answers its version.
    pub(crate) async fn decide(&self, bench: &Bench, document: &str) -> String {
        let name = caracal_store::ids::new_id();
        let document = policy(bench, &self.zone, &name, document).await;
        let version = version(bench, &self.zone, &self.set, &[&document]).await;
        assert_eq!(activate(bench, &self.zone, &self.set, &version).await.status, 202);
        version
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.sts.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    fn request(path: &str, form: &[(&str, &str)], request_id: &str) -> (Request<Body>, String) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-request-id", request_id)
            .body(Body::from(body.clone()));
        (request.unwrap(), body)
    }

    /// The application asks for a mandate for the gateway; `more` comes in place of fields of that name.
    pub(crate) async fn mint(&self, scope: &str, request_id: &str, more: &[(&str, &str)]) -> Answer {
        let (session, edge) = (format!("T{}", self.zone), format!("E{}", self.zone));
        let mut form: Form<'_> = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", &self.zone),
            ("application_id", &self.application),
            ("client_secret", &self.secret),
            ("scope", scope),
            ("resource", "resource://orders"),
            ("agent_session_id", &session),
            ("delegation_edge_id", &edge),
        ];
        form.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        form.extend(more);
        let (request, _) = Self::request(TOKEN_PATH, &form, request_id);
        self.send(request).await
    }

    /// A gateway asks for a request that came with this mandate.
    pub(crate) async fn present(&self, token: &str, method: &str, request_id: &str) -> Answer {
        self.signed(TOKEN_PATH, token, request_id, &[("request_method", method)]).await
    }

    /// A gateway asks whether what was derived still stands.
    pub(crate) async fn check(&self, token: &str) -> Answer {
        let more = [("request_method", "GET"), ("mandate_use", "resource")];
        self.signed(CHECK_PATH, token, &caracal_store::ids::new_id(), &more).await
    }

    async fn signed(&self, path: &str, token: &str, request_id: &str, more: &[(&str, &str)]) -> Answer {
        let mut form: Form<'_> = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", &self.zone),
            ("application_id", &self.application),
            ("resource", "resource://orders"),
            ("subject_token", token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("request_path", "/orders"),
            ("gateway_request_id", request_id),
        ];
        form.extend(more);
        let (mut request, body) = Self::request(path, &form, request_id);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let (timestamp, nonce) = (now.to_string(), caracal_store::ids::new_id());
        let signature = GatewayKey::from_hex(GATEWAY_KEY).unwrap().sign(&Signed {
            timestamp: &timestamp,
            nonce: &nonce,
            method: "POST",
            path,
            body: body.as_bytes(),
        });
        for (name, value) in [
            ("x-caracal-gateway-timestamp", timestamp),
            ("x-caracal-gateway-request", nonce),
            ("x-caracal-gateway-signature", signature),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        self.send(request).await
    }
}

/// The token of a grant.
#[track_caller]
pub(crate) fn granted(answer: Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["access_token"].as_str().unwrap().to_owned()
}

pub(crate) fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Status and why.
pub(crate) fn refusal(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.body["error_description"].as_str().unwrap_or_default())
}
