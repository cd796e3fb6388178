//! What an issuer says of itself (OpenID Connect Discovery 1.0, RFC 8414; contract admin-audit §5.5).

use super::Providers;
use caracal_store::egress::{EgressError, Hosts, Limits};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long one document may take and be.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(15), max_bytes: 64 * 1024 };
/// The most scopes that are told, and the longest.
const MAX_SCOPES: usize = 64;
const MAX_SCOPE_BYTES: usize = 200;
const OPENID: &str = "/.well-known/openid-configuration";
const OAUTH: &str = "/.well-known/oauth-authorization-server";

/// Why nothing was learnt of an issuer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// It was not reached, or may not be called.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// It is no issuer.
    #[error("an https URL without credentials, query and fragment is expected")]
    Issuer,
    /// The document is not one of this issuer.
    #[error("the document {0}")]
    Document(&'static str),
}

/// What a configuration needs of an issuer's document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Discovered {
    /// As it was asked for.
    pub issuer: String,
    /// Where tokens are fetched.
    pub token_endpoint: String,
    /// Where browsers are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<String>,
    /// Where tokens are given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_endpoint: Option<String>,
    /// Scopes that it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes_supported: Option<Vec<String>>,
    /// How clients may authenticate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Providers {
    /// Reads an issuer's document: that of OpenID Connect, or else that of RFC 8414.
    ///
    /// # Errors
    /// [`DiscoveryError`]; where both documents fail, that of the first.
    pub async fn discover(&self, issuer: &str) -> Result<Discovered, DiscoveryError> {
        let [openid, oauth] = addresses(issuer)?;
        match self.document(issuer, &openid).await {
            Err(first @ DiscoveryError::Document(_)) => {
                self.document(issuer, &oauth).await.map_err(|_| first)
            }
            read => read,
        }
    }

    async fn document(&self, issuer: &str, address: &str) -> Result<Discovered, DiscoveryError> {
        let reply = self.0.egress.get(address, Hosts::Any, LIMITS).await?;
        if reply.status != 200 {
            return Err(DiscoveryError::Document("is not there"));
        }
        let mut found: Discovered = serde_json::from_slice(&reply.body)
            .map_err(|_| DiscoveryError::Document("is no JSON with issuer and token_endpoint"))?;
        if found.issuer != issuer {
            return Err(DiscoveryError::Document("is of another issuer"));
        }
        let endpoints = [
            Some(&found.token_endpoint),
            found.authorization_endpoint.as_ref(),
            found.revocation_endpoint.as_ref(),
        ];
        if endpoints.into_iter().flatten().any(|endpoint| !is_plain(endpoint)) {
            return Err(DiscoveryError::Document("names an endpoint that is no https URL"));
        }
        if let Some(scopes) = &mut found.scopes_supported {
            scopes.retain(|scope| (1..=MAX_SCOPE_BYTES).contains(&scope.len()));
            scopes.truncate(MAX_SCOPES);
        }
        Ok(found)
    }
}

/// Printable, `https`, and without a user.
fn is_plain(url: &str) -> bool {
    let plain = url.len() <= 2048 && url.bytes().all(|byte| byte.is_ascii_graphic());
    plain
        && url
            .strip_prefix("https://")
            .is_some_and(|rest| !rest.starts_with('/') && !rest.contains(['@', '#', '\\']))
}

/// Where the two documents are.
fn addresses(issuer: &str) -> Result<[String; 2], DiscoveryError> {
    let rest = issuer.strip_prefix("https://").filter(|_| is_plain(issuer) && !issuer.contains('?'));
    let rest = rest.filter(|rest| !rest.is_empty()).ok_or(DiscoveryError::Issuer)?;
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let path = path.trim_end_matches('/');
    Ok([format!("https://{host}{path}{OPENID}"), format!("https://{host}{OAUTH}{path}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_5_5_where_the_documents_of_an_issuer_are() {
        for (issuer, openid, oauth) in [
            ("https://idp.test", "https://idp.test{}", "https://idp.test{}"),
            ("https://idp.test/", "https://idp.test{}", "https://idp.test{}"),
            (
                "https://idp.test:8443/realms/a",
                "https://idp.test:8443/realms/a{}",
                "https://idp.test:8443{}/realms/a",
            ),
        ] {
            let expected = [openid.replace("{}", OPENID), oauth.replace("{}", OAUTH)];
            assert_eq!(addresses(issuer).unwrap(), expected, "{issuer}");
        }
        for wrong in [
            "",
            "idp.test",
            "http://idp.test",
            "https://",
            "https:///x",
            "https://u@idp.test",
            "https://a/?q",
            "https://a/#f",
        ] {
            assert!(matches!(addresses(wrong), Err(DiscoveryError::Issuer)), "{wrong}");
        }
    }
}
