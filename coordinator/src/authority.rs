//! What an edge hands over, as a point of the lattice in which a child is never above its parent.

use crate::failure::Failure;
use caracal_mandate::id::ResourceId;
use caracal_mandate::narrow::{Authority, ResourceBound};
use caracal_mandate::scope::ScopeSet;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::model::{Constraints, DelegationEdge, Resource};
use std::collections::BTreeSet;

/// The authority of a stored edge. A resource that its constraints name and that is gone is reached no more.
pub(crate) async fn of_edge(
    connection: &mut SqlConnection,
    edge: &DelegationEdge,
) -> Result<Authority, Failure> {
    let mut named = None;
    if !edge.constraints.resources.is_empty() {
        let mut ids = BTreeSet::new();
        for identifier in &edge.constraints.resources {
            if let Some(resource) = Resource::find(connection, &edge.zone_id, identifier).await? {
                ids.insert(String::from(resource.id));
            }
        }
        named = Some(ids);
    }
    let bound = bound(edge.resource_id.as_ref(), named);
    of_parts(edge.scopes.clone(), bound, edge.expires_at, &edge.constraints)
}

/// The authority of an edge that is about to be made.
pub(crate) fn of_parts(
    scopes: ScopeSet,
    resources: ResourceBound,
    expires_at: i64,
    constraints: &Constraints,
) -> Result<Authority, Failure> {
    let corrupt = |error| StoreError::corrupt(format!("delegation_edges.constraints_json: {error}"));
    Ok(Authority {
        scopes,
        resources,
        expires_at: u64::try_from(expires_at).unwrap_or(0),
        max_hops: constraints.hops().map_err(corrupt)?,
        ttl_seconds: constraints.ttl_seconds,
    })
}

/// Both bounds hold: the one resource, and the named ones.
pub(crate) fn bound(one: Option<&ResourceId>, named: Option<BTreeSet<String>>) -> ResourceBound {
    match (one, named) {
        (None, None) => ResourceBound::Any,
        (None, Some(named)) => ResourceBound::Only(named),
        (Some(one), named) => {
            let one = one.as_str().to_owned();
            let reached = named.is_none_or(|named| named.contains(&one));
            ResourceBound::Only(if reached { BTreeSet::from([one]) } else { BTreeSet::new() })
        }
    }
}
