"""Who is scored: anything with the two methods `fit` and `predict` over Arrow rows. Ours, and the four to beat.

An external predictor enters the league by the same two methods: rows are those of the target's query without the value to predict.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa

from models.learned import splits
from models.learned.fitted import Answers, Fitted
from models.learned.inputs import Array, Inputs, labels, log, optional
from models.learned.targets import Target


class Contender(Protocol):
    """The two-method interface of the league."""

    name: str

    def fit(self, rows: pa.Table, target: Array) -> None:
        """Learn from n rows and their measured values (n,), in the target's SI unit."""

    def predict(self, rows: pa.Table) -> Array | Answers:
        """Values of m rows (m,), or answers with intervals."""


class Ours:
    """The target's own method, with the interval of the dimension that is asked about; and with those of rows like those seen and of
    larger ones where a split scores such rows: after a calibration with `few` rows, and on sizes just beyond those learnt from."""

    name = "rooflake"

    def __init__(self, target: Target, split: str, few: int = 0) -> None:
        self._target = target
        scored = {splits.dimension(split)} | (
            {splits.RANDOM, splits.BEYOND} if few or split == splits.BEYOND else set()
        )
        self._dimensions = tuple(sorted(scored))
        self._fitted: Fitted | None = None

    def fit(self, rows: pa.Table, target: Array) -> None:
        inputs = self._target.inputs(rows)
        recipe = self._target.recipe(len(inputs))
        weights = balance(inputs, self._target.balance)
        self._fitted = Fitted.on(recipe, inputs, np.log(target), self._dimensions, weights)

    def predict(self, rows: pa.Table) -> Answers:
        if self._fitted is None:
            raise ValueError(f"{self.name} has learnt nothing yet: call fit before predict.")
        return self._fitted.predict(self._target.inputs(rows))


class Roofline:
    """The pure roofline bound."""

    name = "roofline bound"

    def __init__(self, target: Target) -> None:
        self._target = target

    def fit(self, rows: pa.Table, target: Array) -> None:
        """Nothing is learnt."""

    def predict(self, rows: pa.Table) -> Array:
        return self._target.inputs(rows).bound


class Estimate:
    """The analytical estimate, whose constants come from public tables."""

    name = "analytical estimate"

    def __init__(self, target: Target) -> None:
        self._target = target

    def fit(self, rows: pa.Table, target: Array) -> None:
        """Nothing is learnt."""

    def predict(self, rows: pa.Table) -> Array:
        return self._target.inputs(rows).estimate


NUM_TREES = 100
FOREST_ROWS = 20_000
"""Rows that the forest is fitted on: more do not change its errors on what it has not seen."""


class Forest:
    """The random forest of `bhavana-iitbbs` on its own features: log batch, log parameters, architecture, workload.

    The source prints no split, depth or number of trees; scikit-learn's defaults stand in. For a kernel, which has no parameter
    count, the logs of its shape take that place: the raw sizes that such a forest is given elsewhere (Vidur).
    """

    name = "random forest of bhavana-iitbbs"

    def fit(self, rows: pa.Table, target: Array) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._labels = {name: labels(rows, name).names for name in _FOREST_LABELS if name in rows.column_names}
        few = np.arange(len(target))
        if len(few) > FOREST_ROWS:
            few = np.random.default_rng(0).permutation(len(few))[:FOREST_ROWS]
        self._forest = RandomForestRegressor(n_estimators=NUM_TREES, random_state=0, n_jobs=1)
        self._forest.fit(self._features(rows)[few], target[few])

    def predict(self, rows: pa.Table) -> Array:
        values: Array = self._forest.predict(self._features(rows))
        return values

    def _features(self, rows: pa.Table) -> Array:
        numbers = [
            np.nan_to_num(log(optional(rows, name)), nan=-1.0) for name in _FOREST_NUMBERS if name in rows.column_names
        ]
        for name, known in self._labels.items():
            texts = labels(rows, name)
            numbers += [texts.mask(one).astype(np.float64) for one in known]
        return np.column_stack(numbers)


_FOREST_NUMBERS = (
    "batch_size", "num_parameters", "input_tokens", "output_tokens", "context_tokens", "concurrency", "num_devices",
    "tensor_parallel", "m", "n", "k", "num_heads", "num_kv_heads", "head_dim", "num_experts", "num_active_experts", "size_bytes",
)  # fmt: skip
_FOREST_LABELS = ("architecture", "task", "phase", "hardware_id", "framework", "weight_dtype", "op_kind")


class Nearest:
    """The measured value of the nearest row, scaled by the ratio of the bounds: nearest in standardised features, same keys first."""

    name = "nearest neighbour"

    def __init__(self, target: Target) -> None:
        self._target = target

    def fit(self, rows: pa.Table, target: Array) -> None:
        from sklearn.neighbors import NearestNeighbors

        inputs = self._target.inputs(rows)
        values = self._clean(inputs.features)
        self._centre, self._scale = values.mean(axis=0), values.std(axis=0)
        self._scale[self._scale < 1e-9] = 1.0
        self._ratio = target / inputs.bound
        self._found = NearestNeighbors(n_neighbors=1).fit((values - self._centre) / self._scale)

    def predict(self, rows: pa.Table) -> Array:
        inputs = self._target.inputs(rows)
        points = (self._clean(inputs.features) - self._centre) / self._scale
        nearest = self._found.kneighbors(points, return_distance=False)[:, 0]
        return np.asarray(self._ratio[nearest] * inputs.bound, np.float64)

    @staticmethod
    def _clean(features: Array) -> Array:
        return np.nan_to_num(features, nan=-1.0, posinf=-1.0, neginf=-1.0)


def all_of(target: Target, split: str, few: int = 0) -> list[Contender]:
    """Ours first, then the four baselines, for a split of which `few` rows of each held-out part are learnt from."""
    return [Ours(target, split, few), Roofline(target), Estimate(target), Forest(), Nearest(target)]


BASELINES = (Roofline.name, Estimate.name, Forest.name, Nearest.name)


def named(spec: str) -> Callable[[], Contender]:
    """An external contender by `module:Class`: a class that is made without arguments and has name, fit and predict.

    Raises ValueError where there is none, or it lacks one of them.
    """
    module, _, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"'{spec}' is no contender ({error}). Name it as module:Class, where `import module` works."
        ) from None
    missing = [part for part in ("name", "fit", "predict") if not hasattr(found, part)]
    if missing:
        raise ValueError(
            f"'{spec}' lacks {', '.join(missing)}. A contender has `name`, `fit(rows, target)` and `predict(rows)` "
            "(models/learned/contenders.py)."
        )
    made: Callable[[], Contender] = found
    return made


def balance(inputs: Inputs, group: str | None, most: float = 30.0) -> Array | None:
    """Weights that let a group with few rows count: the root of (rows of the largest group / its own), at most `most`."""
    found = inputs.groups.get(group) if group else None
    if found is None or len(found.names) < 2:
        return None
    sizes = np.bincount(found.codes, minlength=len(found.names)).astype(np.float64)
    weights = np.minimum(np.sqrt(sizes.max() / sizes), most)[found.codes]
    return np.asarray(weights / weights.mean(), np.float64)
