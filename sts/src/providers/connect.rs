//! Keeping a subject's tokens, and ending connections: each is one piece of one transaction, with the change that tells
//! the gateways (contract admin-audit §5.6).

use super::connection::{Tokens, access_place, refresh_place};
use caracal_mandate::id::ZoneId;
use caracal_store::change::Change;
use caracal_store::secrets::Vault;
use caracal_store::{StoreError, WriteTx, ids};

/// Keeps the tokens of a subject, in place of the active connection's if there is one. Answers the row's id.
pub async fn keep(
    tx: &mut WriteTx<'_>,
    vault: &Vault,
    zone: &ZoneId,
    (provider, subject): (&str, &str),
    tokens: &Tokens,
    author: &str,
) -> Result<String, StoreError> {
    let now = tx.now();
    let found: Option<String> = sqlx::query_scalar(
        "SELECT id FROM provider_connections WHERE zone_id = $1 AND provider_id = $2 AND subject_id = $3 \
         AND status = 'active'",
    )
    .bind(zone.as_str())
    .bind(provider)
    .bind(subject)
    .fetch_optional(&mut *tx.connection())
    .await?;
    let id = found.clone().unwrap_or_else(ids::new_id);
    let (access, refresh) = seal(vault, zone, &id, tokens)?;
    let sql = match found {
        Some(_) => {
            "UPDATE provider_connections SET access_token_envelope = $4, refresh_token_envelope = $5, \
             renewable = $6, expires_at = $7, updated_by = $8, updated_at = $9, refreshed_at = NULL, \
             refresh_token_version = refresh_token_version + 1, lease_owner = NULL, lease_until = NULL, \
             failure = NULL, failed_at = NULL \
             WHERE id = $1 AND zone_id = $2 AND provider_id = $3 AND subject_id = $10"
        }
        None => {
            "INSERT INTO provider_connections (id, zone_id, provider_id, access_token_envelope, \
             refresh_token_envelope, renewable, expires_at, created_by, created_at, subject_id, status, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'active', $9)"
        }
    };
    sqlx::query(sql)
        .bind(id.as_str())
        .bind(zone.as_str())
        .bind(provider)
        .bind(access)
        .bind(refresh)
        .bind(i64::from(tokens.refresh.is_some()))
        .bind(tokens.expires_at)
        .bind(author)
        .bind(now)
        .bind(subject)
        .execute(&mut *tx.connection())
        .await?;
    touch_resources(tx, zone, provider).await?;
    Ok(id)
}

/// Both envelopes of the tokens, for this row.
pub(super) fn seal(
    vault: &Vault,
    zone: &ZoneId,
    id: &str,
    tokens: &Tokens,
) -> Result<(String, Option<String>), StoreError> {
    let access = vault.seal(tokens.access.expose().as_bytes(), &access_place(zone, id))?;
    let refresh = tokens.refresh.as_ref();
    let refresh = refresh.map(|token| vault.seal(token.expose().as_bytes(), &refresh_place(zone, id)));
    Ok((access, refresh.transpose()?))
}

/// Which connections end.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// All of a provider.
    Provider(&'a str),
    /// All of a subject, at whatever provider.
    Subject(&'a str),
    /// The one of a subject at a provider.
    One {
        /// The provider.
        provider: &'a str,
        /// The subject.
        subject: &'a str,
    },
}

/// Ends active connections and forgets their tokens; tells the gateways about the resources that they served. Answers
/// the rows that ended.
pub async fn revoke(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    whose: Whose<'_>,
    author: &str,
) -> Result<Vec<String>, StoreError> {
    let now = tx.now();
    let (provider, subject) = match whose {
        Whose::Provider(provider) => (Some(provider), None),
        Whose::Subject(subject) => (None, Some(subject)),
        Whose::One { provider, subject } => (Some(provider), Some(subject)),
    };
    let rows: Vec<(String, String)> = sqlx::query_as(
        "UPDATE provider_connections SET status = 'revoked', access_token_envelope = NULL, \
         refresh_token_envelope = NULL, renewable = 0, lease_owner = NULL, lease_until = NULL, updated_by = $1, \
         updated_at = $2 WHERE zone_id = $3 AND status = 'active' AND provider_id = COALESCE($4, provider_id) \
         AND subject_id = COALESCE($5, subject_id) RETURNING id, provider_id",
    )
    .bind(author)
    .bind(now)
    .bind(zone.as_str())
    .bind(provider)
    .bind(subject)
    .fetch_all(&mut *tx.connection())
    .await?;
    let mut providers: Vec<&String> = rows.iter().map(|(_, provider)| provider).collect();
    providers.sort();
    providers.dedup();
    for provider in providers {
        touch_resources(tx, zone, provider).await?;
    }
    Ok(rows.into_iter().map(|(id, _)| id).collect())
}

/// Whatever was judged or remembered about the resources of this provider does not count any more.
async fn touch_resources(tx: &mut WriteTx<'_>, zone: &ZoneId, provider: &str) -> Result<(), StoreError> {
    let resources: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM resources WHERE zone_id = $1 AND credential_provider_id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(provider)
    .fetch_all(&mut *tx.connection())
    .await?;
    for id in resources {
        tx.record_change(zone, &Change::Resource { id }).await?;
    }
    Ok(())
}
