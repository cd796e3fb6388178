//! What may stand in a file of configuration. Everything that is not known is refused with its place.

use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use serde_saphyr::{MessageFormatter as _, Spanned, UserMessageFormatter};
use std::collections::BTreeMap;
use std::fmt;

/// One document of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) settings: Option<Settings>,
    pub(super) zones: Option<Vec<Zone>>,
}

/// Settings of the whole installation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) mint_limit_per_minute: Option<Spanned<i64>>,
    pub(super) audit_retention_days: Option<Spanned<i64>>,
}

/// A zone. A list that is written is complete; one that is not is none of the files' business.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Zone {
    pub(super) slug: Spanned<String>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) dcr_enabled: Option<Spanned<bool>>,
    pub(super) operator_coauthor_badge: Option<Spanned<bool>>,
    pub(super) operator_governed: Option<Spanned<bool>>,
    pub(super) applications: Option<Vec<Application>>,
    pub(super) providers: Option<Vec<Provider>>,
    pub(super) resources: Option<Vec<Resource>>,
    pub(super) policies: Option<Vec<Policy>>,
    pub(super) policy_sets: Option<Vec<PolicySet>>,
    pub(super) workloads: Option<Vec<Workload>>,
    pub(super) grants: Option<Vec<Grant>>,
    pub(super) subject_issuers: Option<Vec<SubjectIssuer>>,
    pub(super) notification_sinks: Option<Vec<Sink>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Application {
    pub(super) name: Spanned<String>,
    pub(super) traits: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub(super) identifier: Spanned<String>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) kind: Spanned<String>,
    pub(super) config: Option<Spanned<Map<String, Value>>>,
    pub(super) secrets: Option<BTreeMap<String, Spanned<SecretSource>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) identifier: Spanned<String>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) upstream_url: Spanned<String>,
    pub(super) provider: Spanned<String>,
    pub(super) scopes: Spanned<Vec<String>>,
    pub(super) operations: Option<Vec<Spanned<Operation>>>,
    pub(super) operation_enforcement: Option<Spanned<String>>,
    pub(super) mandate_use: Option<Spanned<String>>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "there")]
    pub(super) mcp: Option<Spanned<Value>>,
}

/// A member that is there, be it null.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Spanned<Value>>, D::Error> {
    Spanned::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Operation {
    method: String,
    path: String,
    scope: String,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matching: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) name: Spanned<String>,
    pub(super) content: Option<Spanned<String>>,
    pub(super) file: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicySet {
    pub(super) name: Spanned<String>,
    pub(super) policies: Vec<Spanned<String>>,
    pub(super) active: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workload {
    pub(super) name: Spanned<String>,
    pub(super) bindings: Option<Vec<Spanned<Binding>>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Binding {
    pub(super) env: String,
    pub(super) resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    pub(super) application: Spanned<String>,
    pub(super) user: Spanned<String>,
    pub(super) resource: Spanned<String>,
    pub(super) scopes: Spanned<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubjectIssuer {
    pub(super) issuer: Spanned<String>,
    pub(super) jwks_url: Spanned<String>,
    pub(super) audience: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sink {
    pub(super) name: Spanned<String>,
    pub(super) url: Spanned<String>,
    pub(super) event_types: Option<Spanned<Vec<String>>>,
    pub(super) active: Option<Spanned<bool>>,
}

/// Where a secret is. A file never holds the secret itself, and no error ever repeats what stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file, beside the file of configuration unless it is absolute.
    File(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretReference {
    env: Option<String>,
    file: Option<String>,
}

const SECRET_REFERENCE: &str =
    "a secret is given as {env: NAME} or {file: PATH}, and never written into a file of configuration";

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reference;

        // Every kind of scalar is named here because the default of each would repeat the value.
        macro_rules! refuse {
            ($($visit:ident: $kind:ty),*) => {
                $(fn $visit<E: serde::de::Error>(self, _: $kind) -> Result<Self::Value, E> {
                    Err(E::custom(SECRET_REFERENCE))
                })*
            };
        }

        impl<'de> Visitor<'de> for Reference {
            type Value = SecretSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SECRET_REFERENCE)
            }
            refuse!(
                visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128,
                visit_f64: f64, visit_str: &str, visit_bytes: &[u8]
            );
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let reference = SecretReference::deserialize(MapAccessDeserializer::new(map))?;
                let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
                match (named(&reference.env), named(&reference.file)) {
                    (Some(name), None) => Ok(SecretSource::Env(name)),
                    (None, Some(path)) => Ok(SecretSource::File(path)),
                    _ => Err(serde::de::Error::custom(SECRET_REFERENCE)),
                }
            }
        }
        deserializer.deserialize_any(Reference)
    }
}

/// Why a file cannot be read as one of configuration, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) why: String,
}

/// The documents of a file, YAML or JSON.
pub(super) fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place = error.location();
        let why = UserMessageFormatter.format_message(error.without_snippet());
        SyntaxError {
            line: place.map_or(1, |place| place.line()),
            column: place.map_or(1, |place| place.column()),
            why: why.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let cases = [
            ("zones:\n  - slug: a\n    colour: red\n", (3, 5), "colour"),
            ("zones:\n  - name: a\n", (2, 5), "slug"),
            ("zones:\n  - slug: a\n    slug: b\n", (3, 5), "duplicate"),
            ("zones:\n  - slug: [a]\n", (2, 11), "string"),
            ("zones:\n  - slug: a\n    dcr_enabled: yes\n", (3, 18), ""),
            (
                "zones:\n  - slug: a\n    resources:\n      - identifier: r\n        operations: 5\n",
                (5, 21),
                "",
            ),
            ("{\"zones\": [{\"slug\": \"a\", \"x\": 1}]}", (1, 26), "x"),
            ("zones: [\n", (1, 8), ""),
            ("a: b\n", (1, 1), "a"),
        ];
        for (text, (line, column), word) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{text}: {error:?}");
            assert!(error.why.contains(word), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_secret_is_named_and_never_written_or_repeated() {
        let file = |secret: &str| {
            format!(
                "zones:\n  - slug: a\n    providers:\n      - identifier: provider://p\n        kind: api_key\n        \
                 secrets:\n          api_key: {secret}\n"
            )
        };
        for secret in ["{env: KEY}", "{file: key.txt}"] {
            assert!(parse(&file(secret)).is_ok(), "{secret}");
        }
        for secret in
            ["hunter2", "31337", "31337.5", "true", "[hunter2]", "{env: A, file: hunter2}", "{}", "{env: ''}"]
        {
            let error = parse(&file(secret)).unwrap_err();
            assert_eq!(error.line, 7, "{secret}: {error:?}");
            assert!(!error.why.contains("hunter2") && !error.why.contains("31337"), "{error:?}");
        }
    }

    #[test]
    fn a_file_has_many_documents_and_json_is_one() {
        let text = "zones:\n  - slug: a\n---\nsettings:\n  mint_limit_per_minute: 5\n---\n";
        assert_eq!(parse(text).unwrap().len(), 2);
        let json = "{\n\t\"zones\": [\n\t\t{ \"slug\": \"a\", \"applications\": [{ \"name\": \"b\", \"traits\": [] }] }\n\t]\n}\n";
        assert_eq!(parse(json).unwrap().len(), 1);
    }
}
