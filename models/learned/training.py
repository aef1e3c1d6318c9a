"""From the rows of a target to an artifact with its scores: tidy, check, score beside the baselines on frozen splits, fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from models.learned import conformal, contenders, evaluate, explain, model, splits, tidy
from models.learned.fitted import Fitted
from models.learned.inputs import Array, Inputs, digest, labels, number
from models.learned.predictor import Predictor
from models.learned.subjects import devices
from models.learned.targets import Target
from warehouse import schema

VERSION = 4
"""Raise it when the method changes: it is part of predictor_id."""
LAKE = "lake"
"""Population of a predictor that learnt from all rows of a lakehouse."""
SCORED_ROWS = 4_000
"""Rows that are scored when an artifact is made, drawn by content; the boards of the league score all."""
MANY_ROWS = 1_000
"""From this many rows an artifact is scored on the first leave-out split and the random one alone: each fold refits a dozen times."""
SHOWN_ROWS = 2_000
"""Held-out rows kept in the card."""
EXPLAINED_ROWS = 500
"""Held-out rows behind the importances."""
LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm")
SCORES = (
    "num_rows", "num_refused", "mdape", "mape", "p90_ape", "bias", "mae", "rmse", "r2", "r2_log", "coverage",
    "interval_width_median",
)  # fmt: skip

Report = Callable[[str], None]


class NoRowsError(ValueError):
    """Nobody measured or published what is to be predicted."""


@dataclass(frozen=True)
class Problem:
    """What is to be learnt: the tidy rows of a target in the order of their content, and what was said about the others."""

    target: Target
    rows: pa.Table
    inputs: Inputs
    actual: Array
    notes: tuple[str, ...]

    @property
    def predictor_id(self) -> str:
        """Hash of method and rows: the same rows in any order give the same."""
        return self.id_of("rooflake")

    def id_of(self, contender: str, *more: object) -> str:
        """Hash of a contender's name, the target's method and every row; of the libraries too, whose trees they are."""
        recipe = [str(variant) for variant in self.target.recipe(len(self.inputs))]
        content = hashlib.blake2b(_content(self.rows).tobytes(), digest_size=16).hexdigest()
        return schema.digest(
            VERSION, contender, self.target.key, recipe, self.target.dimensions, content, _libraries(), *more
        )

    def part(self, limit: int | None) -> Problem:
        """At most so many of the rows, drawn by content; None for all."""
        if limit is None or len(self.inputs) <= limit:
            return self
        chosen = conformal.thinned(self.inputs, limit)
        return Problem(
            self.target, self.rows.take(pa.array(chosen)), self.inputs.take(chosen), self.actual[chosen], self.notes
        )


@dataclass(frozen=True)
class Trained:
    """A predictor, and the rows of `predictors`, `predictor_scores` and `predictions` about it and the baselines.

    `predictions` are empty where several rows share a run, as kernels do: the card then keeps held-out rows alone.
    """

    predictor: Predictor
    predictors: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    predictions: pa.Table


def problem(target: Target, rows: pa.Table) -> Problem:
    """The tidy rows of a target. Raises ValueError with what is there and what is needed where they are too few."""
    if rows.num_rows == 0 or np.isnan(number(rows, target.column)).all():
        raise NoRowsError(
            f"No rows to learn it from: nobody measured or published a {target.metric} ({target.what}) here. {target.how}".strip()
        )
    rows = devices.with_devices(rows)
    rows = rows.sort_by([(name, "ascending") for name in ("run_id", "row_index") if name in rows.column_names])
    kept, notes = tidy.tidy(target, rows)
    inputs, actual = target.inputs(kept), number(kept, target.column)
    kind, groups = _first_groups(target, inputs)
    if len(inputs) < target.min_rows or len(groups) < target.min_groups:
        raise ValueError(
            f"Too little to learn it from: {len(inputs)} different rows of {len(groups)} "
            f"{kind} groups ({', '.join(groups[:8]) or 'none'}) out of {rows.num_rows} rows; it needs {target.min_rows} of "
            f"{target.min_groups}. {' '.join(notes)}{' ' if notes else ''}Measure with `rooflake collect`, import published rows, "
            "or copy what another machine measured into the landing folder and run `rooflake load`."
        )
    evaluate.check(target, inputs, actual)
    return Problem(target, kept, inputs, actual, tuple(notes))


def train(
    target: Target,
    rows: pa.Table,
    *,
    snapshot_id: int | None,
    trained_at: datetime,
    report: Report = lambda line: None,
    which: Sequence[str] | None = None,
) -> Trained:
    """Score the target's method and the baselines on splits (default: `scored_splits`), then fit the artifact on all rows.

    The same rows in any order give the same predictor_id, scores and predictions. Raises ValueError where there are too few rows
    or groups, where the target does not vary, or where it is derived from its bound.
    """
    return fit(problem(target, rows), snapshot_id=snapshot_id, trained_at=trained_at, report=report, which=which)


def fit(
    asked: Problem,
    *,
    snapshot_id: int | None,
    trained_at: datetime,
    report: Report = lambda line: None,
    which: Sequence[str] | None = None,
) -> Trained:
    """`train` on a problem that was made before."""
    target, scored = asked.target, asked.part(SCORED_ROWS)
    evaluation = evaluate.evaluate(
        target,
        scored.rows,
        scored_splits(scored) if which is None else which,
        contenders=contenders.all_of,
        report=report if len(asked.inputs) >= MANY_ROWS else lambda line: None,
    )
    scores = evaluation.scores()
    ids = {name: asked.id_of(name) for name in dict.fromkeys(one.contender for one in evaluation.held)}
    ids = {contenders.Ours.name: asked.predictor_id} | ids
    if len(asked.inputs) >= MANY_ROWS:
        report(f"{target.key}: fitting on {len(asked.inputs)} rows")
    recipe = target.recipe(len(asked.inputs))
    weights = contenders.balance(asked.inputs, target.balance)
    fitted = Fitted.on(recipe, asked.inputs, np.log(asked.actual), target.dimensions, weights)
    predictor = Predictor(
        predictor_id=asked.predictor_id,
        target=target.key,
        metric=target.metric,
        unit=target.unit,
        method=method(target, len(asked.inputs)),
        snapshot_id=snapshot_id,
        trained_at=trained_at.isoformat(),
        num_rows=len(asked.inputs),
        llm_ids=_known(asked.rows, "llm_id"),
        hardware_ids=_known(asked.rows, "hardware_id"),
        card=_card(asked, scored, evaluation, scores),
        fitted=fitted,
    )
    return Trained(
        predictor,
        [_predictor_row(predictor, name, identity) for name, identity in ids.items()],
        [{"predictor_id": ids[row["contender"]]} | _without(rounded(row), "contender") for row in scores],
        _prediction_rows(scored, evaluation, ids),
    )


def scored_splits(asked: Problem) -> list[str]:
    """The target's splits that its rows have two groups for, and that hold out other rows than those before them; of MANY_ROWS or
    more the first leave-out split and the random one."""
    known: dict[frozenset[bytes], str] = {}
    for split in asked.target.splits:
        held_out = frozenset(fold.outside.tobytes() for fold in splits.folds(asked.inputs, split))
        if held_out:
            known.setdefault(held_out, split)
    found = list(known.values())
    if len(asked.inputs) < MANY_ROWS:
        return found
    return [*[one for one in found if one in splits.LEAVE_OUT][:1], *[one for one in found if one == splits.RANDOM]]


def method(target: Target, num_rows: int) -> str:
    """The method in words."""
    variants = [str(variant) for variant in target.recipe(num_rows)]
    return variants[0] if len(variants) == 1 else f"mean of {', '.join(variants)}"


def _card(
    asked: Problem, scored: Problem, evaluation: evaluate.Evaluation, scores: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a reader of the artifact alone sees; JSON values, numbers to nine digits."""
    target = asked.target
    ours = [row for row in scores if row["contender"] == contenders.Ours.name]
    found = dict.fromkeys(row["split"] for row in ours)
    split = next(iter(found), None)
    pooled: dict[str, dict[str, dict[str, Any]]] = {}
    for row in scores:
        if row["fold"] == evaluate.ALL:
            pooled.setdefault(row["split"], {})[row["contender"]] = _scores(row)
    sources = labels(asked.rows, "source_id")
    held_out = {} if split is None else _held_out(scored, evaluation, split)
    return {
        "what": target.what,
        "population": LAKE,
        "features": list(asked.inputs.feature_names),
        "terms": list(asked.inputs.term_names),
        "dimensions": list(target.dimensions),
        "interval_nominal": conformal.NOMINAL,
        "sources": {name: int(sources.mask(name).sum()) for name in sources.names},
        "num_scored_rows": len(scored.inputs),
        "splits": {
            name: [row["fold"] for row in ours if row["split"] == name and row["fold"] != evaluate.ALL]
            for name in found
        },
        "scores": pooled,
        "worst_folds": {name: {what: _worst(ours, name, what) for what in ("mape", "coverage")} for name in found},
        "importances": [] if split is None else _importances(scored, split),
        "slices": [] if split is None else [rounded(row) for row in _slices(scored, evaluation, split).to_pylist()],
        "held_out": held_out,
        "notes": [*asked.notes, *evaluation.leaks],
        "libraries": _libraries(),
    }


def _worst(ours: Sequence[Mapping[str, Any]], split: str, what: str) -> dict[str, Any] | None:
    """The fold with the largest error, or the least coverage."""
    folds = [row for row in ours if row["split"] == split and row["fold"] != evaluate.ALL and row.get(what) is not None]
    if not folds:
        return None
    worst = max(folds, key=lambda row: row[what]) if what == "mape" else min(folds, key=lambda row: row[what])
    return {"fold": worst["fold"]} | _scores(worst)


def _ours(evaluation: evaluate.Evaluation, split: str) -> dict[str, Any]:
    """Held-out rows of the target's own method on a split, put together: rows, fold, actual, value, lower, upper; shape (n,)."""
    several = [one for one in evaluation.held if (one.contender, one.split) == (contenders.Ours.name, split)]
    found = {
        name: np.concatenate([getattr(one, name) for one in several])
        for name in ("rows", "actual", "value", "lower", "upper")
    }
    return found | {"fold": np.concatenate([np.full(len(one.rows), one.fold, object) for one in several])}


def _held_out(scored: Problem, evaluation: evaluate.Evaluation, split: str) -> dict[str, Any]:
    """Predicted and actual of at most SHOWN_ROWS held-out rows, by columns; `content` tells which question each is."""
    ours = _ours(evaluation, split)
    ours = {name: values[np.isfinite(ours["value"])] for name, values in ours.items()}
    inputs = scored.inputs.take(ours["rows"])
    chosen = conformal.thinned(inputs, SHOWN_ROWS)
    inputs = inputs.take(chosen)
    named = {
        name: one.texts().tolist()
        for name, one in explain.dimensions(inputs, scored.rows.take(pa.array(ours["rows"][chosen]))).items()
    }
    numbers = {
        name: [digits(value) for value in ours[name][chosen].tolist()] for name in ("actual", "value", "lower", "upper")
    }
    return {
        "split": split,
        "content": [f"{content:016x}" for content in inputs.content.tolist()],
        "fold": ours["fold"][chosen].tolist(),
        **numbers,
        "dimensions": named,
    }


def _slices(scored: Problem, evaluation: evaluate.Evaluation, split: str) -> pa.Table:
    ours = _ours(evaluation, split)
    rows = ours.pop("rows")
    return explain.slices(
        scored.inputs.take(rows), scored.rows.take(pa.array(rows)), ours["actual"], ours["value"], ours["lower"], ours["upper"]
    )  # fmt: skip


def _importances(scored: Problem, split: str) -> list[dict[str, Any]]:
    """Permutation importances on the largest fold of a split, by a model that has not seen it."""
    fold = max(splits.folds(scored.inputs, split), key=lambda one: len(one.outside))
    inside = scored.inputs.take(fold.inside)
    named = splits.dimension(split)
    dimension = named if named in inside.groups else next(iter(inside.groups))
    recipe = scored.target.recipe(len(inside))
    weights = contenders.balance(inside, scored.target.balance)
    fitted = model.fit(recipe, inside, np.log(scored.actual[fold.inside]), dimension, weights)
    outside = scored.inputs.take(fold.outside)
    chosen = conformal.thinned(outside, EXPLAINED_ROWS)
    found = explain.importances(fitted, outside.take(chosen), scored.actual[fold.outside][chosen])
    return [rounded(row) for row in found.to_pylist()]


def _predictor_row(predictor: Predictor, name: str, identity: str) -> dict[str, Any]:
    """A row of `predictors`: the artifact's, or a baseline's on the same rows."""
    is_ours = name == contenders.Ours.name
    return {
        "predictor_id": identity,
        "name": f"{predictor.card['what']}: {predictor.method if is_ours else name}",
        "metric": predictor.metric,
        "target": predictor.target,
        "population": predictor.card["population"],
        "method": predictor.method if is_ours else name,
        "features": predictor.card["features"] if is_ours else None,
        "is_baseline": not is_ours,
        "snapshot_id": predictor.snapshot_id,
        "trained_at": datetime.fromisoformat(predictor.trained_at),
        "num_rows": predictor.num_rows,
        "llm_ids": list(predictor.llm_ids),
        "hardware_ids": list(predictor.hardware_ids),
        "artifact": predictor.file_name if is_ours else None,
    }


def _prediction_rows(scored: Problem, evaluation: evaluate.Evaluation, ids: Mapping[str, str]) -> pa.Table:
    """`predictions` rows of every held-out row that has a run of its own."""
    kind = schema.table("predictions").arrow
    runs = scored.rows.column("run_id")
    if len(runs.unique()) < len(runs):
        return kind.empty_table()
    parts = []
    for one in evaluation.held:
        numbers = {
            name: pa.array([digits(value) for value in getattr(one, name).tolist()], pa.float64())
            for name in ("value", "lower", "upper", "actual")
        }
        texts = {
            "predictor_id": ids[one.contender],
            "split": one.split,
            "fold": one.fold,
            "metric": scored.target.metric,
        }
        same = {name: pa.array([text] * len(one.rows), pa.string()) for name, text in texts.items()}
        supported = pa.nulls(len(one.rows), pa.bool_()) if one.is_supported is None else pa.array(one.is_supported)
        parts.append(
            pa.table({**same, **numbers, "run_id": runs.take(pa.array(one.rows)), "is_supported": supported})
            .select(kind.names)
            .cast(kind)
        )
    return pa.concat_tables(parts) if parts else kind.empty_table()


def _first_groups(target: Target, inputs: Inputs) -> tuple[str, tuple[str, ...]]:
    """What the first leave-out split holds out that has as many groups as the target asks for, and those groups; else the first."""
    kinds = [splits.dimension(name) for name in target.splits if name in splits.LEAVE_OUT]
    found = {kind: inputs.groups[kind].stated for kind in kinds if kind in inputs.groups}
    enough = (kind for kind, groups in found.items() if len(groups) >= target.min_groups)
    first = next(enough, next(iter(found)))
    return first, found[first]


def _content(rows: pa.Table) -> Any:
    """A 64-bit hash of every row over its columns, in the order of their names; columns of lists count for nothing."""
    flat = sorted(
        field.name for field in rows.schema if not pa.types.is_nested(field.type) and not pa.types.is_null(field.type)
    )
    return digest(rows, flat)


def _known(rows: pa.Table, name: str) -> tuple[str, ...]:
    found = labels(rows, name)
    return tuple(sorted(one for one in found.names if one != "unstated"))


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    return rounded({name: row.get(name) for name in SCORES})


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its floats to nine significant digits: the last ones depend on the linear algebra library's threads."""
    return {name: digits(value) if isinstance(value, float) else value for name, value in row.items()}


def digits(value: float) -> float | None:
    return float(f"{value:.9g}") if np.isfinite(value) else None
