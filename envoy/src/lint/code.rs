//! What the lint refuses: one code for each mistake, with the reason and the way out.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $why:literal $instead:literal)+) => {
        /// A mistake. Its name is stable; reports, `--allow` and the reference use it.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// All of them, by name.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Why it is a mistake.
            #[must_use]
            pub fn why(self) -> &'static str {
                match self { $(Self::$variant => $why,)+ }
            }

            /// What to write instead.
            #[must_use]
            pub fn instead(self) -> &'static str {
                match self { $(Self::$variant => $instead,)+ }
            }
        }
    };
}

codes! {
    /// Restricted upstream addresses are not refused.
    AddressGuard "address_guard"
        "what a name resolves to is not checked, so a resource can lead to link-local or metadata addresses"
        "save_upstream_address: true, and after it an RBAC filter that denies every restricted network"
    /// Envoy's administration can be reached from outside.
    AdminExposed "admin_exposed"
        "whoever reaches Envoy's administration rules over this Envoy"
        "a pipe, or a loopback address"
    /// `Authorization` does not reach the filter.
    BearerRemoved "bearer_removed"
        "jwt_authn takes the mandate out of the request, and the filter refuses what has none"
        "forward: true"
    /// Paused bodies take too much memory.
    BufferLimit "buffer_limit"
        "a paused request may hold more than 1 MiB of memory"
        "per_connection_buffer_limit_bytes: 1048576"
    /// `Content-Length` beside chunked encoding is taken.
    ChunkedLength "chunked_length"
        "a request with both Content-Length and Transfer-Encoding can be read in two ways"
        "leave allow_chunked_length out"
    /// A cluster that the filter calls is not there.
    ClusterMissing "cluster_missing"
        "the filter calls a cluster that is not configured, so that every request is refused"
        "a cluster of that name; under Istio outbound|PORT||HOST"
    /// Remote code without a digest.
    CodeUnpinned "code_unpinned"
        "whoever controls the source of the module decides who gets through"
        "a local file, or its sha256"
    /// Connections are not limited.
    ConnectionLimit "connection_limit"
        "callers may open connections until memory or file descriptors run out"
        "the overload manager's downstream_connections monitor, or the connection_limit filter"
    /// Refusals are not enforced.
    DryRun "dry_run"
        "what would be refused passes"
        "dry_run: false"
    /// Requests pass without evidence.
    EvidenceOptional "evidence_optional"
        "requests pass that leave no evidence"
        "audit.on_backlog: deny"
    /// Envoy tells about itself.
    EnvoyHeaders "envoy_headers"
        "x-envoy- headers leak to upstreams and callers"
        "suppress_envoy_headers: true on the router"
    /// A broken module lets everything through.
    FailOpen "fail_open"
        "while the module is down, every request passes without a decision"
        "FAIL_RELOAD (Envoy Gateway: failOpen: false)"
    /// What happens to a broken module is not said.
    FailurePolicy "failure_policy"
        "a worker whose module trapped refuses everything until Envoy restarts, or the default decides"
        "failure_policy: FAIL_RELOAD"
    /// Nobody follows the feed.
    FeedMissing "feed_missing"
        "nobody follows the feed for this filter, so that every request is refused"
        "a singleton in bootstrap_extensions with the same vm_id, or feed: worker"
    /// The filter is switched off.
    FilterDisabled "filter_disabled"
        "requests pass without a decision"
        "leave the filter on; only exact operator paths (/health, /ready, /metrics) may switch it off"
    /// There is no filter.
    FilterMissing "filter_missing"
        "no filter of Caracal is configured here"
        "the filter in every HTTP connection manager that leads to a resource"
    /// The filter is at the wrong place.
    FilterOrder "filter_order"
        "another filter can change the request after the decision, or use it before"
        "the filter, then dynamic_forward_proxy, rbac and router only"
    /// Headers may be large or many.
    HeaderLimits "header_limits"
        "callers may send more header bytes or fields than the contract allows"
        "max_request_headers_kb: 16 and max_headers_count: 100"
    /// The pause of the filter lets filters go on.
    HeadersStopIteration "headers_stop_iteration"
        "a paused request must stop altogether until the decision is there"
        "leave allow_on_headers_stop_iteration out, but with mcp: true"
    /// Bad messages do not end the connection.
    InvalidMessages "invalid_messages"
        "a connection lives on after a message that is not HTTP, which helps request smuggling"
        "leave stream_error_on_invalid_http_message out"
    /// The filter takes the word of a `jwt_authn` that is not there.
    JwtAuthnMissing "jwt_authn_missing"
        "the filter takes the word of jwt_authn for signatures, and no provider before it leaves the payload where the filter looks"
        "jwt_authn before the filter, with a provider whose payload_in_metadata is the filter's jwt_authn_payload"
    /// Somebody else can write what the filter believes.
    JwtAuthnTrust "jwt_authn_trust"
        "somebody besides the STS may say what the filter believes was verified"
        "one provider with the STS as issuer for this payload_in_metadata, and no other filter that writes jwt_authn's metadata"
    /// The shared key stands in the configuration.
    KeyExposed "key_exposed"
        "the key shared with the STS stands in the file and in config_dump"
        "take it from the environment of Envoy's process (host_env_keys; Istio: valueFrom: HOST)"
    /// The shared key does not reach the module.
    KeyMissing "key_missing"
        "the module gets no key, and refuses to start"
        "hand CARACAL_GATEWAY_STS_HMAC_KEY on from the environment of Envoy's process"
    /// Envoy's own answers are not shaped.
    LocalReply "local_reply"
        "while the module is down callers get an empty 503, not the error body that clients read"
        "a local_reply_config with a mapper for wasm_fail_stream"
    /// Bodies are to be read, and Envoy shows the module none.
    McpBodies "mcp_bodies"
        "Envoy shows the module no body before the headers have passed, so that MCP requests wait until they time out"
        "allow_on_headers_stop_iteration: true beside mcp: true; under Istio or Envoy Gateway an EnvoyFilter or EnvoyPatchPolicy with the whole plugin"
    /// Envoy changes the path.
    PathRewriting "path_rewriting"
        "the path that is judged is not the path that was sent"
        "normalize_path: false, merge_slashes: false, KEEP_UNCHANGED or REJECT_REQUEST"
    /// The filter's own parser refuses its configuration.
    PluginConfiguration "plugin_configuration"
        "the filter refuses this configuration"
        "see the fields in the filter's reference"
    /// Redirects are followed.
    Redirects "redirects"
        "an upstream's redirect sends the request, with its credential, to where nobody decided"
        "leave internal_redirect_policy out"
    /// The caller says where it comes from.
    RemoteAddress "remote_address"
        "x-forwarded-for and internal headers of the caller are believed"
        "use_remote_address: true"
    /// Request ids are Envoy's.
    RequestId "request_id"
        "evidence and answers do not carry the caller's request id"
        "preserve_external_request_id: true and always_set_request_id_in_response: true"
    /// Requests may take for ever.
    RequestTimeouts "request_timeouts"
        "slow callers hold connections for as long as they like"
        "request_headers_timeout: 5s, request_timeout: 45s, and a stream_idle_timeout other than 0s"
    /// A way to an upstream that the filter did not choose.
    RouteOpen "route_open"
        "a request that came past the filter reaches an upstream"
        "a route of a gateway matches x-caracal-upstream exactly and leads to the cluster of that name, or by the prefix upstream| and leads to the cluster that the header names"
    /// A time limit that ends streams.
    RouteTimeout "route_timeout"
        "long answers are cut off (without a value, after 15 seconds)"
        "timeout: 0s, with an idle_timeout"
    /// A route without resource.
    RouteUnbound "route_unbound"
        "the filter takes the resource from the route, and this one names none"
        "metadata.filter_metadata.caracal.resource"
    /// Routes that the file does not hold.
    RoutesElsewhere "routes_elsewhere"
        "routes come from elsewhere, and cannot be judged here"
        "route_config, or --allow routes_elsewhere after judging them where they are made"
    /// Another runtime.
    Runtime "runtime"
        "only V8 is tested, and other runtimes behave differently when a module traps"
        "runtime: envoy.wasm.runtime.v8"
    /// The selector reaches the upstream.
    SelectorKept "selector_kept"
        "the header that selects the cluster reaches the upstream"
        "request_headers_to_remove: [x-caracal-upstream]"
    /// `server` is Envoy's.
    ServerHeader "server_header"
        "Envoy names itself to callers"
        "server_header_transformation: PASS_THROUGH"
    /// Streams are not limited.
    StreamLimit "stream_limit"
        "one connection may hold more than 100 requests"
        "http2_protocol_options.max_concurrent_streams: 100"
    /// An old version of TLS.
    TlsVersion "tls_version"
        "TLS 1.0 and 1.1 are broken"
        "tls_minimum_protocol_version: TLSv1_2"
    /// Names with underscores are taken.
    Underscores "underscores"
        "x_caracal_resource becomes the same as x-caracal-resource behind some servers"
        "headers_with_underscores_action: REJECT_REQUEST"
    /// Upgrades are let through.
    Upgrades "upgrades"
        "an upgraded connection carries what nobody decides on"
        "leave upgrade_configs out, or name its protocols in the filter's upgrades"
    /// The upstream's certificate may be for another name.
    UpstreamNames "upstream_names"
        "any certificate of a trusted authority is taken, whatever name it is for"
        "auto_sni_san_validation or auto_san_validation: true, or match_typed_subject_alt_names"
    /// The upstream's certificate is not verified.
    UpstreamUnverified "upstream_unverified"
        "Envoy verifies no upstream certificate without a trusted authority, and credentials go to whoever answers"
        "a validation_context with trusted_ca or system_root_certs"
    /// Another way to the same upstream.
    WayAround "way_around"
        "requests reach a guarded upstream without the filter"
        "the filter on this way too, or no such way"
    /// `X-Forwarded-For` is written twice.
    XffAppend "xff_append"
        "the gateway's filter writes x-forwarded-for, and Envoy appends to it"
        "skip_xff_append: true"
}

impl Code {
    /// Whether an operator may say that this is meant. Nobody may mean that a broken module lets everything through.
    #[must_use]
    pub fn may_be_allowed(self) -> bool {
        self != Self::FailOpen
    }
}

impl std::str::FromStr for Code {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|code| code.name() == name)
            .copied()
            .ok_or_else(|| format!("{name} is no code of the lint"))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
