//! Whether requests are recorded, and where traces go (contract sts §26.3).

use crate::error::Error;
use caracal_store::trace::{Settings, Traces};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces")]
pub(crate) struct TraceOptions {
    /// Record requests, and send traces to this collector of OpenTelemetry (OTLP over HTTP, protobuf). Other variables
    /// named OTEL_… say more; docs/tracing.md lists them.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

impl TraceOptions {
    /// Starts to record, where the operator asked for it.
    pub(crate) fn start(&self, extra_ca_file: Option<PathBuf>) -> Result<Option<Traces>, Error> {
        let settings = Settings::from_environment(
            self.otlp_endpoint.as_deref(),
            env!("CARGO_PKG_VERSION"),
            extra_ca_file,
        )?;
        Ok(settings.map(Traces::start).transpose()?)
    }
}
