//! What names, hosts and addresses of a configuration may look like (contract sts §22.1).

use super::{ConfigError, Placement};
use caracal_mandate::header;
use serde_json::{Map, Value};
use url::Url;

/// The longest host name, in bytes.
const MAX_HOST: usize = 253;

pub(super) fn wrong<T>(member: &'static str, why: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError { member, why })
}

/// `[A-Za-z][A-Za-z0-9-]*`
pub(super) fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `[A-Za-z0-9._~-]+`
pub(super) fn is_parameter_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

/// Not empty, and without control characters.
pub(super) fn is_plain_text(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

pub(super) fn header_placement(
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

pub(super) fn https(member: &'static str, text: Option<&str>) -> Result<Url, ConfigError> {
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

pub(super) fn names_host(hosts: &[String], url: &Url) -> bool {
    url.host_str().is_some_and(|host| hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)))
}

/// DNS names: at most 253 bytes of `[A-Za-z0-9.-]`, alphanumeric at both ends, no empty label.
pub(super) fn hosts(names: &[String]) -> Result<Vec<String>, ConfigError> {
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

pub(super) fn params(
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
