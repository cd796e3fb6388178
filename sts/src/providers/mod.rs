//! Providers: where the credential of an upstream comes from (contract sts §22).
//!
//! [`Providers`] turns a provider row into a [`Credential`]: opens a sealed secret, fetches a service's token or reads a
//! person's connection. It may wait for a token endpoint, so it is called while no connection of the store is held, and
//! never inside a write.

mod assertion;
mod broker;
mod cache;
mod circuit;
mod config;
mod connect;
mod connection;
mod discover;
mod error;
mod flight;
mod hidden;
mod oauth;
mod probe;
mod refresh;
mod reseal;
mod secret;
mod token;

pub use assertion::{KeyError, SigningKey};
pub(crate) use broker::{Brokered, Wanted};
pub use config::{
    ClientAuth, ConfigError, Endpoint, Kind, Placement, ProviderConfig, ServiceGrant, ServiceToken, Source,
    UserToken,
};
pub use connect::{Whose, keep, revoke};
pub(crate) use connection::Standing;
pub use connection::{ConnectionRef, SHARED_SUBJECT, Tokens};
pub use discover::{Discovered, DiscoveryError};
pub use error::CredentialError;
pub use hidden::Hidden;
pub use oauth::{Flow, GivenBack};
pub use probe::Probe;
pub(crate) use refresh::Renewal;
pub use secret::{SealedSecrets, Secrets, secret_place};
pub use token::TokenAnswer;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cache::{Fingerprint, Token};
use caracal_mandate::id::ZoneId;
use caracal_store::Store;
use caracal_store::egress::Egress;
use caracal_store::model::Provider;
use caracal_store::secrets::Vault;
use circuit::Circuits;
use flight::Flights;
use std::sync::Arc;
use token::TokenClient;

/// The longest that a provider's token is taken to live, unless an operator says otherwise, in seconds
/// (`MAX_GRANT_TTL_SECONDS`, contract sts §26.3).
pub const DEFAULT_MAX_GRANT_TTL_SECONDS: i64 = 3600;

/// What providers give. Cheap to clone; the clones share what they fetched.
#[derive(Debug, Clone)]
pub struct Providers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    vault: Vault,
    egress: Egress,
    /// Milliseconds.
    max_life: i64,
    tokens: cache::Tokens,
    circuits: Circuits,
    fetches: Flights<Result<Token, CredentialError>>,
    renewals: Flights<Result<(), CredentialError>>,
}

/// A credential for one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The key, token, or encoded user name and password.
    pub secret: Hidden,
    /// Its end where one is known, unix milliseconds.
    pub expires_at: Option<i64>,
    /// The connection that it comes from.
    pub connection_id: Option<String>,
}

impl Credential {
    fn lasting(secret: impl Into<String>) -> Self {
        Self { secret: Hidden::new(secret), expires_at: None, connection_id: None }
    }
}

impl Providers {
    /// Providers out of this store, called through this way out. No token is taken to live longer than
    /// `max_grant_ttl_seconds`.
    #[must_use]
    pub fn new(store: Store, vault: Vault, egress: Egress, max_grant_ttl_seconds: i64) -> Self {
        Self(Arc::new(Inner {
            store,
            vault,
            egress,
            max_life: max_grant_ttl_seconds.saturating_mul(1000),
            tokens: cache::Tokens::default(),
            circuits: Circuits::default(),
            fetches: Flights::default(),
            renewals: Flights::default(),
        }))
    }

    /// The credential of a provider; `None` for a kind that has none. Opens secrets, and may ask a token endpoint.
    ///
    /// A person's connection is served as it is: whether it has to be renewed is decided before.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn credential(
        &self,
        zone: &ZoneId,
        provider: &Provider,
        connection: Option<&ConnectionRef>,
    ) -> Result<Option<Credential>, CredentialError> {
        let secrets = match Kind::parse(&provider.kind).filter(|kind| kind.has_credential()) {
            None => None,
            Some(_) => Some(self.secrets(zone, &provider.id).await?),
        };
        self.credential_with(zone, provider, secrets.as_ref(), connection).await
    }

    async fn secrets(&self, zone: &ZoneId, provider: &str) -> Result<SealedSecrets, CredentialError> {
        let mut reading = self.0.store.read().await?;
        SealedSecrets::read(&mut reading, zone, provider).await
    }

    async fn credential_with(
        &self,
        zone: &ZoneId,
        provider: &Provider,
        secrets: Option<&SealedSecrets>,
        connection: Option<&ConnectionRef>,
    ) -> Result<Option<Credential>, CredentialError> {
        let config = self.config(provider)?;
        let (Some(secrets), true) = (secrets, !matches!(config.source, Source::None | Source::Mandate))
        else {
            return Ok(None);
        };
        let vault = &self.0.vault;
        match config.source {
            Source::None | Source::Mandate => Ok(None),
            Source::Sealed(name) => Ok(Some(Credential::lasting(secrets.open(vault)?.get(name)?))),
            Source::Basic { username } => {
                let opened = secrets.open(vault)?;
                let pair = format!("{username}:{}", opened.get("password")?);
                Ok(Some(Credential::lasting(STANDARD.encode(pair))))
            }
            Source::Service(service) => {
                let token = self.service_token(provider, &service, secrets).await?;
                let (secret, expires_at) = (token.secret, Some(token.expires_at));
                Ok(Some(Credential { secret, expires_at, connection_id: None }))
            }
            Source::User(_) => {
                let wanted = connection.ok_or(CredentialError::NotConnected)?;
                let mut reading = self.0.store.read().await?;
                let found = connection::Connection::find(&mut reading, zone, &wanted.id).await?;
                let found = found.ok_or(CredentialError::NotConnected)?;
                Ok(Some(Credential {
                    secret: found.open_access(vault, zone)?,
                    expires_at: found.expires_at,
                    connection_id: Some(found.reference.id),
                }))
            }
        }
    }

    /// The token of a service: the one at hand, or a new one that all who ask now share.
    async fn service_token(
        &self,
        provider: &Provider,
        service: &ServiceToken,
        sealed: &SealedSecrets,
    ) -> Result<Token, CredentialError> {
        let fingerprint = fingerprint(provider, sealed);
        let id = provider.id.as_str();
        let at_hand = || self.0.tokens.get(id, &fingerprint, self.0.store.now());
        if let Some(token) = at_hand() {
            return Ok(token);
        }
        let key = format!("{id}/{}", caracal_mandate::gateway_signature::to_hex(&fingerprint));
        let fetch = || async {
            // The flight before may have landed since.
            if let Some(token) = at_hand() {
                return Ok(token);
            }
            let secrets = sealed.open(&self.0.vault)?;
            let now = self.0.store.now();
            let client =
                TokenClient { egress: &self.0.egress, endpoint: &service.endpoint, secrets: &secrets, now };
            let answer = self.through_circuit(id, client.service(service)).await?;
            let life = connection::life(answer.expires_in, self.0.max_life);
            let token = Token { secret: answer.access_token, expires_at: now.saturating_add(life) };
            self.0.tokens.keep(id, fingerprint, token.clone(), now);
            Ok(token)
        };
        self.0.fetches.join(&key, fetch).await
    }

    /// Asks a provider's endpoint unless its circuit is open, and tells the circuit what came of it.
    async fn through_circuit<T>(
        &self,
        provider: &str,
        request: impl Future<Output = Result<T, CredentialError>>,
    ) -> Result<T, CredentialError> {
        let circuits = &self.0.circuits;
        if circuits.is_open(provider, self.0.store.now()) {
            caracal_store::metrics::provider_asked("circuit_open");
            return Err(CredentialError::CircuitOpen);
        }
        let result = request.await;
        caracal_store::metrics::provider_asked(if result.is_ok() { "done" } else { "failed" });
        match &result {
            Ok(_) => circuits.succeeded(provider),
            Err(error) if error.counts() => {
                if circuits.failed(provider, self.0.store.now()) {
                    caracal_store::metrics::provider_circuit_opened();
                    tracing::warn!(provider, %error, "a token endpoint failed often; its circuit is open");
                }
            }
            Err(_) => {}
        }
        result
    }
}

/// Changes with the kind, the configuration and the secrets; nothing of them can be learnt from it.
fn fingerprint(provider: &Provider, sealed: &SealedSecrets) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [provider.kind.as_str(), &provider.config.to_string(), sealed.envelope()] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut fingerprint = [0; 32];
    fingerprint.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    fingerprint
}
