//! One line of progress per step, with its number and the time that it took.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::process::StepLog;
use crate::workspace::Workspace;

/// How many lines of a failed step's log are shown.
const TAIL_LINES: usize = 60;

/// A step of a command. Its place in the command's plan is its number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    BuildBench,
    BuildBinary,
    BuildEverything,
    BuildFilter,
    BuildMeter,
    BuildTrapFilter,
    CheckFormat,
    CheckSupply,
    Fetch,
    Lint,
    LintFilter,
    OpenApi,
    PrepareDeny,
    PrepareEnvoy,
    PreparePython,
    PrepareRunner,
    PrepareWasiLibrary,
    PrepareWasmLibrary,
    Start,
    TestEndToEnd,
    TestEverything,
    TestNative,
    TestWasm,
    TryReadme,
}

impl Step {
    fn title(self) -> &'static str {
        match self {
            Self::BuildBench => "building the benchmarks",
            Self::BuildBinary => "building caracal",
            Self::BuildEverything => "building every crate",
            Self::BuildFilter => "building the filter for wasm",
            Self::BuildMeter => "building the host that counts",
            Self::BuildTrapFilter => "building the filter that traps on request",
            Self::CheckFormat => "checking the format",
            Self::CheckSupply => "checking licences, bans and sources",
            Self::Fetch => "fetching the locked crates",
            Self::Lint => "building and linting every crate",
            Self::LintFilter => "linting the filter for wasm",
            Self::OpenApi => "describing the services",
            Self::PrepareDeny => "preparing cargo-deny",
            Self::PrepareEnvoy => "preparing Envoy",
            Self::PreparePython => "preparing Python with the official clients",
            Self::PrepareRunner => "preparing the wasm test runner",
            Self::PrepareWasiLibrary => "preparing the standard library for wasm32-wasip1",
            Self::PrepareWasmLibrary => "preparing the standard library for wasm32-unknown-unknown",
            Self::Start => "starting caracal",
            Self::TestEndToEnd => "testing end to end",
            Self::TestEverything => "testing natively and end to end",
            Self::TestNative => "testing natively",
            Self::TestWasm => "testing the decision core as wasm under Node",
            Self::TryReadme => "doing what the README says first",
        }
    }

    fn log_name(self) -> &'static str {
        match self {
            Self::BuildBench => "build-bench",
            Self::BuildBinary => "build-binary",
            Self::BuildEverything => "build-everything",
            Self::BuildFilter => "build-filter",
            Self::BuildMeter => "build-meter",
            Self::BuildTrapFilter => "build-trap-filter",
            Self::CheckFormat => "check-format",
            Self::CheckSupply => "check-supply",
            Self::Fetch => "fetch",
            Self::Lint => "lint",
            Self::LintFilter => "lint-filter",
            Self::OpenApi => "openapi",
            Self::PrepareDeny => "prepare-deny",
            Self::PrepareEnvoy => "prepare-envoy",
            Self::PreparePython => "prepare-python",
            Self::PrepareRunner => "prepare-runner",
            Self::PrepareWasiLibrary => "prepare-wasi-library",
            Self::PrepareWasmLibrary => "prepare-wasm-library",
            Self::Start => "start",
            Self::TestEndToEnd => "test-end-to-end",
            Self::TestEverything => "test-everything",
            Self::TestNative => "test-native",
            Self::TestWasm => "test-wasm",
            Self::TryReadme => "try-readme",
        }
    }
}

/// The plan of one command, and how far it got.
#[derive(Debug)]
pub(crate) struct Progress {
    plan: Vec<Step>,
    logs: PathBuf,
    started: Instant,
    quiet: bool,
}

/// What a step made, and a note for the end of its line (may be empty).
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) note: String,
}

impl<T> Done<T> {
    pub(crate) fn new(value: T, note: impl Into<String>) -> Self {
        Self { value, note: note.into() }
    }
}

impl Progress {
    pub(crate) fn new(workspace: &Workspace, plan: Vec<Step>) -> Self {
        Self::quiet_if(false, workspace, plan)
    }

    /// As [`Progress::new`]; a quiet one prints nothing but failures.
    pub(crate) fn quiet_if(quiet: bool, workspace: &Workspace, plan: Vec<Step>) -> Self {
        Self { plan, logs: workspace.target().join("xtask-logs"), started: Instant::now(), quiet }
    }

    /// Runs one step of the plan and prints its line.
    pub(crate) fn run<T>(
        &self,
        step: Step,
        work: impl FnOnce(&mut StepLog) -> Result<Done<T>, Error>,
    ) -> Result<T, Error> {
        let title = step.title();
        let path = self.logs.join(format!("{}.log", step.log_name()));
        let mut log = StepLog::create(path.clone()).map_err(|source| Error::Log { path, source })?;
        let started = Instant::now();
        self.begin(step);
        match work(&mut log) {
            Ok(done) => {
                let note = if done.note.is_empty() { String::new() } else { format!(" ({})", done.note) };
                self.say(&format!("{}{note}\n", Elapsed(started.elapsed())));
                Ok(done.value)
            }
            Err(cause) => {
                self.say(&format!("{} after {}\n", paint(RED, "failed"), Elapsed(started.elapsed())));
                Err(Error::Step { title, log: log.path().to_owned(), cause: Box::new(cause) })
            }
        }
    }

    /// Prints the line of a step that replaces this process and so has no end.
    pub(crate) fn announce(&self, step: Step) {
        self.begin(step);
        say("\n");
    }

    /// How long the command has been running.
    pub(crate) fn elapsed(&self) -> Elapsed {
        Elapsed(self.started.elapsed())
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    fn begin(&self, step: Step) {
        let number = self.plan.iter().position(|planned| *planned == step).map_or(0, |index| index + 1);
        self.say(&format!("{} {} … ", paint(BOLD, &format!("[{number}/{}]", self.plan.len())), step.title()));
    }
}

/// A duration as people say it: `0.4 s`, `41 s`, `2 min 05 s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elapsed(Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if seconds < 10 {
            write!(formatter, "{:.1} s", self.0.as_secs_f64())
        } else if seconds < 120 {
            write!(formatter, "{seconds} s")
        } else {
            write!(formatter, "{} min {:02} s", seconds / 60, seconds % 60)
        }
    }
}

/// Prints the last line of a command that went well.
pub(crate) fn report_success(message: &str) {
    say(&format!("{} {message}\n", paint(GREEN, "ok:")));
}

/// Prints why a command failed: the end of the failed step's log, the log's path, and the error itself.
pub(crate) fn report_failure(error: &Error) {
    if let Error::Step { title, log, .. } = error {
        let tail = tail(log, TAIL_LINES);
        if !tail.is_empty() {
            eprintln!("\n--- the end of the log of \"{title}\" ---\n{tail}\n---");
        }
        eprintln!("{} {title}: {error}\nthe whole log: {}", paint(RED, "error:"), log.display());
    } else {
        eprintln!("{} {error}", paint(RED, "error:"));
    }
}

fn tail(path: &Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";

fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Writes to standard output at once. A closed output is no reason to stop the work.
fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _closed = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        let cases = [(440, "0.4 s"), (41_900, "41 s"), (119_000, "119 s"), (125_000, "2 min 05 s")];
        for (milliseconds, expected) in cases {
            assert_eq!(Elapsed(Duration::from_millis(milliseconds)).to_string(), expected);
        }
    }

    #[test]
    fn the_tail_of_a_short_or_missing_log_is_all_of_it() {
        let path = std::env::temp_dir().join(format!("caracal-xtask-tail-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 2), "two\nthree");
        assert_eq!(tail(&path, 9), "one\ntwo\nthree");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tail(&path, 9), "");
    }
}
