"""When a load was steady, and whether the server took less than it was offered. Pure arithmetic on request times.

Two series tell: requests due and not yet ended, and TTFT from when a request was due, by that time. In a closed loop a request is
due when its slot is free; in an open one it may have to wait for a slot, and the queue is then at the client. A window of time is cut
into ten parts of equal length; the means of the parts, which depend little on one another, are what a slope is tested on (Student's
t). A slope counts only where the change that it makes over the window matters, too: many requests make the smallest drift significant.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Times: TypeAlias = NDArray[np.float64]

NUM_PARTS = 10
LEAST_PARTS = 6
"""Parts with a value, without which no slope is tested."""

DRIFT_CONFIDENCE = 0.95
DRIFT = 0.1
"""A drift ends steadiness: significant either way, and a tenth of the mean over the window."""

LEAST_REQUESTS = 2 * NUM_PARTS
LEAST_S = 30.0
LEAST_SHARE = 0.5
"""A steady window lasts at least 30 s and, of a run of less than a minute, at least half of it."""

BATCH = 5
"""Requests of a batch when the first transient is looked for. It is one where it differs from what follows by a tenth and by three standard
errors: the point of truncation alone follows noise."""

LATEST_BEGIN = 0.25
"""Share of the plateau that may be dropped in search of a window without a drift."""

RISE_CONFIDENCE = 0.99
RISE = 0.75
"""A rise is saturation: significant, and three quarters of the mean over the window. What grows steadily from nothing rises by twice its
mean. Stricter than a drift, for it is looked at again and again while the load runs."""

MAX_WINDOW_S = 120.0
LEAST_SATURATED_REQUESTS = 100
LASTING_S = 10.0
"""Saturation is judged by the last two minutes, from 30 s and 100 ended requests on; to stop a load it must last 10 s."""


@dataclass(frozen=True)
class Window:
    """Seconds from the run's start."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.begin_s

    def holds(self, due_s: float) -> bool:
        """Was it due in the window?"""
        return self.begin_s <= due_s <= self.end_s

    def brought(self, at_s: float) -> bool:
        """Did it arrive in the window? What arrived as it began came before it."""
        return self.begin_s < at_s <= self.end_s


def steady_window(due_s: Sequence[float], ended_s: Sequence[float], ttft_s: Sequence[float | None]) -> Window | None:
    """The steady part of a run, from when its requests were due and ended (failed ones too) and their TTFT from when they were due; None
    where it has none, as under a load that saturates the server.

    It begins when requests due and not ended first reach their median level and TTFT has left its first transient (the truncation point
    with the least standard error of what remains, MSER-5 of White, 1997); it ends when the last is due, after which the load only
    falls, or when those due and not ended last have their median level. What remains must show no drift; where it does, up to a quarter
    more of the beginning is dropped.
    """
    due, ended, ttft = _arrays(due_s, ended_s, ttft_s)
    if len(due) < LEAST_REQUESTS or is_saturated(due_s, ended_s, ttft_s):
        return None
    whole = Window(float(due.min()), float(ended.max()))
    at_s, level = in_flight(due, ended)
    plateau = _plateau(at_s, level, float(due.max()))
    if plateau is None:
        return None
    first = max(plateau.begin_s, _end_of_transient(due, ttft))
    least_s = min(LEAST_S, LEAST_SHARE * whole.length_s)
    for share in np.linspace(0.0, LATEST_BEGIN, 6):
        window = Window(first + float(share) * (plateau.end_s - first), plateau.end_s)
        num_requests = int(np.sum((due >= window.begin_s) & (due <= window.end_s)))
        if window.length_s < least_s or window.length_s <= 0 or num_requests < LEAST_REQUESTS:
            return None
        if not any(_is_drift(values) for values in _series(window, at_s, level, due, ttft)):
            return window
    return None


def concurrency(
    sent_s: Sequence[float], ended_s: Sequence[float], window: Window | None = None
) -> tuple[float, float] | None:
    """Mean (over time) and maximum of the requests in flight in a window, else from the first send to the last end; None without
    a length.

    >>> concurrency([0.0, 0.0, 2.0], [2.0, 4.0, 4.0])
    (2.0, 2.0)
    """
    sent, ended, _ = _arrays(sent_s, ended_s, [])
    if not len(sent):
        return None
    window = window or Window(float(sent.min()), float(ended.max()))
    if window.length_s <= 0:
        return None
    at_s, level = in_flight(sent, ended)
    inside = (at_s >= window.begin_s) & (at_s < window.end_s)
    most = max(float(level[inside].max(initial=0.0)), float(_level_at(at_s, level, window.begin_s)))
    return float(_means(at_s, level, np.array([window.begin_s, window.end_s]))[0]), most


def is_saturated(due_s: Sequence[float], ended_s: Sequence[float], ttft_s: Sequence[float | None]) -> bool | None:
    """Whether an open loop offered more than the server took, over the whole run or its last two minutes; None where it was too
    short to tell. The rule is that of `Saturation`, looked at once.
    """
    due, ended, ttft = _arrays(due_s, ended_s, ttft_s)
    whole = _is_saturated(due, ended, ttft, math.inf)
    return whole or _is_saturated(due, ended, ttft, MAX_WINDOW_S)


class Saturation:
    """The same question, asked while the load runs: cheap enough for every second of a client's loop.

    Only requests that have ended are known to it. Until the last of these was due, those due and not ended are counted right, for a
    server that answers roughly in the order of asking.
    """

    def __init__(self) -> None:
        self._due, self._ended, self._ttft = array("d"), array("d"), array("d")
        self._since_s: float | None = None

    def add(self, due_s: float, ended_s: float, ttft_s: float | None) -> None:
        """A request has ended, failed ones too. Seconds from the run's start, TTFT from when it was due; in any order."""
        self._due.append(due_s)
        self._ended.append(ended_s)
        self._ttft.append(math.nan if ttft_s is None else ttft_s)

    def is_saturated(self, now_s: float) -> bool:
        """Whether requests due and not ended and TTFT have both been rising, at every call of the last 10 s: ask about every second."""
        due, ended, ttft = (np.array(values) for values in (self._due, self._ended, self._ttft))
        recent = ended > now_s - 2 * MAX_WINDOW_S
        if not _is_saturated(due[recent], ended[recent], ttft[recent], MAX_WINDOW_S):
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return self._since_s is not None and now_s - self._since_s >= LASTING_S


def in_flight(began: Times, ended: Times) -> tuple[Times, Times]:
    """Requests begun and not ended as steps: from each time, ascending, the level that begins there; shapes (steps,)."""
    at_s = np.concatenate([began, ended])
    change = np.concatenate([np.ones(len(began)), -np.ones(len(ended))])
    order = np.lexsort((change, at_s))  # an end frees its slot before a send of the same instant takes it
    return at_s[order], np.cumsum(change[order])


def _is_saturated(due: Times, ended: Times, ttft: Times, window_s: float) -> bool | None:
    if len(due) < LEAST_SATURATED_REQUESTS:
        return None
    last = float(due.max())
    window = Window(max(float(due.min()), last - window_s), last)
    if window.length_s < LEAST_S:
        return None
    at_s, level = in_flight(due, ended)
    return all(_is_rise(values) for values in _series(window, at_s, level, due, ttft))


def _plateau(at_s: Times, level: Times, last_due_s: float) -> Window | None:
    """From when the level first reaches its median (over time, until the last was due) to when it last has it."""
    inside = at_s <= last_due_s
    at_s, level = at_s[inside], level[inside]
    length = np.diff(at_s, append=last_due_s)
    if length.sum() <= 0:
        return None
    order = np.argsort(level, kind="stable")
    share = np.cumsum(length[order]) / length.sum()
    median = level[order][int(np.searchsorted(share, 0.5))]
    reached = np.flatnonzero(level >= median)
    end_s = last_due_s if reached[-1] == len(level) - 1 else float(at_s[reached[-1] + 1])
    return Window(float(at_s[reached[0]]), end_s)


def _end_of_transient(due: Times, ttft: Times) -> float:
    """When the first request was due after the first transient of TTFT, within the first half of the requests; -inf for none."""
    known = np.isfinite(ttft)
    order = np.argsort(due[known], kind="stable")
    due, ttft = due[known][order], ttft[known][order]
    num_batches = len(ttft) // BATCH
    if num_batches < LEAST_PARTS:
        return -math.inf
    batches = ttft[: BATCH * num_batches].reshape(num_batches, BATCH).mean(axis=1)
    centred = (batches - batches.mean())[::-1]
    count = np.arange(1, num_batches + 1)
    variance = np.cumsum(centred**2) / count - (np.cumsum(centred) / count) ** 2  # of the last 1, 2, ... batches
    error = (variance / count)[::-1][: num_batches // 2 + 1]
    cut = int(np.argmax(error <= error.min() + 1e-9 * error[0]))  # the first of those that differ by rounding
    before, after = batches[:cut], batches[cut:]
    if not cut or abs(before.mean() - after.mean()) <= max(DRIFT * after.mean(), 3 * after.std() / math.sqrt(cut)):
        return -math.inf
    return float(due[BATCH * cut])


def _series(window: Window, at_s: Times, level: Times, due: Times, ttft: Times) -> tuple[Times, Times]:
    """Requests due and not ended, and TTFT, each as the means of the window's parts; shapes (parts,), NaN for a part without a request."""
    edges = np.linspace(window.begin_s, window.end_s, NUM_PARTS + 1)
    known = np.isfinite(ttft) & (due >= window.begin_s) & (due <= window.end_s)
    part = np.clip(np.searchsorted(edges, due[known], side="right") - 1, 0, NUM_PARTS - 1)
    count = np.bincount(part, minlength=NUM_PARTS)
    total = np.bincount(part, weights=ttft[known], minlength=NUM_PARTS)
    ttft_means = np.divide(total, count, out=np.full(NUM_PARTS, np.nan), where=count > 0)
    return _means(at_s, level, edges), ttft_means


def _means(at_s: Times, level: Times, edges: Times) -> Times:
    """Time-weighted means of a step function between edges; it is 0 before its first step. Shape (edges - 1,)."""
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(at_s))])
    index = np.searchsorted(at_s, edges, side="right") - 1
    inside = index >= 0
    index = np.maximum(index, 0)
    total = np.where(inside, area[index] + level[index] * (edges - at_s[index]), 0.0)
    means: Times = np.diff(total) / np.diff(edges)
    return means


def _level_at(at_s: Times, level: Times, when_s: float) -> float:
    index = int(np.searchsorted(at_s, when_s, side="right")) - 1
    return float(level[index]) if index >= 0 else 0.0


def _is_drift(values: Times) -> bool:
    """A slope either way. Without enough values nothing is known, which is no drift: TTFT of a server that does not stream."""
    change, score, least = _slope(values, (1 + DRIFT_CONFIDENCE) / 2)
    return abs(change) > DRIFT and abs(score) > least


def _is_rise(values: Times) -> bool:
    change, score, least = _slope(values, RISE_CONFIDENCE)
    return change > RISE and score > least


def _slope(values: Times, confidence: float) -> tuple[float, float, float]:
    """Of a straight line through values at equal distances: its change from end to end over their mean, its t statistic, and the t above
    which it is significant at a one-sided confidence. Zeros for fewer than 6 values."""
    known = np.isfinite(values)
    x, y = np.flatnonzero(known).astype(float), values[known]
    if len(y) < LEAST_PARTS or y.mean() <= 0:
        return 0.0, 0.0, 0.0
    x -= x.mean()
    slope = float(x @ y / (x @ x))
    residual = float(np.sum((y - y.mean() - slope * x) ** 2))
    error = math.sqrt(residual / (len(y) - 2) / float(x @ x))
    score = slope / error if error > 0 else math.copysign(math.inf, slope) if slope else 0.0
    return slope * len(values) / float(y.mean()), score, t_quantile(confidence, len(y) - 2)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t by the expansion of Cornish and Fisher around the normal one; from 4 degrees of freedom on off by
    less than 0.01.

    >>> round(t_quantile(0.975, 8), 2), round(t_quantile(0.95, 4), 2)
    (2.31, 2.13)
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def _arrays(
    began_s: Sequence[float], ended_s: Sequence[float], ttft_s: Sequence[float | None]
) -> tuple[Times, Times, Times]:
    ttft = [math.nan if value is None else value for value in ttft_s]
    return np.array(began_s, float), np.array(ended_s, float), np.array(ttft, float)
