"""Compare: devices side by side for one LLM and workload, measured, published, analytical and predicted on one chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dash_mantine_components as dmc
import pyarrow as pa
from dash import Dash, Input, Output, State, dcc, html

from dashboard import components as c
from dashboard import definitions, figures, measured, text
from dashboard.data import Lake, with_findings
from warehouse.metrics import METRICS, Metric, metric
from warehouse.store import StoreError

NAME, TITLE, MENU = "compare", "Compare", "devices side by side"
WORKLOAD = ("phase", "batch", "tokens", "dtype")
OFFERED = [one.key for one in METRICS if one.better is not None]
NUMBER_FORMATS = {"16-bit": "16-bit (fp16, bf16)", "8-bit": "8-bit (fp8, int8)"}
"""Formats compared with one another, as the query `workloads` groups them; every row shows its own."""
ASKED_FOR = ("latency_s", "total_tokens_per_s", "output_tokens_per_s", "tpot_s", "memory_peak_bytes")
"""Metrics to open with; of a decode the rate comes before the time of its steps."""


@dataclass(frozen=True)
class Choice:
    """What a person chose; `any` leaves a column free, no devices means all."""

    llm: str
    phase: str
    batch: str
    tokens: str
    dtype: str
    metric: str = "latency_s"
    devices: tuple[str, ...] = ()
    ruleset: str = c.ANY
    scale: str = "auto"
    excluded: bool = False
    definition: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the query `compare`."""
        return {
            "llm_id": self.llm,
            **{name: c.free(getattr(self, name)) for name in WORKLOAD},
            "hardware_ids": list(self.devices) or None,
            "ruleset": c.free(self.ruleset),
            "with_excluded": self.excluded,
        }


@dataclass(frozen=True)
class Sentence:
    """One line of the answer: its kind, its words, the run that proves it."""

    kind: str
    words: str
    run_id: str


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    workloads = lake.rows("workloads", snapshot)
    if not workloads:
        return c.page(
            TITLE,
            "Devices side by side.",
            c.nothing("There is nothing to compare yet.", "rooflake demo"),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    choice = read(lake, params, workloads, snapshot)
    options = workload_options([row for row in workloads if row["llm_id"] == choice.llm], choice.phase)
    llms = {row["llm_id"]: row["llm_name"] for row in sorted(workloads, key=lambda row: row["llm_name"].lower())}
    devices = [row for row in lake.rows("device_list", snapshot) if row["num_runs"]]
    rulesets = [row["ruleset"] for row in lake.rows("rulesets", snapshot)]
    return c.page(
        "Compare devices",
        "One LLM, one workload: what was measured, what others published, and the bound that the hardware sets.",
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "llm", "LLM", _options(llms), choice.llm, width=210),
            c.select(NAME, "phase", "Phase", options["phase"], choice.phase, width=160),
            c.select(NAME, "batch", "Batch size", options["batch"], choice.batch, width=130),
            c.select(NAME, "tokens", "Tokens", options["tokens"], choice.tokens, width=200),
            c.select(NAME, "dtype", "Number format", options["dtype"], choice.dtype, width=230),
            c.select(NAME, "metric", "Metric", [{"value": key, "label": metric(key).label} for key in OFFERED], choice.metric, width=210),
            c.multi(NAME, "devices", "Devices", [{"value": row["hardware_id"], "label": row["name"]} for row in devices], list(choice.devices),
                    placeholder="All devices"),
            c.select(NAME, "ruleset", "Analytical ruleset", [{"value": c.ANY, "label": "Any"}, *rulesets], choice.ruleset, width=190),
            c.segments(NAME, "scale", "Scale", [("auto", "Auto"), ("linear", "Linear"), ("log", "Log")], choice.scale),
            c.switch(NAME, "excluded", "Rows kept out of charts", choice.excluded),
            dcc.Input(id=c.control(NAME, "definition"), type="hidden", value=choice.definition),
        ),
        c.loading(content(lake, choice, snapshot), "compare-content"),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


def register(app: Dash, lake: Lake) -> None:
    names = ("llm", *WORKLOAD, "metric", "devices", "ruleset", "scale", "definition", "snapshot")
    values = {name: Input(c.control(NAME, name), "value") for name in names}

    @app.callback(
        Output("compare-content", "children"),
        inputs={"state": {**values, "excluded": Input(c.switch_id(NAME, "excluded"), "checked")}},
        prevent_initial_call=True,
    )
    def show(state: dict[str, Any]) -> c.Component:
        snapshot = state.pop("snapshot")
        choice = Choice(**{**state, "devices": tuple(state["devices"] or ()), "definition": state["definition"] or ""})
        return c.guarded(lambda: content(lake, choice, snapshot))

    @app.callback(
        *(Output(c.control(NAME, name), "data") for name in WORKLOAD),
        *(Output(c.control(NAME, name), "value") for name in WORKLOAD),
        inputs={
            "llm": Input(c.control(NAME, "llm"), "value"),
            "chosen": {
                name: (Input if name == "phase" else State)(c.control(NAME, name), "value") for name in WORKLOAD
            },
            "snapshot": State(c.control(NAME, "snapshot"), "value"),
        },
        prevent_initial_call=True,
    )
    def narrow(llm: str, chosen: dict[str, str], snapshot: str) -> list[Any]:
        """Offer what the chosen LLM and phase have; keep what was chosen where it is still there."""
        return narrowed(lake.rows("workloads", snapshot, llm_id=llm), chosen)


def read(lake: Lake, params: c.Params, workloads: Sequence[dict[str, Any]], snapshot: str | None) -> Choice:
    """The state in the URL; what it does not say comes from the workload known best. Raises StoreError for what is not there."""
    devices = tuple(c.listed(params, "devices") or ())
    llm = c.chosen(params, "llm", list(dict.fromkeys(row["llm_id"] for row in workloads)))
    mine = [row for row in workloads if row["llm_id"] == llm]
    if devices and not any(name in params for name in WORKLOAD):
        mine = lake.rows("workloads", snapshot, llm_id=llm, hardware_ids=list(devices)) or mine
    picked: dict[str, str] = {}
    for name in WORKLOAD:
        options = list(dict.fromkeys(row[name] for row in mine))
        asked = {**params, "dtype": _grouped(params["dtype"], mine)} if "dtype" in params else params
        value = c.chosen(asked, name, [*options, c.ANY], options[0] if options else c.ANY)
        picked[name] = value or c.ANY
        if value != c.ANY:
            mine = [row for row in mine if row[name] == value]
    known_devices = [row["hardware_id"] for row in lake.rows("device_list", snapshot)]
    for device in devices:
        if device not in known_devices:
            raise StoreError(
                f"The link asks for device '{device}', which is not in this lake. Known: {', '.join(known_devices)}."
            )
    given = Choice(llm or "", picked["phase"], picked["batch"], picked["tokens"], picked["dtype"], devices=devices)
    key = params.get("metric") or default_metric(lake.query("compare", snapshot, **given.parameters), given.phase)
    return replace(
        given,
        metric=c.chosen({"metric": key}, "metric", OFFERED) or key,
        ruleset=c.chosen(params, "ruleset", [c.ANY, *(row["ruleset"] for row in lake.rows("rulesets", snapshot))],
                         _default_ruleset(lake, snapshot)) or c.ANY,
        scale=c.chosen(params, "scale", ["auto", "linear", "log"], "auto") or "auto",
        excluded=params.get("excluded") == "1",
        definition=params.get("definition") or "",
    )  # fmt: skip


def default_metric(rows: pa.Table, phase: str) -> str:
    """Of the metrics asked for most, the one that most kinds know; of a decode its rate, else the one that most rows know."""
    table = rows.to_pylist()

    def known(key: str) -> tuple[int, bool, int]:
        having = [row["source_kind"] for row in table if row[key] is not None]
        return len(set(having)), phase == "decode" and key == "output_tokens_per_s", len(having)

    return max(ASKED_FOR, key=known)


def workload_options(rows: Sequence[dict[str, Any]], phase: str) -> dict[str, list[dict[str, str]]]:
    """Options of the workload controls for an LLM's workloads; those after the phase are of that phase."""
    options: dict[str, list[dict[str, str]]] = {}
    rows = [row for row in rows if row["tokens"] != c.ANY]
    for name in WORKLOAD:
        mine = rows if name == "phase" or phase == c.ANY else [row for row in rows if row["phase"] == phase]
        values = sorted(dict.fromkeys(row[name] for row in mine), key=_natural)
        labels = [
            {"value": value, "label": text.words(value) if name == "phase" else NUMBER_FORMATS.get(value, value)}
            for value in values
        ]
        options[name] = [*labels, {"value": c.ANY, "label": "Any"}]
    return options


def narrowed(rows: Sequence[dict[str, Any]], chosen: dict[str, str]) -> list[Any]:
    """Options and values of the workload controls (options first): values that the rows do not have give way to the best known."""
    values: dict[str, str] = {}
    mine = list(rows)
    for name in WORKLOAD:
        has = [row for row in mine if row[name] == chosen[name]]
        if chosen[name] == c.ANY:
            values[name] = c.ANY
        else:
            values[name] = chosen[name] if has else (mine[0][name] if mine else c.ANY)
            mine = [row for row in mine if row[name] == values[name]]
    options = workload_options(rows, values["phase"])
    return [*(options[name] for name in WORKLOAD), *(values[name] for name in WORKLOAD)]


def content(lake: Lake, choice: Choice, snapshot: str | None) -> list[c.Component]:
    """The answer, the chart and its table."""
    rows = lake.query("compare", snapshot, **choice.parameters)
    shown = metric(choice.metric)
    if rows.num_rows == 0:
        return [c.nothing("No row matches. Set a control to Any, or add devices.", "rooflake demo")]
    if all(value is None for value in rows.column(shown.key).to_pylist()):
        return [
            absent(rows, choice, shown, snapshot),
            rows_card(with_findings(lake, rows, snapshot), shown, snapshot),
            *beyond(lake, choice, rows, snapshot),
        ]
    which = definitions.choose(rows.to_pylist(), shown, choice.definition)
    drawn = with_findings(
        lake, rows.filter(pa.array([which.keeps(row) for row in rows.to_pylist()], pa.bool_())), snapshot
    )
    badge = definitions.badge(which, lambda name: c.href(NAME, snapshot, **(link_of(choice) | {"definition": name})))
    return [
        answer_card(answer(drawn, shown, choice.definition), drawn, shown, snapshot),
        c.card(
            f"{shown.label}, {rows.column('llm_name')[0].as_py()}",
            *([badge] if badge is not None else []),
            c.graph(
                "compare",
                figures.compare(
                    drawn, shown, choice.scale, with_definitions=which.is_mixed and which.chosen == definitions.ALL
                ),
                f"{shown.label} by device and kind",
                min_width=300,
            ),
            about=f"{explained(shown)} Click a point for its row.{estimated(drawn, shown)}{hollow(drawn, shown)}{left_out(drawn, shown)}",
            tools=c.exports("compare", snapshot, **_exported(choice)),
        ),
        rows_card(with_findings(lake, rows, snapshot), shown, snapshot),
        *beyond(lake, choice, rows, snapshot),
    ]


def beyond(lake: Lake, choice: Choice, rows: pa.Table, snapshot: str | None) -> list[c.Component]:
    """What measurements of this LLM say beyond one number a device: ways of executing, more devices, the end of memory."""
    ids = dict.fromkeys(row["config_id"] for row in rows.to_pylist() if row["source_kind"] == "measured")
    device = choice.devices[0] if len(choice.devices) == 1 else None
    of_llm = {"llm_id": choice.llm, "hardware_id": device}
    return [
        *measured.variants_cards(lake, list(ids), snapshot),
        *measured.scaling_cards(lake, {**of_llm, "is_training": "false"}, snapshot),
        *measured.boundary_cards(lake, of_llm, snapshot, is_training=False),
    ]


def rows_card(rows: pa.Table, shown: Metric, snapshot: str | None) -> c.Component:
    num_failed = sum(status != "ok" for status in rows.column("status").to_pylist())
    failed = (
        f" {text.plural(num_failed, 'row')} without a result: out of memory, too slow or not supported."
        if num_failed
        else ""
    )
    about = f"{text.plural(rows.num_rows, 'row')}, those with the metric first.{failed}"
    return c.card("The rows", table(rows, shown, snapshot), about=about)


def absent(rows: pa.Table, choice: Choice, shown: Metric, snapshot: str | None) -> c.Component:
    """That no row has the metric, and links to what the rows have: whole times, rates, cost and memory, not their parts."""
    known = [
        key
        for key in OFFERED
        if rows.column(key).null_count < rows.num_rows and (key in ASKED_FOR or metric(key).unit != "B")
    ]
    known.sort(key=lambda key: key not in ASKED_FOR)
    links = [
        dcc.Link(
            metric(key).label, href=c.href(NAME, snapshot, **(link_of(choice) | {"metric": key})), className="rl-button"
        )
        for key in known
    ]
    what = f"None of the {text.plural(rows.num_rows, 'row')} of this workload has it."
    told = (
        [html.P(f"{what} They have:"), dmc.Group(links, gap="xs")]
        if links
        else [html.P(f"{what} They have no other metric to compare either.")]
    )
    return c.card(f"{shown.label}: not known here", *told, name="absent")


def link_of(choice: Choice) -> dict[str, Any]:
    """What of a choice stands in a link."""
    return {
        "llm": choice.llm, **{name: getattr(choice, name) for name in WORKLOAD}, "metric": choice.metric, "devices": list(choice.devices),
        "ruleset": choice.ruleset, "scale": choice.scale, "excluded": "1" if choice.excluded else None, "definition": choice.definition,
    }  # fmt: skip


def explained(shown: Metric) -> str:
    """A metric's definition and direction as sentences."""
    formula = f" [{shown.formula}]" if shown.formula else ""
    direction = f" {shown.better.capitalize()} is better." if shown.better else ""
    return f"{shown.definition[:1].upper()}{shown.definition[1:]}{formula}.{direction}"


def estimated(rows: pa.Table, shown: Metric) -> str:
    """What a pale tick is, as a sentence."""
    is_drawn = shown.key == "latency_s" and rows.column("estimate_s").null_count < rows.num_rows
    return " A pale tick beside a bound is the estimate, with its 90 % interval." if is_drawn else ""


def hollow(rows: pa.Table, shown: Metric) -> str:
    """What the sources of hollow markers do not state, as a sentence."""
    absent = {name for row in rows.to_pylist() if row[shown.key] is not None for name in row["unstated"]}
    return f" A hollow marker's source does not state its {' or '.join(sorted(absent))}." if absent else ""


def left_out(rows: pa.Table, shown: Metric) -> str:
    """What the chart has no room for, as a sentence; the table has it all."""
    num_devices = len(figures.ranked_devices(rows.to_pylist(), shown))
    if num_devices <= figures.MOST_DEVICES:
        return ""
    return f" The chart shows the first {figures.MOST_DEVICES} of {num_devices} devices, observed ones before the best bounds; the table has them all."


def answer(rows: pa.Table, shown: Metric, definition: str | None = None) -> list[Sentence]:
    """Which device is best and by how much, kind by kind; where a kind knows one device only, its distance from the bound. Rows in
    which a check found a fault stay out."""
    table = [
        row
        for row in definitions.ranked(rows.to_pylist(), shown, definition)
        if row[shown.key] is not None and row["status"] == "ok" and not row.get("num_faults")
    ]
    sentences = []
    for kind in text.KINDS:
        best: dict[str, dict[str, Any]] = {}
        for row in (row for row in table if row["source_kind"] == kind):
            if row["device"] not in best or _is_better(row[shown.key], best[row["device"]][shown.key], shown):
                best[row["device"]] = row
        ranked = sorted(best.values(), key=lambda row: row[shown.key], reverse=shown.better == "higher")
        if ranked:
            sentences.append(
                Sentence(kind, _said(ranked, shown) + _beside_bound(ranked[0], table, shown), ranked[0]["run_id"])
            )
    return sentences


def answer_card(sentences: Sequence[Sentence], rows: pa.Table, shown: Metric, snapshot: str | None) -> c.Component:
    if not sentences:
        return c.nothing(
            f"{text.plural(rows.num_rows, 'row')} match, none of them with {shown.label.lower()}. Choose another metric."
        )
    lines = [
        html.Li(
            [
                html.I(className=f"rl-dot rl-{line.kind}"),
                html.Span(
                    [
                        html.B(f"{line.kind.capitalize()}: "),
                        line.words,
                        " ",
                        dcc.Link("row", href=c.href("run", snapshot, run_id=line.run_id)),
                    ]
                ),
            ]
        )
        for line in sentences
    ]
    return c.card("The answer", html.Ul(lines, className="rl-answer"))


def table(rows: pa.Table, shown: Metric, snapshot: str | None) -> c.Component:
    """The chart's twin: the same rows, the chosen metric beside the ones everybody asks for."""
    keys = list(
        dict.fromkeys(
            [
                shown.key,
                "latency_s",
                "output_tokens_per_s",
                "total_tokens_per_s",
                "memory_peak_bytes",
                "roofline_s",
                "estimate_s",
                "usd_per_million_tokens",
                "mfu",
            ]
        )
    )
    sign = -1 if shown.better == "higher" else 1
    ordered = sorted(
        rows.to_pylist(),
        key=lambda row: (
            row[shown.key] is None,
            text.KINDS.index(row["source_kind"]),
            0.0 if row[shown.key] is None else sign * row[shown.key],
            row["device"],
        ),
    )
    keep = (
        "run_id",
        "source_kind",
        "device",
        "phase",
        "batch",
        "tokens",
        "dtype",
        "variant",
        "status",
        "source_id",
        "source_cell",
        "quality_tier",
    )
    numbers = [key for key in keys if any(row[key] is not None for row in ordered)]
    data = [
        {**{name: row[name] for name in (*keep, *numbers)}, "definition": definitions.of(row, shown) if row[shown.key] is not None and row["source_kind"] in definitions.OBSERVED else None,
         "unstated": ", ".join(row["unstated"]), "machine": text.busy(row["other_load_ratio"]), "finding": row.get("finding"), "is_bound": "a bound" if row["is_bound"] else None,
         "excluded": row["exclusion_reason"] if row["is_excluded"] else None,
         "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"]))}
        for row in ordered
    ]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), c.text_column("device"), *(c.metric_column(key) for key in numbers), c.text_column("is_bound", "Latency is"),
        c.text_column("status"), *(c.text_column(name) for name in ("machine", "finding") if any(row[name] for row in data)), c.text_column("phase"), c.text_column("batch"), c.text_column("tokens"), c.text_column("dtype", "Format"),
        c.text_column("unstated", "Not stated"), c.text_column("variant"), c.text_column("source_id", "Source"), c.text_column("source_cell", "Cell"),
        c.number_column("quality_tier", "Tier"), c.text_column("definition"), c.text_column("excluded", "Kept out because"),
    ]  # fmt: skip
    return c.grid("compare-rows", columns, data)


def _said(ranked: Sequence[dict[str, Any]], shown: Metric) -> str:
    first = ranked[0]
    value = text.quantity(shown, first[shown.key])
    if first["is_bound"] and first["source_kind"] != "analytical" and shown.key == "latency_s":
        value += " (a bound as its source prints it)"
    if first["source_kind"] == "analytical" and shown.key == "latency_s" and first["estimate_s"] is not None:
        value += f" (estimate {text.quantity(shown, first['estimate_s'])})"
    if busy := text.busy(first["other_load_ratio"]):
        value += f" ({busy})"
    if len(ranked) == 1:
        return f"{value} on {first['device']}, the only device."
    second = ranked[1]
    low, high = sorted((first[shown.key], second[shown.key]))
    word = "lowest" if shown.better == "lower" else "highest"
    if shown.key.endswith("_s") and shown.unit == "s":
        word = "fastest"
    lead = (
        f"{text.number(high / low)} times {'ahead of' if word != 'lowest' else 'below'} {second['device']}"
        if low > 0 and high / low >= 1.005
        else f"level with {second['device']}"
        if high == low or low > 0
        else f"before {second['device']}"
    )
    return f"{first['device']} is {word} with {value}, {lead} ({text.quantity(shown, second[shown.key])}{f', {busy}' if (busy := text.busy(second['other_load_ratio'])) else ''}); {text.plural(len(ranked), 'device')}."


def _beside_bound(row: dict[str, Any], table: Sequence[dict[str, Any]], shown: Metric) -> str:
    if row["source_kind"] == "analytical":
        return ""
    there = [other for other in table if other["source_kind"] == "analytical" and other["device"] == row["device"]]
    alike = [other for other in there if other["config_id"] == row["config_id"]] or [
        other for other in there if other["dtype"] == row["dtype"]
    ]
    bounds = [other[shown.key] for other in alike or there]
    if not bounds or shown.better is None or shown.unit == "B":
        return ""
    bound = min(bounds) if shown.better == "lower" else max(bounds)
    if row["is_bound"] and shown.key == "latency_s":
        return f" The bound computed there is {text.quantity(shown, bound)}."
    ratio = row[shown.key] / bound if shown.better == "lower" else bound / row[shown.key]
    if ratio < 1:
        return f" That is beyond the bound there ({text.number(ratio)} times): look at the row."
    if shown.better == "higher":
        return f" The bound there is {text.number(ratio)} times higher."
    return f" That is {text.number(ratio)} times the bound there."


def _is_better(value: float, other: float, shown: Metric) -> bool:
    return value > other if shown.better == "higher" else value < other


def _exported(choice: Choice) -> dict[str, Any]:
    parameters = choice.parameters
    return {**parameters, "with_excluded": "true" if choice.excluded else None}


def _default_ruleset(lake: Lake, snapshot: str | None) -> str:
    names = [row["ruleset"] for row in lake.rows("rulesets", snapshot)]
    return "default" if "default" in names else c.ANY


def _grouped(dtype: str, workloads: Sequence[dict[str, Any]]) -> str:
    """The number format that a dtype is compared in (`fp16`: `16-bit`); anything else as it is."""
    return next((str(row["dtype"]) for row in workloads if dtype in row["dtypes"]), dtype)


def _options(names: dict[str, str]) -> list[dict[str, str]]:
    return [{"value": key, "label": words} for key, words in names.items()]


def _natural(value: str) -> tuple[Any, ...]:
    """Sort key: numbers inside a label by size."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in value.replace(",", " ").split())
