//! Starts and ends of sessions that are written together ([`Together`]).
//!
//! Plain ones only: a task on the application's own record without a parent, a session with nothing below it and no
//! delegation. Whatever else comes up inside the transaction is left out of the group and goes its way alone, which also
//! finds the words for a refusal.

mod ends;
mod starts;

use crate::caller::Caller;
use crate::failure::Failure;
use caracal_store::model::RegistrationMethod;
use caracal_store::{StoreError, Together, WriteTx};

pub(crate) use ends::End;
pub(crate) use starts::Start;

/// What waits to be written together. Cheap to clone; routes of one process have the same.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    starts: Together<Start, crate::receipt::Reply>,
    ends: Together<End, ()>,
}

/// The callers of one group, each looked at once.
#[derive(Default)]
struct Standings<'a>(Vec<(&'a Caller, Option<Standing>)>);

/// What [`Caller::check_stands`] answers.
type Standing = Option<RegistrationMethod>;

impl<'a> Standings<'a> {
    /// `None` where what the caller's mandate rests on does not stand.
    async fn of(&mut self, tx: &mut WriteTx<'_>, caller: &'a Caller) -> Result<Option<Standing>, StoreError> {
        if let Some((_, standing)) = self.0.iter().find(|(known, _)| known.rests_on_the_same(caller)) {
            return Ok(*standing);
        }
        let now = tx.now();
        let standing = plain(caller.check_stands(tx.connection(), now).await)?;
        self.0.push((caller, standing));
        Ok(standing)
    }
}

/// `None` for a refusal: whoever meets one goes alone.
fn plain<T>(result: Result<T, Failure>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Store(error)) => Err(error),
        Err(_) => Ok(None),
    }
}
