//! The same write for many rows at once: a group of grants costs a few statements, not a few each.
//!
//! A statement takes a power of two of rows, so that there are few texts to prepare.

use crate::audit::AuditEvent;
use crate::model::{NewAuthorityRecord, session_type};
use crate::{StoreError, WriteTx};
use caracal_mandate::id::AuthorityRecordId;
use sqlx::Row as _;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt::Write as _;

/// The most rows of one statement: enough for a group of writes, and few texts to prepare.
const MOST: usize = 64;

/// A value of a row that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<'a> {
    /// No value.
    Null,
    /// A number.
    Number(i64),
    /// A text.
    Text(&'a str),
}

impl<'a> From<Option<&'a str>> for Bound<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// Cuts rows into pieces whose sizes are powers of two.
pub fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        if rows.is_empty() {
            return None;
        }
        let most = rows.len().min(MOST);
        let size = if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 };
        let (piece, rest) = rows.split_at_checked(size)?;
        rows = rest;
        Some(piece)
    })
}

/// `($1, $2), ($3, $4)` for two rows of two columns.
#[must_use]
pub fn placeholders(rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * (columns * 6 + 4));
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=columns {
            let separator = if column == 1 { "" } else { ", " };
            let _ = write!(text, "{separator}${}", row * columns + column);
        }
        text.push(')');
    }
    text
}

/// `($1, $2, $3)`, after `before` other parameters.
#[must_use]
pub fn list(count: usize, before: usize) -> String {
    let names: Vec<String> = (before + 1..=before + count).map(|number| format!("${number}")).collect();
    format!("({})", names.join(", "))
}

impl WriteTx<'_> {
    /// Puts events into the outbox.
    pub async fn audit_all<E: Borrow<AuditEvent>>(&mut self, events: &[E]) -> Result<(), StoreError> {
        let now = self.now();
        for piece in pieces(events) {
            let sql = format!(
                "INSERT INTO audit_outbox (id, event_json, created_at) VALUES {}",
                placeholders(piece.len(), 3)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for event in piece {
                let event = event.borrow();
                let json =
                    serde_json::to_string(event).map_err(|error| StoreError::corrupt(error.to_string()))?;
                query = query.bind(event.id.as_str()).bind(json).bind(now);
            }
            query.execute(&mut *self.connection()).await?;
            self.announce_audit();
        }
        Ok(())
    }

    /// Counts `n` more for each key in its fixed window, `window` milliseconds long, and answers the counts. A key may
    /// stand there once.
    pub async fn count_each(
        &mut self,
        keys: &[(String, i64)],
        window: i64,
    ) -> Result<HashMap<String, i64>, StoreError> {
        let start = self.now() - self.now().rem_euclid(window.max(1));
        let mut counts = HashMap::with_capacity(keys.len());
        for piece in pieces(keys) {
            let sql = format!(
                "INSERT INTO counters (key, window_start, count) VALUES {} \
                 ON CONFLICT (key) DO UPDATE SET \
                   count = CASE WHEN counters.window_start = excluded.window_start \
                     THEN counters.count + excluded.count ELSE excluded.count END, \
                   window_start = excluded.window_start \
                 RETURNING key, count",
                placeholders(piece.len(), 3)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (key, more) in piece {
                query = query.bind(key.as_str()).bind(start).bind(*more);
            }
            for row in query.fetch_all(&mut *self.connection()).await? {
                counts.insert(row.try_get("key")?, row.try_get("count")?);
            }
        }
        Ok(counts)
    }

    /// Inserts authority records.
    pub async fn insert_records(&mut self, records: &[NewAuthorityRecord]) -> Result<(), StoreError> {
        let now = self.now();
        for piece in pieces(records) {
            let sql = format!(
                "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, parent_id, \
                 status, expires_at, authenticated_at, claims_json, created_at) VALUES {}",
                placeholders(piece.len(), 11)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for NewAuthorityRecord { record, claims_json } in piece {
                query = query
                    .bind(record.id.as_str())
                    .bind(record.zone_id.as_str())
                    .bind(session_type(record.subject_type))
                    .bind(record.subject_id.as_str())
                    .bind(record.application_id.as_str())
                    .bind(record.parent_id.as_ref().map(AuthorityRecordId::as_str))
                    .bind("active")
                    .bind(record.expires_at)
                    .bind(now)
                    .bind(claims_json.as_str())
                    .bind(now);
            }
            query.execute(&mut *self.connection()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_powers_of_two_and_lose_nothing() {
        for (count, sizes) in
            [(0, vec![]), (1, vec![1]), (13, vec![8, 4, 1]), (64, vec![64]), (130, vec![64, 64, 2])]
        {
            let rows: Vec<usize> = (0..count).collect();
            assert_eq!(pieces(&rows).map(<[usize]>::len).collect::<Vec<_>>(), sizes);
            assert_eq!(pieces(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        }
    }

    #[test]
    fn placeholders_count_on() {
        assert_eq!(placeholders(2, 2), "($1, $2), ($3, $4)");
        assert_eq!(list(2, 1), "($2, $3)");
    }
}
