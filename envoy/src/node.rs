//! What a gateway says of itself at its control plane: its id, and in the node's metadata where it listens and where its
//! module is. A gateway on another machine has both elsewhere than the services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use caracal_mandate::id::GatewayId;
use prost_types::value::Kind;
use serde_json::{Value, json};

use crate::options::{BootstrapOptions, Endpoint};
use crate::xds::proto::Node;

/// The member of the metadata that is ours.
const OURS: &str = "caracal";
const LISTENER: &str = "listener";
const ADDRESS: &str = "address";
const PORT: &str = "port";
const MODULE: &str = "module";
/// The longest path that a kernel takes.
const MAX_PATH: usize = 4096;

/// A gateway, as it introduced itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct GatewayNode {
    pub(crate) id: GatewayId,
    /// Where callers connect; `None`: where the server says.
    pub(crate) listener: Option<Endpoint>,
    /// The module's file; `None`: where the server says.
    pub(crate) module: Option<PathBuf>,
}

/// Why a node is no gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the node's id is no gateway's id")]
    Id,
    #[error("the node's metadata is not what a gateway says: {0}")]
    Metadata(&'static str),
}

/// The node of a bootstrap.
pub(crate) fn render(options: &BootstrapOptions) -> Value {
    let mut node = json!({"id": options.gateway_id, "cluster": "caracal"});
    if let (Some(_), Some(members)) = (options.control(), node.as_object_mut()) {
        let listener = json!({ADDRESS: options.listener.host, PORT: options.listener.port});
        let ours = json!({LISTENER: listener, MODULE: options.module.to_string_lossy()});
        members.insert("metadata".to_owned(), json!({OURS: ours}));
    }
    node
}

impl GatewayNode {
    /// One that says nothing but its id.
    pub(crate) fn new(id: GatewayId) -> Self {
        Self { id, listener: None, module: None }
    }

    /// Reads what a gateway said.
    pub(crate) fn parse(node: &Node) -> Result<Self, NodeError> {
        let mut gateway = Self::new(GatewayId::new(node.id.as_str()).map_err(|_| NodeError::Id)?);
        let ours = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(OURS));
        let Some(ours) = ours else { return Ok(gateway) };
        // A misspelt member would leave the gateway where nobody looks for it.
        for (name, value) in members(ours).ok_or(NodeError::Metadata(OURS))? {
            match name.as_str() {
                LISTENER => gateway.listener = Some(listener(value).ok_or(NodeError::Metadata(LISTENER))?),
                MODULE => gateway.module = Some(module(value).ok_or(NodeError::Metadata(MODULE))?),
                _ => return Err(NodeError::Metadata("an unknown member")),
            }
        }
        Ok(gateway)
    }
}

fn members(value: &prost_types::Value) -> Option<&BTreeMap<String, prost_types::Value>> {
    match value.kind.as_ref()? {
        Kind::StructValue(inner) => Some(&inner.fields),
        _ => None,
    }
}

fn text(value: &prost_types::Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn listener(value: &prost_types::Value) -> Option<Endpoint> {
    let members = members(value).filter(|members| members.len() == 2)?;
    let address: IpAddr = text(members.get(ADDRESS)?)?.parse().ok()?;
    let Kind::NumberValue(number) = members.get(PORT)?.kind.as_ref()? else { return None };
    let is_port = number.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(number);
    is_port.then(|| Endpoint::new(address.to_string(), *number as u16))
}

fn module(value: &prost_types::Value) -> Option<PathBuf> {
    let path = text(value)?;
    let is_path = Path::new(path).is_absolute() && path.len() <= MAX_PATH && !path.contains('\0');
    is_path.then(|| PathBuf::from(path))
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
