//! What the listener proves itself and judges others with: a certificate, its key, the authorities of gateways, and lists of
//! what those revoked. All of it stands in files, which are read again when they change.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caracal_store::metrics;
use hmac_sha256::Hash;
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, InconsistentKeys, RootCertStore, ServerConfig, version};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where everything stands, in PEM form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkFiles {
    /// The server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// The authorities that certificates of gateways are verified against.
    pub client_ca: PathBuf,
    /// Lists of the certificates that those authorities revoked; without them none is.
    pub client_crl: Option<PathBuf>,
}

/// One of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NetworkFile {
    /// The server's certificate.
    Certificate,
    /// The authorities of gateways.
    ClientCa,
    /// The lists of revoked certificates.
    ClientCrl,
    /// The server's key.
    Key,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct NetworkFileError {
    /// Which.
    pub file: NetworkFile,
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub why: Unusable,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It holds a certificate that nothing can be done with.
    #[error("holds a certificate that cannot be used: {0}")]
    Certificate(rustls::Error),
    /// It holds a private key that nothing can be done with.
    #[error("holds a private key that cannot be used: {0}")]
    Key(rustls::Error),
    /// The key is another certificate's.
    #[error("the key does not fit the certificate")]
    Mismatch,
    /// There is no certificate in it.
    #[error("holds no certificate")]
    NoCertificate,
    /// There is no list of revoked certificates in it.
    #[error("holds no list of revoked certificates")]
    NoList,
    /// There is no private key in it.
    #[error("holds no private key")]
    NoKey,
    /// It is not in PEM form.
    #[error("is not in PEM form: {0}")]
    Pem(pem::Error),
    /// It holds a list of revoked certificates that nothing can be done with.
    #[error("holds a list of revoked certificates that cannot be used: {0}")]
    List(rustls::Error),
    /// It cannot be read.
    #[error("{0}")]
    Read(io::Error),
    /// The authorities cannot be used together.
    #[error("no certificate can be verified against it: {0}")]
    Verifier(String),
}

/// What one reading of the files came to.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) config: Arc<ServerConfig>,
    /// A hash of what gateways are judged by: the files of authorities and of what they revoked.
    pub(super) authorities: [u8; 32],
}

/// The files, and who is told when they change.
#[derive(Debug)]
pub(super) struct Materials {
    files: NetworkFiles,
    /// What was read last, whether it could be used or not.
    seen: Result<[u8; 32], String>,
    told: watch::Sender<Arc<Material>>,
}

impl Materials {
    /// Reads the files for the first time.
    pub(super) async fn begin(
        files: NetworkFiles,
    ) -> Result<(Self, watch::Receiver<Arc<Material>>), NetworkFileError> {
        let contents = Contents::read(&files).await?;
        let (told, material) = watch::channel(Arc::new(contents.material(&files)?));
        Ok((Self { files, seen: Ok(contents.hash()), told }, material))
    }

    /// Looks at the files until it is dropped.
    pub(super) async fn follow(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look().await;
        }
    }

    /// Reads the files, and takes what is new. What cannot be used leaves what was there, and is told once.
    pub(super) async fn look(&mut self) {
        let read = Contents::read(&self.files).await;
        let seen = read.as_ref().map(Contents::hash).map_err(ToString::to_string);
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        let material = read.and_then(|contents| contents.material(&self.files));
        metrics::configuration_certificates_loaded(material.is_ok());
        match material {
            Ok(material) => {
                tracing::info!("the certificates for gateways were read again");
                self.told.send_replace(Arc::new(material));
            }
            Err(error) => {
                tracing::error!(%error, "the certificates for gateways changed and cannot be used; the last ones stay");
            }
        }
    }
}

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
    client_crl: Option<(PathBuf, Vec<u8>)>,
}

impl Contents {
    async fn read(files: &NetworkFiles) -> Result<Self, NetworkFileError> {
        let read = async |file, path: &Path| {
            let failed = |source| unusable(file, path, Unusable::Read(source));
            tokio::fs::read(path).await.map_err(failed)
        };
        Ok(Self {
            certificate: read(NetworkFile::Certificate, &files.certificate).await?,
            key: read(NetworkFile::Key, &files.key).await?,
            client_ca: read(NetworkFile::ClientCa, &files.client_ca).await?,
            client_crl: match &files.client_crl {
                Some(path) => Some((path.clone(), read(NetworkFile::ClientCrl, path).await?)),
                None => None,
            },
        })
    }

    /// Tells one reading from another.
    fn hash(&self) -> [u8; 32] {
        let mut all = Hash::new();
        for content in [&self.certificate, &self.key] {
            all.update(Hash::hash(content));
        }
        all.update(self.judged_by());
        all.finalize()
    }

    fn judged_by(&self) -> [u8; 32] {
        let mut all = Hash::new();
        all.update(Hash::hash(&self.client_ca));
        if let Some((_, lists)) = &self.client_crl {
            all.update(Hash::hash(lists));
        }
        all.finalize()
    }

    fn material(&self, files: &NetworkFiles) -> Result<Material, NetworkFileError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = self.certified(files, &provider)?;
        let in_client_ca = |why| unusable(NetworkFile::ClientCa, &files.client_ca, why);
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(&self.client_ca).map_err(in_client_ca)? {
            authorities.add(certificate).map_err(|error| in_client_ca(Unusable::Certificate(error)))?;
        }
        let unverifiable =
            |error: &dyn std::error::Error| in_client_ca(Unusable::Verifier(error.to_string()));
        // A certificate that no list tells of, or only one whose time is over, is refused.
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
                .with_crls(self.revoked()?)
                .enforce_revocation_expiration()
                .build();
        let verifier = verifier.map_err(|error| match (error, &self.client_crl) {
            (VerifierBuilderError::InvalidCrl(error), Some((path, _))) => {
                unusable(NetworkFile::ClientCrl, path, Unusable::List(error.into()))
            }
            (error, _) => unverifiable(&error),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| unverifiable(&error))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Every connection shows its certificate: one that is resumed would be believed what it once showed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Material { config: Arc::new(config), authorities: self.judged_by() })
    }

    /// The lists of revoked certificates; where there is a file of them, it holds one at least.
    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, NetworkFileError> {
        let Some((path, pem)) = &self.client_crl else { return Ok(Vec::new()) };
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        let failed = |why| unusable(NetworkFile::ClientCrl, path, why);
        match lists {
            Ok(lists) if lists.is_empty() => Err(failed(Unusable::NoList)),
            Ok(lists) => Ok(lists),
            Err(error) => Err(failed(Unusable::Pem(error))),
        }
    }

    fn certified(
        &self,
        files: &NetworkFiles,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, NetworkFileError> {
        let in_certificate = |why| unusable(NetworkFile::Certificate, &files.certificate, why);
        let in_key = |why| unusable(NetworkFile::Key, &files.key, why);
        let chain = certificates(&self.certificate).map_err(in_certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| match error {
            pem::Error::NoItemsFound => in_key(Unusable::NoKey),
            error => in_key(Unusable::Pem(error)),
        })?;
        let key =
            provider.key_provider.load_private_key(key).map_err(|error| in_key(Unusable::Key(error)))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(in_key(Unusable::Mismatch))
            }
            Err(error) => Err(in_certificate(Unusable::Certificate(error))),
        }
    }
}

/// The certificates of a file; there is one at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(Unusable::NoCertificate),
        Ok(all) => Ok(all),
        Err(error) => Err(Unusable::Pem(error)),
    }
}

fn unusable(file: NetworkFile, path: &Path, why: Unusable) -> NetworkFileError {
    NetworkFileError { file, path: path.to_owned(), why }
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
