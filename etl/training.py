"""Training on the lake's rows, and answers from the trained predictors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from warehouse import catalog, metrics, parquet
from warehouse.store import Store


def train(store: Store) -> list[str]:
    """Train one predictor of each kind, save the artifact, load its scores; returns a line per predictor."""
    from models import learned

    rows = store.query("training_rows")
    snapshot = store.snapshot_id()
    lines = []
    for metric in learned.METRICS:
        try:
            trained = learned.train(rows, metric, snapshot_id=snapshot, trained_at=datetime.now(UTC))
        except ValueError as error:
            lines.append(f"No {metric} predictor: {error}")
            continue
        predictor = trained.predictor
        predictor.save(store.home.predictors / f"{predictor.predictor_id}.json")
        batch = {
            "predictors": trained.predictors,
            "predictor_scores": trained.scores,
            "predictions": trained.predictions,
        }
        parquet.land(store.home.landing, f"predictor-{predictor.predictor_id}", batch)
        lines.append(_line(metric, trained.predictors, trained.scores))
        lines += [f"{metric}: {note}" for note in predictor.notes]
    store.load()
    return lines


def what_if(store: Store, config: Mapping[str, Any]) -> tuple[pa.Table, list[str]]:
    """Predicted latency and peak memory of one configuration beside its analytical value, as rows, and notes on them.

    `config` has configuration columns; a NULL hardware_id becomes the device measured most. Columns of the table: metric,
    predicted, lower_90, upper_90, analytical (SI), unit. Raises LookupError for an unknown LLM or device, ValueError where
    nothing is trained.
    """
    from models import learned

    artifacts = store.query("newest_predictors").to_pylist()
    if not artifacts:
        raise ValueError(
            "No predictor is trained yet. Measure first (`rooflake demo` or `rooflake collect local_profile`), then `rooflake train`."
        )
    predictors = {row["metric"]: learned.Predictor.load(store.home.predictors / row["artifact"]) for row in artifacts}
    hardware_rows = store.sql("SELECT * EXCLUDE (file_hash) FROM hardware").to_pylist()
    known = {row["hardware_id"] for row in hardware_rows}
    chosen = dict(config) | {"llm_id": catalog.find_llm(config["llm_id"]).llm_id}
    if chosen.get("hardware_id") is None:
        chosen["hardware_id"] = artifacts[0]["hardware_ids"][0]
    elif chosen["hardware_id"] not in known:
        chosen["hardware_id"] = catalog.find_hardware(chosen["hardware_id"]).hardware_id
    answer = learned.what_if(predictors, chosen, hardware_rows=hardware_rows)
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
    notes = [f"{chosen['llm_id']} on {chosen['hardware_id']}."]
    notes += [f"{metric}: {item.reason}" for metric, item in answer.predictions.items() if item.reason]
    return pa.Table.from_pylist(rows), notes


def _line(metric: str, predictors: list[dict[str, Any]], scores: list[dict[str, Any]]) -> str:
    names = {row["predictor_id"]: "baseline" if row["is_baseline"] else row["method"] for row in predictors}
    parts = [
        f"{names[row['predictor_id']]} {row['split']} {row['mdape']:.1%}"
        for row in scores
        if row["fold"] == "all" and row["mdape"] is not None
    ]
    return f"{metric}: median error {', '.join(parts)}."
