"""Who launched what in a trace, and what it adds up to: rows of `ops` by module and kernel, times by device.

A kernel belongs to its launch (by correlation), the launch to the operators and modules whose ranges enclose it on its thread,
a backward operator to the module of the forward that made it. What is handed out is in seconds.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from collectors import _kernel_kinds, _op_kinds
from collectors._trace import (
    COLLECTIVE,
    KERNEL,
    LAUNCH,
    MEMCPY,
    MODULE,
    MODULE_PREFIX,
    NN_MODULE,
    ON_DEVICE,
    OPERATOR,
    OPTIMIZER,
    STEP,
    Floats,
    Indices,
    Trace,
)


@dataclass(frozen=True)
class DeviceTime:
    """What one device did, in seconds. Sums count overlapping streams twice, unions once.

    `busy_s` is the union of kernels, copies and fills, `span_s` from the first to the last of them, exposed communication
    what no other work of the device covers.
    """

    device: int
    num_kernels: int
    kernel_sum_s: float
    memcpy_sum_s: float
    memset_sum_s: float
    busy_s: float
    span_s: float
    longest_gap_s: float
    communication_s: float
    exposed_communication_s: float

    @property
    def idle_s(self) -> float:
        """Between the first and the last thing it did, when it did nothing."""
        return self.span_s - self.busy_s


@dataclass
class _Nesting:
    """For every event the nearest one of a sort that encloses it on its thread, itself included; -1 for none.

    `work` is the operator whose closed form counts, `backward` an operator of a backward pass, `parent_module` of a module
    the one around it. `self_us` of an operator leaves out those it calls.
    """

    operator: list[int]
    module: list[int]
    work: list[int]
    backward: list[int]
    optimizer: list[int]
    self_us: list[float]
    parent_module: dict[int, int] = field(default_factory=dict)


@dataclass
class _Folded:
    """Equal kernels of one module, or the calls of one module: how many, how long in all, and what each is."""

    row: dict[str, Any]
    calls: int = 0
    time_us: float = 0.0


class Launches:
    """A trace with every kernel (without a device: every operator) attributed.

    Where the trace marks profiler steps, rows and `kernel_time_s` are of one step: the mean of those in which anything was
    launched, and what was launched outside them does not count. Else they are of the whole trace.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._is_on_device = trace.is_on_device
        self._nesting = _nest(trace)
        launched = [index for index in trace.of(LAUNCH).tolist() if trace.correlation[index] > 0]
        self._by_correlation = dict(zip(trace.correlation[launched].tolist(), launched, strict=True))
        made = trace.of(OPERATOR)
        made = made[(trace.sequence[made] >= 0) & ~trace.is_backward[made]]
        self._forward = dict(
            zip(trace.sequence[made].tolist(), made.tolist(), strict=True)
        )  # the last one made the node
        self._everything = self._issued()
        steps = self._steps_of(np.array([anchor for _, anchor in self._everything], np.int64))
        self.num_steps = len(np.unique(steps[steps >= 0]))
        self._counted = [
            one for one, step in zip(self._everything, steps, strict=True) if step >= 0 or not self.num_steps
        ]

    # ---- rows

    def kernel_rows(self, phase: str | None) -> list[dict[str, Any]]:
        """Rows of `ops` at level 'kernel', equal ones of a module folded, in order of first launch; without run_id and op_index.

        Values are of one launch and `count` of one execution: count x time over all rows is the time of all kernels of one.
        `device_time_s` is a kernel's; without a device the rows are operators, and `time_s` what each took outside others.
        `phase` is the run's; in a trace with a backward pass its parts are named instead.
        """
        trace, nesting, modules = self.trace, self._nesting, self._module_names
        is_training = any(one >= 0 for one in nesting.backward)
        folded: dict[tuple[Any, ...], _Folded] = {}
        for index, anchor in self._counted:
            operator, work = (nesting.operator[anchor], nesting.work[anchor]) if anchor >= 0 else (-1, -1)
            counts = work >= 0 and self._main_kernels.get(work) == index
            module, part = self._place(anchor)
            path, class_name = modules.get(module, (None, ""))
            shapes = self._shapes(work if counts else operator if self._is_on_device else -1)
            key = (path, trace.name_id[index], part, shapes, counts)
            if key not in folded:
                shown = short_name(trace.name_of(index)) if trace.category[index] == KERNEL else trace.name_of(index)
                before = path if path is not None else self._replay(anchor)
                folded[key] = _Folded(
                    {
                        "path": shown if before is None else f"{before}/{shown}",
                        "parent_path": path,
                        "level": "kernel",
                        "layer_index": None if path is None else _layer(path),
                        "op_kind": self._kind(
                            index, operator, None if path is None else _op_kinds.op_kind(path, class_name)
                        ),
                        "phase": part or ("forward" if is_training else phase),
                        "shapes": shapes,
                        **self._work_columns(index, work if counts else -1),
                    }
                )
            folded[key].calls += 1
            folded[key].time_us += self._spent_us(index)
        return self._averaged(folded.values())

    def module_rows(self, phase: str | None) -> list[dict[str, Any]]:
        """Rows of `ops` of the modules that annotations name, parents before children, with the time of what their forward
        launched, like `kernel_rows`. What a container launches itself is a leaf `<path>.(self)`."""
        above = self._nesting.parent_module
        own = dict.fromkeys(self._module_names, 0.0)
        for index, anchor in self._counted:
            module, part = self._place(anchor)
            if part is None and module in own:
                own[module] += self._spent_us(index)
        whole = dict.fromkeys(own, 0.0)
        for module, spent in own.items():
            around = module
            while around in whole:
                whole[around] += spent
                around = above[around]
        containers = {self._module_names[above[module]][0] for module in own if above[module] in own}
        folded: dict[tuple[Any, ...], _Folded] = {}
        for module, (path, class_name) in self._module_names.items():
            parent = self._module_names[above[module]][0] if above[module] in own else None
            kind = _op_kinds.op_kind(path, class_name)
            row = {"path": path, "parent_path": parent, "level": "module", "class_name": class_name,
                   "layer_index": _layer(path), "op_kind": kind, "phase": phase}  # fmt: skip
            rest = row | {"path": f"{path}.(self)", "parent_path": path, "class_name": None,
                          "op_kind": "attention" if kind == "attention" else "other"}  # fmt: skip
            for one, spent in ((row, whole[module]), (rest, own[module])):
                if one is row or path in containers:
                    entry = folded.setdefault((one["path"], one["parent_path"]), _Folded(one))
                    entry.calls += 1
                    entry.time_us += spent
        return self._averaged(folded.values())

    # ---- times

    def kernel_time_s(self) -> float | None:
        """Time in which at least one kernel ran on any device, per execution; None for a trace without a device."""
        if not self._is_on_device:
            return None
        kernels = [index for index, _ in self._counted if self.trace.category[index] == KERNEL]
        return _length(_union(self.trace, np.array(kernels, np.int64))) / self.num_executions

    def operator_sum_s(self) -> float | None:
        """Time of all operators and collectives on the CPU, each outside those it called, threads added up; None for a trace
        with a device. Of the whole trace."""
        if self._is_on_device:
            return None
        return sum(self._nesting.self_us[index] for index, _ in self._everything) / 1e6

    def launch_lag_s(self) -> float | None:
        """Median time from the start of a launch to the start of its (first) kernel; None where no launch was recorded.

        Some microseconds: kernels wait for the host. Much more: they queue behind one another, and the device sets the pace.
        """
        trace, lags = self.trace, dict[int, float]()
        for index in trace.of(KERNEL).tolist():
            launch = self._by_correlation.get(int(trace.correlation[index]))
            if launch is not None:
                lags.setdefault(launch, float(trace.start_us[index] - trace.start_us[launch]))
        return max(0.0, float(np.median(list(lags.values())))) / 1e6 if lags else None

    def device_times(self, *, counted: bool = False) -> list[DeviceTime]:
        """What every device did: over the whole trace, or (all steps together) what counts for an execution."""
        trace = self.trace
        found = np.array([index for index, _ in (self._counted if counted else self._everything)], np.int64)
        found = found[np.isin(trace.category[found], ON_DEVICE)]
        speaking = [_kernel_kinds.kernel_kind(name) in _kernel_kinds.COMMUNICATION for name in trace.names]
        is_communication = np.array(speaking, bool)[trace.name_id] & (trace.category == KERNEL)
        times = []
        for device in np.unique(trace.device[found]).tolist():
            here = found[trace.device[found] == device]
            kernels, copies, fills = (here[trace.category[here] == one] for one in ON_DEVICE)
            busy = _union(trace, here)
            gaps = busy[1:, 0] - busy[:-1, 1]
            times.append(
                DeviceTime(
                    device=device,
                    num_kernels=len(kernels),
                    kernel_sum_s=float(trace.duration_us[kernels].sum()) / 1e6,
                    memcpy_sum_s=float(trace.duration_us[copies].sum()) / 1e6,
                    memset_sum_s=float(trace.duration_us[fills].sum()) / 1e6,
                    busy_s=_length(busy),
                    span_s=float(busy[-1, 1] - busy[0, 0]) / 1e6,
                    longest_gap_s=float(gaps.max(initial=0.0)) / 1e6,
                    communication_s=_length(_union(trace, here[is_communication[here]])),
                    exposed_communication_s=_length(busy) - _length(_union(trace, here[~is_communication[here]])),
                )
            )
        return times

    @property
    def num_executions(self) -> int:
        """What rows are averaged over: steps that did anything, or the whole trace as one."""
        return max(1, self.num_steps)

    # ---- parts

    def _issued(self) -> list[tuple[int, int]]:
        """(event, what issued it or -1) of everything whose time counts, by start: a device's work, else operators."""
        trace = self.trace
        if not self._is_on_device:
            return [(index, index) for index in trace.of(OPERATOR, COLLECTIVE).tolist()]
        operators = trace.of(OPERATOR)
        by_external = dict(zip(trace.external_id[operators].tolist(), operators.tolist(), strict=True))
        by_external.pop(-1, None)
        issued = []
        for index in trace.of(*ON_DEVICE).tolist():
            launch = self._by_correlation.get(int(trace.correlation[index]), -1)
            if launch < 0 or self._nesting.operator[launch] < 0:
                launch = by_external.get(int(trace.external_id[index]), launch)
            issued.append((index, launch))
        return issued

    def _steps_of(self, events: Indices) -> Indices:
        """Index of the profiler step that each event starts in, shape (events,); -1 for none, and for event -1."""
        steps = np.array(self.trace.steps()).reshape(-1, 2)
        at_us = np.append(self.trace.start_us, -np.inf)[events]
        step = np.searchsorted(steps[:, 0], at_us, side="right") - 1
        return np.where((step >= 0) & (at_us <= np.append(steps[:, 1], -np.inf)[step]), step, -1)

    @functools.cached_property
    def _module_names(self) -> dict[int, tuple[str, str]]:
        """Module event that counts -> (path, class), by start: our annotations say both, Python's stack how classes nest."""
        found: dict[int, tuple[str, str]] = {}
        events = self.trace.of(MODULE)
        if self.num_steps:
            events = events[self._steps_of(events) >= 0]
        for index in events.tolist():
            name = self.trace.name_of(index)
            if name.startswith(MODULE_PREFIX):
                path, _, class_name = name.removeprefix(MODULE_PREFIX).rpartition(":")
                found[index] = path or class_name, class_name
            else:
                numbered = name.removeprefix(NN_MODULE)
                above = found.get(self._nesting.parent_module[index])
                found[index] = f"{above[0]}.{numbered}" if above else numbered, numbered.rpartition("_")[0] or numbered
        return found

    @functools.cached_property
    def _main_kernels(self) -> dict[int, int]:
        """Operator with a closed form -> the longest of its kernels, which its FLOPs count on (without a device: itself)."""
        mains: dict[int, int] = {}
        for index, anchor in self._everything:
            work = self._nesting.work[anchor] if anchor >= 0 else -1
            if work < 0 or (not self._is_on_device and work != index):
                continue
            if work not in mains or self.trace.duration_us[index] > self.trace.duration_us[mains[work]]:
                mains[work] = index
        return mains

    def _place(self, anchor: int) -> tuple[int, str | None]:
        """(module, part of a training step or None) of what was issued at `anchor`."""
        if anchor < 0:
            return -1, None
        module, backward = self._nesting.module[anchor], self._nesting.backward[anchor]
        if backward >= 0:
            made_by = self._forward.get(int(self.trace.sequence[backward]), -1)
            return (self._nesting.module[made_by] if module < 0 <= made_by else module), "backward"
        return module, "optimizer" if self._nesting.optimizer[anchor] >= 0 else None

    def _replay(self, anchor: int) -> str | None:
        """Name of the call that replayed a graph, the only parent that its kernels have; None for other launches."""
        name = self.trace.name_of(anchor) if anchor >= 0 and self.trace.category[anchor] == LAUNCH else ""
        return name if "GraphLaunch" in name else None

    def _kind(self, index: int, operator: int, module_kind: str | None) -> str:
        name, category = self.trace.name_of(index), self.trace.category[index]
        if category in ON_DEVICE and category != KERNEL:
            return _kernel_kinds.copy_kind(name) if category == MEMCPY else "other"
        return _kernel_kinds.kernel_kind(name, None if operator < 0 else self.trace.name_of(operator), module_kind)

    def _shapes(self, operator: int) -> str | None:
        if operator < 0 or self.trace.detail[operator] < 0:
            return None
        return json.dumps(self.trace.details[self.trace.detail[operator]][0])

    def _work_columns(self, index: int, operator: int) -> dict[str, Any]:
        """FLOPs, sizes and least traffic of an operator's main kernel; of a copy the bytes it says."""
        work = _work(self.trace, operator) if operator >= 0 else None
        if work is not None:
            width = _kernel_kinds.element_bytes(self.trace.details[self.trace.detail[operator]][1])
            moved = None if width is None else work.elements * width
            return {"flops": work.flops, "m": work.m, "n": work.n, "k": work.k, "bytes_moved": moved}
        size = float(self.trace.size_bytes[index])
        return {"bytes_moved": size} if size >= 0 else {}

    def _spent_us(self, index: int) -> float:
        return float(self.trace.duration_us[index]) if self._is_on_device else self._nesting.self_us[index]

    def _averaged(self, folded: Any) -> list[dict[str, Any]]:
        """Rows with count and mean time of one execution: their product is the time of all calls over the executions."""
        column = "device_time_s" if self._is_on_device else "time_s"
        rows = []
        for one in folded:
            count = max(1, round(one.calls / self.num_executions))
            rows.append(one.row | {"count": count, column: max(0.0, one.time_us) / 1e6 / self.num_executions / count})
        return rows


def short_name(name: str) -> str:
    """A kernel's name without its return type and arguments, at most 200 characters."""
    name = name.removeprefix("void ").replace("(anonymous namespace)", "{anonymous}")
    depth = 0
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0 and position:
            name = name[:position]
            break
    return name if len(name) <= 200 else name[:199] + "…"


def _layer(path: str) -> int | None:
    """0-based layer of a module's path, also of `BertEncoder_0.BertLayer_3`."""
    numbered = re.search(r"(?:Layer|Block)_(\d+)(?:\.|$)", path)
    return int(numbered[1]) if numbered else _op_kinds.layer_index(path)


def _nest(trace: Trace) -> _Nesting:
    """Nest the events of every thread by their times."""
    none = [-1] * len(trace.category)
    nesting = _Nesting(list(none), list(none), list(none), list(none), list(none), trace.duration_us.tolist())
    category, duration, is_backward = trace.category.tolist(), trace.duration_us.tolist(), trace.is_backward.tolist()
    enclosed = list(_enclosed(trace))
    for index, above in enclosed:
        for found in (nesting.operator, nesting.module, nesting.backward, nesting.optimizer):
            found[index] = found[above] if above >= 0 else -1
        if category[index] == OPERATOR:
            if nesting.operator[index] >= 0:
                nesting.self_us[nesting.operator[index]] -= duration[index]
            nesting.operator[index] = index
            nesting.backward[index] = index if is_backward[index] else nesting.backward[index]
        elif category[index] == MODULE:
            nesting.parent_module[index] = nesting.module[index]
            nesting.module[index] = index
        elif category[index] == OPTIMIZER:
            nesting.optimizer[index] = index
    parent = dict(enclosed)
    counts = {index for index in parent if _work(trace, index) is not None}
    for index in reversed(list(parent)):  # of operators inside one another only the innermost counts
        above = parent[index]
        while index in counts and above >= 0:
            counts.discard(above)
            above = parent[above]
    for index, above in enclosed:
        nesting.work[index] = index if index in counts else nesting.work[above] if above >= 0 else -1
    return nesting


def _enclosed(trace: Trace) -> Iterator[tuple[int, int]]:
    """(event, the nearest one around it or -1) of everything on the host, outer ones first."""
    start, end, lane = trace.start_us.tolist(), trace.end_us.tolist(), trace.lane.tolist()
    host = np.flatnonzero(~np.isin(trace.category, (*ON_DEVICE, STEP)))
    order = host[np.lexsort((-trace.duration_us[host], trace.start_us[host], trace.lane[host]))]
    stack: list[int] = []
    for index in order.tolist():
        while stack and (lane[stack[-1]] != lane[index] or end[stack[-1]] <= start[index]):
            stack.pop()
        yield index, stack[-1] if stack else -1
        stack.append(index)


def _work(trace: Trace, operator: int) -> _kernel_kinds.Work | None:
    """Work of an operator by the shapes recorded with it."""
    if trace.detail[operator] < 0:
        return None
    shapes, _, values = trace.details[trace.detail[operator]]
    return _kernel_kinds.closed_form(trace.name_of(operator), shapes, values)


def _union(trace: Trace, events: Indices) -> Floats:
    """Intervals in which at least one of the events ran, shape (intervals, 2), in microseconds, by start."""
    order = events[np.argsort(trace.start_us[events], kind="stable")]
    if not len(order):
        return np.empty((0, 2))
    start = trace.start_us[order]
    end = np.maximum.accumulate(start + trace.duration_us[order])
    first = np.flatnonzero(np.append(True, start[1:] > end[:-1]))
    return np.stack([start[first], end[np.append(first[1:] - 1, len(end) - 1)]], axis=1)


def _length(intervals: Floats) -> float:
    return float((intervals[:, 1] - intervals[:, 0]).sum()) / 1e6
