//! Everything that ends with what is selected.

use super::selector::{Selector, SelectorError};
use crate::SqlConnection;
use crate::StoreError;
use crate::many::{list, pieces};
use crate::model::{AgentSession, AuthorityRecord, DelegationEdge, SessionStatus};
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use serde::Serialize;

/// What is selected directly: a condition for each table. `$1` is the zone; the values stand from `$2` on.
#[derive(Debug)]
pub(super) struct Matches {
    records: String,
    sessions: String,
    edges: String,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Number(i64),
    Texts(Vec<String>),
}

const NOTHING: &str = "1 = 0";

impl Matches {
    fn of(values: Values) -> Self {
        let nothing = || NOTHING.to_owned();
        Self { records: nothing(), sessions: nothing(), edges: nothing(), values }
    }

    pub(super) fn texts<const N: usize>(texts: [&str; N]) -> Self {
        Self::of(Values::Texts(texts.map(str::to_owned).to_vec()))
    }

    pub(super) fn number(number: i64) -> Self {
        Self::of(Values::Number(number))
    }

    pub(super) fn live_session(id: &AgentSessionId) -> Self {
        Self::texts([id.as_str()]).sessions("id = $2 AND status IN ('active', 'suspended')")
    }

    pub(super) fn edge(id: &DelegationEdgeId) -> Self {
        Self::texts([id.as_str()]).edges("id = $2")
    }

    pub(super) fn records(mut self, condition: &str) -> Self {
        condition.clone_into(&mut self.records);
        self
    }

    pub(super) fn sessions(mut self, condition: &str) -> Self {
        condition.clone_into(&mut self.sessions);
        self
    }

    pub(super) fn edges(mut self, condition: &str) -> Self {
        condition.clone_into(&mut self.edges);
        self
    }

    /// Records and those minted from them; sessions on them or selected, and all below; delegations of those or
    /// selected, and all that descend from them. Each walk goes through what has ended, too. A zone that is compared as
    /// `zone_id || ''` keeps the planner from going through the whole zone by its index, and a `CROSS JOIN` has SQLite begin
    /// with what is reached so far, which it knows nothing of.
    fn walks(&self) -> String {
        format!(
            "WITH RECURSIVE minted (id) AS ( \
               SELECT id FROM authority_records WHERE zone_id = $1 AND {records} \
               UNION SELECT child.id FROM minted JOIN authority_records child ON child.parent_id = minted.id \
                 WHERE child.zone_id || '' = $1), \
             tree (id) AS ( \
               SELECT id FROM sessions WHERE zone_id = $1 AND ({sessions}) \
               UNION SELECT started.id FROM minted CROSS JOIN sessions started \
                 WHERE started.subject_authority_record_id = minted.id AND started.zone_id || '' = $1 \
               UNION SELECT child.id FROM tree JOIN sessions child ON child.parent_id = tree.id \
                 WHERE child.zone_id || '' = $1), \
             line (id) AS ( \
               SELECT id FROM delegation_edges WHERE zone_id = $1 AND ({edges}) \
               UNION SELECT given.id FROM tree CROSS JOIN delegation_edges given \
                 WHERE given.source_session_id = tree.id AND given.zone_id || '' = $1 \
               UNION SELECT received.id FROM tree CROSS JOIN delegation_edges received \
                 WHERE received.target_session_id = tree.id AND received.zone_id || '' = $1 \
               UNION SELECT child.id FROM line JOIN delegation_edges child ON child.parent_edge_id = line.id \
                 WHERE child.zone_id || '' = $1) ",
            records = self.records,
            sessions = self.sessions,
            edges = self.edges,
        )
    }

    /// The number of the parameter after the zone and the values.
    fn next_parameter(&self) -> usize {
        match &self.values {
            Values::Number(_) => 3,
            Values::Texts(texts) => texts.len() + 2,
        }
    }

    /// What a query finds among what the walks reach; `time` is its own parameter after all others.
    async fn rows(
        &self,
        connection: &mut SqlConnection,
        zone: &ZoneId,
        select: &str,
        time: Option<i64>,
    ) -> Result<Vec<sqlx::any::AnyRow>, StoreError> {
        let sql = format!("{}{select}", self.walks());
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str());
        match &self.values {
            Values::Number(number) => query = query.bind(*number),
            Values::Texts(texts) => {
                for text in texts {
                    query = query.bind(text.as_str());
                }
            }
        }
        if let Some(time) = time {
            query = query.bind(time);
        }
        Ok(query.fetch_all(connection).await?)
    }
}

/// Everything that stands now and ends with what is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub(super) records: Vec<AuthorityRecord>,
    pub(super) sessions: Vec<AgentSession>,
    pub(super) edges: Vec<DelegationEdge>,
}

/// Those of a zone's sessions that are live or suspended, and with which nothing else ends: nothing was ever started
/// below them, and no delegation ever came to them or from them.
pub async fn find_alone(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    ids: &[&AgentSessionId],
) -> Result<Vec<AgentSession>, StoreError> {
    let mut alone = Vec::with_capacity(ids.len());
    for piece in pieces(ids) {
        let sql = format!(
            "SELECT {} FROM sessions WHERE zone_id = $1 AND id IN {} \
             AND NOT EXISTS (SELECT 1 FROM sessions child WHERE child.parent_id = sessions.id) \
             AND NOT EXISTS (SELECT 1 FROM delegation_edges edge WHERE edge.source_session_id = sessions.id) \
             AND NOT EXISTS (SELECT 1 FROM delegation_edges edge WHERE edge.target_session_id = sessions.id)",
            AgentSession::COLUMNS,
            list(piece.len(), 1)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str());
        for id in piece {
            query = query.bind(id.as_str());
        }
        for row in query.fetch_all(&mut *connection).await? {
            // Not a condition of the query: the planner would go through all live sessions of the zone.
            let session = AgentSession::from_row(&row)?;
            if matches!(session.status, SessionStatus::Active | SessionStatus::Suspended) {
                alone.push(session);
            }
        }
    }
    Ok(alone)
}

/// How much that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Sessions that are live or suspended.
    pub sessions: usize,
    /// Delegations that stand.
    pub edges: usize,
    /// Authority records that stand.
    pub records: usize,
}

impl Reach {
    /// What a selector reaches at `now` (unix milliseconds).
    pub async fn of(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        selector: &Selector,
        now: i64,
    ) -> Result<Self, SelectorError> {
        let matches = selector.matches(connection, zone, now).await?;
        Ok(Self::search(connection, zone, &matches, now).await?)
    }

    /// What ends with a session that is live. Most are alone, and that is asked first.
    pub(super) async fn of_live_session(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &AgentSessionId,
        now: i64,
    ) -> Result<Self, StoreError> {
        if let Some(session) = find_alone(connection, zone, &[id]).await?.pop() {
            return Ok(Self { records: Vec::new(), sessions: vec![session], edges: Vec::new() });
        }
        Self::search(connection, zone, &Matches::live_session(id), now).await
    }

    pub(super) async fn search(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        matches: &Matches,
        now: i64,
    ) -> Result<Self, StoreError> {
        let records = format!(
            "SELECT {} FROM authority_records WHERE status = 'active' AND expires_at > ${} \
             AND id IN (SELECT id FROM minted) ORDER BY id",
            AuthorityRecord::COLUMNS,
            matches.next_parameter()
        );
        let sessions = format!(
            "SELECT {} FROM sessions WHERE status IN ('active', 'suspended') \
             AND id IN (SELECT id FROM tree) ORDER BY depth, id",
            AgentSession::COLUMNS
        );
        let edges = format!(
            "SELECT {} FROM delegation_edges WHERE status = 'active' AND id IN (SELECT id FROM line) ORDER BY id",
            DelegationEdge::COLUMNS
        );
        let records = match matches.records == NOTHING {
            true => Vec::new(),
            false => matches.rows(connection, zone, &records, Some(now)).await?,
        };
        let sessions = matches.rows(connection, zone, &sessions, None).await?;
        let edges = matches.rows(connection, zone, &edges, None).await?;
        Ok(Self {
            records: records.iter().map(AuthorityRecord::from_row).collect::<Result<_, _>>()?,
            sessions: sessions.iter().map(AgentSession::from_row).collect::<Result<_, _>>()?,
            edges: edges.iter().map(DelegationEdge::from_row).collect::<Result<_, _>>()?,
        })
    }

    /// How much it is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { sessions: self.sessions.len(), edges: self.edges.len(), records: self.records.len() }
    }

    /// Is it nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.edges.is_empty() && self.records.is_empty()
    }

    /// The delegations.
    #[must_use]
    pub fn edges(&self) -> &[DelegationEdge] {
        &self.edges
    }
}
