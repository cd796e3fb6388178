//! The messages of the stream, as Envoy's API has them (`envoy.service.discovery.v3`); only what is used of them.
//! Unknown members are skipped when they are read.

use std::collections::BTreeMap;

use prost_types::{Any, Struct};

/// The service and the method, as in a request's path.
pub const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Who asks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// The gateway's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The name of a group of gateways.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// What else it says of itself.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
}

/// Why something was not accepted (`google.rpc.Status`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ErrorDetail {
    /// A code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// What a gateway says: what it wants, and whether it took what it got.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks; in the first message.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Of which type.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names that it wants from now on.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names that it does not want any more.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What it has from a stream before; in the first message of a type.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    /// What it answers to.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why it did not take that.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<ErrorDetail>,
}

/// What a gateway is told.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// For people who debug.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// What is new or other than it was.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// Of which type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the answer names.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// What is gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// One piece of configuration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Changes with the content.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The content.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// A configuration that Envoy reads as JSON (`xds.type.v3.TypedStruct`).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TypedStruct {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<Struct>,
}
