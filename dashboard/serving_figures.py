"""Charts of served loads: latency over load, its distribution over requests, throughput against interactivity, goodput, quality, and the
requests of one run over time.

Pure functions like those of `dashboard.figures`: rows in SI units in, a `go.Figure` out. A row's `series` is the line it belongs to, `hover`
what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard import figures, text
from dashboard.measured_figures import SERIES_COLOURS, SERIES_DASHES, STATUS_COLOURS
from warehouse.metrics import BY_KEY, Metric

Row = Mapping[str, Any]

AXES = {
    "concurrency": "Requests at once",
    "request_rate_per_s": "Requests/s offered",
    "concurrency_mean": "Requests in flight, mean",
    "output_tokens_per_s": "Output tokens/s",
}
"""What a load can be counted in: column, title of the axis."""
MOST_LINES = len(SERIES_COLOURS)
"""Series that a chart has room for: one colour each."""
STEADY_COLOUR = "#2b9a66"


def load_curves(rows: Sequence[Row], x: str, metric: Metric, column: str) -> go.Figure:
    """One statistic of a latency (`column`) over the load `x`, one line a series; saturated, busy and faulty points are ringed."""
    dots = [row for row in rows if row[x] is not None and row[column] is not None]
    if not dots:
        return figures.empty(f"No load here knows its {metric.label} over {AXES[x].lower()}.")
    figure = go.Figure()
    for name, points, look in _by_series(dots):
        mine = sorted(points, key=lambda row: row[x])
        figure.add_scatter(
            x=[row[x] for row in mine], y=[row[column] * metric.display_factor for row in mine], name=name, **look,
            mode=_mode([row[x] for row in mine]),
            customdata=[[row["run_id"], row["hover"]] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    places = [(row, row[x], row[column] * metric.display_factor) for row in dots]
    figures.add_rings(figure, places)
    _styled(figure)
    figure.update_xaxes(title=AXES[x], **_log_where_wide([row[x] for row in dots]))
    values = [row[column] * metric.display_factor for row in dots]
    figure.update_yaxes(title=metric.axis(), rangemode="tozero", **_log_where_wide(values))
    figure.update_layout(showlegend=True)
    return figure


def cdf(rows: Sequence[Row], metric: Metric) -> go.Figure:
    """Share of requests under a latency, one line a run. Rows of the query `serving_cdf` with series and source_kind."""
    if not rows:
        return figures.empty(f"No request of this load has its {metric.label} here.")
    figure = go.Figure()
    for name, mine, look in _by_series(rows):
        figure.add_scatter(
            x=[row["value_s"] * metric.display_factor for row in mine], y=[row["percentile"] for row in mine], mode="lines", name=name,
            line={**look["line"], "shape": "hv"}, customdata=[[row["run_id"], row["hover"]] for row in mine],
            hovertemplate=f"%{{customdata[1]}}<br>%{{y}} % within %{{x:.4g}} {metric.display_unit}<extra></extra>",
        )  # fmt: skip
    _styled(figure)
    figure.update_xaxes(
        title=metric.axis(),
        rangemode="tozero",
        **_log_where_wide([row["value_s"] * metric.display_factor for row in rows]),
    )
    figure.update_yaxes(title="Requests (%)", range=[0, 102])
    figure.update_layout(showlegend=True)
    return figure


def pareto(rows: Sequence[Row]) -> go.Figure:
    """Output tokens/s per device against tokens/s of one user (1 / TPOT), one line a series, dashed the best of all.

    Rows: interactivity (1/s), output_tokens_per_s_per_device, concurrency, request_rate_per_s, num_faults.
    """
    if not rows:
        return figures.empty("No load here knows both its TPOT and its output tokens/s.")
    figure = go.Figure()
    for name, points, look in _by_series(rows):
        mine = sorted(points, key=_load_order)
        figure.add_scatter(
            x=[row["interactivity"] for row in mine], y=[row["output_tokens_per_s_per_device"] for row in mine], name=name, **look,
            mode=_mode([row["load_words"] for row in mine]),
            customdata=[[row["run_id"], row["hover"]] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    best = frontier(
        [(row["interactivity"], row["output_tokens_per_s_per_device"]) for row in rows if not row["num_faults"]]
    )
    if len(best) > 1:
        figure.add_scatter(x=[x for x, _ in best], y=[y for _, y in best], mode="lines", name="best of all", hoverinfo="skip",
                           line={"color": "#868e96", "dash": "dash", "width": 3}, opacity=0.6)  # fmt: skip
    figures.add_rings(figure, [(row, row["interactivity"], row["output_tokens_per_s_per_device"]) for row in rows])
    _styled(figure)
    figure.update_xaxes(title="Tokens/s of one user (1 / TPOT)", rangemode="tozero")
    figure.update_yaxes(title="Output tokens/s per device", rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both directions, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best[::-1]


def goodput(rows: Sequence[Row], key: str) -> go.Figure:
    """The most of a goodput metric that each series reached, one colour for each set of objectives. Rows: label, objectives, the metric."""
    metric = BY_KEY[key]
    if not rows:
        return figures.empty("No load here was held against objectives.")
    figure = go.Figure()
    labels = list(dict.fromkeys(figures.wrapped(row["label"], 18) for row in rows))
    for index, objectives in enumerate(dict.fromkeys(row["objectives"] for row in rows)):
        mine = [row for row in rows if row["objectives"] == objectives]
        figure.add_bar(
            y=[figures.wrapped(row["label"], 18) for row in mine], x=[row[key] * metric.display_factor for row in mine], orientation="h",
            name=figures.wrapped(objectives or "objectives not stated", 40), marker={"color": SERIES_COLOURS[index % len(SERIES_COLOURS)]},
            text=[row["load_words"] for row in mine], textposition="auto",
            customdata=[[row["run_id"], row["hover"]] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    figures.styled(figure, height=130 + 24 * len(figure.data) + sum(30 + 16 * label.count("<br>") for label in labels))
    figure.update_layout(barmode="group", showlegend=True)
    figure.update_xaxes(title=metric.axis(), rangemode="tozero", nticks=5, tickangle=0)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def quality(rows: Sequence[Row], task: str, metric: str) -> go.Figure:
    """A score against output tokens/s per device. Rows of the query `serving_quality` of one task and metric, with series and hover."""
    dots = [row for row in rows if row["output_tokens_per_s_per_device"] is not None]
    if not dots:
        return figures.empty("No scored model has a throughput in this lake.")
    figure = go.Figure()
    for name, mine, look in _by_series(dots):
        figure.add_scatter(
            x=[row["output_tokens_per_s_per_device"] for row in mine], y=[row["value"] for row in mine], mode="markers", name=name,
            marker={**look["marker"], "size": 12},
            error_y={"type": "data", "array": [row["stderr"] for row in mine], "visible": any(row["stderr"] for row in mine), "thickness": 1.5},
            customdata=[[row["run_id"], row["hover"]] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    _styled(figure)
    figure.update_xaxes(title="Output tokens/s per device", rangemode="tozero")
    figure.update_yaxes(title=f"{task}: {metric}")
    figure.update_layout(showlegend=True)
    return figure


# one run ------------------------------------------------------------------------------------------------------------------


def over_time(rows: Sequence[Row], keys: Sequence[str], steady: tuple[float, float] | None) -> go.Figure:
    """Latencies of requests over when each was sent; warm-up hollow, failures as crosses on the zero line in the colour of their class.

    Rows of the query `serving_requests`. `steady` is the steady window (from, to) in seconds from the run's start, shaded.
    """
    sent = [row for row in rows if row["sent_at_s"] is not None]
    if not sent:
        return figures.empty("This run did not keep when its requests were sent.")
    figure = go.Figure()
    done = [row for row in sent if row["status"] == "ok"]
    for key, colour in zip(keys, SERIES_COLOURS, strict=False):
        metric = BY_KEY[key]
        for phase, symbol in (("measured", "circle"), ("warmup", "circle-open")):
            mine = [row for row in done if row["sample_phase"] == phase and row[key] is not None]
            if mine:
                figure.add_scatter(
                    x=[row["sent_at_s"] for row in mine], y=[row[key] * metric.display_factor for row in mine], mode="markers",
                    name=metric.label if phase == "measured" else f"{metric.label}, warm-up",
                    marker={"color": colour, "symbol": symbol, "size": 6 if len(mine) < 400 else 4, "opacity": 0.75},
                    customdata=[[None, _request_hover(row)] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
                )  # fmt: skip
    for status in dict.fromkeys(row["status"] for row in sent if row["status"] != "ok"):
        mine = [row for row in sent if row["status"] == status]
        figure.add_scatter(
            x=[row["sent_at_s"] for row in mine], y=[0.0] * len(mine), mode="markers", name=f"failed: {status}", cliponaxis=False,
            marker={"symbol": "x", "size": 10, "color": STATUS_COLOURS.get(status, figures.FAULT_COLOUR)},
            customdata=[[None, _request_hover(row)] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    figures.styled(figure, height=360 + 8 * len(figure.data))
    _shade(figure, steady)
    figure.update_xaxes(title="Sent, seconds from the run's start", rangemode="tozero")
    figure.update_yaxes(title="Latency (ms)", rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def in_flight(rows: Sequence[Row], steady: tuple[float, float] | None) -> go.Figure:
    """Requests in flight over the time of a run. Rows of the query `serving_in_flight`."""
    if not rows:
        return figures.empty("This run did not keep when its requests were sent and when they ended.")
    figure = go.Figure()
    figure.add_scatter(
        x=[row["at_s"] for row in rows], y=[row["in_flight"] for row in rows], mode="lines", line={"shape": "hv", "color": SERIES_COLOURS[0], "width": 2},
        name="in flight", hovertemplate="%{x:.2f} s: %{y} in flight<extra></extra>",
    )  # fmt: skip
    figures.styled(figure, height=260)
    _shade(figure, steady)
    figure.update_xaxes(title="Seconds from the run's start", rangemode="tozero")
    figure.update_yaxes(title="Requests in flight", rangemode="tozero")
    return figure


def _shade(figure: go.Figure, steady: tuple[float, float] | None) -> None:
    if steady is not None:
        figure.add_vrect(
            x0=steady[0],
            x1=steady[1],
            fillcolor=STEADY_COLOUR,
            opacity=0.12,
            line_width=0,
            annotation_text="steady",
            annotation_position="top left",
        )


def _request_hover(row: Row) -> str:
    parts = [
        f"<b>request {row['request_index']}</b>, {'warm-up' if row['sample_phase'] == 'warmup' else row['status']}"
    ]
    for key in ("ttft_s", "tpot_s", "e2el_s"):
        if row[key] is not None:
            parts.append(f"{BY_KEY[key].label}: {text.quantity(BY_KEY[key], row[key])}")
    counts = [
        f"{row[key]} {words}"
        for key, words in (("input_tokens", "in"), ("output_tokens", "out"))
        if row[key] is not None
    ]
    if counts:
        parts.append(f"tokens: {', '.join(counts)}")
    if row["http_status"] is not None and row["status"] != "ok":
        parts.append(f"HTTP {row['http_status']}")
    if row["status_detail"]:
        parts.append(figures.wrapped(row["status_detail"], 60))
    return "<br>".join(parts)


# shared -------------------------------------------------------------------------------------------------------------------


def _by_series(rows: Sequence[Row]) -> list[tuple[str, list[Row], dict[str, Any]]]:
    """Series that there is room for, each with its rows and its look: colour, dash, the symbol of its kind.

    `place` of a row is the place of its series among all of the page, so that it keeps its colour from chart to chart where there is room for
    all; `dash` tells lines of one series apart.
    """
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row["series"], []).append(row)
    shown = sorted(series, key=lambda name: series[name][0].get("place", 0))[:MOST_LINES]
    places = [series[name][0].get("place", order) for order, name in enumerate(shown)]
    found = []
    for order, (name, place) in enumerate(zip(shown, places, strict=True)):
        mine = series[name]
        colour = SERIES_COLOURS[place if max(places) < MOST_LINES else order]
        look = {
            "line": {"color": colour, "width": 2, "dash": SERIES_DASHES[mine[0].get("dash", 0)]},
            "marker": {"color": colour, "size": 8, "symbol": figures.KIND_SYMBOLS[mine[0]["source_kind"]]},
        }
        found.append((figures.wrapped(name, 58), mine, look))
    return found


def _mode(values: Sequence[Any]) -> str:
    """Points of one series are joined where each load is there once."""
    return "lines+markers" if 1 < len(values) == len(set(values)) else "markers"


def _load_order(row: Row) -> tuple[float, float, float]:
    """Sort key: from the least load to the most."""
    return row["concurrency"] or 0.0, row["request_rate_per_s"] or 0.0, -row["interactivity"]


def _styled(figure: go.Figure) -> None:
    """The shared look, as high as its legend needs."""
    lines = sum(1 + str(trace.name).count("<br>") for trace in figure.data)
    figures.styled(figure, height=330 + 16 * lines)
    figure.update_layout(legend={"font": {"size": 11}, "maxheight": 16 * lines + 40})


def _log_where_wide(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where the largest value is many times the smallest, else nothing."""
    if min(values) <= 0 or max(values) / min(values) <= figures.LOG_FROM:
        return {}
    return {"type": "log", **figures.log_ticks(values)}
