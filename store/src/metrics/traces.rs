//! What is counted of traces.

use super::catalogue::{Builder, EVERY};
use super::words::Words;
use prometheus::{Error, IntCounter};

/// What became of spans.
pub(super) struct Spans {
    pub(super) exported: IntCounter,
    pub(super) dropped: Words,
}

impl Spans {
    pub(super) fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            exported: b.counter(
                EVERY,
                "caracal_trace_spans_exported_total",
                "Spans that the collector took.",
            )?,
            dropped: b.words(
                EVERY,
                "caracal_trace_spans_dropped_total",
                "Spans that did not get to the collector, by reason.",
                &["reason"],
            )?,
        })
    }
}
