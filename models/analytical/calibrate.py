"""Constants of the estimate from measured times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.analytical.estimate import Constants, op_seconds
from models.analytical.inventory import Array, Group, Op

BOUNDS: Mapping[str, tuple[float, float]] = {
    "matrix_efficiency": (0.02, 1.0),
    "attention_efficiency": (0.02, 1.0),
    "vector_efficiency": (0.005, 1.0),
    "bandwidth_efficiency": (0.02, 1.0),
    "kernel_s": (1e-8, 1e-3),
    "dispatch_s": (1e-9, 1e-3),
    "step_s": (1e-9, 1.0),
    "collective_s": (1e-8, 1e-3),
    "link_efficiency": (0.02, 1.0),
}
"""What a constant may be: efficiencies never above 1, so that an estimate is never below the bound."""

STEPS = (1.5, 1.15, 1.04, 1.01)
"""Factors by which a constant is tried smaller and larger, coarse to fine."""


@dataclass(frozen=True)
class Part:
    """Measured seconds of ops of one kind under one execution profile, shape (rows,)."""

    op: Op
    group: Group
    execution: str
    seconds: Array
    weight: float = 1.0


def ratios(part: Part, constants: Constants) -> Array:
    """Measured over estimated seconds of every row."""
    estimate, _ = op_seconds(part.op, part.group, part.execution, constants)
    return np.asarray(part.seconds / estimate)


def fit_parts(parts: Sequence[Part], start: Constants, names: Sequence[str]) -> Constants:
    """The constants `names` that make the mean |log(measured / estimate)| over the parts smallest; others as in `start`."""

    def loss(constants: Constants) -> float:
        errors = [part.weight * float(np.mean(np.abs(np.log(ratios(part, constants))))) for part in parts]
        return sum(errors) / sum(part.weight for part in parts)

    return descend(loss, start, names)


def descend(loss: Callable[[Constants], float], start: Constants, names: Sequence[str]) -> Constants:
    """Coordinate descent in log space: absolute errors need no derivative and do not follow outliers."""
    best, least = start, loss(start)
    for factor in STEPS:
        for _ in range(60):
            before = least
            for name in names:
                for change in (factor, 1 / factor):
                    value = float(np.clip(getattr(best, name) * change, *BOUNDS[name]))
                    tried = replace(best, **{name: value})
                    error = loss(tried)
                    if error < least:
                        best, least = tried, error
            if before - least < 1e-6:
                break
    return best
