"""Opening the fleet's store with credentials from the usual places.

The places are boto3's (environment, ``~/.aws``, SSO, roles): it knows them all. It is imported only when the
environment alone does not answer, because importing it costs more than the rest of a command's start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vl_agent.store import Denied, Store, open_store

from vl_tui.config import FleetConfig


def open_fleet_store(fleet: FleetConfig, *, timeout_s: float = 30.0) -> Store:
    """The store that ``fleet.yaml`` names. Blocks while credentials are looked up (SSO may take a second): call it in a
    thread. Raises ``StoreError``."""
    return open_store(fleet.store, store_options(fleet), timeout_s=timeout_s)


def store_options(fleet: FleetConfig) -> dict[str, str]:
    """Endpoint, region and credentials for ``open_store``; also what a box is given. Raises ``Denied`` when an S3 store
    has no credentials anywhere."""
    options = fleet.store_options
    if fleet.store.startswith("s3://"):
        options |= _s3_credentials(fleet.store, options.get("region"))
    return options


def _s3_credentials(url: str, region: str | None) -> dict[str, str]:
    found = _from_environment(os.environ)
    if found is None:
        found = _from_boto3(region)
    if found is None:
        raise Denied(
            f"{url}: no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run"
            " `aws configure`."
        )
    return found


def _from_environment(env: Mapping[str, str]) -> dict[str, str] | None:
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        return None
    options = {"access_key_id": key, "secret_access_key": secret}
    if env.get("AWS_SESSION_TOKEN"):
        options["session_token"] = env["AWS_SESSION_TOKEN"]
    return options


def _from_boto3(region: str | None) -> dict[str, str] | None:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session(region_name=region)
        credentials = session.get_credentials()
        if credentials is None:
            return None
        frozen = credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise Denied(f"AWS credentials can't be read: {error}") from None
    if not frozen.access_key or not frozen.secret_key:
        return None
    options = {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key}
    if frozen.token:
        options["session_token"] = frozen.token
    if session.region_name and not region:
        options["region"] = session.region_name
    return options
