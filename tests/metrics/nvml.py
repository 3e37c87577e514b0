"""A stand-in for ``pynvml`` with the library's own error classes, structures' fields and call names."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


NOT_SUPPORTED, NO_PERMISSION, TIMEOUT, LOST, RESET = 3, 4, 10, 15, 16


@dataclass
class Card:
    uuid: str
    error: int = 0
    """Every call about this GPU fails so."""
    refuses: set[str] = field(default_factory=set)
    reasons: int = 0
    uncorrected: int = 0
    rows: tuple[int, int, int, int] = (0, 0, 0, 0)
    pids: list[int] = field(default_factory=list)


class Nvml:
    """``cards`` may be changed at any time; ``happen`` makes an event."""

    NVMLError = NVMLError

    def __init__(self, *cards: Card, old: bool = False) -> None:
        self.cards = list(cards)
        self.hangs = threading.Event()
        self._happened: deque[SimpleNamespace] = deque()
        if not old:
            self.nvmlDeviceGetCurrentClocksEventReasons = lambda card: self._of(card, "reasons", card.reasons)

    def happen(self, card: Card, kind: int, number: int = 0) -> None:
        self._happened.append(SimpleNamespace(device=card, eventType=kind, eventData=number))

    def _of(self, card: Card, name: str, value: Any) -> Any:
        if card.error:
            raise NVMLError(card.error)
        if name in card.refuses or "all" in card.refuses:
            raise NVMLError(NOT_SUPPORTED)
        return value

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> bytes:
        return bytes(self._of(card, "name", b"A100"))

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:
        return self._of(card, "use", SimpleNamespace(gpu=87, memory=10))

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:
        return self._of(card, "memory", SimpleNamespace(total=80, used=60, free=20))

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> Any:
        assert sensor == 0
        return self._of(card, "temperature", 65)

    def nvmlDeviceGetPowerUsage(self, card: Card) -> Any:
        return self._of(card, "power", 312_500)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: Card) -> Any:
        return self._of(card, "reasons", card.reasons)

    def nvmlDeviceGetTotalEccErrors(self, card: Card, kind: int, counter: int) -> Any:
        assert (kind, counter) == (1, 0)
        return self._of(card, "ecc", card.uncorrected)

    def nvmlDeviceGetRemappedRows(self, card: Card) -> Any:
        return self._of(card, "rows", card.rows)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> Any:
        return self._of(card, "processes", [SimpleNamespace(pid=pid) for pid in card.pids])

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceGetSupportedEventTypes(self, card: Card) -> Any:
        return self._of(card, "events", 0xFFFF)

    def nvmlDeviceRegisterEvents(self, card: Card, mask: int, events: object) -> None:
        self._of(card, "events", mask)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
        if self.hangs.is_set():
            threading.Event().wait()
        if not self._happened:
            threading.Event().wait(min(timeout_ms, 20) / 1000)
            raise NVMLError(TIMEOUT)
        return self._happened.popleft()
