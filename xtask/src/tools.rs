//! Two tools that cargo installs into the cache folder: cargo-deny and the runner of wasm tests.

use std::path::PathBuf;
use std::process::Command;

use crate::cache::Cache;
use crate::error::Error;
use crate::process::{StepLog, capture, cargo, on_path};
use crate::progress::Done;
use crate::version::Version;
use crate::workspace::Workspace;

/// The cargo-deny that deny.toml is written for.
const CARGO_DENY: Version = Version::new(0, 20, 2);

/// Which versions of a tool will do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fit {
    /// The wanted one alone.
    Exact,
    /// Any patch release of the wanted one's minor version.
    MinorVersion,
}

impl Fit {
    fn accepts(self, found: Version, wanted: Version) -> bool {
        match self {
            Self::Exact => found == wanted,
            Self::MinorVersion => (found.major, found.minor) == (wanted.major, wanted.minor),
        }
    }
}

/// Why a tool cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("Cargo.lock names `{version}` as the version of wasm-bindgen, which is no version")]
    Locked { version: String },
    #[error("cargo installed {package} {version}, but it does not run or is of another version")]
    Unusable { package: &'static str, version: Version },
}

/// Returns cargo-deny: the one on `PATH` if it is of the pinned release line, else one from the cache.
pub(crate) fn cargo_deny(cache: &Cache, log: &mut StepLog) -> Result<Done<PathBuf>, Error> {
    find_or_install(cache, log, "cargo-deny", "cargo-deny", CARGO_DENY, Fit::MinorVersion, &["--locked"])
}

/// Returns the runner of wasm tests, of exactly the locked version of `wasm-bindgen`: the two exchange data in a
/// format that any release may change.
pub(crate) fn wasm_test_runner(
    workspace: &Workspace,
    cache: &Cache,
    log: &mut StepLog,
) -> Result<Done<PathBuf>, Error> {
    let locked = workspace.locked_version("wasm-bindgen")?;
    let version = Version::find(&locked).ok_or(ToolError::Locked { version: locked })?;
    // Not `--locked`: a registry mirror may lack the newest patch of a crate that this tool locks.
    find_or_install(
        cache,
        log,
        "wasm-bindgen-cli",
        "wasm-bindgen-test-runner",
        version,
        Fit::Exact,
        &["--no-default-features"],
    )
}

fn find_or_install(
    cache: &Cache,
    log: &mut StepLog,
    package: &'static str,
    program: &str,
    version: Version,
    fit: Fit,
    options: &[&str],
) -> Result<Done<PathBuf>, Error> {
    let usable = |path: &PathBuf| {
        let found = Version::find(&capture(Command::new(path).arg("--version"))?)?;
        fit.accepts(found, version).then_some(found)
    };
    if let Some(path) = on_path(program)
        && let Some(found) = usable(&path)
    {
        return Ok(Done::new(path, format!("{found}, on PATH")));
    }
    let (folder, was_there) = cache.entry(&format!("{package}-{version}"), |folder| {
        let exact = format!("={version}");
        let mut command = cargo();
        command.args(["install", package, "--version", &exact]).args(options).arg("--root").arg(folder);
        Ok(log.run(&mut command)?)
    })?;
    let path = folder.join("bin").join(program);
    if usable(&path).is_none() {
        return Err(ToolError::Unusable { package, version }.into());
    }
    let source = if was_there { "from the cache" } else { "installed into the cache" };
    Ok(Done::new(path, format!("{version}, {source}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_fits_by_its_version() {
        let wanted = Version::new(0, 20, 2);
        let cases = [
            (Version::new(0, 20, 2), true, true),
            (Version::new(0, 20, 3), false, true),
            (Version::new(0, 21, 2), false, false),
            (Version::new(1, 20, 2), false, false),
        ];
        for (found, exact, minor_version) in cases {
            assert_eq!(Fit::Exact.accepts(found, wanted), exact, "{found}");
            assert_eq!(Fit::MinorVersion.accepts(found, wanted), minor_version, "{found}");
        }
    }
}
