"""Predict: what a configuration nobody measured would do, beside its analytical bound, and how far to trust that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html

from dashboard import components as c
from dashboard import figures, text
from dashboard.data import Lake
from models.learned import Predictor, WhatIf, what_if
from warehouse.metrics import BY_KEY
from warehouse.schema import ATTENTIONS, config_id
from warehouse.store import StoreError

NAME, TITLE, MENU = "predict", "Predict", "what nobody measured"
METRICS = ("latency_s", "memory_peak_bytes")
PHASES = ("forward", "prefill", "decode", "generate")
DTYPES = ("fp32", "bf16", "fp16", "fp8", "int8", "int4")
FORM = ("llm", "device", "phase", "batch_size", "input_tokens", "context_tokens", "output_tokens", "dtype", "attention")
TRUST = ("metric", "split")
DEFAULTS = {"batch_size": 1, "input_tokens": 512, "context_tokens": 512, "output_tokens": 128}
"""What the form asks where a link is silent; a phase takes the counts it has and leaves the rest."""


def layout(lake: Lake, params: c.Params) -> c.Component:
    snapshot = params.get("snapshot")
    llms, devices = lake.rows("llm_list", snapshot), lake.rows("device_list", snapshot)
    if not llms or not devices:
        return c.page(
            TITLE,
            "What nobody measured.",
            c.nothing("The catalogue is not loaded yet.", "rooflake load"),
            snapshot=snapshot,
            path=c.href(NAME),
        )
    form = read(lake, params, llms, devices, snapshot)
    trust = {
        "metric": c.chosen(params, "metric", METRICS, "latency_s"),
        "split": c.chosen(params, "split", ["leave_model_out", "random"], "leave_model_out"),
    }
    return c.page(
        "Predict",
        "Choose a configuration; the predictor corrects its analytical bound by what was measured, and says how sure it is.",
        c.controls(
            NAME,
            snapshot,
            c.select(NAME, "llm", "LLM", [{"value": row["llm_id"], "label": row["name"]} for row in llms], form["llm"], width=220),
            c.select(NAME, "device", "Device", [{"value": row["hardware_id"], "label": row["name"]} for row in devices], form["device"], width=300),
            c.select(NAME, "phase", "Phase", phase_options(_architecture(llms, form["llm"])), form["phase"], width=140),
            c.number_input(NAME, "batch_size", "Batch size", form["batch_size"], maximum=4096),
            c.number_input(NAME, "input_tokens", "Input tokens", form["input_tokens"]),
            c.number_input(NAME, "context_tokens", "Context tokens", form["context_tokens"]),
            c.number_input(NAME, "output_tokens", "Output tokens", form["output_tokens"]),
            c.select(NAME, "dtype", "Number format", list(DTYPES), form["dtype"], width=150),
            c.select(NAME, "attention", "Attention", list(ATTENTIONS), form["attention"], width=130),
        ),
        c.loading(answer(lake, form, snapshot), "predict-answer"),
        dmc.Title("How far to trust it", order=2, className="rl-section"),
        dmc.Paper(
            dmc.Group(
                [
                    c.segments(NAME, "metric", "Metric", [(key, BY_KEY[key].label) for key in METRICS], trust["metric"]),
                    c.segments(NAME, "split", "Held out", [("leave_model_out", "Whole LLMs"), ("random", "Random rows")], trust["split"]),
                ],
                gap="md",
            ),
            className="rl-controls", withBorder=True, p="sm",
        ),
        c.loading(evidence(lake, str(trust["metric"]), str(trust["split"]), snapshot), "predict-evidence"),
        snapshot=snapshot,
        path=c.href(NAME),
    )  # fmt: skip


def register(app: Dash, lake: Lake) -> None:
    @app.callback(
        Output("predict-answer", "children"),
        inputs={"form": {name: Input(c.control(NAME, name), "value") for name in (*FORM, "snapshot")}},
        prevent_initial_call=True,
    )
    def show_answer(form: dict[str, Any]) -> c.Component:
        snapshot = form.pop("snapshot")
        return c.guarded(lambda: answer(lake, form, snapshot))

    @app.callback(
        Output(c.control(NAME, "phase"), "data"),
        Output(c.control(NAME, "phase"), "value"),
        Input(c.control(NAME, "llm"), "value"),
        State(c.control(NAME, "phase"), "value"),
        State(c.control(NAME, "snapshot"), "value"),
        prevent_initial_call=True,
    )
    def narrow(llm: str, phase: str, snapshot: str) -> tuple[Any, str]:
        """Offer the phases that the chosen LLM has; keep the chosen one where it is still there."""
        options = phase_options(_architecture(lake.rows("llm_list", snapshot), llm))
        values = [option["value"] for option in options]
        return options, phase if phase in values else values[0]

    @app.callback(
        Output("predict-evidence", "children"),
        inputs={"trust": {name: Input(c.control(NAME, name), "value") for name in (*TRUST, "snapshot")}},
        prevent_initial_call=True,
    )
    def show_evidence(trust: dict[str, str]) -> c.Component:
        return c.guarded(lambda: evidence(lake, trust["metric"], trust["split"], trust["snapshot"]))


def read(
    lake: Lake,
    params: c.Params,
    llms: Sequence[dict[str, Any]],
    devices: Sequence[dict[str, Any]],
    snapshot: str | None,
) -> dict[str, Any]:
    """The form in the URL; without one, an LLM and device the predictors have seen."""
    seen = (lake.rows("newest_predictors", snapshot) or [{}])[0]
    llm_ids, device_ids = [row["llm_id"] for row in llms], [row["hardware_id"] for row in devices]
    is_fresh = not any(name in params for name in FORM)
    architectures = {row["llm_id"]: row["architecture"] for row in llms}
    decoders = [key for key in seen.get("llm_ids") or [] if architectures.get(key) == "decoder"]
    llm = c.chosen(params, "llm", llm_ids, _first(decoders, llm_ids))
    return {
        "llm": llm,
        "device": c.chosen(params, "device", device_ids, _first(seen.get("hardware_ids"), device_ids)),
        "phase": c.chosen(
            params, "phase", PHASES, "forward" if architectures.get(str(llm)) == "encoder" else "prefill"
        ),
        **{name: _whole(params, name, default) for name, default in DEFAULTS.items()},
        "dtype": c.chosen(params, "dtype", DTYPES, "fp32" if is_fresh and seen else "bf16"),
        "attention": c.chosen(params, "attention", ATTENTIONS, "sdpa"),
    }


def phase_options(architecture: str | None) -> list[dict[str, str]]:
    """Phases of an LLM: an encoder has a forward pass only."""
    return [{"value": one, "label": text.words(one)} for one in (PHASES[:1] if architecture == "encoder" else PHASES)]


def configuration(form: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The configuration columns of a form. Raises StoreError for a phase without its tokens.

    A prefill has input tokens, a decode step the context it attends to (an encoder-decoder its input beside), a forward
    pass the input (an encoder-decoder its output beside), a generation both.
    """
    phase, dtype = form["phase"], form["dtype"]
    is_pair = architecture == "encoder_decoder"
    needed = {
        "prefill": ["input_tokens"],
        "decode": ["context_tokens"],
        "forward": ["input_tokens"],
        "generate": ["input_tokens", "output_tokens"],
    }[phase]
    needed += (
        ["input_tokens"]
        if is_pair and phase == "decode"
        else ["output_tokens"]
        if is_pair and phase == "forward"
        else []
    )
    missing = [name for name in ("batch_size", *needed) if form.get(name) in (None, "")]
    if missing:
        raise StoreError(
            f"A {phase} of this LLM needs {' and '.join(text.words(name).lower() for name in missing)}. Fill it in above."
        )
    activation = dtype if dtype in ("fp32", "bf16", "fp16") else "fp16"
    return {
        "llm_id": form["llm"], "hardware_id": form["device"], "num_devices": 1, "tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1,
        "expert_parallel": 1, "phase": phase, "batch_size": int(form["batch_size"]), **{name: int(form[name]) for name in needed},
        "weight_dtype": dtype, "activation_dtype": activation, "kv_dtype": activation, "attention": form["attention"], "optimizations": [],
    }  # fmt: skip


def answer(lake: Lake, form: Mapping[str, Any], snapshot: str | None) -> list[c.Component]:
    """Latency and memory: predicted, bound, and what was observed of the very same configuration."""
    architectures = {row["llm_id"]: row["architecture"] for row in lake.rows("llm_list", snapshot)}
    try:
        config = configuration(form, architectures.get(str(form["llm"])) or "decoder")
    except StoreError as error:
        return [c.nothing(str(error))]
    predictors = load(lake, snapshot)
    result = what_if(
        predictors, config, hardware_rows=lake.query("device_list", snapshot).drop_columns(["num_runs", "num_observed"])
    )
    total = result.analytical
    if total.get("roofline_s") is None:
        return [c.nothing(f"The analytical model has no answer: {total.get('status_detail')}")]
    observed = [
        row
        for row in lake.rows("same_config", snapshot, config_id=config_id(config))
        if not row["is_excluded"] and row["status"] == "ok"
    ]
    parts: list[c.Component] = (
        []
        if predictors
        else [c.nothing("No predictor is trained yet: below are the bound and the estimate alone.", "rooflake train")]
    )
    parts.append(
        dmc.SimpleGrid(
            [metric_card(key, result, observed, snapshot) for key in METRICS], cols={"base": 1, "lg": 2}, spacing="md"
        )
    )
    parts.append(bound_card(total))
    return parts


def metric_card(key: str, result: WhatIf, observed: Sequence[dict[str, Any]], snapshot: str | None) -> c.Component:
    """One metric in a sentence and a chart."""
    metric, rows = BY_KEY[key], answer_rows(key, result, observed, snapshot)
    prediction = result.predictions.get(key)
    alert = None
    if prediction is not None and prediction.reason:
        title = "Outside the data" if not prediction.is_supported else "Note"
        alert = dmc.Alert(
            prediction.reason,
            title=title,
            color="orange" if not prediction.is_supported else "blue",
            variant="light",
            p="sm",
        )
    name = "latency" if key == "latency_s" else "memory"
    return c.card(
        f"{metric.label}",
        html.P(said(key, result), className="rl-lead"),
        alert,
        c.graph(
            f"predict-{name}",
            figures.prediction(rows, metric),
            f"{metric.label}: predicted with its interval, bound and observed",
            min_width=280,
        ),
    )


def answer_rows(
    key: str, result: WhatIf, observed: Sequence[dict[str, Any]], snapshot: str | None
) -> list[dict[str, Any]]:
    """Points of the chart: predicted, bound, estimate, and rows of the same configuration."""
    rows: list[dict[str, Any]] = []
    prediction = result.predictions.get(key)
    if prediction is not None and prediction.value is not None:
        rows.append(
            {
                "name": "Predicted",
                "kind": "predicted",
                "value": prediction.value,
                "lower": prediction.lower,
                "upper": prediction.upper,
            }
        )
    bound = result.analytical.get("roofline_s" if key == "latency_s" else "memory_peak_bytes")
    name = "Analytical bound" if key == "latency_s" else "Analytical model"
    rows.append({"name": name, "kind": "analytical", "value": bound, "lower": None, "upper": None})
    if key == "latency_s" and result.analytical.get("estimate_s") is not None:
        value, lower, upper = (result.analytical[f"estimate_{part}s"] for part in ("", "lower_", "upper_"))
        rows.append(
            {"name": "Analytical estimate", "kind": "analytical", "value": value, "lower": lower, "upper": upper}
        )
    rows += [
        {"name": row["source_kind"].capitalize(), "kind": row["source_kind"], "value": row[key], "lower": None, "upper": None,
         "link": c.href("run", snapshot, run_id=row["run_id"])}
        for row in observed
        if row["source_kind"] in ("measured", "published")
    ]  # fmt: skip
    return rows


def said(key: str, result: WhatIf) -> str:
    """The answer in a sentence."""
    metric = BY_KEY[key]
    prediction = result.predictions.get(key)
    bound = result.analytical.get("roofline_s" if key == "latency_s" else "memory_peak_bytes")
    shown = text.quantity(metric, bound)
    word = "bound" if key == "latency_s" else "model"
    if key == "latency_s" and result.analytical.get("estimate_s") is not None:
        shown += f", its estimate {text.quantity(metric, result.analytical['estimate_s'])}"
    if prediction is None or prediction.value is None:
        return f"No prediction; the analytical {word} says {shown}."
    value = text.quantity(metric, prediction.value)
    if prediction.lower is None or prediction.upper is None:
        return f"{value} predicted, without an interval; the analytical {word} says {shown}."
    low, high = text.quantity(metric, prediction.lower), text.quantity(metric, prediction.upper)
    return f"{value} predicted, with 90 % confidence between {low} and {high}; the analytical {word} says {shown}."


def bound_card(total: Mapping[str, Any]) -> c.Component:
    """What the analytical model says in full."""
    keys = ("flops", "bytes_moved", "arithmetic_intensity", "compute_s", "memory_s", "launch_s", "weights_bytes", "kv_cache_bytes",
            "activation_peak_bytes", "output_tokens_per_s", "total_tokens_per_s", "usd_per_million_tokens", "energy_per_output_token_j")  # fmt: skip
    pairs: list[tuple[str, Any]] = [
        (BY_KEY[key].label, text.quantity(BY_KEY[key], total[key])) for key in keys if total.get(key) is not None
    ]
    for key in ("max_context_tokens", "max_batch_size"):
        if total.get(key) is not None:
            pairs.insert(0, (text.words(key), text.count(total[key])))
    if total.get("execution") is not None:
        pairs.insert(0, ("Execution profile of the estimate", total["execution"]))
    if total.get("bound") is not None:
        pairs.insert(0, ("Bound by", total["bound"]))
    if total.get("is_fitting") is not None:
        pairs.insert(0, ("Fits in memory", "yes" if total["is_fitting"] else "no"))
    return c.card("What the analytical model says", c.facts(pairs), about=total.get("status_detail"))


def evidence(lake: Lake, metric_key: str, split: str, snapshot: str | None) -> list[c.Component]:
    """Scores, predicted against actual, residuals, features."""
    metric = BY_KEY[metric_key]
    everyone = lake.rows("score_list", snapshot, fold="all")
    scores = [row for row in everyone if row["metric"] == metric_key and row["source_id"] is None]
    published = [published_card(everyone, snapshot)] if any(row["source_id"] is not None for row in everyone) else []
    predictions = lake.query("prediction_list", snapshot, metric=metric_key, split=split)
    if not scores and predictions.num_rows == 0:
        return [
            c.nothing(f"No predictor of {metric.label.lower()} has been trained on this lake.", "rooflake train"),
            *published,
        ]
    held = "an LLM it has never seen" if split == "leave_model_out" else "rows drawn at random (for reference only)"
    parts: list[c.Component] = [
        c.card("Scores", score_table(scores), tools=c.exports("score_list", snapshot, metric=metric_key),
               about="Leaving whole LLMs out is the honest score; the random split stands beside it for reference.")
    ]  # fmt: skip
    if predictions.num_rows:
        name = metric_key.partition("_")[0]
        parts.append(
            dmc.SimpleGrid(
                [
                    c.card("Predicted against actual",
                           c.graph(f"scatter-{name}", figures.predicted_against_actual(predictions, metric), "Predicted against actual"),
                           about=f"Every point is {held}.", tools=c.exports("prediction_list", snapshot, metric=metric_key, split=split)),
                    c.card("Residuals by LLM", c.graph(f"residuals-{name}", figures.residuals(predictions, metric), "Predicted over actual by LLM"),
                           about="1 is right, 2 is twice too much."),
                ],
                cols={"base": 1, "lg": 2}, spacing="md",
            )
        )  # fmt: skip
    return [*parts, predictor_card(lake, metric_key, snapshot), *published]


def score_table(scores: Sequence[dict[str, Any]]) -> c.Component:
    """One line per predictor and split."""
    names = {"leave_model_out": "whole LLMs held out", "random": "random rows held out"}
    rows = [
        html.Tr(
            [
                html.Th(
                    [
                        row["name"].partition(": ")[2] or row["name"],
                        html.Div("baseline", className="rl-quieter") if row["is_baseline"] else None,
                    ],
                    scope="row",
                ),
                html.Td(names.get(row["split"], text.words(row["split"]).lower())),
                *(
                    html.Td(_percent(row[key]), className="rl-number")
                    for key in ("mdape", "mape", "p90_ape", "coverage")
                ),
                html.Td(text.number(row["r2"]), className="rl-number"),
                html.Td(text.count(row["num_rows"]), className="rl-number"),
            ]
        )
        for row in scores
    ]
    heads = ("Predictor", "Split", "Median error", "Mean error", "90th percentile", "Interval covers", "R²", "Rows")
    head = html.Thead(html.Tr([html.Th(words, scope="col") for words in heads]))
    return html.Div(html.Table([head, html.Tbody(rows)], className="rl-table"), className="rl-scroll")


def published_card(scores: Sequence[dict[str, Any]], snapshot: str | None) -> c.Component:
    """Predictors of others as their papers score them: nobody here can run them."""
    rows = []
    for row in (row for row in scores if row["source_id"] is not None):
        metric = BY_KEY[row["metric"]]
        shown = row["name"] if not is_degenerate(row) else row["name"].partition(" (degenerate")[0]
        badge = html.Div("degenerate: no error at all", className="rl-warn") if is_degenerate(row) else None
        cells = [
            text.quantity(metric, row["mae"]),
            text.quantity(metric, row["rmse"]),
            text.number(row["r2"]),
            text.count(row["num_rows"]),
        ]
        rows.append(
            html.Tr(
                [
                    html.Th([shown, html.Div(row["source_id"], className="rl-quieter"), badge], scope="row"),
                    html.Td(metric.label),
                    *(html.Td(words, className="rl-number") for words in cells),
                ]
            )
        )
    heads = ("Predictor", "Of", "Mean absolute error", "Root mean squared error", "R²", "Rows")
    head = html.Thead(html.Tr([html.Th(words, scope="col") for words in heads]))
    return c.card(
        "Published baselines",
        html.Div(html.Table([head, html.Tbody(rows)], className="rl-table"), className="rl-scroll"),
        about="Scores as their papers print them, on splits and data that are not ours: to read beside the table above, not against it. "
        "A dash: the paper does not say.",
        tools=c.exports("score_list", snapshot, fold="all"),
    )  # fmt: skip


def is_degenerate(score: Mapping[str, Any]) -> bool:
    """A score without any error is no score: the target was computed from the features, or is constant."""
    return score["rmse"] == 0 or score["r2"] == 1


def predictor_card(lake: Lake, metric_key: str, snapshot: str | None) -> c.Component:
    """What the predictor is made of."""
    rows = [row for row in lake.rows("newest_predictors", snapshot) if row["metric"] == metric_key]
    if not rows:
        return c.nothing("No artifact of this metric.", "rooflake train")
    row = rows[0]
    pairs = [
        ("Method", row["method"]), ("Trained", text.moment(row["trained_at"])), ("Training rows", text.count(row["num_rows"])),
        ("Lake snapshot", dcc.Link(str(row["snapshot_id"]), href=c.href(NAME, row["snapshot_id"]), className="rl-link") if row["snapshot_id"] is not None else text.ABSENT),
        ("LLMs", ", ".join(row["llm_ids"] or [])), ("Devices", ", ".join(row["hardware_ids"] or [])), ("Artifact", html.Code(row["artifact"])),
    ]  # fmt: skip
    artifact = load(lake, snapshot).get(metric_key)
    notes = (
        html.Ul([html.Li(note) for note in artifact.notes], className="rl-notes")
        if artifact is not None and artifact.notes
        else None
    )
    return c.card("The predictor", c.facts(pairs), notes, html.Details([html.Summary(f"{len(row['features'] or [])} features"), html.P(", ".join(row["features"] or []))]),
                  tools=c.exports("predictor_list", snapshot))  # fmt: skip


def load(lake: Lake, snapshot: str | None) -> dict[str, Predictor]:
    """The newest predictor of each metric whose artifact is in the home folder."""
    folder = lake.home.predictors
    found = {}
    for row in lake.rows("newest_predictors", snapshot):
        path = folder / str(row["artifact"])
        if row["artifact"] is not None and path.exists():
            found[row["metric"]] = _artifact(path, path.stat().st_mtime_ns)
    return found


@lru_cache(maxsize=16)
def _artifact(path: Path, _: int) -> Predictor:
    """An artifact, read again when its file changes."""
    return Predictor.load(path)


def _architecture(llms: Sequence[dict[str, Any]], llm_id: str | None) -> str | None:
    return next((row["architecture"] for row in llms if row["llm_id"] == llm_id), None)


def _first(preferred: Sequence[str] | None, known: Sequence[str]) -> str | None:
    for one in [*(preferred or []), *known]:
        if one in known:
            return one
    return None


def _whole(params: c.Params, name: str, default: int | None) -> int | None:
    """A positive whole number in the URL. Raises StoreError for anything else."""
    value = params.get(name)
    if value in (None, ""):
        return default
    if not str(value).isdigit() or int(str(value)) < 1:
        raise StoreError(
            f"The link asks for {text.words(name).lower()} '{value}', which is not a whole number above 0."
        )
    return int(str(value))


def _percent(value: float | None) -> str:
    return text.ABSENT if value is None else f"{100 * value:.1f} %"
