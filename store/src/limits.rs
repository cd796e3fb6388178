//! What may happen so often, and the end of what is counted and remembered. It survives a restart.

use crate::many::{list, pieces};
use crate::{Store, StoreError, WriteTx};

/// For how long a counter is kept after its window began, in milliseconds: longer than any window.
const COUNTER_LIFE: i64 = 3_600_000;

impl Store {
    /// Forgets what could not be used any more anyway, and counters of windows that are long over, in transactions of at
    /// most `batch` rows of each kind, so that nobody waits long. Answers how many rows that were.
    pub async fn forget_expired(&self, batch: i64) -> Result<u64, StoreError> {
        let mut all = 0;
        loop {
            let forgotten =
                self.write(move |tx| Box::pin(async move { tx.forget_expired(batch).await })).await?;
            if forgotten == 0 {
                return Ok(all + self.forget_counters(batch).await?);
            }
            all += forgotten;
        }
    }

    /// Counters have no index of their times, which every count would have to write. So they are looked through beside
    /// the writer.
    async fn forget_counters(&self, batch: i64) -> Result<u64, StoreError> {
        let (before, mut all, mut last) = (self.now() - COUNTER_LIFE, 0, String::new());
        loop {
            let mut connection = self.read().await?;
            let keys: Vec<String> = sqlx::query_scalar(
                "SELECT key FROM counters WHERE key > $1 AND window_start <= $2 ORDER BY key LIMIT $3",
            )
            .bind(last)
            .bind(before)
            .bind(batch)
            .fetch_all(&mut *connection)
            .await?;
            drop(connection);
            let Some(key) = keys.last().cloned() else { return Ok(all) };
            last = key;
            all += self
                .write(move |tx| Box::pin(async move { tx.forget_counters(&keys, before).await }))
                .await?;
        }
    }
}

impl WriteTx<'_> {
    /// Counts one more in the fixed window of `key`, `window` milliseconds long, and answers the count.
    pub async fn count(&mut self, key: &str, window: i64) -> Result<i64, StoreError> {
        let start = self.now() - self.now().rem_euclid(window.max(1));
        let count = sqlx::query_scalar(
            "INSERT INTO counters (key, window_start, count) VALUES ($1, $2, 1) \
             ON CONFLICT (key) DO UPDATE SET \
               count = CASE WHEN counters.window_start = excluded.window_start THEN counters.count + 1 ELSE 1 END, \
               window_start = excluded.window_start \
             RETURNING count",
        )
        .bind(key)
        .bind(start)
        .fetch_one(&mut *self.connection())
        .await?;
        Ok(count)
    }

    /// Forgets what could not be used any more anyway, at most `batch` rows of each kind. Counters are not among it.
    async fn forget_expired(&mut self, batch: i64) -> Result<u64, StoreError> {
        let now = self.now();
        let mut forgotten = self.forget_uses(batch).await?;
        let statements = [
            "DELETE FROM revoked_anchors WHERE until <= $1 AND id IN \
             (SELECT id FROM revoked_anchors WHERE until <= $1 LIMIT $2)",
            "DELETE FROM change_log WHERE seq IN \
             (SELECT seq FROM change_log WHERE created_at <= $1 - 7200000 \
              AND seq < (SELECT MAX(seq) FROM change_log) ORDER BY seq LIMIT $2)",
            "DELETE FROM idempotency_receipts WHERE expires_at <= $1 AND key_digest IN \
             (SELECT key_digest FROM idempotency_receipts WHERE expires_at <= $1 LIMIT $2)",
        ];
        for statement in statements {
            let result =
                sqlx::query(statement).bind(now).bind(batch).execute(&mut *self.connection()).await?;
            forgotten += result.rows_affected();
        }
        Ok(forgotten)
    }

    /// Forgets those of these counters whose windows still began before that.
    async fn forget_counters(&mut self, keys: &[String], before: i64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        for piece in pieces(keys) {
            let sql =
                format!("DELETE FROM counters WHERE window_start <= $1 AND key IN {}", list(piece.len(), 1));
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(before);
            for key in piece {
                query = query.bind(key.as_str());
            }
            forgotten += query.execute(&mut *self.connection()).await?.rows_affected();
        }
        Ok(forgotten)
    }
}
