//! Taking authority away (contract coordinator §4.6, §6.8): what a selector reaches, how it ends, and when every
//! gateway has taken it.
//!
//! [`Reach`] finds everything that ends with what is selected: records and those minted from them, the sessions on them
//! and below, the delegations of those and all that descends from them. The same search counts for a dry run and acts
//! in a transaction. [`end`](Reach::end) then writes the rows, one change for the gateways and the evidence.

mod act;
mod cause;
mod closure;
mod reach;
mod selector;
mod walk;

pub use act::{Ending, end_alone, end_session, raise_graph_epoch, revoke_edge, suspend_session};
pub use cause::Cause;
pub use closure::{Closure, ClosureStatus, GATEWAY_LIVE, GatewayState, Revocation, assess, gateways, settle};
pub use reach::{Counts, Reach, find_alone};
pub use selector::{Selector, SelectorError};
pub use walk::{Through, edge_descendants, subtree};
