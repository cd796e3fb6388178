//! One connection, and how long it may take (contract sts §1).
//!
//! A connection waits for a request, reads its head, serves it, and waits again. Each state has its own time: a head
//! that comes in drops is cut off, a connection that is kept alive is not. While a request is served its time is its
//! handler's, so a long poll may wait.

use super::server::ConnectionLimits;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// What ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cut {
    /// The head of a request did not come in time.
    Head = 1,
    /// No request came.
    Idle = 2,
    /// The answer was not taken in time.
    Write = 3,
}

impl Cut {
    /// The label of the limit.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Head => "header_read",
            Self::Idle => "idle",
            Self::Write => "write",
        }
    }
}

/// What the connection and whoever serves its requests tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    serving: AtomicBool,
    cut: AtomicU8,
}

impl Shared {
    /// A request is being served until what is answered is dropped.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.serving.store(true, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }

    /// What ended the connection, if a limit did.
    pub(super) fn cut(&self) -> Option<Cut> {
        [Cut::Head, Cut::Idle, Cut::Write]
            .into_iter()
            .find(|cut| *cut as u8 == self.cut.load(Ordering::Relaxed))
    }
}

/// A request that is being served.
pub(super) struct Serving(Arc<Shared>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.store(false, Ordering::Relaxed);
    }
}

/// What a connection waits for while no request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For the rest of a head.
    Head(Instant),
    /// For the next request, or for the first.
    Idle(Instant),
    /// A request is or was served: how long has to be seen.
    Unknown,
}

/// A socket that ends what takes too long.
pub(super) struct Connection {
    socket: TokioIo<TcpStream>,
    limits: ConnectionLimits,
    shared: Arc<Shared>,
    waits: Waits,
    read: Alarm,
    write: Alarm,
    /// Until when what is written has to be taken.
    write_until: Option<Instant>,
}

impl Connection {
    pub(super) fn new(socket: TcpStream, limits: ConnectionLimits, shared: Arc<Shared>) -> Self {
        // A client may open a connection in advance and use it as late as any other that is kept alive.
        let first = Instant::now() + limits.idle;
        Self {
            socket: TokioIo::new(socket),
            limits,
            shared,
            waits: Waits::Idle(first),
            read: Alarm::default(),
            write: Alarm::default(),
            write_until: None,
        }
    }

    /// Bytes came in.
    fn heard(&mut self) {
        if self.shared.serving.load(Ordering::Relaxed) {
            self.waits = Waits::Unknown;
        } else if !matches!(self.waits, Waits::Head(_)) {
            self.waits = Waits::Head(Instant::now() + self.limits.header_read);
        }
    }

    /// No bytes are there: is the time over?
    fn check_read(&mut self, context: &mut Context<'_>) -> Poll<Cut> {
        if self.shared.serving.load(Ordering::Relaxed) {
            self.waits = Waits::Unknown;
            return Poll::Pending;
        }
        let (until, cut) = match self.waits {
            Waits::Head(until) => (until, Cut::Head),
            Waits::Idle(until) => (until, Cut::Idle),
            Waits::Unknown => {
                let until = Instant::now() + self.limits.idle;
                self.waits = Waits::Idle(until);
                (until, Cut::Idle)
            }
        };
        self.read.rings(until, context).map(|()| cut)
    }

    fn cut(&self, cut: Cut) -> io::Error {
        self.shared.cut.store(cut as u8, Ordering::Relaxed);
        io::Error::from(io::ErrorKind::TimedOut)
    }

    /// What is written waits for the other side: is the time over?
    fn check_write<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            return result;
        }
        let limit = self.limits.write;
        let until = *self.write_until.get_or_insert_with(|| Instant::now() + limit);
        self.write.rings(until, context).map(|()| Err(self.cut(Cut::Write)))
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_read(context, buffer) {
            Poll::Ready(result) => {
                self.heard();
                Poll::Ready(result)
            }
            Poll::Pending => self.check_read(context).map(|cut| Err(self.cut(cut))),
        }
    }
}

impl Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waits = Waits::Unknown;
        let result = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.check_write(result, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(context);
        if result.is_ready() {
            self.write_until = None;
            // An answer ends here, and nothing is read before there is something to read: the time has to run already.
            // Once it is over, the next read tells.
            if self.waits == Waits::Unknown {
                let _ = self.check_read(context);
            }
        }
        self.check_write(result, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_shutdown(context);
        self.check_write(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.waits = Waits::Unknown;
        let result = Pin::new(&mut self.socket).poll_write_vectored(context, buffers);
        self.check_write(result, context)
    }
}

/// The body of an answer: the request is served until it ends.
pub(super) struct Answer {
    body: axum::body::Body,
    _serving: Serving,
}

impl Answer {
    pub(super) fn new(body: axum::body::Body, serving: Serving) -> Self {
        Self { body, _serving: serving }
    }
}

impl http_body::Body for Answer {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Wakes a task at a time. A later time costs nothing: the timer rings early and is set again.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `until` has passed.
    pub(super) fn rings(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if until < sleep.deadline() {
            sleep.as_mut().reset(until);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// The body of a request, which has to be there in time.
pub(super) struct TimedBody {
    body: hyper::body::Incoming,
    limit: Duration,
    until: Option<Instant>,
    alarm: Alarm,
}

impl TimedBody {
    pub(super) fn new(body: hyper::body::Incoming, limit: Duration) -> Self {
        Self { body, limit, until: None, alarm: Alarm::default() }
    }
}

/// A body that could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyFailure {
    #[error("the body could not be read")]
    Broken(#[source] hyper::Error),
    #[error("the body did not come in time")]
    Late,
}

impl http_body::Body for TimedBody {
    type Data = axum::body::Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, BodyFailure>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(BodyFailure::Broken))),
            Poll::Pending => {
                let limit = self.limit;
                let until = *self.until.get_or_insert_with(|| Instant::now() + limit);
                self.alarm.rings(until, context).map(|()| Some(Err(BodyFailure::Late)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
