"""Group-conformal intervals in log space: how wrong the method was about LLMs it had not seen, inside the training rows.

Rows of one LLM are wrong together, so errors come from leaving whole LLMs out, and each LLM has the same say. With K LLMs
the promise is only as good as K: no method guarantees 90 % from fewer than nine. The coverage is therefore measured on
further left-out LLMs and stored as it is.
"""

from __future__ import annotations

import math

import numpy as np

from models.learned import fitting
from models.learned.features import Array, Inputs, Texts

NOMINAL = 0.9
"""Share of values an interval is meant to hold."""
MAX_GROUPS = 8
"""Most refits behind an interval; beyond it LLMs are left out several at a time."""


def half_width(inputs: Inputs, log_target: Array) -> float:
    """Half-width of the interval in log space: a value v has the interval [v / exp(w), v * exp(w)].

    Infinite where all rows are of one LLM: nothing is then known about another.
    """
    llms = inputs.texts["llm_id"]
    if len(np.unique(llms)) < 2:
        return math.inf
    errors = np.empty(len(inputs))
    for held_out in blocks(llms):
        inside, outside = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        model = fitting.fit(inputs.take(inside), log_target[inside])
        errors[outside] = log_target[outside] - model.log_values(inputs.take(outside))
    return quantile(np.abs(errors), llms)


def blocks(llms: Texts) -> list[np.ndarray]:
    """Masks of the LLMs left out together, one LLM each up to MAX_GROUPS; shape (n,) each."""
    names = np.unique(llms)
    number = min(len(names), MAX_GROUPS)
    return [np.isin(llms, names[start::number]) for start in range(number)]


def quantile(errors: Array, groups: Texts, level: float = NOMINAL) -> float:
    """Conformal quantile of absolute errors with equal weight to every group.

    The smallest error e with (weight of errors <= e) >= level * (n + 1) / n, where a row of a group of m rows among K groups
    weighs 1 / (K m); the largest error where there is none. With one group it is the ceil(level * (n + 1))-th smallest.

    >>> quantile(np.arange(1.0, 20.0), np.array(["a"] * 19))
    18.0
    """
    names, membership, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1.0 / (len(names) * sizes[membership])
    order = np.argsort(errors, kind="stable")
    reached = np.cumsum(weights[order]) >= level * (len(errors) + 1) / len(errors) - 1e-12
    return float(errors[order][int(np.argmax(reached)) if reached.any() else len(errors) - 1])


def coverage(actual: Array, lower: Array, upper: Array) -> float | None:
    """Share of rows whose value lies in its interval, among rows with one; None where no row has one."""
    has_interval = np.isfinite(lower) & np.isfinite(upper)
    if not has_interval.any():
        return None
    inside = (actual >= lower) & (actual <= upper)
    return float(inside[has_interval].mean())


def median_ratio(lower: Array, upper: Array) -> float | None:
    """Median of upper / lower among rows with an interval; None where no row has one."""
    ratios = (upper / lower)[np.isfinite(lower) & np.isfinite(upper)]
    return float(np.median(ratios)) if len(ratios) else None
