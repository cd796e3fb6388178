//! The Admin API on a real SQLite file, called through its router.
#![allow(missing_docs, dead_code, unreachable_pub)]

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use caracal_admin::{Config, Limits, router_with, seed};
use caracal_store::egress::{Egress, EgressOptions};
use caracal_store::keys::ZoneKeys;
use caracal_store::openapi::{Operation, violations};
use caracal_store::secrets::Vault;
use caracal_store::{Store, StoreError};
use caracal_sts::providers::Providers;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use tower::ServiceExt as _;

pub const BOOTSTRAP: &str = "bootstrap-token-of-more-than-32-characters";
pub const CHAIN_KEY: &[u8] = b"chain-key-of-32-bytes-or-more-00";
const KEK: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";

pub struct Bench {
    _dir: tempfile::TempDir,
    pub store: Store,
    pub vault: Vault,
    router: axum::Router,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["error"].as_str().unwrap_or(""))
    }

    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }
}

pub fn config(store: &Store, token: &str) -> Config {
    config_calling(store, token, Egress::new(EgressOptions::default()).unwrap())
}

/// The same, where providers are called this way.
pub fn config_calling(store: &Store, token: &str, egress: Egress) -> Config {
    let vault = Vault::new(KEK, None, b"hash-key").unwrap();
    let providers = Providers::new(store.clone(), vault.clone(), egress, 3600);
    Config {
        store: store.clone(),
        keys: ZoneKeys::new(store.clone(), vault.clone()),
        vault,
        admin_token: token.to_owned(),
        hmac_key: CHAIN_KEY.to_vec(),
        providers,
    }
}

pub async fn bench() -> Bench {
    bench_calling(Egress::new(EgressOptions::default()).unwrap()).await
}

/// The same, where providers are called this way.
pub async fn bench_calling(egress: Egress) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    let config = config_calling(&store, BOOTSTRAP, egress);
    seed(&config).await.unwrap();
    let vault = config.vault.clone();
    // A test asks more often than a person; the limits have tests of their own.
    let limits = Limits { requests_per_minute: 0, failures_per_minute: 0, ..Limits::default() };
    Bench { _dir: dir, store, vault, router: router_with(config, limits) }
}

/// Every answer that a test gets has to be one that the API's document declares.
fn hold_to_document(method: &str, path: &str, status: StatusCode, headers: &HeaderMap, body: &Value) {
    static DOCUMENT: LazyLock<(Value, Vec<Operation>)> =
        LazyLock::new(|| (caracal_admin::document(), caracal_admin::operations()));
    let (document, operations) = &*DOCUMENT;
    let is_json = headers.get("content-type").is_some_and(|media| media == "application/json");
    let answer = (status.as_u16(), is_json.then_some(body));
    let found = violations(document, operations, (method, path), answer);
    assert!(found.is_empty(), "{path}: {found:#?}");
}

/// Status and code of every row of the error reference that is about the Admin API, or about every service.
pub fn errors() -> BTreeSet<(u16, String)> {
    const REFERENCE: &str = include_str!("../../../docs/errors.md");
    let (_, section) = REFERENCE.split_once("## The Admin API").expect("a section on the Admin API");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let status = cells.next()?.parse().ok()?;
        Some((status, cells.next()?.trim_matches('`').to_owned()))
    };
    section.lines().filter_map(row).collect()
}

/// A refusal has a status and a code that the error reference names.
fn hold_to_reference(path: &str, status: StatusCode, body: &Value) {
    static ERRORS: LazyLock<BTreeSet<(u16, String)>> = LazyLock::new(errors);
    let code = body["error"].as_str().unwrap_or_default();
    if status.as_u16() >= 400 && path != "/ready" && body.is_object() {
        let known = ERRORS.contains(&(status.as_u16(), code.to_owned()));
        assert!(known, "{path}: {} {code} is not in docs/errors.md", status.as_u16());
    }
}

impl Bench {
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            // What is no JSON, as CSV, is kept as its text.
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8(bytes.to_vec()).unwrap().into())
        };
        hold_to_document(method.as_str(), &path, status, &headers, &body);
        hold_to_reference(&path, status, &body);
        Answer { status, headers, body }
    }

    pub async fn call(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(BOOTSTRAP, "GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(BOOTSTRAP, "POST", path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(BOOTSTRAP, "PATCH", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(BOOTSTRAP, "DELETE", path, None).await
    }

    pub async fn zone(&self, name: &str) -> String {
        id(&self.post("/v1/zones", json!({ "name": name })).await.ok())
    }

    pub async fn provider(&self, zone: &str, name: &str) -> String {
        let body = json!({ "name": name, "kind": "caracal_mandate" });
        id(&self.post(&format!("/v1/zones/{zone}/providers"), body).await.ok())
    }

    pub async fn resource(&self, zone: &str, provider: &str, name: &str) -> Value {
        let body = json!({
            "name": name, "scopes": ["orders:read", "orders:write"], "credential_provider_id": provider,
            "upstream_url": "http://127.0.0.1:9000",
            "operations": [{ "method": "get", "path": "/orders", "scope": "orders:read" }],
        });
        self.post(&format!("/v1/zones/{zone}/resources"), body).await.ok()
    }

    /// A token with this scope and capability.
    pub async fn token(&self, zone: Option<&str>, capability: &str) -> String {
        let scope = if zone.is_some() { "zone" } else { "global" };
        let mut body = json!({ "name": "t", "scope": scope, "capability": capability });
        if let Some(zone) = zone {
            body["zone_id"] = zone.into();
        }
        self.post("/v1/admin-tokens", body).await.ok()["token"].as_str().unwrap().to_owned()
    }

    pub async fn execute(&self, sql: &str) {
        let sql = sql.to_owned();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx.connection()).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .unwrap();
    }

    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *self.store.read().await.unwrap()).await.unwrap()
    }

    /// The changes of the log after `seq`, as their JSON.
    pub async fn changes_after(&self, seq: i64) -> Vec<Value> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT change_json FROM change_log WHERE seq > $1 ORDER BY seq")
                .bind(seq)
                .fetch_all(&mut *self.store.read().await.unwrap())
                .await
                .unwrap();
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    pub async fn last_change(&self) -> i64 {
        self.number("SELECT value FROM sequences WHERE name = 'change_log'").await
    }
}

pub fn id(row: &Value) -> String {
    row["id"].as_str().unwrap_or_else(|| panic!("no id in {row}")).to_owned()
}
