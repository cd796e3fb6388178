//! The command line.

use crate::coordinator::CoordinatorOptions;
use crate::egress::EgressFlags;
use crate::error::Error;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

/// Short-lived, policy-approved, revocable authority for agents, enforced in Envoy.
#[derive(Debug, Parser)]
#[command(name = "caracal", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every service and Envoy in the foreground until Ctrl-C.
    #[command(after_help = "Examples:\n  caracal up --envoy /usr/bin/envoy --filter caracal_filter.wasm\n  \
                            caracal up --tour --exit-after-tour --data /tmp/try")]
    Up(Box<UpOptions>),
    /// Make the configuration what files say it is.
    #[command(
        after_help = "Exit status: 0 applied, or with --dry-run nothing differs; 1 failed (what was applied is told); \
                            2 wrong options;\n3 with --dry-run: something differs.\n\nExamples:\n  \
                            caracal apply -f caracal.yaml --dry-run\n  \
                            caracal apply -f config/ --secrets /run/secrets/caracal\n  \
                            caracal apply -f config/ --prune --json"
    )]
    Apply(Box<crate::apply::ApplyOptions>),
    /// Stop the Caracal that runs on a data folder.
    #[command(after_help = "Example:\n  caracal down --data /tmp/try")]
    Down {
        #[command(flatten)]
        data: DataOption,
    },
    /// Run a command with the credentials of a workload in its environment.
    #[command(
        after_help = "The workload's secret stands in CARACAL_WORKLOAD_SECRET, or in the file that CARACAL_WORKLOAD_SECRET_FILE names.\n\n\
                            Exit status: the command's own; 1 a credential was not given; 126 and 127 the command cannot be run, or is not there.\n\n\
                            Examples:\n  \
                            caracal run --workload 019a… -- ./nightly.sh --all\n  \
                            caracal run --pass-env DATABASE_URL --wait 300 -- python job.py"
    )]
    Run(Box<crate::run::RunOptions>),
    /// Look at everything, and say what to do about what is not as it should be.
    #[command(
        after_help = "Exit status: 0 nothing failed (with --strict: nothing is wanting); 1 something did.\n\nExamples:\n  \
                            caracal doctor\n  caracal doctor --json --strict\n  caracal doctor --preflight --data /tmp/try\n  \
                            caracal doctor --zone shop"
    )]
    Doctor(Box<crate::doctor::DoctorOptions>),
    /// Tell whether each service answers, and how much memory all of it takes.
    #[command(
        after_help = "Exit status: 0 every service is well; 1 one is not, or nothing runs.\n\nExamples:\n  \
                            caracal status\n  caracal status --ready --json"
    )]
    Status {
        #[command(flatten)]
        data: DataOption,
        /// Ask whether each can do its work, and not only whether it answers.
        #[arg(long)]
        ready: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Work with configurations of Envoy.
    Envoy {
        #[command(subcommand)]
        command: crate::envoy_command::EnvoyCommand,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  caracal completions bash > /etc/bash_completion.d/caracal")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Become Envoy, bound to the life of the process that asked for it.
    #[command(hide = true)]
    GuardedEnvoy {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Where state is kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataOption {
    /// The folder for the database, secrets and logs [default: $XDG_DATA_HOME/caracal or ~/.local/share/caracal].
    #[arg(long = "data", env = "CARACAL_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataOption {
    /// The folder that was given, or the default one.
    pub(crate) fn folder(&self) -> Result<PathBuf, Error> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.data
            .clone()
            .or_else(|| set("XDG_DATA_HOME").map(|base| base.join("caracal")))
            .or_else(|| set("HOME").map(|home| home.join(".local/share/caracal")))
            .ok_or(Error::NoDataFolder)
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpOptions {
    #[command(flatten)]
    pub(crate) data: DataOption,
    /// The Envoy binary (1.35 or newer).
    #[arg(long, env = "CARACAL_ENVOY", value_name = "FILE", default_value = "envoy")]
    pub(crate) envoy: PathBuf,
    /// The filter's wasm module.
    #[arg(long, env = "CARACAL_FILTER", value_name = "FILE")]
    pub(crate) filter: PathBuf,
    /// The address that everything listens on.
    #[arg(long, env = "CARACAL_BIND", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// The Admin API's port (0: any).
    #[arg(long, env = "CARACAL_ADMIN_PORT", default_value_t = 3000)]
    pub(crate) admin_port: u16,
    /// The STS's port (0: any).
    #[arg(long, env = "CARACAL_STS_PORT", default_value_t = 8080)]
    pub(crate) sts_port: u16,
    /// The Gateway's port, Envoy's (0: any).
    #[arg(long, env = "CARACAL_GATEWAY_PORT", default_value_t = 8081)]
    pub(crate) gateway_port: u16,
    /// The Coordinator's port (0: any).
    #[arg(long, env = "CARACAL_COORDINATOR_PORT", default_value_t = 4000)]
    pub(crate) coordinator_port: u16,
    /// The audit service's port (0: any).
    #[arg(long, env = "CARACAL_AUDIT_PORT", default_value_t = 9090)]
    pub(crate) audit_port: u16,
    /// The issuer that every mandate names [default: http://localhost:<STS port>].
    #[arg(long, env = "ISSUER_URL", value_name = "URL")]
    pub(crate) issuer: Option<String>,
    /// Envoy's worker threads.
    #[arg(long, env = "CARACAL_ENVOY_WORKERS", value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) envoy_workers: u32,
    /// Let the gateway read the bodies of MCP requests. A body that comes while the STS is asked may have 1 MiB then.
    #[arg(long, env = "CARACAL_MCP")]
    pub(crate) mcp: bool,
    /// Protocols that requests may upgrade to at the gateway, as `websocket`.
    #[arg(long, env = "CARACAL_UPGRADES", value_name = "PROTOCOLS", value_delimiter = ',')]
    pub(crate) upgrades: Vec<String>,
    /// How many mandates a minute an application may mint for one resource.
    #[arg(long, env = "STS_MINT_RATE_LIMIT_PER_MIN", value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) mint_limit: i64,
    /// The longest that a provider's token is taken to live, in seconds.
    #[arg(long, env = "MAX_GRANT_TTL_SECONDS", value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) max_grant_ttl: i64,
    #[command(flatten)]
    pub(crate) gateway: crate::gateway::GatewayFlags,
    #[command(flatten)]
    pub(crate) egress: EgressFlags,
    #[command(flatten)]
    pub(crate) http: crate::http::HttpOptions,
    #[command(flatten)]
    pub(crate) traces: crate::traces::TraceOptions,
    /// Walk through one governed request and its revocation, step by step.
    #[arg(long)]
    pub(crate) tour: bool,
    /// Stop after the tour; the exit status tells whether every step did what it should.
    #[arg(long, requires = "tour")]
    pub(crate) exit_after_tour: bool,
    #[command(flatten)]
    pub(crate) coordinator: CoordinatorOptions,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_has_examples_and_is_completed() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        let mut completions = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut cli, "caracal", &mut completions);
        let completions = String::from_utf8(completions).unwrap();
        let commands: Vec<_> = cli.get_subcommands().filter(|command| !command.is_hide_set()).collect();
        assert!(commands.len() > 7);
        for command in commands {
            let name = command.get_name();
            if command.has_subcommands() || name == "help" {
                continue;
            }
            assert!(completions.contains(&format!(" {name} ")), "{name}");
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("caracal {name}")), "{name}: {examples}");
        }
    }

    #[test]
    fn a_token_is_no_argument() {
        for command in ["apply", "doctor", "run"] {
            let cli = Cli::command();
            let command = cli.find_subcommand(command).unwrap();
            let secret = |id: &str| {
                id.contains("secret") && id != "secrets" && id != "resend_secrets" || id.ends_with("token")
            };
            assert!(command.get_arguments().all(|argument| !secret(argument.get_id().as_str())));
        }
    }
}
