//! The rows that every test begins with.

use super::{PEER_SECRET, SECRET, World};
use caracal_store::change::Change;
use caracal_sts::policy::manifest_sha256;

/// The policy that is active at the start.
pub(crate) const POLICY: &str = r#"# caracal:data-document
package caracal.authz
import rego.v1
app_ids := {"orders-app": "a1", "peer-app": "a2"}
grants := {
	"resource://orders": {"application": "orders-app", "roles": {"reader": ["orders:read"]}},
	"resource://ledger": {"application": "orders-app", "roles": {"reader": ["ledger:read"]}},
	"resource://nowhere": {"application": "orders-app", "roles": {"reader": ["nowhere:read"]}},
	"resource://keyed": {"application": "orders-app", "roles": {"reader": ["keyed:read"]}},
	"resource://peer": {"application": "peer-app", "roles": {"reader": ["peer:read"]}},
}
"#;

/// The end of everything that lasts, unix milliseconds.
const LATE: i64 = 32_503_680_000_000;

impl World {
    pub(super) async fn seed(&self) {
        let now = self.store.now();
        let (own, peer) = (self.vault.hash(SECRET), self.vault.hash(PEER_SECRET));
        let ends = now + 3_600_000;
        self.sql(&format!(
            r#"
            INSERT INTO zones (id, name, slug, graph_epoch, created_at, updated_at)
                VALUES ('z1', 'One', 'one', 7, 0, 0), ('z2', 'Two', 'two', 0, 0, 0);
            INSERT INTO applications
                (id, zone_id, name, registration_method, client_secret_hash, expires_at, archived_at, created_at, updated_at)
                VALUES ('a1', 'z1', 'Orders', 'managed', '{own}', NULL, NULL, 0, 0),
                       ('a2', 'z1', 'Peer', 'managed', '{peer}', NULL, NULL, 0, 0),
                       ('a3', 'z1', 'Keyless', 'managed', NULL, NULL, NULL, 0, 0),
                       ('gone', 'z1', 'Gone', 'managed', '{own}', NULL, 1, 0, 0),
                       ('late', 'z1', 'Late', 'dcr', '{own}', 1, NULL, 0, 0),
                       ('b1', 'z2', 'Elsewhere', 'managed', '{own}', NULL, NULL, 0, 0);
            INSERT INTO providers (id, zone_id, name, identifier, kind, created_at, updated_at)
                VALUES ('p-mandate', 'z1', 'Mandate', 'mandate', 'caracal_mandate', 0, 0),
                       ('p-none', 'z1', 'None', 'none', 'none', 0, 0),
                       ('p-odd', 'z1', 'Odd', 'odd', 'from_the_future', 0, 0);
            INSERT INTO resources (id, zone_id, name, identifier, upstream_url, scopes_json, credential_provider_id,
                operations_json, operation_enforcement, mandate_use, archived_at, created_at, updated_at)
                VALUES ('R1', 'z1', 'Orders', 'resource://orders', 'https://orders.internal',
                            '["orders:read","orders:write"]', 'p-mandate',
                            '[{{"method":"GET","path":"/v1/orders","scope":"orders:read"}},{{"method":"POST","path":"/v1/orders","scope":"orders:write"}}]',
                            'enforced', 'single', NULL, 0, 0),
                       ('R2', 'z1', 'Ledger', 'resource://ledger', 'https://ledger.internal', '["ledger:read"]', 'p-none',
                            '[]', 'transport_uniform', 'multi', NULL, 0, 0),
                       ('R3', 'z1', 'Nowhere', 'resource://nowhere', NULL, '["nowhere:read"]', 'p-mandate',
                            '[]', 'transport_uniform', 'single', NULL, 0, 0),
                       ('R4', 'z1', 'Keyed', 'resource://keyed', 'https://keyed.internal', '["keyed:read"]', 'p-odd',
                            '[]', 'transport_uniform', 'single', NULL, 0, 0),
                       ('R5', 'z1', 'Archived', 'resource://archived', 'https://a.internal', '["a:read"]', 'p-none',
                            '[]', 'transport_uniform', 'single', 1, 0, 0),
                       ('R6', 'z1', 'Peer', 'resource://peer', 'https://peer.internal', '["peer:read"]', 'p-none',
                            '[]', 'transport_uniform', 'single', NULL, 0, 0),
                       ('RC', 'z1', 'Control', 'caracal-control', 'https://control.internal', '["control:read"]', 'p-mandate',
                            '[]', 'transport_uniform', 'single', NULL, 0, 0);
            INSERT INTO policies (id, zone_id, name, created_by, created_at, updated_at)
                VALUES ('p1', 'z1', 'Orders', 'test', 0, 0);
            INSERT INTO policy_sets (id, zone_id, name, created_at, updated_at) VALUES ('s1', 'z1', 'All', 0, 0);
            INSERT INTO authority_records
                (id, zone_id, session_type, subject_id, application_id, status, expires_at, authenticated_at, created_at)
                VALUES ('rec-a1', 'z1', 'application', 'a1', 'a1', 'active', {LATE}, 0, 0),
                       ('rec-a2', 'z1', 'application', 'a2', 'a2', 'active', {LATE}, 0, 0),
                       ('rec-user', 'z1', 'user', 'idp|u1', 'a1', 'active', {LATE}, 0, 0),
                       ('rec-over', 'z1', 'application', 'a1', 'a1', 'active', 1, 0, 0);
            "#
        ))
        .await;
        for (id, application, labels) in
            [("P", "a1", "[]"), ("T", "a1", r#"["reader"]"#), ("X", "a2", r#"["reader"]"#), ("Y", "a1", "[]")]
        {
            self.add_session(id, application, labels).await;
        }
        self.add_edge(
            "E",
            "P",
            "T",
            &format!("'R1', '[\"orders:read\"]', '{{\"ttl_seconds\":300}}', 'active', {ends}"),
        )
        .await;
        self.activate("1", POLICY).await;
    }

    /// An active task that began now and lives for an hour.
    pub(crate) async fn add_session(&self, id: &str, application: &str, labels: &str) {
        let now = self.store.now();
        self.sql(&format!(
            "INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, lifecycle, labels_json, status, \
             depth, ttl_seconds, started_at, last_active_at, updated_at) \
             VALUES ('{id}', 'z1', '{application}', 'rec-{application}', 'task', '{labels}', 'active', 0, 3600, \
             {now}, {now}, {now})"
        ))
        .await;
    }

    /// An edge between two sessions; `terms` are resource, scopes, constraints, status and end.
    pub(crate) async fn add_edge(&self, id: &str, source: &str, target: &str, terms: &str) {
        let revoked = if terms.contains("'revoked'") { "1" } else { "NULL" };
        self.sql(&format!(
            "INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id, \
             receiver_application_id, created_at, updated_at, revoked_at, resource_id, scopes_json, constraints_json, \
             status, expires_at) SELECT '{id}', 'z1', '{source}', '{target}', s.application_id, t.application_id, 0, 0, \
             {revoked}, {terms} FROM sessions s, sessions t WHERE s.id = '{source}' AND t.id = '{target}'"
        ))
        .await;
    }

    /// A chain of edges of one application below `P`: `terms` are inherited and constraints per edge. Answers the last
    /// edge's id and its session, `<name><n>` both.
    pub(crate) async fn add_chain(&self, name: &str, terms: &[(bool, &str)]) -> String {
        let ends = self.store.now() + 3_600_000;
        let mut before: Option<String> = None;
        for (position, (inherited, constraints)) in terms.iter().enumerate() {
            let id = format!("{name}{position}");
            self.add_session(&id, "a1", r#"["reader"]"#).await;
            let source = before.clone().unwrap_or_else(|| "P".to_owned());
            let rest = format!("'R1', '[\"orders:read\"]', '{constraints}', 'active', {ends}");
            self.add_edge(&id, &source, &id, &rest).await;
            let parent = before.map_or_else(|| "NULL".to_owned(), |parent| format!("'{parent}'"));
            self.sql(&format!(
                "UPDATE delegation_edges SET parent_edge_id = {parent}, inherited = {} WHERE id = '{id}'",
                i32::from(*inherited)
            ))
            .await;
            before = Some(id);
        }
        before.unwrap()
    }

    /// Makes a policy of one document the active one.
    pub(crate) async fn activate(&self, version: &str, document: &str) {
        let id = format!("pv{version}");
        let document = document.replace('\'', "''");
        let sha = manifest_sha256(&[&id]);
        let sql = format!(
            "INSERT INTO policy_versions (id, policy_id, zone_id, version, content, content_sha256, schema_version, created_at) \
                 VALUES ('{id}', 'p1', 'z1', {version}, '{document}', '', '2026-05-20', 0); \
             INSERT INTO policy_set_versions \
                 (id, policy_set_id, zone_id, version, manifest_json, manifest_sha256, schema_version, created_at) \
                 VALUES ('sv{version}', 's1', 'z1', {version}, '[{{\"policy_version_id\":\"{id}\"}}]', '{sha}', '2026-05-20', 0); \
             UPDATE policy_sets SET active_version_id = 'sv{version}', activated_at = 0 WHERE id = 's1';"
        );
        self.change(&sql, Change::Policy).await;
    }
}
