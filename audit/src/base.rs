//! Where a chain begins once its oldest rows are pruned.

use crate::chain::{ChainKey, Head};
use caracal_store::SqlConnection;
use caracal_store::{StoreError, WriteTx};

/// The last row of a zone's chain that was pruned. Its HMAC says that it was us who did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) head: Head,
    /// Is the HMAC one of our key?
    pub(crate) authentic: bool,
}

impl Base {
    pub(crate) async fn read(
        connection: &mut SqlConnection,
        key: &ChainKey,
        zone: &str,
    ) -> Result<Option<Self>, StoreError> {
        let row: Option<(i64, String, String)> =
            sqlx::query_as("SELECT chain_seq, content_sha256, hmac FROM audit_bases WHERE zone_id = $1")
                .bind(zone)
                .fetch_optional(connection)
                .await?;
        Ok(row.map(|(seq, content_sha256, hmac)| {
            let head = Head { seq, content_sha256 };
            Self { authentic: key.vouch_for_base(zone, &head) == hmac, head }
        }))
    }

    /// Makes this row the base of a zone's chain.
    pub(crate) async fn write(
        tx: &mut WriteTx<'_>,
        key: &ChainKey,
        zone: &str,
        head: &Head,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        sqlx::query(
            "INSERT INTO audit_bases (zone_id, chain_seq, content_sha256, hmac, pruned_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (zone_id) DO UPDATE SET chain_seq = excluded.chain_seq, \
             content_sha256 = excluded.content_sha256, hmac = excluded.hmac, pruned_at = excluded.pruned_at",
        )
        .bind(zone)
        .bind(head.seq)
        .bind(head.content_sha256.as_str())
        .bind(key.vouch_for_base(zone, head))
        .bind(now)
        .execute(&mut *tx.connection())
        .await?;
        Ok(())
    }
}
