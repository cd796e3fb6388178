//! The security token service: token exchange, policy decisions, zone keys and the gateway feed.

pub mod policy;
