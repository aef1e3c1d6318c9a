"""Layers: the modules of one run as nested bars and as a table, and beside them what the bound of the same configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html

from dashboard import components as c
from dashboard import figures, text, trees
from dashboard import measured_figures as charts
from dashboard.data import Lake
from warehouse.metrics import Metric
from warehouse.store import StoreError

NAME, TITLE, MENU = "layers", "Layers", "inside one run"
MEMORY_KEYS = ("memory_peak_bytes", "activation_bytes", "parameter_bytes")
"""What modules are ranked by, the first that is known."""
MEMORY_COLUMNS = ("memory_peak_bytes", "activation_bytes", "parameter_bytes", "num_parameters", "memory_bytes")


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    kinds = lake.rows("runs_with_ops", snapshot)
    if not kinds:
        return c.page(
            TITLE,
            "Where the time goes inside a run.",
            c.nothing("No run with operators is here yet.", "rooflake collect local_profile"),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    run_id, llm, kind = params.get("run"), params.get("llm"), params.get("kind")
    if run_id:
        found = lake.rows("run", snapshot, run_id=run_id)
        if not found:
            raise StoreError(f"There is no run '{run_id}' in this lake. Choose one on the Layers page.")
        llm, kind = found[0]["llm_id"], found[0]["source_kind"]
    llms = {row["llm_id"]: row["llm_name"] for row in kinds}
    llm = c.chosen({"llm": llm or ""}, "llm", list(llms))
    kind = c.chosen({"kind": kind or ""}, "kind", _kinds_of(kinds, llm))
    runs = lake.rows("run_list", snapshot, llm_id=llm, source_kind=kind, with_ops=True)
    run_id = run_id or (runs[0]["run_id"] if runs else None)
    size = c.chosen(params, "size", list(trees.SIZES), "seconds") or "seconds"
    colour = c.chosen(params, "colour", list(trees.OP_METRICS), default_colour(lake, run_id, snapshot)) or "seconds"
    return c.page(
        "Layers of one run",
        "Where the time, the work and the bytes go, module by module, and how far each kind of operator is from its bound.",
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "llm", "LLM", [{"value": key, "label": name} for key, name in llms.items()], llm, width=200),
            c.select(NAME, "kind", "Kind", _kinds_of(kinds, llm), kind, width=150),
            c.select(NAME, "run", "Run", run_options(runs, run_id), run_id, width=460),
            c.select(NAME, "size", "Size", metric_options(trees.SIZES), size, width=170),
            c.select(NAME, "colour", "Colour", metric_options(trees.OP_METRICS), colour, width=200),
        ),
        c.loading(content(lake, run_id, size, colour, snapshot, params.get("module")), "layers-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("layers-content", "children"),
        inputs={
            "state": {name: Input(c.control(NAME, name), "value") for name in ("run", "size", "colour", "snapshot")}
        },
        prevent_initial_call=True,
    )
    def show(state: dict[str, str]) -> c.Component:
        return c.guarded(lambda: content(lake, state["run"], state["size"], state["colour"], state["snapshot"]))

    @app.callback(
        Output("layers-kernels", "children"),
        Input(c.control(NAME, "module"), "value"),
        State(c.control(NAME, "run"), "value"),
        State(c.control(NAME, "snapshot"), "value"),
        prevent_initial_call=True,
    )
    def show_kernels(module: str, run_id: str, snapshot: str) -> c.Component:
        return c.guarded(lambda: kernels(lake, run_id, module, snapshot))

    @app.callback(
        Output(c.control(NAME, "kind"), "data"),
        Output(c.control(NAME, "kind"), "value"),
        Output(c.control(NAME, "run"), "data"),
        Output(c.control(NAME, "run"), "value"),
        Input(c.control(NAME, "llm"), "value"),
        Input(c.control(NAME, "kind"), "value"),
        State(c.control(NAME, "run"), "value"),
        State(c.control(NAME, "snapshot"), "value"),
        prevent_initial_call=True,
    )
    def narrow(llm: str, kind: str, run_id: str, snapshot: str) -> tuple[Any, ...]:
        """Offer the kinds and runs of the chosen LLM; keep what was chosen where it is still there."""
        kinds = _kinds_of(lake.rows("runs_with_ops", snapshot), llm)
        kind = kind if kind in kinds else kinds[0]
        runs = lake.rows("run_list", snapshot, llm_id=llm, source_kind=kind, with_ops=True)
        ids = [row["run_id"] for row in runs]
        run_id = run_id if run_id in ids else ids[0]
        return kinds, kind, run_options(runs, run_id), run_id


def content(
    lake: Lake, run_id: str | None, size: str, colour: str, snapshot: str | None, module: str | None = None
) -> list[c.Component]:
    """Nested bars, sums by kind of operator beside the bound, phases of training, memory, kernels, and the table."""
    found = lake.rows("run", snapshot, run_id=run_id)
    if not found:
        raise StoreError(f"There is no run '{run_id}' in this lake. Choose one on the Layers page.")
    run = found[0]
    table = lake.query("run_ops", snapshot, run_id=run_id)
    if table.num_rows == 0:
        return [c.nothing("This run has no operators.", "rooflake collect local_profile")]
    rows = table.to_pylist()
    return [
        c.card(
            dmc.Group([c.kind_badge(run["source_kind"]), f"{run['llm_name'] or run['llm_id']} on {run['device']}"], gap="sm"),
            c.graph("icicle", figures.icicle(trees.tree(rows, size, colour), trees.OP_METRICS[size], trees.OP_METRICS[colour]),
                    "Nested bars: modules of the run", min_width=320),
            about=[f"{text.words(run['phase'])}, batch {run['batch']}, {run['tokens']}, {run['dtype']}. Click a module to open it. ",
                   dcc.Link("The run", href=c.href("run", snapshot, run_id=run_id), className="rl-link")],
            tools=c.exports("run_ops", snapshot, run_id=run_id),
        ),
        kinds_card(lake, run_id, run, snapshot),
        *phases_cards(run, rows, snapshot),
        *memory_cards(rows),
        *kernels_cards(lake, run_id, module, snapshot),
        c.card("Operators", ops_grid(rows), about="Values of one execution; count says how many were folded into a row."),
    ]  # fmt: skip


def kinds_card(lake: Lake, run_id: str | None, run: dict[str, Any], snapshot: str | None) -> c.Component:
    """The run beside its analytical bound, kind of operator by kind of operator."""
    rows = lake.query("op_kinds", snapshot, run_id=run_id)
    has_bound = "bound" in rows.column("role").to_pylist()
    if run["source_kind"] == "analytical":
        about = "The bound and the estimate of each kind of operator, summed over leaves."
    elif has_bound:
        about = "The run beside the analytical bound and estimate (ruleset default) of the same configuration."
    else:
        about = "This configuration has no analytical row yet; `rooflake collect roofline` computes it."
    metric = Metric("time_s", "Time", "s", "ms", 1e3, "lower", "")
    return c.card(
        "By kind of operator",
        c.graph(
            "op-kinds",
            figures.op_kinds(rows, metric),
            "Bars: time by kind of operator, the run beside its bound and estimate",
            min_width=320,
        ),
        about=about,
        tools=c.exports("op_kinds", snapshot, run_id=run_id),
    )


def phases_cards(run: dict[str, Any], rows: Sequence[dict[str, Any]], snapshot: str | None) -> list[c.Component]:
    """Forward, backward and optimizer of a training run by kind of operator; nothing for runs of one phase."""
    leaves = trees.leaves(rows)
    if len({row["phase"] for row in leaves}) < 2:
        return []
    total = sum((row["seconds"] or 0.0) * row["count"] for row in leaves)
    return [
        c.card(
            "By phase",
            c.graph("op-phases", charts.op_phases(leaves), "Stacked bars: time by kind of operator and phase", min_width=320),
            about=f"{residual(run, total)}", tools=c.exports("run_ops", snapshot, run_id=run["run_id"]), name="op-phases",
        )
    ]  # fmt: skip


def residual(run: dict[str, Any], total_s: float) -> str:
    """What of a run's latency its modules do not explain, in a sentence."""
    added = run["ops_time_s"] if run["ops_time_s"] is not None else total_s
    latency = Metric("latency_s", "Latency", "s", "ms", 1e3, "lower", "")
    if run["latency_s"] is None or run["is_bound"]:
        return f"The modules add up to {text.quantity(latency, added)}."
    rest = run["latency_s"] - added
    return (
        f"The modules add up to {text.quantity(latency, added)} of a latency of {text.quantity(latency, run['latency_s'])}: "
        f"the residual is {text.quantity(latency, rest)} ({100 * rest / run['latency_s']:.1f} %)."
    )


def memory_cards(rows: Sequence[dict[str, Any]]) -> list[c.Component]:
    """The modules that take most memory; nothing where nobody measured any."""
    key = next((one for one in MEMORY_KEYS if any(row[one] for row in trees.leaves(rows))), None)
    if key is None:
        return []
    hungry = sorted(trees.leaves(rows), key=lambda row: -(row[key] or 0.0))[: c.PAGE_ROWS]
    metrics = [trees.OP_METRICS[one] for one in MEMORY_COLUMNS if any(row[one] is not None for row in hungry)]
    columns = [
        c.text_column("path", "Module", minWidth=240), c.text_column("op_kind", "Kind"), c.number_column("count", "Count"),
        *(
            c.number_column(metric.key, metric.axis(), valueFormatter={"function": f"rooflakeNumber(params.value, {metric.display_factor!r})"},
                            headerTooltip=metric.definition)
            for metric in metrics
        ),
    ]  # fmt: skip
    keep = [column["field"] for column in columns]
    return [
        c.card(
            "Most memory-hungry",
            c.grid("hungry", columns, [{one: row[one] for one in keep} for row in hungry]),
            about=f"Modules without children, by {trees.OP_METRICS[key].label.lower()} of one execution.",
            name="hungry",
        )
    ]


def kernels_cards(lake: Lake, run_id: str | None, module: str | None, snapshot: str | None) -> list[c.Component]:
    """Kernels below the modules, and a choice of the module; nothing where the run was not profiled."""
    modules = sorted({row["module"] for row in lake.rows("run_kernels", snapshot, run_id=run_id) if row["module"]})
    if not modules:
        return []
    known = sorted({".".join(path.split(".")[:end]) for path in modules for end in range(1, path.count(".") + 2)})
    chosen = c.chosen({"module": module or ""}, "module", [c.ANY, *known], c.ANY)
    options = [{"value": c.ANY, "label": "All modules"}, *({"value": path, "label": path} for path in known)]
    return [
        c.card(
            "Kernels",
            html.Div(c.select(NAME, "module", "Below the module", options, chosen, width=460), className="rl-controls rl-choice"),
            c.loading(kernels(lake, run_id, chosen, snapshot), "layers-kernels"),
            about="As the profiler saw them, from a pass of its own: shares are of the time of all kernels, not of the latency.",
            tools=c.exports("run_kernels", snapshot, run_id=run_id), name="kernels",
        )
    ]  # fmt: skip


def kernels(lake: Lake, run_id: str | None, module: str | None, snapshot: str | None) -> list[c.Component]:
    """The kernels below a module (all for `any`): the largest as bars, all as a table."""
    table = lake.query("run_kernels", snapshot, run_id=run_id, module=c.free(module))
    rows = table.to_pylist()
    columns = [
        c.text_column("kernel", minWidth=240), c.text_column("module"), c.text_column("op_kind", "Kind"), c.text_column("phase"), c.number_column("count", "Count"),
        c.metric_column("latency_s", "seconds", "Time of one"), c.metric_column("latency_s", "total_s", "Time of all"), c.metric_column("mfu", "share", "Share"),
        c.text_column("shapes"), c.metric_column("flops"), c.metric_column("bytes_moved"), c.metric_column("achieved_flops_per_s"),
        c.metric_column("achieved_bytes_per_s"),
    ]  # fmt: skip
    used = [column for column in columns if any(row[column["field"]] is not None for row in rows)]
    keep = [column["field"] for column in used]
    return [
        c.graph("kernels", charts.kernels(table), "Bars: time of the largest kernels", min_width=320),
        c.grid("kernels", used, [{key: row[key] for key in keep} for row in rows]),
    ]


def default_colour(lake: Lake, run_id: str | None, snapshot: str | None) -> str:
    """How fast each operator computes where that is known (its size already is its time), else its time."""
    rows = lake.rows("run_ops", snapshot, run_id=run_id)
    return "achieved_flops_per_s" if any(row["achieved_flops_per_s"] for row in rows) else "seconds"


def ops_grid(rows: Sequence[dict[str, Any]], name: str = "ops") -> c.Component:
    """Operators as a table, the largest first; columns nobody filled are left out."""
    shown = [
        {**row, "roof_share": trees.value(row, "roof_share"), "where": "leaf" if row["is_leaf"] else "container"}
        for row in rows
    ]
    shown.sort(key=lambda row: -((row["seconds"] or 0.0) * row["count"]))
    numbers = [
        c.number_column(key, f"{metric.label} ({metric.display_unit})",
                        valueFormatter={"function": f"rooflakeNumber(params.value, {metric.display_factor!r})"}, headerTooltip=metric.definition)
        for key, metric in trees.OP_METRICS.items()
        if any(row[key] is not None for row in shown)
    ]  # fmt: skip
    columns = [
        c.text_column("path", "Module", minWidth=240), c.text_column("op_kind", "Kind"), c.number_column("count", "Count"), *numbers,
        *(c.text_column(key) for key in ("bound", "phase", "where") if any(row[key] is not None for row in shown)),
        *(c.number_column(key) for key in ("m", "n", "k") if any(row[key] is not None for row in shown)),
    ]  # fmt: skip
    keep = [column["field"] for column in columns]
    return c.grid(name, columns, [{key: row[key] for key in keep} for row in shown])


def run_options(runs: Sequence[dict[str, Any]], run_id: str | None) -> list[dict[str, str]]:
    """Runs as choices; the one chosen is there even where it is not among the newest."""
    options = [
        {"value": row["run_id"], "label": ", ".join(filter(None, (row["device"], row["phase"], f"batch {row['batch']}", row["tokens"], row["dtype"],
                                                                 row["variant"])))}
        for row in runs
    ]  # fmt: skip
    if run_id is not None and run_id not in [option["value"] for option in options]:
        options.insert(0, {"value": run_id, "label": f"run {run_id}"})
    return options


def metric_options(keys: Any) -> list[dict[str, str]]:
    return [{"value": key, "label": trees.OP_METRICS[key].label} for key in keys]


def _kinds_of(rows: Sequence[dict[str, Any]], llm: str | None) -> list[str]:
    return [row["source_kind"] for row in rows if row["llm_id"] == llm]


def ops_grid_card(lake: Lake, run_id: str, snapshot: str | None) -> c.Component:
    """The operators of a run as a card with its table."""
    rows = lake.rows("run_ops", snapshot, run_id=run_id)
    return c.card(
        "Operators",
        ops_grid(rows),
        about=dcc.Link("Open the run", href=c.href("run", snapshot, run_id=run_id), className="rl-link"),
        tools=c.exports("run_ops", snapshot, run_id=run_id),
    )
