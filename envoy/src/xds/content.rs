//! What is served: pieces of configuration by type and name, each with a version that is a hash of its content.

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_mandate::gateway_signature::to_hex;
use hmac_sha256::Hash;
use prost_types::Any;
use serde_json::Value;

use super::schema;
use super::translate::LeftOut;
use super::wire::{self, Message, WireError};
use crate::node::GatewayNode;
use crate::options::BootstrapOptions;
use crate::{bootstrap, connection_manager};

/// A type of configuration.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
}

impl Kind {
    /// All, in the order in which Envoy wants them: what is named comes before what names it.
    pub(crate) const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes];

    /// The label of metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::Routes => "routes",
        }
    }

    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Whether a gateway that names nothing wants all there is.
    pub(crate) fn all_by_default(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    fn message(self) -> &'static Message {
        match self {
            Self::Cluster => &schema::CLUSTER,
            Self::Endpoints => &schema::ENDPOINTS,
            Self::Listener => &schema::LISTENER,
            Self::Routes => &schema::ROUTES,
        }
    }
}

/// One piece.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    /// The same for the same content, in every process.
    pub(crate) version: String,
    pub(crate) body: Any,
}

impl Piece {
    pub(crate) fn new(kind: Kind, content: &Value) -> Result<Arc<Self>, WireError> {
        let value = wire::encode(kind.message(), content)?;
        let version = short_hash(&[&value]);
        Ok(Arc::new(Self { version, body: Any { type_url: kind.type_url().to_owned(), value } }))
    }
}

/// Pieces by name.
pub(crate) type Pieces = BTreeMap<String, Arc<Piece>>;

/// What all gateways are told alike, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) clusters: Pieces,
    pub(crate) endpoints: Pieces,
    /// Resources that became no cluster.
    pub(crate) left_out: Vec<LeftOut>,
    /// Of all of it.
    pub(crate) version: String,
}

impl Snapshot {
    pub(crate) fn new(clusters: Pieces, endpoints: Pieces, left_out: Vec<LeftOut>) -> Self {
        let parts = clusters.iter().chain(&endpoints);
        let parts: Vec<&[u8]> = parts
            .flat_map(|(name, piece)| [name.as_bytes(), b"\n", piece.version.as_bytes(), b"\n"])
            .collect();
        let version = short_hash(&parts);
        Self { clusters, endpoints, left_out, version }
    }
}

/// What one gateway is told beside.
#[derive(Debug)]
pub(crate) struct Own {
    listener: Pieces,
    routes: Pieces,
}

impl Own {
    /// The listener and the routes of this gateway: the template's, at the gateway's own places.
    pub(crate) fn of(template: &BootstrapOptions, node: &GatewayNode) -> Result<Self, WireError> {
        let mut options = BootstrapOptions { gateway_id: node.id.clone(), ..template.clone() };
        if let Some(listener) = &node.listener {
            options.listener = listener.clone();
        }
        if let Some(module) = &node.module {
            options.module.clone_from(module);
        }
        let named = |kind, content: &Value| {
            Ok(Pieces::from([(connection_manager::NAME.to_owned(), Piece::new(kind, content)?)]))
        };
        Ok(Self {
            listener: named(Kind::Listener, &bootstrap::listener(&options))?,
            routes: named(Kind::Routes, &connection_manager::routes(&options))?,
        })
    }

    /// The pieces of a type: its own, or those of all.
    pub(crate) fn pieces<'a>(&'a self, snapshot: &'a Snapshot, kind: Kind) -> &'a Pieces {
        match kind {
            Kind::Cluster => &snapshot.clusters,
            Kind::Endpoints => &snapshot.endpoints,
            Kind::Listener => &self.listener,
            Kind::Routes => &self.routes,
        }
    }
}

fn short_hash(parts: &[&[u8]]) -> String {
    let mut hash = Hash::new();
    for part in parts {
        hash.update(part);
    }
    let mut text = to_hex(&hash.finalize());
    text.truncate(24);
    text
}
