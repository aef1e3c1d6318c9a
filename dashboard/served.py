"""Cards of one served run: its prompt and answer, its requests over time, whether its client can be trusted, and its scores."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dash import html

from dashboard import components as c
from dashboard import figures, text
from dashboard import serving_figures as charts
from dashboard.data import Lake
from warehouse.metrics import BY_KEY

Row = dict[str, Any]

MOST_LISTED = 1000
"""Requests that the table of a run holds; the export has them all."""
TRUST = "A client is trusted where, against a server of known times, it sustained five times the load with under 1 ms added at the 99th percentile."


def inference_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    """Prompt and answer of a request that was sent by hand."""
    if run["phase"] != "serve":
        return None
    rows = lake.rows("run_requests", snapshot, run_id=run["run_id"], most=1)
    if not rows or rows[0]["prompt"] is None:
        return None
    return c.card(
        "Prompt and answer",
        *exchange(rows[0]),
        tools=c.exports("run_requests", snapshot, run_id=run["run_id"]),
        name="inference",
    )


def exchange(request: Row) -> list[c.Component]:
    """What was asked and answered, with the times and tokens of the request."""
    stats = [
        c.stat(text.quantity(BY_KEY[key], request[key]), BY_KEY[key].label) for key in ("ttft_s", "tpot_s", "e2el_s")
    ]
    for key, label in (("input_tokens", "Prompt tokens"), ("output_tokens", "Output tokens")):
        about = {"usage": "as the server counts", "tokenizer": "by a tokenizer", "chunks": "counted chunks"}.get(
            request["token_count_source"] or ""
        )
        stats.append(c.stat(text.count(request[key]), label, about))
    ending = f"Ended: {request['finish_reason']}." if request["finish_reason"] else None
    failed = (
        html.P(f"{request['status']}: {request['status_detail'] or 'no detail'}", className="rl-warn")
        if request["status"] != "ok"
        else None
    )
    answer = request["text"] if request["text"] is not None else text.ABSENT
    parts = [
        html.H3("Asked", className="rl-sub"), html.Blockquote(request["prompt"], className="rl-said"),
        html.H3("Answered", className="rl-sub"), html.Blockquote(answer, className="rl-said"),
        failed, html.Div(stats, className="rl-stats"), html.P(ending, className="rl-quieter") if ending else None,
    ]  # fmt: skip
    return [part for part in parts if part is not None]


def requests_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    """Requests over time, how many were in flight, how latencies are distributed, failures by class, and the rows."""
    table = lake.query("run_requests", snapshot, run_id=run["run_id"], most=MOST_LISTED)
    if table.num_rows == 0:
        return None
    points = lake.rows("serving_requests", snapshot, run_id=run["run_id"])
    totals = {row["status"] == "ok": row["num_all"] for row in points}
    steady = (
        None
        if run["steady_from_s"] is None or run["steady_s"] is None
        else (run["steady_from_s"], run["steady_from_s"] + run["steady_s"])
    )
    drawn: list[c.Component] = []
    if any(row["sent_at_s"] is not None for row in points):
        label = "Points: latency of requests over the time they were sent"
        drawn.append(
            c.graph("requests-over-time", charts.over_time(points, ("ttft_s", "e2el_s"), steady), label, min_width=300)
        )
    if flight := lake.rows("serving_in_flight", snapshot, run_id=run["run_id"]):
        drawn.append(
            c.graph("in-flight", charts.in_flight(flight, steady), "Line: requests in flight over time", min_width=300)
        )
    label = "Cumulative distribution of TTFT, TPOT and end-to-end latency"
    drawn.append(c.graph("requests", figures.distribution(table, ("ttft_s", "tpot_s", "e2el_s")), label))
    columns = [
        c.number_column("request_index", "#"), c.text_column("sample_phase"), c.text_column("status"), c.number_column("http_status", "HTTP"),
        c.number_column("sent_at_s", "Sent (s)"), c.metric_column("ttft_s"), c.metric_column("tpot_s"), c.metric_column("e2el_s"),
        c.number_column("input_tokens"), c.number_column("output_tokens"), c.number_column("cached_tokens"), c.text_column("token_count_source", "Counted by"),
        c.text_column("finish_reason"), c.text_column("status_detail"),
    ]  # fmt: skip
    rows = table.to_pylist()
    used = [column for column in columns if any(row[column["field"]] is not None for row in rows)]
    grid = c.grid("requests", used, [{column["field"]: row[column["field"]] for column in used} for row in rows])
    number = sum(totals.values())
    about = f"{text.plural(number, 'request')}, {totals.get(False, 0)} failed{_classes(points)}. Latency is of requests that completed.{_steady(run)}"
    if number > len(rows):
        about += f" The table has the first {text.count(len(rows))}, the charts every n-th; the export has them all."
    return c.card("Requests", html.Div(drawn, className="rl-charts"), grid, about=about, tools=c.exports("run_requests", snapshot, run_id=run["run_id"]), name="requests-card")  # fmt: skip


def client_card(run: Row, snapshot: str | None) -> c.Component | None:
    """Whether the client that measured can be believed: what it adds, what it cost, what it held back."""
    if run["is_client_trusted"] is None and run["client_cpu_s"] is None and run["client_delay_p99_s"] is None:
        return None
    trusted = run["is_client_trusted"]
    verdict = {True: ("ok", "trusted"), False: ("fault", "not trusted"), None: ("warn", "not tested")}[trusted]
    stats = []
    if run["client_delay_p99_s"] is not None:
        stats.append(
            c.stat(
                text.quantity(BY_KEY["latency_s"], run["client_delay_p99_s"]),
                "Added by the client",
                "99th percentile, before the run",
            )
        )
    if run["client_cpu_s"] is not None:
        busy = run["client_cpu_s"] / run["duration_s"] if run["duration_s"] else None
        stats.append(
            c.stat(
                text.quantity(BY_KEY["cpu_time_s"], run["client_cpu_s"]),
                "CPU of the client",
                f"{text.number(busy)} cores kept busy" if busy is not None else None,
            )
        )
    if run["num_client_processes"] is not None:
        stats.append(c.stat(text.count(run["num_client_processes"]), "Client processes"))
    held = [
        (key, run[f"{key}_scheduled_s"] - run[f"{key}_s"])
        for key in ("ttft", "e2el")
        if run[f"{key}_s"] is not None and run[f"{key}_scheduled_s"] is not None
    ]
    if held:
        stats.append(
            c.stat(
                text.quantity(BY_KEY["latency_s"], held[0][1]),
                "Held back",
                "mean from when a request was due to when it was sent",
            )
        )
    return c.card(
        html.Span(["The client ", html.Span(verdict[1], className=f"rl-badge rl-badge-{verdict[0]}")]), html.Div(stats, className="rl-stats"),
        about=TRUST, tools=c.exports("run", snapshot, run_id=run["run_id"]), name="client",
    )  # fmt: skip


def quality_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    """Scores of what the run's model answered."""
    rows = lake.rows("run_quality", snapshot, run_id=run["run_id"])
    if not rows:
        return None
    shown = [{**row, "better": {True: "higher", False: "lower"}.get(row["is_higher_better"])} for row in rows]
    columns = [
        c.text_column("task"), c.text_column("metric", "Score"), c.number_column("value"), c.number_column("stderr", "±"), c.text_column("better", "Better is"),
        c.number_column("num_samples", "Items"), c.number_column("num_fewshot", "Examples"),
    ]  # fmt: skip
    keep = [column["field"] for column in columns]
    return c.card("Quality", c.grid("run-quality", columns, [{key: row[key] for key in keep} for row in shown]), about="Is what it answered right as well as fast.",
                  tools=c.exports("run_quality", snapshot, run_id=run["run_id"]), name="run-quality")  # fmt: skip


def _classes(points: list[Row]) -> str:
    """Failures by class, in parentheses."""
    names = [
        f"{row['status']} {row['http_status']}" if row["http_status"] not in (None, 200) else row["status"]
        for row in points
        if row["status"] != "ok"
    ]
    return f" ({', '.join(f'{number} {name}' for name, number in Counter(names).most_common())})" if names else ""


def _steady(run: Row) -> str:
    if run["steady_from_s"] is not None and run["steady_s"] is not None:
        return f" Shaded: the steady window of {text.quantity(BY_KEY['latency_s'], run['steady_s'])}."
    return ""
