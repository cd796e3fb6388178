//! Steps of a request: evaluations of policy, writes, and calls that leave the installation.

use super::names::{Attribute, Span};
use super::scope::{Recorded, recorded};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{KeyValue, Value};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A step of a request that is recorded; of any other, nothing. It ends where it is dropped.
#[derive(Debug, Default)]
pub struct Step(Option<Recorded>);

impl Step {
    fn begin(name: &'static str, kind: SpanKind, attributes: impl FnOnce() -> Vec<KeyValue>) -> Self {
        let Some(request) = recorded() else { return Self(None) };
        let span = request
            .tracer
            .span_builder(Cow::Borrowed(name))
            .with_kind(kind)
            .with_attributes(attributes())
            .start_with_context(&request.tracer, &request.span);
        Self(Some(Recorded { span: request.span.with_span(span), ..request }))
    }

    pub(crate) fn set(&self, attribute: Attribute, value: impl Into<Value>) {
        if let Some(step) = &self.0 {
            step.set(attribute, value);
        }
    }

    /// Somebody answered with this status.
    pub(crate) fn answered(&self, status: u16) {
        let Some(step) = &self.0 else { return };
        step.set(Attribute::Status, i64::from(status));
        // Whoever calls sees a failure in any status from 400 on.
        if status >= 400 {
            step.set(Attribute::ErrorType, status.to_string());
            step.span.span().set_status(Status::error(""));
        }
    }

    /// The step failed; `why` is a word.
    pub fn failed(&self, why: &'static str) {
        if let Some(step) = &self.0 {
            step.set(Attribute::ErrorType, why);
            step.span.span().set_status(Status::error(""));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(step) = &self.0 {
            step.span.span().end();
        }
    }
}

/// Policy is evaluated.
#[must_use]
pub fn policy_evaluation() -> Step {
    Step::begin(Span::PolicyEvaluation.name(), SpanKind::Internal, Vec::new)
}

/// Somebody else's server is called. It is told nothing of the trace: what ties our requests together is no business of
/// theirs.
pub(crate) fn call(method: &'static str, scheme: &str, host: &str, port: Option<u16>) -> Step {
    Step::begin(method, SpanKind::Client, || {
        let mut attributes = vec![
            KeyValue::new(Attribute::Method.name(), method),
            KeyValue::new(Attribute::Scheme.name(), scheme.to_owned()),
            KeyValue::new(Attribute::ServerAddress.name(), host.to_owned()),
        ];
        attributes.extend(port.map(|port| KeyValue::new(Attribute::ServerPort.name(), i64::from(port))));
        attributes
    })
}

/// A write, from its being asked for to the end of its commit.
#[derive(Debug)]
pub(crate) struct Write {
    step: Step,
    mark: Mark,
}

/// Where a write says that its turn has come. Without anybody who wants to know it is nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mark(Option<Arc<Waiting>>);

#[derive(Debug)]
struct Waiting {
    since: Instant,
    waited: OnceLock<Duration>,
}

impl Mark {
    /// Its turn has come.
    pub(crate) fn reached(&self) {
        if let Some(waiting) = &self.0 {
            let _ = waiting.waited.set(waiting.since.elapsed());
        }
    }
}

impl Write {
    /// A write is asked for.
    pub(crate) fn begin() -> Self {
        let step = Step::begin(Span::Write.name(), SpanKind::Internal, Vec::new);
        let waiting = || Arc::new(Waiting { since: Instant::now(), waited: OnceLock::new() });
        let mark = Mark(step.0.is_some().then(waiting));
        Self { step, mark }
    }

    /// What to give to whoever does the work.
    pub(crate) fn mark(&self) -> Mark {
        self.mark.clone()
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let waited = self.mark.0.as_ref().and_then(|waiting| waiting.waited.get());
        if let Some(waited) = waited {
            self.step.set(Attribute::Waited, i64::try_from(waited.as_micros()).unwrap_or(i64::MAX));
        }
    }
}
