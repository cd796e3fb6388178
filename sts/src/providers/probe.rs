//! Trying a token endpoint for an operator: does it answer, and does it know the client? (contract admin-audit §5.5)

use super::Providers;
use super::config::{ProviderConfig, Source};
use super::error::CredentialError;
use super::secret::Secrets;
use super::token::TokenClient;
use caracal_store::egress::EgressError;

/// What a trial came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The endpoint knows the client.
    Ok,
    /// It does not.
    AuthFailed,
    /// The configuration or a secret cannot be used, or the endpoint may not be called.
    ConfigError,
    /// It answers something else.
    EndpointError,
    /// It does not answer.
    Unreachable,
}

impl Probe {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AuthFailed => "auth_failed",
            Self::ConfigError => "config_error",
            Self::EndpointError => "endpoint_error",
            Self::Unreachable => "unreachable",
        }
    }

    fn of(error: &CredentialError) -> Self {
        match error {
            CredentialError::Refused { status: 401, .. } => Self::AuthFailed,
            CredentialError::Refused { code, .. }
                if matches!(code.as_str(), "invalid_client" | "unauthorized_client") =>
            {
                Self::AuthFailed
            }
            CredentialError::Egress(
                EgressError::AddressRefused { .. }
                | EgressError::HostNotAllowed { .. }
                | EgressError::Url { .. },
            ) => Self::ConfigError,
            CredentialError::Egress(
                EgressError::Connect { .. } | EgressError::NotResolved { .. } | EgressError::Timeout { .. },
            ) => Self::Unreachable,
            CredentialError::Egress(_)
            | CredentialError::Refused { .. }
            | CredentialError::Answer(_)
            | CredentialError::TokenType => Self::EndpointError,
            _ => Self::ConfigError,
        }
    }
}

impl Providers {
    /// Tries the token endpoint of a configuration; `None` for a kind that has none. A service's token is fetched and
    /// forgotten. A person's cannot be, so a code that nobody was given is presented: an endpoint that refuses it as such
    /// has known the client.
    ///
    /// The second value is a reason code.
    pub async fn probe(&self, config: &ProviderConfig, secrets: &Secrets) -> Option<(Probe, &'static str)> {
        let now = self.0.store.now();
        let egress = &self.0.egress;
        let client = |endpoint| TokenClient { egress, endpoint, secrets, now };
        let outcome = match &config.source {
            Source::Service(service) => client(&service.endpoint).service(service).await,
            Source::User(user) => {
                let known =
                    client(&user.endpoint).code(user, "caracal-connectivity-check", &"0".repeat(43)).await;
                match known {
                    Err(CredentialError::Refused { status: 400, code }) if code == "invalid_grant" => {
                        return Some((Probe::Ok, "invalid_grant"));
                    }
                    // Whoever gives tokens for that is no endpoint to trust.
                    Ok(_) => Err(CredentialError::Answer("it gave tokens for a code that nobody was given")),
                    error => error,
                }
            }
            _ => return None,
        };
        Some(match outcome {
            Ok(_) => (Probe::Ok, "token_received"),
            Err(error) => (Probe::of(&error), error.reason()),
        })
    }
}
