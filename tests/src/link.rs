//! A connection between two services that can be cut.

use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// They pass.
    Open,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections stay, and nothing comes.
    Silent,
}

/// Passes on to a service, until it is told otherwise.
pub struct Link {
    /// Where to connect instead of to the service.
    pub address: SocketAddr,
    state: watch::Sender<LinkState>,
    task: JoinHandle<()>,
}

impl Link {
    /// An open one to this service.
    pub async fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, told) = watch::channel(LinkState::Open);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, service, told.clone()));
            }
        });
        Self { address, state, task }
    }

    /// Changes it for all connections, those that are open included.
    pub fn become_state(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut caller: TcpStream, service: SocketAddr, mut told: watch::Receiver<LinkState>) {
    if *told.borrow_and_update() == LinkState::Open {
        let Ok(mut service) = TcpStream::connect(service).await else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut caller, &mut service) => return,
            _ = told.changed() => {}
        }
    }
    // What was begun before a silence is not taken up again after it.
    while *told.borrow_and_update() == LinkState::Silent && told.changed().await.is_ok() {}
}
