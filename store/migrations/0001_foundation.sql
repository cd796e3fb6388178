-- The state of all services. One text for SQLite and PostgreSQL: TEXT ids, BIGINT unix milliseconds, JSON as TEXT,
-- booleans as 0 and 1.

-- The first generation is 1: a gateway that has none asks with 0.
CREATE TABLE sequences (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO sequences (name, value) VALUES ('change_log', 1);

CREATE TABLE zones (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL UNIQUE,
    dcr_enabled BIGINT NOT NULL DEFAULT 0,
    operator_coauthor_badge BIGINT NOT NULL DEFAULT 1,
    operator_governed BIGINT NOT NULL DEFAULT 0,
    authority_epoch BIGINT NOT NULL DEFAULT 0,
    policy_epoch BIGINT NOT NULL DEFAULT 0,
    graph_epoch BIGINT NOT NULL DEFAULT 0,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);

-- Every change a gateway has to know, in the order of commit.
CREATE TABLE change_log (
    seq BIGINT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    authority_epoch BIGINT NOT NULL,
    change_json TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX change_log_created ON change_log (created_at);

-- Revoked anchors for as long as a mandate that names them could be alive.
CREATE TABLE revoked_anchors (
    zone_id TEXT NOT NULL REFERENCES zones (id),
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (zone_id, kind, id)
);
CREATE INDEX revoked_anchors_until ON revoked_anchors (until);

CREATE TABLE gateways (
    id TEXT PRIMARY KEY,
    acknowledged BIGINT NOT NULL,
    acknowledged_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL
);

CREATE TABLE applications (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    registration_method TEXT NOT NULL CHECK (registration_method IN ('managed', 'dcr')),
    client_secret_hash TEXT,
    traits_json TEXT NOT NULL DEFAULT '[]',
    expires_at BIGINT,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    CHECK (registration_method = 'managed' OR expires_at IS NOT NULL)
);
CREATE INDEX applications_zone ON applications (zone_id, created_at, id);

CREATE TABLE providers (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    identifier TEXT NOT NULL,
    kind TEXT NOT NULL,
    config_json TEXT NOT NULL DEFAULT '{}',
    secret_config_keys_json TEXT NOT NULL DEFAULT '[]',
    connectivity_failed_at BIGINT,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX providers_identifier ON providers (zone_id, identifier) WHERE archived_at IS NULL;

CREATE TABLE resources (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    identifier TEXT NOT NULL,
    upstream_url TEXT,
    scopes_json TEXT NOT NULL DEFAULT '[]',
    credential_provider_id TEXT NOT NULL REFERENCES providers (id),
    operations_json TEXT NOT NULL DEFAULT '[]',
    operation_enforcement TEXT NOT NULL DEFAULT 'enforced'
        CHECK (operation_enforcement IN ('enforced', 'transport_uniform')),
    mandate_use TEXT NOT NULL DEFAULT 'single' CHECK (mandate_use IN ('single', 'multi')),
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX resources_identifier ON resources (zone_id, identifier) WHERE archived_at IS NULL;
CREATE INDEX resources_zone ON resources (zone_id, created_at, id);

CREATE TABLE policies (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    description TEXT,
    created_by TEXT NOT NULL,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX policies_name ON policies (zone_id, name) WHERE archived_at IS NULL;

-- Versions are never changed and never deleted.
CREATE TABLE policy_versions (
    id TEXT PRIMARY KEY,
    policy_id TEXT NOT NULL REFERENCES policies (id),
    zone_id TEXT NOT NULL REFERENCES zones (id),
    version BIGINT NOT NULL,
    content TEXT NOT NULL,
    content_sha256 TEXT NOT NULL,
    schema_version TEXT NOT NULL,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    UNIQUE (policy_id, version)
);

CREATE TABLE policy_sets (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    description TEXT,
    active_version_id TEXT,
    activated_at BIGINT,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX policy_sets_name ON policy_sets (zone_id, name) WHERE archived_at IS NULL;
-- One active set per zone.
CREATE UNIQUE INDEX policy_sets_active ON policy_sets (zone_id) WHERE active_version_id IS NOT NULL;

CREATE TABLE policy_set_versions (
    id TEXT PRIMARY KEY,
    policy_set_id TEXT NOT NULL REFERENCES policy_sets (id),
    zone_id TEXT NOT NULL REFERENCES zones (id),
    version BIGINT NOT NULL,
    manifest_json TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    schema_version TEXT NOT NULL,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    UNIQUE (policy_set_id, version)
);

-- The id is the `kid`. The private key stands sealed; the public point stands open.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    version BIGINT NOT NULL,
    envelope TEXT NOT NULL,
    x TEXT NOT NULL,
    y TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (zone_id, version)
);

CREATE TABLE secret_store (
    ref TEXT PRIMARY KEY,
    envelope TEXT NOT NULL,
    version BIGINT NOT NULL
);

CREATE TABLE authority_records (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    session_type TEXT NOT NULL CHECK (session_type IN ('application', 'user')),
    subject_id TEXT NOT NULL,
    application_id TEXT NOT NULL,
    parent_id TEXT,
    status TEXT NOT NULL CHECK (status IN ('active', 'revoked', 'expired')),
    expires_at BIGINT NOT NULL,
    authenticated_at BIGINT NOT NULL,
    claims_json TEXT NOT NULL DEFAULT '{}',
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_reason TEXT
);
CREATE INDEX authority_records_zone ON authority_records (zone_id, created_at, id);
CREATE INDEX authority_records_parent ON authority_records (parent_id);
CREATE INDEX authority_records_subject ON authority_records (zone_id, subject_id);

-- Agent sessions. A task ends by its time to live, a service by its lease.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    application_id TEXT NOT NULL REFERENCES applications (id),
    parent_id TEXT REFERENCES sessions (id),
    subject_authority_record_id TEXT NOT NULL REFERENCES authority_records (id),
    lifecycle TEXT NOT NULL CHECK (lifecycle IN ('task', 'service')),
    labels_json TEXT NOT NULL DEFAULT '[]',
    metadata_json TEXT NOT NULL DEFAULT '{}',
    status TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'terminated', 'expired')),
    depth BIGINT NOT NULL,
    max_children BIGINT NOT NULL DEFAULT 10,
    child_count BIGINT NOT NULL DEFAULT 0,
    ttl_seconds BIGINT,
    started_at BIGINT NOT NULL,
    last_active_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_heartbeat_at BIGINT,
    heartbeat_deadline_at BIGINT,
    lease_generation BIGINT NOT NULL DEFAULT 0,
    terminated_at BIGINT,
    termination_reason TEXT,
    CHECK ((lifecycle = 'task' AND ttl_seconds > 0 AND heartbeat_deadline_at IS NULL)
        OR (lifecycle = 'service' AND ttl_seconds IS NULL AND heartbeat_deadline_at IS NOT NULL)),
    CHECK ((status IN ('terminated', 'expired')) = (terminated_at IS NOT NULL))
);
CREATE INDEX sessions_zone ON sessions (zone_id, started_at, id);
CREATE INDEX sessions_live ON sessions (zone_id, application_id) WHERE status IN ('active', 'suspended');
CREATE INDEX sessions_parent ON sessions (parent_id, status);
CREATE INDEX sessions_record ON sessions (subject_authority_record_id);

CREATE TABLE delegation_edges (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    source_session_id TEXT NOT NULL REFERENCES sessions (id),
    target_session_id TEXT NOT NULL REFERENCES sessions (id),
    issuer_application_id TEXT NOT NULL,
    receiver_application_id TEXT NOT NULL,
    parent_edge_id TEXT REFERENCES delegation_edges (id),
    inherited BIGINT NOT NULL DEFAULT 0,
    resource_id TEXT,
    scopes_json TEXT NOT NULL,
    constraints_json TEXT NOT NULL DEFAULT '{}',
    status TEXT NOT NULL CHECK (status IN ('active', 'revoked', 'expired')),
    expires_at BIGINT NOT NULL,
    edge_version BIGINT NOT NULL DEFAULT 0,
    revoked_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CHECK (source_session_id <> target_session_id),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE INDEX delegation_edges_source ON delegation_edges (source_session_id, status);
CREATE INDEX delegation_edges_target ON delegation_edges (target_session_id, status);
CREATE INDEX delegation_edges_parent ON delegation_edges (parent_edge_id);
CREATE INDEX delegation_edges_zone ON delegation_edges (zone_id, id);

CREATE TABLE idempotency_receipts (
    operation TEXT NOT NULL,
    zone_id TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    key_digest TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    response_status BIGINT NOT NULL,
    response_json TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (operation, zone_id, scope_id, key_digest)
);
CREATE INDEX idempotency_receipts_expires ON idempotency_receipts (expires_at);

-- What may be used once: mandates, nonces. Kept until it could not be used anyway.
CREATE TABLE used_once (
    key TEXT PRIMARY KEY,
    until BIGINT NOT NULL
);
CREATE INDEX used_once_until ON used_once (until);

-- Fixed-window counters: rate limits and lockouts.
CREATE TABLE counters (
    key TEXT PRIMARY KEY,
    window_start BIGINT NOT NULL,
    count BIGINT NOT NULL
);
CREATE INDEX counters_window ON counters (window_start);

-- Events wait here, written in the transaction of what they tell, until the ledger has taken them.
CREATE TABLE audit_outbox (
    id TEXT PRIMARY KEY,
    event_json TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX audit_outbox_created ON audit_outbox (created_at, id);

CREATE TABLE audit_events (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL,
    chain_seq BIGINT NOT NULL,
    event_type TEXT NOT NULL,
    request_id TEXT NOT NULL,
    decision TEXT NOT NULL,
    policy_set_id TEXT,
    policy_set_version_id TEXT,
    manifest_sha TEXT,
    evaluation_status TEXT NOT NULL,
    determining_policies_json TEXT NOT NULL,
    diagnostics_json TEXT NOT NULL,
    metadata_json TEXT,
    occurred_at BIGINT NOT NULL,
    ingested_at BIGINT NOT NULL,
    content_sha256 TEXT NOT NULL,
    prev_content_sha256 TEXT,
    chain_hmac TEXT NOT NULL,
    UNIQUE (zone_id, chain_seq)
);
CREATE INDEX audit_events_time ON audit_events (zone_id, occurred_at, id);
CREATE INDEX audit_events_request ON audit_events (request_id);

-- How far the evidence of one worker of one gateway has come, and what is missing.
CREATE TABLE evidence_streams (
    gateway_id TEXT NOT NULL,
    worker TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    acknowledged BIGINT NOT NULL,
    missing BIGINT NOT NULL DEFAULT 0,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (gateway_id, worker, incarnation)
);

CREATE TABLE admin_tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('global', 'zone')),
    zone_id TEXT REFERENCES zones (id),
    capability TEXT NOT NULL CHECK (capability IN ('read', 'write', 'approve')),
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    revoked_at BIGINT,
    CHECK ((scope = 'zone') = (zone_id IS NOT NULL))
);
CREATE UNIQUE INDEX admin_tokens_hash ON admin_tokens (token_hash) WHERE revoked_at IS NULL;

CREATE TABLE admin_audit_events (
    id TEXT PRIMARY KEY,
    chain_key TEXT NOT NULL,
    chain_seq BIGINT NOT NULL,
    zone_id TEXT,
    request_id TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    actor_scope TEXT NOT NULL,
    action TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    entity_type TEXT,
    entity_id TEXT,
    status_code BIGINT NOT NULL,
    payload_json TEXT,
    occurred_at BIGINT NOT NULL,
    content_sha256 TEXT NOT NULL,
    prev_content_sha256 TEXT,
    chain_hmac TEXT NOT NULL,
    UNIQUE (chain_key, chain_seq)
);
CREATE INDEX admin_audit_events_time ON admin_audit_events (zone_id, occurred_at, id);
