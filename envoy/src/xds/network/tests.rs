use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "An authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &Authority, name: &str) -> (CertificateDer<'static>, String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    (certificate.der().clone(), certificate.pem(), key)
}

/// A listener with its files, and the connections that get through.
struct Door {
    address: SocketAddr,
    authority: Authority,
    connections: mpsc::Receiver<io::Result<Connection>>,
    task: tokio::task::JoinHandle<Infallible>,
    _folder: tempfile::TempDir,
}

impl Door {
    /// For so many connections at the same time.
    async fn open(most: usize) -> Self {
        let authority = authority();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (_, certificate, key) = issue(&authority, "localhost");
        let files =
            NetworkFiles { certificate: at("cert"), key: at("key"), client_ca: at("ca"), client_crl: None };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::write(&files.client_ca, authority.pem()).unwrap();
        let listener = NetworkListener::bind("127.0.0.1:0".parse().unwrap(), files).await.unwrap();
        let address = listener.address();
        let (sender, connections) = mpsc::channel(1);
        let task = tokio::spawn(listener.run(sender, most));
        Self { address, authority, connections, task, _folder: folder }
    }

    /// What a client with this certificate, and these versions, comes to: the first byte it is sent, or an error.
    async fn try_with(
        &self,
        by: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match by {
            Some(authority) => {
                let (certificate, _, key) = issue(authority, "edge");
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
        // With TLS 1.3 a client hears of a refusal only when it reads.
        let mut byte = [0];
        match tokio::time::timeout(Duration::from_millis(300), stream.read(&mut byte)).await {
            Ok(Err(error)) => Err(error),
            _ => Ok(stream),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn no_more_connections_than_there_may_be() {
    let mut door = Door::open(2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let client = door.try_with(Some(&door.authority), &[&version::TLS13]).await.unwrap();
        held.push((client, door.connections.recv().await.unwrap().unwrap()));
    }
    if let Ok(mut more) = door.try_with(Some(&door.authority), &[&version::TLS13]).await {
        let mut byte = [0];
        let read = tokio::time::timeout(HANDSHAKE, more.read(&mut byte)).await.expect("it is let in");
        assert!(!matches!(read, Ok(1)), "{read:?}");
    }
    assert!(door.connections.try_recv().is_err());
    held.pop();
    let _client = door.try_with(Some(&door.authority), &[&version::TLS13]).await.unwrap();
    assert!(door.connections.recv().await.unwrap().is_ok());
}

#[tokio::test]
async fn only_a_certificate_of_the_named_authorities_gets_through() {
    let mut door = Door::open(16).await;
    let other = authority();
    for versions in [[&version::TLS13], [&version::TLS12]] {
        for by in [None, Some(&other)] {
            assert!(door.try_with(by, &versions).await.is_err(), "{versions:?} {}", by.is_some());
        }
        let client = door.try_with(Some(&door.authority), &versions).await.unwrap();
        let connection = door.connections.recv().await.unwrap().unwrap();
        let peer = tonic::transport::server::Connected::connect_info(&connection);
        assert!(peer.may_be(&caracal_mandate::id::GatewayId::new("edge").unwrap()));
        assert!(!peer.may_be(&caracal_mandate::id::GatewayId::new("edge2").unwrap()));
        drop(client);
    }
    let mut plain = TcpStream::connect(door.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"\0"), "no frame of HTTP/2: {answer:?}");
    assert!(door.connections.try_recv().is_err());
}

#[tokio::test]
async fn whoever_says_nothing_holds_up_nobody_and_is_ended() {
    let mut door = Door::open(16).await;
    let begun = std::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES {
        silent.push(TcpStream::connect(door.address).await.unwrap());
    }
    // They have every place there is, for as long as a handshake may take.
    let _client = door.try_with(Some(&door.authority), &[&version::TLS13]).await.unwrap();
    assert!(door.connections.recv().await.unwrap().is_ok());
    assert!(begun.elapsed() < HANDSHAKE * 2, "{:?}", begun.elapsed());
    for mut stream in silent {
        let mut byte = [0];
        let ended = tokio::time::timeout(HANDSHAKE * 2, stream.read(&mut byte)).await.unwrap();
        assert!(!matches!(ended, Ok(1)), "{ended:?}");
    }
}

#[tokio::test]
async fn a_connection_ends_when_nobody_introduces_itself_or_its_authority_is_gone() {
    let material = |authorities| {
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(tokio_rustls::rustls::server::ResolvesServerCertUsingSni::new()));
        Arc::new(Material { config: Arc::new(config), authorities })
    };
    tokio::time::pause();
    let (sender, receiver) = watch::channel(material([1; 32]));
    let peer = Peer::default();
    let begun = tokio::time::Instant::now();
    connection::end(&peer, receiver.clone(), [1; 32]).await;
    assert_eq!(begun.elapsed().as_secs(), 15);
    // A gateway that introduced itself stays, until its time is over.
    peer.introduced();
    let begun = tokio::time::Instant::now();
    connection::end(&peer, receiver.clone(), [1; 32]).await;
    assert_eq!(begun.elapsed().as_secs(), 3_600);
    // Other files with the same authorities end nothing.
    peer.introduced();
    let end = connection::end(&peer, receiver, [1; 32]);
    tokio::pin!(end);
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut end).await.is_err());
    sender.send_replace(material([1; 32]));
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut end).await.is_err());
    sender.send_replace(material([2; 32]));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut end).await.is_ok());
}
