//! The door for other machines: who is told anything there, and what becomes of certificates that change.

use crate::support::{CLUSTER, Gateway, World};
use caracal_envoy::xds::{Lookup, NetworkFiles, STATUS_PATH};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Connections, and streams, that one gateway may have.
const PER_GATEWAY: usize = 8;

fn nobody() -> Lookup {
    Lookup::new(|_| async { Err(std::io::Error::other("nobody is asked")) })
}

/// An authority, and the files of a server that it certified.
struct Trust {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "An authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Trust {
    fn new() -> Self {
        let this = Self { authority: authority(), folder: tempfile::tempdir().unwrap() };
        this.certify_server("server.test");
        std::fs::write(this.path("ca"), this.authority.pem()).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn certify_server(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.path("cert"), certificate.pem()).unwrap();
        std::fs::write(self.path("key"), key.serialize_pem()).unwrap();
    }

    fn files(&self) -> NetworkFiles {
        NetworkFiles {
            certificate: self.path("cert"),
            key: self.path("key"),
            client_ca: self.path("ca"),
            client_crl: None,
        }
    }

    /// Writes the list of the certificates that this authority revoked, which is good until this year.
    fn revoke(&self, serials: &[u64], until: i32) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.authority).unwrap().pem().unwrap();
        std::fs::write(self.path("crl"), list).unwrap();
    }

    /// Connects to a server of this name with a certificate for these names.
    async fn connect(
        &self,
        to: SocketAddr,
        server: &str,
        names: &[SanType],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        self.connect_as(to, server, params).await
    }

    /// The same with this certificate.
    async fn connect_as(
        &self,
        to: SocketAddr,
        server: &str,
        params: CertificateParams,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = server.to_owned().try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
    }

    async fn channel(&self, world: &World, names: &[SanType]) -> Channel {
        channel(self.connect(world.network(), "server.test", names).await.unwrap()).await
    }

    /// Connects with the certificate that has this number.
    async fn numbered(&self, world: &World, name: &str, serial: u64) -> TlsStream<TcpStream> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        self.connect_as(world.network(), "server.test", params).await.unwrap()
    }
}

async fn channel(stream: TlsStream<TcpStream>) -> Channel {
    let mut stream = Some(stream);
    let connect = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| std::io::Error::other("one connection is enough")) }
    });
    Endpoint::from_static("http://xds").connect_with_connector(connect).await.unwrap()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_needs_its_own_certificate_and_its_own_credential() {
    let trust = Trust::new();
    let world = World::start_on_network(nobody(), trust.files()).await;
    world.put_and_serve("orders", "http://10.0.0.1").await;
    for (names, node, credential, refused) in [
        (vec![dns("edge")], "edge", Some("edge"), None),
        (vec![uri("spiffe://example.org/gateway/edge")], "edge", Some("edge"), None),
        (vec![dns("other"), dns("edge")], "edge", Some("edge"), None),
        // The certificate is another gateway's, whatever is known of this one.
        (vec![dns("other")], "edge", Some("edge"), Some(Code::Unauthenticated)),
        (vec![uri("spiffe://edge/other")], "edge", Some("edge"), Some(Code::Unauthenticated)),
        // The certificate alone is not enough.
        (vec![dns("edge")], "edge", Some("other"), Some(Code::Unauthenticated)),
        (vec![dns("edge")], "edge", None, Some(Code::Unauthenticated)),
        (vec![dns("edge")], "other", Some("edge"), Some(Code::Unauthenticated)),
        (vec![dns("edge")], "", Some("edge"), Some(Code::InvalidArgument)),
    ] {
        let what = format!("{names:?} {node} {credential:?}");
        let channel = trust.channel(&world, &names).await;
        let authorization = credential.map(|id| format!("Bearer {}", world.credential(id)));
        let opened = Gateway::open_on(channel, node, authorization.as_deref()).await;
        let code = match opened {
            Ok(mut gateway) => {
                gateway.want(CLUSTER, &[]).await;
                if refused.is_none() {
                    assert_eq!(gateway.taken().await.0.len(), 1, "{what}");
                    continue;
                }
                gateway.end().await
            }
            Err(refusal) => Some(refusal.code()),
        };
        assert_eq!(code, refused, "{what}");
    }
    let gateways: Vec<_> = world.status().await.gateways.into_keys().collect();
    assert_eq!(gateways, ["edge"]);
    world.stop().await;
}

/// Whether the server ends the connection without a word of HTTP/2.
async fn is_ended(mut stream: TlsStream<TcpStream>) -> bool {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
    read.is_ok_and(|read| !matches!(read, Ok(1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_names_no_gateway_opens_nothing() {
    let trust = Trust::new();
    let world = World::start_on_network(nobody(), trust.files()).await;
    for names in [vec![], vec![dns("*.example.org")], vec![uri("urn:edge")]] {
        let stream = trust.connect(world.network(), "server.test", &names).await.unwrap();
        assert!(is_ended(stream).await, "{names:?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_leaves_room_for_the_others() {
    const REASON: &str = "too_many_of_gateway";
    let trust = Trust::new();
    let world = World::start_on_network(nobody(), trust.files()).await;
    world.put_and_serve("orders", "http://10.0.0.1").await;
    let (edge, idle) = ([dns("edge")], [dns("idle")]);
    let authorization = |id: &str| format!("Bearer {}", world.credential(id));

    // Connections, each with a stream.
    let (mut channels, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..PER_GATEWAY {
        let channel = trust.channel(&world, &edge).await;
        let mut stream =
            Gateway::open_on(channel.clone(), "edge", Some(&authorization("edge"))).await.unwrap();
        stream.want(CLUSTER, &[]).await;
        assert_eq!(stream.taken().await.0.len(), 1);
        channels.push(channel);
        streams.push(stream);
    }
    assert_eq!(world.refusals(REASON).await, 0);
    assert!(is_ended(trust.connect(world.network(), "server.test", &edge).await.unwrap()).await);
    assert_eq!(world.refusals(REASON).await, 1);
    let more = Gateway::open_on(channels[0].clone(), "edge", Some(&authorization("edge"))).await;
    assert_eq!(more.err().map(|refusal| refusal.code()), Some(Code::ResourceExhausted));
    // By the other door it is the same gateway.
    let by_socket = Gateway::refused(&world, "edge", Some(&authorization("edge"))).await;
    assert_eq!(by_socket, Code::ResourceExhausted);
    assert_eq!(world.refusals(REASON).await, 3);

    // Streams that never say who they are.
    let channel = trust.channel(&world, &idle).await;
    let mut silent = Vec::new();
    for _ in 0..PER_GATEWAY {
        silent.push(Gateway::open_on(channel.clone(), "idle", Some(&authorization("idle"))).await.unwrap());
    }
    let more = Gateway::open_on(channel.clone(), "idle", Some(&authorization("idle"))).await;
    assert_eq!(more.err().map(|refusal| refusal.code()), Some(Code::ResourceExhausted));
    assert_eq!(world.refusals(REASON).await, 4);

    // Everybody else is told, and so is the one that gave back what it had.
    let mut other = Gateway::connect(&world, "other").await;
    other.want(CLUSTER, &[]).await;
    assert_eq!(other.taken().await.0.len(), 1);
    drop((streams, channels));
    world.until(|status| status.gateways["edge"].streams == 0).await;
    // A server that lets somebody in says so by its settings, which are the first frame.
    let back = async {
        while is_ended(trust.connect(world.network(), "server.test", &edge).await.unwrap()).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("its places are never given back");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_are_shown_is_not_served_there() {
    let trust = Trust::new();
    let world = World::start_on_network(nobody(), trust.files()).await;
    let stream = trust.connect(world.network(), "server.test", &[dns("edge")]).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("http://xds{STATUS_PATH}")).body(String::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let refused = answer.headers().get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
    assert!(answer.status() == 404 || refused.as_deref() == Some("12"), "{answer:?}");
    connection.abort();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_while_gateways_follow() {
    let trust = Trust::new();
    let world = World::start_on_network(nobody(), trust.files()).await;
    world.put_and_serve("orders", "http://10.0.0.1").await;
    let authorization = format!("Bearer {}", world.credential("edge"));
    let channel = trust.channel(&world, &[dns("edge")]).await;
    let mut gateway = Gateway::open_on(channel, "edge", Some(&authorization)).await.unwrap();
    gateway.want(CLUSTER, &[]).await;
    assert_eq!(gateway.taken().await.0.len(), 1);
    // A broken file changes nothing.
    let good = std::fs::read(trust.path("cert")).unwrap();
    std::fs::write(trust.path("cert"), "broken").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(trust.connect(world.network(), "server.test", &[dns("edge")]).await.is_ok());
    std::fs::write(trust.path("cert"), good).unwrap();
    // Another certificate of the server is shown to those who come, and ends nobody's stream.
    trust.certify_server("renewed.test");
    let renewed = async {
        while trust.connect(world.network(), "renewed.test", &[dns("edge")]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), renewed).await.expect("the new certificate");
    world.put("other", "http://10.0.0.2").await;
    assert_eq!(gateway.taken().await.0.len(), 1);
    // Who was certified by an authority that is trusted no more is gone.
    std::fs::write(trust.path("ca"), authority().pem()).unwrap();
    assert!(gateway.end().await.is_some());
    world.until(|status| status.gateways["edge"].streams == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_opens_nothing() {
    let trust = Trust::new();
    trust.revoke(&[7], 2100);
    let files = NetworkFiles { client_crl: Some(trust.path("crl")), ..trust.files() };
    let world = World::start_on_network(nobody(), files).await;
    world.put_and_serve("orders", "http://10.0.0.1").await;
    let follow = async |name: &'static str, serial| {
        let channel = channel(trust.numbered(&world, name, serial).await).await;
        let authorization = format!("Bearer {}", world.credential(name));
        let mut gateway = Gateway::open_on(channel, name, Some(&authorization)).await.unwrap();
        gateway.want(CLUSTER, &[]).await;
        assert_eq!(gateway.taken().await.0.len(), 1);
        gateway
    };
    assert!(is_ended(trust.numbered(&world, "edge", 7).await).await);
    assert_eq!(world.refusals("revoked").await, 1);
    let (mut edge, mut other) = (follow("edge", 8).await, follow("other", 9).await);

    // What is revoked meanwhile has its connection ended, and all others are judged anew.
    trust.revoke(&[7, 8], 2100);
    assert!(edge.end().await.is_some() && other.end().await.is_some());
    for serial in [7, 8] {
        assert!(is_ended(trust.numbered(&world, "edge", serial).await).await);
    }
    assert_eq!(world.refusals("revoked").await, 3);
    let mut other = follow("other", 9).await;

    // A broken file changes nothing.
    std::fs::write(trust.path("crl"), "broken").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(follow("edge", 10).await);
    assert!(is_ended(trust.numbered(&world, "edge", 8).await).await);
    assert_eq!(world.refusals("revoked").await, 4);

    // Nobody knows what a list would tell whose time is over, or one that there is not.
    trust.revoke(&[7, 8], 2025);
    assert!(other.end().await.is_some());
    assert_eq!(world.refusals("revocation_unknown").await, 0);
    assert!(is_ended(trust.numbered(&world, "other", 9).await).await);
    assert_eq!(world.refusals("revocation_unknown").await, 1);
    trust.revoke(&[7, 8], 2100);
    let back = async {
        while is_ended(trust.numbered(&world, "other", 9).await).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("the new list");
    let mut other = follow("other", 9).await;
    let before = world.refusals("revocation_unknown").await;
    let stranger = Trust { authority: authority(), folder: tempfile::tempdir().unwrap() };
    stranger.revoke(&[], 2100);
    std::fs::copy(stranger.path("crl"), trust.path("crl")).unwrap();
    assert!(other.end().await.is_some());
    assert!(is_ended(trust.numbered(&world, "other", 9).await).await);
    assert_eq!(world.refusals("revocation_unknown").await, before + 1);
    world.stop().await;
}
