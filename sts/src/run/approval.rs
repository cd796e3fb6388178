//! Where a workload's wish meets an approval (contract sts §16, §23). A workload has no application and no session, so
//! operators alone decide.

use super::judge::Case;
use crate::approvals::{Binding, Hold, NewHold, State, Terms};
use crate::bundles::ActivePolicy;
use crate::policy::{ApprovalGate, DECISION_CONTRACT_VERSION, decision_contract_sha256};
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_store::SqlConnection;
use caracal_store::audit::AuditEvent;
use serde_json::{Value, json};

/// What the wish has in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Approval {
    /// Nothing: a gate makes it wait.
    Absent,
    /// A granted hold, to be used up when the credential is given.
    Granted(Box<Hold>),
}

pub(super) struct Asker<'a> {
    pub(super) case: &'a Case<'a>,
    pub(super) policy: &'a ActivePolicy,
}

impl Asker<'_> {
    fn binding(&self) -> String {
        Binding {
            resources: vec![self.case.binding.resource.clone()],
            scopes: self.case.binding.scopes.clone(),
            principal: self.case.workload.id.clone(),
            policy_set_version: self.policy.policy_set_version_id.clone().unwrap_or_default(),
            policy_manifest: self.policy.manifest_sha.clone(),
            ..Binding::default()
        }
        .hash()
    }

    /// What the presented `approval_id` is worth. A used-up one is worth nothing: what it released may be asked for
    /// only once.
    pub(super) async fn presented(&self, connection: &mut SqlConnection) -> Result<Approval, Denial> {
        let Some(id) = &self.case.wish.approval_id else { return Ok(Approval::Absent) };
        let found = Hold::find(connection, id).await?.filter(|hold| {
            hold.zone_id == self.case.workload.zone_id.as_str()
                && hold.principal_id == self.case.workload.id
                && hold.application_id.is_none()
                && hold.session_id.is_empty()
                && hold.binding == self.binding()
        });
        let Some(hold) = found else { return Err(refused(self.case, invalid(), "approval_invalid", None)) };
        let refuse = |denial, status| Err(refused(self.case, denial, status, Some(&hold)));
        match hold.state(self.case.now) {
            State::Approved => Ok(Approval::Granted(Box::new(hold))),
            State::Pending => Err(hold.to_denial(self.case.now)),
            State::Expired => refuse(invalid(), "approval_expired"),
            State::Rejected => refuse(rejected(), "approval_rejected"),
            State::Consumed => refuse(consumed(), "approval_already_consumed"),
        }
    }

    /// The hold that gates ask for. None where there is no gate.
    pub(super) fn wanted(&self, gates: &[ApprovalGate]) -> Result<Option<NewHold>, Denial> {
        if gates.is_empty() {
            return Ok(None);
        }
        let terms = Terms::merge(gates).ok_or_else(|| {
            let denial = Denial::forbidden("one gate wants an operator's approval and another the subject's");
            refused(self.case, denial, "approval_class_conflict", None)
        })?;
        Ok(Some(NewHold {
            zone_id: self.case.workload.zone_id.to_string(),
            principal_id: self.case.workload.id.clone(),
            principal_federated: false,
            session_id: String::new(),
            application_id: None,
            binding: self.binding(),
            terms,
            subject_anchor: None,
            metadata: json!({
                "requested_scopes": self.case.binding.scopes,
                "resources": [self.case.binding.resource],
                "policy_set_version_id": self.policy.policy_set_version_id,
                "policy_manifest_sha": self.policy.manifest_sha,
                "decision_contract_version": DECISION_CONTRACT_VERSION,
                "decision_contract_sha": decision_contract_sha256(),
            }),
        }))
    }
}

pub(super) fn refused(case: &Case<'_>, denial: Denial, status: &str, hold: Option<&Hold>) -> Denial {
    let mut event = case.event("deny", status, Some(status));
    if let Some(hold) = hold {
        add_hold(&mut event, hold);
    }
    denial.with_event(event)
}

/// Puts what the ledger says of a hold into an event.
pub(super) fn add_hold(event: &mut AuditEvent, hold: &Hold) {
    let members = event.metadata_json.as_mut().and_then(Value::as_object_mut);
    if let (Some(object), Value::Object(fields)) = (members, hold.to_event_fields()) {
        object.extend(fields);
    }
}

fn invalid() -> Denial {
    Denial::new(StatusCode::UNAUTHORIZED, "access_denied", "the approval is not valid for this request")
}

pub(super) fn rejected() -> Denial {
    Denial::forbidden("the approval was rejected")
}

pub(super) fn consumed() -> Denial {
    Denial::new(StatusCode::CONFLICT, "approval_consumed", "the approval is used up")
}

/// Policy is another one than the approval was found good for.
pub(super) fn policy_changed() -> Denial {
    Denial::new(StatusCode::CONFLICT, "access_denied", "policy changed since the approval was presented")
}
