"""Memory of a measurement: what is resident, its peak, what surely does not fit, where the boundary lies."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

from collectors import _machine, _nvml

STATM = Path("/proc/self/statm")
FREE_SHARE = 0.9
"""Share of the free main memory that may be asked for: beyond it the kernel would kill a process."""


class TooLargeError(Exception):
    """More memory than there is: left out without trying."""


class MemoryWatch:
    """Peak memory while entered, around the warm-up: resident set sampled every 2 ms on a CPU.

    On CUDA the peaks are reset on leaving instead, so that they are those of the measured repeats.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._peak: float | None = None
        self._done = threading.Event()

    def __enter__(self) -> None:
        if self._device != "cuda":
            self._peak = resident_bytes()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            self._done.set()
            self._thread.join()

    def columns(self, baseline: float | None) -> dict[str, float | None]:
        """Memory columns of `runs` (and of `ranks`). On a CPU: peak minus `baseline`, resident before the model was built.

        On CUDA, of the current device: peaks of the allocator, and what the driver sees in use now (the allocator gives
        nothing back in between, so that is the peak), of all processes and of this one. Fragmentation is the difference
        of reserved and peak.
        """
        if self._device == "cuda":
            return _cuda_columns()
        known = self._peak is not None and baseline is not None and self._peak > baseline
        return {"memory_peak_bytes": self._peak - baseline if known else None}  # type: ignore[operator]

    def _sample(self) -> None:
        while True:
            now = resident_bytes()
            if now is not None and self._peak is not None:
                self._peak = max(self._peak, now)
            if self._done.wait(0.002):
                return


def check_free(device: str, needed_bytes: float) -> None:
    """Raise TooLargeError for what surely does not fit: more than a GPU has, or than main memory has free.

    On a CPU it is asked for as one block first, so that what the system refuses fails here with the system's own error (a row
    with status oom) and not by a kill. What a GPU has no room for just now, its allocator refuses by itself.
    """
    import torch

    if device == "cuda":
        total = float(torch.cuda.mem_get_info()[1])
        if needed_bytes > total:
            raise TooLargeError(f"needs at least {gib(needed_bytes)} and the device has {gib(total)}.")
        return
    torch.empty(int(needed_bytes), dtype=torch.uint8)
    free = _machine.available_memory_bytes()
    if free is not None and needed_bytes > FREE_SHARE * free:
        raise TooLargeError(
            f"needs at least {gib(needed_bytes)}, more than {FREE_SHARE:.0%} of the {gib(free)} that are free."
        )


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """Largest number from `low` to `high` that fits, where what fits at one number fits at every smaller one: doubling, then
    bisection. `low - 1` where not even `low` does.
    """
    if low < 1 or high < low:
        raise ValueError(f"The boundary is looked for from 1 on, and from {low} to {high} there is nothing.")
    if not fits(low):
        return low - 1
    good, bad = low, high + 1
    while good < high and bad > high:
        tried = min(2 * good, high)
        if fits(tried):
            good = tried
        else:
            bad = tried
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def resident_bytes() -> float | None:
    """Resident set of this process; None where neither the kernel nor psutil tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return float(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    try:
        import psutil
    except ImportError:
        return None
    return float(psutil.Process().memory_info().rss)


def trim() -> None:
    """Give freed memory back to the system, so that the next run's memory is its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _cuda_columns() -> dict[str, float | None]:
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "memory_peak_bytes": float(torch.cuda.max_memory_allocated()),
        "memory_reserved_bytes": float(torch.cuda.max_memory_reserved()),
        "memory_device_bytes": float(total - free),
        "memory_process_bytes": _process_bytes(torch.cuda.current_device()),
    }


def _process_bytes(index: int) -> float | None:
    with _nvml.opened() as nvml, contextlib.suppress(_nvml.DeviceLostError):
        found = [] if nvml is None else _nvml.handles(nvml)
        if index < len(found):
            return _nvml.process_bytes(nvml, found[index])
    return None


def gib(value: float) -> str:
    return f"{value / 2**30:.1f} GiB"
