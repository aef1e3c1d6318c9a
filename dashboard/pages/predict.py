"""Predict: what a configuration nobody measured would do, beside its analytical bound, and how far to trust that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, dcc, html

from dashboard import components as c
from dashboard import figures, predicting, text
from dashboard import predict_figures as charts
from dashboard.data import Lake
from models.learned import answering
from models.learned.answering import Answered
from models.learned.predictor import Predictor
from warehouse.metrics import BY_KEY
from warehouse.schema import ATTENTIONS, config_id
from warehouse.store import StoreError

NAME, TITLE, MENU = "predict", "Predict", "what nobody measured"
METRICS = ("latency_s", "memory_peak_bytes")
PHASES = ("forward", "prefill", "decode", "generate")
DTYPES = ("fp32", "bf16", "fp16", "fp8", "int8", "int4")
USUAL = "usual"
"""Value of a select that leaves the choice open: it is then taken as runs on the device usually are."""
FORM = ("llm", "device", "phase", "batch_size", "input_tokens", "context_tokens", "output_tokens", "dtype", "attention")
TRUST = ("metric", "split", "by")
HELD_OUT = {
    "leave_model_out": "its LLM",
    "leave_family_out": "its LLM family",
    "leave_device_out": "its device",
    "random": "that row",
}
INTERVALS = {
    "same": "rows like those seen",
    "unseen": "a group never seen",
    "kernels": "its kernels",
    "estimate": "the estimate's constants",
}
BY_NAMES = {
    "llm": "LLM",
    "family": "family",
    "device": "device",
    "phase": "phase",
    "backend": "framework",
    "size": "size",
}
"""Dimensions that errors are sliced by."""
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
    predictors = predicting.known(lake, snapshot).predictors
    targets = predicting.targets(lake, snapshot) or [{"value": key, "label": BY_KEY[key].label} for key in METRICS]
    asked = predicting.target_of(params.get("metric"), predictors)
    trust = {
        "metric": c.chosen(
            {**params, "metric": asked or ""},
            "metric",
            keys := [one["value"] for one in targets],
            _first(["latency"], keys),
        ),
        "split": c.chosen(params, "split", list(predicting.SPLIT_NAMES), "leave_model_out"),
        "by": c.chosen(params, "by", list(BY_NAMES), "llm"),
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
            c.select(NAME, "dtype", "Number format", or_usual(DTYPES), form["dtype"], width=150),
            c.select(NAME, "attention", "Attention", or_usual(ATTENTIONS), form["attention"], width=130),
        ),
        c.loading(answer(lake, form, snapshot), "predict-answer"),
        dmc.Title("How far to trust it", order=2, className="rl-section"),
        dmc.Paper(
            dmc.Group(
                [
                    c.select(NAME, "metric", "Predictor of", targets, trust["metric"], width=320),
                    c.select(NAME, "split", "Held out", [{"value": key, "label": name} for key, name in predicting.SPLIT_NAMES.items()], trust["split"], width=260),
                    c.select(NAME, "by", "Errors by", [{"value": key, "label": name[:1].upper() + name[1:]} for key, name in BY_NAMES.items()], trust["by"], width=150),
                ],
                gap="md",
            ),
            className="rl-controls", withBorder=True, p="sm",
        ),
        c.loading(evidence(lake, str(trust["metric"]), str(trust["split"]), snapshot, str(trust["by"])), "predict-evidence"),
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
        return c.guarded(lambda: evidence(lake, trust["metric"], trust["split"], trust["snapshot"], trust["by"]))


def read(
    lake: Lake,
    params: c.Params,
    llms: Sequence[dict[str, Any]],
    devices: Sequence[dict[str, Any]],
    snapshot: str | None,
) -> dict[str, Any]:
    """The form in the URL; without one, an LLM and device the predictors have seen, in the phase that is run most there."""
    seen = next((row for row in lake.rows("promoted_predictors", snapshot) if row["metric"] == "latency_s"), {})
    llm_ids, device_ids = [row["llm_id"] for row in llms], [row["hardware_id"] for row in devices]
    is_fresh = not any(name in params for name in FORM)
    architectures = {row["llm_id"]: row["architecture"] for row in llms}
    decoders = [key for key in seen.get("llm_ids") or [] if architectures.get(key) == "decoder"]
    llm = c.chosen(params, "llm", llm_ids, _first(decoders, llm_ids))
    run_on = [row["hardware_id"] for row in lake.rows("usual_ways", snapshot)]  # the most frequent way first
    devices_seen = seen.get("hardware_ids") or []
    most_run = sorted(devices_seen, key=lambda one: run_on.index(one) if one in run_on else len(run_on))
    device = c.chosen(params, "device", device_ids, _first(most_run, device_ids))
    phase = "forward" if architectures.get(str(llm)) == "encoder" else "prefill"
    if is_fresh and seen:
        run_most = [row["phase"] for row in lake.rows("usual_ways", snapshot) if row["hardware_id"] == device]
        offered = [option["value"] for option in phase_options(architectures.get(str(llm)))]
        phase = next((one for one in run_most if one in offered), phase)
    return {
        "llm": llm,
        "device": device,
        "phase": c.chosen(params, "phase", PHASES, phase),
        **{name: _whole(params, name, default) for name, default in DEFAULTS.items()},
        "dtype": c.chosen(params, "dtype", [USUAL, *DTYPES], USUAL),
        "attention": c.chosen(params, "attention", [USUAL, *ATTENTIONS], USUAL),
    }


def phase_options(architecture: str | None) -> list[dict[str, str]]:
    """Phases of an LLM: an encoder has a forward pass only."""
    return [{"value": one, "label": text.words(one)} for one in (PHASES[:1] if architecture == "encoder" else PHASES)]


def or_usual(values: Sequence[str]) -> list[dict[str, str]]:
    """Options of a select that may be left open."""
    return [{"value": USUAL, "label": "As usual"}, *({"value": one, "label": one} for one in values)]


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
    activation = dtype if dtype in (USUAL, "fp32", "bf16", "fp16") else "fp16"
    open_or = {name: None if value == USUAL else value for name, value in
               (("weight_dtype", dtype), ("activation_dtype", activation), ("kv_dtype", activation), ("attention", form["attention"]))}  # fmt: skip
    return {
        "llm_id": form["llm"], "hardware_id": form["device"], "num_devices": 1, "tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1,
        "expert_parallel": 1, "phase": phase, "batch_size": int(form["batch_size"]), **{name: int(form[name]) for name in needed},
        **open_or, "optimizations": [],
    }  # fmt: skip


def answer(lake: Lake, form: Mapping[str, Any], snapshot: str | None) -> list[c.Component]:
    """Every metric: predicted, bound, estimate, what stands against it, and what was observed of the very same configuration."""
    architectures = {row["llm_id"]: row["architecture"] for row in lake.rows("llm_list", snapshot)}
    try:
        config = configuration(form, architectures.get(str(form["llm"])) or "decoder")
    except StoreError as error:
        return [c.nothing(str(error))]
    known = predicting.known(lake, snapshot)
    whole = answering.filled(config, lake.rows("usual_ways", snapshot))
    answered = answering.answer(answering.configurations([whole]), known)
    (total,) = answered.rows.to_pylist()
    if not any(np.isfinite(column.value[0]) for column in answered.columns.values()):
        return [c.nothing(f"There is no answer: {' '.join(answered.reasons('latency_s', 0))}")]
    observed = [
        row
        for row in lake.rows("same_config", snapshot, config_id=config_id(whole))
        if not row["is_excluded"] and row["status"] == "ok"
    ]
    parts: list[c.Component] = (
        []
        if known.predictors
        else [c.nothing("No predictor is trained yet: below are the bound and the estimate alone.", "rooflake train")]
    )
    parts.append(assumed(config, whole))
    cards = [metric_card(key, answered, observed, snapshot) for key in METRICS]
    parts.append(dmc.SimpleGrid(cards, cols={"base": 1, "lg": 2}, spacing="md"))
    parts.append(dmc.SimpleGrid([others_card(answered), bound_card(total)], cols={"base": 1, "lg": 2}, spacing="md"))
    return parts


def assumed(config: Mapping[str, Any], whole: Mapping[str, Any]) -> c.Component:
    """What the form leaves open and was taken as it is usually run."""
    added = {name: value for name, value in whole.items() if config.get(name) is None and value is not None}
    if not added:
        return None
    said = ", ".join(f"{text.words(name).lower()} {value}" for name, value in added.items())
    return dmc.Text(f"Not asked in the form, taken as runs on this device usually are: {said}.", size="sm", c="dimmed")


def metric_card(key: str, answered: Answered, observed: Sequence[dict[str, Any]], snapshot: str | None) -> c.Component:
    """One metric in a sentence, what stands against it, a chart beside bound and observations, and how the value comes about."""
    metric, column = BY_KEY[key], answered.columns[key]
    reasons = answered.reasons(key, 0) if answered.known.predictors else []
    steps = answered.breakdown(key, 0)
    name = key.partition("_")[0]
    return c.card(
        metric.label,
        html.P(said(key, answered), className="rl-lead"),
        verdict(answered, key, reasons),
        c.graph(
            f"predict-{name}",
            figures.prediction(answer_rows(key, answered, observed, snapshot), metric),
            f"{metric.label}: predicted with its interval, bound and observed",
            min_width=280,
        ),
        None
        if steps is None
        else html.Details(
            [
                html.Summary("From the bound to this value"),
                c.graph(f"breakdown-{name}", charts.breakdown(steps.to_pylist(), metric), "Bound, base and corrections, step by step", min_width=280),
            ],
            open=True,
        ),
        about=None if column.said_by(0) is None else trusted(answered, key),
    )  # fmt: skip


def verdict(answered: Answered, key: str, reasons: Sequence[str]) -> c.Component:
    """Whether a configuration is like what the predictor learnt from, in a coloured box; nothing where it is."""
    column = answered.columns[key]
    if not reasons:
        return None
    if column.said_by(0) is None:
        title, colour = "Not predicted", "orange"
    elif not column.is_supported[0]:
        title, colour = "Outside the data", "orange"
    else:
        title, colour = "Never seen: " + ", ".join(answered.unseen_groups(key, 0)), "blue"
    return dmc.Alert(" ".join(reasons), title=title, color=colour, variant="light", p="sm")


def trusted(answered: Answered, key: str) -> str:
    """Which predictor answers, and its score on what it never saw."""
    said_by = str(answered.columns[key].said_by(0))
    predictor = answered.known.predictors[said_by]
    split, error = answering.score(predictor)
    scored = (
        "" if error is None else f", median error {_percent(error)} ({predicting.split_name(str(split), inside=True)})"
    )
    return f"Predictor {said_by}: {predictor.method}{scored}."


def answer_rows(
    key: str, answered: Answered, observed: Sequence[dict[str, Any]], snapshot: str | None
) -> list[dict[str, Any]]:
    """Points of the chart: predicted, bound, estimate, and rows of the same configuration."""
    column = answered.columns[key]
    rows: list[dict[str, Any]] = []
    if column.made_by[0] != answering.NOBODY and answering.MADE_BY[column.made_by[0]] in ("predictor", "kernels"):
        name = "Predicted" if column.said_by(0) is not None else "Its kernels, predicted"
        rows.append(
            {
                "name": name,
                "kind": "predicted",
                "value": _at(column.value),
                "lower": _at(column.lower),
                "upper": _at(column.upper),
            }
        )
    name = "Analytical bound" if key == "latency_s" else "Analytical model"
    bound = answered.rows.column(answering.BOUNDS[key])[0].as_py()
    rows.append({"name": name, "kind": "analytical", "value": bound, "lower": None, "upper": None})
    if key == "latency_s":
        value, lower, upper = (
            answered.rows.column(f"estimate_{part}s")[0].as_py() for part in ("", "lower_", "upper_")
        )
        if value is not None:
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


def said(key: str, answered: Answered) -> str:
    """The answer in a sentence."""
    metric, column = BY_KEY[key], answered.columns[key]
    word = "bound" if key == "latency_s" else "model"
    bound = answered.rows.column(answering.BOUNDS[key])[0].as_py()
    shown = f"the analytical {word} says {text.quantity(metric, bound)}"
    estimate = answered.rows.column("estimate_s")[0].as_py()
    if key == "latency_s" and estimate is not None:
        shown += f", its estimate {text.quantity(metric, estimate)}"
    made_by = None if column.made_by[0] == answering.NOBODY else answering.MADE_BY[column.made_by[0]]
    if made_by not in ("predictor", "kernels"):
        return f"No prediction; {shown}."
    value = text.quantity(metric, _at(column.value))
    if _at(column.lower) is None or _at(column.upper) is None:
        return f"{value} predicted, without an interval; {shown}."
    kind = INTERVALS.get(str(column.interval[0]), "")
    low, high = text.quantity(metric, _at(column.lower)), text.quantity(metric, _at(column.upper))
    return f"{value} predicted{' from its kernels' if made_by == 'kernels' else ''}, with 90 % confidence between {low} and {high} ({kind}); {shown}."


def others_card(answered: Answered) -> c.Component:
    """What else follows: rates, other memories, energy, and whether it fits."""
    pairs: list[tuple[str, Any]] = []
    chance = _at(answered.chance_of_fitting())
    if chance is not None:
        pairs.append(("Fits in memory with probability", certainty(chance)))
    for key, column in answered.columns.items():
        value = _at(column.value)
        if key in METRICS or value is None:
            continue
        low, high = _at(column.lower), _at(column.upper)
        ends = (
            ""
            if low is None or high is None
            else f", {text.quantity(BY_KEY[key], low)} to {text.quantity(BY_KEY[key], high)}"
        )
        how = {"predictor": "predicted", "kernels": "from predicted kernels"}.get(
            answering.MADE_BY[column.made_by[0]], "analytical"
        )
        pairs.append(
            (BY_KEY[key].label, [f"{text.quantity(BY_KEY[key], value)}{ends} ", html.Span(how, className="rl-quieter")])
        )
    return c.card(
        "What follows",
        c.facts(pairs),
        about="Rates are amounts over the predicted time, with the ends of its interval.",
    )


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
    if total.get(answering.PROFILE) is not None:
        pairs.insert(0, ("Execution profile of the estimate", total[answering.PROFILE]))
    if total.get("bound") is not None:
        pairs.insert(0, ("Bound by", total["bound"]))
    if total.get("is_fitting") is not None:
        pairs.insert(0, ("Fits in memory", "yes" if total["is_fitting"] else "no"))
    return c.card("What the analytical model says", c.facts(pairs), about=total.get("status_detail"))


def evidence(lake: Lake, key: str, split: str, snapshot: str | None, by: str = "llm") -> list[c.Component]:
    """How far to trust a predictor: what it said of rows held out, coverage, where it errs, what it leans on, scores beside baselines.

    `key`: a target, or the metric of a predictor that has none.
    """
    everyone = lake.rows("score_list", snapshot)
    published = [row for row in everyone if row["source_id"] is not None and row["fold"] == "all"]
    others = [published_card(published, snapshot)] if published else []
    mine = [
        row
        for row in everyone
        if row["source_id"] is None
        and key in (row["target"], row["metric"])
        and row["population"] in (None, predicting.LAKE)
    ]
    predictor = predicting.known(lake, snapshot).predictors.get(key)
    metric = predicting.metric_of(key if predictor is None else predictor.metric)
    if not mine and predictor is None:
        return [
            c.nothing(f"No predictor of {metric.label.lower()} has been trained on this lake.", "rooflake train"),
            *others,
        ]
    rows = points(lake, predictor, metric.key, split, snapshot)
    pooled = [row for row in mine if row["fold"] == "all"]
    folds = [row for row in mine if row["fold"] != "all" and row["split"] == split and not row["is_baseline"]]
    about = f"{text.count(len(rows))} rows, each predicted by a model that had not seen {HELD_OUT.get(split, 'it')}."
    parts: list[c.Component] = []
    if rows:
        parts.append(
            dmc.SimpleGrid(
                [
                    c.card("Predicted against actual", c.graph("held-out", charts.held_out(rows, metric), "Predicted against actual, with intervals"),
                           about=about, tools=c.exports("prediction_list", snapshot, metric=metric.key, split=split)),
                    c.card("Residuals", c.graph("residuals", charts.residuals(rows, metric), "Predicted over actual against predicted"),
                           about="1 is right, 2 is twice too much."),
                    c.card("How often how wrong", c.graph("histogram", charts.residual_histogram(rows), "Histogram of errors"),
                           about="Left of 0 it predicted too little; the ends hold what is beyond."),
                    c.card("What the 90 % interval held", c.graph("coverage", charts.coverage(folds), "Coverage by fold"),
                           about="A dot a held-out part; the line is what was promised. Red is below 80 %.",
                           tools=c.exports("score_list", snapshot, metric=metric.key)),
                ],
                cols={"base": 1, "lg": 2}, spacing="md",
            )
        )  # fmt: skip
    if predictor is not None:
        parts += [card_of(predictor, by)]
    parts.append(
        c.card("Scores", score_table(pooled), tools=c.exports("score_list", snapshot, metric=metric.key, fold="all"),
               about="The same rows for all. Whole LLMs, devices or sizes held out are the honest scores; the random split stands beside them for reference.")
    )  # fmt: skip
    return [*parts, predictor_card(lake, key, predictor, snapshot), *others]


def points(
    lake: Lake, predictor: Predictor | None, metric: str, split: str, snapshot: str | None
) -> list[dict[str, Any]]:
    """Held-out rows with actual, value, lower, upper, label: those in the lake, else those that the artifact keeps."""
    rows = lake.rows("prediction_list", snapshot, metric=metric, split=split)
    mine = [
        row
        for row in rows
        if not row["is_baseline"] and (predictor is None or row["predictor_id"] == predictor.predictor_id)
    ]
    if mine:
        return [
            row
            | {
                "label": f"{row['llm_name'] or row['fold'] or ''} on {row['device'] or 'its device'}, {row['phase'] or ''}, batch {row['batch']}"
            }
            for row in mine
        ]
    kept = {} if predictor is None else predictor.card.get("held_out") or {}
    if kept.get("split") != split:
        return []
    columns = {name: kept[name] for name in ("actual", "value", "lower", "upper", "fold")}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def card_of(predictor: Predictor, by: str) -> c.Component:
    """Where a predictor errs and what it leans on, from its card."""
    slices, weights = predictor.card.get("slices") or [], predictor.card.get("importances") or []
    return dmc.SimpleGrid(
        [
            c.card("Where it errs", c.graph("slices", charts.slices(slices, by), f"Error by {by}"), about=f"Error of held-out rows by {BY_NAMES[by]}."),
            c.card("What it leans on", c.graph("importances", charts.importances(weights), "Importances"),
                   about="Each feature in turn is shuffled among rows it never saw."),
        ],
        cols={"base": 1, "lg": 2}, spacing="md",
    )  # fmt: skip


def score_table(scores: Sequence[dict[str, Any]]) -> c.Component:
    """One line per predictor and split."""
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
                html.Td(predicting.split_name(row["split"], inside=True)),
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


def predictor_card(lake: Lake, key: str, predictor: Predictor | None, snapshot: str | None) -> c.Component:
    """What the predictor is made of, from its card."""
    if predictor is None:
        return c.nothing("The artifact of this predictor is not in the home folder.", "rooflake train")
    card = predictor.card
    pairs = [
        ("Method", predictor.method), ("Trained", predictor.trained_at[:16].replace("T", " ")), ("Training rows", text.count(predictor.num_rows)),
        ("Lake snapshot", dcc.Link(str(predictor.snapshot_id), href=c.href(NAME, predictor.snapshot_id), className="rl-link") if predictor.snapshot_id is not None else text.ABSENT),
        ("LLMs", _several(predictor.llm_ids)), ("Devices", _several(predictor.hardware_ids)), ("Artifact", html.Code(predictor.file_name)),
    ]  # fmt: skip
    notes = html.Ul([html.Li(note) for note in predictor.notes], className="rl-notes") if predictor.notes else None
    features = card.get("features") or []
    return c.card("The predictor", c.facts(pairs), notes, html.Details([html.Summary(f"{len(features)} features"), html.P(", ".join(features))]),
                  about=card.get("what"), tools=c.exports("predictor_list", snapshot))  # fmt: skip


def certainty(chance: float) -> str:
    """A probability in words: never quite 0 or 100 %."""
    return "more than 99 %" if chance > 0.99 else "less than 1 %" if chance < 0.01 else f"{100 * chance:.0f} %"


def _several(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _at(values: Any) -> float | None:
    """The one number of an array of one configuration; None for NaN."""
    return None if np.isnan(values[0]) else float(values[0])


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
