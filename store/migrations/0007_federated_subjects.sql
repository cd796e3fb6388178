-- The users that external issuers vouched for: by whom, and since when a token has to be issued to count.
CREATE TABLE federated_subjects (
    zone_id TEXT NOT NULL REFERENCES zones (id),
    subject_id TEXT NOT NULL,
    issuer TEXT NOT NULL,
    not_before BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (zone_id, subject_id)
);
