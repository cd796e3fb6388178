//! Has every gateway taken a revocation? Said from what they acknowledged, never assumed.

use super::reach::{Counts, Reach};
use super::selector::{Selector, SelectorError};
use super::{Cause, Ending};
use crate::SqlConnection;
use crate::model::FederatedSubject;
use crate::{Store, StoreError, WriteTx, ids};
use caracal_mandate::id::ZoneId;
use serde::Serialize;

/// How long after its last word a gateway counts as live, milliseconds.
pub const GATEWAY_LIVE: i64 = 60_000;

/// How far a revocation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ClosureStatus {
    /// Every live gateway has taken it.
    Closed,
    /// A live gateway has not taken it yet.
    Partial,
    /// No gateway is live, so none can say.
    Unknown,
}

/// What a gateway told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayState {
    /// Its id.
    pub id: String,
    /// The generation that it has applied.
    pub acknowledged: i64,
    /// When it acknowledged that generation first, unix milliseconds.
    pub acknowledged_at: i64,
    /// When it was heard last, unix milliseconds.
    pub last_seen_at: i64,
}

impl GatewayState {
    /// Is it live at `now`?
    #[must_use]
    pub fn is_live(&self, now: i64) -> bool {
        self.last_seen_at.saturating_add(GATEWAY_LIVE) > now
    }
}

/// A revocation's standing at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closure {
    /// How far it has come.
    pub status: ClosureStatus,
    /// When it was closed at the latest, unix milliseconds; only where it is closed.
    pub closed_at: Option<i64>,
}

/// What was revoked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its id.
    pub id: String,
    /// How much it was.
    pub counts: Counts,
    /// The generation of the change log from which on it is in force.
    pub generation: i64,
    /// When it was committed, unix milliseconds.
    pub committed_at: i64,
    /// When it was found closed; `None` while it is open.
    pub closed_at: Option<i64>,
}

impl Revocation {
    /// Revokes all that a selector reaches, and writes the revocation down, in the caller's transaction.
    pub async fn commit(
        tx: &mut WriteTx<'_>,
        cause: &Cause,
        selector: &Selector,
    ) -> Result<Self, SelectorError> {
        let now = tx.now();
        let reach = Reach::of(tx.connection(), &cause.zone, selector, now).await?;
        reach.end(tx, cause, Ending::Revoked).await?;
        if let Selector::Subject { id } = selector {
            FederatedSubject::bar(tx, &cause.zone, id).await?;
        }
        let generation: i64 = sqlx::query_scalar("SELECT value FROM sequences WHERE name = 'change_log'")
            .fetch_one(&mut *tx.connection())
            .await
            .map_err(StoreError::from)?;
        let (id, counts) = (ids::new_id(), reach.counts());
        let stored =
            serde_json::to_value(selector).map_err(|error| StoreError::corrupt(error.to_string()))?;
        let of = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO revocations (id, zone_id, selector_json, reason, requested_by, sessions, edges, records, \
             generation, committed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(id.as_str())
        .bind(cause.zone.as_str())
        .bind(stored.to_string())
        .bind(cause.reason.as_str())
        .bind(cause.actor.as_str())
        .bind(of(counts.sessions))
        .bind(of(counts.edges))
        .bind(of(counts.records))
        .bind(generation)
        .bind(now)
        .execute(&mut *tx.connection())
        .await
        .map_err(StoreError::from)?;
        let metadata = serde_json::json!({
            "revocation_id": id, "selector": stored, "counts": counts, "generation": generation,
            "actor": cause.actor, "reason": cause.reason,
        });
        cause.write(tx, "revocation_committed", metadata).await?;
        Ok(Self { id, counts, generation, committed_at: now, closed_at: None })
    }
}

/// What all gateways told last.
pub async fn gateways(connection: &mut SqlConnection) -> Result<Vec<GatewayState>, StoreError> {
    let rows: Vec<(String, i64, i64, i64)> =
        sqlx::query_as("SELECT id, acknowledged, acknowledged_at, last_seen_at FROM gateways ORDER BY id")
            .fetch_all(connection)
            .await?;
    let state = |(id, acknowledged, acknowledged_at, last_seen_at)| GatewayState {
        id,
        acknowledged,
        acknowledged_at,
        last_seen_at,
    };
    Ok(rows.into_iter().map(state).collect())
}

/// How far a revocation of `generation` has come at `now`.
///
/// A gateway that fell silent serves nothing more: it denies everything once its feed is stale, long before it stops
/// counting as live. So it closes when it stops counting; but where no gateway is left to say anything, nothing is said.
#[must_use]
pub fn assess(gateways: &[GatewayState], generation: i64, committed_at: i64, now: i64) -> Closure {
    let took = |gateway: &GatewayState| gateway.acknowledged >= generation;
    let mut live = gateways.iter().filter(|gateway| gateway.is_live(now)).peekable();
    let open = |status| Closure { status, closed_at: None };
    if live.peek().is_none() {
        return open(ClosureStatus::Unknown);
    }
    if live.any(|gateway| !took(gateway)) {
        return open(ClosureStatus::Partial);
    }
    // The time of a later generation is an upper bound for this one.
    let closed = |gateway: &GatewayState| {
        if took(gateway) {
            gateway.acknowledged_at
        } else {
            gateway.last_seen_at.saturating_add(GATEWAY_LIVE)
        }
    };
    let last = gateways.iter().map(closed).fold(committed_at, i64::max);
    Closure { status: ClosureStatus::Closed, closed_at: Some(last) }
}

/// Writes down which open revocations are closed now. Answers how many were found closed.
pub async fn settle(store: &Store) -> Result<usize, StoreError> {
    let (open, gateways) = {
        let mut connection = store.read().await?;
        let open: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "SELECT id, zone_id, generation, committed_at FROM revocations WHERE closed_at IS NULL \
             ORDER BY committed_at LIMIT 500",
        )
        .fetch_all(&mut *connection)
        .await?;
        if open.is_empty() {
            return Ok(0);
        }
        (open, gateways(&mut connection).await?)
    };
    let now = store.now();
    let closed: Vec<(String, String, i64, i64)> = open
        .into_iter()
        .filter_map(|(id, zone, generation, committed_at)| {
            let closed_at = assess(&gateways, generation, committed_at, now).closed_at?;
            Some((id, zone, committed_at, closed_at))
        })
        .collect();
    if closed.is_empty() {
        return Ok(0);
    }
    store
        .write(move |tx| {
            Box::pin(async move {
                let mut settled = 0;
                for (id, zone, committed_at, closed_at) in closed {
                    let result = sqlx::query(
                        "UPDATE revocations SET closed_at = $1 WHERE id = $2 AND closed_at IS NULL",
                    )
                    .bind(closed_at)
                    .bind(id.as_str())
                    .execute(&mut *tx.connection())
                    .await?;
                    if result.rows_affected() == 1 {
                        settled += 1;
                        let zone = ZoneId::new(zone)
                            .map_err(|error| StoreError::corrupt(format!("revocations.zone_id: {error}")))?;
                        let cause = Cause {
                            zone,
                            request_id: ids::new_id(),
                            actor: "revocation-closure".to_owned(),
                            reason: "every gateway acknowledged".to_owned(),
                        };
                        let took = closed_at.saturating_sub(committed_at);
                        let metadata = serde_json::json!({ "revocation_id": id, "time_to_closure_ms": took });
                        cause.write(tx, "revocation_closed", metadata).await?;
                    }
                }
                Ok(settled)
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closure_from_acknowledgements() {
        const NOW: i64 = 100_000_000;
        let gateway = |acknowledged, acknowledged_at, silent_for| GatewayState {
            id: "g".to_owned(),
            acknowledged,
            acknowledged_at: NOW - acknowledged_at,
            last_seen_at: NOW - silent_for,
        };
        let committed = NOW - 10_000;
        use ClosureStatus::{Closed, Partial, Unknown};
        let prompt = || gateway(7, 9_000, 0);
        let silent = GATEWAY_LIVE + 500;
        let cases = [
            ("no gateway", vec![], Unknown, None),
            ("taken", vec![gateway(7, 9_000, 10)], Closed, Some(NOW - 9_000)),
            ("taken with a later generation", vec![gateway(8, 11_000, 0)], Closed, Some(committed)),
            ("the slowest counts", vec![prompt(), gateway(9, 2_000, 0)], Closed, Some(NOW - 2_000)),
            ("one is behind", vec![prompt(), gateway(6, 20_000, 0)], Partial, None),
            ("all are behind", vec![gateway(6, 20_000, 0)], Partial, None),
            ("behind, silent soon", vec![prompt(), gateway(6, 90_000, GATEWAY_LIVE - 1)], Partial, None),
            ("behind and silent", vec![prompt(), gateway(6, 90_000, silent)], Closed, Some(NOW - 500)),
            ("taken, then silent", vec![prompt(), gateway(7, 9_500, silent)], Closed, Some(NOW - 9_000)),
            ("only a silent one", vec![gateway(7, 9_000, GATEWAY_LIVE)], Unknown, None),
            ("long gone", vec![prompt(), gateway(1, 6_000_000, 5_000_000)], Closed, Some(NOW - 9_000)),
        ];
        for (name, gateways, status, closed_at) in cases {
            assert_eq!(assess(&gateways, 7, committed, NOW), Closure { status, closed_at }, "{name}");
        }
    }
}
