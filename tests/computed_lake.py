"""A lake of rows that the analytical engine really computed, beside measured and published ones of the same configurations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sample_rows import run

from collectors import roofline
from models.analytical import estimate
from warehouse.parquet import land
from warehouse.store import Home, Store, open_store

DECODE = {"llm_id": "llama-2-7b", "phase": "decode", "batch_size": 8, "context_tokens": 1024, "attention": "flash"}
ONE_DEVICE = {"num_devices": 1, "tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1, "expert_parallel": 1}
FITTED = datetime(2026, 2, 3, tzinfo=UTC)


def build(home: Path) -> Path:
    """Decode steps under two execution profiles and a training step that does not fit; constants of the eager profile are the lake's."""
    place = Home.of(home)
    place.prepare()
    roofline.collect(place.landing, llm_id=["llama-2-7b"], hardware_id=["a100-sxm-80gb", "t4"], phase=["decode"], batch_size=[8],
                     execution=["eager", "engine"])  # fmt: skip
    roofline.collect(
        place.landing, llm_id=["llama-2-7b"], hardware_id=["a100-sxm-80gb"], phase=["pretrain_step"], batch_size=[8]
    )
    land(place.landing, "observed", {"runs": observed()})
    with open_store(place) as store:
        store.load()
        land(place.landing, "calibration", {"calibrations": calibrations(store)})
        store.load()
    return home


def observed() -> list[dict[str, Any]]:
    """The decode step on an A100: measured in the eager profile on a busy machine, and published as a rate alone."""
    same = {**DECODE, **ONE_DEVICE, "hardware_id": "a100-sxm-80gb"}
    paper = {"source_kind": "published", "source_id": "paper/table-1", "latency_s": None}
    rate = {"output_tokens_per_s": 400.0, "metric_definitions": {"output_tokens_per_s": "tokens_over_duration"}}
    return [
        run("busy", **same, execution="eager", latency_s=0.025, other_load_ratio=0.42),
        run("rate", **same, **paper, **rate),
    ]


def calibrations(store: Store) -> list[dict[str, Any]]:
    """The shipped constants that the eager rows use, as if the lake's own rows had given them."""
    used = store.sql(
        "SELECT DISTINCT calibration_id FROM runs WHERE execution = 'eager' AND calibration_id IS NOT NULL"
    )
    ids = used.column("calibration_id").to_pylist()
    return [
        {**row, "snapshot_id": 7, "fitted_at": FITTED} for row in estimate.shipped() if row["calibration_id"] in ids
    ]


def ids(store: Store) -> dict[str, str]:
    """Run ids of the analytical rows: `eager`, `engine` (A100), `t4-eager`, `t4-engine`, `training`."""
    rows = store.sql(
        "SELECT run_id, hardware_id, phase, execution FROM runs WHERE source_kind = 'analytical'"
    ).to_pylist()
    return {
        "training" if row["phase"] == "pretrain_step" else ("t4-" if row["hardware_id"] == "t4" else "") + row["execution"]: row["run_id"]
        for row in rows
    }  # fmt: skip
