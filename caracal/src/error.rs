//! What can go wrong from the command line's point of view. Every text names what and where.

use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what}: cannot listen on {address}: {source}{}", hint(source))]
    Bind { what: &'static str, address: String, source: std::io::Error },
    #[error(transparent)]
    Call(#[from] crate::admin_client::CallError),
    #[error(transparent)]
    Config(#[from] caracal_store::config::ConfigError),
    #[error("{} is in use by a running `caracal up`; stop it with `caracal down`, or give another --data", folder.display())]
    DataInUse { folder: PathBuf },
    #[error("{ended} ended; everything else was shut down. {why}")]
    Ended { ended: &'static str, why: String },
    #[error("Envoy: {0}")]
    Envoy(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {why}", path.display())]
    Lint { path: PathBuf, why: String },
    #[error("no folder for data: set --data, CARACAL_DATA, XDG_DATA_HOME or HOME")]
    NoDataFolder,
    #[error("{} does not hold a running Caracal: start one with `caracal up`", folder.display())]
    NotRunning { folder: PathBuf },
    #[error("{} can be read by others: make it its owner's alone with `chmod {mode} {}`", path.display(), path.display())]
    Permissions { path: PathBuf, mode: &'static str },
    #[error(transparent)]
    Run(#[from] crate::run::RunError),
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
    #[error("{}: {why}", path.display())]
    Secret { path: PathBuf, why: String },
    #[error("{} {why}", path.display())]
    Socket { path: PathBuf, why: String },
    #[error(transparent)]
    Store(#[from] caracal_store::StoreError),
    #[error("{name}: {why}")]
    Setting { name: &'static str, why: String },
    #[error("the tour: {0}")]
    Tour(String),
    #[error(transparent)]
    Traces(#[from] caracal_store::trace::TracesError),
    #[error("the configuration of gateways: {0}")]
    Xds(#[from] caracal_envoy::xds::XdsError),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            " (something else listens there; choose another port, see `caracal up --help`)"
        }
        _ => "",
    }
}
