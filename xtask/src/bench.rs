//! `cargo xtask bench`: builds what is released and hands over to `caracal-bench`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cache::Cache;
use crate::cli::BenchOptions;
use crate::envoy;
use crate::error::Error;
use crate::filter::{Module, build_shipped};
use crate::prerequisites::require_native_compiler;
use crate::process::{CommandError, cargo};
use crate::progress::{Done, Progress, Step};
use crate::wasm::{Target, Toolchain};
use crate::workspace::Workspace;

/// `cargo xtask bench`. Returns only if something failed: else this process becomes the benchmark. What it says of its
/// progress goes to a log, so that `--json` prints nothing but JSON.
pub(crate) fn run(workspace: &Workspace, options: &BenchOptions) -> Result<(), Error> {
    require_native_compiler()?;
    let as_json = options.passed_on.iter().any(|option| option == "--json");
    let asks_for_help = options.passed_on.iter().any(|option| option == "--help" || option == "-h");
    let progress = Progress::quiet_if(
        as_json || asks_for_help,
        workspace,
        vec![
            Step::BuildBench,
            Step::PrepareWasiLibrary,
            Step::BuildFilter,
            Step::PrepareEnvoy,
            Step::BuildBinary,
        ],
    );
    progress.run(Step::BuildBench, |log| {
        let mut build = cargo();
        build.current_dir(workspace.root()).args(["build", "--release", "--package", "caracal-bench"]);
        log.run(&mut build)?;
        Ok(Done::new((), ""))
    })?;
    let release = workspace.target().join("release");
    let mut bench = Command::new(release.join("caracal-bench"));
    bench.current_dir(workspace.root()).args(&options.passed_on);
    if !options.passed_on.is_empty() && !asks_for_help {
        let cache = Cache::open()?;
        let toolchain = progress
            .run(Step::PrepareWasiLibrary, |log| Toolchain::prepare(Target::Wasi, workspace, &cache, log))?;
        let module = progress
            .run(Step::BuildFilter, |log| build_shipped(workspace, &toolchain, Module::Normal, log))?;
        let envoy = progress.run(Step::PrepareEnvoy, |log| envoy::prepare(&cache, log))?;
        progress.run(Step::BuildBinary, |log| {
            let mut build = cargo();
            build.current_dir(workspace.root()).args(["build", "--release", "--package", "caracal"]);
            log.run(&mut build)?;
            Ok(Done::new((), ""))
        })?;
        bench.env("CARACAL_BENCH_BIN", release.join("caracal"));
        bench.env("CARACAL_ENVOY", envoy).env("CARACAL_FILTER", module.path);
    }
    let source = bench.exec();
    Err(CommandError::Start { command: "caracal-bench".to_owned(), source }.into())
}
