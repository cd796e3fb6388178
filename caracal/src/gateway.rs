//! How the embedded gateway comes by its configuration.

use crate::data::{DataFolder, Secrets};
use crate::error::Error;
use caracal_envoy::xds::{Lookup, XdsOptions, XdsServer, listen};
use caracal_envoy::{BootstrapOptions, ControlCredential, ControlPlane, GatewayOptions};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::GatewayId;
use caracal_store::Store;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tokio::net::UnixListener;

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
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GatewayFlags {
    /// Where the Gateway's listener, routes and clusters come from.
    #[arg(long, env = "CARACAL_GATEWAY_CONFIG", value_enum, default_value_t)]
    gateway_config: GatewayConfig,
    /// The certificate authorities in PEM form that upstreams are verified against
    /// [default: /etc/ssl/certs/ca-certificates.crt].
    #[arg(long, env = "CARACAL_UPSTREAM_CA_FILE", value_name = "FILE")]
    upstream_ca_file: Option<PathBuf>,
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
            options.control = Some(ControlPlane { socket: folder.socket("xds.sock")?, credential });
        }
        Ok(options)
    }
}

/// The server, and the socket that it listens on.
pub(crate) async fn configure(
    store: &Store,
    secrets: &Secrets,
    control: &ControlPlane,
    template: BootstrapOptions,
) -> Result<(XdsServer, UnixListener), Error> {
    let options = XdsOptions { store: store.clone(), key: key(secrets)?, template, lookup: Lookup::system() };
    Ok((XdsServer::new(options).await?, listen(&control.socket)?))
}

fn key(secrets: &Secrets) -> Result<GatewayKey, Error> {
    GatewayKey::from_hex(&secrets.gateway_sts_hmac_key)
        .map_err(|error| Error::Setting { name: "gatewayStsHmacKey", why: error.to_string() })
}
