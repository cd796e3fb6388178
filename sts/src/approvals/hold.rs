//! A hold as it is stored, the state that its times amount to, and the hash that binds it (contract sts §16.2, §16.6).

use aws_lc_rs::digest;
use axum::http::StatusCode;
use caracal_mandate::gateway_signature::to_hex;
use caracal_store::SqlConnection;
use caracal_store::{StoreError, clock};
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::policy::contract::DECISION_CONTRACT_VERSION;
use crate::policy::decision_contract_sha256;
use crate::refusal::{Denial, INTERACTION_REQUIRED};

/// What a hold has come to. The first that applies in this order is its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Consumed,
    Rejected,
    Expired,
    Approved,
    Pending,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Consumed => "consumed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Approved => "approved",
            Self::Pending => "pending",
        }
    }
}

/// A hold. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) id: String,
    pub(crate) zone_id: String,
    pub(crate) principal_id: String,
    /// The authority record of the request; empty where it named none.
    pub(crate) session_id: String,
    /// `None` for a workload.
    pub(crate) application_id: Option<String>,
    /// Lower-case hex.
    pub(crate) binding: String,
    pub(crate) tier: String,
    pub(crate) approver_class: String,
    pub(crate) privacy_mode: String,
    pub(crate) subject_anchor: Option<String>,
    pub(crate) metadata: Value,
    pub(crate) expires_at: i64,
    pub(crate) satisfied_at: Option<i64>,
    pub(crate) rejected_at: Option<i64>,
    pub(crate) consumed_at: Option<i64>,
    pub(crate) consumed_authority_record_id: Option<String>,
}

pub(super) const COLUMNS: &str = "id, zone_id, principal_id, session_id, application_id, binding, tier, approver_class, \
    privacy_mode, subject_anchor, metadata_json, expires_at, satisfied_at, rejected_at, consumed_at, \
    consumed_authority_record_id";

impl Hold {
    /// The hold with this id. What is no UUID is no hold.
    pub(crate) async fn find(connection: &mut SqlConnection, id: &str) -> Result<Option<Self>, StoreError> {
        if !is_uuid(id) {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM approvals WHERE id = $1");
        let id = id.to_ascii_lowercase();
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(connection).await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    pub(super) fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        let metadata: String = row.try_get("metadata_json")?;
        Ok(Self {
            id: row.try_get("id")?,
            zone_id: row.try_get("zone_id")?,
            principal_id: row.try_get("principal_id")?,
            session_id: row.try_get("session_id")?,
            application_id: row.try_get("application_id")?,
            binding: row.try_get("binding")?,
            tier: row.try_get("tier")?,
            approver_class: row.try_get("approver_class")?,
            privacy_mode: row.try_get("privacy_mode")?,
            subject_anchor: row.try_get("subject_anchor")?,
            metadata: serde_json::from_str(&metadata)
                .map_err(|error| StoreError::corrupt(format!("approvals.metadata_json: {error}")))?,
            expires_at: row.try_get("expires_at")?,
            satisfied_at: row.try_get("satisfied_at")?,
            rejected_at: row.try_get("rejected_at")?,
            consumed_at: row.try_get("consumed_at")?,
            consumed_authority_record_id: row.try_get("consumed_authority_record_id")?,
        })
    }

    /// Its state at `now`.
    pub(crate) fn state(&self, now: i64) -> State {
        match () {
            () if self.consumed_at.is_some() => State::Consumed,
            () if self.rejected_at.is_some() => State::Rejected,
            () if self.expires_at <= now => State::Expired,
            () if self.satisfied_at.is_some() => State::Approved,
            () => State::Pending,
        }
    }

    /// What anyone who knows the id is told, and no more.
    pub(crate) fn to_status(&self, now: i64) -> Value {
        json!({ "id": self.id, "state": self.state(now).as_str(), "expires_at": rfc3339(self.expires_at) })
    }

    /// The answer to a request that has to wait (contract sts §16.5).
    pub(crate) fn to_denial(&self, now: i64) -> Denial {
        let text = "this request waits for an approval";
        let mut denial = Denial::new(StatusCode::UNAUTHORIZED, INTERACTION_REQUIRED, text);
        let members = [
            ("approval_id", self.id.as_str()),
            ("approval_type", "human_approval"),
            ("state", self.state(now).as_str()),
            ("binding", self.binding.as_str()),
            ("approval_expires_at", &rfc3339(self.expires_at)),
        ];
        for (name, value) in members {
            denial.extra.insert(name.to_owned(), value.into());
        }
        if !self.tier.is_empty() {
            denial.extra.insert("tier".to_owned(), self.tier.as_str().into());
        }
        denial
    }

    /// What events say of it (contract sts §25.3).
    pub(crate) fn to_event_fields(&self) -> Value {
        let mut fields = json!({
            "challenge_id": self.id,
            "tier": self.tier,
            "approver_class": self.approver_class,
            "privacy_mode": self.privacy_mode,
            "binding": self.binding,
            "expires_at": rfc3339(self.expires_at),
        });
        let Some(object) = fields.as_object_mut() else { return fields };
        let texts = [
            ("subject_anchor", self.subject_anchor.as_deref()),
            ("application_id", self.application_id.as_deref()),
            ("session_id", Some(self.session_id.as_str()).filter(|id| !id.is_empty())),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                object.insert(name.to_owned(), value.into());
            }
        }
        for name in
            ["agent_session_id", "delegation_edge_id", "agent_labels", "requested_scopes", "resources"]
        {
            if let Some(value) = self.metadata.get(name) {
                object.insert(name.to_owned(), value.clone());
            }
        }
        fields
    }
}

/// Everything that an approval is for. Whoever changes any of it asks for another approval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) resources: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) principal: String,
    pub(crate) authority_record: String,
    pub(crate) session: String,
    pub(crate) delegation: String,
    pub(crate) application: String,
    pub(crate) policy_set_version: String,
    pub(crate) policy_manifest: String,
}

impl Binding {
    /// The hash in lower-case hex.
    pub(crate) fn hash(&self) -> String {
        let resources = canonical(self.resources.iter().map(|name| name.trim().to_lowercase()));
        let scopes = canonical(self.scopes.iter().map(|scope| scope.trim().to_owned()));
        let contract = decision_contract_sha256();
        let sections = [
            ("resources", resources.as_str()),
            ("scopes", scopes.as_str()),
            ("principal", &self.principal),
            ("authority_record", &self.authority_record),
            ("session", &self.session),
            ("delegation", &self.delegation),
            ("application", &self.application),
            ("policy_set_version", &self.policy_set_version),
            ("policy_manifest", &self.policy_manifest),
            ("decision_contract_version", DECISION_CONTRACT_VERSION),
            ("decision_contract_sha", contract),
        ];
        let text = sections.map(|(name, value)| format!("{name}\0{value}")).join("\0");
        to_hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
    }
}

fn canonical(values: impl Iterator<Item = String>) -> String {
    let mut values: Vec<String> = values.filter(|value| !value.is_empty()).collect();
    values.sort_unstable();
    values.dedup();
    values.join("\n")
}

/// RFC 3339 with whole seconds.
pub(crate) fn rfc3339(millis: i64) -> String {
    clock::iso(millis.saturating_sub(millis.rem_euclid(1000))).replace(".000Z", "Z")
}

/// Is this the usual text of a UUID?
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        Binding {
            resources: texts(&["resource://a", "resource://b"]),
            scopes: texts(&["a:read", "b:read"]),
            principal: "p".into(),
            session: "s".into(),
            ..Binding::default()
        }
    }

    #[test]
    fn sts_28_17_contract_16_2_what_binds_and_what_does_not() {
        let base = binding().hash();
        assert_eq!(base.len(), 64);
        let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let same = [
            Binding { resources: texts(&[" RESOURCE://B", "resource://a", "resource://a "]), ..binding() },
            Binding { scopes: texts(&["b:read", " a:read", "a:read"]), ..binding() },
        ];
        for other in same {
            assert_eq!(other.hash(), base, "{other:?}");
        }
        let others = [
            Binding { resources: texts(&["resource://a"]), ..binding() },
            Binding { scopes: texts(&["A:read", "b:read"]), ..binding() },
            Binding { principal: "q".into(), ..binding() },
            Binding { authority_record: "r".into(), ..binding() },
            Binding { session: "t".into(), ..binding() },
            Binding { session: String::new(), delegation: "s".into(), ..binding() },
            Binding { application: "a".into(), ..binding() },
            Binding { policy_set_version: "1".into(), ..binding() },
            Binding { policy_manifest: "1".into(), ..binding() },
        ];
        for other in others {
            assert_ne!(other.hash(), base, "{other:?}");
        }
    }

    #[test]
    fn contract_sts_16_6_the_first_state_that_applies() {
        let hold = Hold {
            id: String::new(),
            zone_id: String::new(),
            principal_id: String::new(),
            session_id: String::new(),
            application_id: None,
            binding: String::new(),
            tier: String::new(),
            approver_class: String::new(),
            privacy_mode: String::new(),
            subject_anchor: None,
            metadata: Value::Null,
            expires_at: 10,
            satisfied_at: None,
            rejected_at: None,
            consumed_at: None,
            consumed_authority_record_id: None,
        };
        let cases = [
            (hold.clone(), 9, State::Pending),
            (hold.clone(), 10, State::Expired),
            (Hold { satisfied_at: Some(1), ..hold.clone() }, 9, State::Approved),
            (Hold { satisfied_at: Some(1), ..hold.clone() }, 10, State::Expired),
            (Hold { rejected_at: Some(1), ..hold.clone() }, 99, State::Rejected),
            (Hold { satisfied_at: Some(1), consumed_at: Some(2), ..hold }, 99, State::Consumed),
        ];
        for (hold, now, state) in cases {
            assert_eq!(hold.state(now), state, "{hold:?}");
        }
        assert_eq!(rfc3339(1_795_251_661_007), "2026-11-21T09:01:01Z");
        assert!(is_uuid("0190f0c1-7d1e-4a57-8f0e-1c2d3e4f5a6b") && !is_uuid("x") && !is_uuid(""));
    }
}
