//! Scopes: exact tokens, never prefixes or patterns.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The scope of lifecycle work at the Coordinator, the only one that an application can ask for without a delegation
/// (contract sts §15.2, BOOT).
pub const LIFECYCLE: &str = "agent:lifecycle";

/// The longest scope, in bytes (contract admin §5.4).
pub const MAX_SCOPE_BYTES: usize = 200;

/// Why a text is not a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// The text is empty.
    #[error("a scope is empty")]
    Empty,
    /// RFC 6749 §3.3 allows printable ASCII without space, quote and backslash.
    #[error("a scope has a character that RFC 6749 section 3.3 does not allow")]
    Forbidden,
    /// The text is longer than [`MAX_SCOPE_BYTES`].
    #[error("a scope is longer than {MAX_SCOPE_BYTES} bytes")]
    TooLong,
}

/// One scope token (RFC 6749 §3.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Box<str>);

impl Scope {
    /// Takes the text over if it is one scope token.
    pub fn new(text: impl Into<String>) -> Result<Self, ScopeError> {
        let text = text.into();
        if text.is_empty() {
            return Err(ScopeError::Empty);
        }
        if text.len() > MAX_SCOPE_BYTES {
            return Err(ScopeError::TooLong);
        }
        if text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
            Ok(Self(text.into_boxed_str()))
        } else {
            Err(ScopeError::Forbidden)
        }
    }

    /// The token itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;
    fn try_from(text: String) -> Result<Self, ScopeError> {
        Self::new(text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.0.into_string()
    }
}

impl std::borrow::Borrow<str> for Scope {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of scopes. Membership is equality of whole tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Scope>")]
pub struct ScopeSet(Box<[Scope]>);

impl ScopeSet {
    /// Parses a space-delimited list as it stands in a `scope` claim or form field; repeated tokens collapse.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let mut sorted = Vec::new();
        for scope in text.split_whitespace() {
            add(&mut sorted, Scope::new(scope)?);
        }
        Ok(Self(sorted.into()))
    }

    /// Is this very token in the set?
    #[must_use]
    pub fn contains(&self, scope: &str) -> bool {
        self.0.binary_search_by(|known| known.as_str().cmp(scope)).is_ok()
    }

    /// Is every token of `self` in `other`?
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|scope| other.contains(scope.as_str()))
    }

    /// Is the set empty?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The tokens in byte order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// The tokens that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.iter().filter(|scope| other.contains(scope.as_str())).cloned().collect())
    }
}

/// Adds a token where it belongs. One by one: a sort is code that the Envoy module has no other use for.
fn add(sorted: &mut Vec<Scope>, scope: Scope) {
    if let Err(place) = sorted.binary_search(&scope) {
        sorted.insert(place, scope);
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut sorted = Vec::new();
        for scope in scopes {
            add(&mut sorted, scope);
        }
        Self(sorted.into())
    }
}

impl From<Vec<Scope>> for ScopeSet {
    fn from(scopes: Vec<Scope>) -> Self {
        scopes.into_iter().collect()
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_match_whole_tokens_only() {
        let set = ScopeSet::parse("orders:read orders:write").unwrap();
        assert!(set.contains("orders:read"));
        for other in ["orders", "orders:rea", "orders:read ", "ORDERS:READ", "orders:read orders:write", ""] {
            assert!(!set.contains(other), "{other}");
        }
    }

    #[test]
    fn parsing_collapses_white_space_and_repetition() {
        let set = ScopeSet::parse("  b  a\tb ").unwrap();
        assert_eq!(set.to_string(), "a b");
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["a","b"]"#);
        assert_eq!(serde_json::from_str::<ScopeSet>(r#"["b","a","b"]"#).unwrap(), set);
        assert_eq!(set.len(), 2);
        assert_eq!(ScopeSet::parse("a \u{7f}"), Err(ScopeError::Forbidden));
    }
}
