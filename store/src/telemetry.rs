//! Logs: for people on a terminal, as JSON anywhere else.

use crate::trace;
use std::fmt;
use std::io::IsTerminal as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
    let _ = if terminal {
        builder.compact().try_init()
    } else {
        builder.json().map_event_format(OfTrace).try_init()
    };
    Ok(())
}

/// A format of JSON objects, each on a line of its own, that also says to which trace a line belongs.
struct OfTrace<F>(F);

impl<S, N, F> FormatEvent<S, N> for OfTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace::log_id() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(object) => writeln!(writer, "{object},\"trace_id\":\"{trace}\"}}"),
            None => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::scope::Scope;
    use opentelemetry::trace::TraceId;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn contract_coordinator_2_a_line_names_the_trace_that_it_belongs_to() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().map_event_format(OfTrace).with_writer(move || writer.clone());
        let _started = tracing::subscriber::set_default(subscriber.finish());
        tracing::warn!("before");
        let scope = Scope::Known(TraceId::from_bytes([0xab; 16]));
        scope
            .around(async {
                tokio::task::yield_now().await;
                tracing::warn!(word = "}\n", "within");
            })
            .await;
        tracing::warn!("after");
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let shown: Vec<_> =
            lines.iter().map(|line| (&line["fields"]["message"], &line["trace_id"])).collect();
        let within = serde_json::json!("ab".repeat(16));
        let null = serde_json::Value::Null;
        assert_eq!(shown, [(&"before".into(), &null), (&"within".into(), &within), (&"after".into(), &null)]);
    }
}
