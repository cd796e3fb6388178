//! What all routes share: the store and its helpers, changing something together with its record, and the routes that
//! belong to no object.

use crate::Config;
use crate::gate::Call;
use crate::problem::Problem;
use crate::rates::{Limits, Rates};
use crate::record::{Draft, changed_fields};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use caracal_audit::Ledger;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::database::WriteFuture;
use caracal_store::keys::ZoneKeys;
use caracal_store::secrets::Vault;
use caracal_store::{Store, StoreError, WriteTx};
use caracal_sts::providers::Providers;
use serde_json::{Value, json};
use std::sync::Arc;

/// The state of the router. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) keys: ZoneKeys,
    pub(crate) ledger: Ledger,
    pub(crate) providers: Providers,
    pub(crate) rates: Rates,
    /// Held while the chains of a zone are checked.
    pub(crate) checking: tokio::sync::Mutex<()>,
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// What kind of change it was (contract admin-audit §13.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Action,
    Create,
    Delete,
    SecretRotation,
    Update,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::SecretRotation => "secret_rotation",
            Self::Update => "update",
        }
    }
}

/// A change that was made: what it was, and what the caller is told.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: StatusCode,
    /// `Null` for no body.
    pub(crate) body: Value,
    pub(crate) kind: Kind,
    pub(crate) entity: (&'static str, String),
    /// The zone it belongs to, where the path does not say.
    pub(crate) zone: Option<String>,
    /// A version of the entity that was made.
    pub(crate) version: Option<Version>,
}

/// A version that was made.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) table: &'static str,
    pub(crate) id: String,
    /// Is it the first, made together with the entity?
    pub(crate) first: bool,
}

impl Done {
    pub(crate) fn new(status: StatusCode, kind: Kind, entity: (&'static str, &str), body: Value) -> Self {
        Self { status, body, kind, entity: (entity.0, entity.1.to_owned()), zone: None, version: None }
    }

    pub(crate) fn created(entity: (&'static str, &str), body: Value) -> Self {
        Self::new(StatusCode::CREATED, Kind::Create, entity, body)
    }

    /// Made together with its first version.
    pub(crate) fn with_first(mut self, table: &'static str, version: &str) -> Self {
        self.version = Some(Version { table, id: version.to_owned(), first: true });
        self
    }

    /// A version was made, of an entity that was there before.
    pub(crate) fn versioned(
        entity: (&'static str, &str),
        version: (&'static str, &str),
        body: Value,
    ) -> Self {
        let version = Version { table: version.0, id: version.1.to_owned(), first: false };
        Self { version: Some(version), ..Self::created(entity, body) }
    }

    pub(crate) fn updated(entity: (&'static str, &str), body: Value) -> Self {
        Self::new(StatusCode::OK, Kind::Update, entity, body)
    }

    pub(crate) fn deleted(entity: (&'static str, &str)) -> Self {
        Self::new(StatusCode::NO_CONTENT, Kind::Delete, entity, Value::Null)
    }
}

impl App {
    pub(crate) fn new(config: Config, limits: Limits) -> Self {
        let ledger = Ledger::new(config.store.clone(), config.hmac_key);
        let Config { store, vault, keys, providers, .. } = config;
        let (rates, checking) = (Rates::new(limits), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { store, vault, keys, ledger, providers, rates, checking }))
    }

    /// Makes a change and its record in one transaction, and answers after the commit. `request` is the body that asked
    /// for it; of it only the names of its members are recorded.
    pub(crate) async fn change<F>(
        &self,
        call: &Call,
        request: Option<&Value>,
        work: F,
    ) -> Result<Response, Problem>
    where
        F: for<'c> FnOnce(&'c mut WriteTx<'_>) -> WriteFuture<'c, Done, Problem> + Send + 'static,
    {
        let done = self.commit(call, request, work).await?;
        Ok(if done.body.is_null() {
            done.status.into_response()
        } else {
            (done.status, Json(done.body)).into_response()
        })
    }

    /// The same, for whoever has more to say than what was committed.
    pub(crate) async fn commit<F>(
        &self,
        call: &Call,
        request: Option<&Value>,
        work: F,
    ) -> Result<Done, Problem>
    where
        F: for<'c> FnOnce(&'c mut WriteTx<'_>) -> WriteFuture<'c, Done, Problem> + Send + 'static,
    {
        let draft = Draft::of(call, changed_fields(request));
        let by = call.clone();
        let key = self.ledger.key().clone();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    let mut done = work(tx).await?;
                    crate::attribution::mark(tx, &by, &mut done).await?;
                    draft.write(tx, &key, &done).await?;
                    Ok::<_, Problem>(done)
                })
            })
            .await
    }

    /// 404 unless the zone is there.
    pub(crate) async fn require_zone(&self, zone: &ZoneId) -> Result<(), Problem> {
        let mut connection = self.store.read().await?;
        require_zone(&mut connection, zone).await
    }
}

/// 404 unless the zone is there.
pub(crate) async fn require_zone(connection: &mut SqlConnection, zone: &ZoneId) -> Result<(), Problem> {
    match caracal_store::model::Zone::find(connection, zone).await? {
        Some(_) => Ok(()),
        None => Err(Problem::absent("zone_not_found")),
    }
}

/// Marks a row of a table whose rows are archived and not deleted.
pub(crate) async fn archive_row(
    tx: &mut WriteTx<'_>,
    table: &'static str,
    id: &str,
    author: &str,
) -> Result<(), StoreError> {
    let sql = format!("UPDATE {table} SET archived_at = $1, updated_at = $1, updated_by = $2 WHERE id = $3");
    let now = tx.now();
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(now).bind(author).bind(id);
    query.execute(&mut *tx.connection()).await?;
    Ok(())
}

/// A zone's id from the path.
pub(crate) fn zone_id(text: &str) -> Result<ZoneId, Problem> {
    ZoneId::new(text).map_err(|_| Problem::invalid("invalid_params"))
}

pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "ok": true }))
}

pub(crate) async fn ready(State(app): State<App>) -> Response {
    match app.store.ping().await {
        Ok(()) => Json(json!({ "ok": true })).into_response(),
        Err(error) => {
            tracing::error!(%error, "the database does not answer");
            let body = json!({ "ok": false, "error": "database_unreachable", "dependency": "database" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

pub(crate) async fn not_found() -> Problem {
    Problem::absent("not_found").because("there is no such route")
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
}
