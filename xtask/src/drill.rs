//! `cargo xtask drill`: load, something that goes wrong, and what has to hold all the same, for as long as one likes.
//!
//! The drills themselves are in `tests/src/drill`. A new one gets a module there and a name here.

use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::envoy;
use crate::error::Error;
use crate::filter::{Module, build_shipped};
use crate::prerequisites::require_native_compiler;
use crate::process::{CommandError, cargo};
use crate::progress::{Done, Progress, Step};
use crate::wasm::{Target, Toolchain};
use crate::workspace::Workspace;

/// Every drill that there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Drill {
    /// Anything as configuration, feed, shared data and headers, at the module alone: no trap, and nothing passes
    Fuzz,
    /// `kill -9` and restarts under sessions: nothing answered is lost, nothing ended acts again
    Kill,
}

impl Drill {
    fn name(self) -> &'static str {
        match self {
            Self::Fuzz => "fuzz",
            Self::Kill => "kill",
        }
    }

    /// Whether it needs more than the module.
    fn needs_caracal(self) -> bool {
        match self {
            Self::Fuzz => false,
            Self::Kill => true,
        }
    }
}

/// Options of `cargo xtask drill`.
#[derive(Debug, Args)]
pub(crate) struct DrillOptions {
    /// Which drill
    pub(crate) name: Drill,
    /// What decides every choice: a failed drill prints its seed [default: another one each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How long, in seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(crate) seconds: u64,
}

/// `cargo xtask drill`. Returns only if something failed: else this process becomes the drill.
pub(crate) fn run(workspace: &Workspace, options: &DrillOptions) -> Result<(), Error> {
    require_native_compiler()?;
    let cache = Cache::open()?;
    let all = options.name.needs_caracal();
    let mut plan = vec![Step::PrepareWasiLibrary, Step::BuildFilter, Step::BuildBinary];
    plan.extend(all.then_some(Step::PrepareEnvoy));
    let progress = Progress::new(workspace, plan);
    let toolchain = progress
        .run(Step::PrepareWasiLibrary, |log| Toolchain::prepare(Target::Wasi, workspace, &cache, log))?;
    let module =
        progress.run(Step::BuildFilter, |log| build_shipped(workspace, &toolchain, Module::Normal, log))?;
    progress.run(Step::BuildBinary, |log| {
        let mut build = cargo();
        build.current_dir(workspace.root()).args(["build", "--package", "caracal-tests", "--bins"]);
        if all {
            build.args(["--package", "caracal"]);
        }
        log.run(&mut build)?;
        Ok(Done::new((), ""))
    })?;
    let debug = workspace.target().join("debug");
    let mut drill = Command::new(debug.join("drill"));
    drill.args([options.name.name(), &options.seconds.to_string()]);
    drill.args(options.seed.map(|seed| seed.to_string()));
    drill.env("CARACAL_TEST_FILTER", &module.path);
    if all {
        let envoy = progress.run(Step::PrepareEnvoy, |log| envoy::prepare(&cache, log))?;
        drill.env("CARACAL_TEST_BIN", debug.join("caracal")).env("CARACAL_TEST_ENVOY", &envoy);
    }
    let source = drill.exec();
    Err(CommandError::Start { command: "drill".to_owned(), source }.into())
}
