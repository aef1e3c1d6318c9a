"""Which definition a value follows, so that no chart compares values under two without saying so: one definition at a time unless asked.

A value that somebody observed follows the definition that its run names in `metric_definitions`; where the run names none, the
definition is unknown, which is one of its own. Analytical and predicted rows model our own definition and stay beside any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import dcc, html

from dashboard import components as c
from dashboard import text
from warehouse.metrics import DEFINITIONS, Metric

Row = Mapping[str, Any]

ALL = "all"
"""The choice that compares every definition, each marked."""
UNKNOWN = "unknown"
OBSERVED = ("measured", "published")


@dataclass(frozen=True)
class Choice:
    """Definitions of one metric among some rows, how many observed rows follow each (the best known first), and which is shown."""

    metric: Metric
    counts: Mapping[str, int]
    chosen: str

    @property
    def is_mixed(self) -> bool:
        return len(self.counts) > 1

    def keeps(self, row: Row) -> bool:
        """Whether a row may stand beside the others: it has no such value, models it, or follows the chosen definition."""
        return self.chosen == ALL or not _is_observed(row, self.metric) or of(row, self.metric) == self.chosen

    def kept(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        return [dict(row) for row in rows if self.keeps(row)]


def of(row: Row, metric: Metric, column: str | None = None) -> str:
    """Id of the definition that a row's value of a metric (or of one of its statistics) follows; `unknown` where its run names none."""
    named = dict(row["metric_definitions"] or [])
    return str((named.get(column) if column else None) or named.get(metric.key) or UNKNOWN)


def choose(rows: Sequence[Row], metric: Metric, asked: str | None = None) -> Choice:
    """What was asked for, where the rows have it; else the definition that most kinds of truth, then devices, then rows follow."""
    following: dict[str, list[Row]] = {}
    for row in rows:
        if _is_observed(row, metric):
            following.setdefault(of(row, metric), []).append(row)

    def rank(name: str) -> tuple[Any, ...]:
        mine = following[name]
        kinds, devices = (len({row[key] for row in mine}) for key in ("source_kind", "device"))
        return -kinds, name == UNKNOWN, -devices, -len(mine), name

    counts = {name: len(following[name]) for name in sorted(following, key=rank)}
    if asked == ALL or asked in counts:
        return Choice(metric, counts, str(asked))
    return Choice(metric, counts, next(iter(counts), UNKNOWN))


def ranked(rows: Sequence[Row], metric: Metric, asked: str | None = None) -> list[dict[str, Any]]:
    """Rows that may be ranked by a metric: those of one definition, even where all of them are shown."""
    return choose(rows, metric, None if asked == ALL else asked).kept(rows)


def meaning(definition: str) -> str:
    """A definition in words."""
    if definition == UNKNOWN:
        return "its row names no definition"
    return DEFINITIONS.get(definition, definition)


def badge(choice: Choice, link: Callable[[str], str] | None = None) -> c.Component | None:
    """Which definitions meet here and which of them is shown, each a link to itself; None where all values follow one."""
    if not choice.is_mixed:
        return None
    label = choice.metric.label
    if choice.chosen == ALL:
        said = f"{label}: {len(choice.counts)} definitions are mixed here. They are not the same quantity: compare within one."
    else:
        left = sum(number for name, number in choice.counts.items() if name != choice.chosen)
        said = f"{label} is known here under {len(choice.counts)} definitions. Shown is one; {text.plural(left, 'row')} under another left out."
    chips = [_chip(name, text.plural(number, "row"), choice, link) for name, number in choice.counts.items()]
    chips.append(_chip(ALL, "each marked", choice, link))
    return html.Div(
        [html.Span("Definitions", className="rl-badge rl-badge-warn"), html.Span(said), html.Div(chips, className="rl-chips")],
        className="rl-definitions", role="note",
    )  # fmt: skip


def _chip(name: str, count: str, choice: Choice, link: Callable[[str], str] | None) -> c.Component:
    words = [html.B("all of them" if name == ALL else name), f" {count}"]
    title = "Every definition, each marked" if name == ALL else meaning(name)
    if name == choice.chosen:
        return html.Span([*words, ", shown"], className="rl-chip rl-chip-on", title=title)
    if link is None:
        return html.Span(words, className="rl-chip", title=title)
    return dcc.Link(words, href=link(name), className="rl-chip", title=title)


def _is_observed(row: Row, metric: Metric) -> bool:
    return (
        row["source_kind"] in OBSERVED
        and row[metric.key] is not None
        and not (metric.key == "latency_s" and row.get("is_bound"))
    )
