"""Training on the lake's rows: artifacts, scores, and the decision which predictor of a target answers.

A new predictor takes over only where the leave-out scores do not worsen. Old and new are compared on the rows that both were scored
on in the target's first leave-out split, each row predicted by a model that has not seen its group: the median error of the new one
may exceed the old one's by TOLERANCE of itself at most. Where they share fewer than MIN_COMMON such rows the pooled median errors of
that split decide, and the reason says so. What somebody took back by hand does not come back by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from models.learned import contenders, training
from models.learned import evaluate as protocol
from models.learned.predictor import Predictor, load_all
from models.learned.subjects import TARGETS, devices, find
from models.learned.targets import Target
from warehouse import parquet, schema
from warehouse.store import LoadReport, Store

Report = Callable[[str], None]

TOLERANCE = 0.02
"""Share of itself by which a median error may grow and still count as not worse: less than repeated measurements differ by."""
MIN_COMMON = 8
"""Rows in common from which two predictors are compared on them."""
EVALUATION = "evaluation"
"""Population of scores that `evaluate` stores."""


def train(store: Store, report: Report, targets: Sequence[str] | None = None) -> LoadReport:
    """Train every target that has rows, or some; save the artifacts, load their scores, promote those that are not worse.

    Too few rows are a line, not an error; targets without any are named together at the end. Rows that were learnt from already are
    not learnt from again. An artifact is whole before any row names it, so that a killed training leaves nothing half done. Returns
    what the load did.
    """
    store.home.predictors.mkdir(parents=True, exist_ok=True)
    snapshot, answering = store.snapshot_id(), promoted(store, report)
    without: list[str] = []
    for target in _targets(targets):
        try:
            asked = training.problem(target, rows(store, target))
        except ValueError as error:
            if targets is None and isinstance(error, training.NoRowsError):
                without.append(target.key)
                continue
            report(f"{target.key}: {error}")
            continue
        batch: dict[str, Any] = {}
        predictor = _trained_before(store, asked.predictor_id)
        if predictor is None:
            trained = training.fit(asked, snapshot_id=snapshot, trained_at=datetime.now(UTC), report=report)
            predictor = trained.predictor
            predictor.save(store.home.predictors)
            batch = {"predictor_scores": trained.scores, "predictions": trained.predictions}
            batch["predictors"] = trained.predictors
            for note in predictor.notes:
                report(f"{target.key}: {note}")
            report(_line(predictor))
        else:
            report(f"{target.key}: the same {predictor.num_rows} rows as before; nothing new to learn.")
        decision, reason = _decision(store, predictor, answering.get(target.key))
        report(f"{target.key}: {reason}")
        if decision is not None:
            batch = {"promotions": [decision], **batch}
        if batch:
            parquet.land(store.home.landing, f"predictor-{predictor.predictor_id}", batch)
    if without:
        report(f"No rows here to learn from for {', '.join(without)}.")
    return store.load()


def rows(store: Store, target: Target, **parameters: Any) -> pa.Table:
    """Rows of a target's query beside their device, whether of the catalogue or of this lake. `parameters` narrow the query."""
    found = store.query(target.query, **(dict(target.parameters) | parameters))
    return devices.with_devices(found, store.sql("SELECT * EXCLUDE (file_hash) FROM hardware").to_pylist())


def promoted(store: Store, report: Report = lambda line: None) -> dict[str, Predictor]:
    """The predictors that answer, by target; one whose file is missing or of another version is left out, with a sentence."""
    return load_all(store.home.predictors, store.query("promoted_predictors").to_pylist(), report)


def rollback(store: Store, key: str) -> str:
    """Let the predictor answer again that the promoted one of a target replaced. Returns a sentence.

    Raises ValueError where there is none before it, or its file is gone.
    """
    target = find(key)
    history = _history(store, key)
    if not history:
        raise ValueError(f"No predictor of {key} was ever promoted. Train one with `rooflake train`.")
    current = history[0]["predictor_id"]
    before = next(row["replaced_id"] for row in history if row["predictor_id"] == current and not row["is_rollback"])
    if before is None:
        raise ValueError(f"{current} is the first predictor of {key}: there is none to go back to.")
    path = store.home.predictors / f"{before}.zip"
    if not path.exists():
        raise ValueError(f"'{path.name}', which answered before, is not in '{path.parent}'. Copy it there.")
    Predictor.load(path)
    row = _promotion(target.key, before, current, "taken back by hand", is_rollback=True)
    parquet.land(store.home.landing, f"promotion-{row['promotion_id']}", {"promotions": [row]})
    store.load()
    return f"{key}: {before} answers again, in place of {current}."


def evaluate(
    store: Store,
    report: Report,
    targets: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    external: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    is_stored: bool = False,
) -> pa.Table:
    """Score the targets' methods, the baselines and external contenders (`module:Class`) on frozen splits of the lake's rows.

    Columns: target, contender, split, fold and the scores of `predictor_scores`. `limit` rows of each target, drawn by content;
    `is_stored` loads the scores too. Raises LookupError for an unknown target, ValueError for an unknown split or a contender that
    is none.
    """
    strangers = [contenders.named(one) for one in external or ()]
    found: list[dict[str, Any]] = []
    for target in _targets(targets):
        try:
            asked = training.problem(target, rows(store, target)).part(limit)
        except ValueError as error:
            report(f"{target.key}: {error}")
            continue
        for note in asked.notes:
            report(f"{target.key}: {note}")
        evaluation = protocol.evaluate(
            target,
            asked.rows,
            splits,
            report=report,
            contenders=lambda target, split: [*contenders.all_of(target, split), *(one() for one in strangers)],
        )
        for leak in evaluation.leaks:
            report(f"{target.key}: {leak}")
        scores = evaluation.scores()
        found += [{"target": target.key} | row for row in scores]
        if is_stored and scores:
            parquet.land(store.home.landing, f"scores-{asked.predictor_id}", _score_rows(store, asked, scores))
    if is_stored:
        store.load()
    return pa.Table.from_pylist(found)


def league_rows(
    target: Target,
    population: str,
    scores: Sequence[Mapping[str, Any]],
    *,
    snapshot_id: int | None,
    num_rows: int | None,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of `predictors` and `predictor_scores` of scores that no artifact stands behind, one predictor a contender.

    The same scores give the same ids.
    """
    names = dict.fromkeys(row["contender"] for row in scores)
    mine = {
        name: [
            training.rounded({key: row[key] for key in row if key != "contender"})
            for row in scores
            if row["contender"] == name
        ]
        for name in names
    }
    ids = {name: schema.digest(training.VERSION, population, target.key, name, mine[name]) for name in names}
    shared = {
        "metric": target.metric, "target": target.key, "population": population, "snapshot_id": snapshot_id,
        "trained_at": datetime.now(UTC), "num_rows": num_rows,
    }  # fmt: skip
    return {
        "predictor_scores": [{"predictor_id": ids[name]} | row for name in names for row in mine[name]],
        "predictors": [
            {"predictor_id": ids[name], "name": f"{target.what}: {name}", "method": name, "is_baseline": name in contenders.BASELINES} | shared
            for name in names
        ],
    }  # fmt: skip


def _score_rows(
    store: Store, asked: training.Problem, scores: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    return league_rows(asked.target, EVALUATION, scores, snapshot_id=store.snapshot_id(), num_rows=len(asked.inputs))


def _targets(keys: Sequence[str] | None) -> list[Target]:
    return [find(key) for key in (TARGETS if keys is None else keys)]


def _trained_before(store: Store, predictor_id: str) -> Predictor | None:
    """The predictor of this id where the lake has its row and the home its file."""
    path = store.home.predictors / f"{predictor_id}.zip"
    known = store.sql(
        "SELECT 1 FROM predictors WHERE predictor_id = $id AND artifact IS NOT NULL", {"id": predictor_id}
    )
    if known.num_rows == 0:
        return None
    return load_all(path.parent, [{"target": "it", "artifact": path.name}]).get("it")


def _history(store: Store, key: str) -> list[dict[str, Any]]:
    """`promotions` of a target, the newest first."""
    return store.sql(
        "SELECT * FROM promotions WHERE target = $target ORDER BY promoted_at DESC", {"target": key}
    ).to_pylist()


def _decision(store: Store, new: Predictor, old: Predictor | None) -> tuple[dict[str, Any] | None, str]:
    """A row of `promotions` where a predictor takes over, and why it does or does not."""
    history = _history(store, new.target)
    current = history[0]["predictor_id"] if history else None
    if current == new.predictor_id:
        return None, "it answers already."
    if any(row["is_rollback"] and row["replaced_id"] == new.predictor_id for row in history):
        return None, f"{new.predictor_id} was taken back by hand and stays so; {current} answers."
    if current is None:
        is_better, reason = True, "the first predictor of this target"
    elif old is None:
        is_better, reason = True, f"the file of {current} is gone or of another version"
    else:
        is_better, reason = is_no_worse(new, old)
    if not is_better:
        return None, f"not promoted, {current} goes on answering: {reason}."
    return _promotion(new.target, new.predictor_id, current, reason), f"promoted: {reason}."


def is_no_worse(new: Predictor, old: Predictor) -> tuple[bool, str]:
    """Whether a predictor may take the place of another (see above), and the numbers that say so."""
    ours, theirs = new.card["held_out"], old.card["held_out"]
    if not ours or not theirs:
        return True, "no leave-out score to compare"
    split = ours["split"]
    places = {content: place for place, content in enumerate(theirs["content"])}
    both = [(place, places[content]) for place, content in enumerate(ours["content"]) if content in places]
    if split == theirs["split"] and len(both) >= MIN_COMMON:
        actual = np.array([ours["actual"][place] for place, _ in both])
        errors = [
            float(np.median(np.abs(np.array(values) - actual) / actual))
            for values in ([ours["value"][place] for place, _ in both], [theirs["value"][place] for _, place in both])
        ]
        where = f"over {len(both)} rows that both were scored on"
    else:
        errors = [
            card["scores"][card["held_out"]["split"]][contenders.Ours.name]["mdape"] for card in (new.card, old.card)
        ]
        where = "over all rows of each, for they share too few"
    mine, before = errors
    return mine <= before * (1 + TOLERANCE), f"{split}: median error {mine:.2%} against {before:.2%} {where}"


def _promotion(
    key: str, predictor_id: str, replaced_id: str | None, reason: str, *, is_rollback: bool = False
) -> dict[str, Any]:
    row = {
        "target": key,
        "predictor_id": predictor_id,
        "replaced_id": replaced_id,
        "is_rollback": is_rollback,
        "reason": reason,
        "promoted_at": datetime.now(UTC),
    }
    return {"promotion_id": schema.digest(row)} | row


def _line(predictor: Predictor) -> str:
    """Median errors on every split, beside the best baseline's."""
    parts = []
    for split, scores in predictor.card["scores"].items():
        ours = scores[contenders.Ours.name].get("mdape")
        others = {
            name: one["mdape"] for name, one in scores.items() if name != contenders.Ours.name and one.get("mdape")
        }
        if ours is None or not others:
            continue
        best = min(others, key=lambda name: others[name])
        parts.append(f"{split} {ours:.1%} ({best} {others[best]:.1%})")
    return f"{predictor.target}: {predictor.method}, {predictor.num_rows} rows: median error {', '.join(parts) or 'not known'}."
