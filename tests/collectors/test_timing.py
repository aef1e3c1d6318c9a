"""Timing: what is run, what is kept, what is said of it."""

import contextlib
import statistics

import pytest

from collectors import _timing
from warehouse import parquet

SECONDS_ARE_ENOUGH = 60.0


def test_warm_up_and_repeats_are_counted_and_prepared_for():
    log = []
    timing = _timing.measure(
        lambda: log.append("call"), prepare=lambda: log.append("prepare"), num_warmup=2, min_repeats=3, budget_s=0.0
    )
    assert log == ["prepare", "call"] * 5
    assert [sample.phase for sample in timing.samples] == ["warmup"] * 2 + ["measured"] * 3
    assert all(sample.device_s is None for sample in timing.samples)


def test_repeats_stop_at_the_maximum_while_budget_is_left():
    timing = _timing.measure(lambda: None, min_repeats=1, max_repeats=7, budget_s=SECONDS_ARE_ENOUGH)
    assert len(timing.measured) == 7


def test_a_watcher_sees_the_warm_up_alone():
    watching, seen = [], []

    @contextlib.contextmanager
    def watch():
        watching.append(1)
        yield
        watching.clear()

    _timing.measure(lambda: seen.append(bool(watching)), num_warmup=2, min_repeats=3, budget_s=0.0, watch=watch())
    assert seen == [True, True, False, False, False]


def test_a_failing_call_raises_what_it_raised():
    with pytest.raises(ZeroDivisionError):
        _timing.measure(lambda: 1 / 0)


def test_summary_of_few_values_has_no_percentile():
    columns = _timing.summary("latency_s", [1.0, 2.0, 6.0])
    assert columns["latency_s"] == pytest.approx(3.0)
    assert columns["latency_std_s"] == pytest.approx(statistics.stdev([1, 2, 6]))
    assert {columns[f"latency_p{p}_s"] for p in (50, 90, 95, 99)} == {None}
    assert _timing.summary("latency_s", [2.0])["latency_std_s"] is None
    with pytest.raises(ValueError, match="'latency_s' has no measured value"):
        _timing.summary("latency_s", [])


@pytest.mark.parametrize(
    ("count", "known"), [(39, []), (40, [50]), (200, [50, 90]), (400, [50, 90, 95]), (2000, [50, 90, 95, 99])]
)
def test_a_percentile_needs_twenty_samples_in_its_tail(count, known):
    columns = _timing.summary("latency_s", [float(value) for value in range(1, count + 1)])
    assert [p for p in (50, 90, 95, 99) if columns[f"latency_p{p}_s"] is not None] == known
    if known:
        assert columns["latency_p50_s"] == (count + 1) / 2


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
