"""Roofline: roofs of chosen devices, and under them runs, or the operators of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dash import Dash, Input, Output, html

from dashboard import components as c
from dashboard import figures, text
from dashboard.data import Lake, with_findings
from dashboard.pages import layers
from warehouse.store import StoreError

NAME, TITLE, MENU = "roofline", "Roofline", "how far from the limit"
STATE = ("devices", "llms", "phase", "dtype", "run", "ceilings", "snapshot")
MAX_LISTED_FAULTS = 100
YARDSTICKS = ("a100-sxm-80gb", "h100-sxm")
ABOUT = {
    "run": "An analytical point lies at its bound; it is below the roof as far as its memory-bound operators hold it down. Click a point for its row.",
    "operator": "Leaf operators of the run, and of its analytical bound. A measured operator takes the arithmetic intensity of its kind from the bound.",
}


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    devices = lake.rows("device_list", snapshot)
    if not devices:
        return c.page(
            TITLE,
            "Roofs and points.",
            c.nothing("The catalogue is not loaded yet.", "rooflake load"),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    choices = lake.rows("roofline_choices", snapshot)
    state = read(params, devices, choices)
    if state["run"]:
        run = _run(lake, state["run"], snapshot)
        state["devices"] = state["devices"] if "devices" in params else [run["hardware_id"]]
        state["dtype"] = params.get("dtype") or run["dtype"]
    phases = list(dict.fromkeys(row["phase"] for row in choices))
    dtypes = list(dict.fromkeys([*(row["dtype"] for row in choices), *_dtypes(lake, snapshot)]))
    llms = {row["llm_id"]: row["llm_name"] for row in choices}
    return c.page(
        "Roofline",
        "A point's height is what was achieved, its place what the work allows: left of the ridge memory limits it, right of it compute.",
        c.controls(
            NAME,
            snapshot,
            c.multi(NAME, "devices", "Devices", [{"value": row["hardware_id"], "label": row["name"]} for row in devices], state["devices"], width=600),
            c.select(NAME, "dtype", "Number format", [*dtypes, {"value": c.ANY, "label": "Any"}], state["dtype"], width=160),
            c.multi(NAME, "llms", "LLMs", [{"value": key, "label": name} for key, name in llms.items()], state["llms"], placeholder="All LLMs"),
            c.select(NAME, "phase", "Phase", [*({"value": one, "label": text.words(one)} for one in phases), {"value": c.ANY, "label": "Any"}],
                     state["phase"], width=160),
            c.select(NAME, "run", "Points", point_options(lake, state, snapshot), state["run"] or c.ANY, width=360),
            c.segments(NAME, "ceilings", "Roofs", [("1", "Datasheet and measured"), ("0", "Datasheet")], "1" if state["ceilings"] else "0"),
        ),
        c.loading(content(lake, state, snapshot), "roofline-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("roofline-content", "children"),
        Output(c.control(NAME, "run"), "data"),
        inputs={"state": {name: Input(c.control(NAME, name), "value") for name in STATE}},
        prevent_initial_call=True,
    )
    def show(state: dict[str, Any]) -> tuple[c.Component, Any]:
        snapshot = state.pop("snapshot")
        state = {
            **state, "run": c.free(state["run"]), "devices": state["devices"] or [], "llms": state["llms"] or [],
            "ceilings": state["ceilings"] != "0",
        }  # fmt: skip
        return c.guarded(lambda: content(lake, state, snapshot)), point_options(lake, state, snapshot)


def read(params: c.Params, devices: Sequence[dict[str, Any]], choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state in the URL; what it does not say comes from the points known best, so that there are some to see."""
    known = [row["hardware_id"] for row in devices]
    chosen = c.listed(params, "devices")
    for device in chosen or []:
        if device not in known:
            raise StoreError(
                f"The link asks for device '{device}', which is not in the hardware catalogue. Known: {', '.join(known)}."
            )
    llms, phase, dtype = c.listed(params, "llms") or [], params.get("phase") or c.ANY, params.get("dtype")
    of_these = [
        row
        for row in choices
        if (chosen is None or row["hardware_id"] in chosen)
        and (not llms or row["llm_id"] in llms)
        and phase in (c.ANY, row["phase"])
        and dtype in (None, "", c.ANY, row["dtype"])
    ]
    best = of_these[0] if of_these else {"dtype": c.ANY, "num_observed": None, "llm_id": None}
    dtype = dtype or best["dtype"]
    if chosen is None:
        alike = [row for row in of_these if dtype in (c.ANY, row["dtype"])]
        if best["num_observed"] == 0 and not llms:
            llms = [str(best["llm_id"])]
        chosen = _best_devices([row for row in alike if not llms or row["llm_id"] in llms]) or known[:2]
    return {
        "devices": chosen,
        "llms": llms,
        "phase": phase,
        "dtype": dtype,
        "run": c.free(params.get("run")),
        "ceilings": params.get("ceilings") != "0",
    }


def _best_devices(choices: Sequence[dict[str, Any]]) -> list[str]:
    """Devices something was measured on, then published ones, then the usual yardsticks, then any that has points; at most three."""
    ranked = sorted(
        choices,
        key=lambda row: (not row["num_measured"], not row["num_observed"], row["hardware_id"] not in YARDSTICKS),
    )
    return list(dict.fromkeys(row["hardware_id"] for row in ranked))[:3]


def content(lake: Lake, state: dict[str, Any], snapshot: str | None) -> list[c.Component]:
    """The chart, what is faulty in it, and its table."""
    dtype = c.free(state["dtype"])
    roofs = lake.query(
        "roof_list",
        snapshot,
        hardware_ids=state["devices"] or [""],
        dtypes=None if dtype is None else [dtype.rpartition(", ")[2]],
    )
    if state["run"]:
        points, noun, query, parameters = (
            op_points(lake, state["run"], snapshot),
            "operator",
            "run_ops",
            {"run_id": state["run"]},
        )
    else:
        parameters = {
            "hardware_ids": state["devices"] or None, "llm_ids": state["llms"] or None, "phase": c.free(state["phase"]), "dtype": dtype,
        }  # fmt: skip
        points, noun, query = run_points(lake, parameters, snapshot), "run", "roofline_runs"
    if roofs.num_rows == 0 and points.num_rows == 0:
        return [
            c.nothing(
                f"None of the chosen devices has a roof for {state['dtype']}. Choose another number format, or Any."
            )
        ]
    faults = [row for row in points.to_pylist() if row["is_fault"]]
    parts = [
        c.card(
            f"{text.plural(points.num_rows, noun)} under {text.plural(roofs.num_rows, 'roof')}",
            c.graph(
                "roofline",
                figures.roofline(roofs, points, noun, state["ceilings"]),
                "Roofline: arithmetic intensity against achieved FLOP/s",
                min_width=320,
            ),
            about=f"{ABOUT[noun]}{ceilings(roofs, points) if state['ceilings'] else ''}",
            tools=c.exports(query, snapshot, **parameters),
        )
    ]
    if faults:
        parts.insert(0, faults_card(faults, noun, snapshot))
    parts.append(layers.ops_grid_card(lake, state["run"], snapshot) if state["run"] else runs_card(points, snapshot))
    return parts


def ceilings(roofs: pa.Table, points: pa.Table) -> str:
    """What the finely dashed roofs are, and how many points beat them, as sentences."""
    if not any(roofs.column("has_ceiling").to_pylist()):
        return ""
    above = sum(row["is_above_measured_roof"] and not row["is_fault"] for row in points.to_pylist())
    beaten = f" {text.plural(above, 'point')} above it: the ceiling was measured too low." if above else ""
    return f" A finely dashed roof is what microbenchmarks reached.{beaten}"


def run_points(lake: Lake, parameters: dict[str, Any], snapshot: str | None) -> pa.Table:
    """Runs as points; a point leads to its run."""
    rows = with_findings(lake, lake.query("roofline_runs", snapshot, **parameters), snapshot)
    labels = [f"{row['llm_name'] or row['llm_id']} on {row['device']}, {row['phase']}, batch {row['batch']}, {row['tokens']}, {row['dtype']}"
              for row in rows.to_pylist()]  # fmt: skip
    links = [c.href("run", snapshot, run_id=run_id) for run_id in rows.column("run_id").to_pylist()]
    return rows.append_column("label", pa.array(labels, pa.string())).append_column(
        "link", pa.array(links, pa.string())
    )


def op_points(lake: Lake, run_id: str, snapshot: str | None) -> pa.Table:
    """Leaf operators of a run, and of its analytical twin, as points; a point leads to its run's table of operators."""
    roles = lake.query("op_kinds", snapshot, run_id=run_id).column("run_id").to_pylist()
    tables = []
    for one in dict.fromkeys([run_id, *roles]):
        rows = lake.query("run_ops", snapshot, run_id=one)
        rows = rows.filter(
            pc.and_(
                rows.column("is_leaf"),
                pc.and_(pc.is_valid(rows.column("intensity")), pc.is_valid(rows.column("achieved_flops_per_s"))),
            )
        )
        names = zip(rows.column("path").to_pylist(), rows.column("op_kind").to_pylist(), strict=True)
        labels = [f"{path} ({text.words(kind)})" for path, kind in names]
        links = [c.href("layers", snapshot, run=one)] * rows.num_rows
        tables.append(
            rows.append_column("label", pa.array(labels, pa.string())).append_column(
                "link", pa.array(links, pa.string())
            )
        )
    return pa.concat_tables(tables)


def faults_card(faults: Sequence[dict[str, Any]], noun: str, snapshot: str | None) -> c.Component:
    """Points above their own roof, named: their time, work or peak is wrong."""
    rows = [
        {"link": c.link("Open", row["link"]), "label": row["label"], "achieved_flops_per_s": row["achieved_flops_per_s"],
         "roof_flops_per_s": row["roof_flops_per_s"], "ratio": row["achieved_flops_per_s"] / row["roof_flops_per_s"]}
        for row in faults[:MAX_LISTED_FAULTS]
    ]  # fmt: skip
    columns = [c.link_column(), c.text_column("label", "Point"), c.metric_column("achieved_flops_per_s", label="Achieved"),
               c.metric_column("achieved_flops_per_s", "roof_flops_per_s", "Its roof"), c.number_column("ratio", "Times its roof")]  # fmt: skip
    return c.card(
        html.Span([html.I(className="rl-fault"), f"{text.plural(len(faults), 'data fault')}"]),
        c.grid("faults", columns, rows),
        about=f"A {noun} above the roof of its own device is not fast: its time, its work or the device's peak is wrong.",
    )


def runs_card(points: pa.Table, snapshot: str | None) -> c.Component:
    rows = [{**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])), "share": row["achieved_flops_per_s"] / row["roof_flops_per_s"]
if row["roof_flops_per_s"] else None, "share_of_measured": row["achieved_flops_per_s"] / row["achievable_flops_per_s"] if row["source_kind"] == "measured" and row["achievable_flops_per_s"] else None, "machine": text.busy(row["other_load_ratio"])} for row in points.to_pylist()]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), c.text_column("llm_name", "LLM"), c.text_column("device"), c.text_column("phase"), c.text_column("batch"),
        c.text_column("tokens"), c.text_column("dtype", "Format"), c.metric_column("arithmetic_intensity", "intensity"),
        c.metric_column("achieved_flops_per_s"), c.metric_column("mfu", "share", "Of its roof"), *([c.metric_column("mfu", "share_of_measured", "Of the measured roof")] if any(row["share_of_measured"] for row in rows) else []), c.text_column("side", "Bound by"),
        c.metric_column("latency_s"), c.text_column("work_from", "FLOPs and bytes from"),
        *(c.text_column(name) for name in ("machine", "finding") if any(row[name] for row in rows)),
    ]  # fmt: skip
    keep = ["run_id", *(column["field"] for column in columns)]
    return c.card(
        "The runs",
        c.grid("roofline-rows", columns, [{key: row[key] for key in keep} for row in rows]),
    )


def point_options(lake: Lake, state: dict[str, Any], snapshot: str | None) -> list[dict[str, str]]:
    """Runs as points, or the operators of one of the runs on the chosen devices."""
    runs: list[dict[str, Any]] = []
    for device in state["devices"][:6]:
        runs += lake.rows("run_list", snapshot, hardware_id=device, phase=c.free(state["phase"]), with_ops=True)[:60]
    if state["llms"]:
        runs = [row for row in runs if row["llm_id"] in state["llms"]]
    named = [{**row, "device": f"{row['llm_name'] or row['llm_id']} on {row['device']}"} for row in runs]
    options = layers.run_options(named, state["run"])
    return [
        {"value": c.ANY, "label": "Runs"},
        *({**option, "label": f"Operators of {option['label']}"} for option in options),
    ]


def _run(lake: Lake, run_id: str, snapshot: str | None) -> dict[str, Any]:
    found = lake.rows("run", snapshot, run_id=run_id)
    if not found:
        raise StoreError(f"There is no run '{run_id}' in this lake. Choose one on the Roofline page.")
    return found[0]


def _dtypes(lake: Lake, snapshot: str | None) -> list[str]:
    return sorted(set(lake.query("roof_list", snapshot).column("dtype").to_pylist()))
