//! What is to be revoked, as operators say it.

use super::reach::Matches;
use crate::SqlConnection;
use crate::StoreError;
use caracal_mandate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId, ZoneId};
use serde::{Deserialize, Serialize};

/// One thing that is selected. In JSON: `{"by": "session", "id": "…"}`, `{"by": "age", "older_than_seconds": 3600}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Selector {
    /// A session that is live, with what lives below it.
    Session {
        /// Its id.
        id: AgentSessionId,
    },
    /// All below a session, also where it or those between have ended already.
    Subtree {
        /// The id of the topmost session.
        id: AgentSessionId,
    },
    /// A delegation and all that descend from it.
    Edge {
        /// Its id.
        id: DelegationEdgeId,
    },
    /// A record, those minted from it, and the sessions on them.
    AuthorityRecord {
        /// Its id.
        id: AuthorityRecordId,
    },
    /// All records of a subject, and the sessions on them.
    Subject {
        /// The subject, verbatim.
        id: String,
    },
    /// Everything of an application: its records, its sessions, and the delegations that it gave or received.
    Application {
        /// Its id.
        id: ApplicationId,
    },
    /// Every delegation that reaches a resource; one without a bound reaches all.
    Resource {
        /// Its row id or its identifier.
        id: String,
    },
    /// Every live session with a label.
    Label {
        /// The label.
        label: String,
    },
    /// Everything that was given longer ago than this.
    Age {
        /// How long ago, seconds.
        older_than_seconds: u32,
    },
}

/// Why a selector selects nothing that could be looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// There is no such resource in the zone.
    #[error("there is no resource {id:?} in this zone")]
    NoResource {
        /// What was named.
        id: String,
    },
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const LIVE: &str = "status IN ('active', 'suspended')";

impl Selector {
    pub(super) async fn matches(
        &self,
        connection: &mut SqlConnection,
        zone: &ZoneId,
        now: i64,
    ) -> Result<Matches, SelectorError> {
        Ok(match self {
            Self::Session { id } => Matches::live_session(id),
            Self::Subtree { id } => Matches::texts([id.as_str()]).sessions("id = $2"),
            Self::Edge { id } => Matches::edge(id),
            Self::AuthorityRecord { id } => Matches::texts([id.as_str()]).records("id = $2"),
            Self::Subject { id } => Matches::texts([id.as_str()]).records("subject_id = $2"),
            Self::Application { id } => Matches::texts([id.as_str()])
                .records("application_id = $2")
                .sessions(&format!("application_id = $2 AND {LIVE}"))
                .edges("(issuer_application_id = $2 OR receiver_application_id = $2)"),
            Self::Resource { id } => {
                let identifier: Option<String> = sqlx::query_scalar(
                    "SELECT identifier FROM resources WHERE zone_id = $1 AND (id = $2 OR identifier = $2)",
                )
                .bind(zone.as_str())
                .bind(id.as_str())
                .fetch_optional(connection)
                .await
                .map_err(StoreError::from)?;
                let identifier = identifier.ok_or_else(|| SelectorError::NoResource { id: id.clone() })?;
                let quoted = serde_json::Value::from(identifier.as_str()).to_string();
                Matches::texts([identifier.as_str(), quoted.as_str()]).edges(
                    "(resource_id IN (SELECT id FROM resources WHERE zone_id = $1 AND identifier = $2) \
                      OR (resource_id IS NULL AND (REPLACE(constraints_json, $3, '') <> constraints_json \
                        OR REPLACE(constraints_json, '\"resources\":[\"', '') = constraints_json)))",
                )
            }
            Self::Label { label } => {
                // Within the JSON text of a list, a whole item stands behind `[` or `,` and in quotes of its own.
                let item = serde_json::Value::from(label.as_str()).to_string();
                Matches::texts([format!("[{item}").as_str(), format!(",{item}").as_str()]).sessions(&format!(
                    "{LIVE} AND (REPLACE(labels_json, $2, '') <> labels_json \
                       OR REPLACE(labels_json, $3, '') <> labels_json)"
                ))
            }
            Self::Age { older_than_seconds } => {
                let before = now.saturating_sub(i64::from(*older_than_seconds) * 1000);
                Matches::number(before)
                    .records("created_at <= $2")
                    .sessions(&format!("started_at <= $2 AND {LIVE}"))
                    .edges("created_at <= $2")
            }
        })
    }
}
