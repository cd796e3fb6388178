//! What the operator says about the HTTP faces of all services: bounds, and who may read metrics.

use crate::error::Error;
use axum::Router;
use caracal_store::Store;
use caracal_store::http::{Server, ServerLimits};
use caracal_store::metrics::{Access, Exposition, Service};
use clap::Args;
use std::net::IpAddr;
use tokio::net::TcpListener;

#[derive(Debug, Clone, Args)]
pub(crate) struct HttpOptions {
    /// How many connections each service keeps open; who comes next waits.
    #[arg(long, env = "CARACAL_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
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
        let connections = usize::try_from(options.max_connections).unwrap_or(usize::MAX);
        let limits = ServerLimits { connections, ..ServerLimits::default() };
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
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> String {
        let served = Server::new(service).with_limits(self.limits).serve(listener, router, stop).await;
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

    #[test]
    fn envoy_ends_idle_connections_before_the_services_do() {
        let margin = std::time::Duration::from_secs(10);
        let envoy = std::time::Duration::from_secs(caracal_envoy::SERVICE_IDLE_SECONDS);
        assert!(envoy + margin <= ServerLimits::default().connection.idle);
    }
}
