//! What a session holds at this moment (contract coordinator §6.7).

use crate::authority;
use crate::caller::{Caller, path_id};
use crate::config::Config;
use crate::failure::Failure;
use crate::graph;
use crate::sessions::check_sees;
use crate::tree;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId};
use caracal_mandate::narrow::ResourceBound;
use caracal_mandate::scope::ScopeSet;
use caracal_store::clock::iso;
use caracal_store::model::Resource;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// `GET /zones/{zone}/agents/{session}/effective-authority`
pub(crate) async fn route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id: AgentSessionId = path_id(session)?;
    let now = config.store.now();
    let mut connection = config.store.read().await?;
    let session = tree::find(&mut connection, &caller.zone, &id).await?;
    check_sees(&caller, &session)?;
    let mut ids: Vec<DelegationEdgeId> = Vec::new();
    let mut scopes: Option<ScopeSet> = None;
    let mut resources: BTreeSet<String> = BTreeSet::new();
    let (mut is_constrained, mut hops, mut ttl, mut end) = (true, None::<u32>, None::<u32>, None::<i64>);
    for edge in graph::inbound(&mut connection, &caller.zone, &id).await? {
        if graph::usable_lineage(&mut connection, &edge, now).await?.is_none() {
            continue;
        }
        let held = authority::of_edge(&mut connection, &edge).await?;
        scopes = Some(match scopes {
            None => held.scopes,
            Some(scopes) => scopes.intersection(&held.scopes),
        });
        match held.resources {
            ResourceBound::Any => is_constrained = false,
            ResourceBound::Only(ids) => resources.extend(ids),
        }
        hops = Some(hops.map_or(held.max_hops, |hops| hops.min(held.max_hops)));
        ttl = [ttl, held.ttl_seconds].into_iter().flatten().min();
        end = Some(end.map_or(edge.expires_at, |end| end.min(edge.expires_at)));
        ids.push(edge.id);
    }
    let mut body = json!({
        "agent_session_id": id,
        "inbound_edges": ids,
        "effective_scopes": scopes.unwrap_or_default(),
        "effective_resources": [],
        "effective_max_hops": hops.unwrap_or(0),
        "effective_ttl_seconds": ttl,
        "earliest_expires_at": end.map(iso),
    });
    if let (false, Some(object)) = (ids.is_empty(), body.as_object_mut()) {
        let mut identifiers = BTreeSet::new();
        for id in &resources {
            if let Some(resource) = Resource::find(&mut connection, &caller.zone, id).await? {
                identifiers.insert(resource.identifier);
            }
        }
        object.insert("effective_resources".to_owned(), json!(identifiers));
        object.insert("effective_resource_ids".to_owned(), json!(resources));
        object.insert("effective_resource_constrained".to_owned(), json!(is_constrained));
    }
    Ok(Json(body))
}
