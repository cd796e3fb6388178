//! `cargo xtask up`: builds everything and hands over to `caracal up`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cache::Cache;
use crate::cli::UpOptions;
use crate::envoy;
use crate::error::Error;
use crate::filter::{Module, build_shipped};
use crate::prerequisites::require_native_compiler;
use crate::process::{CommandError, cargo};
use crate::progress::{Done, Progress, Step};
use crate::wasm::{Target, Toolchain};
use crate::workspace::Workspace;

/// `cargo xtask up`. Returns only if something failed: else this process becomes `caracal up`, so that Ctrl-C and the
/// exit status are its own.
pub(crate) fn run(workspace: &Workspace, options: &UpOptions) -> Result<(), Error> {
    require_native_compiler()?;
    let cache = Cache::open()?;
    let progress = Progress::new(
        workspace,
        vec![Step::PrepareWasiLibrary, Step::BuildFilter, Step::PrepareEnvoy, Step::BuildBinary, Step::Start],
    );
    let toolchain = progress
        .run(Step::PrepareWasiLibrary, |log| Toolchain::prepare(Target::Wasi, workspace, &cache, log))?;
    let module =
        progress.run(Step::BuildFilter, |log| build_shipped(workspace, &toolchain, Module::Normal, log))?;
    let envoy = progress.run(Step::PrepareEnvoy, |log| envoy::prepare(&cache, log))?;
    progress.run(Step::BuildBinary, |log| {
        let mut build = cargo();
        build.current_dir(workspace.root()).args(["build", "--release", "--package", "caracal"]);
        log.run(&mut build)?;
        Ok(Done::new((), ""))
    })?;

    progress.announce(Step::Start);
    let mut caracal = Command::new(workspace.target().join("release").join("caracal"));
    caracal.args(["up", "--tour"]);
    if options.exit_after_tour {
        caracal.arg("--exit-after-tour");
    }
    caracal.arg("--envoy").arg(envoy).arg("--filter").arg(module.path);
    if let Some(folder) = &options.data {
        caracal.arg("--data").arg(folder);
    }
    caracal.args(&options.passed_on);
    let source = caracal.exec();
    Err(CommandError::Start { command: "caracal up".to_owned(), source }.into())
}
