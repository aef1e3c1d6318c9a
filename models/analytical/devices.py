"""Devices as the engine sees them: a ruleset's own numbers, the catalogue's, or numbers somebody brought along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from warehouse.catalog import Hardware, UnknownEntryError, find_hardware

Row = Mapping[str, Any]
HardwareRows: TypeAlias = Mapping[str, Row | Hardware] | Iterable[Row | Hardware] | pa.Table
"""Device rows: an Arrow table, rows, or id -> row, with `hardware` columns or LLM-Viewer's names for them."""

_OTHER_NAMES = {
    "name": "hardware_id",
    "bandwidth_bytes_per_s": "memory_bandwidth_bytes_per_s",
    "fp64_flops_per_s": "peak_fp64_flops_per_s",
    "fp32_flops_per_s": "peak_fp32_flops_per_s",
    "tf32_flops_per_s": "peak_tf32_flops_per_s",
    "fp16_flops_per_s": "peak_fp16_flops_per_s",
    "bf16_flops_per_s": "peak_bf16_flops_per_s",
    "fp8_flops_per_s": "peak_fp8_flops_per_s",
    "int8_flops_per_s": "peak_int8_flops_per_s",
    "int4_flops_per_s": "peak_int4_flops_per_s",
    "onchip_buffer_bytes": "onchip_bytes",
}


@dataclass(frozen=True)
class Device:
    """One device: rates in B/s and FLOP/s, sizes in bytes, None where unknown or unsupported."""

    hardware_id: str
    architecture: str | None
    kind: str | None
    bandwidth: float
    peaks: Mapping[str, float]
    vector_peak: float | None
    onchip: float | None
    memory: float | None
    link: float | None
    host_link: float | None
    num_cores: float | None
    l2: float | None
    tdp: float | None
    linked_devices: float | None
    network: float | None


def find_device(name: str, own: Callable[[str], Row | None], brought: Mapping[str, Row]) -> Device:
    """The device of a name: rows brought along override a ruleset's `own` numbers, which override the catalogue.

    Raises UnknownEntryError for a name nobody knows, ValueError for a row without a memory bandwidth.
    """
    extra, base = brought.get(name), own(name)
    if base is None:
        try:
            known = find_hardware(name)
        except UnknownEntryError:
            if extra is None:
                raise
            base = {}
        else:
            base = own(known.hardware_id) or known.row
    return _device(name, {**base, **(extra or {})})


def device_rows(hardware: HardwareRows | None) -> dict[str, dict[str, Any]]:
    """Rows brought along, by id; absent values are left out, so that they do not override what is known."""
    if hardware is None:
        return {}
    if isinstance(hardware, pa.Table):
        hardware = hardware.to_pylist()
    if isinstance(hardware, Mapping):
        return {name: {**_row(row), "hardware_id": name} for name, row in hardware.items()}
    rows = [_row(row) for row in hardware]
    if any("hardware_id" not in row for row in rows):
        raise ValueError("a device row needs a 'hardware_id' (or 'name').")
    return {row["hardware_id"]: row for row in rows}


def _row(row: Row | Hardware) -> dict[str, Any]:
    if isinstance(row, Hardware):
        row = row.row
    known = {name: value for name, value in row.items() if value is not None and value != ""}
    return {**{_OTHER_NAMES[name]: value for name, value in known.items() if name in _OTHER_NAMES}, **known}


def _device(name: str, row: Row) -> Device:
    bandwidth = _number(name, row, "memory_bandwidth_bytes_per_s")
    if bandwidth is None:
        raise ValueError(
            f"'{name}' has no memory_bandwidth_bytes_per_s. Known: {', '.join(row)}. Give it in B/s (1 GB/s = 1e9 B/s)."
        )
    peaks = {
        column.removeprefix("peak_").removesuffix("_flops_per_s"): _number(name, row, column)
        for column in row
        if column.startswith("peak_")
    }
    return Device(
        hardware_id=name,
        architecture=row.get("architecture"),
        kind=row.get("kind"),
        bandwidth=bandwidth,
        peaks={dtype: peak for dtype, peak in peaks.items() if peak is not None},
        vector_peak=_number(name, row, "vector_fp32_flops_per_s"),
        onchip=_number(name, row, "onchip_bytes"),
        memory=_number(name, row, "memory_bytes"),
        link=_number(name, row, "link_bandwidth_bytes_per_s"),
        host_link=_number(name, row, "host_link_bandwidth_bytes_per_s"),
        num_cores=_number(name, row, "num_cores"),
        l2=_number(name, row, "l2_bytes"),
        tdp=_number(name, row, "tdp_w"),
        linked_devices=_number(name, row, "linked_devices"),
        network=_number(name, row, "network_bandwidth_bytes_per_s"),
    )


def _number(name: str, row: Row, column: str) -> float | None:
    value = row.get(column)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not number > 0:
        raise ValueError(f"'{name}': {column} must be a positive number, not {value!r}.")
    return number
