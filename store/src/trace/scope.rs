//! Which request a thread is at work for.
//!
//! A future that serves a request is polled within its [`Scope`], so whatever it calls can say what it found out, and
//! begin steps of its own. A task or thread that is started meanwhile is in nobody's scope, unless it takes this one along
//! ([`with_this_request`]).

use super::names::Attribute;
use caracal_mandate::id::ZoneId;
use opentelemetry::trace::{TraceContextExt as _, TraceId};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, OnceLock};

/// The request that a thread is at work for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Scope {
    /// None of which anything is told.
    #[default]
    None,
    /// One that belongs to a trace of somebody else's, and is not recorded here.
    Known(TraceId),
    /// One that is recorded.
    Recorded(Recorded),
}

/// A request that is recorded.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(super) tracer: SdkTracer,
    /// The span that is under way.
    pub(super) span: Context,
    pub(super) found: Arc<Found>,
}

/// What was found out about a request. The first word counts: it is the nearest to the cause.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) zone: OnceLock<String>,
    pub(super) reason: OnceLock<String>,
}

thread_local! {
    static CURRENT: RefCell<Scope> = const { RefCell::new(Scope::None) };
}

impl Scope {
    /// Runs `work` within this scope.
    pub(crate) async fn around<F: Future>(&self, work: F) -> F::Output {
        if matches!(self, Self::None) {
            return work.await;
        }
        let mut work = pin!(work);
        poll_fn(|context| {
            let _entered = Entered::enter(self.clone());
            work.as_mut().poll(context)
        })
        .await
    }
}

impl Recorded {
    /// Sets what the span that is under way may hold.
    pub(super) fn set(&self, attribute: Attribute, value: impl Into<Value>) {
        self.span.span().set_attribute(KeyValue::new(attribute.name(), value));
    }
}

/// The time in which a thread is at work for a request. Before it, it was for another, or none.
struct Entered(Scope);

impl Entered {
    fn enter(scope: Scope) -> Self {
        Self(CURRENT.with(|current| current.replace(scope)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = std::mem::take(&mut self.0);
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}

/// The recorded request that this thread is at work for.
pub(super) fn recorded() -> Option<Recorded> {
    CURRENT.with_borrow(|current| match current {
        Scope::Recorded(recorded) => Some(recorded.clone()),
        Scope::None | Scope::Known(_) => None,
    })
}

fn find(found: impl FnOnce(&Found)) {
    CURRENT.with_borrow(|current| {
        if let Scope::Recorded(recorded) = current {
            found(&recorded.found);
        }
    });
}

/// The request that is being served is about this zone.
pub fn zone(zone: &ZoneId) {
    find(|found| {
        let _ = found.zone.get_or_init(|| zone.to_string());
    });
}

/// The request that is being served is refused for this reason, a code.
pub fn refused(reason: &str) {
    find(|found| {
        let _ = found.reason.get_or_init(|| reason.to_owned());
    });
}

/// Work that goes on in a task of its own, on behalf of the request that is being served now.
pub fn with_this_request<F: Future + Send>(work: F) -> impl Future<Output = F::Output> + Send {
    let scope = CURRENT.with_borrow(Scope::clone);
    async move { scope.around(work).await }
}

/// The trace that a log line belongs to.
pub(crate) fn log_id() -> Option<TraceId> {
    let of = |current: &Scope| match current {
        Scope::None => None,
        Scope::Known(id) => Some(*id),
        Scope::Recorded(recorded) => Some(recorded.span.span().span_context().trace_id()),
    };
    // A thread that ends logs as well, and whoever enters a scope logs nothing meanwhile.
    CURRENT.try_with(|current| current.try_borrow().ok().as_deref().and_then(of)).ok().flatten()
}
