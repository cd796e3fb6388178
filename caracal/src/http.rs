//! What the operator says about the HTTP faces of all services: bounds, and who may read metrics.

use crate::error::Error;
use axum::Router;
use caracal_store::Store;
use caracal_store::http::{Server, ServerLimits};
use caracal_store::metrics::{Access, Exposition, Service};
use caracal_store::trace::Tracer;
use clap::Args;
use std::net::IpAddr;
use tokio::net::TcpListener;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpOptions {
    /// How many connections each service keeps open; who comes next waits.
    #[arg(long, env = "CARACAL_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How many of them one address may have [default: half of them, or with TRUST_PROXY all].
    #[arg(long, env = "CARACAL_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections_per_address: Option<u32>,
    /// Requests a minute of one address at the Admin API, and of one of its tokens (0: no limit).
    #[arg(long, env = "API_V1_RATE_LIMIT_PER_MIN", value_name = "N", default_value_t = 600)]
    api_rate_limit: u32,
    /// Failed authentications a minute of one address at the Admin API (0: no limit).
    #[arg(long, env = "ADMIN_AUTH_FAIL_LIMIT_PER_MIN", value_name = "N", default_value_t = 60)]
    admin_auth_fail_limit: u32,
    /// Requests a minute of one address at the Coordinator (0: no limit).
    #[arg(long, env = "COORDINATOR_RATE_LIMIT_PER_MIN", value_name = "N", default_value_t = 600)]
    coordinator_rate_limit: u32,
    /// Requests a minute of one address for `/v1/verify` of the Coordinator (0: no limit).
    #[arg(long, env = "VERIFY_RATE_LIMIT_PER_MIN", value_name = "N", default_value_t = 60)]
    verify_rate_limit: u32,
    /// Requests a minute of one address for `/ready` (0: no limit).
    #[arg(long, env = "READY_RATE_LIMIT_PER_MIN", value_name = "N", default_value_t = 120)]
    ready_rate_limit: u32,
    /// Take the last address of `X-Forwarded-For` as the caller's: a proxy that writes it stands before every service.
    #[arg(long, env = "TRUST_PROXY")]
    trust_proxy: bool,
    /// The most days for which events are kept; the Admin API can lower it.
    #[arg(long, env = "AUDIT_RETENTION_DAYS", value_name = "DAYS", default_value_t = 365,
          value_parser = clap::value_parser!(i64).range(1..=36_500))]
    audit_retention_days: i64,
}

impl HttpOptions {
    /// The bounds of the Admin API.
    pub(crate) fn admin_limits(&self, mint_limit_per_minute: i64) -> caracal_admin::Limits {
        caracal_admin::Limits {
            requests_per_minute: self.api_rate_limit,
            failures_per_minute: self.admin_auth_fail_limit,
            ready_per_minute: self.ready_rate_limit,
            trust_proxy: self.trust_proxy,
            retention_days: self.audit_retention_days,
            mint_limit_per_minute,
        }
    }

    /// The bounds of every server. Behind a proxy everybody has the same address.
    fn server_limits(&self) -> ServerLimits {
        let usual = if self.trust_proxy { self.max_connections } else { self.max_connections.div_ceil(2) };
        let of_one = self.max_connections_per_address.unwrap_or(usual);
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        ServerLimits {
            connections: count(self.max_connections),
            connections_per_address: count(of_one),
            ..ServerLimits::default()
        }
    }

    /// The most days for which events are kept.
    pub(crate) fn retention_days(&self) -> i64 {
        self.audit_retention_days
    }

    /// The limits per address of the Coordinator.
    pub(crate) fn coordinator_rates(&self) -> caracal_coordinator::Rates {
        caracal_coordinator::Rates {
            all: self.coordinator_rate_limit,
            ready: self.ready_rate_limit,
            verify: self.verify_rate_limit,
            trust_proxy: self.trust_proxy,
        }
    }
}

/// The HTTP faces of all services.
#[derive(Debug, Clone)]
pub(crate) struct Faces {
    limits: ServerLimits,
    metrics: Access,
}

impl Faces {
    /// The faces on `bind`. Reads `METRICS_BEARER`, and lets the process open as many files as it may.
    pub(crate) fn new(options: &HttpOptions, bind: IpAddr) -> Result<Self, Error> {
        let limits = options.server_limits();
        let metrics = Access::of(caracal_store::config::optional("METRICS_BEARER")?, bind);
        raise_open_files();
        Ok(Self { limits, metrics })
    }

    /// The metrics of a service, to be added to its routes.
    pub(crate) fn metrics(&self, service: Service, store: &Store) -> Exposition {
        Exposition::new(service, store.clone(), self.metrics.clone())
    }

    /// Serves until `stop` resolves. The answer tells why it ended, if there was a reason.
    pub(crate) async fn serve(
        self,
        service: Service,
        listener: TcpListener,
        router: Router,
        tracer: Option<Tracer>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> String {
        let server = Server::new(service).with_limits(self.limits).with_tracer(tracer);
        let served = server.serve(listener, router, stop).await;
        served.map_or_else(|error| error.to_string(), |()| String::new())
    }
}

/// Every connection is an open file, and the soft limit of a shell is often far below what the machine allows.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: HttpOptions,
    }

    #[test]
    fn one_address_has_half_of_the_connections_unless_a_proxy_has_them_all() {
        let of = |arguments: &[&str]| {
            let line = Line::parse_from(["caracal"].iter().chain(arguments));
            let limits = line.options.server_limits();
            (limits.connections, limits.connections_per_address)
        };
        assert_eq!(of(&[]), (4096, 2048));
        assert_eq!(of(&["--max-connections", "1"]), (1, 1));
        assert_eq!(of(&["--max-connections", "100", "--trust-proxy"]), (100, 100));
        assert_eq!(of(&["--max-connections-per-address", "7", "--trust-proxy"]), (4096, 7));
    }

    #[test]
    fn envoy_ends_idle_connections_before_the_services_do() {
        let margin = std::time::Duration::from_secs(10);
        let envoy = std::time::Duration::from_secs(caracal_envoy::SERVICE_IDLE_SECONDS);
        assert!(envoy + margin <= ServerLimits::default().connection.idle);
    }
}
