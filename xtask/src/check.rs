//! `cargo xtask ci`: what the build server runs, and what a contributor runs before a push.

use std::process::Command;

use crate::cache::Cache;
use crate::error::Error;
use crate::lint::Compiler;
use crate::prerequisites::{require_native_compiler, require_node};
use crate::process::{StepLog, cargo};
use crate::progress::{Done, Progress, Step, report_success};
use crate::test::{Selection, run_selected};
use crate::tools;
use crate::wasm::{Target, Toolchain};
use crate::workspace::Workspace;

/// `cargo xtask ci`.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Error> {
    require_native_compiler()?;
    require_node()?;
    let cache = Cache::open()?;
    let selection = Selection::shipped();
    let mut plan = vec![
        Step::Fetch,
        Step::CheckFormat,
        Step::Lint,
        Step::LintFilter,
        Step::PrepareDeny,
        Step::CheckSupply,
    ];
    plan.extend(selection.plan());
    plan.push(Step::TryReadme);
    let progress = Progress::new(workspace, plan);

    // Also shows that Cargo.lock is up to date, and lets the supply check work without a network.
    progress.run(Step::Fetch, |log| run_cargo(workspace, &["fetch", "--locked"], log))?;
    progress.run(Step::CheckFormat, |log| run_cargo(workspace, &["fmt", "--all", "--", "--check"], log))?;
    let clippy = progress.run(Step::Lint, |log| {
        let clippy = Compiler::clippy(workspace, log)?;
        log.run(clippy.cargo(workspace).args(["build", "--workspace", "--all-targets"]))?;
        Ok(Done::new(clippy, ""))
    })?;
    progress.run(Step::LintFilter, |log| lint_filter(workspace, &cache, log))?;
    let deny = progress.run(Step::PrepareDeny, |log| tools::cargo_deny(&cache, log))?;
    progress.run(Step::CheckSupply, |log| {
        let mut command = Command::new(&deny);
        command.current_dir(workspace.root());
        log.run(command.args(["--offline", "check", "bans", "licenses", "sources"]))?;
        Ok(Done::new((), ""))
    })?;
    let passed = run_selected(workspace, &progress, &selection, &clippy)?;
    progress.run(Step::TryReadme, |log| try_readme(workspace, log))?;
    report_success(&format!("all checks, and {passed}, in {}", progress.elapsed()));
    println!("{} passed, 0 failed", passed.total());
    Ok(())
}

/// The first command of the README, twice: the second time it finds what the first one made. It ends after the tour,
/// and listens on ports that the system hands out.
fn try_readme(workspace: &Workspace, log: &mut StepLog) -> Result<Done<()>, Error> {
    let data = workspace.target().join("readme-data");
    for _ in 0..2 {
        let mut command = cargo();
        command
            .current_dir(workspace.root())
            .args(["xtask", "up", "--exit-after-tour", "--data"])
            .arg(&data)
            .arg("--");
        for port in ["--admin-port", "--sts-port", "--gateway-port", "--coordinator-port", "--audit-port"] {
            command.args([port, "0"]);
        }
        log.run(&mut command)?;
    }
    Ok(Done::new((), ""))
}

fn run_cargo(workspace: &Workspace, arguments: &[&str], log: &mut StepLog) -> Result<Done<()>, Error> {
    let mut command = cargo();
    command.current_dir(workspace.root()).args(arguments);
    log.run(&mut command)?;
    Ok(Done::new((), ""))
}

/// Code that exists for wasm alone is seen by no native lint.
fn lint_filter(workspace: &Workspace, cache: &Cache, log: &mut StepLog) -> Result<Done<()>, Error> {
    let toolchain = Toolchain::prepare(Target::Wasi, workspace, cache, log)?.value;
    if !toolchain.has_clippy() {
        return Ok(Done::new((), "left out: Debian's compiler has no clippy"));
    }
    let mut command = toolchain.cargo("clippy", workspace);
    command.args(["--package", "caracal-filter", "--", "--deny", "warnings"]);
    log.run(&mut command)?;
    Ok(Done::new((), ""))
}
