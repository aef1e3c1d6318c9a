"""The two layers of a predictor: non-negative physical terms, and a Gaussian process on what they leave.

`log value = log(terms @ coefficients) + correction(features)`. Far from the training rows the correction returns to its
mean, so that the physics extrapolates. Prediction needs numpy alone; fitting needs scikit-learn's non-negative solver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.learned.features import Array, Inputs, Texts

POOLED = "*"
"""Key of the coefficients used for a device without its own."""
ROWS_PER_TERM = 3
"""A device, and a dtype on it, has its own coefficients from this many rows a term."""
PRIOR = {
    "layers": 0.0, "compute_s": 1.5, "memory_s": 1.5, "activation_s": 0.0,
    "weights_bytes": 1.0, "kv_cache_bytes": 1.0, "activation_peak_bytes": 1.0, "logits_bytes": 0.0, "constant": 0.0,
}  # fmt: skip
"""Coefficients where the rows cannot tell: two thirds of both datasheet peaks; memory as the analytical model counts it."""
PRIOR_STRENGTH = 0.01
"""Weight of the prior, of one row of error for every hundred rows."""
UNLIKE = 0.5
"""Correlation the correction keeps between two rows for each category in which they differ."""
MAX_POINTS = 600
"""Rows the correction is fitted on: its cost is cubic. Beyond it, evenly spaced ones in the order of their content."""
LENGTH_SCALES = (0.7, 1.5, 3.0, 6.0)
NOISE_RATIOS = (0.03, 0.1, 0.3, 1.0, 3.0)

Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Terms:
    """Coefficients of the physical terms by key: `<hardware_id>/<weight_dtype>` where there are rows enough, else
    `<hardware_id>`, else POOLED."""

    coefficients: Mapping[str, tuple[float, ...]]

    def log_values(self, inputs: Inputs) -> Array:
        """Log of terms @ coefficients; shape (n,)."""
        chosen = [next(self.coefficients[key] for key in keys if key in self.coefficients) for keys in _keys(inputs)]
        values = (inputs.terms * np.array(chosen).reshape(inputs.terms.shape)).sum(axis=1)
        logs: Array = np.log(np.maximum(values, np.finfo(np.float64).tiny))
        return logs


@dataclass(frozen=True)
class Correction:
    """Posterior mean of a Gaussian process: `mean + kernel(x, points) @ weights`.

    The kernel is exp(-|x - x'|^2 / (2 length_scale^2)) over standardised features, times UNLIKE for each category that differs.
    """

    mean: float
    length_scale: float
    centre: Array
    scale: Array
    points: Array
    categories: Texts
    weights: Array

    def values(self, inputs: Inputs) -> Array:
        """Correction to the log of the terms; shape (n,)."""
        if len(self.weights) == 0:  # no length scale beat the mean residual
            return np.full(len(inputs), self.mean)
        points = (inputs.features - self.centre) / self.scale
        squared, unlike = _distances(points, inputs.categories, self.points, self.categories)
        correction: Array = self.mean + _kernel(squared, unlike, self.length_scale) @ self.weights
        return correction


@dataclass(frozen=True)
class Model:
    """A fitted predictor without its interval."""

    terms: Terms
    correction: Correction | None

    def log_values(self, inputs: Inputs) -> Array:
        """Log of the predicted metric; shape (n,)."""
        logs = self.terms.log_values(inputs)
        return logs if self.correction is None else logs + self.correction.values(inputs)

    def to_dict(self) -> dict[str, Any]:
        correction = self.correction
        return {
            "coefficients": {device: list(values) for device, values in self.terms.coefficients.items()},
            "correction": None
            if correction is None
            else {
                "mean": correction.mean,
                "length_scale": correction.length_scale,
                "centre": correction.centre.tolist(),
                "scale": correction.scale.tolist(),
                "points": correction.points.tolist(),
                "categories": correction.categories.tolist(),
                "weights": correction.weights.tolist(),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Model:
        terms = Terms({device: tuple(values) for device, values in data["coefficients"].items()})
        stored = data["correction"]
        if stored is None:
            return cls(terms, None)
        centre, scale, weights = (np.array(stored[name], np.float64) for name in ("centre", "scale", "weights"))
        points = np.array(stored["points"], np.float64).reshape(len(weights), len(centre))
        width = len(stored["categories"][0]) if stored["categories"] else 0
        categories = np.array(stored["categories"], np.str_).reshape(len(weights), width)
        return cls(
            terms, Correction(stored["mean"], stored["length_scale"], centre, scale, points, categories, weights)
        )


def fit(inputs: Inputs, log_target: Array) -> Model:
    """Fit the terms, then the correction where there are features for one and leaving an LLM out shows that it helps."""
    terms = _fit_terms(inputs, log_target)
    if inputs.features.shape[1] == 0:
        return Model(terms, None)
    return Model(terms, _fit_correction(inputs, log_target - terms.log_values(inputs)))


def _fit_terms(inputs: Inputs, log_target: Array) -> Terms:
    members: dict[str, list[int]] = {}
    for row, keys in enumerate(_keys(inputs)):
        for key in keys:
            members.setdefault(key, []).append(row)
    enough = ROWS_PER_TERM * inputs.terms.shape[1]
    prior = np.array([PRIOR[name] for name in inputs.term_names])
    return Terms(
        {
            key: _non_negative(inputs.terms[rows], np.exp(log_target[rows]), prior)
            for key, rows in sorted(members.items())
            if key == POOLED or enough <= len(rows) < len(inputs)
        }
    )


def _keys(inputs: Inputs) -> list[tuple[str, ...]]:
    """Keys of each row's coefficients, the most particular first."""
    pairs = zip(inputs.texts["hardware_id"], inputs.texts["weight_dtype"], strict=True)
    return [(f"{device}/{dtype}", str(device), POOLED) for device, dtype in pairs]


def _non_negative(terms: Array, target: Array, prior: Array) -> tuple[float, ...]:
    """Coefficients c >= 0 that minimise sum((terms @ c / target - 1)^2) + strength n sum(((c - prior) scale)^2).

    `scale` is the most a term can be of a target, so that the prior decides only what the rows leave open (such as weights
    against a constant, where all LLMs are of one size).
    """
    from sklearn.linear_model import LinearRegression

    share = terms / target[:, None]
    scale = share.max(axis=0)
    scale[scale == 0] = 1.0
    strength = np.sqrt(PRIOR_STRENGTH * len(terms))
    left = np.concatenate([share / scale, strength * np.eye(len(prior))])
    right = np.concatenate([np.ones(len(terms)), strength * prior * scale])
    solver = LinearRegression(positive=True, fit_intercept=False).fit(left, right)
    return tuple(float(value) for value in solver.coef_ / scale)


def _fit_correction(inputs: Inputs, residuals: Array) -> Correction:
    """Length scale and noise with the least error on left-out LLMs; no points where none of them beats the mean residual.

    Leaving group G out of a Gaussian process needs no refit: its error is C[G, G]^-1 (C r)[G], C the inverse of the
    kernel matrix plus noise (Rasmussen and Williams 2006, section 5.4.2, for blocks).
    """
    chosen = _thinned(inputs)
    features, categories, left = inputs.features[chosen], inputs.categories[chosen], residuals[chosen]
    groups = [
        np.flatnonzero(inputs.texts["llm_id"][chosen] == llm) for llm in np.unique(inputs.texts["llm_id"][chosen])
    ]
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-9] = 1.0
    points, mean = (features - centre) / scale, float(left.mean())
    left = left - mean
    best, best_error = None, _group_error([left[group] for group in groups])
    squared, unlike = _distances(points, categories, points, categories)
    for length_scale in LENGTH_SCALES:
        kernel = _kernel(squared, unlike, length_scale)
        for noise in NOISE_RATIOS:
            inverse = np.linalg.inv(kernel + noise * np.eye(len(points)))
            weights = inverse @ left
            error = _group_error([np.linalg.solve(inverse[np.ix_(group, group)], weights[group]) for group in groups])
            if error < best_error:
                best, best_error = (length_scale, weights), error
    if best is None:
        return Correction(mean, 1.0, centre, scale, points[:0], categories[:0], left[:0])
    return Correction(mean, best[0], centre, scale, points, categories, best[1])


def _group_error(errors: list[Array]) -> float:
    """Mean over LLMs of the mean absolute log error: an LLM with many rows counts once."""
    return float(np.mean([np.abs(error).mean() for error in errors]))


def _distances(left: Array, left_texts: Texts, right: Array, right_texts: Texts) -> tuple[Array, Array]:
    """Squared distance, and number of categories that differ, of every left and right row; shape (left, right) each."""
    unlike = np.zeros((len(left), len(right)))
    for ours, theirs in zip(left_texts.T, right_texts.T, strict=True):
        names, codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        if len(names) > 1:
            unlike += codes[: len(ours), None] != codes[None, len(ours) :]
    return ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2), unlike


def _kernel(squared: Array, unlike: Array, length_scale: float) -> Array:
    covariance: Array = np.exp(-squared / (2 * length_scale**2)) * UNLIKE**unlike
    return covariance


def _thinned(inputs: Inputs) -> Index:
    if len(inputs) <= MAX_POINTS:
        return np.arange(len(inputs))
    order = np.lexsort([*inputs.features.T, inputs.texts["llm_id"], inputs.texts["hardware_id"]])
    return np.sort(order[np.linspace(0, len(order) - 1, MAX_POINTS).astype(np.intp)])
