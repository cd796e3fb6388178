//! Why a provider has no credential to give.

use super::assertion::KeyError;
use super::config::ConfigError;
use caracal_store::StoreError;
use caracal_store::egress::EgressError;

/// Why there is no credential. Holds no secret, no answer of the provider and no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The circuit of the token endpoint is open.
    #[error("the token endpoint failed often; it is left alone for a while")]
    CircuitOpen,
    /// The configuration cannot be used.
    #[error("the provider's configuration cannot be used: {0}")]
    Config(#[from] ConfigError),
    /// The token endpoint could not be asked.
    #[error("the token endpoint cannot be asked: {0}")]
    Egress(#[from] EgressError),
    /// The token endpoint gave an answer that is none.
    #[error("the token endpoint's answer cannot be used: {0}")]
    Answer(&'static str),
    /// The private key or the certificate cannot be used.
    #[error("the provider's key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// The kind is not known.
    #[error("a provider of this kind has no credential to give")]
    Kind,
    /// The connection is over: it has expired and cannot be renewed, or the provider took it back.
    #[error("the provider connection has expired and cannot be renewed")]
    NotRenewable,
    /// The subject has no connection.
    #[error("there is no active provider connection")]
    NotConnected,
    /// The token endpoint said no.
    #[error("the token endpoint answered {status} ({code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The `error` member where it is a plain word, else `unknown`.
        code: String,
    },
    /// The secret of that name is not there.
    #[error("the provider's {0} is missing")]
    SecretMissing(&'static str),
    /// A sealed secret cannot be opened.
    #[error("the provider's secrets cannot be opened")]
    Sealed,
    /// State cannot be read or written.
    #[error("state is not available")]
    Store,
    /// The token is of a type that was not asked for.
    #[error("the token is no bearer token")]
    TokenType,
}

impl CredentialError {
    /// The reason code, for audit events, metrics and the error reference.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CircuitOpen => "provider_circuit_open",
            Self::Config(_) => "provider_config_invalid",
            Self::Egress(error) => error.reason(),
            Self::Answer(_) => "token_response_invalid",
            Self::Key(_) => "provider_key_invalid",
            Self::Kind => "provider_kind_unknown",
            Self::NotRenewable => "credential_expired_not_renewable",
            Self::NotConnected => "no_provider_connection",
            Self::Refused { .. } => "token_endpoint_refused",
            Self::SecretMissing(_) => "provider_secret_missing",
            Self::Sealed => "provider_secret_sealed",
            Self::Store => "sts_unavailable",
            Self::TokenType => "token_type_unsupported",
        }
    }

    /// Did the endpoint fail, so that its circuit has to know? What concerns one person's consent, or our own
    /// configuration, does not count.
    pub(super) fn counts(&self) -> bool {
        match self {
            Self::Egress(_) | Self::Answer(_) | Self::TokenType => true,
            Self::Refused { code, .. } => code != "invalid_grant",
            _ => false,
        }
    }

    /// May the same request succeed a moment later?
    pub(super) fn is_transient(&self) -> bool {
        match self {
            // Whoever waited to the end of the time does not wait again.
            Self::Egress(EgressError::Timeout { .. }) => false,
            Self::Egress(error) => error.is_transient(),
            Self::Refused { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

impl From<StoreError> for CredentialError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed where a credential was wanted");
        match error {
            StoreError::Seal(_) => Self::Sealed,
            _ => Self::Store,
        }
    }
}

impl From<sqlx::Error> for CredentialError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}
