//! The server's door for gateways on other machines: TCP with mutual TLS.
//!
//! Who gets through has a certificate of an authority that the operator named, and that certificate names gateways. A
//! stream is then still asked for the credential of one of them. What proves both sides stands in files that are looked
//! at again and again, so nothing is restarted when certificates change. Nobody is waited for for ever: there are bounds
//! on handshakes, connections, those of one gateway, the time until a gateway introduces itself, and the life of a connection.

mod certified;
mod connection;
mod material;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use caracal_store::metrics;
use caracal_store::shares::Shares;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, CertificateError};

pub(super) use certified::Certified;
use connection::Place;
pub(super) use connection::{Connection, Peer};
use material::{Material, Materials};
pub use material::{NetworkFile, NetworkFileError, NetworkFiles, Unusable};

/// Connections, and streams, that one gateway may have: room for a few processes with the same id, and for connections
/// whose end is not noticed yet.
pub(super) const PER_GATEWAY: usize = 8;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at the same time; who comes next waits in the listener's queue.
const HANDSHAKES: usize = 32;
/// The pause after a connection that could not be accepted: the process may be out of open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no network listener.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Nothing can listen there.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] NetworkFileError),
}

/// A listener for gateways on other machines.
#[derive(Debug)]
pub struct NetworkListener {
    listener: TcpListener,
    address: SocketAddr,
    materials: Materials,
    material: watch::Receiver<Arc<Material>>,
}

impl NetworkListener {
    /// Reads the files and listens. Port 0 lets the system choose.
    ///
    /// # Errors
    /// Any [`NetworkError`].
    pub async fn bind(address: SocketAddr, files: NetworkFiles) -> Result<Self, NetworkError> {
        let (materials, material) = Materials::begin(files).await?;
        let failed = |source| NetworkError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, materials, material })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections and follows the files, until it is dropped. Who comes while there are as many connections as
    /// there may be is sent away.
    pub(super) async fn run(
        self,
        connections: mpsc::Sender<io::Result<Connection>>,
        most: usize,
    ) -> Infallible {
        let Self { listener, materials, material, .. } = self;
        tokio::select! {
            never = materials.follow() => never,
            never = accept(listener, material, connections, most) => never,
        }
    }
}

async fn accept(
    listener: TcpListener,
    material: watch::Receiver<Arc<Material>>,
    connections: mpsc::Sender<io::Result<Connection>>,
    most: usize,
) -> Infallible {
    let places = Arc::new(Places { all: Arc::new(Semaphore::new(most)), certified: Shares::default() });
    let mut handshakes = JoinSet::new();
    loop {
        let full = handshakes.len() >= HANDSHAKES;
        tokio::select! {
            Some(_) = handshakes.join_next() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, peer)) => {
                    let one = welcome(stream, peer, material.clone(), Arc::clone(&places));
                    let connections = connections.clone();
                    handshakes.spawn(async move {
                        if let Some(connection) = one.await {
                            let _ = connections.send(Ok(connection)).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for the configuration of gateways cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// What connections take up.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    certified: Shares<Certified>,
}

/// The handshake, and a place for the connection.
async fn welcome(
    stream: TcpStream,
    peer: SocketAddr,
    mut material: watch::Receiver<Arc<Material>>,
    places: Arc<Places>,
) -> Option<Connection> {
    let current = Arc::clone(&material.borrow_and_update());
    let acceptor = TlsAcceptor::from(Arc::clone(&current.config));
    // A stream of small messages: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refuse(peer, why(&error), &error.to_string()),
        Err(_) => return refuse(peer, "handshake", "it took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certified = certificates.first().map(Certified::of).unwrap_or_default();
    if certified.count() == 0 {
        return refuse(peer, "wrong_certificate", "the certificate names no gateway");
    }
    let Some(of_its_own) = places.certified.take(&certified, may_have(&certified)) else {
        return refuse(
            peer,
            "too_many_of_gateway",
            "too many connections with a certificate for these gateways",
        );
    };
    let Ok(of_all) = Arc::clone(&places.all).try_acquire_owned() else {
        return refuse(peer, "too_many", "too many connections");
    };
    let place = Place { _of_all: of_all, _of_its_own: of_its_own };
    Some(Connection::new(stream, certified, &current, material, place))
}

/// Connections, and streams, that may be open with a certificate for these gateways.
pub(super) fn may_have(certified: &Certified) -> usize {
    certified.count().saturating_mul(PER_GATEWAY)
}

/// Why a handshake failed, in a word.
fn why(error: &io::Error) -> &'static str {
    use CertificateError::{
        ExpiredRevocationList, ExpiredRevocationListContext, Revoked, UnknownRevocationStatus,
    };
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(Revoked)) => "revoked",
        Some(
            rustls::Error::InvalidCertRevocationList(_)
            | rustls::Error::InvalidCertificate(
                ExpiredRevocationList | ExpiredRevocationListContext { .. } | UnknownRevocationStatus,
            ),
        ) => "revocation_unknown",
        _ => "handshake",
    }
}

fn refuse(peer: SocketAddr, reason: &'static str, why: &str) -> Option<Connection> {
    metrics::configuration_stream_refused(reason);
    tracing::warn!(%peer, reason, why, "a connection for the configuration of a gateway is refused");
    None
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
