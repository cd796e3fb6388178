//! Scripts of `tests/python`: the published SDKs, unmodified, in a process of their own.

use crate::World;
use crate::stack::python;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// An application's id and its secret.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub application: String,
    pub secret: String,
}

/// A running script. It tells what happened in lines of JSON, and may be told what comes next.
pub struct Script {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts a script as an application of this world.
    pub fn start(world: &World, credentials: &Credentials, arguments: &[&str]) -> Self {
        Self::spawn(arguments, |command| {
            command
                .env("CARACAL_STS_URL", &world.sts)
                .env("CARACAL_COORDINATOR_URL", &world.coordinator)
                .env("CARACAL_GATEWAY_URL", &world.gateway)
                .env("CARACAL_ZONE_ID", &world.zone)
                .env("CARACAL_APPLICATION_ID", &credentials.application)
                .env("CARACAL_APP_CLIENT_SECRET", &credentials.secret)
                .env("TEST_RESOURCE", world.resource);
        })
    }

    /// Starts a script that needs no Caracal.
    pub fn plain(arguments: &[&str]) -> Self {
        Self::spawn(arguments, |_| {})
    }

    fn spawn(arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let (script, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script)).args(rest);
        prepare(&mut command);
        let mut child = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take().unwrap();
        Self { name: (*script).to_owned(), child, input, output }
    }

    /// What it tells next.
    pub async fn said(&mut self) -> Value {
        let line = self.output.next_line().await.unwrap();
        let line = line.unwrap_or_else(|| panic!("{} has no more to say", self.name));
        serde_json::from_str(&line).unwrap()
    }

    /// Tells it what comes next.
    pub async fn tell(&mut self, order: &str) {
        self.input.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    /// Tells it what to do, and hears what came of it.
    pub async fn ask(&mut self, order: &str) -> Value {
        self.tell(order).await;
        self.said().await
    }

    /// Sends it a signal, such as `STOP`.
    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it has ended").to_string();
        let status = Command::new("kill").args([format!("-{signal}"), id]).status().await.unwrap();
        assert!(status.success(), "kill -{signal}");
    }

    /// Waits for its end, which has to be a good one.
    pub async fn end(self) {
        let Self { name, mut child, input, .. } = self;
        drop(input);
        let status = child.wait().await.unwrap();
        assert!(status.success(), "{name}: {status}");
    }
}

impl World {
    /// The application that the world was made with.
    pub fn credentials(&self) -> Credentials {
        Credentials { application: self.application.clone(), secret: self.secret.clone() }
    }

    /// Starts a script as the world's own application.
    pub fn script(&self, arguments: &[&str]) -> Script {
        Script::start(self, &self.credentials(), arguments)
    }
}
