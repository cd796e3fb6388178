-- What operators administer besides the foundation: launcher identities, delegated grants, trusted issuers of users,
-- and settings of the whole installation (contract admin-audit §5.3, §5.7, §5.9, §5.17).

CREATE TABLE workloads (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    bindings_json TEXT NOT NULL DEFAULT '[]',
    secret_hash TEXT NOT NULL,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX workloads_name ON workloads (zone_id, name);

CREATE TABLE delegated_grants (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    application_id TEXT NOT NULL REFERENCES applications (id),
    user_id TEXT NOT NULL,
    resource_id TEXT NOT NULL REFERENCES resources (id),
    scopes_json TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'revoked')),
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX delegated_grants_zone ON delegated_grants (zone_id, created_at, id);

CREATE TABLE subject_issuers (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    issuer TEXT NOT NULL,
    jwks_url TEXT NOT NULL,
    audience TEXT NOT NULL,
    created_by TEXT,
    created_via_operator BIGINT NOT NULL DEFAULT 0,
    updated_by TEXT,
    updated_via_operator BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX subject_issuers_issuer ON subject_issuers (zone_id, issuer) WHERE archived_at IS NULL;

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL,
    updated_by TEXT,
    updated_at BIGINT NOT NULL
);
