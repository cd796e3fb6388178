-- What persons let us do at a provider: their tokens, sealed for their row, and the browser flows that obtain them
-- (contract admin-audit §5.6, sts §22.4). A connection that ended holds no token any more.
CREATE TABLE provider_connections (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    provider_id TEXT NOT NULL REFERENCES providers (id),
    subject_id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'expired', 'revoked')),
    access_token_envelope TEXT,
    refresh_token_envelope TEXT,
    renewable BIGINT NOT NULL DEFAULT 0,
    expires_at BIGINT,
    refreshed_at BIGINT,
    refresh_token_version BIGINT NOT NULL DEFAULT 1,
    -- Who renews it now, and until when nobody else does.
    lease_owner TEXT,
    lease_until BIGINT,
    -- What the last attempt to renew it failed for.
    failure TEXT,
    failed_at BIGINT,
    created_by TEXT,
    updated_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CHECK ((status = 'active') = (access_token_envelope IS NOT NULL)),
    CHECK (status = 'active' OR refresh_token_envelope IS NULL)
);
CREATE UNIQUE INDEX provider_connections_active ON provider_connections (zone_id, provider_id, subject_id)
    WHERE status = 'active';
CREATE INDEX provider_connections_zone ON provider_connections (zone_id, created_at, id);
CREATE INDEX provider_connections_subject ON provider_connections (zone_id, subject_id);

-- A flow that a browser is in. The state is a capability, so only its keyed hash is here.
CREATE TABLE provider_oauth_flows (
    state_hash TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    provider_id TEXT NOT NULL REFERENCES providers (id),
    subject_id TEXT NOT NULL,
    verifier_envelope TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    actor_zone_id TEXT,
    expires_at BIGINT NOT NULL
);
CREATE INDEX provider_oauth_flows_expires ON provider_oauth_flows (expires_at);
