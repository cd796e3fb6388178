//! Calls between agents, written down before they happen: made, looked at, listed (contract coordinator §8).

use crate::body::{self, Fields};
use crate::caller::{Caller, path_id};
use crate::config::{Config, Limits};
use crate::failure::{Code, Failure};
use crate::page::{self, Page, Table};
use crate::receipt::{INVOCATION_CREATE, Key, Receipt, Reply};
use crate::services;
use crate::sessions::{QueryArgument, members};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use caracal_mandate::id::{AgentSessionId, ApplicationId};
use caracal_store::SqlConnection;
use caracal_store::clock::iso;
use caracal_store::model::{AgentSession, Lifecycle};
use caracal_store::{WriteTx, ids};
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::sync::Arc;

pub(crate) const COLUMNS: &str = "id, zone_id, service_id, source_session_id, target_session_id, method, status, \
     attempts, max_attempts, timeout_ms, retry_policy_json, deadline_at, cancel_requested_at, started_at, \
     completed_at, created_at";
pub(crate) const STATUSES: [&str; 7] =
    ["pending", "running", "succeeded", "failed", "cancel_requested", "canceled", "timed_out"];
const MAX_NAME: usize = 255;

/// What is to be called.
#[derive(Debug)]
struct Invocation {
    service: String,
    source: Option<AgentSessionId>,
    target: Option<AgentSessionId>,
    key: String,
    method: String,
    params: Value,
    metadata: Value,
    timeout_ms: i64,
    max_attempts: i64,
    backoff_ms: i64,
}

impl Invocation {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut fields = Fields::parse(bytes)?;
        let service = name(&mut fields, "service_id");
        let method = name(&mut fields, "method");
        let key = fields.text("idempotency_key");
        if key.is_none() {
            fields.issue(&["idempotency_key"], "is required, a text");
        }
        let source = fields.nullable("source_session_id");
        let target = fields.nullable("target_session_id");
        let params = fields.take("params").unwrap_or_else(|| json!({}));
        let metadata = Value::Object(fields.object("metadata"));
        let timeout_ms = fields.integer("timeout_ms", 1..=900_000).unwrap_or(30_000);
        let retry = Value::Object(fields.object("retry_policy"));
        fields.finish()?;
        let mut retry = Fields::parse(retry.to_string().as_bytes())?;
        let max_attempts = retry.integer("max_attempts", 1..=10).unwrap_or(3);
        let backoff_ms = retry.integer("backoff_ms", 0..=300_000).unwrap_or(1000);
        retry.finish()?;
        Ok(Self {
            service: fields.whole(service)?,
            source,
            target,
            key: fields.whole(key)?,
            method: fields.whole(method)?,
            params,
            metadata,
            timeout_ms,
            max_attempts,
            backoff_ms,
        })
    }

    fn retry_policy(&self) -> Value {
        json!({ "max_attempts": self.max_attempts, "backoff_ms": self.backoff_ms })
    }

    fn identity(&self, caller: &Caller) -> Value {
        json!({
            "principal": { "client_id": caller.name(), "subject": caller.subject() },
            "service_id": self.service,
            "source_session_id": self.source,
            "target_session_id": self.target,
            "method": self.method,
            "params": self.params,
            "metadata": self.metadata,
            "timeout_ms": self.timeout_ms,
            "retry_policy": self.retry_policy(),
        })
    }
}

fn name(fields: &mut Fields, member: &str) -> Option<String> {
    let text = fields.text(member).filter(|text| (1..=MAX_NAME).contains(&text.len()));
    if text.is_none() {
        fields.issue(&[member], "is required, a text of 1 to 255 bytes");
    }
    text
}

/// `POST /zones/{zone}/invocations`
pub(crate) async fn create_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Reply, Failure> {
    let bytes = body::read(body, config.limits.body_bytes).await?;
    let invocation = Invocation::parse(&bytes)?;
    let key = Key::of(&invocation.key)?;
    let limits = config.limits.clone();
    config
        .store
        .write(move |tx| Box::pin(async move { create(tx, &limits, &caller, &invocation, &key).await }))
        .await
}

/// Takes one from what an application may do with calls in this minute (contract coordinator §2.3).
pub(crate) async fn charge(tx: &mut WriteTx<'_>, limits: &Limits, caller: &Caller) -> Result<(), Failure> {
    let most = limits.invocations_per_minute;
    let key = format!("invocation:{}:{}", caller.zone, caller.name());
    if most > 0 && tx.count(&key, 60_000).await? > most {
        caracal_store::metrics::rate_limited(caracal_store::metrics::Service::Coordinator, "invocation");
        return Err(Failure::because(Code::RateLimited, "the calls of this minute are used up"));
    }
    Ok(())
}

async fn create(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    invocation: &Invocation,
    key: &Key,
) -> Result<Reply, Failure> {
    let now = tx.now();
    caller.check_stands(tx.connection(), now).await?;
    let of_service = services::owner(tx.connection(), caller, &invocation.service).await?;
    let source = endpoint(tx.connection(), caller, invocation.source.as_ref(), now).await?;
    endpoint(tx.connection(), caller, invocation.target.as_ref(), now).await?;
    if invocation.source.is_some() && invocation.source == invocation.target {
        return Err(Failure::because(Code::SessionNotFound, "a session does not call itself"));
    }
    let scope = source.unwrap_or(of_service);
    if !caller.is_admin() && !caller.acts_for(&scope, "invoke_from") {
        return Err(Code::InvokerOwnershipRequired.into());
    }
    let receipt =
        Receipt::new(key, INVOCATION_CREATE, &caller.zone, scope.as_str(), invocation.identity(caller));
    if let Some(recorded) = receipt.find(tx, limits).await? {
        return Ok(recorded.reply);
    }
    charge(tx, limits, caller).await?;
    let id = ids::new_id();
    let sql = format!(
        "INSERT INTO agent_invocations (id, zone_id, service_id, source_session_id, target_session_id, method, \
         params_json, metadata_json, status, max_attempts, timeout_ms, retry_policy_json, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $10, $11, $12, $12) RETURNING {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(id.as_str())
        .bind(caller.zone.as_str())
        .bind(invocation.service.as_str())
        .bind(invocation.source.as_ref().map(AgentSessionId::as_str))
        .bind(invocation.target.as_ref().map(AgentSessionId::as_str))
        .bind(invocation.method.as_str())
        .bind(invocation.params.to_string())
        .bind(invocation.metadata.to_string())
        .bind(invocation.max_attempts)
        .bind(invocation.timeout_ms)
        .bind(invocation.retry_policy().to_string())
        .bind(now)
        .fetch_one(&mut *tx.connection())
        .await?;
    let made = to_json(&row)?;
    caller.cause("requested").write(tx, "invocation_created", evidence(&made, caller)).await?;
    let mut reply = Reply::created(made);
    receipt.keep(tx, &id, &mut reply, limits).await?;
    Ok(reply)
}

/// The application of a session that a call may come from or go to: a task that acts (contract §8).
async fn endpoint(
    connection: &mut SqlConnection,
    caller: &Caller,
    id: Option<&AgentSessionId>,
    now: i64,
) -> Result<Option<ApplicationId>, Failure> {
    let Some(id) = id else { return Ok(None) };
    let session = AgentSession::find(connection, &caller.zone, id).await?;
    let session = session.filter(|session| session.lifecycle == Lifecycle::Task && session.is_active(now));
    let session = session.ok_or_else(|| {
        Failure::because(Code::SessionNotFound, format!("{id} is not the session of a task that acts"))
    })?;
    Ok(Some(session.application_id))
}

/// Who may look at an invocation: the application of its service or of one of its sessions, and the administrator.
/// `?` is the application.
const SEEN: &str = "(service_id IN (SELECT id FROM agent_services WHERE application_id = ?) \
     OR source_session_id IN (SELECT id FROM sessions WHERE application_id = ?) \
     OR target_session_id IN (SELECT id FROM sessions WHERE application_id = ?))";

fn scope(caller: &Caller) -> Vec<(String, Vec<String>)> {
    let mut conditions = vec![("zone_id = ?".to_owned(), vec![caller.zone.to_string()])];
    if !caller.is_admin() {
        conditions.push((SEEN.to_owned(), vec![caller.name().to_owned(); 3]));
    }
    conditions
}

/// `GET /zones/{zone}/invocations`
pub(crate) async fn list_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    let query = members(query)?;
    let page = Page::parse(&query)?;
    let mut conditions = scope(&caller);
    if let Some(status) = query.get("status") {
        if !STATUSES.contains(&status.as_str()) {
            return Err(Failure::because(Code::InvalidQuery, "status is none of its words"));
        }
        conditions.push(("status = ?".to_owned(), vec![status.clone()]));
    }
    if let Some(service) = query.get("service_id") {
        conditions.push(("service_id = ?".to_owned(), vec![service.clone()]));
    }
    if let Some(session) = query.get("session_id") {
        let either = "(source_session_id = ? OR target_session_id = ?)".to_owned();
        conditions.push((either, vec![session.clone(), session.clone()]));
    }
    let table = Table { name: "agent_invocations", columns: COLUMNS };
    let mut connection = config.store.read().await?;
    let rows = page::rows(&mut connection, &table, conditions, &page).await?;
    let items = rows.iter().map(to_json).collect::<Result<_, _>>()?;
    let last = page::last_id(&rows)?;
    Ok(Json(page.body(items, last.as_deref())))
}

/// `GET /zones/{zone}/invocations/{invocation}`
pub(crate) async fn get_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, invocation)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id: AgentSessionId = path_id(invocation)?;
    let mut conditions = scope(&caller);
    conditions.push(("id = ?".to_owned(), vec![id.to_string()]));
    let columns = "id, zone_id, service_id, source_session_id, target_session_id, method, status, attempts, \
         max_attempts, timeout_ms, retry_policy_json, deadline_at, cancel_requested_at, started_at, completed_at, \
         created_at, params_json, metadata_json, error_json";
    let table = Table { name: "agent_invocations", columns };
    let mut connection = config.store.read().await?;
    let rows = page::rows(&mut connection, &table, conditions, &Page { limit: 1, cursor: None }).await?;
    let row = rows.first().ok_or(Code::InvocationNotFound)?;
    let mut body = to_json(row)?;
    if let Some(members) = body.as_object_mut() {
        for column in ["params_json", "metadata_json", "error_json"] {
            members.insert(column.to_owned(), page::json_column(row, column)?);
        }
    }
    Ok(Json(body))
}

/// What the audit trail holds of an invocation: never its payload.
pub(crate) fn evidence(invocation: &Value, caller: &Caller) -> Value {
    let member = |name: &str| invocation.get(name).cloned().unwrap_or_default();
    json!({
        "application_id": caller.name(),
        "invocation_id": member("id"),
        "service_id": member("service_id"),
        "source_session_id": member("source_session_id"),
        "target_session_id": member("target_session_id"),
        "method": member("method"),
        "status": member("status"),
        "attempts": member("attempts"),
    })
}

/// An invocation's row (contract §8).
pub(crate) fn to_json(row: &AnyRow) -> Result<Value, Failure> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let optional = |column: &str| row.try_get::<Option<String>, _>(column);
    let number = |column: &str| row.try_get::<i64, _>(column);
    let time = |column: &str| row.try_get::<Option<i64>, _>(column).map(|time| time.map(iso));
    Ok(json!({
        "id": text("id")?,
        "zone_id": text("zone_id")?,
        "service_id": text("service_id")?,
        "source_session_id": optional("source_session_id")?,
        "target_session_id": optional("target_session_id")?,
        "method": text("method")?,
        "status": text("status")?,
        "attempts": number("attempts")?,
        "max_attempts": number("max_attempts")?,
        "timeout_ms": number("timeout_ms")?,
        "retry_policy_json": page::json_column(row, "retry_policy_json")?,
        "deadline_at": time("deadline_at")?,
        "cancel_requested_at": time("cancel_requested_at")?,
        "started_at": time("started_at")?,
        "completed_at": time("completed_at")?,
        "created_at": time("created_at")?,
    }))
}
