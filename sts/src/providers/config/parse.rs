//! From JSON to a configuration, with a reason for whatever is none.

use super::check::{
    header_placement, hosts, https, is_parameter_name, is_plain_text, is_scheme, names_host, params, wrong,
};
use super::{
    ClientAuth, ConfigError, Endpoint, Kind, Placement, ProviderConfig, ServiceGrant, ServiceToken, Source,
    UserToken,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

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

fn username(raw: &Raw) -> Result<String, ConfigError> {
    match raw.username.clone().filter(|name| is_plain_text(name)) {
        Some(name) if name.contains(':') => wrong("username", "holds a colon"),
        Some(name) => Ok(name),
        None => wrong("username", "is missing or no plain text"),
    }
}
