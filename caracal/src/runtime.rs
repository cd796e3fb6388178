//! What a running Caracal leaves in its data folder, so that `status` and `down` find it.

use crate::data::write_private;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Addresses and process ids of a running Caracal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// The process of all services.
    pub(crate) pid: u32,
    /// Envoy's process.
    pub(crate) envoy_pid: u32,
    /// The Admin API.
    pub(crate) admin: SocketAddr,
    /// The STS.
    pub(crate) sts: SocketAddr,
    /// The Gateway.
    pub(crate) gateway: SocketAddr,
    /// The Coordinator.
    pub(crate) coordinator: SocketAddr,
    /// The audit service.
    pub(crate) audit: SocketAddr,
    /// Envoy's own administration: a Unix socket.
    pub(crate) envoy_admin: PathBuf,
    /// Where gateways take their configuration from, if they do: a Unix socket.
    #[serde(default)]
    pub(crate) xds: Option<PathBuf>,
    /// Where gateways on other machines do.
    #[serde(default)]
    pub(crate) xds_network: Option<SocketAddr>,
}

impl Running {
    fn path(folder: &Path) -> PathBuf {
        folder.join("runtime.json")
    }

    /// The services by the names that reports call them.
    pub(crate) fn services(&self) -> [(&'static str, SocketAddr); 5] {
        [
            ("api", self.admin),
            ("sts", self.sts),
            ("gateway", self.gateway),
            ("audit", self.audit),
            ("coordinator", self.coordinator),
        ]
    }

    /// Leaves it in the folder.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        write_private(&Self::path(folder), &text)
    }

    /// Takes it away.
    pub(crate) fn remove(folder: &Path) {
        let _ = std::fs::remove_file(Self::path(folder));
    }

    /// Reads it.
    pub(crate) fn load(folder: &Path) -> Result<Self, Error> {
        let not_running = || Error::NotRunning { folder: folder.to_owned() };
        let text = std::fs::read_to_string(Self::path(folder)).map_err(|_| not_running())?;
        serde_json::from_str(&text).map_err(|_| not_running())
    }
}
