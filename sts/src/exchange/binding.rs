//! The governed session and the delegation that a request acts under, read live (contract sts §11).

use super::live::Live;
use super::request::ExchangeRequest;
use super::subject::Subject;
use crate::refusal::Denial;
use caracal_mandate::claims::{ChainHop, SubjectType};
use caracal_mandate::id::{AgentSessionId, AuthorityRecordId, DelegationEdgeId};
use caracal_mandate::scope::ScopeSet;
use caracal_store::StoreError;
use caracal_store::model::{AgentSession, Application, DelegationEdge, Resource};

/// What the request is bound to.
#[derive(Debug, Clone, Default)]
pub(super) struct Bound {
    /// The session that acts.
    pub(super) session: Option<AgentSession>,
    /// The path of delegations that leads to it.
    pub(super) delegation: Option<Delegation>,
    /// The user for whom the topmost session acts that acts for one: root first, the session itself last.
    pub(super) user: Option<User>,
}

/// A user whose record what is minted rests on.
#[derive(Debug, Clone)]
pub(super) struct User {
    /// The record.
    pub(super) record: AuthorityRecordId,
    /// When it ends, or the record of another user on the path before it, unix milliseconds.
    pub(super) ends_at: i64,
}

impl User {
    fn above(self, below: Option<Self>) -> Self {
        let ends_at = below.map_or(self.ends_at, |below| below.ends_at.min(self.ends_at));
        Self { ends_at, ..self }
    }
}

/// A session that may act, and the user for whom it does.
struct Acting {
    session: AgentSession,
    user: Option<User>,
}

/// A path of delegations, all of it live.
#[derive(Debug, Clone)]
pub(super) struct Delegation {
    /// The edges, root first; never empty.
    path: Vec<DelegationEdge>,
    /// The edge that the request names.
    pub(super) edge: DelegationEdge,
    /// When mandates end at the latest, unix milliseconds.
    pub(super) ends_at: i64,
    /// The longest mandate, seconds.
    pub(super) ttl_seconds: Option<i64>,
}

impl Delegation {
    /// Edge ids, root first.
    pub(super) fn path(&self) -> Vec<DelegationEdgeId> {
        self.path.iter().map(|edge| edge.id.clone()).collect()
    }

    /// Who handed authority to whom; the last hop is the receiver.
    pub(super) fn chain(&self) -> Vec<ChainHop> {
        let issuers = self.path.iter().map(|edge| ChainHop {
            application_id: edge.issuer_application_id.clone(),
            agent_session_id: Some(edge.source_session_id.clone()),
            delegation_edge_id: Some(edge.id.clone()),
        });
        let receiver = ChainHop {
            application_id: self.edge.receiver_application_id.clone(),
            agent_session_id: Some(self.edge.target_session_id.clone()),
            delegation_edge_id: None,
        };
        issuers.chain([receiver]).collect()
    }

    /// Does every edge of the path reach this resource?
    pub(super) fn reaches(&self, resource: &Resource) -> bool {
        self.path.iter().all(|edge| {
            let named = &edge.constraints.resources;
            edge.resource_id.as_ref().is_none_or(|id| *id == resource.id)
                && (named.is_empty() || named.iter().any(|name| name == resource.identifier.as_str()))
        })
    }
}

/// Everything is read at one time.
pub(super) struct Reader<'a, 'c> {
    pub(super) live: &'a mut Live<'c>,
    pub(super) application: &'a Application,
    pub(super) now: i64,
}

impl Reader<'_, '_> {
    /// Checks whatever session and delegation the request, or the mandate that it presents, names.
    pub(super) async fn bind(
        &mut self,
        request: &ExchangeRequest,
        subject: Option<&Subject>,
        scopes: &ScopeSet,
    ) -> Result<Bound, Denial> {
        if subject.is_none() {
            self.check_record(request.session_id.as_deref()).await?;
        }
        let claims = subject.map(|subject| &subject.claims);
        let session = claims.and_then(|claims| claims.agent_session_id.as_ref()).map(|id| id.as_str());
        let session = session.or(request.agent_session_id.as_deref());
        let edge = claims.and_then(|claims| claims.delegation_edge_id.as_ref()).map(|id| id.as_str());
        let edge = edge.or(request.delegation_edge_id.as_deref());
        match (session, edge) {
            (None, None) => Ok(Bound::default()),
            (None, Some(_)) => Err(Denial::forbidden("a delegation needs its agent session")),
            (Some(session), None) => {
                let Acting { session, user } = self.own_session(session).await?;
                Ok(Bound { session: Some(session), delegation: None, user })
            }
            (Some(session), Some(edge)) => {
                let Acting { session, user } = self.own_session(session).await?;
                let (delegation, above) = self.delegation(edge, &session, request, scopes).await?;
                let user = above.into_iter().rev().fold(user, |below, above| Some(above.above(below)));
                Ok(Bound { session: Some(session), delegation: Some(delegation), user })
            }
        }
    }

    async fn check_record(&mut self, id: Option<&str>) -> Result<(), Denial> {
        let Some(id) = id else { return Ok(()) };
        let denied = || Denial::forbidden("session_id is not an active record of this application");
        let id = AuthorityRecordId::new(id).map_err(|_| denied())?;
        let record = self.live.record(&self.application.zone_id, &id).await?;
        let own = record.filter(|record| {
            record.is_live(self.now)
                && record.subject_type == SubjectType::Application
                && record.subject_id == self.application.id.as_str()
        });
        own.map(|_| ()).ok_or_else(denied)
    }

    async fn own_session(&mut self, id: &str) -> Result<Acting, Denial> {
        let denied = || Denial::forbidden("the agent session is not active for this application");
        let id = AgentSessionId::new(id).map_err(|_| denied())?;
        let acting = self.live_session(&id).await?.ok_or_else(denied)?;
        if acting.session.application_id == self.application.id { Ok(acting) } else { Err(denied()) }
    }

    /// The session, if it may act: active, within its time, its application and its user's record standing.
    async fn live_session(&mut self, id: &AgentSessionId) -> Result<Option<Acting>, Denial> {
        let found = self.live.session(&self.application.zone_id, id, self.now).await?;
        let Some(session) = found.filter(|session| session.is_active(self.now)) else { return Ok(None) };
        // The asking application was found active already.
        if session.application_id != self.application.id {
            let owner = self.live.application(&session.application_id, self.now).await?;
            if owner.is_none_or(|owner| owner.zone_id != session.zone_id) {
                return Ok(None);
            }
        }
        let record = self.live.record(&session.zone_id, &session.subject_authority_record_id).await?;
        Ok(match record {
            Some(record) if record.subject_type != SubjectType::User => Some(Acting { session, user: None }),
            Some(record) if record.is_live(self.now) => {
                let user = User { record: record.id, ends_at: record.expires_at };
                Some(Acting { session, user: Some(user) })
            }
            _ => None,
        })
    }

    /// The path of a delegation, and the users for whom the sessions act that delegated, root first.
    async fn delegation(
        &mut self,
        id: &str,
        target: &AgentSession,
        request: &ExchangeRequest,
        scopes: &ScopeSet,
    ) -> Result<(Delegation, Vec<User>), Denial> {
        let denied = || Denial::forbidden("the delegation is not active for this session");
        let id = DelegationEdgeId::new(id).map_err(|_| denied())?;
        let broken = || Denial::forbidden("delegation path invalid");
        let path = self.live.lineage(&self.application.zone_id, &id).await;
        caracal_store::metrics::lineage_read(path.is_ok());
        let path = path.map_err(|error| match error {
            // Constraints that are not understood bind all the same.
            StoreError::Corrupt { .. } => broken(),
            other => other.into(),
        })?;
        let path = path.ok_or_else(broken)?;
        let edge = path.last().cloned().ok_or_else(denied)?;
        if edge.target_session_id != target.id || edge.receiver_application_id != target.application_id {
            return Err(denied());
        }
        check_path(&path, self.now)?;
        let mut users = Vec::new();
        for edge in &path {
            let source = self.live_session(&edge.source_session_id).await?;
            let own = source.filter(|source| source.session.application_id == edge.issuer_application_id);
            let own = own.ok_or_else(|| Denial::forbidden("a session that delegated is not active"))?;
            users.extend(own.user);
            if !scopes.is_subset(&edge.scopes) {
                return Err(Denial::forbidden("a requested scope exceeds the delegation"));
            }
        }
        let (ends_at, ttl_seconds) = limits(&path)?;
        if ends_at <= self.now {
            return Err(denied());
        }
        if ttl_seconds.is_some_and(|most| request.ttl_seconds > most) {
            return Err(Denial::forbidden("ttl_seconds exceeds the delegation"));
        }
        Ok((Delegation { path, edge, ends_at, ttl_seconds }, users))
    }
}

/// Every edge stands, each begins where the one before ended, and no edge is followed by more hops than it allows. An
/// inherited edge mirrors its parent at a session's start and spends no hop.
fn check_path(path: &[DelegationEdge], now: i64) -> Result<(), Denial> {
    let broken = || Denial::forbidden("delegation path invalid");
    if path.first().is_none_or(|root| root.parent_edge_id.is_some())
        || path.iter().any(|edge| !edge.is_live(now))
    {
        return Err(broken());
    }
    let continuous = path.iter().zip(path.iter().skip(1)).all(|(before, after)| {
        before.target_session_id == after.source_session_id
            && before.receiver_application_id == after.issuer_application_id
    });
    if !continuous {
        return Err(broken());
    }
    let mut spent: u32 = 0;
    for edge in path.iter().rev() {
        spent = spent.saturating_add(u32::from(!edge.inherited));
        let allowed = edge.constraints.hops().map_err(|error| Denial::forbidden(error.to_string()))?;
        if spent > allowed {
            return Err(Denial::forbidden("the delegation path has more hops than it allows"));
        }
    }
    Ok(())
}

fn limits(path: &[DelegationEdge]) -> Result<(i64, Option<i64>), Denial> {
    let mut ends_at = i64::MAX;
    let mut ttl_seconds: Option<i64> = None;
    for edge in path {
        let end = edge.constraints.end().map_err(|error| Denial::forbidden(error.to_string()))?;
        ends_at = ends_at.min(edge.expires_at).min(end.unwrap_or(i64::MAX));
        let ttl = edge.constraints.ttl_seconds.filter(|ttl| *ttl > 0).map(i64::from);
        ttl_seconds = [ttl_seconds, ttl].into_iter().flatten().min();
    }
    Ok((ends_at, ttl_seconds))
}
