"""What the lake knows of this machine already, for the collector that measures it."""

from __future__ import annotations

import contextlib
from typing import Any

from collectors import _machine
from warehouse.store import Store

MEASURING = ("endpoint", "local_profile", "microbench", "parallel_inference", "training_step")
"""Collectors that measure the machine at hand (endpoint: with `serve`) and take what is known of it."""


def known(store: Store, collector: str, device: str = "auto") -> dict[str, Any]:
    """Options of a measuring collector that the lake answers: the device's roofs, and what needs no measuring again.

    A row of `hardware` that was measured stays until `microbench` reaches more. A device that is not there has no row.
    """
    hardware_id = None
    with contextlib.suppress(ValueError):
        hardware_id = _machine.hardware_id(device)
    rows = store.sql(
        "SELECT * EXCLUDE (file_hash) FROM hardware WHERE hardware_id = $id OR measured_of = $id", {"id": hardware_id}
    ).to_pylist()
    groups = store.query("measured_groups", collector=collector).to_pylist()
    return {
        "hardware_row": next((row for row in rows if row["measured_of"] is None), None),
        "ceiling_row": next((row for row in rows if row["measured_of"] is not None), None),
        "skip": {row["repeat_group_id"]: row["final_up_to_s"] for row in groups},
    }
