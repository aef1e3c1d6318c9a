"""The pages Predict and League and the JSON API of predictions, over predictors whose law is planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import planted_predictors as planted
import pytest
from plotly.utils import PlotlyJSONEncoder

from dashboard import predict_figures as charts
from dashboard.app import create_app
from dashboard.data import Lake
from dashboard.pages import league, predict
from warehouse.metrics import BY_KEY

LATENCY = BY_KEY["latency_s"]


@pytest.fixture(scope="module")
def planted_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    filled = Lake(planted.build(tmp_path_factory.mktemp("planted")))
    yield filled
    filled.close()


@pytest.fixture(scope="module")
def client(planted_lake: Lake) -> Any:
    return create_app(planted_lake.home).server.test_client()


def said(component: Any) -> str:
    return json.dumps(component, cls=PlotlyJSONEncoder, ensure_ascii=False)


def asked(lake: Lake, **params: str) -> list[Any]:
    given = {
        "llm": "llama-2-7b",
        "device": "a100-sxm-80gb",
        "phase": "decode",
        "dtype": "fp16",
        "attention": "paged",
        "context_tokens": "512",
    } | params
    form = predict.read(lake, given, lake.rows("llm_list"), lake.rows("device_list"), None)
    return predict.answer(lake, form, None)


ASKED = {"llm_id": "gpt2", "hardware_id": "t4", "phase": "prefill", "input_tokens": 8}

# the page Predict


def test_an_answer_has_its_interval_and_says_of_what(planted_lake: Lake) -> None:
    shown = said(asked(planted_lake))
    assert "with 90 % confidence between" in shown
    assert "(rows like those seen)" in shown
    assert "Predictor latency: planted, median error 2.1 % (whole LLMs held out)." in shown
    assert "From the bound to this value" in shown
    assert "Fits in memory with probability" in shown


def test_what_the_form_leaves_open_is_taken_as_usual_and_said(planted_lake: Lake) -> None:
    assert "framework vllm, execution engine" in said(asked(planted_lake))


def test_number_formats_and_attention_may_be_left_open(planted_lake: Lake) -> None:
    shown = said(asked(planted_lake, dtype="usual", attention="usual"))
    assert "weight format fp16" in shown
    assert " None" not in shown.partition("execution engine")[0]
    assert "with 90 % confidence between" in shown
    assert "/run?run_id=planted-" in shown


def test_a_page_without_a_link_asks_what_predictors_have_seen(planted_lake: Lake) -> None:
    form = predict.read(planted_lake, {}, planted_lake.rows("llm_list"), planted_lake.rows("device_list"), None)
    assert (form["phase"], form["dtype"], form["attention"]) == ("decode", "usual", "usual")
    assert "with 90 % confidence between" in said(predict.answer(planted_lake, form, None))


def test_an_llm_never_seen_is_named_in_a_box(planted_lake: Lake) -> None:
    shown = said(asked(planted_lake, llm="opt-6.7b"))
    assert "(a group never seen)" in shown
    assert "Never seen: llm" in shown
    assert "llm 'opt-6.7b' was never seen" in shown


def test_what_no_predictor_knows_is_not_predicted(planted_lake: Lake) -> None:
    shown = said(asked(planted_lake, dtype="int4"))
    assert "No prediction; the analytical bound says" in shown
    assert "So this is the analytical estimate" in shown


def test_the_very_same_configuration_links_to_its_run(planted_lake: Lake) -> None:
    assert "/run?run_id=planted-" in said(asked(planted_lake))


def test_the_evidence_is_charts_of_held_out_rows_and_scores_beside_baselines(planted_lake: Lake) -> None:
    shown = said(predict.evidence(planted_lake, "latency", "leave_model_out", None))
    for part in (
        "Predicted against actual",
        "Residuals",
        "How often how wrong",
        "What the 90 % interval held",
        "Where it errs",
        "What it leans on",
    ):
        assert part in shown
    assert shown.index("planted") < shown.index("roofline bound")
    assert "2.0 %" in shown
    assert "40.0 %" in shown
    assert "A note." in shown


def test_a_link_by_metric_finds_the_predictor_of_it(planted_lake: Lake) -> None:
    assert "predicting.target_of" not in said(predict.layout(planted_lake, {"metric": "memory_peak_bytes"}))
    with pytest.raises(Exception, match="metric 'speed', which is not in this lake"):
        predict.layout(planted_lake, {"metric": "speed"})


# the page League


def test_the_league_has_every_contender_and_what_the_intervals_held(planted_lake: Lake) -> None:
    shown = said(league.layout(planted_lake, {}))
    assert "Ours has the least mean error of all contenders in 4 of 4 comparisons." in shown
    assert "Latency, whole LLMs held out" in shown
    assert "roofline bound" in shown
    assert "rooflake predict MODEL --hardware ID --publish NOTE" in shown


def test_goals_of_boards_stand_beside_what_was_reached(planted_lake: Lake) -> None:
    goals = [
        {"score": "mape", "most": 0.05, "least": None, "note": ""},
        {"score": "r2", "most": None, "least": 0.99, "note": ""},
    ]
    kept = {"lake": {"title": "All of it", "goals": goals}}
    path = planted_lake.home.path / "league.json"
    path.write_text(json.dumps(kept))
    shown = said(league.content(planted_lake, {"split": "any", "score": "mape", "snapshot": None}))
    path.write_text("no json")
    without = said(league.content(planted_lake, {"split": "any", "score": "mape", "snapshot": None}))
    path.unlink()
    assert "mean error at most 5 %: met; R² at least 0.99: missed" in shown
    assert "All of it" in shown
    assert "All of it" not in without


def test_one_split_leaves_the_others_out(planted_lake: Lake) -> None:
    shown = said(league.content(planted_lake, {"split": "random", "score": "mdape", "snapshot": None}))
    assert "in 2 of 2 comparisons" in shown
    assert ", whole LLMs held out" not in shown


def test_a_league_without_scores_says_what_fills_it(empty_lake: Lake) -> None:
    assert "No predictor has been scored on this lake." in said(league.layout(empty_lake, {}))


# figures


def test_the_waterfall_ends_at_the_prediction() -> None:
    steps = [
        {"step": "bound", "factor": 1.0, "value": 0.001},
        {"step": "base", "factor": 3.0, "value": 0.003},
        {"step": "shape", "factor": 0.5, "value": 0.0015},
    ]
    (bars,) = charts.breakdown(steps, LATENCY).data
    assert list(bars.y) == ["Bound", "Fitted base", "Shape", "Predicted"]
    assert [base + length for base, length in zip(bars.base, bars.x, strict=True)] == pytest.approx(
        [1.0, 3.0, 1.5, 1.5]
    )


def test_held_out_rows_are_told_apart_by_their_interval() -> None:
    row = {"value": 1.0, "actual": 1.1, "lower": 0.9, "upper": 1.2, "fold": "a"}
    figure = charts.held_out([row, row | {"actual": 2.0}, row | {"lower": None, "upper": None}], LATENCY)
    assert [trace.name for trace in figure.data] == [
        "perfect",
        "inside its interval",
        "outside its interval",
        "without an interval",
    ]


def test_a_fold_far_below_what_was_promised_is_red() -> None:
    (dots,) = charts.coverage(
        [{"fold": "a", "coverage": 0.7, "num_rows": 3}, {"fold": "b", "coverage": 0.9, "num_rows": 3}]
    ).data
    assert list(dots.x) == [70.0, 90.0]
    assert dots.marker.color[0] == charts.FAULT_COLOUR != dots.marker.color[1]


def test_a_histogram_keeps_what_is_beyond_its_ends() -> None:
    rows = [{"value": 1.0, "actual": 1.0}] * 99 + [{"value": 50.0, "actual": 1.0}]
    (bars,) = charts.residual_histogram(rows).data
    assert len(bars.x) == 100
    assert max(bars.x) < 100


def test_the_league_marks_goals_and_strangers() -> None:
    row = {"board": "a", "contender": "rooflake", "mape": 0.05, "num_rows": 9, "goal": 0.06}
    figure = charts.league([row, row | {"contender": "mine", "mape": 0.2}], "mape")
    assert [trace.name for trace in figure.data] == ["rooflake", "mine", "goal"]


@pytest.mark.parametrize("chart", [lambda: charts.breakdown([], LATENCY), lambda: charts.held_out([], LATENCY), lambda: charts.residuals([], LATENCY),
                                   lambda: charts.residual_histogram([]), lambda: charts.coverage([]), lambda: charts.slices([], "llm"),
                                   lambda: charts.importances([]), lambda: charts.league([], "mape"), lambda: charts.forecasts([])])  # fmt: skip
def test_a_chart_of_nothing_is_a_sentence(chart: Any) -> None:
    assert chart().layout.annotations[0].text


# the JSON API


def test_get_answers_every_combination(client: Any) -> None:
    found = client.get(
        "/api/predict?llm_id=facebook/opt-125m&hardware_id=t4,a100-sxm-80gb&phase=decode&context_tokens=512&batch_size=1,8"
    ).get_json()
    assert found["num_configurations"] == 4
    latency = [row for row in found["answers"] if row["metric"] == "latency_s"]
    assert [(row["hardware_id"], row["batch_size"]) for row in latency] == [
        ("t4", 1),
        ("t4", 8),
        ("a100-sxm-80gb", 1),
        ("a100-sxm-80gb", 8),
    ]
    assert {row["llm_id"] for row in latency} == {"opt-125m"}
    assert all(row["lower"] < row["value"] < row["upper"] for row in latency)
    assert all(row["made_by"] == "predictor" for row in latency)
    assert found["assumed"][0]["framework"] == "vllm"


def test_post_answers_a_list(client: Any) -> None:
    body = {"configurations": [planted.config(), planted.config("gpt2", "t4")], "metrics": ["latency_s"]}
    found = client.post("/api/predict", json=body).get_json()
    assert [(row["llm_id"], row["metric"]) for row in found["answers"]] == [
        ("llama-2-7b", "latency_s"),
        ("gpt2", "latency_s"),
    ]
    assert found["predictors"]["latency"]["predictor_id"] == "planted-latency"


@pytest.mark.parametrize(
    ("address", "status", "sentence"),
    [
        ("?llm_id=gpt2&hardware_id=t4", 400, "Configuration 0 has no phase."),
        ("?llm_id=gpt2&hardware_id=t4&phase=banana", 400, "'banana' is no phase. Known: forward, prefill"),
        ("?llm_id=gtp2&hardware_id=t4&phase=prefill&input_tokens=8", 404, "'gtp2' is not in the LLM catalogue"),
        ("?llm_id=gpt2&hardware_id=t44&phase=prefill&input_tokens=8", 404, "'t44' is not in the hardware catalogue"),
        ("?llm_id=gpt2&hardware_id=t4&phase=prefill&input_tokens=many", 400, "input_tokens must be a number, not 'many'."),
        ("?llm_id=gpt2&hardware_id=t4&phase=prefill&speed=8", 400, "'speed' is no column of a configuration."),
        ("?llm_id=gpt2&hardware_id=t4&phase=prefill&input_tokens=8&metrics=speed", 400, "speed: no metric."),
        ("?llm_id=gpt2&hardware_id=t4&phase=prefill&batch_size=" + ",".join(["1"] * 20_001), 400, "At most 20,000 configurations"),
        ("", 400, "Configuration 0 has no llm_id, hardware_id, phase."),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_a_sentence(client: Any, address: str, status: int, sentence: str) -> None:
    answer = client.get(f"/api/predict{address}")
    assert answer.status_code == status
    assert sentence in answer.get_json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"configurations": "x"},
        {"configurations": []},
        {"configurations": [{"phase": 3}]},
        {"configurations": [{}], "more": 1},
        {"configurations": [ASKED | {"llm_id": 5}]},
        {"configurations": [ASKED | {"hardware_id": ["t4"]}]},
        {"configurations": [ASKED | {"input_tokens": 1.5}]},
        {"configurations": [ASKED | {"input_tokens": 10**20}]},
        {"configurations": [ASKED], "metrics": 5},
        {"configurations": [ASKED], "metrics": "latency_s"},
        {"configurations": [ASKED], "metrics": [["latency_s"]]},
    ],
)
def test_a_body_that_makes_no_sense_is_a_sentence(client: Any, body: Any) -> None:
    answer = client.post("/api/predict", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"]
