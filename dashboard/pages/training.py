"""Training: steps by their phases, what each technique costs in time and memory, and what more devices bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from dash import Dash, Input, Output

from dashboard import components as c
from dashboard import measured, text
from dashboard import measured_figures as charts
from dashboard.data import Lake

NAME, TITLE, MENU = "training", "Training", "steps, phases, scaling"
STATE = ("llm", "device", "phase", "snapshot")
PHASES = {"pretrain_step": "Pre-training", "finetune_step": "Fine-tuning"}
MOST_BARS = 24
"""Steps that the chart of phases has room for; the table has them all."""


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    rows = lake.rows("training_steps", snapshot)
    if not rows:
        return c.page(
            TITLE,
            "Training steps by their phases.",
            c.nothing("No training step is here yet.", "rooflake collect training_step"),
            c.controls_hidden(NAME, snapshot),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    options = {
        "llm": _options(rows, "llm_id", "llm_name", "All LLMs"),
        "device": _options(rows, "hardware_id", "hardware_id", "All devices"),
        "phase": [{"value": c.ANY, "label": "Any"}, *({"value": key, "label": PHASES[key]} for key in PHASES if any(row["phase"] == key for row in rows))],
    }  # fmt: skip
    names = {row["hardware_id"]: row["name"] for row in lake.rows("device_list", snapshot)}
    for option in options["device"]:
        option["label"] = names.get(option["value"], option["label"])
    state = {name: c.chosen(params, name, [one["value"] for one in options[name]], c.ANY) for name in options}
    return c.page(
        "Training steps",
        "Where the time of a training step goes, what recomputation, sharding and adapters change, and what more devices bring.",
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "llm", "LLM", options["llm"], state["llm"], width=220),
            c.select(NAME, "device", "Device", options["device"], state["device"], width=280),
            c.select(NAME, "phase", "Kind of step", options["phase"], state["phase"], width=170),
        ),
        c.loading(content(lake, {**state, "snapshot": snapshot}), "training-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("training-content", "children"),
        inputs={"state": {name: Input(c.control(NAME, name), "value") for name in STATE}},
        prevent_initial_call=True,
    )
    def show(state: dict[str, Any]) -> c.Component:
        return c.guarded(lambda: content(lake, state))


def content(lake: Lake, state: dict[str, Any]) -> list[c.Component]:
    """Phases, scaling, the end of memory, and the table."""
    snapshot = state["snapshot"]
    chosen = {"llm_id": c.free(state["llm"]), "hardware_id": c.free(state["device"])}
    parameters = {**chosen, "phase": c.free(state["phase"])}
    rows = lake.rows("training_steps", snapshot, **parameters)
    if not rows:
        return [c.nothing("No training step matches. Set a control to Any.", "rooflake collect training_step")]
    labelled = [{**row, "label": label(row)} for row in rows]
    parted = [row for row in labelled if row["forward_s"] is not None or row["backward_s"] is not None]
    parts = []
    if parted:
        about = "Forward, backward and optimizer of one step; the rest is what the step took beyond them (data, communication that nothing hid)."
        if len(parted) > MOST_BARS:
            about += f" The first {MOST_BARS} of {len(parted)}."
        parts.append(
            c.card(
                "Phases of a step",
                c.graph("phases", charts.training_phases(pa.Table.from_pylist(parted[:MOST_BARS])), "Stacked bars: forward, backward, optimizer", min_width=320),
                about=about, tools=c.exports("training_steps", snapshot, **parameters), name="phases",
            )
        )  # fmt: skip
    return [
        *parts,
        *measured.scaling_cards(lake, {**chosen, "is_training": "true"}, snapshot),
        steps_card(labelled, parameters, snapshot),
        *measured.boundary_cards(lake, chosen, snapshot, is_training=True),
    ]


def label(row: dict[str, Any]) -> str:
    """A step in words: Llama 2 7B on 8 × A800, batch 2, recompute + zero2."""
    techniques = " + ".join(row["optimizations"] or []) or "naive"
    return (
        f"{row['llm_name'] or row['llm_id']} on {text.short_device(row['device'])}, batch {row['batch']}, {techniques}"
    )


def steps_card(rows: Sequence[dict[str, Any]], parameters: dict[str, Any], snapshot: str | None) -> c.Component:
    shown = [
        {**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])), "techniques": " + ".join(row["optimizations"] or []) or None,
         "machine": text.busy(row["other_load_ratio"])}
        for row in rows
    ]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), c.text_column("llm_name", "LLM"), c.text_column("device"), c.text_column("phase"), c.text_column("batch"),
        c.text_column("tokens"), c.text_column("techniques"), c.metric_column("latency_s", "step_s", "Step"), c.metric_column("forward_s"),
        c.metric_column("backward_s"), c.metric_column("optimizer_s"), c.metric_column("latency_s", "rest_s", "Rest"),
        c.metric_column("communication_s"), c.metric_column("total_tokens_per_s"), c.metric_column("memory_peak_bytes"), c.metric_column("mfu"),
        c.text_column("dtype", "Format"), c.text_column("variant"), c.text_column("machine"), c.text_column("source_id", "Source"),
    ]  # fmt: skip
    used = [column for column in columns if any(row.get(column["field"]) is not None for row in shown)]
    keep = ["run_id", *(column["field"] for column in used)]
    return c.card(
        "The steps", c.grid("steps", used, [{key: row[key] for key in keep} for row in shown]),
        about=f"{text.plural(len(rows), 'step')}, those known by phases first.", tools=c.exports("training_steps", snapshot, **parameters),
    )  # fmt: skip


def _options(rows: Sequence[dict[str, Any]], key: str, name: str, every: str) -> list[dict[str, str]]:
    known = {row[key]: row[name] or row[key] for row in rows if row[key] is not None}
    return [
        {"value": c.ANY, "label": every},
        *({"value": value, "label": known[value]} for value in sorted(known, key=lambda one: str(known[one]))),
    ]
