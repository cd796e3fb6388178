//! Logs: for people on a terminal, as JSON anywhere else.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `LOG_LEVEL` sets what is told, as `info` or `caracal_sts=debug,info`.
///
/// Starting twice leaves the first in place.
pub fn start() -> Result<(), crate::config::ConfigError> {
    let level = std::env::var("LOG_LEVEL").unwrap_or_else(|_| "warn".to_owned());
    let filter =
        EnvFilter::try_new(level).map_err(|error| crate::config::ConfigError::invalid("LOG_LEVEL", error))?;
    let terminal = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let _ = if terminal { builder.compact().try_init() } else { builder.json().try_init() };
    Ok(())
}
