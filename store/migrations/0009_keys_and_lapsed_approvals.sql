-- At which authority epoch a zone's signing keys changed last: whoever keeps keys in memory compares it at every use.
ALTER TABLE zones ADD COLUMN keys_epoch BIGINT NOT NULL DEFAULT 0;

UPDATE zones SET keys_epoch = authority_epoch;

-- When it was written down that a hold lapsed before it was used.
ALTER TABLE approvals ADD COLUMN lapsed_at BIGINT;

CREATE INDEX approvals_open ON approvals (expires_at)
    WHERE consumed_at IS NULL AND rejected_at IS NULL AND lapsed_at IS NULL;
