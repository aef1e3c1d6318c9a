"""The best cut of a model's layers into pipeline stages, from the seconds of every layer: dynamic programming as PipeDream's.

Stages hold neighbouring layers; the slowest one sets the pace of the pipeline, so the cut with the least slowest stage is
the best one. Seconds may be modelled (ops of `evaluate`) or measured (op rows of a profile).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MEASURED = ("time_s", "device_time_s", "cpu_time_s")
"""Time columns of rows that hold containers beside their parts; only the parts count."""

_OUTSIDE = ("send_recv", "optimizer")
"""Op kinds that no layer owns: transfers between stages are what a cut adds, the update comes after the pipeline."""


@dataclass(frozen=True)
class Split:
    """A cut into stages: stage i holds units bounds[i] to bounds[i + 1] - 1, and takes stage_s[i]."""

    bounds: tuple[int, ...]
    stage_s: tuple[float, ...]
    bottleneck_s: float
    """Seconds of the slowest stage."""
    balance: float
    """Mean over maximum of stage_s: 1 where no stage waits for another."""


@dataclass(frozen=True)
class Units:
    """What a cut may separate, in order: embedding, layers, head; and the seconds of each."""

    names: tuple[str, ...]
    seconds: tuple[float, ...]


def split(
    layer_s: ArrayLike,
    num_stages: int,
    *,
    boundary_s: float | ArrayLike = 0.0,
    layer_bytes: ArrayLike | None = None,
    stage_limit_bytes: float | ArrayLike | None = None,
    speeds: ArrayLike | None = None,
) -> Split:
    """The cut of layers into stages whose slowest stage is fastest, in O(layers^2 x stages).

    `layer_s` are seconds, shape (layers,). `boundary_s`, one number or shape (layers - 1,), is what the stage before a cut
    takes to send its output. `layer_bytes`, shape (layers,), and `stage_limit_bytes`, one number or one a stage, forbid
    stages that do not fit. `speeds`, one a stage, are relative to the device that `layer_s` is of; the order of stages stays.
    Every stage holds a layer. Raises ValueError for more stages than layers, for impossible numbers, and where nothing fits.
    """
    costs = _Costs(layer_s, num_stages, boundary_s, layer_bytes, stage_limit_bytes, speeds)
    best = np.full(costs.num_layers + 1, np.inf)
    best[0] = 0.0
    choices = []
    for stage in range(num_stages):
        slowest = np.maximum(best[:, None], costs.stage(stage))
        choices.append(np.argmin(slowest, axis=0))
        best = slowest[choices[-1], np.arange(best.size)]
    if not np.isfinite(best[-1]):
        raise ValueError(costs.nothing_fits())
    bounds = [costs.num_layers]
    for choice in reversed(choices):
        bounds.append(int(choice[bounds[-1]]))
    return costs.split(bounds[::-1])


def equal_split(
    layer_s: ArrayLike, num_stages: int, *, boundary_s: float | ArrayLike = 0.0, speeds: ArrayLike | None = None
) -> Split:
    """The cut into equal numbers of layers, the first stages one more where they do not divide; memory is not looked at."""
    costs = _Costs(layer_s, num_stages, boundary_s, None, None, speeds)
    counts = [len(part) for part in np.array_split(np.arange(costs.num_layers), num_stages)]
    return costs.split([0, *itertools.accumulate(counts)])


def layer_units(ops: pa.Table, num_layers: int, *, seconds: str = "roofline_s") -> Units:
    """Seconds of embedding, layers and head, from the ops of ONE run: those of `evaluate` or measured rows.

    `seconds` is the time column: roofline_s or estimate_s, or one of MEASURED. A row of a layer (layer_index) is that
    layer's; ops folded over layers (a `*` in the path) are shared equally among `num_layers`; what is met before the first
    layer is the embedding's, what else is outside layers is the head's, an untraced remainder of the model included.
    Raises ValueError where a layer or the column is absent.
    """
    if seconds not in ops.column_names or ops.column(seconds).null_count == ops.num_rows:
        raise ValueError(f"these ops have no {seconds}. Known: {', '.join(ops.column_names)}.")
    rows = sorted(ops.to_pylist(), key=lambda row: row["op_index"])
    if seconds in MEASURED:
        parents = {row["parent_path"] for row in rows}
        rows = [row for row in rows if row["path"] not in parents]
    layers, embedding, head = np.zeros(num_layers), 0.0, 0.0
    found: set[int] = set()
    early: set[str] = set()
    for row in rows:
        if row["op_kind"] in _OUTSIDE or row[seconds] is None:
            continue
        time_s, layer = row[seconds] * row["count"], row.get("layer_index")
        if layer is not None:
            if not 0 <= layer < num_layers:
                raise ValueError(f"'{row['path']}' is of layer {layer}, but num_layers is {num_layers}.")
            layers[layer] += time_s
            found.add(layer)
        elif "*" in row["path"]:
            layers += time_s / num_layers
            found.update(range(num_layers))
        elif not found or row["path"].removeprefix("last_chunk.") in early:
            early.add(row["path"])
            embedding += time_s
        else:
            head += time_s
    if len(found) < num_layers:
        raise ValueError(f"these ops have {len(found)} of {num_layers} layers.")
    names = ("embedding", *(f"layer {index}" for index in range(num_layers)), "head")
    return Units(names, (float(embedding), *map(float, layers), float(head)))


class _Costs:
    """Seconds of every possible stage; infinite where it is empty or does not fit."""

    def __init__(
        self,
        layer_s: ArrayLike,
        num_stages: int,
        boundary_s: float | ArrayLike,
        layer_bytes: ArrayLike | None,
        limits: float | ArrayLike | None,
        speeds: ArrayLike | None,
    ) -> None:
        seconds = _numbers("layer_s", layer_s)
        self.num_layers, self.num_stages = seconds.size, num_stages
        if not 1 <= num_stages <= self.num_layers:
            raise ValueError(
                f"{self.num_layers} layers cannot make {num_stages} stages: every stage holds at least one."
            )
        if (layer_bytes is None) != (limits is None):
            raise ValueError("layer_bytes and stage_limit_bytes go together: give both or neither.")
        self.sums = np.concatenate([[0.0], np.cumsum(seconds)])
        sending = _numbers("boundary_s", boundary_s, self.num_layers - 1)
        self.sent = np.concatenate([[0.0], sending, [0.0]])
        self.speeds = _numbers("speeds", 1.0 if speeds is None else speeds, num_stages)
        if np.any(self.speeds == 0):
            raise ValueError("speeds must be above 0.")
        self.bytes = (
            np.zeros(self.num_layers) if layer_bytes is None else _numbers("layer_bytes", layer_bytes, self.num_layers)
        )
        self.byte_sums = np.concatenate([[0.0], np.cumsum(self.bytes)])
        self.limits = (
            np.full(num_stages, np.inf) if limits is None else _numbers("stage_limit_bytes", limits, num_stages)
        )

    def stage(self, stage: int) -> Array:
        """Seconds of one stage by its first layer and the first layer after it, shape (layers + 1, layers + 1)."""
        seconds = (self.sums[None, :] - self.sums[:, None]) / self.speeds[stage] + self.sent[None, :]
        size = self.byte_sums[None, :] - self.byte_sums[:, None]
        is_empty = np.tri(self.num_layers + 1, dtype=np.bool_)
        return np.where(is_empty | (size > self.limits[stage] * (1 + 1e-12)), np.inf, seconds)

    def split(self, bounds: Sequence[int]) -> Split:
        """What a cut costs."""
        stages = enumerate(itertools.pairwise(bounds))
        seconds = [
            float((self.sums[end] - self.sums[start]) / self.speeds[stage] + self.sent[end])
            for stage, (start, end) in stages
        ]
        slowest = max(seconds)
        balance = float(np.mean(seconds)) / slowest if slowest > 0 else 1.0
        return Split(tuple(map(int, bounds)), tuple(seconds), slowest, balance)

    def nothing_fits(self) -> str:
        largest, limit = float(self.bytes.max()), float(self.limits.max())
        if largest > limit:
            return f"no cut fits: one layer alone takes {largest:.4g} bytes, a stage holds {limit:.4g}."
        return (
            f"no cut of {self.num_layers} layers into {self.num_stages} stages fits: they take {self.bytes.sum():.4g} "
            f"bytes in all, the stages hold {self.limits.sum():.4g}. Use more stages or more memory."
        )


def _numbers(name: str, values: float | ArrayLike, size: int | None = None) -> Array:
    """Finite numbers of 0 or more, shape (size,); one number stands for all."""
    numbers = np.asarray(values, np.float64)
    if size is not None and numbers.ndim == 0:
        numbers = np.full(size, numbers)
    if numbers.ndim != 1 or (size is not None and numbers.size != size):
        wanted = "a list of numbers" if size is None else f"one number or {size}"
        raise ValueError(f"{name} must be {wanted}, not shape {numbers.shape}.")
    if not np.all(np.isfinite(numbers) & (numbers >= 0)):
        raise ValueError(f"{name} must be finite and 0 or more.")
    return numbers
