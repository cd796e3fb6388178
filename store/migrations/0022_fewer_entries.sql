-- Each row is written into as few trees as its readers need.

-- Ids are ordered by time already.
DROP INDEX audit_outbox_created;

-- Most rows stand below no other.
DROP INDEX sessions_parent;
CREATE INDEX sessions_parent ON sessions (parent_id, status) WHERE parent_id IS NOT NULL;
DROP INDEX delegation_edges_parent;
CREATE INDEX delegation_edges_parent ON delegation_edges (parent_edge_id) WHERE parent_edge_id IS NOT NULL;
DROP INDEX authority_records_parent;
CREATE INDEX authority_records_parent ON authority_records (parent_id) WHERE parent_id IS NOT NULL;
