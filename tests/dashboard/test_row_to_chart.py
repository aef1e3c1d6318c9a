"""The line this dashboard is made of, on numbers a reader can redo: landed row, lake, named query, figure."""

from __future__ import annotations

from pathlib import Path

from sample_rows import run

from dashboard import figures
from dashboard.data import Lake
from warehouse.metrics import metric
from warehouse.parquet import land
from warehouse.store import Home, open_store


def test_a_landed_row_becomes_a_point(tmp_path: Path) -> None:
    home = Home.of(tmp_path)
    bound = {"source_kind": "analytical", "ruleset": "default", "latency_s": None, "roofline_s": 0.016}
    land(
        home.landing,
        "two",
        {
            "runs": [
                run("m", latency_s=0.020, latency_std_s=0.001),
                run("a", **bound),
                run("b", **bound | {"hardware_id": "t4"}),
            ]
        },
    )
    with open_store(home) as store:
        store.load()
    lake = Lake(home)

    figure = figures.compare(lake.query("compare", llm_id="llama-2-7b", phase="decode"), metric("latency_s"))

    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert list(traces) == ["measured", "analytical"]
    assert list(traces["measured"].x) == [20.0]  # 0.020 s in ms
    assert list(traces["measured"].error_x.array) == [1.0]
    assert list(traces["analytical"].x) == [16.0, 16.0]  # the bound stands where a measured run has its latency
    # two lines, the device that was observed on top (1), the other below (0); kinds lie 0.24 of a line apart
    assert list(traces["measured"].y) == [1 + 0.12]
    assert sorted(traces["analytical"].y) == [0 - 0.12, 1 - 0.12]
    assert list(figure.layout.yaxis.ticktext) == ["RTX A6000", "T4"]
    assert figure.layout.xaxis.title.text == "Latency (ms)"
    assert traces["measured"].customdata[0][0] == "m"  # a click leads to the row
    lake.close()


def test_rows_loaded_while_the_dashboard_runs_are_there_at_the_next_query(tmp_path: Path) -> None:
    home = Home.of(tmp_path)
    with open_store(home) as store:
        land(home.landing, "first", {"runs": [run("one")]})
        store.load()
        lake = Lake(home)
        before = lake.snapshot_id()
        assert lake.query("compare", llm_id="llama-2-7b").num_rows == 1
        land(home.landing, "second", {"runs": [run("two", hardware_id="t4")]})
        store.load()
        assert lake.query("compare", llm_id="llama-2-7b").num_rows == 2
        assert lake.query("compare", before, llm_id="llama-2-7b").num_rows == 1  # the link of before still shows before
        lake.close()
