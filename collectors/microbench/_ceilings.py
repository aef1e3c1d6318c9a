"""What a device was seen to reach: a `hardware` row of kind 'measured' that only ever gets better."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any

from collectors import _machine
from collectors._session import Session
from collectors.microbench import _shapes
from collectors.microbench._shapes import Shape
from warehouse import parquet

OWN = "measured by rooflake on the device itself"
"""How the source of a device begins whose own row holds measured ceilings: one that no catalogue knows."""

PEAKS = tuple(f"peak_{dtype}_flops_per_s" for dtype in _shapes.DTYPES)
RATES = (*PEAKS, "memory_bandwidth_bytes_per_s", "host_link_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s")
TIMES = ("kernel_launch_s", "collective_launch_s")


class Ceilings:
    """The best of every column so far and, in words, what reached it.

    A ceiling is the shortest single repeat of the best shape, not its median: else half of its own repeats would lie above it.
    One known already is never lowered. On a CPU whose own row was measured that row counts as well: it holds what one thread
    alone reaches times their number where other processes kept the cores busy (`_machine.hardware_row`), and a roof must not
    lie below what a quieter hour reaches.
    """

    def __init__(self, session: Session) -> None:
        self._device = session.hardware
        self._values: dict[str, float] = {}
        self._origins: dict[str, str] = {}
        self._is_changed = False
        for row in (session.ceilings, _landed(session)):  # a lake's may be older than what landed since
            if row is not None:
                notes = (part.partition(": ") for part in (row["note"] or "").split("; "))
                self._take(row, {name: origin for name, _, origin in notes})
        if str(session.hardware["source"]).startswith(OWN):
            self._take(
                session.hardware, dict.fromkeys(RATES, f"the device's own row of {session.hardware['source_date']}")
            )
        self._is_changed = False

    def get(self, column: str) -> float | None:
        return self._values.get(column)

    def offer(self, column: str, value: float, origin: str) -> None:
        """Keep what is better than the known: larger of a rate, smaller of a time."""
        known = self._values.get(column)
        if known is None or (value < known if column in TIMES else value > known):
            self._values[column], self._origins[column] = value, origin
            self._is_changed = True

    def reached(self, shape: Shape, best_s: float) -> None:
        """A shape and its shortest time."""
        origin = f"{shape.label}, {datetime.datetime.now(datetime.UTC).date().isoformat()}"
        work = _shapes.work(shape)
        if shape.kernel == "gemm" and work is not None and work.flops is not None:
            self.offer(f"peak_{shape.dtype}_flops_per_s", work.flops / best_s, origin)
        elif shape.family == "copy" and work is not None and shape.cache_state == "cold":
            self.offer("memory_bandwidth_bytes_per_s", work.bytes_moved / best_s, origin)
        elif shape.kernel == "memcpy_h2d" and shape.host_memory == "pinned":
            self.offer("host_link_bandwidth_bytes_per_s", float(shape.size_bytes) / best_s, origin)
        elif shape.kernel == "launch":
            self.offer("kernel_launch_s", best_s, origin)
        elif shape.kernel in _shapes.COLLECTIVES:
            self.offer(
                "link_bandwidth_bytes_per_s", _shapes.bus_bytes(shape) / best_s, f"{origin}, {shape.num_devices} ranks"
            )
            if shape.kernel == "all_reduce":  # a broadcast's sender does not wait: several in turn overlap
                self.offer("collective_launch_s", best_s, f"{origin}, {shape.num_devices} ranks")

    def land(self, session: Session) -> None:
        """Write the row where something got better: one file a device, whose place the better row takes."""
        if not self._is_changed:
            return
        row = self.row()
        session.paths += [
            path
            for path in parquet.land(session.landing, row["hardware_id"], {"hardware": [row]})
            if path not in session.paths
        ]
        session.ceilings, self._is_changed = row, False

    def row(self) -> dict[str, Any]:
        device = self._device
        return {
            "hardware_id": _machine.measured_id(device["hardware_id"]),
            "name": f"{device['name']}, measured",
            "vendor": device.get("vendor"),
            "kind": "measured",
            "measured_of": device["hardware_id"],
            "architecture": device.get("architecture"),
            "memory_bytes": device.get("memory_bytes"),
            "l2_bytes": device.get("l2_bytes"),
            **self._values,
            "source": f"rooflake/microbench on the device itself, shortest repeats, torch {_machine.package_version('torch')}",
            "source_date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "note": "; ".join(f"{name}: {self._origins[name]}" for name in sorted(self._values)),
        }

    def _take(self, row: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        for name in (*RATES, *TIMES):
            if row.get(name) is not None:
                self.offer(name, row[name], origins.get(name, "known before"))


def _landed(session: Session) -> dict[str, Any] | None:
    """The row in the landing folder; None for none, or one that a loader has just taken."""
    name = f"{_machine.measured_id(session.hardware['hardware_id'])}.parquet"
    with contextlib.suppress(OSError, parquet.ContractError):
        return dict(parquet.read("hardware", session.landing / "hardware" / name).to_pylist()[0])
    return None
