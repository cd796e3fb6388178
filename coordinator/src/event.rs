//! Evidence: what happened to sessions and delegations.

use caracal_mandate::id::ZoneId;
use caracal_store::audit::AuditEvent;
use caracal_store::model::{AgentSession, DelegationEdge};
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};

/// Who caused something, and why.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    /// Where.
    pub(crate) zone: ZoneId,
    /// The request, or the job's own id.
    pub(crate) request_id: String,
    /// The application, the operator or the job.
    pub(crate) actor: String,
    /// The reason that is stored with what ends.
    pub(crate) reason: String,
}

impl Cause {
    /// A caller's doing.
    pub(crate) fn by(caller: &crate::caller::Caller, reason: &str) -> Self {
        Self {
            zone: caller.zone.clone(),
            request_id: caller.request_id.clone(),
            actor: caller.name().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// What happened to a session.
    pub(crate) async fn session(
        &self,
        tx: &mut WriteTx<'_>,
        kind: &str,
        session: &AgentSession,
        reason: &str,
    ) -> Result<(), StoreError> {
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
        self.write(tx, kind, metadata).await
    }

    /// What happened to a delegation.
    pub(crate) async fn edge(
        &self,
        tx: &mut WriteTx<'_>,
        kind: &str,
        edge: &DelegationEdge,
    ) -> Result<(), StoreError> {
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
        self.write(tx, kind, metadata).await
    }

    async fn write(&self, tx: &mut WriteTx<'_>, kind: &str, metadata: Value) -> Result<(), StoreError> {
        let event = AuditEvent::new(self.zone.as_str(), kind, &self.request_id, "allow", tx.now());
        tx.audit(&event.with_metadata(metadata)).await
    }
}
