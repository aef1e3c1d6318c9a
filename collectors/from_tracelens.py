"""Importer of trace reports: CSV files of TraceLens (timeline, operators, kernels, performance) and of HTA (kernels, time by kind).

Operators and kernels become `ops` of level `kernel`, times of one execution in seconds. TraceLens counts moved data in MiB though it
says MB, and FLOPs in units of 10^9. A report names neither device nor phase: --hardware and --set phase=... do.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing, _kernel_kinds
from collectors._importing import File, Run, Said, Unreadable

TOOL = "tracelens"
SOURCE_KIND = "measured"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

US, MIB, GIGA = 1e-6, 2.0**20, 1e9
MOST_CELL_CHARACTERS = 2**24
"""Longest cell: a report lists every launch of a kernel in one."""

_REPORTS: dict[str, tuple[str, ...]] = {
    "gpu_timeline": ("type", "time ms", "percent"),
    "unified_perf_summary": ("name", "op category", "operation_count", "Kernel Time (µs)_mean"),
    "kernel_summary": ("Kernel name", "Kernel duration (µs)_mean", "Kernel duration (µs)_count"),
    "ops_summary": ("name", "total_direct_kernel_time_ms", "Count"),
    "perf_model": ("name", "GFLOPS_first", "Kernel Time (µs)_mean", "name_count"),
    "hta_kernels": ("name", "sum (us)", "mean (us)", "kernel_type"),
    "hta_temporal": ("rank", "idle_time(us)", "compute_time(us)", "kernel_time(us)"),
}
"""Report -> headings that tell it from the others, the most telling report first."""


def recognises(file: File) -> bool:
    """A CSV whose headings are those of a report."""
    return _report(file.head.partition("\n")[0]) is not None


def _report(first: str) -> str | None:
    headings = {name.strip().strip('"') for name in first.split(",")}
    return next((name for name, needed in _REPORTS.items() if headings >= {*needed}), None)


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a report."""
    csv.field_size_limit(MOST_CELL_CHARACTERS)
    report = _report(file.head.partition("\n")[0])
    try:
        rows = list(csv.DictReader(io.StringIO(file.text()), strict=True))
    except csv.Error as error:
        raise Unreadable(f"{file.name} is not a whole CSV: {error}.") from None
    short = next((index for index, row in enumerate(rows, 2) if None in row.values() or None in row), None)
    if short is not None:
        raise Unreadable(f"{file.name}, line {short} has not as many cells as headings.")
    if report is None:
        raise Unreadable(f"{file.name} is no report that is known. Known: {', '.join(_REPORTS)}.")
    if report in ("gpu_timeline", "hta_temporal"):
        samples = _timeline(rows) if report == "gpu_timeline" else _temporal(rows)
        yield Run(cell=report, columns={}, samples=samples, notes=["Times over a whole trace, not of one execution."])
        return
    ops = [op for row in rows if (op := _OPS[report](row)) is not None]
    yield Run(cell=report, columns={}, quality_tier=1, ops=ops, notes=_NOTES.get(report, []))


def _timeline(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    samples = []
    for row in rows:
        samples += _importing.sample(f"tracelens:{row['type']}", float(row["time ms"]) * 1e-3, "s")
    return samples


def _temporal(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Seconds by kind, one repeat a rank."""
    samples = []
    for row in rows:
        for heading in ("idle_time", "compute_time", "non_compute_time", "kernel_time"):
            text = row.get(f"{heading}(us)")
            if text:
                flags = [f"rank {row['rank']}"]
                samples += _importing.sample(f"hta:{heading}", float(text) * US, "s", flags=flags)
    return samples


def _number(row: Mapping[str, str], name: str, scale: float = 1.0) -> float | None:
    text = row.get(name, "")
    return float(text) * scale if text not in ("", "nan") else None


def _whole(row: Mapping[str, str], name: str) -> int | None:
    value = _number(row, name)
    return None if value is None else int(value)


def _op(name: str, operator: str | None, count: int, seconds: float | None, **columns: Any) -> dict[str, Any] | None:
    """One row of `ops`; None for what ran nothing on the device."""
    if count < 1 or seconds is None or seconds <= 0:
        return None
    return {
        "path": name, "level": "kernel", "op_kind": _kernel_kinds.kernel_kind(name, operator), "count": count,
        "device_time_s": seconds, **columns,
    }  # fmt: skip


def _unified(row: Mapping[str, str]) -> dict[str, Any] | None:
    return _op(
        row["name"], row["name"], int(row["operation_count"]), _number(row, "Kernel Time (µs)_mean", US),
        flops=_number(row, "GFLOPS", GIGA), bytes_moved=_number(row, "Data Moved (MB)", MIB), shapes=row.get("Input Dims") or None,
    )  # fmt: skip


def _summary(row: Mapping[str, str]) -> dict[str, Any] | None:
    count = int(row["Count"])
    total_s = _number(row, "total_direct_kernel_time_ms", 1e-3)
    return _op(row["name"], row["name"], count, None if total_s is None or count == 0 else total_s / count)


def _kernel(row: Mapping[str, str]) -> dict[str, Any] | None:
    operator = row.get("Parent cpu_op") or None
    count = int(float(row["Kernel duration (µs)_count"]))
    return _op(row["Kernel name"], operator, count, _number(row, "Kernel duration (µs)_mean", US), class_name=operator)


def _model(row: Mapping[str, str]) -> dict[str, Any] | None:
    """An operator with a model of its work: GEMMs with m, n and k; a convolution's or a norm's shape stays in `shapes`."""
    sizes = {ours: _whole(row, f"param: {theirs}") for theirs, ours in (("M", "m"), ("N", "n"), ("K", "k"))}
    return _op(
        row["name"], row["name"], int(row["name_count"]), _number(row, "Kernel Time (µs)_mean", US),
        flops=_number(row, "GFLOPS_first", GIGA), bytes_moved=_number(row, "Data Moved (MB)_first", MIB),
        shapes=row.get("Input Dims_first") or None, **sizes,
    )  # fmt: skip


def _hta_kernel(row: Mapping[str, str]) -> dict[str, Any] | None:
    total_s, mean_s = _number(row, "sum (us)", US), _number(row, "mean (us)", US)
    if total_s is None or mean_s is None or mean_s <= 0:
        return None
    return _op(row["name"], None, round(total_s / mean_s), mean_s, class_name=row["kernel_type"])


_OPS = {
    "unified_perf_summary": _unified,
    "ops_summary": _summary,
    "kernel_summary": _kernel,
    "perf_model": _model,
    "hta_kernels": _hta_kernel,
}
_NOTES = {
    "ops_summary": ["Time of an operator's own kernels, without those of operators it calls."],
    "hta_kernels": ["Counts are the sum over the mean."],
}
