//! The command line: every command, its options and an example of each.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::drill::DrillOptions;

/// What the contributor typed.
#[derive(Debug, Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "Builds, runs and checks Caracal",
    after_help = "Examples:\n  cargo xtask up       run everything with a real Envoy and show it working\n  \
                  cargo xtask test     run every test\n  cargo xtask ci       run what the build server runs\n\n\
                  Environment:\n  CARACAL_CACHE      where fetched tools are kept (default: ~/.cache/caracal)\n  \
                  CARACAL_ENVOY      an Envoy binary of version 1.35 or newer to use\n  \
                  CARACAL_PYTHON     a Python interpreter of version 3.12 or newer to use\n  \
                  CARACAL_WASM_STD   `rustup` or `debian`: try only this source of the wasm standard library"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// One command.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Measure the released binary, and hold what is found against the goals
    #[command(
        disable_help_flag = true,
        after_help = "Examples:\n  cargo xtask bench mint\n  cargo xtask bench mint --seconds 20 --json\n\n\
                      Options are passed on to the benchmark; `cargo xtask bench mint --help` lists them."
    )]
    Bench(BenchOptions),
    /// Check formatting, lints, licences and sources, then run every test
    #[command(after_help = "Example:\n  cargo xtask ci")]
    Ci,
    /// Put the real binary under load, let something go wrong, and check what has to hold all the same
    #[command(
        after_help = "Examples:\n  cargo xtask drill kill\n  cargo xtask drill kill --seed 7 --seconds 600\n  \
                      cargo xtask drill fuzz"
    )]
    Drill(DrillOptions),
    /// Build the Envoy module and print its size; fails above 409,600 bytes
    #[command(after_help = "Example:\n  cargo xtask filter")]
    Filter(FilterOptions),
    /// Write the OpenAPI documents of all services to docs/openapi
    #[command(
        name = "openapi",
        after_help = "Examples:\n  cargo xtask openapi\n  cargo xtask openapi --check"
    )]
    OpenApi(OpenApiOptions),
    /// Fetch and install everything that the other commands need, and run nothing
    #[command(after_help = "Example:\n  cargo xtask setup")]
    Setup,
    /// Run the tests: native, WebAssembly under Node, and end to end with a real Envoy
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --e2e revocation\n  cargo xtask test --native --wasm"
    )]
    Test(TestOptions),
    /// Build everything, start every service and Envoy, and take the tour through them
    #[command(
        after_help = "Examples:\n  cargo xtask up\n  cargo xtask up --exit-after-tour\n  cargo xtask up --data /tmp/caracal\n\n\
                      Options that are not listed above are passed on to `caracal up`."
    )]
    Up(UpOptions),
}

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Which benchmark, and its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    pub(crate) passed_on: Vec<OsString>,
}

/// Options of `cargo xtask filter`.
#[derive(Debug, Args)]
pub(crate) struct FilterOptions {
    /// The cargo profile; the size limit holds for the profile `wasm` alone
    #[arg(long, default_value = "wasm")]
    pub(crate) profile: String,
    /// Show what a request takes: fuel (instructions) by function of the module, and calls by function of the host
    #[arg(long)]
    pub(crate) cost: bool,
}

/// Options of `cargo xtask openapi`.
#[derive(Debug, Args)]
pub(crate) struct OpenApiOptions {
    /// Write nothing; fail where a document is not that of the routes
    #[arg(long)]
    pub(crate) check: bool,
}

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestOptions {
    /// The unit and integration tests of every crate
    #[arg(long)]
    pub(crate) native: bool,
    /// The tests of the decision core, compiled to WebAssembly and run under Node
    #[arg(long)]
    pub(crate) wasm: bool,
    /// The tests that run the real binary with a real Envoy and real clients
    #[arg(long)]
    pub(crate) e2e: bool,
    /// Run only the tests whose name contains this
    pub(crate) filter: Option<String>,
}

/// Options of `cargo xtask up`.
#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// Stop everything when the tour has ended; the exit status says whether it went well
    #[arg(long)]
    pub(crate) exit_after_tour: bool,
    /// The folder for the database and the keys
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Further options for `caracal up`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) passed_on: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn up_passes_on_what_it_does_not_know() {
        let arguments =
            Arguments::parse_from(["xtask", "up", "--exit-after-tour", "--data", "/d", "--log", "debug"]);
        let Task::Up(options) = arguments.task else { panic!("parsed as {:?}", arguments.task) };
        assert!(options.exit_after_tour);
        assert_eq!(options.data, Some(PathBuf::from("/d")));
        assert_eq!(options.passed_on, ["--log", "debug"]);
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("cargo xtask"), "`{}` has no example", command.get_name());
        }
    }
}
