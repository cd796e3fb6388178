"""What is left of the published admin SDK's surface, and the proof that nothing of it was left out."""

import inspect

import caracalai_admin
from caracalai_admin import (
    AdminClient,
    GovernedUpstream,
    GovernedUpstreamGrant,
    GovernedUpstreamProvider,
    GovernedUpstreamResource,
    ensure_active_policy_set,
    ensure_client_credentials_provider,
    ensure_governed_upstreams,
)

# The remote automation endpoint is not part of this product: see docs/conformance-admin.md.
NOT_SERVED = {"ControlClient"}
DOCUMENT = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\nrestrict := {}\n"


class Recorded:
    """An object of the client that remembers what was called on it."""

    def __init__(self, name: str, inner: object, called: set) -> None:
        self._name, self._inner, self._called = name, inner, called

    def __getattr__(self, method: str):
        self._called.add(f"{self._name}.{method}")
        return getattr(self._inner, method)


def record(client: AdminClient) -> tuple[set, set]:
    """What is called from now on, and all that there is to call."""
    called: set = set()
    every: set = set()
    for name, inner in list(vars(client).items()):
        if name.startswith("_"):
            continue
        methods = inspect.getmembers(type(inner), inspect.isfunction)
        every |= {f"{name}.{method}" for method, _ in methods if not method.startswith("_")}
        setattr(client, name, Recorded(name, inner, called))
    return called, every


def unused_helpers(*sources: str) -> list:
    """The helpers that the package exports and no script names."""
    helpers = [name for name in caracalai_admin.__all__ if name.startswith("ensure_")]
    return sorted(name for name in helpers if not any(f"{name}(" in source for source in sources))


def objects(client: AdminClient, zone_id: str, outcome: dict) -> None:
    """Single reads, ends and helpers that nothing else here needs."""
    application = client.applications.create(zone_id, {"name": "third", "registration_method": "managed"})
    path = [zone_id, application["id"]]
    outcome["patched"] = client.applications.patch(*path, {"name": "third renamed"})["name"]
    client.applications.delete(*path)

    public = {
        "token_endpoint": "https://idp.example.com/token",
        "client_id": "caracal",
        "scopes": ["read"],
    }
    sealed = {"name": "machine", "identifier": "provider://machine", "public_config": public}
    machine = ensure_client_credentials_provider(client, zone_id, **sealed, client_secret="cs-123")
    again = ensure_client_credentials_provider(client, zone_id, **sealed)
    row = client.providers.get(zone_id, machine)
    outcome["machine"] = [machine == again, row["kind"], row["secret_config_keys"]]
    client.providers.delete(zone_id, machine)

    upstream = GovernedUpstream(
        GovernedUpstreamProvider("pay", "provider://pay", {"header_name": "X-Pay"}, "k-456"),
        GovernedUpstreamResource("Pay", "resource://pay", ["pay:write"], "http://127.0.0.1:9/", "transport_uniform"),
        [GovernedUpstreamGrant(client.applications.list(zone_id)[0]["id"], ["pay:write"])],
    )
    [governed] = ensure_governed_upstreams(client, zone_id, upstreams=[upstream])
    resource = client.resources.get(zone_id, governed.resource["id"])
    outcome["governed"] = [resource["credential_provider_id"] == governed.provider_id, resource["scopes"]]
    widened = client.resources.patch(zone_id, resource["id"], {"scopes": ["pay:read", "pay:write"]})
    outcome["widened"] = widened["scopes"]
    client.resources.delete(zone_id, resource["id"])

    named = {"policy_name": "restrictions", "set_name": "second", "content": DOCUMENT}
    ensure_active_policy_set(client, zone_id, **named)
    policy = client.policies.create(zone_id, {"name": "third", "content": DOCUMENT})
    version = client.policies.add_version(zone_id, policy["id"], DOCUMENT)
    policy_set = client.policy_sets.create(zone_id, "third", "made by hand")
    path = [zone_id, policy_set["id"]]
    manifest = [{"policy_version_id": version["version_id"]}]
    made = client.policy_sets.add_version(*path, manifest)
    activated = client.policy_sets.activate(*path, made["version_id"])
    active = client.policy_sets.get(*path)
    outcome["activated"] = [activated["activated"], active["active_version_id"] == made["version_id"]]
    client.policy_sets.delete(*path)
    client.policies.delete(zone_id, policy["id"])
    outcome["sets"] = sorted(row["name"] for row in client.policy_sets.list(zone_id))
    outcome["template"] = client.policy_templates.get("resource-grants")["id"]

    trust = {
        "issuer": "https://people.example.com",
        "jwks_url": "https://people.example.com/keys",
        "audience": "caracal",
    }
    issuer = client.subject_issuers.create(zone_id, trust)
    outcome["trusted"] = client.subject_issuers.get(zone_id, issuer["id"])["issuer"]

    by_operator = client.with_default_headers({"X-Caracal-Created-Via": "operator"})
    workload = by_operator.workloads.create(zone_id, {"name": "nightly"})
    outcome["by_operator"] = client.workloads.get(zone_id, workload["id"])["created_via_operator"]


def connections(client: AdminClient, zone_id: str, outcome: dict) -> None:
    config = {
        "token_endpoint": "https://idp.example.com/token",
        "authorization_endpoint": "https://idp.example.com/authorize",
        "redirect_uri": "https://console.example.com/callback",
        "client_id": "caracal",
        "client_secret": "cs-789",
        "scopes": ["read"],
    }
    body = {"name": "people", "kind": "oauth2_authorization_code", "config_json": config}
    provider = client.providers.create(zone_id, body)
    person = {"provider_id": provider["id"], "subject_id": "user-1"}
    flow = client.provider_connections.authorize_oauth(zone_id, person)
    outcome["flow"] = flow["authorization_url"].startswith("https://idp.example.com/authorize?")
    made = client.provider_connections.create(zone_id, {**person, "access_token": "at-123"})
    ended = client.provider_connections.revoke(zone_id, person)
    outcome["connection"] = [made["status"], ended["status"], ended["upstream_revocation"]]


def approvals(client: AdminClient, zone_id: str, outcome: dict) -> None:
    """Decides the two holds of the test."""
    first, second = client.approvals.list(zone_id)
    outcome["holds"] = [first["state"], second["state"], client.approvals.get(zone_id, first["id"])["tier"]]
    approved = client.approvals.approve(zone_id, first["id"])
    rejected = client.approvals.reject(zone_id, second["id"], "not today")
    outcome["decided"] = [approved["state"], rejected["state"]]


def coordinator(client: AdminClient, zone_id: str, tree: dict, outcome: dict) -> None:
    """Looks at a session and what it delegated, and ends both."""
    root, child, edge = tree["root"], tree["session"], tree["edge"]
    children = client.sessions.children(zone_id, root)
    outcome["children"] = [row["session_id"] == child for row in children]
    outcome["parent"] = client.sessions.get(zone_id, child)["parent_session_id"] == root
    client.sessions.suspend(zone_id, child)
    suspended = client.sessions.get(zone_id, child)["status"]
    client.sessions.resume(zone_id, child)
    outcome["switched"] = [suspended, client.sessions.get(zone_id, child)["status"]]
    authority = client.sessions.effective_authority(zone_id, child)
    outcome["authority"] = [authority["session_id"] == child, len(authority["inbound_delegations"])]

    active = client.delegations.active(zone_id)["items"]
    outcome["delegations"] = edge in [row["delegation_id"] for row in active]
    # The package takes these two pages for lists, so it answers the names of their members, whoever serves it; the other
    # SDKs need the pages.
    inbound = client.delegations.inbound(zone_id, child)
    outcome["both_ends"] = [sorted(rows) for rows in (inbound, client.delegations.outbound(zone_id, root))]
    outcome["traversed"] = len(client.delegations.traverse(zone_id, edge))
    impact = client.delegations.impact(zone_id, edge)
    outcome["impact"] = [impact["delegation_id"] == edge, child in impact["affected_sessions"]]
    outcome["revoked"] = client.delegations.revoke(zone_id, edge)["revoked_delegations"]
    client.sessions.terminate(zone_id, root)
    ended = client.sessions.list(zone_id, {"status": "terminated"})
    outcome["ended"] = {root, child} <= {row["session_id"] for row in ended}
