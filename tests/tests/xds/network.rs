//! A gateway on another machine: its bootstrap comes from `caracal envoy bootstrap`, its configuration by mutual TLS.

use crate::support::{clusters_at, served, start_with, status, until};
use caracal_envoy::KEY_VARIABLE;
use caracal_envoy::lint::{Code, lint};
use caracal_tests::{
    Authority, Sidecar, Stack, Upstream, World, binary, envoy_binary, filter_module, gateway_key,
};
use reqwest::StatusCode;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const SHOWN: &str = "/transport_socket/typed_config/common_tls_context/tls_certificate_sds_secret_configs";

/// A Caracal that gateways follow over the network, and the authority of all certificates.
struct Site {
    stack: Stack,
    authority: Authority,
    folder: TempDir,
    /// What its server's certificate names, and what gateways call it.
    host: &'static str,
    /// How many certificates it gave gateways.
    issued: AtomicUsize,
}

impl Site {
    async fn start() -> Self {
        Self::start_with("127.0.0.1", false).await
    }

    /// Called like this, and with a list of revoked certificates, which is empty, where it is wanted.
    async fn start_with(host: &'static str, list: bool) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        authority.write(&folder.path().join("ca"));
        authority.certify(host, &folder.path().join("server"), &folder.path().join("server.key"));
        let (ca, certificate, key) = (at("ca"), at("server"), at("server.key"));
        let listen = ["--xds-listen", "127.0.0.1:0", "--xds-client-ca", &ca];
        let own = ["--xds-cert", &certificate, "--xds-key", &key];
        let crl = at("crl");
        authority.revoke(&[], &folder.path().join("crl"));
        let lists: &[&str] = if list { &["--xds-client-crl", &crl] } else { &[] };
        let stack = start_with(&[&listen[..], &own[..], lists].concat()).await;
        Self { stack, authority, folder, host, issued: AtomicUsize::new(0) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The number of the bootstrap that is rendered next: the gateway's files are named after it.
    fn next(&self) -> usize {
        self.issued.load(Ordering::SeqCst)
    }

    /// What the command writes for a gateway with a certificate of this authority for this name.
    async fn bootstrap(&self, id: &str, authority: &Authority, certified: &str) -> Value {
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        let (certificate, key) = (self.file(&format!("{number}.pem")), self.file(&format!("{number}.key")));
        let out = self.file(&format!("{number}.json"));
        authority.certify(certified, &certificate, &key);
        let address = |service: &str| self.stack.running[service].as_str().unwrap().to_owned();
        let mut command = Command::new(binary());
        command.args(["envoy", "bootstrap", "--listen", "127.0.0.1:0", "--admin-port", "0"]);
        command.args(["--gateway-id", id, "--sts", &address("sts"), "--audit", &address("audit")]);
        let xds = address("xds_network").replace("127.0.0.1", self.host);
        command.arg("--module").arg(filter_module()).args(["--xds", &xds]);
        // The server is verified by the file as it is now, whatever the server believes later.
        self.authority.write(&self.file("server-ca"));
        command.arg("--xds-ca").arg(self.file("server-ca"));
        command.arg("--xds-cert").arg(certificate).arg("--xds-key").arg(key);
        command.arg("--key-file").arg(self.stack.folder().join("secrets/gatewayStsHmacKey"));
        command.arg("--out").arg(&out);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
    }

    /// How often something was counted so far.
    async fn counted(&self, sample: &str) -> u64 {
        let metrics = reqwest::get(format!("{}/metrics", self.stack.url("admin"))).await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// The streams of a gateway, as operators are shown them.
    async fn streams(&self, id: &str) -> Value {
        status(&self.stack).await["gateway_configuration"]["status"]["gateways"][id]["streams"].clone()
    }
}

async fn read(world: &World, gateway: &Sidecar, resource: &str, mandate: &str) -> StatusCode {
    let request = world.http.get(format!("{}/v1/orders", gateway.url)).bearer_auth(mandate);
    request.header("x-caracal-resource", resource).send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_elsewhere_follows_and_certificates_change_meanwhile() {
    let (site, upstream) = (Site::start().await, Upstream::start().await);
    let world = World::configure(&site.stack, &upstream).await;
    let bootstrap = site.bootstrap("edge", &site.authority, "edge").await;
    let found: Vec<_> = lint(&bootstrap.to_string()).unwrap().iter().map(|finding| finding.code).collect();
    assert_eq!(found, [Code::FilterMissing]);
    let gateway = Sidecar::start_with(&site.stack, &bootstrap, 401).await;
    let agent = world.agent().await;
    let passes = async |what: &str, resource: &'static str| {
        let world = World { resource, ..world.clone() };
        until(what, async || {
            read(&world, &gateway, resource, &world.mint(&agent).await).await == StatusCode::OK
        })
        .await;
    };
    passes("a governed request", world.resource).await;
    assert!(!upstream.seen().is_empty());
    let held = world.mint(&agent).await;
    assert_eq!(read(&world, &gateway, world.resource, &held).await, StatusCode::OK);
    assert_eq!(read(&world, &gateway, world.resource, &held).await, StatusCode::UNAUTHORIZED);
    let other = Upstream::start().await;
    world.add_resource_named("resource://new", other.address).await;
    let clusters = async || served(&clusters_at(&world.http, &gateway.admin).await).len();
    until("the new resource", async || clusters().await == 2).await;
    assert_eq!(site.streams("edge").await, 1);
    assert_eq!(site.streams("embedded").await, 1, "beside the gateway on this machine");

    // The server's certificate is renewed; a broken one before it changes nothing.
    let loads = |outcome: &str| format!("caracal_xds_certificate_loads_total{{outcome=\"{outcome}\"}}");
    std::fs::write(site.file("server"), "broken").unwrap();
    until("the broken file", async || site.counted(&loads("failed")).await == 1).await;
    assert!(site.stack.log().contains("cannot be used; the last ones stay"));
    site.authority.certify("127.0.0.1", &site.file("server"), &site.file("server.key"));
    until("the new certificate", async || site.counted(&loads("done")).await >= 1).await;
    assert_eq!(site.streams("edge").await, 1);

    // An authority that is not trusted any more: its gateways are told nothing, and go on with what they have.
    Authority::new().write(&site.file("ca"));
    until("the end of the stream", async || site.streams("edge").await == 0).await;
    until("a refusal", async || {
        site.counted("caracal_xds_refused_streams_total{reason=\"handshake\"}").await > 0
    })
    .await;
    world.add_resource_named("resource://newer", other.address).await;
    passes("what it has", world.resource).await;
    assert_eq!(clusters().await, 2);
    site.authority.write(&site.file("ca"));
    until("the return", async || site.streams("edge").await == 1).await;
    until("what it missed", async || clusters().await == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_shows_and_trusts_renewed_certificates_without_a_restart() {
    let site = Site::start().await;
    let upstream = Upstream::start().await;
    let world = World::configure(&site.stack, &upstream).await;
    let number = site.next();
    let (certificate, key) = (site.file(&format!("{number}.pem")), site.file(&format!("{number}.key")));
    let bootstrap = site.bootstrap("edge", &site.authority, "edge").await;
    let gateway = Sidecar::start_with(&site.stack, &bootstrap, 401).await;
    let clusters = async || served(&clusters_at(&world.http, &gateway.admin).await).len();
    until("what there is", async || clusters().await == 1).await;
    let handshakes = "caracal_xds_refused_streams_total{reason=\"handshake\"}";

    // The authority of gateways is another: the old certificate opens nothing, until the gateway has a new one.
    let renewed = Authority::new();
    renewed.write(&site.file("ca"));
    until("the end of the stream", async || site.streams("edge").await == 0).await;
    until("a refusal", async || site.counted(handshakes).await > 0).await;
    renewed.certify("edge", &certificate, &key);
    until("the return", async || site.streams("edge").await == 1).await;
    let other = Upstream::start().await;
    world.add_resource_named("resource://new", other.address).await;
    until("what is new", async || clusters().await == 2).await;

    // The server's certificate comes from the new authority as well. A gateway that has to come again trusts it once its
    // own file says so.
    let loads = "caracal_xds_certificate_loads_total{outcome=\"done\"}";
    let before = site.counted(loads).await;
    renewed.certify("127.0.0.1", &site.file("server"), &site.file("server.key"));
    until("the server's certificate", async || site.counted(loads).await > before).await;
    Authority::new().write(&site.file("ca"));
    until("the end of the stream", async || site.streams("edge").await == 0).await;
    renewed.write(&site.file("ca"));
    let unverified = "/stats?filter=cluster.xds.ssl.fail_verify_error&format=json";
    until("a server that is not trusted", async || {
        let answer = world.http.get(format!("{}{unverified}", gateway.admin)).send().await.unwrap();
        let stats: Value = answer.json().await.unwrap();
        stats["stats"][0]["value"].as_u64().is_some_and(|count| count > 0)
    })
    .await;
    assert_eq!(site.streams("edge").await, 0);
    renewed.write(&site.file("server-ca"));
    until("the return", async || site.streams("edge").await == 1).await;
    world.add_resource_named("resource://newer", other.address).await;
    until("what is newer", async || clusters().await == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_certificate_is_revoked_is_told_nothing_until_it_has_another() {
    let site = Site::start_with("127.0.0.1", true).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&site.stack, &upstream).await;
    let number = site.next();
    let (certificate, key) = (site.file(&format!("{number}.pem")), site.file(&format!("{number}.key")));
    let bootstrap = site.bootstrap("edge", &site.authority, "edge").await;
    let serial = site.authority.certify("edge", &certificate, &key);
    let gateway = Sidecar::start_with(&site.stack, &bootstrap, 401).await;
    let clusters = async || served(&clusters_at(&world.http, &gateway.admin).await).len();
    until("what there is", async || clusters().await == 1).await;
    site.authority.revoke(&[serial], &site.file("crl"));
    until("the end of the stream", async || site.streams("edge").await == 0).await;
    let revoked = "caracal_xds_refused_streams_total{reason=\"revoked\"}";
    until("a refusal", async || site.counted(revoked).await > 0).await;
    let other = Upstream::start().await;
    world.add_resource_named("resource://new", other.address).await;
    assert_eq!(clusters().await, 1);
    site.authority.certify("edge", &certificate, &key);
    until("the return", async || site.streams("edge").await == 1).await;
    until("what it missed", async || clusters().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_found_by_name() {
    let (site, upstream) = (Site::start_with("localhost", false).await, Upstream::start().await);
    let world = World::configure(&site.stack, &upstream).await;
    let bootstrap = site.bootstrap("edge", &site.authority, "edge").await;
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
    let xds = clusters.iter().find(|cluster| cluster["name"] == "xds").unwrap();
    assert_eq!(xds["type"], "STRICT_DNS");
    let gateway = Sidecar::start_with(&site.stack, &bootstrap, 401).await;
    until("what there is", async || served(&clusters_at(&world.http, &gateway.admin).await).len() == 1).await;
    let agent = world.agent().await;
    until("a governed request", async || {
        read(&world, &gateway, world.resource, &world.mint(&agent).await).await == StatusCode::OK
    })
    .await;
}

/// An Envoy that has to be refused.
struct Refused {
    admin: String,
    _child: Child,
    _folder: TempDir,
}

impl Refused {
    async fn start(site: &Site, bootstrap: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, admin) = (folder.path().join("envoy.json"), folder.path().join("admin"));
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let mut command = Command::new(envoy_binary());
        command.arg("--config-path").arg(&config).arg("--admin-address-path").arg(&admin);
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "off"]);
        command.env(KEY_VARIABLE, gateway_key(&site.stack)).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.kill_on_drop(true).spawn().unwrap();
        until("Envoy's administration", async || admin.exists()).await;
        let admin = std::fs::read_to_string(admin).unwrap();
        Self { admin: format!("http://{}", admin.trim()), _child: child, _folder: folder }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_the_gateway_is_told_nothing() {
    let site = Site::start().await;
    let http = reqwest::Client::new();
    let stranger = Authority::new();
    let own = site.bootstrap("edge", &site.authority, "edge").await;
    let credential = "/dynamic_resources/ads_config/grpc_services/0/initial_metadata/0/value";
    let another = site.bootstrap("other", &site.authority, "other").await.pointer(credential).cloned();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut bootstrap = own.clone();
        change(&mut bootstrap);
        bootstrap
    };
    let xds = |bootstrap: &mut Value, change: &dyn Fn(&mut Value)| {
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        change(clusters.iter_mut().find(|cluster| cluster["name"] == "xds").unwrap());
    };
    let uncertified = changed(&|bootstrap| {
        xds(bootstrap, &|cluster| assert!(cluster.pointer_mut(SHOWN).unwrap().take().is_array()));
    });
    let plaintext = changed(&|bootstrap| {
        xds(bootstrap, &|cluster| assert!(cluster["transport_socket"].take().is_object()));
    });
    let wrong_credential = changed(&|bootstrap| {
        *bootstrap.pointer_mut(credential).unwrap() = another.clone().unwrap();
    });
    for (what, bootstrap, reason) in [
        ("no certificate", uncertified, "handshake"),
        ("plaintext", plaintext, "handshake"),
        ("another authority", site.bootstrap("edge", &stranger, "edge").await, "handshake"),
        // With this gateway's credential, and its id.
        (
            "another gateway's certificate",
            site.bootstrap("edge", &site.authority, "other").await,
            "wrong_certificate",
        ),
        ("another gateway's credential", wrong_credential, "wrong_credential"),
    ] {
        let sample = format!("caracal_xds_refused_streams_total{{reason=\"{reason}\"}}");
        let before = site.counted(&sample).await;
        let envoy = Refused::start(&site, &bootstrap).await;
        until(what, async || site.counted(&sample).await > before).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listeners = http.get(format!("{}/listeners", envoy.admin)).send().await.unwrap();
        assert_eq!(listeners.text().await.unwrap().trim(), "", "{what}");
        assert_eq!(served(&clusters_at(&http, &envoy.admin).await), Vec::<String>::new(), "{what}");
    }
    let report = status(&site.stack).await;
    assert!(report["gateway_configuration"]["status"]["gateways"].get("edge").is_none(), "{report}");
    // The one that is the gateway is told everything.
    let gateway = Sidecar::start_with(&site.stack, &own, 401).await;
    assert_eq!(site.streams("edge").await, 1);
    drop(gateway);
}
