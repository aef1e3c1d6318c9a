"""Predictors of kernel times: what a feature function says of rows, and laws it must keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.analytical import estimate
from models.learned.subjects import _estimates, devices


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
