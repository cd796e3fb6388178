//! What an operator asks of a running Caracal: status and doctor, healthy and with a part away; and `caracal run`.

use caracal_tests::{Options, Stack, World, binary};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What `caracal status --ready --json` prints, its numbers and addresses apart.
const STATUS: &str = include_str!("../../golden/status.json");
/// The names of what `caracal doctor --json` prints of a healthy Caracal with one zone.
const DOCTOR: &str = include_str!("../../golden/doctor.json");

async fn caracal(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(binary());
    let output = command.args(arguments).arg("--data").arg(folder).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
}

async fn report(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, text) = caracal(folder, arguments).await;
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Puts a word in place of what is another one every time.
fn steady(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match (name.as_str(), &value) {
                    ("url" | "apiUrl", Value::String(url)) => {
                        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
                        *value = format!("http://ADDRESS/{path}").into();
                    }
                    (_, Value::Number(_)) => *value = "NUMBER".into(),
                    _ => steady(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(steady),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_16_2_status_has_the_shape_of_the_contract() {
    let mut stack = Stack::start().await;
    let folder = stack.folder();
    let (code, mut ready) = report(&folder, &["status", "--ready", "--json"]).await;
    assert_eq!(code, 0, "{ready:#}");
    steady(&mut ready);
    assert_eq!(ready, serde_json::from_str::<Value>(STATUS).unwrap(), "{ready:#}");
    let (code, health) = report(&folder, &["status", "--json"]).await;
    assert_eq!((code, &health["mode"]), (0, &json!("health")));
    let (code, text) = caracal(&folder, &["status", "--ready"]).await;
    assert!(code == 0 && text.contains("coordinator"), "{text}");
    // The commands of the page, as they stand there.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (commands, _) = page.split_once("```sh\n").unwrap().1.split_once("```").unwrap();
    for line in commands.lines() {
        let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
        let (code, text) = caracal(&folder, &arguments).await;
        assert_eq!(code, 0, "{line}: {text}");
    }
    // The process is there and says nothing.
    let pid = stack.running["pid"].as_u64().unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().await.unwrap().success());
    let (code, silent) = report(&folder, &["status", "--json"]).await;
    assert!(Command::new("kill").args(["-CONT", &pid]).status().await.unwrap().success());
    assert_eq!((code, &silent["services"][0]["detail"]), (1, &json!("timeout")), "{silent:#}");
    // It is gone, and its file is still there.
    let running = std::fs::read_to_string(folder.join("runtime.json")).unwrap();
    stack.kill().await;
    std::fs::write(folder.join("runtime.json"), running).unwrap();
    let (code, gone) = report(&folder, &["status", "--ready", "--json"]).await;
    assert_eq!((code, &gone["services"][1]["detail"]), (1, &json!("unreachable")), "{gone:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_16_5_doctor_says_what_to_do() {
    let mut stack = Stack::start().await;
    let folder = stack.folder();
    let world = World::prepare(&stack).await;
    let bad = |report: &Value, status: &str| {
        let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["status"] == status);
        checks.map(|check| check["check"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Healthy, but for a zone that nothing is in.
    let (code, doctor) = report(&folder, &["doctor", "--json"]).await;
    assert_eq!((code, bad(&doctor, "fail")), (0, vec![]), "{doctor:#}");
    assert_eq!(bad(&doctor, "warn"), ["test resources"]);
    let (code, _) = report(&folder, &["doctor", "--json", "--strict"]).await;
    assert_eq!(code, 1);
    let mut world = world;
    world.add_resource("127.0.0.1:9".parse().unwrap()).await;
    let (code, doctor) = report(&folder, &["doctor", "--json", "--strict"]).await;
    assert_eq!(code, 0, "{doctor:#}");
    let mut shape = doctor.clone();
    steady(&mut shape);
    shape["context"]["zoneIds"] = json!(["ZONE"]);
    for check in shape["checks"].as_array_mut().unwrap() {
        check["detail"] = "DETAIL".into();
    }
    let expected: Value = serde_json::from_str(DOCTOR).unwrap();
    for part in ["command", "mode", "ready", "strict", "context", "summary"] {
        assert_eq!(shape[part], expected[part], "{part}: {shape:#}");
    }
    let found: Vec<&Value> = shape["checks"].as_array().unwrap().iter().collect();
    for check in expected["checks"].as_array().unwrap() {
        assert!(found.contains(&check), "no {check} in {shape:#}");
    }
    let (_, text) = caracal(&folder, &["doctor", "--zone", "nowhere", "--zone", "test"]).await;
    assert!(
        text.contains("FAIL nowhere") && text.contains("do:") && !text.contains(&world.admin_token),
        "{text}"
    );
    // A token of somebody else, the secret of the ledger cut short, and the folder open to others.
    let secrets = folder.join("secrets");
    std::fs::write(secrets.join("auditHmacKey"), "ab").unwrap();
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let token = folder.parent().unwrap().join("token");
    std::fs::write(&token, "cat_somebody-elses").unwrap();
    let (code, doctor) =
        report(&folder, &["doctor", "--json", "--admin-token-file", token.to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert_eq!(bad(&doctor, "fail"), ["admin_auth", "data_folder", "auditHmacKey"], "{doctor:#}");
    assert!(!doctor.to_string().contains("cat_"), "{doctor:#}");
    let advised = doctor["checks"].as_array().unwrap().iter();
    assert!(advised.filter(|check| check["status"] != "ok").all(|check| check["advice"].is_string()));
    let (code, preflight) = report(&folder, &["doctor", "--preflight", "--json"]).await;
    assert_eq!((code, &preflight["mode"]), (1, &json!("preflight")));
    // Envoy is frozen: the Gateway alone is away.
    let envoy = stack.running["envoy_pid"].as_u64().unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &envoy]).status().await.unwrap().success());
    let (_, doctor) = report(&folder, &["doctor", "--json"]).await;
    assert!(Command::new("kill").args(["-CONT", &envoy]).status().await.unwrap().success());
    assert_eq!(bad(&doctor, "fail").iter().filter(|check| *check == "gateway").count(), 2, "{doctor:#}");
    // Everything is away.
    stack.kill().await;
    let (code, text) = caracal(&folder, &["doctor"]).await;
    assert!(code == 1 && text.contains("FAIL running") && text.contains("caracal up"), "{text}");
}

/// A workload whose provider's key may be injected, and one whose may not.
async fn workload(world: &World) -> (String, String) {
    let mut bindings = Vec::new();
    for (name, injected) in [("open", true), ("closed", false)] {
        let body = json!({
            "identifier": format!("provider://{name}"), "kind": "api_key",
            "config_json": { "header_name": "X-Key", "api_key": format!("key-of-{name}"), "allow_runtime_injection": injected },
        });
        let provider = world.operate(Method::POST, &world.path("providers"), body).await;
        let resource = format!("resource://{name}");
        let body = json!({
            "identifier": resource, "upstream_url": "https://a.example.com", "scopes": ["a:read"],
            "credential_provider_id": provider["id"],
        });
        world.operate(Method::POST, &world.path("resources"), body).await;
        let optional = name == "closed";
        bindings.push(json!({
            "env": format!("{}_KEY", name.to_uppercase()), "resource": resource, "optional": optional,
            "on_failure": if optional { "warn" } else { "error" },
        }));
    }
    let made = world.operate(Method::POST, &world.path("workloads"), json!({ "name": "w" })).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let path = world.path(&format!("workloads/{id}"));
    world.operate(Method::PUT, &path, json!({ "bindings": bindings })).await;
    (id, made["secret"].as_str().unwrap().to_owned())
}

struct Launch<'a> {
    stack: &'a Stack,
    id: &'a str,
    secret: &'a str,
}

impl Launch<'_> {
    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut launch = Command::new(binary());
        launch.arg("run").args(options).arg("--").args(command).env("MINE", "kept-to-myself");
        launch.env("CARACAL_WORKLOAD_ID", self.id).env("CARACAL_WORKLOAD_SECRET", self.secret);
        launch.env("CARACAL_DATA", self.stack.folder()).kill_on_drop(true);
        launch
    }

    async fn run(&self, options: &[&str], command: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(options, command).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_16_3_a_command_runs_with_the_credentials_of_its_workload() {
    let stack = Stack::start_with(Options::default()).await;
    let world = World::prepare(&stack).await;
    let (id, secret) = workload(&world).await;
    let launch = Launch { stack: &stack, id: &id, secret: &secret };

    // What may be missing is told; what may not be passed on is not.
    let (code, environment, told) = launch.run(&["--pass-env", "MINE"], &["env"]).await;
    assert_eq!(code, Some(0), "{told}");
    let lines: Vec<&str> = environment.lines().collect();
    assert!(
        lines.contains(&"OPEN_KEY=key-of-open") && lines.contains(&"MINE=kept-to-myself"),
        "{environment}"
    );
    assert!(!environment.contains("CARACAL_") && !environment.contains("CLOSED_KEY"), "{environment}");
    assert!(told.contains("CLOSED_KEY") && told.contains("it runs without"), "{told}");
    assert!(!told.contains("key-of-") && !told.contains(&secret), "{told}");
    let (_, environment, _) = launch.run(&[], &["env"]).await;
    assert!(!environment.contains("MINE="), "{environment}");

    // The status, and the signal, are the command's own.
    for (command, status) in
        [(vec!["sh", "-c", "exit 7"], 7), (vec!["/nowhere/at/all"], 127), (vec!["/"], 126)]
    {
        assert_eq!(launch.run(&[], &command).await.0, Some(status), "{command:?}");
    }
    let mut sleeping =
        launch.command(&[], &["sh", "-c", "echo up; exec sleep 60"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(sleeping.stdout.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.unwrap();
    let pid = sleeping.id().unwrap();
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        !arguments.contains("caracal") && !arguments.contains("key-of"),
        "the command is the process: {arguments:?}"
    );
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(10), sleeping.wait()).await.unwrap().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15));

    // What is not as it should be ends it before the command begins.
    for (id, secret, options, word) in [
        (id.as_str(), "ws_somebody-elses", vec![], "401 access_denied"),
        ("nobody", secret.as_str(), vec![], "401 access_denied"),
        (&id, &secret, vec!["--sts-url", "http://127.0.0.1:9"], "did not answer"),
        (&id, &secret, vec!["--approval", "OTHER=1"], "no binding OTHER"),
        (&id, &secret, vec!["--pass-env", "CARACAL_WORKLOAD_SECRET"], "is not passed on"),
    ] {
        let (code, out, told) = Launch { stack: &stack, id, secret }.run(&options, &["echo", "it ran"]).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{told}");
        assert!(told.contains(word) && !told.contains(secret), "no {word:?} in {told}");
    }
    let path = world.path(&format!("workloads/{id}"));
    let row = world.operate(Method::GET, &path, Value::Null).await;
    let mut bindings = row["bindings"].clone();
    bindings[1] = json!({ "env": "CLOSED_KEY", "resource": "resource://closed" });
    world.operate(Method::PUT, &path, json!({ "bindings": bindings })).await;
    let (code, out, told) = launch.run(&[], &["echo", "it ran"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(told.contains("CLOSED_KEY: 403"), "{told}");
    let log = stack.log();
    assert!(!log.contains("key-of-") && !log.contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_16_3_a_command_waits_for_its_approval() {
    let stack = Stack::start().await;
    let world = World::prepare(&stack).await;
    let (id, secret) = workload(&world).await;
    let path = world.path(&format!("workloads/{id}"));
    let bindings = json!([{ "env": "OPEN_KEY", "resource": "resource://open", "scopes": ["a:read"] }]);
    world.operate(Method::PUT, &path, json!({ "bindings": bindings })).await;
    let tiers = "risk := [{\"scope\": \"a:read\", \"tier\": \"high\"}]\n\n\
                 approval_tiers := [{\"tier\": \"high\", \"approver\": \"operator\", \"ttl_seconds\": 300, \"privacy\": \"identified\"}]\n";
    world.activate("gated", &world.policy(&world.application, "", tiers)).await;
    let launch = Launch { stack: &stack, id: &id, secret: &secret };
    let (code, out, told) = launch.run(&[], &["env"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""), "{told}");
    let (_, rest) = told.split_once("--approval OPEN_KEY=").expect(&told);
    let approval = rest.split([',', ' ']).next().unwrap().to_owned();
    let waiting = launch.command(&["--wait", "60"], &["env"]).stdout(Stdio::piped()).spawn().unwrap();
    let token = json!({ "name": "approver", "scope": "global", "capability": "approve" });
    let token = world.operate(Method::POST, "/v1/admin-tokens", token).await;
    let approve =
        world.http.post(format!("{}{}", world.admin, world.path(&format!("approvals/{approval}/approve"))));
    let approved =
        approve.bearer_auth(token["token"].as_str().unwrap()).json(&json!({})).send().await.unwrap();
    assert_eq!(approved.status(), 200);
    let output =
        tokio::time::timeout(Duration::from_secs(30), waiting.wait_with_output()).await.unwrap().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    assert!(environment.contains("OPEN_KEY=key-of-open"), "{environment}");
}
