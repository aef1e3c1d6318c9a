"""Tables of kernels that others timed, against the roof of their device: millions of shapes as a few points a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from dash import dcc

from dashboard import components as c
from dashboard import figures, text
from dashboard.data import Lake
from dashboard.measured_figures import SERIES_COLOURS, SERIES_DASHES
from warehouse.metrics import BY_KEY

Row = dict[str, Any]

MOST_TABLES = 12
"""Tables that a chart has room for, those with most shapes first."""
MOST_SHAPES = 500
"""Shapes that the table of a run holds; the export has more."""


def kernels_of(lake: Lake, device: str | None, snapshot: str | None) -> list[str]:
    """Kernels that tables of a device hold, those with most shapes first."""
    return list(dict.fromkeys(row["kernel"] for row in lake.rows("kernel_tables", snapshot, hardware_id=device)))


def cards(
    lake: Lake, device: str | None, kernel: str | None, dtype: str | None, snapshot: str | None
) -> list[c.Component]:
    """Of a device: what each table reached, and how near that is to the roof."""
    asked = {"hardware_id": device, "kernel": kernel, "dtype": dtype}
    tables = lake.rows("kernel_tables", snapshot, **asked)
    if not tables:
        return []
    points = lake.rows("kernel_points", snapshot, **asked)
    above = sum(row["num_above"] for row in tables)
    about = f"{text.plural(sum(row['num_shapes'] for row in tables), 'shape')} in {text.plural(len(tables), 'table')}, shown as {text.plural(len(points), 'point')}. {ABOUT}"
    about += f" {text.plural(above, 'shape')} above the roof: a fault." if above else ""
    shown = [
        {
            **row,
            "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])),
            "above": row["num_above"] or None,
        }
        for row in tables
    ]
    columns = [
        c.link_column(label="Table"), c.kind_column(), c.text_column("kernel"), c.text_column("dtype", "Format"), c.text_column("framework"), c.text_column("framework_version", "Version"), c.text_column("variant"),
        c.number_column("num_shapes", "Shapes"), c.metric_column("achieved_flops_per_s", "best_flops_per_s", "Best"),
        c.metric_column("achieved_bytes_per_s", "best_bytes_per_s", "Best"), c.metric_column("mfu", "share_p50", "Of its roof, median"),
        c.metric_column("mfu", "share_max", "Of its roof, best"), c.number_column("above", "Above its roof"), c.text_column("source_id", "Source"), c.text_column("source_cell", "Cell"),
    ]  # fmt: skip
    used = [column for column in columns if any(row[column["field"]] is not None for row in shown)]
    grid = c.grid("kernel-tables", used, [{column["field"]: row[column["field"]] for column in used} for row in shown])
    body = [*charts(lake, points, device, snapshot), grid]
    return [
        c.card(
            "Timed by others",
            *body,
            about=about,
            tools=c.exports("kernel_points", snapshot, **asked),
            name="kernel-tables",
        )
    ]


ABOUT = (
    "Shapes of half an octave of arithmetic intensity (or size) are one point: the middle one, with a bar from the slowest tenth to the best. "
    "FLOPs and bytes are closed forms."
)


def run_cards(lake: Lake, run_id: str, snapshot: str | None) -> list[c.Component]:
    """Of a run that is a table of kernels: its points under the roof, and its shapes."""
    points = lake.rows("kernel_points", snapshot, run_id=run_id)
    rows = lake.rows("kernel_rows", snapshot, run_id=run_id, most=MOST_SHAPES)
    if not rows:
        return []
    device = lake.rows("run", snapshot, run_id=run_id)[0]["hardware_id"]
    columns = [
        c.number_column("kernel_index", "#"), c.text_column("kernel"), c.text_column("name"), c.text_column("implementation"), c.text_column("phase"),
        *(c.number_column(key) for key in ("batch_size", "m", "n", "k", "input_tokens", "context_tokens", "num_heads", "num_kv_heads", "head_dim", "window_tokens",
                                           "num_experts", "num_active_experts")),
        c.text_column("distribution"), c.number_column("num_devices", "Devices"), c.metric_column("bytes_moved", "size_bytes", "Size"),
        c.metric_column("latency_s", "time_s", "Time"), c.metric_column("achieved_flops_per_s"), c.metric_column("achieved_bytes_per_s"),
        c.metric_column("mfu", "share", "Of its roof"), c.text_column("bound", "Bound by"), c.metric_column("power_avg_w", "power_w", "Power"),
    ]  # fmt: skip
    used = [column for column in columns if any(row[column["field"]] is not None for row in rows)]
    grid = c.grid("kernel-rows", used, [{column["field"]: row[column["field"]] for column in used} for row in rows])
    total = rows[0]["num_all"]
    about = f"{text.plural(total, 'shape')}. {ABOUT}"
    about += f" The table holds {text.count(len(rows))} of them, evenly picked." if total > len(rows) else ""
    link = dcc.Link("All tables of this device", href=c.href("machine", snapshot, device=device), className="rl-link")
    body = [*charts(lake, points, device, snapshot), grid, link]
    return [
        c.card(
            "The shapes of this table",
            *body,
            about=about,
            tools=c.exports("kernel_rows", snapshot, run_id=run_id),
            name="kernel-rows",
        )
    ]


def charts(lake: Lake, points: Sequence[Row], device: str | None, snapshot: str | None) -> list[c.Component]:
    """One chart of what computes, under the roof, and one of copies and collectives, by size."""
    drawn = []
    if computing := [row for row in points if row["has_flops"]]:
        dtypes = sorted({row["dtype"] for row in computing if row["dtype"]})
        roofs = lake.rows("roof_list", snapshot, hardware_ids=[device or ""], dtypes=dtypes)
        drawn.append(
            c.graph(
                "kernel-roof",
                roofline(computing, roofs),
                "Points: what timed kernels reached, under the roof of their device",
                min_width=320,
            )
        )
    if moving := [row for row in points if not row["has_flops"]]:
        drawn.append(
            c.graph(
                "kernel-sizes",
                sizes(moving),
                "Lines: bandwidth of timed copies and collectives against size",
                min_width=320,
            )
        )
    return drawn


def roofline(points: Sequence[Row], roofs: Sequence[Row]) -> go.Figure:
    """What tables of kernels reached over arithmetic intensity (log-log, TFLOP/s), under the roofs of their device.

    Points: rows of the query `kernel_points` with FLOPs. Roofs: rows of the query `roof_list`.
    """
    figure = go.Figure()
    low, high = min(row["x"] for row in points), max(row["x"] for row in points)
    for row in roofs:
        ends = [min(low, row["ridge"] / 4), row["ridge"], max(high, row["ridge"] * 4)]
        figure.add_scatter(
            x=ends, y=[min(x * row["bandwidth_bytes_per_s"], row["peak_flops_per_s"]) / 1e12 for x in ends], mode="lines",
            name=f"roof, {row['dtype']}", line={"color": "#868e96", "width": 2, "dash": "dash"}, hoverinfo="skip",
        )  # fmt: skip
    _add_tables(figure, points, 1e12, "TFLOP/s")
    figures.styled(figure, height=420 + 12 * len(figure.data))
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title="Arithmetic intensity (FLOP/B)", type="log", dtick=1)
    figure.update_yaxes(title="Achieved TFLOP/s", type="log", dtick=1, exponentformat="none")
    return figure


def sizes(points: Sequence[Row]) -> go.Figure:
    """What tables of copies and collectives reached over their size (log-log, GB/s). Rows of the query `kernel_points` without FLOPs."""
    figure = go.Figure()
    _add_tables(figure, points, 1e9, "GB/s")
    figures.styled(figure, height=360 + 12 * len(figure.data))
    figure.update_layout(showlegend=True)
    span = [row["x"] for row in points]
    ticks = [2.0**power for power in range(0, 48, 4) if min(span) / 16 <= 2.0**power <= max(span) * 16]
    figure.update_xaxes(title="Bytes", type="log", tickvals=ticks, ticktext=[text.quantity(BY_KEY["bytes_moved"], tick) for tick in ticks],
                        range=[math.log10(min(span) / 2), math.log10(max(span) * 2)])  # fmt: skip
    figure.update_yaxes(
        title="Bytes over time (GB/s)", type="log", **figures.log_ticks([row["y_p50"] / 1e9 for row in points])
    )
    return figure


def _add_tables(figure: go.Figure, points: Sequence[Row], unit: float, unit_name: str) -> None:
    shapes: dict[tuple[str, str], int] = {}
    for row in points:
        key = row["run_id"], row["kernel"]
        shapes[key] = shapes.get(key, 0) + row["num_shapes"]
    faulty: list[Row] = []
    for index, (run_id, kernel) in enumerate(sorted(shapes, key=lambda key: -shapes[key])[:MOST_TABLES]):
        mine = [row for row in points if (row["run_id"], row["kernel"]) == (run_id, kernel)]
        faulty += [row for row in mine if row["num_above"]]
        figure.add_scatter(
            x=[row["x"] for row in mine], y=[row["y_p50"] / unit for row in mine], mode="lines+markers" if len(mine) > 1 else "markers",
            name=figures.wrapped(_name(mine[0]), 40),
            line={"color": SERIES_COLOURS[index % len(SERIES_COLOURS)], "width": 1.5, "dash": SERIES_DASHES[index // len(SERIES_COLOURS)]},
            marker={"size": 7, "symbol": figures.KIND_SYMBOLS[mine[0]["source_kind"]]},
            error_y={"type": "data", "symmetric": False, "array": [(row["y_max"] - row["y_p50"]) / unit for row in mine],
                     "arrayminus": [(row["y_p50"] - row["y_p10"]) / unit for row in mine], "thickness": 1, "width": 3},
            customdata=[[run_id, _hover(row, unit, unit_name)] for row in mine], hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    if faulty:
        figure.add_scatter(x=[row["x"] for row in faulty], y=[row["y_max"] / unit for row in faulty], mode="markers", hoverinfo="skip",
                           name="best is above its roof: data fault",
                           marker={"symbol": "circle-open", "size": 18, "color": figures.FAULT_COLOUR, "line": {"width": 2.5}})  # fmt: skip


def _name(row: Row) -> str:
    engine = " ".join(filter(None, (row["framework"], row["framework_version"])))
    return ", ".join(filter(None, (text.words(row["kernel"]), row["dtype"], row["variant"], engine)))


def _hover(row: Row, unit: float, unit_name: str) -> str:
    low, middle, best = (text.number(row[key] / unit) for key in ("y_p10", "y_p50", "y_max"))
    parts = [
        f"<b>{_name(row)}</b>",
        text.plural(row["num_shapes"], "shape"),
        f"{middle} {unit_name} in the middle, slowest tenth {low}, best {best}",
    ]
    if row["share_p50"] is not None:
        parts.append(f"{100 * row['share_p50']:.0f} % of the roof in the middle, best {100 * row['share_max']:.0f} %")
    if row["num_above"]:
        parts.append(f"{text.plural(row['num_above'], 'shape')} above the roof: a fault")
    return "<br>".join([*parts, ", ".join(filter(None, (row["source_id"], row["source_cell"])))])
