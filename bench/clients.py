"""One transfer by one client, measured from the inside: ``python -m bench.clients NAME up|down PATH SIZE``.

Clients that are programs of their own (s5cmd) are not here. Ours leaves what it sent (a ``BlobRef``) beside the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ENDPOINT, BUCKET = os.environ["BENCH_ENDPOINT"], os.environ["BENCH_BUCKET"]
KEY = "bench/single"


def ours(direction: str, path: Path, size: int) -> Any:
    from vl_agent.checkpoints.download import fetch
    from vl_agent.checkpoints.upload import Uploads
    from vl_agent.protocol import BlobRef, blob_key, decode, encode
    from vl_agent.store import open_store

    keys = {"access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"]}
    store = open_store(f"s3://{BUCKET}/ours", {"endpoint": ENDPOINT, **keys})
    beside = path.with_name("sent.json")
    made = 0

    def new_key(digest: str) -> str:
        nonlocal made
        made += 1
        return blob_key("bench", digest, 1, made)

    async def up() -> None:
        uploads = Uploads(store)
        uploads.hurry()
        uploads.begin(path, size)
        sent = await uploads.send(path, {}, new_key)
        beside.write_bytes(encode(sent.ref(path.name, 0o600)))

    async def down() -> None:
        await fetch(store, [(decode(BlobRef, beside.read_bytes()), path)])

    return lambda: asyncio.run(up() if direction == "up" else down())


def boto3(direction: str, path: Path, size: int) -> Any:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(s3={"addressing_style": "path"}))
    if direction == "up":
        return lambda: client.upload_file(str(path), BUCKET, KEY)
    return lambda: client.download_file(BUCKET, KEY, str(path))


def crt(direction: str, path: Path, size: int) -> Any:
    """Through s3transfer: boto3's own way to it can't reach another endpoint."""
    import botocore.session
    from botocore.config import Config
    from s3transfer import crt

    session = botocore.session.get_session()
    made = crt.create_s3_crt_client(
        "us-east-1", crt.BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider(),
        use_ssl=False,
    )  # fmt: skip
    serializer = crt.BotocoreCRTRequestSerializer(
        session,
        {"endpoint_url": ENDPOINT, "region_name": "us-east-1", "config": Config(s3={"addressing_style": "path"})},
    )

    def go() -> None:
        with crt.CRTTransferManager(made, serializer) as manager:
            if direction == "up":
                manager.upload(str(path), BUCKET, KEY).result()
            else:
                manager.download(BUCKET, KEY, str(path)).result()

    return go


def main() -> None:
    name, direction, path, size = sys.argv[1:]
    go = {"vl-agent": ours, "boto3": boto3, "crt": crt}[name](direction, Path(path), int(size))
    began, cpu = time.perf_counter(), time.process_time()
    go()
    said = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    print(json.dumps(said), flush=True)
    os._exit(0)  # threads of the clients under test have their own ideas of an end


if __name__ == "__main__":
    main()
