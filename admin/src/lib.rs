//! The Admin API: everything that operators configure, and what they read (contract admin-audit §1 to §6, §13).
//!
//! One gate (`gate`) stands before every `/v1` route: it says who asks and whether they may. Every change commits
//! together with its own record (`record`) and, where a gateway has to know of it, with a row of the change log.
#![forbid(unsafe_code)]

mod activation;
mod admin_tokens;
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
mod names;
mod overview;
mod page;
mod policies;
mod policy_sets;
mod policy_templates;
mod problem;
mod projection;
mod provider_check;
mod provider_config;
mod providers;
mod rates;
mod record;
mod resource_input;
mod resources;
mod revocations;
mod row;
mod runtime;
mod seed;
mod settings;
mod subject_issuers;
mod subjects;
mod traits;
mod workloads;
mod zones;

pub use rates::Limits;
pub use record::verify as verify_admin_chain;
pub use seed::{BOOTSTRAP_TOKEN_MIN_CHARACTERS, SeedError, seed};

use axum::Router;
use axum::middleware;
use axum::routing::{delete, get, post};
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
    Router::new()
        .route("/health", get(app::health))
        .route("/ready", get(app::ready))
        .merge(approvals::routes())
        .merge(configuration())
        .merge(policy())
        .merge(reads())
        .merge(administration())
        .fallback(app::not_found)
        .method_not_allowed_fallback(app::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), gate::gate))
        .layer(middleware::from_fn(caracal_store::http::identify_requests))
        .with_state(app)
}

fn configuration() -> Router<app::App> {
    Router::new()
        .route("/v1/zones", get(zones::list).post(zones::create))
        .route("/v1/zones/{zone}", get(zones::get).patch(zones::patch).delete(zones::archive))
        .route("/v1/zones/{zone}/dcr-status", get(zones::dcr_status))
        .route("/v1/zones/{zone}/overview", get(overview::overview))
        .route("/v1/zones/{zone}/applications", get(applications::list).post(applications::create))
        .route("/v1/zones/{zone}/applications/dcr", post(application_secrets::register))
        .route(
            "/v1/zones/{zone}/applications/{id}",
            get(applications::get).patch(applications::patch).delete(applications::archive),
        )
        .route("/v1/zones/{zone}/applications/{id}/rotate-secret", post(application_secrets::rotate))
        .route("/v1/zones/{zone}/applications/{id}/client-secret", get(application_secrets::reveal))
        .route("/v1/zones/{zone}/providers", get(providers::list).post(providers::create))
        .route(
            "/v1/zones/{zone}/providers/{id}",
            get(providers::get).patch(providers::patch).delete(providers::archive),
        )
        .route("/v1/zones/{zone}/providers/{id}/test", post(provider_check::test))
        .merge(connections())
        .route("/v1/zones/{zone}/resources", get(resources::list).post(resources::create))
        .route(
            "/v1/zones/{zone}/resources/{id}",
            get(resources::get).patch(resources::patch).delete(resources::archive),
        )
        .route("/v1/admin-tokens", get(admin_tokens::list).post(admin_tokens::create))
        .route("/v1/admin-tokens/{id}", delete(admin_tokens::revoke))
}

fn connections() -> Router<app::App> {
    Router::new()
        .route("/v1/zones/{zone}/provider-connections", get(connections::list).post(connections::create))
        .route("/v1/zones/{zone}/provider-connections/{id}", get(connections::get))
        .route("/v1/zones/{zone}/provider-connections/revoke", post(connections::revoke))
        .route("/v1/zones/{zone}/provider-connections/oauth/authorize", post(connections_oauth::authorize))
        .route("/v1/zones/{zone}/provider-connections/oauth/callback", get(connections_oauth::callback))
}

fn administration() -> Router<app::App> {
    Router::new()
        .route("/v1/audit-retention", get(settings::retention).put(settings::set_retention))
        .route("/v1/mint-rate-limit", get(settings::mint_limit).put(settings::set_mint_limit))
        .route("/v1/zones/{zone}/workloads", get(workloads::list).post(workloads::create))
        .route(
            "/v1/zones/{zone}/workloads/{id}",
            get(workloads::get).put(workloads::update).delete(workloads::remove),
        )
        .route("/v1/zones/{zone}/workloads/{id}/rotate-secret", post(workloads::rotate))
        .route("/v1/zones/{zone}/workloads/{id}/secret", get(workloads::reveal))
        .route("/v1/zones/{zone}/grants", get(grants::list).post(grants::create))
        .route("/v1/zones/{zone}/grants/{id}", get(grants::get).delete(grants::revoke))
        .route("/v1/zones/{zone}/subject-issuers", get(subject_issuers::list).post(subject_issuers::create))
        .route(
            "/v1/zones/{zone}/subject-issuers/{id}",
            get(subject_issuers::get).patch(subject_issuers::patch).delete(subject_issuers::archive),
        )
}

fn policy() -> Router<app::App> {
    Router::new()
        .route("/v1/policies/validate", post(policies::validate))
        .route("/v1/policy-templates", get(policy_templates::list))
        .route("/v1/zones/{zone}/policies", get(policies::list).post(policies::create))
        .route("/v1/zones/{zone}/policies/{id}", get(policies::get).delete(policies::archive))
        .route("/v1/zones/{zone}/policies/{id}/versions", post(policies::add_version))
        .route("/v1/zones/{zone}/policy-sets", get(policy_sets::list).post(policy_sets::create))
        .route("/v1/zones/{zone}/policy-sets/{id}", get(policy_sets::get).delete(policy_sets::archive))
        .route(
            "/v1/zones/{zone}/policy-sets/{id}/versions",
            get(policy_sets::list_versions).post(policy_sets::add_version),
        )
        .route("/v1/zones/{zone}/policy-sets/{id}/versions/{version}", get(policy_sets::get_version))
        .route("/v1/zones/{zone}/policy-sets/{id}/activate", post(activation::activate))
        .route("/v1/zones/{zone}/policy-sets/{id}/activation-status", get(activation::status))
        .route("/v1/zones/{zone}/policy-sets/{id}/simulate", post(activation::simulate))
}

fn reads() -> Router<app::App> {
    Router::new()
        .route("/v1/zones/{zone}/audit", get(events::list))
        .route("/v1/zones/{zone}/audit/by-request/{request}", get(events::by_request))
        .route("/v1/zones/{zone}/audit/by-request/{request}/explain", get(explain::explain))
        .route("/v1/zones/{zone}/admin-audit", get(record::list))
        .route("/v1/admin-audit", get(record::list_global))
        .route("/v1/zones/{zone}/sessions", get(runtime::sessions))
        // The old name (contract coordinator §21, §26).
        .route("/v1/zones/{zone}/agent-sessions", get(runtime::sessions))
        .route("/v1/zones/{zone}/authority-records", get(runtime::authority_records))
        .route("/v1/zones/{zone}/revocations", get(revocations::list).post(revocations::create))
        .route("/v1/zones/{zone}/revocations/{id}", get(revocations::get))
        .route("/v1/zones/{zone}/subjects", get(subjects::list))
        .route("/v1/zones/{zone}/subjects/overview", get(subjects::overview))
        .route("/v1/zones/{zone}/subjects/revoke", post(subjects::revoke))
}
