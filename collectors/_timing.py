"""Timing of callables: warm-up by rule, repeats until the median is known, raw samples kept, outliers flagged, never deleted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from warehouse.metrics import LATENCY_STATISTICS, metric

Call: TypeAlias = Callable[[], Any]
Clock: TypeAlias = Callable[[], float]

SAMPLES_PER_TAIL = 20
"""A percentile p above the quartiles is given only from 20 / (1 - p) samples on: 200 for p90, 2000 for p99."""

LEAST_FOR_QUARTILES = 3
"""Samples from which on median and quartiles are given: with few they are the sturdier summary."""

TRIMMED_SHARE = 0.1
"""Of the samples, left out at either end of the trimmed mean."""

OUTLIER_SCORE = 3.5
"""Modified z-score 0.6745 |x - median| / MAD above which a sample is flagged (Iglewicz and Hoaglin, 1993)."""

CONFIDENCE = 0.95
"""Of the interval of the median that ends the repeats."""

FULL_REPEATS = 5
"""Measured executions from which on a run is of quality tier 3."""

HOST_BOUND_RATIO = 1.2
"""A latency above this many times the time the device worked is the host's."""


@dataclass(frozen=True)
class Warmup:
    """Executions before the measured ones: at least `min_runs` and at least `min_s` seconds, but no more once they took
    `budget_share` of the budget; the first is always made."""

    min_runs: int
    min_s: float
    budget_share: float

    def is_over(self, count: int, spent_s: float, budget_s: float) -> bool:
        """Whether `count` executions in `spent_s` seconds are enough, or all that the budget has for them."""
        is_spent = count > 0 and spent_s >= self.budget_share * budget_s
        return is_spent or (count >= self.min_runs and spent_s >= self.min_s)


KERNEL = Warmup(25, 0.1, 0.25)
MODEL = Warmup(3, 0.3, 0.25)
TRAINING = Warmup(30, 0.0, 0.5)
"""The 30 steps of zhang-2023-dissecting."""


@dataclass(frozen=True)
class Sample:
    """One execution: wall clock and processor seconds, and device seconds between events where there is a device.

    `began_s` is its start on the clock of time.perf_counter. Device seconds run from an event before the first kernel to one
    after the last: time in which the device waits for the host counts.
    """

    phase: str
    began_s: float
    wall_s: float
    cpu_s: float
    device_s: float | None


@dataclass(frozen=True)
class Timing:
    """All executions in order, warm-up first. `asked_precision` is the relative half-width that was to end them; 0 for none."""

    samples: tuple[Sample, ...]
    asked_precision: float

    @property
    def measured(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.phase == "measured")

    @property
    def precision(self) -> float | None:
        """Relative half-width of the 95 % interval of the median wall-clock time; None from fewer than 6 repeats."""
        return half_width([sample.wall_s for sample in self.measured])

    @property
    def quality_tier(self) -> int:
        """3 for full repeats, else 2."""
        return 3 if len(self.measured) >= FULL_REPEATS else 2

    @property
    def is_converged(self) -> bool:
        """Whether the median is known as well as was asked for."""
        return self.precision is not None and self.precision < self.asked_precision

    @property
    def note(self) -> str | None:
        """A sentence for `status_detail` where the median is not known as well as was asked for, else None."""
        if self.is_converged or self.asked_precision <= 0:
            return None
        count = len(self.measured)
        if self.precision is None:
            return f"{count} repeats say nothing of the median's 95 % interval"
        return (
            f"95 % interval of the median ±{self.precision:.1%} after {count} repeats, not ±{self.asked_precision:.1%}"
        )

    def columns(self) -> dict[str, float | None]:
        """Columns of `runs`: latency_s and its statistics, cpu_time_s, device_time_s (NULL without a device)."""
        device = [sample.device_s for sample in self.measured if sample.device_s is not None]
        return {
            **summary("latency_s", [sample.wall_s for sample in self.measured]),
            "cpu_time_s": float(np.mean([sample.cpu_s for sample in self.measured])),
            "device_time_s": float(np.mean(device)) if device else None,
        }

    def rows(
        self, run_id: str, is_throttled: Callable[[float, float], bool] = lambda begin, end: False
    ) -> list[dict[str, Any]]:
        """Rows of `samples`: every metric of every execution, flagged `outlier` (among the measured ones) and `throttled`.

        `is_throttled(begin, end)` says whether the device was held back at any time between two readings of
        time.perf_counter: `Telemetry.throttled_between`.
        """
        series: dict[str, list[float | None]] = {
            "latency_s": [sample.wall_s for sample in self.samples],
            "cpu_time_s": [sample.cpu_s for sample in self.samples],
            "device_time_s": [sample.device_s for sample in self.samples],
        }
        phases = [sample.phase for sample in self.samples]
        rows = [row for name, values in series.items() for row in sample_rows(run_id, name, phases, values)]
        throttled = [is_throttled(sample.began_s, sample.began_s + sample.wall_s) for sample in self.samples]
        for row in rows:
            if throttled[row["sample_index"]]:
                row["flags"].append("throttled")
        return rows


def measure(
    call: Call,
    *,
    device: str = "cpu",
    prepare: Call = lambda: None,
    warmup: Warmup = MODEL,
    min_repeats: int = 3,
    max_repeats: int = 50,
    budget_s: float = 1.0,
    precision: float = 0.01,
    watch: AbstractContextManager[Any] | None = None,
    clock: Clock = time.perf_counter,
) -> Timing:
    """Time `call`: after the warm-up at least `min_repeats` times, then on until the 95 % interval of the median is narrower
    than `precision` (relative half-width), the budget is spent or the maximum reached.

    `prepare` runs before each execution, outside the timing. Wall clock runs from a synchronised device to a synchronised
    device; on 'cuda' events on the current stream are taken too. The budget counts warm-up and preparation. `watch` is
    entered around the warm-up alone: what disturbs (sampling memory) never sees a measured repeat.
    """
    rule = _Rule(min_repeats, max_repeats, precision, clock() + budget_s, clock)
    series = _Series(call, prepare, device, rule)
    with watch or nullcontext():
        series.warm(warmup, budget_s)
    while not series.is_done:
        series.repeat()
    return series.timing


def measure_interleaved(
    steps: Mapping[str, tuple[Call, Call]],
    *,
    device: str = "cpu",
    warmup: Warmup = MODEL,
    min_repeats: int = 3,
    max_repeats: int = 50,
    budget_s: float = 1.0,
    precision: float = 0.01,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time variants side by side, in rounds A B, B A, A B ...: what drifts meets them alike. name -> (call, prepare).

    Each is warmed up first, all share the budget, and a variant whose median is known (see `measure`) goes on until all are.
    """
    rule = _Rule(min_repeats, max_repeats, precision, clock() + budget_s, clock)
    series = {name: _Series(call, prepare, device, rule) for name, (call, prepare) in steps.items()}
    for one in series.values():
        one.warm(warmup, budget_s / len(series))
    order = list(series.values())
    while not all(one.is_done for one in order):
        for one in order:
            one.repeat()
        order.reverse()
    return {name: one.timing for name, one in series.items()}


@dataclass(frozen=True)
class _Rule:
    """When repeats end."""

    min_repeats: int
    max_repeats: int
    precision: float
    deadline: float
    clock: Clock


class _Series:
    """The executions of one variant."""

    def __init__(self, call: Call, prepare: Call, device: str, rule: _Rule) -> None:
        self._call, self._prepare, self._device, self._rule = call, prepare, device, rule
        self._warm: list[Sample] = []
        self._measured: list[Sample] = []
        self._next_check = rule.min_repeats
        self.is_done = False

    @property
    def timing(self) -> Timing:
        return Timing((*self._warm, *self._measured), self._rule.precision)

    def warm(self, warmup: Warmup, budget_s: float) -> None:
        clock, began = self._rule.clock, self._rule.clock()
        while not warmup.is_over(len(self._warm), clock() - began, budget_s):
            self._prepare()
            self._warm.append(_execute(self._call, "warmup", self._device, clock))

    def repeat(self) -> None:
        self._prepare()
        self._measured.append(_execute(self._call, "measured", self._device, self._rule.clock))
        self.is_done = self.is_done or self._may_end()

    def _may_end(self) -> bool:
        """The interval is looked at whenever there are a tenth more samples."""
        count = len(self._measured)
        if count < self._rule.min_repeats:
            return False
        if count >= self._rule.max_repeats or self._rule.clock() >= self._rule.deadline:
            return True
        if count < self._next_check:
            return False
        self._next_check = count + 1 + count // 10
        width = half_width([sample.wall_s for sample in self._measured])
        return width is not None and width < self._rule.precision


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the median over the median; None from fewer than 6 values or a median of 0.

    The interval lies between two order statistics, whatever the distribution: the k-th smallest and k-th largest for the
    largest k with P(Binomial(n, 1/2) < k) <= 0.025.
    """
    rank = _interval_rank(len(values))
    median = float(np.median(values)) if rank else 0.0
    if not rank or median <= 0:
        return None
    ordered = np.partition(values, [rank - 1, len(values) - rank])
    return float(ordered[len(values) - rank] - ordered[rank - 1]) / (2 * median)


def _interval_rank(count: int) -> int:
    """k of `half_width`, 1-based; 0 where there is none. Above 1000 values the normal approximation (rounded outwards)."""
    if count > 1000:
        return math.floor((count - 1.96 * math.sqrt(count)) / 2)
    tail, rank = 0.0, 0
    while (tail := tail + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    return rank


def is_host_bound(latency_s: float, device_time_s: float | None, kernel_time_s: float | None = None) -> bool | None:
    """Whether the host sets the pace: `latency_s` above 1.2 x `kernel_time_s`, in which kernels ran.

    Without it `device_time_s` can only prove it: it runs from event to event, gaps in which the device waits for the host
    included, so that a latency near it says nothing. None where nothing is known, as on a CPU.
    """
    if kernel_time_s is not None:
        return latency_s > HOST_BOUND_RATIO * kernel_time_s
    is_proven = device_time_s is not None and latency_s > HOST_BOUND_RATIO * device_time_s
    return True if is_proven else None


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
    if statistic == "trimmed":
        cut = int(len(values) * TRIMMED_SHARE)
        return float(np.mean(np.sort(values)[cut : len(values) - cut])) if len(values) >= LEAST_FOR_QUARTILES else None
    percent = int(statistic.removeprefix("p"))
    return float(np.percentile(values, percent)) if len(values) >= least_for(percent) else None


def least_for(percent: int) -> int:
    """Values from which on a percentile is given.

    >>> [least_for(percent) for percent in (50, 90, 99)]
    [3, 200, 2000]
    """
    return LEAST_FOR_QUARTILES if percent <= 75 else math.ceil(SAMPLES_PER_TAIL * 100 / (100 - percent))


def _execute(call: Call, phase: str, device: str, clock: Clock) -> Sample:
    if device != "cuda":
        cpu, began = time.process_time(), clock()
        result = call()
        wall, cpu = clock() - began, time.process_time() - cpu
        del result  # held till here: giving memory back is not part of the phase
        return Sample(phase, began, wall, cpu, None)
    import torch

    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    cpu, began = time.process_time(), clock()
    start.record()
    result = call()
    end.record()
    torch.cuda.synchronize()
    wall, cpu = clock() - began, time.process_time() - cpu
    del result
    return Sample(phase, began, wall, cpu, start.elapsed_time(end) / 1e3)
