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
from models.learned.first_predictor import Fitted, Predictor, analytical
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
    """A predictor, and the rows of `predictors`, `predictor_scores` and `predictions` about it and its baseline."""

    predictor: Predictor
    predictors: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    predictions: list[dict[str, Any]]


def train(rows: pa.Table, metric: Metric, *, snapshot_id: int | None, trained_at: datetime) -> Trained:
    """Train on measured rows joined with their analytical rows.

    The same rows in any order give the same predictor_id, scores and predictions. Raises ValueError where there are too few
    rows or LLMs, where the target does not vary, or where it is a multiple of the analytical value and holds no measurement.
    """
    if metric not in METRICS:
        raise ValueError(f"No predictor is trained for '{metric}'. Known: {', '.join(METRICS)}.")
    usable, notes = _usable(features.with_llm_shapes(rows), metric)
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
        notes=tuple(notes),
    )
    return Trained(
        predictor,
        _predictor_rows(predictor, forest_id, trained_at),
        [_rounded(row) for row in scores],
        [_rounded(row) for rows_of_one in predictions.values() for row in rows_of_one],
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


def _usable(rows: pa.Table, metric: Metric) -> tuple[pa.Table, list[str]]:
    """Rows with a positive measured value and every analytical number, sorted by run_id; and what to know about them.

    A latency measured while other processes kept the machine busy is not the device's: it is left out before its value is
    looked at, unless too little would be left to train on.
    """
    measured = features.number(rows, f"measured_{metric}")
    complete = features.inputs(rows, metric).is_complete & np.isfinite(analytical(rows, metric)) & (measured > 0)
    usable = rows.filter(pa.array(complete)).sort_by("run_id")
    notes = []
    if num_incomplete := rows.num_rows - usable.num_rows:
        notes.append(f"{num_incomplete} of {rows.num_rows} measured rows lack {metric} or their analytical row.")
    is_quiet = pc.less_equal(usable.column("other_load_ratio"), schema.QUIET_LOAD_RATIO)
    quiet = usable.filter(pc.fill_null(is_quiet, True))  # unknown is no reason to leave a row out
    num_disturbed = usable.num_rows - quiet.num_rows
    if metric != "latency_s" or num_disturbed == 0:
        return usable, notes
    disturbed = f"{num_disturbed} of {usable.num_rows} rows were measured while other processes kept the machine busy"
    if _is_too_little(quiet):
        return usable, [
            *notes,
            f"{disturbed}; they are used because too little is left without them. Measure again on a quiet machine.",
        ]
    return quiet, [*notes, f"{disturbed}; they are left out."]


def _is_too_little(rows: pa.Table) -> bool:
    return len(pc.unique(rows.column("config_id"))) < MIN_ROWS or len(pc.unique(rows.column("llm_id"))) < MIN_LLMS


def _check(num_measured: int, usable: pa.Table, actual: Array, metric: Metric) -> None:
    if _is_too_little(usable):
        llms = sorted(pc.unique(usable.column("llm_id")).to_pylist())
        raise ValueError(
            f"Too little to train {metric} on: {len(pc.unique(usable.column('config_id')))} configurations of {len(llms)} LLMs "
            f"({', '.join(llms) or 'none'}), from {num_measured} measured rows of which {num_measured - usable.num_rows} lack "
            f"the metric or their analytical row. It needs {MIN_ROWS} configurations of {MIN_LLMS} LLMs. Measure more with "
            "`rooflake collect local_profile`, or copy what another machine measured into the landing folder and run "
            "`rooflake load`; both add the analytical rows."
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
