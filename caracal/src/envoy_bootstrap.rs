//! `caracal envoy bootstrap`: the bootstrap of a gateway on another machine, with everything in it or with the way to the
//! xDS server.

use crate::data::{read_secret, write_private};
use crate::error::Error;
use caracal_envoy::{
    Admin, BootstrapOptions, ControlCredential, ControlNetwork, ControlPlace, ControlPlane, ControlSecrets,
    Endpoint, GatewayOptions, Shape, render, render_secrets,
};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::{GatewayId, ZoneId};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct BootstrapFlags {
    /// The gateway's id: how the STS, Audit and the xDS server know it.
    #[arg(long, value_name = "ID", value_parser = gateway_id)]
    gateway_id: GatewayId,
    /// Where callers connect (port 0: any).
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// The STS.
    #[arg(long, value_name = "HOST:PORT")]
    sts: Endpoint,
    /// The audit service.
    #[arg(long, value_name = "HOST:PORT")]
    audit: Endpoint,
    /// The filter's wasm module, on the gateway's machine.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    module: PathBuf,
    /// Envoy's administration: a Unix socket, where no upstream can ever lead.
    #[arg(long, value_name = "FILE", value_parser = absolute, required_unless_present = "admin_port")]
    admin_socket: Option<PathBuf>,
    /// Envoy's administration: a port of the loopback interface (0: any).
    #[arg(long, value_name = "PORT", conflicts_with = "admin_socket")]
    admin_port: Option<u16>,
    /// Write to this file, for its owner alone, instead of standard output. With --xds two more are written beside it.
    #[arg(long, value_name = "FILE", value_parser = named)]
    out: Option<PathBuf>,
    #[command(flatten)]
    xds: XdsFlags,
    #[command(flatten)]
    fixed: FixedFlags,
}

/// The way to the xDS server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration by xDS")]
struct XdsFlags {
    /// The xDS server, where listener, routes and clusters come from. Its certificate has to name this host.
    #[arg(long, value_name = "HOST:PORT",
          requires_all = ["xds_ca", "xds_cert", "xds_key", "key_file", "out"])]
    xds: Option<Endpoint>,
    /// The authorities that the server is verified against, on the gateway's machine.
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "xds")]
    xds_ca: Option<PathBuf>,
    /// The certificate that the gateway shows, on its machine; it has to name the gateway's id.
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "xds")]
    xds_cert: Option<PathBuf>,
    /// The private key of that certificate, on the gateway's machine.
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "xds")]
    xds_key: Option<PathBuf>,
    /// The folder of the gateway's machine where the files that are written beside the bootstrap will stand
    /// [default: the folder of --out].
    #[arg(long, value_name = "DIR", value_parser = absolute, requires = "xds")]
    xds_secrets: Option<PathBuf>,
    /// The key that gateways share with the services, on this machine: the gateway's credential comes from it.
    #[arg(long, value_name = "FILE", requires = "xds")]
    key_file: Option<PathBuf>,
}

/// What the xDS server would say.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration in the bootstrap (without --xds)")]
struct FixedFlags {
    /// The only zone that is served.
    #[arg(long, value_name = "ID", value_parser = zone_id, conflicts_with = "xds")]
    zone: Option<ZoneId>,
    /// The authorities that upstreams are verified against, on the gateway's machine
    /// [default: /etc/ssl/certs/ca-certificates.crt].
    #[arg(long, value_name = "FILE", value_parser = absolute, conflicts_with = "xds")]
    upstream_ca_file: Option<PathBuf>,
    /// Let the gateway read the bodies of MCP requests.
    #[arg(long, conflicts_with = "xds")]
    mcp: bool,
    /// Protocols that requests may upgrade to, as `websocket`.
    #[arg(long, value_name = "PROTOCOLS", value_delimiter = ',', conflicts_with = "xds")]
    upgrades: Vec<String>,
    /// Where no upstream may be, beside the addresses of STS and Audit. Name them here where those are given by name.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "xds")]
    protect: Vec<SocketAddr>,
}

fn gateway_id(text: &str) -> Result<GatewayId, String> {
    GatewayId::new(text).map_err(|error| error.to_string())
}

fn zone_id(text: &str) -> Result<ZoneId, String> {
    ZoneId::new(text).map_err(|error| error.to_string())
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("has to be an absolute path".to_owned()) }
}

/// A file's path, whose last part is its name.
fn named(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.file_name().is_some() { Ok(path) } else { Err("has to be a file".to_owned()) }
}

/// Renders the bootstrap, and what it refers to.
pub(crate) fn run(flags: &BootstrapFlags) -> Result<ExitCode, Error> {
    let options = flags.options()?;
    if let (Some(file), Some(ControlPlace::Network(network))) =
        (&flags.out, options.control().map(|control| &control.place))
    {
        let (secrets, rendered) = (beside(file), render_secrets(network));
        write_private(&secrets.authority, &format!("{:#}\n", rendered.authority))?;
        write_private(&secrets.certificate, &format!("{:#}\n", rendered.certificate))?;
    }
    let bootstrap = format!("{:#}", render(&options));
    match &flags.out {
        Some(file) => write_private(file, &format!("{bootstrap}\n"))?,
        None => println!("{bootstrap}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// `edge.xds-authority.json` and `edge.xds-certificate.json` beside `edge.json`, so that those of several gateways have room
/// in one folder.
fn beside(bootstrap: &Path) -> ControlSecrets {
    let file = |what: &str| bootstrap.with_extension(format!("xds-{what}.json"));
    ControlSecrets { authority: file("authority"), certificate: file("certificate") }
}

impl BootstrapFlags {
    fn options(&self) -> Result<BootstrapOptions, Error> {
        let mut gateway = GatewayOptions {
            zone: self.fixed.zone.clone(),
            control: self.xds.control(&self.gateway_id, self.out.as_deref())?,
            ..GatewayOptions::default()
        };
        if let Some(file) = &self.fixed.upstream_ca_file {
            gateway.trusted_ca.clone_from(file);
        }
        let shape = Shape::Gateway(gateway);
        let mut options = BootstrapOptions::new(self.gateway_id.clone(), shape, self.module.clone());
        options.listener = self.listen.into();
        options.admin = match &self.admin_socket {
            Some(path) => Admin::Socket(path.clone()),
            None => Admin::Port(Endpoint::loopback(self.admin_port.unwrap_or_default())),
        };
        options.sts = self.sts.clone();
        options.audit = self.audit.clone();
        options.mcp = self.fixed.mcp;
        options.upgrades.clone_from(&self.fixed.upgrades);
        options.protected = self.protected();
        Ok(options)
    }

    /// The addresses that no upstream may have. A name has none that could be told here.
    fn protected(&self) -> Vec<Endpoint> {
        let services = [&self.sts, &self.audit].into_iter().cloned();
        let numeric = services.filter(Endpoint::is_address);
        let admin = self.admin_port.filter(|port| *port != 0).map(Endpoint::loopback);
        numeric.chain(admin).chain(self.fixed.protect.iter().copied().map(Endpoint::from)).collect()
    }
}

impl XdsFlags {
    fn control(&self, gateway: &GatewayId, out: Option<&Path>) -> Result<Option<ControlPlane>, Error> {
        let Some(endpoint) = self.xds.clone() else { return Ok(None) };
        let network = ControlNetwork {
            endpoint,
            trusted_ca: given("--xds-ca", self.xds_ca.as_deref())?.to_owned(),
            certificate: given("--xds-cert", self.xds_cert.as_deref())?.to_owned(),
            key: given("--xds-key", self.xds_key.as_deref())?.to_owned(),
            secrets: self.secrets(given("--out", out)?)?,
        };
        let file = given("--key-file", self.key_file.as_deref())?;
        let key = GatewayKey::from_hex(&read_secret(file)?)
            .map_err(|error| Error::Secret { path: file.to_owned(), why: error.to_string() })?;
        let credential = ControlCredential::new(key.configuration_credential(gateway));
        Ok(Some(ControlPlane { place: ControlPlace::Network(network), credential }))
    }

    /// Where the files beside the bootstrap will stand on the gateway's machine.
    fn secrets(&self, out: &Path) -> Result<ControlSecrets, Error> {
        let there = match (&self.xds_secrets, out.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => std::path::absolute(out).map_err(Error::file(out))?,
        };
        Ok(beside(&there))
    }
}

fn given<'a>(name: &'static str, file: Option<&'a Path>) -> Result<&'a Path, Error> {
    file.ok_or_else(|| Error::Setting { name, why: "is needed with --xds".to_owned() })
}

#[cfg(test)]
#[path = "envoy_bootstrap_tests.rs"]
mod tests;
