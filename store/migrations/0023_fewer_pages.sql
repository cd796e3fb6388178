-- What every mandate writes goes into few pages: a table is its own index where that is all that it is read by, and what
-- is new comes to an end of it.

-- The time is first in the key, so it has to be the same at every use. That of a mandate follows from the mandate. A nonce
-- was remembered for two minutes from its use; now it is for periods of two minutes, by when its call was signed, and a
-- use looks into the periods around its own.
CREATE TABLE used_once_next (
    until BIGINT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (until, key)
) WITHOUT ROWID;
INSERT INTO used_once_next (until, key)
    SELECT CASE WHEN key LIKE 'gateway-nonce:%' THEN ((until - 120000) / 120000 + 3) * 120000 ELSE until END, key
    FROM used_once ORDER BY 1, 2;
DROP TABLE used_once;
ALTER TABLE used_once_next RENAME TO used_once;

-- There are few counters, and each is written often: what is over is found by going through them.
CREATE TABLE counters_next (
    key TEXT PRIMARY KEY NOT NULL,
    window_start BIGINT NOT NULL,
    count BIGINT NOT NULL
) WITHOUT ROWID;
INSERT INTO counters_next (key, window_start, count) SELECT key, window_start, count FROM counters ORDER BY key;
DROP TABLE counters;
ALTER TABLE counters_next RENAME TO counters;

-- Events wait in the order in which they came, and not for long. The ledger takes each once by its id.
CREATE TABLE audit_outbox_next (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    event_json TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO audit_outbox_next (id, event_json, created_at)
    SELECT id, event_json, created_at FROM audit_outbox ORDER BY id;
DROP TABLE audit_outbox;
ALTER TABLE audit_outbox_next RENAME TO audit_outbox;
