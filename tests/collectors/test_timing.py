"""Timing: what is run, what is kept, what is said of it."""

import contextlib
import itertools
import statistics

import numpy as np
import pytest

from collectors import _timing
from warehouse import parquet

SECONDS_ARE_ENOUGH = 60.0
NEVER_PRECISE = 0.0


def twice(**kwargs):
    """Two executions of warm-up, whatever they take."""
    return {"warmup": _timing.Warmup(2, 0.0, float("inf")), **kwargs}


class Machine:
    """A clock, and calls that take known times on it."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def call(self, durations, name="call"):
        durations = itertools.cycle(durations)

        def call():
            self.log.append(name)
            self.now += next(durations)

        return call


def test_warm_up_and_repeats_are_counted_and_prepared_for():
    log = []
    timing = _timing.measure(
        lambda: log.append("call"), prepare=lambda: log.append("prepare"), min_repeats=3, budget_s=0.0, **twice()
    )
    assert log == ["prepare", "call"] * 5
    assert [sample.phase for sample in timing.samples] == ["warmup"] * 2 + ["measured"] * 3
    assert all(sample.device_s is None for sample in timing.samples)


def test_repeats_stop_at_the_maximum_while_budget_is_left():
    timing = _timing.measure(
        lambda: None, min_repeats=1, max_repeats=7, budget_s=SECONDS_ARE_ENOUGH, precision=NEVER_PRECISE
    )
    assert len(timing.measured) == 7


@pytest.mark.parametrize(("repeats", "tier"), [(1, 2), (4, 2), (5, 3), (50, 3)])
def test_five_measured_repeats_are_of_tier_3(repeats, tier):
    def samples(phase, count):
        return [_timing.Sample(phase, 0.0, 1.0, 1.0, None)] * count

    assert _timing.Timing((*samples("warmup", 9), *samples("measured", repeats)), 0.0).quality_tier == tier


@pytest.mark.parametrize(
    ("warmup", "execution_s", "budget_s", "count"),
    [
        (_timing.KERNEL, 0.001, 10.0, 100),  # 100 ms of them
        (_timing.KERNEL, 0.01, 10.0, 25),  # 25 of them
        (_timing.KERNEL, 1.0, 10.0, 3),  # a quarter of the budget is over
        (_timing.MODEL, 2.0, 1.0, 1),  # one at least
        (_timing.TRAINING, 0.5, 100.0, 30),
        (_timing.Warmup(0, 0.0, 0.5), 1.0, 1.0, 0),
    ],
)
def test_warm_up_lasts_by_its_rule(warmup, execution_s, budget_s, count):
    machine = Machine()
    timing = _timing.measure(machine.call([execution_s]), warmup=warmup, budget_s=budget_s, clock=machine)
    assert [sample.phase for sample in timing.samples].count("warmup") == count


def test_repeats_end_when_the_median_is_known():
    machine = Machine()
    steady = _timing.measure(
        machine.call([0.1, 0.1001, 0.0999]), max_repeats=1000, budget_s=SECONDS_ARE_ENOUGH, clock=machine
    )
    assert (len(steady.measured), steady.is_converged, steady.note) == (6, True, None)
    noisy = np.random.default_rng(7).lognormal(0.0, 0.05, 10_000) * 1e-3
    timing = _timing.measure(machine.call(noisy), max_repeats=10_000, budget_s=SECONDS_ARE_ENOUGH, clock=machine)
    assert timing.is_converged
    assert timing.precision < 0.01
    assert 50 < len(timing.measured) < 400  # 1.96 x 1.2533 x 5 % / sqrt(n) = 1 % at n = 151
    assert statistics.median(sample.wall_s for sample in timing.measured) == pytest.approx(1e-3, rel=0.02)


def test_a_median_that_the_budget_leaves_unknown_is_noted():
    machine = Machine()
    timing = _timing.measure(machine.call([0.1, 0.2, 0.3]), budget_s=3.0, max_repeats=1000, clock=machine)
    assert machine.now == pytest.approx(3.0, abs=0.4)
    assert not timing.is_converged
    assert timing.note == f"95 % interval of the median ±50.0% after {len(timing.measured)} repeats, not ±1.0%"
    counted = _timing.measure(machine.call([1.0, 2.0]), budget_s=0.0, precision=NEVER_PRECISE, clock=machine)
    assert counted.note is None  # nothing was asked for
    few = _timing.measure(machine.call([1.0]), budget_s=0.0, clock=machine)
    assert few.precision is None
    assert few.note == "3 repeats say nothing of the median's 95 % interval"


@pytest.mark.parametrize(("count", "rank"), [(5, 0), (6, 1), (9, 2), (10, 2), (20, 6), (50, 18), (100, 40)])
def test_the_interval_of_the_median_lies_between_the_tabulated_order_statistics(count, rank):
    values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    if not rank:
        assert _timing.half_width(values) is None
        return
    expected = (count + 1 - 2 * rank) / 2 / ((count + 1) / 2)
    assert _timing.half_width(values) == pytest.approx(expected)


@pytest.mark.parametrize("count", [6, 30, 151, 1500])
def test_the_interval_covers_the_median_of_a_skewed_distribution(count):
    draws = np.sort(np.random.default_rng(1).exponential(1.0, (4000, count)), axis=1)
    widths = np.array([_timing.half_width(row) for row in draws])
    medians = np.median(draws, axis=1)
    lengths = 2 * widths * medians
    for rank in range(1, count // 2 + 1):  # the interval with that length
        if np.allclose(draws[:, count - rank] - draws[:, rank - 1], lengths):
            break
    covered = (draws[:, rank - 1] <= np.log(2)) & (np.log(2) <= draws[:, count - rank])
    assert 0.94 < covered.mean() < 0.985


def test_variants_alternate_and_drift_meets_them_alike():
    machine = Machine()
    drift = iter(np.linspace(1.0, 2.0, 200))

    def variant(name, factor):
        def call():
            machine.log.append(name)
            machine.now += factor * next(drift)

        return call, lambda: machine.log.append("prepare")

    timings = _timing.measure_interleaved(
        {"A": variant("A", 1.0), "B": variant("B", 1.1)}, warmup=_timing.Warmup(1, 0.0, 1.0), min_repeats=8,
        max_repeats=40, budget_s=1000.0, precision=NEVER_PRECISE, clock=machine,
    )  # fmt: skip
    assert machine.log[::2] == ["prepare"] * 82
    assert "".join(machine.log[1::2]) == "AB" + "ABBA" * 20
    means = {name: statistics.mean(one.wall_s for one in timing.measured) for name, timing in timings.items()}
    assert means["B"] / means["A"] == pytest.approx(1.1, rel=1e-9)


def test_variants_go_on_together_until_the_last_is_known():
    machine = Machine()
    noisy = np.random.default_rng(3).lognormal(0.0, 0.05, 1000) * 0.01
    timings = _timing.measure_interleaved(
        {"steady": (machine.call([0.01]), lambda: None), "noisy": (machine.call(noisy), lambda: None)},
        max_repeats=1000, budget_s=SECONDS_ARE_ENOUGH, clock=machine,
    )  # fmt: skip
    assert timings["steady"].is_converged
    assert timings["noisy"].is_converged
    assert len(timings["steady"].measured) == len(timings["noisy"].measured) > 20


def test_a_sample_knows_when_it_began():
    machine = Machine()
    timing = _timing.measure(machine.call([0.5]), max_repeats=5, budget_s=10.0, clock=machine)
    assert [sample.began_s for sample in timing.samples] == [0.5 * index for index in range(len(timing.samples))]
    rows = timing.rows("r", lambda begin, end: begin < 1.2 < end)
    flagged = [(row["metric"], row["sample_index"]) for row in rows if "throttled" in row["flags"]]
    assert flagged == [("latency_s", 2), ("cpu_time_s", 2)]


def test_a_watcher_sees_the_warm_up_alone():
    watching, seen = [], []

    @contextlib.contextmanager
    def watch():
        watching.append(1)
        yield
        watching.clear()

    _timing.measure(lambda: seen.append(bool(watching)), min_repeats=3, budget_s=0.0, watch=watch(), **twice())
    assert seen == [True, True, False, False, False]


def test_a_failing_call_raises_what_it_raised():
    with pytest.raises(ZeroDivisionError):
        _timing.measure(lambda: 1 / 0)


def test_summary_of_few_values_has_no_tail():
    columns = _timing.summary("latency_s", [1.0, 2.0, 6.0])
    assert columns["latency_s"] == pytest.approx(3.0)
    assert columns["latency_std_s"] == pytest.approx(statistics.stdev([1, 2, 6]))
    assert {columns[f"latency_p{p}_s"] for p in (90, 95, 99)} == {None}
    assert _timing.summary("latency_s", [2.0])["latency_std_s"] is None
    with pytest.raises(ValueError, match="'latency_s' has no measured value"):
        _timing.summary("latency_s", [])


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (2, []),
        (3, [25, 50, 75]),
        (200, [25, 50, 75, 90]),
        (400, [25, 50, 75, 90, 95]),
        (2000, [25, 50, 75, 90, 95, 99]),
    ],
)
def test_a_percentile_above_the_quartiles_needs_twenty_samples_in_its_tail(count, known):
    columns = _timing.summary("latency_s", [float(value) for value in range(1, count + 1)])
    assert [p for p in (25, 50, 75, 90, 95, 99) if columns[f"latency_p{p}_s"] is not None] == known
    if known:
        assert columns["latency_p50_s"] == (count + 1) / 2


def test_the_trimmed_mean_leaves_a_tenth_out_at_either_end():
    assert _timing.summary("latency_s", [100.0, *[2.0] * 4, *[4.0] * 4, 0.0])["latency_trimmed_s"] == 3.0
    assert _timing.summary("latency_s", [1.0, 2.0])["latency_trimmed_s"] is None


def test_outliers_are_flagged_and_kept():
    values = [1.0, 1.1, 0.9, 1.0, 1.05, 10.0]
    assert _timing.outliers(values) == [False] * 5 + [True]
    assert _timing.outliers([1.0, 1.0, 1.0, 10.0]) == [False] * 4  # too few to tell
    rows = _timing.sample_rows("r", "latency_s", ["warmup"] + ["measured"] * 6, [99.0, *values])
    assert [row["value"] for row in rows] == [99.0, *values]
    assert [row["flags"] for row in rows] == [[]] * 6 + [["outlier"]]
    assert [row["sample_index"] for row in rows] == list(range(7))


def test_rows_fit_the_contract_and_leave_out_what_no_device_measured():
    timing = _timing.measure(lambda: None, min_repeats=3, budget_s=0.0)
    rows = timing.rows("r")
    assert parquet.check("samples", rows).num_rows == 8
    assert {row["metric"] for row in rows} == {"latency_s", "cpu_time_s"}
    columns = timing.columns()
    assert columns["latency_s"] == pytest.approx(statistics.mean(sample.wall_s for sample in timing.measured))
    assert columns["device_time_s"] is None


@pytest.mark.parametrize(
    ("device_time_s", "kernel_time_s", "expected"),
    [(None, None, None), (0.9, None, None), (0.8, None, True), (0.99, 0.5, True), (0.99, 0.9, False)],
)
def test_only_the_kernels_say_that_the_device_sets_the_pace(device_time_s, kernel_time_s, expected):
    assert _timing.is_host_bound(1.0, device_time_s, kernel_time_s) is expected
