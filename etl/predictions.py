"""Questions to the promoted predictors of a lake: configurations, answers as people read them, rows to keep."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl import calibration
from models.analytical.configs import dtype_names
from models.analytical.devices import device_rows
from models.learned import answering
from models.learned.answering import Answered, Known
from models.learned.predictor import Predictor, load_all
from warehouse import catalog, metrics, parquet, schema
from warehouse.catalog.llm import Llm
from warehouse.store import LoadReport, Store

Report = Callable[[str], None]
SHOWN = ("latency_s", "ttft_s", "tpot_s", "output_tokens_per_s", "achieved_bytes_per_s", "memory_peak_bytes", "memory_reserved_bytes",
         "memory_device_bytes", "energy_per_output_token_j")  # fmt: skip
"""Metrics of a table for people, in order; any other that is predicted comes behind."""
SOURCE = {"source_id": "rooflake/predicted", "title": "Predicted by this lake's predictors", "kind": "tool"}


def known(store: Store, report: Report) -> Known:
    """The promoted predictors whose file is there, and the lake's devices, LLMs and constants. A predictor without its file is a line."""
    hardware = store.sql("SELECT * EXCLUDE (file_hash) FROM hardware WHERE measured_of IS NULL").to_pylist()
    found = Known(
        load_all(store.home.predictors, store.query("promoted_predictors").to_pylist(), report),
        hardware={row["hardware_id"]: row for row in hardware},
        llms=_llms(store),
        calibrations=calibration.fitted(store),
    )
    return replace(found, compose=answering.composer(found))


def configurations(
    llm: Llm,
    hardware_ids: Sequence[str],
    phases: Sequence[str],
    batch_sizes: Sequence[int],
    lengths: Mapping[str, int | None],
    columns: Mapping[str, Any],
    ways: Sequence[Mapping[str, Any]],
    report: Report,
) -> list[dict[str, Any]]:
    """Every device x phase x batch as configuration columns; what stays open is filled as it is usually run, and said.

    `lengths`: tokens (prompt; of a decode step what it attends to), output_tokens. `columns`: what is stated of the others. Raises
    ValueError for a phase or a length that the LLM does not have.
    """
    found, said = [], dict[str, None]()
    for hardware_id, phase, batch_size in itertools.product(hardware_ids, phases, batch_sizes):
        stated = {name: value for name, value in columns.items() if value is not None}
        config = {
            "llm_id": llm.llm_id,
            "hardware_id": hardware_id,
            "phase": phase,
            **stated,
            **of_phase(llm, phase, lengths),
        }
        if phase == "serve":
            if stated.get("concurrency") is None and stated.get("request_rate_per_s") is None:
                raise ValueError("serving needs a load: --concurrency N requests in flight, or --rate N a second.")
            if stated.get("request_rate_per_s") is not None and not 0 < stated["request_rate_per_s"] < math.inf:
                raise ValueError(f"--rate must be above 0, not {stated['request_rate_per_s']}.")
        elif "concurrency" in stated or "request_rate_per_s" in stated:
            raise ValueError(f"{phase} has no load: --concurrency and --rate are of --phase serve. Leave them out.")
        else:
            config["batch_size"] = batch_size
        whole = answering.filled(config, ways)
        added = {name: whole[name] for name in whole if config.get(name) is None}
        if added:
            said[
                f"{phase}{f' on {hardware_id}' if hardware_id else ''}: not stated, so as usual: {', '.join(f'{name} {value}' for name, value in added.items())}."
            ] = None
        found.append(whole)
    for line in said:
        report(line)
    return found


def of_phase(llm: Llm, phase: str, lengths: Mapping[str, int | None]) -> dict[str, int]:
    """Length columns of a phase. Raises ValueError for a phase that is none, and for lengths it does not have."""
    if phase not in answering.PHASES:
        raise ValueError(f"'{phase}' is not a phase. Known: {', '.join(answering.PHASES)}.")
    tokens, output = lengths["tokens"], lengths.get("output_tokens")
    is_pair = llm.architecture == "encoder_decoder"
    needed: dict[str, int | None] = {"input_tokens": tokens}
    if phase in ("generate", "serve") or (is_pair and phase == "forward"):
        needed["output_tokens"] = output
    elif is_pair and phase == "decode":
        needed["context_tokens"] = output
    elif phase == "decode":
        needed = {"context_tokens": tokens}
    found = {name: value for name, value in needed.items() if value is not None}
    if len(found) < len(needed):
        raise ValueError(f"{phase} of {llm.llm_id} ({llm.architecture}) needs the decoder's tokens: --output-tokens N.")
    if output is not None and len(needed) == 1:
        raise ValueError(f"{phase} of {llm.llm_id} ({llm.architecture}) has no output tokens: leave them out.")
    return found


def dtypes(name: str | None) -> dict[str, str | None]:
    """dtype columns of a short name (fp16, w4a16, fp8/bf16/fp8); nothing where none is stated."""
    if name is None:
        return {}
    return dict(zip(("weight_dtype", "activation_dtype", "kv_dtype"), dtype_names(name), strict=True))


def sheet(answered: Answered, found: pa.Table) -> pa.Table:
    """`Answered.sheet` as people read it: display units, what differs between configurations, no line without a number."""
    lines = [row for row in found.to_pylist() if row["value"] is not None]
    rank = {name: place for place, name in enumerate(SHOWN)}
    order = {id(row): place for place, row in enumerate(lines)}
    differing = [
        name
        for name in answering.IDENTITY
        if name in found.column_names and len(set(found.column(name).to_pylist())) > 1
    ]
    lines.sort(
        key=lambda row: (
            *(order_of(row[name]) for name in differing),
            rank.get(row["metric"], len(rank)),
            order[id(row)],
        )
    )
    columns: dict[str, list[Any]] = {name.removesuffix("_id"): [row[name] for row in lines] for name in differing}
    shown: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "metric": lambda row: metrics.metric(row["metric"]).label,
        "predicted": lambda row: quantity(row["metric"], row["value"]),
        "90 % interval": interval,
        "interval of": lambda row: INTERVALS.get(row["interval"], ""),
        "bound": lambda row: quantity(row["metric"], row["bound"]),
        "estimate": lambda row: quantity(row["metric"], row["estimate"]),
        "made by": made_by,
        "inside its data": lambda row: (
            ("yes" if row["is_supported"] else "no") if row["made_by"] == "predictor" else ""
        ),
    }
    columns |= {heading: [say(row) for row in lines] for heading, say in shown.items()}
    return pa.table(columns)


INTERVALS = {
    "same": "same family",
    "unseen": "unseen group",
    "kernels": "its kernels",
    "estimate": "the estimate's constants",
}
"""What an interval is, in words."""


def notes(answered: Answered) -> list[str]:
    """Sentences on what stands against each answer, P(fits), and what could not be answered; what several share stands once."""
    shown = min(len(answered), answering.MOST_EXPLAINED)
    said: dict[str, list[int]] = {}
    chances = answered.chance_of_fitting()
    for row in range(shown):
        is_load = answered.rows.column("phase")[row].as_py() == "serve"
        found = [] if is_load else [answered.rows.column("status_detail")[row].as_py() or ""]
        if not math.isnan(chances[row]):
            found.append(f"Fits in memory with probability {certainty(chances[row])}.")
        for metric, column in answered.columns.items():
            if metric not in answering.RATES and not math.isnan(column.value[row]):
                found += [f"{metrics.metric(metric).label}: {reason}" for reason in answered.reasons(metric, row)]
        for sentence in dict.fromkeys(one for one in found if one):
            said.setdefault(sentence, []).append(row)
    return [f"{_who(answered, rows, shown)}: {sentence}" for sentence, rows in said.items()]


def _who(answered: Answered, rows: Sequence[int], total: int) -> str:
    """Which configurations a sentence is about."""
    if len(rows) == 1:
        return answered.named(rows[0])
    return f"All {total}" if len(rows) == total else f"{len(rows)} of {total}, such as {answered.named(rows[0])}"


def refusal(answered: Answered) -> str | None:
    """Why nothing at all can be said of any configuration, in a sentence; None where something can."""
    if any(np.isfinite(column.value).any() for column in answered.columns.values()):
        return None
    row = 0
    reasons = answered.reasons("latency_s", row) if "latency_s" in answered.columns else ["nothing is known about it."]
    return f"{answered.named(row)} has no answer: {' '.join(reasons)}"


def explained(answered: Answered, metric: str = "latency_s") -> pa.Table:
    """Steps from the bound to the predicted value of every configuration: configuration, step, factor, value, unit."""
    parts = []
    for row in range(len(answered)):
        steps = answered.breakdown(metric, row)
        if steps is not None:
            name = pa.array([answered.named(row)] * steps.num_rows)
            parts.append(steps.add_column(0, "configuration", name))
    if not parts:
        raise ValueError(f"No predictor answers {metric} here, so there is nothing to take apart.")
    return pa.concat_tables(parts).append_column(
        "unit", pa.array([metrics.metric(metric).unit] * sum(part.num_rows for part in parts))
    )


def save(store: Store, answered: Answered, report: Report) -> LoadReport:
    """Keep what predictors said as runs of source_kind `predicted` and rows of `predictions` (split `final`).

    Configurations that no predictor answers are left out, and counted. The same question to the same predictors is one run.
    """
    batch = landed(answered)
    left_out = len(answered) - len(batch["runs"])
    if left_out:
        report(f"{left_out} of {len(answered)} configurations are answered by no predictor: they are not kept.")
    if not batch["runs"]:
        return LoadReport()
    name = f"predicted-{schema.digest([row['run_id'] for row in batch['runs']])}"
    parquet.land(store.home.landing, name, batch)
    return store.load()


def landed(answered: Answered) -> dict[str, list[dict[str, Any]]]:
    """Rows of `runs`, `predictions` and `sources` of configurations that predictors answer.

    `collected_at` is when the predictors were trained: the same question to the same predictors is the same row, whenever asked.
    """
    table = answered.table()
    table = table.filter(pc.equal(table.column("made_by"), "predictor"))
    table = table.filter(pc.invert(pc.is_in(table.column("metric"), pa.array([*answering.RATES]))))
    said: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        said.setdefault(row["config_row"], []).append(row)
    names = [name for name in answering.CONFIGURATION if name in answered.rows.column_names]
    configs = answered.rows.select(names).take(pa.array(list(said), pa.int64())).to_pylist()
    predictors = {one.predictor_id: one for one in answered.known.predictors.values()}
    runs, predictions = [], []
    for config, several in zip(configs, said.values(), strict=True):
        config["optimizations"] = _listed(config.get("optimizations"))
        key = schema.config_id(config)
        ways = [config.get(name) for name in answering.WAYS]
        run_id = schema.digest("predicted", key, ways, sorted(row["predictor_id"] for row in several))
        mine = [predictors[row["predictor_id"]] for row in several]
        snapshots = sorted({one.snapshot_id for one in mine if one.snapshot_id is not None})
        shared = {
            "run_id": run_id,
            "config_id": key,
            "collector": "predict",
            "source_kind": "predicted",
            "source_id": SOURCE["source_id"],
            "collected_at": max(datetime.fromisoformat(one.trained_at) for one in mine),
            "status": "ok",
            "is_excluded": False,
            "status_detail": f"Predicted by what was learnt from snapshot {', '.join(map(str, snapshots)) or 'none'}.",
        }
        runs.append(config | shared | {row["metric"]: row["value"] for row in several})
        predictions += [
            {name: row[name] for name in ("predictor_id", "metric", "value", "lower", "upper", "is_supported")}
            | {"run_id": run_id, "split": "final"}
            for row in several
        ]
    return {"runs": runs, "predictions": predictions, "sources": [SOURCE]}


def measured_most(store: Store, predictors: Mapping[str, Predictor]) -> str:
    """The device that predictors have seen and that was measured most. Raises ValueError where there is none."""
    seen = {name for one in predictors.values() for name in one.hardware_ids}
    rows = store.sql(
        "SELECT hardware_id FROM runs WHERE source_kind = 'measured' AND list_contains($seen, hardware_id) "
        "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1",
        {"seen": sorted(seen)},
    ).to_pylist()
    if not rows and not seen:
        raise ValueError(
            "No predictor is trained yet, and no device is named. Name one with --hardware ID for the analytical estimate, or measure "
            "(`rooflake demo`, `rooflake collect local_profile`) and run `rooflake train`."
        )
    return str(rows[0]["hardware_id"]) if rows else min(seen)


def certainty(chance: float) -> str:
    """A probability in words: never quite 0 or 100 %."""
    return "above 99%" if chance > 0.99 else "below 1%" if chance < 0.01 else f"{chance:.0%}"


def order_of(value: Any) -> tuple[bool, Any]:
    """A key that sorts NULL last."""
    return (value is None, 0 if value is None else value)


def quantity(metric: str, value: float | None) -> str:
    """A stored value in the metric's display unit to three digits; empty where there is none."""
    if value is None:
        return ""
    one = metrics.metric(metric)
    shown = value * one.display_factor
    digits = f"{shown:,.0f}" if abs(shown) >= 1000 else f"{shown:.3g}"
    return f"{digits} {one.display_unit}".strip()


def interval(row: Mapping[str, Any]) -> str:
    """Both ends of an interval, or nothing."""
    if row["lower"] is None or row["upper"] is None:
        return ""
    return f"{quantity(row['metric'], row['lower'])} to {quantity(row['metric'], row['upper'])}"


def made_by(row: Mapping[str, Any]) -> str:
    """Who made a number, with the leave-out score."""
    if row["made_by"] != "predictor":
        return {"kernels": "predicted kernels", "estimate": "analytical estimate", "bound": "analytical model"}[
            row["made_by"]
        ]
    score = (
        ""
        if row["leave_out_mdape"] is None
        else f", median error {row['leave_out_mdape']:.1%} {row['leave_out_split'].replace('_', ' ')}"
    )
    return f"{row['target']} {row['predictor_id'][:8]}{score}"


def _listed(text: str | None) -> list[str]:
    """Optimizations as a list, from the text that questions have."""
    return [part for part in (text or "").strip("[]").split(", ") if part]


def _llms(store: Store) -> list[Llm]:
    """LLMs of the lake that the catalogue does not have."""
    ours = catalog.llms()
    found = []
    for row in store.sql("SELECT llm_id, config_json FROM llms WHERE config_json IS NOT NULL").to_pylist():
        if row["llm_id"] not in ours:
            found.append(Llm.from_config(row["llm_id"], json.loads(row["config_json"])))
    return found


# A whole catalogue


def catalogue(
    store: Store,
    known: Known,
    llms: Sequence[str] | None,
    hardware: Sequence[str] | None,
    phase: str,
    lengths: Mapping[str, int | None],
    columns: Mapping[str, Any],
    report: Report,
) -> pa.Table:
    """Every LLM on every device as configurations, filled as each device is usually run; LLMs without the phase are left out, and said.

    Raises UnknownEntryError for an LLM or device nobody knows, ValueError where no LLM has the phase.
    """
    own = {one.llm_id: one for one in known.llms}
    shapes = [own.get(name) or catalog.find_llm(name) for name in (llms or [*catalog.llms(), *own])]
    devices = device_rows(known.hardware)
    ids = [
        name if name in devices else catalog.find_hardware(name).hardware_id
        for name in (hardware or {**catalog.hardware(), **devices})
    ]
    asked, left_out, reason = [], 0, ""
    for shape in shapes:
        try:
            asked.append({"llm_id": shape.llm_id, **of_phase(shape, phase, lengths)})
        except ValueError as error:
            left_out, reason = left_out + 1, str(error)
    if not asked:
        raise ValueError(reason)
    if left_out:
        report(f"{left_out} LLMs have no such {phase} and are left out, for instance: {reason}")
    ways = store.query("usual_ways").to_pylist()
    stated = {"phase": phase} | {name: value for name, value in columns.items() if value is not None}
    on = [answering.filled({"hardware_id": name, **stated}, ways) for name in ids]
    per_llm, per_device = answering.configurations(asked), answering.configurations(on)
    first = pa.array([row for row in range(len(asked)) for _ in ids])
    second = pa.array([*range(len(ids))] * len(asked))
    left, right = per_llm.take(first), per_device.take(second)
    return pa.table({name: table.column(name) for table in (left, right) for name in table.column_names})


def counted(answered: Answered) -> str:
    """How many configurations were answered by whom, in a sentence."""
    made_by = (
        answered.columns["latency_s"].made_by
        if "latency_s" in answered.columns
        else next(iter(answered.columns.values())).made_by
    )
    counts = {name: int((made_by == code).sum()) for code, name in enumerate(answering.MADE_BY)}
    said = [
        f"{number_of} by {answering.LABELS[name].partition(',')[0]}" for name, number_of in counts.items() if number_of
    ]
    nobody = int((made_by == answering.NOBODY).sum())
    return f"{len(answered)} configurations: {', '.join(said)}{f', {nobody} without an answer' if nobody else ''}."


# Backwards


def priced(known: Known) -> list[str]:
    """Every device of the catalogue that has a price."""
    return [name for name in catalog.hardware() if catalog.price(name) is not None]


def verdicts(found: pa.Table, limits: Mapping[str, float]) -> pa.Table:
    """Rows of `inverse` as people read them, at most MOST_VERDICTS, with the first that breaks a promise."""
    kept = (
        found.slice(max(0, found.num_rows - MOST_VERDICTS))
        if "usd_per_hour" not in found.column_names
        else found.slice(0, MOST_VERDICTS)
    )
    lines = kept.to_pylist()
    names = [
        name
        for name in ("hardware_id", "num_devices", "tensor_parallel", "pipeline_parallel", "batch_size")
        if len({row[name] for row in found.to_pylist()}) > 1
    ]
    columns: dict[str, list[Any]] = {
        name.removesuffix("_id"): [row[name] for row in lines] for name in names or ["hardware_id"]
    }
    for name in dict.fromkeys([*limits, "memory_peak_bytes"]):
        label = metrics.metric(name).label
        columns[label] = [quantity(name, row[name]) for row in lines]
        columns[f"{label}, pessimistic"] = [quantity(name, row[f"{name}_worst"]) for row in lines]
    if "usd_per_hour" in found.column_names:
        columns["USD an hour"] = [
            None if row["usd_per_hour"] is None else f"{row['usd_per_hour']:.2f}" for row in lines
        ]
    columns["keeps it"] = ["yes" if row["is_feasible"] else row["reason"] for row in lines]
    return pa.table(columns)


MOST_VERDICTS = 20


def cheapest_said(found: pa.Table, limits: Mapping[str, float]) -> str:
    """The answer in a sentence."""
    first = found.slice(0, 1).to_pylist()[0]
    if not first["is_feasible"]:
        return f"No device keeps every limit. The cheapest that was tried, {first['num_devices']} x {first['hardware_id']}: {first['reason']}"
    price = "at an unknown price" if first["usd_per_hour"] is None else f"for {first['usd_per_hour']:.2f} USD an hour"
    ends = [_kept(name, first) for name in limits]
    is_bare = first["memory_peak_bytes_made_by"] == "bound"
    memory = " Its memory is the analytical model's, without an interval." if is_bare else ""
    return f"{first['num_devices']} x {first['hardware_id']} {price}{': ' if ends else ''}{', '.join(ends)}.{memory}"


def _kept(name: str, row: Mapping[str, Any]) -> str:
    """How a limit is kept, and by what; an end that is the value itself is none."""
    worst, who = quantity(name, row[f"{name}_worst"]), row[f"{name}_made_by"]
    how = f" ({who}, without an interval)" if row[f"{name}_worst"] == row[name] else f" at the pessimistic end ({who})"
    return f"{metrics.metric(name).label} {worst}{how}"


def largest_said(found: pa.Table) -> str:
    """The answer in a sentence."""
    *held, last = found.to_pylist()
    if last["is_feasible"]:
        return f"Every batch that was tried holds, up to {last['batch_size']}."
    if not held:
        return f"Not even one sequence: {last['reason']}"
    return f"Batch {held[-1]['batch_size']} is the largest; of {last['batch_size']}: {last['reason']}"


# Scores and forecasts


def pooled(scores: pa.Table) -> pa.Table:
    """Scores over all folds of a split together."""
    return scores.filter(pc.equal(scores.column("fold"), "all"))


def scored(scores: pa.Table) -> pa.Table:
    """Scores as people read them: errors in per cent."""
    rows = scores.to_pylist()
    columns: dict[str, list[Any]] = {
        name: [row[name] for row in rows] for name in ("target", "split", "fold", "contender", "num_rows")
    }
    for name, heading in (
        ("mdape", "median error"),
        ("mape", "mean error"),
        ("p90_ape", "90th percentile"),
        ("coverage", "interval covers"),
    ):
        columns[heading] = [None if row.get(name) is None else f"{row[name]:.1%}" for row in rows]
    columns["R2"] = [None if row.get("r2") is None else f"{row['r2']:.3f}" for row in rows]
    return pa.table(columns)


def forecast_sheet(found: pa.Table) -> pa.Table:
    """Forecasts as people read them."""
    rows = found.to_pylist()
    say: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "published": lambda row: f"{row['published_at']:%Y-%m-%d}",
        "configuration": lambda row: row["label"],
        "metric": lambda row: metrics.metric(row["metric"]).label,
        "forecast": lambda row: quantity(row["metric"], row["value"]),
        "90 % interval": interval,
        "measured": lambda row: quantity(row["metric"], row["actual"]) or "not yet",
        "error": lambda row: "" if row["actual"] is None else f"{abs(row['value'] / row['actual'] - 1):.1%}",
        "inside": lambda row: "" if row["is_covered"] is None else ("yes" if row["is_covered"] else "no"),
        "note": lambda row: row["note"],
    }
    return pa.table({name: [one(row) for row in rows] for name, one in say.items()})
