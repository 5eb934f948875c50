"""What a measurement tells of the work inside it."""

from __future__ import annotations

import resource
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from nightshift.usage import Usage, count_rows, measure

_MB = 1024 * 1024


def used(meter: object) -> Usage:
    usage = getattr(meter, "usage", None)
    assert isinstance(usage, Usage)
    return usage


def touched(megabytes: int) -> bytearray:
    return bytearray(b"x") * (megabytes * _MB)


def test_the_peak_is_that_of_the_work_inside_even_after_it_is_freed() -> None:
    large = touched(300)
    del large
    with measure() as idle:
        pass
    with measure() as busy:
        large = touched(200)
        del large
    assert 180 < used(busy).peak_memory_mb - used(idle).peak_memory_mb < 230
    with measure() as after:
        pass
    assert used(busy).peak_memory_mb - used(after).peak_memory_mb > 180, "what was before does not count"


def test_a_child_counts_with_its_memory_and_its_processor_time() -> None:
    with measure() as alone:
        pass
    # More than this process has, and than any child that an earlier test has had: the largest is what counts.
    earlier = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = int(max(used(alone).peak_memory_mb, earlier)) + 300
    work = f"x = bytearray(b'x') * ({size} * {_MB})\nfor _ in range(5_000_000): pass"
    with measure() as meter:
        subprocess.run([sys.executable, "-c", work], check=True)
    assert used(meter).peak_memory_mb > size
    assert used(meter).cpu_seconds > 0.05
    with measure() as idle:
        pass
    assert used(idle).peak_memory_mb < size, "a child that ended before does not count"
    assert used(idle).cpu_seconds < 0.05


def test_a_measurement_within_another_counts_for_both() -> None:
    with measure() as outer:
        first = touched(250)
        del first
        count_rows(1)
        with measure() as inner:
            second = touched(100)
            del second
            count_rows(10)
        count_rows(100)
    assert used(inner).rows == 10
    assert used(outer).rows == 111
    assert used(outer).peak_memory_mb - used(inner).peak_memory_mb > 100
    assert used(outer).seconds >= used(inner).seconds
    assert used(outer).cpu_seconds >= used(inner).cpu_seconds


def test_work_that_fails_is_measured_and_its_error_goes_on() -> None:
    meters = []

    def work() -> None:
        with measure() as meter:
            meters.append(meter)
            count_rows(7)
            raise ValueError("the work")

    with pytest.raises(ValueError, match="the work"):
        work()
    assert used(meters[0]).rows == 7
    assert used(meters[0]).seconds > 0


def test_rows_outside_any_measurement_are_nobodys() -> None:
    count_rows(5)
    with measure() as meter:
        pass
    assert used(meter).rows == 0


def driver() -> ModuleType:
    """The driver's library, as it answers on a machine with one device that this process holds."""
    memory = [1000 * _MB, 3000 * _MB, 2000 * _MB]
    module = ModuleType("pynvml")
    vars(module).update(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=memory.pop(0)),
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=80),
    )
    return module


@pytest.mark.parametrize("holds", [True, False])
def test_a_gpu_counts_for_whoever_holds_it(monkeypatch: pytest.MonkeyPatch, holds: bool) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    monkeypatch.setattr("nightshift.usage._holds_gpu", lambda: holds)
    with measure() as meter:
        pass
    usage = used(meter)
    assert usage.gpu_memory_mb == (2000 if holds else 0)
    assert usage.gpu_utilisation == (0.8 if holds else None)
    assert usage.gpu_seconds is not None
    assert (usage.gpu_seconds > 0) is holds


def test_a_driver_that_fails_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    with measure() as meter:
        pass
    assert used(meter).gpu_seconds is None
