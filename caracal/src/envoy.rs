//! Envoy as a child of this process: started with a rendered bootstrap, and never outliving its parent.

use crate::data::{DataFolder, write_private};
use crate::error::Error;
use caracal_envoy::{BootstrapOptions, KEY_VARIABLE, render};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long Envoy may take to be there.
const START: Duration = Duration::from_secs(60);
/// How long it may take to go.
const STOP: Duration = Duration::from_secs(10);
/// How often is looked whether it is there.
const LOOK: Duration = Duration::from_millis(20);

/// A running Envoy.
#[derive(Debug)]
pub(crate) struct Envoy {
    child: Child,
    /// Its process id.
    pub(crate) pid: u32,
    /// Where callers connect.
    pub(crate) gateway: SocketAddr,
}

impl Envoy {
    /// Starts Envoy and waits until it serves with a snapshot of the feed.
    pub(crate) async fn start(
        binary: &Path,
        folder: &DataFolder,
        options: &BootstrapOptions,
        key: &str,
        workers: u32,
    ) -> Result<Self, Error> {
        let bootstrap = folder.file("envoy.json");
        write_private(&bootstrap, &format!("{:#}", render(options)))?;
        let admin = admin_socket(folder)?;
        let _ = std::fs::remove_file(&admin);
        let log = folder.file("envoy.log");
        let this = std::env::current_exe().map_err(|error| Error::Envoy(error.to_string()))?;
        let mut command = Command::new(this);
        command
            .arg("guarded-envoy")
            .arg(binary)
            .arg("--config-path")
            .arg(&bootstrap)
            .arg("--log-path")
            .arg(&log)
            .args(["--log-level", "warning", "--use-dynamic-base-id", "--concurrency", &workers.to_string()])
            .env(KEY_VARIABLE, key)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|error| Error::Envoy(format!("cannot be started: {error}")))?;
        let pid = child.id().ok_or_else(|| Error::Envoy("ended at once".into()))?;
        let started = tokio::time::timeout(START, reach(&mut child, &admin, &log)).await;
        let gateway = started.map_err(|_| {
            Error::Envoy(format!("is not ready after {} s; see {}", START.as_secs(), log.display()))
        })??;
        Ok(Self { child, pid, gateway })
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("Envoy's {status}."),
            Err(error) => error.to_string(),
        }
    }

    /// Asks it to end, and makes it where it does not.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let ended: Result<std::io::Result<ExitStatus>, _> =
            tokio::time::timeout(STOP, self.child.wait()).await;
        if ended.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Becomes Envoy in this very process, which the kernel ends when the parent does. Returns only on failure.
pub(crate) fn become_guarded(command: &[OsString]) -> Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        return Error::Envoy(format!("cannot be bound to its parent: {error}"));
    }
    let Some((binary, arguments)) = command.split_first() else {
        return Error::Envoy("no command".into());
    };
    let error = std::process::Command::new(binary).args(arguments).exec();
    Error::Envoy(format!("{} cannot be run: {error}", Path::new(binary).display()))
}

/// Envoy's administration: a socket in the data folder, so that no upstream can ever lead there.
pub(crate) fn admin_socket(folder: &DataFolder) -> Result<PathBuf, Error> {
    folder.socket("envoy-admin.sock")
}

/// A client of Envoy's administration.
pub(crate) fn admin_client(socket: &Path) -> Result<reqwest::Client, Error> {
    crate::egress::local().unix_socket(socket).build().map_err(|error| Error::Envoy(error.to_string()))
}

/// Waits for the listener, then for the filter to have its snapshot.
async fn reach(child: &mut Child, admin: &Path, log: &Path) -> Result<SocketAddr, Error> {
    let client = crate::egress::local().build().map_err(|error| Error::Envoy(error.to_string()))?;
    let admin = admin_client(admin)?;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Error::Envoy(explain_end(child, status, log).await));
        }
        if let Some(gateway) = listener(&admin).await
            && has_snapshot(&client, gateway).await
        {
            return Ok(gateway);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn listener(admin: &reqwest::Client) -> Option<SocketAddr> {
    let answer = admin.get("http://envoy/listeners?format=json").send().await.ok()?;
    let listeners: serde_json::Value = answer.json().await.ok()?;
    let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
    let ip = address.get("address")?.as_str()?.parse().ok()?;
    let port = u16::try_from(address.get("port_value")?.as_u64()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

/// A filter with a snapshot asks for a mandate; one without says that it cannot tell.
async fn has_snapshot(client: &reqwest::Client, gateway: SocketAddr) -> bool {
    let answer = client.get(format!("http://{gateway}/")).send().await;
    answer.is_ok_and(|answer| answer.status() == reqwest::StatusCode::UNAUTHORIZED)
}

async fn explain_end(child: &mut Child, status: ExitStatus, log: &Path) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut text).await;
    }
    text.push_str(&std::fs::read_to_string(log).unwrap_or_default());
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n  ");
    format!("ended with {status}; the end of what it wrote:\n  {tail}")
}
