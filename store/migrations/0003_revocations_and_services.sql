-- What was revoked at once by a selector, and when every gateway had taken it.
CREATE TABLE revocations (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    selector_json TEXT NOT NULL,
    reason TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    edges BIGINT NOT NULL,
    records BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    committed_at BIGINT NOT NULL,
    closed_at BIGINT
);
CREATE INDEX revocations_zone ON revocations (zone_id, committed_at, id);
CREATE INDEX revocations_open ON revocations (committed_at) WHERE closed_at IS NULL;

-- Where agents can be called.
CREATE TABLE agent_services (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    application_id TEXT NOT NULL REFERENCES applications (id),
    endpoint_url TEXT NOT NULL,
    protocol_versions_json TEXT NOT NULL DEFAULT '[]',
    framework_name TEXT,
    framework_version TEXT,
    capabilities_json TEXT NOT NULL DEFAULT '[]',
    health TEXT NOT NULL CHECK (health IN ('starting', 'healthy', 'degraded', 'unhealthy')),
    metadata_json TEXT NOT NULL DEFAULT '{}',
    last_heartbeat_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (zone_id, application_id, endpoint_url)
);

-- Calls between agents, with their attempts.
CREATE TABLE agent_invocations (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    service_id TEXT NOT NULL REFERENCES agent_services (id),
    source_session_id TEXT REFERENCES sessions (id),
    target_session_id TEXT REFERENCES sessions (id),
    method TEXT NOT NULL,
    params_json TEXT NOT NULL DEFAULT '{}',
    metadata_json TEXT NOT NULL DEFAULT '{}',
    error_json TEXT,
    status TEXT NOT NULL CHECK (status IN
        ('pending', 'running', 'succeeded', 'failed', 'cancel_requested', 'canceled', 'timed_out')),
    attempts BIGINT NOT NULL DEFAULT 0,
    max_attempts BIGINT NOT NULL CHECK (max_attempts > 0),
    timeout_ms BIGINT NOT NULL CHECK (timeout_ms > 0),
    retry_policy_json TEXT NOT NULL,
    deadline_at BIGINT,
    cancel_requested_at BIGINT,
    started_at BIGINT,
    completed_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX agent_invocations_zone ON agent_invocations (zone_id, id);
CREATE INDEX agent_invocations_deadline ON agent_invocations (deadline_at) WHERE status = 'running';
CREATE INDEX agent_invocations_source ON agent_invocations (source_session_id);
CREATE INDEX agent_invocations_target ON agent_invocations (target_session_id);
