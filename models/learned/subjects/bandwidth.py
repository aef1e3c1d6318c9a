"""Achieved memory bandwidth of a run: bytes that its ops move (analytical) over the time that was measured.

It is the prediction of latency in other words, for the bytes are arithmetic: predicted directly all the same, so that it has an
interval of its own. Where neither the work nor the time differs it is a constant, and refused (`evaluate.check`): a perfect score on
a constant, such as that of `bhavana-iitbbs`, says nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from models.learned.inputs import Inputs, Mask, number, optional
from models.learned.model import Variant
from models.learned.subjects import runs
from models.learned.targets import Target
from models.learned.tidy import FASTER


def achieved(rows: pa.Table) -> Inputs:
    """Inputs of `runs.latency` as rates: terms in seconds a byte; bound and estimate in bytes a second of all devices together."""
    times, moved = runs.latency(rows), number(rows, "bytes_moved")
    with np.errstate(divide="ignore", invalid="ignore"):
        return replace(
            times, terms=times.terms / moved[:, None], bound=moved / times.bound, estimate=moved / times.estimate
        )


def doubts(rows: pa.Table) -> dict[str, Mask]:
    """Rows in doubt as a run, and those that move more bytes than the device can: their time is a fault."""
    inputs, rate = achieved(rows), optional(rows, "measured_achieved_bytes_per_s")
    return runs.doubts(rows) | {
        f"move more than {FASTER:g} times what their bound can": rate > FASTER * inputs.bound,
    }


TARGETS = (
    Target(
        key="bandwidth",
        what="bytes moved a second, over a whole run on all its devices",
        metric="achieved_bytes_per_s",
        unit="B/s",
        query="training_runs",
        inputs=achieved,
        recipes={0: (Variant("inverse", "gaussian", "work"),), 400: (Variant("inverse", "trees"),)},
        dimensions=("random", "llm", "device", "backend"),
        splits=("leave_model_out", "leave_device_out", "leave_stack_out", "random"),
        parameters={"phases": list(runs.PHASES)},
        min_groups=3,
        doubts=doubts,
    ),
)
