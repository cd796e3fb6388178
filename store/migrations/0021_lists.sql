-- Pages of lists cost the same however long the list is: every list has an index of its own rows in its own order.
CREATE INDEX resources_active ON resources (zone_id, created_at, id) WHERE archived_at IS NULL;
CREATE INDEX resources_archived ON resources (zone_id, created_at, id) WHERE archived_at IS NOT NULL;
DROP INDEX resources_zone;
CREATE INDEX applications_active ON applications (zone_id, created_at, id) WHERE archived_at IS NULL;
CREATE INDEX applications_archived ON applications (zone_id, created_at, id) WHERE archived_at IS NOT NULL;
DROP INDEX applications_zone;
CREATE INDEX providers_active ON providers (zone_id, created_at, id) WHERE archived_at IS NULL;
CREATE INDEX providers_archived ON providers (zone_id, created_at, id) WHERE archived_at IS NOT NULL;
CREATE INDEX policies_active ON policies (zone_id, created_at, id) WHERE archived_at IS NULL;
CREATE INDEX policy_sets_listed ON policy_sets (zone_id, created_at, id) WHERE archived_at IS NULL;
CREATE INDEX policy_set_versions_listed ON policy_set_versions (policy_set_id, created_at, id);
CREATE INDEX workloads_listed ON workloads (zone_id, created_at, id);
CREATE INDEX zones_listed ON zones (created_at, id) WHERE archived_at IS NULL;
CREATE INDEX admin_tokens_listed ON admin_tokens (created_at, id);

-- A free identifier is looked for among all that were ever taken.
CREATE INDEX resources_taken ON resources (zone_id, identifier);

-- How many resources a zone has, so that making one need not count them.
ALTER TABLE zones ADD COLUMN resource_count BIGINT NOT NULL DEFAULT 0;
UPDATE zones SET resource_count =
    (SELECT COUNT(*) FROM resources WHERE resources.zone_id = zones.id AND resources.archived_at IS NULL);

-- The record of changes is read by its chain, newest first, and by what was changed.
CREATE INDEX admin_audit_events_listed ON admin_audit_events (chain_key, occurred_at, id);
CREATE INDEX admin_audit_events_entity ON admin_audit_events (chain_key, entity_id, occurred_at, id);
DROP INDEX admin_audit_events_time;

-- Registered applications whose time is over.
CREATE INDEX applications_expiring ON applications (expires_at) WHERE registration_method = 'dcr' AND archived_at IS NULL;
