//! A zone with applications, resources and mandates, and a way to ask.

use axum::Router;
use axum::body::Body;
use caracal_coordinator::{Config, Counters, Limits, router};
use caracal_mandate::claims::{Claims, SubjectType};
use caracal_mandate::id::ZoneId;
use caracal_store::keys::ZoneKeys;
use caracal_store::model::{AuthorityRecord, NewAuthorityRecord, RecordStatus};
use caracal_store::openapi::{Operation, violations};
use caracal_store::secrets::Vault;
use caracal_store::{Store, StoreError, ids};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use tower::ServiceExt as _;

pub(crate) const ISSUER: &str = "http://sts.test";
pub(crate) const OPERATOR: &str = "operator-token-of-the-tests";
pub(crate) const VAULT_KEY: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) keys: ZoneKeys,
    pub(crate) config: Config,
    pub(crate) router: Router,
    dir: Arc<tempfile::TempDir>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["error"].as_str().unwrap_or(""))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }
}

pub(crate) fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}")).to_owned()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let world = Self::open(Arc::new(tempfile::tempdir().unwrap()), limits).await;
        world.seed().await;
        world
    }

    /// A second process on the same database.
    pub(crate) async fn replica(&self) -> Self {
        Self::open(Arc::clone(&self.dir), self.config.limits.clone()).await
    }

    async fn open(dir: Arc<tempfile::TempDir>, limits: Limits) -> Self {
        let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
        let keys = ZoneKeys::new(store.clone(), Vault::new(VAULT_KEY, None, b"h").unwrap());
        let config = Config {
            store: store.clone(),
            keys: keys.clone(),
            issuer: ISSUER.to_owned(),
            operator_token: Some(OPERATOR.to_owned()),
            limits,
            counters: Counters::default(),
            groups: caracal_coordinator::Groups::default(),
        };
        Self { store, keys, router: router(config.clone()), config, dir }
    }

    async fn seed(&self) {
        for zone in ["z1", "z2"] {
            self.sql(&format!(
                    "INSERT INTO zones (id, name, slug, created_at, updated_at) VALUES ('{zone}', '{zone}', '{zone}', 0, 0)"
                ))
                .await;
        }
        let end = self.store.now() + 3_600_000;
        for (id, zone, method, end) in [
            ("a", "z1", "managed", "NULL".to_owned()),
            ("b", "z1", "managed", "NULL".to_owned()),
            ("d", "z1", "dcr", end.to_string()),
            ("other", "z2", "managed", "NULL".to_owned()),
        ] {
            self.sql(&format!(
                    "INSERT INTO applications (id, zone_id, name, registration_method, expires_at, created_at, updated_at) \
                     VALUES ('{id}', '{zone}', '{id}', '{method}', {end}, 0, 0)"
                ))
                .await;
        }
        self.sql(
            "INSERT INTO providers (id, zone_id, name, identifier, kind, created_at, updated_at) \
                  VALUES ('p', 'z1', 'p', 'p', 'caracal_mandate', 0, 0)",
        )
        .await;
        for (id, scopes) in [
            ("orders", r#"["orders:read","orders:write"]"#),
            ("invoices", r#"["invoices:read"]"#),
            ("archived", r#"["x"]"#),
        ] {
            self.sql(&format!(
                "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, scopes_json, \
                     credential_provider_id, created_at, updated_at) VALUES ('res-{id}', 'z1', '{id}', \
                     'resource://{id}', 'http://{id}', '{scopes}', 'p', 0, 0)"
            ))
            .await;
        }
        self.sql("UPDATE resources SET archived_at = 1 WHERE id = 'res-archived'").await;
    }

    pub(crate) async fn sql(&self, statement: &str) {
        let statement = statement.to_owned();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *tx.connection()).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .unwrap();
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        let mut connection = self.store.read().await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned())).fetch_one(&mut *connection).await.unwrap()
    }

    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let mut connection = self.store.read().await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned())).fetch_all(&mut *connection).await.unwrap()
    }

    /// A record in storage and the claims of its mandate, to be changed before signing.
    pub(crate) async fn claims(&self, zone: &str, application: &str, subject: Option<&str>) -> Claims {
        let (now, sid) = (self.store.now(), ids::new_id());
        let (kind, sub_type) = match subject {
            None => (SubjectType::Application, "application"),
            Some(_) => (SubjectType::User, "user"),
        };
        let record = AuthorityRecord {
            id: sid.clone().try_into().unwrap(),
            zone_id: ZoneId::new(zone).unwrap(),
            subject_type: kind,
            subject_id: subject.unwrap_or(application).to_owned(),
            application_id: application.parse().unwrap(),
            parent_id: None,
            status: RecordStatus::Active,
            expires_at: now + 900_000,
        };
        let record = NewAuthorityRecord { record, claims_json: "{}".to_owned() };
        self.store.write(move |tx| Box::pin(async move { record.insert(tx).await })).await.unwrap();
        let scope = if subject.is_some() { "" } else { "agent:lifecycle" };
        serde_json::from_value(json!({
            "iss": ISSUER, "sub": subject.unwrap_or(application), "aud": [ISSUER], "exp": now / 1000 + 900,
            "iat": now / 1000, "jti": ids::new_id(), "zone_id": zone, "client_id": application, "scope": scope,
            "sid": sid, "root_sid": sid, "use": "session", "sub_type": sub_type,
        }))
        .unwrap()
    }

    /// A lifecycle mandate with further scopes.
    pub(crate) async fn token(&self, application: &str, scopes: &str) -> String {
        let zone = if application == "other" { "z2" } else { "z1" };
        let mut claims = self.claims(zone, application, None).await;
        claims.scope = format!("agent:lifecycle {scopes}").trim().to_owned();
        self.keys.sign(&claims).await.unwrap()
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        self.ask_with(method, path, token, body, &[]).await
    }

    pub(crate) async fn ask_with(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        answer(&self.router, request).await
    }

    pub(crate) async fn start(&self, token: &str, body: Value) -> Answer {
        self.ask(Method::POST, "/zones/z1/agents", token, Some(body)).await
    }

    /// A task of application `a`; answers its id.
    pub(crate) async fn task(&self, token: &str, parent: Option<&str>, authority: &str) -> String {
        let body = json!({ "application_id": "a", "parent_id": parent, "parent_authority": authority });
        text(&self.start(token, body).await.ok(), "agent_session_id")
    }

    pub(crate) async fn delegate(&self, token: &str, source: &str, target: &str, more: Value) -> Answer {
        let mut body = json!({
            "source_session_id": source, "target_session_id": target, "issuer_application_id": "a",
            "receiver_application_id": "a", "scopes": ["orders:read"], "resource_id": "resource://orders",
            "ttl_seconds": 300,
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body.as_object_mut().unwrap().retain(|_, value| *value != json!("-"));
        self.ask(Method::POST, "/zones/z1/delegations", token, Some(body)).await
    }

    pub(crate) async fn edge(&self, token: &str, source: &str, target: &str, more: Value) -> String {
        text(&self.delegate(token, source, target, more).await.ok(), "delegation_edge_id")
    }

    pub(crate) async fn status(&self, table: &str, id: &str) -> String {
        self.texts(&format!("SELECT status FROM {table} WHERE id = '{id}'")).await.remove(0)
    }
}

/// What a service answers.
pub(crate) async fn answer(router: &Router, request: Request<Body>) -> Answer {
    static DOCUMENT: LazyLock<(Value, Vec<Operation>)> =
        LazyLock::new(|| (caracal_coordinator::document(), caracal_coordinator::operations()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    let said = (parts.status.as_u16(), (!bytes.is_empty()).then_some(&body));
    let found = violations(&DOCUMENT.0, &DOCUMENT.1, (method.as_str(), &path), said);
    assert!(found.is_empty(), "not as the document says: {found:#?}");
    Answer { status: parts.status, headers: parts.headers, body }
}
