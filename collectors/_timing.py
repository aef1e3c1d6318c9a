"""Timing of a callable: warm-up, repeats inside a time budget, raw samples kept, outliers flagged and never deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from warehouse.metrics import LATENCY_STATISTICS, metric

SAMPLES_PER_TAIL = 20
"""A percentile p is given only from 20 / (1 - p) samples on: 40 for p50, 200 for p90, 2000 for p99."""

OUTLIER_SCORE = 3.5
"""Modified z-score 0.6745 |x - median| / MAD above which a sample is flagged (Iglewicz and Hoaglin, 1993)."""


@dataclass(frozen=True)
class Sample:
    """One execution: wall clock and processor seconds, and device seconds between events where there is a device."""

    phase: str
    wall_s: float
    cpu_s: float
    device_s: float | None


@dataclass(frozen=True)
class Timing:
    """All executions in order, warm-up first."""

    samples: tuple[Sample, ...]

    @property
    def measured(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.phase == "measured")

    def columns(self) -> dict[str, float | None]:
        """Columns of `runs`: latency_s and its statistics, cpu_time_s, device_time_s (NULL without a device)."""
        device = [sample.device_s for sample in self.measured if sample.device_s is not None]
        return {
            **summary("latency_s", [sample.wall_s for sample in self.measured]),
            "cpu_time_s": float(np.mean([sample.cpu_s for sample in self.measured])),
            "device_time_s": float(np.mean(device)) if device else None,
        }

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        """Rows of `samples`: every metric of every execution, `outlier` among the measured ones flagged."""
        series: dict[str, list[float | None]] = {
            "latency_s": [sample.wall_s for sample in self.samples],
            "cpu_time_s": [sample.cpu_s for sample in self.samples],
            "device_time_s": [sample.device_s for sample in self.samples],
        }
        phases = [sample.phase for sample in self.samples]
        return [row for name, values in series.items() for row in sample_rows(run_id, name, phases, values)]


def measure(
    call: Callable[[], Any],
    *,
    device: str = "cpu",
    prepare: Callable[[], Any] = lambda: None,
    num_warmup: int = 1,
    min_repeats: int = 3,
    max_repeats: int = 50,
    budget_s: float = 1.0,
    watch: AbstractContextManager[Any] | None = None,
) -> Timing:
    """Time `call` after `num_warmup` executions: at least `min_repeats` times, then on until the budget or the maximum.

    `prepare` runs before each execution, outside the timing. Wall clock runs from a synchronised device to a synchronised
    device; on 'cuda' events on the current stream are taken too. The budget counts warm-up and preparation. `watch` is
    entered around the warm-up alone: what disturbs (sampling memory) never sees a measured repeat.
    """
    began = time.perf_counter()
    samples: list[Sample] = []
    with watch or nullcontext():
        for _ in range(num_warmup):
            prepare()
            samples.append(_execute(call, "warmup", device))
    while len(samples) < num_warmup + min_repeats or (
        len(samples) < num_warmup + max_repeats and time.perf_counter() - began < budget_s
    ):
        prepare()
        samples.append(_execute(call, "measured", device))
    return Timing(tuple(samples))


def summary(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Columns of a metric with statistics: its mean, sample standard deviation (ddof=1, from 2 values on) and
    percentiles (linear interpolation), each None where there are too few values for it."""
    if not values:
        raise ValueError(f"'{name}' has no measured value to summarise.")
    columns: dict[str, float | None] = {name: float(np.mean(values))}
    for statistic in LATENCY_STATISTICS:
        columns[metric(name).column(statistic)] = _statistic(statistic, values)
    return columns


def outliers(values: Sequence[float]) -> list[bool]:
    """Which values lie far from the median, in units of the median absolute deviation; none among fewer than 5."""
    if len(values) < 5:
        return [False] * len(values)
    distance = np.abs(np.asarray(values) - np.median(values))
    spread = float(np.median(distance))
    return [bool(spread > 0 and 0.6745 * one > OUTLIER_SCORE * spread) for one in distance]


def sample_rows(
    run_id: str, name: str, phases: Sequence[str], values: Sequence[float | None], unit: str = "s"
) -> list[dict[str, Any]]:
    """Rows of `samples` of one metric; values of None are left out with their rows."""
    measured = [value for phase, value in zip(phases, values, strict=True) if phase == "measured" and value is not None]
    flagged = iter(outliers(measured))
    return [
        {
            "run_id": run_id,
            "metric": name,
            "sample_index": index,
            "sample_phase": phase,
            "value": value,
            "unit": unit,
            "flags": ["outlier"] if phase == "measured" and next(flagged) else [],
        }
        for index, (phase, value) in enumerate(zip(phases, values, strict=True))
        if value is not None
    ]


def _statistic(statistic: str, values: Sequence[float]) -> float | None:
    if statistic == "std":
        return float(np.std(values, ddof=1)) if len(values) > 1 else None
    percent = int(statistic.removeprefix("p"))
    enough = len(values) * (100 - percent) >= SAMPLES_PER_TAIL * 100
    return float(np.percentile(values, percent)) if enough else None


def _execute(call: Callable[[], Any], phase: str, device: str) -> Sample:
    if device != "cuda":
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        del result  # held till here: giving memory back is not part of the phase
        return Sample(phase, wall, cpu, None)
    import torch

    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    cpu, wall = time.process_time(), time.perf_counter()
    start.record()
    result = call()
    end.record()
    torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del result
    return Sample(phase, wall, cpu, start.elapsed_time(end) / 1e3)
