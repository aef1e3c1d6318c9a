"""Time of one collective operation between devices, by what a device sends, in how many steps, over which link.

Rows are those of table `kernels` beside their run (query `training_kernels`), passed through `devices.with_devices`: `size_bytes` of
each device (of a gather its part, of a send the message), `num_devices` that take part. `interconnect` is the link where it is known.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array, Inputs, Labels, digest, joined, labels, log, number
from models.learned.model import Recipe, Variant
from models.learned.subjects import devices
from models.learned.targets import Target

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
FOLDS = 3
"""Every third size, in half octaves, is held out together: what is left is an octave and a half apart."""
LATENCY_S = 1e-6
"""Unit of the time of a step: a message across a link and back takes one to a few of it."""


def inputs(rows: pa.Table) -> Inputs:
    """Inputs of collectives. Terms: steps of a ring, and the bytes that one device sends over its link."""
    kind, size, number_of = labels(rows, "op_kind"), number(rows, "size_bytes"), number(rows, "num_devices")
    link = devices.device(rows, "link_bandwidth_bytes_per_s")
    link = np.where(np.isnan(link), devices.device(rows, "host_link_bandwidth_bytes_per_s"), link)
    others = number_of - 1
    sent = _by_kind(
        kind, size * others / number_of, {"all_reduce": 2.0, "all_gather": number_of, "send_recv": number_of / others}
    )
    steps = _by_kind(kind, others, {"all_reduce": 2.0, "send_recv": 1 / others})
    least = np.where(kind.mask("all_reduce"), sent / 2, sent)  # a switch may add up on the way
    wire = sent / link
    device, backend, version = (labels(rows, name) for name in ("hardware_id", "framework", "framework_version"))
    way = joined(labels(rows, "execution"), labels(rows, "interconnect"))
    dtype = labels(rows, "activation_dtype")
    own = joined(device, backend, version, way, kind)
    features = {
        "log_wire": log(wire), "log_sent": log(sent), "log_size": log(size), "log_part": log(size / number_of), "steps": steps,
        "num_devices": number_of, "alignment": np.log2(_power_of_two(size)), "log_link": log(link),
        "is_linked": np.isfinite(devices.device(rows, "link_bandwidth_bytes_per_s")).astype(np.float64),
        **{f"is_{name}": kind.mask(name).astype(np.float64) for name in KINDS},
        "is_graph": labels(rows, "execution").mask("graph").astype(np.float64),
        "is_eager": labels(rows, "execution").mask("eager").astype(np.float64),
        "is_nccl": backend.mask("nccl").astype(np.float64),
    }  # fmt: skip
    return Inputs(
        terms=np.column_stack([steps * LATENCY_S, wire]),
        term_names=("steps_s", "wire_s"),
        priors=(1.0, 1.5),
        keys=(joined(own, _whole(number_of)), own, joined(backend, way, kind), kind),
        features=np.column_stack([*features.values(), devices.features(rows, dtype)]),
        feature_names=(*features, *devices.FEATURES),
        device_features=frozenset((*devices.FEATURES, "log_link")),
        ranges=np.column_stack([size, number_of]),
        range_names=("size_bytes", "num_devices"),
        categories={"kind": kind},
        groups={
            "device": device,
            "generation": devices.generation(rows),
            "backend": backend,
            "shape": _size_class(size),
        },
        content=digest(
            rows,
            (
                "hardware_id", "framework", "framework_version", "execution", "interconnect", "activation_dtype", "op_kind",
                "num_devices", "size_bytes",
            ),
        ),
        bound=least / link,
        estimate=steps * LATENCY_S + wire,
    )  # fmt: skip


def _by_kind(kind: Labels, values: Array, factors: dict[str, float | Array]) -> Array:
    """Values times the factor of each row's kind; shape (n,)."""
    found = values.copy()
    for name, factor in factors.items():
        found = np.where(kind.mask(name), values * factor, found)
    return found


def _power_of_two(size: Array) -> Array:
    """Largest power of two that divides a whole number of bytes."""
    whole = np.maximum(np.rint(np.nan_to_num(size, nan=1.0)), 1.0).astype(np.int64)
    return np.asarray(whole & -whole, np.float64)


def _size_class(size: Array) -> Labels:
    """Which of FOLDS a size is held out with: neighbouring half octaves go apart."""
    half_octaves = np.rint(2 * np.log2(np.maximum(np.nan_to_num(size, nan=1.0), 1.0)))
    names = tuple(f"sizes {place + 1} of {FOLDS}" for place in range(FOLDS))
    return Labels((half_octaves % FOLDS).astype(np.int64), names).take(np.arange(len(size)))


def _whole(values: Array) -> Labels:
    """Whole numbers as labels."""
    found, codes = np.unique(values, return_inverse=True)
    return Labels(codes.astype(np.int64), tuple(f"{one:.0f}" for one in found))


RECIPES: dict[int, Recipe] = {0: (Variant("power"),), 200: (Variant("power", "trees"),)}
TARGETS = (
    Target(
        key="collective_time",
        what="time of one collective operation between devices",
        metric="time_s",
        unit="s",
        query="training_kernels",
        inputs=inputs,
        recipes=RECIPES,
        dimensions=("random", "shape", "device", "generation"),
        splits=("leave_shape_out", "leave_device_out", "leave_generation_out", "beyond_size", "random"),
        parameters={"op_kinds": list(KINDS)},
        balance="device",
    ),
)
