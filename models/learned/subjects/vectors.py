"""Time of one kernel that no matrix product is: norms, softmax, activations, rope, sums, embeddings, element-wise arithmetic.

Rows are those of table `kernels` beside their run (query `training_kernels`), passed through `devices.with_devices`: an array of
m rows and n columns, and the bytes that the kernel moves. What counts is the memory's bandwidth, how full the cores are, and for
kernels that reduce a row (norm, softmax) the length of it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, digest, joined, labels, log, number, optional
from models.learned.model import Variant
from models.learned.subjects import _estimates, devices
from models.learned.targets import Target

KINDS = ("norm", "softmax", "activation", "elementwise", "residual_add", "rope", "embedding")
OPERATIONS: dict[str, tuple[float, float]] = {
    "add": (3.0, 1.0), "mul": (3.0, 1.0), "div": (3.0, 1.0), "pow": (3.0, 10.0),
    "addu": (2.0, 1.0), "mulu": (2.0, 1.0), "divu": (2.0, 1.0), "powu": (2.0, 1.0),
    "relu": (2.0, 1.0), "gelu": (2.0, 8.0), "tanh": (2.0, 8.0), "activation": (3.0, 6.0),
    "layer_norm": (2.0, 7.0), "norm": (2.0, 4.0), "softmax": (2.0, 5.0), "rope": (2.0, 3.0), "embedding": (2.0, 0.0),
}  # fmt: skip
"""Column `kernel` -> arrays of m x n that it reads or writes where its bytes are not said, and FLOPs an element as the analytical
inventory counts them. A name that ends in u has one operand and a number; `activation` is gated, `norm` RMS."""
THREADS = 2048
"""Threads that a core of a GPU holds at a time."""


def vector(rows: pa.Table) -> Inputs:
    """Inputs of kernels over arrays of m x n."""
    m, n = number(rows, "m"), number(rows, "n")
    kernel, dtype = labels(rows, "kernel"), labels(rows, "activation_dtype")
    element = devices.dtype_bytes(dtype)
    elements = m * n
    arrays = kernel.lookup({name: passes for name, (passes, _) in OPERATIONS.items()}, 2.0)
    stated = optional(rows, "bytes_moved")
    moved = np.where(np.isnan(stated), arrays * elements * element, stated)
    flops = elements * kernel.lookup({name: flops for name, (_, flops) in OPERATIONS.items()}, 1.0)
    vector_peak, bandwidth = (
        devices.device(rows, name) for name in ("vector_fp32_flops_per_s", "memory_bandwidth_bytes_per_s")
    )
    compute, memory = flops / vector_peak, moved / bandwidth
    bound = np.maximum(compute, memory)
    cores, cache = devices.device(rows, "num_cores"), devices.device(rows, "l2_bytes")
    values = [
        log(memory), log(moved), log(moved) - log(cache), log(m), log(n), log(elements / (cores * THREADS)),
        log(m / cores), _share(m / cores), moved / (elements * element), element, _alignment(n),
        kernel.lookup({name: float(code) for code, name in enumerate(OPERATIONS)}),
    ]  # fmt: skip
    device, backend = labels(rows, "hardware_id"), labels(rows, "framework")
    work = joined(backend, kernel, dtype)
    return Inputs(
        terms=np.column_stack([compute, memory]),
        term_names=("compute_s", "memory_s"),
        priors=(1.5, 1.5),
        keys=(joined(device, backend, kernel, dtype), work, joined(backend, kernel), kernel),
        features=np.column_stack([*values, devices.features(rows, dtype)]),
        feature_names=(*FEATURES, *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack([m, n, moved]),
        range_names=("m", "n", "bytes_moved"),
        categories={"kernel": kernel},
        groups={
            "device": device,
            "generation": devices.generation(rows),
            "backend": backend,
            "llm": labels(rows, "llm_id"),
            "shape": Labels.of(np.char.mod("%d", n).astype(object)),
        },
        content=digest(rows, ("hardware_id", "framework", "activation_dtype", "kernel", "bytes_moved", "m", "n")),
        bound=bound,
        estimate=_estimates.seconds(rows, compute, memory, "vector_efficiency"),
    )


FEATURES = (
    "log_memory", "log_bytes", "bytes_over_l2", "log_m", "log_n", "log_waves", "log_rows_per_core", "row_wave_efficiency",
    "arrays", "element_bytes", "alignment_n", "operation",
)  # fmt: skip


def _share(waves: Array) -> Array:
    """How full the cores are over all waves."""
    return np.asarray(waves / np.ceil(np.maximum(waves, 1e-9)), np.float64)


def _alignment(size: Array) -> Array:
    """Largest power of two up to 8 that divides a size: elements that one load can take."""
    return np.select([size % 8 == 0, size % 4 == 0, size % 2 == 0], [8.0, 4.0, 2.0], 1.0)


TARGETS = (
    Target(
        key="vector_time",
        what="time of one norm, softmax, activation, rope, embedding or element-wise kernel",
        metric="time_s",
        unit="s",
        query="training_kernels",
        inputs=vector,
        recipes={0: (Variant("power"),), 200: (Variant("power", "trees"), Variant("bound", "trees"))},
        dimensions=("random", "device", "generation", "llm"),
        splits=("leave_model_out", "leave_device_out", "leave_generation_out", "leave_shape_out", "beyond_size", "random"),
        parameters={"op_kinds": list(KINDS)},
        balance="device",
    ),
)  # fmt: skip
