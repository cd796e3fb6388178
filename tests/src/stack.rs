//! A running `caracal up`.

use crate::Leash;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

/// The issuer of every test, the same across restarts.
pub(crate) const ISSUER: &str = "http://sts.caracal.test";

fn from_xtask(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) => PathBuf::from(path),
        None => panic!("{name} is not set: run the end-to-end tests with `cargo xtask test --e2e`"),
    }
}

pub fn binary() -> PathBuf {
    from_xtask("CARACAL_TEST_BIN")
}

pub fn filter_module() -> PathBuf {
    from_xtask("CARACAL_TEST_FILTER")
}

/// The module that traps on the header `x-caracal-test-trap`.
pub fn trapping_filter_module() -> PathBuf {
    from_xtask("CARACAL_TEST_FILTER_TRAP")
}

pub fn envoy_binary() -> PathBuf {
    from_xtask("CARACAL_TEST_ENVOY")
}

/// An interpreter that has the published SDKs.
pub fn python() -> PathBuf {
    from_xtask("CARACAL_TEST_PYTHON")
}

pub struct Options {
    pub filter: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { filter: filter_module(), arguments: Vec::new(), environment: Vec::new() }
    }
}

impl Options {
    /// It may call this machine under its name, and trusts this authority there.
    pub fn calling_this_machine(authority: &Path) -> Self {
        let environment = [
            ("CARACAL_DEV_LOOPBACK_EGRESS_HOSTS", "localhost"),
            ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
        ];
        Self {
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..Self::default()
        }
    }
}

/// A running Caracal on a data folder of its own.
pub struct Stack {
    pub data: TempDir,
    pub child: Child,
    pub running: Value,
    options: Options,
    log: Log,
}

/// What a process wrote to standard error.
type Log = Arc<Mutex<String>>;

impl Stack {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        let data = tempfile::tempdir().unwrap();
        let log = Log::default();
        let (child, running) = launch(data.path(), &options, &log).await;
        Self { data, child, running, options, log }
    }

    /// Ends it like a power cut would.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
        let _ = std::fs::remove_file(self.data.path().join("data/runtime.json"));
    }

    /// Starts it again on the same data folder.
    pub async fn restart(&mut self) {
        (self.child, self.running) = launch(self.data.path(), &self.options, &self.log).await;
    }

    /// Ends it when this program ends, for a stack that is never dropped.
    pub fn leash(&self) -> Leash {
        Leash::on(self.child.id().unwrap(), self.data.path())
    }

    /// The data folder itself.
    pub fn folder(&self) -> PathBuf {
        self.data.path().join("data")
    }

    pub fn url(&self, service: &str) -> String {
        format!("http://{}", self.running[service].as_str().unwrap())
    }

    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.folder().join("secrets/adminToken")).unwrap().trim().to_owned()
    }

    /// The operator's token at the Coordinator.
    pub fn coordinator_token(&self) -> String {
        std::fs::read_to_string(self.folder().join("secrets/coordinatorToken")).unwrap().trim().to_owned()
    }

    /// The token of operators at the STS.
    pub fn sts_admin_token(&self) -> String {
        std::fs::read_to_string(self.folder().join("secrets/stsAdminToken")).unwrap().trim().to_owned()
    }

    /// What `caracal` logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn envoy_log(&self) -> String {
        std::fs::read_to_string(self.folder().join("envoy.log")).unwrap_or_default()
    }
}

async fn launch(data: &Path, options: &Options, log: &Log) -> (Child, Value) {
    let folder = data.join("data");
    let mut command = Command::new(binary());
    command
        .arg("up")
        .arg("--data")
        .arg(&folder)
        .arg("--envoy")
        .arg(envoy_binary())
        .arg("--filter")
        .arg(&options.filter);
    for port in ["--admin-port", "--sts-port", "--gateway-port", "--coordinator-port", "--audit-port"] {
        command.args([port, "0"]);
    }
    // Tests ask more often than the contract lets one address ask; the limits have tests of their own.
    command.args(["--api-rate-limit", "0", "--coordinator-rate-limit", "0"]);
    command.args(["--issuer", ISSUER]).args(&options.arguments);
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    // Both are read from the beginning, so that it never waits for a reader.
    let told = tokio::spawn(keep(child.stderr.take().unwrap(), Arc::clone(log)));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("Caracal is up") {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            let running = std::fs::read_to_string(folder.join("runtime.json")).unwrap();
            return (child, serde_json::from_str(&running).unwrap());
        }
    }
    let _ = told.await;
    let why = log.lock().unwrap().clone();
    panic!("caracal did not come up: {why}");
}

/// Keeps what a process writes to standard error, and passes it on.
async fn keep(stderr: ChildStderr, log: Log) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("caracal: {line}");
        let mut log = log.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
    }
}
