//! Renewing a connection: one request to the provider, however many ask at once and in however many processes
//! (contract sts §22.4).
//!
//! Refresh tokens are often good for one use, and a second use looks like theft: the provider then ends the whole
//! consent. So a renewal is a flight within the process and holds a lease on the row between processes; it runs to its
//! end even if whoever asked goes away; and it is never tried twice.

use super::Providers;
use super::config::{ProviderConfig, Source};
use super::connect::seal;
use super::connection::{Connection, ConnectionRef, Tokens};
use super::error::CredentialError;
use super::secret::SealedSecrets;
use super::token::{TokenClient, jitter};
use caracal_mandate::id::ZoneId;
use caracal_store::audit::AuditEvent;
use caracal_store::metrics::{self, Refresh};
use caracal_store::model::Provider;
use caracal_store::trace::with_this_request;
use caracal_store::{StoreError, WriteTx, ids};
use serde_json::json;
use std::time::Duration;

/// How long a lease lasts, in milliseconds: longer than a request may take.
const LEASE: i64 = 15_000;
/// How often a waiter looks again, in milliseconds; up to half as much is added at random.
const POLL: u64 = 50;

/// A connection that has to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) zone: ZoneId,
    pub(crate) provider: Provider,
    pub(crate) connection: ConnectionRef,
    /// The request that needs it.
    pub(crate) request_id: String,
}

/// What a renewal came to.
enum Outcome {
    Renewed(Tokens),
    /// The consent is over: nothing will ever renew it.
    Over(CredentialError),
    Failed(CredentialError),
}

impl Providers {
    /// Renews a connection, or ends it where it cannot be renewed, or waits for whoever does so now. What came of it
    /// stands in the row.
    ///
    /// # Errors
    /// [`CredentialError::Store`].
    pub(crate) async fn renew(&self, renewal: Renewal) -> Result<(), CredentialError> {
        let key = format!("{}/{}", renewal.connection.id, renewal.connection.version);
        let providers = self.clone();
        let flight = move || async move {
            let task = tokio::spawn(with_this_request(async move { providers.renew_once(&renewal).await }));
            task.await.unwrap_or(Err(CredentialError::Store))
        };
        self.0.renewals.join(&key, flight).await
    }

    async fn renew_once(&self, renewal: &Renewal) -> Result<(), CredentialError> {
        let owner = ids::new_id();
        let mut polls = 0;
        let found = loop {
            let now = self.0.store.now();
            let found = {
                let mut connection = self.0.store.read().await?;
                Connection::find(&mut connection, &renewal.zone, &renewal.connection.id).await?
            };
            let Some(found) = found.filter(|found| found.reference == renewal.connection) else {
                metrics::provider_refresh(Refresh::Shared);
                return Ok(());
            };
            if found.failed_just_now(now) {
                return Ok(());
            }
            if !found.is_leased(now) && self.lease(renewal, &owner).await? {
                metrics::provider_refresh(Refresh::Leased);
                break found;
            }
            if polls > u64::try_from(LEASE).unwrap_or(u64::MAX) / POLL {
                return Err(CredentialError::Store);
            }
            if polls == 0 {
                metrics::provider_refresh(Refresh::Waited);
            }
            polls += 1;
            tokio::time::sleep(Duration::from_millis(POLL + jitter(POLL / 2))).await;
        };
        let outcome = self.ask(renewal, &found).await;
        if !matches!(outcome, Outcome::Renewed(_)) {
            metrics::provider_refresh(Refresh::Failed);
        }
        self.settle(renewal, owner, outcome).await
    }

    /// Takes the lease, unless somebody holds it or the row has moved on.
    async fn lease(&self, renewal: &Renewal, owner: &str) -> Result<bool, CredentialError> {
        let (wanted, zone) = (renewal.connection.clone(), renewal.zone.clone());
        let owner = owner.to_owned();
        let taken = self.0.store.write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                let taken = sqlx::query(
                    "UPDATE provider_connections SET lease_owner = $1, lease_until = $2 WHERE id = $3 AND zone_id = $4 \
                     AND status = 'active' AND refresh_token_version = $5 AND (lease_until IS NULL OR lease_until <= $6)",
                )
                .bind(owner)
                .bind(now.saturating_add(LEASE))
                .bind(wanted.id)
                .bind(zone.as_str())
                .bind(wanted.version)
                .bind(now)
                .execute(&mut *tx.connection())
                .await?;
                Ok::<_, StoreError>(taken.rows_affected() == 1)
            })
        });
        Ok(taken.await?)
    }

    async fn ask(&self, renewal: &Renewal, found: &Connection) -> Outcome {
        match self.ask_provider(renewal, found).await {
            Ok(tokens) => Outcome::Renewed(tokens),
            Err(error @ CredentialError::NotRenewable) => Outcome::Over(error),
            Err(CredentialError::Refused { code, .. }) if code == "invalid_grant" => {
                Outcome::Over(CredentialError::NotRenewable)
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    async fn ask_provider(&self, renewal: &Renewal, found: &Connection) -> Result<Tokens, CredentialError> {
        let Renewal { zone, provider, .. } = renewal;
        let before = found.open_refresh(&self.0.vault, zone)?.ok_or(CredentialError::NotRenewable)?;
        let Source::User(user) = self.config(provider)?.source else { return Err(CredentialError::Kind) };
        let secrets = {
            let mut connection = self.0.store.read().await?;
            SealedSecrets::read(&mut connection, zone, &provider.id).await?
        };
        let secrets = secrets.open(&self.0.vault)?;
        let now = self.0.store.now();
        let client = TokenClient { egress: &self.0.egress, endpoint: &user.endpoint, secrets: &secrets, now };
        let answer = self.through_circuit(&provider.id, client.refresh(before.expose())).await?;
        Ok(Tokens::of_answer(answer, Some(before), now, self.0.max_life))
    }

    pub(super) fn config(&self, provider: &Provider) -> Result<ProviderConfig, CredentialError> {
        let kind = super::Kind::parse(&provider.kind).ok_or(CredentialError::Kind)?;
        Ok(ProviderConfig::parse(kind, &provider.config)?)
    }

    /// Writes down what came of it and gives the lease back, unless the row has moved on meanwhile.
    async fn settle(
        &self,
        renewal: &Renewal,
        owner: String,
        outcome: Outcome,
    ) -> Result<(), CredentialError> {
        let (vault, renewal) = (self.0.vault.clone(), renewal.clone());
        let settled = self.0.store.write(move |tx| {
            Box::pin(async move {
                match outcome {
                    Outcome::Renewed(tokens) => renewal.renewed(tx, &vault, &owner, &tokens).await,
                    Outcome::Over(error) => renewal.failed(tx, &owner, &error, "expired").await,
                    Outcome::Failed(error) => {
                        tracing::warn!(
                            provider = renewal.provider.id, connection = renewal.connection.id, %error,
                            "a provider connection could not be renewed"
                        );
                        renewal.failed(tx, &owner, &error, "active").await
                    }
                }
            })
        });
        settled.await.map_err(|error: StoreError| error.into())
    }
}

impl Renewal {
    async fn renewed(
        &self,
        tx: &mut WriteTx<'_>,
        vault: &caracal_store::secrets::Vault,
        owner: &str,
        tokens: &Tokens,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        let (access, refresh) = seal(vault, &self.zone, &self.connection.id, tokens)?;
        let written = sqlx::query(
            "UPDATE provider_connections SET access_token_envelope = $1, refresh_token_envelope = $2, expires_at = $3, \
             refreshed_at = $4, updated_at = $4, refresh_token_version = refresh_token_version + 1, lease_owner = NULL, \
             lease_until = NULL, failure = NULL, failed_at = NULL \
             WHERE id = $5 AND status = 'active' AND lease_owner = $6 AND refresh_token_version = $7",
        )
        .bind(access)
        .bind(refresh)
        .bind(tokens.expires_at)
        .bind(now)
        .bind(self.connection.id.as_str())
        .bind(owner)
        .bind(self.connection.version)
        .execute(&mut *tx.connection())
        .await?;
        if written.rows_affected() == 0 {
            // It was revoked or connected anew meanwhile; these tokens are forgotten.
            return Ok(());
        }
        self.tell(tx, "provider_connection_refreshed", "allow", "complete").await
    }

    async fn failed(
        &self,
        tx: &mut WriteTx<'_>,
        owner: &str,
        error: &CredentialError,
        status: &'static str,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        let written = sqlx::query(
            "UPDATE provider_connections SET status = $1, failure = $2, failed_at = $3, updated_at = $3, \
             lease_owner = NULL, lease_until = NULL, \
             renewable = CASE WHEN $1 = 'active' THEN renewable ELSE 0 END, \
             access_token_envelope = CASE WHEN $1 = 'active' THEN access_token_envelope ELSE NULL END, \
             refresh_token_envelope = CASE WHEN $1 = 'active' THEN refresh_token_envelope ELSE NULL END \
             WHERE id = $4 AND status = 'active' AND lease_owner = $5 AND refresh_token_version = $6",
        )
        .bind(status)
        .bind(error.reason())
        .bind(now)
        .bind(self.connection.id.as_str())
        .bind(owner)
        .bind(self.connection.version)
        .execute(&mut *tx.connection())
        .await?;
        let event = if status == "expired" {
            "provider_connection_expired"
        } else {
            "provider_connection_refresh_failed"
        };
        if written.rows_affected() == 0 { Ok(()) } else { self.tell(tx, event, "deny", error.reason()).await }
    }

    async fn tell(
        &self,
        tx: &mut WriteTx<'_>,
        kind: &str,
        decision: &str,
        status: &str,
    ) -> Result<(), StoreError> {
        let metadata = json!({ "provider_id": self.provider.id, "connection_id": self.connection.id });
        let event = AuditEvent::new(self.zone.as_str(), kind, &self.request_id, decision, tx.now());
        tx.audit(&event.with_status(status).with_metadata(metadata)).await
    }
}
