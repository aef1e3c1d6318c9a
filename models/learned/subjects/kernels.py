"""Time of one kernel: matrix products (and, in their own files, attention, experts, vectors and collectives).

Rows are those of table `kernels` beside their run (query `training_kernels`), passed through `devices.with_devices`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, digest, joined, labels, log, number, optional
from models.learned.model import Variant
from models.learned.subjects import _estimates, devices
from models.learned.targets import Target

GEMM_KINDS = (
    "gemm", "qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head",
)  # fmt: skip
TILES = ((64, 64), (128, 128), (128, 256), (256, 128))
"""Rows and columns of the output that one block computes in the kernels of common libraries."""


def gemm(rows: pa.Table) -> Inputs:
    """Inputs of products of m x k by k x n, `batch_size` of them (1 where NULL)."""
    m, n, k = (number(rows, name) for name in "mnk")
    batch = np.nan_to_num(optional(rows, "batch_size"), nan=1.0)
    weight, activation = labels(rows, "weight_dtype"), labels(rows, "activation_dtype")
    element, stored = devices.dtype_bytes(activation), devices.dtype_bytes(weight)
    flops = 2.0 * batch * m * n * k
    moved = batch * (n * k * stored + m * k * element + m * n * np.maximum(element, 2.0))
    top, bandwidth = devices.peak(rows, activation), devices.device(rows, "memory_bandwidth_bytes_per_s")
    compute, memory = flops / top, moved / bandwidth
    bound = np.maximum(compute, memory)
    cores = devices.device(rows, "num_cores")
    names, values = ["log_compute", "log_memory", "log_ridge_side", "log_flops", "log_bytes"], [
        log(compute), log(memory), log(compute) - log(memory), log(flops), log(moved),
    ]  # fmt: skip
    for name, size in (("m", m), ("n", n), ("k", k), ("batch", batch)):
        names.append(f"log_{name}")
        values.append(log(size))
    names += ["bytes_over_l2", "flops_per_core"]
    values += [log(moved) - log(devices.device(rows, "l2_bytes")), log(flops) - log(cores)]
    for tile in (16, 64, 128, 256):
        names.append(f"padding_m_{tile}")
        values.append(np.ceil(m / tile) * tile / m)
    for tile in (64, 128, 256):
        names.append(f"padding_n_{tile}")
        values.append(np.ceil(n / tile) * tile / n)
    for name, size in (("m", m), ("n", n), ("k", k)):
        names.append(f"alignment_{name}")
        values.append(_alignment(size))
    for rows_of, columns_of in TILES:
        waves = batch * np.ceil(m / rows_of) * np.ceil(n / columns_of) / cores
        names += [f"waves_{rows_of}x{columns_of}", f"wave_efficiency_{rows_of}x{columns_of}"]
        values += [log(waves), waves / np.ceil(waves)]
    names += ["element_bytes", "stored_bytes"]
    values += [element, stored]
    about_device = devices.features(rows, activation)
    features = np.column_stack([*values, about_device])
    kind = labels(rows, "op_kind")
    dtype = joined(weight, activation)
    device = labels(rows, "hardware_id")
    backend = labels(rows, "framework")
    return Inputs(
        terms=np.column_stack([compute, memory]),
        term_names=("compute_s", "memory_s"),
        priors=(1.5, 1.5),
        keys=(joined(device, backend, dtype), joined(backend, dtype), dtype),
        features=features,
        feature_names=(*names, *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack([m, n, k, flops]),
        range_names=("m", "n", "k", "flops"),
        categories={"dtype": dtype},
        groups={
            "device": device,
            "generation": devices.generation(rows),
            "backend": backend,
            "llm": labels(rows, "llm_id"),
            "shape": _shape(n, k),
        },
        content=digest(
            rows, ("hardware_id", "framework", "weight_dtype", "activation_dtype", "batch_size", "m", "n", "k")
        ),
        bound=bound,
        estimate=_estimates.seconds(rows, compute, memory),
        extra={"kind": kind.codes.astype(np.float64)},
    )


def _alignment(size: Array) -> Array:
    """Largest power of two up to 8 that divides a size."""
    return np.select([size % 8 == 0, size % 4 == 0, size % 2 == 0], [8.0, 4.0, 2.0], 1.0)


def _shape(n: Array, k: Array) -> Labels:
    codes, inverse = np.unique(n * 2.0**24 + k, return_inverse=True)
    return Labels(inverse.astype(np.int64), tuple(f"{int(one // 2**24)}x{int(one % 2**24)}" for one in codes))


TREES = (Variant("power", "trees"),)
TARGETS = (
    Target(
        key="gemm_time",
        what="time of one matrix product",
        metric="time_s",
        unit="s",
        query="training_kernels",
        inputs=gemm,
        recipes={0: (Variant("power"),), 200: TREES},
        dimensions=("random", "device", "generation", "llm"),
        splits=(
            "leave_model_out",
            "leave_device_out",
            "leave_generation_out",
            "leave_shape_out",
            "beyond_size",
            "random",
        ),
        parameters={"op_kinds": list(GEMM_KINDS)},
        balance="device",
    ),
)
