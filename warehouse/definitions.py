"""Latency definitions: what each is in token times, and what one says of another.

Where the arrival of every chunk is known, each definition is computed exactly (`per_request`, `pooled`). Where a source gives
one statistic of each of some metrics, `convert` tells another metric exactly, or within bounds, or refuses with the reason: it
never returns a value under a name that it does not deserve. Token counts N are the server's; symbols as in warehouse/metrics.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

DEFINITION_OF = {
    "ttft_s": "first_nonempty_chunk",
    "ttft_scheduled_s": "first_chunk_scheduled",
    "tpot_s": "e2el_minus_ttft_over_n_minus_1",
    "ntpot_s": "e2el_over_n",
    "itl_s": "per_token_split_chunks",
    "icl_s": "per_chunk_request_mean",
    "ttst_s": "second_chunk",
    "e2el_s": "last_chunk",
    "e2el_scheduled_s": "last_chunk_scheduled",
}
"""Definition id of what `per_request` and `convert` give for a metric."""


def per_request(requests: pa.Table) -> dict[str, Floats]:
    """Every definition for every request, from rows of the table `requests`; NaN where a request has none.

    Needs chunk_times_s (after the actual send); chunk_tokens, output_tokens, sent_at_s and scheduled_at_s where known. Arrays of
    shape (requests,), seconds: ttft_s, ttft_scheduled_s, e2el_s, e2el_scheduled_s, tpot_s, ntpot_s, itl_s (mean over the
    tokens after the first chunk), icl_s (mean over the gaps between chunks), ttst_s; and interactivity_per_s, 1 / tpot_s.
    Chunks that bear one time came joined: nothing between them was seen, and what it would take is NaN.
    """
    times = _lists(requests, "chunk_times_s")
    tokens = _lists(requests, "chunk_tokens")
    count = _numbers(requests, "output_tokens")
    late = _numbers(requests, "sent_at_s") - _numbers(requests, "scheduled_at_s")
    first, second, last = times.at(0), times.at(1), times.last()
    later_tokens = np.where(tokens.sizes == times.sizes, tokens.sums() - tokens.at(0), np.nan)
    spread = _above_zero(last - first)
    tpot = _ratio(spread, count - 1)
    return {
        "ttft_s": first,
        "ttft_scheduled_s": first + late,
        "e2el_s": last,
        "e2el_scheduled_s": last + late,
        "tpot_s": tpot,
        "ntpot_s": _ratio(last, count),
        "itl_s": _ratio(spread, later_tokens),
        "icl_s": _ratio(spread, times.sizes - np.ones(1)),
        "ttst_s": _above_zero(second - first),
        "interactivity_per_s": _ratio(np.ones_like(tpot), tpot),
    }


def _above_zero(seconds: Floats) -> Floats:
    return np.where(seconds > 0, seconds, np.nan)


def pooled(requests: pa.Table) -> dict[str, Floats]:
    """Gaps of all requests in one array, long answers weighing more: icl_s (gaps,), and itl_s (tokens after first chunks,).

    A chunk of n tokens gives n gaps of 1/n; requests whose tokens by chunk are unknown give no itl_s.
    """
    times = _lists(requests, "chunk_times_s")
    tokens = _lists(requests, "chunk_tokens")
    gaps, owners = times.gaps()
    known = (tokens.sizes == times.sizes)[owners]
    counts = tokens.tails()[0][(times.sizes == tokens.sizes)[tokens.tails()[1]]].astype(np.int64)
    split = gaps[known]
    some = counts > 0
    return {"icl_s": gaps, "itl_s": np.repeat(split[some] / counts[some], counts[some])}


@dataclass(frozen=True)
class Figure:
    """What is known of a metric: `lower` = `upper` where exact, a range where bounded, both None where refused."""

    metric: str
    statistic: str
    lower: float | None
    upper: float | None
    reason: str
    """How it follows, or why it does not."""

    @property
    def how(self) -> str:
        """`exact`, `bounds` or `refused`."""
        if self.lower is None and self.upper is None:
            return "refused"
        return "exact" if self.lower == self.upper else "bounds"

    @property
    def value(self) -> float | None:
        """The value where it is exact, else None."""
        return self.lower if self.how == "exact" else None

    @property
    def definition(self) -> str | None:
        """Id of the definition that the value follows; None for 1 / TPOT, which has no column."""
        return DEFINITION_OF.get(self.metric)


def convert(
    metric: str, given: Mapping[str, float], *, tokens: int | tuple[int, int] | None = None, statistic: str = "mean"
) -> Figure:
    """A metric from one statistic (`mean`, `p99` ...) of each of some others over the same requests.

    `tokens` is the number N of output tokens of every request, or the least and most of them. A figure that is no time (not finite, or
    not above zero) is refused. Raises ValueError for a metric that nothing converts to.
    """
    if metric not in _WAYS:
        raise ValueError(f"Nothing converts to '{metric}'. Known: {', '.join(_WAYS)}.")
    for name, value in given.items():
        if not _is_time(value):
            return _refused(metric, statistic, f"{name} is {value:g}, and a time is finite and above zero")
    if metric in given:
        return Figure(metric, statistic, given[metric], given[metric], "given")
    ways = [way for way in _WAYS[metric] if set(way.needs) <= set(given)]
    if not ways:
        needs = " or ".join(" and ".join(way.needs) for way in _WAYS[metric])
        return _refused(metric, statistic, f"{metric} follows from {needs}; known: {', '.join(given) or 'nothing'}")
    return ways[0].follow(metric, given, tokens, statistic)


def interactivity(tpot_s: float, statistic: str) -> Figure:
    """Tokens/s of one user, 1 / TPOT. The p-th percentile of TPOT is the (100-p)-th of this; its mean is only bounded below."""
    metric = "interactivity_per_s"
    if not _is_time(tpot_s) or not math.isfinite(1 / tpot_s):
        return _refused(metric, statistic, f"tpot_s is {tpot_s:g}, and a time with an inverse is finite and above zero")
    if statistic == "mean":
        reason = "a mean of inverses is at least the inverse of the mean; how much more depends on the spread"
        return Figure(metric, "mean", 1 / tpot_s, None, reason)
    if not _is_percentile(statistic):
        return _refused(metric, statistic, f"the {statistic} of TPOT says nothing of that of its inverse")
    turned = f"p{100 - float(statistic[1:]):g}"
    return Figure(metric, turned, 1 / tpot_s, 1 / tpot_s, f"1 / TPOT: its {statistic} is the {turned}")


def _is_time(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _is_percentile(statistic: str) -> bool:
    """`p50`, `p99.9`: from p0 to p100."""
    return re.fullmatch(r"p\d+(\.\d+)?", statistic) is not None and float(statistic[1:]) <= 100


Bound: TypeAlias = Callable[[Mapping[str, float], float, float], float]
"""(given, N that makes it least or most in terms that grow with N, the other N) -> value."""


@dataclass(frozen=True)
class _Way:
    """One formula. `formula(given, a, b)` is the metric at N = a = b; its least over N in [low, high] is formula(low, high) and
    its most formula(high, low), or the other way round where it falls with N."""

    needs: tuple[str, ...]
    formula: Bound
    text: str
    least: int
    """Smallest N it holds for."""
    is_falling: bool
    keeps_order: bool
    """Percentiles go over like means: the metric is one other times a constant."""

    def follow(
        self, metric: str, given: Mapping[str, float], tokens: int | tuple[int, int] | None, statistic: str
    ) -> Figure:
        if statistic != "mean" and not (self.keeps_order and _is_percentile(statistic)):
            sum_or_pool = f"{metric} = {self.text} request by request"
            return _refused(metric, statistic, f"{sum_or_pool}, and a {statistic} of several is not made of theirs")
        if tokens is None:
            return _refused(metric, statistic, f"{metric} = {self.text} needs the number of output tokens N")
        low, high = tokens if isinstance(tokens, tuple) else (tokens, tokens)
        if low < self.least or high < low:
            return _refused(
                metric, statistic, f"{metric} = {self.text} needs N from {self.least} on, N is {low} to {high}"
            )
        ends = self.formula(given, low, high), self.formula(given, high, low)
        lower, upper = (ends[1], ends[0]) if self.is_falling else ends
        if not (lower <= upper and 0 <= upper < math.inf):
            found = f"{lower:g}" if lower == upper else f"{lower:g} to {upper:g}"
            return _refused(metric, statistic, f"{self.text} gives {found}: the figures contradict one another")
        reason = self.text + (f", N = {low}" if low == high else f", N from {low} to {high}")
        return Figure(metric, statistic, max(lower, 0.0), upper, reason)


_WAYS: dict[str, tuple[_Way, ...]] = {
    "tpot_s": (
        _Way(("e2el_s", "ttft_s"), lambda g, a, b: (g["e2el_s"] - g["ttft_s"]) / (a - 1),
             "(E2EL - TTFT) / (N - 1)", 2, True, False),
        _Way(("ntpot_s", "ttft_s"), lambda g, a, b: g["ntpot_s"] * a / (a - 1) - g["ttft_s"] / (b - 1),
             "(NTPOT x N - TTFT) / (N - 1)", 2, True, False),
    ),
    "ntpot_s": (
        _Way(("e2el_s",), lambda g, a, b: g["e2el_s"] / a, "E2EL / N", 1, True, True),
        _Way(("tpot_s", "ttft_s"), lambda g, a, b: g["tpot_s"] * (1 - 1 / b) + g["ttft_s"] / a,
             "(TTFT + TPOT x (N - 1)) / N", 1, True, False),
    ),
    "e2el_s": (
        _Way(("ttft_s", "tpot_s"), lambda g, a, b: g["ttft_s"] + g["tpot_s"] * (a - 1), "TTFT + TPOT x (N - 1)", 1, False, False),
        _Way(("ntpot_s",), lambda g, a, b: g["ntpot_s"] * a, "NTPOT x N", 1, False, True),
    ),
    "ttft_s": (
        _Way(("e2el_s", "tpot_s"), lambda g, a, b: g["e2el_s"] - g["tpot_s"] * (a - 1), "E2EL - TPOT x (N - 1)", 1, True, False),
    ),
    "itl_s": (
        _Way(("tpot_s",), lambda g, a, b: g["tpot_s"] * (a - 1) / (b - 1),
             "TPOT weighed by N - 1 (gaps pooled over requests, first chunks of one token)", 2, False, False),
    ),
}  # fmt: skip


def _refused(metric: str, statistic: str, reason: str) -> Figure:
    return Figure(metric, statistic, None, None, reason)


@dataclass(frozen=True)
class _Lists:
    """A column of lists as its values end to end, and where each list begins; a NULL list is an empty one."""

    values: Floats
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def at(self, index: int) -> Floats:
        """(lists,) item of every list, NaN where it is shorter."""
        return self._take(self.starts + index, self.sizes > index)

    def last(self) -> Floats:
        return self._take(self.starts + self.sizes - 1, self.sizes > 0)

    def sums(self) -> Floats:
        running = np.concatenate([[0.0], np.cumsum(self.values)])
        return np.asarray(running[self.starts + self.sizes] - running[self.starts], np.float64)

    def tails(self) -> tuple[Floats, NDArray[np.int64]]:
        """Items but the first of each list, and the list of each."""
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        is_later = np.ones(len(self.values), bool)
        is_later[self.starts[self.sizes > 0]] = False
        return self.values[is_later], owners[is_later]

    def gaps(self) -> tuple[Floats, NDArray[np.int64]]:
        """Differences of neighbours within each list, and the list of each."""
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        is_within = owners[1:] == owners[:-1]
        return np.diff(self.values)[is_within], owners[1:][is_within]

    def _take(self, index: NDArray[np.int64], is_there: NDArray[np.bool_]) -> Floats:
        found = np.full(len(self.sizes), np.nan)
        found[is_there] = self.values[index[is_there]]
        return found


def _lists(rows: pa.Table, name: str) -> _Lists:
    if name not in rows.column_names:
        nothing = np.zeros(rows.num_rows, np.int64)
        return _Lists(np.zeros(0), nothing, nothing)
    column = rows.column(name).combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = pc.list_flatten(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return _Lists(values, np.cumsum(sizes) - sizes, sizes)


def _numbers(rows: pa.Table, name: str) -> Floats:
    if name not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    column: Any = rows.column(name).cast(pa.float64())
    return np.asarray(pc.fill_null(column, np.nan).to_numpy(), np.float64)


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where below is not positive."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
