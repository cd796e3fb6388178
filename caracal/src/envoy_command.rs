//! `caracal envoy`: work with configurations of Envoy.

use crate::envoy_bootstrap::{self, BootstrapFlags};
use crate::envoy_lint::{self, LintOptions};
use crate::error::Error;
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum EnvoyCommand {
    /// Render the bootstrap of a gateway on another machine.
    #[command(
        after_help = "Files of the gateway's machine are named by their absolute paths there; only --key-file is read.\n\
                      With --xds, two files beside --out name them for Envoy, which follows them; they go where --xds-secrets says.\n\
                      Envoy finds the key itself in its environment, as CARACAL_GATEWAY_STS_HMAC_KEY.\n\nExamples:\n  \
                      caracal envoy bootstrap --gateway-id edge --listen 0.0.0.0:8081 --sts 10.0.0.5:8080 --audit 10.0.0.5:9090 \\\n    \
                      --module /opt/caracal/caracal_filter.wasm --admin-socket /run/caracal/envoy-admin.sock\n  \
                      caracal envoy bootstrap --gateway-id edge --listen 0.0.0.0:8081 --sts 10.0.0.5:8080 --audit 10.0.0.5:9090 \\\n    \
                      --module /opt/caracal/caracal_filter.wasm --admin-socket /run/caracal/envoy-admin.sock \\\n    \
                      --xds caracal.internal:18000 --xds-ca /etc/caracal/ca.pem --xds-cert /etc/caracal/edge.pem \\\n    \
                      --xds-key /etc/caracal/edge.key --xds-secrets /etc/caracal --key-file DATA/secrets/gatewayStsHmacKey \\\n    \
                      --out envoy.json"
    )]
    Bootstrap(Box<BootstrapFlags>),
    /// Judge configurations before an Envoy runs with them.
    #[command(
        after_help = "Knows static bootstraps, Istio's WasmPlugin and Envoy Gateway's EnvoyExtensionPolicy.\n\nExamples:\n  \
                      caracal envoy lint envoy.yaml\n  \
                      caracal envoy lint --allow dry_run --json plugin.yaml"
    )]
    Lint(LintOptions),
}

/// Does what the command says.
pub(crate) fn run(command: &EnvoyCommand) -> Result<ExitCode, Error> {
    match command {
        EnvoyCommand::Bootstrap(flags) => envoy_bootstrap::run(flags),
        EnvoyCommand::Lint(options) => envoy_lint::run(options),
    }
}
