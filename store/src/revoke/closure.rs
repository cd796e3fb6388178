//! Has every gateway taken a revocation? Said from what they acknowledged, never assumed.

use super::reach::{Counts, Reach};
use super::selector::{Selector, SelectorError};
use super::{Cause, Ending};
use crate::change::ANCHOR_RETENTION;
use crate::{Store, StoreError, WriteTx, ids};
use caracal_mandate::id::ZoneId;
use serde::Serialize;
use sqlx::AnyConnection;

/// How long after its last word a gateway counts as live, milliseconds.
pub const GATEWAY_LIVE: i64 = 60_000;

/// How far a revocation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ClosureStatus {
    /// Every gateway that could honour what was revoked has taken the revocation.
    Closed,
    /// A live gateway has not taken it yet.
    Partial,
    /// No gateway is live, or one that fell silent had not taken it: nobody can say.
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
pub async fn gateways(connection: &mut AnyConnection) -> Result<Vec<GatewayState>, StoreError> {
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
/// A silent gateway counts while a mandate of before the revocation could be alive, unless it was silent that long
/// before: it may still serve, and nobody knows with which state.
#[must_use]
pub fn assess(gateways: &[GatewayState], generation: i64, committed_at: i64, now: i64) -> Closure {
    let took = |gateway: &&GatewayState| gateway.acknowledged >= generation;
    let live: Vec<&GatewayState> = gateways.iter().filter(|gateway| gateway.is_live(now)).collect();
    let silent_matters = now < committed_at.saturating_add(ANCHOR_RETENTION);
    let lost = gateways.iter().any(|gateway| {
        !gateway.is_live(now)
            && !took(&gateway)
            && silent_matters
            && gateway.last_seen_at > committed_at.saturating_sub(ANCHOR_RETENTION)
    });
    let open = |status| Closure { status, closed_at: None };
    if live.iter().any(|gateway| !took(gateway)) {
        open(ClosureStatus::Partial)
    } else if lost || live.is_empty() {
        open(ClosureStatus::Unknown)
    } else {
        // The time of a later generation is an upper bound for this one.
        let last = gateways.iter().filter(took).map(|gateway| gateway.acknowledged_at).max();
        Closure {
            status: ClosureStatus::Closed,
            closed_at: Some(last.unwrap_or(committed_at).max(committed_at)),
        }
    }
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
        let cases = [
            ("no gateway", vec![], ClosureStatus::Unknown, None),
            ("taken", vec![gateway(7, 9_000, 10)], ClosureStatus::Closed, Some(NOW - 9_000)),
            (
                "taken before by a later generation",
                vec![gateway(8, 11_000, 0)],
                ClosureStatus::Closed,
                Some(committed),
            ),
            (
                "the slowest counts",
                vec![gateway(7, 9_000, 0), gateway(9, 2_000, 0)],
                ClosureStatus::Closed,
                Some(NOW - 2_000),
            ),
            (
                "one is behind",
                vec![gateway(7, 9_000, 0), gateway(6, 20_000, 0)],
                ClosureStatus::Partial,
                None,
            ),
            ("all are behind", vec![gateway(6, 20_000, 0)], ClosureStatus::Partial, None),
            (
                "silent and behind",
                vec![gateway(7, 9_000, 0), gateway(6, 90_000, GATEWAY_LIVE)],
                ClosureStatus::Unknown,
                None,
            ),
            (
                "silent but taken",
                vec![gateway(7, 9_000, 0), gateway(7, 9_000, GATEWAY_LIVE)],
                ClosureStatus::Closed,
                Some(NOW - 9_000),
            ),
            ("only a silent one", vec![gateway(7, 9_000, GATEWAY_LIVE)], ClosureStatus::Unknown, None),
            (
                "long gone",
                vec![gateway(7, 9_000, 0), gateway(1, 0, ANCHOR_RETENTION + 10_000)],
                ClosureStatus::Closed,
                Some(NOW - 9_000),
            ),
        ];
        for (name, gateways, status, closed_at) in cases {
            assert_eq!(assess(&gateways, 7, committed, NOW), Closure { status, closed_at }, "{name}");
        }
        let late = committed + ANCHOR_RETENTION;
        let heard = GatewayState { last_seen_at: late, ..gateway(7, 9_000, 0) };
        let lost = gateway(6, 90_000, 0);
        assert_eq!(
            assess(&[heard, lost], 7, committed, late).status,
            ClosureStatus::Closed,
            "mandates are over"
        );
    }
}
