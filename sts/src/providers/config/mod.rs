//! The configuration of a provider as the STS reads it: parsed whole, or not used at all (contract sts §22.1, §22.3).
//!
//! The Admin API checks the same text with the same parser before it stores it, so what is stored can be used.

mod check;
mod parse;

use serde::Deserialize;
use url::Url;

/// Why a configuration cannot be used: which member, and what is wrong with it. Never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {why}")]
pub struct ConfigError {
    /// The member of `config_json`.
    pub member: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The kinds of providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The upstream gets no credential.
    None,
    /// The upstream gets the derived mandate.
    CaracalMandate,
    /// A key in a header or in the query.
    ApiKey,
    /// A token that was issued by hand.
    BearerToken,
    /// User name and password.
    HttpBasic,
    /// A token of the service, fetched with the client's own credential.
    ClientCredentials,
    /// A token of a person, who consented in a browser.
    AuthorizationCode,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::CaracalMandate,
        Self::ApiKey,
        Self::BearerToken,
        Self::HttpBasic,
        Self::ClientCredentials,
        Self::AuthorizationCode,
    ];

    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CaracalMandate => "caracal_mandate",
            Self::ApiKey => "api_key",
            Self::BearerToken => "bearer_token",
            Self::HttpBasic => "http_basic",
            Self::ClientCredentials => "oauth2_client_credentials",
            Self::AuthorizationCode => "oauth2_authorization_code",
        }
    }

    /// The kind of that name. A name that is not known has none: whoever meets it denies.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Does the provider have a credential of its own?
    #[must_use]
    pub fn has_credential(self) -> bool {
        !matches!(self, Self::None | Self::CaracalMandate)
    }

    /// Does its credential come from a token endpoint?
    #[must_use]
    pub fn is_fetched(self) -> bool {
        matches!(self, Self::ClientCredentials | Self::AuthorizationCode)
    }
}

/// Where the credential travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// In a header, after a scheme where there is one.
    Header {
        /// Its name.
        name: String,
        /// The word before the credential.
        scheme: Option<String>,
    },
    /// In a parameter of the query.
    Query {
        /// Its name.
        name: String,
    },
}

/// How the client proves itself to a token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// In `Authorization: Basic`.
    ClientSecretBasic,
    /// In the form.
    ClientSecretPost,
    /// With a signed assertion (RFC 7523 §2.2).
    PrivateKeyJwt,
    /// Not at all.
    None,
}

/// A token endpoint and the client that calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address, `https` and with a host out of [`Endpoint::hosts`].
    pub url: Url,
    /// The hosts that may be called, in lower case; never empty.
    pub hosts: Vec<String>,
    /// The client.
    pub client_id: String,
    /// How it proves itself.
    pub client_auth: ClientAuth,
    /// Further parameters, sorted by name.
    pub params: Vec<(String, String)>,
    /// Is a token of any type taken? Only where the operator said which scheme it travels under.
    pub any_token_type: bool,
    /// The key's name in assertions.
    pub key_id: Option<String>,
    /// The client's certificate, PEM.
    pub certificate: Option<String>,
}

/// Which grant fetches a service's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceGrant {
    /// RFC 6749 §4.4.
    ClientCredentials {
        /// RFC 8707.
        resource: Option<String>,
    },
    /// RFC 7523 §2.1.
    JwtBearer {
        /// Who the assertion speaks for; the client itself unless given.
        subject: Option<String>,
        /// Whom it is for; the endpoint unless given.
        audience: Option<String>,
    },
}

/// How a service's token is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceToken {
    /// Where.
    pub endpoint: Endpoint,
    /// How.
    pub grant: ServiceGrant,
    /// The scopes that are asked for.
    pub scopes: Vec<String>,
    /// The audience that is asked for.
    pub audience: Option<String>,
}

/// How a person's token is obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserToken {
    /// The token endpoint.
    pub endpoint: Endpoint,
    /// Where the browser is sent.
    pub authorization: Url,
    /// Where it comes back to.
    pub redirect_uri: String,
    /// The scopes that are asked for.
    pub scopes: Vec<String>,
    /// Further parameters of the authorization address, sorted by name.
    pub authorization_params: Vec<(String, String)>,
    /// Where a token is given back (RFC 7009).
    pub revocation: Option<Url>,
}

/// Where the credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// There is none.
    None,
    /// The derived mandate.
    Mandate,
    /// The sealed secret of that name, as it is.
    Sealed(&'static str),
    /// This user name with the sealed `password`.
    Basic {
        /// The user name.
        username: String,
    },
    /// A token endpoint.
    Service(Box<ServiceToken>),
    /// The connection of the subject.
    User(Box<UserToken>),
}

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Where the credential comes from.
    pub source: Source,
    /// Where it travels.
    pub placement: Placement,
    /// The hosts that may receive it, in lower case; empty for any.
    pub allowed_token_hosts: Vec<String>,
    /// Does the derived mandate travel beside it?
    pub forward_caracal_identity: bool,
}

#[cfg(test)]
mod tests;
