//! What of MCP a resource may declare, as pure checks.

use crate::problem::Problem;
use caracal_mandate::mcp::{MAX_BODY_BYTES, MAX_NAME_BYTES, McpEntry, McpRule, TOOL_CALL};
use caracal_mandate::path::DecodedPath;
use caracal_mandate::scope::Scope;
use std::collections::HashSet;

const MAX_METHODS: usize = 64;
const MAX_TOOLS: usize = 512;

fn invalid(place: &str, why: impl std::fmt::Display) -> Problem {
    Problem::invalid("invalid_resource").because(format!("mcp.{place}: {why}"))
}

/// Checks what is declared: every scope is one of the resource's, every name stands once.
pub(crate) fn check(mcp: &McpEntry, scopes: &[String]) -> Result<(), Problem> {
    let path = mcp.path.as_str();
    let plain =
        DecodedPath::parse(path.as_bytes()).is_ok_and(|decoded| decoded.as_bytes() == path.as_bytes());
    if !path.starts_with('/') || path.len() > 512 || !plain {
        return Err(invalid(
            "path",
            "a path as a gateway sees it is expected: absolute, decoded, without dot segments",
        ));
    }
    rules("methods", &mcp.methods, MAX_METHODS, scopes)?;
    rules("tools", &mcp.tools, MAX_TOOLS, scopes)?;
    if let Some(at) = mcp.methods.iter().position(|method| method.name == TOOL_CALL) {
        return Err(invalid(&format!("methods[{at}].name"), format!("{TOOL_CALL} is declared by its tools")));
    }
    for (name, needed) in [("stream", &mcp.stream), ("end", &mcp.end), ("responses", &mcp.responses)] {
        within(name, needed.as_deref().unwrap_or_default(), scopes)?;
    }
    if !(1..=MAX_BODY_BYTES).contains(&mcp.max_body_bytes) {
        return Err(invalid("max_body_bytes", format!("1 to {MAX_BODY_BYTES} is expected")));
    }
    Ok(())
}

fn rules(list: &str, rules: &[McpRule], most: usize, scopes: &[String]) -> Result<(), Problem> {
    if rules.len() > most {
        return Err(invalid(list, format!("at most {most} are expected")));
    }
    let mut seen = HashSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let place = format!("{list}[{at}]");
        let name = rule.name.as_str();
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) || name.chars().any(char::is_control) {
            let why = format!("1 to {MAX_NAME_BYTES} bytes without control characters are expected");
            return Err(invalid(&format!("{place}.name"), why));
        }
        if !seen.insert(name) {
            return Err(invalid(&format!("{place}.name"), format!("{name:?} is there twice")));
        }
        within(&format!("{place}.scopes"), &rule.scopes, scopes)?;
    }
    Ok(())
}

fn within(place: &str, needed: &[Scope], scopes: &[String]) -> Result<(), Problem> {
    match needed.iter().find(|scope| !scopes.iter().any(|declared| declared == scope.as_str())) {
        None => Ok(()),
        Some(scope) => {
            Err(invalid(place, format!("{:?} is not among the resource's scopes", scope.as_str())))
        }
    }
}
