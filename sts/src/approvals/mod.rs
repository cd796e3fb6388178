//! Approvals: a mint that policy gates waits for a person (contract sts §16).
//!
//! A [`Hold`] binds everything that is approved; [`terms`] merges what several gates ask for; `issue` makes a hold or
//! finds it again and uses it up; `status` and `decide` are its two routes; `sweep` ends those that nobody used.

mod decide;
mod hold;
mod issue;
mod status;
mod sweep;
mod terms;

pub(crate) use decide::decide;
pub(crate) use hold::{Binding, Hold, State, rfc3339};
pub(crate) use issue::{NewHold, converge, may_reissue, use_up};
pub(crate) use status::status;
pub use sweep::Swept;
pub(crate) use terms::Terms;
