"""The Serving page over loads with round numbers: its answer, its charts, what it keeps apart, and its queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import serving_lake

from dashboard import definitions, figures, serving_figures
from dashboard.data import Lake
from dashboard.pages import compare, findings, machine, overview, run, serving
from warehouse.metrics import BY_KEY
from warehouse.parquet import land
from warehouse.store import Home, open_store


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    filled = Lake(serving_lake.build(tmp_path_factory.mktemp("served")))
    yield filled
    filled.close()


def said(component: Any) -> str:
    return json.dumps(
        component,
        default=lambda part: part.to_plotly_json() if hasattr(part, "to_plotly_json") else str(part),
        ensure_ascii=False,
    )


def words(component: Any) -> str:
    """The text that a reader sees, without links, names and ids."""
    if isinstance(component, list | tuple):
        return " ".join(map(words, component))
    return component if isinstance(component, str) else words(getattr(component, "children", None) or "")


def rows_of(served: Lake, **values: Any) -> list[dict[str, Any]]:
    return serving._named(served.rows("serving_runs", served_id="llama-2-7b", workload="512 in, 128 out", **values))


def figure_of(component: Any, name: str) -> go.Figure:
    return next(part.figure for part in component._traverse() if getattr(part, "id", None) == {"graph": name})


CHOICE = serving.Choice("llama-2-7b", "512 in, 128 out")


def test_the_page_opens_on_the_workload_known_at_most_loads(served: Lake) -> None:
    choice = serving.read(served, {}, served.rows("serving_choices"), None)
    assert (choice.llm, choice.workload, choice.metric, choice.axis) == (
        "llama-2-7b",
        "512 in, 128 out",
        "ttft_s",
        "concurrency",
    )


def test_the_answer_names_who_gives_most_who_is_first_and_who_is_saturated(served: Lake) -> None:
    rows = [row for row in rows_of(served) if row["status"] == "ok" and not row["num_faults"]]
    (most,) = serving.most_output(rows, CHOICE)
    assert most[1].startswith("NVIDIA H100 SXM5 80 GB with vllm with 800 tokens/s per device at 8 at once")
    assert "2 times NVIDIA A100 SXM4 80 GB with vllm (400 tokens/s at 8 at once)." in most[1]
    assert most[2]["run_id"] == "vllm-8"
    (first,) = serving.first_answer(rows, CHOICE)
    assert first[1].startswith("NVIDIA H100 SXM5 80 GB with vllm with 50 ms at 1 at once, 2 times less than")
    assert [line[2]["run_id"] for line in serving.saturated(rows)] == ["vllm-16"]


@pytest.fixture(scope="module")
def unstated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Two servers of which nobody says what they run on, one loaded at a rate, and one on a number of devices that nobody says."""
    place = Home.of(tmp_path_factory.mktemp("unstated"))
    place.prepare()
    rate: dict[str, Any] = {
        "concurrency": None,
        "request_rate_per_s": 2.0,
        "load_pattern": "poisson",
        "ttft_scheduled_p50_s": 0.2,
    }
    rows = [
        serving_lake.serve("here", hardware_id=None, served_model_name="here/tiny", ttft_p50_s=0.05, output_tokens_per_s=100.0, **rate),
        serving_lake.serve("there", hardware_id=None, served_model_name="there/tiny", ttft_p50_s=0.1, output_tokens_per_s=50.0, concurrency=2),
        serving_lake.serve("some", num_devices=None, output_tokens_per_s=1e6, tpot_p50_s=0.01, concurrency=2),
    ]  # fmt: skip
    land(place.landing, "unstated", {"runs": rows})
    with open_store(place) as store:
        store.load()
    filled = Lake(place.path)
    yield filled
    filled.close()


def test_servers_on_unstated_devices_are_told_apart_by_their_models_name(unstated: Lake) -> None:
    rows = rows_of(unstated)
    (first,) = serving.first_answer(rows, CHOICE)
    assert first[1].startswith(
        "here/tiny (device not stated) with vllm with 50 ms, 200 ms from when it was due at 2 requests/s, poisson"
    )
    assert "2 times less than there/tiny (device not stated) with vllm (100 ms at 2 at once)" in first[1]


def test_two_lines_of_one_device_are_told_apart_in_the_answer(served: Lake) -> None:
    row = rows_of(served)[0]
    twins = [
        {**row, "series": f"H100, {pattern}", "ttft_p50_s": value}
        for pattern, value in (("closed", 2.0), ("poisson", 4.0))
    ]
    (first,) = serving.first_answer(twins, CHOICE)
    assert first[1].startswith("H100, closed with 2 s")
    assert "2 times less than H100, poisson" in first[1]


def test_an_unstated_number_of_devices_is_not_one(unstated: Lake) -> None:
    rows = rows_of(unstated)
    some = next(row for row in rows if row["run_id"] == "some")
    assert some["output_tokens_per_s_per_device"] is None
    assert "number of devices not stated" in some["hover"]
    (most,) = serving.most_output(rows, CHOICE)
    assert most[2]["run_id"] == "here"
    assert "for the number of devices is not stated: 1 load." in words(serving.answer_card(rows, CHOICE, None))
    told = words(run.layout(unstated, {"run_id": "some"}))
    assert "None" not in told
    assert "devices" in told.partition("Not stated or not applicable: ")[2].partition(".")[0]


def test_throughput_under_two_definitions_is_never_ranked_together(served: Lake) -> None:
    rate = BY_KEY["output_tokens_per_s"]
    rows = rows_of(served)
    which = definitions.choose(rows, rate)
    assert which.counts == {serving_lake.STEADY: 9, serving_lake.WHOLE: 3}
    kept = [row for row in which.kept(rows) if row["output_tokens_per_s"] is not None]
    assert {row["framework"] for row in kept} == {"vllm"}
    asked = definitions.choose(rows, rate, serving_lake.WHOLE)
    assert {row["framework"] for row in asked.kept(rows) if row["output_tokens_per_s"] is not None} == {"tgi"}
    badge = words(definitions.badge(which, lambda definition: f"/serving?definition={definition}"))
    assert "known here under 2 definitions" in badge
    assert "3 rows under another left out" in badge


def test_a_row_without_a_definition_is_one_of_its_own(served: Lake) -> None:
    which = definitions.choose(rows_of(served, with_excluded=True), BY_KEY["output_tokens_per_s"])
    assert which.counts["unknown"] == 1
    assert not which.keeps({**rows_of(served)[0], "metric_definitions": None, "source_kind": "published"})


def test_all_definitions_are_shown_only_on_request_and_each_is_named(served: Lake) -> None:
    card = serving.pareto_card(rows_of(served), serving.Choice("llama-2-7b", definition="all"), None)
    names = [str(trace.name).replace("<br>", " ") for trace in figure_of(card, "pareto").data]
    assert any(serving_lake.WHOLE in name for name in names)
    assert any(serving_lake.STEADY in name for name in names)
    assert "They are not the same quantity" in words(card)


def test_load_curves_mark_saturated_and_faulty_points(served: Lake) -> None:
    figure = figure_of(serving.curves_card(rows_of(served), CHOICE, None), "curve-ttft_s")
    traces = {str(trace.name).partition(",")[0]: trace for trace in figure.data}
    assert list(traces["saturated"].x) == [16]
    assert list(traces["a check found a fault"].x) == [4]
    fast = next(trace for trace in figure.data if "vllm-8" in str(trace.customdata))
    assert list(fast.x) == [1, 2, 4, 8, 16]
    assert list(fast.y) == pytest.approx([50, 100, 200, 400, 800])


def test_rows_kept_out_come_only_when_asked_for_and_are_ringed(served: Lake) -> None:
    assert "tgi-odd" not in {row["run_id"] for row in rows_of(served)}
    choice = serving.Choice("llama-2-7b", "512 in, 128 out", definition="all", excluded=True)
    figure = figure_of(serving.curves_card(rows_of(served, with_excluded=True), choice, None), "curve-ttft_s")
    assert [list(trace.x) for trace in figure.data if trace.name == "kept out of charts"] == [[2]]


def test_the_distribution_counts_completed_requests_after_warm_up(served: Lake) -> None:
    rows = served.rows("serving_cdf", run_ids=["vllm-8"], metric="ttft_s")
    assert {row["num_requests"] for row in rows} == {20}
    assert (rows[0]["value_s"], rows[100]["value_s"]) == (pytest.approx(0.12), pytest.approx(0.31))
    card = serving.cdf_card(served, rows_of(served), CHOICE, None)
    assert "40 completed requests of 2 runs at 8 at once, warm-up left out." in words(card)
    assert len(figure_of(card, "cdf").data) == 2


def test_the_frontier_is_what_nothing_beats() -> None:
    points = [(1.0, 9.0), (2.0, 8.0), (1.5, 7.0), (3.0, 1.0), (2.5, 1.0)]
    assert serving_figures.frontier(points) == [(1.0, 9.0), (2.0, 8.0), (3.0, 1.0)]


def test_a_fault_is_not_on_the_frontier(served: Lake) -> None:
    row = rows_of(served)[0]
    points = [(10.0, 90.0, 0), (20.0, 50.0, 0), (30.0, 1e6, 1)]
    rows = [
        {**row, "interactivity": x, "output_tokens_per_s_per_device": y, "num_faults": faults}
        for x, y, faults in points
    ]
    figure = serving_figures.pareto(rows)
    best = next(trace for trace in figure.data if trace.name == "best of all")
    assert list(best.x) == [10.0, 20.0]
    assert [list(trace.x) for trace in figure.data if trace.name == "a check found a fault"] == [[30.0]]


def test_goodput_shows_the_best_load_under_its_objectives(served: Lake) -> None:
    card = serving.goodput_card(rows_of(served), CHOICE, None)
    assert "meeting every SLO" in words(card)
    (bar,) = figure_of(card, "goodput").data
    assert bar.name == "TTFT 500 ms, TPOT 15 ms"
    assert list(bar.x) == [pytest.approx(400 / 128)]


def test_quality_stands_beside_the_speed_of_the_run_that_was_scored(served: Lake) -> None:
    figure = figure_of(serving.quality_card(served, CHOICE, None), "quality")
    assert sorted((trace.x[0], trace.y[0]) for trace in figure.data) == [(400.0, 0.71), (800.0, 0.75)]


def test_a_failed_load_is_a_row_and_has_no_point(served: Lake) -> None:
    card = serving.rows_card(rows_of(served), CHOICE, None)
    grid = next(part for part in card._traverse() if getattr(part, "id", None) == {"grid": "serving-rows"})
    assert grid.rowData[-1]["status"] == "timeout"


def test_a_statistic_that_no_load_has_says_what_there_is(served: Lake) -> None:
    card = serving.curves_card(rows_of(served), serving.Choice("llama-2-7b", stat="p95"), None)
    assert "None of the 14 loads has its p95. They have: mean, p50, p99." in words(card)


def test_requests_in_flight_come_from_their_ends(served: Lake) -> None:
    rows = served.rows("serving_in_flight", run_id="vllm-8")
    assert max(row["in_flight"] for row in rows) == 4  # one each half second, 1.4 to 1.61 s long
    assert rows[0]["at_s"] == 0.0
    assert rows[-1]["in_flight"] == 0


def test_a_served_run_shows_its_requests_failures_steady_window_and_client(served: Lake) -> None:
    page = run.layout(served, {"run_id": "vllm-8"})
    told = words(page)
    assert "24 requests, 2 failed (1 refused 429, 1 error)." in told
    assert "Shaded: the steady window of 8 s." in told
    assert "400 µs" in told  # what the client adds
    assert "gsm8k" in said(page)
    over_time = figure_of(page, "requests-over-time")
    failed = {trace.name: list(trace.x) for trace in over_time.data if str(trace.name).startswith("failed")}
    assert failed == {"failed: refused": [11.0], "failed: error": [11.5]}
    (window,) = over_time.layout.shapes
    assert (window.x0, window.x1) == (2.0, 10.0)
    strips = {trace.name for trace in figure_of(page, "telemetry").data}
    assert {"KV cache: in use, engine", "Requests: waiting, engine"} <= strips


def test_every_value_of_a_run_names_its_definition_id(served: Lake) -> None:
    assert "e2el_minus_ttft_over_n_minus_1" in words(run.layout(served, {"run_id": "vllm-8"}))
    assert "its row names no definition" in words(run.layout(served, {"run_id": "tgi-odd"}))


def test_a_request_by_hand_shows_its_prompt_and_answer(served: Lake) -> None:
    told = words(run.layout(served, {"run_id": "by-hand"}))
    assert "What is a roofline?" in told
    assert "A bound." in told


def test_an_untrusted_client_is_said_to_be_one(served: Lake) -> None:
    assert "not trusted" in words(run.layout(served, {"run_id": "vllm-16"}))


def test_a_run_shows_what_was_found_about_it_and_about_its_source(served: Lake) -> None:
    told = words(run.layout(served, {"run_id": "tgi-4"}))
    assert "need 25 ms a token" in told
    assert "(about the whole source)" in told
    assert "No longer so." not in words(run.layout(served, {"run_id": "tgi-1"}))


def test_findings_are_counted_by_check_and_source_and_lead_to_their_rows(served: Lake) -> None:
    page = findings.layout(served, {})
    assert "1 fault and 2 doubts in rows of 1 source." in words(page)
    grid = next(part for part in page._traverse() if getattr(part, "id", None) == {"grid": "findings"})
    assert [row["link"] and row["link"]["href"] for row in grid.rowData] == [
        "/run?run_id=tgi-4",
        "/run?run_id=tgi-16",
        None,
    ]
    only = findings.content(served, {"source": "any", "check": "unit_slip", "severity": "any"}, None)
    assert "1 finding, faults first." in words(only)


def test_few_findings_have_ticks_of_whole_numbers() -> None:
    row = {"source_id": "paper", "check_name": "unit_slip", "num_faults": 1, "num_doubts": 0, "title": None}
    assert findings.chart([{**row, "num_findings": 1}]).layout.xaxis.dtick == 1
    assert findings.chart([{**row, "num_findings": 500}]).layout.xaxis.dtick is None


def test_tables_of_kernels_stand_under_the_roof_and_say_how_many_shapes_they_are(served: Lake) -> None:
    page = machine.layout(served, {"device": "h100-sxm", "kernel": "any"})
    told = words(page)
    assert "11 shapes in 2 tables, shown as 11 points." in told
    assert "1 shape above the roof: a fault." in told
    gemm = next(trace for trace in figure_of(page, "kernel-roof").data if "GEMM" in str(trace.name))
    roof = next(trace for trace in figure_of(page, "kernel-roof").data if str(trace.name).startswith("roof"))
    assert max(roof.y) == pytest.approx(989.4, rel=0.01)
    assert gemm.y[0] == pytest.approx(0.5 * 3.35e12 * gemm.x[0] / 1e12, rel=0.01)
    (reduced,) = figure_of(page, "kernel-sizes").data
    assert list(reduced.y) == pytest.approx([100.0] * 3)
    assert "table-gemm" not in {row["run_id"] for row in served.rows("microbench_points")}


def test_a_million_shapes_stay_a_few_points(tmp_path: Path) -> None:
    home = tmp_path / "many"
    place = Home.of(home)
    place.prepare()
    size = pa.array(range(1, 200_001), pa.float64())
    columns = {
        "run_id": pa.repeat(pa.scalar("table-gemm"), 200_000), "kernel_index": pa.array(range(200_000)), "kernel": pa.repeat(pa.scalar("gemm"), 200_000),
        "op_kind": pa.repeat(pa.scalar("gemm"), 200_000), "flops": pc.multiply(size, 1e6), "bytes_moved": pc.add(size, 1e4), "time_s": pc.divide(size, 1e6),
    }  # fmt: skip
    land(place.landing, "many", {"runs": serving_lake.tables()[:1], "kernels": pa.table(columns)})
    with open_store(place) as store:
        store.load()
    lake = Lake(home)
    (table,) = lake.rows("kernel_tables")
    points = lake.rows("kernel_points")
    assert table["num_shapes"] == sum(row["num_shapes"] for row in points) == 200_000
    assert len(points) < 60
    assert len(lake.rows("kernel_rows", run_id="table-gemm", most=500)) <= 500
    lake.close()


AT_FOUR = {
    "llm": "llama-2-7b",
    "phase": "serve",
    "tokens": "512 in, 128 out, 4 at once",
    "metric": "output_tokens_per_s",
}


def test_compare_shows_one_definition_at_a_time_and_says_which_it_left_out(served: Lake) -> None:
    page = compare.layout(served, AT_FOUR)
    assert "Shown is one; 1 row under another left out." in words(page)
    answer = words(next(part for part in page._traverse() if "rl-answer" in str(getattr(part, "className", ""))))
    assert "H100" in answer
    assert "Published" not in answer  # tgi-4 follows another definition
    ids = {point[0] for trace in figure_of(page, "compare").data for point in trace.customdata or ()}
    assert ids == {"vllm-4", "a100-4"}


def test_compare_shows_another_definition_or_all_of_them_marked(served: Lake) -> None:
    other = compare.layout(served, AT_FOUR | {"definition": serving_lake.WHOLE})
    assert {point[0] for trace in figure_of(other, "compare").data for point in trace.customdata or ()} == {"tgi-4"}
    every = compare.layout(served, AT_FOUR | {"definition": "all"})
    names = {str(trace.name).replace("<br>", " ") for trace in figure_of(every, "compare").data}
    assert {f"as {serving_lake.WHOLE}", f"as {serving_lake.STEADY}", "a check found a fault"} <= names
    assert "They are not the same quantity" in words(every)


def test_a_metric_under_one_definition_has_no_badge(served: Lake) -> None:
    assert "known here under" not in words(compare.layout(served, AT_FOUR | {"metric": "ttft_s"}))


def test_a_busy_machine_is_ringed_on_compare(served: Lake) -> None:
    rows = served.query("compare", llm_id="llama-2-7b", phase="serve").to_pylist()
    busy = pa.Table.from_pylist(
        [row | {"other_load_ratio": 0.5 if row["run_id"] == "vllm-1" else 0.01} for row in rows]
    )
    rings = [trace for trace in figures.compare(busy, BY_KEY["ttft_s"]).data if trace.name == "busy machine"]
    assert [list(trace.x) for trace in rings] == [[50.0]]


def test_the_overview_counts_findings_and_leads_to_them(served: Lake) -> None:
    page = overview.layout(served, {})
    assert "1 fault and 2 doubts in these rows" in words(page)
    assert any(getattr(part, "href", None) == "/findings" for part in page._traverse())


def test_two_runs_at_one_load_are_points_and_not_a_line(served: Lake) -> None:
    rows = [row | {"series": "one", "place": 0} for row in rows_of(served) if row["run_id"] in ("vllm-4", "a100-4")]
    (points, *_) = serving_figures.load_curves(rows, "concurrency", BY_KEY["ttft_s"], "ttft_s").data
    assert points.mode == "markers"


def test_a_chart_has_room_for_as_many_series_as_there_are_colours(served: Lake) -> None:
    row = next(row for row in rows_of(served) if row["run_id"] == "vllm-4")
    many = [row | {"series": f"server {place}", "place": place} for place in (*range(20, 3, -1),)]
    names = [trace.name for trace in serving_figures.load_curves(many, "concurrency", BY_KEY["ttft_s"], "ttft_s").data]
    assert names == [f"server {place}" for place in range(4, 4 + serving_figures.MOST_LINES)]
