//! The vocabulary of authority and every pure decision about it.
//!
//! A *mandate* is a short-lived ES256 JWT. This crate knows its claims, its compact form, the scopes it carries,
//! the *anchors* by which it can be revoked, the *epochs* that tell whether a decision is still fresh, and the
//! [`Verdict`](verdict::Verdict) that all of it leads to. Nothing here reads a clock, a file or a socket, so the same
//! code decides inside Envoy, in the services and in tests.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod claims;
pub mod decide;
pub mod delivery;
pub mod epoch;
pub mod error;
pub mod es256;
pub mod feed;
pub mod gateway_signature;
pub mod hash;
pub mod header;
pub mod id;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod mcp;
pub mod narrow;
pub mod operation;
pub mod path;
pub mod property;
pub mod recent;
pub mod scope;
mod tree;
pub mod upstream;
pub mod verdict;
