"""Trained predictors on rows whose law is known: recovered, scored without leaks, and silent about nothing."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.learned import Predictor, predict, train, what_if
from models.learned.evaluation import folds, score
from models.learned.features import inputs
from models.learned.intervals import NOMINAL, blocks, quantile
from models.learned.first_training import Trained
from warehouse import catalog, parquet, schema

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DEVICES = {"cpu-a": (1e11, 2e10), "gpu-b": (1e14, 1e12)}
"""Device -> peak FLOP/s, bytes/s."""


def planted(
    num_llms: int = 6,
    *,
    noise: float = 0.03,
    devices: tuple[str, ...] = ("cpu-a",),
    tasks: tuple[str, ...] = ("generation",),
    batches: tuple[int, ...] = (1, 4, 16),
    lengths: tuple[int, ...] = (64, 256, 1024),
    seed: int = 0,
) -> pa.Table:
    """Training rows of a known law: 0.2 ms a layer, GEMMs at 20 to 80 % of the peak depending on their rows, 70 % of the
    bandwidth; memory is 1.05 x weights, the cache, six activations, logits and 0.3 GB."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for index in range(num_llms):
        layers, width = int(random.choice([6, 12, 24, 32])), int(random.choice([512, 768, 1024, 2048]))
        parameters = 12 * layers * width**2 + 32000 * width
        for device in devices:
            for phase in ("prefill", "decode"):
                for batch in batches:
                    for length in lengths:
                        new = batch * (length if phase == "prefill" else 1)
                        flops = 2.0 * parameters * new + 4.0 * new * length * width * layers
                        activations = 136.0 * new * width * layers
                        cache = 8.0 * layers * width * batch * length
                        traffic = 4.0 * parameters + activations + cache
                        compute_s, memory_s = flops / DEVICES[device][0], traffic / DEVICES[device][1]
                        latency_s = 2e-4 * layers + compute_s / (0.2 + 0.6 * new / (new + 30)) + memory_s / 0.7
                        peak_bytes = 4.2 * parameters + cache + 24.0 * new * width + 4.0 * 32000 * new + 3e8
                        is_prefill = phase == "prefill"
                        config = {"llm_id": f"llm-{index}", "hardware_id": device, "num_devices": 1, "phase": phase}
                        config |= {"batch_size": batch, "output_tokens": None}
                        config |= (
                            {"input_tokens": length, "context_tokens": None}
                            if is_prefill
                            else {"input_tokens": None, "context_tokens": length}
                        )
                        config |= {"weight_dtype": "fp32", "activation_dtype": "fp32", "kv_dtype": "fp32"}
                        work = {
                            "flops": flops,
                            "bytes_moved": traffic,
                            "activation_bytes_read": activations / 2,
                            "activation_bytes_written": activations / 2,
                            "compute_s": compute_s,
                            "memory_s": memory_s,
                            "roofline_s": max(compute_s, memory_s),
                            "weights_bytes": 4.0 * parameters,
                            "kv_cache_bytes": cache,
                            "activation_peak_bytes": 24.0 * new * width,
                            "memory_peak_bytes": 4.0 * parameters + cache + 24.0 * new * width,
                        }
                        shape = {"architecture": "decoder", "num_parameters": parameters, "num_layers": layers}
                        shape |= {"num_encoder_layers": None, "hidden_size": width, "vocab_size": 32000}
                        for task in tasks:
                            factor = np.exp(noise * random.standard_normal(2))
                            measured = {
                                "run_id": f"run-{len(rows):04d}",
                                "config_id": schema.config_id(config),
                                "task": task,
                                "other_load_ratio": 0.02,
                                "measured_latency_s": latency_s * factor[0],
                                "measured_memory_peak_bytes": peak_bytes * factor[1],
                            }
                            rows.append(measured | config | work | shape)
    return pa.Table.from_pylist(rows)


def changed(rows: pa.Table, **values: Any) -> pa.Table:
    """Rows with columns replaced by one value, or by a list of values."""
    for name, value in values.items():
        column = value if isinstance(value, list) else [value] * rows.num_rows
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(column, rows.schema.field(name).type))
    return rows


def pooled(trained: Trained, split: str, *, is_baseline: bool = False) -> dict[str, Any]:
    """The pooled score of one split."""
    (predictor_id,) = [row["predictor_id"] for row in trained.predictors if row["is_baseline"] == is_baseline]
    (row,) = [
        row
        for row in trained.scores
        if (row["predictor_id"], row["split"], row["fold"]) == (predictor_id, split, "all")
    ]
    return row


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return planted()


@pytest.fixture(scope="module")
def latency(rows: pa.Table) -> Trained:
    return train(rows, "latency_s", snapshot_id=7, trained_at=NOW)


@pytest.fixture(scope="module")
def memory(rows: pa.Table) -> Trained:
    return train(rows, "memory_peak_bytes", snapshot_id=7, trained_at=NOW)


# ---- what is learnt


@pytest.mark.parametrize("metric", ["latency", "memory"])
def test_a_planted_law_is_recovered_for_llms_never_seen(metric: str, request: pytest.FixtureRequest) -> None:
    trained: Trained = request.getfixturevalue(metric)
    ours, forest = pooled(trained, "leave_model_out"), pooled(trained, "leave_model_out", is_baseline=True)
    assert ours["mdape"] < 0.06  # the noise alone gives 0.02
    assert ours["r2_log"] > 0.99
    assert forest["mdape"] > 3 * ours["mdape"]
    assert pooled(trained, "random")["mdape"] < 0.06


def test_memory_coefficients_are_the_planted_ones() -> None:
    trained = train(planted(num_llms=10, noise=0.0), "memory_peak_bytes", snapshot_id=None, trained_at=NOW)
    weights, cache, *_, constant = trained.predictor.fitted.model.terms.coefficients["*"]
    assert weights == pytest.approx(1.05, rel=0.03)
    assert cache == pytest.approx(1.0, rel=0.05)
    assert constant == pytest.approx(3e8, rel=0.1)


def test_each_device_has_its_own_coefficients() -> None:
    both = planted(num_llms=4, devices=("cpu-a", "gpu-b"))
    slower = [
        value * (3.0 if device == "gpu-b" else 1.0)
        for value, device in zip(both["measured_latency_s"].to_pylist(), both["hardware_id"].to_pylist(), strict=True)
    ]
    trained = train(changed(both, measured_latency_s=slower), "latency_s", snapshot_id=None, trained_at=NOW)
    assert set(trained.predictor.fitted.model.terms.coefficients) >= {"*", "cpu-a", "gpu-b"}
    assert pooled(trained, "leave_model_out")["mdape"] < 0.1


def test_far_from_the_rows_the_correction_gives_way_to_the_physics(latency: Trained, rows: pa.Table) -> None:
    correction = latency.predictor.fitted.model.correction
    assert correction is not None
    far = inputs(changed(rows.slice(0, 1), hidden_size=10**12), "latency_s")
    assert correction.values(far)[0] == pytest.approx(correction.mean)


# ---- honest splits


def test_no_configuration_and_no_llm_is_on_both_sides_of_a_fold() -> None:
    rows = planted(num_llms=5, tasks=("summarization", "translation"))
    llms, configs = (np.array(rows[name].to_pylist()) for name in ("llm_id", "config_id"))
    found = folds(llms, configs)
    assert {fold.split for fold in found} == {"leave_model_out", "random"}
    for fold in found:
        assert not set(configs[fold.inside]) & set(configs[fold.outside])
        if fold.split == "leave_model_out":
            assert set(llms[fold.outside]) == {fold.name}
            assert fold.name not in llms[fold.inside]
    for split in ("leave_model_out", "random"):
        held_out = np.concatenate([fold.outside for fold in found if fold.split == split])
        assert sorted(held_out) == list(range(rows.num_rows))


def test_what_is_held_out_cannot_change_its_own_prediction(rows: pa.Table, latency: Trained) -> None:
    """Multiply the measurements of one LLM by ten: its left-out predictions and their intervals stay, others move."""
    factor = [10.0 if llm == "llm-2" else 1.0 for llm in rows["llm_id"].to_pylist()]
    wrong = [value * by for value, by in zip(rows["measured_latency_s"].to_pylist(), factor, strict=True)]
    again = train(changed(rows, measured_latency_s=wrong), "latency_s", snapshot_id=7, trained_at=NOW)

    def left_out(trained: Trained, fold: str) -> list[tuple[float, float, float]]:
        return [
            (row["value"], row["lower"], row["upper"])
            for row in trained.predictions
            if row["predictor_id"] == trained.predictor.predictor_id
            and (row["split"], row["fold"]) == ("leave_model_out", fold)
        ]

    assert left_out(again, "llm-2") == left_out(latency, "llm-2")
    assert left_out(again, "llm-3") != left_out(latency, "llm-3")


def test_every_fold_and_both_methods_are_scored(latency: Trained) -> None:
    assert {(row["split"], row["fold"]) for row in latency.scores} == {
        *(("leave_model_out", fold) for fold in ("all", *(f"llm-{index}" for index in range(6)))),
        *(("random", fold) for fold in ("all", *"12345")),
    }
    assert len(latency.scores) == 2 * 13
    assert len(latency.predictions) == 2 * 2 * latency.predictor.num_rows
    forest = pooled(latency, "leave_model_out", is_baseline=True)
    assert forest["coverage"] is None
    assert forest["interval_width_median"] is None


def test_scores_by_hand() -> None:
    actual, value = np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.0, 3.0])
    lower, upper = np.array([0.5, 2.5, np.nan]), np.array([2.0, 5.0, np.nan])
    found = score(actual, value, lower, upper)
    assert found["num_rows"] == 3
    assert found["mdape"] == pytest.approx(0.1)
    assert found["mape"] == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert found["mae"] == pytest.approx(1.1 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(1.01 / 3))
    assert found["r2"] == pytest.approx(1 - 1.01 / (14 / 3))
    assert found["coverage"] == 0.5  # the third row has no interval
    assert found["interval_width_median"] == 3.0  # of 4 and 2
    assert score(actual[:1], value[:1], lower[:1], upper[:1])["r2"] is None


def test_the_same_rows_in_any_order_give_the_same_predictor(rows: pa.Table, latency: Trained) -> None:
    shuffled = rows.take(np.random.default_rng(3).permutation(rows.num_rows))
    again = train(shuffled, "latency_s", snapshot_id=8, trained_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert again.predictor.predictor_id == latency.predictor.predictor_id
    assert again.scores == latency.scores
    assert again.predictions == latency.predictions
    assert again.predictors[0]["snapshot_id"] == 8


# ---- intervals


def test_conformal_quantile_by_hand() -> None:
    one = np.array(["a"] * 9)
    assert quantile(np.arange(1.0, 10.0), one, level=0.5) == 5.0  # ceil(0.5 x 10) = 5th of 9
    assert quantile(np.arange(1.0, 10.0), one, level=0.9) == 9.0  # ceil(0.9 x 10) = 9th
    assert quantile(np.arange(1.0, 5.0), one[:4], level=0.9) == 4.0  # too few: the largest
    # b's one row weighs as much as a's four, so the median error sits between them
    groups = np.array(["a", "a", "a", "a", "b"])
    assert quantile(np.array([1.0, 2.0, 3.0, 4.0, 9.0]), groups, level=0.4) == 4.0  # 0.48 of the weight: all of a
    assert quantile(np.array([1.0, 2.0, 3.0, 4.0, 9.0]), groups, level=0.45) == 9.0  # 0.54: b too


def test_many_llms_are_left_out_in_blocks_that_keep_each_whole() -> None:
    llms = np.array([f"llm-{index:02d}" for index in range(20)] * 3)
    masks = blocks(llms)
    assert sum(mask.astype(int) for mask in masks).tolist() == [1] * 60
    assert all(not set(llms[mask]) & set(llms[~mask]) for mask in masks)


@pytest.mark.parametrize("metric", ["latency_s", "memory_peak_bytes"])
def test_coverage_is_near_nominal_for_llms_like_those_seen(metric: Any) -> None:
    found = [
        pooled(
            train(planted(num_llms=8, noise=0.1, seed=seed), metric, snapshot_id=None, trained_at=NOW),
            "leave_model_out",
        )
        for seed in range(2)
    ]
    covered = np.mean([row["coverage"] for row in found])
    assert NOMINAL - 0.07 < covered < 0.99
    # 1.645 standard deviations to either side of the truth is the narrowest interval there is
    assert math.exp(2 * 1.4 * 0.1) < found[0]["interval_width_median"] < math.exp(2 * 3.5 * 0.1)


# ---- support


def test_rows_like_the_training_rows_are_supported(latency: Trained, rows: pa.Table) -> None:
    found = predict(latency.predictor, rows.drop_columns(["measured_latency_s", "measured_memory_peak_bytes"]))
    assert all(one.is_supported and one.reason is None for one in found)
    assert all(one.lower < one.value < one.upper for one in found)  # type: ignore[operator]
    assert [one.analytical for one in found] == rows["roofline_s"].to_pylist()


def test_a_device_never_seen_gets_a_value_without_an_interval(latency: Trained, rows: pa.Table) -> None:
    (found,) = predict(latency.predictor, changed(rows.slice(0, 1), hardware_id="gpu-z"))
    assert found.value is not None
    assert (found.lower, found.upper, found.is_supported) == (None, None, False)
    assert found.reason == "hardware_id 'gpu-z' is not among the training rows (cpu-a)."


def test_a_batch_beyond_the_range_is_said_with_the_range(latency: Trained, rows: pa.Table) -> None:
    (found,) = predict(latency.predictor, changed(rows.slice(0, 1), batch_size=512))
    assert not found.is_supported
    assert found.lower is not None
    assert found.reason == "512 sequences a batch is outside the training rows (1 to 16)."


@pytest.mark.parametrize(
    ("column", "value"),
    [("phase", "generate"), ("weight_dtype", "int4"), ("num_devices", 2), ("architecture", "encoder")],
)
def test_a_category_never_seen_is_named(latency: Trained, rows: pa.Table, column: str, value: Any) -> None:
    (found,) = predict(latency.predictor, changed(rows.slice(0, 1), **{column: value}))
    assert not found.is_supported
    assert f"{column} '{value}' is not among the training rows" in str(found.reason)


def test_without_an_analytical_row_there_is_no_value(latency: Trained, rows: pa.Table) -> None:
    (found,) = predict(latency.predictor, changed(rows.slice(0, 1), roofline_s=None))
    assert found.value is None
    assert "incomplete" in str(found.reason)


def test_a_value_below_the_bound_says_so(rows: pa.Table) -> None:
    fast = [value * 0.5 for value in rows["roofline_s"].to_pylist()]
    fast[0] *= 1.01
    trained = train(changed(rows, measured_latency_s=fast), "latency_s", snapshot_id=None, trained_at=NOW)
    found = predict(trained.predictor, rows)
    below = [one for one in found if one.value < one.analytical]  # type: ignore[operator]
    assert len(below) > len(found) / 2
    assert all(one.is_below_bound and "below the analytical bound" in str(one.reason) for one in below)


def test_a_table_without_a_needed_column_is_refused(latency: Trained, rows: pa.Table) -> None:
    with pytest.raises(ValueError, match="no column 'compute_s'"):
        predict(latency.predictor, rows.drop_columns(["compute_s"]))


# ---- refusals


def test_too_little_is_refused_with_what_is_there_and_how_to_get_more(rows: pa.Table) -> None:
    two = rows.filter(pa.array([llm in ("llm-0", "llm-1") for llm in rows["llm_id"].to_pylist()]))
    with pytest.raises(
        ValueError, match=r"36 configurations of 2 LLMs \(llm-0, llm-1\).*rooflake collect local_profile"
    ):
        train(two, "latency_s", snapshot_id=None, trained_at=NOW)
    few = pa.concat_tables([rows.slice(start, 2) for start in (0, 18, 36)])
    with pytest.raises(ValueError, match=r"6 configurations of 3 LLMs.*needs 8"):
        train(few, "latency_s", snapshot_id=None, trained_at=NOW)
    with pytest.raises(ValueError, match="0 configurations of 0 LLMs"):
        train(rows.slice(0, 0), "memory_peak_bytes", snapshot_id=None, trained_at=NOW)


def test_rows_without_metric_or_bound_are_counted_and_left_out(rows: pa.Table) -> None:
    holes = rows["measured_latency_s"].to_pylist()
    bounds = rows["roofline_s"].to_pylist()
    holes[3], bounds[40] = None, None
    trained = train(
        changed(rows, measured_latency_s=holes, roofline_s=bounds), "latency_s", snapshot_id=None, trained_at=NOW
    )
    assert trained.predictor.notes == ("2 of 108 measured rows lack latency_s or their analytical row.",)
    assert trained.predictor.num_rows == rows.num_rows - 2
    with pytest.raises(ValueError, match="108 measured rows of which 108 lack"):
        train(changed(rows, roofline_s=None), "latency_s", snapshot_id=None, trained_at=NOW)


def test_latencies_of_a_busy_machine_are_left_out_while_enough_remain(rows: pa.Table, latency: Trained) -> None:
    every_fourth = [index % 4 == 0 for index in range(rows.num_rows)]
    slowed = [
        value * (20.0 if is_slow else 1.0)
        for value, is_slow in zip(rows["measured_latency_s"].to_pylist(), every_fourth, strict=True)
    ]
    busy = changed(rows, measured_latency_s=slowed, other_load_ratio=[0.5 if one else 0.1 for one in every_fourth])
    trained = train(busy, "latency_s", snapshot_id=None, trained_at=NOW)
    assert trained.predictor.num_rows == 81
    assert trained.predictor.notes == (
        "27 of 108 rows were measured while other processes kept the machine busy; they are left out.",
    )
    assert pooled(trained, "leave_model_out")["mdape"] < 0.06
    assert train(busy, "memory_peak_bytes", snapshot_id=None, trained_at=NOW).predictor.num_rows == 108


def test_a_machine_that_is_always_busy_is_learnt_as_it_is_and_said(rows: pa.Table) -> None:
    trained = train(changed(rows, other_load_ratio=0.5), "latency_s", snapshot_id=None, trained_at=NOW)
    assert trained.predictor.num_rows == 108
    (note,) = trained.predictor.notes
    assert "108 of 108" in note
    assert "Measure again on a quiet machine." in note


def test_a_constant_or_a_derived_target_is_refused(rows: pa.Table) -> None:
    with pytest.raises(ValueError, match=r"latency_s is 0\.5 in all 108 rows"):
        train(changed(rows, measured_latency_s=0.5), "latency_s", snapshot_id=None, trained_at=NOW)
    derived = [2 * value for value in rows["roofline_s"].to_pylist()]
    with pytest.raises(ValueError, match="derived and not measured"):
        train(changed(rows, measured_latency_s=derived), "latency_s", snapshot_id=None, trained_at=NOW)


def test_an_unknown_metric_is_refused(rows: pa.Table) -> None:
    with pytest.raises(ValueError, match=r"'bandwidth'\. Known: latency_s, memory_peak_bytes"):
        train(rows, "bandwidth", snapshot_id=None, trained_at=NOW)  # type: ignore[arg-type]


# ---- the artifact


@pytest.mark.parametrize("metric", ["latency", "memory"])
def test_a_saved_predictor_predicts_the_same(
    metric: str, request: pytest.FixtureRequest, rows: pa.Table, tmp_path: Path
) -> None:
    predictor = request.getfixturevalue(metric).predictor
    path = predictor.save(tmp_path)
    assert path == tmp_path / f"{predictor.predictor_id}.json"
    loaded = Predictor.load(path)
    assert predict(loaded, rows) == predict(predictor, rows)
    assert loaded.to_json() == predictor.to_json()
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["snapshot_id"] == 7
    assert stored["scores"]["leave_model_out"]["num_rows"] == rows.num_rows
    assert stored["support"]["ranges"]["batch_size"] == [1.0, 16.0]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_predictor_whose_correction_did_not_help_is_saved_too(rows: pa.Table, tmp_path: Path) -> None:
    of_each = [rows.filter(pc.equal(rows.column("llm_id"), llm)).slice(0, 3) for llm in rows.column("llm_id").unique()]
    few = pa.concat_tables(of_each)
    noise = np.random.default_rng(0).lognormal(0, 1, few.num_rows)  # nothing that another LLM could teach
    latency_s = few.column("measured_latency_s").to_numpy() * noise
    predictor = train(
        changed(few, measured_latency_s=list(latency_s)), "latency_s", snapshot_id=None, trained_at=NOW
    ).predictor
    correction = predictor.fitted.model.correction
    assert correction is not None
    assert len(correction.weights) == 0
    assert predict(Predictor.load(predictor.save(tmp_path)), few) == predict(predictor, few)


def test_what_is_no_predictor_is_refused_by_name(latency: Trained, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, why in (
        ("nothing", "not JSON"),
        ("[]", "format: None"),
        (json.dumps({"format": 99}), "format: 99"),
        (latency.predictor.to_json().replace('"log_new_tokens"', '"other"'), "other features"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"'x\.json'.*{why}"):
            Predictor.load(path)


def test_rows_fit_the_warehouse(latency: Trained) -> None:
    tables = {
        "predictors": latency.predictors,
        "predictor_scores": latency.scores,
        "predictions": latency.predictions,
    }
    for table_name, table_rows in tables.items():
        assert parquet.check(table_name, table_rows).num_rows == len(table_rows)


# ---- one configuration


def test_what_if_puts_the_bound_beside_the_prediction(latency: Trained, memory: Trained) -> None:
    hardware = {
        "hardware_id": "cpu-a",
        "name": "CPU A",
        "memory_bandwidth_bytes_per_s": 2e10,
        "peak_fp32_flops_per_s": 1e11,
        "memory_bytes": 6.4e10,
    }
    config = {
        "llm_id": "opt-350m", "hardware_id": "cpu-a", "num_devices": 1, "phase": "prefill", "batch_size": 2, "input_tokens": 128,
        "weight_dtype": "fp32", "activation_dtype": "fp32", "kv_dtype": "fp32", "attention": "sdpa", "optimizations": [],
    }  # fmt: skip
    predictors = {"latency_s": latency.predictor, "memory_peak_bytes": memory.predictor}
    answer = what_if(predictors, config, hardware_rows=[hardware])
    assert answer.config_id == schema.config_id(config)
    assert answer.latency is not None
    assert answer.memory is not None
    assert answer.latency.analytical == answer.analytical["roofline_s"]
    assert answer.latency.is_supported, answer.latency.reason
    assert answer.latency.lower < answer.latency.value < answer.latency.upper  # type: ignore[operator]
    assert answer.memory.value > answer.analytical["weights_bytes"]  # type: ignore[operator]
    unseen = what_if(predictors, config | {"hardware_id": "h100-sxm"})
    assert unseen.latency is not None
    assert not unseen.latency.is_supported
    assert what_if({}, config | {"hardware_id": "h100-sxm"}).latency is None
    with pytest.raises(ValueError, match="batch: no configuration column"):
        what_if(predictors, {"batch": 1})
    with pytest.raises(catalog.UnknownEntryError, match="'opt-350' is not in the LLM catalogue"):
        what_if(predictors, config | {"llm_id": "opt-350"}, hardware_rows=[hardware])
