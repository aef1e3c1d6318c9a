"""Artifacts: trained on rows whose law is known, saved and read again, and silent about nothing."""

from __future__ import annotations

import json
import math
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from planted_runs import changed, planted

from models.learned import explain, predictor, training
from models.learned.predictor import Predictor
from models.learned.subjects import find
from models.learned.training import Trained
from warehouse import parquet

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LATENCY = find("latency")
SPLITS = ("leave_model_out", "random")


def train(rows: pa.Table, **options: Any) -> Trained:
    return training.train(LATENCY, rows, **{"snapshot_id": 7, "trained_at": NOW, "which": SPLITS} | options)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return planted()


@pytest.fixture(scope="module")
def trained(rows: pa.Table) -> Trained:
    return train(rows)


@pytest.fixture(scope="module")
def with_trees() -> Trained:
    return train(planted(num_llms=14, batches=(1, 2, 4, 8, 16)), which=[])


def pooled(trained: Trained, split: str, contender: str = "rooflake") -> dict[str, Any]:
    """The pooled scores of one split."""
    found: dict[str, Any] = trained.predictor.card["scores"][split][contender]
    return found


# ---- what is learnt and said


def test_a_planted_law_is_recovered_for_llms_never_seen(trained: Trained) -> None:
    ours, forest = (
        pooled(trained, "leave_model_out"),
        pooled(trained, "leave_model_out", "random forest of bhavana-iitbbs"),
    )
    assert ours["mdape"] < 0.06  # the noise alone gives 0.02
    assert ours["r2_log"] > 0.99
    assert forest["mdape"] > 3 * ours["mdape"]
    assert 0.8 < ours["coverage"] <= 1.0


def test_the_card_says_what_a_reader_of_the_file_needs(trained: Trained, rows: pa.Table) -> None:
    card = trained.predictor.card
    assert json.loads(json.dumps(card)) == card
    assert card["sources"] == {"test": rows.num_rows}
    assert card["splits"]["leave_model_out"] == [f"llm-{index}" for index in range(6)]
    assert len(card["scores"]["random"]) == 5
    assert card["worst_folds"]["leave_model_out"]["mape"]["mape"] >= pooled(trained, "leave_model_out")["mape"]
    assert card["features"] == list(trained.predictor.inputs(rows).feature_names)
    assert set(card["libraries"]) == {"numpy", "scipy", "scikit-learn", "lightgbm"}
    assert card["importances"][0]["increase"] >= card["importances"][-1]["increase"]
    assert {row["dimension"] for row in card["slices"]} >= {"llm", "device", "phase", "size"}
    assert len(card["held_out"]["content"]) == len(card["held_out"]["actual"]) == rows.num_rows


def test_rows_fit_the_warehouse(trained: Trained, rows: pa.Table) -> None:
    names = ("predictors", "predictor_scores", "predictions")
    for name, found in zip(names, (trained.predictors, trained.scores, trained.predictions), strict=True):
        assert parquet.check(name, found).num_rows == len(found)
    assert sum(row["is_baseline"] for row in trained.predictors) == 4
    assert len(trained.predictions) == 5 * 2 * rows.num_rows


def test_kernels_of_one_run_are_in_the_card_and_not_in_predictions(rows: pa.Table) -> None:
    one = train(changed(rows, run_id="one run"), which=["leave_model_out"])
    assert len(one.predictions) == 0
    assert len(one.predictor.card["held_out"]["value"]) == rows.num_rows


def test_the_same_rows_in_any_order_give_the_same_predictor(rows: pa.Table, trained: Trained) -> None:
    shuffled = rows.take(np.random.default_rng(3).permutation(rows.num_rows))
    again = train(shuffled, snapshot_id=8, trained_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert again.predictor.predictor_id == trained.predictor.predictor_id
    assert again.scores == trained.scores
    assert again.predictions.equals(trained.predictions)
    assert again.predictor.card == trained.predictor.card
    other = changed(rows, measured_latency_s=[value * 1.001 for value in rows["measured_latency_s"].to_pylist()])
    assert training.problem(LATENCY, other).predictor_id != trained.predictor.predictor_id


def test_what_is_held_out_cannot_change_its_own_prediction(rows: pa.Table, trained: Trained) -> None:
    """Multiply the measurements of one LLM by ten: its left-out predictions and their intervals stay, others move."""
    factor = [10.0 if llm == "llm-2" else 1.0 for llm in rows["llm_id"].to_pylist()]
    wrong = [value * by for value, by in zip(rows["measured_latency_s"].to_pylist(), factor, strict=True)]
    again = train(changed(rows, measured_latency_s=wrong), which=["leave_model_out"])

    def left_out(one: Trained, fold: str) -> set[tuple[Any, ...]]:
        return {
            (row["run_id"], row["value"], row["lower"], row["upper"])
            for row in one.predictions.to_pylist()
            if (row["predictor_id"], row["split"], row["fold"]) == (one.predictor.predictor_id, "leave_model_out", fold)
        }

    assert left_out(again, "llm-2") == left_out(trained, "llm-2")
    assert left_out(again, "llm-3") != left_out(trained, "llm-3")


# ---- bad rows


def bad_rows(rows: pa.Table, what: str) -> pa.Table:
    return {
        "none": lambda: rows.slice(0, 0),
        "absent": lambda: changed(rows, measured_latency_s=None),
        "few": lambda: rows.slice(0, 18),
        "constant": lambda: changed(rows, measured_latency_s=0.5, roofline_s=0.1),
        "derived": lambda: changed(rows, measured_latency_s=[2 * one for one in rows["roofline_s"].to_pylist()]),
    }[what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("none", "nobody measured or published a latency_s"),
        ("absent", "nobody measured or published a latency_s"),
        ("few", r"Too little to learn it from: 18 different rows of 1 llm groups \(llm-0\).*`rooflake load`"),
        ("constant", r"latency is 0\.5 s in all"),
        ("derived", "was derived and not measured"),
    ],
)
def test_what_cannot_be_learnt_from_is_a_sentence(rows: pa.Table, what: str, said: str) -> None:
    bad = bad_rows(rows, what)
    with pytest.raises(ValueError, match=said):
        training.problem(LATENCY, bad)


def test_impossible_values_are_left_out_counted_and_said(rows: pa.Table) -> None:
    values = rows["measured_latency_s"].to_pylist()
    values[:4] = [None, math.nan, -1.0, 0.0]
    asked = training.problem(LATENCY, changed(rows, measured_latency_s=values))
    assert len(asked.inputs) == rows.num_rows - 4
    assert asked.notes == (f"4 of {rows.num_rows} rows have no positive latency_s.",)


# ---- the file


def test_a_saved_predictor_predicts_the_same(trained: Trained, rows: pa.Table, tmp_path: Path) -> None:
    path = trained.predictor.save(tmp_path)
    assert path.name == f"{trained.predictor.predictor_id}.zip"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    before, after = trained.predictor.predict(rows), Predictor.load(path).predict(rows)
    for name in ("value", "lower", "upper", "base", "is_supported"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert Predictor.load(path).card == trained.predictor.card
    content = path.read_bytes()
    assert trained.predictor.save(path).read_bytes() == content


def test_trees_are_kept_as_their_own_text(with_trees: Trained, tmp_path: Path) -> None:
    path = with_trees.predictor.save(tmp_path)
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == ["card.json", "model.json", "trees_0.txt"]
        assert file.read("trees_0.txt").startswith(b"tree\n")
    assert path.stat().st_size < predictor.MAX_BYTES
    rows = planted(num_llms=1)
    np.testing.assert_array_equal(Predictor.load(path).predict(rows).value, with_trees.predictor.predict(rows).value)


def test_what_is_no_predictor_is_refused_by_name(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"not a file of ours")
    with pytest.raises(ValueError, match=r"'x\.zip' is no predictor .*rooflake train"):
        Predictor.load(path)
    for name, value, said in (
        ("format", 1, r"'x\.zip' is a predictor of format 1; this version reads format 3.*rooflake train"),
        ("target", "beauty", r"'x\.zip' predicts 'beauty', which this version does not know. Known: .*latency"),
        ("card", {**trained.predictor.card, "features": ["log_beauty"]}, r"learnt from other features of latency: .*log_beauty.*rooflake train"),
    ):  # fmt: skip
        _rewritten(trained.predictor.save(path), name, value)
        with pytest.raises(ValueError, match=said):
            Predictor.load(path).predict(planted(num_llms=1))


def test_a_file_with_one_damaged_byte_is_refused_in_a_sentence_or_reads_the_same(
    trained: Trained, tmp_path: Path
) -> None:
    path = trained.predictor.save(tmp_path)
    whole, card = path.read_bytes(), Predictor.load(path).card
    said: list[str] = []
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert Predictor.load(path).card == card
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 40
    assert all(re.search(r"is no predictor .*rooflake train", one) for one in said)


def _rewritten(path: Path, name: str, value: Any) -> None:
    with zipfile.ZipFile(path) as file:
        members = {one: file.read(one) for one in file.namelist()}
    members["card.json"] = json.dumps(json.loads(members["card.json"]) | {name: value}).encode()
    with zipfile.ZipFile(path, "w") as file:
        for one, content in members.items():
            file.writestr(one, content)


def test_artifacts_that_are_missing_are_left_out_with_a_sentence(trained: Trained, tmp_path: Path) -> None:
    path = trained.predictor.save(tmp_path)
    said: list[str] = []
    rows = [{"target": "latency", "artifact": path.name}, {"target": "gemm_time", "artifact": "gone.zip"}]
    assert list(predictor.load_all(tmp_path, rows, said.append)) == ["latency"]
    assert len(said) == 1
    assert "'gone.zip' is not in" in said[0]


# ---- one prediction explained


@pytest.mark.parametrize("kind", ["gaussian", "trees"])
def test_the_steps_lead_from_the_bound_to_the_value(kind: str, request: pytest.FixtureRequest) -> None:
    made: Trained = request.getfixturevalue("trained" if kind == "gaussian" else "with_trees")
    rows = planted(num_llms=1)
    value = made.predictor.predict(rows).value
    for row in (0, 7):
        steps = made.predictor.explain(rows, row).to_pylist()
        assert steps[0] == {"step": "bound", "factor": 1.0, "value": rows["roofline_s"][row].as_py()}
        assert steps[1]["step"] == "base"
        assert steps[-1]["value"] == pytest.approx(value[row], rel=1e-9)
        assert math.prod(step["factor"] for step in steps) * steps[0]["value"] == pytest.approx(value[row], rel=1e-9)
    if kind == "trees":
        assert {"shape", "correction of all rows"} <= {step["step"] for step in steps}


def test_importances_find_the_feature_that_decides(with_trees: Trained) -> None:
    asked = training.problem(LATENCY, planted(num_llms=6, batches=(1, 2, 4, 8, 16), seed=5))
    found = explain.importances(with_trees.predictor.fitted.fitted, asked.inputs, asked.actual).to_pylist()
    assert {row["group"] for row in found[:3]} & {"base"}
    by_name = {row["feature"]: row["increase"] for row in found}
    assert by_name["log_new_tokens"] > 0.005  # products are the faster the more rows they have
    assert by_name["log_peak"] == 0.0  # one device: nothing to tell apart


def test_slices_and_points_by_hand() -> None:
    rows = planted(num_llms=2, batches=(1,), lengths=(64, 256))
    inputs = LATENCY.inputs(training.devices.with_devices(rows))
    actual = np.ones(8)
    value = np.array([1.1, 1.1, 1.3, 1.3, 0.5, 0.5, 0.5, np.nan])
    lower, upper = value * 0.8, value * 1.2
    found = explain.slices(inputs, rows, actual, value, lower, upper).to_pylist()
    (first,) = [row for row in found if (row["dimension"], row["label"]) == ("llm", "llm-0")]
    assert (first["num_rows"], first["coverage"]) == (4, 0.5)  # 1.3 x 0.8 lies above 1
    assert (first["mape"], first["mdape"], first["bias"]) == pytest.approx((0.2, 0.2, 0.2))
    (second,) = [row for row in found if (row["dimension"], row["label"]) == ("llm", "llm-1")]
    assert (second["num_rows"], second["coverage"]) == (3, 0.0)
    points = explain.residual_points(inputs, rows, actual, value)
    assert points.num_rows == 8
    assert points["residual"][0].as_py() == pytest.approx(math.log(1.1))
    assert points["phase"].to_pylist() == rows["phase"].to_pylist()


def test_reasons_name_what_a_row_lacks(trained: Trained, rows: pa.Table) -> None:
    one = rows.slice(0, 1)
    assert trained.predictor.reasons(one, 0) == []
    (said,) = trained.predictor.reasons(changed(one, compute_s=None, hardware_id="h1000"), 0)
    assert "compute_s of this row is not known" in said
    assert "h1000 lacks memory_bandwidth_bytes_per_s, memory_bytes, peak_fp32_flops_per_s" in said
    assert "hardware.toml" in said
    (family,) = trained.predictor.reasons(changed(one, family="family-9"), 0)
    assert family.startswith("family 'family-9' was never seen (seen: family-0, family-1, family-2)")
