//! Where a gateway sends a request that was granted, and with which credential (contract sts §22.1).
//!
//! `caracal_mandate::upstream` holds what the filter does with it.

use crate::providers::{Credential, Hidden, Placement, ProviderConfig, Source};
use caracal_store::model::Resource;
use serde::{Serialize, Serializer};

/// One entry of `upstreams`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Directive {
    url: String,
    auth_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_location: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_param_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_scheme: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_token_hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    provider_token: Option<Hidden>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    forward_caracal_identity: bool,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    /// Until when a gateway may use all of this again for the same mandate, unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_until: Option<i64>,
}

/// How long before the end of a derived mandate a gateway asks for another one, in seconds.
const RENEWAL_SECONDS: i64 = 30;

impl Directive {
    /// Lets gateways use this again with a derived mandate that ends then (unix seconds). A provider's credential is
    /// never kept: whoever takes it away expects that to hold at once.
    pub(crate) fn keep_until(&mut self, end: i64) {
        if self.auth_mode == "caracal_jwt" {
            self.cache_until = Some(end.saturating_sub(RENEWAL_SECONDS));
        }
    }
}

fn exposed<S: Serializer>(secret: &Option<Hidden>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.as_ref().map(Hidden::expose).unwrap_or_default())
}

/// The directive of a granted resource: of none where no provider is attached, else of its configuration and of the
/// credential that it gave.
pub(crate) fn directive(
    resource: &Resource,
    provider_id: Option<&str>,
    config: Option<ProviderConfig>,
    credential: Option<Credential>,
) -> Directive {
    let mut directive = Directive {
        url: resource.upstream_url.clone().unwrap_or_default(),
        auth_mode: "caracal_jwt",
        auth_location: None,
        auth_header: Some("Authorization".to_owned()),
        query_param_name: None,
        auth_scheme: Some("Bearer".to_owned()),
        allowed_token_hosts: Vec::new(),
        provider_token: None,
        provider_id: provider_id.map(str::to_owned),
        connection_id: None,
        forward_caracal_identity: false,
        expires_at: None,
        cache_until: None,
    };
    let Some(config) = config else { return directive };
    let key = config.source == Source::Sealed("api_key");
    match config.source {
        Source::Mandate => return directive,
        Source::None => {
            directive.auth_mode = "none";
            (directive.auth_header, directive.auth_scheme) = (None, None);
            return directive;
        }
        _ => directive.auth_mode = if key { "provider_apikey" } else { "provider_oauth" },
    }
    match config.placement {
        Placement::Header { name, scheme } => {
            directive.auth_location = key.then_some("header");
            (directive.auth_header, directive.auth_scheme) = (Some(name), scheme);
        }
        Placement::Query { name } => {
            directive.auth_location = Some("query");
            directive.query_param_name = Some(name);
            (directive.auth_header, directive.auth_scheme) = (None, None);
        }
    }
    directive.allowed_token_hosts = config.allowed_token_hosts;
    directive.forward_caracal_identity = config.forward_caracal_identity;
    if let Some(credential) = credential {
        directive.provider_token = Some(credential.secret);
        directive.connection_id = credential.connection_id;
        directive.expires_at = credential.expires_at.map(|end| end.div_euclid(1000));
    }
    directive
}
