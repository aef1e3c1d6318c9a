"""What the lake knows of this machine already, for the collector that measures it."""

from __future__ import annotations

from typing import Any

from warehouse.store import Store


def hardware_row(store: Store, device: str) -> dict[str, Any] | None:
    """This device's row of `hardware`, or None. Its ceilings, once measured, stay: rows before and after share one roof."""
    from collectors import _machine

    rows = store.sql(
        "SELECT * EXCLUDE (file_hash) FROM hardware WHERE hardware_id = $id", {"id": _machine.hardware_id(device)}
    ).to_pylist()
    return rows[0] if rows else None


def measured(store: Store) -> set[tuple[str, str | None]]:
    """(config_id, task) of what `local_profile` has measured."""
    return {(row["config_id"], row["task"]) for row in store.query("measured_configurations").to_pylist()}
