"""The published admin SDK, unmodified, drives every object of the Admin API.

Prints one JSON object with what happened; every expectation is checked by the test that runs this.
"""

import json
import os
import sys
from pathlib import Path

from caracalai_admin import (
    AdminApiError,
    AdminClient,
    ResourceGrant,
    ensure_api_key_provider,
    ensure_application,
    ensure_grants,
    ensure_resource,
)

import admin_surface


def refused(call, *arguments) -> list:
    """The status and code of a refusal."""
    try:
        call(*arguments)
    except AdminApiError as error:
        return [error.status, error.code]
    return [200, ""]


def configuration(client: AdminClient, outcome: dict) -> str:
    zone = client.zones.create({"name": "sdk", "dcr_enabled": True})
    zone_id = zone["id"]
    client.zones.patch(zone_id, {"name": "sdk renamed"})
    outcome["zone"] = client.zones.get(zone_id)["name"]
    outcome["zone_listed"] = zone_id in [zone["id"] for zone in client.zones.list()]

    application = client.applications.create(zone_id, {"name": "first", "registration_method": "managed"})
    rotated = client.applications.rotate_secret(zone_id, application["id"])
    revealed = client.applications.get_client_secret(zone_id, application["id"])
    outcome["secret_rotated"] = application["client_secret"] != rotated["client_secret"]
    outcome["secret_revealed"] = revealed["client_secret"] == rotated["client_secret"]
    registered = client.applications.dcr(zone_id, {"name": "short", "expires_in": 60})
    outcome["registered"] = registered["registration_method"]
    outcome["dcr"] = client.zones.dcr_status(zone_id)["live_dcr_applications"]
    client.applications.delete(zone_id, registered["id"])
    outcome["application_gone"] = refused(client.applications.get, zone_id, registered["id"])

    provider = client.providers.create(zone_id, {"name": "mandate", "kind": "caracal_mandate"})
    client.providers.patch(zone_id, provider["id"], {"name": "Mandate"})
    wanted = {
        "name": "Orders",
        "identifier": "resource://orders",
        "scopes": ["orders:read", "orders:write"],
        "upstream_url": "http://127.0.0.1:9/",
        "credential_provider_id": provider["id"],
        "operations": [{"method": "GET", "path": "/orders", "scope": "orders:read"}],
    }
    resource = ensure_resource(client, zone_id, **wanted)
    again = ensure_resource(client, zone_id, **wanted)
    outcome["resource_converged"] = resource["id"] == again["id"] and resource["updated_at"] == again["updated_at"]

    secret = "a-client-secret-of-more-than-32-characters"
    named = {"name": "second", "traits": ["team:blue"], "client_secret": secret}
    second = ensure_application(client, zone_id, **named)
    outcome["application_converged"] = second == ensure_application(client, zone_id, **named)

    grant = ResourceGrant(second, "resource://orders", ["orders:read"], role="reader")
    ensure_grants(client, zone_id, grants=[grant])
    [policy_set] = client.policy_sets.list(zone_id)
    version = policy_set["active_version_id"]
    ensure_grants(client, zone_id, grants=[grant])
    outcome["policy_converged"] = version == client.policy_sets.list(zone_id)[0]["active_version_id"]
    outcome["versions"] = len(client.policy_sets.list_versions(zone_id, policy_set["id"]))
    status = client.policy_sets.activation_status(zone_id, policy_set["id"], version)
    outcome["propagation"] = status["propagation_status"]
    outcome["simulated"] = client.policy_sets.simulate(zone_id, policy_set["id"], version)["dry_run"]
    [policy] = client.policies.list(zone_id)
    content = client.policies.get(zone_id, policy["id"])["versions"][0]["content"]
    outcome["validated"] = client.policies.validate(content)["valid"]
    outcome["invalid"] = refused(client.policies.validate, "package other")
    outcome["templates"] = len(client.policy_templates.list())
    return zone_id


def administration(client: AdminClient, zone_id: str, outcome: dict) -> None:
    [resource] = client.resources.list(zone_id)
    application = client.applications.list(zone_id)[0]
    place = {"header_name": "X-Api-Key"}
    key = {"name": "key", "identifier": "provider://key", "public_config": place, "api_key": "k-123"}
    provider = ensure_api_key_provider(client, zone_id, **key)
    moved = {**key, "public_config": {"header_name": "X-Other-Key"}, "api_key": None}
    ensure_api_key_provider(client, zone_id, **moved)
    row = client.providers.get(zone_id, provider)
    outcome["provider"] = [row["config_json"]["header_name"], row["secret_config_keys"]]

    workload = client.workloads.create(zone_id, {"name": "launcher"})
    path = [zone_id, workload["id"]]
    binding = {"env": "ORDERS_TOKEN", "resource": "resource://orders", "scopes": ["orders:read"]}
    outcome["bindings"] = client.workloads.update(*path, {"bindings": [binding]})["bindings"]
    rotated = client.workloads.rotate_secret(*path)["secret"]
    outcome["workload_secret"] = client.workloads.get_secret(*path)["secret"] == rotated != workload["secret"]
    outcome["blocked"] = refused(client.workloads.update, *path, {"bindings": [{**binding, "env": "LD_PRELOAD"}]})
    client.workloads.delete(*path)
    outcome["workloads"] = client.workloads.list(zone_id)

    body = {
        "application_id": application["id"],
        "user_id": "user-1",
        "resource_id": resource["id"],
        "scopes": ["orders:read"],
    }
    grant = client.grants.create(zone_id, body)
    listed = client.grants.list(zone_id, {"subject_id": "user-1", "scopes": ["orders:read"]})
    outcome["grants"] = [[row["id"] == grant["id"], row["status"], row["resource_name"]] for row in listed]
    client.grants.revoke(zone_id, grant["id"])
    outcome["grant_revoked"] = client.grants.get(zone_id, grant["id"])["status"]
    wider = {**body, "scopes": ["orders:delete"]}
    outcome["grant_wider"] = refused(client.grants.create, zone_id, wider)

    trust = {
        "issuer": "https://users.example.com",
        "jwks_url": "https://users.example.com/keys",
        "audience": "caracal",
    }
    issuer = client.subject_issuers.create(zone_id, trust)
    outcome["issuer_twice"] = refused(client.subject_issuers.create, zone_id, trust)
    outcome["issuer"] = client.subject_issuers.patch(zone_id, issuer["id"], {"audience": "other"})["audience"]
    client.subject_issuers.delete(zone_id, issuer["id"])
    outcome["issuers"] = client.subject_issuers.list(zone_id)


def runtime(client: AdminClient, outcome: dict) -> None:
    """Reads and cuts off what the test started in its own zone."""
    zone_id = os.environ["CARACAL_ZONE_ID"]
    records = client.authority_records.list(zone_id, {"status": "active"})
    sessions = client.sessions.list(zone_id, {"status": "active"})
    outcome["active"] = [len(records) > 0, len(sessions)]
    events = client.audit.list(zone_id, {"event_type": "token_exchange"})
    outcome["events"] = len(events) > 0
    request = events[0]["request_id"]
    outcome["by_request"] = len(client.audit.by_request(zone_id, request)) > 0
    outcome["explained"] = client.audit.explain(zone_id, request)["request_id"] == request
    cut = client.subjects.revoke(zone_id, {"subject_id": os.environ["CARACAL_APPLICATION_ID"]})
    outcome["cut"] = [cut["authority_records"] > 0, cut["sessions"], cut["delegations"], cut["connections"]]
    again = client.subjects.revoke(zone_id, {"subject_id": os.environ["CARACAL_APPLICATION_ID"]})
    outcome["cut_again"] = [again["authority_records"], again["sessions"], again["delegations"]]
    outcome["nobody"] = refused(client.subjects.revoke, zone_id, {"subject_id": "nobody"})
    outcome["sessions_left"] = client.sessions.list(zone_id, {"status": "active"})
    outcome["recorded"] = client.admin_audit.list(zone_id)[0]["method"]


def main() -> dict:
    client = AdminClient(
        api_url=os.environ["CARACAL_ADMIN_URL"],
        admin_token=os.environ["CARACAL_ADMIN_TOKEN"],
        coordinator_url=os.environ["CARACAL_COORDINATOR_URL"],
        coordinator_token=os.environ["CARACAL_COORDINATOR_TOKEN"],
        retries=0,
    )
    called, every = admin_surface.record(client)
    outcome: dict = {}
    zone_id = configuration(client, outcome)
    administration(client, zone_id, outcome)
    admin_surface.objects(client, zone_id, outcome)
    admin_surface.connections(client, zone_id, outcome)
    running = os.environ["CARACAL_ZONE_ID"]
    admin_surface.approvals(client, running, outcome)
    admin_surface.coordinator(client, running, json.loads(os.environ["CARACAL_TREE"]), outcome)
    runtime(client, outcome)
    client.zones.delete(zone_id)
    outcome["zone_gone"] = refused(client.zones.get, zone_id)
    outcome["never_called"] = sorted(every - called)
    scripts = [Path(module.__file__).read_text() for module in (admin_surface, sys.modules["__main__"])]
    outcome["never_used"] = admin_surface.unused_helpers(*scripts)
    return outcome


if __name__ == "__main__":
    json.dump(main(), sys.stdout)
