"""``vl-agent checkpoints``, ``pin`` and ``rollback``: a person's word on a run's durable checkpoints, where no
controller keeps the run."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from vl_agent import head as heads
from vl_agent.failure import FINISHED, Mistake
from vl_agent.head import NewerController
from vl_agent.protocol import Head, check_name
from vl_agent.store import NotFound, Store, open_store

Work = Callable[[Store, str], Awaitable[str]]


def main(args: argparse.Namespace) -> int:
    """Do what the command says and print what came of it. Raises ``Mistake``, ``heads.Refused``, ``StoreError``."""
    work: dict[str, Work] = {
        "checkpoints": lambda store, run: _list(store, run, as_json=args.json),
        "pin": lambda store, run: _pin(store, run, args.step, pinned=not args.off),
        "rollback": lambda store, run: _roll_back(store, run, args.step),
    }
    options = {"endpoint": args.endpoint} if args.endpoint else {}
    print(asyncio.run(_opened(args.store, options, check_name(args.name), work[args.command])))
    return FINISHED


async def _opened(url: str, options: dict[str, str], run: str, work: Work) -> str:
    store = open_store(url, options)
    try:
        return await work(store, run)
    except NotFound:
        raise Mistake(f"{url}: there is no run called {run}.") from None
    finally:
        await store.close()


async def _list(store: Store, run: str, *, as_json: bool) -> str:
    head, _ = await heads.read(store, run)
    return json.dumps(document(run, head), indent=2) if as_json else "\n".join(table(run, head))


async def _pin(store: Store, run: str, step: int, *, pinned: bool) -> str:
    await heads.pin(store, run, step=step, pinned=pinned)
    return pin_words(run, step, pinned=pinned)


async def _roll_back(store: Store, run: str, step: int) -> str:
    before, _ = await heads.read(store, run)
    try:
        await heads.rollback(store, run, generation=0, step=step, expect_epoch=before.epoch)
    except NewerController:
        raise Mistake(f"{run} is kept by a controller: use `vl-tui rollback {run} {step}`.") from None
    return f"{run}: rolled back to step {step}; what trains now is fenced. Start it again with `vl-agent run`."


def pin_words(run: str, step: int, *, pinned: bool) -> str:
    return f"{run}: step {step} " + ("is kept until you unpin it" if pinned else "is no longer pinned")


def document(run: str, head: Head) -> dict[str, object]:
    """The kept checkpoints for a program; ``resumes_from`` None: there is none yet."""
    newest = head.checkpoint.step if head.checkpoint else None
    return {"run": run, "resumes_from": newest, "kept": [asdict(entry) for entry in head.kept]}


def table(run: str, head: Head) -> list[str]:
    """The kept checkpoints for a person, newest first. What a rollback went back behind stays until the next one is
    durable."""
    if not head.kept:
        return [f"{run} has no durable checkpoint yet"]
    lines = ["STEP          ATTEMPT"]
    for entry in sorted(head.kept, key=lambda entry: (entry.step, entry.epoch), reverse=True):
        notes = ["pinned"] if entry.pinned else []
        if head.checkpoint is not None and entry.manifest == head.checkpoint.manifest:
            notes.append("the run resumes from here")
        elif entry.suspect:
            notes.append(f"suspect, {entry.suspect}: resumed from only after a rollback to it")
        elif head.checkpoint is not None and entry.step > head.checkpoint.step:
            notes.append("left behind by a rollback: goes with the next checkpoint, unless it is pinned")
        lines.append(f"{entry.step:<12}  {entry.epoch:<7}  {', '.join(notes)}".rstrip())
    return lines
