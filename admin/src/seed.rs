//! The bootstrap credential (contract admin-audit §2.2).

use crate::Config;
use caracal_store::{StoreError, ids};

/// The shortest bootstrap credential, in characters.
pub const BOOTSTRAP_TOKEN_MIN_CHARACTERS: usize = 32;
/// Who made the bootstrap row.
pub(crate) const BOOTSTRAP_AUTHOR: &str = "env-bootstrap";

/// Why the bootstrap credential is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anyone could guess it.
    #[error("the bootstrap admin token is shorter than {BOOTSTRAP_TOKEN_MIN_CHARACTERS} characters")]
    TooShort,
    /// A bearer token has no white space around it, so this one could never be presented.
    #[error("the bootstrap admin token begins or ends with white space")]
    WhiteSpace,
}

/// Makes the credential of the configuration the one bootstrap token; another one from before ends.
pub async fn seed(config: &Config) -> Result<(), SeedError> {
    let token = config.admin_token.as_str();
    if token.trim() != token {
        return Err(SeedError::WhiteSpace);
    }
    if token.chars().count() < BOOTSTRAP_TOKEN_MIN_CHARACTERS {
        return Err(SeedError::TooShort);
    }
    let hash = config.vault.hash(token);
    config
        .store
        .write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                sqlx::query(
                    "UPDATE admin_tokens SET revoked_at = $1 \
                     WHERE created_by = $2 AND token_hash <> $3 AND revoked_at IS NULL",
                )
                .bind(now)
                .bind(BOOTSTRAP_AUTHOR)
                .bind(hash.as_str())
                .execute(&mut *tx.connection())
                .await?;
                let known: Option<String> = sqlx::query_scalar(
                    "SELECT id FROM admin_tokens WHERE token_hash = $1 AND revoked_at IS NULL",
                )
                .bind(hash.as_str())
                .fetch_optional(&mut *tx.connection())
                .await?;
                if known.is_none() {
                    sqlx::query(
                        "INSERT INTO admin_tokens (id, name, token_hash, scope, capability, created_by, created_at) \
                         VALUES ($1, 'bootstrap', $2, 'global', 'write', $3, $4)",
                    )
                    .bind(ids::new_id())
                    .bind(hash)
                    .bind(BOOTSTRAP_AUTHOR)
                    .bind(now)
                    .execute(&mut *tx.connection())
                    .await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await?;
    Ok(())
}
