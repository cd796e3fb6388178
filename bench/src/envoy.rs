//! An Envoy of the benchmark's own.

use crate::error::Error;
use crate::stack::{Binaries, Stack};
use caracal_envoy::KEY_VARIABLE;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// A running Envoy.
pub(crate) struct Envoy {
    /// Its process.
    pub(crate) pid: u32,
    /// Where callers connect.
    pub(crate) address: SocketAddr,
    admin: String,
    _child: Child,
    _folder: TempDir,
}

impl Envoy {
    /// Starts one with one worker and waits until it listens.
    pub(crate) async fn start(binaries: &Binaries, stack: &Stack, bootstrap: &Value) -> Result<Self, Error> {
        Self::start_with(binaries, stack, bootstrap, 1).await
    }

    /// The same with so many workers.
    pub(crate) async fn start_with(
        binaries: &Binaries,
        stack: &Stack,
        bootstrap: &Value,
        workers: usize,
    ) -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("e").tempdir_in(&binaries.scratch)?;
        let config = folder.path().join("envoy.json");
        std::fs::write(&config, bootstrap.to_string()).map_err(Error::file(&config))?;
        let admin = folder.path().join("admin");
        let mut command = Command::new(&binaries.envoy);
        command.arg("--config-path").arg(&config).arg("--admin-address-path").arg(&admin);
        command.args(["--use-dynamic-base-id", "--log-level", "error", "--concurrency"]);
        command.arg(workers.to_string());
        command.env(KEY_VARIABLE, stack.gateway_key()?).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.kill_on_drop(true).spawn().map_err(Error::file(&binaries.envoy))?;
        let pid = child.id().ok_or_else(|| Error::Start("Envoy ended".into()))?;
        let reach = async {
            loop {
                if let Some((admin, address)) = listener(&admin).await {
                    return (admin, address);
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let late = |_| Error::Start("Envoy does not listen: see its messages".into());
        let (admin, address) = tokio::time::timeout(START, reach).await.map_err(late)?;
        Ok(Self { pid, address, admin, _child: child, _folder: folder })
    }

    /// The highest value of the statistics whose name ends so.
    pub(crate) async fn statistic(&self, name: &str) -> Result<u64, Error> {
        Ok(self.statistics(name).await?.into_values().max().unwrap_or(0))
    }

    /// How many connections each worker accepted so far, in the order of the workers.
    pub(crate) async fn accepted(&self) -> Result<Vec<u64>, Error> {
        Ok(self.statistics("worker_[0-9]*.downstream_cx_total$").await?.into_values().collect())
    }

    async fn statistics(&self, filter: &str) -> Result<BTreeMap<String, u64>, Error> {
        let text = reqwest::get(format!("{}/stats?filter={filter}", self.admin)).await?.text().await?;
        let values = text.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(values.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }
}

async fn listener(admin: &Path) -> Option<(String, SocketAddr)> {
    let admin = format!("http://{}", std::fs::read_to_string(admin).ok()?.trim());
    let answer = reqwest::get(format!("{admin}/listeners?format=json")).await.ok()?;
    let listeners: Value = answer.json().await.ok()?;
    let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
    let text = format!("{}:{}", address.get("address")?.as_str()?, address.get("port_value")?.as_u64()?);
    Some((admin, text.parse().ok()?))
}
