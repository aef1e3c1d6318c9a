"""Predictions published before anybody measured: dated, never changed, scored by the view `forecast_scores` when rows arrive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from etl import predictions
from models.learned.answering import Answered
from warehouse import parquet, schema
from warehouse.store import LoadReport, Store


def publish(store: Store, answered: Answered, note: str, report: Callable[[str], None]) -> LoadReport:
    """Publish what predictors answered as predicted runs and `forecasts` rows, one a configuration and metric. Returns the load.

    A forecast's id is made of predictor, configuration, metric and value: saying the same again changes nothing and is a line; other
    content under its id is refused by the store. Configurations that no predictor answers are left out, and counted.
    """
    batch = predictions.landed(answered)
    left_out = len(answered) - len(batch["runs"])
    if left_out:
        report(
            f"{left_out} of {len(answered)} configurations are answered by no predictor: nothing is published of them."
        )
    snapshots = {one.predictor_id: one.snapshot_id for one in answered.known.predictors.values()}
    configs = {row["run_id"]: row["config_id"] for row in batch["runs"]}
    now = datetime.now(UTC)
    found = [
        _forecast(row, configs[row["run_id"]], snapshots[row["predictor_id"]], now, note)
        for row in batch["predictions"]
    ]
    before = store.sql(
        "SELECT forecast_id FROM forecasts WHERE list_contains($ids, forecast_id)",
        {"ids": [row["forecast_id"] for row in found]},
    ).column(0).to_pylist()  # fmt: skip
    new = [row for row in found if row["forecast_id"] not in set(before)]
    if before:
        report(f"{len(before)} of {len(found)} forecasts were published before and stay as they are.")
    if not new:
        return LoadReport()
    name = f"forecast-{schema.digest(sorted(row['forecast_id'] for row in new))}"
    parquet.land(store.home.landing, name, batch | {"forecasts": new})
    loaded = store.load()
    report(f"{len(new)} forecasts published at {now:%Y-%m-%d %H:%M} UTC; `SELECT * FROM forecast_scores` scores them.")
    return loaded


def _forecast(
    row: dict[str, Any], config_id: str, snapshot_id: int | None, when: datetime, note: str
) -> dict[str, Any]:
    kept = {name: row[name] for name in ("run_id", "metric", "value", "lower", "upper", "predictor_id")}
    identity = schema.digest(row["predictor_id"], config_id, row["metric"], row["value"])
    return kept | {
        "forecast_id": identity,
        "config_id": config_id,
        "snapshot_id": snapshot_id,
        "published_at": when,
        "note": note,
    }
