"""The supervisor of one launch: prepares the box, waits for its epoch, runs the attempt, ends.

One process, detached, alive through every drop of the SSH link. It is told things through a Unix socket in its folder
(``vl_agent.channel`` relays them) and tells through files there and through the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vl_agent import deadman, hide, paths, processes, recognise, training
from vl_agent import head as heads
from vl_agent.attempt import Attempt
from vl_agent.checkpoints.restore import prefetch
from vl_agent.head import Fenced
from vl_agent.journal import Journal
from vl_agent.leaving import UNKNOWN_WINDOW_S
from vl_agent.log import LogShipper
from vl_agent.notices import Notice
from vl_agent.notices.watches import Watches
from vl_agent.protocol import AgentConfig, Head, ProtocolError, RunSpec, beat_key, decode, encode, spec_key
from vl_agent.status import Status
from vl_agent.store import Store, StoreError, open_store
from vl_agent.workdir import SetupFailed, set_up, unpack

T = TypeVar("T")

TICK_S = 1.0
"""Between beats into the file that ``attach`` relays."""
LINGER_S = 5.0
"""After its last word it stays so long, for whoever is attached."""
UNUSED_S = 3600.0
"""A prepared box that is never given an epoch ends itself after so long."""
_MOST_EARLY = 20


class Supervisor:
    """Owns one launch on this box. ``lock`` is held (flock) for its whole life."""

    def __init__(self, config: AgentConfig, folder: paths.LaunchFolder) -> None:
        self.config, self.folder = config, folder
        self.status = Status(config.launch)
        self.store: Store = open_store(config.store, config.store_options)
        self._token: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._given_up = asyncio.Event()
        self._attempt: Attempt | None = None
        self._notice: Notice | None = None
        self._news = asyncio.Event()
        self._early: list[Callable[[Attempt], None]] = []
        self._watches = Watches(config.notices, self, recognise.here(), ask=not config.owned)

    async def run(self) -> None:
        """From start to the last beat. Never raises but on cancellation: what goes wrong is told in the beat."""
        beating = asyncio.create_task(self._keep_beating())
        await self._live()
        await self._linger()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await self._watches.close()
        self._write_beat()
        await self._beat_to_store()
        await self.store.close()

    async def _live(self) -> None:
        """Its life, unless the limit that the person set comes first. What goes wrong is told."""
        life, late = asyncio.create_task(self._life()), asyncio.create_task(self._dead_man())
        try:
            await asyncio.wait({life, late}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()
                return
            life.cancel()  # which ends its training
            await asyncio.gather(life, return_exceptions=True)
            self._finish(f"the store did not answer for {self.config.deadman_s:.0f} s, the limit that was set")
        except OSError as error:
            self._say_ended(f"{error.filename or 'this box'}: {error.strerror or error}")
        except ProtocolError as error:
            self._say_ended(str(error))
        except Exception:  # noqa: BLE001 - the last place that can tell anybody
            traceback.print_exc()
            self._say_ended("the agent itself failed: see supervisor.log on the box")
        finally:
            for task in (life, late):
                task.cancel()
            await asyncio.gather(life, late, return_exceptions=True)

    async def _dead_man(self) -> None:
        """Returns when the store has not answered for as long as the person lets a box wait."""
        limit, answered = self.config.deadman_s, time.monotonic()
        if limit is None or self.config.owned:
            await asyncio.Event().wait()
        while limit is not None and time.monotonic() - answered < limit:
            await asyncio.sleep(min(TICK_S, limit / 10))
            if not self.status.store_error:
                answered = time.monotonic()

    async def _life(self) -> None:
        processes.adopt_orphans()
        await training.end_former(self.folder.training)
        await self._bring_what_was_left()
        try:
            given = await self._unless_given_up(self._until_given())
            if given is None:
                self._finish("was not needed")
                return
            spec, epoch, token = given
            head = await self._claim(epoch, token)
        except SetupFailed as why:
            self._finish(hide.without(str(why), self.config.secrets.values()))
            return
        except Fenced as fenced:
            self._finish(f"fenced: {fenced}")
            return
        await self._try(spec, head)

    async def _until_given(self) -> tuple[RunSpec, int, str] | None:
        """Prepare the box, then wait for its epoch. None: nobody came."""
        spec = await self._prepare()
        self.status.phase, self.status.detail = "prepared", "waits for its epoch"
        self._write_beat()
        try:
            epoch, token = await asyncio.wait_for(asyncio.shield(self._token), UNUSED_S)
        except asyncio.TimeoutError:
            return None
        return spec, epoch, token

    async def _unless_given_up(self, act: Coroutine[Any, Any, T]) -> T | None:
        """What ``act`` returns, or None when it is given up before."""
        task, given_up = asyncio.create_task(act), asyncio.create_task(self._given_up.wait())
        first: set[asyncio.Future[Any]] = {task, given_up}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            for one in (task, given_up):
                one.cancel()
            await asyncio.gather(task, given_up, return_exceptions=True)

    async def _try(self, spec: RunSpec, head: Head) -> None:
        """Run the attempt."""
        self.status.epoch = head.epoch
        self._attempt = Attempt(
            self.store, spec, head, self.folder.epoch(head.epoch), self.folder.work, self.folder.control,
            self.folder.training, self.folder.path / "fetched", self.status, self.config.secrets,
        )  # fmt: skip
        how, warning = self.config.store_how, self.config.store_warning
        self._attempt.journal.tell("credentials", how=how, warning=warning)
        for tell in self._early:
            tell(self._attempt)
        if self._notice is not None:
            self._attempt.notice(self._notice)
        looking = asyncio.create_task(self._keep_looking_at_head())
        place, way = self._watches.place, deadman.way(self._watches.place, owned=self.config.owned)
        try:
            ended = await self._attempt.run(
                self.config.box, provider=place.provider, notices=list(self._watches.names), ends=way.words
            )
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        self._never_again(ended.cause)
        if ended.cause not in ("fenced", "host_fault"):
            await self._watches.durable()

    # ------------------------------------------------------------------------------------------- before the attempt

    async def _prepare(self) -> RunSpec:
        """Workdir, setup, and the newest checkpoint ahead of time. The store is asked until it answers."""
        self.status.detail = "fetches the working folder"
        spec: RunSpec = await self._asked(self._spec)
        work = self.folder.work.resolve()
        if spec.name != self.config.run or work not in (work / spec.checkpoints.path).resolve().parents:
            raise ProtocolError(f"the store's spec of {self.config.run} is not one: submit the run again")
        if not self.folder.prepared.exists():
            await self._asked(lambda: unpack(self.store, spec, self.folder.work))
            if spec.setup:
                self.status.detail = "runs setup"
                ours = {name: value for name, value in os.environ.items() if name not in recognise.KEYS}
                env = {**ours, **spec.env, **self.config.secrets}
                await set_up(spec.setup, self.folder.work, self.folder.setup_log, env)
            self.folder.prepared.touch()
        self.status.detail = "fetches the newest checkpoint"
        await self._asked(self._prefetch)
        return spec

    async def _bring_what_was_left(self) -> None:
        """A killed supervisor's last moment: the end of its journal and log, while the store answers."""
        epoch = max(self.folder.epochs(), default=0)
        if not epoch:
            return
        left = self.folder.epoch(epoch)
        journal = Journal(left.journal, self.config.run, epoch, self.store)
        log = LogShipper(left.log, self.config.run, epoch, self.store)
        try:
            with contextlib.suppress(StoreError):
                for one in (journal, log):
                    await one.take_up()
                    await one.ship()
        finally:
            journal.close()

    async def _spec(self) -> RunSpec:
        return decode(RunSpec, (await self.store.get(spec_key(self.config.run))).data)

    async def _prefetch(self) -> None:
        head, _ = await heads.read(self.store, self.config.run)
        await prefetch(self.store, self.config.run, head, self.folder.path / "fetched")

    async def _asked(self, act: Any) -> Any:
        """Ask the store until it answers; the beat says why it waits."""
        pause = 0.5
        while True:
            try:
                answer = await act()
            except StoreError as error:
                self.status.store_error = str(error)
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(10.0, pause * 2)
                continue
            self.status.store_error = ""
            return answer

    async def _claim(self, epoch: int, token: str) -> Head:
        """The first act: only one box with this token wins. Raises ``Fenced``."""

        nonce = secrets.token_hex(8)  # one for all tries: an unanswered one may have been heard

        async def claim() -> Head:
            return await heads.claim(self.store, self.config.run, epoch=epoch, token=token, nonce=nonce)

        head: Head = await self._asked(claim)
        return head

    # ------------------------------------------------------------------------------------------------ while it lives

    async def _keep_looking_at_head(self) -> None:
        """Self-fence: a head at another epoch or holder ends this attempt, also when no save is due for hours."""
        assert self._attempt is not None
        while not self._attempt.is_over:
            await asyncio.sleep(max(1.0, self.config.beat_s))
            await self._attempt.look_at_head()

    async def _keep_beating(self) -> None:
        """Each second; what a notice says goes out at once."""
        stored = 0.0
        writing: asyncio.Task[None] | None = None
        while True:
            if self._news.is_set():
                self._news.clear()
                stored = 0.0
            self._write_beat()
            if self._attempt is not None and self._attempt.pid:
                processes.reap((self._attempt.pid,))
            if time.monotonic() - stored >= self.config.beat_s and (writing is None or writing.done()):
                stored = time.monotonic()
                writing = asyncio.create_task(self._beat_to_store())
            news = asyncio.create_task(self._news.wait())
            await asyncio.wait({news}, timeout=TICK_S)
            news.cancel()

    def _write_beat(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the training; the beat then stands still
            paths.replace_file(self.folder.beat, encode(self.status.beat()))

    async def _beat_to_store(self) -> None:
        if self.status.epoch:
            with contextlib.suppress(StoreError):
                key, began = beat_key(self.config.run, self.status.epoch), time.time()
                await self.store.put(key, encode(self.status.beat()))
                self.status.beat_put = began, time.time()

    # what the sources of notices tell: ``Ear``

    def notice(self, notice: Notice) -> None:
        self._notice = self._notice or notice
        if self._attempt is not None:
            self._attempt.notice(notice)
        elif self.status.notice_deadline is None:
            self.status.notice_deadline = notice.deadline or time.time() + UNKNOWN_WINDOW_S
        self._news.set()

    def withdrawn(self, source: str, detail: str) -> None:
        if self._attempt is not None:
            self._attempt.withdrawn(source, detail)
        elif self._notice is not None and self._notice.source == source:
            self._notice = self.status.notice_deadline = None
        self._news.set()

    def advice(self, source: str, detail: str) -> None:
        self._to_attempt(lambda attempt: attempt.advice(source, detail))

    def trouble(self, source: str, words: str) -> None:
        self._to_attempt(lambda attempt: attempt.trouble(source, words))

    def _to_attempt(self, tell: Callable[[Attempt], None]) -> None:
        """Or later, when there is one: its journal is where it is told."""
        if self._attempt is not None:
            tell(self._attempt)
        elif len(self._early) < _MOST_EARLY:
            self._early.append(tell)

    def _finish(self, detail: str) -> None:
        """The last word of a launch that got no attempt."""
        self._never_again(detail)
        self._say_ended(detail)

    def _never_again(self, why: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: who starts it again is told the same again
            paths.replace_file(self.folder.ended, json.dumps({"epoch": self.status.epoch, "why": why}).encode())

    def _say_ended(self, detail: str) -> None:
        self.status.phase, self.status.detail = "ended", detail

    async def _linger(self) -> None:
        """Let the last word be heard; then a launched box ends its own bill."""
        await asyncio.sleep(LINGER_S)
        place = self._watches.place
        if deadman.way(place, owned=self.config.owned).means in ("none", "exit"):
            return
        self._write_beat()
        await self._beat_to_store()
        trouble = await deadman.end(place, owned=self.config.owned)
        if trouble:
            self.status.detail = f"{self.status.detail}; the box can't end itself: {trouble}"
            if self._attempt is not None:
                await self._attempt.warn(f"the box can't end itself, its controller must: {trouble}")

    # ------------------------------------------------------------------------------------------------------ commands

    def command(self, body: dict[str, Any]) -> tuple[bool, str]:
        """One command from the operator: (done, words). Every command may come twice."""
        name = body.get("command")
        if body.get("run") != self.config.run:
            return False, "that is another run"
        if name == "start":
            return self._start(body.get("epoch"), body.get("token"))
        if name == "end":
            if self._token.done():
                return False, "was given an epoch: use stop"
            self._given_up.set()
            return True, "ends itself"
        if name == "credentials":
            return self._renew(body.get("credentials"), str(body.get("how") or "")[:200])
        if body.get("epoch") != self.status.epoch:
            return False, f"that is epoch {body.get('epoch')}, this box is at {self.status.epoch}"
        if self._attempt is None:
            return False, "nothing runs here yet"
        if name == "stop":
            self._attempt.stop(str(body.get("why") or "stopped")[:200], save=body.get("save") is not False)
            return True, "stops"
        if name == "notice":
            window = body.get("window_s")
            deadline = time.time() + float(window) if isinstance(window, (int, float)) else None
            self.notice(Notice("controller", deadline, "told by the controller"))
            return True, "heard"
        return False, f"no such command: {str(name)[:40]}"

    def _renew(self, credentials: object, how: str) -> tuple[bool, str]:
        """The operator's side brings new credentials before the old ones end. Their values are told to nobody."""
        if not isinstance(credentials, dict) or not all(isinstance(one, str) for one in credentials.values()):
            return False, "credentials are names and values"
        try:
            self.store.renew(credentials)
        except (StoreError, ValueError):
            return False, "the store's client does not take them"
        if self._attempt is not None:
            self._attempt.journal.tell("credentials", how=how, warning="")
        return True, "goes on with the new credentials"

    def _start(self, epoch: object, token: object) -> tuple[bool, str]:
        if type(epoch) is not int or not isinstance(token, str) or not token:
            return False, "a start needs an epoch and a token"
        if self._token.done():
            same = self._token.result() == (epoch, token)
            return same, "started already" if same else f"was given epoch {self._token.result()[0]} before"
        if self.status.phase != "prepared":
            return False, f"not ready: {self.status.phase}"
        self._token.set_result((epoch, token))
        return True, "starts"


async def serve(supervisor: Supervisor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of ``attach``: a JSON line for each command, a JSON line back."""
    try:
        while line := await reader.readline():
            try:
                body = json.loads(line)
            except ValueError:
                body = None
            done, words = supervisor.command(body) if isinstance(body, dict) else (False, "not a command")
            writer.write(json.dumps({"ok": done, "detail": words}).encode() + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):
        pass
    finally:
        writer.close()


async def main(config: AgentConfig, folder: paths.LaunchFolder, ready: Callable[[], None]) -> None:
    """Run a supervisor in this process; ``ready()`` is called once its socket listens. Raises ``StoreError`` before
    that when the store's URL is none."""
    os.chdir(folder.path)  # a socket's path may have 108 bytes: it is bound by its bare name
    folder.socket.unlink(missing_ok=True)
    supervisor = Supervisor(config, folder)
    server = await asyncio.start_unix_server(
        lambda reader, writer: serve(supervisor, reader, writer), path="socket", limit=256 * 1024
    )
    os.chmod("socket", 0o600)
    supervisor._write_beat()
    ready()
    async with server:
        await supervisor.run()
    sys.stdout.flush()
