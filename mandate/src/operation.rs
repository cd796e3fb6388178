//! Operations of a resource: which scope a method on a path needs (contract gateway A12).

use crate::scope::{Scope, ScopeSet};
use serde::{Deserialize, Serialize};

/// One declared operation. Method and path are compared exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The HTTP method in upper case.
    pub method: String,
    /// The decoded path without query, beginning with `/`.
    pub path: String,
    /// The scope that the mandate must carry.
    pub scope: Scope,
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

/// Is `method` on `path` within `granted`? The first matching operation decides.
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
    let matching = operations
        .iter()
        .find(|operation| operation.method.eq_ignore_ascii_case(method) && operation.path == path)
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

    fn operation(method: &str, path: &str, scope: &str) -> Operation {
        Operation { method: method.into(), path: path.into(), scope: Scope::new(scope).unwrap() }
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
