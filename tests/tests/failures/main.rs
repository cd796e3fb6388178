//! What holds while something fails or is taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod drills;
mod faults;
mod power_cut;
mod under_load;
