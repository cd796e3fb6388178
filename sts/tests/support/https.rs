//! A provider's or issuer's server of the test's own: real HTTPS on a port that the system hands out, under a
//! certificate authority that only this test trusts.

#[path = "../../../tests/src/tls.rs"]
mod tls;

use axum::Router;
use caracal_store::egress::{Egress, EgressOptions};
use std::io::Write as _;
use tokio::task::JoinHandle;

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

impl Https {
    /// Serves these routes under the name `localhost`.
    pub(crate) async fn start(routes: Router) -> Self {
        let authority = tls::authority();
        let listener = tls::Tls::bind(&authority, "localhost").await;
        let port = listener.address().port();
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
