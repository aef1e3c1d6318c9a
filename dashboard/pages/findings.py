"""Findings: what checks found wrong or doubtful in the rows of this lake, by check and source, each with the row it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, html

from dashboard import components as c
from dashboard import figures, text
from dashboard.data import Lake
from dashboard.measured_figures import SERIES_COLOURS
from warehouse.metrics import BY_KEY

NAME, TITLE, MENU = "findings", "Findings", "what cannot be right"
STATE = ("source", "check", "severity")
SEVERITIES = ((c.ANY, "Both"), ("fault", "Faults"), ("doubt", "Doubts"))
MEANINGS = {"fault": "cannot be right as printed", "doubt": "needs an explanation"}
MOST_SOURCES = 10
"""Sources that the chart has room for, those with most findings."""
MOST_LETTERS = 34
"""Letters of a source's id that a legend has room for."""
MOST_TICKS = 10

Row = dict[str, Any]


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    counts = lake.rows("finding_counts", snapshot)
    if not counts:
        return c.page(
            "Findings", SUBTITLE, c.nothing("No check has found anything wrong in this lake.", "rooflake lint SOURCE"), c.controls_hidden(NAME, snapshot),
            snapshot=snapshot, path=c.href(NAME),
        )  # fmt: skip
    sources = sorted({row["source_id"] for row in counts})
    checks = sorted({row["check_name"] for row in counts})
    state = {
        "source": c.chosen(params, "source", [c.ANY, *sources], c.ANY),
        "check": c.chosen(params, "check", [c.ANY, *checks], c.ANY),
        "severity": c.chosen(params, "severity", [key for key, _ in SEVERITIES], c.ANY),
    }
    return c.page(
        "Findings",
        SUBTITLE,
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "source", "Source", [{"value": c.ANY, "label": "Any"}, *sources], state["source"], width=320),
            c.select(NAME, "check", "Check", [{"value": c.ANY, "label": "Any"}, *({"value": one, "label": text.words(one)} for one in checks)],
                     state["check"], width=260),
            c.segments(NAME, "severity", "Severity", SEVERITIES, state["severity"]),
        ),
        counts_card(counts, snapshot),
        c.loading(content(lake, state, snapshot), "findings-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


SUBTITLE = (
    "Every load is checked for consistency and physics. A fault cannot be right as printed, a doubt needs an explanation; "
    "no value is ever changed."
)


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("findings-content", "children"),
        inputs={"state": {name: Input(c.control(NAME, name), "value") for name in (*STATE, "snapshot")}},
        prevent_initial_call=True,
    )
    def show(state: dict[str, str | None]) -> c.Component:
        snapshot = state.pop("snapshot")
        return c.guarded(lambda: content(lake, state, snapshot))


def counts_card(counts: Sequence[Row], snapshot: str | None) -> c.Component:
    """Checks by sources, the worst first; a cell leads to its findings."""
    num_faults, num_doubts = (sum(row[key] for row in counts) for key in ("num_faults", "num_doubts"))
    sources = len({row["source_id"] for row in counts})
    lead = f"{text.plural(num_faults, 'fault')} and {text.plural(num_doubts, 'doubt')} in rows of {text.plural(sources, 'source')}."
    worst = counts[0]
    if worst["num_faults"]:
        lead += f" Most faults: {text.plural(worst['num_faults'], 'row')} of {worst['source_id']}, check {text.words(worst['check_name']).lower()}."
    about = "Findings of each check, by source; edged in red what holds faults. Click a bar for its sentences."
    if sources > MOST_SOURCES:
        about += f" The chart has the {MOST_SOURCES} sources with most findings, the export all."
    return c.card(
        "By check and source", html.P(lead, className="rl-lead"),
        c.graph("findings", chart(counts), "Bars: findings of each check, by source", min_width=300),
        about=about, tools=c.exports("finding_counts", snapshot), name="finding-counts",
    )  # fmt: skip


def chart(counts: Sequence[Row]) -> go.Figure:
    """Findings of each check as a bar, a part for each source, edged in red where it holds faults. Rows of the query `finding_counts`."""
    totals: Counter[str] = Counter()
    checks: Counter[str] = Counter()
    for row in counts:
        totals[row["source_id"]] += row["num_findings"]
        checks[row["check_name"]] += row["num_findings"]
    order = [check for check, _ in checks.most_common()]
    sources = [source for source, _ in totals.most_common(MOST_SOURCES)]
    figure = go.Figure()
    for index, source in enumerate(sources):
        mine = [row for row in counts if row["source_id"] == source]
        figure.add_bar(
            y=[figures.wrapped(text.words(row["check_name"]), 18) for row in mine], x=[row["num_findings"] for row in mine], orientation="h",
            name=source if len(source) <= MOST_LETTERS else f"{source[: MOST_LETTERS - 1]}…",
            marker={"color": SERIES_COLOURS[index % len(SERIES_COLOURS)],
                    "line": {"color": figures.FAULT_COLOUR, "width": [3 if row["num_faults"] else 0 for row in mine]}},
            customdata=[[c.href(NAME, source=source, check=row["check_name"]), _cell(row)] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    figures.styled(figure, height=130 + 44 * len(order) + 14 * len(sources))
    figure.update_layout(barmode="stack", showlegend=True, legend={"traceorder": "normal", "font": {"size": 11}})
    dtick = 1 if max(checks.values(), default=0) <= MOST_TICKS else None  # few findings: no tick between whole numbers
    figure.update_xaxes(title="Findings", rangemode="tozero", tickformat="d", dtick=dtick)
    names = [figures.wrapped(text.words(check), 18) for check in order]
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    return figure


def content(lake: Lake, state: dict[str, str | None], snapshot: str | None) -> list[c.Component]:
    """The findings, sentence by sentence."""
    parameters = {
        "source_id": c.free(state["source"]),
        "check_name": c.free(state["check"]),
        "severity": c.free(state["severity"]),
    }
    rows = lake.rows("findings", snapshot, **parameters)
    if not rows:
        return [c.nothing("No finding of that kind.")]
    about = f"{text.plural(len(rows), 'finding')}, faults first."
    return [
        c.card(
            "The findings",
            table(rows, snapshot),
            about=about,
            tools=c.exports("findings", snapshot, **parameters),
            name="finding-list",
        )
    ]


def table(rows: Sequence[Row], snapshot: str | None) -> c.Component:
    shown = [
        {**row, "link": c.link("Run", c.href("run", snapshot, run_id=row["run_id"])) if row["run_id"] else None, "check": text.words(row["check_name"]),
         "excluded": "kept out" if row["is_excluded"] else None, "found": _quantity(row, "value"), "consistent": _quantity(row, "expected")}
        for row in rows
    ]  # fmt: skip
    columns = [
        c.link_column(), c.text_column("severity"), c.text_column("sentence", "What it says", width=520, wrapText=True, autoHeight=True, cellClass="rl-wrap"), c.text_column("check"),
        c.text_column("found"), c.text_column("consistent", "Would be consistent"), c.text_column("metric"), c.text_column("source_id", "Source"),
        c.text_column("source_cell", "Cell"), c.text_column("llm_id", "LLM"), c.text_column("hardware_id", "Device"), c.text_column("phase"),
        c.text_column("excluded", "Charts"),
    ]  # fmt: skip
    used = [column for column in columns if any(row[column["field"]] is not None for row in shown)]
    return c.grid("findings", used, [{column["field"]: row[column["field"]] for column in used} for row in shown])


def run_card(lake: Lake, run_id: str, snapshot: str | None) -> c.Component | None:
    """What checks found about a run, and about its source; nothing where they found nothing."""
    rows = lake.rows("run_findings", snapshot, run_id=run_id)
    if not rows:
        return None
    items = [
        html.Li(
            [
                badge(row["severity"]), " ", html.B(f"{text.words(row['check_name'])}: "), row["sentence"],
                html.Span(" (about the whole source)", className="rl-quieter") if row["run_id"] is None else None,
            ]
        )
        for row in rows
    ]  # fmt: skip
    return c.card("Findings", html.Ul(items, className="rl-notes"), about="What checks of consistency and physics say. No value was changed.",
                  tools=c.exports("run_findings", snapshot, run_id=run_id), name="findings-of-run")  # fmt: skip


def badge(severity: str) -> c.Component:
    return html.Span(
        severity,
        className=f"rl-badge rl-badge-{'fault' if severity == 'fault' else 'warn'}",
        title=MEANINGS.get(severity),
    )


def _quantity(row: Row, key: str) -> str | None:
    if row[key] is None:
        return None
    return text.column_quantity(row["metric"], row[key]) if row["metric"] in BY_KEY else text.number(row[key])


def _cell(row: Row) -> str:
    parts = [
        f"<b>{text.words(row['check_name'])}</b>, {row['source_id']}",
        f"{text.plural(row['num_faults'], 'fault')}, {text.plural(row['num_doubts'], 'doubt')}",
    ]
    if row["title"]:
        parts.append(figures.wrapped(row["title"], 60))
    return "<br>".join([*parts, "<i>click for the sentences</i>"])
