//! The database: opened, migrated, read from.

use crate::clock;
use crate::file::DatabaseFile;
use crate::planner;
use crate::sqlite::Sqlite;
use crate::writer::{WriteTx, Writer};
use crate::{Reader, SqlConnection};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection as _, Executor as _, SqlSafeStr as _};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr as _;
use tokio::sync::watch;

/// Why the store could not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A stored value is not what the schema promises.
    #[error("stored data is malformed: {what}")]
    Corrupt {
        /// Which value of which table.
        what: String,
    },
    /// The database refused or is not there.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
    /// A secret could not be sealed or opened.
    #[error("a secret could not be {0}")]
    Seal(&'static str),
    /// The writer has stopped, or the commit failed: nothing was written.
    #[error("the write was not committed: {0}")]
    Uncommitted(String),
}

impl StoreError {
    /// A stored value that is not what the schema promises.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    /// Did a uniqueness rule of the schema refuse the write?
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// A future with its lifetime, as [`Store::write`] takes it.
pub type WriteFuture<'c, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>;

/// The door to all persistent state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    writer: Writer,
    file: Option<DatabaseFile>,
    changes: watch::Receiver<u64>,
    audit: watch::Receiver<u64>,
    decisions: watch::Receiver<u64>,
}

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "foundation", include_str!("../migrations/0001_foundation.sql")),
    (2, "approvals", include_str!("../migrations/0002_approvals.sql")),
    (3, "revocations and services", include_str!("../migrations/0003_revocations_and_services.sql")),
    (4, "administration", include_str!("../migrations/0004_administration.sql")),
    (6, "provider connections", include_str!("../migrations/0006_provider_connections.sql")),
    (7, "federated subjects", include_str!("../migrations/0007_federated_subjects.sql")),
    (9, "keys and lapsed approvals", include_str!("../migrations/0009_keys_and_lapsed_approvals.sql")),
    (10, "coordinator jobs", include_str!("../migrations/0010_coordinator_jobs.sql")),
    (11, "live sessions", include_str!("../migrations/0011_live_sessions.sql")),
    (13, "notification sinks", include_str!("../migrations/0013_notification_sinks.sql")),
    (15, "mcp", include_str!("../migrations/0015_mcp.sql")),
    (
        20,
        "audit retention and integrity",
        include_str!("../migrations/0020_audit_retention_and_integrity.sql"),
    ),
    (21, "lists", include_str!("../migrations/0021_lists.sql")),
    (22, "fewer entries", include_str!("../migrations/0022_fewer_entries.sql")),
    (23, "fewer pages", include_str!("../migrations/0023_fewer_pages.sql")),
];

impl Store {
    /// Opens a SQLite file, creates it where it is missing, and brings its schema up to date. Every commit is on disk
    /// before it is answered (WAL, full sync).
    pub async fn open_file(path: &Path) -> Result<Self, StoreError> {
        Self::open(&format!("sqlite://{}?mode=rwc", path.display())).await
    }

    /// Opens the database at a URL (`sqlite://…`).
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let options = AnyConnectOptions::from_str(url)?;
        let mut connection = AnyConnection::connect_with(&options).await?;
        prepare(&mut connection).await?;
        migrate(&mut connection, i64::MAX).await?;
        // A file does not go away as a network does.
        let over_a_network = connection.backend_name() != "SQLite";
        let mut connection = SqlConnection::from(connection);
        planner::inform(&mut connection).await?;
        connection.close().await?;
        // Only the first connection makes a file: were it deleted, nobody makes another in its place.
        let options = AnyConnectOptions::from_str(&url.replace("mode=rwc", "mode=rw"))?;
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .test_before_acquire(over_a_network)
            .after_connect(|connection, _| Box::pin(async move { prepare(connection).await }))
            .connect_with(options.clone())
            .await?;
        let generation: i64 = sqlx::query_scalar("SELECT value FROM sequences WHERE name = 'change_log'")
            .fetch_one(&pool)
            .await?;
        let (changes_tx, changes) = watch::channel(u64::try_from(generation).unwrap_or(0));
        let (audit_tx, audit) = watch::channel(0);
        let (decisions_tx, decisions) = watch::channel(0);
        let file = DatabaseFile::of(url).map_err(sqlx::Error::Io)?;
        let connection = connect(&options, file.as_ref()).await?;
        let writer = Writer::start(connection, options, file.clone(), changes_tx, audit_tx, decisions_tx)
            .map_err(sqlx::Error::Io)?;
        Ok(Self { pool, writer, file, changes, audit, decisions })
    }

    /// A connection to read with.
    pub async fn read(&self) -> Result<Reader, StoreError> {
        Ok(Reader::new(self.pool.acquire().await?))
    }

    /// Runs `work` in the next transaction and answers after its commit. An `Err` from `work` takes back what it
    /// wrote, and nothing else.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: for<'c> FnOnce(&'c mut WriteTx<'_>) -> WriteFuture<'c, T, E> + Send + 'static,
    {
        self.writer.write(work).await
    }

    /// Now, in unix milliseconds, by the clock that all replicas share. With SQLite that is this machine's.
    #[must_use]
    pub fn now(&self) -> i64 {
        clock::now()
    }

    /// Tells when the change log grew; the value is its last generation known here.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Tells when audit events were written.
    #[must_use]
    pub fn audit_written(&self) -> watch::Receiver<u64> {
        self.audit.clone()
    }

    /// Tells when approvals were decided or lapsed.
    #[must_use]
    pub fn decisions(&self) -> watch::Receiver<u64> {
        self.decisions.clone()
    }

    /// Does the database answer?
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.file.as_ref().map_or(Ok(()), DatabaseFile::check).map_err(sqlx::Error::Io)?;
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Commits what is under way and closes every connection.
    pub async fn close(&self) {
        self.writer.stop().await;
        self.pool.close().await;
    }
}

/// What the writer's connection gets besides: 8 MiB of pages, so that a large transaction does not write a page out and
/// read it back while it goes on changing it, and a checkpoint after 16 MiB of log instead of 4, so that a page that
/// changes with every commit is copied into the database less often.
const WRITER_PRAGMAS: &str = "PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 4096;";

/// A connection for the writer, which has a thread of its own: it asks a file by itself.
pub(crate) async fn connect(
    options: &AnyConnectOptions,
    file: Option<&DatabaseFile>,
) -> Result<SqlConnection, sqlx::Error> {
    let Some(file) = file else {
        let mut connection = AnyConnection::connect_with(options).await?;
        prepare(&mut connection).await?;
        return Ok(connection.into());
    };
    let mut connection = SqlConnection::from(Sqlite::open(file.path())?);
    connection.execute(sqlx::raw_sql(PRAGMAS)).await?;
    connection.execute(sqlx::raw_sql(WRITER_PRAGMAS)).await?;
    Ok(connection)
}

/// The journal of savepoints may go to a temporary file: in memory it is a list that every statement walks, so a
/// transaction of many statements would take the square of their number.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                       PRAGMA busy_timeout = 5000;";

async fn prepare(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    if connection.backend_name() == "SQLite" {
        connection.execute(sqlx::raw_sql(PRAGMAS)).await?;
    }
    Ok(())
}

/// What SQLite has its own words for, and what the others say.
const SQLITE_WORDS: [(&str, &str); 2] =
    [(" WITHOUT ROWID", ""), ("INTEGER PRIMARY KEY", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")];

/// Brings the schema up to a version, and the rows with it.
async fn migrate(connection: &mut AnyConnection, version: i64) -> Result<(), StoreError> {
    let is_sqlite = connection.backend_name() == "SQLite";
    let migrations = MIGRATIONS
        .iter()
        .filter(|(number, ..)| *number <= version)
        .map(|(number, name, sql)| {
            let sql = if is_sqlite {
                sqlx::SqlStr::from_static(sql)
            } else {
                let say = |sql: String, (own, other): (&str, &str)| sql.replace(own, other);
                sqlx::AssertSqlSafe(SQLITE_WORDS.into_iter().fold((*sql).to_owned(), say)).into_sql_str()
            };
            Migration::new(*number, (*name).into(), MigrationType::Simple, sql, false)
        })
        .collect();
    Migrator::with_migrations(migrations).run(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::{GatewayProof, authenticate};
    use crate::once::OneUse;
    use axum::http::{HeaderName, HeaderValue};
    use caracal_mandate::gateway_signature::{GatewayKey, Signed};

    const GATEWAY_KEY: &str = "5d1f0c8e9b2a47366ac1d0e4f7b89325c6d7e8f9a0b1c2d3e4f5061728394a5b";

    /// A call with this nonce, signed then, unix seconds.
    fn signed(nonce: &str, timestamp: i64) -> GatewayProof {
        let (key, timestamp) = (GatewayKey::from_hex(GATEWAY_KEY).unwrap(), timestamp.to_string());
        let signature =
            key.sign(&Signed { timestamp: &timestamp, nonce, method: "GET", path: "/", body: b"" });
        let headers = [
            ("x-caracal-gateway-timestamp", timestamp.as_str()),
            ("x-caracal-gateway-request", nonce),
            ("x-caracal-gateway-signature", &signature),
        ];
        let headers = headers
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let now = timestamp.parse::<i64>().unwrap() * 1000;
        authenticate(&key, &headers.into_iter().collect(), "GET", "/", b"", now).unwrap()
    }

    /// A database as version 22 left it, with these rows.
    async fn version_22(path: &Path, rows: String) {
        sqlx::any::install_default_drivers();
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let mut connection = AnyConnection::connect(&url).await.unwrap();
        prepare(&mut connection).await.unwrap();
        migrate(&mut connection, 22).await.unwrap();
        connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(rows))).await.unwrap();
        connection.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_was_written_before_the_pages_became_fewer_is_honoured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("caracal.db");
        // At the end of a period, so that calls signed around it are of several periods.
        let used = 120 * (clock::now() / 120_000 + 1) - 1;
        let nonces: String = (-60..=60)
            .map(|skew| format!("('gateway-nonce:n{skew}', {}), ", (used + 120) * 1000 + 7))
            .collect();
        version_22(
            &path,
            format!(
                "INSERT INTO used_once VALUES {nonces} ('mandate:m1', 2000000960000), ('mandate:m2', 5); \
                 INSERT INTO counters VALUES ('new', {now}, 59), ('old', 60000, 3); \
                 INSERT INTO audit_outbox VALUES ('e2', '2', 0), ('e1', '1', 0);",
                now = clock::now() / 60_000 * 60_000,
            ),
        )
        .await;
        let store = Store::open_file(&path).await.unwrap();

        // A mandate and a nonce that were used stay so, whenever in its two minutes the nonce's call was signed.
        let fresh = store
            .write(move |tx| {
                Box::pin(async move {
                    let mut fresh = Vec::new();
                    for skew in -60..=60 {
                        if signed(&format!("n{skew}"), used + skew).spend(tx).await? {
                            fresh.push(skew);
                        }
                    }
                    let mandate = |name: &str| OneUse::new(format!("mandate:{name}"), 2_000_000_960_000);
                    let mandates = tx.use_each_once(&["m1", "m3"].map(mandate)).await?;
                    Ok::<_, StoreError>((fresh, mandates))
                })
            })
            .await
            .unwrap();
        assert_eq!(fresh, (vec![], ["mandate:m3".to_owned()].into()));

        // Counters go on, and those that are over go.
        let count = store.write(|tx| Box::pin(async move { tx.count("new", 60_000).await }));
        assert!(matches!(count.await.unwrap(), 60 | 1));
        assert_eq!(store.forget_expired(50).await.unwrap(), 2, "a mandate and a counter");

        let mut connection = store.read().await.unwrap();
        let events: Vec<(i64, String, String)> =
            sqlx::query_as("SELECT place, id, event_json FROM audit_outbox ORDER BY place")
                .fetch_all(&mut *connection)
                .await
                .unwrap();
        assert_eq!(events, [(1, "e1".into(), "1".into()), (2, "e2".into(), "2".into())]);
        drop(connection);
        store.close().await;
    }
}
