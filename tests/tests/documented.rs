//! The commands that render bootstraps do what the documents say, as they stand there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use caracal_envoy::lint::{Code, lint};
use caracal_tests::binary;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tokio::process::Command;

/// The blocks of a document's commands that hold this.
fn commands(document: &str, holding: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.filter(|block| block.contains(holding)).collect()
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
        std::os::unix::fs::symlink(binary(), folder.path().join("caracal")).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &blocks[0]]).current_dir(folder.path()).env("PATH", path);
        let output = shell.output().await.unwrap();
        assert!(output.status.success(), "{document}: {}", String::from_utf8_lossy(&output.stderr));
        let bootstrap = std::fs::read_to_string(folder.path().join("envoy.json")).unwrap();
        let found: Vec<_> = lint(&bootstrap).unwrap().iter().map(|finding| finding.code).collect();
        assert_eq!(found, findings, "{document}");
        // The key is read, and never written.
        assert!(!bootstrap.contains("abababab"), "{document}");
    }
}
