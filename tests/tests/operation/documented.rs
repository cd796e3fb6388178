//! The commands that render bootstraps, and those that start Caracal with an xDS server, do what the documents say, as they
//! stand there.

use caracal_envoy::lint::{Code, lint};
use caracal_tests::{Authority, binary, envoy_binary, filter_module};
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The blocks of a document's commands that hold this.
fn commands(document: &str, holding: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.filter(|block| block.contains(holding)).collect()
}

/// A shell that runs a documented block in this folder, where `caracal` is this one.
fn shell(block: &str, folder: &Path) -> Command {
    let caracal = folder.join("caracal");
    if !caracal.exists() {
        std::os::unix::fs::symlink(binary(), caracal).unwrap();
    }
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", block]).current_dir(folder).env("PATH", path).kill_on_drop(true);
    shell
}

#[tokio::test]
async fn documented_bootstraps_are_rendered_and_pass_the_lint() {
    let cases: [(&str, &[Code]); 2] = [("envoy.md", &[]), ("xds.md", &[Code::FilterMissing])];
    for (document, findings) in cases {
        let blocks = commands(document, "caracal envoy bootstrap");
        assert_eq!(blocks.len(), 1, "{document}");
        let folder = tempfile::tempdir().unwrap();
        let secrets = folder.path().join("DATA/secrets");
        std::fs::create_dir_all(&secrets).unwrap();
        let key = secrets.join("gatewayStsHmacKey");
        std::fs::write(&key, "ab".repeat(32)).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let output = shell(&blocks[0], folder.path()).output().await.unwrap();
        assert!(output.status.success(), "{document}: {}", String::from_utf8_lossy(&output.stderr));
        let bootstrap = std::fs::read_to_string(folder.path().join("envoy.json")).unwrap();
        let found: Vec<_> = lint(&bootstrap).unwrap().iter().map(|finding| finding.code).collect();
        assert_eq!(found, findings, "{document}");
        // The key is read, and never written.
        assert!(!bootstrap.contains("abababab"), "{document}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_start_the_xds_server() {
    let blocks = commands("xds.md", "caracal up");
    assert_eq!(blocks.len(), 2);
    for (block, network) in blocks.iter().zip([None, Some("0.0.0.0:18000")]) {
        let folder = tempfile::tempdir().unwrap();
        let (at, data) = (|name: &str| folder.path().join(name), folder.path().join("data"));
        let authority = Authority::new();
        authority.certify("caracal.internal", &at("server.pem"), &at("server.key"));
        authority.write(&at("gateways.pem"));
        // What is said of this machine alone is said by the environment.
        let on_this_machine = |command: &mut Command| {
            command.env("CARACAL_DATA", &data).env("CARACAL_ENVOY", envoy_binary());
            command.env("CARACAL_FILTER", filter_module());
            for service in ["ADMIN", "STS", "GATEWAY", "COORDINATOR", "AUDIT"] {
                command.env(format!("CARACAL_{service}_PORT"), "0");
            }
        };
        let mut up = shell(block, folder.path());
        on_this_machine(&mut up);
        let mut up = up.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let told = data.join("runtime.json");
        let comes = async {
            while !told.exists() {
                assert!(up.try_wait().unwrap().is_none(), "{block} ended");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), comes).await.expect("it does not come up");
        let running: Value = serde_json::from_str(&std::fs::read_to_string(&told).unwrap()).unwrap();
        assert_eq!(running["xds_network"].as_str(), network, "{block}");
        let follows = async {
            loop {
                let mut status = shell("caracal status --json", folder.path());
                on_this_machine(&mut status);
                let output = status.output().await.unwrap();
                let status: Value = serde_json::from_slice(&output.stdout).unwrap();
                let embedded = status.pointer("/gateway_configuration/status/gateways/embedded/streams");
                if embedded.and_then(Value::as_u64) == Some(1) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), follows).await.expect("the gateway never follows");
        let mut down = shell("caracal down", folder.path());
        on_this_machine(&mut down);
        assert!(down.status().await.unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(60), up.wait()).await;
        assert!(ended.expect("it goes on").unwrap().success(), "{block}");
    }
}
