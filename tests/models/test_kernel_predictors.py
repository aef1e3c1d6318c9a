"""Predictors of kernel times: what a feature function says of rows, and laws it must keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.analytical import estimate
from models.learned import training
from models.learned.subjects import _estimates, devices, find


def products(**columns: Any) -> pa.Table:
    """Rows of matrix products beside their devices; a plain value stands in every row."""
    size = max(len(value) for value in columns.values() if isinstance(value, list | np.ndarray))
    stated = {
        "hardware_id": "a100-sxm-80gb", "framework": "vllm", "framework_version": "0.1", "op_kind": "gemm", "llm_id": None,
        "execution": None, "weight_dtype": "bf16", "activation_dtype": "bf16", "implementation": None, "batch_size": None,
    } | columns  # fmt: skip
    table = pa.table(
        {
            name: pa.array(value if isinstance(value, list | np.ndarray) else [value] * size)
            for name, value in stated.items()
        }
    )
    return devices.with_devices(table)


def test_the_estimate_of_a_kernel_is_the_formula_with_the_constants_of_its_device() -> None:
    rows = products(m=[1, 4096], hardware_id=["a100-sxm-80gb", "t4"])
    compute, memory = np.array([3e-6, 4e-3]), np.array([4e-6, 3e-3])
    found = _estimates.seconds(rows, compute, memory)
    for row, architecture in enumerate(("ampere", "turing")):
        shipped = next(
            one for one in estimate.shipped() if one["device_class"] == architecture and one["execution"] == "eager"
        )
        expected = (
            np.hypot(compute[row] / shipped["matrix_efficiency"], memory[row] / shipped["bandwidth_efficiency"])
            + shipped["kernel_s"]
        )
        assert found[row] == pytest.approx(expected, rel=1e-12)


def test_an_unknown_device_has_the_constants_of_any() -> None:
    rows = products(m=[1], hardware_id=["nobody-knows-it"])
    anyone = next(one for one in estimate.shipped() if one["device_class"] == "any" and one["execution"] == "eager")
    assert _estimates.constants(rows, ("kernel_s",))["kernel_s"] == pytest.approx([anyone["kernel_s"]])


def test_products_of_other_scales_and_versions_are_other_questions_with_a_base_of_their_own() -> None:
    rows = products(
        m=[64] * 4, n=[4096] * 4, k=[4096] * 4, hardware_id="h100-sxm",
        weight_dtype=["fp8", "fp8", "fp8", "bf16"], activation_dtype=["fp8", "fp8", "fp8", "bf16"],
        is_block_scaled=[False, True, False, False], framework_version=["1", "1", "2", "1"],
    )  # fmt: skip
    inputs = find("gemm_time").inputs(rows)
    assert len(set(inputs.content.tolist())) == 4
    assert len(inputs.keys[0].names) == 4
    assert len(inputs.categories["dtype"].names) == 3


def test_the_bound_of_a_product_is_flops_over_the_peak_or_bytes_over_the_bandwidth() -> None:
    rows = products(m=[1, 8192], n=[4096, 8192], k=[4096, 8192])
    inputs = find("gemm_time").inputs(rows)
    assert inputs.bound[0] == pytest.approx(2 * (4096 * 4096 + 4096 + 4096) / 2.039e12, rel=1e-3)
    assert inputs.bound[1] == pytest.approx(2 * 8192**3 / 312e12, rel=1e-3)
    assert (inputs.estimate > inputs.bound).all()


def test_rows_to_predict_need_no_column_that_only_tables_have() -> None:
    rows = products(m=[64], n=[4096], k=[4096]).drop_columns(
        ["op_kind", "framework_version", "implementation", "execution"]
    )
    inputs = find("gemm_time").inputs(rows)
    assert inputs.is_complete.all()
    assert np.isnan(inputs.features[0, inputs.feature_names.index("kind")])


def test_a_product_on_a_device_nobody_knows_is_incomplete() -> None:
    inputs = find("gemm_time").inputs(products(m=[64], n=[64], k=[64], hardware_id="nobody-knows-it"))
    assert not inputs.is_complete.any()


def test_alignment_padding_and_waves_are_those_of_the_shape() -> None:
    inputs = find("gemm_time").inputs(products(m=[100], n=[256], k=[30]))
    value = dict(zip(inputs.feature_names, inputs.features[0], strict=True))
    assert value["padding_m_64"] == pytest.approx(1.28)
    assert (value["alignment_m"], value["alignment_n"], value["alignment_k"]) == (4.0, 8.0, 2.0)
    assert value["waves_128x128"] == pytest.approx(np.log(2 / 108))
    assert value["k_per_resident_tile"] == pytest.approx(np.log(30 * 2 / 108))


def test_tables_that_name_no_llm_are_learnt_from_where_they_hold_two_devices() -> None:
    sizes = np.array([64.0, 256.0, 1024.0, 4096.0, 8192.0])
    target = find("gemm_time")
    rows = products(m=np.tile(sizes, 2), n=[4096] * 10, k=[4096] * 10, hardware_id=["a100-sxm-80gb", "h100-sxm"] * 5)
    rows = rows.append_column("measured_time_s", pa.array(target.inputs(rows).bound * np.linspace(1.2, 2.0, 10)))
    rows = rows.append_column("run_id", pa.array([f"run-{row}" for row in range(10)]))
    asked = training.problem(target, rows)
    assert "leave_model_out" not in training.scored_splits(asked)
    assert "leave_device_out" in training.scored_splits(asked)
    with pytest.raises(ValueError, match=r"of 0 llm groups \(none\)"):
        training.problem(replace(target, min_groups=7), rows)
