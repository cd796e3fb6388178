//! Operations of a resource: which scope a method on a path needs (contract gateway A12).
//!
//! The contract compares paths exactly. Templates and prefixes are declared as such, and take no path that a server could
//! read as another one.

use crate::scope::{Scope, ScopeSet};
use serde::{Deserialize, Serialize};

/// How the path of an operation is compared with the path of a request. Both are decoded once, without query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// To the byte.
    #[default]
    Exact,
    /// Segment by segment; `{name}` stands for one segment, whatever it is.
    Template,
    /// The path itself, and everything below it.
    Prefix,
}

impl PathMatch {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Template => "template",
            Self::Prefix => "prefix",
        }
    }

    /// The kind that this word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Exact, Self::Template, Self::Prefix].into_iter().find(|kind| kind.as_str() == word)
    }

    fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

/// One declared operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The HTTP method in upper case.
    pub method: String,
    /// The decoded path without query, beginning with `/`.
    pub path: String,
    /// The scope that the mandate must carry.
    pub scope: Scope,
    /// How the path is compared.
    #[serde(rename = "match", default, skip_serializing_if = "PathMatch::is_exact")]
    pub matching: PathMatch,
}

/// Why a path cannot be declared as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// A template has braces elsewhere than around the whole of a segment, or a bad or repeated name between them.
    #[error("a template has {{name}} as a whole segment: letters, digits and _, each name once")]
    Braces,
    /// No request can have such a segment.
    #[error("no request matches it: it has a segment that is empty, `.` or `..`, or holds % or \\")]
    Segment,
    /// A template without a name.
    #[error("a template without {{name}} is an exact path")]
    NoName,
}

impl Operation {
    /// Whether a path can be declared with this kind of comparison. An exact one may be anything.
    pub fn check_path(matching: PathMatch, path: &str) -> Result<(), PatternError> {
        let inner = path.strip_prefix('/').ok_or(PatternError::Segment)?;
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        match matching {
            PathMatch::Exact => Ok(()),
            PathMatch::Prefix => {
                if inner.contains(['{', '}']) {
                    return Err(PatternError::Braces);
                }
                let whole = inner.is_empty() || inner.split('/').all(|segment| is_plain(segment, false));
                if whole { Ok(()) } else { Err(PatternError::Segment) }
            }
            PathMatch::Template => check_template(inner),
        }
    }

    fn covers(&self, path: &str) -> bool {
        match self.matching {
            PathMatch::Exact => self.path == path,
            PathMatch::Template => {
                let mut segments = path.split('/');
                let all = self.path.split('/').all(|declared| {
                    segments.next().is_some_and(|segment| match name_of(declared) {
                        Some(_) => is_plain(segment, false),
                        None => declared == segment,
                    })
                });
                all && segments.next().is_none()
            }
            PathMatch::Prefix => path.strip_prefix(self.path.as_str()).is_some_and(|rest| {
                let at_a_boundary = rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/');
                at_a_boundary && rest.split('/').all(|segment| is_plain(segment, true))
            }),
        }
    }
}

fn check_template(inner: &str) -> Result<(), PatternError> {
    let mut names: Vec<&str> = Vec::new();
    for segment in inner.split('/') {
        match name_of(segment) {
            Some(name) if is_name(name) && !names.contains(&name) => names.push(name),
            None if !segment.contains(['{', '}']) => {
                if !is_plain(segment, false) {
                    return Err(PatternError::Segment);
                }
            }
            _ => return Err(PatternError::Braces),
        }
    }
    if names.is_empty() { Err(PatternError::NoName) } else { Ok(()) }
}

fn name_of(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a segment means the same to every server: nothing that is still encoded, no other separator, and no dot
/// segment, also not one that some servers see once they took a `;parameter` off.
fn is_plain(segment: &str, may_be_empty: bool) -> bool {
    let name = segment.split(';').next().unwrap_or_default();
    (may_be_empty || !segment.is_empty())
        && name != "."
        && name != ".."
        && !segment.chars().any(|character| matches!(character, '%' | '\\' | '/') || character.is_control())
}

/// Whether a resource's operations are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OperationEnforcement {
    /// Every request must match a declared operation and carry its scope.
    Enforced,
    /// One endpoint carries many operations (JSON-RPC, GraphQL): only the mandate as a whole is checked.
    TransportUniform,
}

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationRefusal<'a> {
    /// The mandate lacks the scope that the operation needs.
    ScopeMissing(&'a Scope),
    /// No declared operation has this method and path.
    Undeclared,
}

/// Is `method` on `path` within `granted`? An exact path decides before a template, and a template before a prefix; of
/// exact paths and templates the first that matches, of prefixes the longest.
pub fn permit<'a>(
    enforcement: OperationEnforcement,
    operations: &'a [Operation],
    method: &str,
    path: &str,
    granted: &ScopeSet,
) -> Result<(), OperationRefusal<'a>> {
    if enforcement == OperationEnforcement::TransportUniform {
        return Ok(());
    }
    let of = |kind: PathMatch| {
        operations.iter().filter(move |operation| {
            operation.matching == kind
                && operation.method.eq_ignore_ascii_case(method)
                && operation.covers(path)
        })
    };
    let matching = of(PathMatch::Exact)
        .next()
        .or_else(|| of(PathMatch::Template).next())
        .or_else(|| of(PathMatch::Prefix).max_by_key(|operation| operation.path.len()))
        .ok_or(OperationRefusal::Undeclared)?;
    if granted.contains(matching.scope.as_str()) {
        Ok(())
    } else {
        Err(OperationRefusal::ScopeMissing(&matching.scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(method: &str, path: &str, scope: &str, matching: PathMatch) -> Operation {
        Operation { method: method.into(), path: path.into(), scope: Scope::new(scope).unwrap(), matching }
    }

    fn operation(method: &str, path: &str, scope: &str) -> Operation {
        declared(method, path, scope, PathMatch::Exact)
    }

    fn covers(matching: PathMatch, pattern: &str, path: &str) -> bool {
        Operation::check_path(matching, pattern).unwrap();
        declared("GET", pattern, "s", matching).covers(path)
    }

    /// What a gateway sees of a path that is sent, as it compares it.
    fn seen(raw: &str) -> Option<String> {
        crate::path::DecodedPath::parse(raw.as_bytes()).ok()?.as_str().map(str::to_owned)
    }

    #[test]
    fn templates_match_one_whole_segment_per_name() {
        for (pattern, path, expected) in [
            ("/v1/orders/{id}", "/v1/orders/42", true),
            ("/v1/orders/{id}", "/v1/orders/a b;c=1", true),
            ("/v1/orders/{id}", "/v1/orders/é", true),
            ("/v1/orders/{id}", "/v1/orders/...", true),
            ("/v1/orders/{id}", "/v1/orders/", false),
            ("/v1/orders/{id}", "/v1/orders", false),
            ("/v1/orders/{id}", "/v1/orders/42/", false),
            ("/v1/orders/{id}", "/v1/orders/42/lines", false),
            ("/v1/orders/{id}", "/v1//orders/42", false),
            ("/v1/orders/{id}", "/V1/orders/42", false),
            ("/v1/orders/{id}", "/v1/orders/.", false),
            ("/v1/orders/{id}", "/v1/orders/..", false),
            ("/v1/orders/{id}", "/v1/orders/..;x=1", false),
            ("/v1/orders/{id}", "/v1/orders/a%2Fb", false),
            ("/v1/orders/{id}", "/v1/orders/a\\b", false),
            ("/v1/orders/{id}", "/v1/orders/a\0b", false),
            ("/v1/orders/{id}/lines/{line}", "/v1/orders/42/lines/7", true),
            ("/v1/orders/{id}/lines/{line}", "/v1/orders/42/rows/7", false),
            ("/{a}/", "/x/", true),
            ("/{a}/", "/x", false),
        ] {
            assert_eq!(covers(PathMatch::Template, pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn prefixes_end_at_a_segment() {
        for (pattern, path, expected) in [
            ("/files", "/files", true),
            ("/files", "/files/", true),
            ("/files", "/files/a/b//c", true),
            ("/files", "/filesystem", false),
            ("/files", "/files/..;/admin", false),
            ("/files", "/files/./a", false),
            ("/files", "/files/a%2e", false),
            ("/files/", "/files", false),
            ("/files/", "/files/a", true),
            ("/", "/", true),
            ("/", "/anything/at/all", true),
            ("/", "/a/../b", false),
        ] {
            assert_eq!(covers(PathMatch::Prefix, pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        use PatternError::{Braces, NoName, Segment};
        for (matching, path, expected) in [
            (PathMatch::Template, "/v1/orders", NoName),
            (PathMatch::Template, "/v1/{id}.json", Braces),
            (PathMatch::Template, "/v1/{}", Braces),
            (PathMatch::Template, "/v1/{a-b}", Braces),
            (PathMatch::Template, "/v1/{a}/{a}", Braces),
            (PathMatch::Template, "/v1/{a", Braces),
            (PathMatch::Template, "/v1//{a}", Segment),
            (PathMatch::Template, "/v1/../{a}", Segment),
            (PathMatch::Template, "/v1/%41/{a}", Segment),
            (PathMatch::Template, "v1/{a}", Segment),
            (PathMatch::Prefix, "/v1/{a}", Braces),
            (PathMatch::Prefix, "/v1//a", Segment),
            (PathMatch::Prefix, "/v1/.", Segment),
            (PathMatch::Prefix, "", Segment),
        ] {
            assert_eq!(Operation::check_path(matching, path), Err(expected), "{matching:?} {path}");
        }
        assert!(
            Operation::check_path(PathMatch::Exact, "/a{b}//..").is_ok(),
            "exact paths are only compared"
        );
    }

    #[test]
    fn the_most_particular_operation_decides() {
        let operations = [
            declared("GET", "/v1", "wide", PathMatch::Prefix),
            declared("GET", "/v1/orders", "orders", PathMatch::Prefix),
            declared("GET", "/v1/orders/{id}", "one", PathMatch::Template),
            declared("GET", "/v1/orders/export", "export", PathMatch::Exact),
        ];
        for (path, scope) in [
            ("/v1/orders/export", Some("export")),
            ("/v1/orders/42", Some("one")),
            ("/v1/orders/42/lines", Some("orders")),
            ("/v1/others", Some("wide")),
            ("/v2", None),
        ] {
            for held in ["wide", "orders", "one", "export"] {
                let granted = ScopeSet::parse(held).unwrap();
                let permitted = permit(OperationEnforcement::Enforced, &operations, "GET", path, &granted);
                assert_eq!(permitted.is_ok(), scope == Some(held), "{path} with {held}: {permitted:?}");
            }
        }
    }

    #[test]
    fn the_wire_form_names_only_what_is_not_exact() {
        let exact = serde_json::to_string(&operation("GET", "/a", "s")).unwrap();
        assert_eq!(exact, r#"{"method":"GET","path":"/a","scope":"s"}"#);
        assert_eq!(serde_json::from_str::<Operation>(&exact).unwrap().matching, PathMatch::Exact);
        let template = declared("GET", "/{a}", "s", PathMatch::Template);
        let text = serde_json::to_string(&template).unwrap();
        assert_eq!(text, r#"{"method":"GET","path":"/{a}","scope":"s","match":"template"}"#);
        assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), template);
        assert_eq!(PathMatch::parse("prefix"), Some(PathMatch::Prefix));
        assert_eq!(PathMatch::parse("regex"), None);
    }

    proptest::proptest! {
        /// Whatever is sent: if a template takes it, then some servers' other readings of it (decoded again, `;` taken
        /// off, dot segments and empty segments resolved) have as many segments, in the same places.
        #[test]
        fn a_template_never_matches_across_segments(raw in "(/|[a-z0-9.;%]|%2[eEfF]|%5[cC]|%25|%2525|\\.\\.|\\\\){0,24}") {
            let raw = format!("/a/{raw}");
            if let Some(path) = seen(&raw) && covers(PathMatch::Template, "/a/{id}", &path) {
                let segments = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
                let mut again = path.clone();
                for _ in 0..4 {
                    let decoded = crate::path::percent_decode(again.as_bytes()).unwrap().into_owned();
                    again = String::from_utf8_lossy(&decoded).replace('\\', "/");
                }
                proptest::prop_assert_eq!(segments(&again).len(), 3, "{}", again);
                for segment in segments(&again).iter().skip(1) {
                    let name = segment.split(';').next().unwrap();
                    proptest::prop_assert!(name != "." && name != ".." && !segment.is_empty(), "{}", again);
                }
            }
        }

        /// A prefix takes nothing that leads out of it, however often it is decoded.
        #[test]
        fn a_prefix_is_never_left(raw in "(/|[a-z.;%]|%2[eEfF]|%5[cC]|%252[eEfF]|\\.\\.){0,24}") {
            let raw = format!("/a/b{raw}");
            if let Some(path) = seen(&raw) && covers(PathMatch::Prefix, "/a/b", &path) {
                let mut depth: Vec<&str> = Vec::new();
                for segment in path.split('/').map(|segment| segment.split(';').next().unwrap()) {
                    match segment {
                        ".." => { depth.pop(); }
                        "." | "" => {}
                        other => depth.push(other),
                    }
                    proptest::prop_assert!(!path.contains('%'));
                }
                proptest::prop_assert_eq!(depth.get(..2), Some(&["a", "b"][..]), "{}", path);
            }
        }

        /// Every value without separators is taken, so a template refuses nothing by accident.
        #[test]
        fn plain_values_are_taken(id in "[A-Za-z0-9_~!$&'()*+,=:@-]{1,40}") {
            let taken = covers(PathMatch::Template, "/a/{id}", &format!("/a/{id}"));
            proptest::prop_assert!(taken);
            let prefixed = format!("/a/{id}/{id}");
            let taken = covers(PathMatch::Prefix, "/a", &prefixed);
            proptest::prop_assert!(taken);
        }
    }

    #[test]
    fn contract_gateway_a12_exact_match_first_decides() {
        let operations = [
            operation("GET", "/v1/orders", "orders:read"),
            operation("GET", "/v1/orders", "orders:admin"),
            operation("POST", "/v1/orders", "orders:write"),
        ];
        let granted = ScopeSet::parse("orders:read").unwrap();
        let decide = |method: &str, path: &str| {
            permit(OperationEnforcement::Enforced, &operations, method, path, &granted).is_ok()
        };
        let cases = [
            ("GET", "/v1/orders", true),
            ("get", "/v1/orders", true),
            ("GET", "/v1/orders/", false),
            ("GET", "/V1/orders", false),
            ("GET", "/v1", false),
            ("GET", "/v1/orders ", false),
            ("GET", "/v1/orders\n", false),
            ("GET", "/v1/orders\u{a0}", false),
            ("HEAD", "/v1/orders", false),
            ("POST", "/v1/orders", false),
        ];
        for (method, path, allowed) in cases {
            assert_eq!(decide(method, path), allowed, "{method} {path}");
        }
        assert!(permit(OperationEnforcement::TransportUniform, &operations, "PUT", "/x", &granted).is_ok());
        assert!(permit(OperationEnforcement::Enforced, &[], "GET", "/", &granted).is_err());
    }
}
