//! Traces (OpenTelemetry): one span for each request of a service, and one for each of its steps that an operator asks
//! about. The table of all of them is `docs/tracing.md`.
//!
//! [`Traces`] sends what was recorded to a collector. A server that was given a [`Tracer`] records its requests; without
//! one nothing is recorded, and nothing here allocates. What happens on behalf of a request finds it in the scope of the
//! thread (`scope`), so that no function has to pass it on.
//!
//! No span holds a token, a secret, a query, a body, a path or who somebody is: what one may hold stands in `names`.

mod export;
#[cfg(test)]
mod export_tests;
mod names;
mod queue;
pub(crate) mod scope;
mod server;
mod settings;
mod step;

pub use export::{Traces, TracesError};
pub use names::names;
pub use queue::Tracer;
pub use scope::{refused, with_this_request, zone};
pub use settings::Settings;
pub use step::{Step, policy_evaluation};

pub(crate) use scope::log_id;
pub(crate) use server::{begin, end};
pub(crate) use step::{Mark, Write, call};
