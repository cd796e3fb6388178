//! A zone with applications, resources, policy, sessions and a delegation in a real database, and an STS in front.

mod request;
mod seed;

pub(crate) use request::{Answer, FORM, Form, GatewayCall, claims_of, header_of};
pub(crate) use seed::POLICY;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use caracal_store::change::Change;
use caracal_store::egress::{Egress, EgressOptions};
use caracal_store::keys::ZoneKeys;
use caracal_store::secrets::Vault;
use caracal_store::{Store, StoreError};
use caracal_sts::{AdminToken, Config, Sts};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row as _};
use tower::ServiceExt as _;

pub(crate) const ISSUER: &str = "http://sts:8080";
pub(crate) const ORDERS: &str = "resource://orders";
pub(crate) const LEDGER: &str = "resource://ledger";
pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub(crate) const SECRET: &str = "cs_b7Hq2mZx9TfKc4VnWsYdE1RgUjLoPaQi";
pub(crate) const PEER_SECRET: &str = "cs_peer8Nw3tXkQz5MvBhJ2rLsDfGyCeUa";
pub(crate) const GATEWAY_KEY: &str = "5d1f0c8e9b2a47366ac1d0e4f7b89325c6d7e8f9a0b1c2d3e4f5061728394a5b";
pub(crate) const ADMIN_TOKEN: &str = "sat_0c1d2e3f4a5b6c7d8e9fa0b1c2d3e4f5a6b7c8d9";
pub(crate) const VAULT_KEY: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";

pub(crate) const HASH_KEY: &[u8] = b"hash key of the tests";

/// How many mandates a minute an application may mint for one resource, unless a test says otherwise.
pub(crate) const MINT_LIMIT: i64 = 1000;

/// Everything that a test needs.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) keys: ZoneKeys,
    pub(crate) router: Router,
    directory: tempfile::TempDir,
}

pub(crate) fn zone() -> ZoneId {
    ZoneId::new("z1").unwrap()
}

fn service(store: &Store, vault: &Vault, keys: &ZoneKeys, mint_limit_per_minute: i64) -> Router {
    Sts::new(config(store, vault, keys, mint_limit_per_minute)).router()
}

/// What the service under test is told.
pub(crate) fn config(store: &Store, vault: &Vault, keys: &ZoneKeys, mint_limit_per_minute: i64) -> Config {
    Config {
        store: store.clone(),
        keys: keys.clone(),
        vault: vault.clone(),
        issuer: ISSUER.to_owned(),
        gateway_key: GatewayKey::from_hex(GATEWAY_KEY).unwrap(),
        mint_limit_per_minute,
        control_audience: "caracal-control".to_owned(),
        max_grant_ttl_seconds: 3600,
        admin_token: Some(AdminToken::new(ADMIN_TOKEN.to_owned())),
        egress: Egress::new(EgressOptions::default()).unwrap(),
    }
}

impl World {
    /// The zone of contract sts §31, as [`seed`] lays it out.
    pub(crate) async fn new() -> Self {
        Self::with_mint_limit(MINT_LIMIT).await
    }

    pub(crate) async fn with_mint_limit(limit: i64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_file(&directory.path().join("caracal.db")).await.unwrap();
        let vault = Vault::new(VAULT_KEY, None, HASH_KEY).unwrap();
        let keys = ZoneKeys::new(store.clone(), vault.clone());
        let router = service(&store, &vault, &keys, limit);
        let world = Self { store, vault, keys, router, directory };
        world.seed().await;
        world
    }

    /// The same state behind a new service that calls others this way.
    #[allow(dead_code, reason = "not every test binary has something to call")]
    pub(crate) fn calling(self, egress: Egress) -> Self {
        let config = Config { egress, ..config(&self.store, &self.vault, &self.keys, MINT_LIMIT) };
        Self { router: Sts::new(config).router(), ..self }
    }

    /// The same state behind a service that has cached nothing, as after a restart.
    pub(crate) async fn restarted(self) -> Self {
        self.store.close().await;
        let store = Store::open_file(&self.directory.path().join("caracal.db")).await.unwrap();
        let keys = ZoneKeys::new(store.clone(), self.vault.clone());
        let router = service(&store, &self.vault, &keys, MINT_LIMIT);
        Self { store, keys, router, ..self }
    }

    /// A second service on the same database, as another process has it.
    pub(crate) async fn opened_again(&self) -> Self {
        self.opened_with(self.vault.clone()).await
    }

    /// The same, with other keys to its secrets.
    pub(crate) async fn opened_with(&self, vault: Vault) -> Self {
        let store = Store::open_file(&self.directory.path().join("caracal.db")).await.unwrap();
        let keys = ZoneKeys::new(store.clone(), vault.clone());
        let router = service(&store, &vault, &keys, MINT_LIMIT);
        let directory = tempfile::tempdir().unwrap();
        Self { store, vault, keys, router, directory }
    }

    /// The same service, with no token for operators.
    pub(crate) fn without_admin_token(self) -> Self {
        let config = config(&self.store, &self.vault, &self.keys, MINT_LIMIT);
        let router = Sts::new(Config { admin_token: None, ..config }).router();
        Self { router, ..self }
    }

    /// The service itself.
    pub(crate) fn sts(&self) -> Sts {
        Sts::new(config(&self.store, &self.vault, &self.keys, MINT_LIMIT))
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.directory.path().join("caracal.db")
    }

    /// Moves the database's file away; answers where it is.
    pub(crate) fn move_database(&self, name: &str) -> std::path::PathBuf {
        let moved = self.directory.path().join(name);
        std::fs::rename(self.database(), &moved).unwrap();
        moved
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        answer(self.router.clone(), request).await
    }

    /// The answer to a request that runs beside others.
    pub(crate) fn spawn(&self, request: Request<Body>) -> tokio::task::JoinHandle<Answer> {
        tokio::spawn(answer(self.router.clone(), request))
    }

    /// Sends a form to the token endpoint.
    pub(crate) async fn exchange(&self, form: &Form) -> Answer {
        self.send(form.request()).await
    }

    /// A gateway mandate for the orders, as in contract sts §31.2.
    pub(crate) async fn mandate(&self) -> String {
        self.exchange(&Form::mint()).await.granted()
    }

    /// What a gateway is answered that presents this mandate.
    pub(crate) async fn present(&self, token: &str) -> Answer {
        self.send(GatewayCall::new(Form::usage(token)).request()).await
    }

    /// Changes the database behind the service's back. The zones' epochs rise, as with every change of what requests are
    /// judged by.
    pub(crate) async fn sql(&self, sql: &str) {
        let sql = sql.to_owned();
        let changed: Result<(), StoreError> = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let raise = || sqlx::raw_sql("UPDATE zones SET authority_epoch = authority_epoch + 1");
                    // Before, where it takes the zones away; after, where it brings them back.
                    let raised = raise().execute(&mut *tx.connection()).await.is_ok();
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx.connection()).await?;
                    if !raised {
                        raise().execute(&mut *tx.connection()).await?;
                    }
                    Ok(())
                })
            })
            .await;
        changed.unwrap();
    }

    /// Changes the database and records the change, as every service does.
    pub(crate) async fn change(&self, sql: &str, change: Change) {
        let sql = sql.to_owned();
        let changed: Result<(), StoreError> = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx.connection()).await?;
                    tx.record_change(&zone(), &change).await?;
                    Ok(())
                })
            })
            .await;
        changed.unwrap();
    }

    /// Revokes an edge the way the Coordinator does.
    pub(crate) async fn revoke_edge(&self, id: &str) {
        self.change(&revocation_of_edge(id), edge_revoked(id)).await;
    }

    /// Every row of every table as text.
    pub(crate) async fn everything_stored(&self) -> String {
        let mut connection = self.store.read().await.unwrap();
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'",
        )
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        let mut text = String::new();
        for table in tables {
            let columns: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")))
                    .fetch_all(&mut *connection)
                    .await
                    .unwrap();
            let columns: Vec<String> =
                columns.iter().map(|column| format!("coalesce(CAST({column} AS TEXT), '')")).collect();
            let sql = format!("SELECT {} AS line FROM {table}", columns.join(" || '|' || "));
            for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap() {
                text.push_str(&format!("{table}: {}\n", row.get::<String, _>("line")));
            }
        }
        text
    }

    /// The audit events so far, oldest first.
    pub(crate) async fn events(&self) -> Vec<Value> {
        let mut connection = self.store.read().await.unwrap();
        let rows: Vec<String> = sqlx::query_scalar("SELECT event_json FROM audit_outbox ORDER BY rowid")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    /// `decision/evaluation_status` of every event of one request.
    pub(crate) async fn verdicts(&self, request_id: &str) -> Vec<String> {
        let events = self.events().await;
        let own = events.iter().filter(|event| event["request_id"] == request_id);
        own.map(|event| {
            let word = |name: &str| event[name].as_str().unwrap().to_owned();
            format!("{} {}/{}", word("event_type"), word("decision"), word("evaluation_status"))
        })
        .collect()
    }

    /// One number out of the database.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.store.read().await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut *connection).await.unwrap()
    }
}

async fn answer(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub(crate) fn revocation_of_edge(id: &str) -> String {
    format!("UPDATE delegation_edges SET status = 'revoked', revoked_at = 1 WHERE id = '{id}'")
}

pub(crate) fn edge_revoked(id: &str) -> Change {
    Change::Revoked { anchors: vec![Anchor::DelegationEdge(DelegationEdgeId::new(id).unwrap())] }
}

pub(crate) fn session_anchor(id: &str) -> Vec<Anchor> {
    vec![Anchor::AgentSession(AgentSessionId::new(id).unwrap())]
}
