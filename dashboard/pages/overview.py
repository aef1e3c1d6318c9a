"""Overview: what is in the lake, how fresh it is, where measured, published and analytical rows meet, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, html

from dashboard import components as c
from dashboard import figures, measured, text
from dashboard.data import Lake

NAME, TITLE, MENU = "overview", "Overview", "what is in the lake"
COVERAGES = [("all", "All kinds"), *((kind, kind.capitalize()) for kind in text.KINDS)]
"""What the coverage matrix can show."""


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    head = lake.rows("headline", snapshot)[0]
    kind = c.chosen(params, "kind", [key for key, _ in COVERAGES], COVERAGES[0][0]) or "all"
    is_whole = params.get("all") == "1"
    return c.page(
        "How fast is an LLM, on what, and why?",
        subtitle(head),
        headline(head, lake.rows("finding_counts", snapshot), snapshot),
        c.card(
            "Coverage",
            c.loading(coverage(lake, kind, is_whole, snapshot), "overview-coverage"),
            tools=dmc.Group(
                [
                    c.segments(NAME, "kind", "Show", COVERAGES, kind),
                    c.switch(NAME, "all", "Show all", is_whole),
                    c.exports("coverage", snapshot),
                    c.controls_hidden(NAME, snapshot),
                ],
                className="rl-controls rl-inline",
                gap="sm",
            ),
        ),
        *measured.grid_cards(lake, snapshot),
        kinds_card(lake, snapshot),
        sources_card(lake, snapshot),
        trouble_card(lake, snapshot),
        snapshot=snapshot,
        path=c.href(NAME),
    )


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("overview-coverage", "children"),
        Input(c.control(NAME, "kind"), "value"),
        Input(c.switch_id(NAME, "all"), "checked"),
        Input(c.control(NAME, "snapshot"), "value"),
        prevent_initial_call=True,
    )
    def show_coverage(kind: str, is_whole: bool, snapshot: str) -> c.Component:
        return c.guarded(lambda: coverage(lake, kind, is_whole, snapshot))


def subtitle(head: dict[str, Any]) -> str:
    """The lake in a sentence."""
    return (
        "Measured, published, computed and predicted results of the same configuration side by side. "
        f"{text.plural(head['num_joined_configs'], 'configuration')} here "
        f"{'is' if head['num_joined_configs'] == 1 else 'are'} known from more than one kind."
    )


def headline(head: dict[str, Any], found: Sequence[dict[str, Any]], snapshot: str | None) -> c.Component:
    """What is in the lake in numbers, each a link; counts only, no value is compared with another."""
    num_faults, num_doubts = (sum(row[key] for row in found) for key in ("num_faults", "num_doubts"))
    kinds = [
        c.stat(
            text.count(head[f"num_{kind}"]),
            kind,
            f"rows {text.KIND_MEANINGS[kind]}",
            kind,
            c.href("run", snapshot, kind=kind),
        )
        for kind in text.KINDS
        if kind != "predicted" or head["num_predicted"]
    ]
    return html.Div(
        [
            *kinds,
            c.stat(
                text.count(head["num_llms"]),
                "LLMs",
                f"on {text.plural(head['num_devices'], 'device')}",
                target=c.href("compare", snapshot),
            ),
            c.stat(
                text.count(head["num_ops"]),
                "operators",
                "inside runs, layer by layer",
                target=c.href("layers", snapshot),
            ),
            *(
                [
                    c.stat(
                        text.count(head["num_microbench"]),
                        "microbench",
                        "shapes of GEMMs, copies, collectives: measured rows too",
                        target=c.href("machine", snapshot),
                    )
                ]
                if head["num_microbench"]
                else []
            ),
            *(
                [
                    c.stat(
                        text.count(num_faults + num_doubts),
                        "findings",
                        f"{text.plural(num_faults, 'fault')} and {text.plural(num_doubts, 'doubt')} in these rows",
                        target=c.href("findings", snapshot),
                    )
                ]
                if found
                else []
            ),
            c.stat(
                text.count(head["num_predictors"]),
                "predictors",
                "ours, older ones and published",
                target=c.href("predict", snapshot),
            ),
            c.stat(
                text.ago(head["last_loaded_at"]), "last load", f"last measurement {text.ago(head['last_measured_at'])}"
            ),
        ],
        className="rl-stats",
    )


def coverage(lake: Lake, kind: str, is_whole: bool, snapshot: str | None) -> list[c.Component]:
    """The matrix, and a sentence about what it leaves out."""
    rows = lake.query("coverage", snapshot, source_kind=kind if kind in text.KINDS else None)
    if rows.num_rows == 0:
        sentence = (
            "No row names both an LLM and a device yet." if kind == "all" else f"The lake has no {kind} rows yet."
        )
        return [c.nothing(sentence, filling(kind))]
    llms, devices = figures.covered(rows, is_whole)
    all_llms, all_devices = figures.covered(rows, is_whole=True)
    chart = c.graph(
        "coverage",
        figures.coverage(rows, is_whole),
        "Heat map: strongest kind of evidence for each LLM on each device",
        min_width=max(320, 220 + 24 * len(devices)),
    )
    words = "The strongest kind of evidence for each LLM on each device. Click a cell to compare."
    if (len(llms), len(devices)) != (len(all_llms), len(all_devices)):
        words += f" These are the {len(llms)} best known of {text.plural(len(all_llms), 'LLM')} and {len(devices)} of {text.plural(len(all_devices), 'device')}."
    return [chart, dmc.Text(words, size="sm", c="dimmed")]


def filling(kind: str) -> str:
    """The command that brings rows of a kind."""
    return {
        "measured": "rooflake collect local_profile",
        "published": "rooflake collect published",
        "analytical": "rooflake collect roofline",
        "predicted": "rooflake train",
    }.get(kind, "rooflake demo")


def kinds_card(lake: Lake, snapshot: str | None) -> c.Component:
    rows = lake.rows("kinds", snapshot)
    if not rows:
        return c.nothing("The lake is empty.", "rooflake demo")
    table = [{**row, "last_collected_at": text.ago(row["last_collected_at"])} for row in rows]
    columns = [
        c.kind_column(), c.text_column("collector"), c.number_column("num_runs", "Rows"), c.number_column("num_llms", "LLMs"),
        c.number_column("num_devices", "Devices"), c.number_column("num_configs", "Configurations"), c.number_column("num_failed", "Failed"),
        c.number_column("num_excluded", "Kept out of charts"), c.text_column("last_collected_at", "Newest row"),
    ]  # fmt: skip
    return c.card("What came in", c.grid("kinds", columns, table), tools=c.exports("kinds", snapshot))


def sources_card(lake: Lake, snapshot: str | None) -> c.Component:
    rows = lake.rows("source_list", snapshot)
    table = [
        {
            **row,
            "link": c.link("Read it", row["url"]) if _is_web(row["url"]) else None,
            "title": row["title"] or row["source_id"],
        }
        for row in rows
    ]
    columns = [
        c.text_column("source_id", "Source"), c.text_column("title"), c.link_column("link", "Link"), c.text_column("source_kinds", "Kinds"),
        c.number_column("num_runs", "Rows"), c.number_column("num_failed", "Failed"), c.number_column("num_excluded", "Kept out"),
        c.text_column("published_at", "Published"), c.text_column("authors"), c.text_column("note"),
    ]  # fmt: skip
    return c.card(
        "Sources",
        c.grid("sources", columns, table),
        about="Every row names where it comes from.",
        tools=c.exports("source_list", snapshot),
    )


def trouble_card(lake: Lake, snapshot: str | None) -> c.Component:
    """Failed runs, rows kept out of charts, and quarantined files; a failure is a row, not a gap."""
    failures = lake.rows("failures", snapshot)
    refused = lake.rows("load_list", snapshot, outcome="quarantined")
    parts: list[Any] = []
    if failures:
        outcomes = [{**row, "link": _opened(row, snapshot)} for row in lake.rows("outcomes", snapshot)]
        each = c.grid("failures", _FAILURE_COLUMNS, _failure_rows(failures, snapshot))
        parts = [
            c.grid("outcomes", _OUTCOME_COLUMNS, outcomes),
            html.Details([html.Summary(f"Row by row, the newest {text.count(len(failures))}"), each]),
        ]
    if refused:
        parts += [
            html.H3("Quarantined files", className="rl-sub"),
            c.grid("quarantined", [c.text_column("file_name", "File"), c.text_column("reason"), c.text_column("when")],
                   [{**row, "when": text.moment(row["loaded_at"])} for row in refused]),
        ]  # fmt: skip
    if not parts:
        parts = [c.nothing("No run failed, no row is kept out, no file is in quarantine.")]
    head = lake.rows("headline", snapshot)[0]
    about = (
        f"{text.plural(head['num_failed'], 'row')} without a result, {text.plural(head['num_excluded'], 'row')} kept out of charts, "
        f"{text.plural(len(refused), 'file')} in quarantine."
    )
    return c.card("Failures and faults", *parts, about=about, tools=c.exports("failures", snapshot))


def _failure_rows(rows: Sequence[dict[str, Any]], snapshot: str | None) -> list[dict[str, Any]]:
    return [
        {
            **row,
            "link": _opened(row, snapshot),
            "outcome": "kept out" if row["is_excluded"] else row["status"],
        }
        for row in rows
    ]


def _opened(row: dict[str, Any], snapshot: str | None) -> dict[str, str]:
    return c.link("Run", c.href("run", snapshot, run_id=row["run_id"]))


_OUTCOME_COLUMNS = [
    c.text_column("outcome"), c.number_column("num_runs", "Rows"), c.text_column("llm_id", "LLM"), c.text_column("hardware_id", "Device"),
    c.text_column("phase"), c.text_column("batch_sizes", "Batch sizes"), c.text_column("reason", "Reason of the newest"),
    c.text_column("source_id", "Source"), c.link_column("link", "Newest"),
]  # fmt: skip
_FAILURE_COLUMNS = [
    c.link_column(), c.text_column("outcome"), c.text_column("reason"), c.text_column("source_id", "Source"),
    c.text_column("source_cell", "Cell"), c.text_column("llm_id", "LLM"), c.text_column("hardware_id", "Device"), c.text_column("phase"),
]  # fmt: skip


def _is_web(url: str | None) -> bool:
    return bool(url) and str(url).startswith(("http://", "https://"))
