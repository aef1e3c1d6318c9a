"""Run: everything known about one run, from its configuration to the file it came in and the command that repeats it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, dcc, html

from dashboard import analytical, definitions, figures, kernel_tables, measured, served, text
from dashboard import components as c
from dashboard import measured_figures as charts
from dashboard.data import Lake
from dashboard.pages import findings, layers, machine, predict
from warehouse.metrics import BY_KEY, METRICS
from warehouse.schema import CONFIGURATION_NAMES, OF_MICROBENCH
from warehouse.store import StoreError

NAME, TITLE, MENU = "run", "Run", "one row, all of it"
CONTEXT = ("task", "execution", "cache_implementation", "framework", "framework_version", "served_model_name", "num_samples", "num_requests", "num_failed_requests",
           "duration_s", "is_output_fixed", "is_prefix_unique", "prefix_cache_hit_ratio", "concurrency_mean", "concurrency_max", "steady_from_s", "steady_s", "is_saturated", "slo_ttft_s", "slo_tpot_s", "slo_e2el_s", "model_revision", "tokenizer_hash", "profiler_overhead_ratio", "hooks_overhead_ratio", "other_load_ratio", "throttled_ratio", "is_host_bound", "is_fitting", "bound")  # fmt: skip
FEW_SAMPLES = 9
"""Repeats too few for a histogram."""
TIERS = ("imported summary", "imported raw", "own single run", "own repeats with full environment", "replicated")


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot, run_id = params.get("snapshot"), params.get("run_id")
    if not run_id:
        return choose(lake, c.chosen(params, "kind", ["all", *text.KINDS], "all") or "all", snapshot)
    found = lake.rows("run", snapshot, run_id=run_id)
    if not found:
        raise StoreError(f"There is no run '{run_id}' in this lake. The Run page without an id lists the newest ones.")
    run = found[0]
    parts = [
        c.controls(NAME, snapshot, *links(run, snapshot)),
        notice(run),
        findings.run_card(lake, run_id, snapshot),
        served.inference_card(lake, run, snapshot),
        served.requests_card(lake, run, snapshot),
        *analytical.cards(lake, run, snapshot),
        *measured.cards(lake, run, snapshot),
        served.client_card(run, snapshot),
        served.quality_card(lake, run, snapshot),
        *kernel_tables.run_cards(lake, run_id, snapshot),
        twins_card(lake, run, snapshot),
        metrics_card(run, snapshot),
        configuration_card(run),
        samples_card(lake, run, snapshot),
        ops_card(lake, run, snapshot),
        source_card(lake, run, snapshot),
        environment_card(lake, run, snapshot),
    ]
    title = f"{run['llm_name'] or run['llm_id'] or text.words(run['kernel'] or run['phase'])} on {run['device']}"
    words = f" · {text.words(run['phase'])}, {what(run)}, {run['dtype']}"
    subtitle = html.Span([c.kind_badge(run["source_kind"]), words])
    hidden = dcc.Input(id=c.control(NAME, "run_id"), type="hidden", value=run_id)
    return c.page(
        title,
        subtitle,
        hidden,
        *(part for part in parts if part is not None),
        snapshot=snapshot,
        path=c.href(NAME, run_id=run_id),
    )


def what(run: dict[str, Any]) -> str:
    """The workload of a run in words; of a microbenchmark its shape or size."""
    if run["phase"] == "serve":
        return str(run["tokens"])
    if run["phase"] != "microbench":
        return f"batch {run['batch']}, {run['tokens']}"
    size = None if run["size_bytes"] is None else text.quantity(BY_KEY["bytes_moved"], float(run["size_bytes"]))
    return ", ".join(filter(None, (machine.shape(run), size))) or "one shape"


def register(app: Dash, lake: Lake) -> None:
    """This page needs no callback: it is its URL."""


def choose(lake: Lake, kind: str, snapshot: str | None) -> c.Component:
    """Runs to open, of one kind or of all with measured ones first."""
    source_kind = None if kind == "all" else kind
    rows = lake.rows("run_list", snapshot, source_kind=source_kind)
    table = [
        {
            **row,
            "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])),
            "when": text.moment(row["collected_at"]),
        }
        for row in rows
    ]
    columns = [
        c.link_column(), c.kind_column(), c.text_column("llm_name", "LLM"), c.text_column("device"), c.text_column("phase"), c.text_column("batch"),
        c.text_column("tokens"), c.text_column("dtype", "Format"), c.metric_column("latency_s"), c.text_column("status"),
        c.text_column("source_id", "Source"), c.text_column("when"),
    ]  # fmt: skip
    body = c.grid("run-list", columns, table) if rows else c.nothing("The lake has no runs yet.", "rooflake demo")
    return c.page(
        "Runs", "Open one to see all that is known about it. Measured runs come first; the other pages lead to every run.",
        c.card("The newest runs" if kind == "all" else f"The newest {kind} runs", body, tools=c.exports("run_list", snapshot, source_kind=source_kind)), c.controls_hidden(NAME, snapshot), dcc.Input(id=c.control(NAME, "kind"), type="hidden", value=kind), snapshot=snapshot, path=c.href(NAME),
    )  # fmt: skip


def links(run: dict[str, Any], snapshot: str | None) -> list[c.Component]:
    """From here to the same workload on other devices, to the roofline and the layers."""
    targets = []
    if run["llm_id"] is not None:
        workload = {
            "phase": run["phase"],
            "batch": run["batch"],
            "tokens": run["tokens"],
            "dtype": run["number_format"],
        }
        extra = {"excluded": "1"} if run["is_excluded"] else {}
        targets.append(("Compare this workload", c.href("compare", snapshot, llm=run["llm_id"], **workload, **extra)))
    if run["phase"] == "serve":
        served_id = run["llm_id"] or run["served_model_name"] or "not stated"
        targets.append(("Servers under load", c.href("serving", snapshot, llm=served_id)))
    if run["phase"] == "microbench":
        machine_link = c.href("machine", snapshot, device=run["hardware_id"])
        return [dcc.Link("All microbenchmarks of this device", href=machine_link, className="rl-button")]
    targets.append(("Operators on the roofline", c.href("roofline", snapshot, run=run["run_id"])))
    targets.append(("Layers", c.href("layers", snapshot, run=run["run_id"])))
    is_asked = run["phase"] in predict.PHASES and run["weight_dtype"] in (None, *predict.DTYPES)
    if run["llm_id"] is not None and run["hardware_id"] is not None and is_asked:
        what_if = {
            key: run[key]
            for key in ("phase", "batch_size", "input_tokens", "output_tokens", "context_tokens", "attention")
        }
        targets.append(
            (
                "Predict it",
                c.href(
                    "predict",
                    snapshot,
                    llm=run["llm_id"],
                    device=run["hardware_id"],
                    dtype=run["weight_dtype"],
                    **what_if,
                ),
            )
        )
    return [dcc.Link(words, href=target, className="rl-button") for words, target in targets]


def notice(run: dict[str, Any]) -> c.Component | None:
    """What a reader must know before any number: a failure, or why the row stays out of charts."""
    if run["status"] != "ok":
        return dmc.Alert(run["status_detail"] or "The source gives no detail.", title=f"This run ended as '{run['status']}': it has no result.",
                         color="red", variant="light")  # fmt: skip
    if run["is_excluded"]:
        return dmc.Alert(
            run["exclusion_reason"], title="Kept, but out of charts unless asked for", color="orange", variant="light"
        )
    if busy := text.busy(run["other_load_ratio"]):
        detail = (
            run["status_detail"] or "Other processes kept part of the machine busy: the time is not the device's alone."
        )
        return dmc.Alert(detail, title=f"Measured on a {busy}", color="orange", variant="light")
    if run["status_detail"]:
        return dmc.Alert(run["status_detail"], title="Note", color="blue", variant="light")
    return None


def metrics_card(run: dict[str, Any], snapshot: str | None) -> c.Component:
    """Every metric the run has, with its statistics, definition and formula."""
    rows = []
    for metric in METRICS:
        known = {name: run[metric.column(name)] for name in metric.statistics if run[metric.column(name)] is not None}
        is_stand_in = metric.key == "latency_s" and run["is_bound"]
        if (run[metric.key] is None or is_stand_in) and not known:
            continue
        spread = ", ".join(
            f"{'±' if name == 'std' else name} {text.quantity(metric, value)}" for name, value in known.items()
        )
        followed = definitions.of(run, metric) if run["source_kind"] in definitions.OBSERVED else None
        rows.append(
            html.Tr(
                [
                    html.Th(metric.label, scope="row"),
                    html.Td(text.quantity(metric, run[metric.key]), className="rl-number"),
                    html.Td(spread or ""),
                    html.Td([metric.definition, html.Code(f" {metric.formula}") if metric.formula else "",
                             html.Div([html.Code(followed), f" {definitions.meaning(followed)}"], className="rl-quieter") if followed else None]),
                ]
            )
        )  # fmt: skip
    if not rows:
        return c.card("Metrics", c.nothing("No metric of this run is known."))
    head = html.Thead(html.Tr([html.Th(words, scope="col") for words in ("Metric", "Value", "Spread", "Definition")]))
    table = html.Div(html.Table([head, html.Tbody(rows)], className="rl-table rl-metrics"), className="rl-scroll")
    return c.card("Metrics", table, tools=c.exports("run", snapshot, run_id=run["run_id"]))


def twins_card(lake: Lake, run: dict[str, Any], snapshot: str | None) -> c.Component | None:
    """The same configuration from every other kind of truth."""
    rows = lake.rows("run_twins", snapshot, run_id=run["run_id"])
    if not rows and run["phase"] == "microbench":
        return None
    if not rows:
        body: Any = c.nothing("Nobody else has a row of exactly this configuration yet.", "rooflake collect roofline")
        return c.card("The same configuration elsewhere", body)
    times, rest = (
        ("latency_s", "roofline_s", "estimate_s"),
        ("output_tokens_per_s", "total_tokens_per_s", "memory_peak_bytes"),
    )
    table = [{**row, "link": c.link("Open", c.href("run", snapshot, run_id=row["run_id"])), "interval": _interval(row),
              "machine": text.busy(row["other_load_ratio"])} for row in rows]  # fmt: skip
    columns = [
        c.link_column(), c.kind_column(), *map(c.metric_column, times), c.text_column("interval", "90 % interval"),
        c.number_column("observed_over_estimate", "Observed / estimate", headerTooltip="the time observed over the analytical estimate: 1 is as estimated"),
        *map(c.metric_column, rest), c.text_column("status"), c.text_column("variant"), c.text_column("machine"), c.text_column("source_id", "Source"), c.text_column("source_cell", "Cell"),
    ]  # fmt: skip
    shown = [column for column in columns if any(row.get(column["field"]) is not None for row in table)]
    return c.card(
        "The same configuration elsewhere", *([html.P(said, className="rl-lead")] if (said := beside(run, rows)) else []),
        c.grid("twins", shown, table),
        about="Rows with the same configuration id: measured, published, analytical and predicted meet here.",
        tools=c.exports("run_twins", snapshot, run_id=run["run_id"]),
    )  # fmt: skip


def beside(run: dict[str, Any], twins: Sequence[dict[str, Any]]) -> str | None:
    """A measured or published time beside its bound and estimate, in a sentence; None where one of them is not known."""
    if run["source_kind"] not in ("measured", "published"):
        return None
    near = [row for row in twins if row["source_kind"] == "analytical" and row["observed_over_estimate"] is not None]
    near.sort(key=lambda row: row["execution"] != run["execution"])
    if not near:
        return None
    row, bound, estimate = near[0], BY_KEY["roofline_s"], BY_KEY["estimate_s"]
    ratio = row["observed_over_estimate"]
    observed = ratio * row["estimate_s"]
    is_inside = row["estimate_lower_s"] <= observed <= row["estimate_upper_s"]
    return (
        f"{text.quantity(BY_KEY['latency_s'], observed)} observed{'' if run['latency_s'] is not None else ' (from its token rate)'}: {text.number(observed / row['roofline_s'])} times the bound of"
        f" {text.quantity(bound, row['roofline_s'])}, {text.number(ratio)} times the estimate of {text.quantity(estimate, row['estimate_s'])},"
        f" {'inside' if is_inside else 'outside'} its 90 % interval ({_interval(row)})."
    )


def _interval(row: dict[str, Any]) -> str | None:
    low, high = row["estimate_lower_s"], row["estimate_upper_s"]
    return (
        None
        if low is None
        else f"{text.quantity(BY_KEY['estimate_s'], low)} to {text.quantity(BY_KEY['estimate_s'], high)}"
    )


def configuration_card(run: dict[str, Any]) -> c.Component:
    names = [*CONFIGURATION_NAMES, *CONTEXT]
    known = [(text.words(name), text.column_quantity(name, run[name])) for name in names if run[name] is not None]
    apart = CONFIGURATION_NAMES if run["phase"] == "microbench" else OF_MICROBENCH
    unknown = [text.words(name).lower() for name in CONFIGURATION_NAMES if run[name] is None and name not in apart]
    note = f"Not stated or not applicable: {', '.join(unknown)}." if unknown else None
    return c.card("Configuration", c.facts(known), dmc.Text(note, size="sm", c="dimmed", mt="sm") if note else None,
                  about=["Configuration id ", html.Code(run["config_id"])])  # fmt: skip


def samples_card(lake: Lake, run: dict[str, Any], snapshot: str | None) -> c.Component | None:
    """Raw repeats, one chart a metric of ours; values under a tool's own definition as a table."""
    table = lake.query("run_samples", snapshot, run_id=run["run_id"])
    if table.num_rows == 0:
        return None
    names = table.column("metric").to_pylist()
    shown = []
    for name in dict.fromkeys(names):
        metric = BY_KEY.get(name)
        mine = table.filter([one == name for one in names])
        if metric is not None and mine.num_rows > 1:
            pictures = [
                c.graph(f"samples-{name}", figures.samples(mine, metric), f"Raw repeats of {metric.label.lower()}")
            ]
            if mine.num_rows > FEW_SAMPLES:
                histogram = charts.sample_histogram(mine, metric)
                pictures.append(
                    c.graph(f"histogram-{name}", histogram, f"Histogram of the repeats of {metric.label.lower()}")
                )
            shown.append(html.Div([html.H3(metric.label, className="rl-sub"), *pictures]))
    rest = [row for row in table.to_pylist() if row["metric"] not in BY_KEY]
    if rest:
        flagged = [{**row, "flags": ", ".join(row["flags"] or [])} for row in rest]
        shown.append(c.grid("tool-samples", [c.text_column("metric"), c.number_column("value"), c.text_column("unit"), c.text_column("sample_phase"),
                                              c.text_column("flags")], flagged))  # fmt: skip
    return c.card("Raw samples", html.Div(shown, className="rl-charts"), about="Every repeat, warm-up included; nothing is deleted, outliers and throttled repeats are flagged.",
                  tools=c.exports("run_samples", snapshot, run_id=run["run_id"]))  # fmt: skip


def ops_card(lake: Lake, run: dict[str, Any], snapshot: str | None) -> c.Component | None:
    rows = lake.rows("run_ops", snapshot, run_id=run["run_id"])
    if not rows:
        return None
    return c.card(
        "Operators", layers.ops_grid(rows),
        about=dcc.Link("As nested bars, beside the bound", href=c.href("layers", snapshot, run=run["run_id"]), className="rl-link"),
        tools=c.exports("run_ops", snapshot, run_id=run["run_id"]),
    )  # fmt: skip


def source_card(lake: Lake, run: dict[str, Any], snapshot: str | None) -> c.Component:
    """Where the row comes from, and how to make it again."""
    sources = [row for row in lake.rows("source_list", snapshot) if row["source_id"] == run["source_id"]]
    source = sources[0] if sources else {}
    tier = run["quality_tier"]
    url = run["source_url"]
    pairs: list[tuple[str, Any]] = [
        ("Source", run["source_id"]), ("Title", run["source_title"]), ("Authors", source.get("authors")), ("Table or figure", source.get("locator")),
        ("Cell", run["source_cell"]), ("Link", html.A(url, href=url, target="_blank", rel="noreferrer", className="rl-link") if url else None),
        ("Quality tier", None if tier is None else f"{tier}: {TIERS[tier]}"), ("Collector", run["collector"]), ("Ruleset", run["ruleset"]),
        ("Collected", text.moment(run["collected_at"])), ("Note", source.get("note")), ("Run id", html.Code(run["run_id"])),
    ]  # fmt: skip
    files = lake.rows("run_file", snapshot, run_id=run["run_id"])
    for file in files:
        pairs += [("Landed file", html.Code(file["file_name"])), ("File hash", html.Code(file["file_hash"][:16], title=file["file_hash"])),
                  ("Loaded", text.moment(file["loaded_at"]))]  # fmt: skip
    command = (
        [html.H3("Repeat it", className="rl-sub"), html.Div([dmc.Code(run["command"], block=True, className="rl-command"),
                                                             dcc.Clipboard(content=run["command"], title="Copy the command", className="rl-copy")], className="rl-repeat")]
        if run["command"]
        else []
    )  # fmt: skip
    return c.card("Source", c.facts([(name, value) for name, value in pairs if value is not None]), *command,
                  tools=c.exports("load_list", snapshot, file_hash=run["file_hash"]))  # fmt: skip


def environment_card(lake: Lake, run: dict[str, Any], snapshot: str | None) -> c.Component | None:
    found = lake.rows("run_environment", snapshot, run_id=run["run_id"])
    if not found:
        return None
    row = found[0]
    simple = [
        (text.words(name), text.column_quantity(name, value)) for name, value in row.items() if _is_simple(name, value)
    ]
    packages: Sequence[str] = row["packages"] or []
    variables = [f"{name}={value}" for name, value in (row["variables"] or [])]
    more = [
        html.Details([html.Summary(f"{text.plural(len(values), noun)}"), dmc.Code("\n".join(values), block=True)])
        for noun, values in (("package", packages), ("variable", variables))
        if values
    ]
    return c.card("Environment", c.facts(simple), *more)


def _is_simple(name: str, value: Any) -> bool:
    return value is not None and not isinstance(value, list) and name not in ("environment_id", "file_hash")
