-- What of MCP a resource declares; NULL where it does not speak MCP.
ALTER TABLE resources ADD COLUMN mcp_json TEXT;
