//! Signing keys as they are stored: sealed, numbered by version, read together with the epoch that they are of.

use super::pair::{self, Pair};
use crate::SqlConnection;
use crate::audit::AuditEvent;
use crate::change::Change;
use crate::secrets::Vault;
use crate::{StoreError, WriteTx, ids};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_mandate::epoch::AuthorityEpoch;
use caracal_mandate::es256::PublicKey;
use caracal_mandate::id::{KeyId, ZoneId};

/// What sealed signing keys are sealed for.
const AAD: &str = "caracal/secrets/zoneSigningKey";
/// How long the key before the newest still verifies, in milliseconds.
const GRACE: i64 = 24 * 3600 * 1000;

/// A zone's keys as of one change of them.
#[derive(Debug)]
pub(super) struct KeySet {
    /// The newest key, unless it cannot be opened.
    pub(super) signing: Option<(KeyId, Pair)>,
    /// The keys that verify, newest first.
    pub(super) verification: Vec<(KeyId, PublicKey)>,
    /// When the set has to be read again because the grace of the older key ends.
    pub(super) until: i64,
    /// The zone's authority epoch at which its keys changed last.
    pub(super) epoch: AuthorityEpoch,
    /// Has the zone ever had a key?
    pub(super) exists: bool,
}

/// The epoch at which the zone's keys changed last. `None` where there is no such zone.
pub(super) async fn epoch_of(
    connection: &mut SqlConnection,
    zone: &ZoneId,
) -> Result<Option<AuthorityEpoch>, StoreError> {
    let epoch: Option<i64> = sqlx::query_scalar("SELECT keys_epoch FROM zones WHERE id = $1")
        .bind(zone.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(epoch.map(to_epoch))
}

fn to_epoch(number: i64) -> AuthorityEpoch {
    AuthorityEpoch(u64::try_from(number).unwrap_or(0))
}

/// The zone's epoch of keys, and a key's id, envelope and time of making where there is one.
type Row = (i64, Option<String>, Option<String>, Option<i64>);

impl KeySet {
    /// The zone's keys. One that cannot be opened is left out, and told of in the log.
    pub(super) async fn load(
        connection: &mut SqlConnection,
        vault: &Vault,
        zone: &ZoneId,
        now: i64,
    ) -> Result<Self, StoreError> {
        // One statement, so that the keys are those of the epoch.
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT z.keys_epoch, k.id, k.envelope, k.created_at FROM zones z \
             LEFT JOIN signing_keys k ON k.zone_id = z.id WHERE z.id = $1 ORDER BY k.version DESC LIMIT 2",
        )
        .bind(zone.as_str())
        .fetch_all(connection)
        .await?;
        let epoch = to_epoch(rows.first().map_or(0, |(epoch, ..)| *epoch));
        let keys: Vec<(String, String, i64)> =
            rows.into_iter().filter_map(|(_, id, envelope, at)| Some((id?, envelope?, at?))).collect();
        let newest = keys.first().map_or(0, |(_, _, created_at)| *created_at);
        let in_grace = now < newest.saturating_add(GRACE);
        let mut set = Self {
            signing: None,
            verification: Vec::new(),
            until: if in_grace { newest.saturating_add(GRACE) } else { i64::MAX },
            epoch,
            exists: !keys.is_empty(),
        };
        let usable = if in_grace { 2 } else { 1 };
        for (position, (id, envelope, _)) in keys.into_iter().take(usable).enumerate() {
            match open(vault, &id, &envelope) {
                Ok((key_id, pair)) => {
                    set.verification.push((key_id.clone(), pair.public()));
                    if position == 0 {
                        set.signing = Some((key_id, pair));
                    }
                }
                Err(error) => tracing::error!(zone = %zone, key = id, %error, "a signing key is not usable"),
            }
        }
        Ok(set)
    }
}

fn open(vault: &Vault, id: &str, envelope: &str) -> Result<(KeyId, Pair), StoreError> {
    let corrupt = |what: &str| StoreError::corrupt(format!("signing_keys {id}: {what}"));
    let key_id = KeyId::new(id).map_err(|error| corrupt(&error.to_string()))?;
    let pair = Pair::from_pkcs8(&vault.open(envelope, AAD)?).ok_or_else(|| corrupt("no P-256 key"))?;
    Ok((key_id, pair))
}

/// A key that was made and is not stored yet.
#[derive(Debug)]
pub(super) struct NewKey {
    id: String,
    envelope: String,
    x: String,
    y: String,
}

impl NewKey {
    pub(super) fn generate(vault: &Vault) -> Result<Self, StoreError> {
        let (private, public) = pair::generate()?;
        Ok(Self {
            id: ids::new_id(),
            envelope: vault.seal(&private, AAD)?,
            x: URL_SAFE_NO_PAD.encode(public.x),
            y: URL_SAFE_NO_PAD.encode(public.y),
        })
    }

    /// Makes it the zone's first key. Where someone else was first, nothing happens.
    pub(super) async fn insert_first(self, tx: &mut WriteTx<'_>, zone: &ZoneId) -> Result<(), StoreError> {
        match newest_version(tx, zone).await? {
            Some(_) => Ok(()),
            None => self.insert(tx, zone, 1).await,
        }
    }

    /// Makes it the zone's newest key, and writes down who asked for it. `None` where there is no such zone.
    pub(super) async fn insert_next(
        self,
        tx: &mut WriteTx<'_>,
        zone: &ZoneId,
        request_id: &str,
    ) -> Result<Option<KeyId>, StoreError> {
        let known: Option<String> =
            sqlx::query_scalar("SELECT id FROM zones WHERE id = $1 AND archived_at IS NULL")
                .bind(zone.as_str())
                .fetch_optional(&mut *tx.connection())
                .await?;
        if known.is_none() {
            return Ok(None);
        }
        let key_id = KeyId::new(self.id.as_str());
        let key_id = key_id.map_err(|error| StoreError::corrupt(format!("a new key's id: {error}")))?;
        let version = newest_version(tx, zone).await?.unwrap_or(0).saturating_add(1);
        self.insert(tx, zone, version).await?;
        let facts = serde_json::json!({ "kid": key_id.as_str(), "version": version });
        let now = tx.now();
        let event = AuditEvent::new(zone.as_str(), "signing_key_rotated", request_id, "allow", now);
        tx.audit(&event.with_metadata(facts)).await?;
        Ok(Some(key_id))
    }

    async fn insert(self, tx: &mut WriteTx<'_>, zone: &ZoneId, version: i64) -> Result<(), StoreError> {
        let now = tx.now();
        sqlx::query(
            "INSERT INTO signing_keys (id, zone_id, version, envelope, x, y, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.id)
        .bind(zone.as_str())
        .bind(version)
        .bind(self.envelope)
        .bind(self.x)
        .bind(self.y)
        .bind(now)
        .execute(&mut *tx.connection())
        .await?;
        tx.record_change(zone, &Change::Keys).await?;
        Ok(())
    }
}

async fn newest_version(tx: &mut WriteTx<'_>, zone: &ZoneId) -> Result<Option<i64>, StoreError> {
    let version = sqlx::query_scalar("SELECT MAX(version) FROM signing_keys WHERE zone_id = $1")
        .bind(zone.as_str())
        .fetch_one(&mut *tx.connection())
        .await?;
    Ok(version)
}

/// Seals every key that the previous key-encryption key sealed under the current one, and answers how many there were.
pub(super) async fn reseal(tx: &mut WriteTx<'_>, vault: &Vault) -> Result<u64, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT id, envelope FROM signing_keys ORDER BY id")
        .fetch_all(&mut *tx.connection())
        .await?;
    let mut resealed = 0;
    for (id, envelope) in rows {
        let Some(anew) = vault.reseal(&envelope, AAD)? else { continue };
        let result = sqlx::query("UPDATE signing_keys SET envelope = $1 WHERE id = $2 AND envelope = $3")
            .bind(anew)
            .bind(id)
            .bind(envelope)
            .execute(&mut *tx.connection())
            .await?;
        resealed += result.rows_affected();
    }
    Ok(resealed)
}
