//! A load generator: keep-alive HTTP/1.1 over several connections, a fixed number of requests in flight.
//!
//! It shares the processors with what it measures, so it does as little as possible: one thread, whole requests written
//! at once, of an answer only the status, the length and the body.

use crate::error::Error;
use crate::machine::ProcessorTime;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// One connection's work: it makes each request when the answer before has come.
pub(crate) trait Worker {
    /// Writes the next request, whole, into `out`; `false` if there is no more.
    fn request(&mut self, out: &mut Vec<u8>) -> bool;

    /// Takes the answer. An error ends the run: what does not do what it must is not measured.
    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String>;
}

/// How much load, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// The process that serves, for its processor time.
    pub(crate) pid: u32,
    /// Answers that come before do not count.
    pub(crate) warm_up: Duration,
    /// How long is measured.
    pub(crate) measured: Duration,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Each answer's latency in microseconds, in order of size.
    latencies: Vec<u32>,
    /// Processor time of the server per answer, microseconds.
    pub(crate) server_us: f64,
    /// Processor time of the generator per answer, microseconds.
    pub(crate) generator_us: f64,
    /// How much of the machine others took, percent.
    pub(crate) others_percent: f64,
}

impl Report {
    /// The latency in milliseconds that this share (0 to 1) of the answers did not exceed.
    pub(crate) fn latency_ms(&self, share: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((self.latencies.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.latencies.get(index).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }
}

/// What the connections share.
struct Shared {
    start: Instant,
    end: Instant,
    latencies: RefCell<Vec<u32>>,
    last: RefCell<Instant>,
}

/// Runs one connection per worker until the time is up, or no worker has more to ask.
pub(crate) async fn run<W: Worker + 'static>(plan: Plan, workers: Vec<W>) -> Result<Report, Error> {
    let start = Instant::now() + plan.warm_up;
    let shared = Rc::new(Shared {
        start,
        end: start + plan.measured,
        latencies: RefCell::default(),
        last: RefCell::new(start),
    });
    let local = LocalSet::new();
    let before = Rc::new(RefCell::new(ProcessorTime::of(plan.pid)));
    if !plan.warm_up.is_zero() {
        let before = Rc::clone(&before);
        local.spawn_local(async move {
            tokio::time::sleep_until(start.into()).await;
            *before.borrow_mut() = ProcessorTime::of(plan.pid);
        });
    }
    let mut connections = Vec::new();
    for worker in workers {
        connections.push(local.spawn_local(connection(plan.address, worker, Rc::clone(&shared))));
    }
    local
        .run_until(async {
            for connection in connections {
                connection.await.map_err(|error| Error::answer("a connection", error.to_string()))??;
            }
            Ok::<_, Error>(())
        })
        .await?;
    let used = ProcessorTime::of(plan.pid).since(*before.borrow());
    let last = *shared.last.borrow();
    let mut latencies = shared.latencies.take();
    latencies.sort_unstable();
    Ok(report(last.saturating_duration_since(start), used, latencies))
}

#[allow(clippy::cast_precision_loss)]
fn report(elapsed: Duration, used: ProcessorTime, latencies: Vec<u32>) -> Report {
    let count = latencies.len().max(1) as f64;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let seconds = elapsed.as_secs_f64().max(1e-9);
    Report {
        rate: latencies.len() as f64 / seconds,
        latencies,
        server_us: used.process.as_secs_f64() * 1e6 / count,
        generator_us: used.own.as_secs_f64() * 1e6 / count,
        others_percent: 100.0 * used.of_others().as_secs_f64() / (seconds * processors),
    }
}

async fn connection(address: SocketAddr, mut worker: impl Worker, shared: Rc<Shared>) -> Result<(), Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut out, mut input) = (Vec::new(), Vec::with_capacity(8192));
    loop {
        out.clear();
        let begun = Instant::now();
        if begun >= shared.end || !worker.request(&mut out) {
            return Ok(());
        }
        stream.write_all(&out).await?;
        let answer = read_answer(&mut stream, &mut input).await?;
        let now = Instant::now();
        let body = input.get(answer.body_at..answer.end).unwrap_or_default();
        worker.answer(answer.status, body).map_err(|why| Error::answer("under load", why))?;
        input.drain(..answer.end.min(input.len()));
        if now >= shared.start && now <= shared.end {
            let micros = u32::try_from(now.duration_since(begun).as_micros()).unwrap_or(u32::MAX);
            shared.latencies.borrow_mut().push(micros);
            *shared.last.borrow_mut() = now;
        }
    }
}

/// Where an answer's parts lie in the input.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body_at: usize,
    pub(crate) end: usize,
}

/// Reads until an answer is whole.
pub(crate) async fn read_answer(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Answer, Error> {
    loop {
        if let Some(answer) = parse_head(input)?
            && input.len() >= answer.end
        {
            return Ok(answer);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(Error::answer("under load", "the server closed the connection"));
        }
    }
}

/// Reads status line and headers, once they are whole. An answer has to tell its length.
fn parse_head(input: &[u8]) -> Result<Option<Answer>, Error> {
    let Some(head_end) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(input.get(..head_end).unwrap_or_default())
        .map_err(|error| Error::answer("an answer's head", error.to_string()))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|text| text.parse().ok());
    let status = status.ok_or_else(|| Error::answer("an answer's head", "no status"))?;
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let length = match (length, status) {
        (Some(length), _) => length,
        (None, 204 | 304) => 0,
        (None, _) => return Err(Error::answer("an answer's head", format!("{status} without a length"))),
    };
    let body_at = head_end + 4;
    Ok(Some(Answer { status, body_at, end: body_at.saturating_add(length) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    struct Counted(u32);

    impl Worker for Counted {
        fn request(&mut self, out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            self.0 = self.0.saturating_sub(1);
            self.0 > 0
        }

        fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
            if (status, body) == (200, b"hello") { Ok(()) } else { Err(format!("{status}")) }
        }
    }

    async fn serve(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0u8; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello");
                        // In two pieces, as a network may do.
                        let (first, second) = answer.as_bytes().split_at(20);
                        stream.write_all(first).await.unwrap();
                        tokio::task::yield_now().await;
                        stream.write_all(second).await.unwrap();
                    }
                });
            }
        });
        address
    }

    fn plan(address: SocketAddr) -> Plan {
        let measured = Duration::from_secs(60);
        Plan { address, pid: std::process::id(), warm_up: Duration::ZERO, measured }
    }

    #[tokio::test]
    async fn every_answer_counts_once() {
        let address = serve("200 OK").await;
        let report = run(plan(address), vec![Counted(11), Counted(21)]).await.unwrap();
        assert_eq!(report.latencies.len(), 30);
        assert!(report.rate > 0.0 && report.latency_ms(0.5) <= report.latency_ms(0.99));
    }

    #[tokio::test]
    async fn a_refusal_under_load_ends_the_run() {
        let address = serve("429 Too Many Requests").await;
        assert!(run(plan(address), vec![Counted(11)]).await.unwrap_err().to_string().contains("429"));
    }
}
