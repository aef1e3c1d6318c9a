"""Forecasts: published once, never changed, scored by what was measured later and by nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import planted_predictors
import pytest
from sample_rows import run

from etl import forecasts
from models.learned import answering
from warehouse import parquet
from warehouse.store import Home, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    place = Home.of(tmp_path / "home")
    place.prepare()
    with open_store(place) as opened:
        opened.load()
        yield opened


@pytest.fixture(scope="module")
def answered() -> answering.Answered:
    """A decode step of two batches, latency alone."""
    configs = answering.configurations([planted_predictors.config(batch_size=batch) for batch in (1, 8)])
    return answering.answer(configs, planted_predictors.known("latency"), only=["latency_s"])


def publish(store: Store, answered: answering.Answered, note: str = "before it is there") -> list[str]:
    said: list[str] = []
    assert not forecasts.publish(store, answered, note, said.append).quarantined
    return said


def scores(store: Store) -> list[dict[str, Any]]:
    return store.sql("SELECT * FROM forecast_scores ORDER BY value, actual_run_id").to_pylist()


def measured(store: Store, name: str, latency_s: float, when: datetime, **values: Any) -> None:
    row = run(name, collected_at=when, latency_s=latency_s, **planted_predictors.config(batch_size=1) | values)
    parquet.land(store.home.landing, name, {"runs": [row]})
    assert not store.load().quarantined


def test_a_forecast_waits_for_what_is_measured_after_it(store: Store, answered: answering.Answered) -> None:
    assert publish(store, answered)[-1].startswith("2 forecasts published at ")
    first, second = scores(store)
    assert (first["actual"], first["error_ratio"], first["is_inside"]) == (None, None, None)
    assert first["lower"] < first["value"] < first["upper"]
    assert first["note"] == "before it is there"
    now = datetime.now(UTC)
    measured(store, "earlier", first["value"] * 2, now - timedelta(days=1))
    assert [row["actual"] for row in scores(store)] == [None, None]
    measured(store, "close", first["value"] * 1.001, now + timedelta(days=1))
    measured(store, "far", first["value"] * 3, now + timedelta(days=1))
    measured(store, "failed", None, now + timedelta(days=1), status="oom", status_detail="too large")  # type: ignore[arg-type]
    close, far, other = scores(store)
    assert (close["actual_run_id"], close["is_inside"]) == ("close", True)
    assert close["error_ratio"] == pytest.approx(1 / 1.001 - 1)
    assert (far["actual_run_id"], far["is_inside"]) == ("far", False)
    assert other["forecast_id"] == second["forecast_id"]
    assert other["actual"] is None


def test_the_same_forecast_is_one_and_its_date_stays(store: Store, answered: answering.Answered) -> None:
    publish(store, answered)
    before = store.sql("SELECT * FROM forecasts ORDER BY forecast_id").to_pylist()
    assert publish(store, answered, "said again") == ["2 of 2 forecasts were published before and stay as they are."]
    assert store.sql("SELECT * FROM forecasts ORDER BY forecast_id").to_pylist() == before


def test_a_forecast_cannot_be_changed(store: Store, answered: answering.Answered) -> None:
    publish(store, answered)
    (row, _) = store.sql("SELECT * EXCLUDE (file_hash) FROM forecasts ORDER BY forecast_id").to_pylist()
    parquet.land(store.home.landing, "wiser", {"forecasts": [row | {"upper": row["upper"] * 10}]})
    (reason,) = store.load().quarantined.values()
    assert f"forecasts ({row['forecast_id']}) of 'wiser' contradicts the row of the same key" in reason


def test_a_forecast_is_a_predicted_run_beside_the_others(store: Store, answered: answering.Answered) -> None:
    publish(store, answered)
    rows = store.sql("SELECT runs.* FROM forecasts JOIN runs USING (run_id) ORDER BY batch_size").to_pylist()
    assert [row["batch_size"] for row in rows] == [1, 8]
    assert {row["source_kind"] for row in rows} == {"predicted"}
    measured(store, "twin", 1.0, datetime.now(UTC))
    (twin,) = store.sql("SELECT config_id FROM runs WHERE run_id = 'twin'").to_pylist()
    assert rows[0]["config_id"] == twin["config_id"]


def test_what_no_predictor_answers_is_not_published(store: Store) -> None:
    configs = answering.configurations([planted_predictors.config()])
    said = publish(store, answering.answer(configs, answering.Known()))
    assert said == ["1 of 1 configurations are answered by no predictor: nothing is published of them."]
    assert scores(store) == []
