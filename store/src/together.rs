//! Requests of one kind that are written together: while one group is being committed, the next gathers, and a group
//! costs a few statements in all.
//!
//! Only plain requests come here, which nothing stands against. Whatever turns out not to be plain inside the transaction
//! is left out of the group as if it had not been there, and goes its way alone.

use crate::trace::{Mark, Write};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The most pieces of one group.
const MOST: usize = 128;

/// The pieces that wait for the next group, each for an answer. Cheap to clone; clones gather together.
pub struct Together<P, A>(Arc<Mutex<Queue<P, A>>>);

struct Queue<P, A> {
    waiting: Vec<(P, Waiter<A>)>,
    /// Somebody is at work on groups.
    busy: bool,
}

/// Whoever waits for what becomes of a piece.
struct Waiter<A> {
    answer: oneshot::Sender<Option<A>>,
    mark: Mark,
}

impl<P, A> Default for Together<P, A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Queue { waiting: Vec::new(), busy: false })))
    }
}

impl<P, A> Clone for Together<P, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P, A> std::fmt::Debug for Together<P, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("waiting", &self.queue().waiting.len()).finish_non_exhaustive()
    }
}

impl<P, A> Together<P, A> {
    fn queue(&self) -> MutexGuard<'_, Queue<P, A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Send + 'static, A: Send + 'static> Together<P, A> {
    /// Hands a piece to the next group. `write` writes a group and answers for each of its pieces, in their order; an
    /// error is a group of which nothing was written. `None`: the piece has to go alone, and nothing of it is written.
    pub async fn ask<W, F, E>(&self, piece: P, write: W) -> Option<A>
    where
        W: Fn(Vec<P>) -> F + Send + 'static,
        F: Future<Output = Result<Vec<Option<A>>, E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let step = Write::begin();
        let begins = {
            let mut queue = self.queue();
            queue.waiting.push((piece, Waiter { answer: sender, mark: step.mark() }));
            !std::mem::replace(&mut queue.busy, true)
        };
        if begins {
            tokio::spawn(AtWork { together: self.clone(), done: false }.run(write));
        }
        answer.await.ok().flatten()
    }
}

/// Somebody at work on groups. Should the work break off, whoever waits goes alone.
struct AtWork<P, A> {
    together: Together<P, A>,
    done: bool,
}

impl<P, A> Drop for AtWork<P, A> {
    fn drop(&mut self) {
        if !self.done {
            let mut queue = self.together.queue();
            queue.busy = false;
            queue.waiting.clear();
        }
    }
}

impl<P, A> AtWork<P, A> {
    async fn run<W, F, E>(mut self, write: W)
    where
        W: Fn(Vec<P>) -> F,
        F: Future<Output = Result<Vec<Option<A>>, E>>,
        E: std::fmt::Display,
    {
        loop {
            let (pieces, waiters): (Vec<_>, Vec<_>) = {
                let mut queue = self.together.queue();
                if queue.waiting.is_empty() {
                    queue.busy = false;
                    self.done = true;
                    return;
                }
                let count = queue.waiting.len().min(MOST);
                queue.waiting.drain(..count).unzip()
            };
            waiters.iter().for_each(|waiter| waiter.mark.reached());
            match write(pieces).await {
                Ok(answers) => {
                    for (waiter, answer) in waiters.into_iter().zip(answers) {
                        // A caller that went away does not want to know.
                        let _ = waiter.answer.send(answer);
                    }
                }
                // Each tries alone, and tells its caller what it meets.
                Err(error) => tracing::warn!(%error, "a group was not written"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn who_comes_while_a_group_is_written_is_in_the_next_and_odd_ones_are_left_out() {
        let (together, groups) = (Together::<usize, usize>::default(), Arc::new(AtomicUsize::new(0)));
        let asked = (0..100).map(|piece| {
            let (together, groups) = (together.clone(), Arc::clone(&groups));
            tokio::spawn(async move {
                let write = move |pieces: Vec<usize>| {
                    groups.fetch_add(1, Ordering::Relaxed);
                    async move {
                        tokio::task::yield_now().await;
                        Ok::<_, String>(
                            pieces.iter().map(|piece| (piece % 2 == 0).then_some(piece * 2)).collect(),
                        )
                    }
                };
                (piece, together.ask(piece, write).await)
            })
        });
        for task in asked.collect::<Vec<_>>() {
            let (piece, answer) = task.await.unwrap();
            assert_eq!(answer, (piece % 2 == 0).then_some(piece * 2));
        }
        assert!(groups.load(Ordering::Relaxed) < 100, "nothing was written together");
    }

    #[tokio::test]
    async fn where_a_group_fails_or_breaks_off_each_goes_alone_and_the_next_group_is_written() {
        let together = Together::<u8, u8>::default();
        let fails = |_| async { Err::<Vec<Option<u8>>, _>("no") };
        assert_eq!(together.ask(1, fails).await, None);
        #[allow(clippy::panic)]
        let breaks = |_| async { if true { panic!("broken off") } else { Err::<Vec<Option<u8>>, _>("no") } };
        assert_eq!(together.ask(2, breaks).await, None);
        let works = |pieces: Vec<u8>| async { Ok::<_, &str>(pieces.into_iter().map(Some).collect()) };
        assert_eq!(together.ask(3, works).await, Some(3));
    }
}
