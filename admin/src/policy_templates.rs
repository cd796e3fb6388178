//! Policy templates: data documents to begin with (contract admin-audit §5.11).

use axum::Json;
use serde_json::{Value, json};

/// Id, name, description and content.
const TEMPLATES: [(&str, &str, &str, &str); 6] = [
    (
        "application-bindings",
        "Application bindings",
        "Gives each application a short key that grants refer to.",
        r#"# caracal:data-document
package caracal.authz

import rego.v1

# Key in grants -> application id.
app_ids := {"orders-agent": "replace-with-an-application-id"}
"#,
    ),
    (
        "resource-grants",
        "Resource grants",
        "Says which application owns a resource, and which role may ask for which of its scopes.",
        r#"# caracal:data-document
package caracal.authz

import rego.v1

# Resource identifier -> the application that owns it, and the scopes of each role.
grants := {"resource://orders": {
    "application": "orders-agent",
    "roles": {"reader": ["orders:read"], "clerk": ["orders:read", "orders:write"]},
}}
"#,
    ),
    (
        "label-confinement",
        "Label confinement",
        "Caps the scopes of every session whose label begins with a prefix, whatever grants say.",
        r#"# caracal:data-document
package caracal.authz

import rego.v1

# Sessions with a label of this prefix get no other scopes than these.
confinement := [{"label_prefix": "trial-", "scopes": ["orders:read"]}]
"#,
    ),
    (
        "zone-restriction",
        "Zone restriction",
        "Freezes the zone while it holds any entry: every exchange is denied.",
        r#"# caracal:data-document
package caracal.authz

import rego.v1

# Empty: nothing is frozen. Any entry denies every exchange of the zone.
restrict := {}
"#,
    ),
    (
        "risk-tiers",
        "Risk tiers",
        "Says how risky a scope is, in words that approval tiers refer to.",
        r#"# caracal:data-document
package caracal.authz

import rego.v1

# Scope -> tier. Scopes that are not named have none.
risk := [{"scope": "orders:write", "tier": "high"}]
"#,
    ),
    (
        "approval-tiers",
        "Approval tiers",
        "Says which tier of risk waits for a person, for whom, and for how long.",
        r#"# caracal:data-document
package caracal.authz

import rego.v1

# The approver is "operator", "subject" or "any"; the privacy "identified", "pseudonymous" or "anonymous".
approval_tiers := [{"tier": "high", "approver": "operator", "ttl_seconds": 14400, "privacy": "identified"}]
"#,
    ),
];

/// `GET /v1/policy-templates`
pub(crate) async fn list() -> Json<Value> {
    let item = |(id, name, description, content)| json!({ "id": id, "name": name, "description": description, "content": content });
    Json(TEMPLATES.into_iter().map(item).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_sts::policy::{Bundle, PolicyDocument};

    #[test]
    fn contract_admin_5_11_templates_are_policies() {
        for (id, _, _, content) in TEMPLATES {
            assert!(PolicyDocument::parse(content).is_ok(), "{id}: {:?}", PolicyDocument::parse(content));
        }
        let all: Vec<_> = TEMPLATES.iter().map(|(id, _, _, content)| (*id, *content)).collect();
        assert!(Bundle::compile(&all).is_ok());
    }
}
