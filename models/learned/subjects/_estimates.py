"""The analytical estimate of one kernel beside its bound, for whole columns of rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
import pyarrow as pa

from models.analytical import estimate
from models.analytical.devices import Device
from models.learned.inputs import Array, Labels, joined, labels
from models.learned.subjects.devices import PREFIX

Efficiency = Literal["matrix_efficiency", "attention_efficiency", "vector_efficiency"]
ASSUMED_EXECUTION = "eager"
"""Profile of kernels whose source states none: kernel tables time one kernel after the other."""


def seconds(
    rows: pa.Table,
    compute_s: Array,
    memory_s: Array,
    efficiency: Efficiency = "matrix_efficiency",
    kernels: float = 1.0,
) -> Array:
    """sqrt((compute / e)^2 + (memory / e_memory)^2) + kernels x kernel_s with the constants of each row's device; shape (n,).

    `compute_s`, `memory_s` (n,): FLOPs over the peak and bytes over the bandwidth, as in the bound. Formula and constants:
    models/analytical/estimate.py. An unknown device has the constants of any.
    """
    found = constants(rows, (efficiency, "bandwidth_efficiency", "kernel_s"))
    compute, memory = compute_s / found[efficiency], memory_s / found["bandwidth_efficiency"]
    values: Array = np.sqrt(compute * compute + memory * memory) + kernels * found["kernel_s"]
    return values


def constants(rows: pa.Table, names: tuple[str, ...]) -> Mapping[str, Array]:
    """Constants of the analytical estimate (`estimate.NAMES`) of every row's device under its execution profile; shape (n,) each."""
    parts = [labels(rows, name) for name in ("hardware_id", f"{PREFIX}architecture", f"{PREFIX}kind", "execution")]
    key = joined(*parts)
    each = [_of(part, key) for part in parts]
    found = [_constants(*device) for device in zip(*each, strict=True)]
    return {name: np.array([getattr(one, name) for one in found] + [np.nan], np.float64)[key.codes] for name in names}


def _of(part: Labels, key: Labels) -> list[str]:
    """What a part of a joined key says for each of its names."""
    found = np.zeros(len(key.names), np.int64)
    found[key.codes] = part.codes
    return [part.names[code] for code in found]


def _constants(hardware_id: str, architecture: str, kind: str, execution: str) -> estimate.Constants:
    profile = execution if execution in estimate.LAUNCHES else ASSUMED_EXECUTION
    device = SimpleNamespace(hardware_id=hardware_id, architecture=architecture, kind=kind)
    return estimate.constants(cast(Device, device), profile)[1]
