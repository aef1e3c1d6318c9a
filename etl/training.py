"""Training on the lake's rows, and answers from the trained predictors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from warehouse import catalog, metrics, parquet, schema
from warehouse.store import LoadReport, Store


def train(store: Store, report: Callable[[str], None]) -> LoadReport:
    """Train one predictor of each kind, save the artifact, load its scores; reports a line a predictor. Returns what the
    load did; too few rows is a line, not an error."""
    from models import learned

    rows = store.query("training_rows")
    snapshot = store.snapshot_id()
    for metric in learned.METRICS:
        try:
            trained = learned.train(rows, metric, snapshot_id=snapshot, trained_at=datetime.now(UTC))
        except ValueError as error:
            report(f"No {metric} predictor: {error}")
            continue
        predictor = trained.predictor
        predictor.save(store.home.predictors / f"{predictor.predictor_id}.json")
        batch = {
            "predictors": trained.predictors,
            "predictor_scores": trained.scores,
            "predictions": trained.predictions,
        }
        parquet.land(store.home.landing, f"predictor-{predictor.predictor_id}", batch)
        report(_line(metric, trained.predictors, trained.scores))
        for note in predictor.notes:
            report(f"{metric}: {note}")
    return store.load()


def configuration(
    llm: str,
    phase: str,
    *,
    hardware_id: str | None,
    batch_size: int,
    tokens: int,
    output_tokens: int | None,
    dtype: str,
    attention: str,
) -> dict[str, Any]:
    """Configuration columns of one execution on one device.

    `tokens` are input tokens, and of a decode step the tokens attended to, of which `output_tokens` are the decoder's in an
    encoder-decoder. Raises LookupError for an unknown LLM, ValueError for a value or a length that the phase does not have.
    """
    for value, what, known in (
        (phase, "a phase", schema.PHASES),
        (dtype, "a dtype", schema.DTYPE_BYTES),
        (attention, "an attention implementation", schema.ATTENTIONS),
    ):
        if value not in known:
            raise ValueError(f"'{value}' is not {what}. Known: {', '.join(known)}. Add it in warehouse/schema.py.")
    found = catalog.find_llm(llm)
    is_pair = found.architecture == "encoder_decoder"
    lengths: dict[str, int | None] = {"input_tokens": tokens}
    if phase == "generate" or (is_pair and phase == "forward"):
        lengths["output_tokens"] = output_tokens
    elif is_pair and phase == "decode":
        lengths["context_tokens"] = output_tokens
    elif phase == "decode":
        lengths = {"context_tokens": tokens}
    if None in lengths.values():
        raise ValueError(
            f"{phase} of {found.llm_id} ({found.architecture}) needs the decoder's tokens: --output-tokens N."
        )
    if output_tokens is not None and len(lengths) == 1:
        raise ValueError(f"{phase} of {found.llm_id} ({found.architecture}) has no output tokens: leave them out.")
    return {
        "llm_id": found.llm_id,
        "hardware_id": hardware_id,
        "num_devices": 1,
        "phase": phase,
        "batch_size": batch_size,
        **lengths,
        "weight_dtype": dtype,
        "activation_dtype": dtype,
        "kv_dtype": dtype,
        "attention": attention,
    }


def what_if(store: Store, config: Mapping[str, Any]) -> tuple[pa.Table, list[str]]:
    """Predicted latency and peak memory of one configuration beside its analytical value, as rows, and notes on them.

    `config` has configuration columns; a NULL hardware_id becomes the device measured most. Columns of the table: metric,
    predicted, lower_90, upper_90, analytical (SI), unit. Raises LookupError for an unknown LLM or device, ValueError where
    nothing is trained or the analytical model has no answer to correct.
    """
    from models import learned

    artifacts = store.query("newest_predictors").to_pylist()
    if not artifacts:
        raise ValueError(
            "No predictor is trained yet. Measure first (`rooflake demo` or `rooflake collect local_profile`), then `rooflake train`."
        )
    predictors = {row["metric"]: learned.Predictor.load(store.home.predictors / row["artifact"]) for row in artifacts}
    hardware_rows = store.sql("SELECT * EXCLUDE (file_hash) FROM hardware WHERE measured_of IS NULL").to_pylist()
    known = {row["hardware_id"] for row in hardware_rows}
    chosen = dict(config) | {"llm_id": catalog.find_llm(config["llm_id"]).llm_id}
    if chosen.get("hardware_id") is None:
        chosen["hardware_id"] = _measured_most(store, artifacts[0]["hardware_ids"])
    elif chosen["hardware_id"] not in known:
        chosen["hardware_id"] = catalog.find_hardware(chosen["hardware_id"]).hardware_id
    answer = learned.what_if(predictors, chosen, hardware_rows=hardware_rows)
    detail = answer.analytical["status_detail"]
    if answer.analytical["roofline_s"] is None:
        raise ValueError(
            f"{chosen['phase']} of {chosen['llm_id']} on {chosen['hardware_id']} has no analytical value: {detail}"
        )
    rows = [
        {
            "metric": metric,
            "predicted": item.value,
            "lower_90": item.lower,
            "upper_90": item.upper,
            "analytical": item.analytical,
            "unit": metrics.metric(metric).unit,
        }
        for metric, item in answer.predictions.items()
    ]
    notes = [f"{chosen['llm_id']} on {chosen['hardware_id']}.", *([f"analytical: {detail}"] if detail else [])]
    notes += [f"{metric}: {item.reason}" for metric, item in answer.predictions.items() if item.reason]
    return pa.Table.from_pylist(rows), notes


def _measured_most(store: Store, hardware_ids: list[str]) -> str:
    rows = store.sql(
        "SELECT hardware_id FROM runs WHERE source_kind = 'measured' AND list_contains($known, hardware_id) "
        "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1",
        {"known": hardware_ids},
    ).to_pylist()
    return str(rows[0]["hardware_id"]) if rows else hardware_ids[0]


def _line(metric: str, predictors: list[dict[str, Any]], scores: list[dict[str, Any]]) -> str:
    names = {row["predictor_id"]: "baseline" if row["is_baseline"] else row["method"] for row in predictors}
    parts = [
        f"{names[row['predictor_id']]} {row['split']} {row['mdape']:.1%}"
        for row in scores
        if row["fold"] == "all" and row["mdape"] is not None
    ]
    return f"{metric}: median error {', '.join(parts)}."
