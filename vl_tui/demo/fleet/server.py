"""The fleet's Unix socket: a JSON object a line, answered by one, in the order of asking on each connection.

``{"call": "launch", "provider": "nimbus", ...}`` is answered by ``{"ok": ...}``, or by ``{"error": {"kind", "words",
"remedy", "place"}}``, the kind being the name of a ``ProviderError``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from vl_tui.demo.fleet.fleet import Fleet
from vl_tui.providers.base import Invalid, ProviderError

LINE_MOST = 1 << 20


class Server:
    """Answers calls by a ``Fleet``'s methods; it keeps nothing itself but which replies are to be lost."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lose = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._calls: Mapping[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "providers": self._providers,
            "offers": self._offers,
            "launch": self._launch,
            "find": self._find,
            "describe": self._describe,
            "ours": self._ours,
            "terminate": self._terminate,
            "reclaim": self._reclaim,
            "partition": self._partition,
            "heal": self._heal,
            "boxes": lambda _: self._fleet.boxes(),
            "orphans": lambda _: self._fleet.orphans(),
            "lose_replies": self._lose_replies,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until its end."""
        self._open.add(writer)
        try:
            while line := await reader.readline():
                answer = await self._answer(line)
                if answer is None:
                    return
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            return  # the caller left, or sent a line without end
        finally:
            self._open.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        for writer in self._open:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any] | None:
        """None: the call was carried out, and its reply is lost."""
        try:
            asked = json.loads(line)
            call = self._calls[asked["call"]]
        except (ValueError, KeyError, TypeError):
            return _refusal(Invalid("No such call."))
        try:
            result = await call(asked)
        except ProviderError as error:
            return _refusal(error)
        except (KeyError, TypeError, ValueError) as error:
            return _refusal(Invalid(f"{asked['call']}: wrong arguments ({error})."))
        if asked["call"] == "launch" and self._lose > 0:
            self._lose -= 1
            return None
        return {"ok": result}

    # -- the providers' calls --

    async def _providers(self, _: dict[str, Any]) -> Any:
        return {name: asdict(caps) for name, caps in self._fleet.providers().items()}

    async def _offers(self, asked: dict[str, Any]) -> Any:
        return [asdict(offer) for offer in self._fleet.offers(asked["provider"], asked["gpu"], asked.get("market"))]

    async def _launch(self, asked: dict[str, Any]) -> Any:
        names = ("provider", "name", "place", "market", "gpu", "tags", "public_key")
        return asdict(self._fleet.launch(*(asked[name] for name in names)))

    async def _find(self, asked: dict[str, Any]) -> Any:
        return [asdict(box) for box in self._fleet.find(asked["provider"], asked["name"])]

    async def _describe(self, asked: dict[str, Any]) -> Any:
        found = self._fleet.describe(asked["provider"], asked["ids"])
        return {box: asdict(state) if state else None for box, state in found.items()}

    async def _ours(self, asked: dict[str, Any]) -> Any:
        return [asdict(box) for box in self._fleet.ours(asked["provider"], asked["fleet"])]

    async def _terminate(self, asked: dict[str, Any]) -> Any:
        await self._fleet.terminate(asked["provider"], asked["box"])

    # -- the lab's --

    async def _reclaim(self, asked: dict[str, Any]) -> Any:
        await self._fleet.reclaim(asked["box"], float(asked["notice_s"]))

    async def _partition(self, asked: dict[str, Any]) -> Any:
        self._fleet.partition(asked["box"])

    async def _heal(self, asked: dict[str, Any]) -> Any:
        what = asked.get("what", "all")
        if what not in ("link", "word", "all"):
            raise Invalid("What heals is the link, the word, or all.")
        self._fleet.heal(asked["box"], what)

    async def _lose_replies(self, asked: dict[str, Any]) -> Any:
        self._lose = int(asked["count"])


def _refusal(error: ProviderError) -> dict[str, Any]:
    return {"error": {"kind": type(error).__name__, "words": error.words, "remedy": error.remedy, "place": error.place}}
