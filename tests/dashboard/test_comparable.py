"""Rows of unequal papers on one chart: what a source does not state, bounds in place of times, device counts, revisions of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sample_rows import run

from dashboard import figures
from dashboard.data import Lake
from dashboard.pages import compare
from warehouse.metrics import metric
from warehouse.parquet import land
from warehouse.store import Home, open_store

A100 = "a100-sxm-80gb"
PAPER = {"source_kind": "published", "source_id": "paper/figure-4", "latency_s": None, "metric_definitions": None}
BOUND = {
    "source_kind": "analytical",
    "source_id": "rooflake/default",
    "ruleset": "default",
    "latency_s": None,
    "metric_definitions": None,
}
STEP = {"batch_size": 4, "context_tokens": 512}
TWO = {"num_devices": 2, "tensor_parallel": 2, "hardware_id": A100}


def rows() -> list[dict[str, Any]]:
    bf16 = {"weight_dtype": "bf16", "activation_dtype": "bf16", "kv_dtype": "bf16"}
    return [
        run("measured", **STEP, **bf16, output_tokens_per_s=200.0),
        run("a-own", **STEP, **bf16, **BOUND, roofline_s=0.010, output_tokens_per_s=400.0),
        run("a-fp16", **STEP, **BOUND, roofline_s=0.008, output_tokens_per_s=500.0),
        run("a-old", **STEP, **BOUND | {"collected_at": datetime(2025, 1, 1, tzinfo=UTC)}, roofline_s=0.001, output_tokens_per_s=4e3),
        run("a-two", **STEP, **BOUND, **TWO, roofline_s=0.004, output_tokens_per_s=1e3),
        run("one", **PAPER, batch_size=4, context_tokens=None, hardware_id=A100, output_tokens_per_s=65.0),
        run("two", **PAPER, batch_size=4, context_tokens=None, **TWO, output_tokens_per_s=159.0),
        run("piped", **PAPER, batch_size=4, context_tokens=None, **TWO | {"tensor_parallel": 1, "pipeline_parallel": 2}, output_tokens_per_s=52.0),
        run("other-batch", **PAPER, batch_size=8, context_tokens=None, hardware_id=A100, output_tokens_per_s=9.0),
        run("no-dtype", **PAPER | {"latency_s": 0.03}, **STEP, weight_dtype=None, activation_dtype=None, kv_dtype=None, hardware_id="t4"),
        run("printed-bound", **PAPER, batch_size=1, context_tokens=1024, roofline_s=0.0179),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    home = Home.of(tmp_path_factory.mktemp("papers"))
    land(home.landing, "all", {"runs": rows()})
    with open_store(home) as store:
        store.load()
    opened = Lake(home)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shown(lake: Lake) -> dict[str, dict[str, Any]]:
    """Rows of the workload that Compare opens on."""
    choice = compare.read(lake, {}, lake.rows("workloads"), None)
    return {row["run_id"]: row for row in lake.rows("compare", **choice.parameters)}


def test_compare_opens_where_three_kinds_meet_and_on_the_rate_of_a_decode(lake: Lake) -> None:
    choice = compare.read(lake, {}, lake.rows("workloads"), None)
    assert (choice.phase, choice.batch, choice.tokens, choice.dtype) == ("decode", "4", "512 context", "16-bit")
    assert choice.metric == "output_tokens_per_s"


def test_what_a_source_does_not_state_keeps_its_row_on_the_chart(shown: dict[str, dict[str, Any]]) -> None:
    assert set(shown) == {"measured", "a-own", "a-fp16", "a-two", "one", "two", "piped", "no-dtype"}
    assert {key: row["unstated"] for key, row in shown.items() if row["unstated"]} == {
        "one": ["tokens"], "two": ["tokens"], "piped": ["tokens"], "no-dtype": ["number format"],
    }  # fmt: skip


def test_formats_of_one_width_are_together_and_each_row_keeps_its_own(shown: dict[str, dict[str, Any]]) -> None:
    assert {shown[key]["number_format"] for key in ("measured", "one", "a-own")} == {"16-bit"}
    assert [shown[key]["dtype"] for key in ("measured", "one", "no-dtype")] == ["bf16", "fp16", "not stated"]


def test_a_link_by_dtype_finds_the_format_it_is_compared_in(lake: Lake) -> None:
    params = {"llm": "llama-2-7b", "phase": "decode", "batch": "4", "tokens": "512 context", "dtype": "bf16"}
    assert compare.read(lake, params, lake.rows("workloads"), None).dtype == "16-bit"


def test_device_counts_are_told_apart_and_meet_the_bound_of_the_same_degrees(shown: dict[str, dict[str, Any]]) -> None:
    assert shown["two"]["device"] == shown["a-two"]["device"] == "2 × NVIDIA A100 SXM4 80 GB, tensor parallel"
    assert shown["piped"]["device"] == "2 × NVIDIA A100 SXM4 80 GB, pipeline parallel"
    assert shown["one"]["device"] == "NVIDIA A100 SXM4 80 GB"


def test_a_row_with_something_unstated_is_hollow_and_says_so(lake: Lake) -> None:
    choice = compare.read(lake, {}, lake.rows("workloads"), None)
    table = lake.query("compare", **choice.parameters)
    rate = metric("output_tokens_per_s")
    traces = {trace.name: trace for trace in figures.compare(table, rate).data if trace.name}
    assert set(traces["published"].marker.symbol) == {"diamond-open"}
    assert set(traces["measured"].marker.symbol) == {"circle"}
    assert "tokens not stated" in traces["published"].customdata[0][1]
    assert compare.hollow(table, rate) == " A hollow marker's source does not state its tokens."


def test_a_printed_bound_stands_for_its_latency_and_is_called_one(lake: Lake) -> None:
    (row,) = (row for row in lake.rows("compare", llm_id="llama-2-7b") if row["run_id"] == "printed-bound")
    assert (row["latency_s"], row["is_bound"]) == (0.0179, True)
    table = lake.query("compare", llm_id="llama-2-7b", batch="1")
    (line,) = compare.answer(table, metric("latency_s"))
    assert line.words.startswith("17.9 ms (a bound as its source prints it)")
    (trace,) = (trace for trace in figures.compare(table, metric("latency_s")).data if trace.name == "published")
    assert "a bound as its source prints it, not a measurement" in trace.customdata[0][1]


def test_a_measured_row_is_beside_the_bound_of_its_own_format(shown: dict[str, dict[str, Any]], lake: Lake) -> None:
    choice = compare.read(lake, {}, lake.rows("workloads"), None)
    answer = compare.answer(lake.query("compare", **choice.parameters), metric("output_tokens_per_s"))
    (measured,) = (line.words for line in answer if line.kind == "measured")
    assert measured.endswith("The bound there is 2 times higher.")  # 400 against 200, not fp16's 500


def test_the_newest_revision_of_the_engine_counts_and_the_old_row_still_opens(lake: Lake) -> None:
    assert "a-old" not in [row["run_id"] for row in lake.rows("compare", llm_id="llama-2-7b")]
    assert "a-old" not in [row["run_id"] for row in lake.rows("run_twins", run_id="a-fp16")]
    assert lake.rows("run", run_id="a-old")[0]["roofline_s"] == 0.001
