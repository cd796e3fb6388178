//! Building the Envoy module.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::cli::FilterOptions;
use crate::error::Error;
use crate::process::{CommandError, StepLog, cargo};
use crate::progress::{Done, Progress, Step, report_success};
use crate::wasm::{Target, Toolchain, target_folder};
use crate::workspace::Workspace;

/// The largest module that may be shipped, in bytes: its size decides how fast an Envoy worker starts.
const SIZE_LIMIT: u64 = 409_600;
/// The profile in which the module is shipped.
const SHIPPED_PROFILE: &str = "wasm";

/// The stack of each VM, which takes its memory for good. The linker's own choice is 1 MiB, a quarter of what a worker may
/// take; `filter/bed/tests/bed/stack.rs` shows how much is needed.
const STACK: &str = "link-arg=-zstack-size=131072";

/// Which module to build.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Module {
    /// The one that is shipped.
    Normal,
    /// One that traps on request, for the test that shows what a trap does.
    TrapForTests,
}

/// A module that was built.
#[derive(Debug)]
pub(crate) struct BuiltModule {
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
}

impl BuiltModule {
    /// Checks the size that may be shipped.
    pub(crate) fn check_size(&self) -> Result<(), FilterError> {
        if self.size > SIZE_LIMIT {
            return Err(FilterError::TooLarge { size: self.size });
        }
        Ok(())
    }
}

/// Why there is no module, or none that may be shipped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("could not copy the module to {path}: {source}")]
    Copy { path: PathBuf, source: std::io::Error },
    #[error("the module has {size} bytes, {excess} more than the limit of {SIZE_LIMIT}", excess = size - SIZE_LIMIT)]
    TooLarge { size: u64 },
}

/// `cargo xtask filter`. With `--cost` it returns only if something failed: else this process becomes the one that counts.
pub(crate) fn run(workspace: &Workspace, options: &FilterOptions) -> Result<(), Error> {
    let cache = Cache::open()?;
    let mut steps = vec![Step::PrepareWasiLibrary, Step::BuildFilter];
    if options.cost {
        steps.push(Step::BuildMeter);
    }
    let progress = Progress::new(workspace, steps);
    let toolchain = progress
        .run(Step::PrepareWasiLibrary, |log| Toolchain::prepare(Target::Wasi, workspace, &cache, log))?;
    let module = progress.run(Step::BuildFilter, |log| {
        let done = build(workspace, &toolchain, &options.profile, Module::Normal, log)?;
        if options.profile == SHIPPED_PROFILE {
            done.value.check_size()?;
        }
        Ok(done)
    })?;
    if options.cost {
        progress.run(Step::BuildMeter, |log| {
            let mut build = cargo();
            build.current_dir(workspace.root());
            log.run(build.args(["build", "--package", "caracal-filter-bed", "--example", "cost"]))?;
            Ok(Done::new((), ""))
        })?;
    }
    report_success(&format!("{} has {} bytes", module.path.display(), module.size));
    if options.cost {
        let mut meter = Command::new(workspace.target().join("debug/examples/cost"));
        let source = meter.env("CARACAL_TEST_FILTER", &module.path).exec();
        return Err(CommandError::Start { command: "cost".to_owned(), source }.into());
    }
    Ok(())
}

/// Builds the module that is shipped, or the one for the trap test, in the profile that is shipped.
pub(crate) fn build_shipped(
    workspace: &Workspace,
    toolchain: &Toolchain,
    module: Module,
    log: &mut StepLog,
) -> Result<Done<BuiltModule>, Error> {
    build(workspace, toolchain, SHIPPED_PROFILE, module, log)
}

fn build(
    workspace: &Workspace,
    toolchain: &Toolchain,
    profile: &str,
    module: Module,
    log: &mut StepLog,
) -> Result<Done<BuiltModule>, Error> {
    let mut command = toolchain.cargo("rustc", workspace);
    // Only as a module: link-time optimisation does not happen where a Rust library is made as well.
    command.args(["--package", "caracal-filter", "--lib", "--crate-type", "cdylib", "--profile", profile]);
    let name = match module {
        Module::Normal => "caracal_filter.wasm",
        Module::TrapForTests => {
            command.args(["--features", "trap-for-tests"]);
            "caracal_filter_trap.wasm"
        }
    };
    command.args(["--", "-C", STACK]);
    log.run(&mut command)?;

    // Both modules come out of cargo under one name; each gets a place of its own.
    let folder = target_folder(workspace);
    // Cargo builds the profile `dev` into a folder of another name.
    let profile_folder = if profile == "dev" { "debug" } else { profile };
    let built = folder.join(Target::Wasi.name()).join(profile_folder).join("caracal_filter.wasm");
    let path = folder.join(name);
    let size = copy_whole(&built, &path)?;
    let note =
        if size > SIZE_LIMIT { format!("{size} bytes, over the limit") } else { format!("{size} bytes") };
    Ok(Done::new(BuiltModule { path, size }, note))
}

/// Copies a file so that whoever reads the copy sees the old or the new one, never a part. Returns its size.
fn copy_whole(from: &Path, to: &Path) -> Result<u64, FilterError> {
    let temporary = to.with_extension(format!("wasm.{}", std::process::id()));
    let copied = std::fs::copy(from, &temporary).and_then(|size| {
        std::fs::rename(&temporary, to)?;
        Ok(size)
    });
    copied.map_err(|source| FilterError::Copy { path: to.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_above_the_limit_may_not_be_shipped() {
        let module = |size| BuiltModule { path: PathBuf::from("module.wasm"), size };
        assert!(module(SIZE_LIMIT).check_size().is_ok());
        let error = module(SIZE_LIMIT + 1).check_size().unwrap_err();
        assert_eq!(error.to_string(), "the module has 409601 bytes, 1 more than the limit of 409600");
    }
}
