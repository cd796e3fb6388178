-- Where a zone's approvals are told of (contract admin-audit §5.15). The secret of a sink is sealed in secret_store.
CREATE TABLE notification_sinks (
    id TEXT PRIMARY KEY,
    zone_id TEXT NOT NULL REFERENCES zones (id),
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    event_types_json TEXT NOT NULL,
    active BIGINT NOT NULL DEFAULT 1,
    -- The last event of the zone's ledger that was looked at.
    cursor_chain_seq BIGINT NOT NULL,
    consecutive_failures BIGINT NOT NULL DEFAULT 0,
    last_success_at BIGINT,
    last_failure_at BIGINT,
    last_error TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX notification_sinks_zone ON notification_sinks (zone_id, created_at, id);

CREATE TABLE notification_deliveries (
    id TEXT PRIMARY KEY,
    sink_id TEXT NOT NULL REFERENCES notification_sinks (id),
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    -- Deliveries of a sink go out in this order.
    chain_seq BIGINT NOT NULL,
    body TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    available_at BIGINT NOT NULL,
    delivered_at BIGINT,
    abandoned_at BIGINT,
    response_status BIGINT,
    last_error TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (sink_id, event_id)
);
CREATE INDEX notification_deliveries_due ON notification_deliveries (sink_id, chain_seq)
    WHERE delivered_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX notification_deliveries_settled ON notification_deliveries (created_at);
