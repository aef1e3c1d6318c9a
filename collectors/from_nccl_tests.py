"""Importer of nccl-tests' text (`all_reduce_perf` and the like): one size of a collective a line, out of place and in place.

Times are microseconds, sizes bytes of the whole buffer: of a gather each rank brings its part of it. One file may hold several tests.
Host names and addresses are not kept.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from collectors import _importing
from collectors._importing import File, Run, Said, Unreadable

TOOL = "nccl_tests"
SOURCE_KIND = "measured"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

US = 1e-6
_DTYPES = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "double": "fp64", "int8": "int8", "uint8": "int8",
           "f8e4m3": "fp8", "f8e5m2": "fp8"}  # fmt: skip
_KERNELS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter", "alltoall": "all_to_all",
            "sendrecv": "send_recv", "reduce": "reduce"}  # fmt: skip
"""Test -> op kind; other tests (broadcast, gather, scatter ...) are `communication`."""

_RANK = re.compile(r"#\s+Rank\s+(\d+)\s.*?\bdevice\s+\d+\s+\[[^\]]*\]\s+(.+?)\s*$")
_TEST = re.compile(r"(?<![\w.-])(\w+)_perf\b")
_LINE = re.compile(r"\s*\d+\s+\d+\s+\w+\s")


@dataclass
class _Test:
    """One test: what its header said, and its lines as cells."""

    name: str | None
    devices: dict[int, str] = field(default_factory=dict)
    version: str | None = None
    is_graph: bool | None = None
    headings: list[str] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)
    bandwidth: float | None = None


def recognises(file: File) -> bool:
    """Text with the headings of an nccl-tests table."""
    return re.search(r"#\s+size\s+count\s+.*time\s+algbw\s+busbw", file.head) is not None


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a test and dtype."""
    for index, test in enumerate(_tests(file), 1):
        if not test.lines:
            continue
        column = test.headings.index("type")
        for dtype in dict.fromkeys(line[column] for line in test.lines):
            yield _run(file, said, index, test, dtype)


def _tests(file: File) -> list[_Test]:
    tests: list[_Test] = []
    name: str | None = None
    for line in io.StringIO(file.text()):
        if line.startswith("# nThread"):
            tests.append(_Test(name))
            graph = re.search(r"\bgraph: (\d+)", line)
            tests[-1].is_graph = None if graph is None else graph[1] != "0"
        if (found := _TEST.search(line)) is not None:
            name = found[1]
            if tests and tests[-1].name is None and line.startswith("#"):
                tests[-1].name = name
        if not tests:
            continue
        test = tests[-1]
        if (rank := _RANK.match(line)) is not None:
            test.devices[int(rank[1])] = rank[2]
        elif (version := re.search(r"\bNCCL version ([\d.]+)", line)) is not None:
            test.version = version[1]
        elif re.match(r"#\s+size\s+count\s", line):
            test.headings = line.lstrip("# ").split()
        elif (average := re.match(r"# Avg bus bandwidth\s*:\s*([\d.]+)", line)) is not None:
            test.bandwidth = float(average[1])
        elif _LINE.match(line) and test.headings:
            cells = line.split()
            if len(cells) != len(test.headings):
                raise Unreadable(
                    f"{file.name}: '{line.strip()}' has {len(cells)} cells under {len(test.headings)} headings."
                )
            test.lines.append(cells)
    return tests


def _run(file: File, said: Said, index: int, test: _Test, dtype: str) -> Run:
    name = said.settings.get("kernel", test.name)
    if name is None:
        raise Unreadable(f"{file.name} does not say which collective ran. Give --set kernel=all_reduce, or another.")
    devices = sorted(set(test.devices.values()))
    if len(devices) > 1:
        raise Unreadable(
            f"{file.name} was measured on several kinds of device: {', '.join(devices)}. Their rows are no one's."
        )
    ranks = len(test.devices) or said.settings.get("num_devices")
    if ranks is None:
        raise Unreadable(f"{file.name} does not say how many devices took part. Give --set num_devices=...")
    kernel = _KERNELS.get(name, name)
    rows, num_wrong = _rows(test, dtype, kernel, ranks)
    notes = []
    if num_wrong:
        notes.append(f"{num_wrong} results were wrong.")
    samples = []
    if test.bandwidth is not None:
        samples = _importing.sample("nccl_tests:avg_bus_bandwidth", test.bandwidth * 1e9, "B/s")
    return Run(
        cell=f"test {index} {name} {dtype}",
        columns={
            "phase": "microbench", "kernel": kernel, "num_devices": ranks, "weight_dtype": _DTYPES.get(dtype),
            "activation_dtype": _DTYPES.get(dtype), "framework": "nccl", "framework_version": test.version,
            "execution": {True: "graph", False: "eager", None: None}[test.is_graph], "num_samples": len(rows),
        },
        device=devices[0] if devices else None,
        notes=notes,
        exclusion_reason="results were wrong" if num_wrong else None,
        samples=samples,
        kernels=rows,
    )  # fmt: skip


def _rows(test: _Test, dtype: str, kernel: str, ranks: int) -> tuple[list[dict[str, Any]], int]:
    """Rows of `kernels`, out of place then in place for every line, and how many results were wrong."""
    rows, num_wrong = [], 0
    first = test.headings.index("time")
    width = test.headings[first + 1 :].index("time") + 1 if test.headings.count("time") > 1 else 0
    for cells in test.lines:
        if cells[test.headings.index("type")] != dtype:
            continue
        whole = float(cells[0])
        for place, start in (("out of place", first), ("in place", first + width))[: 2 if width else 1]:
            wrong = cells[start + 3] if start + 3 < len(cells) else "N/A"
            num_wrong += int(float(wrong)) if re.fullmatch(r"[\d.e+]+", wrong) and "#wrong" in test.headings else 0
            if cells[start] == "N/A":
                continue
            rows.append(
                {
                    "kernel": kernel,
                    "op_kind": kernel if kernel in _KERNELS.values() else "communication",
                    "name": f"{test.name}_perf" if test.name else kernel,
                    "implementation": place,
                    "num_devices": ranks,
                    "size_bytes": whole / ranks if kernel in ("all_gather", "gather") else whole,
                    "time_s": float(cells[start]) * US,
                }
            )
    return rows, num_wrong
