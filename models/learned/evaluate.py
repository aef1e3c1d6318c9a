"""Scores on rows nobody trained on: every contender on the same folds of frozen splits, and tests for leaks before any score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from models.learned import splits
from models.learned.contenders import Contender
from models.learned.fitted import Answers
from models.learned.inputs import Array, Inputs, number
from models.learned.targets import Target

ALL = "all"
"""Name of the pooled fold."""


@dataclass(frozen=True)
class Held:
    """Predictions of the held-out rows of one fold: indexes into the tidy rows, and values with or without intervals."""

    contender: str
    split: str
    fold: str
    rows: Any
    actual: Array
    value: Array
    lower: Array
    upper: Array
    is_supported: Any = None


@dataclass(frozen=True)
class Evaluation:
    """Held-out predictions of every contender on every fold, and what the leak tests say."""

    target: str
    held: list[Held] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def scores(self) -> list[dict[str, Any]]:
        """A row for each contender, split and fold, and `all` pooled over a split's folds; columns of `predictor_scores`."""
        groups: dict[tuple[str, str, str], list[Held]] = {}
        for one in self.held:
            groups.setdefault((one.contender, one.split, ALL), []).append(one)
            groups.setdefault((one.contender, one.split, one.fold), []).append(one)
        return [
            {"contender": contender, "split": split, "fold": fold}
            | score(
                *(
                    np.concatenate([getattr(one, name) for one in several])
                    for name in ("actual", "value", "lower", "upper")
                )
            )
            for (contender, split, fold), several in groups.items()
        ]


def evaluate(
    target: Target,
    rows: pa.Table,
    which: Sequence[str] | None = None,
    *,
    contenders: Callable[[Target, str], Sequence[Contender]],
    size_limit: float | None = None,
    few: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Fit and score contenders on every fold of splits (default: the target's) over tidy rows (`tidy.tidy`).

    `size_limit` and `few` as in `splits.folds`.
    Contenders get the rows without the measured column. Raises ValueError where the target is constant, or a multiple of its bound.
    """
    actual = number(rows, target.column)
    inputs = target.inputs(rows)
    check(target, inputs, actual)
    evaluation = Evaluation(target.key, leaks=leaks(target, inputs, actual))
    questions = rows.drop_columns([name for name in rows.column_names if name.startswith("measured_")])
    for split in target.splits if which is None else which:
        found = splits.folds(inputs, split, size_limit=size_limit, few=few)
        if not found:
            report(f"{target.key}: {split} has no two groups to tell apart")
        for fold in found:
            several = [held_out(contender, questions, actual, fold) for contender in contenders(target, split)]
            evaluation.held.extend(several)
            report(
                f"{target.key}: {split}: {fold.name} ({len(fold.outside)} rows): {', '.join(_shown(one) for one in several)}"
            )
    return evaluation


def held_out(contender: Contender, rows: pa.Table, actual: Array, fold: splits.Fold) -> Held:
    """Fit a contender on a fold's inside and predict its outside."""
    contender.fit(rows.take(pa.array(fold.inside)), actual[fold.inside])
    answer = contender.predict(rows.take(pa.array(fold.outside)))
    shared = (contender.name, fold.split, fold.name, fold.outside, actual[fold.outside])
    if isinstance(answer, Answers):
        return Held(*shared, answer.value, answer.lower, answer.upper, answer.is_supported)
    nothing = np.full(len(fold.outside), np.nan)
    return Held(*shared, np.asarray(answer, np.float64), nothing, nothing)


def score(actual: Array, value: Array, lower: Array, upper: Array) -> dict[str, Any]:
    """Scores of n held-out rows, named like the columns of `predictor_scores`. Arrays (n,); NaN bounds are no interval.

    Rows without a value are not scored and counted: `num_rows` are those scored, `num_refused` the others.
    """
    has_value = np.isfinite(value)
    num_refused = int((~has_value).sum())
    actual, value, lower, upper = (one[has_value] for one in (actual, value, lower, upper))
    if len(actual) == 0:
        return {"num_rows": 0, "num_refused": num_refused}
    error = value - actual
    ape = np.abs(error) / actual
    has_interval = np.isfinite(lower) & np.isfinite(upper)
    is_inside = (actual >= lower) & (actual <= upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(value, np.finfo(np.float64).tiny))
    return {
        "num_rows": len(actual),
        "num_refused": num_refused,
        "mdape": float(np.median(ape)),
        "mape": float(ape.mean()),
        "p90_ape": float(np.quantile(ape, 0.9)),
        "bias": float(np.median(value / actual) - 1.0),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": r_squared(actual, value),
        "r2_log": r_squared(np.log(actual), logs),
        "coverage": float(is_inside[has_interval].mean()) if has_interval.any() else None,
        "interval_width_median": float(np.median((upper / lower)[has_interval])) if has_interval.any() else None,
    }


def r_squared(actual: Array, value: Array) -> float | None:
    """1 - residual over total sum of squares; None for fewer than two different values."""
    total = float(((actual - actual.mean()) ** 2).sum())
    return None if total <= 0 else 1.0 - float(((value - actual) ** 2).sum()) / total


def check(target: Target, inputs: Inputs, actual: Array) -> None:
    """Raise ValueError for what a predictor could only seem to learn: a constant, or a number derived from its own bound."""
    if len(actual) == 0:
        raise ValueError(
            f"No rows to learn {target.key} from: no measured or published row has {target.metric} and its bound. {target.how}".strip()
        )
    if np.ptp(np.log(actual)) < 1e-6:
        raise ValueError(
            f"{target.key} is {actual[0]:.6g} {target.unit} in all {len(actual)} rows. A constant cannot be learnt, and its perfect "
            "score would say nothing. Measure configurations that differ."
        )
    for name, values in (("bound", inputs.bound), ("estimate", inputs.estimate)):
        known = np.isfinite(values) & (values > 0)
        if known.all() and np.ptp(np.log(actual / values)) < 1e-9:
            raise ValueError(
                f"{target.key} is its analytical {name} times a constant in all {len(actual)} rows, so it was derived and not "
                "measured. Land measured rows, for instance with `rooflake collect local_profile`."
            )


def leaks(target: Target, inputs: Inputs, actual: Array) -> list[str]:
    """Sentences on features that give the answer away: one that follows the target, or its correction, to six digits."""
    found = []
    for what, values in (
        (target.metric, np.log(actual)),
        (f"{target.metric} over its bound", np.log(actual / inputs.bound)),
    ):
        for name, feature in zip(inputs.feature_names, inputs.features.T, strict=True):
            known = np.isfinite(feature) & np.isfinite(values)
            if known.sum() < 20 or np.ptp(feature[known]) < 1e-12 or np.ptp(values[known]) < 1e-9:
                continue
            if abs(float(np.corrcoef(feature[known], values[known])[0, 1])) > 1 - 1e-9:
                found.append(f"Feature {name} is {what} in other words: it was derived from what is to be predicted.")
    return found


def _shown(one: Held) -> str:
    said = score(one.actual, one.value, one.lower, one.upper)
    return f"{one.contender} {said['mape']:.1%}" if said["num_rows"] else f"{one.contender} has no answer"
