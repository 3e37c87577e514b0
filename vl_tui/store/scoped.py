"""What a box is given to reach the store: credentials for its own run's prefix, for a limited time, where the store can
issue such ones; else, in this order, the box's own role, or the fleet's keys with a warning that a person sees.

Minted ones are tried before they are believed: SeaweedFS issues tokens that open nothing, and a server that ignores the
policy issues tokens that open everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from vl_agent.protocol import RUNS_PREFIX, head_key, run_prefix
from vl_agent.store import Denied, StoreError, open_store

from vl_tui.config import FleetConfig

R2_HOST = ".r2.cloudflarestorage.com"
R2_API = "https://api.cloudflare.com/client/v4"
R2_TOKEN = "CLOUDFLARE_API_TOKEN"  # noqa: S105 - the name of a variable
_ANY_ROLE = "arn:aws:iam::000000000000:role/vl-box"
"""MinIO wants a role to be named, and looks at none."""
_MINT_S = 20.0
_OBJECTS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
_LISTS = ("s3:ListBucket", "s3:ListBucketMultipartUploads")


class NotMinted(Exception):
    """The store issues no such credentials; ``str()`` says why, and holds no secret."""


@dataclass(frozen=True)
class Scoped:
    """``open_store`` options for one run's box. ``expires_at`` in unix seconds by this machine's clock."""

    options: Mapping[str, str] = field(repr=False)
    how: str
    """Where they come from, for a person."""
    expires_at: float | None = None
    warning: str = ""
    """Not empty: the box gets more than it should."""


def policy(bucket: str, prefix: str) -> str:
    """The session policy that opens ``prefix`` of ``bucket`` and nothing else (AWS's policy language, 2012-10-17)."""
    where = {"StringLike": {"s3:prefix": [f"{prefix}*"]}}
    objects = {"Effect": "Allow", "Action": _OBJECTS, "Resource": [f"arn:aws:s3:::{bucket}/{prefix}*"]}
    lists = {"Effect": "Allow", "Action": _LISTS, "Resource": [f"arn:aws:s3:::{bucket}"], "Condition": where}
    return json.dumps({"Version": "2012-10-17", "Statement": [objects, lists]}, separators=(",", ":"))


async def scoped(fleet: FleetConfig, options: Mapping[str, str], run: str) -> Scoped:
    """Credentials for ``run``'s box. ``options``: the fleet's own. Raises ``NotMinted`` only where a role is named: a
    person who named one does not want the fleet's keys on a box."""
    plain = {name: options[name] for name in ("endpoint", "region") if options.get(name)}
    wanted = fleet.box_credentials
    if not fleet.store.startswith("s3://") or wanted.source == "own":
        return Scoped(plain, "the box's own role")
    if wanted.source == "keys":
        return Scoped(dict(options), "the fleet's own keys", warning=_unscoped(fleet, "as fleet.yaml says"))
    try:
        minted, expires_at, how = await _mint(fleet, options, run)
        found = {**plain, **minted}
        await _tried(fleet.store, found, run)
    except NotMinted as why:
        if wanted.role:
            raise
        return Scoped(dict(options), "the fleet's own keys", warning=_unscoped(fleet, str(why)))
    return Scoped(found, how, expires_at)


def _unscoped(fleet: FleetConfig, why: str) -> str:
    return (
        f"boxes get the fleet's own keys to {fleet.store}, for all runs and for ever ({why}): name a role in"
        " fleet.yaml (`box_credentials: {role: ...}`), or give the boxes a role of their own (`{source: own}`)."
    )


# -- the ways ----------------------------------------------------------------------------------------------------


async def _mint(fleet: FleetConfig, options: Mapping[str, str], run: str) -> tuple[dict[str, str], float, str]:
    """Options, end in unix seconds, and how. Raises ``NotMinted``."""
    host = urlsplit(fleet.endpoint or "").hostname or ""
    bucket, prefix = place(fleet.store, run)
    if host.endswith(R2_HOST):
        return await _r2(host, options, bucket, prefix, fleet.box_credentials.lasts)
    try:
        return await asyncio.wait_for(asyncio.to_thread(_sts, fleet, options, bucket, prefix), _MINT_S)
    except TimeoutError:
        raise NotMinted(f"no answer within {_MINT_S:.0f} s") from None


def place(url: str, run: str) -> tuple[str, str]:
    """Bucket, and the prefix of the run's objects in it."""
    bucket, _, rest = url.removeprefix("s3://").partition("/")
    return bucket, "/".join(part for part in (rest.strip("/"), run_prefix(run)) if part)


def _sts(fleet: FleetConfig, options: Mapping[str, str], bucket: str, prefix: str) -> tuple[dict[str, str], float, str]:
    """By STS, of AWS or of the endpoint: a role with a session policy; on AWS without a role, a federation token."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    role, lasts = fleet.box_credentials.role, int(fleet.box_credentials.lasts)
    own = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    session = boto3.Session(
        options.get("access_key_id"), options.get("secret_access_key"), options.get("session_token"),
        region_name=options.get("region") or "us-east-1",
    )  # fmt: skip
    try:
        sts = session.client("sts", endpoint_url=fleet.endpoint, config=own)
        name = f"vl-{fleet.fleet}"[:32]
        if role or fleet.endpoint:
            found: Any = sts.assume_role(
                RoleArn=role or _ANY_ROLE, RoleSessionName=name, Policy=policy(bucket, prefix), DurationSeconds=lasts
            )
            how = f"STS, role {role}" if role else "the store's STS"
        else:
            found = sts.get_federation_token(Name=name, Policy=policy(bucket, prefix), DurationSeconds=lasts)
            how = "STS, a federation token"
    except ClientError as error:
        raise NotMinted(f"STS refuses: {error.response.get('Error', {}).get('Code', 'no code')}") from None
    except BotoCoreError as error:
        raise NotMinted(f"STS can't be asked: {type(error).__name__}") from None
    return _options(found["Credentials"], "AccessKeyId", "SecretAccessKey", "SessionToken"), _end(found, lasts), how


def _end(found: Any, lasts: float) -> float:
    expiration = found["Credentials"].get("Expiration")
    return expiration.timestamp() if isinstance(expiration, datetime) else time.time() + lasts


def _options(found: Mapping[str, Any], *names: str) -> dict[str, str]:
    key, secret, token = (found.get(name) for name in names)
    if not (isinstance(key, str) and isinstance(secret, str) and isinstance(token, str) and key and secret and token):
        raise NotMinted("the answer holds no credentials")
    return {"access_key_id": key, "secret_access_key": secret, "session_token": token}


async def _r2(
    host: str, options: Mapping[str, str], bucket: str, prefix: str, lasts: float
) -> tuple[dict[str, str], float, str]:
    """Cloudflare R2's temporary credentials (its API's r2/temp-access-credentials), derived from the fleet's key."""
    import httpx

    token = os.environ.get(R2_TOKEN)
    if not token:
        raise NotMinted(f"R2 issues them by its API: set {R2_TOKEN} where the controller is started")
    base = os.environ.get("VL_CLOUDFLARE_API", R2_API)
    account = host.split(".")[0]
    asked = {
        "bucket": bucket, "parentAccessKeyId": options.get("access_key_id", ""), "permission": "object-read-write",
        "ttlSeconds": int(lasts), "prefixes": [prefix],
    }  # fmt: skip
    try:
        async with httpx.AsyncClient(timeout=_MINT_S, trust_env=True) as client:
            answer = await client.post(
                f"{base}/accounts/{account}/r2/temp-access-credentials", json=asked,
                headers={"Authorization": f"Bearer {token}"},
            )  # fmt: skip
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise NotMinted(f"R2's API can't be asked: {type(error).__name__}") from None
    result = body.get("result") if isinstance(body, dict) else None
    if answer.status_code != 200 or not isinstance(result, dict):
        raise NotMinted(f"R2's API refuses: status {answer.status_code}")
    return _options(result, "accessKeyId", "secretAccessKey", "sessionToken"), time.time() + lasts, "R2's API"


# -- the trial ---------------------------------------------------------------------------------------------------


async def _tried(url: str, options: Mapping[str, str], run: str) -> None:
    """That they open the run's head, and not the list of all runs. Raises ``NotMinted``; a store that does not answer
    proves nothing against them."""
    store = open_store(url, options, timeout_s=10.0)
    try:
        try:
            await store.get(head_key(run))
        except Denied:
            raise NotMinted("what the store issues opens nothing") from None
        except StoreError:
            return
        try:
            await store.list(RUNS_PREFIX)
        except StoreError:
            return
    finally:
        await store.close()
    raise NotMinted("what the store issues is not limited to the run")
