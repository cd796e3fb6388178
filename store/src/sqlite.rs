//! A SQLite file, read and written by the thread that asks.
//!
//! `sqlx` hands every statement to a thread of the connection and waits for it: two switches of threads for a statement
//! of a few microseconds. The writer has a thread of its own already, and nothing to do while it waits.

use crate::many::Bound;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, OpenFlags, Row, ffi};
use sqlx::any::{AnyArguments, AnyQueryResult, AnyRow, AnyTypeInfo, AnyTypeInfoKind, AnyValue};
use sqlx::error::{DatabaseError, ErrorKind};
use sqlx_core::any::{AnyColumn, AnyValueKind};
use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

/// How many statements stay prepared. Rows are written many at a time, by a text for each power of two.
const PREPARED: usize = 512;
/// How many texts are known at the most; some have a number in them.
const KNOWN: usize = 4096;

/// An open file.
pub(crate) struct Sqlite {
    connection: rusqlite::Connection,
    known: HashMap<String, Known>,
}

/// A text that ran before.
struct Known {
    /// Its parameters are numbers to SQLite, which looks for names one by one.
    numbered: String,
    columns: Option<Columns>,
}

type Names = <Arc<sqlx_core::HashMap<sqlx_core::ext::ustr::UStr, usize>> as std::ops::Deref>::Target;

/// The columns of an answer.
#[derive(Clone)]
struct Columns {
    all: Vec<AnyColumn>,
    by_name: Arc<Names>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.connection.path()).finish_non_exhaustive()
    }
}

impl Sqlite {
    /// Opens a file that is there.
    pub(crate) fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        Ok(Self { connection, known: HashMap::new() })
    }

    pub(crate) fn close(self) -> Result<(), sqlx::Error> {
        self.connection.close().map_err(|(_, error)| failed(error))
    }

    /// Runs a statement with its arguments, or several without; answers at most so many rows.
    pub(crate) fn run(
        &mut self,
        sql: &str,
        arguments: Option<AnyArguments>,
        most: usize,
    ) -> Result<(Vec<AnyRow>, AnyQueryResult), sqlx::Error> {
        let Some(arguments) = arguments else {
            self.connection.execute_batch(sql).map_err(failed)?;
            return Ok((Vec::new(), AnyQueryResult::default()));
        };
        let Self { connection, known } = self;
        if known.len() >= KNOWN && !known.contains_key(sql) {
            known.clear();
        }
        let known = match known.get_mut(sql) {
            Some(known) => known,
            None => known.entry(sql.to_owned()).or_insert(Known { numbered: numbered(sql), columns: None }),
        };
        let mut statement = connection.prepare_cached(&known.numbered).map_err(failed)?;
        bind(&mut statement, &arguments).map_err(failed)?;
        if statement.column_count() > 0 && known.columns.is_none() {
            known.columns = Some(Columns::of(&statement));
        }
        let rows = fetch(&mut statement, known.columns.as_ref(), most)?;
        let result = AnyQueryResult { rows_affected: connection.changes(), ..AnyQueryResult::default() };
        Ok((rows, result))
    }

    /// Runs a statement once for each row of values, which are copied nowhere else on their way.
    pub(crate) fn run_each<const N: usize>(
        &mut self,
        sql: &str,
        rows: &[[Bound<'_>; N]],
    ) -> Result<(), sqlx::Error> {
        let mut statement = self.connection.prepare_cached(&numbered(sql)).map_err(failed)?;
        for row in rows {
            for (index, value) in row.iter().enumerate() {
                statement.raw_bind_parameter(index + 1, value.here()).map_err(failed)?;
            }
            statement.raw_execute().map_err(failed)?;
        }
        Ok(())
    }
}

impl Bound<'_> {
    fn here(&self) -> ToSqlOutput<'_> {
        ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        })
    }
}

fn bind(statement: &mut CachedStatement<'_>, arguments: &AnyArguments) -> rusqlite::Result<()> {
    let wanted = statement.parameter_count();
    for (index, value) in arguments.values.0.iter().enumerate().take(wanted) {
        statement.raw_bind_parameter(index + 1, parameter(value)?)?;
    }
    Ok(())
}

fn parameter(value: &AnyValueKind) -> rusqlite::Result<ToSqlOutput<'_>> {
    let number = |number| Ok(ToSqlOutput::Owned(rusqlite::types::Value::Integer(number)));
    let borrowed = |value| Ok(ToSqlOutput::Borrowed(value));
    match value {
        AnyValueKind::Null(_) => borrowed(ValueRef::Null),
        AnyValueKind::Bool(value) => number(i64::from(*value)),
        AnyValueKind::SmallInt(value) => number(i64::from(*value)),
        AnyValueKind::Integer(value) => number(i64::from(*value)),
        AnyValueKind::BigInt(value) => number(*value),
        AnyValueKind::Real(value) => borrowed(ValueRef::Real(f64::from(*value))),
        AnyValueKind::Double(value) => borrowed(ValueRef::Real(*value)),
        AnyValueKind::Text(text) => borrowed(ValueRef::Text(text.as_bytes())),
        AnyValueKind::TextSlice(text) => borrowed(ValueRef::Text(text.as_bytes())),
        AnyValueKind::Blob(bytes) => borrowed(ValueRef::Blob(bytes)),
        other => {
            let why = format!("no value of SQLite is like {other:?}");
            Err(rusqlite::Error::ToSqlConversionFailure(why.into()))
        }
    }
}

fn fetch(
    statement: &mut CachedStatement<'_>,
    columns: Option<&Columns>,
    most: usize,
) -> Result<Vec<AnyRow>, sqlx::Error> {
    let mut fetched = Vec::new();
    let mut rows = statement.raw_query();
    while fetched.len() < most
        && let Some(row) = rows.next().map_err(failed)?
    {
        if let Some(columns) = columns {
            fetched.push(columns.row(row)?);
        }
    }
    Ok(fetched)
}

impl Columns {
    fn of(statement: &CachedStatement<'_>) -> Self {
        let column = |(ordinal, name): (usize, &str)| AnyColumn {
            ordinal,
            name: name.to_owned().into(),
            type_info: AnyTypeInfo { kind: AnyTypeInfoKind::Text },
        };
        let all: Vec<AnyColumn> = statement.column_names().into_iter().enumerate().map(column).collect();
        let by_name = all.iter().map(|column| (column.name.clone(), column.ordinal)).collect();
        Self { all, by_name: Arc::new(by_name) }
    }

    fn row(&self, row: &Row<'_>) -> Result<AnyRow, sqlx::Error> {
        let value = |index| Ok(AnyValue { kind: kind(row.get_ref(index).map_err(failed)?)? });
        Ok(AnyRow {
            column_names: Arc::clone(&self.by_name),
            values: (0..self.all.len()).map(value).collect::<Result<_, sqlx::Error>>()?,
            columns: self.all.clone(),
        })
    }
}

fn kind(value: ValueRef<'_>) -> Result<AnyValueKind, sqlx::Error> {
    Ok(match value {
        ValueRef::Null => AnyValueKind::Null(AnyTypeInfoKind::Null),
        ValueRef::Integer(number) => AnyValueKind::BigInt(number),
        ValueRef::Real(number) => AnyValueKind::Double(number),
        ValueRef::Blob(bytes) => AnyValueKind::Blob(Arc::new(bytes.to_vec())),
        ValueRef::Text(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))?;
            AnyValueKind::Text(Arc::new(text.to_owned()))
        }
    })
}

/// `?1` where a text says `$1`. No text of ours has a `$` with a digit in quotes.
fn numbered(sql: &str) -> String {
    let mut characters = sql.chars().peekable();
    let mut text = String::with_capacity(sql.len());
    while let Some(character) = characters.next() {
        let is_parameter = character == '$' && characters.peek().is_some_and(char::is_ascii_digit);
        text.push(if is_parameter { '?' } else { character });
    }
    text
}

/// What SQLite refused, as `sqlx` tells of it.
#[derive(Debug)]
struct Refused {
    code: ffi::Error,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "(code: {}) {}", self.code.extended_code, self.message)
    }
}

impl StdError for Refused {}

impl DatabaseError for Refused {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.extended_code.to_string().into())
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => ErrorKind::UniqueViolation,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            ffi::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            ffi::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }
}

fn failed(error: rusqlite::Error) -> sqlx::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => {
            let message = message.unwrap_or_else(|| code.to_string());
            sqlx::Error::Database(Box::new(Refused { code, message }))
        }
        other => sqlx::Error::Protocol(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::once::OneUse;
    use crate::{SqlConnection, Store};
    use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _};

    /// The same file, asked here and elsewhere.
    async fn both(folder: &tempfile::TempDir) -> [SqlConnection; 2] {
        let path = folder.path().join("x.db");
        sqlx::any::install_default_drivers();
        let elsewhere =
            AnyConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap();
        [Sqlite::open(&path).unwrap().into(), elsewhere.into()]
    }

    #[tokio::test]
    async fn values_and_refusals_are_the_same_here_and_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for (index, connection) in both(&folder).await.iter_mut().enumerate() {
            let create = format!("CREATE TABLE t{index} (id TEXT PRIMARY KEY, n BIGINT, x DOUBLE, b BLOB)");
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(create))).await.unwrap();
            // Numbers stand in any order, and more than once.
            let insert = format!(
                "INSERT INTO t{index} (n, id, x, b) VALUES ($2, $1, $3, $4), ($2 + 1, $1 || '$', $3, $4)"
            );
            let insert = || {
                let query =
                    sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind("it's \"ä\"").bind(i64::MAX - 1);
                query.bind(1.5_f64).bind(vec![0_u8, 255])
            };
            assert_eq!(insert().execute(&mut *connection).await.unwrap().rows_affected(), 2);
            let again = insert().execute(&mut *connection).await.unwrap_err();
            let refused = again.as_database_error().unwrap();
            assert!(refused.is_unique_violation(), "{refused}");
            let nothing: Option<i64> = None;
            let update = format!("UPDATE t{index} SET n = $1 WHERE n > $2 RETURNING id, n");
            let updated: Vec<(String, Option<i64>)> = sqlx::query_as(sqlx::AssertSqlSafe(update))
                .bind(nothing)
                .bind(i64::MAX - 1)
                .fetch_all(&mut *connection)
                .await
                .unwrap();
            let select = format!("SELECT x, b, n, id FROM t{index} WHERE n IS NOT NULL OR $1 ORDER BY id");
            let rows = sqlx::query(sqlx::AssertSqlSafe(select))
                .bind(true)
                .fetch_all(&mut *connection)
                .await
                .unwrap();
            let row = |row: &AnyRow| {
                let number = row.try_get::<i64, _>("n").ok();
                (row.get::<f64, _>("x"), row.get::<Vec<u8>, _>(1), number, row.get::<String, _>("id"))
            };
            let missing = rows[0].try_get::<i64, _>("other").unwrap_err().to_string();
            let none =
                sqlx::query("SELECT 1 WHERE 1 = $1").bind(2).fetch_optional(&mut *connection).await.unwrap();
            let unreadable = connection
                .execute("SELEC 1")
                .await
                .unwrap_err()
                .as_database_error()
                .unwrap()
                .code()
                .map(Cow::into_owned);
            seen.push((
                updated,
                rows.iter().map(row).collect::<Vec<_>>(),
                missing,
                none.is_none(),
                refused.message().replace(&format!("t{index}"), "t"),
                refused.code().map(Cow::into_owned),
                unreadable,
            ));
        }
        assert_eq!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn what_is_read_at_one_moment_stays_and_leaves_nothing_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_file(&folder.path().join("x.db")).await.unwrap();
        const COUNT: &str = "SELECT COUNT(*) FROM used_once";
        let use_up = |key: &'static str| {
            let store = store.clone();
            async move {
                let uses = [OneUse::new(key.to_owned(), i64::MAX)];
                store.write(move |tx| Box::pin(async move { tx.use_each_once(&uses).await })).await.unwrap()
            }
        };
        // As many as the pool has connections, and one more.
        for round in 0..9 {
            let mut reader = store.read().await.unwrap().of_one_moment().await.unwrap();
            let before: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *reader).await.unwrap();
            use_up(["a", "b", "c", "d", "e", "f", "g", "h", "i"][round]).await;
            let after: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *reader).await.unwrap();
            assert_eq!(before, after);
            drop(reader);
            let mut reader = store.read().await.unwrap();
            let now: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *reader).await.unwrap();
            assert_eq!(now, before + 1);
        }
        store.close().await;
    }
}
