"""What the analytical engine answers, on the pages: bound and estimate, memory by part, cost, energy, and where constants come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import computed_lake
import pyarrow as pa
import pytest

from dashboard import analytical, figures, text
from dashboard.app import _layout
from dashboard.data import Lake
from dashboard.pages import compare, layers, overview, predict, roofline, run
from models.analytical import estimate
from warehouse.metrics import Metric, metric
from warehouse.store import open_store

LATENCY = metric("latency_s")
TIME = Metric("time_s", "Time", "s", "ms", 1e3, "lower", "")
GIB = 2.0**30


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    opened = Lake(computed_lake.build(tmp_path_factory.mktemp("computed")))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def ids(lake: Lake) -> dict[str, str]:
    with open_store(lake.home, read_only=True) as store:
        return computed_lake.ids(store)


def said(component: Any) -> str:
    """A component as JSON text: what it says, links included."""
    return json.dumps(
        component,
        default=lambda part: part.to_plotly_json() if hasattr(part, "to_plotly_json") else str(part),
        ensure_ascii=False,
    )


def row_of(lake: Lake, run_id: str) -> dict[str, Any]:
    (row,) = lake.rows("run", run_id=run_id)
    return row


def decode(lake: Lake) -> pa.Table:
    return lake.query("compare", llm_id="llama-2-7b", phase="decode", batch="8")


def test_the_run_page_says_bound_estimate_and_what_binds(lake: Lake, ids: dict[str, str]) -> None:
    row, shown = row_of(lake, ids["eager"]), said(run.layout(lake, {"run_id": ids["eager"]}))
    for key in ("roofline_s", "estimate_s", "estimate_lower_s", "estimate_upper_s", "launch_s"):
        assert text.quantity(LATENCY, row[key]) in shown
    assert "memory bound" in shown
    assert "+10 % memory bandwidth makes the bound 10.0 % faster." in shown  # every op of this step waits for memory
    assert "+10 % compute peak makes the bound no faster." in shown
    assert "+10 % link" not in shown  # nothing goes over a link


@pytest.mark.parametrize(
    ("elasticity", "words"), [(1.0, "10.0 % faster"), (0.5, "4.9 % faster"), (1e-9, "no faster"), (0.0, "no faster")]
)
def test_an_elasticity_in_words(elasticity: float, words: str) -> None:
    assert text.gain(elasticity, "memory bandwidth") == f"+10 % memory bandwidth makes the bound {words}."


def test_constants_are_the_lakes_or_else_the_shipped_ones(lake: Lake, ids: dict[str, str]) -> None:
    own, shown_shipped = (said(run.layout(lake, {"run_id": ids[name]})) for name in ("eager", "engine"))
    assert "fitted on snapshot 7" in own
    assert "2026-02-03" in own
    assert "run_calibration.csv" in own
    assert "shipped with the engine" in shown_shipped
    sources = {row["calibration_id"]: row["source"] for row in (*estimate.shipped(), computed_lake.fitted())}
    for name, shown in (("eager", own), ("engine", shown_shipped)):
        assert "share of the memory bandwidth that large streams reach" in shown
        assert json.dumps(f"From: {sources[row_of(lake, ids[name])['calibration_id']]}", ensure_ascii=False) in shown


def test_constants_that_nobody_has_are_named(lake: Lake, ids: dict[str, str]) -> None:
    row = row_of(lake, ids["engine"]) | {"run_id": "elsewhere", "calibration_id": "0123456789abcdef"}
    assert "0123456789abcdef" in said(analytical.constants(lake, row, None))
    assert "neither in this lake" in said(analytical.constants(lake, row, None))


def test_memory_by_part_adds_up_to_the_peak_beside_the_device(lake: Lake, ids: dict[str, str]) -> None:
    row = row_of(lake, ids["training"])
    figure = figures.memory_parts(row, 80 * GIB)
    assert sum(bar.x[0] for bar in figure.data) == pytest.approx(row["memory_peak_bytes"] / GIB, rel=1e-12)
    assert {bar.name for bar in figure.data} >= {"Weights", "Gradients", "Optimizer states", "Activation peak"}
    assert figure.layout.shapes[0].x0 == 80.0
    assert "logits among them" in next(bar.hovertemplate for bar in figure.data if bar.name == "Activation peak")


def test_memory_without_parts_is_a_sentence() -> None:
    assert (
        figures.memory_parts(dict.fromkeys([*figures.MEMORY_COLOURS, "logits_bytes"]), None).layout.annotations[0].text
    )


def test_what_fits_says_how_much_more_does_and_what_it_costs(lake: Lake, ids: dict[str, str]) -> None:
    row, shown = row_of(lake, ids["engine"]), said(run.layout(lake, {"run_id": ids["engine"]}))
    (price,) = lake.rows("run_price", run_id=ids["engine"])
    assert f"a batch of {row['max_batch_size']} at these lengths" in shown
    assert price["price_id"] == row["price_id"]
    assert price["source_date"] in shown
    assert price["provider"] in shown
    assert "is taken to draw 25 % while it waits" in shown
    dear = row["num_devices"] * price["usd_per_device_hour"] / 3600 * row["estimate_s"] / row["batch_size"] * 1e6
    assert row["usd_per_million_tokens"] == pytest.approx(dear, rel=1e-9)


def test_what_does_not_fit_has_no_cost_and_says_so(lake: Lake, ids: dict[str, str]) -> None:
    shown = said(run.layout(lake, {"run_id": ids["training"]}))
    assert "It does not fit." in shown
    assert "What does not fit has no rate, no cost and no energy." in shown


def test_a_training_step_is_not_offered_where_no_predictor_can_be_asked(lake: Lake, ids: dict[str, str]) -> None:
    assert "Predict it" not in said(run.layout(lake, {"run_id": ids["training"]}))
    assert "Predict it" in said(run.layout(lake, {"run_id": ids["eager"]}))


def test_other_kinds_of_runs_have_no_analytical_card(lake: Lake) -> None:
    assert analytical.cards(lake, row_of(lake, "busy"), None) == []


def test_a_measured_run_stands_beside_the_estimate_of_its_own_profile(lake: Lake, ids: dict[str, str]) -> None:
    eager = row_of(lake, ids["eager"])
    twins = {row["run_id"]: row for row in lake.rows("run_twins", run_id="busy")}
    assert set(twins) == {ids["eager"], ids["engine"], "rate"}  # a profile does not make another one outdated
    assert twins[ids["eager"]]["observed_over_estimate"] == pytest.approx(0.025 / eager["estimate_s"], rel=1e-12)
    assert twins["rate"]["observed_over_estimate"] is None  # neither of the two is an estimate
    sentence = run.beside(row_of(lake, "busy"), list(twins.values()))
    assert sentence is not None
    assert sentence.startswith(f"25 ms observed: {text.number(0.025 / eager['roofline_s'])} times the bound")


def test_a_rate_of_all_sequences_is_a_time_too(lake: Lake, ids: dict[str, str]) -> None:
    eager = row_of(lake, ids["eager"])
    (twin,) = (row for row in lake.rows("run_twins", run_id="rate") if row["run_id"] == ids["eager"])
    assert twin["observed_over_estimate"] == pytest.approx(8 / 400.0 / eager["estimate_s"], rel=1e-12)
    sentence = run.beside(row_of(lake, "rate"), [twin])
    assert sentence is not None
    assert sentence.startswith("20 ms observed (from its token rate): ")
    (back,) = (row for row in lake.rows("run_twins", run_id=ids["eager"]) if row["run_id"] == "rate")
    assert back["observed_over_estimate"] == twin["observed_over_estimate"]


def test_compare_draws_the_estimate_beside_the_bound(lake: Lake, ids: dict[str, str]) -> None:
    rows = decode(lake)
    traces = {trace.name: trace for trace in figures.compare(rows, LATENCY).data if trace.name}
    pale = traces["estimate, 90 % interval"]
    at = [entry[0] for entry in pale.customdata].index(ids["eager"])
    eager = row_of(lake, ids["eager"])
    assert pale.x[at] == eager["estimate_s"] * 1e3
    assert pale.x[at] - pale.error_x.arrayminus[at] == pytest.approx(eager["estimate_lower_s"] * 1e3, rel=1e-12)
    assert pale.x[at] + pale.error_x.array[at] == pytest.approx(eager["estimate_upper_s"] * 1e3, rel=1e-12)
    assert "90 % interval" in pale.customdata[at][1]
    assert "A pale tick" in compare.estimated(rows, LATENCY)


@pytest.mark.parametrize("key", ["estimate_s", "usd_per_million_tokens", "energy_per_output_token_j"])
def test_compare_offers_what_the_engine_answers(lake: Lake, key: str) -> None:
    assert key in compare.OFFERED
    figure = figures.compare(decode(lake), metric(key))
    assert [trace.name for trace in figure.data if trace.name] == ["analytical"]
    assert any(figure.data[0].error_x.array) == (key == "estimate_s")
    assert compare.answer(decode(lake), metric(key))[0].kind == "analytical"


def test_a_metric_that_no_row_has_leads_to_those_they_have(lake: Lake) -> None:
    params = {"llm": "llama-2-7b", "phase": "decode", "batch": "8", "metric": "ttft_s"}
    choice = compare.read(lake, params, lake.rows("workloads"), None)
    shown = said(compare.content(lake, choice, None))
    assert "TTFT: not known here" in shown
    assert "metric=latency_s" in shown
    assert "metric=usd_per_million_tokens" in shown
    assert "metric=ttft_s" not in shown
    assert "metric=weights_bytes" not in shown


def test_a_busy_machine_is_marked_on_compare_roofline_and_run(lake: Lake) -> None:
    words = "busy machine: 42 % of its cores"
    choice = compare.read(
        lake,
        {"llm": "llama-2-7b", "phase": "decode", "batch": "8", "metric": "latency_s"},
        lake.rows("workloads"),
        None,
    )
    assert words in said(compare.table(decode(lake), LATENCY, None))
    assert f"measured on a {words}" in said(compare.content(lake, choice, None))
    state = {"devices": ["a100-sxm-80gb"], "llms": [], "phase": "any", "dtype": "fp16", "run": None, "ceilings": True}
    shown = said(roofline.content(lake, state, None))
    assert f"measured on a {words}" in shown
    assert '"headerName": "Machine"' in shown
    assert f"Measured on a {words}" in said(run.layout(lake, {"run_id": "busy"}))


@pytest.mark.parametrize("ratio", [None, 0.0, 0.1])
def test_a_quiet_or_unknown_machine_is_not_marked(ratio: float | None) -> None:
    assert text.busy(ratio) is None


def test_layers_show_the_estimate_and_its_kernels(lake: Lake, ids: dict[str, str]) -> None:
    rows = lake.rows("run_ops", run_id=ids["eager"])
    assert sum(row["estimate_share"] for row in rows if row["is_leaf"]) == pytest.approx(1.0, rel=1e-9)
    shown = said(layers.layout(lake, {"run": ids["eager"], "size": "estimate_s", "colour": "estimate_share"}))
    for words in ("Share of estimate (%)", "Kernels", "analytical estimate", '"value": "estimate_s"'):
        assert words in shown


def test_kinds_of_operators_have_the_bound_and_estimate_of_their_own_profile(lake: Lake, ids: dict[str, str]) -> None:
    for name in ("eager", "engine"):
        rows = lake.query("op_kinds", run_id=ids[name])
        assert set(rows.column("run_id").to_pylist()) == {ids[name]}
        bars = figures.op_kinds(rows, TIME).data
        assert [bar.name for bar in bars] == ["analytical bound", "analytical estimate"]
        assert all(low <= high for low, high in zip(bars[0].x, bars[1].x, strict=True))


def test_predict_has_the_estimate_beside_the_bound(lake: Lake) -> None:
    form = predict.read(lake, {"llm": "llama-2-7b", "device": "t4", "phase": "decode", "dtype": "fp16"}, lake.rows("llm_list"),
                        lake.rows("device_list"), None)  # fmt: skip
    shown = said(predict.answer(lake, form, None))
    assert "Analytical estimate" in shown
    assert ", its estimate " in shown
    assert "Execution profile of the estimate" in shown


def test_what_a_link_asks_for_in_vain_is_named(lake: Lake) -> None:
    shown = said(_layout(compare, lake, colour="red", llm="llama-2-7b"))
    assert "The link says colour, which this page does not read. It reads batch, definition, devices," in shown
    for page in (compare, overview, roofline, layers, predict, run):
        assert "does not read" not in said(_layout(page, lake))
    assert "does not read" not in said(
        _layout(compare, lake, llm="llama-2-7b", excluded="1", snapshot=str(lake.snapshot_id()))
    )
    assert "does not read" not in said(_layout(run, lake, run_id="busy"))
