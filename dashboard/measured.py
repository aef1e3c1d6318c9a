"""Cards of what was measured: where the time, the memory and the energy of a run went, its ranks, its telemetry and its trace; and of
several runs their variants, how they scale, where memory ends, and what came of a grid of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from dash import html

from dashboard import components as c
from dashboard import measured_figures as charts
from dashboard import text
from dashboard.data import Lake
from warehouse.metrics import BY_KEY, DEFINITIONS

Row = dict[str, Any]

HOST_BOUND = 1.2
"""A latency this many times the time the device worked is the host's: the rule of the column `is_host_bound`."""
TRAINING = ("pretrain_step", "finetune_step")
MEMORY = ("memory_peak_bytes", "memory_reserved_bytes", "memory_process_bytes", "memory_device_bytes")
TIMES = (
    "latency_s",
    "forward_s",
    "backward_s",
    "optimizer_s",
    "device_time_s",
    "kernel_time_s",
    "cpu_time_s",
    "ops_time_s",
)


# one run ------------------------------------------------------------------------------------------------------------------


def cards(lake: Lake, run: Row, snapshot: str | None) -> list[c.Component]:
    """Cards of a measured run with a result; none for other runs."""
    if run["source_kind"] != "measured" or run["status"] != "ok":
        return []
    found = [
        time_card(lake, run, snapshot),
        memory_card(lake, run, snapshot),
        energy_card(run, snapshot),
        telemetry_card(lake, run, snapshot),
        ranks_card(lake, run, snapshot),
        trace_card(run),
    ]
    return [card for card in found if card is not None]


def time_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    """Wall clock, device, kernels and host; who sets the pace; and the same configuration executed in other ways."""
    known = [key for key in TIMES if run[key] is not None]
    if len(known) < 2:
        return None
    stats = [c.stat(_shown(run, key), BY_KEY[key].label, _about_time(run, key)) for key in known]
    variants = lake.query("variants", snapshot, config_ids=[run["config_id"]], task=run["task"])
    verdict = " ".join(filter(None, (pace(run), better_variant(run, variants.to_pylist()))))
    parts: list[c.Component] = [html.Div(stats, className="rl-stats")]
    if verdict:
        parts.insert(0, html.P(verdict, className="rl-lead"))
    if variants.num_rows > 1:
        parts += variants_body(variants.to_pylist(), snapshot)
    return c.card(
        "Where the time goes", *parts, tools=c.exports("variants", snapshot, config_ids=run["config_id"], task=run["task"]), name="pace"
    )  # fmt: skip


def pace(run: Row) -> str | None:
    """Whether host or device sets the pace, and why, in a sentence; None where the device's time is not known."""
    wall, busy = run["latency_s"], run["kernel_time_s"]
    what = "kernels run"
    if busy is None:
        busy, what = run["device_time_s"], "the device takes"
    if wall is None or busy is None or wall <= 0:
        return None
    latency = BY_KEY["latency_s"]
    if run["is_host_bound"] is None and run["kernel_time_s"] is None:
        return (
            f"One execution takes {text.quantity(latency, wall)} by the wall clock and {text.quantity(latency, busy)} between device "
            "events, in which waiting for the host counts: who sets the pace only a profiler's pass (--kernels) tells."
        )
    is_host_bound = run["is_host_bound"] if run["is_host_bound"] is not None else wall > HOST_BOUND * busy
    idle = max(0.0, 1 - busy / wall)
    said = f"one execution takes {text.quantity(latency, wall)} by the wall clock, and {what} {text.quantity(latency, busy)} of it"
    if is_host_bound:
        return f"Host bound: {said}; the device idles {100 * idle:.0f} % of the time, waiting for the next kernel to be issued."
    return f"Device bound: {said}; the host keeps the device busy {100 * (1 - idle):.0f} % of the time."


def better_variant(run: Row, variants: Sequence[Row]) -> str | None:
    """What the fastest other way of executing the same configuration reached; None where there is none."""
    own = variant_words(run)
    others = [row for row in variants if variant_words(row) != own and row["latency_s"] is not None]
    if not others or not run["latency_s"]:
        return None
    best = min(others, key=lambda row: float(row["latency_s"]))
    ratio = run["latency_s"] / best["latency_s"]
    speed = f"{text.number(ratio)} times as fast" if ratio >= 1 else f"{text.number(1 / ratio)} times slower"
    more = f", at {100 * best['mbu']:.0f} % MBU" if best["mbu"] is not None else ""
    return f"With {variant_words(best)} it took {text.quantity(BY_KEY['latency_s'], best['latency_s'])}, {speed}{more}."


def variant_words(row: Row) -> str:
    """How a run was executed: graph execution and a static cache."""
    cache = f" and a {row['cache_implementation']} cache" if row["cache_implementation"] is not None else ""
    return f"{row['execution']} execution{cache}"


def variants_body(rows: Sequence[Row], snapshot: str | None) -> list[c.Component]:
    """The chart of variants and its table."""
    labelled = [{**row, "label": _variant_label(row, rows)} for row in rows]
    shown = [
        {**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])), "host": {True: "host", False: "device"}.get(row["is_host_bound"])}
        for row in labelled
    ]  # fmt: skip
    columns = [
        c.link_column(), c.text_column("execution"), c.text_column("cache_implementation", "Cache"), c.metric_column("latency_s"),
        c.metric_column("kernel_time_s"), c.metric_column("mfu", "idle_share", "Device idle"), c.text_column("host", "Bound by"),
        c.number_column("speedup", "Speed-up", headerTooltip="times as fast as the slowest of them"), c.metric_column("mbu"), c.metric_column("mfu"),
        c.metric_column("output_tokens_per_s"), c.metric_column("memory_peak_bytes"), c.metric_column("energy_per_output_token_j"),
        c.text_column("task"), c.text_column("device"), c.text_column("batch"), c.text_column("tokens"), c.text_column("status"),
    ]  # fmt: skip
    used = [column for column in columns if any(row.get(column["field"]) is not None for row in shown)]
    keep = ["run_id", *(column["field"] for column in used)]
    chart = charts.variants(pa.Table.from_pylist(labelled))
    return [
        c.graph(
            "variants", chart, "Bars: latency of each way of executing, and the part the device worked", min_width=300
        ),
        c.grid("variants", used, [{key: row[key] for key in keep} for row in shown]),
    ]


def memory_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    """What the framework allocated and reserved, and what the driver saw of the process and on the device."""
    if all(run[key] is None for key in MEMORY):
        return None
    allocated, reserved = run["memory_peak_bytes"], run["memory_reserved_bytes"]
    definition = dict(run["metric_definitions"] or []).get("memory_peak_bytes")
    stats = [
        c.stat(_shown(run, key), BY_KEY[key].label, DEFINITIONS.get(definition or "") if key == "memory_peak_bytes" else None)
        for key in MEMORY
        if run[key] is not None
    ]  # fmt: skip
    if allocated is not None and reserved is not None:
        lost = reserved - allocated
        share = f"{100 * lost / reserved:.0f} % of what is reserved" if reserved else None
        stats.insert(2, c.stat(text.quantity(BY_KEY["memory_reserved_bytes"], lost), "Fragmentation", share))
    found = lake.rows("run_device", snapshot, run_id=run["run_id"])
    has = found[0]["memory_bytes"] if found else None
    about = f"The device has {text.quantity(BY_KEY['memory_peak_bytes'], has)}. " if has else ""
    return c.card(
        "Memory", html.Div(stats, className="rl-stats"),
        about=f"{about}Fragmentation is what the allocator reserved beyond the peak of what was allocated.",
        tools=c.exports("run", snapshot, run_id=run["run_id"]), name="memory",
    )  # fmt: skip


def energy_card(run: Row, snapshot: str | None) -> c.Component | None:
    """Energy of one execution with the window behind it and its definition, or the reason why there is none."""
    if run["energy_j"] is None:
        reason = energy_reason(run["status_detail"])
        if reason is None:
            return None
        return c.card("Energy", c.nothing(f"Not measured. {reason}"), name="energy")
    definition = dict(run["metric_definitions"] or []).get("energy_j")
    sentence = DEFINITIONS.get(definition or "", "definition not stated")
    window = run["energy_window_s"]
    stats = [
        c.stat(_shown(run, "energy_j"), "Energy", "of one execution, all devices"),
        *([c.stat(_shown(run, "energy_per_output_token_j"), "Per output token")] if run["energy_per_output_token_j"] is not None else []),
        *([c.stat(_shown(run, "power_avg_w"), "Average power")] if run["power_avg_w"] is not None else []),
        *([c.stat(text.quantity(BY_KEY["latency_s"], window), "Window", "of repeated executions")] if window is not None else []),
    ]  # fmt: skip
    return c.card(
        "Energy", html.Div(stats, className="rl-stats"), about=f"{sentence[:1].upper()}{sentence[1:]}.",
        tools=c.exports("run", snapshot, run_id=run["run_id"]), name="energy",
    )  # fmt: skip


def energy_reason(detail: str | None) -> str | None:
    """What a status_detail says of energy, as a sentence; None where it says nothing."""
    said = [part.strip() for part in (detail or "").split(";") if "energy" in part.lower()]
    words = "; ".join(part.removeprefix("energy:").strip() for part in said)
    return f"{words[:1].upper()}{words[1:].rstrip('.')}." if words else None


def telemetry_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    rows = lake.query("run_telemetry", snapshot, run_id=run["run_id"])
    if rows.num_rows == 0:
        return None
    table = rows.to_pylist()
    reasons = sorted({reason for row in table for reason in row["throttle_reasons"] or []})
    throttled = run["throttled_ratio"]
    about = f"{text.plural(rows.num_rows, 'reading')}."
    if reasons:
        share = f" in {100 * throttled:.0f} % of the readings" if throttled is not None else ""
        about += f" Throttled{share} (shaded): {', '.join(reasons)}."
    elif throttled is not None:
        about += " No throttle reason was active."
    columns = [
        c.number_column("device_index", "Device"), c.number_column("at_s", "At (s)"), c.metric_column("power_avg_w", "power_w", "Power"),
        c.number_column("sm_clock_hz", "Compute clock (MHz)", valueFormatter={"function": "rooflakeNumber(params.value, 1e-6)"}),
        c.number_column("memory_clock_hz", "Memory clock (MHz)", valueFormatter={"function": "rooflakeNumber(params.value, 1e-6)"}),
        c.number_column("temperature_c", "Temperature (°C)"), c.metric_column("mfu", "utilization", "Busy"),
        c.metric_column("mfu", "memory_utilization", "Memory busy"), c.metric_column("memory_peak_bytes", "memory_used_bytes", "Memory in use"),
        c.metric_column("memory_peak_bytes", "process_memory_bytes", "Of the process"), c.text_column("throttle", "Throttle reasons"),
        c.metric_column("mfu", "kv_cache_ratio", "KV cache in use"), c.number_column("num_running", "Running"), c.number_column("num_waiting", "Waiting"),
        c.number_column("generated_tokens", "Generated tokens"), c.number_column("preemptions"),
    ]  # fmt: skip
    shown = [{**row, "throttle": ", ".join(row["throttle_reasons"] or []) or None} for row in table]
    used = [column for column in columns if any(row[column["field"]] is not None for row in shown)]
    return c.card(
        "Telemetry",
        c.graph("telemetry", charts.telemetry(rows), "Lines: power, clocks, temperature, utilisation and memory over time", min_width=300),
        html.Details([html.Summary("The readings"), c.grid("telemetry", used, [{column["field"]: row[column["field"]] for column in used} for row in shown])]),
        about=about, tools=c.exports("run_telemetry", snapshot, run_id=run["run_id"]), name="telemetry",
    )  # fmt: skip


def ranks_card(lake: Lake, run: Row, snapshot: str | None) -> c.Component | None:
    rows = lake.query("run_ranks", snapshot, run_id=run["run_id"])
    if rows.num_rows == 0:
        return None
    table = rows.to_pylist()
    columns = [
        c.number_column("rank"), c.number_column("device_index", "Device"), c.number_column("num_layers", "Layers"), c.metric_column("latency_s"),
        c.metric_column("compute_s", label="Outside communication"), c.metric_column("communication_s"), c.metric_column("weights_bytes"),
        c.metric_column("memory_peak_bytes"), c.metric_column("memory_reserved_bytes"), c.metric_column("memory_process_bytes"),
        c.metric_column("memory_device_bytes"), c.metric_column("energy_j"),
    ]  # fmt: skip
    used = [column for column in columns if any(row[column["field"]] is not None for row in table)]
    return c.card(
        "Ranks",
        c.graph("ranks", charts.ranks(rows), "Bars: compute and communication of each rank", min_width=300),
        c.grid("ranks", used, [{column["field"]: row[column["field"]] for column in used} for row in table]),
        about=imbalance(table), tools=c.exports("run_ranks", snapshot, run_id=run["run_id"]), name="ranks",
    )  # fmt: skip


def imbalance(ranks: Sequence[Row]) -> str:
    """How unequal the ranks are, in a sentence: the largest over the mean of compute time and of memory."""
    parts: list[str] = []
    for key, words in (("compute_s", "compute time"), ("memory_peak_bytes", "peak memory"), ("latency_s", "time")):
        values = [row[key] for row in ranks if row[key] is not None]
        if len(values) == len(ranks) and sum(values) > 0 and not (key == "latency_s" and parts):
            parts.append(f"{words} {max(values) * len(values) / sum(values):.2f}")
    if not parts:
        return f"{text.plural(len(ranks), 'rank')}."
    return f"Imbalance, the largest over the mean: {', '.join(parts)} (1.00 is perfectly even)."


def trace_card(run: Row) -> c.Component | None:
    if run["trace"] is None:
        return None
    return c.card(
        "Profiler trace",
        html.P(
            [
                html.A(f"Download {run['trace']}", href=f"/traces/{run['trace']}", download=run["trace"], className="rl-button"),
            ]
        ),
        about="Every kernel on a time line, from the profiled pass. Open it at ui.perfetto.dev (it stays in your browser) or in chrome://tracing.",
        name="trace",
    )  # fmt: skip


# several runs -------------------------------------------------------------------------------------------------------------


def variants_cards(lake: Lake, config_ids: Sequence[str], snapshot: str | None) -> list[c.Component]:
    """Ways of executing the same configurations; nothing where each was executed in one way."""
    if not config_ids:
        return []
    parameters = {"config_ids": list(config_ids), "is_several": "true"}
    rows = lake.rows("variants", snapshot, **parameters)
    if not rows:
        return []
    return [
        c.card(
            "Ways of executing it", *variants_body(rows, snapshot),
            about="The same configuration with kernels issued one by one, compiled, or replayed as a graph, and with the cache kept in other ways.",
            tools=c.exports("variants", snapshot, **parameters), name="variants",
        )
    ]  # fmt: skip


def scaling_cards(lake: Lake, parameters: Row, snapshot: str | None) -> list[c.Component]:
    """Tokens/s and efficiency by number of devices; nothing where every workload ran on one number."""
    table = lake.query("scaling", snapshot, **parameters)
    rows = table.to_pylist()
    if not rows:
        return []
    about = (
        "Tokens/s of one workload by devices and way of splitting. Efficiency is rate(n) / (n × rate(1)); without a rate on one device"
        " there is none."
    )
    shown = [{**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"]))} for row in rows]
    columns = [
        c.link_column(), c.kind_column(), c.text_column("llm_name", "LLM"), c.text_column("strategy"), c.number_column("num_devices", "Devices"),
        c.number_column("tokens_per_s", "Tokens/s"), c.number_column("speedup"), c.metric_column("mfu", "efficiency", "Efficiency"), c.text_column("status"),
        c.text_column("workload"),
    ]  # fmt: skip
    keep = [column["field"] for column in columns]
    body = [
        c.graph("scaling", charts.scaling(table), "Lines: tokens/s by number of devices", min_width=300),
        c.graph(
            "efficiency",
            charts.scaling(table, is_efficiency=True),
            "Lines: efficiency by number of devices",
            min_width=300,
        ),
    ]
    return [
        c.card(
            "Scaling", html.Div(body, className="rl-charts"), c.grid("scaling", columns, [{key: row[key] for key in keep} for row in shown]),
            about=about, tools=c.exports("scaling", snapshot, **parameters), name="scaling",
        )
    ]  # fmt: skip


def boundary_cards(lake: Lake, parameters: Row, snapshot: str | None, *, is_training: bool) -> list[c.Component]:
    """The largest batch that ran beside the smallest that did not; nothing where nothing ran out of memory."""
    rows = lake.rows("memory_boundary", snapshot, **parameters)
    shown = [
        {**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["oom_run_id"]))}
        for row in rows
        if (row["phase"] in TRAINING) == is_training
    ]
    if not shown:
        return []
    columns = [
        c.link_column("link", "What failed"), c.kind_column(), c.text_column("llm_name", "LLM"), c.text_column("device"), c.text_column("phase"),
        c.text_column("tokens"), c.number_column("largest_ok", "Largest that ran"), c.number_column("smallest_oom", "Smallest out of memory"),
        c.metric_column("memory_peak_bytes", label="Peak of the largest"), c.text_column("dtype", "Format"), c.text_column("variant"),
        c.text_column("source_id", "Source"),
    ]  # fmt: skip
    keep = [column["field"] for column in columns]
    return [
        c.card(
            "Where memory ends", c.grid("boundary", columns, [{key: row[key] for key in keep} for row in shown]),
            about="Batch sizes on both sides of the end of memory, all else alike.", tools=c.exports("memory_boundary", snapshot, **parameters),
            name="boundary",
        )
    ]  # fmt: skip


def grid_cards(lake: Lake, snapshot: str | None) -> list[c.Component]:
    """The grid of LLMs, tasks and batch sizes with the most cells; nothing where no run names a task at several batch sizes."""
    table = lake.query("status_grid", snapshot)
    grids: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.to_pylist():
        grids.setdefault((row["device"], row["phase"], row["input_tokens"], row["dtype"]), []).append(row)
    if not grids:
        return []
    (device, phase, tokens, dtype), rows = max(grids.items(), key=lambda item: len(item[1]))
    if len({row["batch_size"] for row in rows}) < 2:
        return []
    counts = {status: sum(row["status"] == status for row in rows) for status in charts.STATUS_COLOURS}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    grid = pa.Table.from_pylist(rows, schema=table.schema)
    return [
        c.card(
            "Tasks by batch size",
            c.graph("status-grid", charts.status_grid(grid), "Heat map: how each LLM and task ended at each batch size", min_width=320),
            about=f"{text.words(phase)} of {tokens} input tokens in {dtype} on {device}: {said}. A failure is a cell too. Click one for its row.",
            tools=c.exports("status_grid", snapshot), name="status-grid",
        )
    ]  # fmt: skip


def _about_time(run: Row, key: str) -> str | None:
    if key == "latency_s":
        return "wall clock"
    if key == "device_time_s":
        return "between device events"
    if key == "cpu_time_s" and run["latency_s"]:
        return f"{text.number(run[key] / run['latency_s'])} cores busy"
    if key == "ops_time_s" and run["latency_s"]:
        rest = run["latency_s"] - run[key]
        return (
            f"residual {text.quantity(BY_KEY['latency_s'], rest)}, {100 * rest / run['latency_s']:.1f} % of the latency"
        )
    if key == "kernel_time_s" and run["profiler_overhead_ratio"] is not None:
        return f"from a profiled pass, {text.number(run['profiler_overhead_ratio'])} times as slow"
    return None


def _variant_label(row: Row, rows: Sequence[Row]) -> str:
    """What tells a variant apart from the others shown."""
    words = [row["execution"]]
    words += [f"{row['cache_implementation']} cache"] if row["cache_implementation"] is not None else []
    words += [str(row[key]) for key in ("task", "batch", "tokens", "device") if len({one[key] for one in rows}) > 1]
    return ", ".join(words)


def _shown(run: Row, column: str) -> str:
    return text.column_quantity(column, run[column])
