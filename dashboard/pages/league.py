"""League: every predictor beside four baselines on the same rows, held out the same way; and forecasts against what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, html

from dashboard import components as c
from dashboard import predict_figures as charts
from dashboard import predicting, text
from dashboard.data import Lake
from warehouse.metrics import BY_KEY

NAME, TITLE, MENU = "league", "League", "who predicts best"
STATE = ("split", "score", "snapshot")
SCORES = {"mdape": "Median error", "mape": "Mean error", "p90_ape": "90th percentile"}
SHORT = {"mdape": "Median", "mape": "Mean", "p90_ape": "90th"}
GOAL_WORDS = {
    "mdape": "median error",
    "mape": "mean error",
    "p90_ape": "90th percentile",
    "r2": "R²",
    "r2_log": "R² of logs",
    "coverage": "inside the interval",
}
OURS = "rooflake"
MOST_BOARDS = 24
"""Boards that one chart has room for; the table has them all."""

Row = Mapping[str, Any]


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    rows = lake.rows("league", snapshot)
    splits = list(dict.fromkeys(row["split"] for row in rows))
    state = {
        "split": c.chosen(params, "split", [c.ANY, *splits], c.ANY),
        "score": c.chosen(params, "score", list(SCORES), "mape"),
    }
    return c.page(
        TITLE,
        "Every predictor beside four baselines, on the same rows that none of them has seen.",
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "split", "Held out", [{"value": c.ANY, "label": "Anything"}, *({"value": one, "label": predicting.split_name(one)} for one in splits)],
                     state["split"], width=280),
            c.segments(NAME, "score", "Error", list(SHORT.items()), state["score"]),
        ),
        c.loading(content(lake, {**state, "snapshot": snapshot}), "league-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("league-content", "children"),
        inputs={"state": {name: Input(c.control(NAME, name), "value") for name in STATE}},
        prevent_initial_call=True,
    )
    def show(state: dict[str, Any]) -> c.Component:
        return c.guarded(lambda: content(lake, state))


def content(lake: Lake, state: Mapping[str, Any]) -> list[c.Component]:
    """The board, coverage by fold, the table, and forecasts."""
    snapshot, score = state["snapshot"], str(state["score"])
    split = c.free(state["split"])
    known = predicting.boards(lake)
    rows = [named(row, known, score) for row in lake.rows("league", snapshot) if split is None or row["split"] == split]
    parts: list[c.Component] = []
    if rows:
        boards = list(dict.fromkeys(row["board"] for row in rows))
        shown = [row for row in rows if row["board"] in boards[:MOST_BOARDS]]
        about = "A line a question, a mark a contender; left is better. Random rows are for reference: what is seen in training is easy."
        if len(boards) > MOST_BOARDS:
            about += f" The first {MOST_BOARDS} of {len(boards)}; the table has all."
        parts += [
            dmc.Text(summary(rows, score), className="rl-lead"),
            c.card(SCORES[score], c.graph("league", charts.league(shown, score), f"{SCORES[score]} of every contender", min_width=620), about=about,
                   tools=c.exports("league", snapshot), name="league"),
            coverage_card(rows, snapshot),
            table_card(rows, snapshot),
        ]  # fmt: skip
    else:
        parts.append(c.nothing("No predictor has been scored on this lake.", "rooflake train"))
    return [*parts, forecasts_card(lake, snapshot)]


def named(row: Row, known: Mapping[str, Row], score: str) -> dict[str, Any]:
    """A row with its board in words (what is predicted, of which rows, what was held out), and the goal of a score where it has one."""
    board = known.get(str(row["board"]), {})
    where = "" if row["board"] in (None, predicting.LAKE) else f" ({row['board']})"
    title = (
        board.get("title")
        or f"{predicting.target_name(row['target'])}{where}, {predicting.split_name(row['split'], inside=True)}"
    )
    is_ours = not row["is_baseline"] and row["source_id"] is None and row["artifact"] is not None
    goals = board.get("goals") or []
    wanted = next((goal["most"] for goal in goals if goal["score"] == score), None)
    contender = OURS if is_ours else row["contender"]
    judged = [verdict(goal, row) for goal in goals] if contender == OURS else []
    return {
        **row,
        "board": title,
        "contender": contender,
        "goal": wanted,
        "goals": "; ".join(one for one in judged if one) or None,
    }


def verdict(goal: Row, row: Row) -> str | None:
    """A goal and whether it was met: mean error at most 5 %: met. None for a score that the lake does not keep."""
    value = row.get(goal["score"])
    if value is None:
        return None
    limits = [
        (sign, goal[side]) for sign, side in (("at most", "most"), ("at least", "least")) if goal[side] is not None
    ]
    is_met = all(value <= limit if sign == "at most" else value >= limit for sign, limit in limits)
    words = " and ".join(f"{sign} {shown(goal['score'], limit)}" for sign, limit in limits)
    return f"{GOAL_WORDS.get(goal['score'], goal['score'])} {words}: {'met' if is_met else 'missed'}"


def shown(score: str, value: float) -> str:
    """A score as people read it: a share in per cent, R2 as it is."""
    return text.number(value) if score.startswith("r2") else f"{text.number(100 * value)} %"


def summary(rows: Sequence[Row], score: str) -> str:
    """On how many boards ours is ahead, in a sentence."""
    won = counted = 0
    for board in dict.fromkeys(row["board"] for row in rows):
        mine = {row["contender"]: row[score] for row in rows if row["board"] == board and row[score] is not None}
        others = [value for name, value in mine.items() if name != OURS]
        if OURS in mine and others:
            counted += 1
            won += mine[OURS] < min(others)
    return f"Ours has the least {SCORES[score].lower()} of all contenders in {won} of {text.plural(counted, 'comparison')}."


def coverage_card(rows: Sequence[Row], snapshot: str | None) -> c.Component:
    """What the 90 % interval held on every board."""
    mine = [
        {"fold": row["board"], "coverage": row["coverage"], "num_rows": row["num_rows"]}
        for row in rows
        if row["contender"] == OURS
    ]
    return c.card(
        "What the 90 % intervals held", c.graph("league-coverage", charts.coverage(mine), "Coverage by board", min_width=620),
        about="Measured on held-out rows; the line is what was promised. The page Predict shows every held-out part.", tools=c.exports("league", snapshot),
    )  # fmt: skip


def table_card(rows: Sequence[Row], snapshot: str | None) -> c.Component:
    """Every contender on every board."""
    shown = [
        {
            "board": row["board"], "contender": row["contender"], "num_rows": row["num_rows"],
            **{key: None if row[key] is None else 100 * row[key] for key in (*SCORES, "coverage")},
            "r2": row["r2"], "num_refused": row["num_refused"], "goals": row["goals"],
        }
        for row in rows
    ]  # fmt: skip
    columns = [
        c.text_column("board", "Question", width=380), c.text_column("contender", "Contender"), c.number_column("num_rows", "Rows"),
        *(c.number_column(key, f"{label} (%)") for key, label in SCORES.items()), c.number_column("coverage", "Interval covers (%)"),
        c.number_column("r2", "R²"), c.number_column("num_refused", "Without an answer"), c.text_column("goals", width=320),
    ]  # fmt: skip
    return html.Details(
        [
            html.Summary(f"The table: {text.plural(len(shown), 'row')}"),
            c.card("Scores", c.grid("league", columns, shown), tools=c.exports("league", snapshot)),
        ],
        className="rl-details",
    )


def forecasts_card(lake: Lake, snapshot: str | None) -> c.Component:
    """Published predictions and what came of them."""
    rows = lake.rows("forecast_list", snapshot)
    if not rows:
        return c.card(
            "Forecasts",
            c.nothing(
                "No prediction has been published before its measurement.",
                "rooflake predict MODEL --hardware ID --publish NOTE",
            ),
        )
    scored = [row for row in rows if row["actual"] is not None]
    inside = sum(bool(row["is_covered"]) for row in scored)
    about = f"{text.plural(len(rows), 'forecast')}, {len(scored)} measured since, {inside} of those inside the 90 % interval. None was changed after it was published."
    shown = [
        {"published": text.moment(row["published_at"]), "label": row["label"], "metric": BY_KEY[row["metric"]].label, "value": text.quantity(BY_KEY[row["metric"]], row["value"]),
         "interval": text.ABSENT if row["lower"] is None or row["upper"] is None else f"{text.quantity(BY_KEY[row['metric']], row['lower'])} to {text.quantity(BY_KEY[row['metric']], row['upper'])}",
         "actual": "not yet" if row["actual"] is None else text.quantity(BY_KEY[row["metric"]], row["actual"]),
         "error": None if row["actual"] is None else 100 * abs(row["value"] / row["actual"] - 1),
         "note": row["note"], "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"]))}
        for row in rows
    ]  # fmt: skip
    columns = [
        c.link_column(), c.text_column("published"), c.text_column("label", "Configuration"), c.text_column("metric"), c.text_column("value", "Forecast"),
        c.text_column("interval", "90 % interval"), c.text_column("actual", "Measured"), c.number_column("error", "Error (%)"), c.text_column("note"),
    ]  # fmt: skip
    chart = (
        c.graph("forecasts", charts.forecasts(scored), "Forecasts over measurements", min_width=620) if scored else None
    )
    return c.card(
        "Forecasts",
        chart,
        c.grid("forecasts", columns, shown),
        about=about,
        tools=c.exports("forecast_list", snapshot),
        name="forecasts",
    )
