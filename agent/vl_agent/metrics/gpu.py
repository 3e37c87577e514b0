"""The GPUs as NVIDIA's management library tells of them (``pynvml``): figures and events.

Every call is optional: a container, a virtual GPU or an older driver refuses many. The library may also hang when a GPU
has fallen off the bus, so all of it is called in one thread of its own that nobody waits for. Sizes in bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_S = 5.0
SILENT_S = 60.0
"""A library that has not answered for so long hangs."""

LOST, RESET, TIMEOUT = 15, 16, 10
"""NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED, NVML_ERROR_TIMEOUT."""

FATAL_XID = {
    48: "a double-bit memory error", 64: "a memory row could not be remapped", 74: "an NVLink error",
    79: "it has fallen off the bus", 95: "an uncontained memory error", 119: "its system processor does not answer",
    120: "its system processor has failed", 140: "an unrecovered memory error",
}  # fmt: skip
OWN_XID = (13, 31, 43, 45, 94)
"""Usually the program's own doing, or contained to it."""
HELD_DOWN = {0x8: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
_WANTED = 0x8 | 0x2 | 0x4000 | 0x8000
"""Events: XID, double-bit error, GPU unavailable, recovery needed."""
_WAIT_MS = 1000
"""Milliseconds that one wait for events lasts."""


@dataclass(frozen=True)
class Gpu:
    """One GPU's figures; None: it does not tell."""

    uuid: str
    name: str = ""
    busy: float | None = None
    """Share of the last second in which something ran on it, 0 to 1."""
    memory: int | None = None
    memory_most: int | None = None
    celsius: int | None = None
    watts: float | None = None
    held_down: int = 0
    """The reasons why its clock is held down, of those that are no good sign."""
    uncorrected: int | None = None
    """Memory errors since the driver was loaded that could not be corrected."""
    rows_failed: bool = False
    reset_needed: bool = False
    lost: str = ""
    """Not empty: it can't be used, and why."""
    pids: tuple[int, ...] = ()
    """Processes that hold memory on it, as the driver knows them: a container's may be unknown here."""


@dataclass
class Sampled:
    """What the thread has found; replaced as a whole."""

    at: float
    gpus: tuple[Gpu, ...] = ()
    events: tuple[tuple[str, int], ...] = ()
    """Every (GPU, XID) so far, the newest last, at most 100; an event of another kind is its type, negative."""
    driver: bool = True


class GpuWatch:
    """``start`` begins to sample where there is a driver; ``newest`` is what was found last."""

    def __init__(
        self, open_library: Callable[[], Any] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        """``open_library`` gives an initialised ``pynvml`` or one like it, or raises."""
        self._open = open_library or pynvml
        self._monotonic = monotonic
        self._ended = threading.Event()
        self.newest: Sampled | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="gpu", daemon=True).start()

    def stop(self) -> None:
        """The thread ends after its next answer; a library that hangs is left to hang."""
        self._ended.set()

    @property
    def silent(self) -> bool:
        """The library has answered before and does so no more."""
        found = self.newest
        return found is not None and found.driver and self._monotonic() - found.at > SILENT_S

    def _run(self) -> None:
        try:
            library = self._open()
        except Exception:  # noqa: BLE001 - no driver, no library, a broken one: there is nothing to watch
            self.newest = Sampled(self._monotonic(), driver=False)
            return
        sampler = Sampler(library)
        due = self._monotonic()
        gpus: tuple[Gpu, ...] = ()
        while not self._ended.is_set():
            if self._monotonic() >= due:
                due = self._monotonic() + SAMPLE_S
                gpus = sampler.sample()
            self.newest = Sampled(self._monotonic(), gpus, sampler.events)
            if not sampler.wait(_WAIT_MS):
                self._ended.wait(_WAIT_MS / 1000)


def pynvml() -> Any:
    """The library, initialised. Raises where there is no driver."""
    if not any(Path(place).exists() for place in ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")):
        raise OSError("no NVIDIA driver")
    import pynvml as library

    library.nvmlInit()
    return library


class Sampler:
    """Asks the library; every call may block."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        self.events: tuple[tuple[str, int], ...] = ()
        self._handles: list[tuple[str, Any]] = []
        for index in range(self._ask("nvmlDeviceGetCount") or 0):
            handle = self._ask("nvmlDeviceGetHandleByIndex", index)
            self._handles.append((_text(self._ask("nvmlDeviceGetUUID", handle)) or f"GPU {index}", handle))
        self._events = self._registered()

    def sample(self) -> tuple[Gpu, ...]:
        return tuple(self._one(uuid, handle) for uuid, handle in self._handles)

    def wait(self, timeout_ms: int) -> bool:
        """Wait for events and keep them. False: there are none to wait for, nothing was waited."""
        if self._events is None:
            return False
        try:
            event = self._nvml.nvmlEventSetWait_v2(self._events, timeout_ms)
        except self._nvml.NVMLError as error:
            return bool(_code(error) == TIMEOUT)
        uuid = _text(self._ask("nvmlDeviceGetUUID", event.device)) or "a GPU"
        kind = int(event.eventType)
        number = int(event.eventData) if kind == 0x8 else -kind
        self.events = (*self.events, (uuid, number))[-100:]
        return True

    def _registered(self) -> Any:
        events = self._ask("nvmlEventSetCreate")
        if events is None:
            return None
        some = False
        for _, handle in self._handles:
            mask = (self._ask("nvmlDeviceGetSupportedEventTypes", handle) or 0) & _WANTED
            if mask:
                some = self._does("nvmlDeviceRegisterEvents", handle, mask, events) or some
        return events if some else None

    def _one(self, uuid: str, handle: Any) -> Gpu:
        try:
            return self._told(uuid, handle)
        except _Gone as gone:
            return Gpu(uuid, lost=str(gone))

    def _told(self, uuid: str, handle: Any) -> Gpu:
        def ask(name: str, *args: Any) -> Any:
            return self._ask(name, handle, *args, fatal=True)

        use, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
        rows, power = ask("nvmlDeviceGetRemappedRows"), ask("nvmlDeviceGetPowerUsage")
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Gpu(
            uuid=uuid,
            name=_text(ask("nvmlDeviceGetName")),
            busy=None if use is None else use.gpu / 100,
            memory=None if memory is None else int(memory.used),
            memory_most=None if memory is None else int(memory.total),
            celsius=ask("nvmlDeviceGetTemperature", 0),
            watts=None if power is None else power / 1000,
            held_down=(reasons or 0) & sum(HELD_DOWN),
            uncorrected=ask("nvmlDeviceGetTotalEccErrors", 1, 0),  # uncorrected, since the driver was loaded
            rows_failed=bool(rows and rows[3]),
            reset_needed=bool(rows and rows[2]),
            pids=tuple(int(process.pid) for process in ask("nvmlDeviceGetComputeRunningProcesses") or ()),
        )

    def _ask(self, name: str, *args: Any, fatal: bool = False) -> Any:
        """The answer, or None where it is refused or the library is too old. ``fatal``: raises ``_Gone``."""
        try:
            return getattr(self._nvml, name)(*args)
        except self._nvml.NVMLError as error:
            if fatal and _code(error) == LOST:
                raise _Gone("it is lost: fallen off the bus") from None
            if fatal and _code(error) == RESET:
                raise _Gone("it needs a reset") from None
            return None
        except AttributeError:
            return None

    def _does(self, name: str, *args: Any) -> bool:
        try:
            getattr(self._nvml, name)(*args)
        except (self._nvml.NVMLError, AttributeError):
            return False
        return True


class _Gone(Exception):
    """A GPU that can't be used any more; ``str()`` says why."""


def figures(gpus: Iterable[Gpu]) -> list[dict[str, Any]]:
    """For a ``metrics`` event: what is not known is left out."""
    found = []
    for gpu in gpus:
        told = {
            "id": gpu.uuid[:12], "busy": gpu.busy, "memory": gpu.memory, "memory_most": gpu.memory_most,
            "celsius": gpu.celsius, "watts": gpu.watts, "lost": gpu.lost or None,
        }  # fmt: skip
        found.append({name: value for name, value in told.items() if value is not None})
    return found


def _code(error: Any) -> int:
    value = getattr(error, "value", 0)
    return value if isinstance(value, int) else 0


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
