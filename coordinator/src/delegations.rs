//! Reading and revoking delegations (contract coordinator §6.1, §6.8).

use crate::caller::{Caller, path_id};
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::graph;
use crate::page::{Page, Query};
use crate::sessions::{QueryArgument, check_sees, members};
use crate::tree;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId};
use caracal_store::WriteTx;
use caracal_store::clock::iso;
use caracal_store::model::{AgentSession, DelegationEdge, EdgeStatus};
use caracal_store::revoke::{self, Ending};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A condition with the values of its parameters, which begin at `$2`: `$1` is the zone.
struct Scope {
    condition: String,
    values: Vec<String>,
}

async fn list(
    config: &Config,
    caller: &Caller,
    scope: Scope,
    page: &Page,
) -> Result<Vec<DelegationEdge>, Failure> {
    let mut connection = config.store.read().await?;
    let condition = format!("zone_id = $1 AND {}", scope.condition);
    let mut values = vec![caller.zone.to_string()];
    values.extend(scope.values);
    let mut sql = format!("SELECT {} FROM delegation_edges WHERE {condition}", DelegationEdge::COLUMNS);
    if let Some(cursor) = &page.cursor {
        let id = values.len() + 1;
        let found = format!("SELECT COUNT(*) FROM delegation_edges WHERE {condition} AND id = ${id}");
        let mut query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(found));
        for value in values.iter().chain([cursor]) {
            query = query.bind(value.clone());
        }
        if query.fetch_one(&mut *connection).await? == 0 {
            return Err(Code::InvalidCursor.into());
        }
        sql.push_str(&format!(" AND id < ${id}"));
        values.push(cursor.clone());
    }
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", page.limit));
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for value in values {
        query = query.bind(value);
    }
    let rows = query.fetch_all(&mut *connection).await?;
    Ok(rows.iter().map(DelegationEdge::from_row).collect::<Result<_, _>>()?)
}

fn page_json(page: &Page, edges: &[DelegationEdge], with_reason: bool) -> Result<Json<Value>, Failure> {
    let mut items = Vec::with_capacity(edges.len());
    for edge in edges {
        let mut item = graph::to_json(edge)?;
        if let (true, Some(object)) = (with_reason, item.as_object_mut()) {
            object.insert("broad_reason".to_owned(), json!(edge.constraints.broad_reason));
        }
        items.push(item);
    }
    let last = edges.last().map(|edge| edge.id.to_string());
    Ok(Json(page.body(items, last.as_deref())))
}

/// `GET /zones/{zone}/delegations/active`
pub(crate) async fn active_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    let page = Page::parse(&members(query)?)?;
    // The store's own number, so it may stand in the text.
    let mut condition = format!("status = 'active' AND expires_at > {}", config.store.now());
    let mut values = Vec::new();
    if !caller.is_admin() {
        condition.push_str(" AND (issuer_application_id = $2 OR receiver_application_id = $2)");
        values.push(caller.name().to_owned());
    }
    let edges = list(&config, &caller, Scope { condition, values }, &page).await?;
    page_json(&page, &edges, true)
}

async fn of_session(
    config: &Config,
    caller: &Caller,
    session: String,
    query: &Query,
    column: &str,
) -> Result<Json<Value>, Failure> {
    let id: AgentSessionId = path_id(session)?;
    let page = Page::parse(query)?;
    {
        let mut connection = config.store.read().await?;
        check_sees(caller, &tree::find(&mut connection, &caller.zone, &id).await?)?;
    }
    let scope = Scope { condition: format!("{column} = $2"), values: vec![id.to_string()] };
    let edges = list(config, caller, scope, &page).await?;
    page_json(&page, &edges, false)
}

/// `GET /zones/{zone}/delegations/inbound/{session}`
pub(crate) async fn inbound_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    of_session(&config, &caller, session, &members(query)?, "target_session_id").await
}

/// `GET /zones/{zone}/delegations/outbound/{session}`
pub(crate) async fn outbound_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
    query: QueryArgument,
) -> Result<Json<Value>, Failure> {
    of_session(&config, &caller, session, &members(query)?, "source_session_id").await
}

/// `GET /zones/{zone}/delegations/inbound/{session}/{edge}`: can this delegation be used by this session?
pub(crate) async fn probe_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session, edge)): Path<(String, String, String)>,
) -> Result<Json<Value>, Failure> {
    let (session, edge): (AgentSessionId, DelegationEdgeId) = (path_id(session)?, path_id(edge)?);
    let mut connection = config.store.read().await?;
    let edge = DelegationEdge::find(&mut connection, &caller.zone, &edge).await?;
    let edge = edge
        .filter(|edge| edge.target_session_id == session)
        .filter(|edge| caller.is_admin() || caller.is(&edge.receiver_application_id))
        .ok_or(Code::DelegationNotFound)?;
    if graph::usable_lineage(&mut connection, &edge, config.store.now()).await?.is_none() {
        return Err(Code::DelegationNotFound.into());
    }
    Ok(Json(json!({ "id": edge.id, "status": edge.status, "expires_at": iso(edge.expires_at) })))
}

async fn lineage_below(
    config: &Config,
    caller: &Caller,
    edge: String,
) -> Result<Vec<(DelegationEdge, usize)>, Failure> {
    let id: DelegationEdgeId = path_id(edge)?;
    if !caller.is_admin() {
        return Err(Code::CoordinatorAdminRequired.into());
    }
    let mut connection = config.store.read().await?;
    let mut edges = revoke::edge_descendants(&mut connection, &caller.zone, &id).await?;
    edges.retain(|(edge, _)| edge.status == EdgeStatus::Active);
    Ok(edges)
}

/// `GET /zones/{zone}/delegations/{edge}/traverse`
pub(crate) async fn traverse_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, edge)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let edges = lineage_below(&config, &caller, edge).await?;
    let rows = edges.iter().map(|(edge, depth)| {
        json!({
            "id": edge.id,
            "source_session_id": edge.source_session_id,
            "target_session_id": edge.target_session_id,
            "depth": depth,
        })
    });
    Ok(Json(rows.collect()))
}

/// `GET /zones/{zone}/delegations/{edge}/impact`: what a revocation would take, and from whom.
pub(crate) async fn impact_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, edge)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let edges = lineage_below(&config, &caller, edge.clone()).await?;
    if edges.is_empty() {
        return Err(Code::DelegationNotFound.into());
    }
    let sessions: BTreeSet<AgentSessionId> =
        edges.iter().map(|(edge, _)| edge.target_session_id.clone()).collect();
    let mut records = BTreeSet::new();
    let mut connection = config.store.read().await?;
    for id in &sessions {
        if let Some(session) = AgentSession::find(&mut connection, &caller.zone, id).await? {
            records.insert(session.subject_authority_record_id);
        }
    }
    let ids: Vec<&DelegationEdgeId> = edges.iter().map(|(edge, _)| &edge.id).collect();
    Ok(Json(json!({
        "edge_id": edge,
        "affected_edges": ids,
        "affected_sessions": sessions,
        "affected_agents": sessions,
        "affected_authority_records": records,
        "affected_subject_sessions": records,
    })))
}

/// `PATCH /zones/{zone}/delegations/{edge}/revoke`
pub(crate) async fn revoke_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, edge)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id = path_id(edge)?;
    let edges = config.store.write(move |tx| Box::pin(async move { revoke(tx, &caller, &id).await })).await?;
    let sessions: BTreeSet<&AgentSessionId> = edges.iter().map(|edge| &edge.target_session_id).collect();
    Ok(Json(json!({
        "revoked_edges": edges.len(),
        "affected_sessions": sessions.len(),
        "terminated_sessions": 0,
    })))
}

async fn revoke(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    id: &DelegationEdgeId,
) -> Result<Vec<DelegationEdge>, Failure> {
    let now = tx.now();
    caller.check_stands(tx.connection(), now).await?;
    let edge = DelegationEdge::find(tx.connection(), &caller.zone, id).await?;
    let edge = edge.ok_or(Code::DelegationNotFound)?;
    if !caller.is_admin() && !caller.acts_for(&edge.issuer_application_id, "delegate_from") {
        return Err(Code::IssuerOwnershipRequired.into());
    }
    let edges = revoke::revoke_edge(tx, &caller.cause("delegation_revoked"), id, Ending::Revoked).await?;
    if edges.is_empty() { Err(Code::DelegationNotFound.into()) } else { Ok(edges) }
}
