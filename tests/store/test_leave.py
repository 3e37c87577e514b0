"""A process that used the store ends with its own exit code."""

from __future__ import annotations

import asyncio
import random
import sys

WITH_REQUESTS_UNDER_WAY = """
import asyncio, sys
from vl_agent.store import leave, open_store

async def go(endpoint):
    store = open_store("s3://b/x", {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b"}, timeout_s=5)
    asked = [asyncio.create_task(store.get(f"k{i}")) for i in range(60)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for task in asked:
        task.cancel()

asyncio.run(go(sys.argv[1]))
print("last words")
leave(3)
"""


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(random.random() * 0.06)
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


async def test_answers_that_come_while_a_process_ends_do_not_abort_it() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        for _ in range(8):  # with Python's own way out one in ten is aborted
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WITH_REQUESTS_UNDER_WAY, endpoint, stdout=asyncio.subprocess.PIPE
            )
            told, _ = await process.communicate()
            assert (process.returncode, told) == (3, b"last words\n")
