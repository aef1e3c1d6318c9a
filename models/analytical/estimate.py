"""The estimate beside the bound: what an op takes with the kernels that an execution profile really runs.

One execution of an op on one device takes

    t = sqrt((F / (e_c P))^2 + (B / (e_m BW))^2) + kernels x kernel_s

and a transfer that takes latency a = kernel_s + hops x collective_s and streams for s = sent / (e_l link) takes
a + s + sqrt(a s). F: FLOPs. B: the bytes the op counts, and those that the profile's further passes over memory move (`LAUNCHES`). P: peak of
the units that run it. The root of squares is the smooth maximum that public GEMM tables prefer to max(a, b) and to a + b.
A run takes max(sum of t, kernels x dispatch_s) + step_s: where the host issues kernels slower than the device runs them,
the host decides.

Execution profiles. `eager`: PyTorch as a Hugging Face model runs it, one kernel for every element-wise step. `graph`: the
same kernels, replayed. `compiled`: chains of element-wise steps are one kernel each. `engine`: a serving engine's fused
kernels; queries, keys and values are one product, gate and up another.

Constants belong to a device class and a profile; the shipped ones (calibrations.toml) say which rows they come from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.analytical import collectives
from models.analytical.devices import Device
from models.analytical.inventory import ATTENTION_KINDS, Group, Op, Value
from warehouse import schema

FILE = Path(__file__).parent / "calibrations.toml"


@dataclass(frozen=True)
class Constants:
    """Constants of the estimate, one number each or one for every configuration of a group, shape (configurations,)."""

    matrix_efficiency: Value
    """Share of the matrix peak that large products reach; the next three likewise, of what their names say."""
    attention_efficiency: Value
    vector_efficiency: Value
    bandwidth_efficiency: Value
    kernel_s: Value
    """Device time that a kernel takes beside its work."""
    dispatch_s: Value
    """Host time to issue one kernel."""
    step_s: Value
    """Host time of one execution beside its kernels."""
    collective_s: Value
    """Latency of one step of a collective."""
    link_efficiency: Value
    ratio_p05: Value
    """Quantiles of measured / estimate over the rows behind the constants: estimate x ratio is the 90 % interval."""
    ratio_p50: Value
    ratio_p95: Value


NAMES = tuple(field.name for field in fields(Constants))


@dataclass(frozen=True)
class Launch:
    """What a profile launches for one op: kernels, and passes over its tensor beyond those that the op itself counts.

    The tensor is what the op writes; what it reads, where READ says so. A pass is one read or one write of all of it.
    """

    kernels: float
    passes: float = 0.0
    """In the activation dtype."""
    wide: float = 0.0
    """At four bytes an element whatever the activation dtype: in fp32, or strided, where no kernel reads pairs of elements."""
    casts: float = 0.0
    """Kernels that exist only where activations are narrower than fp32."""
    cast_bytes: float = 0.0
    """Bytes of one element that those move."""


_ONE = Launch(1.0)
_NONE = Launch(0.0)

_EAGER = {
    "rms_norm": Launch(6.0, wide=5.0, casts=2.0, cast_bytes=12.0),
    "layer_norm": Launch(1.0, passes=1.0),
    "plain_norm": Launch(2.0, passes=2.0),
    "rope": Launch(14.0, passes=-2.0, wide=10.0, casts=2.0),
    "attention_scores": Launch(3.0, passes=2.0, wide=2.0),
    "softmax": Launch(1.0, passes=0.7, casts=1.0, cast_bytes=8.0),
    "attention_values": Launch(2.0, wide=2.0),
    "attention": Launch(2.0, wide=2.0),
    "gated_activation": Launch(2.0, passes=2.0),
    "composed_activation": Launch(8.0, passes=16.0),
    "embedding": Launch(2.0, passes=1.0),
    "router": Launch(8.0, passes=4.0),
    "lm_head": Launch(1.0, casts=1.0, cast_bytes=6.0),
    "loss": Launch(1.0, passes=0.5),
    "optimizer": Launch(9.0),
    "rms_norm.backward": Launch(15.0, passes=3.0, wide=15.0, casts=2.0, cast_bytes=12.0),
    "layer_norm.backward": Launch(2.0, passes=2.0),
    "plain_norm.backward": Launch(3.0, passes=2.0),
    "rope.backward": Launch(20.0, passes=-2.0, wide=15.0),
    "attention_scores.backward": Launch(2.0, passes=1.0),
    "softmax.backward": Launch(1.0, casts=1.0, cast_bytes=10.0),
    "attention_values.backward": Launch(2.0, passes=1.0),
    "attention.backward": Launch(5.0, wide=2.0),
    "gated_activation.backward": Launch(3.0, passes=2.0),
    "composed_activation.backward": Launch(12.0, passes=27.0),
    "embedding.backward": Launch(3.0),
    "loss.backward": Launch(3.0, passes=8.0),
}
"""Eager PyTorch, from the sequences that Hugging Face models run; (r) is one read of the tensor, (w) one write.

- rms_norm: cast to fp32 (r, w); pow (r, w); mean (r); add eps; rsqrt; mul (r, w); cast back (r, w); mul by weights (r, w).
  In fp32 there are no casts. Counted by the op already: the first read and the last write. Backward: of the product with
  weights two products and a sum over tokens (6 passes); a cast; of the product with rsqrt two products and a sum (6); of pow
  pow, two products (6); the sum of both gradients (3); a cast.
- layer_norm: one kernel that reads its input twice, for the statistics and for the result. plain_norm: mul, add.
- rope, for queries and for keys, which are strided views: mul cos (r, w); neg of a half (r/2, w/2); cat (r, w); mul sin
  (r, w); add (2 r, w). Beside them, small: cos and sin taken at the positions and cast. Backward: two products (4), neg
  of a half (1), both halves padded with zeros (4), sums of the gradients (6).
- attention_scores: product; scaling (r, w); mask added, which is broadcast (r, w). softmax: one kernel in fp32 that reads its
  input twice (in part from the cache); cast back. attention_values: product; output transposed to contiguous (r, w).
  attention (fused): the kernel; the same transpose. Operands are copied: `_copies`.
- gated_activation: activation (r, w); mul (2 r, w). Without a gate, one kernel. Backward: two products, the activation's own.
  composed_activation, GELU of tanh written out: pow, scaling (r, w); add (2 r, w); scaling, tanh, add 1, half (r, w); mul
  (2 r, w). Backward: two products (6); scaling (2); tanh (3); scaling (2); scaling (2); pow (2), its scaling (2), product (3);
  sums of three gradients (6); scaling (2).
- embedding: gather; positions added. router: product, softmax, top-k, sums and scatters over few columns.
- lm_head: product; logits cast to fp32. loss: log-softmax, which reads fp32. dequantize: weights
  widened (w), which the product reads (r): two FLOPs a weight tell how many. optimizer: AdamW without `fused` (`_work`).
"""

LAUNCHES: dict[str, dict[str, Launch]] = {
    "eager": _EAGER,
    "graph": _EAGER,
    "compiled": {"residual_add": _NONE, "router": Launch(3.0)},
    "engine": {
        "attention": Launch(3.0),
        "residual_add": _NONE,
        "k_proj": _NONE,
        "v_proj": _NONE,
        "gate_proj": _NONE,
        "router": Launch(3.0),
    },
}
"""Kernels by profile and kind of op; a kind that is not listed is one kernel without further passes.

Compiled and engine: every chain of element-wise steps is one kernel, the residual sum is part of the next norm. In `engine`
q, k, v are one product, and so are gate and up; attention is three kernels: keys and values to the cache, attention over
parts of the cache, parts put together.
"""

READ = ("norm", "rope")
"""Kinds whose tensor is what they read: what they write may go to the cache in part."""

HOST_EFFICIENCY = 0.8
"""Assumed share of the host link that large pinned copies reach; no public table of ours says."""

UNFUSED_ADAM = 23.0
"""Reads and writes of an array as large as the weights in AdamW without `fused`: decay (2), first moment (2, 3), second moment
(2, 4), root (2), correction (2), epsilon (2), update (4)."""


def op_seconds(op: Op, group: Group, execution: str, constants: Constants) -> tuple[Value, Value]:
    """Estimated device seconds of one execution of an op, and the kernels it launches under an execution profile.

    Raises ValueError for an unknown profile.
    """
    if _is_any(op.sent) or _is_any(op.over_host):
        return _transfer_seconds(op, group, constants)
    kernels, moved = _work(op, group, execution)
    if op.seconds is not None and not _is_any(op.flops) and not _is_any(moved):  # the host's work, or waiting for it
        return op.seconds / constants.matrix_efficiency, 0.0
    compute = op.flops / (group.peak(op) * _efficiency(op, constants))
    memory = moved / (group.bandwidth * constants.bandwidth_efficiency)
    seconds = np.sqrt(compute * compute + memory * memory) + kernels * constants.kernel_s
    return seconds, kernels


def hide(ops: Sequence[Op], seconds: Sequence[Value], execution: str) -> list[Value]:
    """Estimated seconds of ops less what runs beside them: of widened weights where kernels are fused, of streamed ones."""
    left = list(seconds)
    for index, op in enumerate(ops):
        if not op.beside or (op.kind == "dequantize" and execution in _UNFUSED):
            continue
        busy = sum(left[other] * ops[other].count for other in op.beside) / np.maximum(op.count, 1.0)
        left[index] = np.maximum(left[index] - busy, 0.0)
    return left


def run_seconds(device_s: Value, kernels: Value, constants: Constants, passes: Value = 1.0) -> tuple[Value, Value]:
    """Estimate of one execution of a phase from the sums over its ops, and the host's part of it: kernels to issue and
    what surrounds each of its passes. The slower of device and host decides."""
    issuing, waiting = kernels * constants.dispatch_s, passes * constants.step_s
    return np.maximum(device_s, issuing) + waiting, issuing + waiting


_UNFUSED = ("eager", "graph")
"""Profiles in which nothing runs beside anything else but communication."""


def _transfer_seconds(op: Op, group: Group, constants: Constants) -> tuple[Value, Value]:
    """Over the links between devices and to the host, and whether anything goes there.

    Nothing where nothing is sent or no link is known. An all-reduce goes in a ring or in trees, whichever is faster at its size.
    Ops that hide it do so for as long as their bound only: what runs beside communication is slowed by it.
    """
    link = (group.far_link if op.is_far else group.link) * constants.link_efficiency
    host = np.nan_to_num(op.over_host / (group.host_link * HOST_EFFICIENCY)) if _is_any(op.over_host) else 0.0
    traffic = collectives.Traffic(op.resent * op.sent, op.hops)
    is_sent = np.asarray(np.nan_to_num(traffic.sent / link) + host > 0, np.float64)
    seconds: Value = _link_seconds(traffic, link, host, constants)
    if op.kind == "all_reduce":
        devices = np.maximum(op.hops / 2 + 1, 2.0)  # the ring's hops are 2 (N - 1)
        payload = traffic.sent * devices / (2 * (devices - 1))
        tree = collectives.tree_all_reduce(payload, devices)
        seconds = np.minimum(seconds, _link_seconds(tree, link, host, constants))
    seconds = np.where(is_sent > 0, seconds, 0.0)
    if _is_any(op.hidden) and not op.beside and not op.is_exposed:
        seconds = np.maximum(seconds - op.hidden, 0.0)
    return seconds, is_sent


def _link_seconds(traffic: collectives.Traffic, link: Value, host: Value, constants: Constants) -> Value:
    """Latency and stream, and the root of their product: messages between the short and the long ones fill no pipeline."""
    latency = constants.kernel_s + traffic.hops * constants.collective_s
    stream = np.nan_to_num(traffic.sent / link) + host
    return latency + stream + np.sqrt(latency * stream)


def _efficiency(op: Op, constants: Constants) -> Value:
    if op.kind == "attention":
        return constants.attention_efficiency
    return constants.matrix_efficiency if op.is_matrix else constants.vector_efficiency


def _launch(op: Op, execution: str) -> Launch:
    try:
        launches = LAUNCHES[execution]
    except KeyError:
        raise ValueError(_unknown(execution)) from None
    variant = _variant(op)
    if op.phase == "backward" and not op.path.endswith(".recompute"):
        return launches.get(f"{variant}.backward", launches.get(variant, _ONE))
    return launches.get(variant, _ONE)


def _unknown(execution: str) -> str:
    known = ", ".join(LAUNCHES)
    return f"'{execution}' is not an execution profile. Known: {known}. Add it in models/analytical/estimate.py."


def _variant(op: Op) -> str:
    """Key of `LAUNCHES`: the kind, after its style."""
    return f"{_STYLES.get(op.style, op.style)}_{op.kind}" if op.style else op.kind


_STYLES = {"none": "plain"}


def _is_any(value: Value) -> bool:
    """Whether any is not 0; a plain number without numpy's detour."""
    return bool(value.any()) if isinstance(value, np.ndarray) else value != 0.0


def _work(op: Op, group: Group, execution: str) -> tuple[Value, Value]:
    """Kernels, and bytes with the profile's further passes."""
    launch = _launch(op, execution)
    kernels: Value = launch.kernels
    moved = op.bytes_moved
    tensor = op.read if op.kind in READ else op.written
    if launch.passes:
        moved = moved + launch.passes * tensor
    if launch.wide or launch.casts:
        is_narrow = np.asarray(group.activation_bytes < 4, np.float64)
        moved = moved + (launch.wide * 4 + launch.cast_bytes * is_narrow) / group.activation_bytes * tensor
        kernels = kernels + launch.casts * is_narrow
    if execution not in _UNFUSED:
        return kernels, moved
    if op.kind == "optimizer":
        return kernels, UNFUSED_ADAM * op.weights
    if op.kind == "experts" and op.gemm is not None:  # one expert after the other
        matrices = np.maximum(op.gemm[1] * op.gemm[2], 1.0)
        return _EXPERT * op.weights / (matrices * group.weight_bytes), moved
    if op.kind == "dequantize" and not _is_any(op.written):  # 16-bit weights, written and read again by the product
        return kernels, moved + op.flops * group.activation_bytes
    if op.kind in ATTENTION_KINDS and op.phase != "backward":
        copies, copied = _copies(op)
        return kernels + copies, moved + copied
    return kernels, moved


_EXPERT = 6.0
"""Kernels of one expert in either half of its MLP: up, its tokens found and gathered, two products, gate; down, one product,
scaling, cast, sum into the tokens."""


def _copies(op: Op) -> tuple[float, Value]:
    """Kernels and bytes that eager attention moves beside its products.

    Without a cache, operands that are strided views are copied (r, w, at twice their bytes: strided). With a cache, old and
    new keys and values are concatenated (r, w), and products of one query with all keys, or of all scores with the values,
    move them at a fifth of what streams reach: as if read five times.
    """
    if _is_any(op.kv_read):
        return (2.0, 2 * op.kv_read) if op.kind == "attention" else (1.0, 6 * op.kv_read)
    if op.kind == "attention_scores":
        return 2.0, 4 * op.read
    if op.kind == "attention_values":
        return 1.0, 4 * op.written
    return 0.0, 0.0


# Constants


def constants(
    device: Device, execution: str, calibrations: Iterable[Mapping[str, Any]] | None = None
) -> tuple[str, Constants]:
    """calibration_id and constants of a device under an execution profile, from rows of table `calibrations`.

    Rows brought along come before the shipped ones; among either, the most specific wins: hardware_id, then
    architecture, then kind, then `any`. A constant that a row leaves out is taken from the next one.
    Raises ValueError for an unknown execution profile.
    """
    if execution not in LAUNCHES:
        raise ValueError(_unknown(execution))
    classes = (device.hardware_id, device.architecture, device.kind, "any")
    found = [
        row
        for rows in (list(calibrations or ()), shipped())
        for name in classes
        for row in rows
        if row["device_class"] == name and row["execution"] == execution
    ]
    values = {name: next(row[name] for row in found if row.get(name) is not None) for name in NAMES}
    return str(found[0]["calibration_id"]), Constants(**values)


@cache
def shipped() -> tuple[dict[str, Any], ...]:
    """Rows of calibrations.toml as rows of table `calibrations`."""
    with FILE.open("rb") as file:
        entries = tomllib.load(file)["calibrations"]
    return tuple({**entry, "calibration_id": schema.digest("calibration", entry)} for entry in entries)
