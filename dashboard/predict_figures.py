"""Charts of predictions and of how far to trust them: rows in, `go.Figure` out. Values are SI in the rows and converted here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard import text
from dashboard.figures import (
    BUSY_COLOUR,
    ESTIMATE_COLOUR,
    FAULT_COLOUR,
    KIND_COLOURS,
    empty,
    log_ticks,
    styled,
    wrapped,
)
from warehouse.metrics import Metric

Row = Mapping[str, Any]

UP_COLOUR, DOWN_COLOUR = "#e8790c", "#1c7ed6"
"""A correction that makes a value larger, and one that makes it smaller."""
NOMINAL, LEAST_COVERAGE = 0.9, 0.8
"""Share of values that an interval is meant to hold, and below which a fold is marked."""
MOST_BARS = 16
CONTENDERS = {
    "rooflake": (KIND_COLOURS["predicted"], "star"),
    "roofline bound": (KIND_COLOURS["analytical"], "line-ns-open"),
    "analytical estimate": (ESTIMATE_COLOUR, "circle"),
    "random forest of bhavana-iitbbs": ("#e8790c", "diamond"),
    "nearest neighbour": ("#1c7ed6", "square"),
}
"""Contender -> colour and symbol; others are grey."""
GROUP_COLOURS = ("#ae3ec9", "#0b7285", "#e8790c", "#364fc7", "#5c940d", "#c2255c", "#868e96", "#d9480f")


def breakdown(steps: Sequence[Row], metric: Metric) -> go.Figure:
    """From the bound to the predicted value, a bar a step from the value before it to the value after.

    Rows: step, factor, value (SI, after the step), in order; the last ends at the prediction.
    """
    if not steps:
        return empty("No predictor made this value, so there is nothing to take apart.")
    scale = metric.display_factor
    names = [_step_name(row["step"]) for row in steps]
    ends = [row["value"] * scale for row in steps]
    starts = [0.0 if row["step"] == "bound" or not place else ends[place - 1] for place, row in enumerate(steps)]
    colours = [_step_colour(row) for row in steps]
    figure = go.Figure(
        go.Bar(
            y=[*names, "Predicted"],
            x=[*(end - start for start, end in zip(starts, ends, strict=True)), ends[-1]],
            base=[*starts, 0.0],
            orientation="h",
            marker={"color": [*colours, KIND_COLOURS["predicted"]]},
            text=[*(_factor(row) for row in steps), text.quantity(metric, steps[-1]["value"])],
            textposition="outside",
            cliponaxis=False,
            customdata=[*([None, f"<b>{name}</b><br>{_factor(row)}<br>then {text.quantity(metric, row['value'])}"]
                          for name, row in zip(names, steps, strict=True)),
                        [None, f"<b>Predicted</b><br>{text.quantity(metric, steps[-1]['value'])}"]],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    )  # fmt: skip
    styled(figure, height=120 + 34 * (len(steps) + 1))
    figure.update_layout(showlegend=False, bargap=0.35)
    figure.update_xaxes(title=metric.axis(), range=[0, 1.25 * max(ends)])
    figure.update_yaxes(
        categoryorder="array", categoryarray=[*names, "Predicted"][::-1], showgrid=False, type="category"
    )
    return figure


def held_out(rows: Sequence[Row], metric: Metric) -> go.Figure:
    """Predicted against actual of rows held out (log-log), each with its 90 % interval, orange where it missed the actual value."""
    rows = [row for row in rows if _positive(row["value"]) and _positive(row["actual"])]
    if not rows:
        return empty("No held-out predictions yet.")
    scale = metric.display_factor
    values = [row[key] * scale for row in rows for key in ("value", "actual")]
    ends = [min(values) / 1.4, max(values) * 1.4]
    figure = go.Figure(
        go.Scatter(
            x=ends, y=ends, mode="lines", name="perfect", line={"color": BUSY_COLOUR, "dash": "dot"}, hoverinfo="skip"
        )
    )
    for name, colour, is_mine in _by_verdict():
        mine = [row for row in rows if is_mine(row)]
        if not mine:
            continue
        bars = {
            "type": "data", "symmetric": False, "thickness": 1, "width": 0,
            "array": [(row["upper"] - row["value"]) * scale if row["upper"] is not None else 0 for row in mine],
            "arrayminus": [(row["value"] - row["lower"]) * scale if row["lower"] is not None else 0 for row in mine],
        }  # fmt: skip
        figure.add_scatter(
            x=[row["actual"] * scale for row in mine],
            y=[row["value"] * scale for row in mine],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 6, "opacity": 0.7},
            error_y=bars if len(rows) <= 400 else None,
            customdata=[[row.get("run_id"), _hover(row, metric)] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    styled(figure, height=430)
    figure.update_xaxes(title=f"Actual {metric.axis().lower()}", type="log", **log_ticks(values))
    figure.update_yaxes(title=f"Predicted {metric.axis().lower()}", type="log", **log_ticks(values))
    return figure


def residuals(rows: Sequence[Row], metric: Metric) -> go.Figure:
    """Predicted over actual against the predicted value (log-log): 1 is right, 2 is twice too much."""
    rows = [row for row in rows if _positive(row["value"]) and _positive(row["actual"])]
    if not rows:
        return empty("No held-out predictions yet.")
    ratios = [row["value"] / row["actual"] for row in rows]
    values = [row["value"] * metric.display_factor for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=values, y=ratios, mode="markers", marker={"color": KIND_COLOURS["predicted"], "size": 6, "opacity": 0.6},
            customdata=[[row.get("run_id"), _hover(row, metric)] for row in rows], hovertemplate="%{customdata[1]}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_hline(y=1, line={"color": BUSY_COLOUR, "dash": "dot"})
    styled(figure, height=360)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title=f"Predicted {metric.axis().lower()}", type="log", **log_ticks(values))
    figure.update_yaxes(title="Predicted / actual", type="log", **log_ticks([1.0, *ratios]))
    return figure


def residual_histogram(rows: Sequence[Row]) -> go.Figure:
    """How many held-out rows are off by how much, in per cent of the actual value."""
    errors = [
        100 * (row["value"] / row["actual"] - 1) for row in rows if _positive(row["value"]) and _positive(row["actual"])
    ]
    if not errors:
        return empty("No held-out predictions yet.")
    reach = max(5.0, sorted(abs(error) for error in errors)[int(0.98 * (len(errors) - 1))])
    shown = [max(-reach, min(reach, error)) for error in errors]
    figure = go.Figure(
        go.Histogram(
            x=shown, xbins={"start": -reach, "end": reach * 1.001, "size": reach / 15}, marker={"color": KIND_COLOURS["predicted"]},
            hovertemplate="%{x} %: %{y} rows<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": BUSY_COLOUR, "dash": "dot"})
    styled(figure, height=360)
    figure.update_layout(showlegend=False, bargap=0.04)
    figure.update_xaxes(title="Error (%)")
    figure.update_yaxes(title="Rows")
    return figure


def coverage(folds: Sequence[Row]) -> go.Figure:
    """Share of actual values inside the 90 % interval, a dot a fold, red below 80 %. Rows: fold, coverage, num_rows."""
    rows = sorted((row for row in folds if row["coverage"] is not None), key=lambda row: row["coverage"])
    if not rows:
        return empty("No fold of this split has intervals.")
    names = [wrapped(row["fold"], 28) for row in rows]
    colours = [FAULT_COLOUR if row["coverage"] < LEAST_COVERAGE else KIND_COLOURS["predicted"] for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=[100 * row["coverage"] for row in rows], y=names, mode="markers", marker={"color": colours, "size": 11},
            customdata=[[None, f"<b>{row['fold']}</b><br>{100 * row['coverage']:.0f} % inside the 90 % interval<br>{text.plural(row['num_rows'] or 0, 'row')}"] for row in rows],
            hovertemplate="%{customdata[1]}<extra></extra>", cliponaxis=False,
        )
    )  # fmt: skip
    figure.add_vline(x=100 * NOMINAL, line={"color": BUSY_COLOUR, "dash": "dot"})
    styled(figure, height=max(220, 110 + max(28, 20 * _lines(names)) * len(rows)))
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="Inside the 90 % interval (%)", range=[min(50.0, 100 * rows[0]["coverage"] - 5), 102])
    figure.update_yaxes(showgrid=True, type="category", categoryorder="array", categoryarray=names)
    return figure


def slices(rows: Sequence[Row], dimension: str) -> go.Figure:
    """Mean error of held-out rows by the labels of one dimension, the worst on top. Rows: dimension, label, mape, mdape, num_rows."""
    mine = sorted((row for row in rows if row["dimension"] == dimension), key=lambda row: -row["mape"])[:MOST_BARS]
    if not mine:
        return empty(f"No errors by {text.words(dimension).lower()}.")
    names = [wrapped(str(row["label"]), 30) for row in mine]
    figure = go.Figure()
    for key, label, colour in (("mape", "mean", KIND_COLOURS["predicted"]), ("mdape", "median", "#dba6e6")):
        figure.add_bar(
            x=[100 * row[key] for row in mine], y=names, orientation="h", name=label, marker={"color": colour},
            customdata=[[None, f"<b>{row['label']}</b><br>{label} {100 * row[key]:.1f} %<br>{text.plural(row['num_rows'], 'row')}, bias {100 * row['bias']:+.1f} %"] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    styled(figure, height=max(240, 120 + max(34, 18 * _lines(names)) * len(mine)))
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(title="Absolute error (%)", rangemode="tozero")
    figure.update_yaxes(showgrid=False, type="category", categoryorder="array", categoryarray=names[::-1])
    return figure


def importances(rows: Sequence[Row]) -> go.Figure:
    """By how much the error of held-out rows grows when one feature is shuffled, coloured by its group. Rows: feature, group, increase."""
    mine = [row for row in rows if row["increase"] > 0][:MOST_BARS]
    if not mine:
        return empty("No feature matters more than another.")
    groups = list(dict.fromkeys(row["group"] for row in mine))
    figure = go.Figure()
    for place, group in enumerate(groups):
        part = [row for row in mine if row["group"] == group]
        figure.add_bar(
            x=[100 * row["increase"] for row in part], y=[feature_name(row["feature"]) for row in part], orientation="h", name=group,
            marker={"color": GROUP_COLOURS[place % len(GROUP_COLOURS)]},
            hovertemplate="%{y}: +%{x:.1f} points of error<extra></extra>",
        )  # fmt: skip
    names = list(dict.fromkeys(feature_name(row["feature"]) for row in mine))
    styled(figure, height=max(240, 130 + 26 * len(mine)))
    figure.update_xaxes(title="Error added (points)", rangemode="tozero")
    figure.update_yaxes(showgrid=False, type="category", categoryorder="array", categoryarray=names[::-1])
    return figure


def league(rows: Sequence[Row], score: str) -> go.Figure:
    """Every board a line, every contender a mark at its error (log scale), the goal a bar. Rows: board, contender, goal and the score."""
    rows = [row for row in rows if row.get(score) is not None and row[score] > 0]
    if not rows:
        return empty("No board has this score yet.")
    boards = list(dict.fromkeys(row["board"] for row in rows))
    names = {board: wrapped(board, 28) for board in boards}
    figure = go.Figure()
    known = [*CONTENDERS, *sorted({row["contender"] for row in rows} - CONTENDERS.keys())]
    for contender in known:
        mine = [row for row in rows if row["contender"] == contender]
        if not mine:
            continue
        colour, symbol = CONTENDERS.get(contender, (BUSY_COLOUR, "x"))
        figure.add_scatter(
            x=[100 * row[score] for row in mine], y=[names[row["board"]] for row in mine], mode="markers", name=contender,
            marker={"color": colour, "symbol": symbol, "size": 13 if contender == "rooflake" else 10, "line": {"width": 2 if symbol.endswith("open") else 0, "color": colour}},
            customdata=[[None, f"<b>{row['contender']}</b><br>{row['board']}<br>{100 * row[score]:.1f} %, {text.plural(row['num_rows'] or 0, 'row')}"] for row in mine],
            hovertemplate="%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    goals = {row["board"]: row["goal"] for row in rows if row.get("goal") is not None}
    if goals:
        figure.add_scatter(
            x=[100 * goal for goal in goals.values()], y=[names[board] for board in goals], mode="markers", name="goal",
            marker={"symbol": "line-ns-open", "size": 18, "color": "#343a40", "line": {"width": 2}}, hovertemplate="goal %{x:.3g} %<extra></extra>",
        )  # fmt: skip
    values = [100 * row[score] for row in rows]
    styled(figure, height=max(260, 150 + max(34, 20 * _lines([*names.values()])) * len(boards)))
    figure.update_xaxes(title="Error (%)", type="log", **log_ticks(values))
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[names[board] for board in boards][::-1])
    return figure


def forecasts(rows: Sequence[Row]) -> go.Figure:
    """Forecasts that were scored: predicted over measured with the interval, the newest on top. Rows: label, value, lower, upper, actual."""
    rows = [row for row in rows if _positive(row["actual"]) and _positive(row["value"])]
    if not rows:
        return empty("No forecast has met its measurement yet.")
    names = [wrapped(row["label"], 44) for row in rows]
    ratios = [row["value"] / row["actual"] for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=ratios, y=names, mode="markers", marker={"color": KIND_COLOURS["predicted"], "size": 10, "symbol": "triangle-up"},
            error_x={"type": "data", "symmetric": False,
                     "array": [0 if row["upper"] is None else (row["upper"] - row["value"]) / row["actual"] for row in rows],
                     "arrayminus": [0 if row["lower"] is None else (row["value"] - row["lower"]) / row["actual"] for row in rows]},
            hovertemplate="predicted / measured %{x:.3g}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=1, line={"color": BUSY_COLOUR, "dash": "dot"})
    styled(figure, height=max(220, 110 + 34 * len(rows)))
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="Predicted / measured")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], showgrid=False)
    return figure


def feature_name(name: str) -> str:
    """A feature in words."""
    return name.replace("_", " ")


def _lines(names: Sequence[str]) -> int:
    """Lines of the longest of wrapped names."""
    return max(name.count("<br>") + 1 for name in names)


def _by_verdict() -> Sequence[tuple[str, str, Any]]:
    def is_inside(row: Row) -> bool | None:
        if row["lower"] is None or row["upper"] is None:
            return None
        return bool(row["lower"] <= row["actual"] <= row["upper"])

    return (
        ("inside its interval", KIND_COLOURS["predicted"], lambda row: is_inside(row) is True),
        ("outside its interval", UP_COLOUR, lambda row: is_inside(row) is False),
        ("without an interval", BUSY_COLOUR, lambda row: is_inside(row) is None),
    )


def _hover(row: Row, metric: Metric) -> str:
    lines = [
        f"<b>{row.get('label') or row.get('fold') or 'row'}</b>",
        f"predicted {text.quantity(metric, row['value'])}, actual {text.quantity(metric, row['actual'])}",
    ]
    if row["lower"] is not None and row["upper"] is not None:
        lines.append(f"90 % interval {text.quantity(metric, row['lower'])} to {text.quantity(metric, row['upper'])}")
    return "<br>".join(lines)


def _step_name(step: str) -> str:
    return {"bound": "Bound", "base": "Fitted base"}.get(step, step[:1].upper() + step[1:])


def _step_colour(row: Row) -> str:
    fixed = {"bound": KIND_COLOURS["analytical"], "base": ESTIMATE_COLOUR}
    return fixed.get(row["step"], UP_COLOUR if row["factor"] >= 1 else DOWN_COLOUR)


def _factor(row: Row) -> str:
    return "" if row["step"] == "bound" else f"× {row['factor']:.3g}"


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
