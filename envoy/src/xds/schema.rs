//! The numbers of the fields that are served, from Envoy's API. A real Envoy proves them in the tests: what it says it has
//! is compared with what was rendered.

use super::wire::{Field, Kind, Message, Shape};

const fn one(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, shape: Shape::One }
}

const fn many(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, shape: Shape::Many }
}

const fn map(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, shape: Shape::Map }
}

macro_rules! message {
    ($name:ident, $text:literal, [$($field:expr),* $(,)?]) => {
        pub(crate) static $name: Message = Message { name: $text, fields: &[$($field),*] };
    };
}

/// The table of a configuration that stands in an `Any`.
pub(crate) fn of_extension(type_url: &str) -> Option<&'static Message> {
    let (_, name) = type_url.rsplit_once('/')?;
    Some(match name {
        "envoy.config.route.v3.FilterConfig" => &FILTER_CONFIG,
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => &UPSTREAM_TLS,
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" => &UPSTREAM_HTTP,
        _ => return None,
    })
}

message!(
    CLUSTER,
    "Cluster",
    [
        one("name", 1, Kind::Text),
        one("type", 2, Kind::Enum(&[("STATIC", 0), ("EDS", 3)])),
        one("eds_cluster_config", 3, Kind::Message(&EDS_CLUSTER)),
        one("connect_timeout", 4, Kind::Duration),
        one("lb_policy", 6, Kind::Enum(&[("ROUND_ROBIN", 0), ("LEAST_REQUEST", 1)])),
        one("circuit_breakers", 10, Kind::Message(&CIRCUIT_BREAKERS)),
        one("outlier_detection", 19, Kind::Message(&OUTLIER_DETECTION)),
        one("transport_socket", 24, Kind::Message(&TRANSPORT_SOCKET)),
        one("alt_stat_name", 28, Kind::Text),
        one("load_assignment", 33, Kind::Message(&ENDPOINTS)),
        map("typed_extension_protocol_options", 36, Kind::Any),
    ]
);

message!(EDS_CLUSTER, "EdsClusterConfig", [one("eds_config", 1, Kind::Message(&CONFIG_SOURCE))]);

message!(
    CONFIG_SOURCE,
    "ConfigSource",
    [one("ads", 3, Kind::Message(&EMPTY)), one("resource_api_version", 6, Kind::Enum(&[("V3", 2)])),]
);

message!(CIRCUIT_BREAKERS, "CircuitBreakers", [many("thresholds", 1, Kind::Message(&THRESHOLDS))]);

message!(
    THRESHOLDS,
    "Thresholds",
    [
        one("max_connections", 2, Kind::NumberValue),
        one("max_pending_requests", 3, Kind::NumberValue),
        one("max_requests", 4, Kind::NumberValue),
        one("max_retries", 5, Kind::NumberValue),
    ]
);

message!(
    OUTLIER_DETECTION,
    "OutlierDetection",
    [
        one("interval", 2, Kind::Duration),
        one("base_ejection_time", 3, Kind::Duration),
        one("max_ejection_percent", 4, Kind::NumberValue),
        one("enforcing_consecutive_5xx", 5, Kind::NumberValue),
        one("enforcing_success_rate", 6, Kind::NumberValue),
        one("enforcing_consecutive_gateway_failure", 11, Kind::NumberValue),
        one("split_external_local_origin_errors", 12, Kind::Bool),
        one("consecutive_local_origin_failure", 13, Kind::NumberValue),
        one("enforcing_local_origin_success_rate", 15, Kind::NumberValue),
    ]
);

message!(
    TRANSPORT_SOCKET,
    "TransportSocket",
    [one("name", 1, Kind::Text), one("typed_config", 3, Kind::Any)]
);

message!(
    ENDPOINTS,
    "ClusterLoadAssignment",
    [one("cluster_name", 1, Kind::Text), many("endpoints", 2, Kind::Message(&LOCALITY)),]
);

message!(LOCALITY, "LocalityLbEndpoints", [many("lb_endpoints", 2, Kind::Message(&LB_ENDPOINT))]);
message!(LB_ENDPOINT, "LbEndpoint", [one("endpoint", 1, Kind::Message(&ENDPOINT))]);
message!(ENDPOINT, "Endpoint", [one("address", 1, Kind::Message(&ADDRESS))]);
message!(ADDRESS, "Address", [one("socket_address", 1, Kind::Message(&SOCKET_ADDRESS))]);

message!(
    SOCKET_ADDRESS,
    "SocketAddress",
    [one("address", 2, Kind::Text), one("port_value", 3, Kind::Number),]
);

message!(
    UPSTREAM_HTTP,
    "HttpProtocolOptions",
    [
        one("common_http_protocol_options", 1, Kind::Message(&COMMON_HTTP)),
        one("explicit_http_config", 3, Kind::Message(&HTTP_VERSIONS)),
        one("auto_config", 5, Kind::Message(&HTTP_VERSIONS)),
    ]
);

message!(COMMON_HTTP, "core.HttpProtocolOptions", [one("idle_timeout", 1, Kind::Duration)]);

message!(
    HTTP_VERSIONS,
    "HttpConfig",
    [
        one("http_protocol_options", 1, Kind::Message(&EMPTY)),
        one("http2_protocol_options", 2, Kind::Message(&EMPTY)),
    ]
);

message!(
    UPSTREAM_TLS,
    "UpstreamTlsContext",
    [one("common_tls_context", 1, Kind::Message(&COMMON_TLS)), one("sni", 2, Kind::Text),]
);

message!(
    COMMON_TLS,
    "CommonTlsContext",
    [
        one("tls_params", 1, Kind::Message(&TLS_PARAMETERS)),
        one("validation_context", 3, Kind::Message(&VALIDATION)),
    ]
);

message!(
    TLS_PARAMETERS,
    "TlsParameters",
    [one("tls_minimum_protocol_version", 1, Kind::Enum(&[("TLSv1_2", 3), ("TLSv1_3", 4)])),]
);

message!(
    VALIDATION,
    "CertificateValidationContext",
    [
        one("trusted_ca", 1, Kind::Message(&DATA_SOURCE)),
        many("match_typed_subject_alt_names", 15, Kind::Message(&SUBJECT_ALT_NAME)),
    ]
);

message!(
    SUBJECT_ALT_NAME,
    "SubjectAltNameMatcher",
    [
        one("san_type", 1, Kind::Enum(&[("DNS", 2), ("IP_ADDRESS", 4)])),
        one("matcher", 2, Kind::Message(&STRING_MATCHER)),
    ]
);

message!(STRING_MATCHER, "StringMatcher", [one("exact", 1, Kind::Text), one("prefix", 2, Kind::Text)]);

message!(DATA_SOURCE, "DataSource", [one("filename", 1, Kind::Text), one("inline_string", 3, Kind::Text)]);

message!(EMPTY, "Empty", []);

message!(
    LISTENER,
    "Listener",
    [
        one("name", 1, Kind::Text),
        one("address", 2, Kind::Message(&ADDRESS)),
        many("filter_chains", 3, Kind::Message(&FILTER_CHAIN)),
        one("per_connection_buffer_limit_bytes", 5, Kind::NumberValue),
    ]
);

message!(FILTER_CHAIN, "FilterChain", [many("filters", 3, Kind::Message(&FILTER))]);
message!(FILTER, "Filter", [one("name", 1, Kind::Text), one("typed_config", 4, Kind::Any)]);

message!(
    ROUTES,
    "RouteConfiguration",
    [one("name", 1, Kind::Text), many("virtual_hosts", 2, Kind::Message(&VIRTUAL_HOST)),]
);

message!(
    VIRTUAL_HOST,
    "VirtualHost",
    [one("name", 1, Kind::Text), many("domains", 2, Kind::Text), many("routes", 3, Kind::Message(&ROUTE)),]
);

message!(
    ROUTE,
    "Route",
    [
        one("match", 1, Kind::Message(&ROUTE_MATCH)),
        one("route", 2, Kind::Message(&ROUTE_ACTION)),
        one("direct_response", 7, Kind::Message(&DIRECT_RESPONSE)),
        many("response_headers_to_add", 10, Kind::Message(&HEADER_OPTION)),
        many("request_headers_to_remove", 12, Kind::Text),
        map("typed_per_filter_config", 13, Kind::Any),
    ]
);

message!(
    ROUTE_MATCH,
    "RouteMatch",
    [
        one("prefix", 1, Kind::Text),
        one("path", 2, Kind::Text),
        many("headers", 6, Kind::Message(&HEADER_MATCHER)),
    ]
);

message!(
    HEADER_MATCHER,
    "HeaderMatcher",
    [one("name", 1, Kind::Text), one("string_match", 13, Kind::Message(&STRING_MATCHER)),]
);

message!(
    ROUTE_ACTION,
    "RouteAction",
    [
        one("cluster", 1, Kind::Text),
        one("cluster_header", 2, Kind::Text),
        one("timeout", 8, Kind::Duration),
        one("idle_timeout", 24, Kind::Duration),
    ]
);

message!(
    DIRECT_RESPONSE,
    "DirectResponseAction",
    [one("status", 1, Kind::Number), one("body", 2, Kind::Message(&DATA_SOURCE)),]
);

message!(
    HEADER_OPTION,
    "HeaderValueOption",
    [
        one("header", 1, Kind::Message(&HEADER_VALUE)),
        one("append_action", 3, Kind::Enum(&[("OVERWRITE_IF_EXISTS_OR_ADD", 2)])),
    ]
);

message!(HEADER_VALUE, "HeaderValue", [one("key", 1, Kind::Text), one("value", 2, Kind::Text)]);

message!(FILTER_CONFIG, "FilterConfig", [one("config", 1, Kind::Any), one("disabled", 3, Kind::Bool)]);
