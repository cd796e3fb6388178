-- What the Coordinator's jobs look for: what is past its time, and what ended long ago.
CREATE INDEX sessions_task_end ON sessions ((started_at + ttl_seconds * 1000))
    WHERE lifecycle = 'task' AND status IN ('active', 'suspended');
CREATE INDEX sessions_lease_end ON sessions (heartbeat_deadline_at) WHERE lifecycle = 'service' AND status = 'active';
CREATE INDEX sessions_ended ON sessions (terminated_at, id) WHERE terminated_at IS NOT NULL;
CREATE INDEX delegation_edges_end ON delegation_edges (expires_at) WHERE status = 'active';
CREATE INDEX delegation_edges_ended ON delegation_edges (updated_at, id) WHERE status <> 'active';
CREATE INDEX agent_invocations_canceling ON agent_invocations (deadline_at) WHERE status = 'cancel_requested';
