//! One answer for all who ask at once: the first asks, the others wait for what it gets.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The flights that are under way, by key.
#[derive(Debug)]
pub(super) struct Flights<T>(Mutex<HashMap<String, Arc<OnceCell<T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// What `work` comes to, or what the flight of that key comes to that is under way already. If whoever began it goes
    /// away, one of those who wait begins it anew.
    pub(super) async fn join<F: Future<Output = T>>(&self, key: &str, work: impl FnOnce() -> F) -> T {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(flights.entry(key.to_owned()).or_default())
        };
        let landing = Landing { flights: self, key, flight: &flight };
        let result = flight.get_or_init(work).await.clone();
        drop(landing);
        result
    }
}

/// Forgets a flight when whoever was on it leaves, however that happens.
struct Landing<'a, T> {
    flights: &'a Flights<T>,
    key: &'a str,
    flight: &'a Arc<OnceCell<T>>,
}

impl<T> Drop for Landing<'_, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and the leaver's own are the last two.
        let over = self.flight.initialized() || Arc::strong_count(self.flight) <= 2;
        if over && flights.get(self.key).is_some_and(|flight| Arc::ptr_eq(flight, self.flight)) {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn all_who_ask_at_once_get_one_answer() {
        let flights = Arc::new(Flights::<u32>::default());
        let (begun, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (flights, begun, go) = (Arc::clone(&flights), Arc::clone(&begun), Arc::clone(&go));
            tasks.spawn(async move {
                let work = || async {
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    go.notified().await;
                    number
                };
                flights.join("k", work).await
            });
        }
        // Every task has run up to where it waits.
        while Arc::strong_count(&begun) < 21 || begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        assert!(tasks.join_all().await.into_iter().all(|number| number == 0));
        assert_eq!(flights.0.lock().unwrap().len(), 0);
        assert_eq!(flights.join("k", || async { 7 }).await, 7, "what is over is not remembered");
    }

    #[tokio::test]
    async fn who_leaves_early_leaves_nothing_behind() {
        let flights = Flights::<u32>::default();
        {
            let mut never = Box::pin(flights.join("k", std::future::pending));
            assert!(futures_poll(never.as_mut()).is_none());
        }
        assert_eq!(flights.0.lock().unwrap().len(), 0);
        assert_eq!(flights.join("k", || async { 1 }).await, 1);
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
