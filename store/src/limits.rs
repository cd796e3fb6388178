//! What may happen once, and what may happen so often: both survive a restart.

use crate::{StoreError, WriteTx};

impl WriteTx<'_> {
    /// Uses `key` up until `until` (unix milliseconds). `false` if it was used before.
    pub async fn use_once(&mut self, key: &str, until: i64) -> Result<bool, StoreError> {
        let result =
            sqlx::query("INSERT INTO used_once (key, until) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING")
                .bind(key)
                .bind(until)
                .execute(&mut *self.connection())
                .await?;
        Ok(result.rows_affected() == 1)
    }

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

    /// Forgets what could not be used any more anyway, at most `batch` rows of each kind.
    pub async fn forget_expired(&mut self, batch: i64) -> Result<u64, StoreError> {
        let now = self.now();
        let mut forgotten = 0;
        let statements = [
            "DELETE FROM used_once WHERE key IN (SELECT key FROM used_once WHERE until <= $1 LIMIT $2)",
            "DELETE FROM counters WHERE key IN \
             (SELECT key FROM counters WHERE window_start <= $1 - 3600000 LIMIT $2)",
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
}
