//! `caracal`: every service of Caracal in one process, with Envoy beside it.
#![forbid(unsafe_code)]

mod admin_client;
mod apply;
mod cli;
mod coordinator;
mod data;
mod doctor;
mod egress;
mod envoy;
mod envoy_bootstrap;
mod envoy_command;
mod envoy_lint;
mod error;
mod gateway;
mod http;
mod output;
mod probe;
mod run;
mod runtime;
mod services;
mod status;
mod tour;
mod traces;
mod up;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use error::Error;
use std::process::ExitCode;

/// Rows come from one thread and go on another, all day long: the system's allocator takes a tenth of a busy server's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{} {error}", output::failure("error:"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    match cli.command {
        Command::Apply(options) => block_on(apply::apply(&options))?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "caracal", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Down { data } => status::down(&data.folder()?),
        Command::Envoy { command } => envoy_command::run(&command),
        Command::GuardedEnvoy { command } => Err(envoy::become_guarded(&command)),
        Command::Doctor(options) => block_on(doctor::doctor(&options))?,
        Command::Run(options) => Ok(run::become_command(block_on(run::prepare(*options))??)),
        Command::Status { data, ready, json } => block_on(status::status(&data.folder()?, ready, json))?,
        Command::Up(options) => {
            caracal_store::telemetry::start()?;
            block_on(up::up(*options))?
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok(runtime.map_err(Error::Runtime)?.block_on(work))
}
