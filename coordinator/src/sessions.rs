//! Reading and ending sessions (contract coordinator §4.1, §4.6).
//!
//! An application sees its own sessions; the operator sees the zone's (contract §24 row 18).

use crate::body::{self, Fields};
use crate::caller::{Caller, path_id};
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::page::{Page, Query, word};
use crate::resume;
use crate::together::End;
use crate::tree;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query as QueryOf, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use caracal_mandate::id::{AgentSessionId, ApplicationId};
use caracal_store::WriteTx;
use caracal_store::model::{AgentSession, Lifecycle, SessionStatus};
use caracal_store::revoke::{self, Ending};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) type QueryArgument = Result<QueryOf<Query>, QueryRejection>;

/// The query's members, or 400 `invalid_query`.
pub(crate) fn members(query: QueryArgument) -> Result<Query, Failure> {
    match query {
        Ok(QueryOf(query)) => Ok(query),
        Err(_) => Err(Failure::because(Code::InvalidQuery, "the query string is malformed")),
    }
}

/// May the caller look at the session? Whoever may not is told that there is none.
pub(crate) fn check_sees(caller: &Caller, session: &AgentSession) -> Result<(), Failure> {
    if caller.is_admin() || caller.acts_for(&session.application_id, "spawn_for") {
        Ok(())
    } else {
        Err(Code::SessionNotFound.into())
    }
}

/// May the caller change the session?
pub(crate) fn check_owns(caller: &Caller, session: &AgentSession) -> Result<(), Failure> {
    if caller.is_admin() || caller.acts_for(&session.application_id, "spawn_for") {
        Ok(())
    } else {
        Err(Code::ApplicationOwnershipRequired.into())
    }
}

/// What a list is narrowed to.
#[derive(Default)]
struct Filter {
    status: Option<SessionStatus>,
    lifecycle: Option<Lifecycle>,
    application: Option<String>,
    parent: Option<AgentSessionId>,
    label: Option<String>,
}

async fn list(
    config: &Config,
    caller: &Caller,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<AgentSession>, Failure> {
    let mut connection = config.store.read().await?;
    let mut conditions = vec!["zone_id = $1".to_owned()];
    let mut values = vec![caller.zone.to_string()];
    let mut equal = |column: &str, value: Option<String>| {
        if let Some(value) = value {
            values.push(value);
            conditions.push(format!("{column} = ${}", values.len()));
        }
    };
    equal("status", filter.status.map(|status| status.as_str().to_owned()));
    equal("lifecycle", filter.lifecycle.map(|lifecycle| lifecycle.as_str().to_owned()));
    equal("application_id", filter.application.clone());
    equal("parent_id", filter.parent.as_ref().map(ToString::to_string));
    if let Some(label) = &filter.label {
        // Within the JSON text of a list, a whole item stands behind `[` or `,` and in quotes of its own.
        let item = json!(label).to_string();
        values.push(format!("[{item}"));
        values.push(format!(",{item}"));
        let (first, later) = (values.len() - 1, values.len());
        conditions.push(format!(
            "(replace(labels_json, ${first}, '') <> labels_json OR replace(labels_json, ${later}, '') <> labels_json)"
        ));
    }
    let scope = conditions.join(" AND ");
    let count_of_cursor =
        format!("SELECT COUNT(*) FROM sessions WHERE {scope} AND id = ${}", values.len() + 1);
    let mut sql = format!("SELECT {} FROM sessions WHERE {scope}", AgentSession::COLUMNS);
    if let Some(cursor) = &page.cursor {
        let mut query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(count_of_cursor));
        for value in values.iter().chain([cursor]) {
            query = query.bind(value.clone());
        }
        if query.fetch_one(&mut *connection).await? == 0 {
            return Err(Code::InvalidCursor.into());
        }
        values.push(cursor.clone());
        sql.push_str(&format!(" AND id < ${}", values.len()));
    }
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", page.limit));
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for value in values {
        query = query.bind(value);
    }
    let rows = query.fetch_all(&mut *connection).await?;
    Ok(rows.iter().map(AgentSession::from_row).collect::<Result<_, _>>()?)
}

/// `GET /zones/{zone}/agents`
pub(crate) async fn list_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    let query = members(query)?;
    let page = Page::parse(&query)?;
    let application: Option<ApplicationId> = word(&query, "application_id")?;
    let seen = if caller.is_admin() {
        application.map(String::from)
    } else {
        let own = application.as_ref().is_none_or(|application| caller.is(application));
        if !own {
            return Ok(Json(page.body(Vec::new(), None)));
        }
        Some(caller.name().to_owned())
    };
    let filter = Filter {
        status: word(&query, "status")?,
        lifecycle: word(&query, "lifecycle")?,
        application: seen,
        parent: None,
        label: query.get("label").cloned(),
    };
    let sessions = list(&config, &caller, &filter, &page).await?;
    let last = sessions.last().map(|session| session.id.to_string());
    Ok(Json(page.body(sessions.iter().map(tree::to_json).collect(), last.as_deref())))
}

/// `GET /zones/{zone}/agents/{session}`
pub(crate) async fn get_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id = path_id(session)?;
    let mut connection = config.store.read().await?;
    let session = tree::find(&mut connection, &caller.zone, &id).await?;
    check_sees(&caller, &session)?;
    Ok(Json(tree::to_json(&session)))
}

/// `GET /zones/{zone}/agents/{session}/children`
pub(crate) async fn children_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    let id: AgentSessionId = path_id(session)?;
    let page = Page::parse(&members(query)?)?;
    {
        let mut connection = config.store.read().await?;
        check_sees(&caller, &tree::find(&mut connection, &caller.zone, &id).await?)?;
    }
    let filter = Filter { parent: Some(id), ..Filter::default() };
    let sessions = list(&config, &caller, &filter, &page).await?;
    let last = sessions.last().map(|session| session.id.to_string());
    let hidden = ["terminated_at", "termination_reason", "lease_generation"];
    let items = sessions.iter().map(|session| tree::to_json_without(session, &hidden)).collect();
    Ok(Json(page.body(items, last.as_deref())))
}

/// `PATCH /zones/{zone}/agents/{session}/suspend`
pub(crate) async fn suspend_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id = path_id(session)?;
    let suspended =
        config.store.write(move |tx| Box::pin(async move { suspend(tx, &caller, &id).await })).await?;
    Ok(Json(json!({ "suspended": suspended })))
}

async fn suspend(tx: &mut WriteTx<'_>, caller: &Caller, id: &AgentSessionId) -> Result<usize, Failure> {
    find_owned(tx, caller, id).await?;
    match revoke::suspend_session(tx, &caller.cause("requested"), id).await? {
        0 => Err(Code::SessionNotFoundOrNotActive.into()),
        suspended => Ok(suspended),
    }
}

/// `PATCH /zones/{zone}/agents/{session}/resume`
pub(crate) async fn resume_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id = path_id(session)?;
    let limits = config.limits.clone();
    let resumed = config
        .store
        .write(move |tx| {
            Box::pin(async move {
                let session = find_owned(tx, &caller, &id).await?;
                let now = tx.now();
                if session.status != SessionStatus::Suspended {
                    return Err(Code::SessionNotFoundOrNotSuspended.into());
                }
                if !tree::ancestors_may_act(tx.connection(), &session, now).await? {
                    return Err(Failure::from(Code::SessionAncestorNotActive));
                }
                match resume::resume(tx, &caller.cause("requested"), &id, &limits).await? {
                    0 => Err(Failure::because(
                        Code::SessionNotFoundOrNotSuspended,
                        "the session's time is up, or its subject does not stand any more",
                    )),
                    resumed => Ok(resumed),
                }
            })
        })
        .await?;
    Ok(Json(json!({ "resumed": resumed })))
}

/// The session, if the caller stands and may change it.
pub(crate) async fn find_owned(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    id: &AgentSessionId,
) -> Result<AgentSession, Failure> {
    let now = tx.now();
    caller.check_stands(tx.connection(), now).await?;
    let session = tree::find(tx.connection(), &caller.zone, id).await?;
    check_owns(caller, &session)?;
    Ok(session)
}

/// `DELETE /zones/{zone}/agents/{session}`
pub(crate) async fn terminate_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
    query: QueryArgument,
    body: Body,
) -> Result<StatusCode, Failure> {
    let id: AgentSessionId = path_id(session)?;
    let mut query = members(query)?;
    let reason = query.remove("reason").unwrap_or_else(|| "requested".to_owned());
    if !(1..=256).contains(&reason.chars().count()) {
        return Err(Failure::because(Code::InvalidQuery, "reason has 1 to 256 characters"));
    }
    let bytes = body::read(body, config.limits.body_bytes).await?;
    let generation = parse_generation(&bytes)?;
    if generation.is_none() {
        let end = End { caller: caller.clone(), session: id.clone(), reason: reason.clone() };
        if config.groups.end(&config.store, end).await.is_some() {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    config
        .store
        .write(move |tx| Box::pin(async move { terminate(tx, &caller, &id, &reason, generation).await }))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The generation of the lease; no body, `null` and `{}` name none.
fn parse_generation(bytes: &[u8]) -> Result<Option<i64>, Failure> {
    let text = bytes.trim_ascii();
    if text.is_empty() || text == b"null" {
        return Ok(None);
    }
    let mut fields = Fields::parse(text)?;
    let generation = fields.integer("lease_generation", 1..=i64::MAX);
    fields.finish()?;
    Ok(generation)
}

async fn terminate(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    id: &AgentSessionId,
    reason: &str,
    generation: Option<i64>,
) -> Result<(), Failure> {
    let session = find_owned(tx, caller, id).await?;
    if session.lifecycle == Lifecycle::Service && !caller.is_admin() {
        let generation = generation.ok_or(Code::LeaseGenerationRequired)?;
        if generation != session.lease_generation {
            return Err(Code::SessionLeaseFenced.into());
        }
    }
    match revoke::end_session(tx, &caller.cause(reason), id, Ending::Revoked).await? {
        0 => Err(Code::SessionNotFound.into()),
        _ => Ok(()),
    }
}
