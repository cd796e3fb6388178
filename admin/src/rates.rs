//! How often the Admin API may be asked (contract admin-audit §2.5), and the ceilings of what operators set (§1.3).

use crate::problem::Problem;
use axum::extract::Request;
use axum::http::StatusCode;
use caracal_store::http::{Peer, RateLimit, TooMany, peer_of};
use caracal_store::metrics::Service;
use caracal_store::{Store, StoreError};

/// A minute, in the unit of all times.
const WINDOW: i64 = 60_000;

/// The bounds of the Admin API. `Default` has the contract's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute of one address, and of one token. 0 is no limit.
    pub requests_per_minute: u32,
    /// Failed authentications a minute of one address, in all processes together. 0 is no limit.
    pub failures_per_minute: u32,
    /// Requests of `/ready` a minute of one address. 0 is no limit.
    pub ready_per_minute: u32,
    /// Is the last address of `X-Forwarded-For` the caller's?
    pub trust_proxy: bool,
    /// The most days for which events can be set to be kept.
    pub retention_days: i64,
    /// The most mandates a minute that an application can be set to mint for one resource.
    pub mint_limit_per_minute: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_minute: 600,
            failures_per_minute: 60,
            ready_per_minute: 120,
            trust_proxy: false,
            retention_days: 365,
            mint_limit_per_minute: 1000,
        }
    }
}

/// What counts requests.
#[derive(Debug)]
pub(crate) struct Rates {
    limits: Limits,
    addresses: RateLimit<Peer>,
    tokens: RateLimit<String>,
    ready: RateLimit<Peer>,
    failures: RateLimit<Peer>,
}

impl Rates {
    pub(crate) fn new(limits: Limits) -> Self {
        fn limit<K: std::hash::Hash + Eq>(name: &'static str, per_minute: u32) -> RateLimit<K> {
            RateLimit::new(Service::Admin, name, per_minute)
        }
        Self {
            limits,
            addresses: limit("address", limits.requests_per_minute),
            tokens: limit("token", limits.requests_per_minute),
            ready: limit("ready", limits.ready_per_minute),
            failures: limit("authentication", limits.failures_per_minute),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn peer(&self, request: &Request) -> Peer {
        peer_of(request, self.limits.trust_proxy)
    }

    /// Counts a request of an address.
    pub(crate) fn address(&self, peer: Peer, now: i64) -> Result<(), Problem> {
        self.addresses.take(peer, now).map_err(Problem::too_many)
    }

    /// Counts a request of a token.
    pub(crate) fn token(&self, id: &str, now: i64) -> Result<(), Problem> {
        self.tokens.take(id.to_owned(), now).map_err(Problem::too_many)
    }

    /// Counts a request of `/ready`.
    pub(crate) fn ready(&self, peer: Peer, now: i64) -> Result<(), Problem> {
        self.ready.take(peer, now).map_err(Problem::too_many)
    }

    /// Counts a failed authentication. Above the limit the answer is 429 instead of what it was. All processes count
    /// together, and a restart forgets nothing; above its own count a process need not ask the store any more.
    pub(crate) async fn failure(&self, store: &Store, peer: Peer, refused: Problem) -> Problem {
        if refused.status() != StatusCode::UNAUTHORIZED || self.limits.failures_per_minute == 0 {
            return refused;
        }
        if let Err(too_many) = self.failures.take(peer, store.now()) {
            return Problem::too_many(too_many);
        }
        let key = format!("admin-auth-fail:{peer}");
        let counted = store
            .write(move |tx| {
                Box::pin(async move {
                    let count = tx.count(&key, WINDOW).await?;
                    Ok::<_, StoreError>((count, tx.now()))
                })
            })
            .await;
        match counted {
            Ok((count, now)) if count > i64::from(self.limits.failures_per_minute) => {
                caracal_store::metrics::rate_limited(Service::Admin, "authentication");
                Problem::too_many(TooMany::at(now))
            }
            Ok(_) => refused,
            Err(error) => error.into(),
        }
    }
}
