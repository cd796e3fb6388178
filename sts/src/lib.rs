//! The security token service: token exchange, policy decisions, zone keys and the gateway feed.
//!
//! [`Sts`] is the service; [`Sts::router`] is its HTTP face. It holds no state of its own that the store does not have:
//! any number of them may run beside each other.

mod api;
mod approvals;
mod bundles;
mod exchange;
mod federation;
mod feed;
mod form;
mod internal_policy;
mod key_rotation;
mod mandates;
mod mint_limit;
pub mod policy;
pub mod providers;
mod reasons;
mod refusal;
mod routes;
mod run;
mod upstream;

pub use api::{document, operations};
pub use approvals::Swept;
pub use key_rotation::AdminToken;

use axum::Router;
use bundles::Bundles;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_store::egress::Egress;
use caracal_store::keys::ZoneKeys;
use caracal_store::secrets::Vault;
use caracal_store::{Store, Together};
use exchange::{Granted, Known, Piece};
use federation::Federation;
use providers::Providers;
use std::sync::Arc;

/// The metrics of an STS, with the decision contract that it runs (contract sts §26.2).
#[must_use]
pub fn describe_policy(metrics: caracal_store::metrics::Exposition) -> caracal_store::metrics::Exposition {
    metrics
        .with_fact("decision_contract_version", policy::contract::DECISION_CONTRACT_VERSION)
        .with_fact("decision_contract_sha256", policy::contract::decision_contract_sha256())
}

/// What an STS needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// All state.
    pub store: Store,
    /// The zones' signing keys.
    pub keys: ZoneKeys,
    /// Recognises client secrets.
    pub vault: Vault,
    /// The issuer URL, used verbatim in every mandate.
    pub issuer: String,
    /// What gateways sign with.
    pub gateway_key: GatewayKey,
    /// How many mandates a minute an application may mint for one resource.
    pub mint_limit_per_minute: i64,
    /// The resource identifier that stands for the control plane; it cannot be minted by ordinary exchange.
    pub control_audience: String,
    /// What operators present to rotate keys; without it there is no such route.
    pub admin_token: Option<AdminToken>,
    /// How identity providers and credential providers are called.
    pub egress: Egress,
    /// The longest that a provider's token is taken to live, in seconds.
    pub max_grant_ttl_seconds: i64,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Sts(Arc<Inner>);

struct Inner {
    config: Config,
    bundles: Bundles,
    known: Known,
    together: Together<Piece, Granted>,
    providers: Providers,
    federation: Federation,
    mint_limit: mint_limit::MintLimit,
}

impl Sts {
    /// A service with this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let Config { store, vault, egress, max_grant_ttl_seconds, .. } = config.clone();
        let federation = Federation::new(egress.clone());
        let providers = Providers::new(store, vault, egress, max_grant_ttl_seconds);
        let mint_limit = mint_limit::MintLimit::new(config.mint_limit_per_minute);
        Self(Arc::new(Inner {
            config,
            bundles: Bundles::default(),
            known: Known::default(),
            together: Together::default(),
            providers,
            federation,
            mint_limit,
        }))
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    fn store(&self) -> &Store {
        &self.0.config.store
    }

    fn keys(&self) -> &ZoneKeys {
        &self.0.config.keys
    }

    fn vault(&self) -> &Vault {
        &self.0.config.vault
    }

    fn issuer(&self) -> &str {
        &self.0.config.issuer
    }

    fn gateway_key(&self) -> &GatewayKey {
        &self.0.config.gateway_key
    }

    fn mint_limit_per_minute(&self) -> i64 {
        self.0.mint_limit.per_minute()
    }

    fn control_audience(&self) -> &str {
        &self.0.config.control_audience
    }

    /// Who vouches for users.
    fn federation(&self) -> &Federation {
        &self.0.federation
    }

    fn admin_token(&self) -> Option<&AdminToken> {
        self.0.config.admin_token.as_ref()
    }

    /// Where the credentials of upstreams come from.
    #[must_use]
    pub fn providers(&self) -> &Providers {
        &self.0.providers
    }

    fn bundles(&self) -> &Bundles {
        &self.0.bundles
    }

    fn known(&self) -> &Known {
        &self.0.known
    }

    fn together(&self) -> &Together<Piece, Granted> {
        &self.0.together
    }
}
