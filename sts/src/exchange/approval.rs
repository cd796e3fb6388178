//! Where an exchange meets an approval: one that is presented, one that is wanted, one that is used up
//! (contract sts §16.3, §16.4, §16.9).

use super::binding::Bound;
use super::judge::describe;
use super::live::Live;
use super::request::ExchangeRequest;
use super::subject::Subject;
use crate::approvals::{Binding, Hold, NewHold, State, Terms, converge, may_reissue, use_up};
use crate::bundles::ActivePolicy;
use crate::policy::{ApprovalGate, DECISION_CONTRACT_VERSION, decision_contract_sha256};
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_mandate::claims::SubjectType;
use caracal_mandate::id::AuthorityRecordId;
use caracal_store::audit::AuditEvent;
use caracal_store::model::{Application, AuthorityRecord};
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};

/// What the request has in hand.
#[derive(Debug, Clone)]
pub(super) enum Approval {
    /// Nothing: a gate makes it wait.
    Absent,
    /// A granted hold, to be used up with the grant.
    Granted(Box<Hold>),
    /// A hold that this very request used up a moment ago, and the record that came of it.
    Answered(Box<Hold>, Box<AuthorityRecord>),
}

/// Who asks, as far as an approval is bound to it.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) request: &'a ExchangeRequest,
    pub(super) application: &'a Application,
    pub(super) subject: Option<&'a Subject>,
    pub(super) policy: &'a ActivePolicy,
    pub(super) now: i64,
}

impl Asker<'_> {
    fn principal(&self) -> String {
        self.subject.map_or_else(|| self.application.id.to_string(), |subject| subject.claims.sub.clone())
    }

    fn record(&self) -> String {
        let record = self.subject.map(|subject| subject.claims.sid.to_string());
        record.or_else(|| self.request.session_id.clone()).unwrap_or_default()
    }

    fn binding(&self) -> String {
        let claims = self.subject.map(|subject| &subject.claims);
        let session = claims.and_then(|claims| claims.agent_session_id.as_ref()).map(ToString::to_string);
        let edge = claims.and_then(|claims| claims.delegation_edge_id.as_ref()).map(ToString::to_string);
        let binding = Binding {
            resources: self.request.resources.clone(),
            scopes: self.request.requested_scopes(),
            principal: self.principal(),
            authority_record: self.record(),
            session: session.or_else(|| self.request.agent_session_id.clone()).unwrap_or_default(),
            delegation: edge.or_else(|| self.request.delegation_edge_id.clone()).unwrap_or_default(),
            application: self.application.id.to_string(),
            policy_set_version: self.policy.policy_set_version_id.clone().unwrap_or_default(),
            policy_manifest: self.policy.manifest_sha.clone(),
        };
        binding.hash()
    }

    fn refuse(&self, denial: Denial, status: &str, hold: Option<&Hold>) -> Denial {
        let mut denial = describe(denial, self.request, self.application, status, self.now);
        if let (Some(hold), Some(event)) = (hold, denial.events.last_mut()) {
            add_fields(event, hold);
        }
        denial
    }

    /// What the presented `approval_id` is worth.
    pub(super) async fn presented(&self, live: &mut Live<'_>) -> Result<Approval, Denial> {
        let Some(id) = &self.request.approval_id else { return Ok(Approval::Absent) };
        let connection = live.connection().await?;
        let invalid = || {
            Denial::new(
                StatusCode::UNAUTHORIZED,
                "access_denied",
                "the approval is not valid for this request",
            )
        };
        let found = Hold::find(&mut *connection, id).await?.filter(|hold| {
            hold.zone_id == self.application.zone_id.as_str()
                && hold.principal_id == self.principal()
                && hold.session_id == self.record()
                && hold.binding == self.binding()
        });
        let Some(hold) = found else { return Err(self.refuse(invalid(), "approval_invalid", None)) };
        match hold.state(self.now) {
            State::Approved => Ok(Approval::Granted(Box::new(hold))),
            State::Pending => Err(hold.to_denial(self.now)),
            State::Expired => Err(self.refuse(invalid(), "approval_expired", Some(&hold))),
            State::Rejected => Err(self.refuse(rejected(), "approval_rejected", Some(&hold))),
            State::Consumed => match may_reissue(connection, &hold, self.now).await? {
                Some(record) => Ok(Approval::Answered(Box::new(hold), Box::new(record))),
                None => Err(self.refuse(consumed(), "approval_already_consumed", Some(&hold))),
            },
        }
    }

    /// The hold that gates ask for. None where there is no gate.
    pub(super) async fn wanted(
        &self,
        live: &mut Live<'_>,
        bound: &Bound,
        gates: &[ApprovalGate],
    ) -> Result<Option<NewHold>, Denial> {
        if gates.is_empty() {
            return Ok(None);
        }
        let terms = Terms::merge(gates).ok_or_else(|| {
            let denial = Denial::forbidden("one gate wants an operator's approval and another the subject's");
            self.refuse(denial, "approval_class_conflict", None)
        })?;
        let user = self.subject.filter(|subject| subject.record.subject_type == SubjectType::User);
        let subject_anchor = match user {
            Some(subject) => Some(subject.claims.sub.clone()),
            None => user_of_session(live, bound).await?,
        };
        Ok(Some(NewHold {
            zone_id: self.application.zone_id.to_string(),
            principal_id: self.principal(),
            principal_federated: user.is_some(),
            session_id: self.record(),
            application_id: Some(self.application.id.to_string()),
            binding: self.binding(),
            terms,
            subject_anchor,
            metadata: self.metadata(bound),
        }))
    }

    fn metadata(&self, bound: &Bound) -> Value {
        let mut metadata = json!({
            "requested_scopes": self.request.requested_scopes(),
            "resources": self.request.resources,
            "policy_set_version_id": self.policy.policy_set_version_id,
            "policy_manifest_sha": self.policy.manifest_sha,
            "decision_contract_version": DECISION_CONTRACT_VERSION,
            "decision_contract_sha": decision_contract_sha256(),
        });
        let Some(object) = metadata.as_object_mut() else { return metadata };
        if let Some(session) = &bound.session {
            object.insert("agent_session_id".into(), session.id.as_str().into());
            object.insert("agent_labels".into(), json!(session.labels));
        }
        if let Some(delegation) = &bound.delegation {
            object.insert("delegation_edge_id".into(), delegation.edge.id.as_str().into());
        }
        metadata
    }
}

/// The user on whose behalf the bound session runs.
async fn user_of_session(live: &mut Live<'_>, bound: &Bound) -> Result<Option<String>, StoreError> {
    let Some(session) = &bound.session else { return Ok(None) };
    let record = live.record(&session.zone_id, &session.subject_authority_record_id).await?;
    Ok(record.filter(|record| record.subject_type == SubjectType::User).map(|record| record.subject_id))
}

fn rejected() -> Denial {
    Denial::forbidden("the approval was rejected")
}

fn consumed() -> Denial {
    Denial::new(StatusCode::CONFLICT, "approval_consumed", "the approval is used up")
}

fn add_fields(event: &mut AuditEvent, hold: &Hold) {
    let mut metadata = event.metadata_json.take().unwrap_or_default();
    if let (Some(object), Value::Object(fields)) = (metadata.as_object_mut(), hold.to_event_fields()) {
        object.extend(fields);
    }
    event.metadata_json = Some(metadata);
}

/// What became of a gated request inside the granting transaction.
pub(super) enum Gate {
    /// It goes on.
    Open(Approval),
    /// It has to wait; the hold and its events are written.
    Waits(Denial),
}

/// The events of one grant, and what they say of the application.
pub(super) struct Scribe<'a> {
    pub(super) request: &'a ExchangeRequest,
    pub(super) application: &'a Application,
}

impl Scribe<'_> {
    fn event(&self, event_type: &str, decision: &str, hold: &Hold, now: i64) -> AuditEvent {
        let zone = self.application.zone_id.as_str();
        let mut event = AuditEvent::new(zone, event_type, &self.request.request_id, decision, now)
            .with_metadata(json!({
                "application_id": self.application.id.as_str(),
                "application_name": self.application.name,
                "application_registration_method": self.application.registration_method.as_str(),
            }));
        add_fields(&mut event, hold);
        event
    }

    /// Finds or makes the hold of a gated request (contract sts §16.3).
    pub(super) async fn pass(
        &self,
        tx: &mut WriteTx<'_>,
        new: &NewHold,
        events: &[AuditEvent],
    ) -> Result<Gate, Denial> {
        let now = tx.now();
        let (hold, created) = converge(tx, new).await?;
        match hold.state(now) {
            State::Approved => Ok(Gate::Open(Approval::Granted(Box::new(hold)))),
            State::Rejected => {
                let mut denial =
                    describe(rejected(), self.request, self.application, "approval_rejected", now);
                if let Some(event) = denial.events.last_mut() {
                    add_fields(event, &hold);
                }
                Err(denial)
            }
            State::Pending | State::Consumed | State::Expired => {
                for event in events {
                    tx.audit(event).await?;
                }
                if created {
                    tx.audit(&self.event("step_up_issued", "pending", &hold, now)).await?;
                }
                Ok(Gate::Waits(hold.to_denial(now)))
            }
        }
    }

    /// Uses the approval up for this record, or tells that its answer is given once more.
    pub(super) async fn spend(
        &self,
        tx: &mut WriteTx<'_>,
        approval: &Approval,
        record: &AuthorityRecordId,
    ) -> Result<(), Denial> {
        let now = tx.now();
        match approval {
            Approval::Absent => Ok(()),
            Approval::Granted(hold) => {
                if !use_up(tx, hold, Some(record)).await? {
                    let status = "approval_already_consumed";
                    let mut denial = describe(consumed(), self.request, self.application, status, now);
                    if let Some(event) = denial.events.last_mut() {
                        add_fields(event, hold);
                    }
                    return Err(denial);
                }
                tx.audit(&self.event("step_up_consumed", "consumed", hold, now)).await?;
                Ok(())
            }
            Approval::Answered(hold, record) => {
                let mut event = self.event("step_up_consumed", "consumed", hold, now);
                if let Some(object) = event.metadata_json.as_mut().and_then(Value::as_object_mut) {
                    object.insert("reissued".into(), true.into());
                    object.insert("authority_record_id".into(), record.id.as_str().into());
                }
                tx.audit(&event).await?;
                Ok(())
            }
        }
    }
}

/// The answer where a used-up approval has no life left to answer with (contract sts §16.4).
pub(super) fn no_life_left() -> Denial {
    consumed()
}
