//! A connection to a service that may go away, and come back somewhere else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where a service is.
#[derive(Debug, Clone)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Passes on to a service for as long as it leads to one.
pub struct Relay {
    leads_to: watch::Sender<Option<Place>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// One that is reached by TCP, and where.
    pub async fn tcp(service: SocketAddr) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (leads_to, told) = watch::channel(Some(Place::Tcp(service)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, told.clone()));
            }
        });
        (Self { leads_to, task }, address)
    }

    /// One that is reached by this Unix socket.
    pub fn unix(at: &Path, service: PathBuf) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let (leads_to, told) = watch::channel(Some(Place::Unix(service)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, told.clone()));
            }
        });
        Self { leads_to, task }
    }

    /// Ends all connections, and passes new ones on to there, or nowhere.
    pub fn lead_to(&self, place: Option<Place>) {
        self.leads_to.send_replace(place);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut caller: impl AsyncRead + AsyncWrite + Unpin, mut told: watch::Receiver<Option<Place>>) {
    let place = told.borrow_and_update().clone();
    let both = async {
        match place {
            Some(Place::Tcp(address)) => {
                let mut service = TcpStream::connect(address).await?;
                copy_bidirectional(&mut caller, &mut service).await.map(|_| ())
            }
            Some(Place::Unix(path)) => {
                let mut service = UnixStream::connect(path).await?;
                copy_bidirectional(&mut caller, &mut service).await.map(|_| ())
            }
            None => Ok(()),
        }
    };
    tokio::select! {
        _ = both => {}
        _ = told.changed() => {}
    }
}
