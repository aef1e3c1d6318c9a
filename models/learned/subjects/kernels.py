"""Time of one kernel: matrix products (and, in their own files, attention, experts, vectors and collectives).

Rows are those of table `kernels` beside their run (query `training_kernels`), passed through `devices.with_devices`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, column, digest, joined, labels, log, number, optional
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
    weights, activations, written = (
        batch * n * k * stored,
        batch * m * k * element,
        batch * m * n * np.maximum(element, 2.0),
    )
    moved = weights + activations + written
    compute = flops / devices.peak(rows, activation)
    memory = moved / devices.device(rows, "memory_bandwidth_bytes_per_s")
    cores, l2 = devices.device(rows, "num_cores"), devices.device(rows, "l2_bytes")
    scales = _scales(rows)
    work = {
        "log_compute": log(compute), "log_memory": log(memory), "log_ridge_side": log(compute) - log(memory),
        "log_flops": log(flops), "log_bytes": log(moved), "log_m": log(m), "log_n": log(n), "log_k": log(k), "log_batch": log(batch),
        "bytes_over_l2": log(moved) - log(l2), "weights_over_l2": log(weights) - log(l2), "flops_per_core": log(flops) - log(cores),
    }  # fmt: skip
    for tile in (16, 64, 128, 256):
        work[f"padding_m_{tile}"] = np.ceil(m / tile) * tile / m
    for tile in (64, 128, 256):
        work[f"padding_n_{tile}"] = np.ceil(n / tile) * tile / n
    for name, size in (("m", m), ("n", n), ("k", k)):
        work[f"alignment_{name}"] = _alignment(size)
    for rows_of, columns_of in TILES:
        waves = batch * np.ceil(m / rows_of) * np.ceil(n / columns_of) / cores
        work[f"waves_{rows_of}x{columns_of}"] = log(waves)
        work[f"wave_efficiency_{rows_of}x{columns_of}"] = waves / np.ceil(waves)
        if rows_of == columns_of == 128:
            work["k_per_resident_tile"] = log(k) + np.minimum(log(waves), 0.0)
    work |= {
        "element_bytes": element,
        "stored_bytes": stored,
        "is_block_scaled": scales.mask("block scales").astype(np.float64),
    }
    work["kind"] = labels(rows, "op_kind").lookup(KIND_CODES)
    device, dtype = labels(rows, "hardware_id"), joined(weight, activation, scales)
    backend, version = labels(rows, "framework"), labels(rows, "framework_version")
    return Inputs(
        terms=np.column_stack([compute, memory]),
        term_names=("compute_s", "memory_s"),
        priors=(1.5, 1.5),
        keys=(joined(device, backend, version, dtype), joined(device, backend, dtype), joined(backend, dtype), dtype),
        features=np.column_stack([*work.values(), devices.features(rows, activation)]),
        feature_names=(*work, *devices.FEATURES),
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
        content=digest(rows, CONTENT),
        bound=np.maximum(compute, memory),
        estimate=_estimates.seconds(rows, compute, memory),
    )


CONTENT = (
    "hardware_id", "framework", "framework_version", "weight_dtype", "activation_dtype", "is_block_scaled", "batch_size", "m", "n", "k",
)  # fmt: skip
KIND_CODES = {
    kind: float(place)
    for place, kinds in enumerate(
        (
            ("qkv_proj", "q_proj", "k_proj", "v_proj"),
            ("o_proj",),
            ("up_proj", "gate_proj"),
            ("down_proj",),
            ("lm_head",),
        )
    )
    for kind in kinds
}
"""Where in a layer a product stands tells what was in the cache before it; a bare `gemm` stands nowhere."""


def _scales(rows: pa.Table) -> Labels:
    """How the scales of narrow formats go: one of a tensor (`plain`), or one of every block, which other kernels run."""
    is_block = np.zeros(rows.num_rows, np.int64)
    if "is_block_scaled" in rows.column_names:
        is_block = np.asarray(column(rows, "is_block_scaled").fill_null(False).to_numpy(), np.int64)
    return Labels(is_block, ("plain", "block scales"))


def _alignment(size: Array) -> Array:
    """Largest power of two up to 8 that divides a size."""
    return np.select([size % 8 == 0, size % 4 == 0, size % 2 == 0], [8.0, 4.0, 2.0], 1.0)


def _shape(n: Array, k: Array) -> Labels:
    found = pa.array((n * _WIDE + k).astype(np.int64)).dictionary_encode()
    names = tuple(f"{one // _WIDE}x{one % _WIDE}" for one in found.dictionary.to_pylist())
    return Labels(found.indices.to_numpy().astype(np.int64), names)


_WIDE = 2**24
"""More than any k."""
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
