"""What a device was seen to reach: a `hardware` row of kind 'measured' that only ever gets better."""

from __future__ import annotations

import contextlib
import datetime
import math
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
OWN_RATES = ("peak_fp32_flops_per_s", "peak_bf16_flops_per_s", "memory_bandwidth_bytes_per_s")
"""Columns of `_machine.hardware_row` that later runs may better."""

LEAST_GAIN = 1.02
"""How much better a column must be for a device's own row to be written again: two measurements always differ a little."""

TIMES = ("kernel_launch_s", "collective_launch_s")


class Ceilings:
    """The best of every column so far and, in words, what reached it.

    A ceiling is the shortest single repeat of the best shape, not its median: else half of its own repeats would lie above it.
    One known already is never lowered. On a CPU whose own row was measured that row counts as well: it holds what one thread
    alone reaches times their number where other processes kept the cores busy (`_machine.hardware_row`), and a roof must not
    lie below what a quieter hour reaches.
    """

    def __init__(self, session: Session, cache_bytes: float = math.inf) -> None:
        self._device, self._cache_bytes = session.hardware, cache_bytes
        self._is_own = str(session.hardware["source"]).startswith(OWN)
        self._values: dict[str, float] = {}
        self._origins: dict[str, str] = {}
        self._is_changed = False
        for row in (session.ceilings, _landed(session)):  # a lake's may be older than what landed since
            if row is not None:
                notes = (part.partition(": ") for part in (row["note"] or "").split("; "))
                self._take(row, {name: origin for name, _, origin in notes})
        if self._is_own:
            self._take(
                session.hardware, dict.fromkeys(RATES, f"the device's own row of {session.hardware['source_date']}")
            )
        self._is_changed = False

    def get(self, column: str) -> float | None:
        return self._values.get(column)

    def roof(self) -> dict[str, Any]:
        """The device's row that bounds its runs: the catalogue's as it is, one that was measured with what is better by now."""
        if not self._is_own:
            return self._device
        better = {name: self._values[name] for name in OWN_RATES if self._device.get(name) is not None}
        vector, peak = (self._device.get(f"{which}_fp32_flops_per_s") for which in ("vector", "peak"))
        if peak is not None and vector == peak:
            better["vector_fp32_flops_per_s"] = better["peak_fp32_flops_per_s"]
        return {**self._device, **better}

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
        if self._is_own and work is not None:
            self._reached_anyhow(shape, work, best_s, origin)

    def _reached_anyhow(self, shape: Shape, work: _shapes.Work, best_s: float, origin: str) -> None:
        """What any kernel did to device memory or in arithmetic is a bound of a device whose roof nobody else knows."""
        is_from_memory = shape.cache_state == "cold" or not _shapes.is_resident(work.bytes_moved, self._cache_bytes)
        if is_from_memory:
            self.offer("memory_bandwidth_bytes_per_s", work.bytes_moved / best_s, origin)
        if work.flops is not None:
            self.offer(f"peak_{shape.dtype}_flops_per_s", work.flops / best_s, origin)

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

    def land_device(self, session: Session) -> None:
        """Write a measured device's own row anew where something got better, and in place of what landed of it before.

        Else one load of the landing folder would meet several contents of one key.
        """
        row = self.roof()
        gained = [
            name for name in OWN_RATES if row.get(name) is not None and row[name] > LEAST_GAIN * self._device[name]
        ]
        if not gained:
            return
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        began = str(row["source"]).partition("; bettered")[0]
        row |= {"source": f"{began}; bettered by rooflake/microbench: {', '.join(gained)}", "source_date": today}
        for path in (session.landing / "hardware").glob("*.parquet"):
            with contextlib.suppress(FileNotFoundError, parquet.ContractError):  # a loader's by now, or its to refuse
                rows = parquet.read("hardware", path).to_pylist()
                better = [row if one["hardware_id"] == row["hardware_id"] else one for one in rows]
                if better != rows:
                    parquet.write("hardware", better, path)
        paths = parquet.land(session.landing, row["hardware_id"], {"hardware": [row]})
        session.paths += [path for path in paths if path not in session.paths]
        session.hardware = self._device = row

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
