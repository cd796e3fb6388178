"""The published verifier, unmodified, as a resource server has it: judges each token that it is told of.

Reads one JSON object a line (`token`, and whatever is asked of it) and answers with one: `code` is null for a mandate
that is accepted. The issuer is a name that only the STS itself answers for, so the key set is fetched through it.
"""

import asyncio
import json
import os
import sys

os.environ["http_proxy"] = os.environ["CARACAL_STS_URL"]
os.environ["no_proxy"] = ""
os.environ["CARACAL_ALLOW_INSECURE_CONFIG_URLS"] = "true"

import httpx  # noqa: E402

from caracalai_revocation import InMemoryRevocationStore  # noqa: E402
from caracalai_verify import AuthOptions, create_mandate_verifier  # noqa: E402


async def judge(issuer: str, asked: dict) -> dict:
    revocations = InMemoryRevocationStore()
    for anchor in asked.get("revoked", []):
        revocations.mark_revoked(anchor)
    verifier = create_mandate_verifier(
        AuthOptions(
            issuer=issuer,
            audience=asked.get("audience", os.environ["TEST_RESOURCE"]),
            expected_zone_id=asked.get("zone", os.environ["CARACAL_ZONE_ID"]),
            revocations=revocations,
            required_scopes=asked.get("scopes", []),
            required_targets=asked.get("targets", []),
            require_session=asked.get("session", False),
            require_delegation=asked.get("delegation", False),
            require_chain_contains=asked.get("chain", []),
        )
    )
    try:
        result = await verifier.authorization(f"Bearer {asked['token']}")
    except httpx.HTTPError:
        # A zone that never signed has no keys: a resource server cannot accept anything then.
        return {"code": "no_keys"}
    return {"code": result.error.code if result.error is not None else None}


async def main() -> None:
    issuer = sys.argv[1]
    for line in sys.stdin:
        print(json.dumps(await judge(issuer, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
