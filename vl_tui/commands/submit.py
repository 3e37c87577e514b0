"""``vl-tui submit``: check, pack, write the run into the store, and see that a controller keeps it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import glob
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vl_agent import head, protocol
from vl_agent.protocol import CheckpointPolicy, Event, Head, RunSpec
from vl_agent.store import Exists, Store

from vl_tui import failure
from vl_tui.commands import proof, wait, workdir
from vl_tui.commands.opened import with_store
from vl_tui.config import FleetConfig, RunConfig, folders, load_fleet, load_run
from vl_tui.controller import process

Say = Callable[[str], None]


def run(args: argparse.Namespace) -> int:
    fleet, config = load_fleet(args.fleet), load_run(args.file)
    secrets = secret_values(config, os.environ)
    return with_store(fleet, lambda store: _run(fleet, config, store, secrets, stay=args.wait))


async def _run(fleet: FleetConfig, config: RunConfig, store: Store, secrets: Mapping[str, str], *, stay: bool) -> int:
    found = await submit(fleet, config, store, secrets=secrets, say=print)
    await asyncio.to_thread(process.ensure_controller, fleet.path)
    process.wake(fleet.fleet)
    print(_next(config.name, found))
    return await wait.until_ended(fleet, store, config.name) if stay else failure.FINISHED


def _next(name: str, found: Head) -> str:
    if found.epoch or found.state != "waiting":
        return f"{name} was submitted before and is {found.state} (attempt {found.attempt}). See it with `vl-tui`."
    return (
        f"{name}: submitted. The controller looks for a place now; `vl-tui` shows it, `vl-tui logs -f {name}` its log."
    )


async def submit(fleet: FleetConfig, config: RunConfig, store: Store, *, secrets: Mapping[str, str], say: Say) -> Head:
    """Bring the run into the store, where the next controller finds it. Submitting the same again changes nothing.
    Raises ``ConfigError``, ``Refused`` (the working folder), ``StoreError``, ``SshError``."""
    if config.deadline is not None and config.deadline.timestamp() <= time.time():
        raise config.wrong("deadline", f"{config.deadline.isoformat()} has passed already: set a later one.")
    await proof.prove_store(fleet, store)
    await proof.prove_boxes(fleet, say)
    digest = await _send_workdir(config, store, say)
    found = await head.submit(store, spec_of(fleet, config, digest, time.time()))
    if secrets:  # only now: a refused submit must not touch what a run of that name has
        keep_secrets(fleet.state_dir, config.name, secrets)
    await _journal(store, config.name)
    return found


def secret_values(config: RunConfig, env: Mapping[str, str]) -> dict[str, str]:
    """Values of the run's secrets. Raises ``ConfigError`` naming those that ``env`` has not got."""
    missing = [name for name in config.secrets if name not in env]
    if missing:
        raise config.wrong("secrets", f"{', '.join(missing)} not set in this shell: export and submit again.")
    return {name: env[name] for name in config.secrets}


def keep_secrets(state_dir: Path, run_name: str, secrets: Mapping[str, str]) -> None:
    """Write the values for this side's controller, in one rename, readable by this user only."""
    folder = folders.private(state_dir / "secrets")
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:  # made 0600
        json.dump(dict(secrets), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, folder / f"{run_name}.json")


def spec_of(fleet: FleetConfig, config: RunConfig, digest: str, now: float) -> RunSpec:
    """What the store holds of a run: the files' words, with the fleet's defaults filled in. ``now`` in unix seconds."""
    keep = config.checkpoints.keep
    return RunSpec(
        name=config.name,
        fleet=fleet.fleet,
        command=config.run,
        checkpoints=CheckpointPolicy(
            path=config.checkpoints.path,
            every_s=config.checkpoints.every,
            keep=fleet.defaults.keep if keep is None else keep,
            keep_every=config.checkpoints.keep_every,
        ),
        setup=config.setup,
        workdir=digest,
        gpu=config.resources.gpu or "",
        market=config.resources.market,
        deadline=None if config.deadline is None else config.deadline.timestamp(),
        budget_usd=config.budget,
        total_steps=config.steps,
        on_hang=config.on_hang,
        env=config.env,
        secrets=config.secrets,
        grace_s=fleet.defaults.grace,
        submitted_at=now,
    )


async def _send_workdir(config: RunConfig, store: Store, say: Say) -> str:
    """Pack and send the working folder unless the store has those very bytes; return their BLAKE3."""
    with tempfile.TemporaryDirectory(prefix="vl-tui-") as folder:
        tar = Path(folder) / "workdir.tar"
        ignore = (f"/{glob.escape(config.checkpoints.path)}",)
        packed = await asyncio.to_thread(workdir.pack, config.workdir_path, tar, ignore=ignore)
        if packed.left_out:
            say(f"left out, as they lead out of the working folder or are no files: {', '.join(packed.left_out[:5])}")
        key = protocol.workdir_key(config.name, packed.digest)
        if not await store.list(key):
            say(f"sending {config.workdir_path}: {packed.files} files, {packed.size / 1e6:.1f} MB")
            await store.put_file(key, tar)
    return packed.digest


async def _journal(store: Store, run_name: str) -> None:
    """The run's first event. It belongs to no controller yet: generation 0."""
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    line = Event(time.time(), "submitted", 0, {"by": by}).line()
    with contextlib.suppress(Exists):
        await store.create(protocol.journal_key(run_name, protocol.controller_writer(0), 0), line)
