//! The server that gateways take their configuration from (xDS: one stream of increments, ADS over gRPC).
//!
//! It follows the store: every resource that gateways may reach becomes a cluster of its own, and a name that a resource's
//! URL holds becomes a list of addresses that were judged one by one. Envoy resolves nothing itself, so an address that no
//! upstream may have is never connected to, whatever a name server answers and whenever it does. The listener and the
//! routes are the same for all resources, and stay as they are when resources change.
//!
//! ```text
//! store ─ follow ─ translate ─ snapshot ─ session (one for each stream) ─ Envoy
//!            └ names (resolution) ┘
//! ```
//!
//! [`listen`] makes the socket, [`NetworkListener`] is the door for other machines, and [`XdsServer::serve`] runs until it is
//! told to stop. A gateway shows a credential that is good for its own id alone. What cannot become a cluster is left out, with a reason that is counted, logged and shown
//! by [`Status`]; it never keeps another one from its gateway.

mod content;
mod follow;
mod names;
mod network;
pub mod proto;
mod schema;
mod server;
mod session;
mod status;
mod stream;
mod translate;
mod wire;

pub use names::Lookup;
pub use network::{NetworkError, NetworkFile, NetworkFileError, NetworkFiles, NetworkListener, Unusable};
pub use server::{DEFAULT_MAX_STREAMS, XdsError, XdsOptions, XdsServer, listen, read_status};
pub use status::{GatewayStatus, LeftOutStatus, Rejection, STATUS_PATH, Status};
pub use translate::{LeftOut, LeftOutReason, MAX_RESOURCES};

#[cfg(test)]
pub(crate) use wire::as_struct;
