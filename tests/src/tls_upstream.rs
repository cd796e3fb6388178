//! Upstreams that speak TLS, and the certificate authority behind them.

use crate::tls::{Tls, authority};
use axum::Router;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertifiedIssuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::task::JoinHandle;

/// A certificate authority of a test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        Self(authority())
    }

    /// Writes its certificate, for those who are to trust it.
    pub fn write(&self, file: &Path) {
        put(file, &self.0.pem());
    }

    /// Writes a certificate for this name or address, and its key. Tells its number.
    pub fn certify(&self, name: &str, certificate: &Path, key: &Path) -> u64 {
        static ISSUED: AtomicU64 = AtomicU64::new(1);
        let (pair, serial) = (KeyPair::generate().unwrap(), ISSUED.fetch_add(1, Ordering::SeqCst));
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        put(certificate, &params.signed_by(&pair, &self.0).unwrap().pem());
        put(key, &pair.serialize_pem());
        serial
    }

    /// Writes the list of the certificates that it revoked.
    pub fn revoke(&self, serials: &[u64], file: &Path) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        put(file, &list.signed_by(&self.0).unwrap().pem().unwrap());
    }
}

/// Moves a file into place, as whoever renews certificates does.
fn put(file: &Path, text: &str) {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, text).unwrap();
    std::fs::rename(&partial, file).unwrap();
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// An upstream with a certificate.
pub struct TlsUpstream {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl TlsUpstream {
    /// One with a certificate of this authority for this name or address.
    pub async fn start(authority: &Authority, name: &str) -> Self {
        let tls = Tls::bind(&authority.0, name).await;
        let address = tls.address();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let router = Router::new().fallback(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async { axum::Json(serde_json::json!({ "orders": [] })) }
        });
        let task = tokio::spawn(async move { axum::serve(tls, router).await.unwrap() });
        Self { address, requests, task }
    }

    /// Requests that arrived.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for TlsUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
