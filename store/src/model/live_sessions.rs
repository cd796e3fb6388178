//! How many sessions of a zone, and of each application in it, are live or suspended.
//!
//! The numbers are kept in the transaction that starts or ends a session. They hold sessions whose time is up until a
//! job ends these, so they are never too small: below a limit they decide, at a limit the sessions are counted.

use crate::{StoreError, WriteTx};
use caracal_mandate::id::{ApplicationId, ZoneId};

/// Sessions that are live or suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveSessions {
    /// In the zone.
    pub zone: i64,
    /// Of the application.
    pub application: i64,
}

/// The name of the row of a whole zone.
const WHOLE: &str = "";

impl LiveSessions {
    /// Counts more sessions of an application, and answers the numbers with them.
    pub async fn add(
        tx: &mut WriteTx<'_>,
        zone: &ZoneId,
        application: &ApplicationId,
        started: usize,
    ) -> Result<Self, StoreError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "INSERT INTO live_sessions (zone_id, application_id, count) VALUES ($1, $2, $4), ($1, $3, $4) \
             ON CONFLICT (zone_id, application_id) DO UPDATE SET count = live_sessions.count + excluded.count \
             RETURNING application_id, count",
        )
        .bind(zone.as_str())
        .bind(WHOLE)
        .bind(application.as_str())
        .bind(i64::try_from(started).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx.connection())
        .await?;
        let of = |name: &str| rows.iter().find(|(id, _)| id == name).map(|(_, count)| *count);
        match (of(WHOLE), of(application.as_str())) {
            (Some(zone), Some(application)) => Ok(Self { zone, application }),
            _ => Err(StoreError::corrupt("live_sessions: a row is not there")),
        }
    }

    /// Counts sessions of an application that ended.
    pub async fn remove(
        tx: &mut WriteTx<'_>,
        zone: &ZoneId,
        application: &ApplicationId,
        ended: usize,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE live_sessions SET count = CASE WHEN count > $1 THEN count - $1 ELSE 0 END \
             WHERE zone_id = $2 AND application_id IN ($3, $4)",
        )
        .bind(i64::try_from(ended).unwrap_or(i64::MAX))
        .bind(zone.as_str())
        .bind(WHOLE)
        .bind(application.as_str())
        .execute(&mut *tx.connection())
        .await?;
        Ok(())
    }
}
