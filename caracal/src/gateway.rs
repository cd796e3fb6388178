//! How the embedded gateway comes by its configuration.

use crate::data::{DataFolder, Secrets};
use crate::error::Error;
use caracal_envoy::xds::{
    DEFAULT_MAX_STREAMS, Lookup, NetworkError, NetworkFile, NetworkFiles, NetworkListener, Status,
    XdsOptions, XdsServer, read_status,
};
use caracal_envoy::{BootstrapOptions, ControlCredential, ControlPlace, ControlPlane, GatewayOptions};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::GatewayId;
use caracal_store::Store;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the Gateway's listener, routes and clusters come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GatewayConfig {
    /// All stands in the bootstrap; two clusters go wherever the STS says.
    #[default]
    Static,
    /// The xDS server tells them, with a cluster for each resource, as resources change.
    Xds,
}

/// What an operator says about the embedded gateway.
#[derive(Debug, Clone, Args)]
pub(crate) struct GatewayFlags {
    /// Where the Gateway's listener, routes and clusters come from.
    #[arg(long, env = "CARACAL_GATEWAY_CONFIG", value_enum, default_value_t)]
    gateway_config: GatewayConfig,
    /// The certificate authorities in PEM form that upstreams are verified against
    /// [default: /etc/ssl/certs/ca-certificates.crt].
    #[arg(long, env = "CARACAL_UPSTREAM_CA_FILE", value_name = "FILE")]
    upstream_ca_file: Option<PathBuf>,
    /// How many gateways may take their configuration from the xDS server at the same time.
    #[arg(long, env = "CARACAL_XDS_MAX_STREAMS", value_name = "N", default_value_t = DEFAULT_MAX_STREAMS)]
    xds_max_streams: NonZeroU16,
    #[command(flatten)]
    network: NetworkFlags,
}

impl Default for GatewayFlags {
    fn default() -> Self {
        Self {
            gateway_config: GatewayConfig::default(),
            upstream_ca_file: None,
            xds_max_streams: DEFAULT_MAX_STREAMS,
            network: NetworkFlags::default(),
        }
    }
}

/// What belongs together where gateways on other machines take their configuration from here.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NetworkFlags {
    /// Where gateways on other machines take their configuration from, by mutual TLS (port 0: any).
    #[arg(long, env = "CARACAL_XDS_LISTEN", value_name = "ADDR:PORT")]
    xds_listen: Option<SocketAddr>,
    /// The certificate that is shown there, in PEM form with those between it and its authority.
    #[arg(long, env = "CARACAL_XDS_CERT", value_name = "FILE")]
    xds_cert: Option<PathBuf>,
    /// The private key of that certificate.
    #[arg(long, env = "CARACAL_XDS_KEY", value_name = "FILE")]
    xds_key: Option<PathBuf>,
    /// The authorities that certificates of gateways are verified against.
    #[arg(long, env = "CARACAL_XDS_CLIENT_CA", value_name = "FILE")]
    xds_client_ca: Option<PathBuf>,
    /// Lists of the certificates of gateways that those authorities revoked, in PEM form.
    #[arg(long, env = "CARACAL_XDS_CLIENT_CRL", value_name = "FILE")]
    xds_client_crl: Option<PathBuf>,
}

impl NetworkFlags {
    /// The address and the files: all of them, with or without lists of revoked certificates, or none.
    fn complete(&self) -> Result<Option<(SocketAddr, NetworkFiles)>, Error> {
        let file = |file: &Option<PathBuf>| file.clone().filter(|file| !file.as_os_str().is_empty());
        let (certificate, key) = (file(&self.xds_cert), file(&self.xds_key));
        let (client_ca, client_crl) = (file(&self.xds_client_ca), file(&self.xds_client_crl));
        let missing = |name| Error::Setting {
            name,
            why: "is missing: --xds-listen, --xds-cert, --xds-key and --xds-client-ca belong together"
                .to_owned(),
        };
        let files = [&certificate, &key, &client_ca, &client_crl];
        if self.xds_listen.is_none() && files.iter().all(|file| file.is_none()) {
            return Ok(None);
        }
        let address = self.xds_listen.ok_or_else(|| missing("--xds-listen"))?;
        let files = NetworkFiles {
            certificate: certificate.ok_or_else(|| missing("--xds-cert"))?,
            key: key.ok_or_else(|| missing("--xds-key"))?,
            client_ca: client_ca.ok_or_else(|| missing("--xds-client-ca"))?,
            client_crl,
        };
        Ok(Some((address, files)))
    }
}

impl GatewayFlags {
    /// What the gateway's bootstrap is rendered from.
    pub(crate) fn options(
        &self,
        folder: &DataFolder,
        secrets: &Secrets,
        id: &GatewayId,
    ) -> Result<GatewayOptions, Error> {
        let mut options = GatewayOptions::default();
        if let Some(file) = self.upstream_ca_file.as_ref().filter(|file| !file.as_os_str().is_empty()) {
            let file = file.canonicalize().map_err(Error::file(file))?;
            std::fs::File::open(&file).map_err(Error::file(&file))?;
            options.trusted_ca = file;
        }
        if self.gateway_config == GatewayConfig::Xds {
            let credential = ControlCredential::new(key(secrets)?.configuration_credential(id));
            let place = ControlPlace::Socket(folder.socket("xds.sock")?);
            options.control = Some(ControlPlane { place, credential });
        }
        Ok(options)
    }

    /// How many streams of configuration may be open.
    pub(crate) fn xds_max_streams(&self) -> NonZeroU16 {
        self.xds_max_streams
    }

    /// The door for gateways on other machines, where there is one. What cannot be used is said before anything starts.
    pub(crate) async fn open_network(&self) -> Result<Option<NetworkListener>, Error> {
        let Some((address, files)) = self.network.complete()? else { return Ok(None) };
        if self.gateway_config != GatewayConfig::Xds {
            let why = "needs --gateway-config xds".to_owned();
            return Err(Error::Setting { name: "--xds-listen", why });
        }
        let opened = NetworkListener::bind(address, files).await;
        opened.map(Some).map_err(|error| match error {
            NetworkError::Bind { address, source } => {
                Error::Bind { what: "the xDS server", address: address.to_string(), source }
            }
            NetworkError::File(error) => {
                let name = match error.file {
                    NetworkFile::Certificate => "--xds-cert",
                    NetworkFile::ClientCa => "--xds-client-ca",
                    NetworkFile::ClientCrl => "--xds-client-crl",
                    NetworkFile::Key => "--xds-key",
                };
                Error::Setting { name, why: error.to_string() }
            }
        })
    }
}

/// The server, with its door for gateways on other machines.
pub(crate) async fn server(
    store: &Store,
    secrets: &Secrets,
    template: BootstrapOptions,
    network: Option<NetworkListener>,
    max_streams: NonZeroU16,
) -> Result<XdsServer, Error> {
    let (store, key, lookup) = (store.clone(), key(secrets)?, Lookup::system());
    let options = XdsOptions { store, key, template, lookup, max_streams };
    let server = XdsServer::new(options).await?;
    Ok(match network {
        Some(network) => server.with_network(network),
        None => server,
    })
}

/// What the xDS server of this socket says of itself, or why it does not.
pub(crate) async fn status(socket: &Path, patience: Duration) -> Result<Status, String> {
    match tokio::time::timeout(patience, read_status(socket)).await {
        Ok(told) => told.map_err(|error| error.to_string()),
        Err(_) => Err("timeout".to_owned()),
    }
}

/// The socket that the embedded gateway takes its configuration from, if it does.
pub(crate) fn socket(bootstrap: &BootstrapOptions) -> Option<&Path> {
    match &bootstrap.control()?.place {
        ControlPlace::Network(_) => None,
        ControlPlace::Socket(path) => Some(path),
    }
}

fn key(secrets: &Secrets) -> Result<GatewayKey, Error> {
    GatewayKey::from_hex(&secrets.gateway_sts_hmac_key)
        .map_err(|error| Error::Setting { name: "gatewayStsHmacKey", why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(listen: bool, cert: &str, key: &str, client_ca: &str) -> NetworkFlags {
        let file = |text: &str| (text != "-").then(|| PathBuf::from(text));
        NetworkFlags {
            xds_listen: listen.then(|| SocketAddr::from(([127, 0, 0, 1], 0))),
            xds_cert: file(cert),
            xds_key: file(key),
            xds_client_ca: file(client_ca),
            xds_client_crl: None,
        }
    }

    #[test]
    fn what_belongs_together_is_given_together() {
        assert!(flags(false, "-", "-", "-").complete().unwrap().is_none());
        assert!(flags(false, "", "", "").complete().unwrap().is_none(), "an empty variable says nothing");
        let (_, files) = flags(true, "c", "k", "a").complete().unwrap().unwrap();
        assert_eq!(files.client_crl, None);
        let listed = |flags| NetworkFlags { xds_client_crl: Some("l".into()), ..flags };
        let (_, files) = listed(flags(true, "c", "k", "a")).complete().unwrap().unwrap();
        assert_eq!(files.client_crl, Some("l".into()));
        for (flags, name) in [
            (flags(false, "c", "k", "a"), "--xds-listen: "),
            (flags(true, "-", "k", "a"), "--xds-cert: "),
            (flags(true, "c", "", "a"), "--xds-key: "),
            (flags(true, "c", "k", "-"), "--xds-client-ca: "),
            (flags(true, "-", "-", "-"), "--xds-cert: "),
            (listed(flags(false, "-", "-", "-")), "--xds-listen: "),
            (listed(flags(true, "c", "k", "-")), "--xds-client-ca: "),
        ] {
            let error = flags.complete().unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains("belong together"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_named_with_its_option() {
        let network = flags(true, "/nowhere/c", "/nowhere/k", "/nowhere/a");
        let flags = GatewayFlags { gateway_config: GatewayConfig::Xds, network, ..GatewayFlags::default() };
        let error = flags.open_network().await.unwrap_err().to_string();
        assert!(error.starts_with("--xds-cert: /nowhere/c: "), "{error}");
        let flags = GatewayFlags { gateway_config: GatewayConfig::Static, ..flags };
        let error = flags.open_network().await.unwrap_err().to_string();
        assert_eq!(error, "--xds-listen: needs --gateway-config xds");
    }
}
