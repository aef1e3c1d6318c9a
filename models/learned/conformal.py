"""Conformal intervals in log space: one for rows like those seen, one for every kind of group never seen.

`random`: errors of refitted models on left-out contents, divided by how hard a row looks (learnt on half of them, the quantile is that of
the other half), so that the half-width follows the row. Any other dimension: errors on whole left-out groups, each group with the same say, for rows of one group are wrong together.
With K groups the promise is only as good as K: no method guarantees 90 % from fewer than nine. The coverage is therefore
measured on further left-out groups and stored as it is (`evaluate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.learned import model, residuals, splits
from models.learned.inputs import Array, Index, Inputs, Labels, Mask

NOMINAL = 0.9
"""Share of values an interval is meant to hold."""
MAX_GROUPS = 8
"""Most refits behind one dimension of an interval; beyond it groups are left out several at a time."""
MAX_ROWS = 10_000
"""Rows that the refits without a group are fitted on: an error on unseen groups needs no more rows than tell it. Beyond it the
errors of `random` are those of one held-out part, by a model of all other rows: they fall with every row."""
HARDNESS_ROWS = 500
"""From this many rows the half-width of `random` follows the row."""


@dataclass(frozen=True)
class Intervals:
    """Half-widths in log space: a value v has the interval [v / exp(w), v exp(w)].

    widths: of every dimension (`random` for rows like those seen) the conformal quantile; infinite where nothing is known.
    hardness: what the width of `random` is multiplied with, as its logarithm; None for one width for all.
    """

    widths: Mapping[str, float]
    hardness: residuals.Residual | None

    def half_widths(self, inputs: Inputs, unseen: Mapping[str, Mask], few: Mapping[str, Mask]) -> Array:
        """Half-width of every row, shape (n,): of `random` where every group was seen, else the widest of the calibrated dimensions
        in which it is `unseen` (masks by dimension); no narrower than those of its groups with `few` rows. NaN where nothing was ever
        measured about such rows."""
        width = np.full(len(inputs), self.widths.get(splits.RANDOM, np.nan))
        if self.hardness is not None:
            width = width * np.exp(self.hardness.values(inputs))
        is_new = np.any([*unseen.values(), np.zeros(len(inputs), np.bool_)], axis=0)
        width[is_new] = np.nan
        for dimension, mask in unseen.items():
            if dimension in self.widths:
                width[mask] = np.fmax(width[mask], self.widths[dimension])
        for dimension, mask in few.items():
            if math.isfinite(self.widths.get(dimension, math.inf)):
                width[mask] = np.maximum(width[mask], self.widths[dimension])  # NaN stays
        width[~np.isfinite(width)] = np.nan
        return width

    def to_dict(self) -> dict[str, Any]:
        widths = {name: value if math.isfinite(value) else None for name, value in self.widths.items()}
        return {"widths": widths, "hardness": None if self.hardness is None else self.hardness.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Intervals:
        """Intervals from what `to_dict` gave."""
        widths = {name: math.inf if value is None else value for name, value in data["widths"].items()}
        return cls(widths, None if data["hardness"] is None else residuals.from_dict(data["hardness"]))


def fit(
    recipe: model.Recipe,
    inputs: Inputs,
    log_target: Array,
    dimensions: Sequence[str],
    weights: Array | None = None,
) -> Intervals:
    """Refit the recipe without each held-out part of each dimension, and take the quantile of what it got wrong there."""
    few = thinned(inputs, MAX_ROWS)
    widths: dict[str, float] = {}
    hardness = None
    for dimension in dimensions:
        chosen = np.arange(len(inputs)) if dimension == splits.RANDOM else few
        part, share = inputs.take(chosen), None if weights is None else weights[chosen]
        errors, held = left_out_errors(recipe, part, log_target[chosen], dimension, share)
        known = np.flatnonzero(np.isfinite(errors))
        if len(known) == 0:
            widths[dimension] = math.inf
            continue
        rows, size, groups = part.take(known), np.abs(errors[known]), held.take(known)
        if dimension == splits.RANDOM and len(known) >= HARDNESS_ROWS:
            half = np.asarray(rows.content // np.uint64(splits.NUM_RANDOM_FOLDS**2) % np.uint64(2) == 0, np.bool_)
            hardness = _hardness(rows.take(half), size[half])
            rows, size, groups = rows.take(~half), size[~half], groups.take(np.flatnonzero(~half))
            size = size / np.exp(hardness.values(rows))
        by_row = dimension in (splits.RANDOM, splits.BEYOND)
        widths[dimension] = quantile(size, np.zeros(len(size), np.int64) if by_row else groups.codes)
    return Intervals(widths, hardness)


def quantile(errors: Array, groups: Any, level: float = NOMINAL) -> float:
    """Conformal quantile of absolute errors with equal weight to every group.

    The smallest error e with (weight of errors <= e) >= level * (n + 1) / n, where a row of a group of m rows among K groups
    weighs 1 / (K m); the largest error where there is none. With one group it is the ceil(level * (n + 1))-th smallest.

    >>> quantile(np.arange(1.0, 20.0), np.array([0] * 19))
    18.0
    """
    names, membership, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1.0 / (len(names) * sizes[membership])
    order = np.argsort(errors, kind="stable")
    reached = np.cumsum(weights[order]) >= level * (len(errors) + 1) / len(errors) - 1e-12
    return float(errors[order][int(np.argmax(reached)) if reached.any() else len(errors) - 1])


def thinned(inputs: Inputs, limit: int) -> Index:
    """At most `limit` rows, drawn by their content and not by their order: as rows are added most of those drawn stay."""
    if len(inputs) <= limit:
        return np.arange(len(inputs))
    return np.sort(np.argsort(inputs.content, kind="stable")[:limit])


def left_out_errors(
    recipe: model.Recipe, inputs: Inputs, log_target: Array, dimension: str, weights: Array | None
) -> tuple[Array, Labels]:
    """log(actual / predicted) of every row by a model that has not seen its group, NaN where none could be fitted."""
    errors = np.full(len(inputs), np.nan)
    labels = inputs.groups.get(dimension, Labels(np.zeros(len(inputs), np.int64), ("all",)))
    for held_out in _blocks(inputs, dimension, labels):
        inside = np.flatnonzero(~held_out & ~np.isin(inputs.content, inputs.content[held_out]))
        if len(inside) < 2 or not held_out.any():
            continue
        share = None if weights is None else weights[inside]
        fitted = model.fit(recipe, inputs.take(inside), log_target[inside], _inner(inputs, dimension), share)
        errors[held_out] = log_target[held_out] - fitted.log_values(inputs.take(held_out))
    return errors, labels


def _blocks(inputs: Inputs, dimension: str, labels: Labels) -> list[Any]:
    if dimension == splits.RANDOM:
        number = inputs.content // np.uint64(splits.NUM_RANDOM_FOLDS) % np.uint64(splits.NUM_RANDOM_FOLDS)
        return [number == one for one in range(1 if len(inputs) > MAX_ROWS else splits.NUM_RANDOM_FOLDS)]
    if dimension == splits.BEYOND:
        size = inputs.ranges[:, 0]
        return [size > np.nanquantile(size, splits.BEYOND_QUANTILE)]
    number_of = min(len(labels.stated), MAX_GROUPS)
    return [labels.among(labels.stated[start::number_of]) for start in range(number_of)] if number_of > 1 else []


def _inner(inputs: Inputs, dimension: str) -> str:
    """The groups that a correction is chosen on: those held out, or any there are."""
    return dimension if dimension in inputs.groups else next(iter(inputs.groups))


def _hardness(inputs: Inputs, errors: Array) -> residuals.Residual:
    """Log of the absolute error that a row is expected to have, by shallow trees; floored, so that no row looks certain."""
    import lightgbm

    floor = max(float(np.median(errors)) * 0.3, 1e-6)
    parameters = residuals.TREES | {"num_leaves": 15, "max_bin": 31, "min_data_in_leaf": max(20, len(errors) // 100)}
    rows = lightgbm.Dataset(inputs.features, np.log(errors + floor), feature_name=list(inputs.feature_names))
    booster = lightgbm.train(parameters, rows, num_boost_round=30)
    return residuals.Trees(inputs.feature_names, booster.model_to_string(num_iteration=-1))
