//! The configuration of a provider: what each kind takes, and what of it is secret (contract admin-audit §5.5).
//!
//! What this module lets through is read once more by the parser that the STS uses, so what is stored can be used.

use crate::problem::Problem;
use caracal_sts::providers::{ClientAuth, Kind, ProviderConfig, ServiceGrant, SigningKey, Source};
use serde_json::{Map, Value};

const MAX_HOSTS: usize = 64;
/// The most scopes, and the most parameters.
const MAX_ITEMS: usize = 64;
/// The longest secret, and the longest certificate, in bytes.
const MAX_PEM: usize = 16_384;
/// The longest URL, in bytes.
const MAX_URL: usize = 2048;
/// The longest text of any other kind, in bytes.
const MAX_TEXT: usize = 512;

/// A configuration that was checked, with its secrets apart.
#[derive(Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) kind: Kind,
    /// As the STS reads it.
    pub(crate) parsed: ProviderConfig,
    /// What everyone may see.
    pub(crate) public: Map<String, Value>,
    /// What is sealed; empty where none was given.
    pub(crate) secret: Map<String, Value>,
    /// The secrets that it cannot do without.
    pub(crate) needs: Vec<&'static str>,
}

/// What a member holds.
enum Shape {
    Flag,
    Hosts,
    Method,
    Pem,
    Parameters,
    Texts,
    Text(usize),
}

fn secret_keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::None | Kind::CaracalMandate => &[],
        Kind::ApiKey => &["api_key"],
        Kind::BearerToken => &["bearer_token"],
        Kind::HttpBasic => &["password"],
        Kind::ClientCredentials => &["client_secret", "private_key"],
        Kind::AuthorizationCode => &["client_secret"],
    }
}

fn public_keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::None | Kind::CaracalMandate => &[],
        Kind::ApiKey => &[
            "allow_runtime_injection",
            "allowed_token_hosts",
            "auth_location",
            "auth_scheme",
            "forward_caracal_identity",
            "header_name",
            "query_param_name",
        ],
        Kind::BearerToken => &[
            "allow_runtime_injection",
            "allowed_token_hosts",
            "auth_header",
            "auth_scheme",
            "forward_caracal_identity",
        ],
        Kind::HttpBasic => &["allowed_token_hosts", "forward_caracal_identity", "username"],
        Kind::ClientCredentials => &[
            "allow_runtime_injection",
            "allowed_token_hosts",
            "assertion_audience",
            "assertion_subject",
            "audience",
            "auth_header",
            "auth_scheme",
            "certificate",
            "client_auth_method",
            "client_id",
            "forward_caracal_identity",
            "grant_type",
            "key_id",
            "resource",
            "scopes",
            "token_endpoint",
            "token_params",
        ],
        Kind::AuthorizationCode => &[
            "allowed_token_hosts",
            "auth_header",
            "auth_scheme",
            "authorization_endpoint",
            "authorization_params",
            "client_auth_method",
            "client_id",
            "forward_caracal_identity",
            "redirect_uri",
            "revocation_endpoint",
            "scopes",
            "token_endpoint",
            "token_params",
        ],
    }
}

fn shape_of(key: &str) -> Shape {
    match key {
        "allow_runtime_injection" | "forward_caracal_identity" => Shape::Flag,
        "allowed_token_hosts" => Shape::Hosts,
        "authorization_endpoint" | "redirect_uri" | "revocation_endpoint" | "token_endpoint" => {
            Shape::Text(MAX_URL)
        }
        "authorization_params" | "token_params" => Shape::Parameters,
        "certificate" => Shape::Pem,
        "client_auth_method" => Shape::Method,
        "scopes" => Shape::Texts,
        _ => Shape::Text(MAX_TEXT),
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::invalid("invalid_provider_config").because(why))
}

/// Checks a configuration for its kind. Whether the secrets that it needs have to be there is the caller's to say: a patch
/// may leave them out and keep those before.
pub(crate) fn check(kind: &str, mut given: Map<String, Value>) -> Result<Config, Problem> {
    let Some(kind) = Kind::parse(kind) else {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        return refuse(format!("kind {kind:?} is not supported by this build; supported are {known}"));
    };
    let (public, secrets) = (public_keys(kind), secret_keys(kind));
    let known = |key: &&str| public.contains(key) || secrets.contains(key);
    let unknown: Vec<&str> = given.keys().map(String::as_str).filter(|key| !known(key)).collect();
    if !unknown.is_empty() {
        return refuse(format!("unsupported keys for kind {}: {}", kind.as_str(), unknown.join(", ")));
    }
    let mut secret = Map::new();
    for key in secrets {
        if let Some((key, value)) = given.remove_entry(*key) {
            let value = check_secret(&key, &value, scheme_of(kind, &given))?;
            secret.insert(key, value.into());
        }
    }
    for (key, value) in &mut given {
        check_member(key, value)?;
    }
    if kind == Kind::ApiKey {
        check_place(&given)?;
    }
    let config = ProviderConfig::parse(kind, &Value::Object(given.clone()));
    let config = config.or_else(|error| refuse(error.to_string()))?;
    if let (Some(hosts), false) = (hosts_of(&config), given.contains_key("allowed_token_hosts")) {
        given.insert("allowed_token_hosts".to_owned(), hosts);
    }
    let needs = needs(&config);
    if secret.contains_key("private_key") && !needs.contains(&"private_key") {
        return refuse("private_key: nothing is signed with it");
    }
    check_signing_key(&config, secret.get("private_key").and_then(Value::as_str))?;
    Ok(Config { kind, parsed: config, public: given, secret, needs })
}

/// The scheme that is put before a secret when it is sent.
fn scheme_of(kind: Kind, given: &Map<String, Value>) -> Option<&str> {
    let configured = given.get("auth_scheme").and_then(Value::as_str);
    match kind {
        Kind::BearerToken => configured.or(Some("Bearer")),
        Kind::ApiKey => configured,
        _ => None,
    }
}

/// The token endpoint's hosts, written out so that operators see whom it calls.
fn hosts_of(config: &ProviderConfig) -> Option<Value> {
    let hosts = match &config.source {
        Source::Service(service) => &service.endpoint.hosts,
        Source::User(user) => &user.endpoint.hosts,
        _ => return None,
    };
    Some(hosts.iter().map(String::as_str).collect())
}

fn needs(config: &ProviderConfig) -> Vec<&'static str> {
    let of_client = |auth: ClientAuth| match auth {
        ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost => Some("client_secret"),
        ClientAuth::PrivateKeyJwt => Some("private_key"),
        ClientAuth::None => None,
    };
    match &config.source {
        Source::None | Source::Mandate => Vec::new(),
        Source::Sealed(name) => vec![name],
        Source::Basic { .. } => vec!["password"],
        Source::User(user) => of_client(user.endpoint.client_auth).into_iter().collect(),
        Source::Service(service) => {
            let signed = matches!(service.grant, ServiceGrant::JwtBearer { .. }).then_some("private_key");
            of_client(service.endpoint.client_auth).into_iter().chain(signed).collect()
        }
    }
}

/// A key has to be one that can sign, and a certificate has to be its own.
pub(crate) fn check_signing_key(config: &ProviderConfig, private_key: Option<&str>) -> Result<(), Problem> {
    let (Source::Service(service), Some(private_key)) = (&config.source, private_key) else { return Ok(()) };
    let endpoint = &service.endpoint;
    match SigningKey::from_pem(private_key, endpoint.key_id.as_deref(), endpoint.certificate.as_deref()) {
        Ok(_) => Ok(()),
        Err(error) => refuse(error.to_string()),
    }
}

/// The secret, trimmed. What stands in an error is never the value.
fn check_secret(key: &str, value: &Value, scheme: Option<&str>) -> Result<String, Problem> {
    let Some(text) = value.as_str().map(str::trim).filter(|text| !text.is_empty()) else {
        return refuse(format!("{key}: is no text or empty"));
    };
    // A private key has many lines.
    let forbidden = |character: char| {
        character.is_control() && !(key == "private_key" && matches!(character, '\n' | '\r' | '\t'))
    };
    if text.chars().any(forbidden) || text.len() > MAX_PEM {
        return refuse(format!("{key}: has control characters or more than {MAX_PEM} bytes"));
    }
    let first = text.split_once(' ').map(|(first, _)| first);
    if let (Some(first), Some(scheme)) = (first, scheme)
        && first.eq_ignore_ascii_case(scheme)
    {
        return refuse(format!("{key}: begins with its scheme, which is added when it is sent"));
    }
    Ok(text.to_owned())
}

/// Where an API key goes: one header or one parameter.
fn check_place(config: &Map<String, Value>) -> Result<(), Problem> {
    let location = config.get("auth_location").and_then(Value::as_str).unwrap_or("header");
    let excluded: &[&str] = match location {
        "header" => &["query_param_name"],
        _ => &["header_name", "auth_scheme"],
    };
    match excluded.iter().find(|key| config.contains_key(**key)) {
        Some(key) => refuse(format!("{key}: does not go with auth_location {location}")),
        None => Ok(()),
    }
}

fn check_member(key: &str, value: &mut Value) -> Result<(), Problem> {
    let most = match shape_of(key) {
        Shape::Flag if value.is_boolean() => return Ok(()),
        Shape::Flag => return refuse(format!("{key}: is no boolean")),
        Shape::Hosts => return check_hosts(value),
        Shape::Parameters => {
            let good = value.as_object().is_some_and(|members| {
                members.len() <= MAX_ITEMS
                    && members
                        .values()
                        .all(|value| value.as_str().is_some_and(|text| is_text(text, MAX_TEXT)))
            });
            return if good { Ok(()) } else { refuse(format!("{key}: is no object of {MAX_ITEMS} texts")) };
        }
        Shape::Texts => {
            let good = value.as_array().is_some_and(|items| {
                items.len() <= MAX_ITEMS
                    && items.iter().all(|item| item.as_str().is_some_and(|text| is_text(text, MAX_TEXT)))
            });
            return if good { Ok(()) } else { refuse(format!("{key}: is no list of {MAX_ITEMS} texts")) };
        }
        Shape::Method => {
            let known = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];
            return match value.as_str() {
                Some(method) if known.contains(&method) => Ok(()),
                _ => refuse(format!("{key}: is none of {}", known.join(", "))),
            };
        }
        Shape::Pem => {
            let text = value.as_str().map(str::trim).filter(|text| (1..=MAX_PEM).contains(&text.len()));
            let Some(text) = text else {
                return refuse(format!("{key}: is no text of 1 to {MAX_PEM} bytes"));
            };
            *value = text.to_owned().into();
            return Ok(());
        }
        Shape::Text(most) => most,
    };
    let text = value.as_str().map(str::trim).filter(|text| is_text(text, most));
    let Some(text) = text else { return refuse(format!("{key}: is no text of 1 to {most} bytes")) };
    let lower = text.to_ascii_lowercase();
    let of_body = lower.starts_with("content-") || lower == "http2-settings";
    if matches!(key, "header_name" | "auth_header") && of_body {
        return refuse(format!("{key}: {text:?} is not allowed"));
    }
    *value = text.to_owned().into();
    Ok(())
}

fn is_text(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn check_hosts(value: &mut Value) -> Result<(), Problem> {
    let hosts = value.as_array().filter(|hosts| (1..=MAX_HOSTS).contains(&hosts.len()));
    let Some(hosts) = hosts else {
        return refuse(format!("allowed_token_hosts: is no list of 1 to {MAX_HOSTS} names"));
    };
    let mut names = Vec::new();
    for host in hosts {
        let name = host.as_str().unwrap_or_default().to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric =
            name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > 253 || numeric || !name.split('.').all(label) {
            return refuse(format!("allowed_token_hosts: {host} is no DNS name"));
        }
        names.push(Value::from(name));
    }
    *value = names.into();
    Ok(())
}

#[cfg(test)]
#[path = "provider_config_tests.rs"]
mod tests;
