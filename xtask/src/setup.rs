//! `cargo xtask setup`: fetches and installs everything that the other commands need.

use crate::cache::Cache;
use crate::error::Error;
use crate::progress::{Progress, Step, report_success};
use crate::wasm::{Target, Toolchain};
use crate::workspace::Workspace;
use crate::{envoy, python, tools};

/// `cargo xtask setup`.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Error> {
    let cache = Cache::open()?;
    let progress = Progress::new(
        workspace,
        vec![
            Step::PrepareWasiLibrary,
            Step::PrepareWasmLibrary,
            Step::PrepareEnvoy,
            Step::PreparePython,
            Step::PrepareRunner,
            Step::PrepareDeny,
        ],
    );
    progress.run(Step::PrepareWasiLibrary, |log| Toolchain::prepare(Target::Wasi, workspace, &cache, log))?;
    progress
        .run(Step::PrepareWasmLibrary, |log| Toolchain::prepare(Target::Unknown, workspace, &cache, log))?;
    progress.run(Step::PrepareEnvoy, |log| envoy::prepare(&cache, log))?;
    progress.run(Step::PreparePython, |log| python::prepare(workspace, &cache, log))?;
    progress.run(Step::PrepareRunner, |log| tools::wasm_test_runner(workspace, &cache, log))?;
    progress.run(Step::PrepareDeny, |log| tools::cargo_deny(&cache, log))?;
    report_success(&format!("everything is there, after {}", progress.elapsed()));
    Ok(())
}
