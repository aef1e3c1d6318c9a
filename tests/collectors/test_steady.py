"""Steady window and saturation on loads whose truth is known: queues simulated by their recursion."""

from __future__ import annotations

import doctest
import heapq
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from collectors.endpoint import _steady
from collectors.endpoint._steady import Saturation, Window

Times = NDArray[np.float64]
Load = tuple[Times, Times, Times]
"""When each request was due and when it ended, and its TTFT from when it was due."""

SEEDS = range(12)


def open_loop(rate: float, length_s: float, seed: int, service_s: float = 0.1, decode_s: float = 2.0) -> Load:
    """Poisson arrivals, one prefill at a time of constant length (M/D/1, the recursion of Lindley), decodes side by side."""
    rng = np.random.default_rng(seed)
    sent = np.cumsum(rng.exponential(1 / rate, round(rate * length_s)))
    free, ttft = 0.0, np.empty(len(sent))
    for index, at in enumerate(sent):
        free = max(free, at) + service_s
        ttft[index] = free - at
    return sent, sent + ttft + decode_s * rng.exponential(1.0, len(sent)), ttft


def closed_loop(slots: int, num_requests: int, seed: int, ramp_s: float = 0.0) -> Load:
    """A fixed number in flight, begun together or over `ramp_s`; one prefill at a time, so that the first wave waits."""
    rng = np.random.default_rng(seed)
    free = [ramp_s * slot / slots for slot in range(slots)]
    prefilled, rows = 0.0, []
    for _ in range(num_requests):
        sent = heapq.heappop(free)
        prefilled = max(sent, prefilled) + 0.02
        ended = prefilled + 0.64 * rng.uniform(0.7, 1.3)
        rows.append((sent, ended, prefilled - sent))
        heapq.heappush(free, ended)
    sent_s, ended_s, ttft_s = np.array(rows).T
    return sent_s, ended_s, ttft_s


def window_of(load: Load) -> Window:
    found = _steady.steady_window(*load)
    assert found is not None
    return found


def share_of(found: list[Any]) -> float:
    return sum(bool(one) for one in found) / len(found)


def test_a_closed_loop_is_steady_after_its_first_wave_and_until_its_last_send() -> None:
    for seed in SEEDS:
        load = sent, ended, _ = closed_loop(50, 1000, seed)
        window = window_of(load)
        assert 0.3 < window.begin_s < 2.5  # the wave of 50 prefills takes a second
        assert window.end_s == pytest.approx(sent.max())
        assert window.end_s < ended.max()
        assert _steady.concurrency(sent, ended, window) == pytest.approx((50.0, 50.0), rel=0.01)


def test_a_ramp_is_dropped() -> None:
    windows = [_steady.steady_window(*closed_loop(50, 2000, seed, ramp_s=8.0)) for seed in SEEDS]
    assert share_of(windows) >= 0.75
    assert all(window.begin_s >= 7.5 for window in windows if window is not None)


def test_poisson_arrivals_within_what_the_server_takes_are_steady() -> None:
    windows = [_steady.steady_window(*open_loop(7.0, 120.0, seed)) for seed in SEEDS]
    assert share_of(windows) >= 0.9
    assert all(window.length_s >= 30.0 for window in windows if window is not None)


@pytest.mark.parametrize("rate", [12.0, 15.0, 20.0])
def test_a_growing_queue_is_never_steady_and_is_saturated(rate: float) -> None:
    loads = [open_loop(rate, 120.0, seed) for seed in SEEDS]
    assert not any(_steady.steady_window(*load) for load in loads)
    assert share_of([_steady.is_saturated(*load) for load in loads]) >= 0.9


@pytest.mark.parametrize("rate", [3.0, 8.0])
def test_a_queue_that_empties_is_not_saturated(rate: float) -> None:
    assert {_steady.is_saturated(*open_loop(rate, 120.0, seed)) for seed in SEEDS} == {False}


def when_stopped(load: Load, length_s: float) -> float | None:
    """When a client that asks every second stops, hearing of each request when it ends."""
    sent, ended, ttft = load
    saturation, order, heard = Saturation(), np.argsort(ended), 0
    for now in range(1, round(length_s) + 1):
        while heard < len(order) and ended[order[heard]] <= now:
            index = order[heard]
            saturation.add(sent[index], ended[index], ttft[index])
            heard += 1
        if saturation.is_saturated(now):
            return float(now)
    return None


@pytest.mark.parametrize(("rate", "within_s"), [(12.0, 70.0), (20.0, 85.0)])
def test_a_load_that_the_server_cannot_take_is_stopped_early(rate: float, within_s: float) -> None:
    stops = [when_stopped(open_loop(rate, 120.0, seed), 120.0) for seed in SEEDS]
    assert all(stop is not None and 40.0 <= stop <= within_s for stop in stops)


def test_a_load_that_the_server_takes_is_hardly_ever_stopped() -> None:
    assert [when_stopped(open_loop(rate, 150.0, seed), 150.0) for rate in (5.0, 8.0) for seed in SEEDS] == [None] * 24


def capped(rate: float, length_s: float, slots: int = 2, answers_per_s: float = 23.0) -> Load:
    """Due at a constant rate; at most `slots` at once are at a server that takes as many a second whatever comes."""
    due, free, ended = np.arange(round(rate * length_s)) / rate, [0.0] * slots, []
    for at in due:
        ended.append(max(at, heapq.heappop(free)) + slots / answers_per_s)
        heapq.heappush(free, ended[-1])
    ended_s = np.array(ended)
    return due, ended_s, ended_s - due - 0.03


def test_a_queue_that_waits_at_the_client_is_one_too() -> None:
    late, early = capped(40.0, 45.0), capped(20.0, 45.0)
    assert (_steady.is_saturated(*late), _steady.steady_window(*late)) == (True, None)
    assert when_stopped(late, 80.0) is not None
    assert _steady.is_saturated(*early) is False
    assert window_of(early).length_s >= 30.0
    assert when_stopped(early, 45.0) is None


def test_too_little_to_tell_is_neither() -> None:
    few = closed_loop(2, 19, 0)
    assert _steady.steady_window(*few) is None
    assert _steady.is_saturated(*few) is None
    assert _steady.steady_window([], [], []) is None
    burst = np.zeros(1000), np.linspace(1.0, 100.0, 1000), np.linspace(1.0, 100.0, 1000)
    assert _steady.steady_window(*burst) is None  # all at once: nothing but a ramp down
    assert not Saturation().is_saturated(100.0)


def test_a_window_is_half_of_a_short_run() -> None:
    """Sent every second for 40 s; for the first 25 s the server takes longer and longer."""
    sent = np.arange(40.0)
    ttft = np.concatenate([np.linspace(10.0, 1.0, 25), np.full(15, 1.0)])
    assert _steady.steady_window(sent, sent + ttft, ttft) is None
    assert window_of((sent, sent + 1.0, np.full(40, 1.0))).length_s >= 20.0


def test_noise_is_no_transient() -> None:
    """One slot, no queue: all but the last answer are of the steady part."""
    windows = [window_of(closed_loop(1, 200, seed)) for seed in SEEDS]
    assert np.mean([window.begin_s == 0.0 for window in windows]) >= 0.9


def test_a_load_is_never_both_steady_and_saturated() -> None:
    loads = [open_loop(10.5, 150.0, seed) for seed in SEEDS]
    assert not any(_steady.steady_window(*load) and _steady.is_saturated(*load) for load in loads)


def test_answers_without_ttft_are_judged_by_what_is_in_flight() -> None:
    sent, ended, _ = closed_loop(50, 1000, 0)
    assert _steady.steady_window(sent, ended, [None] * 1000) is not None


def test_concurrency_by_hand() -> None:
    """One from 0 to 4, one from 1 to 3: 6 request-seconds in 4 s."""
    assert _steady.concurrency([0.0, 1.0], [4.0, 3.0]) == (1.5, 2.0)
    assert _steady.concurrency([0.0, 1.0], [4.0, 3.0], Window(2.0, 4.0)) == (1.5, 2.0)
    assert _steady.concurrency([0.0, 1.0], [4.0, 3.0], Window(3.0, 4.0)) == (1.0, 1.0)
    assert _steady.concurrency([0.0, 1.0], [1.0, 2.0]) == (1.0, 1.0)  # one slot, used twice
    assert _steady.concurrency([], []) is None


@pytest.mark.parametrize("degrees", [4, 8, 30])
@pytest.mark.parametrize("probability", [0.95, 0.975, 0.99])
def test_quantiles_of_student(probability: float, degrees: int) -> None:
    assert _steady.t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), abs=0.03)


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(_steady).failed == 0
