//! `cargo xtask openapi`: writes the OpenAPI documents of all services, or holds those of the repository to the routes.
//!
//! The documents come from the services' own crates, so it is their tests that write and compare; this command builds
//! nothing of them itself.

use crate::cli::OpenApiOptions;
use crate::error::Error;
use crate::prerequisites::require_native_compiler;
use crate::process::cargo;
use crate::progress::{Done, Progress, Step, report_success};
use crate::workspace::Workspace;

/// The crates with a document.
const SERVICES: [&str; 4] = ["caracal-admin", "caracal-audit", "caracal-coordinator", "caracal-sts"];
/// Lets the tests write (`caracal_store::openapi::WRITE`).
const WRITE: &str = "CARACAL_WRITE_OPENAPI";

/// `cargo xtask openapi`.
pub(crate) fn run(workspace: &Workspace, options: &OpenApiOptions) -> Result<(), Error> {
    require_native_compiler()?;
    let progress = Progress::new(workspace, vec![Step::OpenApi]);
    progress.run(Step::OpenApi, |log| {
        let mut command = cargo();
        command.current_dir(workspace.root()).args(["test", "--test", "openapi"]);
        for service in SERVICES {
            command.args(["--package", service]);
        }
        if options.check {
            command.env_remove(WRITE);
        } else {
            command.env(WRITE, "1");
        }
        log.run(&mut command)?;
        Ok(Done::new((), ""))
    })?;
    let done = if options.check { "docs/openapi is up to date" } else { "docs/openapi is written" };
    report_success(done);
    Ok(())
}
