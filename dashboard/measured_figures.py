"""Charts of what measurements add: ceilings, sweeps of microbenchmarks, phases of training, scaling, variants, telemetry, ranks.

Pure functions like those of `dashboard.figures`: an Arrow table in SI units in, a `go.Figure` out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
from plotly.subplots import make_subplots

from dashboard import figures, text
from warehouse.metrics import BY_KEY, Metric

Row = Mapping[str, Any]

SERIES_COLOURS = (
    "#1c7ed6",
    "#e8790c",
    "#2b9a66",
    "#ae3ec9",
    "#0b7285",
    "#c2255c",
    "#5c940d",
    "#5f3dc4",
    "#862e9c",
    "#495057",
)
SERIES_DASHES = ("solid", "dash", "dot", "dashdot")
PHASE_COLOURS = {
    "forward": "#1c7ed6",
    "backward": "#5f3dc4",
    "optimizer": "#e8790c",
    "rest": "#ced4da",
}
"""Parts of a training step, in the order they run; `rest` is what the step takes beyond them."""
STATUS_COLOURS = {
    "ok": "#2b9a66",
    "oom": "#e8790c",
    "timeout": "#ae3ec9",
    "unsupported": "#868e96",
    "refused": "#868e96",
    "error": "#e03131",
}
COMMUNICATION_COLOUR = "#e8790c"
MOST_NAME = 36
"""Letters of a kernel's name that an axis has room for."""
MOST_WORDS = 5
"""Parts of a line's name that a legend has room for."""
MOST_SERIES = 16
"""Lines that a chart of a sweep has room for."""
TELEMETRY: tuple[tuple[str, str, float, tuple[tuple[str, str], ...]], ...] = (
    ("Power", "W", 1.0, (("power_w", "power"),)),
    ("Clock", "MHz", 1e-6, (("sm_clock_hz", "compute"), ("memory_clock_hz", "memory"))),
    ("Temperature", "°C", 1.0, (("temperature_c", "temperature"),)),
    ("Utilisation", "%", 100.0, (("utilization", "busy"), ("memory_utilization", "memory busy"))),
    ("Memory", "GiB", 1 / 2**30, (("memory_used_bytes", "in use"), ("process_memory_bytes", "of this process"))),
    ("KV cache", "%", 100.0, (("kv_cache_ratio", "in use"),)),
    ("Requests", "engine", 1.0, (("num_running", "running"), ("num_waiting", "waiting"))),
)
"""Strips of the telemetry chart: title, unit, factor, (column, name of its line)."""


def ceilings(rows: pa.Table) -> go.Figure:
    """What was reached of each resource of a device, in % of its datasheet. Rows of the query `device_ceilings`."""
    table = [row for row in rows.to_pylist() if row["share"] is not None]
    if not table:
        return figures.empty("No ceiling of this device was measured beside its datasheet.")
    figure = go.Figure(
        go.Bar(
            y=[resource_name(row["resource"]) for row in table],
            x=[100 * row["share"] for row in table],
            orientation="h",
            marker={"color": figures.KIND_COLOURS["measured"]},
            text=[f"{100 * row['share']:.0f} %" for row in table],
            textposition="inside",
            textfont={"color": "#ffffff"},
            customdata=[
                [None, f"{_rate(row['measured'], row['unit'])} of {_rate(row['datasheet'], row['unit'])}"]
                for row in table
            ],
            hovertemplate="<b>%{y}</b><br>%{x:.1f} % of the datasheet<br>%{customdata[1]}<extra></extra>",
        )
    )
    figure.add_vline(x=100, line={"color": "#868e96", "dash": "dash"})
    figures.styled(figure, height=110 + 40 * len(table))
    figure.update_xaxes(title="Of the datasheet (%)", range=[0, max(108.0, *(104 * row["share"] for row in table))])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def resource_name(resource: str) -> str:
    """A resource as people say it: peak_bf16_flops_per_s is bf16 peak, host_link_bandwidth_bytes_per_s Host link."""
    name = resource.removesuffix("_flops_per_s").removesuffix("_bandwidth_bytes_per_s")
    if name.startswith("peak_"):
        return f"{name.removeprefix('peak_')} peak"
    if name.startswith("vector_"):
        return f"{name.removeprefix('vector_')} vector peak"
    return {"memory": "Memory bandwidth", "link": "Device link", "host_link": "Host link", "network": "Network"}[name]


def curves(
    rows: pa.Table,
    x: str,
    y: Metric,
    x_title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    most: float | None = None,
) -> go.Figure:
    """Sweeps as lines: one line for each `series`, published points as diamonds.

    Rows: the columns `x` and `y.key`, series, hover (what a point says), run_id, source_kind. `most` draws a dashed line at a value
    (in display units) that is the limit.
    """
    table = [row for row in rows.to_pylist() if row[x] is not None and row[y.key] is not None]
    if log_x:
        table = [row for row in table if row[x] > 0]
    if log_y:
        table = [row for row in table if row[y.key] > 0]
    if not table:
        return figures.empty("Nothing of this was measured on this device yet.")
    names = list(dict.fromkeys(row["series"] for row in table))[:MOST_SERIES]
    figure = go.Figure()
    for index, name in enumerate(names):
        mine = sorted((row for row in table if row["series"] == name), key=lambda row: row[x])
        is_published = mine[0]["source_kind"] == "published"
        figure.add_scatter(
            x=[row[x] for row in mine],
            y=[row[y.key] * y.display_factor for row in mine],
            mode="markers" if is_published or len(mine) == 1 else "lines+markers",
            name=figures.wrapped(name, 40),
            line={"color": SERIES_COLOURS[index % len(SERIES_COLOURS)], "width": 2, "dash": SERIES_DASHES[index // len(SERIES_COLOURS)]},
            marker={
                "size": 11 if is_published else 6 if len(mine) > 1 else 9,
                "symbol": "diamond" if is_published else "circle",
                "color": figures.KIND_COLOURS["published"] if is_published else SERIES_COLOURS[index % len(SERIES_COLOURS)],
            },
            customdata=[[row["run_id"], row["hover"]] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    if most is not None:
        figure.add_hline(y=most, line={"color": "#868e96", "dash": "dash"})
    figures.styled(figure, height=360 + 12 * len(figure.data))
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title=x_title)
    figure.update_yaxes(title=y.axis(), rangemode="normal" if log_y else "tozero")
    if log_x:
        values = [row[x] for row in table]
        figure.update_xaxes(type="log", **(_size_ticks(values) if "bytes" in x else figures.log_ticks(values)))
    if log_y:
        figure.update_yaxes(type="log", **figures.log_ticks([row[y.key] * y.display_factor for row in table]))
    return figure


def training_phases(rows: pa.Table) -> go.Figure:
    """Training steps as stacked bars: forward, backward, optimizer, and the rest of the step. Rows of `training_steps` with a label."""
    table = [
        row for row in rows.to_pylist() if any(row[f"{phase}_s"] for phase in ("forward", "backward", "optimizer"))
    ]
    if not table:
        return figures.empty("No step here is known by its phases.")
    labels = _unique([figures.wrapped(row["label"], 30) for row in table])
    figure = go.Figure()
    for phase, colour in PHASE_COLOURS.items():
        values = [row[f"{phase}_s"] for row in table]
        if any(values):
            figure.add_bar(
                y=labels, x=[None if value is None else 1e3 * value for value in values], orientation="h", name=phase, marker={"color": colour},
                customdata=[[row["run_id"], _phase_hover(row, phase)] for row in table],
                hovertemplate="%{customdata[1]}<extra></extra>",
            )  # fmt: skip
    figures.styled(figure, height=120 + 64 * len(table))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"}, bargap=0.3)
    figure.update_xaxes(title="Time of one step (ms)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def scaling(rows: pa.Table, *, is_efficiency: bool = False) -> go.Figure:
    """Tokens/s (or efficiency in %) against devices, one line for a workload and way of splitting, dotted: perfect scaling.

    Rows of the query `scaling`. Lines whose rate on one device is not known have no efficiency.
    """
    key = "efficiency" if is_efficiency else "tokens_per_s"
    table = [row for row in rows.to_pylist() if row[key] is not None]
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in table:
        lines.setdefault((row["llm_name"] or row["llm_id"], row["strategy"], row["workload"]), []).append(row)
    if not lines:
        return figures.empty("No workload here ran on several numbers of devices.")
    figure = go.Figure()
    for index, ((_, strategy, _), mine) in enumerate(list(lines.items())[:MOST_SERIES]):
        colour = SERIES_COLOURS[index % len(SERIES_COLOURS)]
        figure.add_scatter(
            x=[row["num_devices"] for row in mine],
            y=[100 * row[key] if is_efficiency else row[key] for row in mine],
            mode="lines+markers",
            name=figures.wrapped(_line_name(mine[0], table), 40),
            line={"color": colour, "width": 2, "dash": "solid" if strategy == "tensor parallel" else "dash"},
            marker={"size": 9, "symbol": figures.KIND_SYMBOLS[mine[0]["source_kind"]]},
            customdata=[[row["run_id"], _scaling_hover(row)] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    figures.styled(figure, height=340 + 22 * len(figure.data))
    figure.update_layout(showlegend=True)
    counts = sorted({row["num_devices"] for row in table})
    figure.update_xaxes(title="Devices", tickvals=counts, ticktext=[str(one) for one in counts])
    if is_efficiency:
        figure.add_hline(y=100, line={"color": "#868e96", "dash": "dot"})
        figure.update_yaxes(title="Efficiency (%)", rangemode="tozero")
    else:
        figure.update_yaxes(title="Tokens/s", rangemode="tozero")
    return figure


def variants(rows: pa.Table) -> go.Figure:
    """One configuration executed in several ways: the bar is the latency, the dark part of it the time in which the device worked.

    Rows of the query `variants` with a label; only those with a latency.
    """
    table = [row for row in rows.to_pylist() if row["latency_s"] is not None]
    if not table:
        return figures.empty("No variant of this was timed.")
    labels = _unique([figures.wrapped(row["label"], 24) for row in table])
    busy = [min(row["kernel_time_s"], row["latency_s"]) if row["kernel_time_s"] is not None else None for row in table]
    custom = [[row["run_id"], _variant_hover(row)] for row in table]
    figure = go.Figure()
    rest = [row["latency_s"] - (value or 0.0) for row, value in zip(table, busy, strict=True)]
    for name, colour, values in (
        ("device works", figures.KIND_COLOURS["measured"], busy),
        (
            "device waits for the host",
            "#ffc078",
            [a if b is not None else None for a, b in zip(rest, busy, strict=True)],
        ),
        ("not known which", "#a5d8ff", [a if b is None else None for a, b in zip(rest, busy, strict=True)]),
    ):
        if any(value is not None for value in values):
            figure.add_bar(
                y=labels, x=[None if value is None else 1e3 * value for value in values], orientation="h", name=name, marker={"color": colour},
                customdata=custom, hovertemplate="%{customdata[1]}<extra></extra>",
            )  # fmt: skip
    figures.styled(figure, height=120 + 46 * len(table))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"}, bargap=0.3)
    figure.update_xaxes(title="Latency (ms)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def status_grid(rows: pa.Table) -> go.Figure:
    """LLM and task against batch size, each cell coloured by how it ended, with its latency. Rows of the query `status_grid`."""
    table = rows.to_pylist()
    if not table:
        return figures.empty("No grid of tasks was measured yet.")
    lines = list(dict.fromkeys((row["llm_name"], row["task"]) for row in table))
    batches = sorted({row["batch_size"] for row in table})
    cells = {((row["llm_name"], row["task"]), row["batch_size"]): row for row in table}
    statuses = list(STATUS_COLOURS)
    names = [f"{llm}, {text.words(task).lower()}" for llm, task in lines]
    grid = [[cells.get((line, batch)) for batch in batches] for line in lines]
    figure = go.Figure(
        go.Heatmap(
            z=[[None if row is None else statuses.index(row["status"]) for row in line] for line in grid],
            x=[str(batch) for batch in batches],
            y=names,
            zmin=-0.5,
            zmax=len(statuses) - 0.5,
            colorscale=[
                [(step + side) / len(statuses), colour]
                for step, colour in enumerate(STATUS_COLOURS.values())
                for side in (0, 1)
            ],
            showscale=False,
            xgap=3,
            ygap=3,
            text=[["" if row is None else _cell_words(row) for row in line] for line in grid],
            texttemplate="%{text}",
            textfont={"color": "#ffffff", "size": 12},
            customdata=[
                [[None, ""] if row is None else [row["run_id"], _status_hover(row)] for row in line] for line in grid
            ],
            hovertemplate="%{customdata[1]}<extra></extra>",
            hoverongaps=False,
        )
    )
    figures.styled(figure, height=110 + 30 * len(lines))
    figure.update_xaxes(title="Batch size", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure


def telemetry(rows: pa.Table) -> go.Figure:
    """Device counters over the time of a run, strip under strip; spans under a throttle reason are shaded.

    Rows of the query `run_telemetry`. Counters that nobody read have no strip; the host is device -1, the engine of a server device -2.
    """
    table = rows.to_pylist()
    strips = [one for one in TELEMETRY if any(row[key] is not None for row in table for key, _ in one[3])]
    if not strips:
        return figures.empty("This run kept no telemetry.")
    devices = list(dict.fromkeys(row["device_index"] for row in table))
    figure = make_subplots(rows=len(strips), cols=1, shared_xaxes=True, vertical_spacing=0.04)
    for place, (title, unit, factor, keys) in enumerate(strips, start=1):
        for index, (device, (key, name)) in enumerate((device, key) for device in devices for key in keys):
            mine = [row for row in table if row["device_index"] == device and row[key] is not None]
            if not mine:
                continue
            where = {-1: "host", -2: "engine"}.get(device, f"device {device}")
            figure.add_scatter(
                x=[row["at_s"] for row in mine], y=[row[key] * factor for row in mine], mode="lines", name=f"{title}: {name}, {where}",
                line={"width": 1.5, "color": SERIES_COLOURS[index % len(SERIES_COLOURS)]}, showlegend=device == -2 and len(keys) > 1,
                hovertemplate=f"{where}, {name}<br>%{{x:.2f}} s: %{{y:.4g}} {unit}<extra></extra>", row=place, col=1,
            )  # fmt: skip
        figure.update_yaxes(title=f"{title}<br>({unit})", rangemode="tozero", row=place, col=1)
    figures.styled(figure, height=90 + 120 * len(strips))
    for start, end in throttled_spans(table):
        figure.add_vrect(x0=start, x1=end, fillcolor=figures.FAULT_COLOUR, opacity=0.15, line_width=0)
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="Seconds from the run's start", row=len(strips), col=1)
    return figure


def throttled_spans(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Spans of time in which a device gave a throttle reason, from the first such reading to the first without."""
    spans: list[tuple[float, float]] = []
    for device in dict.fromkeys(row["device_index"] for row in rows):
        start: float | None = None
        mine = [row for row in rows if row["device_index"] == device and row["throttle_reasons"] is not None]
        for row in mine:
            if row["throttle_reasons"] and start is None:
                start = row["at_s"]
            elif not row["throttle_reasons"] and start is not None:
                spans.append((start, row["at_s"]))
                start = None
        if start is not None:
            spans.append((start, mine[-1]["at_s"]))
    return spans


def ranks(rows: pa.Table) -> go.Figure:
    """What each rank did with its time: compute and communication, waiting included. Rows of the query `run_ranks`."""
    table = rows.to_pylist()
    names = [f"rank {row['rank']}" for row in table]
    figure = go.Figure()
    for key, name, colour in (
        ("compute_s", "outside communication", figures.KIND_COLOURS["measured"]),
        ("communication_s", "communication and waiting", COMMUNICATION_COLOUR),
    ):
        values = [row[key] for row in table]
        if any(value is not None for value in values):
            figure.add_bar(y=names, x=[None if value is None else 1e3 * value for value in values], orientation="h", name=name,
                           marker={"color": colour}, hovertemplate=f"%{{y}}, {name}<br>%{{x:.4g}} ms<extra></extra>")  # fmt: skip
    if not figure.data:
        figure.add_bar(y=names, x=[None if row["latency_s"] is None else 1e3 * row["latency_s"] for row in table], orientation="h",
                       marker={"color": figures.KIND_COLOURS["measured"]}, hovertemplate="%{y}<br>%{x:.4g} ms<extra></extra>")  # fmt: skip
    figures.styled(figure, height=120 + 38 * len(table))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(title="Time of one execution (ms)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def op_phases(rows: Iterable[Row]) -> go.Figure:
    """Time by kind of operator, stacked by phase (forward, backward, optimizer). Rows: leaves of the query `run_ops`."""
    sums: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["seconds"] is not None:
            kind = sums.setdefault(row["op_kind"], {})
            phase = row["phase"] or "not stated"
            kind[phase] = kind.get(phase, 0.0) + row["seconds"] * row["count"]
    if not sums:
        return figures.empty("No operator of this run has a time.")
    order = sorted(sums, key=lambda kind: -sum(sums[kind].values()))
    phases = sorted({phase for one in sums.values() for phase in one}, key=lambda one: (one not in PHASE_COLOURS, list(PHASE_COLOURS).index(one) if one in PHASE_COLOURS else 0, one))  # fmt: skip
    figure = go.Figure()
    for index, phase in enumerate(phases):
        figure.add_bar(
            y=[text.words(kind) for kind in order], x=[1e3 * sums[kind].get(phase, 0.0) for kind in order], orientation="h", name=phase,
            marker={"color": PHASE_COLOURS.get(phase, SERIES_COLOURS[index % len(SERIES_COLOURS)])},
            hovertemplate=f"<b>%{{y}}</b>, {phase}<br>%{{x:.4g}} ms<extra></extra>",
        )  # fmt: skip
    figures.styled(figure, height=130 + 30 * len(order))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(title="Time (ms)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def kernels(rows: pa.Table, most: int = 20) -> go.Figure:
    """The largest kernels of a run, those of one name together. Rows of the query `run_kernels`."""
    sums: dict[str, list[float]] = {}
    for row in rows.to_pylist():
        if row["total_s"] is not None:
            total = sums.setdefault(row["kernel"], [0.0, 0.0, 0.0])
            for place, value in enumerate((row["total_s"], row["count"], row["share"] or 0.0)):
                total[place] += value
    if not sums:
        return figures.empty("No kernel here has a time.")
    largest = sorted(sums, key=lambda name: -sums[name][0])[:most]
    labels = _unique([name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…" for name in largest])
    figure = go.Figure(
        go.Bar(
            y=labels,
            x=[1e3 * sums[name][0] for name in largest],
            orientation="h",
            marker={"color": figures.KIND_COLOURS["measured"]},
            customdata=[[None, figures.wrapped(name, 60), sums[name][1], 100 * sums[name][2]] for name in largest],
            hovertemplate="<b>%{customdata[1]}</b><br>%{x:.4g} ms in %{customdata[2]:.0f} launches<br>%{customdata[3]:.1f} % of the kernels<extra></extra>",
        )
    )
    figures.styled(figure, height=110 + 26 * len(largest))
    figure.update_xaxes(title="Time (ms)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def sample_histogram(rows: pa.Table, metric: Metric) -> go.Figure:
    """How often a measured repeat took how long, those with a flag (outlier, throttled) apart. Rows of `run_samples`."""
    table = [row for row in rows.to_pylist() if row["value"] is not None and row["sample_phase"] == "measured"]
    if not table:
        return figures.empty("This run kept no measured repeats.")
    values = [row["value"] * metric.display_factor for row in table]
    width = (max(values) - min(values)) / min(40, max(8, len(values) // 3)) or max(abs(values[0]), 1e-9) / 50
    figure = go.Figure()
    for flag, colour in figures.FLAG_COLOURS.items():
        mine = [value for value, row in zip(values, table, strict=True) if figures.flag_of(row) == flag]
        if mine:
            figure.add_histogram(
                x=mine, name=flag, marker={"color": colour}, xbins={"start": min(values), "end": max(values) + width, "size": width},
                hovertemplate=f"{flag}: %{{y}} repeats<br>%{{x}} {metric.display_unit}<extra></extra>",
            )  # fmt: skip
    figures.styled(figure, height=300)
    figure.update_layout(barmode="stack", bargap=0.04)
    figure.update_xaxes(title=metric.axis())
    figure.update_yaxes(title="Repeats")
    return figure


def _rate(value: float | None, unit: str) -> str:
    return text.quantity(BY_KEY["achieved_flops_per_s" if unit == "FLOP/s" else "achieved_bytes_per_s"], value)


def _size_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Range and ticks of a log axis over bytes: powers of four, thinned out where there are many."""
    low, high = min(values) / 2, max(values) * 2
    shown = [tick for tick in (float(4**power) for power in range(21)) if low <= tick <= high]
    step = 1 + len(shown) // 5
    return {
        "range": [math.log10(low), math.log10(high)],
        "tickvals": shown[::step],
        "ticktext": [text.quantity(BY_KEY["bytes_moved"], tick) for tick in shown[::step]],
        "tickangle": 0,
    }


def _unique(labels: Sequence[str]) -> list[str]:
    """Labels of a category axis: the second of the same name gets a number, so that bars do not pile up."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return result


def _line_name(row: Row, rows: Sequence[Row]) -> str:
    """What tells a line of scaling apart from the others: its strategy, and what else differs between them."""
    words = [row["strategy"]]
    for key in ("llm_name", "hardware_name", "phase", "batch", "tokens", "variant", "source_id"):
        if row[key] and len({one[key] for one in rows}) > 1:
            value = f"batch {row[key]}" if key == "batch" else str(row[key])
            words.append(
                {"hardware_name": text.short_device(value), "source_id": value.partition("/")[0]}.get(key, value)
            )
    return ", ".join(words if len(words) < MOST_WORDS else [*words[: MOST_WORDS - 1], words[-1]])


def _phase_hover(row: Row, phase: str) -> str:
    value, step = row[f"{phase}_s"], row["step_s"]
    parts = [f"<b>{phase}</b>: {text.quantity(BY_KEY['latency_s'], value)}", figures.wrapped(row["label"], 60)]
    if step:
        parts.append(f"of a step of {text.quantity(BY_KEY['latency_s'], step)}: {100 * (value or 0.0) / step:.0f} %")
    return "<br>".join([*parts, f"{row['source_kind']}, {row['source_id']}"])


def _scaling_hover(row: Row) -> str:
    parts = [
        f"<b>{text.number(row['tokens_per_s'])} tokens/s</b> on {text.plural(row['num_devices'], 'device')}",
        f"{row['llm_name'] or row['llm_id']}, {row['strategy']}",
        figures.wrapped(row["workload"], 60),
    ]
    if row["efficiency"] is not None:
        parts.append(f"{text.number(row['speedup'])} times one device: {100 * row['efficiency']:.0f} % efficient")
    return "<br>".join(parts)


def _variant_hover(row: Row) -> str:
    latency = BY_KEY["latency_s"]
    parts = [
        f"<b>{row['label']}</b>",
        f"{text.quantity(latency, row['latency_s'])}, {text.number(row['speedup'])} times as fast as the slowest",
    ]
    if row["kernel_time_s"] is not None:
        parts.append(f"the device worked {text.quantity(latency, row['kernel_time_s'])}")
    if row["is_host_bound"] is not None:
        parts.append("host bound" if row["is_host_bound"] else "not host bound")
    if row["mbu"] is not None:
        parts.append(f"MBU {100 * row['mbu']:.0f} %")
    return "<br>".join(parts)


def _cell_words(row: Row) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    return text.quantity(BY_KEY["latency_s"], row["latency_s"])


def _status_hover(row: Row) -> str:
    parts = [
        f"<b>{row['llm_name']}</b>, {text.words(row['task']).lower()}, batch {row['batch_size']}, {row['tokens']}",
        f"{row['status']}",
    ]
    if row["latency_s"] is not None:
        parts.append(f"latency {text.quantity(BY_KEY['latency_s'], row['latency_s'])}")
    if row["memory_peak_bytes"] is not None:
        parts.append(f"peak memory {text.quantity(BY_KEY['memory_peak_bytes'], row['memory_peak_bytes'])}")
    if row["status_detail"]:
        parts.append(figures.wrapped(row["status_detail"], 60))
    return "<br>".join(parts)
