//! The binary as its users meet it: the tour, status, an orderly end, and bad input.

use caracal_tests::{Options, Stack, binary, envoy_binary, filter_module};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

fn up(data: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("up")
        .arg("--data")
        .arg(data)
        .arg("--envoy")
        .arg(envoy_binary())
        .arg("--filter")
        .arg(filter_module());
    for port in ["--admin-port", "--sts-port", "--gateway-port", "--coordinator-port", "--audit-port"] {
        command.args([port, "0"]);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Gateways on other machines are served, with this in all three files.
fn xds_with(file: &Path) -> Vec<String> {
    let file = file.to_str().unwrap();
    let listen = ["--gateway-config", "xds", "--xds-listen", "127.0.0.1:0"];
    let files = ["--xds-cert", file, "--xds-key", file, "--xds-client-ca", file];
    listen.into_iter().chain(files).map(str::to_owned).collect()
}

fn alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The third field, after the name in parentheses, is the state; Z is dead and not yet buried.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_passes_and_passes_again_on_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output =
            up(&folder.path().join("data")).args(["--tour", "--exit-after-tour"]).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}\n{errors}");
        for expected in
            ["401", "200", "403", "ms after the answer to the revocation", "Every step did what it should."]
        {
            assert!(text.contains(expected), "no {expected:?} in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "colours without a terminal:\n{text}");
        assert!(!folder.path().join("data/runtime.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_and_down_ends_everything() {
    let mut stack = Stack::start().await;
    let folder = stack.folder();
    let status =
        Command::new(binary()).arg("status").arg("--json").arg("--data").arg(&folder).output().await.unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    let names: Vec<&str> =
        report["services"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["api", "sts", "gateway", "audit", "coordinator"]);
    for memory in ["control_plane_resident", "envoy_resident", "filter_worker"] {
        assert!(report["memory"][memory].as_u64().is_some_and(|bytes| bytes > 0), "{memory}: {report}");
    }
    println!("memory: {}", report["memory"]);
    let envoy = stack.running["envoy_pid"].as_u64().unwrap();
    assert!(alive(envoy));
    let down = Command::new(binary()).arg("down").arg("--data").arg(&folder).output().await.unwrap();
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(stack.child.wait().await.unwrap().success());
    assert!(!alive(envoy));
    let again = Command::new(binary()).arg("status").arg("--data").arg(&folder).output().await.unwrap();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("does not hold a running Caracal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_envoy_ends_everything_and_the_death_of_caracal_ends_envoy() {
    let mut stack = Stack::start().await;
    let envoy = stack.running["envoy_pid"].as_u64().unwrap();
    let killed = Command::new("kill").args(["-9", &envoy.to_string()]).status().await.unwrap();
    assert!(killed.success());
    assert!(!stack.child.wait().await.unwrap().success());
    stack.restart().await;
    let envoy = stack.running["envoy_pid"].as_u64().unwrap();
    stack.kill().await;
    let gone = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while alive(envoy) {
            tokio::task::yield_now().await;
        }
    });
    gone.await.expect("Envoy outlived its parent");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_names_what_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broken = folder.path().join("broken.wasm");
    std::fs::write(&broken, b"no module").unwrap();
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let cases: Vec<(Vec<String>, &str)> = vec![
        (vec!["--filter".into(), "/nowhere.wasm".into()], "/nowhere.wasm"),
        (vec!["--filter".into(), text(&broken)], "Envoy"),
        (vec!["--envoy".into(), "/nowhere/envoy".into()], "/nowhere/envoy"),
        (vec!["--issuer".into(), "ftp://x".into()], "--issuer"),
        (vec!["--issuer".into(), "http://x/?q=1".into()], "query"),
        (vec!["--bind".into(), "somewhere".into()], "--bind"),
        (vec!["--sts-port".into(), "70000".into()], "--sts-port"),
        (vec!["--envoy-workers".into(), "0".into()], "--envoy-workers"),
        (vec!["--exit-after-tour".into()], "--tour"),
        (vec!["--data".into(), text(&open)], "can be read by others"),
        (vec!["--no-such-flag".into()], "--no-such-flag"),
        (vec!["--tls-extra-ca-file".into(), "/nowhere.pem".into()], "/nowhere.pem"),
        (vec!["--tls-extra-ca-file".into(), text(&broken)], "holds no usable certificate"),
        (vec!["--private-egress-hosts".into(), "https://idp".into()], "CARACAL_PRIVATE_EGRESS_HOSTS"),
        (vec!["--xds-listen".into(), "127.0.0.1:0".into()], "--xds-cert: is missing"),
        (xds_with(&broken), "--xds-cert: "),
        (xds_with(&broken), "broken.wasm: holds no certificate"),
    ];
    for (arguments, expected) in cases {
        let mut command = Command::new(binary());
        command.arg("up");
        let given = |name: &str| arguments.iter().any(|argument| argument == name);
        for (name, value) in
            [("--data", data.clone()), ("--envoy", envoy_binary()), ("--filter", filter_module())]
        {
            if !given(name) {
                command.arg(name).arg(value);
            }
        }
        for port in ["--admin-port", "--sts-port", "--gateway-port", "--coordinator-port", "--audit-port"] {
            if !given(port) {
                command.args([port, "0"]);
            }
        }
        let output = command.args(&arguments).stdin(Stdio::null()).output().await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?} was taken");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
        assert!(!data.join("runtime.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_a_folder_in_use_is_named() {
    let stack = Stack::start_with(Options::default()).await;
    let taken = stack.running["sts"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let folder = tempfile::tempdir().unwrap();
    let mut command = up(&folder.path().join("data"));
    let output = command.args(["--sts-port", &taken]).output().await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    // The port is given twice here, so either complaint names it.
    assert!(
        !output.status.success() && (errors.contains(&taken) || errors.contains("--sts-port")),
        "{errors}"
    );
    let output = up(&stack.folder()).output().await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("is in use by a running"), "{errors}");
}
