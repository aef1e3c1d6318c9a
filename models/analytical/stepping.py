"""Many steps in closed form: an op's FLOPs and bytes are affine in the context between kinks, so sums need no loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.analytical.inventory import Array, Group, Op, Value, largest

_FIELDS = (
    "flops", "weights", "read", "written", "kv_read", "kv_written", "sent", "hops", "over_host", "hidden",
    "hidden_memory",
)  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """Steps between whose first and last, shape (configurations,), every op's work is affine; `count` may be 0."""

    first: Array
    last: Array
    count: Array


def steps(
    step: Callable[[Array], Sequence[Op]], group: Group, segments: Sequence[Segment], *, index: int
) -> list[Op]:  # fmt: skip
    """Ops of all steps of all segments, each as the mean of one execution, executed as often as there are steps.

    `step` gives the ops at a context (or after a past). `index` is the op_index of the first op.
    """
    count = np.asarray(sum(segment.count for segment in segments), np.float64)
    taken = [segment for segment in segments if np.any(segment.count > 0)] or list(segments[:1])
    ends = [(step(segment.first), step(segment.last)) for segment in taken]
    columns = zip(*(zip(start, end, strict=True) for start, end in ends), strict=True)
    counts = [segment.count for segment in taken]
    return [_fold(list(pairs), counts, count, group, index) for pairs in columns]


def _fold(ends: list[tuple[Op, Op]], counts: list[Array], count: Array, group: Group, index: int) -> Op:
    """One op over all segments: means of one execution."""
    op = ends[0][0]
    steps_taken = np.maximum(count, 1.0)
    sums: dict[str, Any] = {}
    for name in _FIELDS:
        pairs = [(getattr(start, name), getattr(end, name)) for start, end in ends]
        if not any(isinstance(value, np.ndarray) or value for pair in pairs for value in pair):
            continue  # nothing of the kind in any step
        sums[name] = sum((a + b) / 2 * number for (a, b), number in zip(pairs, counts, strict=True)) / steps_taken
    seconds = sum(_bound_of(start, end, number, group) for (start, end), number in zip(ends, counts, strict=True))
    live = largest(*(end.live for pair in ends for end in pair))
    return replace(
        op.moved(index), **sums, count=op.count * count, seconds=seconds / steps_taken, live=np.where(count > 0, live, 0.0),
        gemm=None if op.gemm is None else _mean_gemm(ends, counts, steps_taken),
    )  # fmt: skip


def _mean_gemm(ends: list[tuple[Op, Op]], counts: list[Array], steps_taken: Array) -> tuple[Value, Value, Value]:
    """m, n, k of the mean step."""
    sizes = []
    for position in range(3):
        total: Value = 0.0
        for (start, end), number in zip(ends, counts, strict=True):
            if start.gemm is not None and end.gemm is not None:
                total = total + (start.gemm[position] + end.gemm[position]) / 2 * number
        sizes.append(total / steps_taken)
    return sizes[0], sizes[1], sizes[2]


def _bound_of(start: Op, end: Op, number: Array, group: Group) -> Value:
    """Sum over `number` steps of max(compute, memory), both affine from the first step to the last."""
    peak = group.peak(start)
    compute = (start.flops / peak, end.flops / peak)
    memory = (start.bytes_moved / group.bandwidth, end.bytes_moved / group.bandwidth)
    before, after = np.asarray(compute[0] - memory[0]), np.asarray(compute[1] - memory[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.where(before * after < 0, before / (before - after) * (number - 1), number)
    head = np.clip(np.floor(crossing) + 1, 0, number)  # steps on the first step's side of the ridge
    is_compute = (before > 0) | ((before == 0) & (after > 0))
    leading = _affine_sum(compute, head, number), _affine_sum(memory, head, number)
    whole = _affine_sum(compute, number, number), _affine_sum(memory, number, number)
    as_compute = leading[0] + whole[1] - leading[1]
    as_memory = leading[1] + whole[0] - leading[0]
    return np.where(number > 0, np.maximum(np.where(is_compute, as_compute, as_memory), 0.0), 0.0)


def _affine_sum(ends: tuple[Value, Value], head: Array, number: Array) -> Array:
    """Sum of the first `head` of `number` equally spaced values from ends[0] to ends[1]."""
    slope = (ends[1] - ends[0]) / np.maximum(number - 1, 1)
    return ends[0] * head + slope * head * (head - 1) / 2
