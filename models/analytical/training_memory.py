"""Memory of a training step beyond what is held throughout: activations that backward needs, buffers, the update."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.analytical.inventory import ATTENTION_KINDS, Group, Op, Value, largest
from models.analytical.training_model import Model, is_layer, is_linear

BUCKET = 5e8
"""Gradients reduced at a time: DeepSpeed's reduce_bucket_size. ZeRO has two buckets, one that fills while the other is reduced
(overlap_comm, which DeepSpeed itself turns on in stage 3 only)."""

LIVE_PARAMETERS = 1e9
"""Gathered weights that ZeRO-3 keeps at most: DeepSpeed's stage3_max_live_parameters; the optimizer's sub_group_size too."""

PREFETCHED = 5e7
"""Weights that ZeRO-3 gathers ahead: DeepSpeed's stage3_prefetch_bucket_size."""

RUNTIME = 5e8
"""Bytes of a CUDA context and library workspaces before the first tensor; rounded."""

COMMUNICATOR = 1.5e9
"""Bytes of a communicator of several devices, and what else a step holds that is not counted: fitted, not documented, to
`zhang-2023-dissecting` Table III, 7B, R+Z3+O (6.4 GB), where little else is left."""

ADAM_TEMPORARIES = 1.0
"""Arrays as large as the updated parameters that torch's unfused Adam (foreach) allocates during a step, as torch documents."""


def activation_peak(model: Model) -> Value:
    """Peak of the activations that backward needs: at its start, with the logits, or inside the largest layer."""
    group, layers = model.group, dict[tuple[str, float], _Kept]()
    outside: Value = 0.0
    for op, size in zip(model.forward, _saved(model), strict=True):
        if not is_layer(op):
            outside = outside + size
            continue
        kind = op.path.partition("*")[0], float(np.max(op.count))
        known = layers.get(kind, _Kept(op.count, op.read, 0.0))
        layers[kind] = replace(known, saved=known.saved + size)
    working = largest(*(_gradients_alive(op, group) for op in model.forward if is_layer(op)))
    if model.is_recomputed:
        working = working + largest(*(one.saved for one in layers.values()))
    kept = sum((one.count * (one.entered if model.is_recomputed else one.saved) for one in layers.values()), 0.0)
    stages = group.pipeline_parallel
    kept = kept / stages * np.minimum(stages, group.micro_batches)  # 1F1B: a stage runs ahead by the stages behind it
    return kept + outside + np.maximum(model.logits, working)


@dataclass(frozen=True)
class _Kept:
    """What layers of one kind leave for backward: `count` of them, bytes that enter one, bytes that one saves."""

    count: Value
    entered: Value
    saved: Value


def _gradients_alive(op: Op, group: Group) -> Value:
    """Gradients of an op's operands and result, while its backward runs; eager softmax has them in fp32, and one cast."""
    act = group.activation_bytes
    return op.read + op.written if op.kind != "softmax" else (op.read + op.written) / act * 4 + op.written


def _saved(model: Model) -> list[Value]:
    """Bytes that one execution of each forward op leaves for backward. A result that is read again is counted at its maker.

    As eager PyTorch does: a product keeps its input (frozen: nothing), attention its operands, keys and values repeated for
    every query head; fused attention its result and a logarithm a row; softmax its result in fp32; RMSNorm its input in
    fp32 and the normalised one (frozen: not that), LayerNorm its input; an activation its inputs and, gated, the activated
    gate. Residuals and rope keep nothing.
    """
    is_read: list[Value] = [1.0 if op.kind in ("attention", "softmax") else 0.0 for op in model.forward]
    own: list[Value] = []
    for op in model.forward:
        is_reading, size = _kept_by(op, model)
        own.append(size)
        for source in op.inputs:
            is_read[source] = np.maximum(is_read[source], is_reading)
    return [op.written * again + more for op, again, more in zip(model.forward, is_read, own, strict=True)]


def _kept_by(op: Op, model: Model) -> tuple[Value, Value]:
    """Whether (1 or 0) an op keeps the results of the ops before it, and bytes that it keeps beside them and its result."""
    act = model.group.activation_bytes
    is_wide = np.where(act >= 4, 1.0, 0.0)  # nothing is copied to fp32
    if op.kind == "attention":
        return 1.0, 4 * op.written / act / model.llm.head_dim
    if op.kind in ATTENTION_KINDS:
        return 1.0, np.maximum(_repeated(op, act), 0.0)
    if op.kind == "experts":
        return 0.0, op.read  # tokens are copied for every expert they go to
    if is_linear(op):
        is_adapted = model.is_adapted(op) and op.gemm is not None
        narrow = model.adapter(op)[0].written if is_adapted else 0.0
        return float(is_adapted or not model.is_frozen(op)), narrow
    copies = {"norm": op.read if op.style == "rms" else 0.0, "softmax": op.written}
    own = copies.get(op.kind, 0.0) / act * 4 * (1 - is_wide)
    if op.kind == "norm" and op.style == "rms":
        return is_wide, own + (0.0 if model.has_adapters else op.written)
    if op.kind == "activation" and op.style == "gated":
        own = op.written
    return float(op.kind in ("norm", "activation")), own


def _repeated(op: Op, act: Value) -> Value:
    """Bytes that keys (or values) of eager attention take beyond their own, repeated for every query head."""
    if op.gemm is None:
        return 0.0
    rows, wide, deep = op.gemm  # scores: rows x keys over width; values: rows x width over keys
    if op.kind == "attention_scores":
        query = rows * deep * act
        return query - (op.read - query)
    return rows * wide * act - (op.read - rows * deep * act)


def buffers(model: Model) -> tuple[Value, Value]:
    """Runtime, buckets and gathered weights; and what the update needs beyond them, when no activation is left."""
    group = model.group
    is_several = group.data_parallel * group.tensor_parallel * group.pipeline_parallel > 1
    buckets = np.minimum(model.trained, BUCKET) * group.gradient_bytes * (2.0 if model.zero else 1.0)
    steady = RUNTIME + np.where(is_several, COMMUNICATOR, 0.0) + np.where(group.data_parallel > 1, buckets, 0.0)
    gathered: Value = 0.0
    if model.zero == 3:
        gathered = np.minimum(model.parameters, LIVE_PARAMETERS + PREFETCHED) * model.weights / model.parameters
    return steady + gathered, np.maximum(_update_buffers(model) - gathered, 0.0)


def after_backward(model: Model, others: Value, activations: Value, update: Value) -> Value:
    """Bytes beyond the activations, beside `others`, of what comes after them: the update, or gradients freed late.

    From ZeRO-2 on gradients are freed by the stream that reduces them, later than the next ones are made: where memory
    allows, all of them are there by the end of backward, when no activation is left. Not so where ZeRO-3 fetches weights
    from the host: backward then runs at the pace of that link. Inferred from `zhang-2023-dissecting` Table III: on 80 GB,
    Z2 and Z2+O take 5.4 and 3.7 B for every parameter that 13B has more than 7B, on 24 GB devices less.
    """
    beyond = np.maximum(update - activations, 0.0)
    if model.zero < 2 or (model.zero == 3 and model.is_offloaded):
        return beyond
    late = np.maximum(model.gradients - model.gradients_held - activations, 0.0)
    spare = model.group.memory - others - activations - 1.0  # a byte against rounding
    return np.maximum(beyond, np.fmin(late, spare))


def _update_buffers(model: Model) -> Value:
    """Bytes that an unfused Adam needs on the device: temporaries and, with master weights, gradients in fp32."""
    if model.is_offloaded:
        return 0.0
    share = model.trained * model.share(1)
    at_once = np.minimum(share, LIVE_PARAMETERS) if model.zero == 3 else share
    updated = np.where(model.master_bytes > 0, model.master_bytes, model.trained_bytes)
    return at_once * (ADAM_TEMPORARIES * updated + model.master_bytes)
