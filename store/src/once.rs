//! What may be used once: mandates, and the nonces of gateways. It survives a restart.
//!
//! Rows stand in the order of the times until which they are remembered, so that new ones come to an end of the table and
//! old ones are forgotten from its beginning. The time is part of the key: the same thing has to have the same time,
//! whoever uses it and whenever. So a time follows from what is signed, and never from a clock.

use crate::many::{list, pieces, placeholders};
use crate::{StoreError, WriteTx};
use std::collections::{BTreeSet, HashSet};

/// One use of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneUse {
    key: String,
    until: i64,
    elsewhere: Vec<i64>,
}

impl OneUse {
    /// `key` is used up until `until` (unix milliseconds), which is always the same for this key.
    #[must_use]
    pub fn new(key: String, until: i64) -> Self {
        Self { key, until, elsewhere: Vec::new() }
    }

    /// The same key may have been used with one of these times, and is used up then as well.
    #[must_use]
    pub fn or_with(mut self, times: impl IntoIterator<Item = i64>) -> Self {
        self.elsewhere.extend(times);
        self
    }

    /// What is used.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl WriteTx<'_> {
    /// Uses something up. `false` if it was used before.
    pub async fn use_once(&mut self, once: &OneUse) -> Result<bool, StoreError> {
        Ok(!self.use_each_once(std::slice::from_ref(once)).await?.is_empty())
    }

    /// Uses several up. Answers the keys that were not used before; one that is named twice is there once.
    pub async fn use_each_once(&mut self, uses: &[OneUse]) -> Result<HashSet<String>, StoreError> {
        let mut named = HashSet::with_capacity(uses.len());
        let uses: Vec<&OneUse> = uses.iter().filter(|once| named.insert(once.key())).collect();
        let elsewhere: BTreeSet<i64> = uses.iter().flat_map(|once| once.elsewhere.iter().copied()).collect();
        let mut fresh = HashSet::with_capacity(uses.len());
        for piece in pieces(&uses) {
            let unused = match elsewhere.len() {
                0 => String::new(),
                times => format!(
                    "WHERE NOT EXISTS (SELECT 1 FROM used_once WHERE until IN {} AND key = wanted.column2) ",
                    list(times, 2 * piece.len())
                ),
            };
            let rows = placeholders(piece.len(), 2);
            let sql = match unused.is_empty() {
                true => format!("INSERT INTO used_once (until, key) VALUES {rows} "),
                false => format!(
                    "INSERT INTO used_once (until, key) SELECT column1, column2 FROM (VALUES {rows}) AS wanted {unused}"
                ),
            } + "ON CONFLICT (until, key) DO NOTHING RETURNING key";
            let mut query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
            for once in piece {
                query = query.bind(once.until).bind(once.key.as_str());
            }
            for time in &elsewhere {
                query = query.bind(*time);
            }
            fresh.extend(query.fetch_all(&mut *self.connection()).await?);
        }
        Ok(fresh)
    }

    /// Gives back what this transaction used up for nothing.
    pub async fn give_back(&mut self, uses: &[&OneUse]) -> Result<(), StoreError> {
        for once in uses {
            sqlx::query("DELETE FROM used_once WHERE until = $1 AND key = $2")
                .bind(once.until)
                .bind(once.key.as_str())
                .execute(&mut *self.connection())
                .await?;
        }
        Ok(())
    }

    /// Forgets what could not be used any more anyway, at most `batch` rows.
    pub(crate) async fn forget_uses(&mut self, batch: i64) -> Result<u64, StoreError> {
        let now = self.now();
        let last: Option<(i64, String)> = sqlx::query_as(
            "SELECT until, key FROM (SELECT until, key FROM used_once WHERE until <= $1 ORDER BY until, key LIMIT $2) \
             AS oldest ORDER BY until DESC, key DESC LIMIT 1",
        )
        .bind(now)
        .bind(batch)
        .fetch_optional(&mut *self.connection())
        .await?;
        let Some((until, key)) = last else { return Ok(0) };
        let forgotten = sqlx::query("DELETE FROM used_once WHERE (until, key) <= ($1, $2)")
            .bind(until)
            .bind(key)
            .execute(&mut *self.connection())
            .await?;
        Ok(forgotten.rows_affected())
    }
}
