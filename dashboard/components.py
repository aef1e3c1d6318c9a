"""Pieces that pages share. A control's id names its page and itself, so that one browser function writes every control into the URL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dash_ag_grid as dag
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import dcc, html

from dashboard import figures, text
from warehouse.catalog import UnknownEntryError
from warehouse.metrics import BY_KEY
from warehouse.store import StoreError

LOG = logging.getLogger("rooflake.dashboard")
PAGE_ROWS = 12
"""Rows a table shows at once. Every table is as high as its rows, so that print and screenshots have all that is on its page."""
ANY = "any"
"""The choice that leaves a column free."""

GRID_THEME = (
    "themeQuartz.withParams({backgroundColor: 'var(--mantine-color-body)', foregroundColor: 'var(--mantine-color-text)', "
    "headerTextColor: 'var(--mantine-color-text)', accentColor: '#4263eb', borderColor: 'var(--mantine-color-default-border)', "
    "fontFamily: 'inherit', fontSize: 14, headerFontSize: 13, rowHeight: 44, wrapperBorderRadius: 8})"
)
"""Tables take their colours from the page, so that both schemes fit."""

Params = Mapping[str, str]
Component = Any
"""A Dash component; Dash ships no types."""


# state --------------------------------------------------------------------------------------------------------------------


def control(page: str, name: str) -> dict[str, str]:
    """Id of a control whose value is part of the page's URL under `name`."""
    return {"page": page, "control": name}


def switch_id(page: str, name: str) -> dict[str, str]:
    """Id of an on/off control; in the URL as `name=1` while on."""
    return {"page": page, "switch": name}


def href(page: str, snapshot: str | int | None = None, **parameters: Any) -> str:
    """A link to a page in a state: href("compare", llm="llama-2-7b") is /compare?llm=llama-2-7b."""
    given = {**parameters, "snapshot": snapshot}
    pairs = [
        f"{key}={quote(','.join(value) if isinstance(value, list) else str(value), safe=',')}"
        for key, value in given.items()
        if value not in (None, "")
    ]
    path = "/" if page == "overview" else f"/{page}"
    return path + ("?" + "&".join(pairs) if pairs else "")


def api(query: str, extension: str, snapshot: str | None, parameters: Mapping[str, Any]) -> str:
    """Address of a named query's rows as a file."""
    return href(f"api/query/{query}.{extension}", snapshot, **parameters)


def listed(params: Params, name: str) -> list[str] | None:
    """A list in the URL (`a,b`); None where it is not there, [] where it is there and empty."""
    if name not in params:
        return None
    return [part for part in params[name].split(",") if part]


def free(value: str | None) -> str | None:
    """A control's value as a query parameter: `any` is NULL."""
    return None if value in (None, "", ANY) else value


def chosen(params: Params, name: str, options: Sequence[str], default: str | None = None) -> str | None:
    """The URL's value where it is an option; the default (or the first option) where the URL is silent.

    Raises StoreError where the URL asks for something that is not there.
    """
    value = params.get(name)
    if value in (None, ""):
        return default if default is not None else (options[0] if options else None)
    if value not in options:
        known = ", ".join(options[:12]) + (f" and {len(options) - 12} more" if len(options) > 12 else "")
        raise StoreError(
            f"The link asks for {name} '{value}', which is not in this lake. Known: {known or 'nothing yet'}."
        )
    return value


# controls -----------------------------------------------------------------------------------------------------------------


def select(
    page: str, name: str, label: str, options: Sequence[Any], value: str | None, *, width: int = 200, about: str = ""
) -> Component:
    """A searchable choice of exactly one."""
    return dmc.Select(
        id=control(page, name), label=label, data=list(options), value=value, allowDeselect=False, searchable=len(options) > 6,
        w={"base": "100%", "xs": width}, description=about or None, size="md", maxDropdownHeight=320, nothingFoundMessage="Nothing of that name",
        comboboxProps={"shadow": "md"},
    )  # fmt: skip


def multi(
    page: str,
    name: str,
    label: str,
    options: Sequence[Any],
    value: list[str],
    *,
    placeholder: str = "",
    width: int = 320,
) -> Component:
    """A searchable choice of several."""
    return dmc.MultiSelect(
        id=control(page, name), label=label, data=list(options), value=value, searchable=True, clearable=True, hidePickedOptions=True,
        placeholder=placeholder if not value else "", w={"base": "100%", "xs": width}, size="md", maxDropdownHeight=320,
        comboboxProps={"shadow": "md"}, nothingFoundMessage="Nothing of that name",
    )  # fmt: skip


def segments(page: str, name: str, label: str, options: Sequence[tuple[str, str]], value: str | None) -> Component:
    """A choice of one among few, all visible. Options are (value, label)."""
    return html.Div(
        [
            html.Div(label, className="rl-label", id=f"{page}-{name}-label"),
            dmc.SegmentedControl(
                id=control(page, name), data=[{"value": key, "label": words} for key, words in options], value=value, size="md",
            ),
        ],
        role="group",
        className="rl-segments",
        **{"aria-labelledby": f"{page}-{name}-label"},
    )  # fmt: skip


def switch(page: str, name: str, label: str, is_on: bool) -> Component:
    return dmc.Switch(id=switch_id(page, name), label=label, checked=is_on, size="md", className="rl-switch")


def number_input(
    page: str, name: str, label: str, value: int | None, *, minimum: int = 1, maximum: int = 1_000_000
) -> Component:
    return dmc.NumberInput(
        id=control(page, name), label=label, value=value if value is not None else "", min=minimum, max=maximum, step=1, size="md",
        allowDecimal=False, allowNegative=False, clampBehavior="strict", w={"base": "100%", "xs": 150}, thousandSeparator=",", debounce=400, hideControls=True,
    )  # fmt: skip


def controls(page: str, snapshot: str | None, *children: Component) -> Component:
    """The strip of controls above a page's content; carries the snapshot the page is pinned to."""
    strip = [dmc.Group([*children], align="flex-end", gap="sm"), controls_hidden(page, snapshot)]
    return dmc.Paper(strip, className="rl-controls", withBorder=True, p="sm")


def controls_hidden(page: str, snapshot: str | None) -> Component:
    """The snapshot a page is pinned to, for the URL."""
    return dcc.Input(id=control(page, "snapshot"), type="hidden", value=snapshot or "")


# page parts ---------------------------------------------------------------------------------------------------------------


def page(title: str, subtitle: Any, *children: Component, snapshot: str | None = None, path: str = "/") -> Component:
    """A page: title, one sentence, link button, and its content."""
    pinned = (
        dmc.Alert(
            ["This link shows the lake as it was at snapshot ", html.B(snapshot), ". ", dmc.Anchor("Show the newest", href=path)],
            color="grape", variant="light", p="xs", className="rl-pinned",
        )
        if snapshot
        else None
    )  # fmt: skip
    return dmc.Stack(
        [
            dmc.Group(
                [
                    html.Div([dmc.Title(title, order=1, className="rl-title"), dmc.Text(subtitle, c="dimmed", className="rl-subtitle")], className="rl-heading"),
                    dmc.Button("Copy link", id="copy-link", variant="default", size="md", n_clicks=0, className="rl-touch"),
                ],
                justify="space-between", align="flex-start", gap="xs", className="rl-head",
            ),
            pinned,
            *children,
        ],
        gap="md",
    )  # fmt: skip


def card(title: Any, *children: Component, about: Any = None, tools: Any = None, name: str | None = None) -> Component:
    """A titled box. `tools` stand at the right of the title."""
    heading = html.Div(
        [
            dmc.Title(title, order=2, className="rl-card-title"),
            dmc.Text(about, size="sm", c="dimmed") if about else None,
        ]
    )
    extra = {"id": name} if name else {}
    return dmc.Paper(
        [dmc.Group([heading, tools], justify="space-between", align="flex-start", gap="xs", className="rl-card-head"), *children],
        withBorder=True, p="md", className="rl-card", **extra,
    )  # fmt: skip


def exports(query: str, snapshot: str | None = None, **parameters: Any) -> Component:
    """Links that download the rows behind what is shown."""
    return dmc.Group(
        [
            html.A(extension.upper(), href=api(query, extension, snapshot, parameters), download=f"{query}.{extension}",
                   className="rl-export", **{"aria-label": f"Download these rows as {extension.upper()}"})
            for extension in ("csv", "json")
        ],
        gap=4, wrap="nowrap",
    )  # fmt: skip


def graph(name: str, figure: go.Figure, label: str, *, min_width: int = 0) -> Component:
    """A chart that follows its box; one click on a point leads to the link or run in its customdata. PNG: the camera in its bar."""
    config = {
        **figures.CONFIG,
        "toImageButtonOptions": {**figures.CONFIG["toImageButtonOptions"], "filename": f"rooflake-{name}"},
    }
    chart = dcc.Graph(
        id={"graph": name},
        figure=figure,
        config=config,
        responsive=True,
        style={"height": f"{figure.layout.height}px", "minWidth": f"{min_width}px"},
    )
    return html.Div(chart, className="rl-graph", role="img", tabIndex=0 if min_width else -1, **{"aria-label": label})


def grid(
    name: str,
    columns: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> Component:
    """A sortable, filterable table, page by page. A `link` column holds {"text", "href"}."""
    options: dict[str, Any] = {
        "theme": {"function": GRID_THEME},
        "suppressFieldDotNotation": True,
        "tooltipShowDelay": 300,
        "enableCellTextSelection": True,
        "ensureDomOrder": True,
        "domLayout": "autoHeight",
        "pagination": len(rows) > PAGE_ROWS,
        "paginationPageSize": PAGE_ROWS,
        "paginationPageSizeSelector": [PAGE_ROWS, 50, 200],
    }
    return dag.AgGrid(
        id={"grid": name},
        columnDefs=[{"width": _width(column, rows), **column} for column in columns],
        rowData=list(rows),
        defaultColDef={"sortable": True, "filter": True, "resizable": True, "minWidth": 80},
        dashGridOptions=options,
        style={"height": None, "width": "100%"},
        className="rl-grid",
    )


def _width(column: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int:
    """Pixels that a column's heading and first values need."""
    heading = len(str(column["headerName"])) * 7.4 + 58
    values = [row.get(str(column["field"])) for row in rows[:200]]
    longest = max(
        (
            len(value["text"] if isinstance(value, Mapping) else value)
            for value in values
            if isinstance(value, str | Mapping)
        ),
        default=0,
    )
    return int(min(380, max(80, heading, longest * 7.6 + 40)))


def text_column(field: str, label: str | None = None, **more: Any) -> dict[str, Any]:
    return {"field": field, "headerName": label or text.words(field), "tooltipField": field, **more}


def number_column(field: str, label: str | None = None, **more: Any) -> dict[str, Any]:
    """Three significant digits, right aligned; NULL is a dash."""
    return {"field": field, "headerName": label or text.words(field), "type": "rightAligned", "filter": "agNumberColumnFilter",
            "valueFormatter": {"function": "rooflakeNumber(params.value)"}, **more}  # fmt: skip


def metric_column(key: str, field: str | None = None, label: str | None = None) -> dict[str, Any]:
    """A stored SI value shown in the metric's display unit, the unit in the heading."""
    metric = BY_KEY[key]
    name = label or metric.label
    heading = f"{name} ({metric.display_unit})" if metric.display_unit and metric.display_unit not in name else name
    return number_column(field or key, heading, valueFormatter={"function": f"rooflakeNumber(params.value, {metric.display_factor!r})"},
                         headerTooltip=metric.definition)  # fmt: skip


def link_column(field: str = "link", label: str = "Run") -> dict[str, Any]:
    return {
        "field": field,
        "headerName": label,
        "cellRenderer": "RooflakeLink",
        "cellDataType": False,
        "filter": False,
        "sortable": False,
        "minWidth": 80,
    }


def kind_column() -> dict[str, Any]:
    return {"field": "source_kind", "headerName": "Kind", "cellRenderer": "RooflakeKind", "minWidth": 120}


def link(words: str, target: str) -> dict[str, str]:
    """A cell of a `link_column`."""
    return {"text": words, "href": target}


def kind_badge(kind: str, words: str | None = None) -> Component:
    return html.Span(
        [html.I(className=f"rl-dot rl-{kind}"), words if words is not None else kind],
        className="rl-kind",
        title=text.KIND_MEANINGS.get(kind),
    )


def stat(
    value: str, label: str, about: str | None = None, kind: str | None = None, target: str | None = None
) -> Component:
    """A headline number."""
    body = [
        html.Div(value, className="rl-stat-value"),
        html.Div([html.I(className=f"rl-dot rl-{kind}") if kind else None, label], className="rl-stat-label"),
        html.Div(about, className="rl-stat-about") if about else None,
    ]
    return dcc.Link(body, href=target, className="rl-stat") if target else html.Div(body, className="rl-stat")


def nothing(sentence: str, command: str | None = None) -> Component:
    """An empty state that says what fills it."""
    parts = [dmc.Text(sentence)]
    if command:
        parts += [
            dmc.Text("This fills it:", size="sm", c="dimmed", mt="xs"),
            dmc.Code(command, block=True, className="rl-command"),
        ]
    return html.Div(parts, className="rl-nothing")


def problem(sentence: str) -> Component:
    """A request that cannot be met, in a sentence."""
    return dmc.Alert([dmc.Text(sentence), dmc.Anchor("Back to the overview", href="/", mt="xs")], title="That cannot be shown",
                     color="orange", variant="light", className="rl-problem")  # fmt: skip


def unread(params: Params, shown: Component) -> Component | None:
    """What a link asks for that the page does not read, named; None where it reads everything or cannot be shown."""
    ids = [getattr(part, "id", None) for part in shown._traverse()]
    known = {str(key.get("control", key.get("switch"))) for key in ids if isinstance(key, dict) and "page" in key}
    strange = [name for name in params if name not in known]
    if not strange or not known:
        return None
    return dmc.Alert(f"The link says {', '.join(strange)}, which this page does not read. It reads {', '.join(sorted(known))}.",
                     color="orange", variant="light", p="xs", mb="md", className="rl-unread")  # fmt: skip


def facts(pairs: Sequence[tuple[str, Any]]) -> Component:
    """Names and values, two columns."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs], className="rl-facts")


def loading(children: Component, name: str) -> Component:
    """A region that a callback fills."""
    return dcc.Loading(
        html.Div(children, id=name, className="rl-region"), type="dot", delay_show=200, color="#4263eb",
        overlay_style={"visibility": "visible", "opacity": 0.5},
    )  # fmt: skip


def guarded(build: Callable[[], Any]) -> Any:
    """What `build` returns, or a clear sentence where it cannot. An unforeseen error goes to the server's log in full."""
    try:
        return build()
    except (StoreError, UnknownEntryError) as error:
        return problem(str(error))
    except Exception as error:
        LOG.exception("A page could not be built.")
        return problem(
            f"This page could not be built ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}). The server's log has the whole story."
        )
