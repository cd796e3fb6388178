-- How many sessions of an application are live or suspended; the row with application '' has those of its whole zone.
-- Kept in the transaction that starts or ends a session, so that a start need not count them.
CREATE TABLE live_sessions (
    zone_id TEXT NOT NULL REFERENCES zones (id),
    application_id TEXT NOT NULL,
    count BIGINT NOT NULL CHECK (count >= 0),
    PRIMARY KEY (zone_id, application_id)
);
INSERT INTO live_sessions (zone_id, application_id, count)
    SELECT zone_id, application_id, COUNT(*) FROM sessions
    WHERE status IN ('active', 'suspended') GROUP BY zone_id, application_id;
INSERT INTO live_sessions (zone_id, application_id, count)
    SELECT zone_id, '', SUM(count) FROM live_sessions GROUP BY zone_id;
