//! Why a benchmark has no figures.

use std::path::PathBuf;

/// Why a benchmark failed. A benchmark whose requests do not do what they must has no figures at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what}: {why}")]
    Answer { what: String, why: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("a request failed: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the load generator: {0}")]
    Load(#[from] std::io::Error),
    #[error("the policy engine: {0}")]
    Policy(String),
    #[error("caracal did not come up: {0}")]
    Start(String),
}

impl Error {
    /// An answer that is not what it must be.
    pub(crate) fn answer(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Answer { what: what.into(), why: why.into() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
