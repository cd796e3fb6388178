//! Measures the real, released binary, and holds what it finds against the goals.
//!
//! Every kind of request that is measured is first shown to grant what it must and to refuse what it must. Run it with
//! `cargo xtask bench <name>`, which builds what it needs.
#![forbid(unsafe_code)]

mod admin;
mod envoy;
mod envoy_config;
mod error;
mod figures;
mod gateway;
mod gateway_authz;
mod gateway_load;
mod gateway_revocation;
mod gateway_scale;
mod least_module;
mod load;
mod machine;
mod mint;
mod policy;
mod revocation;
mod sessions;
mod stack;
mod steady;
mod upstream;
mod world;

use clap::{Args, Parser, Subcommand, ValueEnum};
use error::Error;
use figures::Figures;
use stack::Binaries;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures the real binary.
#[derive(Debug, Parser)]
#[command(name = "caracal-bench", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// The token exchange: mints, gateway exchanges, policy, memory.
    #[command(
        after_help = "Examples:\n  cargo xtask bench mint\n  cargo xtask bench mint --seconds 20 --json"
    )]
    Mint(Options),
    /// Sessions: started and ended, delegated ten deep among a hundred thousand, revoked with ten thousand below, and
    /// how soon the Gateway refuses.
    #[command(
        after_help = "Examples:\n  cargo xtask bench sessions\n  cargo xtask bench sessions --seconds 20 --json\n  \
                      cargo xtask bench sessions --part pairs"
    )]
    Sessions(Parted<sessions::Part>),
    /// The Admin API in a zone of a hundred thousand resources: pages from the first to the last, filters, single
    /// resources, and making them.
    #[command(
        after_help = "Examples:\n  cargo xtask bench admin\n  cargo xtask bench admin --seconds 20 --json"
    )]
    Admin(Options),
    /// The filter in Envoy beside Envoy's own filters: local decisions, never-seen mandates, governed requests, how soon
    /// every worker refuses what was revoked, and what a hundred thousand revocations cost.
    #[command(
        after_help = "Examples:\n  cargo xtask bench gateway\n  cargo xtask bench gateway --seconds 20 --json\n  \
                      cargo xtask bench gateway --part governed"
    )]
    Gateway(Parted<gateway::Part>),
}

/// What every benchmark takes.
#[derive(Debug, Clone, Args)]
struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// How long each rate is measured, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Requests in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Print JSON instead of lines.
    #[arg(long)]
    json: bool,
    /// The JSON file [default: target/bench/<name>.json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Options {
    fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What a benchmark of several parts takes.
#[derive(Debug, Clone, Args)]
struct Parted<P: ValueEnum + Send + Sync + 'static> {
    #[command(flatten)]
    options: Options,
    /// Measure only this; may be given several times [default: everything].
    #[arg(long = "part", value_enum, value_name = "PART")]
    parts: Vec<P>,
}

impl<P: ValueEnum + PartialEq + Send + Sync + 'static> Parted<P> {
    fn wants(&self, part: &P) -> bool {
        self.parts.is_empty() || self.parts.contains(part)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().benchmark).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(benchmark: Benchmark) -> Result<(), Error> {
    match benchmark {
        Benchmark::Admin(options) => publish("admin", &options, admin::measure(&options).await?),
        Benchmark::Mint(options) => publish("mint", &options, mint::measure(&options).await?),
        Benchmark::Gateway(parted) => publish("gateway", &parted.options, gateway::measure(&parted).await?),
        Benchmark::Sessions(parted) => {
            publish("sessions", &parted.options, sessions::measure(&parted).await?)
        }
    }
}

fn publish(name: &str, options: &Options, figures: Figures) -> Result<(), Error> {
    let path = options.out.clone().unwrap_or_else(|| PathBuf::from(format!("target/bench/{name}.json")));
    figures.publish(&path, options.json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
