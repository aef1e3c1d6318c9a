"""Train one predictor and its baseline on the rows of the query `training_rows`, scored on leave-out splits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.learned import baseline, evaluation, features
from models.learned.features import METRICS, Array, Inputs, Metric
from models.learned.predictor import Fitted, Predictor, analytical
from warehouse import schema

MIN_ROWS = 8
MIN_LLMS = 3
METHODS: dict[Metric, str] = {
    "latency_s": "fitted roofline + Gaussian process",
    "memory_peak_bytes": "non-negative least squares on analytical terms",
}
SCORES = (
    "num_rows", "mdape", "mape", "p90_ape", "mae", "rmse", "r2", "r2_log", "coverage", "interval_width_median",
)  # fmt: skip
"""Scores of the artifact itself, named like the columns of `predictor_scores`."""
VERSION = 1
"""Raise it when the method changes: it is part of predictor_id."""


@dataclass(frozen=True)
class Trained:
    """A predictor, and the rows to land about it and its baseline: tables `predictors`, `predictor_scores`, `predictions`.

    `num_unused` counts measured rows left out because the metric or the analytical row is absent.
    """

    predictor: Predictor
    predictors: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    num_unused: int


def train(rows: pa.Table, metric: Metric, *, snapshot_id: int | None, trained_at: datetime) -> Trained:
    """Train on measured rows joined with their analytical rows.

    The same rows in any order give the same predictor_id, scores and predictions. Raises ValueError where there are too few
    rows or LLMs, where the target does not vary, or where it is a multiple of the analytical value and holds no measurement.
    """
    if metric not in METRICS:
        raise ValueError(f"No predictor is trained for '{metric}'. Known: {', '.join(METRICS)}.")
    usable = _usable(features.with_llm_shapes(rows), metric)
    actual = features.number(usable, f"measured_{metric}")
    _check(rows.num_rows, usable, actual, metric)

    problem = _Problem(metric, usable, actual, features.inputs(usable, metric), analytical(usable, metric))
    main_id = _predictor_id(METHODS[metric], problem)
    forest_id = _predictor_id(baseline.method(), problem)
    predictions = _held_out(problem, main_id, forest_id)
    scores = [
        row
        for predictor_id, rows_of_one in predictions.items()
        for row in evaluation.score_rows(predictor_id, rows_of_one)
    ]
    predictor = Predictor(
        predictor_id=main_id,
        metric=metric,
        method=METHODS[metric],
        snapshot_id=snapshot_id,
        trained_at=trained_at.isoformat(),
        num_rows=usable.num_rows,
        llm_ids=tuple(str(llm) for llm in np.unique(problem.inputs.texts["llm_id"])),
        fitted=Fitted.on(problem.inputs, np.log(actual), metric),
        scores={
            row["split"]: {name: row[name] for name in SCORES}
            for row in scores
            if row["predictor_id"] == main_id and row["fold"] == "all"
        },
    )
    return Trained(
        predictor,
        _predictor_rows(predictor, forest_id, trained_at),
        [_rounded(row) for row in scores],
        [_rounded(row) for rows_of_one in predictions.values() for row in rows_of_one],
        rows.num_rows - usable.num_rows,
    )


@dataclass(frozen=True)
class _Problem:
    """What is to be learnt: the usable rows, sorted by run_id, as a table and as arrays (n,)."""

    metric: Metric
    rows: pa.Table
    actual: Array
    inputs: Inputs
    analytical: Array


def _held_out(problem: _Problem, main_id: str, forest_id: str) -> dict[str, list[dict[str, Any]]]:
    """`predictions` rows of every fold by predictor_id; each row is predicted by what was fitted without its fold."""
    run_ids = problem.rows.column("run_id").to_pylist()
    forest = baseline.Forest(problem.rows, problem.actual)
    found: dict[str, list[dict[str, Any]]] = {main_id: [], forest_id: []}
    for fold in evaluation.folds(problem.inputs.texts["llm_id"], features.text(problem.rows, "config_id")):
        fitted = Fitted.on(problem.inputs.take(fold.inside), np.log(problem.actual[fold.inside]), problem.metric)
        predicted = fitted.predict(problem.inputs.take(fold.outside), problem.analytical[fold.outside])
        guesses = forest.predict(fold.inside, fold.outside)
        for row, prediction, guess in zip(fold.outside, predicted, guesses, strict=True):
            shared = {
                "split": fold.split,
                "fold": fold.name,
                "run_id": run_ids[row],
                "metric": problem.metric,
                "actual": float(problem.actual[row]),
            }
            found[main_id].append(
                {
                    "predictor_id": main_id,
                    **shared,
                    "value": prediction.value,
                    "lower": prediction.lower,
                    "upper": prediction.upper,
                    "is_supported": prediction.is_supported,
                }
            )
            no_claim = {"lower": None, "upper": None, "is_supported": None}
            found[forest_id].append({"predictor_id": forest_id, **shared, "value": float(guess), **no_claim})
    return found


def _predictor_rows(predictor: Predictor, forest_id: str, trained_at: datetime) -> list[dict[str, Any]]:
    """`predictors` rows of a predictor and its baseline."""
    shared = {
        "metric": predictor.metric,
        "snapshot_id": predictor.snapshot_id,
        "trained_at": trained_at,
        "num_rows": predictor.num_rows,
        "llm_ids": list(predictor.llm_ids),
        "hardware_ids": list(predictor.fitted.support.categories["hardware_id"]),
    }
    main = {
        "predictor_id": predictor.predictor_id,
        "name": f"{predictor.metric}: {predictor.method}",
        "method": predictor.method,
        "features": list(predictor.features),
        "is_baseline": False,
        "artifact": predictor.file_name,
    }
    forest = {
        "predictor_id": forest_id,
        "name": f"{predictor.metric}: {baseline.METHOD} on the features of bhavana-iitbbs",
        "method": baseline.METHOD,
        "features": list(baseline.FEATURES),
        "is_baseline": True,
        "artifact": None,
    }
    return [shared | main, shared | forest]


def _usable(rows: pa.Table, metric: Metric) -> pa.Table:
    """Rows with a positive measured value and every analytical number, sorted by run_id."""
    measured = features.number(rows, f"measured_{metric}")
    complete = features.inputs(rows, metric).is_complete & np.isfinite(analytical(rows, metric)) & (measured > 0)
    return rows.filter(pa.array(complete)).sort_by("run_id")


def _check(num_measured: int, usable: pa.Table, actual: Array, metric: Metric) -> None:
    llms = pc.unique(usable.column("llm_id")).to_pylist()
    configs = len(pc.unique(usable.column("config_id")))
    if configs < MIN_ROWS or len(llms) < MIN_LLMS:
        raise ValueError(
            f"Too little to train {metric} on: {configs} configurations of {len(llms)} LLMs ({', '.join(sorted(llms)) or 'none'}), "
            f"from {num_measured} measured rows of which {num_measured - usable.num_rows} lack the metric or their analytical "
            f"row. It needs {MIN_ROWS} configurations of {MIN_LLMS} LLMs. Measure more with `rooflake collect local_profile`, "
            "add their bounds with `rooflake collect roofline`, then `rooflake load`."
        )
    if np.ptp(np.log(actual)) < 1e-6:
        raise ValueError(
            f"{metric} is {actual[0]:.6g} in all {len(actual)} rows. A constant cannot be learnt, and its perfect score would "
            "say nothing. Measure configurations that differ."
        )
    if np.ptp(np.log(actual / analytical(usable, metric))) < 1e-9:
        raise ValueError(
            f"{metric} is the analytical value times a constant in all {len(actual)} rows, so it was derived and not measured. "
            "Land measured rows, for instance with `rooflake collect local_profile`."
        )


def _predictor_id(method: str, problem: _Problem) -> str:
    """Hash of the method and of every value of the training rows, sorted by run_id, columns by name."""
    content = {name: problem.rows.column(name).to_pylist() for name in sorted(problem.rows.column_names)}
    return schema.digest(VERSION, method, problem.metric, content)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """A row with floats to nine significant digits: the last ones depend on the linear algebra library's threads."""
    return {name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in row.items()}
