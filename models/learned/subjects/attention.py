"""Time of one attention kernel: new tokens of a prompt (prefill), or one token a sequence behind a cache (decode).

Rows are those of table `kernels` beside their run (query `training_kernels`), passed through `devices.with_devices`: `input_tokens`
new tokens of each of `batch_size` sequences behind `context_tokens` cached ones. Attention is causal; a `window_tokens` of NULL
sees everything before it. Work is counted as the tables count it: masked pairs are not counted, every key and value that some
query sees is read once. What a kernel does beyond that work (padding, idle cores, start-up of a sequence) is in the terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, digest, joined, labels, log, number, optional
from models.learned.model import Recipe, Variant
from models.learned.subjects import _estimates, _memory, devices
from models.learned.targets import Target

BACKENDS = ("vllm", "tensorrt-llm", "sglang", "vidur")
"""Software that brings kernels of its own: a correction must not mix theirs."""
UNPACKED = ("tensorrt-llm",)
"""Backends whose prefill kernel gives a block the queries of one head; others pack the heads that share a KV head."""
MAX_GROUP = {"tensorrt-llm": 32}
"""Query heads that may share a KV head in a backend's decode kernel; beyond it another kernel reads the cache once a query head.
Both this and UNPACKED are seen in the tables of aiconfigurator (TensorRT-LLM 1.3.0rc20)."""
TILE = 128
"""Queries that one block of a prefill kernel works on, and keys it meets in one step."""
QUERY_TILES = (64, 128, 256)
GROUP_TILE = 16
"""Query heads of one KV head are padded to so many rows of a matrix in a decode kernel."""
START = 128
"""Cached tokens that the start and the end of one sequence in a decode kernel cost as much as."""
OUTPUTS = 3
"""Times that queries and outputs of a decode kernel are moved: parts of a sequence are written and put together."""
SPLIT = 512
"""Cached tokens of one part, where a decode kernel splits a sequence over several blocks."""


@dataclass(frozen=True)
class _Shape:
    """Numbers of n attention calls, shape (n,) each. reach: tokens that the last query sees; pairs: of query and key, of one head;
    seen: cached and new tokens that some query sees."""

    batch: Array
    new: Array
    past: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    reach: Array
    pairs: Array
    seen: Array

    @classmethod
    def of(cls, rows: pa.Table) -> _Shape:
        batch, new, past = (number(rows, name) for name in ("batch_size", "input_tokens", "context_tokens"))
        heads, kv_heads, head_dim = (number(rows, name) for name in ("num_heads", "num_kv_heads", "head_dim"))
        reach = np.fmin(optional(rows, "window_tokens"), new + past)
        growing = np.clip(reach - past, 0, new)  # queries that see all before them
        pairs = growing * past + growing * (growing + 1) / 2 + (new - growing) * reach
        return cls(batch, new, past, heads, kv_heads, head_dim, reach, pairs, np.minimum(new + past, reach + new - 1))


@dataclass(frozen=True)
class _Kernel:
    """What a phase adds: the terms in matrix FLOPs and bytes moved, which kernel it is, and features by name; shape (n,) each."""

    flops: Array
    moved: Array
    which: Labels
    features: dict[str, Array]


def prefill(rows: pa.Table) -> Inputs:
    """Inputs of attention of the new tokens of prompts.

    A block works on TILE queries and steps over the keys they see, TILE at a time, half a step of the diagonal masked. A kernel ends
    no sooner than its longest block, and every core gets a whole number of blocks.
    """
    shape = _Shape.of(rows)
    cores = devices.device(rows, "num_cores")
    is_packed = ~labels(rows, "framework").among(UNPACKED)
    kernel_heads = np.where(is_packed, shape.kv_heads, shape.heads)
    features: dict[str, Array] = {}
    for tile in QUERY_TILES:
        for name, heads in (("waves", shape.heads), ("packed_waves", shape.kv_heads)):
            waves = _blocks(shape, heads, tile) / cores
            features |= {f"{name}_{tile}": log(waves), f"{name}_efficiency_{tile}": waves / np.ceil(waves)}
    blocks = _blocks(shape, kernel_heads, TILE)
    steps = np.maximum(shape.pairs / shape.new / TILE + 0.5, 1.0)
    longest = np.ceil(shape.reach / TILE)
    span = np.maximum(blocks * steps / cores, longest)
    features |= {
        "log_longest": log(longest), "log_steps_a_core": log(blocks * steps / cores), "balance": blocks * steps / cores / span,
    }  # fmt: skip
    kv, queries = _bytes(rows, shape)
    which = Labels(np.zeros(len(blocks), np.int64), ("prefill",))
    kernel = _Kernel(span * cores * TILE**2 * 4 * shape.head_dim, kv + queries, which, features)
    return _inputs(rows, shape, kernel)


def decode(rows: pa.Table) -> Inputs:
    """Inputs of attention of one new token of each sequence (or a few, guessed ahead) behind its cache."""
    shape = _Shape.of(rows)
    cores = devices.device(rows, "num_cores")
    is_shared = shape.heads / shape.kv_heads <= labels(rows, "framework").lookup(MAX_GROUP, np.inf)
    readers = np.where(is_shared, shape.kv_heads, shape.heads)
    sequences, parts = shape.batch * readers, np.ceil(shape.seen / SPLIT)
    features = {"log_readers": log(readers), "log_parts": log(parts)}
    for name, blocks in (("sequences", sequences), ("heads", shape.batch * shape.heads), ("parts", sequences * parts)):
        waves = blocks / cores
        features |= {f"log_{name}_a_core": log(waves), f"{name}_efficiency": waves / np.ceil(waves)}
    features["log_tokens_a_core"] = log(np.ceil(sequences / cores) * shape.seen)
    group = shape.heads / readers * shape.new
    padded = np.ceil(group / GROUP_TILE) * GROUP_TILE
    features["padding_group"] = padded / group
    kv, queries = _bytes(rows, shape)
    read = kv * readers / shape.kv_heads * (1 + START / shape.seen)
    which = Labels(is_shared.astype(np.int64), ("decode each head", "decode groups"))
    flops = sequences * padded * (shape.seen + START) * 4 * shape.head_dim
    return _inputs(rows, shape, _Kernel(flops, read + OUTPUTS * queries, which, features))


def _blocks(shape: _Shape, heads: Array, tile: int) -> Array:
    """Blocks of `tile` queries where the heads that share one of `heads` are packed together; shape (n,)."""
    found: Array = shape.batch * heads * np.ceil(shape.new * shape.heads / heads / tile)
    return found


def _bytes(rows: pa.Table, shape: _Shape) -> tuple[Array, Array]:
    """Bytes of keys and values, and of queries and outputs, each moved once; shape (n,) each."""
    stored, element = (devices.dtype_bytes(labels(rows, name)) for name in ("kv_dtype", "activation_dtype"))
    sequences = 2 * shape.batch * shape.head_dim
    return sequences * shape.seen * shape.kv_heads * stored, sequences * shape.new * shape.heads * element


def _inputs(rows: pa.Table, shape: _Shape, kernel: _Kernel) -> Inputs:
    activation, kv = labels(rows, "activation_dtype"), labels(rows, "kv_dtype")
    top, bandwidth = devices.peak(rows, activation), devices.device(rows, "memory_bandwidth_bytes_per_s")
    cores = devices.device(rows, "num_cores")
    flops = shape.batch * shape.heads * shape.pairs * (4 * shape.head_dim + 5)
    kv_bytes, query_bytes = _bytes(rows, shape)
    moved = kv_bytes + query_bytes
    compute, memory = flops / top, moved / bandwidth
    busy, read = kernel.flops / top, _memory.seconds(rows, kernel.moved, moved)
    backend, dtype = labels(rows, "framework"), joined(activation, kv)
    features = {
        "log_compute": log(compute), "log_memory": log(memory), "log_busy": log(busy), "log_read": log(read),
        "log_side": log(busy) - log(read), "log_flops": log(flops), "log_bytes": log(moved), "log_kv_bytes": log(kv_bytes),
        "log_batch": log(shape.batch), "log_new": log(shape.new), "log_past": np.log1p(shape.past), "log_seen": log(shape.seen),
        "log_reach": log(shape.reach), "log_heads": log(shape.heads), "log_kv_heads": log(shape.kv_heads),
        "log_group": log(shape.heads / shape.kv_heads), "head_dim": shape.head_dim, "window": optional(rows, "window_tokens"),
        "element_bytes": devices.dtype_bytes(activation), "stored_bytes": devices.dtype_bytes(kv),
        "bytes_over_l2": log(moved) - log(devices.device(rows, "l2_bytes")), "flops_a_core": log(flops / cores),
        "bytes_a_core": log(moved / cores),
        **kernel.features,
        **{f"is_{name}": backend.mask(name).astype(np.float64) for name in BACKENDS},
    }  # fmt: skip
    device = labels(rows, "hardware_id")
    own = joined(device, backend, labels(rows, "framework_version"), dtype, kernel.which)
    return Inputs(
        terms=np.column_stack([busy, read]),
        term_names=("busy_s", "memory_s"),
        priors=(1.5, 1.5),
        keys=(joined(own, labels(rows, "head_dim")), own, joined(backend, dtype, kernel.which), joined(dtype, kernel.which)),
        features=np.column_stack([*features.values(), devices.features(rows, activation)]),
        feature_names=(*features, *devices.FEATURES),
        device_features=frozenset(devices.FEATURES),
        ranges=np.column_stack([shape.seen, shape.batch, shape.heads, shape.head_dim, flops]),
        range_names=("tokens", "batch_size", "num_heads", "head_dim", "flops"),
        categories={"dtype": dtype},
        groups={
            "device": device,
            "generation": devices.generation(rows),
            "backend": backend,
            "stack": joined(device, backend),
            "shape": _heads(shape),
        },
        content=digest(
            rows,
            (
                "hardware_id", "framework", "framework_version", "activation_dtype", "kv_dtype", "batch_size", "input_tokens",
                "context_tokens", "num_heads", "num_kv_heads", "head_dim", "window_tokens",
            ),
        ),
        bound=np.maximum(compute, memory),
        estimate=_estimates.seconds(rows, compute, memory, "attention_efficiency"),
    )  # fmt: skip


def _heads(shape: _Shape) -> Labels:
    """The head configuration of every call: heads/KV heads/dimension."""
    codes, inverse = np.unique((shape.heads * 2.0**16 + shape.kv_heads) * 2.0**16 + shape.head_dim, return_inverse=True)
    parts = (codes // 2.0**32, codes // 2.0**16 % 2.0**16, codes % 2.0**16)
    names = tuple(
        f"{heads:.0f}/{kv_heads:.0f}/{head_dim:.0f}" for heads, kv_heads, head_dim in zip(*parts, strict=True)
    )
    return Labels(inverse.astype(np.int64), names)


NUM_TREES = 240
"""Shapes interact more than in a product: heads never seen are 1.3 points of error better than with 100 trees."""
RECIPES: dict[int, Recipe] = {0: (Variant("power"),), 200: (Variant("power", "trees", num_trees=NUM_TREES),)}
SPLITS = ("leave_shape_out", "leave_device_out", "leave_generation_out", "leave_backend_out", "beyond_size", "random")
DIMENSIONS = ("random", "shape", "device", "generation", "backend")
TARGETS = (
    Target(
        key="attention_prefill_time",
        what="time of attention of the tokens of prompts",
        metric="time_s",
        unit="s",
        query="training_kernels",
        inputs=prefill,
        recipes=RECIPES,
        dimensions=DIMENSIONS,
        splits=SPLITS,
        parameters={"op_kinds": ["attention"], "phase": "prefill"},
        balance="generation",
    ),
    Target(
        key="attention_decode_time",
        what="time of attention of one token a sequence behind its cache",
        metric="time_s",
        unit="s",
        query="training_kernels",
        inputs=decode,
        recipes=RECIPES,
        dimensions=DIMENSIONS,
        splits=SPLITS,
        parameters={"op_kinds": ["attention"], "phase": "decode"},
        balance="generation",
    ),
)
