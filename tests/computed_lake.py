"""A lake of rows that the analytical engine really computed, beside measured and published ones of the same configurations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
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
    for hardware_id, execution in (("a100-sxm-80gb", "engine"), ("t4", "engine"), ("t4", "eager")):
        roofline.collect(place.landing, llm_id=["llama-2-7b"], hardware_id=[hardware_id], phase=["decode"], batch_size=[8],
                         execution=[execution])  # fmt: skip
    dtypes = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype"), "fp16")
    eager = {**DECODE, **ONE_DEVICE, **dtypes, "hardware_id": "a100-sxm-80gb", "execution": "eager"}
    roofline.twins(pa.Table.from_pylist([eager]), place.landing, calibrations=[fitted()])
    roofline.collect(
        place.landing, llm_id=["llama-2-7b"], hardware_id=["a100-sxm-80gb"], phase=["pretrain_step"], batch_size=[8]
    )
    land(place.landing, "observed", {"runs": observed()})
    with open_store(place) as store:
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


def fitted() -> dict[str, Any]:
    """Constants of the eager profile as if a lake's own rows had given them: the shipped ones of the architecture, renamed."""
    shipped = next(row for row in estimate.shipped() if (row["device_class"], row["execution"]) == ("ampere", "eager"))
    own = {"calibration_id": "fitted-here", "device_class": "a100-sxm-80gb", "snapshot_id": 7, "fitted_at": FITTED}
    return {**shipped, **own}


def ids(store: Store) -> dict[str, str]:
    """Run ids of the analytical rows: `eager`, `engine` (A100), `t4-eager`, `t4-engine`, `training`."""
    rows = store.sql(
        "SELECT run_id, hardware_id, phase, execution FROM runs WHERE source_kind = 'analytical'"
    ).to_pylist()
    return {
        "training" if row["phase"] == "pretrain_step" else ("t4-" if row["hardware_id"] == "t4" else "") + row["execution"]: row["run_id"]
        for row in rows
    }  # fmt: skip
