"""Calibration: known constants come back from times that they made, with noise; what rows do not tell stays."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from models.analytical import evaluate
from models.analytical.calibrate import BOUNDS, FEWEST_CONFIGS, FEWEST_RUNS, Part, fit, fit_parts, ratios
from models.analytical.devices import find_device
from models.analytical.estimate import constants, op_seconds
from models.analytical.inventory import Group, Op
from warehouse import schema

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
START = constants(find_device("a100-sxm-80gb", lambda _: None, {}), "eager")[1]
TRUE = dataclasses.replace(START, matrix_efficiency=0.55, bandwidth_efficiency=0.62, kernel_s=9e-6)


def products(rows, noise):
    """Products of random sizes on one device, timed with TRUE constants."""
    random = np.random.default_rng(0)
    m, n, k = (2.0 ** random.uniform(low, 13, rows) for low in (0, 7, 7))
    op = Op(
        kind="o_proj", path="", phase="forward", flops=2 * m * n * k, weights=2 * n * k, read=2 * m * k, written=2 * m * n,
        gemm=(m, n, k), is_matrix=True,
    )  # fmt: skip
    fields = {field.name: np.full(rows, np.nan) for field in dataclasses.fields(Group)}
    known = {"activation_bytes": 2.0, "matrix_peak": 312e12, "bandwidth": 2039e9}
    group = Group(**fields | {name: np.full(rows, value) for name, value in known.items()})
    seconds, _ = op_seconds(op, group, "eager", TRUE)
    return Part(op, group, "eager", seconds * np.exp(random.normal(0, noise, rows)))


@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.02), (0.1, 0.06)])
def test_constants_come_back_from_ops(noise, tolerance):
    part = products(600, noise)
    found = fit_parts([part], START, ["matrix_efficiency", "bandwidth_efficiency", "kernel_s"])
    for name in ("matrix_efficiency", "bandwidth_efficiency", "kernel_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=tolerance), name
    assert np.median(ratios(part, found)) == pytest.approx(1, abs=0.02)


def test_outliers_do_not_move_constants():
    part = products(600, 0.0)
    seconds = part.seconds * np.where(np.arange(600) % 10 == 0, 20.0, 1.0)
    found = fit_parts([dataclasses.replace(part, seconds=seconds)], START, ["matrix_efficiency", "kernel_s"])
    clean = fit_parts([part], START, ["matrix_efficiency", "kernel_s"])
    assert found.matrix_efficiency == pytest.approx(clean.matrix_efficiency, rel=0.05)
    assert found.kernel_s == pytest.approx(clean.kernel_s, rel=0.1)


def test_efficiencies_stay_within_physics():
    part = products(100, 0.0)
    found = fit_parts(
        [dataclasses.replace(part, seconds=part.seconds / 100)], START, ["matrix_efficiency", "bandwidth_efficiency"]
    )
    assert (found.matrix_efficiency, found.bandwidth_efficiency) == (1.0, 1.0)
    assert all(BOUNDS[name][1] == 1.0 for name in BOUNDS if name.endswith("efficiency"))


# Configurations


def runs(noise=0.05, hardware_id="epyc-7763", calibrations=None, **values):
    """Runs of two LLMs in prefill and decode, at the estimate of other constants; and their ops."""
    configs = [
        {"llm_id": llm_id, "phase": phase, "batch_size": batch, "context_tokens": 256 if phase == "decode" else None,
         "input_tokens": None if phase == "decode" else 64}
        for llm_id in ("opt-125m", "qwen2.5-0.5b")
        for phase in ("prefill", "decode")
        for batch in (1, 4, 16)
    ]  # fmt: skip
    same = {"hardware_id": hardware_id, "weight_dtype": "fp32", "activation_dtype": "fp32", "kv_dtype": "fp32", "attention": "sdpa",
            "execution": "eager", "num_devices": 1} | values  # fmt: skip
    configs = [config | same for config in configs]
    totals, ops = evaluate(pa.Table.from_pylist(configs), calibrations=calibrations)
    random = np.random.default_rng(1)
    seconds = totals.column("estimate_s").to_numpy() * np.exp(random.normal(0, noise, len(configs)))
    rows = [config | {"op_kind": None, "measured_s": value} for config, value in zip(configs, seconds, strict=True)]
    return rows, ops.to_pylist()


def table(rows):
    return pa.Table.from_pylist(rows, schema=None)


SLOW = {"calibration_id": "slow", "device_class": "epyc-7763", "execution": "eager", "matrix_efficiency": 0.3, "bandwidth_efficiency": 0.4, "dispatch_s": 4e-5}  # fmt: skip


def test_constants_come_back_from_runs():
    rows, _ = runs(noise=0.02, calibrations=[SLOW])
    (row,) = fit(table(rows), fitted_at=WHEN, snapshot_id=3).rows
    assert (row["device_class"], row["execution"], row["snapshot_id"], row["fitted_at"]) == (
        "epyc-7763",
        "eager",
        3,
        WHEN,
    )
    assert row["num_rows"] == len(rows)
    totals, _ = evaluate(table(rows), calibrations=[row])
    errors = np.log(table(rows).column("measured_s").to_numpy() / totals.column("estimate_s").to_numpy())
    assert np.mean(np.abs(errors)) < 0.05
    shipped, _ = evaluate(table(rows))
    before = np.log(table(rows).column("measured_s").to_numpy() / shipped.column("estimate_s").to_numpy())
    assert np.mean(np.abs(before)) > 0.3
    assert set(totals.column("calibration_id").to_pylist()) == {row["calibration_id"]}
    assert set(row) == set(schema.table("calibrations").names)


def test_interval_is_of_configurations_held_out():
    rows, _ = runs(noise=0.3, calibrations=[SLOW])
    (row,) = fit(table(rows), fitted_at=WHEN).rows
    assert row["ratio_p05"] < 0.8 < row["ratio_p50"] < 1.25 < row["ratio_p95"]
    ratio = (
        table(rows).column("measured_s").to_numpy()
        / evaluate(table(rows), calibrations=[row])[0].column("estimate_s").to_numpy()
    )
    inside = np.mean((ratio >= row["ratio_p05"]) & (ratio <= row["ratio_p95"]))
    assert inside > 0.8


def test_kinds_of_op_tell_what_runs_do_not():
    """Runs bound by their host say nothing about products; times of products do."""
    host = SLOW | {"dispatch_s": 1e-3, "matrix_efficiency": 0.21, "bandwidth_efficiency": 0.21}
    rows, ops = runs(noise=0.0, calibrations=[host])
    kinds = {}
    for op in ops:
        if op["op_kind"] in ("up_proj", "down_proj", "lm_head"):
            key = (op["config_row"], op["op_kind"])
            kinds[key] = kinds.get(key, 0.0) + op["estimate_s"] * op["count"]
    more = [rows[index] | {"op_kind": kind, "measured_s": seconds} for (index, kind), seconds in kinds.items()]
    (alone,), (told,) = (fit(table(some), fitted_at=WHEN).rows for some in (rows, rows + more))
    assert told["bandwidth_efficiency"] == pytest.approx(0.21, rel=0.1)
    assert abs(alone["bandwidth_efficiency"] / 0.21 - 1) > 0.5
    assert told["num_rows"] == len(rows) + len(more)


def test_kind_that_the_engine_does_not_count_is_left_out():
    rows, _ = runs(calibrations=[SLOW])
    strange = [row | {"op_kind": "memcpy", "measured_s": 1.0} for row in rows]
    assert fit(table(rows + strange), fitted_at=WHEN).rows[0]["num_rows"] == len(rows)


def test_too_few_runs_are_a_sentence():
    rows, _ = runs()
    found = fit(table(rows[: FEWEST_RUNS - 1]), fitted_at=WHEN)
    assert found.rows == []
    assert found.notes == [
        f"epyc-7763 under profile eager: 7 measured runs of 7 configurations are too few: {FEWEST_RUNS} runs of {FEWEST_CONFIGS} configurations are needed."
    ]
    repeated = fit(table(rows[:1] * 20), fitted_at=WHEN)
    assert repeated.rows == []
    assert "20 measured runs of 1 configurations are too few" in repeated.notes[0]


def test_what_has_no_estimate_is_left_out_and_counted():
    rows, _ = runs(calibrations=[SLOW])
    staged = rows[0] | {"pipeline_parallel": 2, "num_devices": 2}
    impossible = rows[0] | {"tensor_parallel": 5, "num_devices": 5}
    found = fit(
        table([row | {"pipeline_parallel": None, "tensor_parallel": None} for row in rows] + [staged, impossible]),
        fitted_at=WHEN,
    )
    assert found.rows[0]["num_rows"] == len(rows)
    assert found.notes == ["2 configurations have no estimate, or run in pipeline stages: left out."]


def test_devices_and_profiles_are_fitted_apart():
    first, _ = runs(calibrations=[SLOW])
    second, _ = runs(hardware_id="a100-sxm-80gb", execution="engine")
    rows = fit(table(first + second), fitted_at=WHEN).rows
    assert [(row["device_class"], row["execution"]) for row in rows] == [
        ("a100-sxm-80gb", "engine"),
        ("epyc-7763", "eager"),
    ]
