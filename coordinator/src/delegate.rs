//! Making a delegation (contract coordinator §6.2 to §6.6).

use crate::authority;
use crate::body::{self, Fields};
use crate::caller::{Caller, new_id, path_id};
use crate::config::{Config, Limits};
use crate::constraints;
use crate::failure::{Code, Failure};
use crate::graph;
use crate::receipt::{DELEGATION_CREATE, Key, Receipt, Reply};
use crate::start::MAX_TTL_SECONDS;
use crate::tree;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use caracal_mandate::id::{AgentSessionId, ApplicationId, DelegationEdgeId};
use caracal_mandate::scope::{Scope, ScopeSet};
use caracal_store::clock::{self, iso};
use caracal_store::model::{AgentSession, Constraints, DelegationEdge, EdgeStatus, Resource};
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone)]
struct DelegateRequest {
    source: AgentSessionId,
    target: AgentSessionId,
    issuer: ApplicationId,
    receiver: ApplicationId,
    parent_edge: Option<DelegationEdgeId>,
    resource: Option<String>,
    scopes: ScopeSet,
    constraints: Constraints,
    expires_at: Option<i64>,
    ttl_seconds: Option<i64>,
}

impl DelegateRequest {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut fields = Fields::parse(bytes)?;
        let source = fields.required("source_session_id");
        let target = fields.required("target_session_id");
        let issuer = fields.required("issuer_application_id");
        let receiver = fields.required("receiver_application_id");
        let parent_edge = fields.optional("parent_edge_id");
        let resource = match fields.take("resource_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) if !name.is_empty() => Some(name),
            Some(_) => {
                fields.issue(&["resource_id"], "is not a resource's id or identifier");
                None
            }
        };
        let scopes = fields.list("scopes", usize::MAX, "is not a scope", |text| Scope::new(text.trim()).ok());
        let ttl_seconds = fields.integer("ttl_seconds", 1..=MAX_TTL_SECONDS);
        let expires_at = fields.text("expires_at").and_then(|text| {
            let time = clock::parse_iso(&text);
            if time.is_none() {
                fields.issue(&["expires_at"], "is not a time in UTC, as 2026-11-21T09:00:00.000Z");
            }
            time
        });
        let (stored, given) = (fields.take("constraints_json"), fields.take("constraints"));
        fields.finish()?;
        let mut constraints = constraints::parse(stored, given)?;
        if constraints.ttl_seconds.is_none() {
            constraints.ttl_seconds = ttl_seconds.and_then(|ttl| u32::try_from(ttl).ok());
        }
        Ok(Self {
            source: fields.whole(source)?,
            target: fields.whole(target)?,
            issuer: fields.whole(issuer)?,
            receiver: fields.whole(receiver)?,
            parent_edge,
            resource,
            scopes: scopes.into_iter().collect(),
            constraints,
            expires_at,
            ttl_seconds,
        })
    }

    /// When it ends: at the earliest time that is named, else after the time to live.
    fn end(&self, now: i64) -> Result<i64, Failure> {
        let invalid = |_| Code::InvalidExpiresAt;
        let constrained = self.constraints.end().map_err(invalid)?;
        match [self.expires_at, constrained].into_iter().flatten().min() {
            Some(time) => Ok(time),
            None => {
                let ttl = self.constraints.ttl_seconds.ok_or(Code::DelegationExpiryRequired)?;
                Ok(now.saturating_add(i64::from(ttl) * 1000))
            }
        }
    }

    fn is_broad(&self) -> bool {
        self.resource.is_none() && self.constraints.resources.is_empty()
    }

    /// All that makes a request this request.
    fn identity(&self, caller: &Caller) -> Value {
        json!({
            "principal": { "client_id": caller.name(), "subject": caller.subject() },
            "source_session_id": self.source,
            "target_session_id": self.target,
            "issuer_application_id": self.issuer,
            "receiver_application_id": self.receiver,
            "parent_edge_id": self.parent_edge,
            "resource_id": self.resource,
            "scopes": self.scopes,
            "constraints": self.constraints,
            "expires_at": self.expires_at,
            "ttl_seconds": self.ttl_seconds,
        })
    }
}

/// `POST /zones/{zone}/delegations`
pub(crate) async fn route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Reply, Failure> {
    let mut request = DelegateRequest::parse(&body::read(body, config.limits.body_bytes).await?)?;
    request.end(config.store.now())?;
    if !caller.acts_for(&request.issuer, "delegate_from") {
        return Err(Code::IssuerOwnershipRequired.into());
    }
    if request.source == request.target {
        return Err(Code::SelfDelegationDenied.into());
    }
    if request.is_broad() {
        let allowed = caller.is_admin()
            || caller.holds("coordinator.delegate_broad")
            || caller.holds(&format!("coordinator.delegate_broad:{}", request.issuer));
        if !allowed {
            let why = "name the resource, in resource_id or constraints.resources";
            return Err(Failure::because(Code::BroadDelegationPermissionRequired, why));
        }
        request.constraints.policy_approved = Some(true);
        request.constraints.broad_reason.get_or_insert_with(|| "resource_null_delegation".to_owned());
    }
    let key = Key::parse(&headers)?;
    let limits = config.limits.clone();
    config
        .store
        .write(move |tx| Box::pin(async move { delegate(tx, &limits, &caller, &request, key).await }))
        .await
}

async fn delegate(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    request: &DelegateRequest,
    key: Option<Key>,
) -> Result<Reply, Failure> {
    let now = tx.now();
    caller.check_stands(tx.connection(), now).await?;
    let receipt = key.as_ref().map(|key| {
        Receipt::new(key, DELEGATION_CREATE, &caller.zone, request.issuer.as_str(), request.identity(caller))
    });
    if let Some(receipt) = &receipt
        && let Some(recorded) = receipt.find(tx, limits).await?
    {
        let edge =
            DelegationEdge::find(tx.connection(), &caller.zone, &path_id(recorded.resource_id)?).await?;
        if !edge.is_some_and(|edge| edge.is_live(now)) {
            return Err(Failure::because(
                Code::IdempotencyResultInactive,
                "the recorded delegation is not live",
            ));
        }
        return Ok(recorded.reply);
    }
    let (source, target) = find_endpoints(tx, caller, request).await?;
    if source.application_id != request.issuer || target.application_id != request.receiver {
        return Err(Code::DelegationApplicationMismatch.into());
    }
    let reach = Reach::resolve(tx, caller, request).await?;
    let parent = choose_parent(tx, request, &source).await?;
    let expires_at = request.end(now)?;
    let mut constraints = request.constraints.clone();
    constraints.resources = reach.identifiers.clone();
    let edge = DelegationEdge {
        id: new_id()?,
        zone_id: caller.zone.clone(),
        source_session_id: source.id.clone(),
        target_session_id: target.id.clone(),
        issuer_application_id: request.issuer.clone(),
        receiver_application_id: request.receiver.clone(),
        parent_edge_id: parent.as_ref().map(|parent| parent.id.clone()),
        inherited: false,
        resource_id: reach.resource.as_ref().map(|resource| resource.id.clone()),
        scopes: request.scopes.clone(),
        constraints,
        status: EdgeStatus::Active,
        expires_at,
        edge_version: 0,
        revoked_at: None,
        created_at: now,
    };
    if let Some(parent) = &parent {
        let held = authority::of_edge(tx.connection(), parent).await?;
        let named = (!reach.named.is_empty()).then(|| reach.named.clone());
        let bound = authority::bound(edge.resource_id.as_ref(), named);
        let asked = authority::of_parts(edge.scopes.clone(), bound, edge.expires_at, &edge.constraints)?;
        asked.narrows(&held).map_err(|widening| {
            Failure::because(Code::DelegationExceedsParentAuthority, widening.to_string())
        })?;
    }
    if graph::leads_to(tx.connection(), &caller.zone, &target.id, &source.id, now).await? {
        return Err(Code::DelegationCycleDenied.into());
    }
    if expires_at <= now {
        let code =
            if parent.is_some() { Code::DelegationExceedsParentAuthority } else { Code::DelegationExpired };
        return Err(Failure::because(code, "it would end before it begins"));
    }
    graph::insert(tx, &edge).await?;
    caller.cause("requested").edge(tx, "delegation_created", &edge).await?;
    let mut reply = Reply::created(created_json(&edge, &reach, request.is_broad())?);
    if let Some(receipt) = &receipt {
        receipt.keep(tx, edge.id.as_str(), &mut reply, limits).await?;
    }
    Ok(reply)
}

/// Who gives and who receives: sessions that can act.
async fn find_endpoints(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    request: &DelegateRequest,
) -> Result<(AgentSession, AgentSession), Failure> {
    let (now, ids) = (tx.now(), [&request.source, &request.target]);
    let found = tree::find_acting(tx.connection(), &caller.zone, ids, now).await?;
    let endpoint = |id: &AgentSessionId| {
        let why =
            || Failure::because(Code::DelegationEndpointNotFound, format!("no session {id} that can act"));
        found.iter().find(|session| session.id == *id).cloned().ok_or_else(why)
    };
    Ok((endpoint(&request.source)?, endpoint(&request.target)?))
}

/// Which resources are meant.
struct Reach {
    resource: Option<Resource>,
    /// The named ones, by their row ids.
    named: BTreeSet<String>,
    identifiers: Vec<String>,
}

impl Reach {
    /// Resolves names, and holds the scopes against what the resources declare.
    async fn resolve(
        tx: &mut WriteTx<'_>,
        caller: &Caller,
        request: &DelegateRequest,
    ) -> Result<Self, Failure> {
        let mut named = Vec::new();
        for name in &request.constraints.resources {
            named.push(find_resource(tx, caller, name).await?);
        }
        let resource = match &request.resource {
            None => None,
            Some(name) => Some(find_resource(tx, caller, name).await?),
        };
        if let Some(resource) = &resource
            && !named.is_empty()
            && !named.iter().any(|other| other.id == resource.id)
        {
            return Err(Code::DelegationResourceScopeMismatch.into());
        }
        // Of several bounds all hold, so with the one resource only its scopes can ever be used.
        let meant = resource.as_ref().map_or(named.as_slice(), std::slice::from_ref);
        let exceeding = request
            .scopes
            .iter()
            .find(|scope| !meant.is_empty() && !meant.iter().any(|one| one.scopes.contains(scope.as_str())));
        if let Some(scope) = exceeding {
            let why = format!("no resource of this delegation declares {scope}");
            return Err(Failure::because(Code::DelegationScopesExceedResource, why));
        }
        let identifiers: BTreeSet<String> =
            named.iter().map(|resource| resource.identifier.to_string()).collect();
        let named = named.into_iter().map(|resource| String::from(resource.id)).collect();
        Ok(Self { resource, named, identifiers: identifiers.into_iter().collect() })
    }
}

async fn find_resource(tx: &mut WriteTx<'_>, caller: &Caller, name: &str) -> Result<Resource, Failure> {
    let resource = Resource::find(tx.connection(), &caller.zone, name).await?;
    resource.ok_or_else(|| Failure::because(Code::ResourceNotFound, format!("no resource {name:?}")))
}

/// The edge that gave the source its authority. `None` only for a source that, like all above it, was never
/// bound by a delegation: a lapsed one does not make its receiver free (contract §24 row 19).
async fn choose_parent(
    tx: &mut WriteTx<'_>,
    request: &DelegateRequest,
    source: &AgentSession,
) -> Result<Option<DelegationEdge>, Failure> {
    let now = tx.now();
    let inactive = |why: &'static str| Failure::because(Code::ParentDelegationNotActive, why);
    let inbound = graph::inbound(tx.connection(), &source.zone_id, &source.id).await?;
    let live: Vec<DelegationEdge> = inbound.into_iter().filter(|edge| edge.is_live(now)).collect();
    let chosen = match (&request.parent_edge, live.len()) {
        (Some(named), _) => live
            .into_iter()
            .find(|edge| edge.id == *named)
            .ok_or_else(|| inactive("parent_edge_id is no live delegation to the source"))?,
        (None, 0) if graph::is_bound(tx.connection(), source).await? => {
            return Err(inactive("the source is bound by a delegation, but holds none that is live"));
        }
        (None, 0) => return Ok(None),
        (None, 1) => live.into_iter().next().ok_or(Code::ParentDelegationNotActive)?,
        (None, _) => return Err(Code::ParentDelegationAmbiguous.into()),
    };
    let lineage = graph::usable_lineage(tx.connection(), &chosen, now)
        .await?
        .ok_or_else(|| inactive("a delegation or session along the parent's path does not stand"))?;
    if graph::is_full(lineage) {
        let why = "the delegation path is as long as any may be";
        return Err(Failure::because(Code::DelegationExceedsParentAuthority, why));
    }
    Ok(Some(chosen))
}

fn created_json(edge: &DelegationEdge, reach: &Reach, broad: bool) -> Result<Value, Failure> {
    let mut value = graph::to_json(edge)?;
    let resources: Vec<&str> = match &reach.resource {
        Some(resource) => vec![resource.identifier.as_str()],
        None => reach.identifiers.iter().map(String::as_str).collect(),
    };
    let hops = edge.constraints.hops().map_err(|error| StoreError::corrupt(error.to_string()))?;
    let warnings: &[&str] =
        if broad { &["resource_null_delegation_broadens_resource_matching"] } else { &[] };
    let reasons = [
        "same_zone_endpoints_active",
        if broad { "broad_delegation_elevated" } else { "resource_scope_checked" },
        if edge.parent_edge_id.is_some() { "parent_authority_narrowed" } else { "source_authority_root" },
        "typed_constraints_validated",
    ];
    let considered: Vec<&DelegationEdgeId> = edge.parent_edge_id.iter().collect();
    let effective = json!({
        "source_session_id": edge.source_session_id,
        "target_session_id": edge.target_session_id,
        "parent_edge_id": edge.parent_edge_id,
        "resource_id": edge.resource_id,
        "resources": resources,
        "scopes": edge.scopes,
        "expires_at": iso(edge.expires_at),
        "max_hops": hops,
        "ttl_seconds": edge.constraints.ttl_seconds,
        "broad": broad,
        "parent_edges_considered": considered,
    });
    if let Some(object) = value.as_object_mut() {
        if let Some(id) = object.remove("id") {
            object.insert("delegation_edge_id".to_owned(), id);
        }
        object.insert("warnings".to_owned(), json!(warnings));
        object.insert("allow_reason".to_owned(), json!(reasons));
        object.insert("effective_authority".to_owned(), effective);
    }
    Ok(value)
}
