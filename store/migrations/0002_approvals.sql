-- Holds that wait for a person (contract sts §16). The binding is the hash of everything that the approval is for.

CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    principal_id TEXT NOT NULL,
    principal_federated BIGINT NOT NULL DEFAULT 0,
    session_id TEXT NOT NULL DEFAULT '',
    application_id TEXT,
    binding TEXT NOT NULL,
    tier TEXT NOT NULL,
    approver_class TEXT NOT NULL CHECK (approver_class IN ('operator', 'subject', 'any')),
    privacy_mode TEXT NOT NULL CHECK (privacy_mode IN ('identified', 'pseudonymous', 'anonymous')),
    subject_anchor TEXT,
    metadata_json TEXT NOT NULL DEFAULT '{}',
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    satisfied_at BIGINT,
    rejected_at BIGINT,
    approver_subject_id TEXT,
    approver_session_id TEXT,
    decision_reason TEXT,
    consumed_at BIGINT,
    consumed_authority_record_id TEXT,
    CHECK (satisfied_at IS NULL OR rejected_at IS NULL),
    CHECK (consumed_at IS NULL OR (satisfied_at IS NOT NULL AND consumed_authority_record_id IS NOT NULL)),
    CHECK ((satisfied_at IS NULL AND rejected_at IS NULL) = (approver_subject_id IS NULL))
);
-- The same request finds its hold again.
CREATE UNIQUE INDEX approvals_live ON approvals (zone_id, principal_id, session_id, binding) WHERE consumed_at IS NULL;
CREATE INDEX approvals_zone ON approvals (zone_id, created_at, id);
CREATE INDEX approvals_expires ON approvals (expires_at);
