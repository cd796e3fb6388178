//! The configuration of a provider: what each kind takes, and what of it is secret (contract admin-audit §5.5).

use crate::problem::Problem;
use serde_json::{Map, Value};

/// The kinds of this build.
pub(crate) const KINDS: [&str; 5] = ["none", "caracal_mandate", "api_key", "bearer_token", "http_basic"];
const MAX_HOSTS: usize = 64;
/// Headers that no credential travels in.
const RESERVED: [&str; 15] = [
    "baggage",
    "connection",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
    "x-request-id",
];
const RESERVED_PREFIXES: [&str; 4] = ["content-", "proxy-", "x-caracal-", "x-forwarded-"];

/// A configuration that was checked, with its secrets apart.
#[derive(Debug, PartialEq)]
pub(crate) struct Config {
    /// What everyone may see.
    pub(crate) public: Map<String, Value>,
    /// What is sealed; empty where none was given.
    pub(crate) secret: Map<String, Value>,
}

/// The secret that a kind needs.
pub(crate) fn secret_of(kind: &str) -> Option<&'static str> {
    match kind {
        "api_key" => Some("api_key"),
        "bearer_token" => Some("bearer_token"),
        "http_basic" => Some("password"),
        _ => None,
    }
}

fn public_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "api_key" => &[
            "allow_runtime_injection",
            "allowed_token_hosts",
            "auth_location",
            "auth_scheme",
            "forward_caracal_identity",
            "header_name",
            "query_param_name",
        ],
        "bearer_token" => &[
            "allow_runtime_injection",
            "allowed_token_hosts",
            "auth_header",
            "auth_scheme",
            "forward_caracal_identity",
        ],
        "http_basic" => &["allowed_token_hosts", "forward_caracal_identity", "username"],
        _ => &[],
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::invalid("invalid_provider_config").because(why))
}

/// Checks a configuration for its kind. Whether a secret has to be there is the caller's to say: a patch may leave it
/// out and keep the one before.
pub(crate) fn check(kind: &str, mut given: Map<String, Value>) -> Result<Config, Problem> {
    if !KINDS.contains(&kind) {
        let known = KINDS.join(", ");
        return refuse(format!("kind {kind:?} is not supported by this build; supported are {known}"));
    }
    let allowed = public_keys(kind);
    let secret_key = secret_of(kind);
    let unknown: Vec<&str> = given
        .keys()
        .map(String::as_str)
        .filter(|key| !allowed.contains(key) && secret_key != Some(*key))
        .collect();
    if !unknown.is_empty() {
        return refuse(format!("unsupported keys for kind {kind}: {}", unknown.join(", ")));
    }
    let mut secret = Map::new();
    if let Some((key, value)) = secret_key.and_then(|key| given.remove_entry(key)) {
        let scheme = match kind {
            "bearer_token" => Some(given.get("auth_scheme").and_then(Value::as_str).unwrap_or("Bearer")),
            "api_key" => given.get("auth_scheme").and_then(Value::as_str),
            _ => None,
        };
        let value = check_secret(&key, &value, scheme)?;
        secret.insert(key, value.into());
    }
    for (key, value) in &mut given {
        check_member(key, value)?;
    }
    if kind == "api_key" {
        check_place(&mut given)?;
    }
    if kind == "http_basic" {
        match given.get("username").and_then(Value::as_str) {
            None => return refuse("username: is missing"),
            Some(name) if name.contains(':') => return refuse("username: holds a colon"),
            Some(_) => {}
        }
    }
    Ok(Config { public: given, secret })
}

/// The secret, trimmed. What stands in an error is never the value.
fn check_secret(key: &str, value: &Value, scheme: Option<&str>) -> Result<String, Problem> {
    let Some(text) = value.as_str().map(str::trim).filter(|text| !text.is_empty()) else {
        return refuse(format!("{key}: is no text or empty"));
    };
    if text.chars().any(char::is_control) || text.len() > 16_384 {
        return refuse(format!("{key}: has control characters or more than 16384 bytes"));
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
fn check_place(config: &mut Map<String, Value>) -> Result<(), Problem> {
    let location = config.get("auth_location").and_then(Value::as_str).unwrap_or("header").to_owned();
    let (needed, excluded): (_, &[&str]) = match location.as_str() {
        "header" => ("header_name", &["query_param_name"]),
        _ => ("query_param_name", &["header_name", "auth_scheme"]),
    };
    if !config.contains_key(needed) {
        return refuse(format!("{needed}: is missing for auth_location {location}"));
    }
    match excluded.iter().find(|key| config.contains_key(**key)) {
        Some(key) => refuse(format!("{key}: does not go with auth_location {location}")),
        None => Ok(()),
    }
}

fn check_member(key: &str, value: &mut Value) -> Result<(), Problem> {
    match key {
        "allow_runtime_injection" | "forward_caracal_identity" => {
            return if value.is_boolean() { Ok(()) } else { refuse(format!("{key}: is no boolean")) };
        }
        "allowed_token_hosts" => return check_hosts(value),
        _ => {}
    }
    let Some(text) = value.as_str().map(str::trim).filter(|text| !text.is_empty() && text.len() <= 256)
    else {
        return refuse(format!("{key}: is no text of 1 to 256 bytes"));
    };
    let good = match key {
        "auth_location" => matches!(text, "header" | "query"),
        "header_name" | "auth_header" => {
            let lower = text.to_ascii_lowercase();
            text.bytes().all(is_token_byte)
                && !RESERVED.contains(&lower.as_str())
                && !RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        }
        "auth_scheme" => {
            text.starts_with(|first: char| first.is_ascii_alphabetic())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }
        "query_param_name" => {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
        }
        _ => !text.chars().any(char::is_control),
    };
    if !good {
        return refuse(format!("{key}: {text:?} is not allowed"));
    }
    *value = text.to_owned().into();
    Ok(())
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
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
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(kind: &str, config: Value) -> Result<Config, Problem> {
        check(kind, config.as_object().unwrap().clone())
    }

    #[test]
    fn contract_admin_5_5_what_each_kind_takes() {
        let good = [
            ("none", json!({}), None),
            ("api_key", json!({ "header_name": "X-Api-Key", "api_key": " k " }), Some("k")),
            (
                "api_key",
                json!({ "auth_location": "query", "query_param_name": "key", "api_key": "k" }),
                Some("k"),
            ),
            ("api_key", json!({ "header_name": "Authorization", "auth_scheme": "Token" }), None),
            (
                "bearer_token",
                json!({ "bearer_token": "t", "allowed_token_hosts": ["API.example.com"] }),
                Some("t"),
            ),
            ("http_basic", json!({ "username": "u", "password": "p" }), Some("p")),
        ];
        for (kind, config, secret) in good {
            let config = checked(kind, config.clone()).unwrap_or_else(|_| panic!("{kind} {config}"));
            let held = secret_of(kind).and_then(|key| config.secret.get(key)).and_then(Value::as_str);
            assert_eq!(held, secret, "{kind}");
            assert!(secret_of(kind).is_none_or(|key| !config.public.contains_key(key)));
        }
        let hosts = checked("bearer_token", json!({ "allowed_token_hosts": ["API.example.com"] })).unwrap();
        assert_eq!(hosts.public["allowed_token_hosts"], json!(["api.example.com"]));
    }

    #[test]
    fn contract_admin_5_5_what_no_kind_takes() {
        let bad = [
            ("oauth3", json!({})),
            ("none", json!({ "a": 1 })),
            ("api_key", json!({ "api_key": "k" })),
            ("api_key", json!({ "header_name": "X-Caracal-Resource" })),
            ("api_key", json!({ "header_name": "content-length" })),
            ("api_key", json!({ "header_name": "Host" })),
            ("api_key", json!({ "header_name": "a b" })),
            ("api_key", json!({ "header_name": "A", "query_param_name": "b" })),
            ("api_key", json!({ "header_name": "A", "bearer_token": "b" })),
            ("api_key", json!({ "header_name": "A", "api_key": "" })),
            ("api_key", json!({ "header_name": "A", "api_key": "a\nb" })),
            ("api_key", json!({ "header_name": "A", "auth_scheme": "Token", "api_key": "token x" })),
            ("api_key", json!({ "auth_location": "query", "query_param_name": "a&b" })),
            ("api_key", json!({ "auth_location": "query", "query_param_name": "a", "auth_scheme": "X" })),
            ("bearer_token", json!({ "bearer_token": "Bearer x" })),
            ("bearer_token", json!({ "bearer_token": 1 })),
            ("bearer_token", json!({ "allowed_token_hosts": ["127.0.0.1"] })),
            ("bearer_token", json!({ "allowed_token_hosts": [] })),
            ("bearer_token", json!({ "forward_caracal_identity": "yes" })),
            ("http_basic", json!({ "password": "p" })),
            ("http_basic", json!({ "username": "a:b", "password": "p" })),
        ];
        for (kind, config) in bad {
            assert!(checked(kind, config.clone()).is_err(), "{kind} {config}");
        }
    }
}
