//! What SQLite's planner has to know of tables that it has not seen full.
//!
//! Without statistics it takes every index for equally selective: ten rows for one value of the first column. Nearly every
//! query here names its zone, and a zone may hold all rows of a table, so the planner would go through a whole zone where
//! a key leads to the rows. `ANALYZE` tells only what is there when it runs, and an installation begins empty: so what is
//! known of the schema is written down instead, as SQLite's documentation of `sqlite_stat1` allows. PostgreSQL keeps
//! statistics by itself.

use crate::SqlConnection;
use sqlx::Executor as _;

/// One row for each index that begins with the zone: a million rows in the table, a hundred thousand in a zone, two for
/// each value of the columns that follow (one for all columns of a unique index).
const STATISTICS: &str = "\
    BEGIN IMMEDIATE; \
    ANALYZE sqlite_schema; \
    DELETE FROM sqlite_stat1; \
    INSERT INTO sqlite_stat1 (tbl, idx, stat) \
      SELECT tables.name, indices.name, \
        '1000000 100000' || substr(' 2 2 2 2 2 2 2 2', 1, 2 * (COUNT(*) - 1 - indices.\"unique\")) \
          || CASE WHEN indices.\"unique\" THEN ' 1' ELSE '' END \
      FROM sqlite_schema tables JOIN pragma_index_list(tables.name) indices \
        JOIN pragma_index_info(indices.name) columns \
      WHERE tables.type = 'table' AND indices.partial = 0 \
      GROUP BY tables.name, indices.name, indices.\"unique\" \
      HAVING COUNT(*) > 1 AND MAX(CASE WHEN columns.seqno = 0 THEN columns.name END) = 'zone_id'; \
    COMMIT; \
    ANALYZE sqlite_schema;";

/// Writes the statistics down for this and every later connection.
pub(crate) async fn inform(connection: &mut SqlConnection) -> Result<(), sqlx::Error> {
    if connection.is_sqlite() {
        connection.execute(sqlx::raw_sql(STATISTICS)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Store;
    use crate::many::list;

    /// Which index a query is answered by, in an empty database.
    async fn plan(sql: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_file(&folder.path().join("caracal.db")).await.unwrap();
        let mut connection = store.read().await.unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap();
        drop(connection);
        store.close().await;
        rows.into_iter().map(|row| row.3).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn no_query_goes_through_a_zone_where_a_key_leads_to_its_rows() {
        let ids = list(16, 0);
        for (what, sql, index) in [
            (
                "many by id",
                format!("UPDATE sessions SET status = 'x' WHERE zone_id = 'z' AND id IN {ids}"),
                "sqlite_autoindex_sessions_1",
            ),
            (
                "edges that leave sessions",
                "WITH RECURSIVE reached (id) AS ( \
                   SELECT id FROM sessions WHERE zone_id = 'z' AND id = 's' \
                   UNION SELECT edge.target_session_id FROM delegation_edges edge \
                     JOIN reached ON edge.source_session_id = reached.id \
                     WHERE edge.zone_id = 'z' AND edge.status = 'active' AND edge.expires_at > 1) \
                 SELECT COUNT(*) FROM reached WHERE id = 't'"
                    .to_owned(),
                "delegation_edges_source (source_session_id=? AND status=?)",
            ),
            (
                "children",
                "SELECT id FROM sessions WHERE zone_id = 'z' AND parent_id = 's'".to_owned(),
                "sessions_parent",
            ),
            (
                "a page of what is in use",
                "SELECT id, name FROM resources WHERE zone_id = 'z' AND archived_at IS NULL AND (created_at, id) < (1, 'a') \
                 ORDER BY created_at DESC, id DESC LIMIT 10"
                    .to_owned(),
                "resources_active (zone_id=? AND (created_at,id)<(?,?))",
            ),
            (
                "a page of what is archived",
                "SELECT id, name FROM applications WHERE zone_id = 'z' AND archived_at IS NOT NULL \
                 ORDER BY created_at DESC, id DESC LIMIT 10"
                    .to_owned(),
                "applications_archived (zone_id=?)",
            ),
            (
                "a page of workloads",
                "SELECT id, name FROM workloads WHERE zone_id = 'z' AND (created_at, id) < (1, 'a') \
                 ORDER BY created_at DESC, id DESC LIMIT 10"
                    .to_owned(),
                "workloads_listed (zone_id=? AND (created_at,id)<(?,?))",
            ),
            (
                "a resource by its id",
                "SELECT name FROM resources WHERE zone_id = 'z' AND id = 'r' AND archived_at IS NULL".to_owned(),
                "sqlite_autoindex_resources_1",
            ),
            (
                "identifiers that are taken",
                "SELECT identifier FROM resources WHERE zone_id = 'z' AND identifier >= 'a-' AND identifier < 'a.'"
                    .to_owned(),
                "resources_taken (zone_id=? AND identifier>? AND identifier<?)",
            ),
            (
                "a page of the record of changes",
                "SELECT id, path FROM admin_audit_events WHERE chain_key = 'z' AND (occurred_at, id) < (1, 'a') \
                 ORDER BY occurred_at DESC, id DESC LIMIT 10"
                    .to_owned(),
                "admin_audit_events_listed (chain_key=? AND (occurred_at,id)<(?,?))",
            ),
            (
                "the changes of one object",
                "SELECT id, path FROM admin_audit_events WHERE chain_key = 'z' AND entity_id = 'e' \
                 ORDER BY occurred_at DESC, id DESC LIMIT 10"
                    .to_owned(),
                "admin_audit_events_entity (chain_key=? AND entity_id=?)",
            ),
            (
                "zones that have events",
                "SELECT (SELECT MIN(zone_id) FROM audit_events WHERE zone_id > 'z')".to_owned(),
                "(zone_id>?)",
            ),
            (
                "the beginning of a chain",
                "SELECT * FROM audit_events WHERE zone_id = 'z' AND chain_seq > 5 ORDER BY chain_seq LIMIT 10"
                    .to_owned(),
                "(zone_id=? AND chain_seq>?)",
            ),
            (
                "what was used once",
                "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM used_once WHERE until IN (1, 2, 3) AND key = 'k')".to_owned(),
                "used_once USING PRIMARY KEY (until=? AND key=?)",
            ),
            (
                "what is to be forgotten",
                "DELETE FROM used_once WHERE (until, key) <= (1, 'k')".to_owned(),
                "used_once USING PRIMARY KEY ((until,key)<(?,?))",
            ),
            (
                "what is counted for long",
                "SELECT key FROM counters WHERE key > 'k' AND window_start <= 1 ORDER BY key LIMIT 10".to_owned(),
                "counters USING PRIMARY KEY (key>?)",
            ),
            (
                "what waits the longest",
                "SELECT place, id, event_json FROM audit_outbox ORDER BY place LIMIT 64".to_owned(),
                "SCAN audit_outbox",
            ),
            (
                "a page of a zone",
                "SELECT id FROM sessions WHERE zone_id = 'z' ORDER BY started_at DESC, id DESC LIMIT 10"
                    .to_owned(),
                "sessions_zone",
            ),
        ] {
            let plan = plan(&sql).await;
            assert!(plan.contains(index), "{what}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{what}: {plan}");
            assert!(!plan.contains("SCAN edge") && !plan.contains("SCAN sessions\n"), "{what}: {plan}");
        }
    }
}
