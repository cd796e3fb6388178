//! Starting a session (contract coordinator §4.2 to §4.5).

use crate::authority;
use crate::body::{self, Fields};
use crate::caller::{Caller, new_id};
use crate::config::{Config, Limits};
use crate::failure::{Code, Failure};
use crate::graph;
use crate::receipt::{Key, Receipt, Reply, SESSION_START};
use crate::subject::{self, Subject};
use crate::together::Start;
use crate::tree;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use caracal_mandate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId};
use caracal_store::WriteTx;
use caracal_store::model::{
    AgentSession, Application, Constraints, DelegationEdge, EdgeStatus, Lifecycle, LiveSessions,
    RegistrationMethod, SessionStatus,
};
use caracal_store::revoke::Cause;
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest life of a task, seconds.
pub(crate) const MAX_TTL_SECONDS: i64 = 86_400;
const DEFAULT_TTL_SECONDS: i64 = 3600;
const MAX_LABELS: usize = 32;
const MAX_LABEL_CHARS: usize = 64;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct StartRequest {
    pub(crate) application: ApplicationId,
    subject: Option<AuthorityRecordId>,
    subject_token: Option<String>,
    pub(crate) parent: Option<AgentSessionId>,
    lifecycle: Lifecycle,
    labels: Vec<String>,
    ttl_seconds: Option<i64>,
    inherits: bool,
    inherit_edge: Option<DelegationEdgeId>,
    metadata: Value,
}

impl StartRequest {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut fields = Fields::parse(bytes)?;
        let application = fields.required("application_id");
        let subject = fields.optional("subject_session_id");
        let subject_token = fields.text("subject_token");
        let parent = fields.nullable("parent_id");
        let words = [("task", Lifecycle::Task), ("service", Lifecycle::Service)];
        let lifecycle = fields.word("lifecycle", &words).unwrap_or(Lifecycle::Task);
        let message = "is not a label of 1 to 64 characters";
        let labels = fields.list("labels", MAX_LABELS, message, |label| {
            let label = label.trim();
            (1..=MAX_LABEL_CHARS).contains(&label.chars().count()).then(|| label.to_owned())
        });
        let ttl_seconds = fields.integer("ttl_seconds", 1..=MAX_TTL_SECONDS);
        let inherits = fields.word("parent_authority", &[("inherit", true), ("none", false)]).unwrap_or(true);
        let inherit_edge = fields.optional("inherit_parent_edge_id");
        let metadata = Value::Object(fields.object("metadata"));
        if lifecycle == Lifecycle::Service && ttl_seconds.is_some() {
            fields.issue(&["ttl_seconds"], "is not for services");
        }
        fields.finish()?;
        let ttl_seconds = match lifecycle {
            Lifecycle::Task => Some(ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS)),
            Lifecycle::Service => None,
        };
        let application = fields.whole(application)?;
        Ok(Self {
            application,
            subject,
            subject_token,
            parent,
            lifecycle,
            labels,
            ttl_seconds,
            inherits,
            inherit_edge,
            metadata,
        })
    }

    /// All that makes a request this request.
    fn identity(&self, caller: &Caller, subject: &Subject) -> Value {
        json!({
            "principal": { "client_id": caller.name(), "subject": caller.subject() },
            "application_id": self.application,
            "subject_authority_record_id": subject.requested,
            "parent_id": self.parent,
            "lifecycle": self.lifecycle,
            "labels": self.labels,
            "ttl_seconds": self.ttl_seconds,
            "parent_authority": if self.inherits { "inherit" } else { "none" },
            "inherit_parent_edge_id": self.inherit_edge,
            "metadata": self.metadata,
        })
    }
}

impl Start {
    /// What is kept of the answer, where there is a key.
    pub(crate) fn receipt(&self) -> Option<Receipt<'_>> {
        let Self { caller, request, subject, key } = self;
        let identity = || request.identity(caller, subject);
        let scope = request.application.as_str();
        key.as_ref().map(|key| Receipt::new(key, SESSION_START, &caller.zone, scope, identity()))
    }
}

/// `POST /zones/{zone}/agents`
pub(crate) async fn route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Reply, Failure> {
    let bytes = body::read(body, config.limits.body_bytes).await?;
    let request = StartRequest::parse(&bytes)?;
    if request.subject.is_none() && caller.record().is_none() {
        return Err(Code::SubjectSessionIdRequired.into());
    }
    if !caller.acts_for(&request.application, "spawn_for") {
        return Err(Code::ApplicationOwnershipRequired.into());
    }
    let proof = request.subject_token.as_deref();
    let subject =
        subject::resolve(&config, &caller, &request.application, request.subject.clone(), proof).await?;
    let start = Start { caller, request, subject, key: Key::parse(&headers)? };
    if let Some(reply) = config.groups.start(&config.store, &config.limits, start.clone()).await {
        return Ok(reply);
    }
    let limits = config.limits.clone();
    config.store.write(move |tx| Box::pin(async move { begin(tx, &limits, &start).await })).await
}

async fn begin(tx: &mut WriteTx<'_>, limits: &Limits, start: &Start) -> Result<Reply, Failure> {
    let Start { caller, request, subject, .. } = start;
    let now = tx.now();
    let standing = caller.check_stands(tx.connection(), now).await?;
    let receipt = start.receipt();
    if let Some(receipt) = &receipt
        && let Some(recorded) = receipt.find(tx, limits).await?
    {
        let id = crate::caller::path_id(recorded.resource_id)?;
        let session = AgentSession::find(tx.connection(), &caller.zone, &id).await?;
        if !session.is_some_and(|session| tree::is_live(&session, now)) {
            return Err(Failure::because(
                Code::IdempotencyResultInactive,
                "the recorded session is not live",
            ));
        }
        return Ok(recorded.reply);
    }
    let method = match standing {
        Some(method) if caller.is(&request.application) => method,
        _ => {
            let application = Application::find_active(tx.connection(), &request.application, now).await?;
            let application = application.filter(|application| application.zone_id == caller.zone);
            application.ok_or(Code::ApplicationNotFound)?.registration_method
        }
    };
    let is_dcr = method == RegistrationMethod::Dcr;
    if is_dcr && request.lifecycle == Lifecycle::Service {
        return Err(Code::DcrApplicationCannotHostService.into());
    }
    if is_dcr && request.parent.is_some() {
        return Err(Code::DcrApplicationCannotBeChild.into());
    }
    subject.check_stands(tx.connection(), caller, now).await?;
    check_capacity(tx, limits, caller, &request.application, is_dcr).await?;
    let parent = match &request.parent {
        None => None,
        Some(id) => Some(find_parent(tx, limits, caller, request, id).await?),
    };
    let session = new_session(now, limits, caller, request, subject, parent.as_ref())?;
    tree::insert_all(tx, &[&session]).await?;
    let cause = caller.cause("requested");
    cause.session(tx, "session_started", &session, &cause.reason).await?;
    let edge = match &parent {
        Some(parent) if request.inherits => inherit(tx, request, &cause, parent, &session).await?,
        _ => None,
    };
    let mut reply = Reply::created(created_json(&session, edge.as_ref()));
    if let Some(receipt) = &receipt {
        receipt.keep(tx, session.id.as_str(), &mut reply, limits).await?;
    }
    Ok(reply)
}

/// Counts the session that is about to start. The kept numbers are never too small, so below a limit they decide; at one
/// the live sessions are counted.
async fn check_capacity(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    application: &ApplicationId,
    is_dcr: bool,
) -> Result<(), Failure> {
    let (now, zone) = (tx.now(), &caller.zone);
    let with_it = LiveSessions::add(tx, zone, application, 1).await?;
    if with_it.zone > limits.sessions_per_zone
        && tree::count_live(tx.connection(), zone, None, now).await? >= limits.sessions_per_zone
    {
        return Err(Code::SessionZoneLimitExceeded.into());
    }
    let limit = limits.sessions_per_application;
    if (is_dcr && with_it.application > 1) || with_it.application > limit {
        let count = tree::count_live(tx.connection(), zone, Some(application), now).await?;
        if is_dcr && count > 0 {
            return Err(Code::DcrApplicationAlreadyBound.into());
        }
        if count >= limit {
            return Err(Code::SessionLimitExceeded.into());
        }
    }
    Ok(())
}

/// The parent, if it may have this child now. It and all above it have to be able to act.
async fn find_parent(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    request: &StartRequest,
    id: &AgentSessionId,
) -> Result<AgentSession, Failure> {
    let now = tx.now();
    let not_live =
        || Failure::because(Code::ParentNotFound, "the parent, or a session above it, is not live");
    let parent = tree::find_acting(tx.connection(), &caller.zone, [id, id], now).await?.pop();
    let parent = parent.ok_or_else(not_live)?;
    if !tree::ancestors_may_act(tx.connection(), &parent, now).await? {
        return Err(not_live());
    }
    // A dynamically registered application is no parent; the request's own was found not to be one.
    if parent.application_id != request.application {
        let owner = Application::find_active(tx.connection(), &parent.application_id, now).await?;
        let owner = owner
            .ok_or_else(|| Failure::because(Code::ParentNotFound, "the parent's application is gone"))?;
        if owner.registration_method == RegistrationMethod::Dcr {
            return Err(Code::DcrApplicationCannotStartChild.into());
        }
    }
    if parent.lifecycle == Lifecycle::Task && request.lifecycle == Lifecycle::Service {
        return Err(Code::TaskSessionCannotStartService.into());
    }
    if parent.application_id != request.application && !caller.acts_for(&parent.application_id, "spawn_under")
    {
        return Err(Code::ParentOwnershipRequired.into());
    }
    if tree::count_children(tx.connection(), &parent, now).await? >= parent.max_children {
        return Err(Code::SessionChildrenLimitExceeded.into());
    }
    if parent.depth >= limits.depth {
        return Err(Code::SessionDepthLimitExceeded.into());
    }
    Ok(parent)
}

/// The session that is asked for, as it begins.
pub(crate) fn new_session(
    now: i64,
    limits: &Limits,
    caller: &Caller,
    request: &StartRequest,
    subject: &Subject,
    parent: Option<&AgentSession>,
) -> Result<AgentSession, Failure> {
    let mut ttl_seconds = request.ttl_seconds;
    if let (Some(ttl), Some(parent)) = (ttl_seconds, parent)
        && parent.lifecycle == Lifecycle::Task
    {
        // A child never outlives its parent.
        let left = parent.ends_at().map_or(0, |end| (end - now) / 1000);
        if left < 1 {
            return Err(Failure::because(Code::ParentNotFound, "the parent's time is up"));
        }
        ttl_seconds = Some(ttl.min(left));
    }
    let is_service = request.lifecycle == Lifecycle::Service;
    Ok(AgentSession {
        id: new_id()?,
        zone_id: caller.zone.clone(),
        application_id: request.application.clone(),
        parent_id: parent.map(|parent| parent.id.clone()),
        subject_authority_record_id: subject.record.clone(),
        lifecycle: request.lifecycle,
        labels: request.labels.clone(),
        metadata: request.metadata.clone(),
        status: SessionStatus::Active,
        depth: parent.map_or(0, |parent| parent.depth + 1),
        max_children: limits.children,
        child_count: 0,
        ttl_seconds,
        started_at: now,
        last_active_at: now,
        updated_at: now,
        last_heartbeat_at: is_service.then_some(now),
        heartbeat_deadline_at: is_service.then(|| tree::lease_end(now, limits)),
        lease_generation: i64::from(is_service),
        terminated_at: None,
        termination_reason: None,
    })
}

/// Mirrors the one live edge of the parent. One hop is spent where there is more than the last one; the last one stays,
/// so that an inherited session can mint, and allows no delegation further on.
async fn inherit(
    tx: &mut WriteTx<'_>,
    request: &StartRequest,
    cause: &Cause,
    parent: &AgentSession,
    child: &AgentSession,
) -> Result<Option<DelegationEdge>, Failure> {
    let now = tx.now();
    let explicit = request.inherit_edge.as_ref();
    let rows: Vec<DelegationEdge> = graph::inbound(tx.connection(), &parent.zone_id, &parent.id)
        .await?
        .into_iter()
        .filter(|edge| edge.receiver_application_id == child.application_id)
        .filter(|edge| explicit.is_none_or(|explicit| *explicit == edge.id))
        .collect();
    if rows.is_empty() && explicit.is_none() {
        return Ok(None);
    }
    let mut live = rows.into_iter().filter(|edge| edge.is_live(now));
    let from = live.next().ok_or(Code::InheritParentEdgeNotActive)?;
    if live.next().is_some() {
        return Err(Code::InheritParentEdgeAmbiguous.into());
    }
    let lineage = graph::usable_lineage(tx.connection(), &from, now).await?.ok_or_else(|| {
        Failure::because(
            Code::InheritParentEdgeNotActive,
            "a session along the parent's delegation cannot act",
        )
    })?;
    if graph::is_full(lineage) {
        let why = "the parent's delegation path has no room for one more edge";
        return Err(Failure::because(Code::InheritParentEdgeNotActive, why));
    }
    let hops = authority::of_edge(tx.connection(), &from).await?.inherited().map_or(1, |rest| rest.max_hops);
    let edge = DelegationEdge {
        id: new_id()?,
        zone_id: from.zone_id,
        source_session_id: parent.id.clone(),
        target_session_id: child.id.clone(),
        issuer_application_id: from.receiver_application_id,
        receiver_application_id: child.application_id.clone(),
        parent_edge_id: Some(from.id),
        inherited: true,
        resource_id: from.resource_id,
        scopes: from.scopes,
        constraints: Constraints { max_depth: None, max_hops: Some(hops), ..from.constraints },
        status: EdgeStatus::Active,
        expires_at: from.expires_at,
        edge_version: 0,
        revoked_at: None,
        created_at: now,
    };
    graph::insert(tx, &edge).await?;
    cause.edge(tx, "delegation_created", &edge).await?;
    Ok(Some(edge))
}

/// The answer to a start.
pub(crate) fn created_json(session: &AgentSession, edge: Option<&DelegationEdge>) -> Value {
    let mut value = tree::to_json_without(session, &["metadata", "terminated_at", "termination_reason"]);
    if let Some(object) = value.as_object_mut() {
        object.insert("delegation_edge_id".to_owned(), json!(edge.map(|edge| &edge.id)));
    }
    value
}
