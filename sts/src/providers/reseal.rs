//! A new key-encryption key: what the previous one sealed is sealed anew, so that it can be dropped (contract admin-audit
//! §8.2).

use super::Providers;
use super::connection::{access_place, refresh_place};
use caracal_mandate::id::ZoneId;
use caracal_store::secrets::Vault;
use caracal_store::{StoreError, WriteTx};

/// How many rows one transaction looks at.
const BATCH: i64 = 200;

impl Providers {
    /// Seals every kept secret and every connection's tokens under the current key that are not sealed under it yet, and
    /// answers how many. It may run at any time, beside everything else, and more than once: each row is read and
    /// written in one transaction. Zone keys have a `reseal` of their own (`caracal_store::keys::ZoneKeys`).
    ///
    /// # Errors
    /// [`StoreError`]: a row that neither key opens stops it, and names itself in the log. What was sealed anew stays.
    pub async fn reseal(&self) -> Result<u64, StoreError> {
        let mut resealed = 0;
        for table in [Table::Secrets, Table::Connections] {
            let mut next = Some(String::new());
            while let Some(after) = next {
                let vault = self.0.vault.clone();
                let done: Result<Batch, StoreError> = self
                    .0
                    .store
                    .write(move |tx| {
                        Box::pin(async move {
                            match table {
                                Table::Secrets => secrets(tx, &vault, &after).await,
                                Table::Connections => connections(tx, &vault, &after).await,
                            }
                        })
                    })
                    .await;
                let (count, last) = done?;
                resealed += count;
                next = last;
            }
        }
        Ok(resealed)
    }
}

#[derive(Clone, Copy)]
enum Table {
    Secrets,
    Connections,
}

/// How many were sealed anew, and after which row the next batch begins.
type Batch = (u64, Option<String>);

fn anew(vault: &Vault, envelope: &str, place: &str) -> Result<Option<String>, StoreError> {
    vault.reseal(envelope, place).inspect_err(|error| {
        tracing::error!(place, %error, "a sealed secret cannot be opened with the keys at hand");
    })
}

/// One batch of kept secrets.
async fn secrets(tx: &mut WriteTx<'_>, vault: &Vault, after: &str) -> Result<Batch, StoreError> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT ref, envelope FROM secret_store WHERE ref > $1 ORDER BY ref LIMIT $2")
            .bind(after)
            .bind(BATCH)
            .fetch_all(&mut *tx.connection())
            .await?;
    let mut count = 0;
    for (place, envelope) in &rows {
        let Some(envelope) = anew(vault, envelope, place)? else { continue };
        // The version stays: it is the same secret.
        let sql = "UPDATE secret_store SET envelope = $1 WHERE ref = $2";
        sqlx::query(sql).bind(envelope).bind(place.as_str()).execute(&mut *tx.connection()).await?;
        count += 1;
    }
    Ok((count, rows.into_iter().next_back().map(|(place, _)| place)))
}

/// One batch of active connections.
async fn connections(tx: &mut WriteTx<'_>, vault: &Vault, after: &str) -> Result<Batch, StoreError> {
    let rows: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
        "SELECT id, zone_id, access_token_envelope, refresh_token_envelope FROM provider_connections \
         WHERE id > $1 AND status = 'active' ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(BATCH)
    .fetch_all(&mut *tx.connection())
    .await?;
    let mut count = 0;
    for (id, zone, access, refresh) in &rows {
        let zone = ZoneId::new(zone.as_str())
            .map_err(|error| StoreError::corrupt(format!("provider_connections.zone_id: {error}")))?;
        let access = anew(vault, access, &access_place(&zone, id))?;
        let refresh = refresh.as_deref().map(|text| anew(vault, text, &refresh_place(&zone, id)));
        let refresh = refresh.transpose()?.flatten();
        if access.is_none() && refresh.is_none() {
            continue;
        }
        sqlx::query(
            "UPDATE provider_connections SET access_token_envelope = COALESCE($1, access_token_envelope), \
             refresh_token_envelope = COALESCE($2, refresh_token_envelope) WHERE id = $3",
        )
        .bind(access)
        .bind(refresh)
        .bind(id.as_str())
        .execute(&mut *tx.connection())
        .await?;
        count += 1;
    }
    Ok((count, rows.into_iter().next_back().map(|(id, ..)| id)))
}
