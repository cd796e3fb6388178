//! A connection whose other side proved itself, and when it ends whatever that side does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use caracal_mandate::id::GatewayId;
use caracal_store::shares::Share;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::certified::Certified;
use super::material::Material;

/// How long a gateway may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(15);
/// How long a connection lives: its certificate is looked at once, when it begins. Envoy keeps what it has, and a new
/// connection is told no more than what changed.
const LIFE: Duration = Duration::from_secs(60 * 60);

/// Who is on the other side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    certified: Certified,
    introduced: Arc<Notify>,
}

impl Peer {
    /// Whether its certificate names this gateway.
    pub(crate) fn may_be(&self, gateway: &GatewayId) -> bool {
        self.certified.names(gateway)
    }

    /// The gateways that its certificate names.
    pub(crate) fn certified(&self) -> &Certified {
        &self.certified
    }

    /// A gateway introduced itself, so the connection may live on.
    pub(crate) fn introduced(&self) {
        self.introduced.notify_one();
    }
}

/// A connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Resolves when it has to end; `None` once it did.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Place,
}

/// What a connection takes up while it lives.
#[derive(Debug)]
pub(super) struct Place {
    /// Of all connections there may be.
    pub(super) _of_all: OwnedSemaphorePermit,
    /// Of those that its certificate may have.
    pub(super) _of_its_own: Share<Certified>,
}

impl Connection {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        certified: Certified,
        material: &Material,
        materials: watch::Receiver<Arc<Material>>,
        place: Place,
    ) -> Self {
        let peer = Peer { certified, introduced: Arc::default() };
        let authorities = material.authorities;
        let by = peer.clone();
        let end = async move { end(&by, materials, authorities).await };
        Self { stream, peer, end: Some(Box::pin(end)), _place: place }
    }
}

/// Resolves when nobody introduced itself in time, when the connection is old, or when gateways are judged by other
/// authorities, or lists of what those revoked, than its certificate was.
pub(super) async fn end(peer: &Peer, mut materials: watch::Receiver<Arc<Material>>, authorities: [u8; 32]) {
    if tokio::time::timeout(INTRODUCTION, peer.introduced.notified()).await.is_err() {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep(LIFE) => {}
        _ = materials.wait_for(|material| material.authorities != authorities) => {}
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ended = self.end.as_mut().is_none_or(|end| end.as_mut().poll(context).is_ready());
        if ended {
            self.end = None;
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection's time is over",
            )));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
