//! The bounds of sessions that an operator sets (contract coordinator §15).

use caracal_coordinator::Limits;
use clap::Args;
use std::time::Duration;

/// How many sessions may live, and how long a service lives unheard. What is not given has the Coordinator's default.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SessionLimits {
    /// How many sessions may live in one zone [default: 10000].
    #[arg(long, env = "MAX_AGENTS_PER_ZONE", value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) max_agents_per_zone: Option<i64>,
    /// How many sessions of one application may live [default: 200].
    #[arg(long, env = "MAX_AGENTS_PER_APP", value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) max_agents_per_app: Option<i64>,
    /// How long a service session lives without a heartbeat, seconds [default: 120].
    #[arg(long, env = "SERVICE_AGENT_LEASE_SECONDS", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) service_agent_lease_seconds: Option<u64>,
}

impl SessionLimits {
    /// The Coordinator's bounds.
    pub(crate) fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            sessions_per_zone: self.max_agents_per_zone.unwrap_or(default.sessions_per_zone),
            sessions_per_application: self.max_agents_per_app.unwrap_or(default.sessions_per_application),
            lease: self.service_agent_lease_seconds.map_or(default.lease, Duration::from_secs),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_coordinator_15_what_is_not_given_has_its_default() {
        assert_eq!(SessionLimits::default().limits(), Limits::default());
        let given = SessionLimits {
            max_agents_per_zone: Some(7),
            max_agents_per_app: Some(3),
            service_agent_lease_seconds: Some(2),
        };
        let limits = given.limits();
        assert_eq!((limits.sessions_per_zone, limits.sessions_per_application), (7, 3));
        assert_eq!(limits.lease, Duration::from_secs(2));
    }
}
