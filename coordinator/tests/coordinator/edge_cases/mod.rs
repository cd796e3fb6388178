//! The thirty edge cases of contract coordinator §23, each by its number.
//!
//! Some stand beside the section that they belong to; `docs/conformance-coordinator.md` tells where each is.

mod delegations;
mod sessions;
mod system;
