"""Constants of the estimate from measured times: errors in log space, made small one constant at a time.

`fit` takes measured runs, and measured kinds of op, of configurations; `fit_parts` takes ops. A constant that no row tells
stays near where it started: a small penalty on leaving it decides between equals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.analytical.devices import HardwareRows
from models.analytical.engine import RULESETS
from models.analytical.estimate import NAMES, Constants, hide, op_seconds, run_seconds
from models.analytical.inventory import Array, Group, Op, Value
from models.analytical.rows import Brought, Llms, Rows
from warehouse import schema

BOUNDS: Mapping[str, tuple[float, float]] = {
    "matrix_efficiency": (0.02, 1.0),
    "attention_efficiency": (0.02, 1.0),
    "vector_efficiency": (0.005, 1.0),
    "bandwidth_efficiency": (0.02, 1.0),
    "kernel_s": (1e-8, 1e-3),
    "dispatch_s": (1e-7, 1e-3),
    "step_s": (1e-6, 1.0),
    "collective_s": (1e-8, 1e-3),
    "link_efficiency": (0.02, 1.0),
}
"""What a constant may be: efficiencies never above 1, so that an estimate is never below the bound."""

STEPS = (1.5, 1.15, 1.04, 1.01)
"""Factors by which a constant is tried smaller and larger, coarse to fine."""

ROUNDS = 40
"""Rounds over all constants with one factor, at most."""

SMOOTH = 0.1
"""Relative error below which squares count, above it absolute values."""

HOSTS = (1.0, 4.0, 0.25)
"""Factors on dispatch_s that a search starts from: where the host decides, nothing else moves an estimate, and no small step
leads there."""

PENALTY = 0.001
"""Loss for every factor e that a constant leaves its start by."""

FEWEST_RUNS = 8
FEWEST_CONFIGS = 4
"""Runs and configurations of a device under a profile below which nothing is fitted."""


@dataclass(frozen=True)
class Part:
    """Measured seconds of ops of one kind under one execution profile, shape (rows,)."""

    op: Op
    group: Group
    execution: str
    seconds: Array


def ratios(part: Part, constants: Constants) -> Array:
    """Measured over estimated seconds of every row."""
    estimate, _ = op_seconds(part.op, part.group, part.execution, constants)
    return np.asarray(part.seconds / estimate)


def fit_parts(parts: Sequence[Part], start: Constants, names: Sequence[str]) -> Constants:
    """The constants `names` that make the mean distance of measured and estimate over the parts smallest; others as in `start`."""

    def loss(constants: Constants) -> float:
        return float(np.mean([np.mean(_distance(ratios(part, constants))) for part in parts]))

    return descend(loss, start, names)


def _distance(ratio: Array) -> Array:
    """|log(measured / estimate)|, rounded off within SMOOTH of 0: no outlier pulls, and no kink stops the search."""
    return np.sqrt(np.log(ratio) ** 2 + SMOOTH**2) - SMOOTH


def descend(loss: Callable[[Constants], float], start: Constants, names: Sequence[str]) -> Constants:
    """Pattern search in log space: one constant after the other, then once more the way that all of them went together.

    Needs no derivative: few constants, cheap losses.
    """
    best, least = start, loss(start)

    def take(values: Mapping[str, float]) -> None:
        nonlocal best, least
        tried = replace(best, **{name: float(np.clip(value, *BOUNDS[name])) for name, value in values.items()})
        error = loss(tried)
        if error < least:
            best, least = tried, error

    for factor in STEPS:
        for _ in range(ROUNDS):
            before, base = least, best
            for name in names:
                for change in (factor, 1 / factor):
                    take({name: getattr(best, name) * change})
            if before - least < 1e-5:
                break
            take({name: getattr(best, name) ** 2 / getattr(base, name) for name in names})
    return best


# Measured configurations


FITTED = (
    "matrix_efficiency",
    "bandwidth_efficiency",
    "vector_efficiency",
    "attention_efficiency",
    "kernel_s",
    "dispatch_s",
    "step_s",
)
"""What single devices tell."""

_TOGETHER = ("collective_s", "link_efficiency")
"""What several devices tell as well."""


@dataclass(frozen=True)
class Fit:
    """Rows of table `calibrations`, and sentences on what was left out and why."""

    rows: list[dict[str, Any]]
    notes: list[str]


def fit(
    measured: pa.Table,
    *,
    fitted_at: datetime,
    snapshot_id: int | None = None,
    hardware: HardwareRows | None = None,
    llms: Llms | None = None,
) -> Fit:
    """Constants of every device and execution profile with enough measured runs.

    `measured`: configuration columns, `execution` (NULL for the usual one of the attention implementation), `measured_s`, and
    `op_kind`: NULL for the time of one execution of the phase, else that of all executions of a kind of op in it. FLOPs and
    bytes are counted anew. The quantiles are of runs held out: constants fitted on every other configuration. Raises
    UnknownEntryError for an LLM or device that nobody knows.
    """
    problems, notes = _problems(measured, hardware, llms)
    rows = []
    for (hardware_id, execution), problem in sorted(problems.items()):
        runs = problem.runs
        if runs.size < FEWEST_RUNS or np.unique(runs).size < FEWEST_CONFIGS:
            notes.append(
                f"{hardware_id} under profile {execution}: {runs.size} measured runs of {np.unique(runs).size} configurations "
                f"are too few: {FEWEST_RUNS} runs of {FEWEST_CONFIGS} configurations are needed."
            )
            continue
        rows.append(_row(hardware_id, execution, problem, fitted_at, snapshot_id))
    return Fit(rows, notes)


@dataclass(frozen=True)
class _Block:
    """Ops of configurations that the engine counts together, and which they are."""

    ops: tuple[Op, ...]
    group: Group
    index: NDArray[np.intp]
    passes: Value


@dataclass(frozen=True)
class _Problem:
    """One device and profile: ops of its configurations, and what was measured of which configuration."""

    blocks: list[_Block]
    start: Constants
    config: NDArray[np.intp]
    """Configuration of a measured time."""
    kind: list[str | None]
    """Kind of op that a time is of; None for the run."""
    seconds: Array
    num_configs: int
    execution: str

    @property
    def runs(self) -> NDArray[np.intp]:
        """Configurations of the times of runs."""
        return self.config[[kind is None for kind in self.kind]]

    def times(self, constants: Constants) -> dict[str | None, Array]:
        """Estimated seconds of every configuration: by kind of op, and, under None, of the run."""
        times: dict[str | None, Array] = {kind: np.zeros(self.num_configs) for kind in {*self.kind, None}}
        for block in self.blocks:
            device_s, kernels = np.zeros(block.index.size), np.zeros(block.index.size)
            timed = [op_seconds(op, block.group, self.execution, constants) for op in block.ops]
            left = hide(block.ops, [seconds for seconds, _ in timed], self.execution)
            for op, seconds, (_, launched) in zip(block.ops, left, timed, strict=True):
                device_s, kernels = device_s + seconds * op.count, kernels + launched * op.count
                if op.kind in times:
                    times[op.kind][block.index] += seconds * op.count
            times[None][block.index], _ = run_seconds(device_s, kernels, constants, block.passes)
        return times

    def ratios(self, constants: Constants) -> Array:
        """Measured over estimated seconds; NaN for a kind that the profile does not run."""
        times = self.times(constants)
        estimates = np.array([times[kind][config] for kind, config in zip(self.kind, self.config, strict=True)])
        return np.where(estimates > 0, self.seconds / np.where(estimates > 0, estimates, 1.0), np.nan)

    def fit(self, is_chosen: NDArray[np.bool_]) -> Constants:
        """Constants for the chosen times. Runs weigh as much as all their kinds of op together."""
        is_run = np.array([kind is None for kind in self.kind])
        names = FITTED + (_TOGETHER if any(_is_sent(op) for block in self.blocks for op in block.ops) else ())

        def loss(constants: Constants) -> float:
            errors = _distance(self.ratios(constants))
            means = [
                float(np.nanmean(errors[mask])) for mask in (is_chosen & is_run, is_chosen & ~is_run) if mask.any()
            ]
            left = [abs(np.log(getattr(constants, name) / getattr(start, name))) for name in names]
            return float(np.nanmean(means)) + PENALTY * float(np.mean(left))

        start = replace(
            self.start, **{name: float(np.clip(getattr(self.start, name), *BOUNDS[name])) for name in names}
        )
        hosts = [replace(start, dispatch_s=start.dispatch_s * factor) for factor in HOSTS]
        return min((descend(loss, host, names) for host in hosts), key=loss)


def _is_sent(op: Op) -> bool:
    return bool(np.any(op.sent) or np.any(op.over_host))


def _problems(
    measured: pa.Table, hardware: HardwareRows | None, llms: Llms | None
) -> tuple[dict[tuple[str, str], _Problem], list[str]]:
    """Measured times by device and profile, with the ops that explain them; and sentences on what is left out."""
    ids = np.array(schema.config_ids(measured).to_pylist(), str)
    executions = np.array([value or "" for value in measured.column("execution").to_pylist()], str)
    keys, first, config = np.unique(np.char.add(ids, executions), return_index=True, return_inverse=True)
    ruleset = RULESETS["default"]
    rows = Rows(measured.take(pa.array(first)), ruleset.rules, Brought.of(hardware, llms))
    blocks: dict[tuple[str, str], list[_Block]] = {}
    starts: dict[tuple[str, str], Constants] = {}
    for part in rows.parts():
        for code in np.unique(rows.device_codes[part.index]):
            index = part.index[rows.device_codes[part.index] == code]
            group = rows.group(index)
            if np.any(group.pipeline_parallel > 1):
                continue
            inventory = ruleset.inventory(part, group)
            key = (rows.devices[code].hardware_id, part.execution)
            blocks.setdefault(key, []).append(_Block(inventory.ops, group, index, inventory.passes))
            starts[key] = rows.constants(part, index)
    seconds = measured.column("measured_s").to_numpy()
    kinds = measured.column("op_kind").to_pylist()
    problems = {}
    for key, own in blocks.items():
        known = {op.kind for block in own for op in block.ops}
        here = np.isin(config, np.concatenate([block.index for block in own]))
        chosen = [row for row in np.flatnonzero(here) if kinds[row] is None or kinds[row] in known]
        problems[key] = _Problem(
            own, starts[key], config[chosen], [kinds[row] for row in chosen], seconds[chosen], keys.size, key[1]
        )
    answered = {index for own in blocks.values() for block in own for index in block.index}
    num_others = keys.size - len(answered)
    notes = (
        [f"{num_others} configurations have no estimate, or run in pipeline stages: left out."] if num_others else []
    )
    return problems, notes


def _row(
    hardware_id: str, execution: str, problem: _Problem, fitted_at: datetime, snapshot_id: int | None
) -> dict[str, Any]:
    """Constants fitted on all times; quantiles of runs whose configurations were not fitted on."""
    is_run = np.array([kind is None for kind in problem.kind])
    halves = np.unique(problem.config, return_inverse=True)[1] % 2 == 0
    held_out = [problem.ratios(problem.fit(half))[~half & is_run] for half in (halves, ~halves)]
    low, middle, high = np.quantile(np.concatenate(held_out), [0.05, 0.5, 0.95])
    fitted = replace(problem.fit(np.ones_like(is_run)), ratio_p05=low, ratio_p50=middle, ratio_p95=high)
    values = {name: float(np.max(getattr(fitted, name))) for name in NAMES}
    num_kinds = int((~is_run).sum())
    source = (
        f"{int(is_run.sum())} runs{f' and {num_kinds} kinds of op in them' if num_kinds else ''} of "
        f"{np.unique(problem.config).size} configurations of this lake; quantiles of runs held out."
    )
    row = {
        "device_class": hardware_id,
        "execution": execution,
        **values,
        "num_rows": problem.seconds.size,
        "source": source,
    }
    return {
        "calibration_id": schema.digest("calibration", row),
        **row,
        "snapshot_id": snapshot_id,
        "fitted_at": fitted_at,
    }
