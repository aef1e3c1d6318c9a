"""Rows of a timed shape: what it did, what it reached, and against which bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collectors import _timing
from collectors.microbench import _shapes
from collectors.microbench._shapes import Shape


def measured(
    shape: Shape, timing: _timing.Timing, hardware: Mapping[str, Any], cache_bytes: float
) -> tuple[dict[str, Any], str | None]:
    """Metric columns of a run, and a note on what is NULL. Rates are over the mean wall-clock time of one execution."""
    row: dict[str, Any] = {"status": "ok", "num_samples": len(timing.measured), **timing.columns()}
    row["duration_s"] = sum(one.wall_s for one in timing.measured)
    row["quality_tier"] = timing.quality_tier
    latency, device_s = row["latency_s"], row["device_time_s"]
    definitions = {"latency_s": "wall_clock"}
    if device_s is not None:
        row["is_host_bound"] = _timing.is_host_bound(latency, device_s)
        definitions["device_time_s"] = "device_events"
    work = _shapes.work(shape)
    if work is None:
        return {**row, **_bounded_elsewhere(shape, latency), "metric_definitions": definitions}, None
    traffic, note = _traffic(shape, work, hardware, cache_bytes)
    row |= traffic
    if work.flops is not None:
        row |= {"flops": work.flops, "achieved_flops_per_s": work.flops / latency}
        definitions["flops"] = "model_closed_form"
    if row.get("bytes_moved") is not None:
        row["achieved_bytes_per_s"] = row["bytes_moved"] / latency
        row["arithmetic_intensity"] = None if work.flops is None else work.flops / row["bytes_moved"]
        definitions["bytes_moved"] = "model_closed_form"
    peak = hardware.get(f"peak_{shape.dtype}_flops_per_s")
    if shape.kernel in ("gemm", "attention") and peak is not None:
        row["mfu"] = row["achieved_flops_per_s"] / peak
    return {**row, **_bound(row, work, hardware, peak), "metric_definitions": definitions}, note


def op(shape: Shape, run: Mapping[str, Any]) -> dict[str, Any]:
    """The one row of `ops` of a run."""
    same = ("flops", "bytes_moved", "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read",
            "device_time_s", "cpu_time_s", "arithmetic_intensity", "roofline_s", "bound", "m", "n", "k")  # fmt: skip
    phase = None if shape.kernel != "attention" else "decode" if shape.is_decode else "prefill"
    return {
        "run_id": run["run_id"], "op_index": 0, "path": shape.kernel, "op_kind": _shapes.OP_KIND[shape.kernel], "phase": phase,
        "count": 1, "time_s": run["latency_s"], **{name: run.get(name) for name in same},
    }  # fmt: skip


def _bounded_elsewhere(shape: Shape, latency: float) -> dict[str, Any]:
    """Columns of what neither FLOPs nor device memory bound: launches, copies to and from the host, collectives."""
    if shape.kernel == "launch":
        return {"bound": "launch"}
    if shape.kernel in _shapes.COLLECTIVES:
        return {"bound": "communication", "bus_bytes_per_s": _shapes.bus_bytes(shape) / latency}
    return {"bound": "communication", "achieved_bytes_per_s": shape.size_bytes / latency}


def _traffic(
    shape: Shape, work: _shapes.Work, hardware: Mapping[str, Any], cache_bytes: float
) -> tuple[dict[str, Any], str | None]:
    """Byte columns, and why there are none.

    A repeat on buffers that stay in the cache moves fewer bytes than the closed form says. That matters only where memory would
    be the bound (by the device's row, with a factor 2 for a ceiling that is lower): right of the ridge no byte is.
    """
    peak, bandwidth = hardware.get(f"peak_{shape.dtype}_flops_per_s"), hardware.get("memory_bandwidth_bytes_per_s")
    is_cached = shape.cache_state == "warm" and _shapes.is_resident(work.bytes_moved, cache_bytes)
    is_compute_bound = False
    if work.flops is not None and peak is not None and bandwidth is not None:
        is_compute_bound = work.flops / peak > 2 * work.bytes_moved / bandwidth
    if is_cached and not is_compute_bound:
        return {}, "its operands stay in the last-level cache: traffic of device memory is unknown"
    columns = {name: value for name, value in work._asdict().items() if name != "flops" and value > 0}
    return {"bytes_moved": work.bytes_moved, **columns}, None


def _bound(
    row: Mapping[str, Any], work: _shapes.Work, hardware: Mapping[str, Any], peak: float | None
) -> dict[str, Any]:
    """roofline_s = max(F / peak, B / bandwidth) by the device's row, and which of the two it is; NULL where one is unknown."""
    bandwidth, moved = hardware.get("memory_bandwidth_bytes_per_s"), row.get("bytes_moved")
    compute_s = 0.0 if work.flops is None else None if peak is None else work.flops / peak
    memory_s = None if bandwidth is None or moved is None else moved / bandwidth
    if compute_s is None or memory_s is None:
        return {}
    return {"roofline_s": max(compute_s, memory_s), "bound": "compute" if compute_s > memory_s else "memory"}
