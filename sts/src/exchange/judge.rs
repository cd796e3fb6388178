//! The judgement: authentication, subject, binding, then every resource with policy (contract sts §8.10 to §8.22, §12).

use super::approval::{Approval, Asker};
use super::binding::{Bound, Reader};
use super::control::{ControlKey, control_key};
use super::live::Live;
use super::provider::Unconnected;
use super::request::ExchangeRequest;
use super::subject::{Presented, Subject};
use crate::Sts;
use crate::approvals::NewHold;
use crate::bundles::ActivePolicy;
use crate::policy::input::{
    Action, Context, DelegationEdge as EdgeInput, Principal, Resource as ResourceInput,
};
use crate::policy::input::{PolicyInput, SessionReference};
use crate::policy::{ApprovalGate, decision_contract_sha256};
use crate::providers::{Brokered, ConnectionRef};
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_mandate::operation::{self, OperationRefusal};
use caracal_mandate::scope::ScopeSet;
use caracal_store::audit::AuditEvent;
use caracal_store::model::{Application, Epochs, Provider, Resource};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Everything that a grant needs, as of one moment.
#[derive(Debug, Clone)]
pub(super) struct Judgement {
    pub(super) application: Application,
    pub(super) subject: Option<Subject>,
    pub(super) bound: Bound,
    pub(super) granted: Vec<GrantedResource>,
    pub(super) epochs: Epochs,
    pub(super) events: Vec<AuditEvent>,
    /// The control key that it uses.
    pub(super) control: Option<ControlKey>,
    /// The approval that the request presents.
    pub(super) approval: Approval,
    /// The approval that it still needs.
    pub(super) wanted: Option<NewHold>,
    /// What was made ready for the gateway after it was judged.
    pub(super) brokered: Arc<Brokered>,
}

impl Judgement {
    /// May the presented mandate be used again after this request?
    pub(super) fn multi_use(&self) -> bool {
        self.subject.as_ref().is_some_and(|subject| subject.claims.multi_use)
            && self.granted.iter().all(|granted| granted.resource.multi_use)
    }
}

/// The evaluation status of what is allowed and waits for an approval.
pub(super) const APPROVAL_REQUIRED: &str = "approval_required";

/// How every refusal by policy begins.
pub(super) const POLICY_DENIED: &str = "policy denied (";

/// What the resources of a request came to, besides themselves.
#[derive(Default)]
struct Findings {
    events: Vec<AuditEvent>,
    gates: Vec<ApprovalGate>,
}

/// A resource that is granted, with the provider of its credential.
#[derive(Debug, Clone)]
pub(super) struct GrantedResource {
    pub(super) resource: Resource,
    pub(super) provider: Option<Provider>,
    /// The connection that serves the subject there.
    pub(super) connection: Option<ConnectionRef>,
}

/// What one resource came to.
enum Outcome {
    Granted(Box<GrantedResource>),
    /// Refused; the others go on.
    Skipped(Denial),
    /// Refused for want of a connection, which is told before all other refusals.
    Unconnected(Denial),
}

struct Case<'a> {
    request: &'a ExchangeRequest,
    application: &'a Application,
    subject: Option<&'a Subject>,
    bound: &'a Bound,
    policy: Arc<ActivePolicy>,
    graph_epoch: u64,
    /// Does the request present an approval that was granted?
    resolved: bool,
    control: Option<ControlKey>,
    now: i64,
}

impl Sts {
    /// Judges a request against live state. Nothing is written.
    pub(super) async fn judge(
        &self,
        live: &mut Live<'_>,
        request: &ExchangeRequest,
        presented: &Presented,
    ) -> Result<Judgement, Denial> {
        let now = self.store().now();
        // Before all else: whatever changes after the epochs were read makes the grant judge anew.
        let zone = self.zone_of(live, request, now).await?;
        let application = self.authenticate(live, request, now).await?;
        if request.resources.is_empty() && request.subject_token.is_none() {
            return Err(Denial::malformed("no resource is named"));
        }
        let zone = zone.ok_or_else(Denial::unauthenticated)?;
        check_ttl(request)?;
        let subject = self.subject(live, request, presented, &application, &zone, now).await;
        let subject =
            subject.map_err(|denial| describe(denial, request, &application, "subject_rejected", now))?;
        if request.resources.is_empty() {
            return Err(Denial::malformed("no resource is named"));
        }
        let scopes = ScopeSet::parse(&request.scope).map_err(|error| Denial::malformed(error.to_string()))?;
        let policy = self.policy(live, &zone).await;
        let policy = policy.map_err(|error| {
            tracing::error!(zone = %zone.id, %error, "the zone's policy cannot be used");
            describe(policy_failed(), request, &application, "policy_eval_failed", now)
        });
        let approval = match &policy {
            Ok(policy) => {
                let subject = subject.as_ref();
                Asker { request, application: &application, subject, policy, now }.presented(live).await?
            }
            // Whatever is presented, nothing comes of it: the request fails at its policy.
            Err(_) => Approval::Absent,
        };
        let mut reader = Reader { live: &mut *live, application: &application, now };
        let bound = reader.bind(request, subject.as_ref(), &scopes).await;
        let bound =
            bound.map_err(|denial| describe(denial, request, &application, "binding_rejected", now))?;
        let policy = policy?;
        let case = Case {
            request,
            application: &application,
            subject: subject.as_ref(),
            bound: &bound,
            policy,
            graph_epoch: zone.epochs.graph,
            resolved: !matches!(approval, Approval::Absent),
            control: control_key(request, &application, self.control_audience(), now),
            now,
        };
        let (granted, Findings { events, gates }) = self.resources(live, &case, &scopes).await?;
        let asker = Asker {
            request,
            application: &application,
            subject: subject.as_ref(),
            policy: &case.policy,
            now,
        };
        let wanted = asker.wanted(live, &bound, &gates).await?;
        if subject.is_some() && request.gateway.is_none() {
            let denial = Denial::forbidden("a subject token cannot be exchanged here");
            return Err(describe(denial, request, &application, "exchange_denied", now));
        }
        let control = case.control;
        Ok(Judgement {
            application,
            subject,
            bound,
            granted,
            epochs: zone.epochs,
            events,
            approval,
            wanted,
            control,
            brokered: Arc::default(),
        })
    }

    async fn resources(
        &self,
        live: &mut Live<'_>,
        case: &Case<'_>,
        scopes: &ScopeSet,
    ) -> Result<(Vec<GrantedResource>, Findings), Denial> {
        let mut granted: Vec<GrantedResource> = Vec::new();
        let mut found = Findings::default();
        let mut first_refusal: Option<Denial> = None;
        let mut first_unconnected: Option<Denial> = None;
        for name in &case.request.resources {
            match self.resource(live, case, name, scopes, &mut found).await {
                Ok(Outcome::Granted(resource)) => {
                    // It may be named by its identifier and by its row id.
                    if granted.iter().all(|other| other.resource.id != resource.resource.id) {
                        granted.push(*resource);
                    }
                }
                Ok(Outcome::Skipped(denial)) => first_refusal = first_refusal.or(Some(denial)),
                Ok(Outcome::Unconnected(denial)) => {
                    first_unconnected = first_unconnected.or(Some(denial));
                }
                Err(mut denial) => {
                    found.events.append(&mut denial.events);
                    denial.events = found.events;
                    return Err(denial);
                }
            }
        }
        match first_unconnected.or(first_refusal) {
            Some(mut denial) if granted.is_empty() => {
                denial.events = found.events;
                Err(denial)
            }
            _ => Ok((granted, found)),
        }
    }

    async fn resource(
        &self,
        live: &mut Live<'_>,
        case: &Case<'_>,
        name: &str,
        scopes: &ScopeSet,
        found: &mut Findings,
    ) -> Result<Outcome, Denial> {
        let Findings { events, gates } = found;
        let mut skip = |status: &str, description: &'static str| {
            let mut metadata = case.metadata(name);
            add(&mut metadata, "reason", description.into());
            events.push(case.event("deny").with_status(status).with_metadata(metadata));
            Ok(Outcome::Skipped(Denial::forbidden(description)))
        };
        let resource = live.resource(&case.application.zone_id, name).await?;
        let Some(resource) = resource else { return skip("resource_not_found", "the resource is not known") };
        if !scopes.iter().all(|scope| resource.may_mint(scope.as_str())) {
            return skip("scope_mismatch", "the resource does not declare a requested scope");
        }
        if case.bound.delegation.as_ref().is_some_and(|delegation| !delegation.reaches(&resource)) {
            return skip("resource_outside_delegation", "the resource is outside the delegation");
        }
        if resource.identifier.as_str() == self.control_audience() {
            if case.control.is_some() {
                let mut event = case.event("allow").with_metadata(case.metadata(name));
                event.determining_policies_json = json!([{ "policy": "control-key" }]);
                events.push(event);
                return Ok(granted(resource, None, None));
            }
            let event = case.event("deny").with_status("control_resource_requires_control_key");
            events.push(event.with_metadata(case.metadata(name)));
            return Err(Denial::forbidden("the control resource needs a control key"));
        }
        case.check_operation(&resource)?;
        let provider = match &resource.credential_provider_id {
            None => None,
            Some(id) => match live.provider(&case.application.zone_id, id).await? {
                Some(provider) => Some(provider),
                None => return skip("provider_unavailable", "the resource's provider is not available"),
            },
        };
        let asks = (case.request, case.subject);
        let zone = &case.application.zone_id;
        let own = match self.connected(live, zone, provider.as_ref(), asks).await? {
            Ok(own) => own,
            Err(Unconnected { status, reason, denial }) => {
                let mut metadata = case.metadata(name);
                if let Some(object) = metadata.as_object_mut() {
                    object.insert("reason".into(), reason.into());
                }
                events.push(case.event("deny").with_status(status).with_metadata(metadata));
                return Ok(Outcome::Unconnected(denial));
            }
        };
        case.consult_policy(&resource, events, gates)
            .map(|refused| refused.map_or_else(|| granted(resource, provider, own), Outcome::Skipped))
    }
}

fn granted(resource: Resource, provider: Option<Provider>, connection: Option<ConnectionRef>) -> Outcome {
    Outcome::Granted(Box::new(GrantedResource { resource, provider, connection }))
}

/// An out-of-range time to live is refused before anything is judged (contract sts §17).
fn check_ttl(request: &ExchangeRequest) -> Result<(), Denial> {
    let most = if request.subject_token.is_some() { 900 } else { 3600 };
    if (0..=most).contains(&request.ttl_seconds) {
        Ok(())
    } else {
        Err(Denial::malformed(format!("ttl_seconds has to be between 0 and {most}")))
    }
}

fn policy_failed() -> Denial {
    Denial::new(StatusCode::SERVICE_UNAVAILABLE, "policy_eval_failed", "policy could not be evaluated")
}

/// Adds the event that tells of a denial which concerns no single resource. What failed for want of the store is no
/// denial.
pub(super) fn describe(
    denial: Denial,
    request: &ExchangeRequest,
    application: &Application,
    status: &str,
    now: i64,
) -> Denial {
    if denial.code == "sts_unavailable" {
        return denial;
    }
    let reason = denial.description.clone().into_owned();
    let metadata = json!({
        "application_id": application.id.as_str(),
        "application_name": application.name,
        "application_registration_method": application.registration_method.as_str(),
        "requested": request.resources,
        "requested_scopes": request.requested_scopes(),
        "reason": reason,
    });
    let event =
        AuditEvent::new(application.zone_id.as_str(), "token_exchange", &request.request_id, "deny", now);
    denial.with_event(event.with_status(status).with_metadata(metadata))
}

fn add(metadata: &mut Value, name: &str, value: Value) {
    if let Some(object) = metadata.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

impl Case<'_> {
    fn event(&self, decision: &str) -> AuditEvent {
        let zone = self.application.zone_id.as_str();
        AuditEvent::new(zone, "token_exchange", &self.request.request_id, decision, self.now)
    }

    /// The operation floor of a gateway's request (contract sts §12.4).
    fn check_operation(&self, resource: &Resource) -> Result<(), Denial> {
        let (Some(call), Some(subject)) = (&self.request.gateway, self.subject) else { return Ok(()) };
        let carried = subject.claims.scopes();
        let permitted =
            operation::permit(resource.enforcement, &resource.operations, &call.method, &call.path, &carried);
        permitted.map_err(|refusal| {
            let mut metadata = self.metadata(resource.identifier.as_str());
            let reason = match refusal {
                OperationRefusal::ScopeMissing(scope) => format!("the mandate does not carry {scope}"),
                OperationRefusal::Undeclared => "the resource declares no such operation".to_owned(),
                _ => "the operation is not permitted".to_owned(),
            };
            add(&mut metadata, "reason", reason.into());
            add(&mut metadata, "path", call.path.as_str().into());
            let event = self.event("deny").with_status("operation_not_permitted").with_metadata(metadata);
            let status = StatusCode::FORBIDDEN;
            Denial::new(status, "operation_not_permitted", "operation not permitted").with_event(event)
        })
    }

    /// Asks policy. `None` where it allows.
    fn consult_policy(
        &self,
        resource: &Resource,
        events: &mut Vec<AuditEvent>,
        gates: &mut Vec<ApprovalGate>,
    ) -> Result<Option<Denial>, Denial> {
        let mut metadata = self.metadata(resource.identifier.as_str());
        add(&mut metadata, "decision_contract_sha", decision_contract_sha256().into());
        let input = self.input(resource);
        let decision = self.policy.bundle.evaluate(&input).map_err(|error| {
            let mut event =
                self.event("deny").with_status("policy_eval_failed").with_metadata(metadata.clone());
            event.diagnostics_json = json!([{ "error": error.to_string() }]);
            policy_failed().with_event(event)
        })?;
        let raised =
            if decision.is_allow() && !self.resolved { decision.approval_gates() } else { Vec::new() };
        let gated = !raised.is_empty();
        gates.extend(raised);
        let mut event = self.event(if decision.is_allow() && !gated { "allow" } else { "deny" });
        if gated {
            event = event.with_status(APPROVAL_REQUIRED);
        }
        event.policy_set_version_id.clone_from(&self.policy.policy_set_version_id);
        event.manifest_sha = Some(self.policy.manifest_sha.clone());
        event.determining_policies_json = decision.determining_policies_json();
        event.diagnostics_json = Value::Array(decision.diagnostics.clone());
        let allowed = decision.is_allow();
        let reason = decision.reason.unwrap_or_else(|| "policy".to_owned());
        if !allowed || gated {
            // What an operator needs to evaluate it again.
            let reason = if gated { APPROVAL_REQUIRED } else { reason.as_str() };
            add(&mut metadata, "reason", reason.into());
            add(&mut metadata, "policy_input", input.redacted());
        }
        events.push(event.with_metadata(metadata));
        if allowed {
            return Ok(None);
        }
        Ok(Some(Denial::forbidden(format!("{POLICY_DENIED}{reason})"))))
    }

    /// What an event says of the request, never a token, a secret or a subject.
    fn metadata(&self, resource: &str) -> Value {
        let subject_kind = self.subject.map_or("application", |subject| match subject.record.subject_type {
            caracal_mandate::claims::SubjectType::User => "user",
            caracal_mandate::claims::SubjectType::Application => "application",
        });
        let mut metadata = json!({
            "application_id": self.application.id.as_str(),
            "application_name": self.application.name,
            "application_registration_method": self.application.registration_method.as_str(),
            "resource": resource,
            "requested_scopes": self.request.requested_scopes(),
            "subject_kind": subject_kind,
        });
        let Some(object) = metadata.as_object_mut() else { return metadata };
        if let Some(subject) = self.subject {
            object.insert("session_id".into(), subject.claims.sid.as_str().into());
        }
        if let Some(session) = &self.bound.session {
            object.insert("agent_session_id".into(), session.id.as_str().into());
            object.insert("agent_lifecycle".into(), session.lifecycle.as_str().into());
            object.insert("agent_labels".into(), json!(session.labels));
            object.insert("agent_depth".into(), session.depth.into());
            if let Some(parent) = &session.parent_id {
                object.insert("agent_parent_id".into(), parent.as_str().into());
            }
        }
        if let Some(delegation) = &self.bound.delegation {
            object.insert("delegation_edge_id".into(), delegation.edge.id.as_str().into());
            object.insert("delegation_chain".into(), json!(delegation.chain()));
            object.insert("delegation_hop_count".into(), delegation.path().len().into());
            object.insert("delegation_graph_epoch".into(), self.graph_epoch.into());
        }
        if let Some(call) = &self.request.gateway {
            object.insert("method".into(), call.method.as_str().into());
            let carried = self.subject.map(|subject| subject.claims.scope.as_str()).unwrap_or_default();
            object.insert("carried_scopes".into(), carried.split_whitespace().collect());
        }
        metadata
    }

    /// The policy input (contract sts §14.2).
    fn input(&self, resource: &Resource) -> PolicyInput {
        let session = self.bound.session.as_ref();
        let id_of_session = session.map(|session| session.id.to_string()).unwrap_or_default();
        let record = self.subject.map(|subject| subject.claims.sid.to_string());
        let record = record.or_else(|| self.request.session_id.clone());
        let edge = self.bound.delegation.as_ref().map(|delegation| self.edge_input(delegation));
        let mut actor_claims = Map::new();
        actor_claims.insert("caracal_client_id".into(), self.application.id.as_str().into());
        PolicyInput {
            principal: Principal {
                kind: "Application".into(),
                id: self.application.id.to_string(),
                zone_id: self.application.zone_id.to_string(),
                registration_method: self.application.registration_method.as_str().into(),
                agent_session_id: id_of_session.clone(),
                lifecycle: session.map(|session| session.lifecycle.as_str().to_owned()).unwrap_or_default(),
                labels: session.map(|session| session.labels.clone()).unwrap_or_default(),
            },
            resource: ResourceInput {
                id: resource.id.to_string(),
                identifier: resource.identifier.to_string(),
                scopes: resource.scopes.iter().map(ToString::to_string).collect(),
                ..ResourceInput::default()
            },
            action: Action {
                id: "TokenExchange".into(),
                method: self.request.gateway.as_ref().map(|call| call.method.clone()).unwrap_or_default(),
                path: self.request.gateway.as_ref().map(|call| call.path.clone()).unwrap_or_default(),
            },
            session: record.clone().map(|id| SessionReference { id }),
            context: Context {
                actor_claims,
                subject_claims: self.subject_claims(),
                trace_id: self.request.request_id.clone(),
                session_id: record.unwrap_or_default(),
                agent_session_id: id_of_session,
                delegation_edge_id: edge.as_ref().map(|edge| edge.id.clone()).unwrap_or_default(),
                challenge_resolved: self.resolved,
                requested_scopes: self.request.requested_scopes(),
            },
            delegation_edge: edge,
            ..PolicyInput::default()
        }
    }

    fn subject_claims(&self) -> Map<String, Value> {
        let claims = self.subject.and_then(|subject| serde_json::to_value(&subject.claims).ok());
        match claims {
            Some(Value::Object(claims)) => claims,
            _ => Map::new(),
        }
    }

    fn edge_input(&self, delegation: &super::binding::Delegation) -> EdgeInput {
        let edge = &delegation.edge;
        EdgeInput {
            id: edge.id.to_string(),
            source_session_id: edge.source_session_id.to_string(),
            target_session_id: edge.target_session_id.to_string(),
            issuer_application_id: edge.issuer_application_id.to_string(),
            receiver_application_id: edge.receiver_application_id.to_string(),
            resource_id: edge.resource_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            scopes: edge.scopes.iter().map(ToString::to_string).collect(),
            edge_version: edge.edge_version,
            path: delegation.path().iter().map(ToString::to_string).collect(),
            graph_epoch: i64::try_from(self.graph_epoch).unwrap_or(i64::MAX),
            constraints_json: serde_json::to_value(&edge.constraints).unwrap_or_default(),
        }
    }
}
