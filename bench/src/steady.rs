//! Load at a rate that does not depend on the answers, from a thread of its own, while something else is measured.

use crate::error::Error;
use crate::load::read_answer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A load under way.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    /// When counting began, and how many answers there were then.
    since: (Instant, u64),
    thread: JoinHandle<Result<(), Error>>,
}

#[derive(Clone)]
struct Line {
    address: SocketAddr,
    request: Arc<Vec<u8>>,
    every: Duration,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Steady {
    /// Sends this request so often every second. Each answer has to be 200.
    pub(crate) fn start(address: SocketAddr, request: Vec<u8>, rate: u32, connections: u16) -> Self {
        let line = Line {
            address,
            request: Arc::new(request),
            every: Duration::from_secs(1) * u32::from(connections) / rate.max(1),
            stop: Arc::default(),
            answered: Arc::default(),
        };
        let (stop, answered) = (Arc::clone(&line.stop), Arc::clone(&line.answered));
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let mut lines = tokio::task::JoinSet::new();
                for number in 0..connections {
                    lines.spawn(line.clone().send(line.every * u32::from(number) / u32::from(connections)));
                }
                while let Some(ended) = lines.join_next().await {
                    ended.map_err(|error| Error::answer("the load", error.to_string()))??;
                }
                Ok(())
            })
        });
        Self { stop, answered, since: (Instant::now(), 0), thread }
    }

    /// Counts from now on.
    pub(crate) fn count(&mut self) {
        self.since = (Instant::now(), self.answered.load(Ordering::Relaxed));
    }

    /// Ends it; tells how many answers there were per second since counting began.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn stop(self) -> Result<f64, Error> {
        let (begun, before) = self.since;
        let answers = self.answered.load(Ordering::Relaxed).saturating_sub(before) as f64;
        let rate = answers / begun.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::answer("the load", "its thread panicked"))??;
        Ok(rate)
    }
}

impl Line {
    /// Sends when it is time, or at once when it is late.
    async fn send(self, offset: Duration) -> Result<(), Error> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut input, mut due) = (Vec::new(), Instant::now() + offset);
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep_until(due.into()).await;
            due += self.every;
            stream.write_all(&self.request).await?;
            let answer = read_answer(&mut stream, &mut input).await?;
            if answer.status != 200 {
                return Err(Error::answer("the load", answer.status.to_string()));
            }
            input.drain(..answer.end.min(input.len()));
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_was_asked_for() {
        let address = crate::upstream::start().unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
        let mut steady = Steady::start(address, request, 200, 4);
        std::thread::sleep(Duration::from_millis(200));
        steady.count();
        std::thread::sleep(Duration::from_millis(500));
        let rate = steady.stop().unwrap();
        assert!((100.0..=220.0).contains(&rate), "{rate}");
    }
}
