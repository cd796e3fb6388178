//! What a contributor runs: `cargo xtask <command>`.
//!
//! It prepares what is missing (the standard library for WebAssembly, Envoy, a Python environment, two small tools),
//! builds the parts in the right order, and runs the checks. What it fetches lies in a cache folder outside the tree
//! (see [`cache`]), so that a second run, or a second clone, starts at once.

mod bench;
mod cache;
mod check;
mod cli;
mod drill;
mod envoy;
mod error;
mod filter;
mod lint;
mod openapi;
mod prerequisites;
mod process;
mod progress;
mod python;
mod setup;
mod test;
mod tools;
mod up;
mod version;
mod wasm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Arguments, Task};
use crate::error::Error;
use crate::workspace::Workspace;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::report_failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Error> {
    let workspace = Workspace::locate()?;
    match arguments.task {
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Drill(options) => drill::run(&workspace, &options),
        Task::Up(options) => up::run(&workspace, &options),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Ci => check::run(&workspace),
        Task::Setup => setup::run(&workspace),
        Task::OpenApi(options) => openapi::run(&workspace, &options),
        Task::Filter(options) => filter::run(&workspace, &options),
    }
}
