//! `caracal run`: becomes a command that has the credentials of a workload in its environment (contract sts §23,
//! admin-audit §16.3).

use crate::admin_client::{causes, reachable, service_client};
use crate::cli::DataOption;
use crate::error::Error;
use crate::runtime::Running;
use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What a shell answers of a command that is not there, and of one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;
/// What a program may see of the launcher's own environment; everything else has to be named.
const PASSED: [&str; 10] =
    ["HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];
/// What proves the workload, and is never passed on.
const OWN: [&str; 2] = ["CARACAL_WORKLOAD_SECRET", "CARACAL_WORKLOAD_SECRET_FILE"];
/// The longest that one question about an approval waits, in seconds.
const LONG_POLL: u64 = 20;
/// Between an approval's being settled and the next request.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The workload's id.
    #[arg(long, env = "CARACAL_WORKLOAD_ID", value_name = "ID")]
    workload: String,
    /// The STS's address [default: the one that runs on the data folder].
    #[arg(long, env = "STS_URL", value_name = "URL")]
    sts_url: Option<String>,
    #[command(flatten)]
    data: DataOption,
    /// A variable of this environment that the command gets as well.
    #[arg(long = "pass-env", value_name = "NAME")]
    passed: Vec<String>,
    /// An approval that was given for a variable's credential.
    #[arg(long = "approval", value_name = "NAME=ID", value_parser = approval)]
    approvals: Vec<(String, String)>,
    /// How long to wait for approvals, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn approval(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, id)| !name.is_empty() && !id.is_empty());
    parts.map(|(name, id)| (name.to_owned(), id.to_owned())).ok_or_else(|| "is no NAME=ID".to_owned())
}

/// Why a command did not get its credentials. No text holds one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(
        "{env}: approval {id} is pending; once it is given, run again with --approval {env}={id}, or wait with --wait"
    )]
    Pending { env: String, id: String },
    #[error("{what}: {status} {code}{}{description}", if description.is_empty() { "" } else { ": " })]
    Refused { what: String, status: u16, code: String, description: String },
    #[error("{what}: the STS did not answer: {why}")]
    Unanswered { what: String, why: String },
    #[error("{what}: the answer is not one of an STS")]
    Nonsense { what: String },
    #[error("{0:?} is no variable that a credential may be put into")]
    Variable(String),
}

/// A variable that is to be filled.
#[derive(Debug, Deserialize)]
struct Binding {
    env: String,
    #[serde(default)]
    optional: bool,
    on_failure: Option<String>,
}

impl Binding {
    /// May the command run without it?
    fn may_be_missing(&self) -> bool {
        self.optional && self.on_failure.as_deref() == Some("warn")
    }

    fn check(&self) -> Result<(), RunError> {
        if caracal_admin::is_credential_variable(&self.env) {
            return Ok(());
        }
        Err(RunError::Variable(self.env.clone()))
    }
}

/// A command that is ready to be become.
pub(crate) struct Prepared {
    command: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
}

/// Gets everything that the command needs. It is not there yet, so nothing of a failure reaches it.
pub(crate) async fn prepare(options: RunOptions) -> Result<Prepared, Error> {
    if let Some(name) = options.passed.iter().find(|name| OWN.contains(&name.as_str())) {
        let why = format!("{name} proves the workload, and is not passed on");
        return Err(Error::Setting { name: "--pass-env", why });
    }
    let secret = caracal_store::config::required("CARACAL_WORKLOAD_SECRET")?;
    let base = match &options.sts_url {
        Some(url) => url.clone(),
        None => format!("http://{}", reachable(Running::load(&options.data.folder()?)?.sts)),
    };
    let (http, base) = service_client("--sts-url", &base)?;
    let launcher =
        Launcher { http, base, workload: options.workload, secret, launch: caracal_store::ids::new_id() };
    let approvals: BTreeMap<String, String> = options.approvals.into_iter().collect();
    let deadline = Instant::now() + Duration::from_secs(options.wait);
    let mut environment = passed_on(&options.passed);
    let bindings = launcher.manifest().await?;
    if let Some(name) = approvals.keys().find(|name| bindings.iter().all(|binding| binding.env != **name)) {
        return Err(Error::Setting {
            name: "--approval",
            why: format!("the workload has no binding {name}"),
        });
    }
    let (mut credentials, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for binding in &bindings {
        match launcher.credential(binding, approvals.get(&binding.env).cloned(), deadline).await {
            Ok((credential, expires_at)) => {
                credentials.insert(OsString::from(&binding.env), OsString::from(credential));
                if let Some(at) = expires_at {
                    let name = OsString::from(format!("{}_EXPIRES_AT", binding.env));
                    ends.insert(name, OsString::from(at.to_string()));
                }
            }
            Err(error) if binding.may_be_missing() => {
                eprintln!("{} {error}; it runs without", crate::output::failure("warning:"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    environment.extend(ends);
    // A credential is never hidden by when another ends.
    environment.extend(credentials);
    Ok(Prepared { command: options.command, environment })
}

/// What is passed on of the launcher's own environment.
fn passed_on(named: &[String]) -> BTreeMap<OsString, OsString> {
    let known = |name: &OsString| {
        let name = name.to_string_lossy();
        PASSED.contains(&name.as_ref()) || name.starts_with("LC_") || named.iter().any(|one| *one == name)
    };
    std::env::vars_os().filter(|(name, _)| known(name)).collect()
}

/// Becomes the command; this returns only if that fails. Signals and the exit status are the command's own.
pub(crate) fn become_command(prepared: Prepared) -> ExitCode {
    let Some((program, arguments)) = prepared.command.split_first() else { return ExitCode::from(NOT_FOUND) };
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().envs(prepared.environment);
    let error = command.exec();
    eprintln!("{} {}: {error}", crate::output::failure("error:"), program.to_string_lossy());
    match error.kind() {
        std::io::ErrorKind::NotFound => ExitCode::from(NOT_FOUND),
        std::io::ErrorKind::InvalidInput => ExitCode::FAILURE,
        _ => ExitCode::from(NOT_RUNNABLE),
    }
}

struct Launcher {
    http: reqwest::Client,
    base: String,
    workload: String,
    secret: String,
    /// Ties the events of this start together.
    launch: String,
}

impl Launcher {
    async fn manifest(&self) -> Result<Vec<Binding>, RunError> {
        let what = "the manifest";
        let mut body = self.ask(what, "/v1/run/manifest", &[]).await?;
        let bindings = body.get_mut("bindings").map(Value::take).unwrap_or_default();
        let bindings: Vec<Binding> =
            serde_json::from_value(bindings).map_err(|_| RunError::Nonsense { what: what.to_owned() })?;
        bindings.iter().try_for_each(Binding::check)?;
        Ok(bindings)
    }

    async fn credential(
        &self,
        binding: &Binding,
        mut approval: Option<String>,
        deadline: Instant,
    ) -> Result<(String, Option<i64>), RunError> {
        loop {
            let mut fields = vec![("env", binding.env.as_str())];
            fields.extend(approval.as_deref().map(|id| ("approval_id", id)));
            match self.ask(&binding.env, "/v1/run/credential", &fields).await {
                Ok(body) => {
                    let credential = body.get("credential").and_then(Value::as_str);
                    let credential =
                        credential.ok_or_else(|| RunError::Nonsense { what: binding.env.clone() })?;
                    return Ok((credential.to_owned(), body.get("expires_at").and_then(Value::as_i64)));
                }
                Err(RunError::Pending { id, env }) => {
                    self.settled(&env, &id, deadline).await?;
                    tokio::time::sleep(PAUSE).await;
                    approval = Some(id);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until an approval is settled, one way or the other.
    async fn settled(&self, env: &str, id: &str, deadline: Instant) -> Result<(), RunError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs();
            if left == 0 {
                return Err(RunError::Pending { env: env.to_owned(), id: id.to_owned() });
            }
            let url = format!("{}/approvals/{id}?wait={}", self.base, left.min(LONG_POLL));
            let unanswered =
                |error: &reqwest::Error| RunError::Unanswered { what: env.to_owned(), why: causes(error) };
            let answer = self.http.get(url).send().await.map_err(|error| unanswered(&error))?;
            let body: Value = answer.json().await.map_err(|error| unanswered(&error))?;
            match body.get("state").and_then(Value::as_str) {
                Some("pending") => {}
                Some(_) => return Ok(()),
                None => return Err(RunError::Nonsense { what: format!("approval {id}") }),
            }
        }
    }

    async fn ask(&self, what: &str, path: &str, fields: &[(&str, &str)]) -> Result<Value, RunError> {
        let mut form = vec![("workload_id", self.workload.as_str()), ("secret", self.secret.as_str())];
        form.extend_from_slice(fields);
        let request =
            self.http.post(format!("{}{path}", self.base)).header("x-caracal-launch-id", &self.launch);
        let unanswered =
            |error: &reqwest::Error| RunError::Unanswered { what: what.to_owned(), why: causes(error) };
        let answer = request.form(&form).send().await.map_err(|error| unanswered(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| unanswered(&error))?;
        understood(what, status, &text)
    }
}

fn understood(what: &str, status: StatusCode, text: &str) -> Result<Value, RunError> {
    let body: Option<Value> = serde_json::from_str(text).ok();
    if status.is_success() {
        return body.ok_or_else(|| RunError::Nonsense { what: what.to_owned() });
    }
    let body = body.unwrap_or_default();
    let member = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if member("error") == "interaction_required" && !member("approval_id").is_empty() {
        return Err(RunError::Pending { env: what.to_owned(), id: member("approval_id") });
    }
    Err(RunError::Refused {
        what: what.to_owned(),
        status: status.as_u16(),
        code: member("error"),
        description: member("error_description"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_sts_23_answers_are_understood() {
        let ask = |status: u16, text: &str| {
            understood("KEY", StatusCode::from_u16(status).unwrap(), text).map_err(|error| error.to_string())
        };
        assert!(ask(200, r#"{"credential":"x"}"#).is_ok());
        for (status, text, word) in [
            (401, r#"{"error":"interaction_required","approval_id":"a1"}"#, "--approval KEY=a1"),
            (401, r#"{"error":"access_denied","error_description":"no"}"#, "KEY: 401 access_denied: no"),
            (502, "<html>", "KEY: 502"),
            (200, "<html>", "not one of an STS"),
        ] {
            let error = ask(status, text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn contract_admin_16_3_only_a_named_variable_may_be_missing_or_filled() {
        let binding = |text: &str| serde_json::from_str::<Binding>(text).unwrap();
        for (text, missing) in [
            (r#"{"env":"A","resource":"r"}"#, false),
            (r#"{"env":"A","optional":true}"#, false),
            (r#"{"env":"A","optional":true,"on_failure":"error"}"#, false),
            (r#"{"env":"A","on_failure":"warn"}"#, false),
            (r#"{"env":"A","optional":true,"on_failure":"warn"}"#, true),
        ] {
            assert_eq!(binding(text).may_be_missing(), missing, "{text}");
        }
        for (env, good) in
            [("A_1", true), ("_a", true), ("1A", false), ("A-B", false), ("", false), ("ld_preload", false)]
        {
            let binding = Binding { env: env.to_owned(), optional: false, on_failure: None };
            assert_eq!(binding.check().is_ok(), good, "{env}");
        }
    }
}
