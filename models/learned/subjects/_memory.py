"""Time to move bytes: from memory, or from the cache where a timing loop finds them there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.learned.inputs import Array
from models.learned.subjects import devices

L2_BYTES_PER_CLOCK = 16.0
"""Bytes that one core reads from the L2 cache in a clock, at least."""
USUAL_CLOCK_HZ = 1.8e9
"""For a device whose clock the catalogue does not know."""


def seconds(rows: pa.Table, moved: Array, touched: Array) -> Array:
    """Seconds to move `moved` bytes of which `touched` are different ones, shape (n,) each.

    Tables time the same call again and again: what fits into the L2 cache is read from there, which on devices with a large cache and
    slow memory is several times faster.
    """
    clock = np.nan_to_num(devices.device(rows, "clock_hz"), nan=USUAL_CLOCK_HZ)
    cached = devices.device(rows, "num_cores") * clock * L2_BYTES_PER_CLOCK
    bandwidth = devices.device(rows, "memory_bandwidth_bytes_per_s")
    found: Array = moved / np.where(touched <= devices.device(rows, "l2_bytes"), np.fmax(cached, bandwidth), bandwidth)
    return found
