"""Questions asked backwards: which device keeps a promise for the least money, how large a batch may be, which architecture is best.

A promise holds where the pessimistic end of the 90 % interval keeps it: with 95 % confidence, for the other end has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.analytical.search import Layout, layouts
from models.learned import answering
from models.learned.answering import Answered, Known, configurations
from models.learned.inputs import Array, Mask, labels
from models.learned.subjects import devices
from warehouse import catalog, metrics, schema
from warehouse.catalog.llm import Llm

MEMORY, RATE = "memory_peak_bytes", "output_tokens_per_s"
MOST_SEQUENCES = 4096
"""Largest batch that is tried."""
STEPS = 48
"""Batches tried between the last that keeps every promise and the first that does not."""

Limits = Mapping[str, float]
"""Metric -> what it may be at most (at least, where more is better), in SI units."""


def cheapest(
    llm: str | Llm,
    hardware_ids: Sequence[str],
    work: Mapping[str, Any],
    limits: Limits,
    known: Known,
    *,
    max_devices: int = 8,
    prices: Mapping[str, float] | None = None,
) -> pa.Table:
    """Every device and layout that could do a piece of work, the cheapest that keeps every limit first.

    `work`: configuration columns without device and layout (phase, batch_size, tokens, dtypes ...). Layouts are those of
    `models.analytical.search`. `prices`: USD a device and hour by hardware_id, else the catalogue's; without a price a row stands
    behind those with one. Columns: those of the layout, usd_per_hour, usd_per_million_tokens (where the work makes tokens), of every
    limited metric and of memory the predicted value and `<metric>_worst`, made_by, chance_of_fitting, is_feasible, reason.
    """
    shape = catalog.find_llm(llm) if isinstance(llm, str) else llm
    check(limits)
    found = layouts(shape, max_devices)
    grid = [(name, layout) for name in dict.fromkeys(hardware_ids) for layout in found]
    if not grid:
        raise ValueError("a search for the cheapest device needs at least one device. Name some with --hardware.")
    configs = _configs(work, shape, grid)
    answered = answering.answer(configs, _with(known, shape), only=[*limits, MEMORY, "latency_s", RATE])
    price = np.array([_price(name, prices) for name, _ in grid]) * [layout.num_devices for _, layout in grid]
    verdict = judge(answered, limits)
    table = _sheet(answered, verdict, [*limits, MEMORY])
    table = table.append_column("usd_per_hour", answering.nullable(price))
    seconds = answered.columns["latency_s"].value
    table = table.append_column(
        "usd_per_million_tokens", answering.nullable(price / 3600 / answered.columns[RATE].value * 1e6)
    )
    order = np.lexsort([seconds, np.nan_to_num(price, nan=np.inf), ~verdict.is_feasible])
    return table.take(pa.array(order))


def largest_batch(config: Mapping[str, Any], limits: Limits, known: Known, *, most: int = MOST_SEQUENCES) -> pa.Table:
    """Batches of a configuration from one sequence up, with the first that breaks a promise; the last feasible row is the answer.

    Memory must hold at its safe end, and every limit at its pessimistic one. The rows are geometric steps and, between the last
    that holds and the first that does not, every batch (or STEPS of them). A batch counts as feasible where all smaller ones are.
    """
    check(limits)
    tried: npt.NDArray[np.int64] = np.unique(np.rint(np.geomspace(1, most, STEPS)).astype(np.int64))
    answered, verdict = _try(config, tried, limits, known)
    held = _leading(verdict.is_feasible)
    if 0 < held < len(tried):
        between = np.unique(np.rint(np.linspace(tried[held - 1], tried[held], STEPS)).astype(np.int64))
        tried = np.union1d(tried[: held + 1], between)
        answered, verdict = _try(config, tried, limits, known)
        held = _leading(verdict.is_feasible)
    return _sheet(answered, verdict, [*limits, MEMORY]).slice(0, held + 1)


@dataclass(frozen=True)
class Objective:
    """What a search over architectures minimises: a number for the keys of a config.json, in the metric's SI unit.

    `work`: configuration columns without the LLM. The call gives the pessimistic end of the interval (the value where there is none),
    infinity for an architecture that cannot run so, does not fit or whose config.json makes no sense: a search goes on. `predict`
    gives everything, for many at once. Raises ValueError for work that is none, whatever the architecture.
    """

    work: Mapping[str, Any]
    known: Known = field(default_factory=Known)
    metric: str = "latency_s"

    def __post_init__(self) -> None:
        configurations([dict(self.work)])
        if self.work.get("phase") not in answering.PHASES:
            raise ValueError(f"'{self.work.get('phase')}' is not a phase. Known: {', '.join(answering.PHASES)}.")
        if self.metric not in metrics.BY_KEY:
            raise ValueError(f"'{self.metric}' is no metric. Known: {', '.join(metrics.BY_KEY)}.")

    def __call__(self, config: Mapping[str, Any]) -> float:
        """The number to minimise."""
        try:
            (row,) = self.predict([config])
        except ValueError:
            return float("inf")
        found = row[self.metric]
        if found is None or row["is_fitting"] is False:
            return float("inf")
        worst = found["value"] if found["upper"] is None else found["upper"]
        return float(worst if metrics.metric(self.metric).better != "higher" else -(found["lower"] or found["value"]))

    def predict(self, configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For every architecture latency_s, memory_peak_bytes and energy_per_output_token_j, each with value, lower, upper and
        made_by or None, and num_parameters, chance_of_fitting, is_fitting (the likelier; by the analytical model without a chance) and the
        reason where there is no answer.

        Raises ValueError for a config.json that makes no sense.
        """
        shapes = [Llm.from_config(f"candidate-{row}", dict(config)) for row, config in enumerate(configs)]
        table = configurations([dict(self.work) | {"llm_id": llm.llm_id} for llm in shapes])
        answered = answering.answer(table, _with(self.known, *shapes))
        chances = answered.chance_of_fitting()
        parameters = answered.rows.column("num_parameters").to_pylist()
        details = answered.rows.column("status_detail").to_pylist()
        fitting = answered.rows.column("is_fitting").to_pylist()
        return [
            {name: _said(column, row) for name, column in answered.columns.items()}
            | {
                "num_parameters": parameters[row],
                "chance_of_fitting": None if np.isnan(chances[row]) else float(chances[row]),
                "is_fitting": fitting[row] if np.isnan(chances[row]) else bool(chances[row] >= 0.5),
                "reason": details[row],
            }
            for row in range(len(shapes))
        ]


@dataclass(frozen=True)
class Verdict:
    """Which rows keep every limit, and of the others why not; shape (n,)."""

    is_feasible: Mask
    reasons: Sequence[str | None]


def judge(answered: Answered, limits: Limits) -> Verdict:
    """Whether the pessimistic end of every limited metric, and the memory, hold; the first that does not is the reason."""
    length = len(answered)
    capacity = devices.device(answered.rows, "memory_bytes")
    refused = [
        detail if status != "ok" else None
        for status, detail in zip(
            *(answered.rows.column(name).to_pylist() for name in ("status", "status_detail")), strict=True
        )
    ]
    is_served = labels(answered.rows, "phase").mask(
        "serve"
    )  # a load has no analytical row, and steps only where a sequence fits
    reasons: list[str | None] = [None if served else detail for served, detail in zip(is_served, refused, strict=True)]
    memory = worst(answered, MEMORY)
    checks = [
        (MEMORY, np.where(is_served, 0.0, memory), np.where(is_served, np.inf, capacity)),
        *((name, worst(answered, name), np.full(length, most)) for name, most in limits.items()),
    ]
    for name, value, limit in checks:
        metric = metrics.metric(name)
        is_higher = metric.better == "higher"
        with np.errstate(invalid="ignore"):
            holds = value >= limit if is_higher else value <= limit
        for row in np.flatnonzero(~holds):
            if reasons[row] is None:
                reasons[row] = _broken(name, float(value[row]), float(limit[row]))
    return Verdict(np.array([reason is None for reason in reasons], np.bool_), reasons)


def worst(answered: Answered, metric: str) -> Array:
    """The pessimistic end of a metric's interval, the value where it has none; shape (n,)."""
    if metric in answering.MEMORY:
        return answered.safe(metric)
    column = answered.columns[metric]
    end = column.lower if metrics.metric(metric).better == "higher" else column.upper
    return np.asarray(np.where(np.isfinite(end), end, column.value), np.float64)


def check(limits: Limits) -> None:
    """Raise ValueError for a limit on what is no metric, or that nothing can keep."""
    for name, most in limits.items():
        if name not in metrics.BY_KEY:
            raise ValueError(f"'{name}' is no metric. Known: {', '.join(metrics.BY_KEY)}.")
        if not most > 0 or not np.isfinite(most):
            raise ValueError(f"The limit on {name} must be above 0, not {most}.")


def _configs(work: Mapping[str, Any], llm: Llm, grid: Sequence[tuple[str, Layout]]) -> pa.Table:
    table = configurations([dict(work) | {"llm_id": llm.llm_id}] * len(grid))
    columns = {
        "hardware_id": [name for name, _ in grid],
        "num_devices": [layout.num_devices for _, layout in grid],
        **{
            f"{name}_parallel": [getattr(layout, name) for _, layout in grid]
            for name in ("tensor", "pipeline", "data", "expert")
        },
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, schema.RUNS.column(name).type))
    return table


def _try(
    config: Mapping[str, Any], batches: npt.NDArray[np.int64], limits: Limits, known: Known
) -> tuple[Answered, Verdict]:
    table = configurations([dict(config) | {"batch_size": int(batch)} for batch in batches])
    answered = answering.answer(table, known, only=[*limits, MEMORY])
    return answered, judge(answered, limits)


def _sheet(answered: Answered, verdict: Verdict, names: Sequence[str]) -> pa.Table:
    """Layout, batch, answers and verdict of every row."""
    kept = (
        "hardware_id",
        "num_devices",
        "tensor_parallel",
        "pipeline_parallel",
        "data_parallel",
        "expert_parallel",
        "batch_size",
    )
    table = answered.rows.select(kept)
    for name in dict.fromkeys(names):
        column = answered.columns[name]
        made_by = np.array([*answering.MADE_BY, None], dtype=object)[column.made_by]
        table = table.append_column(name, answering.nullable(column.value))
        table = table.append_column(f"{name}_worst", answering.nullable(worst(answered, name)))
        table = table.append_column(f"{name}_made_by", pa.array(made_by, pa.string()))
    table = table.append_column("chance_of_fitting", answering.nullable(answered.chance_of_fitting()))
    table = table.append_column("is_feasible", pa.array(verdict.is_feasible))
    return table.append_column("reason", pa.array(verdict.reasons, pa.string()))


def _leading(is_feasible: Mask) -> int:
    """Rows before the first that is not feasible."""
    return int(len(is_feasible) if is_feasible.all() else np.argmin(is_feasible))


def _broken(name: str, value: float, limit: float) -> str:
    metric = metrics.metric(name)
    if np.isnan(value):
        return f"Nothing is known about {name} of it."
    if np.isnan(limit):
        return "The device's memory is not in the catalogue."
    shown, allowed = (_quantity(one * metric.display_factor, metric.display_unit) for one in (value, limit))
    if name == MEMORY:
        return f"{metric.label} may reach {shown}, the device has {allowed}."
    if metric.better == "higher":
        return f"{metric.label} may be as little as {shown}, at least {allowed} is asked."
    return f"{metric.label} may reach {shown}, at most {allowed} is allowed."


def _quantity(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}".strip() if value >= 1000 else f"{value:.4g} {unit}".strip()


def _said(column: answering.Column, row: int) -> dict[str, Any] | None:
    if np.isnan(column.value[row]):
        return None
    found = {name: float(getattr(column, name)[row]) for name in ("value", "lower", "upper")}
    return {name: None if np.isnan(value) else value for name, value in found.items()} | {
        "made_by": answering.MADE_BY[column.made_by[row]]
    }


def _with(known: Known, *llms: Llm) -> Known:
    return Known(known.predictors, known.hardware, (*known.llms, *llms), known.calibrations)


def _price(hardware_id: str, given: Mapping[str, float] | None) -> float:
    if given is not None:
        return given.get(hardware_id, np.nan)
    found = catalog.price(hardware_id)
    return np.nan if found is None else float(found["usd_per_device_hour"])
