"""What a base leaves: a correction of its logarithm, by boosted trees where rows are many, by a Gaussian process where few.

Both return to the mean correction far from their rows, so that the base extrapolates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from models.learned import leaves
from models.learned.inputs import Array, Index, Inputs, Labels

Kind = Literal["none", "trees", "gaussian"]
Features = Literal["all", "work"]
"""Which features a correction sees: all, or those of the work alone and nothing about the device."""


class Residual(Protocol):
    """A fitted correction."""

    def values(self, inputs: Inputs) -> Array:
        """Correction to the log of the base; shape (n,)."""

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes it of again."""


@dataclass(frozen=True)
class Nothing:
    """No correction."""

    def values(self, inputs: Inputs) -> Array:
        return np.zeros(len(inputs))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "none"}


# ---- boosted trees

TREES: dict[str, Any] = {
    "objective": "huber",
    "num_leaves": 63,
    "learning_rate": 0.15,
    "min_data_in_leaf": 20,
    "lambda_l2": 1.0,
    "feature_fraction": 0.5,
    "max_bin": 63,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "seed": 2026,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""LightGBM's parameters. One thread: two on two busy cores were thirty times slower."""
NUM_TREES = 140
"""On LLMs never seen (Vidur, 60 k rows) 100 trees are wrong by 4.9 %, these by 4.8, 200 that learn slower too; on shapes never seen
(aiconfigurator) 100 by 6.4, these by 5.9. Each costs as much again to predict with."""
LEAST_ALPHA = 0.03
"""Errors up to `alpha` count squared, larger ones linearly: libraries choose among kernels, and a wrong guess about one should not
bend the others. It is the median error of the base, and at least this, in log space."""


@dataclass(frozen=True)
class Trees:
    """LightGBM in its own text format, over the features of `names`."""

    names: tuple[str, ...]
    text: str

    @cached_property
    def booster(self) -> Any:
        import lightgbm

        return lightgbm.Booster(model_str=self.text)

    @cached_property
    def leaves(self) -> leaves.Leaves:
        return leaves.of(self.booster)

    def values(self, inputs: Inputs) -> Array:
        features = inputs.features
        if self.names != inputs.feature_names:
            features = features[:, [inputs.feature_names.index(name) for name in self.names]]
        if len(features) <= leaves.CHUNK:  # the tables take longer to make than LightGBM takes for so few rows
            found: Array = self.booster.predict(features, num_threads=1)
            return found
        return self.leaves.values(features)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "trees", "names": list(self.names), "text": self.text}


def fit_trees(
    inputs: Inputs, left: Array, features: Features, weights: Array | None = None, num_trees: int | None = None
) -> Trees:
    """Boosted trees on what a base left, `left` (n,) in log space; NUM_TREES of them unless said."""
    import lightgbm

    names = [name for name in inputs.feature_names if features == "all" or name not in inputs.device_features]
    columns = [inputs.feature_names.index(name) for name in names]
    rows = lightgbm.Dataset(inputs.features[:, columns], left, weight=weights, feature_name=names)
    parameters = TREES | {
        "min_data_in_leaf": min(TREES["min_data_in_leaf"], max(2, len(left) // 20)),
        "alpha": max(float(np.median(np.abs(left))), LEAST_ALPHA),
    }
    booster = lightgbm.train(parameters, rows, num_boost_round=NUM_TREES if num_trees is None else num_trees)
    return Trees(tuple(names), booster.model_to_string(num_iteration=-1))


# ---- a Gaussian process

UNLIKE = 0.5
"""Correlation the correction keeps between two rows for each category in which they differ."""
MAX_POINTS = 600
"""Rows the correction is fitted on: its cost is cubic. Beyond it, evenly spaced ones in the order of their content."""
LENGTH_SCALES = (0.7, 1.5, 3.0, 6.0)
NOISE_RATIOS = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Gaussian:
    """Posterior mean of a Gaussian process: `mean + kernel(x, points) @ weights`.

    The kernel is exp(-|x - x'|^2 / (2 length_scale^2)) over standardised features, times UNLIKE for each category that differs.
    """

    names: tuple[str, ...]
    mean: float
    length_scale: float
    centre: Array
    scale: Array
    points: Array
    categories: Mapping[str, tuple[str, ...]]
    """Of every category the label of each point."""
    weights: Array

    def values(self, inputs: Inputs) -> Array:
        if len(self.weights) == 0:  # no length scale beat the mean residual
            return np.full(len(inputs), self.mean)
        points = (_features(inputs, self.names) - self.centre) / self.scale
        squared = ((points[:, None, :] - self.points[None, :, :]) ** 2).sum(axis=2)
        unlike = np.zeros(squared.shape)
        for name, ours in self.categories.items():
            unlike += _differ(inputs.categories[name], Labels.of(ours))
        found: Array = self.mean + _kernel(squared, unlike, self.length_scale) @ self.weights
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "gaussian",
            "names": list(self.names),
            "mean": self.mean,
            "length_scale": self.length_scale,
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
            "points": self.points.tolist(),
            "categories": {name: list(values) for name, values in self.categories.items()},
            "weights": self.weights.tolist(),
        }


def fit_gaussian(inputs: Inputs, left: Array, features: Features, dimension: str) -> Gaussian:
    """Length scale and noise with the least error on left-out groups of `dimension`; no points where none beats the mean.

    Leaving group G out of a Gaussian process needs no refit: its error is C[G, G]^-1 (C r)[G], C the inverse of the
    kernel matrix plus noise (Rasmussen and Williams 2006, section 5.4.2, for blocks). Features must be finite.
    """
    names = tuple(name for name in inputs.feature_names if features == "all" or name not in inputs.device_features)
    chosen = _thinned(inputs)
    part, left = inputs.take(chosen), left[chosen]
    values = _features(part, names)
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale < 1e-9] = 1.0
    points, mean = (values - centre) / scale, float(left.mean())
    left = left - mean
    held = part.groups[dimension]
    groups = [np.flatnonzero(held.codes == code) for code in range(len(held.names))]
    best, best_error = None, _group_error([left[group] for group in groups])
    squared = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    unlike = np.zeros(squared.shape)
    for one in part.categories.values():
        unlike += _differ(one, one)
    for length_scale in LENGTH_SCALES:
        kernel = _kernel(squared, unlike, length_scale)
        for noise in NOISE_RATIOS:
            inverse = np.linalg.inv(kernel + noise * np.eye(len(points)))
            weights = inverse @ left
            error = _group_error([np.linalg.solve(inverse[np.ix_(group, group)], weights[group]) for group in groups])
            if error < best_error:
                best, best_error = (length_scale, weights), error
    length_scale, weights = best or (1.0, left[:0])
    kept = slice(None) if best else slice(0)
    categories = {name: tuple(one.texts()[kept]) for name, one in part.categories.items()}
    return Gaussian(names, mean, length_scale, centre, scale, points[kept], categories, weights)


def _features(inputs: Inputs, names: tuple[str, ...]) -> Array:
    values: Array = inputs.features[:, [inputs.feature_names.index(name) for name in names]]
    return values


def _group_error(errors: list[Array]) -> float:
    """Mean over groups of the mean absolute log error: a group with many rows counts once."""
    return float(np.mean([np.abs(error).mean() for error in errors]))


def _differ(left: Labels, right: Labels) -> npt.NDArray[np.bool_]:
    """Whether the labels of every left and right row differ; shape (left, right)."""
    where = {name: code for code, name in enumerate(left.names)}
    codes = np.array([where.get(name, -1) for name in right.names] + [-1])[right.codes]
    return np.asarray(left.codes[:, None] != codes[None, :], np.bool_)


def _kernel(squared: Array, unlike: Array, length_scale: float) -> Array:
    covariance: Array = np.exp(-squared / (2 * length_scale**2)) * UNLIKE**unlike
    return covariance


def _thinned(inputs: Inputs) -> Index:
    if len(inputs) <= MAX_POINTS:
        return np.arange(len(inputs))
    order = np.argsort(inputs.content, kind="stable")
    return np.sort(order[np.linspace(0, len(order) - 1, MAX_POINTS).astype(np.intp)])


# ---- all of them


def fit(
    kind: Kind,
    inputs: Inputs,
    left: Array,
    features: Features,
    dimension: str,
    weights: Array | None = None,
    num_trees: int | None = None,
) -> Residual:
    """Fit a correction of a kind on what a base left, `left` (n,) in log space."""
    if kind == "trees":
        return fit_trees(inputs, left, features, weights, num_trees)
    if kind == "gaussian":
        return fit_gaussian(inputs, left, features, dimension)
    return Nothing()


def from_dict(data: Mapping[str, Any]) -> Residual:
    """A correction from what its `to_dict` gave."""
    if data["kind"] == "trees":
        return Trees(tuple(data["names"]), data["text"])
    if data["kind"] == "none":
        return Nothing()
    weights, centre = np.array(data["weights"], np.float64), np.array(data["centre"], np.float64)
    return Gaussian(
        tuple(data["names"]),
        data["mean"],
        data["length_scale"],
        centre,
        np.array(data["scale"], np.float64),
        np.array(data["points"], np.float64).reshape(len(weights), len(centre)),
        {name: tuple(values) for name, values in data["categories"].items()},
        weights,
    )
