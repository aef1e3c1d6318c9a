"""Splits and scores. Leaving an LLM out is the question people ask; the random split stands beside it for reference only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.learned import intervals
from models.learned.features import Array, Texts
from models.learned.fitting import Index

LEAVE_MODEL_OUT = "leave_model_out"
RANDOM = "random"
NUM_RANDOM_FOLDS = 5
RANDOM_SEED = 2026


@dataclass(frozen=True)
class Fold:
    """One held-out part of the rows; everything is fitted on `inside` alone."""

    split: str
    name: str
    inside: Index
    outside: Index


def folds(llm_ids: Texts, config_ids: Texts) -> list[Fold]:
    """Every fold of both splits over n rows.

    The random split draws configurations, not rows: a repeat, or another task with the same tokens, of a configuration in
    the training part would hand over the answer. It depends on the set of config_ids only, not on the order of rows.
    """
    configs = np.unique(config_ids)
    drawn = np.random.default_rng(RANDOM_SEED).permutation(len(configs))
    number_of = dict(zip(configs[drawn], np.arange(len(configs)) % NUM_RANDOM_FOLDS, strict=True))
    numbers = np.array([number_of[config] for config in config_ids])
    named = [(LEAVE_MODEL_OUT, str(llm), llm_ids == llm) for llm in np.unique(llm_ids)]
    named += [(RANDOM, str(number + 1), numbers == number) for number in range(NUM_RANDOM_FOLDS)]
    return [
        Fold(split, name, np.flatnonzero(~held_out), np.flatnonzero(held_out))
        for split, name, held_out in named
        if held_out.any()
    ]


def score(actual: Array, value: Array, lower: Array, upper: Array) -> dict[str, Any]:
    """Scores of n held-out rows, named like the columns of `predictor_scores`. Arrays (n,); NaN bounds are no interval."""
    error = value - actual
    ape = np.abs(error) / actual
    return {
        "num_rows": len(actual),
        "mdape": float(np.median(ape)),
        "mape": float(ape.mean()),
        "p90_ape": float(np.quantile(ape, 0.9)),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": _r2(actual, value),
        "r2_log": _r2(np.log(actual), np.log(value)),
        "coverage": intervals.coverage(actual, lower, upper),
        "interval_width_median": intervals.median_ratio(lower, upper),
    }


def score_rows(predictor_id: str, predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`predictor_scores` rows of held-out `predictions` rows: one for each fold, and `all` pooled over a split's folds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in predictions:
        groups.setdefault((row["split"], "all"), []).append(row)
        groups.setdefault((row["split"], row["fold"]), []).append(row)
    return [
        {"predictor_id": predictor_id, "split": split, "fold": fold}
        | score(*(_floats(rows, name) for name in ("actual", "value", "lower", "upper")))
        for (split, fold), rows in groups.items()
    ]


def _floats(rows: Sequence[Mapping[str, Any]], name: str) -> Array:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)


def _r2(actual: Array, value: Array) -> float | None:
    """1 - residual over total sum of squares; None for fewer than two different values."""
    total = float(((actual - actual.mean()) ** 2).sum())
    return None if total <= 0 else 1.0 - float(((value - actual) ** 2).sum()) / total
