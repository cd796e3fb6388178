use super::*;
use crate::options::{ControlCredential, ControlPlace, ControlPlane, GatewayOptions, Shape};
use crate::xds::as_struct;

fn parse(id: &str, metadata: Option<Value>) -> Result<GatewayNode, NodeError> {
    let metadata = metadata.map(|metadata| as_struct(metadata.as_object().unwrap()));
    GatewayNode::parse(&Node { id: id.to_owned(), metadata, ..Node::default() })
}

#[test]
fn what_a_bootstrap_says_is_what_the_server_reads() {
    let control = ControlPlane {
        place: ControlPlace::Socket("/run/xds.sock".into()),
        credential: ControlCredential::new(""),
    };
    let shape = Shape::Gateway(GatewayOptions { control: Some(control), ..GatewayOptions::default() });
    let id = GatewayId::new("edge").unwrap();
    let mut options = BootstrapOptions::new(id.clone(), shape, "/opt/filter.wasm".into());
    for (host, port) in [("0.0.0.0", 8443), ("127.0.0.1", 0), ("::1", 65_535)] {
        options.listener = Endpoint::new(host, port);
        let node = render(&options);
        let read = parse(node["id"].as_str().unwrap(), Some(node["metadata"].clone())).unwrap();
        let listener = Some(options.listener.clone());
        assert_eq!(read, GatewayNode { id: id.clone(), listener, module: Some("/opt/filter.wasm".into()) });
    }
    options.shape = Shape::Gateway(GatewayOptions::default());
    assert_eq!(render(&options), json!({"id": "edge", "cluster": "caracal"}));
}

#[test]
fn a_node_that_says_nothing_more_takes_what_the_server_says() {
    let plain = Ok(GatewayNode::new(GatewayId::new("edge").unwrap()));
    for metadata in
        [None, Some(json!({})), Some(json!({"other": {"listener": 1}})), Some(json!({"caracal": {}}))]
    {
        assert_eq!(parse("edge", metadata.clone()), plain, "{metadata:?}");
    }
}

#[test]
fn what_is_no_gateway_is_refused() {
    for id in ["", "no id", "a/b"] {
        assert_eq!(parse(id, None), Err(NodeError::Id), "{id}");
    }
    let listener = |listener: Value| json!({"caracal": {"listener": listener}});
    let good = json!({"address": "10.0.0.1", "port": 1});
    assert!(parse("edge", Some(listener(good))).is_ok());
    for metadata in [
        json!({"caracal": "listener"}),
        json!({"caracal": {"listner": {"address": "10.0.0.1", "port": 1}}}),
        listener(json!("10.0.0.1:1")),
        listener(json!({"address": "10.0.0.1"})),
        listener(json!({"port": 1})),
        listener(json!({"address": "host.example", "port": 1})),
        listener(json!({"address": "10.0.0.1", "port": -1})),
        listener(json!({"address": "10.0.0.1", "port": 65_536})),
        listener(json!({"address": "10.0.0.1", "port": 1.5})),
        listener(json!({"address": "10.0.0.1", "port": "1"})),
        listener(json!({"address": "10.0.0.1", "port": 1, "more": true})),
        json!({"caracal": {"module": "filter.wasm"}}),
        json!({"caracal": {"module": ""}}),
        json!({"caracal": {"module": 1}}),
        json!({"caracal": {"module": "/a\0b"}}),
        json!({"caracal": {"module": format!("/{}", "a".repeat(5_000))}}),
    ] {
        assert!(matches!(parse("edge", Some(metadata.clone())), Err(NodeError::Metadata(_))), "{metadata}");
    }
}
