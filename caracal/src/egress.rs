//! Which hosts beyond the public internet may be called, and who is trusted there (contract sts §26.3).

use crate::error::Error;
use caracal_store::egress::{Egress, EgressOptions};
use clap::Args;
use std::path::PathBuf;

/// What an operator says about calls to identity providers and credential providers.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EgressFlags {
    /// Hosts of identity and credential providers that may have addresses in private networks, separated by commas.
    #[arg(long, env = "CARACAL_PRIVATE_EGRESS_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    private_egress_hosts: Vec<String>,
    /// For development only: hosts of such providers that may be this machine, separated by commas.
    #[arg(long, env = "CARACAL_DEV_LOOPBACK_EGRESS_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    dev_loopback_egress_hosts: Vec<String>,
    /// Certificate authorities in PEM form that are trusted beside the system's.
    #[arg(long, env = "CARACAL_TLS_EXTRA_CA_FILE", value_name = "FILE")]
    tls_extra_ca_file: Option<PathBuf>,
}

/// A client of this installation's own services. They speak no TLS, so it does without the system's certificate
/// authorities and works where there are none.
pub(crate) fn local() -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_certs_only([])
}

impl EgressFlags {
    /// Certificate authorities that are trusted beside the system's.
    pub(crate) fn extra_ca_file(&self) -> Option<PathBuf> {
        self.tls_extra_ca_file.clone().filter(|path| !path.as_os_str().is_empty())
    }

    /// The way out under these options; what cannot be used is said before anything starts.
    pub(crate) fn open(&self) -> Result<Egress, Error> {
        let options = EgressOptions::new(
            &self.private_egress_hosts,
            &self.dev_loopback_egress_hosts,
            self.extra_ca_file(),
        )?;
        Egress::new(options).map_err(|error| Error::Setting { name: "egress", why: error.to_string() })
    }
}
