//! The Coordinator's bounds, as an operator sets them (contract coordinator §15).

use crate::error::Error;
use caracal_coordinator::Limits;
use clap::{Args, value_parser};
use std::time::Duration;

/// The Coordinator's bounds.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The Coordinator")]
pub(crate) struct CoordinatorOptions {
    /// Live agent sessions in one zone; no fewer than in one application.
    #[arg(long, env = "MAX_AGENTS_PER_ZONE", value_name = "N", default_value_t = 10_000,
          value_parser = value_parser!(i64).range(1..))]
    max_agents_per_zone: i64,
    /// Live agent sessions of one application.
    #[arg(long, env = "MAX_AGENTS_PER_APP", value_name = "N", default_value_t = 200,
          value_parser = value_parser!(i64).range(1..))]
    max_agents_per_app: i64,
    /// How long a service lives without a heartbeat, in seconds.
    #[arg(long, env = "SERVICE_AGENT_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 120,
          value_parser = value_parser!(u64).range(1..=86_400))]
    service_agent_lease_seconds: u64,
    /// The largest body, in bytes.
    #[arg(long, env = "COORDINATOR_BODY_LIMIT_BYTES", value_name = "BYTES", default_value_t = 262_144,
          value_parser = value_parser!(u32).range(1024..))]
    coordinator_body_limit: u32,
    /// How often tasks past their time are looked for, in milliseconds.
    #[arg(long, env = "TTL_SWEEP_INTERVAL_MS", value_name = "MS", default_value_t = 10_000,
          value_parser = value_parser!(u64).range(1..))]
    ttl_sweep_interval: u64,
    /// How often services that were not heard are looked for, in milliseconds.
    #[arg(long, env = "SERVICE_LEASE_SWEEP_INTERVAL_MS", value_name = "MS", default_value_t = 10_000,
          value_parser = value_parser!(u64).range(1..))]
    lease_sweep_interval: u64,
    /// How often calls past their deadline are looked for, in milliseconds.
    #[arg(long, env = "DEADLINE_SWEEP_INTERVAL_MS", value_name = "MS", default_value_t = 5_000,
          value_parser = value_parser!(u64).range(1..))]
    deadline_sweep_interval: u64,
    /// How often old sessions and delegations are removed, in milliseconds.
    #[arg(long, env = "RETENTION_CLEANUP_INTERVAL_MS", value_name = "MS", default_value_t = 900_000,
          value_parser = value_parser!(u64).range(1..))]
    retention_interval: u64,
    /// How many rows one transaction of a job takes.
    #[arg(long, env = "SWEEPER_BATCH_SIZE", value_name = "N", default_value_t = 100,
          value_parser = value_parser!(i64).range(1..=10_000))]
    sweep_batch: i64,
    /// How long sessions are kept after their end, in days.
    #[arg(long, env = "SESSION_RETENTION_DAYS", value_name = "DAYS", default_value_t = 90,
          value_parser = value_parser!(u64).range(1..=36_500))]
    session_retention: u64,
    /// How long delegations are kept after their end, in days.
    #[arg(long, env = "DELEGATION_RETENTION_DAYS", value_name = "DAYS", default_value_t = 90,
          value_parser = value_parser!(u64).range(1..=36_500))]
    delegation_retention: u64,
    /// How long an idempotency receipt is kept, in seconds.
    #[arg(long, env = "IDEMPOTENCY_RETENTION_SECONDS", value_name = "SECONDS", default_value_t = 604_800,
          value_parser = value_parser!(u64).range(3600..=31_536_000))]
    receipt_retention: u64,
    /// How long the receipt of a generated key is kept, in seconds.
    #[arg(long, env = "IDEMPOTENCY_GENERATED_RETENTION_SECONDS", value_name = "SECONDS", default_value_t = 86_400,
          value_parser = value_parser!(u64).range(3600..=31_536_000))]
    generated_receipt_retention: u64,
    /// Calls of one application a minute (0: no limit).
    #[arg(long, env = "INVOCATION_RATE_LIMIT_PER_MIN", value_name = "N", default_value_t = 120)]
    invocation_rate_limit: u32,
    /// Live idempotency receipts of one operation of one application.
    #[arg(long, env = "IDEMPOTENCY_MAX_RECEIPTS_PER_SCOPE", value_name = "N", default_value_t = 10_000,
          value_parser = value_parser!(i64).range(100..))]
    max_receipts: i64,
}

impl CoordinatorOptions {
    /// The bounds. A zone's limit below an application's would be the only one that ever counts, so there is none.
    pub(crate) fn limits(&self) -> Result<Limits, Error> {
        if self.max_agents_per_zone < self.max_agents_per_app {
            let why = format!(
                "{} is less than --max-agents-per-app, which is {}",
                self.max_agents_per_zone, self.max_agents_per_app
            );
            return Err(Error::Setting { name: "--max-agents-per-zone", why });
        }
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Ok(Limits {
            sessions_per_zone: self.max_agents_per_zone,
            sessions_per_application: self.max_agents_per_app,
            lease: Duration::from_secs(self.service_agent_lease_seconds),
            body_bytes: usize::try_from(self.coordinator_body_limit).unwrap_or(usize::MAX),
            ttl_sweep: Duration::from_millis(self.ttl_sweep_interval),
            lease_sweep: Duration::from_millis(self.lease_sweep_interval),
            deadline_sweep: Duration::from_millis(self.deadline_sweep_interval),
            retention_sweep: Duration::from_millis(self.retention_interval),
            sweep_batch: self.sweep_batch,
            session_retention: days(self.session_retention),
            delegation_retention: days(self.delegation_retention),
            receipt_retention: Duration::from_secs(self.receipt_retention),
            generated_receipt_retention: Duration::from_secs(self.generated_receipt_retention),
            receipts: self.max_receipts,
            invocations_per_minute: i64::from(self.invocation_rate_limit),
            ..Limits::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: CoordinatorOptions,
    }

    #[test]
    fn every_option_stands_in_its_description_with_its_default() {
        let page = include_str!("../../docs/coordinator.md");
        let line = <Line as clap::CommandFactory>::command();
        let options: Vec<_> = line.get_arguments().filter(|option| option.get_env().is_some()).collect();
        assert!(options.len() > 10, "the options are found");
        for option in options {
            let (long, variable) = (option.get_long().unwrap(), option.get_env().unwrap().to_str().unwrap());
            let default = option.get_default_values()[0].to_str().unwrap();
            let row = format!("| `--{long}` | `{variable}` | {default}");
            assert!(page.contains(&row), "{row} is not in docs/coordinator.md");
        }
    }

    #[test]
    fn the_defaults_are_the_coordinators_own() {
        assert_eq!(Line::parse_from(["caracal"]).options.limits().unwrap(), Limits::default());
    }

    #[test]
    fn faq_006_a_zone_never_has_room_for_less_than_one_application() {
        let limits = |line: &[&str]| Line::parse_from(line).options.limits();
        let both =
            limits(&["caracal", "--max-agents-per-app", "500", "--max-agents-per-zone", "500"]).unwrap();
        assert_eq!((both.sessions_per_application, both.sessions_per_zone), (500, 500));
        let error = limits(&["caracal", "--max-agents-per-zone", "199"]).unwrap_err().to_string();
        assert!(
            error.contains("--max-agents-per-zone") && error.contains("199") && error.contains("200"),
            "{error}"
        );
    }
}
