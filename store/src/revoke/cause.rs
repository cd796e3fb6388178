//! Evidence: what happened to sessions, delegations and records.

use crate::audit::AuditEvent;
use crate::model::{AgentSession, AuthorityRecord, DelegationEdge};
use crate::{StoreError, WriteTx};
use caracal_mandate::id::ZoneId;
use serde_json::{Value, json};

/// Who caused something, and why.
#[derive(Debug, Clone)]
pub struct Cause {
    /// Where.
    pub zone: ZoneId,
    /// The request, or the job's own id.
    pub request_id: String,
    /// The application, the operator or the job.
    pub actor: String,
    /// The reason that is stored with what ends.
    pub reason: String,
}

impl Cause {
    /// What happened to a session.
    pub async fn session(
        &self,
        tx: &mut WriteTx<'_>,
        kind: &str,
        session: &AgentSession,
        reason: &str,
    ) -> Result<(), StoreError> {
        let event = self.of_session(tx.now(), kind, session, reason);
        tx.audit(&event).await
    }

    /// What happened to a delegation.
    pub async fn edge(
        &self,
        tx: &mut WriteTx<'_>,
        kind: &str,
        edge: &DelegationEdge,
    ) -> Result<(), StoreError> {
        let event = self.of_edge(tx.now(), kind, edge);
        tx.audit(&event).await
    }

    /// The event of what happened to a session.
    #[must_use]
    pub fn of_session(&self, now: i64, kind: &str, session: &AgentSession, reason: &str) -> AuditEvent {
        let metadata = json!({
            "application_id": session.application_id,
            "agent_session_id": session.id,
            "agent_lifecycle": session.lifecycle,
            "agent_labels": session.labels,
            "agent_depth": session.depth,
            "agent_parent_id": session.parent_id,
            "subject_authority_record_id": session.subject_authority_record_id,
            "actor": self.actor,
            "reason": reason,
        });
        self.event(now, kind, metadata)
    }

    pub(super) fn of_edge(&self, now: i64, kind: &str, edge: &DelegationEdge) -> AuditEvent {
        let metadata = json!({
            "application_id": edge.issuer_application_id,
            "receiver_application_id": edge.receiver_application_id,
            "delegation_edge_id": edge.id,
            "parent_edge_id": edge.parent_edge_id,
            "source_session_id": edge.source_session_id,
            "target_session_id": edge.target_session_id,
            "resource_id": edge.resource_id,
            "scopes": edge.scopes,
            "inherited": edge.inherited,
            "actor": self.actor,
            "reason": self.reason,
        });
        self.event(now, kind, metadata)
    }

    pub(super) fn of_record(&self, now: i64, kind: &str, record: &AuthorityRecord) -> AuditEvent {
        let metadata = json!({
            "application_id": record.application_id,
            "authority_record_id": record.id,
            "parent_authority_record_id": record.parent_id,
            "subject_id": record.subject_id,
            "actor": self.actor,
            "reason": self.reason,
        });
        self.event(now, kind, metadata)
    }

    fn event(&self, now: i64, kind: &str, metadata: Value) -> AuditEvent {
        AuditEvent::new(self.zone.as_str(), kind, &self.request_id, "allow", now).with_metadata(metadata)
    }

    /// Anything else that happened in the zone.
    pub async fn write(&self, tx: &mut WriteTx<'_>, kind: &str, metadata: Value) -> Result<(), StoreError> {
        let event = self.event(tx.now(), kind, metadata);
        tx.audit(&event).await
    }
}
