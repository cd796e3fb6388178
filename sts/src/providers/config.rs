//! The configuration of a provider as the STS reads it: parsed whole, or not used at all (contract sts §22.1, §22.3).
//!
//! The Admin API checks the same text with the same parser before it stores it, so what is stored can be used.

use caracal_mandate::header;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

/// The longest host name, in bytes.
const MAX_HOST: usize = 253;
/// Parameters that an endpoint's own configuration may not set, because the protocol does (contract sts §22.3).
const RESERVED_TOKEN_PARAMS: [&str; 11] = [
    "assertion",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "scope",
];
/// The same for the address that a browser is sent to (contract admin-audit §5.5).
const RESERVED_AUTHORIZATION_PARAMS: [&str; 7] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
];

/// Why a configuration cannot be used: which member, and what is wrong with it. Never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {why}")]
pub struct ConfigError {
    /// The member of `config_json`.
    pub member: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

fn wrong<T>(member: &'static str, why: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError { member, why })
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

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    allowed_token_hosts: Option<Vec<String>>,
    assertion_audience: Option<String>,
    assertion_subject: Option<String>,
    audience: Option<String>,
    auth_header: Option<String>,
    auth_location: Option<String>,
    auth_scheme: Option<String>,
    authorization_endpoint: Option<String>,
    authorization_params: Map<String, Value>,
    certificate: Option<String>,
    client_auth_method: Option<ClientAuth>,
    client_id: Option<String>,
    forward_caracal_identity: bool,
    grant_type: Option<String>,
    header_name: Option<String>,
    key_id: Option<String>,
    query_param_name: Option<String>,
    redirect_uri: Option<String>,
    resource: Option<String>,
    revocation_endpoint: Option<String>,
    scopes: Vec<String>,
    token_endpoint: Option<String>,
    token_params: Map<String, Value>,
    username: Option<String>,
}

impl ProviderConfig {
    /// Reads the public configuration of a provider of this kind.
    ///
    /// # Errors
    /// [`ConfigError`] names the member that cannot be used.
    pub fn parse(kind: Kind, config: &Value) -> Result<Self, ConfigError> {
        let Ok(raw) = Raw::deserialize(config) else {
            return wrong("config_json", "a member has another type than it should have");
        };
        let allowed_token_hosts = hosts(raw.allowed_token_hosts.as_deref().unwrap_or_default())?;
        let source = match kind {
            Kind::None => Source::None,
            Kind::CaracalMandate => Source::Mandate,
            Kind::ApiKey => Source::Sealed("api_key"),
            Kind::BearerToken => Source::Sealed("bearer_token"),
            Kind::HttpBasic => Source::Basic { username: username(&raw)? },
            Kind::ClientCredentials => Source::Service(Box::new(raw.service_token(&allowed_token_hosts)?)),
            Kind::AuthorizationCode => Source::User(Box::new(raw.user_token(&allowed_token_hosts)?)),
        };
        Ok(Self {
            placement: raw.placement(kind)?,
            // For the OAuth kinds the list guards the token endpoint, not the upstream.
            allowed_token_hosts: match source {
                Source::Sealed(_) | Source::Basic { .. } => allowed_token_hosts,
                _ => Vec::new(),
            },
            forward_caracal_identity: kind.has_credential() && raw.forward_caracal_identity,
            source,
        })
    }
}

impl Raw {
    fn placement(&self, kind: Kind) -> Result<Placement, ConfigError> {
        let bearer = || Some("Bearer".to_owned());
        match kind {
            Kind::ApiKey => match self.auth_location.as_deref().unwrap_or("header") {
                "header" => header_placement("header_name", self.header_name.as_deref(), self.scheme()?),
                "query" => match self.query_param_name.as_deref() {
                    _ if self.auth_scheme.is_some() => {
                        wrong("auth_scheme", "does not go with a query parameter")
                    }
                    Some(name) if is_parameter_name(name) => Ok(Placement::Query { name: name.to_owned() }),
                    Some(_) => wrong("query_param_name", "is no name of a query parameter"),
                    None => wrong("query_param_name", "is missing"),
                },
                _ => wrong("auth_location", "is neither header nor query"),
            },
            Kind::HttpBasic => {
                Ok(Placement::Header { name: "Authorization".to_owned(), scheme: Some("Basic".to_owned()) })
            }
            _ => {
                let name = self.auth_header.as_deref().unwrap_or("Authorization");
                header_placement("auth_header", Some(name), self.scheme()?.or_else(bearer))
            }
        }
    }

    fn scheme(&self) -> Result<Option<String>, ConfigError> {
        match self.auth_scheme.as_deref() {
            Some(scheme) if !is_scheme(scheme) => wrong("auth_scheme", "is no authentication scheme"),
            scheme => Ok(scheme.map(str::to_owned)),
        }
    }

    fn service_token(&self, allowed: &[String]) -> Result<ServiceToken, ConfigError> {
        let jwt_bearer = match self.grant_type.as_deref().unwrap_or("client_credentials") {
            "client_credentials" => false,
            "jwt_bearer" => true,
            _ => return wrong("grant_type", "is neither client_credentials nor jwt_bearer"),
        };
        let usual = if jwt_bearer { ClientAuth::None } else { ClientAuth::ClientSecretBasic };
        let endpoint = self.endpoint(allowed, usual)?;
        let signs = jwt_bearer || endpoint.client_auth == ClientAuth::PrivateKeyJwt;
        let grant = if jwt_bearer {
            ServiceGrant::JwtBearer {
                subject: self.assertion_subject.clone(),
                audience: self.assertion_audience.clone(),
            }
        } else {
            ServiceGrant::ClientCredentials { resource: self.resource.clone() }
        };
        match () {
            () if jwt_bearer && endpoint.client_auth == ClientAuth::PrivateKeyJwt => {
                wrong("client_auth_method", "private_key_jwt does not go with grant_type jwt_bearer")
            }
            () if jwt_bearer && self.resource.is_some() => {
                wrong("resource", "does not go with grant_type jwt_bearer")
            }
            () if !jwt_bearer && self.assertion_subject.is_some() => {
                wrong("assertion_subject", "goes with grant_type jwt_bearer alone")
            }
            () if !jwt_bearer && self.assertion_audience.is_some() => {
                wrong("assertion_audience", "goes with grant_type jwt_bearer alone")
            }
            () if !signs && self.key_id.is_some() => wrong("key_id", "nothing is signed"),
            () if self.certificate.is_some() && endpoint.client_auth != ClientAuth::PrivateKeyJwt => {
                wrong("certificate", "goes with private_key_jwt alone")
            }
            () => {
                Ok(ServiceToken { endpoint, grant, scopes: self.scopes()?, audience: self.audience.clone() })
            }
        }
    }

    fn user_token(&self, allowed: &[String]) -> Result<UserToken, ConfigError> {
        let endpoint = self.endpoint(allowed, ClientAuth::ClientSecretBasic)?;
        if endpoint.client_auth == ClientAuth::PrivateKeyJwt {
            return wrong("client_auth_method", "private_key_jwt does not go with this kind");
        }
        let authorization = https("authorization_endpoint", self.authorization_endpoint.as_deref())?;
        let redirect_uri = match self.redirect_uri.as_deref().map(Url::parse) {
            Some(Ok(url)) if url.has_host() && url.fragment().is_none() => {
                self.redirect_uri.clone().unwrap_or_default()
            }
            _ => return wrong("redirect_uri", "is no absolute URL without a fragment"),
        };
        let revocation = match self.revocation_endpoint.as_deref() {
            None => None,
            Some(text) => {
                let url = https("revocation_endpoint", Some(text))?;
                if !names_host(&endpoint.hosts, &url) {
                    return wrong("revocation_endpoint", "its host is not in allowed_token_hosts");
                }
                Some(url)
            }
        };
        Ok(UserToken {
            endpoint,
            authorization,
            redirect_uri,
            scopes: self.scopes()?,
            authorization_params: params(
                "authorization_params",
                &self.authorization_params,
                &RESERVED_AUTHORIZATION_PARAMS,
            )?,
            revocation,
        })
    }

    fn endpoint(&self, allowed: &[String], usual: ClientAuth) -> Result<Endpoint, ConfigError> {
        let url = https("token_endpoint", self.token_endpoint.as_deref())?;
        let hosts = match allowed {
            [] => vec![url.host_str().unwrap_or_default().to_ascii_lowercase()],
            some => some.to_vec(),
        };
        if !names_host(&hosts, &url) {
            return wrong("token_endpoint", "its host is not in allowed_token_hosts");
        }
        let client_id = self.client_id.clone().filter(|id| is_plain_text(id));
        let Some(client_id) = client_id else { return wrong("client_id", "is missing or no plain text") };
        Ok(Endpoint {
            url,
            hosts,
            client_id,
            client_auth: self.client_auth_method.unwrap_or(usual),
            params: params("token_params", &self.token_params, &RESERVED_TOKEN_PARAMS)?,
            any_token_type: self.auth_scheme.is_some(),
            key_id: self.key_id.clone(),
            certificate: self.certificate.clone(),
        })
    }

    fn scopes(&self) -> Result<Vec<String>, ConfigError> {
        // RFC 6749 §3.3.
        let byte = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        match self.scopes.iter().all(|scope| !scope.is_empty() && scope.bytes().all(byte)) {
            true => Ok(self.scopes.clone()),
            false => wrong("scopes", "a scope is empty or has characters that no scope has"),
        }
    }
}

/// `[A-Za-z][A-Za-z0-9-]*`
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `[A-Za-z0-9._~-]+`
fn is_parameter_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

/// Not empty, and without control characters.
fn is_plain_text(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn header_placement(
    member: &'static str,
    name: Option<&str>,
    scheme: Option<String>,
) -> Result<Placement, ConfigError> {
    match name {
        Some(name) if header::may_carry_credential(name.as_bytes()) => {
            Ok(Placement::Header { name: name.to_owned(), scheme })
        }
        Some(_) => wrong(member, "is no header that may carry a credential"),
        None => wrong(member, "is missing"),
    }
}

fn username(raw: &Raw) -> Result<String, ConfigError> {
    match raw.username.clone().filter(|name| is_plain_text(name)) {
        Some(name) if name.contains(':') => wrong("username", "holds a colon"),
        Some(name) => Ok(name),
        None => wrong("username", "is missing or no plain text"),
    }
}

fn https(member: &'static str, text: Option<&str>) -> Result<Url, ConfigError> {
    let Some(text) = text else { return wrong(member, "is missing") };
    let Ok(url) = Url::parse(text) else { return wrong(member, "is no URL") };
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    // A name, and no address: lists of hosts hold names.
    if url.scheme() == "https" && url.domain().is_some() && bare {
        Ok(url)
    } else {
        wrong(member, "is no https URL with a host name and without user information and fragment")
    }
}

fn names_host(hosts: &[String], url: &Url) -> bool {
    url.host_str().is_some_and(|host| hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)))
}

/// DNS names: at most 253 bytes of `[A-Za-z0-9.-]`, alphanumeric at both ends, no empty label.
fn hosts(names: &[String]) -> Result<Vec<String>, ConfigError> {
    let good = |name: &String| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
        let ends = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        };
        name.len() <= MAX_HOST && name.bytes().all(byte) && ends(name) && !name.contains("..")
    };
    match names.iter().all(good) {
        true => Ok(names.iter().map(|name| name.to_ascii_lowercase()).collect()),
        false => wrong("allowed_token_hosts", "a host is no DNS name"),
    }
}

fn params(
    member: &'static str,
    given: &Map<String, Value>,
    reserved: &[&str],
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut list = Vec::new();
    for (name, value) in given {
        match value.as_str() {
            Some(value) if is_plain_text(value) && is_parameter_name(name) => {
                if reserved.contains(&name.as_str()) {
                    return wrong(member, "sets a parameter that the protocol sets");
                }
                list.push((name.clone(), value.to_owned()));
            }
            _ => return wrong(member, "a name or a value is empty or not allowed"),
        }
    }
    list.sort();
    Ok(list)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
