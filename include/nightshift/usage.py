"""What a stretch of work takes of the machine: seconds, processor time, memory, GPU; and what came of it.

Measuring reads counters that the kernel keeps anyway, at the beginning and at the end. Only where NVML finds
a GPU does a thread look at it once a second. What cannot be measured here is None, and never an error.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

_MB = 1024 * 1024
_GPU_INTERVAL = 1.0


@dataclass(frozen=True)
class Usage:
    """What was used.

    Attributes:
        started_at: When it began (UTC).
        seconds: Wall clock.
        cpu_seconds: Of this process and of the children that ended meanwhile, on all cores.
        peak_memory_mb: Highest resident memory of this process, or of a child that was larger.
        rows: What ``count_rows`` was told.
        gpu_seconds: How long this process held a GPU; None where there is none.
        gpu_memory_mb: Most GPU memory beyond what was in use at the beginning, over all devices.
        gpu_utilisation: Mean share of time, 0 to 1, that the busiest device worked while it was held.
    """

    started_at: datetime
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    rows: int
    gpu_seconds: float | None = None
    gpu_memory_mb: float | None = None
    gpu_utilisation: float | None = None


class Meter:
    """A measurement that runs. ``usage`` is there once it has ended; ``told``: the lines of ``tell``."""

    def __init__(self) -> None:
        self.rows = 0
        self.told: list[str] = []
        self.usage: Usage | None = None
        self.peak = 0.0


_running: ContextVar[Meter | None] = ContextVar("running", default=None)


@contextmanager
def measure() -> Iterator[Meter]:
    """Measure what happens inside, also when it raises. Measurements may lie within each other.

    Of children, those count that end inside; a child's memory counts when it is the largest so far of all
    children of this process, because the kernel keeps no more.
    """
    meter, outer = Meter(), _running.get()
    if outer is not None:
        outer.peak = max(outer.peak, _high_water())
    _reset_high_water()
    token = _running.set(meter)
    started_at, began = datetime.now(UTC), time.perf_counter()
    cpu, largest_child = _cpu_seconds(), _largest_child()
    gpu = _GpuWatch.begin()
    try:
        yield meter
    finally:
        _running.reset(token)
        seen = gpu.end() if gpu else {}
        child = _largest_child()
        meter.peak = max(meter.peak, _high_water(), child if child > largest_child else 0.0)
        meter.usage = Usage(
            started_at=started_at,
            seconds=time.perf_counter() - began,
            cpu_seconds=_cpu_seconds() - cpu,
            peak_memory_mb=meter.peak,
            rows=meter.rows,
            **seen,
        )
        if outer is not None:
            outer.peak = max(outer.peak, meter.peak)
            outer.rows += meter.rows
            outer.told += meter.told


def count_rows(rows: int) -> None:
    """Add to the rows of the measurement that runs; without one, nothing happens."""
    meter = _running.get()
    if meter is not None:
        meter.rows += rows


def tell(line: str) -> None:
    """Say in one line what came of the work that is measured; without a measurement, nothing happens."""
    meter = _running.get()
    if meter is not None:
        meter.told.append(line)


def _cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in spent)


def _largest_child() -> float:
    return _megabytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _high_water() -> float:
    """Return the highest resident memory of this process, in MB, since ``_reset_high_water``."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _reset_high_water() -> None:
    # Where the kernel does not let us, the mark is that of the process's whole life: a task has its own.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _megabytes(maxrss: int) -> float:
    return maxrss / _MB if sys.platform == "darwin" else maxrss / 1024


class _GpuWatch:
    """Looks at the GPUs once a second, for as long as one measurement runs.

    Inside a container NVML names processes by numbers of the host, so what this process holds is told by its
    own open files, and how much by the growth of the devices' memory: a pool gives a task its device alone.
    """

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml
        self._devices: list[Any] = [
            nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        ]
        self._before = self._memory()
        self._looks, self._held = 0, 0
        self._peak = 0.0
        self._busy: list[float] = []
        self._began = time.perf_counter()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)

    @classmethod
    def begin(cls) -> _GpuWatch | None:
        """Start looking; None where there is nothing to look at."""
        try:
            import pynvml

            pynvml.nvmlInit()
            watch = cls(pynvml)
            if watch._devices:
                watch._thread.start()
                return watch
        except Exception as error:  # no driver, no device, or a driver that knows less than the library asks
            log.debug("no GPU is measured: %s", error)
            return None
        return None

    def end(self) -> dict[str, Any]:
        """Stop looking, and return the GPU's part of ``Usage``."""
        self._done.set()
        self._thread.join()
        self._look()
        with suppress(Exception):
            self._nvml.nvmlShutdown()
        seconds = time.perf_counter() - self._began
        return {
            "gpu_seconds": seconds * self._held / self._looks if self._looks else 0.0,
            "gpu_memory_mb": self._peak,
            "gpu_utilisation": sum(self._busy) / len(self._busy) if self._busy else None,
        }

    def _watch(self) -> None:
        while not self._done.wait(_GPU_INTERVAL):
            self._look()

    def _look(self) -> None:
        try:
            self._looks += 1
            if not _holds_gpu():
                return
            self._held += 1
            self._peak = max(self._peak, self._memory() - self._before)
            rates = [self._nvml.nvmlDeviceGetUtilizationRates(device).gpu for device in self._devices]
            self._busy.append(max(rates) / 100)
        except Exception as error:  # a device may be lost while it is looked at
            log.debug("a GPU could not be measured: %s", error)

    def _memory(self) -> float:
        used = [int(self._nvml.nvmlDeviceGetMemoryInfo(device).used) for device in self._devices]
        return sum(used) / _MB


def _holds_gpu() -> bool:
    """Tell whether CUDA is in use in this process: it keeps the driver's memory device open."""
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if file.readlink().name.startswith("nvidia-uvm"):
                return True
    return False
