"""One table of the league: a target on a public set of rows under one frozen split, with the goals it is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from models.learned import contenders, evaluate, tidy
from models.learned.subjects import devices, find
from warehouse.store import Store

Report = Callable[[str], None]


@dataclass(frozen=True)
class Goal:
    """What a score of ours is held against: at most (or at least) a value, and who set it."""

    score: str
    most: float | None = None
    least: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Board:
    """A target, the rows it is scored on, the split, and the goals.

    parameters: of the target's query, such as `source`. select: keeps some of those rows. few: calibration rows of each held-out
    part. run: what replaces the standard protocol where a board is no plain split; it returns score rows like `evaluate`'s.
    """

    key: str
    title: str
    target: str
    split: str
    goals: tuple[Goal, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    select: Callable[[pa.Table], pa.Table] | None = None
    size_limit: float | None = None
    few: int = 0
    limit: int | None = None
    run: Callable[[Board, Store, Report], list[dict[str, Any]]] | None = None


def scores(
    board: Board, store: Store, report: Report, extra: Sequence[contenders.Contender] = ()
) -> list[dict[str, Any]]:
    """Score rows of a board on a lakehouse: `contender`, `split`, `fold` and the columns of `predictor_scores`."""
    if board.run is not None:
        return board.run(board, store, report)
    target = find(board.target)
    rows = tidy_rows(board, store, report)
    found = evaluate.evaluate(
        target, rows, [board.split], size_limit=board.size_limit, few=board.few, report=report,
        contenders=lambda target, split: [*contenders.all_of(target, split, board.few), *extra],
    )  # fmt: skip
    for leak in found.leaks:
        report(f"{board.key}: {leak}")
    return found.scores()


def tidy_rows(board: Board, store: Store, report: Report) -> pa.Table:
    """The rows that a board is scored on, what was left out reported."""
    target = find(board.target)
    rows = store.query(target.query, **(dict(target.parameters) | board.parameters))
    rows = devices.with_devices(rows, store.sql("SELECT * EXCLUDE (file_hash) FROM hardware").to_pylist())
    if board.select is not None:
        rows = board.select(rows)
    rows, notes = tidy.tidy(target, rows, limit=board.limit)
    for note in notes:
        report(f"{board.key}: {note}")
    return rows
