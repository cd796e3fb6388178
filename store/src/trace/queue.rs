//! What was recorded, on its way from the requests to the collector.
//!
//! A request puts its spans into a bounded queue and never waits: what finds no place is dropped, and counted.

use crate::metrics::{self, Service};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanProcessor};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Records the requests of one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(SdkTracer);

impl Tracer {
    pub(super) fn new(service: Service, queue: mpsc::Sender<Ended>, lost: Arc<Lost>, version: &str) -> Self {
        // Sampling and the limits of a span are the SDK's, with its variables.
        let provider =
            SdkTracerProvider::builder().with_span_processor(Queue { service, queue, lost }).build();
        let scope = InstrumentationScope::builder("caracal").with_version(version.to_owned()).build();
        Self(provider.tracer_with_scope(scope))
    }

    pub(super) fn sdk(&self) -> &SdkTracer {
        &self.0
    }
}

/// A span that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) service: Service,
    pub(super) span: SpanData,
}

/// Why a span did not get to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The process ended first.
    Ended,
    /// There was no place for it.
    QueueFull,
    /// The collector did not want it.
    Refused,
    /// The collector did not answer in time.
    Timeout,
    /// There was no collector.
    Unreachable,
}

impl Loss {
    /// The value of the label `reason`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

/// The spans that were lost and of which no log tells yet.
#[derive(Debug, Default)]
pub(super) struct Lost(AtomicU64);

impl Lost {
    /// So many more.
    pub(super) fn add(&self, spans: u64, why: Loss) {
        metrics::spans_dropped(why.as_str(), spans);
        self.0.fetch_add(spans, Ordering::Relaxed);
    }

    /// How many there are; a log tells of them now.
    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Puts the spans of one service into the queue.
#[derive(Debug)]
struct Queue {
    service: Service,
    queue: mpsc::Sender<Ended>,
    lost: Arc<Lost>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        use mpsc::error::TrySendError;
        if !span.span_context.is_sampled() {
            return;
        }
        match self.queue.try_send(Ended { service: self.service, span }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.lost.add(1, Loss::QueueFull),
            Err(TrySendError::Closed(_)) => self.lost.add(1, Loss::Ended),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
