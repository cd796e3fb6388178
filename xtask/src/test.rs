//! `cargo xtask test`: natively, as WebAssembly under Node, and end to end with a real Envoy.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::cli::TestOptions;
use crate::error::Error;
use crate::filter::{Module, build_shipped};
use crate::lint::Compiler;
use crate::prerequisites::{require_native_compiler, require_node};
use crate::process::StepLog;
use crate::progress::{Done, Progress, Step, report_success};
use crate::wasm::{Target, Toolchain};
use crate::workspace::Workspace;
use crate::{envoy, python, tools};

/// Which tests to run.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    native: bool,
    wasm: bool,
    end_to_end: bool,
    /// Only the tests whose name contains this.
    filter: Option<String>,
    /// Whether a module that is too large to be shipped is an error.
    enforce_size: bool,
    /// The `caracal` that is tested end to end.
    binary: Binary,
}

/// How a binary is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Binary {
    Debug,
    /// As operators run it.
    Release,
}

/// How many tests passed, kind by kind as they ran.
#[derive(Debug, Default)]
pub(crate) struct Passed(Vec<(&'static str, u64)>);

/// Why the tests did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TestError {
    #[error("not one test ran, so nothing was shown")]
    NoneRan,
    #[error("no test of these has `{0}` in its name, so nothing was shown")]
    NoneNamed(String),
    #[error("could not read {path}: {source}")]
    ReadLog { path: PathBuf, source: std::io::Error },
}

/// `cargo xtask test`.
pub(crate) fn run(workspace: &Workspace, options: &TestOptions) -> Result<(), Error> {
    let selection = Selection::of(options);
    let progress = Progress::new(workspace, selection.plan());
    let passed = run_selected(workspace, &progress, &selection, &Compiler::Rustc)?;
    if passed.total() == 0 {
        return Err(TestError::NoneNamed(selection.filter.unwrap_or_default()).into());
    }
    report_success(&format!("{passed} in {}", progress.elapsed()));
    Ok(())
}

/// Runs the selected tests as steps of a plan that holds [`Selection::plan`].
///
/// Cargo chooses the features of crates for all packages that it is told of together. What is tested natively and end to
/// end is therefore built at once where both are selected: apart, most of it would be built twice.
pub(crate) fn run_selected(
    workspace: &Workspace,
    progress: &Progress,
    selection: &Selection,
    compiler: &Compiler,
) -> Result<Passed, Error> {
    if selection.native || selection.end_to_end {
        require_native_compiler()?;
    }
    if selection.wasm {
        require_node()?;
    }
    let cache = Cache::open()?;
    let mut passed = Passed::default();
    if selection.native && !selection.end_to_end {
        let count = progress.run(Step::TestNative, |log| test_native(workspace, selection, compiler, log))?;
        passed.0.push(("native", count));
    }
    if selection.wasm {
        passed.0.push(("wasm", test_wasm(workspace, &cache, progress, selection)?));
    }
    if selection.end_to_end {
        let kind = if selection.native { "native and end to end" } else { "end to end" };
        passed.0.push((kind, test_end_to_end(workspace, &cache, progress, selection, compiler)?));
    }
    Ok(passed)
}

impl Selection {
    /// Every test there is, of what is shipped: the binary as it is released, and the size limit of the module.
    pub(crate) fn shipped() -> Self {
        Self {
            native: true,
            wasm: true,
            end_to_end: true,
            filter: None,
            enforce_size: true,
            binary: Binary::Release,
        }
    }

    /// What the options say; none of the kinds named means all of them.
    fn of(options: &TestOptions) -> Self {
        let all = !(options.native || options.wasm || options.e2e);
        Self {
            native: all || options.native,
            wasm: all || options.wasm,
            end_to_end: all || options.e2e,
            filter: options.filter.clone(),
            enforce_size: false,
            binary: Binary::Debug,
        }
    }

    /// The steps, in order.
    pub(crate) fn plan(&self) -> Vec<Step> {
        let mut plan = Vec::new();
        if self.native && !self.end_to_end {
            plan.push(Step::TestNative);
        }
        if self.wasm {
            plan.extend([Step::PrepareWasmLibrary, Step::PrepareRunner, Step::TestWasm]);
        }
        if self.end_to_end {
            plan.extend([
                Step::PrepareWasiLibrary,
                Step::PrepareEnvoy,
                Step::PreparePython,
                Step::BuildFilter,
                Step::BuildTrapFilter,
                self.build_step(),
                self.test_step(),
            ]);
        }
        plan
    }

    fn build_step(&self) -> Step {
        if self.builds_everything() { Step::BuildEverything } else { Step::BuildBinary }
    }

    fn test_step(&self) -> Step {
        if self.native { Step::TestEverything } else { Step::TestEndToEnd }
    }

    /// Whether the binary is made together with all tests.
    fn builds_everything(&self) -> bool {
        self.native && self.binary == Binary::Debug
    }

    /// The command that makes the binary, and where that is then.
    fn binary(&self, workspace: &Workspace, compiler: &Compiler) -> (Command, PathBuf) {
        let (mut command, folder) = match self.binary {
            Binary::Debug => (compiler.cargo(workspace), "debug"),
            // What is shipped is made by nothing but rustc.
            Binary::Release => (Compiler::Rustc.cargo(workspace), "release"),
        };
        command.arg("build");
        if self.builds_everything() {
            command.args(["--workspace", "--all-targets"]);
        } else {
            command.args(["--package", "caracal"]);
        }
        if self.binary == Binary::Release {
            command.arg("--release");
        }
        (command, workspace.target().join(folder).join("caracal"))
    }

    /// Runs a `cargo test` command with the name filter, and counts what passed. Without a name filter, a run of no
    /// test is an error.
    fn run_tests(&self, command: &mut Command, log: &mut StepLog) -> Result<Done<u64>, Error> {
        command.args(&self.filter);
        log.run(command)?;
        let count = count_passed(log.path())?;
        if count == 0 && self.filter.is_none() {
            return Err(TestError::NoneRan.into());
        }
        Ok(Done::new(count, format!("{count} passed")))
    }
}

fn test_native(
    workspace: &Workspace,
    selection: &Selection,
    compiler: &Compiler,
    log: &mut StepLog,
) -> Result<Done<u64>, Error> {
    let mut command = compiler.cargo(workspace);
    // These two need the module.
    let excluded = ["--exclude", "caracal-tests", "--exclude", "caracal-filter-bed"];
    command.args(["test", "--no-fail-fast", "--workspace"]).args(excluded);
    selection.run_tests(&mut command, log)
}

fn test_wasm(
    workspace: &Workspace,
    cache: &Cache,
    progress: &Progress,
    selection: &Selection,
) -> Result<u64, Error> {
    let toolchain = progress
        .run(Step::PrepareWasmLibrary, |log| Toolchain::prepare(Target::Unknown, workspace, cache, log))?;
    let runner = progress.run(Step::PrepareRunner, |log| tools::wasm_test_runner(workspace, cache, log))?;
    progress.run(Step::TestWasm, |log| {
        let mut command = toolchain.cargo("test", workspace);
        // Documentation examples run natively; the runner takes test programs only.
        command.args(["--package", "caracal-mandate", "--lib", "--tests"]);
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", &runner);
        selection.run_tests(&mut command, log)
    })
}

fn test_end_to_end(
    workspace: &Workspace,
    cache: &Cache,
    progress: &Progress,
    selection: &Selection,
    compiler: &Compiler,
) -> Result<u64, Error> {
    let toolchain = progress
        .run(Step::PrepareWasiLibrary, |log| Toolchain::prepare(Target::Wasi, workspace, cache, log))?;
    let envoy = progress.run(Step::PrepareEnvoy, |log| envoy::prepare(cache, log))?;
    let python = progress.run(Step::PreparePython, |log| python::prepare(workspace, cache, log))?;
    let module = progress.run(Step::BuildFilter, |log| {
        let done = build_shipped(workspace, &toolchain, Module::Normal, log)?;
        if selection.enforce_size {
            done.value.check_size()?;
        }
        Ok(done)
    })?;
    let trap_module = progress
        .run(Step::BuildTrapFilter, |log| build_shipped(workspace, &toolchain, Module::TrapForTests, log))?;
    let binary = progress.run(selection.build_step(), |log| {
        let (mut build, binary) = selection.binary(workspace, compiler);
        log.run(&mut build)?;
        Ok(Done::new(binary, ""))
    })?;
    progress.run(selection.test_step(), |log| {
        let mut command = compiler.cargo(workspace);
        command.args(["test", "--no-fail-fast"]);
        if selection.native {
            command.arg("--workspace");
        } else {
            command.args(["--package", "caracal-filter-bed", "--package", "caracal-tests"]);
        }
        command
            .env("CARACAL_TEST_BIN", &binary)
            .env("CARACAL_TEST_ENVOY", &envoy)
            .env("CARACAL_TEST_FILTER", &module.path)
            .env("CARACAL_TEST_FILTER_TRAP", &trap_module.path)
            .env("CARACAL_TEST_PYTHON", &python);
        selection.run_tests(&mut command, log)
    })
}

fn count_passed(log: &Path) -> Result<u64, TestError> {
    let bytes = std::fs::read(log).map_err(|source| TestError::ReadLog { path: log.to_owned(), source })?;
    Ok(sum_passed(&String::from_utf8_lossy(&bytes)))
}

/// Adds up the lines `test result: ok. 12 passed; …` of all test programs.
fn sum_passed(output: &str) -> u64 {
    output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test result: ok. "))
        .filter_map(|rest| rest.split_once(" passed")?.0.parse::<u64>().ok())
        .sum()
}

impl Passed {
    /// How many tests passed, of whatever kind.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        write!(formatter, "tests passed: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(native: bool, wasm: bool, e2e: bool) -> TestOptions {
        TestOptions { native, wasm, e2e, filter: None }
    }

    #[test]
    fn no_kind_named_means_all() {
        let all = Selection::of(&options(false, false, false)).plan();
        assert_eq!(all, Selection::of(&options(true, true, true)).plan());
        assert_eq!(all.len(), 10);
        assert_eq!(Selection::of(&options(true, false, false)).plan(), [Step::TestNative]);
        assert!(!Selection::of(&options(false, true, false)).plan().contains(&Step::TestEndToEnd));
        assert_eq!(Selection::of(&options(false, false, true)).plan().len(), 7);
    }

    #[test]
    fn what_is_shipped_is_tested_as_it_is_released() {
        let shipped = Selection::shipped();
        assert!(shipped.plan().ends_with(&[Step::BuildBinary, Step::TestEverything]));
        let workspace = Workspace::locate().unwrap();
        let (command, binary) =
            shipped.binary(&workspace, &Compiler::Clippy { driver: "clippy-driver".into() });
        assert!(binary.ends_with("release/caracal"), "{binary:?}");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["build", "--package", "caracal", "--release"]);
        assert_eq!(command.get_envs().count(), 0, "made by rustc");
    }

    #[test]
    fn passed_tests_are_added_up() {
        let output = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\
                      test result: FAILED. 7 passed; 1 failed\n   test result: ok. 40 passed; 0 failed\n";
        assert_eq!(sum_passed(output), 42);
        assert_eq!(sum_passed("no tests to run!\n"), 0);
    }

    #[test]
    fn the_summary_names_what_ran() {
        let passed = Passed(vec![("native", 213), ("end to end", 9)]);
        assert_eq!(passed.to_string(), "tests passed: 213 native, 9 end to end");
    }
}
