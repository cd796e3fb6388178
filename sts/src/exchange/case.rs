//! One request before its resources: what policy is asked of it, and what events say of it (contract sts §12.4, §14.2).

use super::binding::{Bound, Delegation};
use super::control::ControlKey;
use super::request::ExchangeRequest;
use super::subject::Subject;
use crate::bundles::ActivePolicy;
use crate::policy::input::{
    Action, Context, DelegationEdge as EdgeInput, PolicyInput, Principal, Resource as ResourceInput,
    SessionReference,
};
use crate::policy::{ApprovalGate, decision_contract_sha256};
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_mandate::claims::SubjectType;
use caracal_mandate::operation::{self, OperationRefusal};
use caracal_store::audit::AuditEvent;
use caracal_store::model::{Application, Resource};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The evaluation status of what is allowed and waits for an approval.
pub(super) const APPROVAL_REQUIRED: &str = "approval_required";

/// How every refusal by policy begins.
pub(super) const POLICY_DENIED: &str = "policy denied (";

/// A request that is known, bound, and still to be judged for each of its resources.
pub(super) struct Case<'a> {
    pub(super) request: &'a ExchangeRequest,
    pub(super) application: &'a Application,
    pub(super) subject: Option<&'a Subject>,
    pub(super) bound: &'a Bound,
    pub(super) policy: Arc<ActivePolicy>,
    pub(super) graph_epoch: u64,
    /// Does the request present an approval that was granted?
    pub(super) resolved: bool,
    pub(super) control: Option<ControlKey>,
    pub(super) now: i64,
}

impl Case<'_> {
    pub(super) fn event(&self, decision: &str) -> AuditEvent {
        let zone = self.application.zone_id.as_str();
        AuditEvent::new(zone, "token_exchange", &self.request.request_id, decision, self.now)
    }

    /// The operation floor of a gateway's request (contract sts §12.4).
    pub(super) fn check_operation(&self, resource: &Resource) -> Result<(), Denial> {
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
    pub(super) fn consult_policy(
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
    pub(super) fn metadata(&self, resource: &str) -> Value {
        let subject_kind = self.subject.map_or("application", |subject| match subject.record.subject_type {
            SubjectType::User => "user",
            SubjectType::Application => "application",
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

    fn edge_input(&self, delegation: &Delegation) -> EdgeInput {
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

pub(super) fn policy_failed() -> Denial {
    Denial::new(StatusCode::SERVICE_UNAVAILABLE, "policy_eval_failed", "policy could not be evaluated")
}

/// Adds a member to what an event says.
pub(super) fn add(metadata: &mut Value, name: &str, value: Value) {
    if let Some(object) = metadata.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}
