//! Contract admin-audit §5.10: the authoring gate, its codes, and what it shows of a good document.

use caracal_sts::policy::PolicyDocument;
use caracal_sts::policy::document::{MAX_DOCUMENT_UNITS, Position};

use crate::support::ZONE;

const HEAD: &str = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n";

fn code(source: &str) -> String {
    match PolicyDocument::parse(source) {
        Ok(_) => "valid".to_owned(),
        Err(error) => error.code(),
    }
}

#[test]
fn section_5_10_codes() {
    let with_head = |rest: &str| format!("{HEAD}{rest}\n");
    let rows: Vec<(String, &str)> = vec![
        (String::new(), "empty_policy"),
        (" \n".to_owned(), "empty_policy"),
        (with_head(&format!("# {}\ngrants := {{}}", "x".repeat(MAX_DOCUMENT_UNITS))), "content_too_large"),
        (with_head("grants := {\"a"), "unterminated_string"),
        (with_head("grants := `a"), "unterminated_string"),
        (with_head("grants := {\"a\": [1}"), "unbalanced_delimiters"),
        (with_head("grants := {"), "unbalanced_delimiters"),
        (with_head("grants := {}}"), "unbalanced_delimiters"),
        ("# caracal:data-document\ngrants := {}".to_owned(), "missing_package_declaration"),
        ("# caracal:data-document\npackage 7\ngrants := {}".to_owned(), "invalid_package_name"),
        ("# caracal:data-document\npackage".to_owned(), "invalid_package_name"),
        (with_head("restrict := {1 | http.send({})}"), "forbidden_builtin:http.send"),
        (with_head("restrict := net.lookup_ip_addr(\"x\")"), "forbidden_builtin:net.lookup_ip_addr"),
        (with_head("restrict := net.cidr_contains(\"x\", \"y\")"), "forbidden_builtin:net.cidr_contains"),
        (with_head("restrict := net.cidr_intersects(\"x\", \"y\")"), "forbidden_builtin:net.cidr_intersects"),
        (with_head("restrict := net.cidr_expand(\"x\")"), "forbidden_builtin:net.cidr_expand"),
        (with_head("restrict := net.cidr_merge([])"), "forbidden_builtin:net.cidr_merge"),
        (with_head("restrict := opa.runtime()"), "forbidden_builtin:opa.runtime"),
        (with_head("restrict := rand.intn (\"x\", 2)"), "forbidden_builtin:rand.intn"),
        (with_head("restrict := time.now_ns()"), "forbidden_builtin:time.now_ns"),
        (
            "# caracal:data-document\npackage caracal.other\ngrants := {}".to_owned(),
            "must_use_package_caracal_authz",
        ),
        ("package caracal.authz\ngrants := {}".to_owned(), "must_be_data_document"),
        (with_head("result := {}"), "data_document_must_not_define_result"),
        (with_head("default result := {}"), "data_document_must_not_define_result"),
        (with_head("result if { true }"), "data_document_must_not_define_result"),
        (with_head(""), "data_document_must_define_data"),
        (with_head("allow if true"), "data_document_rule_not_allowed:allow"),
        (with_head("grants := {}\nhelper(x) := x"), "data_document_rule_not_allowed:helper"),
        (with_head("grants := {}\nextra contains 1"), "data_document_rule_not_allowed:extra"),
        (with_head("grants := {}\nextra[\"a\"] := 1"), "data_document_rule_not_allowed:extra"),
        (with_head("grants := {\"a\": }"), "invalid_syntax"),
        (with_head("grants := {1, 2"), "unbalanced_delimiters"),
        (with_head("grants := nowhere"), "does_not_compile"),
        (
            with_head("grants := data.caracal.authz.result"),
            "data_document_reference_not_allowed:data.caracal.authz.result",
        ),
        (with_head("grants := {} # result := 1"), "valid"),
        (with_head("grants := {\"text\": \"http.send( result := 1 {[(\"}"), "valid"),
        (with_head("grants := {\n\"a\": {}\n}"), "valid"),
        (with_head("default restrict := []"), "valid"),
    ];
    for (source, expected) in rows {
        assert_eq!(code(&source), expected, "{}", source.chars().take(200).collect::<String>());
    }
}

#[test]
fn section_5_10_errors_name_the_place() {
    for (rest, line, column) in [
        ("grants := {}\nhelper := 1", 5, 1),
        ("grants := [\n  {\"a\": 1]", 5, 10),
        ("restrict := time.now_ns()", 4, 13),
        ("grants := {\"a\": \"b}", 4, 17),
        ("grants := {\"a\": }", 4, 17),
    ] {
        let error = PolicyDocument::parse(&format!("{HEAD}{rest}\n")).unwrap_err();
        assert_eq!(error.position, Some(Position { line, column }), "{rest}: {error}");
    }
    let error = PolicyDocument::parse(&format!("{HEAD}grants := {{}}\nhelper := 1\n")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a data document may define only app_ids, approval_tiers, confinement, grants, restrict, risk, not `helper` \
         (line 5, column 1)"
    );
}

#[test]
fn section_5_10_preview_and_hash() {
    let document = PolicyDocument::parse(ZONE).unwrap();
    assert_eq!(document.preview().package, "caracal.authz");
    assert_eq!(document.preview().rules, ["app_ids", "grants"]);
    assert!(!document.preview().default_result);
    assert!(document.preview().decisions.is_empty() && document.preview().inputs_referenced.is_empty());
    assert_eq!(document.source(), ZONE);
    assert_eq!(document.content_sha256().len(), 64);
    assert_eq!(document.schema_version(), "2026-05-20");

    let computed = PolicyDocument::parse(&format!(
        "{HEAD}restrict contains \"x\" if {{\n  input.principal.id == \"app-9\"\n  input.action.id\n  data.caracal.authz.grants\n}}\n"
    ))
    .unwrap();
    assert_eq!(computed.preview().rules, ["restrict"]);
    assert_eq!(computed.preview().inputs_referenced, ["input.action.id", "input.principal.id"]);
    assert_eq!(computed.preview().data_referenced, ["data.caracal.authz.grants"]);
}

/// The documents of the published authoring guides, word for word.
#[test]
fn published_examples_load() {
    let bank = r#"# caracal:data-document
package caracal.authz

import rego.v1

grants := {
  "resource://mercury-bank": {
    "application": "payments",
    "roles": {"payment-execution": ["payments:read", "payments:write"]},
  },
}
"#;
    let pipernet = r#"# caracal:data-document
package caracal.authz
import rego.v1
app_ids := {
"pipernet": "app-pipernet",
}
grants := {
"resource://pipernet": {
"application": "pipernet",
"roles": {"reader": ["pipernet:read", "pipernet:write"]},
},
}
"#;
    let open = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\nrestrict := {}\n";
    let compact = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\napp_ids := {\"orders\":\"app-1\"}\ngrants := {\"resource://orders\":{\"application\":\"orders\",\"roles\":{\"reader\":[\"orders:read\"]}}}\n";
    let confined = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\nconfinement := [{\"label_prefix\": \"customer:\", \"scopes\": [\"orders:read\"]}]\n";
    for (source, rules) in [
        (bank, &["grants"][..]),
        (pipernet, &["app_ids", "grants"]),
        (open, &["restrict"]),
        (compact, &["app_ids", "grants"]),
        (confined, &["confinement"]),
    ] {
        let document = PolicyDocument::parse(source).unwrap_or_else(|error| panic!("{error}\n{source}"));
        assert_eq!(document.preview().rules, rules, "{source}");
    }
}

/// A parser that recurses into every one of these would run out of stack or time, and take the process with it.
#[test]
fn texts_that_would_exhaust_the_parser_are_refused_by_their_shape() {
    let many = 14_000;
    for (what, rule) in [
        ("brackets", format!("restrict := {}1{}", "[".repeat(many), "]".repeat(many))),
        ("objects", format!("restrict := {}1{}", "{1:".repeat(many), "}".repeat(many))),
        ("calls", format!("restrict := {}1{}", "count(\n".repeat(many), ")".repeat(many))),
        (
            "bracket nesting that doubles the time",
            format!("restrict := {}1{}", "[".repeat(28), "]".repeat(28)),
        ),
        ("operators", format!("restrict := {{1}}{}", " | {1}".repeat(many))),
        ("operators over lines", format!("restrict := [{{1}}{}]", "\n| {1}".repeat(many))),
        ("operators at line ends", format!("restrict := [{{1}}{}]", " |\n{1}".repeat(many))),
        ("signs", format!("restrict := {}1", "-".repeat(many))),
        ("comparisons", format!("restrict := 1 if {{ 1{} }}", " == 1".repeat(many))),
        ("memberships", format!("restrict := 1 if {{ 1{} }}", " in {1}".repeat(many))),
        ("dots", format!("restrict := input{}", ".a".repeat(many))),
        ("dots in a head", format!("restrict{} := 1", ".a".repeat(many))),
        ("indexes", format!("restrict := input{}", "[0]".repeat(many))),
    ] {
        assert_eq!(code(&format!("{HEAD}{rule}\n")), "expression_too_deep", "{what}");
    }
    let wide = format!("restrict := [{}]", "{\"a\": {\"b\": [1, 2]}},\n".repeat(500));
    assert_eq!(code(&format!("{HEAD}{wide}\n")), "valid");
}
