//! Group commit: many requests, one transaction, one sync to disk.
//!
//! One task owns the one connection that writes. It takes what is waiting, runs each piece in a savepoint of its own
//! and commits them together; only then is anyone answered. A piece that fails takes back what it wrote and nothing
//! else. While a commit is under way the next group gathers, so the group grows with the load.

use crate::SqlConnection;
use crate::StoreError;
use crate::clock;
use crate::database::{WriteFuture, connect};
use crate::file::DatabaseFile;
use crate::trace::{Mark, Write};
use sqlx::Executor as _;
use sqlx::any::AnyConnectOptions;
use std::future::Future;
use std::pin::Pin;
use tokio::sync::{mpsc, oneshot, watch};

/// The most requests in one transaction.
const MAX_GROUP: usize = 256;
/// How many requests may wait before callers have to.
const QUEUE: usize = 4096;

/// Begins a group. SQLite would otherwise take its lock at the first write.
const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE";
/// The same for other databases.
const BEGIN: &str = "BEGIN";
/// Before the first of several pieces. One that is alone needs none: what it takes back is the transaction.
const FIRST: &str = "SAVEPOINT piece";
/// Between two pieces: one round to the database for both.
const NEXT: &str = "RELEASE SAVEPOINT piece; SAVEPOINT piece";
/// After a piece that failed. The savepoint stays, for the next one.
const TAKE_BACK: &str = "ROLLBACK TO SAVEPOINT piece";

/// The transaction that a piece of work writes in.
#[derive(Debug)]
pub struct WriteTx<'a> {
    connection: &'a mut SqlConnection,
    now: i64,
    generation: Option<u64>,
    audited: bool,
    decided: bool,
}

impl WriteTx<'_> {
    /// The connection to run statements on.
    pub fn connection(&mut self) -> &mut SqlConnection {
        self.connection
    }

    /// Now, in unix milliseconds: one value for the whole piece of work.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.now
    }

    pub(crate) fn announce_change(&mut self, generation: u64) {
        self.generation = Some(generation);
    }

    pub(crate) fn announce_audit(&mut self) {
        self.audited = true;
    }

    /// An approval was decided or lapsed: whoever waits for one is woken after the commit.
    pub fn announce_decision(&mut self) {
        self.decided = true;
    }
}

/// What a piece of work asks to be told to others after the commit.
#[derive(Debug, Default)]
struct Announcement {
    generation: Option<u64>,
    audited: bool,
    decided: bool,
}

/// The work refused; it was told so to its caller after its savepoint was rolled back.
struct Failed(Box<dyn FnOnce() + Send>);

trait Job: Send {
    fn run<'c>(
        self: Box<Self>,
        tx: &'c mut WriteTx<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<Settle, Failed>> + Send + 'c>>;
}

/// Answers the caller once it is known whether the commit succeeded.
type Settle = Box<dyn FnOnce(Result<(), String>) + Send>;

struct Work<T, E, F> {
    work: F,
    mark: Mark,
    answer: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Job for Work<T, E, F>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: for<'c> FnOnce(&'c mut WriteTx<'_>) -> WriteFuture<'c, T, E> + Send + 'static,
{
    fn run<'c>(
        self: Box<Self>,
        tx: &'c mut WriteTx<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<Settle, Failed>> + Send + 'c>> {
        Box::pin(async move {
            let Work { work, mark, answer } = *self;
            mark.reached();
            match work(tx).await {
                Ok(value) => {
                    let settle: Settle = Box::new(move |committed| {
                        let result =
                            committed.map(|()| value).map_err(|why| StoreError::Uncommitted(why).into());
                        // A caller that went away does not want to know.
                        let _ = answer.send(result);
                    });
                    Ok(settle)
                }
                Err(error) => Err(Failed(Box::new(move || {
                    let _ = answer.send(Err(error));
                }))),
            }
        })
    }
}

enum Message {
    Job(Box<dyn Job>),
    Stop(oneshot::Sender<()>),
}

/// The handle to the writing task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {
    queue: mpsc::Sender<Message>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Job(_) => "Job",
            Self::Stop(_) => "Stop",
        })
    }
}

impl Writer {
    /// Starts the writing task on a thread of its own: every statement goes to the database and back, and would wait
    /// for its turn among all requests each time.
    pub(crate) fn start(
        connection: SqlConnection,
        options: AnyConnectOptions,
        file: Option<DatabaseFile>,
        changes: watch::Sender<u64>,
        audit: watch::Sender<u64>,
        decisions: watch::Sender<u64>,
    ) -> std::io::Result<Self> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time();
        // With a file nothing of the network is waited for, and a thread without sockets to watch is woken sooner.
        if !connection.is_sqlite() {
            runtime.enable_io();
        }
        let runtime = runtime.build()?;
        let task = Task { connection: Some(connection), options, file, changes, audit, decisions };
        std::thread::Builder::new()
            .name("caracal-writer".to_owned())
            .spawn(move || runtime.block_on(task.run(receiver)))?;
        Ok(Self { queue })
    }

    /// Runs `work` in the next transaction and answers after its commit.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: for<'c> FnOnce(&'c mut WriteTx<'_>) -> WriteFuture<'c, T, E> + Send + 'static,
    {
        let stopped = || E::from(StoreError::Uncommitted("the writer has stopped".into()));
        let (answer, result) = oneshot::channel();
        let write = Write::begin();
        let job = Message::Job(Box::new(Work { work, mark: write.mark(), answer }));
        self.queue.send(job).await.map_err(|_| stopped())?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.queue.send(Message::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

struct Task {
    connection: Option<SqlConnection>,
    options: AnyConnectOptions,
    file: Option<DatabaseFile>,
    changes: watch::Sender<u64>,
    audit: watch::Sender<u64>,
    decisions: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(first) = queue.recv().await {
            let mut jobs = Vec::new();
            let mut stop = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => jobs.push(job),
                    Message::Stop(done) => stop = Some(done),
                }
                next = if jobs.len() < MAX_GROUP && stop.is_none() { queue.try_recv().ok() } else { None };
            }
            if !jobs.is_empty() {
                self.commit(jobs).await;
            }
            if let Some(done) = stop {
                queue.close();
                if let Some(connection) = self.connection.take() {
                    let _ = connection.close().await;
                }
                let _ = done.send(());
                return;
            }
        }
    }

    /// Runs a group. Whoever's work is done is answered only after the commit, whoever's failed as well: what it read
    /// may have been written by another piece of the group.
    async fn commit(&mut self, jobs: Vec<Box<dyn Job>>) {
        let mut settles: Vec<Settle> = Vec::with_capacity(jobs.len());
        let mut failures: Vec<Failed> = Vec::new();
        let mut announcement = Announcement::default();
        let (pieces, begun) = (jobs.len(), std::time::Instant::now());
        let result = self.transact(jobs, &mut settles, &mut failures, &mut announcement).await;
        crate::metrics::group_committed(pieces, begun.elapsed(), result.is_ok());
        if let Err(error) = &result {
            tracing::error!(%error, "a group of writes was not committed");
            // The connection may be in the middle of a transaction: start over with a new one.
            self.connection = None;
        }
        let outcome = result.map_err(|error| error.to_string());
        if outcome.is_ok() {
            self.announce(&announcement);
        }
        for settle in settles {
            settle(outcome.clone());
        }
        for Failed(tell) in failures {
            tell();
        }
    }

    async fn transact(
        &mut self,
        jobs: Vec<Box<dyn Job>>,
        settles: &mut Vec<Settle>,
        failures: &mut Vec<Failed>,
        announcement: &mut Announcement,
    ) -> Result<(), sqlx::Error> {
        let still_there = || self.file.as_ref().map_or(Ok(()), DatabaseFile::check);
        // Before a connection is made anew, which would make the file anew.
        still_there()?;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.options, self.file.as_ref()).await?),
        };
        let begin = if connection.is_sqlite() { BEGIN_SQLITE } else { BEGIN };
        sqlx::query(begin).execute(&mut *connection).await?;
        let last = jobs.len().saturating_sub(1);
        if last > 0 {
            sqlx::query(FIRST).execute(&mut *connection).await?;
        }
        for (index, job) in jobs.into_iter().enumerate() {
            let mut tx =
                WriteTx { connection, now: clock::now(), generation: None, audited: false, decided: false };
            match job.run(&mut tx).await {
                Ok(settle) => {
                    let WriteTx { generation, audited, decided, .. } = tx;
                    announcement.generation = generation.or(announcement.generation);
                    announcement.audited |= audited;
                    announcement.decided |= decided;
                    settles.push(settle);
                    if index < last {
                        connection.execute(sqlx::raw_sql(NEXT)).await?;
                    }
                }
                Err(failed) => {
                    failures.push(failed);
                    if last == 0 {
                        sqlx::query("ROLLBACK").execute(&mut *connection).await?;
                        return Ok(());
                    }
                    sqlx::query(TAKE_BACK).execute(&mut *connection).await?;
                }
            }
        }
        // A savepoint that is open is committed with the rest.
        still_there()?;
        sqlx::query("COMMIT").execute(&mut *connection).await?;
        Ok(())
    }

    fn announce(&self, announcement: &Announcement) {
        if let Some(generation) = announcement.generation {
            self.changes.send_replace(generation);
        }
        if announcement.audited {
            self.audit.send_modify(|count| *count = count.wrapping_add(1));
        }
        if announcement.decided {
            self.decisions.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}
