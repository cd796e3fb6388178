//! A provider's or issuer's server of the test's own: real HTTPS on a port that the system hands out, under a
//! certificate authority that only this test trusts.

use axum::Router;
use caracal_store::egress::{Egress, EgressOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::server::TlsStream;

/// A server, up for as long as this lives.
pub(crate) struct Https {
    port: u16,
    authority: tempfile::NamedTempFile,
    task: JoinHandle<()>,
}

impl Drop for Https {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.0.accept().await else { continue };
            // Whoever does not trust the certificate goes away here.
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Https {
    /// Serves these routes under the name `localhost`.
    pub(crate) async fn start(routes: Router) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = names.signed_by(&key, &authority).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = Tls(listener, TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(authority.pem().as_bytes()).unwrap();
        Self { port, authority: file, task }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// A way out that reaches this server and trusts it.
    pub(crate) fn egress(&self) -> Egress {
        self.egress_to(&["localhost".to_owned()])
    }

    /// A way out that trusts this server, and may reach this machine under these names.
    pub(crate) fn egress_to(&self, loopback: &[String]) -> Egress {
        let options = EgressOptions::new(&[], loopback, Some(self.authority.path().to_owned()));
        Egress::new(options.unwrap()).unwrap()
    }
}

/// Waits for something that has to happen before the answer is there.
pub(crate) async fn before<T: std::fmt::Debug>(answer: &mut JoinHandle<T>, event: impl Future<Output = ()>) {
    tokio::select! {
        () = event => {}
        early = answer => panic!("{early:?}"),
    }
}
