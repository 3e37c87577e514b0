"""GPUs as the management library tells of them: through a stand-in, and by name through the real one.

No GPU was there when these were written: what the library answers on hardware was not seen.
"""

from __future__ import annotations

import inspect
import os

import pytest
from vl_agent.metrics import gpu
from vl_agent.metrics.gpu import Gpu, GpuWatch, Sampled, Sampler, figures
from vl_agent.metrics.gpu_faults import Fault, Faults, of_event

from tests.agent.protected import until
from tests.metrics.nvml import LOST, RESET, Card, Nvml

GONE = 2**22 + 1
"""No process has this number."""


def faults_of(*cards: Card) -> list[Fault]:
    return Faults().of(Sampled(0.0, Sampler(Nvml(*cards)).sample()))


def test_all_figures_of_a_gpu_are_told() -> None:
    (found,) = Sampler(Nvml(Card("GPU-1", pids=[7]))).sample()
    assert found == Gpu("GPU-1", "A100", 0.87, 60, 80, 65, 312.5, 0, 0, False, False, "", (7,))
    assert figures([found]) == [
        {"id": "GPU-1", "busy": 0.87, "memory": 60, "memory_most": 80, "celsius": 65, "watts": 312.5}
    ]


def test_every_call_may_be_refused() -> None:
    (found,) = Sampler(Nvml(Card("GPU-1", refuses={"all"}))).sample()
    assert found == Gpu("GPU-1")
    assert figures([found]) == [{"id": "GPU-1"}]
    assert faults_of(Card("GPU-1", refuses={"all"})) == []


def test_an_older_driver_names_its_reasons_otherwise() -> None:
    (found,) = Sampler(Nvml(Card("GPU-1", reasons=0x40 | 0x4), old=True)).sample()
    assert found.held_down == 0x40, "a power cap is no trouble"


@pytest.mark.parametrize(("error", "words"), [(LOST, "fallen off the bus"), (RESET, "needs a reset")])
def test_a_gpu_that_is_gone_is_a_fatal_fault_and_hides_no_other(error: int, words: str) -> None:
    bad, good = Card("GPU-1", error=error), Card("GPU-2")
    (fault,) = faults_of(bad, good)
    assert (fault.uuid, fault.fatal) == ("GPU-1", True)
    assert words in fault.words


@pytest.mark.parametrize(
    ("number", "fatal"),
    [(79, True), (48, True), (95, True), (63, False), (13, None), (31, None), (94, None), (-2, True)],
)
def test_an_event_is_the_machines_fault_or_the_programs(number: int, fatal: bool | None) -> None:
    fault = of_event("GPU-1", number)
    assert (fault.fatal if fault else None) == fatal


async def test_an_event_that_happens_while_nobody_asks_is_kept() -> None:
    card = Card("GPU-1")
    nvml = Nvml(card)
    watch = GpuWatch(lambda: nvml)
    watch.start()
    nvml.happen(card, 0x8, 79)
    nvml.happen(card, 0x4000)
    try:
        await until(lambda: watch.newest and watch.newest.events == (("GPU-1", 79), ("GPU-1", -0x4000)))
    finally:
        watch.stop()


def test_memory_errors_from_before_the_start_are_no_fault_and_new_ones_are() -> None:
    card = Card("GPU-1", uncorrected=3)
    faults, sampler = Faults(), Sampler(Nvml(card))
    assert faults.of(Sampled(0.0, sampler.sample())) == []
    card.uncorrected = 5
    (fault,) = faults.of(Sampled(5.0, sampler.sample()))
    assert (fault.fatal, fault.words[:1]) == (True, "2")


@pytest.mark.parametrize(("rows", "kind"), [((0, 1, 1, 0), "reset"), ((0, 9, 1, 1), "rows"), ((5, 0, 0, 0), None)])
def test_broken_rows_are_said(rows: tuple[int, int, int, int], kind: str | None) -> None:
    assert [(fault.kind, fault.fatal) for fault in faults_of(Card("GPU-1", rows=rows))] == (
        [(kind, False)] if kind else []
    )


def test_a_clock_held_down_is_said_only_when_it_stays_so() -> None:
    card = Card("GPU-1", reasons=0x20)
    faults, sampler = Faults(), Sampler(Nvml(card))
    assert faults.of(Sampled(0.0, sampler.sample())) == []
    assert faults.of(Sampled(50.0, sampler.sample())) == []
    (fault,) = faults.of(Sampled(61.0, sampler.sample()))
    assert "heat" in fault.words
    card.reasons = 0
    assert faults.of(Sampled(70.0, sampler.sample())) == []
    card.reasons = 0x20
    assert faults.of(Sampled(80.0, sampler.sample())) == []


def test_memory_that_a_dead_process_holds_is_said_where_processes_are_known_here() -> None:
    here = Faults()
    sampled = [Sampled(float(at), (Gpu("GPU-1", pids=(os.getpid(), GONE)),)) for at in range(3)]
    assert [len(here.of(one)) for one in sampled] == [0, 0, 1]
    elsewhere = Faults()
    sampled = [Sampled(float(at), (Gpu("GPU-1", pids=(GONE,)),)) for at in range(3)]
    assert [len(elsewhere.of(one)) for one in sampled] == [0, 0, 0], "the numbers are another container's"


async def test_a_library_that_hangs_is_noticed_and_hangs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SILENT_S", 0.2)
    nvml = Nvml(Card("GPU-1"))
    watch = GpuWatch(lambda: nvml)
    watch.start()
    await until(lambda: watch.newest)
    assert not watch.silent
    nvml.hangs.set()
    await until(lambda: watch.silent)
    watch.stop()


async def test_without_a_driver_there_is_nothing_to_watch() -> None:
    def nothing() -> None:
        raise OSError("no NVIDIA driver")

    watch = GpuWatch(nothing)
    watch.start()
    await until(lambda: watch.newest)
    assert watch.newest == Sampled(watch.newest.at, driver=False)  # type: ignore[union-attr]
    assert not watch.silent


def test_the_real_library_has_every_call_and_number_that_is_used() -> None:
    pynvml = pytest.importorskip("pynvml")
    source = inspect.getsource(gpu)
    names = {name for name in dir(Nvml) if name.startswith("nvml")}
    for name in names | {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlInit"}:
        assert callable(getattr(pynvml, name)), name
        assert name in source, name
    assert (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_TIMEOUT) == (15, 16, 10)
    assert (pynvml.nvmlEventTypeXidCriticalError, pynvml.nvmlEventTypeDoubleBitEccError) == (0x8, 0x2)
    assert (pynvml.nvmlEventTypeGpuUnavailableError, pynvml.nvmlEventTypeGpuRecoveryAction) == (0x4000, 0x8000)
    assert (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC) == (1, 0)
    assert pynvml.NVML_TEMPERATURE_GPU == 0
    assert issubclass(pynvml.NVMLError, Exception)
