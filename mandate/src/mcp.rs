//! The Model Context Protocol over streamable HTTP: which scopes a message needs.
//!
//! One endpoint carries every operation there, so it is the JSON-RPC message that is judged. Only what a resource
//! declares passes. A message that two readers could understand differently is refused: members that stand twice or that
//! nobody knows, other encodings, and headers that name another method than the body.

use crate::json;
use crate::scope::{Scope, ScopeSet};
use crate::verdict::DenyReason;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// As much of a body as is read where a resource does not say otherwise, in bytes.
pub const DEFAULT_BODY_BYTES: u64 = 64 * 1024;
/// As much of a body as a resource can ask to be read, in bytes. Envoy holds it in memory meanwhile.
pub const MAX_BODY_BYTES: u64 = 512 * 1024;
/// The most messages of a batch.
pub const MAX_MESSAGES: usize = 32;
/// The longest name of a method or tool that can be declared, in bytes. Evidence shows as much of one that is not.
pub const MAX_NAME_BYTES: usize = 128;
/// The method whose `params.name` is a tool.
pub const TOOL_CALL: &str = "tools/call";
/// What evidence calls a message that answers the server.
const RESPONSE: &str = "(response)";
/// The members of a JSON-RPC message.
const MEMBERS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// A method or a tool, and every scope that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpRule {
    /// Its name, compared to the byte.
    pub name: String,
    /// The scopes; none means that every mandate for the resource will do.
    pub scopes: Vec<Scope>,
}

/// What of MCP a resource declares. Whatever stands nowhere here is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpEntry {
    /// The one path of the resource, decoded, compared to the byte.
    pub path: String,
    /// Methods of requests and notifications, but for `tools/call`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<McpRule>,
    /// Tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<McpRule>,
    /// What `GET` needs, which opens the server's stream of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Vec<Scope>>,
    /// What `DELETE` needs, which ends the MCP session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Vec<Scope>>,
    /// What an answer of the client to the server needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<Vec<Scope>>,
    /// The largest body, in bytes.
    #[serde(default = "default_body_bytes")]
    pub max_body_bytes: u64,
}

fn default_body_bytes() -> u64 {
    DEFAULT_BODY_BYTES
}

/// A request before its body, as far as a decision needs it: every value of each header.
#[derive(Debug, Clone, Default)]
pub struct McpHead<'a> {
    /// The HTTP method.
    pub method: &'a [u8],
    /// `Content-Type`.
    pub content_type: Vec<&'a [u8]>,
    /// `Content-Encoding`.
    pub content_encoding: Vec<&'a [u8]>,
    /// `Mcp-Method`, by which servers may route.
    pub mcp_method: Vec<&'a [u8]>,
    /// `Mcp-Name`, likewise.
    pub mcp_name: Vec<&'a [u8]>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpRefusal {
    /// The reason.
    pub reason: DenyReason,
    /// The scopes that it needs, where it lacks one; separated by spaces.
    pub scopes: String,
}

impl From<DenyReason> for McpRefusal {
    fn from(reason: DenyReason) -> Self {
        Self { reason, scopes: String::new() }
    }
}

/// A message as evidence shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpName {
    /// Its method.
    pub method: String,
    /// The tool that it calls.
    pub tool: Option<String>,
}

impl McpEntry {
    /// Judges what is known before the body is there.
    ///
    /// # Errors
    /// Why it is refused, whatever the body says.
    pub fn judge_head(&self, head: &McpHead<'_>, granted: &ScopeSet) -> Result<(), McpRefusal> {
        match head.method {
            b"POST" if is_json(&head.content_type) && is_identity(&head.content_encoding) => Ok(()),
            b"POST" => Err(DenyReason::McpContent.into()),
            b"GET" => require(self.stream.as_deref(), granted, DenyReason::OperationNotPermitted),
            b"DELETE" => require(self.end.as_deref(), granted, DenyReason::OperationNotPermitted),
            _ => Err(DenyReason::OperationNotPermitted.into()),
        }
    }

    /// Judges a whole request. `names` takes what evidence shows of it, also of one that is refused.
    ///
    /// # Errors
    /// Why it is refused. Of a batch, every message has to be permitted.
    pub fn judge(
        &self,
        head: &McpHead<'_>,
        body: &[u8],
        granted: &ScopeSet,
        names: &mut Vec<McpName>,
    ) -> Result<(), McpRefusal> {
        self.judge_head(head, granted)?;
        if head.method != b"POST" {
            return if body.is_empty() { Ok(()) } else { Err(DenyReason::McpMalformed.into()) };
        }
        let body = json::parse(body).map_err(|_| DenyReason::McpMalformed)?;
        let messages = match &body {
            Value::Array(messages) => messages.as_slice(),
            message => std::slice::from_ref(message),
        };
        if messages.is_empty() || messages.len() > MAX_MESSAGES {
            return Err(DenyReason::McpMalformed.into());
        }
        for message in messages {
            let message = Message::read(message).ok_or(DenyReason::McpMalformed)?;
            names.push(message.name());
            // A header can name one message only.
            if !message.is_named_by(head) || (body.is_array() && is_named(head)) {
                return Err(DenyReason::McpMalformed.into());
            }
            self.permit(&message, granted)?;
        }
        Ok(())
    }

    fn permit(&self, message: &Message<'_>, granted: &ScopeSet) -> Result<(), McpRefusal> {
        let (scopes, undeclared) = match (message.method, message.tool) {
            (None, _) => (self.responses.as_deref(), DenyReason::McpMethod),
            (Some(_), Some(tool)) => (declared(&self.tools, tool), DenyReason::McpTool),
            (Some(method), None) => (declared(&self.methods, method), DenyReason::McpMethod),
        };
        require(scopes, granted, undeclared)
    }
}

fn declared<'a>(rules: &'a [McpRule], name: &str) -> Option<&'a [Scope]> {
    rules.iter().find(|rule| rule.name == name).map(|rule| rule.scopes.as_slice())
}

fn require(scopes: Option<&[Scope]>, granted: &ScopeSet, undeclared: DenyReason) -> Result<(), McpRefusal> {
    let scopes = scopes.ok_or(undeclared)?;
    if scopes.iter().all(|scope| granted.contains(scope.as_str())) {
        return Ok(());
    }
    let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
    Err(McpRefusal { reason: DenyReason::ScopeMissing, scopes: scopes.join(" ") })
}

/// One JSON-RPC message.
struct Message<'a> {
    /// `None` answers the server.
    method: Option<&'a str>,
    /// The tool, where the method calls one.
    tool: Option<&'a str>,
    params: Option<&'a Map<String, Value>>,
}

impl<'a> Message<'a> {
    /// `None` where it is not well-formed, or could be read in two ways.
    fn read(message: &'a Value) -> Option<Self> {
        let members = message.as_object()?;
        // Some readers do not tell `method` from `Method`.
        let known = members.keys().all(|name| MEMBERS.contains(&name.as_str()));
        if !known || members.get("jsonrpc")?.as_str() != Some("2.0") {
            return None;
        }
        let has = |name: &str| members.contains_key(name);
        let Some(method) = members.get("method") else {
            let failed = has("error");
            let id = members.get("id")?;
            let answers = is_id(id) || (failed && id.is_null());
            return (answers && failed != has("result") && !has("params")).then_some(Self {
                method: None,
                tool: None,
                params: None,
            });
        };
        let method = method.as_str()?;
        let params = match members.get("params") {
            None => None,
            Some(params) => Some(params.as_object()?),
        };
        let id = members.get("id").is_none_or(is_id);
        if method.is_empty() || has("result") || has("error") || !id {
            return None;
        }
        let tool = match method {
            TOOL_CALL => Some(only_member(params?, "name")?.as_str().filter(|name| !name.is_empty())?),
            _ => None,
        };
        Some(Self { method: Some(method), tool, params })
    }

    fn name(&self) -> McpName {
        McpName {
            method: shown(self.method.unwrap_or(RESPONSE)).to_owned(),
            tool: self.tool.map(|tool| shown(tool).to_owned()),
        }
    }

    /// Whether the headers that mirror the body say the same, where they are there.
    fn is_named_by(&self, head: &McpHead<'_>) -> bool {
        let method = match head.mcp_method.as_slice() {
            [] => true,
            [value] => self.method.is_some_and(|method| method.as_bytes() == *value),
            _ => false,
        };
        let mirrored = match self.method {
            Some("resources/read") => "uri",
            _ => "name",
        };
        let name = match head.mcp_name.as_slice() {
            [] => true,
            [value] => {
                let named = self.params.and_then(|params| only_member(params, mirrored)?.as_str());
                named.is_some_and(|name| mirrors(value, name))
            }
            _ => false,
        };
        method && name
    }
}

fn is_named(head: &McpHead<'_>) -> bool {
    !head.mcp_method.is_empty() || !head.mcp_name.is_empty()
}

/// A member of `params`, unless another is there that some readers take for it.
fn only_member<'a>(params: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let alike = |member: &String| {
        member.trim_matches(|character: char| !character.is_ascii_graphic()).eq_ignore_ascii_case(name)
    };
    let member = params.get(name)?;
    (params.keys().filter(|member| alike(member)).count() == 1).then_some(member)
}

fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

/// Whether a header's value stands for this name: as it is, or in base64 between `=?base64?` and `?=`.
fn mirrors(value: &[u8], name: &str) -> bool {
    let encoded = value.strip_prefix(b"=?base64?").and_then(|value| value.strip_suffix(b"?="));
    match encoded {
        Some(encoded) => STANDARD.decode(encoded).is_ok_and(|decoded| decoded == name.as_bytes()),
        None => value == name.as_bytes(),
    }
}

/// As much of a name as evidence shows.
fn shown(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or_default()
}

/// Whether the body is JSON in UTF-8, by the one header that says so.
fn is_json(values: &[&[u8]]) -> bool {
    let [value] = values else { return false };
    let mut parts = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let json = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(b"application/json"));
    json && parts.all(|parameter| {
        [&b"charset=utf-8"[..], b"charset=\"utf-8\""].iter().any(|utf8| parameter.eq_ignore_ascii_case(utf8))
    })
}

fn is_identity(values: &[&[u8]]) -> bool {
    values.iter().all(|value| value.trim_ascii().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
#[path = "mcp_tests.rs"]
mod tests;
