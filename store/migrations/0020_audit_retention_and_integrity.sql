-- A fourth capability: who administers may show secrets, set for how long evidence is kept and make tokens that approve.
CREATE TABLE admin_tokens_next (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('global', 'zone')),
    zone_id TEXT REFERENCES zones (id),
    capability TEXT NOT NULL CHECK (capability IN ('read', 'write', 'approve', 'admin')),
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    revoked_at BIGINT,
    CHECK ((scope = 'zone') = (zone_id IS NOT NULL))
);
INSERT INTO admin_tokens_next (id, name, token_hash, scope, zone_id, capability, created_by, created_at, last_used_at,
    revoked_at)
    SELECT id, name, token_hash, scope, zone_id, capability, created_by, created_at, last_used_at, revoked_at
    FROM admin_tokens;
DROP TABLE admin_tokens;
ALTER TABLE admin_tokens_next RENAME TO admin_tokens;
CREATE UNIQUE INDEX admin_tokens_hash ON admin_tokens (token_hash) WHERE revoked_at IS NULL;

-- Where the chain of a zone's events begins once its oldest rows are pruned: the last row that is gone, vouched for
-- under the key of the chains.
CREATE TABLE audit_bases (
    zone_id TEXT PRIMARY KEY,
    chain_seq BIGINT NOT NULL,
    content_sha256 TEXT NOT NULL,
    hmac TEXT NOT NULL,
    pruned_at BIGINT NOT NULL
);

-- What is wrong with the chains of events and of changes, until someone who administers says that it is known.
CREATE TABLE audit_findings (
    chain TEXT NOT NULL CHECK (chain IN ('changes', 'events')),
    chain_key TEXT NOT NULL,
    chain_seq BIGINT NOT NULL,
    fault TEXT NOT NULL,
    row_id TEXT NOT NULL,
    found_at BIGINT NOT NULL,
    acknowledged_at BIGINT,
    acknowledged_by TEXT,
    PRIMARY KEY (chain, chain_key, chain_seq, fault)
);
CREATE INDEX audit_findings_open ON audit_findings (found_at) WHERE acknowledged_at IS NULL;

-- How far each chain was checked last, and where it ended then.
CREATE TABLE audit_checks (
    chain TEXT NOT NULL CHECK (chain IN ('changes', 'events')),
    chain_key TEXT NOT NULL,
    checked BIGINT NOT NULL,
    head_seq BIGINT,
    head_sha256 TEXT,
    checked_at BIGINT NOT NULL,
    PRIMARY KEY (chain, chain_key)
);
