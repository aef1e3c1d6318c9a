"""Charts as pure functions: an Arrow table in, a `go.Figure` out. Values are SI in the table and converted here.

One colour and one symbol per source kind, everywhere. The first customdata entry of a point is the run it stands for (or a link), so that a
click leads to its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
from plotly.colors import sample_colorscale

from dashboard import text
from warehouse.metrics import BY_KEY, Metric

Row = Mapping[str, Any]

KIND_COLOURS = {"measured": "#1c7ed6", "published": "#e8790c", "analytical": "#2b9a66", "predicted": "#ae3ec9"}
KIND_SYMBOLS = {
    "measured": "circle",
    "published": "diamond",
    "analytical": "line-ns-open",
    "predicted": "triangle-up-open",
}
KIND_PATTERNS = {"measured": "", "published": "/", "analytical": "\\", "predicted": "x"}
DEVICE_COLOURS = (
    "#495057",
    "#862e9c",
    "#0b7285",
    "#a61e4d",
    "#5c940d",
    "#364fc7",
    "#d9480f",
    "#087f5b",
    "#5f3dc4",
    "#c2255c",
)
SHADES, UNKNOWN_COLOUR = "YlGnBu", "#ced4da"
FAULT_COLOUR = "#e03131"
BUSY_COLOUR = "#868e96"
ABOVE_COLOUR = "#f08c00"
"""Above what was reached on a device, below what its datasheet says."""
ESTIMATE_COLOUR = "#8fcfae"
"""The analytical estimate, paler than the bound it belongs to."""
FLAG_COLOURS = {
    "measured": KIND_COLOURS["measured"],
    "outlier": "#f08c00",
    "throttled": "#e03131",
    "warm-up": "#868e96",
}
"""Raw repeats by what is to be known of them."""
MEMORY_COLOURS = {
    "weights_bytes": "#364fc7", "kv_cache_bytes": "#0b7285", "activation_peak_bytes": "#74b816", "gradients_bytes": "#f59f00",
    "optimizer_bytes": "#d9480f", "workspace_bytes": "#868e96",
}  # fmt: skip
"""Parts of a device's memory, in the order they are stacked."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
INK, GRID = "#343a40", "#e9ecef"
EVIDENCE = ("analytical", "predicted", "published", "measured")
"""Kinds of truth, the strongest last."""
EVIDENCE_COLOURS = {**KIND_COLOURS, "analytical": "rgba(43, 154, 102, 0.22)"}
"""Colours of whole cells: what is only computed stays in the background."""
MOST_COVERED_LLMS, MOST_COVERED_DEVICES = 24, 20
"""What the coverage matrix has room for on a first screen."""
MOST_DEVICES = 24
"""Devices that a comparison has room for."""
LOG_FROM = 15.0
"""A value axis is logarithmic by itself where the largest value is this many times the smallest."""

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "sendDataToCloud"],
    "toImageButtonOptions": {"format": "png", "scale": 2},
}
"""Options of every graph. The share button uploads a chart to a server elsewhere unless it is switched off."""


def empty(message: str) -> go.Figure:
    """A chart with a sentence in the place of data."""
    figure = styled(go.Figure(), height=220)
    figure.add_annotation(
        text=wrapped(message), x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14}
    )
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure


def coverage(rows: pa.Table, is_whole: bool = False) -> go.Figure:
    """LLM x device, coloured by the strongest kind of truth there (`EVIDENCE`), a symbol where something was observed or predicted.

    Rows: llm_id, hardware_id, llm_name, hardware_name, source_kind, num_runs. Unless whole, the LLMs and devices known best.
    """
    cells = _cells(rows)
    if not cells:
        return empty("No rows of this kind yet.")
    llm_names = dict(zip(rows.column("llm_id").to_pylist(), rows.column("llm_name").to_pylist(), strict=True))
    device_names = dict(
        zip(rows.column("hardware_id").to_pylist(), rows.column("hardware_name").to_pylist(), strict=True)
    )
    llms, devices = covered(rows, is_whole)
    best = {place: max(map(EVIDENCE.index, counts)) for place, counts in cells.items()}
    details = {
        (llm, device): [_link("compare", llm=llm, devices=device), _cell(cells, llm, device, llm_names, device_names)]
        for llm in llms
        for device in devices
    }
    figure = go.Figure(
        go.Heatmap(
            z=[[best.get((llm, device)) for device in devices] for llm in llms],
            x=devices,
            y=llms,
            zmin=-0.5,
            zmax=len(EVIDENCE) - 0.5,
            customdata=[[details[llm, device] for device in devices] for llm in llms],
            hovertemplate="%{customdata[1]}<extra></extra>",
            hoverongaps=False,
            colorscale=[
                [(step + side) / len(EVIDENCE), EVIDENCE_COLOURS[kind]]
                for step, kind in enumerate(EVIDENCE)
                for side in (0, 1)
            ],
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    for strength, kind in reversed(list(enumerate(EVIDENCE))):
        marked = [place for place in details if best.get(place) == strength]
        if not marked:
            continue
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=kind if kind != "analytical" else "analytical only",
            marker={"symbol": "square", "size": 13, "color": EVIDENCE_COLOURS[kind]},
        )  # fmt: skip
        if kind != "analytical":
            figure.add_scatter(
                x=[device for _, device in marked],
                y=[llm for llm, _ in marked],
                mode="markers",
                showlegend=False,
                name=kind,
                marker={"symbol": KIND_SYMBOLS[kind].removesuffix("-open"), "size": 7, "color": "#ffffff"},
                customdata=[details[place] for place in marked],
                hovertemplate="%{customdata[1]}<extra></extra>",
            )
    styled(figure, height=40 + 14 * max(8, len(llms)) + 120)
    figure.update_layout(legend={"yref": "container", "y": 1, "yanchor": "top"}, margin={"t": 34})
    figure.update_xaxes(
        type="category", tickvals=devices, ticktext=[_cut(text.short_device(device_names[key]), 20) for key in devices],
        tickangle=-45, showgrid=False, tickfont={"size": 12}, range=[-0.5, len(devices) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(
        type="category", tickvals=llms, ticktext=[_cut(llm_names[key], 26) for key in llms], showgrid=False, tickfont={"size": 12},
        range=[len(llms) - 0.5, -0.5],
    )  # fmt: skip
    return figure


def covered(rows: pa.Table, is_whole: bool = False) -> tuple[list[str], list[str]]:
    """LLMs and devices of a coverage matrix, those known best first: by what was measured, published, predicted, then computed."""
    cells = _cells(rows)

    def ranked(side: int, most: int) -> list[str]:
        known = {place[side]: [0] * len(EVIDENCE) for place in cells}
        for place, counts in cells.items():
            for kind in counts:
                known[place[side]][len(EVIDENCE) - 1 - EVIDENCE.index(kind)] += 1
        names = sorted(known, key=lambda key: ([-number for number in known[key]], key))
        return names if is_whole else names[:most]

    return ranked(0, MOST_COVERED_LLMS), ranked(1, MOST_COVERED_DEVICES)


def kinds(rows: pa.Table) -> go.Figure:
    """Rows of each kind and collector as one bar per kind. Rows: source_kind, collector, num_runs."""
    figure = go.Figure()
    table = rows.to_pylist()
    for kind in text.KINDS:
        for row in (row for row in table if row["source_kind"] == kind):
            figure.add_bar(
                y=[kind], x=[row["num_runs"]], orientation="h", marker={"color": KIND_COLOURS[kind], "line": {"width": 1, "color": "#fff"}},
                hovertemplate=f"<b>{row['collector']}</b><br>{text.plural(row['num_runs'], 'row')}<extra></extra>", showlegend=False,
            )  # fmt: skip
    styled(figure, height=200)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="Rows", type="linear")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def compare(rows: pa.Table, metric: Metric, scale: str = "auto", with_definitions: bool = False) -> go.Figure:
    """Devices under one another, the best on top; every run a marker in the colour of its kind, bars where a spread is known.

    Rows: run_id, source_kind, device, unstated, the metric's column and its `std`, `lower`, `upper` columns, where it has
    them. x is in `metric.display_unit`; y is the device's position, one third of a line apart between kinds. A grey line joins
    the bound of a device to the best value observed there. A marker is hollow where its source leaves part of the workload
    unstated, ringed where its machine was busy, a check found a fault in it, or it is kept out of charts; `with_definitions` marks
    which definition each value follows. Of latencies, the estimate of an analytical row stands beside its bound as a pale tick with its interval.
    """
    points = [row for row in rows.to_pylist() if row[metric.key] is not None]
    if not points:
        return empty(f"No row here has {metric.label.lower()}.")
    devices = ranked_devices(points, metric)[:MOST_DEVICES]
    points = [row for row in points if row["device"] in devices]
    place = {device: len(devices) - 1 - index for index, device in enumerate(devices)}
    present = [kind for kind in text.KINDS if any(row["source_kind"] == kind for row in points)]
    figure = go.Figure()
    _add_gaps(figure, points, metric, place, present)
    for kind in present:
        mine = [row for row in points if row["source_kind"] == kind]
        figure.add_scatter(
            x=[row[metric.key] * metric.display_factor for row in mine],
            y=[place[row["device"]] + _dodge(kind, present) for row in mine],
            error_x=_error_bars([_spread(row, metric) for row in mine]),
            mode="markers",
            name=kind,
            marker=_marker(kind, 13 if kind != "analytical" else 18) | {"symbol": [_symbol(row) for row in mine]},
            customdata=[[row["run_id"], _compare_hover(row, metric)] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    places = [
        (row, row[metric.key] * metric.display_factor, place[row["device"]] + _dodge(row["source_kind"], present))
        for row in points
    ]
    add_rings(figure, places)
    if with_definitions:
        _add_definitions(figure, places, metric)
    values = [row[metric.key] * metric.display_factor for row in points]
    values += _add_estimates(figure, points, metric, place, present)
    is_log = scale == "log" or (scale == "auto" and min(values) > 0 and max(values) / min(values) > LOG_FROM)
    styled(figure, height=130 + (46 if len(devices) <= 12 else 36) * len(devices))
    figure.update_xaxes(title=_axis(metric), type="log" if is_log else "linear", rangemode="tozero")
    if is_log:
        figure.update_xaxes(**log_ticks(values))
    figure.update_yaxes(
        tickvals=list(place.values()), ticktext=[wrapped(text.short_device(name), 22) for name in place], range=[-0.6, len(devices) - 0.4], showgrid=False,
        zeroline=False, automargin=True,
    )  # fmt: skip
    for line in range(1, len(devices)):
        figure.add_hline(y=line - 0.5, line={"color": GRID, "width": 1}, layer="below")
    return figure


def ranked_devices(rows: Iterable[Row], metric: Metric) -> list[str]:
    """Devices, the best first: those where something was observed, then those that only have a bound."""
    best: dict[str, tuple[int, float]] = {}
    for row in rows:
        value = row[metric.key]
        if value is None:
            continue
        rank = (1 if row["source_kind"] == "analytical" else 0, -value if metric.better == "higher" else value)
        best[row["device"]] = min(best.get(row["device"], rank), rank)
    return sorted(best, key=lambda device: (best[device], device))


def roofline(roofs: pa.Table, points: pa.Table, metric_name: str = "run", with_ceilings: bool = True) -> go.Figure:
    """Roofs (log-log) with points under them; a point above its own roof is ringed in red, one above what was reached on its
    device (a roof of fine dashes) in amber.

    Roofs: rows of the query `roof_list`. Points: source_kind, label, intensity (FLOP/B), achieved_flops_per_s, roof_flops_per_s,
    ridge, is_fault, is_above_measured_roof, achievable_flops_per_s, link; y is in TFLOP/s.
    """
    dots = [row for row in points.to_pylist() if _positive(row["intensity"]) and _positive(row["achieved_flops_per_s"])]
    lines = roofs.to_pylist()
    if not lines and not dots:
        return empty("Choose a device to see its roof.")
    low, high = _intensity_range(lines, dots)
    figure = go.Figure()
    colours = {
        name: DEVICE_COLOURS[i % len(DEVICE_COLOURS)]
        for i, name in enumerate(dict.fromkeys(row["hardware_name"] for row in lines))
    }
    dashes = {
        dtype: ("solid", "dash", "dot", "dashdot", "longdash")[i % 5]
        for i, dtype in enumerate(dict.fromkeys(r["dtype"] for r in lines))
    }
    for row in lines:
        figure.add_scatter(
            x=[low, row["ridge"], high],
            y=[
                low * row["bandwidth_bytes_per_s"] / 1e12,
                row["peak_flops_per_s"] / 1e12,
                row["peak_flops_per_s"] / 1e12,
            ],
            mode="lines",
            name=wrapped(f"{text.short_device(row['hardware_name'])}, {row['dtype']}", 32),
            legendgroup="roofs",
            line={"color": colours[row["hardware_name"]], "width": 2, "dash": dashes[row["dtype"]]},
            hovertemplate=(
                f"<b>{row['hardware_name']}</b>, {row['dtype']}<br>{text.number(row['peak_flops_per_s'] / 1e12)} TFLOP/s peak<br>"
                f"{text.number(row['bandwidth_bytes_per_s'] / 1e9)} GB/s<br>ridge at {text.number(row['ridge'])} FLOP/B<extra></extra>"
            ),
        )
    for row in lines:
        if with_ceilings and row["has_ceiling"]:
            _add_ceiling(figure, row, low, high, colours[row["hardware_name"]])
    for kind in text.KINDS:
        mine = [row for row in dots if row["source_kind"] == kind]
        if mine:
            figure.add_scatter(
                x=[row["intensity"] for row in mine],
                y=[row["achieved_flops_per_s"] / 1e12 for row in mine],
                mode="markers",
                name=f"{kind} {metric_name}s",
                legendgroup="points",
                marker=_roof_marker(kind, mine),
                customdata=[[row["link"], _roof_hover(row)] for row in mine],
                hovertemplate="%{customdata[1]}<extra></extra>",
            )
    above = [row for row in dots if with_ceilings and row["is_above_measured_roof"] and not row["is_fault"]]
    for mine, name, colour in (
        (above, "above what was reached on its device", ABOVE_COLOUR),
        ([row for row in dots if row["is_fault"]], "above its own roof: data fault", FAULT_COLOUR),
    ):
        _add_ring(figure, [(row["intensity"], row["achieved_flops_per_s"] / 1e12) for row in mine], name, colour, 20)
    add_rings(figure, [(row, row["intensity"], row["achieved_flops_per_s"] / 1e12) for row in dots])
    styled(figure, height=560)
    figure.update_xaxes(
        title="Arithmetic intensity (FLOP/B)", type="log", range=[math.log10(low), math.log10(high)], dtick=1
    )
    figure.update_yaxes(title="Achieved TFLOP/s", type="log", dtick=1, exponentformat="none")
    return figure


def _add_ceiling(figure: go.Figure, row: Row, low: float, high: float, colour: str) -> None:
    """What microbenchmarks reached on a device: the achievable roof."""
    peak, bandwidth, ridge = (
        row["achievable_peak_flops_per_s"],
        row["achievable_bandwidth_bytes_per_s"],
        row["achievable_ridge"],
    )
    figure.add_scatter(
        x=[low, ridge, high],
        y=[low * bandwidth / 1e12, peak / 1e12, peak / 1e12],
        mode="lines",
        name=wrapped(f"{text.short_device(row['hardware_name'])}, {row['dtype']}, as measured", 32),
        legendgroup="roofs",
        line={"color": colour, "width": 1.5, "dash": "4px,4px"},
        hovertemplate=(
            f"<b>{row['hardware_name']}</b>, {row['dtype']}, reached by microbenchmarks<br>{text.number(peak / 1e12)} TFLOP/s<br>"
            f"{text.number(bandwidth / 1e9)} GB/s<br>ridge at {text.number(ridge)} FLOP/B<extra></extra>"
        ),
    )


def add_rings(figure: go.Figure, places: Sequence[tuple[Row, float, float]]) -> None:
    """Rings around points (row, x, y) of which something must be known: saturated, busy machine, a fault found, kept out of charts."""
    for name, colour, size, is_so in (
        ("saturated", ABOVE_COLOUR, 16, lambda row: row.get("is_saturated")),
        ("busy machine", BUSY_COLOUR, 19, lambda row: text.busy(row.get("other_load_ratio"))),
        ("a check found a fault", FAULT_COLOUR, 22, lambda row: row.get("num_faults")),
        ("kept out of charts", INK, 25, lambda row: row.get("is_excluded")),
    ):
        _add_ring(figure, [(x, y) for row, x, y in places if is_so(row)], name, colour, size)


def _add_definitions(figure: go.Figure, places: Sequence[tuple[Row, float, float]], metric: Metric) -> None:
    """Squares around observed points, a colour for each definition that their values follow."""
    by_definition: dict[str, list[tuple[float, float]]] = {}
    for row, x, y in places:
        if row["source_kind"] in ("measured", "published"):
            followed = dict(row["metric_definitions"] or []).get(metric.key) or "unknown"
            by_definition.setdefault(followed, []).append((x, y))
    for index, (name, points) in enumerate(by_definition.items()):
        _add_ring(
            figure, points, wrapped(f"as {name}", 32), DEVICE_COLOURS[index % len(DEVICE_COLOURS)], 21, "square-open"
        )


def _add_ring(
    figure: go.Figure,
    points: Sequence[tuple[float, float]],
    name: str,
    colour: str,
    size: int,
    symbol: str = "circle-open",
) -> None:
    """Rings around points, where there are any."""
    if points:
        figure.add_scatter(
            x=[x for x, _ in points], y=[y for _, y in points], mode="markers", name=name, hoverinfo="skip",
            marker={"symbol": symbol, "size": size, "color": colour, "line": {"width": 2.5}},
        )  # fmt: skip


def icicle(nodes: Sequence[Row], size: Metric, colour: Metric) -> go.Figure:
    """Modules of a run as nested bars. Nodes (see `dashboard.trees.tree`): id, parent, label, value, colour, hover, link."""
    if not any(node["value"] for node in nodes):
        return empty(f"No operator of this run has {size.label.lower()}.")
    largest = _largest_leaf(nodes)
    figure = go.Figure(
        go.Icicle(
            ids=[node["id"] for node in nodes],
            parents=[node["parent"] for node in nodes],
            labels=[node["label"] for node in nodes],
            values=[node["value"] for node in nodes],
            branchvalues="total",
            customdata=[[node["link"], node["hover"]] for node in nodes],
            hovertemplate="%{customdata[1]}<extra></extra>",
            texttemplate="%{label}<br>%{percentRoot:.0%}",
            tiling={"orientation": "v", "pad": 1},
            root={"color": "rgba(0,0,0,0)"},
            leaf={"opacity": 1},
            pathbar={"thickness": 26},
            marker={"colors": _shades([node["colour"] for node in nodes], largest), "line": {"width": 1, "color": "#ffffff"}},
        )
    )  # fmt: skip
    figure.add_scatter(
        x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip",
        marker={
            "color": [0], "colorscale": SHADES, "cmin": 0, "cmax": largest * colour.display_factor, "showscale": True,
            "colorbar": {"title": {"text": colour.axis(), "side": "right"}, "thickness": 12, "len": 0.9},
        },
    )  # fmt: skip
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})
    return styled(figure, height=480).update_xaxes(visible=False).update_yaxes(visible=False)


def op_kinds(rows: pa.Table, metric: Metric) -> go.Figure:
    """A run beside its analytical bound and estimate, kind of operator by kind of operator. Rows of the query `op_kinds`."""
    table = [row for row in rows.to_pylist() if row[metric.key] is not None]
    if not table:
        return empty(f"No operator of this run has {metric.label.lower()}.")
    order = list(dict.fromkeys(row["op_kind"] for row in sorted(table, key=lambda row: -row[metric.key])))
    figure = go.Figure()
    for role in ("run", "bound"):
        mine = [row for row in table if row["role"] == role]
        if mine:
            kind = mine[0]["source_kind"]
            name = "analytical bound" if kind == "analytical" else kind
            figure.add_bar(
                y=[text.words(row["op_kind"]) for row in mine],
                x=[row[metric.key] * metric.display_factor for row in mine],
                orientation="h",
                name=name,
                marker={
                    "color": KIND_COLOURS[kind],
                    "pattern": {"shape": KIND_PATTERNS[kind], "fillmode": "overlay", "fgcolor": "#ffffff", "size": 5},
                },
                customdata=[[row["run_id"], _op_kind_hover(row, name)] for row in mine],
                hovertemplate="%{customdata[1]}<extra></extra>",
            )
            _add_estimate_bars(figure, mine)
    styled(figure, height=140 + 40 * len(order))
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(title=metric.axis(), rangemode="tozero")
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=[text.words(kind) for kind in reversed(order)],
        showgrid=False,
        automargin=True,
    )
    return figure


def _add_estimate_bars(figure: go.Figure, rows: Sequence[Row]) -> None:
    estimated = [row for row in rows if row.get("estimate_s") is not None]
    if estimated:
        name = "analytical estimate"
        figure.add_bar(
            y=[text.words(row["op_kind"]) for row in estimated],
            x=[row["estimate_s"] * BY_KEY["estimate_s"].display_factor for row in estimated],
            orientation="h",
            name=name,
            marker={"color": ESTIMATE_COLOUR},
            customdata=[[row["run_id"], _op_kind_hover(row, name)] for row in estimated],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )


def memory_parts(run: Row, device_bytes: float | None) -> go.Figure:
    """The memory of one device by part, stacked, against what the device has.

    `run` has the columns of MEMORY_COLOURS and logits_bytes (bytes); device_bytes None where it is not known.
    """
    parts = {key: run[key] for key in MEMORY_COLOURS if run[key]}
    if not parts:
        return empty("The parts of this run's memory are not known.")
    whole, scale = sum(parts.values()), BY_KEY["weights_bytes"].display_factor
    figure = go.Figure()
    for key, value in parts.items():
        lines = [
            f"<b>{BY_KEY[key].label}</b> {text.quantity(BY_KEY[key], value)}",
            f"{100 * value / whole:.3g} % of the peak",
        ]
        if device_bytes:
            lines.append(f"{100 * value / device_bytes:.3g} % of the device's memory")
        if key == "activation_peak_bytes" and run["logits_bytes"]:
            lines.append(f"logits among them: {text.quantity(BY_KEY['logits_bytes'], run['logits_bytes'])}")
        figure.add_bar(
            x=[value * scale], y=[""], orientation="h", name=BY_KEY[key].label, marker={"color": MEMORY_COLOURS[key]},
            hovertemplate="<br>".join(lines) + "<extra></extra>",
        )  # fmt: skip
    styled(figure, height=190)
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    most = max(whole, device_bytes or 0.0) * scale
    figure.update_xaxes(title="GiB on one device", range=[0, 1.04 * most])
    figure.update_yaxes(showgrid=False, showticklabels=False)
    if device_bytes:
        figure.add_vline(x=device_bytes * scale, line={"color": FAULT_COLOUR, "width": 2, "dash": "dash"})
    return figure


def samples(rows: pa.Table, metric: Metric) -> go.Figure:
    """Raw repeats in their order, warm-up hollow, with the median of the measured ones. Rows: sample_phase, value, sample_index, flags."""
    table = [row for row in rows.to_pylist() if row["value"] is not None]
    if not table:
        return empty("This run kept no raw samples.")
    figure = go.Figure()
    for flag, colour in FLAG_COLOURS.items():
        mine = [row for row in table if flag_of(row) == flag]
        if mine:
            figure.add_scatter(
                x=[row["sample_index"] for row in mine],
                y=[row["value"] * metric.display_factor for row in mine],
                mode="markers",
                name=flag,
                marker={"symbol": "circle-open" if flag == "warm-up" else "circle", "size": 9, "color": colour},
                text=[", ".join(row["flags"] or []) for row in mine],
                hovertemplate="repeat %{x}<br>%{y:.4g} " + metric.display_unit + "<br>%{text}<extra></extra>",
            )
    measured = sorted(row["value"] for row in table if row["sample_phase"] == "measured")
    if measured:
        middle = median(measured) * metric.display_factor
        figure.add_hline(
            y=middle, line={"dash": "dot", "color": "#868e96"}, annotation_text=f"median {text.number(middle)} {metric.display_unit}",
            annotation_position="top right",
        )  # fmt: skip
    styled(figure, height=300)
    figure.update_xaxes(title="Repeat", dtick=max(1, len(table) // 12))
    figure.update_yaxes(title=_axis(metric), rangemode="tozero")
    return figure


def flag_of(row: Row) -> str:
    """What a reader must know of a raw repeat first: a key of FLAG_COLOURS."""
    if row["sample_phase"] == "warmup":
        return "warm-up"
    flags = row["flags"] or []
    return next((flag for flag in ("throttled", "outlier") if flag in flags), "measured")


def distribution(rows: pa.Table, keys: Sequence[str]) -> go.Figure:
    """Cumulative distribution of request metrics, completed and measured requests only. Rows of the query `run_requests`."""
    figure = go.Figure()
    table = [row for row in rows.to_pylist() if row["status"] == "ok" and row["sample_phase"] == "measured"]
    for key, colour in zip(keys, ("#1c7ed6", "#e8790c", "#2b9a66", "#ae3ec9"), strict=False):
        metric = BY_KEY[key]
        values = sorted(row[key] * metric.display_factor for row in table if row[key] is not None)
        if values:
            figure.add_scatter(
                x=values, y=[100 * (i + 1) / len(values) for i in range(len(values))], mode="lines+markers", name=metric.label,
                line={"shape": "hv", "color": colour}, marker={"size": 5},
                hovertemplate=f"{metric.label}: %{{x:.4g}} {metric.display_unit}<br>%{{y:.0f}} % of requests<extra></extra>",
            )  # fmt: skip
    if not figure.data:
        return empty("No request of this run completed.")
    styled(figure, height=360)
    figure.update_xaxes(title="Time (ms)", type="log")
    figure.update_yaxes(title="Requests (%)", range=[0, 102])
    return figure


def prediction(answer: Sequence[Row], metric: Metric) -> go.Figure:
    """One predicted value with its 90 % interval beside the analytical bound and what was observed.

    Rows: name, kind, value, lower, upper (SI; lower and upper None without an interval).
    """
    rows = [row for row in answer if row["value"] is not None]
    if not rows:
        return empty(f"Nothing to show for {metric.label.lower()}.")
    figure = go.Figure()
    scale = metric.display_factor
    for kind in text.KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        if mine:
            figure.add_scatter(
                x=[row["value"] * scale for row in mine],
                y=[wrapped(row["name"], 24) for row in mine],
                mode="markers+text",
                name=kind,
                text=[text.quantity(metric, row["value"]) for row in mine],
                textposition="top center",
                marker=_marker(kind, 14 if kind != "analytical" else 20),
                error_x={
                    "type": "data", "symmetric": False, "thickness": 2, "width": 6, "visible": any(row["upper"] is not None for row in mine),
                    "array": [0 if row["upper"] is None else (row["upper"] - row["value"]) * scale for row in mine],
                    "arrayminus": [0 if row["lower"] is None else (row["value"] - row["lower"]) * scale for row in mine],
                },
                customdata=[[row.get("link"), _interval_hover(row, metric)] for row in mine],
                hovertemplate="%{customdata[1]}<extra></extra>",
                cliponaxis=False,
            )  # fmt: skip
    styled(figure, height=140 + 62 * len(rows))
    figure.update_xaxes(title=_axis(metric), rangemode="tozero")
    names = list(dict.fromkeys(wrapped(row["name"], 24) for row in rows))
    figure.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], showgrid=False, automargin=True, type="category"
    )
    return figure


def predicted_against_actual(rows: pa.Table, metric: Metric) -> go.Figure:
    """Predicted against actual (log-log), one colour per predictor, with the line of perfect prediction."""
    table = [row for row in rows.to_pylist() if _positive(row["value"]) and _positive(row["actual"])]
    if not table:
        return empty("No held-out predictions yet.")
    scale = metric.display_factor
    values = [row[key] * scale for row in table for key in ("value", "actual")]
    ends = [min(values) / 1.4, max(values) * 1.4]
    figure = go.Figure(
        go.Scatter(
            x=ends, y=ends, mode="lines", name="perfect", line={"color": "#868e96", "dash": "dot"}, hoverinfo="skip"
        )
    )
    for name, mine, colour, symbol in _by_predictor(table):
        figure.add_scatter(
            x=[row["actual"] * scale for row in mine],
            y=[row["value"] * scale for row in mine],
            mode="markers",
            name=wrapped(name.partition(": ")[2] or name, 34),
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
            customdata=[[row["run_id"], _prediction_hover(row, metric)] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    styled(figure, height=430)
    figure.update_xaxes(title=f"Actual {metric.axis().lower()}", type="log", **log_ticks(values))
    figure.update_yaxes(title=f"Predicted {metric.axis().lower()}", type="log", **log_ticks(values))
    return figure


def residuals(rows: pa.Table, metric: Metric) -> go.Figure:
    """Predicted over actual for every held-out LLM; 1 is right, 2 is twice too much (log scale)."""
    table = [row for row in rows.to_pylist() if _positive(row["value"]) and _positive(row["actual"])]
    if not table:
        return empty("No held-out predictions yet.")
    figure = go.Figure()
    for name, mine, colour, symbol in _by_predictor(table):
        figure.add_scatter(
            x=[row["value"] / row["actual"] for row in mine],
            y=[row["llm_name"] or row["fold"] or "all" for row in mine],
            mode="markers",
            name=wrapped(name.partition(": ")[2] or name, 34),
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
            customdata=[[row["run_id"], _prediction_hover(row, metric)] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    figure.add_vline(x=1, line={"color": "#868e96", "dash": "dot"})
    styled(figure, height=max(320, 160 + 40 * len({row["llm_name"] for row in table})))
    ratios = [row["value"] / row["actual"] for row in table]
    figure.update_xaxes(title="Predicted / actual", type="log", **log_ticks([1.0, *ratios]))
    figure.update_yaxes(showgrid=False, automargin=True)
    return figure


def median(values: Sequence[float]) -> float:
    """The middle of sorted values, the mean of the middle two for an even number."""
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def styled(figure: go.Figure, height: int) -> go.Figure:
    """The look that every chart shares."""
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        margin={"l": 12, "r": 16, "t": 16, "b": 12},
        hoverlabel={"align": "left", "font": {"family": FONT, "size": 13}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "xanchor": "left"},
        hovermode="closest",
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True, title_standoff=10)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True, title_standoff=10)
    return figure


def _axis(metric: Metric) -> str:
    """Axis title with its unit, said once."""
    return metric.label if metric.display_unit in metric.label else metric.axis()


def log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks of a log axis over positive values: 1, 2, 5 in each decade, over a wider range the powers of ten."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    digits = (1, 2, 5) if math.log10(max(values) / min(values)) <= 1.3 else (1,)
    ticks = [digit * 10.0**power for power in range(low - 1, high + 1) for digit in digits]
    return {"tickvals": ticks, "ticktext": [_short_number(tick) for tick in ticks], "tickangle": 0}


def _short_number(value: float) -> str:
    """A tick that fits a phone: 10k instead of 10,000."""
    return f"{value / 1000:g}k" if 1000 <= value < 1e6 else text.number(value)


def _shades(values: Sequence[float | None], largest: float) -> list[str]:
    """A colour for each value between 0 and the largest, grey where it is not known."""
    shares = [None if value is None else min(1.0, max(0.0, value / largest)) if largest else 0.0 for value in values]
    return [UNKNOWN_COLOUR if share is None else sample_colorscale(SHADES, [share])[0] for share in shares]


def _largest_leaf(nodes: Sequence[Row]) -> float:
    """Largest colour value of a node without children, so that containers do not pale what they hold."""
    parents = {node["parent"] for node in nodes}
    known = [node["colour"] for node in nodes if node["colour"] is not None]
    return max(
        [node["colour"] for node in nodes if node["colour"] is not None and node["id"] not in parents] or known or [1.0]
    )


def _link(page: str, **parameters: str) -> str:
    return f"/{page}?" + "&".join(f"{key}={value}" for key, value in parameters.items())


def _cells(rows: pa.Table) -> dict[tuple[str, str], dict[str, int]]:
    """(LLM, device) -> rows of each kind."""
    cells: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows.to_pylist():
        cells.setdefault((row["llm_id"], row["hardware_id"]), {})[row["source_kind"]] = row["num_runs"]
    return cells


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1].rstrip(' ,(')}…"


def _cell(
    cells: Mapping[tuple[str, str], Mapping[str, int]],
    llm: str,
    device: str,
    llms: Mapping[str, str],
    devices: Mapping[str, str],
) -> str:
    counts = cells.get((llm, device), {})
    lines = [f"{kind}: {text.plural(counts[kind], 'row')}" for kind in text.KINDS if kind in counts]
    return "<br>".join([f"<b>{llms[llm]}</b> on <b>{devices[device]}</b>", *(lines or ["no rows"])])


def _marker(kind: str, size: int) -> dict[str, Any]:
    return {
        "color": KIND_COLOURS[kind],
        "symbol": KIND_SYMBOLS[kind],
        "size": size,
        "line": {"width": 3 if kind == "analytical" else 1.5},
    }


def _symbol(row: Row) -> str:
    """The symbol of a row's kind, hollow where its source does not state all of the workload."""
    symbol = KIND_SYMBOLS[row["source_kind"]]
    return f"{symbol.removesuffix('-open')}-open" if row["unstated"] else symbol


def _dodge(kind: str, present: Sequence[str]) -> float:
    """Vertical offset of a kind within its device's line, in lines."""
    return 0.24 * ((len(present) - 1) / 2 - present.index(kind))


def _add_gaps(
    figure: go.Figure, points: Sequence[Row], metric: Metric, place: Mapping[str, int], present: Sequence[str]
) -> None:
    """A grey line from each device's bound to the best value observed there."""
    pick: Callable[[Iterable[float]], float] = max if metric.better == "higher" else min
    x: list[float | None] = []
    y: list[float | None] = []
    for device, line in place.items():
        observed = [row[metric.key] for row in points if row["device"] == device and row["source_kind"] != "analytical"]
        bounds = [row[metric.key] for row in points if row["device"] == device and row["source_kind"] == "analytical"]
        if observed and bounds:
            kind = min((row for row in points if row["device"] == device and row["source_kind"] != "analytical"),
                       key=lambda row: -row[metric.key] if metric.better == "higher" else row[metric.key])["source_kind"]  # fmt: skip
            x += [pick(bounds) * metric.display_factor, pick(observed) * metric.display_factor, None]
            y += [line + _dodge("analytical", present), line + _dodge(kind, present), None]
    if x:
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": "#adb5bd", "width": 1.5}, hoverinfo="skip", showlegend=False
        )


def _add_estimates(
    figure: go.Figure, points: Sequence[Row], metric: Metric, place: Mapping[str, int], present: Sequence[str]
) -> list[float]:
    """Beside bounds of latency, what the device is likely to take, with its 90 % interval. Returns what was drawn, in display units."""
    mine = [
        row
        for row in points
        if metric.key == "latency_s" and row["source_kind"] == "analytical" and row.get("estimate_s")
    ]
    if not mine:
        return []
    estimate = BY_KEY["estimate_s"]
    x = [row["estimate_s"] * estimate.display_factor for row in mine]
    figure.add_scatter(
        x=x,
        y=[place[row["device"]] + _dodge("analytical", present) for row in mine],
        error_x=_error_bars([_spread(row, estimate) for row in mine]) | {"color": ESTIMATE_COLOUR, "width": 0},
        mode="markers",
        name="estimate, 90 % interval",
        marker={"symbol": "line-ns-open", "size": 11, "color": ESTIMATE_COLOUR, "line": {"width": 2}},
        customdata=[[row["run_id"], _compare_hover(row, estimate)] for row in mine],
        hovertemplate="%{customdata[1]}<extra></extra>",
    )
    return x


def _spread(row: Row, metric: Metric) -> tuple[float, float] | None:
    """What lies below and above a value in display units: its interval, or its standard deviation on either side."""
    value, factor = row[metric.key], metric.display_factor
    if "lower" in metric.statistics:
        low, high = row.get(metric.column("lower")), row.get(metric.column("upper"))
        return None if low is None or high is None else ((value - low) * factor, (high - value) * factor)
    deviation = row.get(metric.column("std")) if "std" in metric.statistics else None
    return None if deviation is None else (deviation * factor, deviation * factor)


def _error_bars(spreads: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "visible": any(spreads),
        "array": [None if spread is None else spread[1] for spread in spreads],
        "arrayminus": [None if spread is None else spread[0] for spread in spreads],
    }  # fmt: skip


def _compare_hover(row: Row, metric: Metric) -> str:
    parts = [f"<b>{text.quantity(metric, row[metric.key])}</b> on {row['device']}"]
    deviation = row.get(metric.column("std")) if "std" in metric.statistics else None
    if deviation is not None:
        parts[0] += f" ± {text.quantity(metric, deviation)}"
    parts.append(f"{row['source_kind']}, {row['source_id']}")
    parts.append(wrapped(f"{row['phase']}, batch {row['batch']}, {row['tokens']}, {row['dtype']}", 60))
    if row["variant"]:
        parts.append(wrapped(row["variant"], 60))
    if row["unstated"]:
        parts.append(f"{' and '.join(row['unstated'])} not stated")
    if row["is_bound"] and metric.key == "latency_s":
        whose = (
            "roofline bound"
            if row["source_kind"] == "analytical"
            else "a bound as its source prints it, not a measurement"
        )
        parts.append(f"{whose}: the least time the device can take")
    if row.get("estimate_s") is not None and metric.key in ("latency_s", "estimate_s"):
        lead = f"estimate {text.quantity(metric, row['estimate_s'])}, " if metric.key == "latency_s" else ""
        low, high = (text.quantity(metric, row[f"estimate_{end}_s"]) for end in ("lower", "upper"))
        parts.append(f"{lead}90 % interval {low} to {high}")
    definition = dict(row.get("metric_definitions") or []).get(metric.key)
    if definition is not None:
        parts.append(f"definition: {definition}")
    if row.get("quality_tier") is not None:
        parts.append(f"quality tier {row['quality_tier']} of 4")
    if busy := text.busy(row.get("other_load_ratio")):
        parts.append(f"measured on a {busy}")
    if row.get("finding"):
        parts.append(wrapped(f"found: {row['finding']}", 60))
    if row.get("is_excluded"):
        parts.append(wrapped(f"kept out of charts: {row['exclusion_reason']}", 60))
    return "<br>".join([*parts, "<i>click for the row</i>"])


def _positive(value: float | None) -> bool:
    return value is not None and value > 0


def _intensity_range(lines: Sequence[Row], dots: Sequence[Row]) -> tuple[float, float]:
    ridges = [row["ridge"] for row in lines]
    values = [row["intensity"] for row in dots]
    return 10 ** math.floor(math.log10(min([0.2, *values]))), 10 ** math.ceil(
        math.log10(max([4 * r for r in ridges] + [2 * v for v in values]))
    )


def _roof_marker(kind: str, rows: Sequence[Row]) -> dict[str, Any]:
    is_many = len(rows) > 60
    symbol = "x-thin-open" if kind == "analytical" else KIND_SYMBOLS[kind]
    return {"color": KIND_COLOURS[kind], "symbol": symbol, "size": 7 if is_many else 11, "opacity": 0.65 if is_many else 0.95,
            "line": {"width": 1.6 if kind == "analytical" else 1}}  # fmt: skip


def _roof_hover(row: Row) -> str:
    achieved, roof, ridge = row["achieved_flops_per_s"], row["roof_flops_per_s"], row["ridge"]
    parts = [
        f"<b>{wrapped(row['label'], 60)}</b>",
        f"{text.number(achieved / 1e12)} TFLOP/s at {text.number(row['intensity'])} FLOP/B",
    ]
    if roof is not None:
        parts.append(f"{100 * achieved / roof:.0f} % of its roof")
    if ridge is not None:
        side, word = ("memory", "left") if row["intensity"] < ridge else ("compute", "right")
        parts.append(f"{side} bound: {word} of the ridge at {text.number(ridge)} FLOP/B")
    for key in ("flops", "bytes_moved"):
        if row.get(key) is not None:
            parts.append(f"{BY_KEY[key].label}: {text.quantity(BY_KEY[key], row[key])}")
    if row.get("achievable_flops_per_s"):
        parts.append(f"{100 * achieved / row['achievable_flops_per_s']:.0f} % of what was reached on the device")
    if row["is_fault"]:
        parts.append("above its own roof: a data fault")
    if row.get("finding"):
        parts.append(wrapped(f"found: {row['finding']}", 60))
    if busy := text.busy(row.get("other_load_ratio")):
        parts.append(f"measured on a {busy}")
    return "<br>".join(parts)


def _op_kind_hover(row: Row, name: str) -> str:
    parts = [f"<b>{text.words(row['op_kind'])}</b>, {name}"]
    for key in ("time_s", "roofline_s", "estimate_s", "num_kernels", "flops", "bytes_moved"):
        if row.get(key) is not None:
            parts.append(f"{text.words(key) if key != 'time_s' else 'Time'}: {text.column_quantity(key, row[key])}")
    return "<br>".join([*parts, text.plural(int(row["num_executions"]), "execution")])


def _interval_hover(row: Row, metric: Metric) -> str:
    parts = [f"<b>{row['name']}</b>", text.quantity(metric, row["value"])]
    if row["lower"] is not None:
        parts.append(f"90 % interval {text.quantity(metric, row['lower'])} to {text.quantity(metric, row['upper'])}")
    return "<br>".join(parts)


def _by_predictor(table: Sequence[Row]) -> Iterable[tuple[str, list[Row], str, str]]:
    names = list(
        dict.fromkeys(
            row["predictor_name"] for row in sorted(table, key=lambda row: (row["is_baseline"], row["predictor_name"]))
        )
    )
    for index, name in enumerate(names):
        mine = [row for row in table if row["predictor_name"] == name]
        is_baseline = mine[0]["is_baseline"]
        yield (
            name,
            mine,
            "#868e96" if is_baseline else KIND_COLOURS["predicted"],
            ("x" if is_baseline else "circle", "diamond")[index > 1],
        )


def _prediction_hover(row: Row, metric: Metric) -> str:
    parts = [
        f"<b>{row['llm_name'] or ''}</b> on {row['device'] or ''}",
        f"{row['phase']}, batch {row['batch']}, {row['tokens']}",
    ]
    parts.append(f"predicted {text.quantity(metric, row['value'])}, actual {text.quantity(metric, row['actual'])}")
    if row["lower"] is not None:
        parts.append(f"90 % interval {text.quantity(metric, row['lower'])} to {text.quantity(metric, row['upper'])}")
    return "<br>".join([*parts, row["predictor_name"]])


def wrapped(sentence: str, width: int = 44) -> str:
    """A sentence in lines of about `width` characters."""
    lines = [""]
    for word in sentence.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)
