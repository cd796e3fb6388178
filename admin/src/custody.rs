//! Custody: secrets that have to be read again, each sealed for its one place (contract admin-audit §8.1).

use crate::problem::Problem;
use caracal_store::audit::AuditEvent;
use caracal_store::secrets::Vault;
use caracal_store::{StoreError, WriteTx};
use serde_json::Value;

/// Keeps a sealed copy of a secret, in place of the one before.
pub(crate) async fn keep(
    tx: &mut WriteTx<'_>,
    vault: &Vault,
    place: &str,
    secret: &str,
) -> Result<(), StoreError> {
    let envelope = vault.seal(secret.as_bytes(), place)?;
    sqlx::query(
        "INSERT INTO secret_store (ref, envelope, version) VALUES ($1, $2, 1) \
         ON CONFLICT (ref) DO UPDATE SET envelope = excluded.envelope, version = secret_store.version + 1",
    )
    .bind(place)
    .bind(envelope)
    .execute(&mut *tx.connection())
    .await?;
    Ok(())
}

/// Forgets the sealed copy.
pub(crate) async fn forget(tx: &mut WriteTx<'_>, place: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM secret_store WHERE ref = $1").bind(place).execute(&mut *tx.connection()).await?;
    Ok(())
}

/// Takes the envelope out and says so in the ledger, in one transaction: no secret leaves unseen. `None` where nothing
/// is kept, and then nothing is said.
pub(crate) async fn take(
    tx: &mut WriteTx<'_>,
    place: &str,
    zone: &str,
    request_id: &str,
    metadata: Value,
) -> Result<Option<String>, StoreError> {
    let envelope: Option<String> = sqlx::query_scalar("SELECT envelope FROM secret_store WHERE ref = $1")
        .bind(place)
        .fetch_optional(&mut *tx.connection())
        .await?;
    if envelope.is_some() {
        let event = AuditEvent::new(zone, "credential_revealed", request_id, "allow", tx.now());
        tx.audit(&event.with_metadata(metadata)).await?;
    }
    Ok(envelope)
}

/// A row together with a secret, which is shown this once.
pub(crate) fn shown(member: &str, mut row: Value, secret: &str) -> Value {
    if let Some(members) = row.as_object_mut() {
        members.insert(member.to_owned(), secret.into());
    }
    row
}

/// The secret in an envelope.
pub(crate) fn open(vault: &Vault, envelope: &str, place: &str) -> Result<String, Problem> {
    let secret = vault.open(envelope, place)?;
    Ok(String::from_utf8(secret).map_err(|_| StoreError::corrupt("a sealed secret is no text"))?)
}
