//! A connection to the database, however it is reached. Queries of `sqlx` run on each alike.

use crate::many::{Bound, pieces, placeholders};
use crate::sqlite::Sqlite;
use futures_util::future::{BoxFuture, FutureExt as _, TryFutureExt as _};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use sqlx::any::{AnyQueryResult, AnyRow, AnyStatement, AnyTransactionManager, AnyTypeInfo};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, Either, Execute, Executor, SqlStr};
use sqlx_core::transaction::TransactionManager as _;
use std::ops::{Deref, DerefMut};

/// A connection that queries run on: `query.fetch_one(&mut *connection)`.
#[derive(Debug)]
pub struct SqlConnection(Kind);

#[derive(Debug)]
enum Kind {
    /// A SQLite file, read and written by the thread that asks.
    Here(Box<Sqlite>),
    /// The driver asks elsewhere: a thread of its own, or a server.
    Elsewhere(AnyConnection),
    /// The same, and it goes back to its pool.
    Lent(PoolConnection<Any>),
}

impl From<Sqlite> for SqlConnection {
    fn from(sqlite: Sqlite) -> Self {
        Self(Kind::Here(Box::new(sqlite)))
    }
}

impl From<AnyConnection> for SqlConnection {
    fn from(connection: AnyConnection) -> Self {
        Self(Kind::Elsewhere(connection))
    }
}

impl From<PoolConnection<Any>> for SqlConnection {
    fn from(connection: PoolConnection<Any>) -> Self {
        Self(Kind::Lent(connection))
    }
}

impl SqlConnection {
    /// Is it a SQLite file?
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        match &self.0 {
            Kind::Here(_) => true,
            Kind::Elsewhere(connection) => connection.backend_name() == "SQLite",
            Kind::Lent(connection) => connection.backend_name() == "SQLite",
        }
    }

    /// Inserts rows. `into` is the statement up to its values: `INSERT INTO table (a, b)`. A file takes them one by one, by
    /// one statement that stays prepared and keeps no journal of its own; over a network many go at once.
    pub async fn insert_rows<const N: usize>(
        &mut self,
        into: &'static str,
        rows: &[[Bound<'_>; N]],
    ) -> Result<(), sqlx::Error> {
        if let Kind::Here(sqlite) = &mut self.0 {
            return sqlite.run_each(&format!("{into} VALUES {}", placeholders(1, N)), rows);
        }
        for piece in pieces(rows) {
            let sql = format!("{into} VALUES {}", placeholders(piece.len(), N));
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for value in piece.iter().flatten() {
                query = match value {
                    Bound::Null => query.bind(None::<String>),
                    Bound::Number(number) => query.bind(*number),
                    Bound::Text(text) => query.bind(*text),
                };
            }
            query.execute(&mut *self).await?;
        }
        Ok(())
    }

    /// Closes it. What goes back to a pool is closed with the pool.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Kind::Here(sqlite) => sqlite.close(),
            Kind::Elsewhere(connection) => sqlx::Connection::close(connection).await,
            Kind::Lent(_) => Ok(()),
        }
    }
}

/// Runs a query of `sqlx` here; answers at most so many rows.
fn run<'e, 'q: 'e, E>(
    sqlite: &'e mut Sqlite,
    mut query: E,
    most: usize,
) -> impl Future<Output = Result<(Vec<AnyRow>, AnyQueryResult), sqlx::Error>> + Send + 'e
where
    E: 'q + Execute<'q, Any>,
{
    let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
    let sql = query.sql();
    async move { sqlite.run(sql.as_str(), arguments?, most) }
}

impl<'c> Executor<'c> for &'c mut SqlConnection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match &mut self.0 {
            Kind::Elsewhere(connection) => connection.fetch_many(query),
            Kind::Lent(connection) => (**connection).fetch_many(query),
            Kind::Here(sqlite) => {
                let each = |(rows, result): (Vec<AnyRow>, AnyQueryResult)| {
                    let rows = rows.into_iter().map(|row| Ok(Either::Right(row)));
                    stream::iter(rows.chain([Ok(Either::Left(result))]))
                };
                run(sqlite, query, usize::MAX).map_ok(each).try_flatten_stream().boxed()
            }
        }
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match &mut self.0 {
            Kind::Elsewhere(connection) => connection.fetch_all(query),
            Kind::Lent(connection) => (**connection).fetch_all(query),
            Kind::Here(sqlite) => run(sqlite, query, usize::MAX).map_ok(|(rows, _)| rows).boxed(),
        }
    }

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<AnyQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match &mut self.0 {
            Kind::Elsewhere(connection) => connection.execute(query),
            Kind::Lent(connection) => (**connection).execute(query),
            Kind::Here(sqlite) => run(sqlite, query, usize::MAX).map_ok(|(_, result)| result).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match &mut self.0 {
            Kind::Elsewhere(connection) => connection.fetch_optional(query),
            Kind::Lent(connection) => (**connection).fetch_optional(query),
            Kind::Here(sqlite) => run(sqlite, query, 1).map_ok(|(mut rows, _)| rows.pop()).boxed(),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        match &mut self.0 {
            Kind::Elsewhere(connection) => connection.prepare_with(sql, parameters),
            Kind::Lent(connection) => (**connection).prepare_with(sql, parameters),
            Kind::Here(_) => {
                let why = "statements are prepared when they run";
                async move { Err(sqlx::Error::Protocol(why.to_owned())) }.boxed()
            }
        }
    }
}

/// A connection to read with, on loan.
#[derive(Debug)]
pub struct Reader {
    connection: SqlConnection,
    is_snapshot: bool,
}

impl Reader {
    pub(crate) fn new(connection: PoolConnection<Any>) -> Self {
        Self { connection: connection.into(), is_snapshot: false }
    }

    /// Whatever is read from now on is of one moment, until the connection goes back.
    pub async fn of_one_moment(mut self) -> Result<Self, sqlx::Error> {
        if let Kind::Lent(connection) = &mut self.connection.0 {
            AnyTransactionManager::begin(connection, None).await?;
            self.is_snapshot = true;
        }
        Ok(self)
    }
}

impl Deref for Reader {
    type Target = SqlConnection;

    fn deref(&self) -> &SqlConnection {
        &self.connection
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqlConnection {
        &mut self.connection
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_snapshot
            && let Kind::Lent(connection) = &mut self.connection.0
        {
            AnyTransactionManager::start_rollback(connection);
        }
    }
}
