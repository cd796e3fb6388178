use super::*;
use caracal_envoy::lint::lint;
use clap::Parser;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: BootstrapFlags,
}

const PLACES: [&str; 6] =
    ["--gateway-id", "edge", "--sts", "10.0.0.5:8080", "--audit", "audit.internal:9090"];
const FILES: [&str; 4] = ["--module", "/opt/filter.wasm", "--admin-socket", "/run/admin.sock"];
const XDS: [&str; 10] = [
    "--xds",
    "xds.internal:18000",
    "--xds-ca",
    "/etc/ca.pem",
    "--xds-cert",
    "/etc/edge.pem",
    "--xds-key",
    "/etc/edge.key",
    "--out",
    "/nowhere/edge.json",
];

fn parse(more: &[&str]) -> Result<BootstrapFlags, String> {
    let all = ["x"].iter().chain(&PLACES).chain(&FILES).chain(more);
    Line::try_parse_from(all).map(|line| line.flags).map_err(|error| error.to_string())
}

fn rendered(more: &[&str]) -> Value {
    render(&parse(more).unwrap().options().unwrap())
}

fn codes(bootstrap: &Value) -> Vec<String> {
    lint(&bootstrap.to_string()).unwrap().iter().map(|finding| finding.code.to_string()).collect()
}

fn key_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    write_private(&file, text).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn without_xds_everything_stands_in_it_and_the_lint_finds_nothing() {
    let bootstrap = rendered(&[
        "--listen",
        "0.0.0.0:443",
        "--zone",
        "z1",
        "--upstream-ca-file",
        "/etc/upstreams.pem",
        "--protect",
        "10.0.0.6:9090",
        "--mcp",
        "--upgrades",
        "websocket",
    ]);
    assert_eq!(codes(&bootstrap), Vec::<String>::new());
    let text = bootstrap.to_string();
    for part in ["/etc/upstreams.pem", r#"\"zone\":\"z1\""#, r#"\"mcp\":true"#, "websocket"] {
        assert!(text.contains(part), "{part}");
    }
    assert_eq!(
        bootstrap["static_resources"]["listeners"][0]["address"],
        json!({"socket_address": {"address": "0.0.0.0", "port_value": 443}})
    );
    assert_eq!(bootstrap["admin"]["address"]["pipe"]["path"], "/run/admin.sock");
    let guarded = |host: &str| text.contains(&format!(r#""address_prefix":"{host}""#));
    assert!(guarded("10.0.0.5") && guarded("10.0.0.6") && !guarded("audit.internal"));
}

#[test]
fn with_xds_the_way_to_the_server_is_verified_on_both_sides() {
    let hex = "ab".repeat(32);
    let (_folder, file) = key_file(&format!("{hex}\n"));
    let bootstrap = rendered(&[&XDS[..], &["--key-file", &file, "--listen", "0.0.0.0:443"]].concat());
    assert_eq!(codes(&bootstrap), ["filter_missing"]);
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
    let xds = clusters.iter().find(|cluster| cluster["name"] == "xds").unwrap();
    assert_eq!((&xds["type"], &xds["dns_lookup_family"]), (&json!("STRICT_DNS"), &json!("V4_PREFERRED")));
    let secret = |what: &str| {
        json!({"name": format!("xds_{what}"), "sds_config": {
            "path_config_source": {"path": format!("/nowhere/edge.xds-{what}.json")},
            "resource_api_version": "V3",
        }})
    };
    assert_eq!(
        xds["transport_socket"]["typed_config"],
        json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "xds.internal",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [secret("certificate")],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "xds.internal"}}],
                    },
                    "validation_context_sds_secret_config": secret("authority"),
                },
            },
        })
    );
    assert_eq!(
        bootstrap["node"]["metadata"]["caracal"],
        json!({"listener": {"address": "0.0.0.0", "port": 443}, "module": "/opt/filter.wasm"})
    );
    let key = GatewayKey::from_hex(&hex).unwrap();
    let credential = key.configuration_credential(&GatewayId::new("edge").unwrap());
    let text = bootstrap.to_string();
    assert!(text.contains(&format!("Bearer {credential}")) && !text.contains(&hex));
}

#[test]
fn a_bootstrap_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("envoy.json");
    run(&parse(&["--out", out.to_str().unwrap()]).unwrap()).unwrap();
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(written, rendered(&[]));
}

#[test]
fn files_that_envoy_follows_are_named_beside_the_bootstrap() {
    let folder = tempfile::tempdir().unwrap();
    let (_key, key) = key_file(&"ab".repeat(32));
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let out = at("edge.json");
    let xds = [&XDS[..8], &["--key-file", &key, "--out", &out]].concat();
    let paths = |more: &[&str]| {
        run(&parse(&[&xds[..], more].concat()).unwrap()).unwrap();
        let bootstrap: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
        let tls = "transport_socket/typed_config/common_tls_context";
        let path = |at: &str| {
            let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
            let xds = clusters.iter().find(|cluster| cluster["name"] == "xds").unwrap();
            let path = xds.pointer(&format!("/{tls}/{at}/sds_config/path_config_source/path"));
            path.unwrap().as_str().unwrap().to_owned()
        };
        (
            path("tls_certificate_sds_secret_configs/0"),
            path("combined_validation_context/validation_context_sds_secret_config"),
        )
    };
    assert_eq!(paths(&[]), (at("edge.xds-certificate.json"), at("edge.xds-authority.json")));
    assert_eq!(
        paths(&["--xds-secrets", "/etc/caracal"]),
        (
            "/etc/caracal/edge.xds-certificate.json".to_owned(),
            "/etc/caracal/edge.xds-authority.json".to_owned()
        )
    );
    for (what, kind, content) in [
        (
            "certificate",
            "tls_certificate",
            json!({
                "certificate_chain": {"filename": "/etc/edge.pem"},
                "private_key": {"filename": "/etc/edge.key"},
            }),
        ),
        ("authority", "validation_context", json!({"trusted_ca": {"filename": "/etc/ca.pem"}})),
    ] {
        let file = at(&format!("edge.xds-{what}.json"));
        let written: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let kind_of = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        let secret = json!({"@type": kind_of, "name": format!("xds_{what}"), kind: content});
        assert_eq!(written, json!({"resources": [secret]}));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "and nothing else");
}

#[test]
fn what_does_not_fit_together_is_named() {
    for (more, word) in [
        (&["--xds", "xds:1"][..], "--xds-ca"),
        (&XDS[..], "--key-file"),
        (&[&XDS[..8], &["--key-file", "/k"]].concat()[..], "--out"),
        (&["--xds-secrets", "/etc"][..], "--xds <HOST:PORT>"),
        (&["--out", "/"][..], "has to be a file"),
        (&["--xds-key", "/k"][..], "--xds <HOST:PORT>"),
        (&["--key-file", "/k"][..], "--xds <HOST:PORT>"),
        (&["--admin-port", "0"][..], "--admin-socket"),
        (&["--listen", "edge:1"][..], "--listen"),
        (&["--protect", "edge:1"][..], "--protect"),
        (&["--upstream-ca-file", "ca.pem"][..], "absolute"),
    ] {
        let error = parse(more).unwrap_err();
        assert!(error.contains(word), "{more:?}: {error}");
    }
    for fixed in [&["--mcp"][..], &["--zone", "z1"], &["--protect", "10.0.0.1:1"], &["--upgrades", "a"]] {
        let error = parse(&[&XDS[..], &["--key-file", "/k"], fixed].concat()).unwrap_err();
        assert!(error.contains("cannot be used with"), "{fixed:?}: {error}");
    }
    for (text, word) in [("", "is empty"), ("xyz", "hex")] {
        let (_folder, file) = key_file(text);
        let flags = parse(&[&XDS[..], &["--key-file", &file]].concat()).unwrap();
        let error = flags.options().unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(&file), "{text:?}: {error}");
    }
}
