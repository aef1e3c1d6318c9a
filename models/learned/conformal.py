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
SEEN_ROWS = 1000
"""A group of rows is scarce below this many, where it also has less than half of what the median group of its dimension has. With 10,
40 and 64 rows of a new stack or architecture the interval of all rows held 60, 76 and 77 % of what it should hold 90 of, with 256 it
held 76 of products and 55 of decode attention (boards bench-stack-10 and -40, tables-gemm-generation-64 and -256,
tables-decode-generation-256)."""
HARDNESS_ROWS = 500
"""From this many rows the half-width of `random` follows the row."""
STACK, OWN_ROWS = "stack", 20
"""The group that has a width of its own below HARDNESS_ROWS, and from how many rows of it: nine are the fewest that can tell 90 %."""


@dataclass(frozen=True)
class Intervals:
    """Half-widths in log space: a value v has the interval [v / exp(w), v exp(w)].

    widths: of every dimension (`random` for rows like those seen) the conformal quantile; infinite where nothing is known.
    hardness: what the width of `random` is multiplied with, as its logarithm; None for one width for all.
    scarce: by dimension and label, what stands in for the width of `random` in groups with few rows, where it is wider: the quantile
    of their own errors. Shapes, which all have few rows, are none.
    """

    widths: Mapping[str, float]
    hardness: residuals.Residual | None
    scarce: Mapping[str, Mapping[str, float]]
    own: Mapping[str, float]
    """By stack the width of `random` where one width is for all rows and the stack has OWN_ROWS: rows of another are wrong in other ways."""

    def half_widths(self, inputs: Inputs, unseen: Mapping[str, Mask]) -> Array:
        """Half-width of every row, shape (n,): of `random` where every group was seen, else the widest of the calibrated dimensions
        in which it is `unseen` (masks by dimension). NaN where nothing was ever measured about such rows."""
        width = np.full(len(inputs), self.widths.get(splits.RANDOM, np.nan))
        if self.own:
            of_stack = inputs.groups[STACK].lookup(self.own)
            width = np.where(np.isfinite(of_stack), of_stack, width)
        for dimension, own in self.scarce.items():
            width = np.maximum(width, inputs.groups[dimension].lookup(own, 0.0))
        if self.hardness is not None:
            width = width * np.exp(self.hardness.values(inputs))
        is_new = np.any([*unseen.values(), np.zeros(len(inputs), np.bool_)], axis=0)
        width[is_new] = np.nan
        for dimension, mask in unseen.items():
            if dimension in self.widths:
                width[mask] = np.fmax(width[mask], self.widths[dimension])
        width[~np.isfinite(width)] = np.nan
        return width

    def to_dict(self) -> dict[str, Any]:
        return {
            "widths": _finite(self.widths),
            "hardness": None if self.hardness is None else self.hardness.to_dict(),
            "scarce": {dimension: _finite(own) for dimension, own in self.scarce.items()},
            "own": dict(self.own),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Intervals:
        """Intervals from what `to_dict` gave."""
        return cls(
            _infinite(data["widths"]),
            None if data["hardness"] is None else residuals.from_dict(data["hardness"]),
            {dimension: _infinite(own) for dimension, own in data["scarce"].items()},
            data["own"],
        )


def _finite(widths: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in widths.items()}


def _infinite(widths: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.inf if value is None else value for name, value in widths.items()}


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
    scarce: dict[str, dict[str, float]] = {}
    own: dict[str, float] = {}
    for dimension in dimensions:
        chosen = np.arange(len(inputs)) if dimension == splits.RANDOM else few
        part, share = inputs.take(chosen), None if weights is None else weights[chosen]
        errors, held = left_out_errors(recipe, part, log_target[chosen], dimension, share)
        known = np.flatnonzero(np.isfinite(errors))
        if len(known) == 0:
            widths[dimension] = math.inf
            continue
        rows, size, groups = part.take(known), np.abs(errors[known]), held.take(known)
        whole, apart = rows, size
        if dimension == splits.RANDOM and len(known) >= HARDNESS_ROWS:
            half = np.asarray(rows.content // np.uint64(splits.NUM_RANDOM_FOLDS**2) % np.uint64(2) == 0, np.bool_)
            hardness = _hardness(rows.take(half), size[half])
            rows, size, groups = rows.take(~half), size[~half], groups.take(np.flatnonzero(~half))
            size, apart = size / np.exp(hardness.values(rows)), apart / np.exp(hardness.values(whole))
        if dimension == splits.RANDOM:
            scarce = {
                name: _own(inputs.groups[name], whole.groups[name], apart)
                for name in dimensions
                if name in inputs.groups and name != "shape"
            }
            if hardness is None and STACK in whole.groups:
                stacks = whole.groups[STACK]
                masks = {name: stacks.mask(name) for name in stacks.names}
                own = {
                    name: quantile(apart[mask], stacks.codes[mask])
                    for name, mask in masks.items()
                    if mask.sum() >= OWN_ROWS
                }
        by_row = dimension in (splits.RANDOM, splits.BEYOND)
        widths[dimension] = quantile(size, np.zeros(len(size), np.int64) if by_row else groups.codes)
    return Intervals(widths, hardness, scarce, own)


def _own(labels: Labels, held: Labels, errors: Array) -> dict[str, float]:
    """Of every scarce group the conformal quantile of its own `errors`, those of rows whose labels are `held`; infinite without any."""
    sizes = np.bincount(labels.codes, minlength=len(labels.names))
    least = min(float(np.median(sizes)) / 2, SEEN_ROWS)
    found = {}
    for name in (name for name, count in zip(labels.names, sizes, strict=True) if count < least):
        own = errors[held.mask(name)]
        found[name] = quantile(own, np.zeros(len(own), np.int64)) if len(own) else math.inf
    return found


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
