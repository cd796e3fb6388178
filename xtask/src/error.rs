//! The one error that reaches `main`: each module's own error, and the step in which it happened.

use std::path::PathBuf;

use crate::cache::CacheError;
use crate::envoy::EnvoyError;
use crate::filter::FilterError;
use crate::lint::LintError;
use crate::prerequisites::PrerequisiteError;
use crate::process::CommandError;
use crate::python::PythonError;
use crate::test::TestError;
use crate::tools::ToolError;
use crate::wasm::WasmError;
use crate::workspace::WorkspaceError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Envoy(#[from] EnvoyError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Lint(#[from] LintError),
    #[error("could not write the log {path}: {source}")]
    Log { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Prerequisite(#[from] PrerequisiteError),
    #[error(transparent)]
    Python(#[from] PythonError),
    /// A step failed; its log holds what it printed.
    #[error("{cause}")]
    Step { title: &'static str, log: PathBuf, cause: Box<Error> },
    #[error(transparent)]
    Test(#[from] TestError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Wasm(#[from] WasmError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}
