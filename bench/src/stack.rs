//! The real `caracal up` on a data folder of its own, on ports that the system hands out.

use crate::error::Error;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long everything may take to end.
const STOP: Duration = Duration::from_secs(20);

/// What to run. `cargo xtask bench` builds and names all of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Binaries {
    /// The `caracal` binary, built for release.
    #[arg(long, env = "CARACAL_BENCH_BIN", value_name = "FILE")]
    pub(crate) caracal: PathBuf,
    /// The Envoy binary.
    #[arg(long, env = "CARACAL_ENVOY", value_name = "FILE")]
    pub(crate) envoy: PathBuf,
    /// The filter's wasm module.
    #[arg(long, env = "CARACAL_FILTER", value_name = "FILE")]
    pub(crate) filter: PathBuf,
    /// Where the data folder is made: a file system like that of production, not one in memory.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) scratch: PathBuf,
}

/// Where everything listens.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Addresses {
    /// The process of all services.
    pub(crate) pid: u32,
    pub(crate) admin: SocketAddr,
    pub(crate) sts: SocketAddr,
    pub(crate) coordinator: SocketAddr,
    pub(crate) gateway: SocketAddr,
    pub(crate) audit: SocketAddr,
}

/// A running Caracal.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) addresses: Addresses,
    folder: TempDir,
    child: Child,
}

impl Stack {
    /// Starts one with further options of `caracal up`, and waits until it serves.
    pub(crate) async fn start(binaries: &Binaries, options: &[&str]) -> Result<Self, Error> {
        std::fs::create_dir_all(&binaries.scratch).map_err(Error::file(&binaries.scratch))?;
        // Envoy's socket lies in the folder, and a socket's path may not be long.
        let folder = tempfile::Builder::new()
            .prefix("d")
            .tempdir_in(&binaries.scratch)
            .map_err(Error::file("a folder"))?;
        let data = folder.path().join("data");
        let mut command = Command::new(&binaries.caracal);
        command.arg("up").arg("--data").arg(&data);
        command.arg("--envoy").arg(&binaries.envoy).arg("--filter").arg(&binaries.filter);
        for port in ["--admin-port", "--sts-port", "--gateway-port", "--coordinator-port", "--audit-port"] {
            command.args([port, "0"]);
        }
        // One address is all that asks here.
        command.args(["--api-rate-limit", "0", "--coordinator-rate-limit", "0"]);
        command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(Error::file(&binaries.caracal))?;
        wait_until_up(&mut child).await?;
        let path = data.join("runtime.json");
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        let addresses = serde_json::from_str(&text).map_err(|error| Error::Start(error.to_string()))?;
        Ok(Self { addresses, folder, child })
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The Admin API's bootstrap token.
    pub(crate) fn admin_token(&self) -> Result<String, Error> {
        read_secret(&self.data(), "adminToken")
    }

    /// The key that gateways sign with, hex.
    pub(crate) fn gateway_key(&self) -> Result<String, Error> {
        read_secret(&self.data(), "gatewayStsHmacKey")
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(status) => status.map(|_| ()).map_err(Error::Load),
            Err(_) => self.child.kill().await.map_err(Error::Load),
        }
    }
}

fn read_secret(data: &Path, name: &str) -> Result<String, Error> {
    let path = data.join("secrets").join(name);
    Ok(std::fs::read_to_string(&path).map_err(Error::file(&path))?.trim().to_owned())
}

async fn wait_until_up(child: &mut Child) -> Result<(), Error> {
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::Start("it has no output".into()));
    };
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if line.contains("Caracal is up") {
            // Whatever it says later is read, so that it never waits for a reader.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    eprintln!("caracal: {line}");
                }
            });
            return Ok(());
        }
    }
    let mut why = String::new();
    stderr.read_to_string(&mut why).await?;
    Err(Error::Start(why))
}
