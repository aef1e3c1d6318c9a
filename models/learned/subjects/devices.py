"""The numbers of a device that a kernel feels, beside the rows that name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Labels, labels, log, number
from warehouse import catalog, schema

PREFIX = "device_"
NUMBERS = (
    "memory_bytes", "memory_bandwidth_bytes_per_s", "peak_fp32_flops_per_s", "peak_tf32_flops_per_s", "peak_fp16_flops_per_s",
    "peak_bf16_flops_per_s", "peak_fp8_flops_per_s", "peak_int8_flops_per_s", "peak_fp4_flops_per_s", "peak_int4_flops_per_s",
    "vector_fp32_flops_per_s", "l2_bytes", "num_cores", "clock_hz", "kernel_launch_s", "collective_launch_s",
    "link_bandwidth_bytes_per_s", "host_link_bandwidth_bytes_per_s", "network_bandwidth_bytes_per_s", "linked_devices", "tdp_w",
)  # fmt: skip
"""Columns of table `hardware` that features read, under PREFIX."""


def with_devices(rows: pa.Table, more: Iterable[Mapping[str, Any]] = ()) -> pa.Table:
    """Rows with their device's NUMBERS, `device_architecture` and `device_kind` beside `hardware_id`, where they lack them.

    `more`: rows of table `hardware` that add to the catalogue or replace its entries: a lake's own. An unknown device has NULLs.
    """
    if f"{PREFIX}architecture" in rows.column_names:
        return rows
    table = {row["hardware_id"]: row for row in [*catalog.rows("hardware"), *more]}
    ids = labels(rows, "hardware_id")
    found = [table.get(name, {}) for name in ids.names]
    for name in NUMBERS:
        values = np.array([np.nan if row.get(name) is None else float(row[name]) for row in found] + [np.nan])[
            ids.codes
        ]
        rows = rows.append_column(PREFIX + name, pa.array(values, pa.float64(), from_pandas=True))
    codes = pa.array(ids.codes.astype(np.int32))
    for name in ("architecture", "kind"):
        texts = pa.array([row.get(name) for row in found], pa.string())
        rows = rows.append_column(PREFIX + name, texts.take(codes))
    return rows


def device(rows: pa.Table, name: str) -> Array:
    """A number of each row's device, NaN where unknown; shape (n,)."""
    return number(rows, PREFIX + name)


def peak(rows: pa.Table, dtypes: Labels) -> Array:
    """Dense matrix peak of each row's device in the row's dtype, FLOP/s; fp32 products fall back on the vector units; shape (n,)."""
    found = np.full(rows.num_rows, np.nan)
    for name in dtypes.names:
        column = f"peak_{_UNITS.get(name, name)}_flops_per_s"
        if column not in NUMBERS:
            continue
        mask, values = dtypes.mask(name), device(rows, column)
        if name == "fp32":
            values = np.where(np.isnan(values), device(rows, "vector_fp32_flops_per_s"), values)
        found[mask] = values[mask]
    return found


_UNITS = {"nvfp4": "fp4", "mxfp4": "fp4"}
"""Formats that run on the units of another."""


def dtype_bytes(dtypes: Labels) -> Array:
    """Bytes of one element of each row's dtype, NaN where unknown; shape (n,)."""
    return dtypes.lookup(schema.DTYPE_BYTES)


FEATURES = (
    "log_peak", "log_bandwidth", "log_num_cores", "log_l2", "log_clock", "log_ridge", "log_peak_per_core_clock", "log_peak_per_watt",
    "log_bandwidth_per_watt",
)  # fmt: skip


def features(rows: pa.Table, dtypes: Labels) -> Array:
    """FEATURES of every row's device at the peak of the row's dtype; shape (n, 9)."""
    top, bandwidth, cores = peak(rows, dtypes), device(rows, "memory_bandwidth_bytes_per_s"), device(rows, "num_cores")
    clock, watts = device(rows, "clock_hz"), device(rows, "tdp_w")
    numbers = [
        top, bandwidth, cores, device(rows, "l2_bytes"), clock, top / bandwidth, top / (cores * clock), top / watts, bandwidth / watts,
    ]  # fmt: skip
    return np.column_stack([log(one) for one in numbers])


def generation(rows: pa.Table) -> Labels:
    """The architecture of every row's device (hopper, blackwell ...); a device without one stands for itself."""
    names, ids = labels(rows, PREFIX + "architecture").texts(), labels(rows, "hardware_id").texts()
    return Labels.of(np.where(names == "unstated", ids, names))
