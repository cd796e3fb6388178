//! Which MCP messages pass, by table, and that nothing else does, by property.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn entry() -> McpEntry {
    serde_json::from_value(json!({
        "path": "/mcp",
        "methods": [
            {"name": "initialize", "scopes": []},
            {"name": "notifications/initialized", "scopes": []},
            {"name": "tools/list", "scopes": ["read"]},
            {"name": "prompts/get", "scopes": []},
            {"name": "resources/read", "scopes": []},
        ],
        "tools": [
            {"name": "list_orders", "scopes": ["read"]},
            {"name": "move_order", "scopes": ["read", "write"]},
            {"name": "über", "scopes": []},
        ],
        "stream": ["read"],
        "responses": [],
    }))
    .unwrap()
}

fn post() -> McpHead<'static> {
    McpHead { method: b"POST", content_type: vec![b"application/json"], ..McpHead::default() }
}

fn judged(head: &McpHead<'_>, body: &str, scopes: &str) -> Result<(), McpRefusal> {
    entry().judge(head, body.as_bytes(), &ScopeSet::parse(scopes).unwrap(), &mut Vec::new())
}

fn reason(body: &str, scopes: &str) -> Option<&'static str> {
    judged(&post(), body, scopes).err().map(|refusal| refusal.reason.label())
}

fn call(tool: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
        .to_string()
}

#[test]
fn declared_messages_pass_with_their_scopes_and_no_others() {
    let list = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let failure = r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#;
    for (body, scopes, expected) in [
        (r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"x"}}"#, "", None),
        (initialized, "", None),
        (list, "read", None),
        (list, "write", Some("scope_missing")),
        (list, "rea", Some("scope_missing")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools\/list"}"#, "read", None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/List"}"#, "read", Some("mcp_method")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list "}"#, "read", Some("mcp_method")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "read write", Some("mcp_method")),
        (&call("list_orders"), "read", None),
        (&call("über"), "", None),
        (&call("move_order"), "read write", None),
        (&call("move_order"), "read", Some("scope_missing")),
        (&call("drop_orders"), "read write", Some("mcp_tool")),
        (&call("list_orders "), "read write", Some("mcp_tool")),
        (&call("LIST_ORDERS"), "read write", Some("mcp_tool")),
        // A call that wants no answer is a call.
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"drop"}}"#, "read", Some("mcp_tool")),
        (answer, "", None),
        (failure, "", None),
        (&format!("[{list},{initialized},{answer}]"), "read", None),
        (&format!("[{list},{}]", call("move_order")), "read", Some("scope_missing")),
        (&format!("[{list},{}]", call("drop_orders")), "read", Some("mcp_tool")),
    ] {
        assert_eq!(reason(body, scopes), expected, "{body} with {scopes:?}");
    }
    let mut silent = entry();
    silent.responses = None;
    let refused = silent.judge(&post(), answer.as_bytes(), &ScopeSet::default(), &mut Vec::new());
    assert_eq!(refused.unwrap_err().reason, DenyReason::McpMethod);
    assert_eq!(judged(&post(), &call("move_order"), "read").unwrap_err().scopes, "read write");
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let many = format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"initialize"}"#; 33].join(","));
    let deep = format!(
        r#"{{"jsonrpc":"2.0","method":"initialize","params":{{"a":{}1{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for body in [
        "",
        " ",
        "null",
        "7",
        "[]",
        "[[]]",
        "{}",
        "{",
        "\u{feff}{}",
        r#"{"jsonrpc":"2.0","method":"initialize"} {"jsonrpc":"2.0","method":"ping"}"#,
        r#"{"method":"initialize"}"#,
        r#"{"jsonrpc":"1.0","method":"initialize"}"#,
        r#"{"jsonrpc":2.0,"method":"initialize"}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","\u006dethod":"ping"}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","Method":"ping"}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","extra":1}"#,
        r#"{"jsonrpc":"2.0","method":7}"#,
        r#"{"jsonrpc":"2.0","method":""}"#,
        r#"{"jsonrpc":"2.0","method":null,"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","id":null}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","id":1.5}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","id":{}}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","params":[1]}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","params":null}"#,
        r#"{"jsonrpc":"2.0","method":"initialize","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["list_orders"]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["list_orders"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_orders","name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_orders","Name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_orders","name\u0000":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"NAME":"list_orders"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_orders","arguments":{"a":1,"a":2}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_orders","arguments":NaN}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_\ud800orders"}}"#,
        &many,
        &deep,
    ] {
        assert_eq!(reason(body, "read write"), Some("mcp_malformed"), "{body}");
    }
    let utf16: Vec<u8> = call("list_orders").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let scopes = ScopeSet::parse("read").unwrap();
    for body in [&utf16[..], b"\x1f\x8b\x08", b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"] {
        let refused = entry().judge(&post(), body, &scopes, &mut Vec::new());
        assert_eq!(refused.unwrap_err().reason, DenyReason::McpMalformed);
    }
}

#[test]
fn the_body_is_what_it_is_declared_to_be() {
    let body = call("list_orders");
    type Values<'a> = Vec<&'a [u8]>;
    let cases: [(Values<'_>, Values<'_>, Option<&str>); 16] = [
        (vec![b"application/json"], vec![], None),
        (vec![b"Application/JSON; charset=UTF-8"], vec![b"identity"], None),
        (vec![b"application/json;charset=\"utf-8\""], vec![], None),
        (vec![], vec![], Some("mcp_content")),
        (vec![b""], vec![], Some("mcp_content")),
        (vec![b"text/plain"], vec![], Some("mcp_content")),
        (vec![b"application/jsonp"], vec![], Some("mcp_content")),
        (vec![b"application/json, text/plain"], vec![], Some("mcp_content")),
        (vec![b"application/json", b"application/json"], vec![], Some("mcp_content")),
        (vec![b"application/json; charset=utf-16"], vec![], Some("mcp_content")),
        (vec![b"application/json; charset=utf-7"], vec![], Some("mcp_content")),
        (vec![b"application/json; boundary=x"], vec![], Some("mcp_content")),
        (vec![b"application/json"], vec![b"gzip"], Some("mcp_content")),
        (vec![b"application/json"], vec![b"identity, gzip"], Some("mcp_content")),
        (vec![b"application/json"], vec![b"identity", b"br"], Some("mcp_content")),
        (vec![b"application/json"], vec![b""], Some("mcp_content")),
    ];
    for (content_type, content_encoding, expected) in cases {
        let shown = format!("{content_type:?} {content_encoding:?}");
        let head = McpHead { content_type, content_encoding, ..post() };
        let got = judged(&head, &body, "read").err().map(|refusal| refusal.reason.label());
        assert_eq!(got, expected, "{shown}");
    }
}

#[test]
fn the_transport_has_three_methods() {
    let bare = |method: &'static [u8]| McpHead { method, ..McpHead::default() };
    for (method, body, scopes, expected) in [
        (&b"GET"[..], "", "read", None),
        (b"GET", "", "", Some("scope_missing")),
        (b"GET", "{}", "read", Some("mcp_malformed")),
        (b"DELETE", "", "read", Some("operation_not_permitted")),
        (b"PUT", "", "read", Some("operation_not_permitted")),
        (b"HEAD", "", "read", Some("operation_not_permitted")),
        (b"OPTIONS", "", "read", Some("operation_not_permitted")),
        (b"post", &call("list_orders"), "read", Some("operation_not_permitted")),
    ] {
        let got = judged(&bare(method), body, scopes).err().map(|refusal| refusal.reason.label());
        assert_eq!(got, expected, "{}", String::from_utf8_lossy(method));
    }
    let mut ending = entry();
    ending.end = Some(vec![]);
    assert!(ending.judge(&bare(b"DELETE"), b"", &ScopeSet::default(), &mut Vec::new()).is_ok());
}

#[test]
fn headers_that_mirror_the_body_say_the_same() {
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let call = call("list_orders");
    let other = super::tests::call("über");
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let read = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a"}}"#;
    type Values<'a> = Vec<&'a [u8]>;
    let cases: [(&str, Values<'_>, Values<'_>, bool); 16] = [
        (&call, vec![b"tools/call"], vec![b"list_orders"], true),
        (&call, vec![], vec![b"=?base64?bGlzdF9vcmRlcnM=?="], true),
        (&other, vec![b"tools/call"], vec!["=?base64?w7xiZXI=?=".as_bytes()], true),
        (read, vec![b"resources/read"], vec![b"file:///a"], true),
        (list, vec![b"tools/list"], vec![], true),
        (list, vec![b"initialize"], vec![], false),
        (&call, vec![b"tools/list"], vec![], false),
        (&call, vec![b"tools/call", b"tools/call"], vec![], false),
        (&call, vec![b"tools/call"], vec![b"drop_orders"], false),
        (&call, vec![], vec![b"list_orders", b"list_orders"], false),
        (&call, vec![], vec![b"=?base64?ZHJvcA==?="], false),
        (&call, vec![], vec![b"=?base64?%%?="], false),
        (read, vec![], vec![b"file:///b"], false),
        (list, vec![], vec![b"list_orders"], false),
        (answer, vec![b"tools/list"], vec![], false),
        (&format!("[{call}]"), vec![b"tools/call"], vec![], false),
    ];
    for (body, mcp_method, mcp_name, expected) in cases {
        let shown = format!("{body} {mcp_method:?} {mcp_name:?}");
        let head = McpHead { mcp_method, mcp_name, ..post() };
        assert_eq!(judged(&head, body, "read").is_ok(), expected, "{shown}");
    }
}

#[test]
fn evidence_names_methods_and_tools() {
    let long = "é".repeat(100);
    let body = format!(
        "[{},{},{}]",
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        call(&long)
    );
    let mut names = Vec::new();
    let refused = entry().judge(&post(), body.as_bytes(), &ScopeSet::default(), &mut names);
    assert_eq!(refused.unwrap_err().reason, DenyReason::McpTool);
    let name = |method: &str, tool: Option<&str>| McpName {
        method: method.to_owned(),
        tool: tool.map(str::to_owned),
    };
    let shown = "é".repeat(64);
    let expected =
        [name("notifications/initialized", None), name("(response)", None), name("tools/call", Some(&shown))];
    assert_eq!(names, expected);
}

#[test]
fn the_wire_form_is_strict() {
    let text =
        json!({"path": "/mcp", "methods": [{"name": "ping", "scopes": ["a"]}], "max_body_bytes": 65536});
    let entry: McpEntry = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(serde_json::to_value(&entry).unwrap(), text);
    assert_eq!((entry.stream, entry.tools.len()), (None, 0));
    for wrong in [
        json!({}),
        json!({"path": "/mcp", "method": []}),
        json!({"path": "/mcp", "tools": [{"name": "x"}]}),
        json!({"path": "/mcp", "tools": [{"name": "x", "scopes": [""]}]}),
        json!({"path": "/mcp", "tools": [{"name": "x", "scopes": [], "scope": "a"}]}),
        json!({"path": "/mcp", "stream": "a"}),
    ] {
        assert!(serde_json::from_value::<McpEntry>(wrong.clone()).is_err(), "{wrong}");
    }
}

/// What a reader that knows nothing of all this makes of a body: the tools that it would run.
fn lenient_tools(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(lenient_tools).collect(),
        Value::Object(members) => {
            let find = |members: &Map<String, Value>, name: &str| {
                members
                    .iter()
                    .find(|(member, _)| member.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            let method =
                find(members, "method").and_then(|method| method.as_str().map(str::to_ascii_lowercase));
            if method.as_deref() != Some(TOOL_CALL) {
                return Vec::new();
            }
            let params = find(members, "params");
            let name = params.as_ref().and_then(Value::as_object).and_then(|params| find(params, "name"));
            vec![name.map_or_else(String::new, |name| name.as_str().unwrap_or_default().to_owned())]
        }
        _ => Vec::new(),
    }
}

fn member() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "jsonrpc", "id", "method", "Method", "params", "name", "Name", "result", "x",
    ])
    .prop_map(str::to_owned)
}

fn leaf() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![
        json!("2.0"),
        json!("tools/call"),
        json!("tools/list"),
        json!("list_orders"),
        json!("drop_orders"),
        json!(1),
        json!(null),
        json!({"name": "list_orders"}),
        json!({"name": "drop_orders"}),
        json!({"name": "list_orders", "NAME": "drop_orders"}),
    ])
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = entry().judge(&post(), &body, &ScopeSet::parse("read").unwrap(), &mut Vec::new());
    }

    /// Whatever passes holds no call of another tool than those that were declared, however leniently it is read.
    #[test]
    fn only_declared_tools_are_ever_called(
        messages in proptest::collection::vec(proptest::collection::btree_map(member(), leaf(), 0..7), 1..4),
        whole in any::<bool>(),
    ) {
        let mut items: Vec<Value> = messages
            .into_iter()
            .map(|mut members| {
                members.entry("jsonrpc".to_owned()).or_insert(json!("2.0"));
                json!(members)
            })
            .collect();
        let body = if whole { items.swap_remove(0) } else { Value::Array(items) };
        if judged(&post(), &body.to_string(), "read").is_ok() {
            for tool in lenient_tools(&body) {
                prop_assert_eq!(&tool, "list_orders", "{}", &body);
            }
        }
    }

    /// More scopes never take anything away, and what lacks one names all that are needed.
    #[test]
    fn scopes_only_widen(tool in "list_orders|move_order|other", few in "(read|write|x)?", more in "(read|write)?") {
        let body = call(&tool);
        let with_few = judged(&post(), &body, &few);
        let with_more = judged(&post(), &body, &format!("{few} {more}"));
        prop_assert!(with_few.is_err() || with_more.is_ok());
        if let Err(McpRefusal { reason: DenyReason::ScopeMissing, scopes }) = with_few {
            prop_assert!(judged(&post(), &body, &scopes).is_ok());
        }
    }
}
