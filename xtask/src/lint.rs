//! Clippy as the compiler of the workspace: what it lints it builds as well, so that crates and all they depend on are
//! compiled once for lints and tests. `cargo clippy` sets the same variables and builds nothing.

use std::path::PathBuf;
use std::process::Command;

use crate::process::{StepLog, capture, cargo, on_path};
use crate::workspace::Workspace;

const PROGRAM: &str = "clippy-driver";
/// Where clippy finds its arguments, each with [`SEPARATOR`] behind it.
const ARGUMENTS: &str = "CLIPPY_ARGS";
const SEPARATOR: &str = "__CLIPPY_HACKERY__";
/// What breaks a rule of clippy's and none of the compiler's.
const BREACH: &str =
    "//! Breaks a rule.\n/// Compares.\npub fn compare(yes: bool) -> bool {\n    yes == true\n}\n";
/// The rule.
const RULE: &str = "bool_comparison";

/// Who compiles the crates of the workspace.
#[derive(Clone, Debug)]
pub(crate) enum Compiler {
    /// Rustc, which lets what clippy finds pass.
    Rustc,
    /// Clippy, to which each warning is an error.
    Clippy {
        /// Where it is.
        driver: PathBuf,
    },
}

/// Why nothing can be linted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LintError {
    #[error("no clippy beside rustc or on PATH: run `rustup component add clippy`")]
    Missing,
    #[error("{driver} let pass what breaks `clippy::{RULE}`, so its silence would show nothing")]
    Toothless { driver: PathBuf },
    #[error("could not write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

impl Compiler {
    /// The clippy of the toolchain in use, once it was seen to refuse what breaks a rule.
    pub(crate) fn clippy(workspace: &Workspace, log: &mut StepLog) -> Result<Self, LintError> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let beside = capture(Command::new(rustc).args(["--print", "sysroot"]))
            .map(|sysroot| PathBuf::from(sysroot.trim()).join("bin").join(PROGRAM))
            .filter(|path| path.is_file());
        let driver = beside.or_else(|| on_path(PROGRAM)).ok_or(LintError::Missing)?;
        let clippy = Self::Clippy { driver };
        clippy.refuse_a_breach(workspace, log)?;
        Ok(clippy)
    }

    /// Cargo, with this compiler for the crates of the workspace.
    pub(crate) fn cargo(&self, workspace: &Workspace) -> Command {
        let mut command = cargo();
        command.current_dir(workspace.root());
        if let Self::Clippy { driver } = self {
            command.env("RUSTC_WORKSPACE_WRAPPER", driver).env(ARGUMENTS, deny_warnings());
        }
        command
    }

    /// A clippy that read its arguments elsewhere, or had this rule no more, would find nothing anywhere.
    fn refuse_a_breach(&self, workspace: &Workspace, log: &mut StepLog) -> Result<(), LintError> {
        let Self::Clippy { driver } = self else { return Ok(()) };
        let source = workspace.target().join("xtask-logs").join("breach.rs");
        std::fs::write(&source, BREACH)
            .map_err(|error| LintError::Write { path: source.clone(), source: error })?;
        let mut command = Command::new(driver);
        command
            .args(["--crate-type", "lib", "--emit", "metadata", "--out-dir"])
            .arg(source.with_extension(""));
        command.arg(&source).env(ARGUMENTS, deny_warnings());
        let refused = log.run(&mut command).is_err() && log.contains(RULE);
        if refused { Ok(()) } else { Err(LintError::Toothless { driver: driver.clone() }) }
    }
}

fn deny_warnings() -> String {
    ["--deny", "warnings"].map(|argument| format!("{argument}{SEPARATOR}")).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clippy_of_the_toolchain_refuses_a_breach_and_a_compiler_that_is_none_does_not_count() {
        let workspace = Workspace::locate().unwrap();
        let path = workspace.target().join("xtask-logs").join("lint-unit-test.log");
        let mut log = StepLog::create(path.clone()).unwrap();
        assert!(matches!(Compiler::clippy(&workspace, &mut log), Ok(Compiler::Clippy { .. })));
        let mut log = StepLog::create(path).unwrap();
        let silent = Compiler::Clippy { driver: on_path("true").unwrap() };
        assert!(matches!(silent.refuse_a_breach(&workspace, &mut log), Err(LintError::Toothless { .. })));
    }
}
