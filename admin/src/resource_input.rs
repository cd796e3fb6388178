//! What a resource may be (contract admin-audit §5.4), as pure checks.

use crate::body::{Text, maybe_null};
use crate::problem::Problem;
use caracal_mandate::id::ResourceIdentifier;
use caracal_mandate::mcp::McpEntry;
use caracal_mandate::operation::{Operation, PathMatch};
use caracal_mandate::scope::Scope;
use caracal_mandate::upstream::UpstreamUrl;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The longest upstream URL, in bytes: the STS's answer to a gateway has to hold it.
const MAX_UPSTREAM_URL: usize = 2048;
const MAX_SCOPES: usize = 64;
const MAX_OPERATIONS: usize = 256;

#[derive(Debug, Deserialize)]
pub(crate) struct Input {
    pub(crate) name: Option<Text<200>>,
    pub(crate) identifier: Option<String>,
    #[serde(default, deserialize_with = "maybe_null")]
    pub(crate) upstream_url: Option<Option<String>>,
    pub(crate) scopes: Option<Vec<Scope>>,
    #[serde(default, deserialize_with = "maybe_null")]
    pub(crate) credential_provider_id: Option<Option<String>>,
    pub(crate) operations: Option<Vec<OperationInput>>,
    pub(crate) operation_enforcement: Option<Enforcement>,
    pub(crate) mandate_use: Option<MandateUse>,
    #[serde(default, deserialize_with = "maybe_null")]
    pub(crate) mcp: Option<Option<McpEntry>>,
    #[serde(default)]
    pub(crate) check: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OperationInput {
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    scope: String,
    /// How the path is compared; the contract knows `exact` only.
    #[serde(rename = "match", default)]
    matching: PathMatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Enforcement {
    Enforced,
    TransportUniform,
}

impl Enforcement {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::TransportUniform => "transport_uniform",
        }
    }
}

/// May a mandate for the resource be used more than once?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MandateUse {
    Multi,
    Single,
}

impl MandateUse {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Single => "single",
        }
    }
}

fn invalid(why: impl Into<String>) -> Problem {
    Problem::invalid("invalid_resource").because(why)
}

/// An absolute URI that is no provider's and names no user.
pub(crate) fn identifier(text: &str) -> Result<ResourceIdentifier, Problem> {
    let refuse = |why: &str| Problem::invalid("invalid_resource_identifier").because(why);
    let identifier =
        ResourceIdentifier::new(text.trim()).map_err(|error| refuse(&format!("the identifier {error}")))?;
    let (scheme, rest) = identifier
        .as_str()
        .split_once(':')
        .ok_or_else(|| refuse("an identifier is an absolute URI, such as resource://orders"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-');
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(allowed) {
        return Err(refuse("the identifier's scheme is none"));
    }
    if scheme.eq_ignore_ascii_case("provider") {
        return Err(refuse("provider: is the scheme of providers"));
    }
    let hierarchical = rest.strip_prefix("//");
    let authority = hierarchical.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if rest.is_empty() || hierarchical == Some("") {
        return Err(refuse("the identifier names nothing"));
    }
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(refuse("an identifier names no user"));
    }
    Ok(identifier)
}

/// A URL that a gateway can forward to.
pub(crate) fn upstream(url: &str) -> Result<(), Problem> {
    if url.len() > MAX_UPSTREAM_URL {
        return Err(invalid(format!("upstream_url: longer than {MAX_UPSTREAM_URL} bytes")));
    }
    UpstreamUrl::parse(url).map(|_| ()).map_err(|error| invalid(format!("upstream_url: {error}")))
}

/// The scopes in their order, each once.
pub(crate) fn scopes(scopes: &[Scope]) -> Result<Vec<String>, Problem> {
    if !(1..=MAX_SCOPES).contains(&scopes.len()) {
        return Err(invalid(format!("scopes: 1 to {MAX_SCOPES} are expected")));
    }
    let mut seen = HashSet::new();
    let fresh = scopes.iter().filter(|scope| seen.insert(scope.as_str()));
    Ok(fresh.map(|scope| scope.as_str().to_owned()).collect())
}

/// Operations as they are stored: method in upper case, every scope one of the resource's.
pub(crate) fn operations(operations: &[OperationInput], scopes: &[String]) -> Result<Value, Problem> {
    if operations.len() > MAX_OPERATIONS {
        return Err(invalid(format!("operations: at most {MAX_OPERATIONS} are expected")));
    }
    let mut seen = HashSet::new();
    let mut stored = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let refuse = |code: &'static str, why: String| {
            Problem::invalid(code).because(format!("operations[{index}]: {why}"))
        };
        let (method, path) = (operation.method.trim().to_ascii_uppercase(), operation.path.trim());
        if method.is_empty() || path.is_empty() {
            return Err(refuse(
                "operation_method_and_path_required",
                "method and path are required".to_owned(),
            ));
        }
        if method.len() > 16 || !method.bytes().all(is_token) {
            return Err(invalid(format!("operations[{index}].method: {method:?} is no HTTP method")));
        }
        if path.len() > 512 {
            return Err(invalid(format!("operations[{index}].path: longer than 512 bytes")));
        }
        if !path.starts_with('/') {
            return Err(refuse("operation_path_must_be_absolute", format!("{path} does not begin with /")));
        }
        if !scopes.contains(&operation.scope) {
            let why = format!("{:?} is not among the resource's scopes", operation.scope);
            return Err(refuse("operation_scope_not_in_resource_scopes", why));
        }
        let matching = operation.matching;
        Operation::check_path(matching, path)
            .map_err(|error| invalid(format!("operations[{index}].path: {path}: {error}")))?;
        if !seen.insert(format!("{method} {path} {}", matching.as_str())) {
            return Err(refuse("operation_duplicate", format!("{method} {path} is there twice")));
        }
        let mut row = json!({ "method": method, "path": path, "scope": operation.scope });
        if let (false, Some(row)) = (matching == PathMatch::Exact, row.as_object_mut()) {
            row.insert("match".to_owned(), matching.as_str().into());
        }
        stored.push(row);
    }
    Ok(Value::Array(stored))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_5_4_identifiers() {
        let cases = [
            ("resource://orders", true),
            ("https://api.example/v1?x=a@b", true),
            ("urn:orders", true),
            ("orders", false),
            ("//orders", false),
            ("1x://orders", false),
            ("provider://x", false),
            ("PROVIDER:x", false),
            ("https://user@api.example", false),
            ("https://user:pw@api.example/", false),
            ("resource://", false),
            ("resource:", false),
            ("resource://a b", false),
            ("", false),
        ];
        for (text, valid) in cases {
            assert_eq!(identifier(text).is_ok(), valid, "{text}");
        }
    }
}
