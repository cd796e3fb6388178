//! The Admin API: everything that operators configure, and what they read (contract admin-audit §1 to §6, §13).
//!
//! One gate (`gate`) stands before every `/v1` route: it says who asks and whether they may. Every change commits
//! together with its own record (`record`) and, where a gateway has to know of it, with a row of the change log.
#![forbid(unsafe_code)]

mod activation;
mod admin_tokens;
mod api;
mod app;
mod application_secrets;
mod applications;
mod approvals;
mod attribution;
mod body;
mod connections;
mod connections_oauth;
mod csv;
mod custody;
mod cut;
mod events;
mod explain;
mod gate;
mod grants;
mod integrity;
mod mcp_input;
mod names;
mod notifier;
mod object;
mod overview;
mod page;
mod policies;
mod policy_sets;
mod policy_templates;
mod preview;
mod problem;
mod projection;
mod provider_check;
mod provider_config;
mod provider_discovery;
mod providers;
mod rates;
mod record;
mod registrations;
mod resource_input;
mod resources;
mod revocations;
mod row;
mod runtime;
mod seed;
mod settings;
mod sinks;
mod subject_issuers;
mod subjects;
mod traits;
mod workloads;
mod zones;

pub use api::{Right, document, operations};
pub use caracal_audit::verify::verify_changes as verify_admin_chain;
pub use notifier::Notifier;
pub use preview::{Object, Refused, preview};
pub use rates::Limits;
pub use registrations::archive_expired_registrations;
pub use seed::{BOOTSTRAP_TOKEN_MIN_CHARACTERS, SeedError, seed};
pub use workloads::is_credential_variable;

use axum::Router;
use axum::middleware;
use caracal_store::Store;
use caracal_store::keys::ZoneKeys;
use caracal_store::secrets::Vault;
use caracal_sts::providers::Providers;

/// What the Admin API needs.
#[derive(Clone)]
pub struct Config {
    /// Where everything is.
    pub store: Store,
    /// Seals and hashes secrets.
    pub vault: Vault,
    /// The signing keys of the zones.
    pub keys: ZoneKeys,
    /// The bootstrap credential (`CARACAL_ADMIN_TOKEN`), at least [`BOOTSTRAP_TOKEN_MIN_CHARACTERS`] long.
    pub admin_token: String,
    /// Keys the chains of the ledger and of the change record (`AUDIT_HMAC_KEY`).
    pub hmac_key: Vec<u8>,
    /// The providers of credentials, to which persons are connected.
    pub providers: Providers,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// The HTTP face with the default [`Limits`]. [`seed`] has to have run once before, or no token is known.
pub fn router(config: Config) -> Router {
    router_with(config, Limits::default())
}

/// The HTTP face with these limits.
pub fn router_with(config: Config, limits: Limits) -> Router {
    let app = app::App::new(config, limits);
    let (router, _) = api::routes().into_parts();
    router
        .fallback(app::not_found)
        .method_not_allowed_fallback(app::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), gate::gate))
        .layer(middleware::from_fn(caracal_store::http::identify_requests))
        .with_state(app)
}
