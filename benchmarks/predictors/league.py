"""Boards found, scored in processes of their own, and put into one table, one file and the lakehouse."""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.predictors.board import Board, Goal, scores
from etl.training import league_rows
from models.learned import contenders
from models.learned.evaluate import ALL
from models.learned.subjects import find
from warehouse import parquet, schema
from warehouse.store import open_store

RESULTS = Path(__file__).parent / "RESULTS.md"
RATIOS = ("mape", "mdape", "p90_ape", "bias", "coverage")
"""Scores shown in percent."""
WORDS = {
    "mape": "MAPE",
    "mdape": "median",
    "r2": "R²",
    "r2_log": "R² of logs",
    "half_width": "half-width",
    "p90_ape": "90th percentile",
}


def boards() -> dict[str, Board]:
    """Every board of the files beside this one, by its key."""
    found: dict[str, Board] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if module.startswith("_"):
            continue
        for board in getattr(importlib.import_module(f"benchmarks.predictors.{module}"), "BOARDS", ()):
            found[board.key] = board
    return found


def run_all(
    chosen: Sequence[Board], home: Path, external: Sequence[str], jobs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results of boards as they end; what went wrong is printed and given as `error`."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run_one, board.key, board.limit, home, list(external)): board.key for board in chosen}
        for future in as_completed(waiting):
            key = waiting[future]
            try:
                found = future.result()
            except (ValueError, LookupError, OSError) as error:
                print(f"{key}: {error}", flush=True)
                yield key, {"key": key, "error": str(error)}
                continue
            print(f"{key}: {found['seconds']:.0f} s, {shown(found)}", flush=True)
            yield key, found


def run_one(key: str, limit: int | None, home: Path, external: Sequence[str]) -> dict[str, Any]:
    """Score one board. Every process opens the lakehouse for itself, to read."""
    board = replace(boards()[key], limit=limit)
    started = time.monotonic()
    notes: list[str] = []
    with open_store(home, read_only=True) as store:
        rows = scores(board, store, notes.append, [contenders.named(spec)() for spec in external])
        snapshot = store.snapshot_id()
    if not rows:
        raise ValueError(f"its rows have no two groups to tell apart by {board.split}.")
    return {
        "key": key, "title": board.title, "target": board.target, "split": board.split, "limit": limit, "snapshot_id": snapshot,
        "seconds": time.monotonic() - started, "goals": [asdict(goal) for goal in board.goals],
        "scores": [{name: finite(value) for name, value in row.items()} for row in rows], "notes": notes[:40],
    }  # fmt: skip


def store_scores(found: Sequence[Mapping[str, Any]], known: Mapping[str, Board], home: Path) -> None:
    """Load the scores into the lakehouse, where the dashboard shows the league."""
    columns = schema.table("predictor_scores").names
    with open_store(home) as store:
        for one in found:
            rows = [
                {name: row[name] for name in ("contender", *columns) if name in row and name != "predictor_id"}
                for row in one["scores"]
            ]
            batch = league_rows(
                find(known[one["key"]].target), one["key"], rows, snapshot_id=one["snapshot_id"], num_rows=None
            )
            parquet.land(store.home.landing, f"league-{one['key']}", batch)
        print(store.load())


# ---- tables


def pooled(one: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Contender -> scores over all held-out parts, ours first, with the half-width of its interval."""
    rows = [row for row in one["scores"] if row["fold"] == ALL]
    first = rows[0]["split"] if all(row["split"] != one["split"] for row in rows) else one["split"]
    found = {row["contender"]: with_half_width(row) for row in rows if row["split"] == first}
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith(contenders.Ours.name)))


def with_half_width(row: Mapping[str, Any]) -> dict[str, Any]:
    """A score row with `half_width`: by what share the end of a median interval is above its value."""
    width = row.get("interval_width_median")
    return {**row, "half_width": None if width is None else math.sqrt(width) - 1}


def judged(one: Mapping[str, Any], goal: Goal) -> tuple[str, bool | None]:
    """A goal in words with what was reached, and whether it was; None where the score is absent."""
    ours = next(iter(pooled(one).values()))
    value = ours.get(goal.score)
    if goal.score in ("worst_mape", "worst_coverage"):
        value = worst(one, goal.score.removeprefix("worst_"))[1]
    parts = []
    is_met: bool | None = None if value is None else True
    for sign, limit in (("≤", goal.most), ("≥", goal.least)):
        if limit is not None:
            parts.append(f"{sign} {number(goal.score, limit)}")
            if value is not None and (value > limit if sign == "≤" else value < limit):
                is_met = False
    note = f" ({goal.note})" if goal.note else ""
    return (
        f"{WORDS.get(goal.score, goal.score.replace('_', ' '))} {' and '.join(parts)}{note}: {number(goal.score, value)}",
        is_met,
    )


def worst(one: Mapping[str, Any], what: str) -> tuple[str, float | None]:
    """Our fold with the largest error, or the least coverage."""
    name = next(iter(pooled(one)))
    folds = [
        row for row in one["scores"] if row["contender"] == name and row["fold"] != ALL and row.get(what) is not None
    ]
    if not folds:
        return "", None
    found = min(folds, key=lambda row: row[what]) if what == "coverage" else max(folds, key=lambda row: row[what])
    return found["fold"], found[what]


def shown(one: Mapping[str, Any]) -> str:
    """A board in a line."""
    parts = [f"{name} {number('mape', row.get('mape'))}" for name, row in pooled(one).items()]
    return f"MAPE {', '.join(parts)}"


HEADS = (
    "board",
    "n",
    "ours: MAPE",
    "median",
    *contenders.BASELINES,
    "goals",
    "met",
    "covered",
    "half-width",
    "worst fold",
)


def cells(one: Mapping[str, Any]) -> list[str]:
    """A board as cells under HEADS."""
    found = pooled(one)
    ours = next(iter(found.values()))
    goals = [judged(one, Goal(**goal)) for goal in one["goals"]]
    fold, error = worst(one, "mape")
    least = worst(one, "coverage")[1]
    covered = number("coverage", ours.get("coverage"))
    return [
        f"{one['key']}: {one['title']}", f"{ours.get('num_rows') or 0:,}", number("mape", ours.get("mape")), number("mdape", ours.get("mdape")),
        *(number("mape", found[name].get("mape")) if name in found else "" for name in contenders.BASELINES),
        "; ".join(words for words, _ in goals),
        "" if not goals else "yes" if all(is_met for _, is_met in goals) else "no",
        covered if least is None else f"{covered} (least {number('coverage', least)})",
        "" if ours["half_width"] is None else f"± {number('mape', ours['half_width'])}",
        f"{fold}: {number('mape', error)}" if fold else "",
    ]  # fmt: skip


def print_table(found: Sequence[Mapping[str, Any]]) -> None:
    """The league on the screen."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADS)
    for one in found:
        table.add_row(*cells(one))
    Console(width=230).print(table)


def markdown(found: Sequence[Mapping[str, Any]], known: Mapping[str, Board]) -> str:
    """RESULTS.md: the league, who else was scored, and ours on every held-out part."""
    lines = [
        "# The league",
        "",
        "Written by `make bench-predictors ARGS='--home HOME'`; not by hand. Every number is on rows held out as the board says, never",
        "on rows learnt from. Errors are mean absolute percentage errors unless named otherwise; `median` is the median one. Intervals",
        "are meant to hold 90 %; `least` is the fold that they cover least. A missed goal says `no`.",
        "",
        row_of(HEADS),
        row_of("---" for _ in HEADS),
        *(row_of(cells(one)) for one in found),
    ]
    others = [
        (one["key"], name, row)
        for one in found
        for name, row in list(pooled(one).items())[1:]
        if name not in contenders.BASELINES
    ]
    if others:
        lines += [
            "",
            "## Others on the same rows",
            "",
            row_of(("board", "who", "n", "MAPE", "median", "covered")),
            row_of("---" for _ in range(6)),
        ]
        lines += [
            row_of((key, name, f"{row.get('num_rows') or 0:,}", *(number(what, row.get(what)) for what in ("mape", "mdape", "coverage"))))
            for key, name, row in others
        ]  # fmt: skip
    lines += ["", "## Every held-out part", ""]
    for one in found:
        name = next(iter(pooled(one)))
        folds = [row for row in one["scores"] if row["contender"] == name and row["fold"] != ALL]
        if folds:
            lines += [
                f"### {one['key']}",
                "",
                row_of(("held out", "n", "MAPE", "median", "bias", "covered")),
                row_of("---" for _ in range(6)),
            ]
            lines += [
                row_of((row["fold"], f"{row.get('num_rows') or 0:,}", *(number(what, row.get(what)) for what in ("mape", "mdape", "bias", "coverage"))))
                for row in folds
            ]  # fmt: skip
            lines.append("")
    missing = [board.title for key, board in known.items() if key not in {one["key"] for one in found}]
    if missing:
        lines += ["Not run yet: " + "; ".join(missing) + "."]
    return "\n".join(lines).rstrip() + "\n"


def row_of(parts: Any) -> str:
    return f"| {' | '.join(str(part).replace('|', '/') for part in parts)} |"


def number(what: str, value: float | None) -> str:
    if value is None:
        return ""
    if what in RATIOS or what.removeprefix("worst_") in RATIOS or what == "half_width":
        return f"{value:.1%}"
    return f"{value:.4g}"


def finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
