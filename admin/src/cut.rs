//! Cutting someone off: every authority record, session and delegation that stems from a subject or an application,
//! in the transaction of the change that asks for it (contract admin-audit §5.7, §5.8).

use crate::gate::Call;
use crate::problem::Problem;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::{AgentSessionId, AuthorityRecordId, DelegationEdgeId, ZoneId};
use caracal_store::audit::AuditEvent;
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Display;

/// Whose authority ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// All that an application holds.
    Application(&'a str),
    /// All that stems from a subject, person or application.
    Subject(&'a str),
    /// All that stems from a person.
    User(&'a str),
}

/// Who ends it, and why.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    actor: String,
    request_id: String,
    reason: String,
}

impl Cause {
    pub(crate) fn of(call: &Call, reason: &str) -> Self {
        Self { actor: call.actor.author(), request_id: call.request_id.clone(), reason: reason.to_owned() }
    }

    async fn tell(
        &self,
        tx: &mut WriteTx<'_>,
        zone: &ZoneId,
        kind: &str,
        mut metadata: Value,
    ) -> Result<(), StoreError> {
        if let Some(members) = metadata.as_object_mut() {
            members.insert("actor".to_owned(), self.actor.as_str().into());
            members.insert("reason".to_owned(), self.reason.as_str().into());
        }
        let event = AuditEvent::new(zone.as_str(), kind, &self.request_id, "allow", tx.now());
        tx.audit(&event.with_metadata(metadata)).await
    }
}

/// What ended.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) records: usize,
    pub(crate) sessions: usize,
    pub(crate) edges: usize,
    /// What gateways have to hear; the caller records the change.
    pub(crate) anchors: Vec<Anchor>,
}

/// The statements begin with these: `record` is what stands of theirs and what was exchanged for it, `ending` are their
/// live sessions and all below, `cut` are the delegations to and from those and all that descends from them.
fn statement(whose: Whose<'_>, end: &str) -> String {
    let (record, session) = match whose {
        Whose::Application(_) => ("application_id = $2", "s.application_id = $2"),
        Whose::Subject(_) => ("subject_id = $2", "r.subject_id = $2"),
        Whose::User(_) => {
            ("subject_id = $2 AND session_type = 'user'", "r.subject_id = $2 AND r.session_type = 'user'")
        }
    };
    format!(
        "WITH RECURSIVE \
         record (id) AS (SELECT id FROM authority_records WHERE zone_id = $1 AND {record} \
           UNION SELECT a.id FROM authority_records a JOIN record p ON a.parent_id = p.id WHERE a.zone_id = $1), \
         ending (id) AS (SELECT s.id FROM sessions s \
             JOIN authority_records r ON r.id = s.subject_authority_record_id \
             WHERE s.zone_id = $1 AND s.status IN ('active', 'suspended') AND {session} \
           UNION SELECT s.id FROM sessions s JOIN ending p ON s.parent_id = p.id \
             WHERE s.zone_id = $1 AND s.status IN ('active', 'suspended')), \
         cut (id) AS (SELECT d.id FROM delegation_edges d \
             JOIN ending e ON d.source_session_id = e.id OR d.target_session_id = e.id \
             WHERE d.zone_id = $1 AND d.status = 'active' \
           UNION SELECT d.id FROM delegation_edges d JOIN cut p ON d.parent_edge_id = p.id WHERE d.zone_id = $1) {end}"
    )
}

async fn ids(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    whose: Whose<'_>,
    end: &str,
) -> Result<Vec<String>, StoreError> {
    let (Whose::Application(who) | Whose::Subject(who) | Whose::User(who)) = whose;
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(statement(whose, end)))
        .bind(zone.as_str())
        .bind(who)
        .fetch_all(&mut *tx.connection())
        .await?)
}

fn parsed<T, E: Display>(id: Result<T, E>) -> Result<T, StoreError> {
    id.map_err(|error| StoreError::corrupt(format!("a stored id: {error}")))
}

/// Ends all of it. The caller records the change with the anchors that this answers.
pub(crate) async fn cut(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    cause: &Cause,
    whose: Whose<'_>,
) -> Result<Cut, Problem> {
    let standing = "SELECT a.id FROM authority_records a JOIN record ON record.id = a.id \
                    WHERE a.status = 'active' ORDER BY a.id";
    let records = ids(tx, zone, whose, standing).await?;
    let sessions = ids(tx, zone, whose, "SELECT id FROM ending ORDER BY id").await?;
    let standing = "SELECT d.id FROM delegation_edges d JOIN cut ON cut.id = d.id \
                    WHERE d.status = 'active' ORDER BY d.id";
    let edges = ids(tx, zone, whose, standing).await?;
    let mut done =
        Cut { records: records.len(), sessions: sessions.len(), edges: edges.len(), anchors: Vec::new() };
    for id in records {
        end_record(tx, cause, &id).await?;
        done.anchors.push(Anchor::AuthorityRecord(parsed(AuthorityRecordId::new(id))?));
    }
    let ending: BTreeSet<&str> = sessions.iter().map(String::as_str).collect();
    for id in &sessions {
        end_session(tx, zone, cause, id, &ending).await?;
        done.anchors.push(Anchor::AgentSession(parsed(AgentSessionId::new(id.as_str()))?));
    }
    for id in edges {
        end_edge(tx, zone, cause, &id).await?;
        done.anchors.push(Anchor::DelegationEdge(parsed(DelegationEdgeId::new(id))?));
    }
    if done.edges > 0 {
        sqlx::query("UPDATE zones SET graph_epoch = graph_epoch + 1 WHERE id = $1")
            .bind(zone.as_str())
            .execute(&mut *tx.connection())
            .await?;
    }
    Ok(done)
}

async fn end_record(tx: &mut WriteTx<'_>, cause: &Cause, id: &str) -> Result<(), StoreError> {
    let now = tx.now();
    sqlx::query(
        "UPDATE authority_records SET status = 'revoked', revoked_at = $1, revoked_reason = $2 WHERE id = $3",
    )
    .bind(now)
    .bind(cause.reason.as_str())
    .bind(id)
    .execute(&mut *tx.connection())
    .await?;
    Ok(())
}

async fn end_session(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    cause: &Cause,
    id: &str,
    ending: &BTreeSet<&str>,
) -> Result<(), StoreError> {
    let now = tx.now();
    let (application, parent): (String, Option<String>) = sqlx::query_as(
        "UPDATE sessions SET status = 'terminated', terminated_at = $1, termination_reason = $2, updated_at = $1 \
         WHERE id = $3 RETURNING application_id, parent_id",
    )
    .bind(now)
    .bind(cause.reason.as_str())
    .bind(id)
    .fetch_one(&mut *tx.connection())
    .await?;
    // A parent that lives on has one child less.
    if let Some(parent) = parent.as_deref().filter(|parent| !ending.contains(parent)) {
        sqlx::query("UPDATE sessions SET child_count = child_count - 1 WHERE id = $1 AND child_count > 0")
            .bind(parent)
            .execute(&mut *tx.connection())
            .await?;
    }
    let metadata =
        json!({ "application_id": application, "agent_session_id": id, "agent_parent_id": parent });
    cause.tell(tx, zone, "session_terminated", metadata).await
}

async fn end_edge(tx: &mut WriteTx<'_>, zone: &ZoneId, cause: &Cause, id: &str) -> Result<(), StoreError> {
    let now = tx.now();
    let (source, target): (String, String) = sqlx::query_as(
        "UPDATE delegation_edges SET status = 'revoked', revoked_at = $1, updated_at = $1, \
         edge_version = edge_version + 1 WHERE id = $2 RETURNING source_session_id, target_session_id",
    )
    .bind(now)
    .bind(id)
    .fetch_one(&mut *tx.connection())
    .await?;
    let metadata =
        json!({ "delegation_edge_id": id, "source_session_id": source, "target_session_id": target });
    cause.tell(tx, zone, "delegation_revoked", metadata).await
}
