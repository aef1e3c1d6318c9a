"""What measurements add, on rows whose answers can be redone by hand: ceilings, microbenchmarks, kernels, variants, scaling, memory."""

from __future__ import annotations

import json
from typing import Any

import measured_lake
import pyarrow as pa
import pytest
from dash import Dash
from sample_rows import op

from dashboard import measured, measured_figures
from dashboard.app import _layout, create_app
from dashboard.data import Lake
from dashboard.pages import compare, layers, machine, overview, roofline, run, training
from warehouse import schema
from warehouse.metrics import BY_KEY
from warehouse.parquet import land
from warehouse.store import Home, open_store

A100 = measured_lake.A100
SHEET_PEAK, SHEET_BANDWIDTH = 312e12, 2.039e12
"""Of the catalogue: dense bf16 FLOP/s and bytes/s."""


def said(component: Any) -> str:
    """A component as JSON text: what it says, links included."""
    return json.dumps(
        component,
        default=lambda part: part.to_plotly_json() if hasattr(part, "to_plotly_json") else str(part),
        ensure_ascii=False,
    )


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["run_id"]: row for row in rows}


# ceilings and microbenchmarks ---------------------------------------------------------------------------------------------


def test_measured_ceilings_are_no_device(bench_lake: Lake) -> None:
    for query in ("device_list", "machine_list", "roof_list", "coverage"):
        assert f"{A100}-measured" not in bench_lake.query(query).column("hardware_id").to_pylist()


def test_a_roof_has_what_was_reached_beside_the_datasheet(bench_lake: Lake) -> None:
    roofs = {row["dtype"]: row for row in bench_lake.rows("roof_list", hardware_ids=[A100])}
    bf16 = roofs["bf16"]
    assert (bf16["peak_flops_per_s"], bf16["achievable_peak_flops_per_s"]) == (SHEET_PEAK, measured_lake.PEAK)
    assert bf16["achievable_ridge"] == measured_lake.PEAK / measured_lake.BANDWIDTH
    assert (roofs["fp16"]["has_ceiling"], roofs["fp16"]["achievable_peak_flops_per_s"]) == (False, None)


def test_ceilings_stand_beside_the_datasheet(bench_lake: Lake) -> None:
    rows = {row["resource"]: row for row in bench_lake.rows("device_ceilings", hardware_id=A100)}
    assert rows["peak_bf16_flops_per_s"]["share"] == pytest.approx(200 / 312)
    assert rows["memory_bandwidth_bytes_per_s"]["share"] == pytest.approx(1.6 / 2.039)
    assert rows["peak_fp16_flops_per_s"]["measured"] is None


def test_each_microbenchmark_stands_against_the_roof_it_has(bench_lake: Lake) -> None:
    points = by_id(bench_lake.rows("microbench_points"))
    # compute bound: FLOP/s over the peak
    assert points["gemm-8192"]["share"] == pytest.approx(200 / 312)
    assert points["gemm-8192"]["share_of_measured"] == pytest.approx(1)
    assert (points["gemm-8192"]["is_aligned"], points["gemm-odd"]["is_aligned"]) == (True, False)
    # bytes over the bandwidth, whatever FLOPs a norm has
    assert points["norm"]["share"] == pytest.approx(0.8 / 2.039)
    assert points[f"copy-{2**30}"]["share_of_measured"] == pytest.approx(1)
    # links: of the host, and of devices
    assert points[f"memcpy_h2d-pinned-{2**20}"]["share"] == pytest.approx(20 / 32)
    assert points[f"memcpy_h2d-pageable-{2**20}"]["share_of_measured"] == pytest.approx(8 / 20)
    assert points[f"reduce-{2**28}"]["share"] == pytest.approx(200 / 300)
    # attention: 100 GFLOP in 1 ms is 100 TFLOP/s
    assert points["prefill"]["share"] == pytest.approx(100 / 312)
    assert (points["too-large"]["status"], points["too-large"]["share"]) == ("oom", None)


def test_a_point_above_a_roof_is_flagged_and_a_warm_cache_is_not(bench_lake: Lake) -> None:
    points = by_id(bench_lake.rows("microbench_points"))
    flagged = {
        name: (row["is_above_measured_roof"], row["is_fault"])
        for name, row in points.items()
        if row["is_above_measured_roof"]
    }
    assert flagged == {"gemm-beats": (True, False), "gemm-fault": (True, True)}
    assert not points["gemm-warm"]["is_above_measured_roof"]


def test_a_published_gemm_takes_its_shape_from_its_only_operator(tmp_path: Any) -> None:
    home = Home.of(tmp_path)
    paper = {"source_kind": "published", "source_id": "paper/table-1", "kernel": None}
    row = measured_lake.bench("paper", "gemm", 0.000289) | paper
    row |= {"config_id": schema.config_id(row)}
    land(
        home.landing,
        "paper",
        {"runs": [row], "ops": [op("paper", 0, op_kind="gemm", m=666, n=11008, k=4096, time_s=0.000289)]},
    )
    with open_store(home) as store:
        store.load()
        (point,) = store.query("microbench_points").to_pylist()
    assert (point["kernel"], point["m"], point["flops"]) == ("gemm", 666, 2 * 666 * 11008 * 4096)
    assert point["share"] == pytest.approx(2 * 666 * 11008 * 4096 / 0.000289 / SHEET_PEAK)


def test_microbenchmarks_are_in_no_comparison_and_train_nothing(bench_lake: Lake) -> None:
    benches = {row["run_id"] for row in measured_lake.microbench()}
    for query in ("training_runs", "roofline_runs", "variants", "scaling", "status_grid", "training_steps"):
        assert not benches & set(bench_lake.query(query).column("run_id").to_pylist())
    for query in ("untwinned_configurations", "workloads", "memory_boundary"):
        assert "microbench" not in bench_lake.query(query).column("phase").to_pylist()
    fitted = {row["run_id"] for row in bench_lake.rows("calibration_rows") if row["left_out"] is None}
    assert not benches & fitted
    assert bench_lake.rows("headline")[0]["num_microbench"] == len(benches)


def test_utilisation_of_the_ceilings_is_known_of_runs_older_than_they(bench_lake: Lake) -> None:
    (eager,) = bench_lake.rows("run", run_id="lp-eager")
    assert eager["mbu_achievable"] == pytest.approx(13.6e9 / 0.040 / measured_lake.BANDWIDTH)
    assert eager["mfu_achievable"] == pytest.approx(54e9 / 0.040 / measured_lake.PEAK)


def test_a_measured_run_above_the_measured_roof_is_flagged_apart(bench_lake: Lake) -> None:
    rows = by_id(bench_lake.rows("roofline_runs", dtype="bf16"))
    # 54 GFLOP over 13.6 GB is 3.97 FLOP/B: the measured roof allows 6.35 TFLOP/s
    assert rows["lp-eager"]["achievable_flops_per_s"] == pytest.approx(1.6e12 * 54 / 13.6)
    assert {name for name, row in rows.items() if row["is_above_measured_roof"]} == set()
    state = {"devices": [A100], "llms": [], "phase": "any", "dtype": "bf16", "run": None, "ceilings": True}
    assert "as measured" in said(roofline.content(bench_lake, state, None)).replace("<br>", " ")
    assert "as measured" not in said(roofline.content(bench_lake, state | {"ceilings": False}, None)).replace(
        "<br>", " "
    )


@pytest.mark.parametrize(
    ("params", "words"), [({}, "GEMM"), ({"cache": "warm"}, "warm cache"), ({"dtype": "bf16"}, "Copies")]
)
def test_the_machine_page_shows_what_was_reached(bench_lake: Lake, params: dict[str, str], words: str) -> None:
    shown = said(machine.layout(bench_lake, params))
    assert words in shown
    assert "could not be built" not in shown
    assert "200 TFLOP/s" in shown


def test_the_machine_page_names_points_above_a_roof(bench_lake: Lake) -> None:
    shown = said(machine.layout(bench_lake, {}))
    assert "1 point above the datasheet" in shown
    assert "1 point above the measured roof" in shown


# kernels and layers -------------------------------------------------------------------------------------------------------


def test_kernels_are_never_summed_with_modules(bench_lake: Lake) -> None:
    kinds = {row["op_kind"]: row["time_s"] for row in bench_lake.rows("op_kinds", run_id="lp-eager")}
    assert kinds == {"q_proj": pytest.approx(0.006), "lm_head": pytest.approx(0.004)}
    leaves = [row["path"] for row in bench_lake.rows("run_ops", run_id="lp-eager") if row["is_leaf"]]
    assert leaves == ["model.layers.0.q_proj", "lm_head"]
    assert by_id(bench_lake.rows("run_list", with_ops=True))["lp-eager"]["num_ops"] == 3


def test_kernels_of_a_module_have_their_share_of_all_kernels(bench_lake: Lake) -> None:
    rows = bench_lake.rows("run_kernels", run_id="lp-eager")
    assert [(row["module"], row["kernel"], row["total_s"], row["share"]) for row in rows] == [
        ("model.layers.0.q_proj", "ampere_gemm_128x64", pytest.approx(0.006), pytest.approx(0.75)),
        ("model.layers.0.q_proj", "splitk_reduce", pytest.approx(0.002), pytest.approx(0.25)),
    ]
    assert rows[0]["achieved_flops_per_s"] == pytest.approx(2e12)
    below = {
        module: len(bench_lake.rows("run_kernels", run_id="lp-eager", module=module))
        for module in ("model.layers", "model.layers.0.q", "lm_head")
    }
    assert below == {"model.layers": 2, "model.layers.0.q": 0, "lm_head": 0}


def test_the_layers_page_has_kernels_memory_and_phases(bench_lake: Lake) -> None:
    profiled = said(layers.layout(bench_lake, {"run": "lp-eager", "module": "model.layers.0"}))
    assert all(words in profiled for words in ("ampere_gemm_128x64", "[4, 4096], [4096, 4096]", "Most memory-hungry"))
    step = said(layers.layout(bench_lake, {"run": "step"}))
    assert "450 ms of a latency of 500 ms: the residual is 50 ms (10.0 %)" in step
    assert "The link asks for module 'abacus'" in said(_layout(layers, bench_lake, run="lp-eager", module="abacus"))


# one run ------------------------------------------------------------------------------------------------------------------


def test_the_verdict_says_why_and_what_another_way_reached(bench_lake: Lake) -> None:
    (eager,), (graph,) = (bench_lake.rows("run", run_id=run_id) for run_id in ("lp-eager", "lp-graph"))
    assert measured.pace(eager) == (
        "Host bound: one execution takes 40 ms by the wall clock, and kernels run 10 ms of it; "
        "the device idles 75 % of the time, waiting for the next kernel to be issued."
    )
    assert str(measured.pace(graph)).startswith("Device bound: ")
    variants = bench_lake.rows("variants", config_ids=[eager["config_id"]])
    assert (
        measured.better_variant(eager, variants)
        == "With graph execution and a static cache it took 10 ms, 4 times as fast, at 68 % MBU."
    )
    assert measured.better_variant(eager, [{**eager, "run_id": "the same again"}]) is None
    assert measured.pace({**eager, "kernel_time_s": None, "device_time_s": None}) is None
    unknown = measured.pace({**eager, "kernel_time_s": None, "is_host_bound": None})
    assert str(unknown).endswith("who sets the pace only a profiler's pass (--kernels) tells.")


def test_the_run_page_says_all_that_was_measured(bench_lake: Lake) -> None:
    shown = said(run.layout(bench_lake, {"run_id": "lp-eager"}))
    for words in ("2 GiB", "12 % of what is reserved", "1.5 J/token", "sw_power_cap", "25 % of the readings", "/traces/lp-eager.json.gz", "chrome://tracing",
                  "residual 4 ms, 10.0 % of the latency"):  # fmt: skip
        assert words in shown
    assert "The counter moved only 12 times in the window." in said(run.layout(bench_lake, {"run_id": "lp-graph"}))
    assert "compute time 1.50, peak memory 1.00" in said(run.layout(bench_lake, {"run_id": "tp"}))
    assert "4,096 × 4,096 × 4,096" in said(run.layout(bench_lake, {"run_id": "gemm-4096"}))


def test_throttled_spans_are_shaded_from_the_first_to_the_last_reading(bench_lake: Lake) -> None:
    table = bench_lake.query("run_telemetry", run_id="lp-eager")
    assert measured_figures.throttled_spans(table.to_pylist()) == [(0.3, 0.5)]
    figure = measured_figures.telemetry(table)
    assert {(shape.x0, shape.x1) for shape in figure.layout.shapes} == {(0.3, 0.5)}


def test_repeats_are_counted_by_their_flag(bench_lake: Lake) -> None:
    figure = measured_figures.sample_histogram(bench_lake.query("run_samples", run_id="lp-eager"), BY_KEY["latency_s"])
    assert {trace.name: len(trace.x) for trace in figure.data} == {"measured": 7, "outlier": 1, "throttled": 2}


@pytest.fixture(scope="module")
def client(bench_lake: Lake) -> Any:
    app: Dash = create_app(bench_lake.home)
    return app.server.test_client()


def test_a_trace_downloads(client: Any) -> None:
    answer = client.get(f"/traces/{measured_lake.TRACE}")
    assert (answer.status_code, answer.data) == (200, b"a trace")
    assert "attachment" in answer.headers["Content-Disposition"]


@pytest.mark.parametrize(
    "name",
    ["nobodys.json", "missing.json", "../catalog.sqlite", "..%2fcatalog.sqlite", "%2e%2e/catalog.sqlite", "%2Fetc%2Fpasswd", f"x/{measured_lake.TRACE}",
     f"../traces/{measured_lake.TRACE}", ".."],
)  # fmt: skip
def test_only_traces_of_runs_are_served(client: Any, name: str) -> None:
    answer = client.get(f"/traces/{name}")
    assert (
        answer.status_code == 404 or b"<html" in answer.data
    )  # the page of the dashboard, where the path leaves /traces
    assert b"SQLite" not in answer.data
    assert answer.data not in (b"a trace", b"no run names this")


# several runs -------------------------------------------------------------------------------------------------------------


def test_efficiency_is_the_rate_over_n_times_the_rate_of_one(bench_lake: Lake) -> None:
    rows = bench_lake.rows("scaling", is_training=False)
    lines = {(row["strategy"], row["num_devices"]): (row["tokens_per_s"], row["efficiency"]) for row in rows}
    assert lines == {
        ("tensor parallel", 1): (100.0, 1.0),
        ("tensor parallel", 2): (170.0, pytest.approx(0.85)),
        ("layer split", 1): (100.0, 1.0),
        ("layer split", 2): (90.0, pytest.approx(0.45)),
    }
    (_, two) = bench_lake.rows("scaling", is_training=True)
    assert (two["strategy"], two["efficiency"]) == ("data parallel", pytest.approx(0.9))


def test_a_step_is_its_phases_and_the_rest(bench_lake: Lake) -> None:
    steps = by_id(bench_lake.rows("training_steps"))
    assert set(steps) == {"step", "step-2", "step-r"}
    assert steps["step"]["rest_s"] == pytest.approx(0.05)
    figure = measured_figures.training_phases(
        bench_lake.query("training_steps").append_column("label", [["a", "b", "c"]])
    )
    assert [trace.name for trace in figure.data] == ["forward", "backward", "optimizer", "rest"]
    shown = said(training.layout(bench_lake, {"llm": "llama-2-7b"}))
    assert all(words in shown for words in ("recompute", "Scaling", "Where memory ends"))


def test_variants_are_ranked_beside_the_slowest(bench_lake: Lake) -> None:
    rows = bench_lake.rows("variants", is_several=True)
    assert [(row["run_id"], row["speedup"], row["idle_share"]) for row in rows] == [
        ("lp-graph", pytest.approx(4), pytest.approx(0.04)),
        ("lp-eager", pytest.approx(1), pytest.approx(0.75)),
    ]


def test_memory_ends_between_the_largest_that_ran_and_the_smallest_that_did_not(bench_lake: Lake) -> None:
    found = {
        (row["llm_id"], row["phase"]): (row["largest_ok"], row["smallest_oom"])
        for row in bench_lake.rows("memory_boundary")
    }
    assert found[("llama-2-7b", "pretrain_step")] == (2, 64)
    assert found[("llama-2-7b", "decode")][1] == 512


def test_every_cell_of_a_grid_has_its_outcome(bench_lake: Lake) -> None:
    cells = {(row["llm_id"], row["task"], row["batch_size"]): row["status"] for row in bench_lake.rows("status_grid")}
    assert len(cells) == 8
    assert (
        cells["opt-350m", "translation", 32],
        cells["t5-small", "summarization", 32],
        cells["t5-small", "translation", 32],
    ) == ("oom", "timeout", "ok")
    shown = said(overview.layout(bench_lake, {}))
    assert "6 ok, 1 oom, 1 timeout" in shown


def test_failures_are_counted_before_they_are_listed(bench_lake: Lake) -> None:
    outcomes = {
        (row["outcome"], row["phase"], row["llm_id"]): (row["num_runs"], row["batch_sizes"])
        for row in bench_lake.rows("outcomes")
    }
    assert outcomes["oom", "decode", "llama-2-7b"] == (1, "512")
    assert sum(count for count, _ in outcomes.values()) == bench_lake.rows("headline")[0]["num_failed"] == 5


def test_compare_shows_variants_scaling_and_the_end_of_memory(bench_lake: Lake) -> None:
    params = {
        "llm": "llama-2-7b",
        "phase": "decode",
        "batch": "any",
        "tokens": "any",
        "dtype": "any",
        "metric": "latency_s",
    }
    shown = said(
        compare.content(bench_lake, compare.read(bench_lake, params, bench_lake.rows("workloads"), None), None)
    )
    assert all(words in shown for words in ("Ways of executing it", "Scaling", "Where memory ends"))


@pytest.mark.parametrize("page", [overview, compare, roofline, layers, machine, training, run])
def test_every_page_of_a_lake_of_measurements(bench_lake: Lake, page: Any) -> None:
    assert "could not be built" not in said(page.layout(bench_lake, {}))


def test_rows_of_a_gemm_are_no_bytes() -> None:
    rows = pa.table(
        {"m": [16, 4096], "size_bytes": [16, 4096], "achieved_bytes_per_s": [1e9, 2e9], "series": ["a", "a"], "hover": ["", ""],
         "run_id": ["r", "s"], "source_kind": ["measured", "measured"]}
    )  # fmt: skip
    metric = BY_KEY["achieved_bytes_per_s"]
    ticks = {
        x: " ".join(map(str, measured_figures.curves(rows, x, metric, x, log_x=True).layout.xaxis.ticktext or ()))
        for x in ("m", "size_bytes")
    }
    assert "B" in ticks["size_bytes"]
    assert "B" not in ticks["m"]
