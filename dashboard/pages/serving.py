"""Serving: what servers of an LLM give under load: latency over load, its distribution, throughput against interactivity, goodput and quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, dcc, html

from dashboard import ask_card, definitions, figures, text
from dashboard import components as c
from dashboard import serving_figures as charts
from dashboard.data import Lake
from warehouse.metrics import BY_KEY, Metric
from warehouse.store import StoreError

NAME, TITLE, MENU = "serving", "Serving", "servers under load"
LATENCIES = ("ttft_s", "tpot_s", "e2el_s", "itl_s", "ntpot_s", "icl_s", "ttft_scheduled_s", "e2el_scheduled_s")
CURVES = ("ttft_s", "tpot_s", "e2el_s")
"""Latencies with a load curve whatever is chosen."""
OF_REQUESTS = ("ttft_s", "tpot_s", "e2el_s", "itl_s")
"""Latencies that single requests have, for their distribution."""
STATISTICS = (("mean", "Mean"), ("p50", "p50"), ("p90", "p90"), ("p95", "p95"), ("p99", "p99"))
RATE = BY_KEY["output_tokens_per_s"]
COMMAND = "rooflake collect endpoint --url http://127.0.0.1:8000/v1 --model NAME"
APART = ("pools", "framework", "framework_version", "dtype", "workload", "load_pattern", "variant", "source_id")
"""What tells one line from another on the same device, in the order it is said."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What a person chose; `any` leaves a control free, no devices means all."""

    llm: str
    workload: str = c.ANY
    devices: tuple[str, ...] = ()
    metric: str = "ttft_s"
    stat: str = "p50"
    axis: str = "concurrency"
    load: str = c.ANY
    definition: str = ""
    excluded: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the query `serving_runs`."""
        return {
            "served_id": self.llm,
            "workload": c.free(self.workload),
            "hardware_ids": list(self.devices) or None,
            "with_excluded": self.excluded,
        }

    def column(self, metric: Metric) -> str:
        """The column of the chosen statistic of a latency."""
        return metric.column(None if self.stat == "mean" else self.stat)


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    choices = lake.rows("serving_choices", snapshot)
    if not choices:
        empty = c.nothing("No served load is here yet.", COMMAND)
        return c.page(
            "Servers under load",
            SUBTITLE,
            empty,
            ask_card.card(lake),
            c.controls_hidden(NAME, snapshot),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    choice = read(lake, params, choices, snapshot)
    names = {row["served_id"]: row["served_name"] for row in choices}
    devices = {row["hardware_id"]: row["name"] for row in lake.rows("device_list", snapshot)}
    hidden = dcc.Input(id=c.control(NAME, "definition"), type="hidden", value=choice.definition)
    return c.page(
        "Servers under load",
        SUBTITLE,
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "llm", "LLM", [{"value": key, "label": name} for key, name in names.items()], choice.llm, width=230),
            c.select(NAME, "workload", "Tokens", _workloads(choices, choice.llm), choice.workload, width=190),
            c.multi(NAME, "devices", "Devices", [{"value": key, "label": devices.get(key, key)} for key in _devices(choices)], list(choice.devices),
                    placeholder="All devices", width=260),
            c.select(NAME, "metric", "Latency", [{"value": key, "label": BY_KEY[key].label} for key in LATENCIES], choice.metric, width=190),
            c.segments(NAME, "stat", "Statistic", STATISTICS, choice.stat),
            c.select(NAME, "axis", "Load counted in", [{"value": key, "label": name} for key, name in charts.AXES.items()], choice.axis, width=220),
            c.select(NAME, "load", "Load of the distribution", _loads(lake, choice, snapshot), choice.load, width=200),
            c.switch(NAME, "excluded", "Rows kept out of charts", choice.excluded),
            hidden,
        ),
        c.loading(content(lake, choice, snapshot), "serving-content"),
        ask_card.card(lake),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


SUBTITLE = "The same LLM on different servers, engines and devices: how fast each answers as the load grows, and how much it gives."


def register(app: Dash, lake: Lake) -> None:
    ask_card.register(app, lake)
    names = ("llm", "workload", "devices", "metric", "stat", "axis", "load", "definition", "snapshot")

    @app.callback(
        Output("serving-content", "children"),
        inputs={
            "state": {
                **{name: Input(c.control(NAME, name), "value") for name in names},
                "excluded": Input(c.switch_id(NAME, "excluded"), "checked"),
            }
        },
        prevent_initial_call=True,
    )
    def show(state: dict[str, Any]) -> c.Component:
        snapshot = state.pop("snapshot")
        choice = Choice(**{**state, "devices": tuple(state["devices"] or ()), "definition": state["definition"] or ""})
        return c.guarded(lambda: content(lake, choice, snapshot))

    @app.callback(
        Output(c.control(NAME, "workload"), "data"),
        Output(c.control(NAME, "workload"), "value"),
        Output(c.control(NAME, "load"), "data"),
        Output(c.control(NAME, "load"), "value"),
        inputs={
            "llm": Input(c.control(NAME, "llm"), "value"),
            "workload": Input(c.control(NAME, "workload"), "value"),
            "load": Input(c.control(NAME, "load"), "value"),
            "snapshot": Input(c.control(NAME, "snapshot"), "value"),
        },
        prevent_initial_call=True,
    )
    def narrow(llm: str, workload: str, load: str, snapshot: str) -> tuple[Any, ...]:
        """Offer the workloads and loads of the chosen LLM; keep what was chosen where it is still there."""
        workloads = _workloads(lake.rows("serving_choices", snapshot), llm)
        workload = workload if workload in [one["value"] for one in workloads] else workloads[0]["value"]
        loads = _loads(lake, Choice(llm, workload), snapshot)
        return workloads, workload, loads, load if load in [one["value"] for one in loads] else c.ANY


def read(lake: Lake, params: c.Params, choices: Sequence[Row], snapshot: str | None) -> Choice:
    """The state in the URL; what it does not say comes from the LLM and workload known at most loads. Raises StoreError for what is not there."""
    llm = c.chosen(params, "llm", list(dict.fromkeys(row["served_id"] for row in choices))) or c.ANY
    workload = c.chosen(params, "workload", [one["value"] for one in _workloads(choices, llm)]) or c.ANY
    devices = tuple(c.listed(params, "devices") or ())
    for device in devices:
        if device not in _devices(choices):
            raise StoreError(
                f"The link asks for device '{device}', on which nothing was served here. Known: {', '.join(_devices(choices)) or 'none'}."
            )
    given = Choice(
        llm, workload, devices, excluded=params.get("excluded") == "1", definition=params.get("definition") or ""
    )
    rows = lake.rows("serving_runs", snapshot, **given.parameters)
    metric = c.chosen(params, "metric", LATENCIES, max(LATENCIES, key=lambda key: _known(rows, key))) or "ttft_s"
    stats = [name for name, _ in STATISTICS]
    most = {name: _known(rows, BY_KEY[metric].column(None if name == "mean" else name)) for name in stats}
    stat = (
        c.chosen(params, "stat", stats, max(("p50", "mean", "p99", "p90", "p95"), key=lambda name: most[name]))
        or "mean"
    )
    axis = (
        c.chosen(params, "axis", list(charts.AXES), max(charts.AXES, key=lambda key: _known(rows, key)))
        or "concurrency"
    )
    load = c.chosen(params, "load", [one["value"] for one in _loads(lake, given, snapshot)], c.ANY) or c.ANY
    return Choice(llm, workload, devices, metric, stat, axis, load, given.definition, given.excluded)


def content(lake: Lake, choice: Choice, snapshot: str | None) -> list[c.Component]:
    """The answer, the charts and the rows."""
    found = lake.rows("serving_runs", snapshot, **choice.parameters)
    if not found:
        return [c.nothing("No load matches. Set the tokens to Any, or take devices away.", COMMAND)]
    rows = _named(found)
    parts = [
        answer_card(rows, choice, snapshot),
        curves_card(rows, choice, snapshot),
        cdf_card(lake, rows, choice, snapshot),
        pareto_card(rows, choice, snapshot),
        goodput_card(rows, choice, snapshot),
        quality_card(lake, choice, snapshot),
        rows_card(rows, choice, snapshot),
    ]
    return [part for part in parts if part is not None]


# the answer ---------------------------------------------------------------------------------------------------------------


def answer_card(rows: Sequence[Row], choice: Choice, snapshot: str | None) -> c.Component:
    """Who gives most, who answers first, and who is saturated when, each with its row."""
    sound = [row for row in rows if row["status"] == "ok" and not row["num_faults"] and not row["is_excluded"]]
    lines = [*most_output(sound, choice), *first_answer(sound, choice), *saturated(rows)]
    notes = []
    if left := sum(1 for row in rows if row["num_faults"]):
        notes.append(f"{text.plural(left, 'row')} in which a check found a fault stay out of the answer.")
    if unknown := _uncounted(sound):
        notes.append(
            f"Without a throughput per device, for the number of devices is not stated: {text.plural(unknown, 'load')}."
        )
    if failed := sum(1 for row in rows if row["status"] != "ok"):
        notes.append(f"{text.plural(failed, 'load')} ended without a result.")
    if not lines:
        return c.nothing("No load here has a throughput or a latency to compare. The rows say what they know.")
    items = [
        html.Li(
            [
                html.I(className=f"rl-dot rl-{row['source_kind']}"),
                html.Span(
                    [
                        html.B(lead),
                        words,
                        " ",
                        dcc.Link("row", href=c.href("run", snapshot, run_id=row["run_id"])),
                        *_badges(row),
                    ]
                ),
            ]
        )
        for lead, words, row in lines
    ]
    return c.card(
        "The answer",
        html.Ul(items, className="rl-answer"),
        *([html.P(" ".join(notes), className="rl-quieter")] if notes else []),
        name="answer",
    )


Line = tuple[str, str, Row]


def most_output(rows: Sequence[Row], choice: Choice) -> list[Line]:
    """The series with most output tokens/s per device, and how far ahead of the next."""
    per_device = "output_tokens_per_s_per_device"
    kept = definitions.ranked(rows, RATE, choice.definition)
    best = _best(kept, per_device, lambda value: -value)
    if not best:
        return []
    row = best[0]
    shown = [
        f"{BY_KEY[key].label} {choice.stat} {_timed(row, BY_KEY[key], choice)}"
        for key in ("ttft_s", "tpot_s")
        if row[choice.column(BY_KEY[key])] is not None
    ]
    words = f"{_name(row, best[:2])} with {text.number(row[per_device])} tokens/s per device at {row['load_words']}"
    words += f" ({', '.join(shown)})" if shown else ""
    return [("Most output: ", words + _ahead(best, per_device, "tokens/s"), row)]


def first_answer(rows: Sequence[Row], choice: Choice) -> list[Line]:
    """The series with the least of the chosen latency at its own best load."""
    metric = BY_KEY[choice.metric]
    column = choice.column(metric)
    best = _best(definitions.ranked(rows, metric, choice.definition), column, lambda value: value)
    if not best:
        return []
    row = best[0]
    words = f"{_name(row, best[:2])} with {_timed(row, metric, choice)} at {row['load_words']}"
    if len(best) > 1 and row[column] > 0:
        other = best[1]
        words += f", {text.number(other[column] / row[column])} times less than {_name(other, best[:2])} ({_timed(other, metric, choice)} at {other['load_words']})"
    return [(f"Least {metric.label} ({choice.stat}): ", f"{words}.", row)]


def saturated(rows: Sequence[Row]) -> list[Line]:
    """From which load on a series took less than it was offered."""
    first: dict[str, Row] = {}
    for row in sorted(
        (row for row in rows if row["is_saturated"]),
        key=lambda row: (row["concurrency"] or 0, row["request_rate_per_s"] or 0.0),
    ):
        first.setdefault(row["series"], row)
    found = list(first.values())[:3]
    return [("Saturated: ", f"{_name(row, found)} from {row['load_words']} on.", row) for row in found]


def _best(rows: Sequence[Row], column: str, rank: Any) -> list[Row]:
    """The best row of each series, the best series first."""
    best: dict[str, Row] = {}
    for row in rows:
        if row[column] is not None and (
            row["series"] not in best or rank(row[column]) < rank(best[row["series"]][column])
        ):
            best[row["series"]] = row
    return sorted(best.values(), key=lambda row: (rank(row[column]), row["series"]))


def _ahead(best: Sequence[Row], column: str, unit: str) -> str:
    if len(best) < 2 or not best[1][column]:
        return "."
    other = best[1]
    return f", {text.number(best[0][column] / other[column])} times {_name(other, best[:2])} ({text.number(other[column])} {unit} at {other['load_words']})."


def _name(row: Row, among: Sequence[Row]) -> str:
    """Who serves, and where another of the rows has the same name, all that tells the line of this one apart."""
    is_alone = sum(other["who"] == row["who"] for other in among) < 2
    return str(row["who"] if is_alone else row["series"])


def _timed(row: Row, metric: Metric, choice: Choice) -> str:
    """A latency; of requests that were due at a time of their own also from then on, for a client that sent late would hide it."""
    said = text.quantity(metric, row[choice.column(metric)])
    due = BY_KEY.get(metric.key.removesuffix("_s") + "_scheduled_s")
    if due is None or row["load_pattern"] in (None, "closed", "single") or row[choice.column(due)] is None:
        return said
    return f"{said}, {text.quantity(due, row[choice.column(due)])} from when it was due"


def _uncounted(rows: Sequence[Row]) -> int:
    """Loads whose throughput is of an unknown number of devices."""
    return sum(row["output_tokens_per_s"] is not None and row["num_devices"] is None for row in rows)


def _badges(row: Row) -> list[c.Component]:
    said = [
        ("client not trusted", row["is_client_trusted"] is False),
        (text.busy(row["other_load_ratio"]), text.busy(row["other_load_ratio"])),
        ("doubt", row["num_doubts"]),
    ]
    return [
        html.Span(words, className="rl-badge rl-badge-warn", title=row["finding"] if words == "doubt" else None)
        for words, is_so in said
        if is_so
    ]


# charts -------------------------------------------------------------------------------------------------------------------


def curves_card(rows: Sequence[Row], choice: Choice, snapshot: str | None) -> c.Component:
    """Latency over load: TTFT, TPOT and end-to-end, and the chosen one."""
    keys = [key for key in dict.fromkeys([choice.metric, *CURVES]) if _known(rows, choice.column(BY_KEY[key]))]
    if not keys:
        known = [
            name
            for name, _ in STATISTICS
            if any(_known(rows, BY_KEY[key].column(None if name == "mean" else name)) for key in LATENCIES)
        ]
        said = f"They have: {', '.join(known)}." if known else "They have no latency at all: their throughput is below."
        return c.card(
            "Latency over load",
            c.nothing(f"None of the {text.plural(len(rows), 'load')} has its {choice.stat}. {said}"),
            name="curves",
        )
    drawn, badges = [], []
    for key in keys:
        metric = BY_KEY[key]
        which = definitions.choose(rows, metric, choice.definition)
        badges.append(definitions.badge(which, _definition_link(choice, snapshot)))
        figure = charts.load_curves(_marked(which, rows), choice.axis, metric, choice.column(metric))
        label = f"{metric.label}, {choice.stat}"
        drawn.append(
            html.Div(
                [
                    html.H3(label, className="rl-sub"),
                    c.graph(f"curve-{key}", figure, f"Lines: {label} over load", min_width=300),
                ]
            )
        )
    about = f"Of requests that completed. Click a point for its run.{_room(rows)}"
    if any(row["is_saturated"] for row in rows):
        about += " Ringed in amber: the server took less than it was offered."
    return c.card(
        "Latency over load",
        *filter(None, badges),
        html.Div(drawn, className="rl-charts"),
        about=about,
        tools=_exports(choice, snapshot),
        name="curves",
    )


def cdf_card(lake: Lake, rows: Sequence[Row], choice: Choice, snapshot: str | None) -> c.Component | None:
    """How a latency is distributed over requests, server beside server at one load."""
    having = [row for row in rows if row["has_requests"] and row["status"] == "ok"]
    if not having:
        return None
    metric = BY_KEY[choice.metric if choice.metric in OF_REQUESTS else "e2el_s"]
    load = choice.load if choice.load != c.ANY else _common_load(having)
    which = definitions.choose(rows, metric, choice.definition)
    mine = [row for row in _marked(which, having) if row["load_words"] == load][: charts.MOST_LINES]
    named = {row["run_id"]: row for row in mine}
    table = lake.rows("serving_cdf", snapshot, run_ids=list(named), metric=metric.key)
    counts = {row["run_id"]: row["num_requests"] for row in table}
    several = len({row["series"] for row in mine}) < len(mine)
    shown = [
        {**row, "source_kind": named[row["run_id"]]["source_kind"],
         "series": named[row["run_id"]]["series"] + (f", {text.moment(named[row['run_id']]['collected_at'])}" if several else ""),
         "hover": f"<b>{named[row['run_id']]['who']}</b>, {load}<br>{text.plural(row['num_requests'], 'request')}"}
        for row in table
    ]  # fmt: skip
    about = f"{text.plural(sum(counts.values()), 'completed request')} of {text.plural(len(counts), 'run')} at {load}, warm-up left out."
    return c.card(
        f"{metric.label} over requests",
        *filter(None, [definitions.badge(which, _definition_link(choice, snapshot))]),
        c.graph("cdf", charts.cdf(shown, metric), f"Lines: share of requests within a {metric.label}", min_width=300),
        about=about, tools=c.exports("serving_cdf", snapshot, run_ids=list(named), metric=metric.key), name="cdf",
    )  # fmt: skip


def pareto_card(rows: Sequence[Row], choice: Choice, snapshot: str | None) -> c.Component | None:
    """What a device gives against what one user gets."""
    tpot = BY_KEY["tpot_s"]
    column = choice.column(tpot)
    both = [row for row in rows if row[column] and row["output_tokens_per_s_per_device"] is not None]
    if not both:
        return None
    unknown = _uncounted([row for row in rows if row[column]])
    left = f" Left out, for the number of devices is not stated: {text.plural(unknown, 'load')}." if unknown else ""
    rate, user = definitions.choose(both, RATE, choice.definition), definitions.choose(both, tpot, choice.definition)
    mine = [{**row, "interactivity": 1 / row[column]} for row in _marked(rate, _marked(user, both))]
    notes = [definitions.badge(one, _definition_link(choice, snapshot)) for one in (rate, user)]
    return c.card(
        "Throughput against interactivity", *filter(None, notes),
        c.graph("pareto", charts.pareto(mine), "Lines: output tokens per second and device against tokens per second of one user", min_width=300),
        about=f"Up and to the right is better. Interactivity is 1 / TPOT ({choice.stat}); output tokens/s over the devices used. {text.plural(len(mine), 'load')}.{left}",
        tools=_exports(choice, snapshot), name="pareto",
    )  # fmt: skip


def goodput_card(rows: Sequence[Row], choice: Choice, snapshot: str | None) -> c.Component | None:
    """The most requests/s within the objectives that each series reached."""
    key = "goodput_requests_per_s" if _known(rows, "goodput_requests_per_s") else "goodput_ratio"
    which = definitions.choose(rows, BY_KEY[key], choice.definition)
    best: dict[tuple[str, str | None], Row] = {}
    for row in _marked(which, rows):
        place = row["series"], row["objectives"]
        if row[key] is not None and (place not in best or row[key] > best[place][key]):
            best[place] = row
    if not best:
        return None
    mine = [{**row, "label": row["series"]} for row in best.values()]
    defined = BY_KEY[key].definition
    return c.card(
        "Goodput", *filter(None, [definitions.badge(which, _definition_link(choice, snapshot))]),
        c.graph("goodput", charts.goodput(mine, key), "Bars: goodput under objectives", min_width=300),
        about=f"{defined[:1].upper()}{defined[1:]}: the best load of each, named in its bar. Goodput under other objectives is another colour.",
        tools=_exports(choice, snapshot), name="goodput",
    )  # fmt: skip


def quality_card(lake: Lake, choice: Choice, snapshot: str | None) -> c.Component | None:
    """Is it right as well as fast: scores beside throughput."""
    rows = lake.rows("serving_quality", snapshot, served_id=choice.llm)
    if not rows:
        return None
    tasks = list(dict.fromkeys((row["task"], row["metric"]) for row in rows))
    tasks.sort(key=lambda one: -sum((row["task"], row["metric"]) == one for row in rows))
    task, metric = tasks[0]
    shown = [
        {**row, "series": ", ".join(filter(None, (row["device"], row["dtype"], row["variant"], row["source_id"]))),
         "hover": f"<b>{task}: {metric} {text.number(row['value'])}</b><br>{row['device']}, {row['dtype']}<br>speed from {row['speed_from'] or 'nowhere'}",
         "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])),
         "better": {True: "higher", False: "lower"}.get(row["is_higher_better"])}
        for row in rows
    ]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), c.text_column("task"), c.text_column("metric", "Score"), c.number_column("value"), c.number_column("stderr", "±"),
        c.text_column("better", "Better is"), c.number_column("num_samples", "Items"), c.number_column("num_fewshot", "Examples"),
        c.number_column("output_tokens_per_s_per_device", "Output tokens/s per device"), c.text_column("speed_from", "Speed from"),
        c.text_column("device"), c.text_column("dtype", "Format"), c.text_column("source_id", "Source"),
    ]  # fmt: skip
    keep = ["run_id", *(column["field"] for column in columns)]
    figure = charts.quality([row for row in shown if (row["task"], row["metric"]) == (task, metric)], task, metric)
    return c.card(
        "Quality beside speed",
        c.graph("quality", figure, f"Points: {task} {metric} against output tokens per second and device", min_width=300),
        c.grid("quality", columns, [{key: row[key] for key in keep} for row in shown]),
        about=f"Fast but wrong is to the right and off. Shown is {task}, {metric}; the table has all {text.plural(len(tasks), 'score')}.",
        tools=c.exports("serving_quality", snapshot, served_id=choice.llm), name="quality",
    )  # fmt: skip


def rows_card(rows: Sequence[Row], choice: Choice, snapshot: str | None) -> c.Component:
    """The charts' twin: every load, failures too."""
    latencies = [choice.column(BY_KEY[key]) for key in dict.fromkeys([choice.metric, *CURVES])]
    shown = [
        {**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])), "machine": text.busy(row["other_load_ratio"]),
         "saturated": "saturated" if row["is_saturated"] else None, "client": {True: "trusted", False: "not trusted"}.get(row["is_client_trusted"]),
         "definition": definitions.of(row, BY_KEY[choice.metric], choice.column(BY_KEY[choice.metric])),
         "rate_definition": definitions.of(row, RATE) if row["output_tokens_per_s"] is not None else None,
         "excluded": row["exclusion_reason"] if row["is_excluded"] else None}
        for row in rows
    ]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), c.text_column("device"), c.text_column("framework"), c.text_column("framework_version", "Version"),
        c.text_column("load_words", "Load"), c.text_column("saturated"), *(_latency_column(key, choice) for key in dict.fromkeys([choice.metric, *CURVES])),
        c.metric_column("output_tokens_per_s"), c.number_column("output_tokens_per_s_per_device", "Output tokens/s per device"), c.metric_column("requests_per_s"),
        c.metric_column("goodput_requests_per_s"), c.metric_column("goodput_ratio"), c.text_column("objectives"), c.metric_column("success_rate"),
        c.text_column("status"), c.text_column("finding"), c.text_column("client"), c.text_column("machine"), c.text_column("workload", "Tokens"),
        c.text_column("dtype", "Format"), c.text_column("variant"), c.text_column("definition", f"{BY_KEY[choice.metric].label} definition"),
        c.text_column("rate_definition", "Tokens/s definition"), c.text_column("source_id", "Source"), c.text_column("excluded", "Kept out because"),
    ]  # fmt: skip
    used = [column for column in columns if any(row.get(column["field"]) is not None for row in shown)]
    shown.sort(key=lambda row: (row["status"] != "ok", all(row[key] is None for key in latencies)))
    keep = ["run_id", *(column["field"] for column in used)]
    about = f"{text.plural(len(rows), 'load')}; those that failed last."
    return c.card(
        "The loads",
        c.grid("serving-rows", used, [{key: row[key] for key in keep} for row in shown]),
        about=about,
        tools=_exports(choice, snapshot),
    )


# small things -------------------------------------------------------------------------------------------------------------


def _latency_column(key: str, choice: Choice) -> dict[str, Any]:
    metric = BY_KEY[key]
    return c.metric_column(key, choice.column(metric), f"{metric.label} {choice.stat}")


def _named(rows: Sequence[Row]) -> list[Row]:
    """Rows with the line they belong to (`series`: all that tells it apart; `place` among the others, that with most loads first), who
    serves (`who`) and what a point says (`hover`)."""
    apart = [key for key in APART if len({row[key] for row in rows}) > 1]
    parts = [str(row["variant"] or "").split(", ") for row in rows]
    common = set(parts[0]).intersection(*parts)
    named = []
    for row, variant in zip(rows, parts, strict=True):
        engine = row["framework"]
        device = (
            row["device"]
            if row["hardware_id"]
            else f"{row['served_model_name'] or row['source_id']} (device not stated)"
        )
        who = f"{device} with {engine}" if engine else str(device)
        own = ", ".join(part for part in variant if part not in common and part != engine)
        words = [text.short_device(device), *(own if key == "variant" else str(row[key] or "") for key in apart)]
        series = ", ".join(word for word in dict.fromkeys(words) if word)
        named.append({**row, "who": who, "series": series, "hover": _hover(row, who)})
    order = [name for name, _ in Counter(row["series"] for row in named).most_common()]
    return [{**row, "place": order.index(row["series"])} for row in named]


def _marked(which: definitions.Choice, rows: Sequence[Row]) -> list[Row]:
    """Rows that the chosen definition keeps; where all are shown, each with its definition in its name."""
    kept = which.kept(rows)
    if which.chosen != definitions.ALL or not which.is_mixed:
        return kept
    order = list(which.counts)
    followed = [definitions.of(row, which.metric) for row in kept]
    return [
        {**row, "series": f"{row['series']} [{name}]", "dash": order.index(name) % 4 if name in order else 0}
        for row, name in zip(kept, followed, strict=True)
    ]


def _hover(row: Row, who: str) -> str:
    parts = [f"<b>{who}</b>, {row['load_words']}", f"{row['served_name']}, {row['workload']}, {row['dtype']}"]
    for key in CURVES:
        known = [
            f"{name} {text.quantity(BY_KEY[key], row[column])}"
            for name, column in (("mean", key), *((name, BY_KEY[key].column(name)) for name in ("p50", "p99")))
            if row[column] is not None
        ]
        if known:
            parts.append(f"{BY_KEY[key].label}: {', '.join(known)}")
    if row["output_tokens_per_s"] is not None:
        parts.append(f"{text.number(row['output_tokens_per_s'])} output tokens/s ({definitions.of(row, RATE)})")
    if row["goodput_ratio"] is not None:
        parts.append(
            f"goodput {text.quantity(BY_KEY['goodput_ratio'], row['goodput_ratio'])} within {row['objectives'] or 'its objectives'}"
        )
    if row["success_rate"] is not None and row["success_rate"] < 1:
        parts.append(f"{text.quantity(BY_KEY['success_rate'], row['success_rate'])} of the requests completed")
    parts.append(f"{row['source_kind']}, {row['source_id']}")
    if row["num_devices"] is None:
        parts.append("number of devices not stated")
    if row["is_saturated"]:
        parts.append("saturated: the server took less than was offered")
    if busy := text.busy(row["other_load_ratio"]):
        parts.append(f"measured on a {busy}")
    if row["finding"]:
        parts.append(figures.wrapped(f"found: {row['finding']}", 60))
    if row["is_excluded"]:
        parts.append(figures.wrapped(f"kept out of charts: {row['exclusion_reason']}", 60))
    return "<br>".join([*parts, "<i>click for the run</i>"])


def _known(rows: Sequence[Row], column: str) -> int:
    return sum(row[column] is not None for row in rows)


def _room(rows: Sequence[Row]) -> str:
    number, most = len({row["series"] for row in rows}), charts.MOST_LINES
    if number <= most:
        return ""
    return f" The charts have room for the {most} of {number} lines with most loads; the table has them all. Choose devices to see others."


def _common_load(rows: Sequence[Row]) -> str:
    """The load that most series have; of several the highest."""
    loads: dict[str, set[str]] = {}
    for row in rows:
        loads.setdefault(row["load_words"], set()).add(row["series"])
    order = [
        row["load_words"]
        for row in sorted(rows, key=lambda row: (row["concurrency"] or 0, row["request_rate_per_s"] or 0.0))
    ]
    return max(loads, key=lambda load: (len(loads[load]), order.index(load)))


def _workloads(choices: Sequence[Row], llm: str) -> list[dict[str, str]]:
    mine = [row["workload"] for row in choices if row["served_id"] == llm]
    return [*({"value": one, "label": one} for one in mine), {"value": c.ANY, "label": "Any"}]


def _devices(choices: Sequence[Row]) -> list[str]:
    return sorted({device for row in choices for device in row["hardware_ids"] or [] if device is not None})


def _loads(lake: Lake, choice: Choice, snapshot: str | None) -> list[dict[str, str]]:
    """Loads whose requests are known."""
    rows = lake.rows("serving_runs", snapshot, **choice.parameters)
    having = dict.fromkeys(row["load_words"] for row in rows if row["has_requests"])
    return [{"value": c.ANY, "label": "That most have"}, *({"value": one, "label": one} for one in having)]


def _definition_link(choice: Choice, snapshot: str | None) -> Any:
    state = {
        "llm": choice.llm, "workload": choice.workload, "devices": list(choice.devices), "metric": choice.metric, "stat": choice.stat, "axis": choice.axis,
        "load": choice.load, "excluded": "1" if choice.excluded else None,
    }  # fmt: skip
    return lambda definition: c.href(NAME, snapshot, **state, definition=definition)


def _exports(choice: Choice, snapshot: str | None) -> c.Component:
    return c.exports(
        "serving_runs", snapshot, **{**choice.parameters, "with_excluded": "true" if choice.excluded else None}
    )
