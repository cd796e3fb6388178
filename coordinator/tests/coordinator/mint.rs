//! A real STS on the same database, so that a test sees what a session can do and not only what is stored of it.

use crate::support::{Answer, ISSUER, VAULT_KEY, World, text};
use axum::Router;
use axum::body::Body;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::ZoneId;
use caracal_store::StoreError;
use caracal_store::change::Change;
use caracal_store::egress::{Egress, EgressOptions};
use caracal_store::secrets::Vault;
use caracal_sts::policy::manifest_sha256;
use caracal_sts::{Config, Sts};
use http::{Method, Request};
use serde_json::{Value, json};

const GATEWAY_KEY: &str = "5d1f0c8e9b2a47366ac1d0e4f7b89325c6d7e8f9a0b1c2d3e4f5061728394a5b";

/// Orders are application `a`'s, invoices `b`'s; `drafts` and `files` belong to one DCR application each.
const POLICY: &str = r#"# caracal:data-document
package caracal.authz
import rego.v1
app_ids := {"orders-app": "a", "peer": "b", "tenant-one": "d", "tenant-two": "d2"}
grants := {
	"resource://orders": {"application": "orders-app", "roles": {
		"reader": ["orders:read"], "clerk": ["orders:read", "orders:write"]}},
	"resource://invoices": {"application": "peer", "roles": {"reader": ["invoices:read"]}},
	"resource://drafts": {"application": "tenant-one", "roles": {"tenant": ["drafts:read"]}},
	"resource://files": {"application": "tenant-two", "roles": {"tenant": ["files:read"]}},
}
"#;

/// A Coordinator and an STS on one database.
pub(crate) struct Both {
    pub(crate) world: World,
    sts: Router,
}

impl Both {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let vault = Vault::new(VAULT_KEY, None, b"h").unwrap();
        let end = world.store.now() + 3_600_000;
        world
            .sql(&format!(
                "INSERT INTO applications (id, zone_id, name, registration_method, expires_at, created_at, updated_at) \
                 VALUES ('d2', 'z1', 'd2', 'dcr', {end}, 0, 0)"
            ))
            .await;
        for application in ["a", "b", "d", "d2"] {
            let hash = vault.hash(&secret(application));
            world
                .sql(&format!(
                    "UPDATE applications SET client_secret_hash = '{hash}' WHERE id = '{application}'"
                ))
                .await;
        }
        for name in ["drafts", "files"] {
            world
                .sql(&format!(
                    "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, scopes_json, \
                     credential_provider_id, created_at, updated_at) VALUES ('res-{name}', 'z1', '{name}', \
                     'resource://{name}', 'https://{name}.test', '[\"{name}:read\"]', 'p', 0, 0)"
                ))
                .await;
        }
        let config = Config {
            store: world.store.clone(),
            keys: world.keys.clone(),
            vault,
            issuer: ISSUER.to_owned(),
            gateway_key: GatewayKey::from_hex(GATEWAY_KEY).unwrap(),
            mint_limit_per_minute: 1000,
            control_audience: "caracal-control".to_owned(),
            admin_token: None,
            egress: Egress::new(EgressOptions::default()).unwrap(),
            max_grant_ttl_seconds: 3600,
        };
        let both = Self { world, sts: Sts::new(config).router() };
        both.activate().await;
        both
    }

    async fn activate(&self) {
        let sha = manifest_sha256(&["pv"]);
        let statements = [
            "INSERT INTO policies (id, zone_id, name, created_by, created_at, updated_at) \
             VALUES ('p1', 'z1', 'All', 'test', 0, 0)"
                .to_owned(),
            "INSERT INTO policy_sets (id, zone_id, name, created_at, updated_at) VALUES ('s1', 'z1', 'All', 0, 0)"
                .to_owned(),
            format!(
                "INSERT INTO policy_versions (id, policy_id, zone_id, version, content, content_sha256, \
                 schema_version, created_at) VALUES ('pv', 'p1', 'z1', 1, '{POLICY}', '', '2026-05-20', 0)"
            ),
            format!(
                "INSERT INTO policy_set_versions (id, policy_set_id, zone_id, version, manifest_json, \
                 manifest_sha256, schema_version, created_at) VALUES ('sv', 's1', 'z1', 1, \
                 '[{{\"policy_version_id\":\"pv\"}}]', '{sha}', '2026-05-20', 0)"
            ),
            "UPDATE policy_sets SET active_version_id = 'sv', activated_at = 0 WHERE id = 's1'".to_owned(),
        ];
        let activated: Result<(), StoreError> = self
            .world
            .store
            .write(move |tx| {
                Box::pin(async move {
                    for statement in statements {
                        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *tx.connection()).await?;
                    }
                    tx.record_change(&ZoneId::new("z1").unwrap(), &Change::Policy).await?;
                    Ok(())
                })
            })
            .await;
        activated.unwrap();
    }

    async fn exchange(&self, application: &str, fields: &[(&str, &str)]) -> Answer {
        let secret = secret(application);
        let own = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", "z1"),
            ("application_id", application),
            ("client_secret", &secret),
        ];
        let form: Vec<String> =
            own.iter().chain(fields).map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let request = Request::post("/oauth/2/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form.join("&")))
            .unwrap();
        crate::support::answer(&self.sts, request).await
    }

    /// The lifecycle mandate that an application gets for its secret.
    pub(crate) async fn bootstrap(&self, application: &str) -> String {
        let own = match application {
            "a" => "resource://orders",
            "b" => "resource://invoices",
            "d" => "resource://drafts",
            _ => "resource://files",
        };
        let fields = [("scope", "agent:lifecycle"), ("resource", own)];
        text(&self.exchange(application, &fields).await.ok(), "access_token")
    }

    /// What an application gets that asks for a mandate of a session under a delegation.
    pub(crate) async fn mint(
        &self,
        application: &str,
        (session, edge): (&str, &str),
        (resource, scope): (&str, &str),
    ) -> Answer {
        let resource = format!("resource://{resource}");
        let fields = [
            ("scope", scope),
            ("resource", resource.as_str()),
            ("agent_session_id", session),
            ("delegation_edge_id", edge),
        ];
        self.exchange(application, &fields).await
    }

    /// Starts a session and answers the body.
    pub(crate) async fn start(&self, token: &str, application: &str, more: Value) -> Value {
        let mut body = json!({ "application_id": application });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.world.start(token, body).await.ok()
    }

    /// A narrowed child of a session of application `a`: itself and its delegation.
    pub(crate) async fn narrowed(
        &self,
        token: &str,
        parent: &str,
        label: &str,
        more: Value,
    ) -> (String, String) {
        let child = json!({ "parent_id": parent, "parent_authority": "none", "labels": [label] });
        let child = text(&self.start(token, "a", child).await, "agent_session_id");
        let edge = self.world.edge(token, parent, &child, more).await;
        (child, edge)
    }

    /// `PATCH` on a session or delegation.
    pub(crate) async fn patch(&self, token: &str, path: &str) -> Value {
        self.world.ask(Method::PATCH, &format!("/zones/z1/{path}"), token, None).await.ok()
    }

    /// The evidence of grants by the STS, oldest first: `metadata_json` of each.
    pub(crate) async fn grants(&self) -> Vec<Value> {
        let events = self.world.texts("SELECT event_json FROM audit_outbox ORDER BY created_at, id").await;
        let events = events.iter().map(|event| serde_json::from_str::<Value>(event).unwrap());
        events
            .filter(|event| event["event_type"] == "token_exchange" && event["decision"] == "allow")
            .map(|event| event["metadata_json"].clone())
            .filter(|metadata| metadata["agent_session_id"].is_string())
            .collect()
    }
}

/// The client secret of an application.
fn secret(application: &str) -> String {
    format!("cs_{application}_b7Hq2mZx9TfKc4VnWsYdE1RgUjLoPaQi")
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

/// The claims of a mandate.
pub(crate) fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap())
        .unwrap()
}
