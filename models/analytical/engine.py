"""Evaluation: configurations in, totals and ops out, all configurations of one LLM, phase and attention kind at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models.analytical import default, estimate, llmviewer, memory, tables, training
from models.analytical.devices import HardwareRows
from models.analytical.inventory import Array, Group, Inventory, Op, Value, is_some
from models.analytical.rows import TRAINING, Brought, Llms, Part, Rows, Rules, run_of, sharing
from warehouse import catalog

TOTALS = (
    "flops", "bytes_moved", "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read",
    "kv_bytes_written", "arithmetic_intensity", "weights_bytes", "kv_cache_bytes", "activation_peak_bytes",
    "logits_bytes", "gradients_bytes", "optimizer_bytes", "workspace_bytes", "memory_peak_bytes", "max_batch_size",
    "max_context_tokens", "roofline_s", "compute_s", "memory_s", "communication_s", "compute_elasticity",
    "bandwidth_elasticity", "link_elasticity", "estimate_s", "estimate_lower_s", "estimate_upper_s", "launch_s",
    "output_tokens_per_s", "total_tokens_per_s", "power_avg_w", "energy_j", "energy_per_output_token_j",
    "usd_per_million_tokens",
)  # fmt: skip
RESULTS = (*TOTALS, *tables.LABELS)
"""Columns that `evaluate` adds to the configurations."""

IDLE_POWER_SHARE = 0.25
"""Assumed share of its board power that a device draws while it waits; the rest is drawn in proportion to how busy the
busier of its units and its memory is. So energy never exceeds TDP x time."""


@dataclass(frozen=True)
class Ruleset:
    """One way of counting."""

    name: str
    rules: Rules
    inventory: Callable[[Part, Group], Inventory]


def _default(part: Part, group: Group) -> Inventory:
    if part.phase in TRAINING:
        return training.inventory(part.llm, part.phase, group, is_fused=part.is_fused, options=part.options)
    return default.inventory(
        part.llm, part.phase, group,
        is_fused=part.is_fused, is_dequantized=part.is_dequantized, options=part.options,
    )  # fmt: skip


def _peer(part: Part, group: Group) -> Inventory:
    return llmviewer.inventory(part.llm, part.phase, group, is_fused=part.is_fused)


RULESETS = {
    "default": Ruleset("default", Rules(lambda _: None, default.refuse, False), _default),
    "llmviewer-472f71f": Ruleset("llmviewer-472f71f", Rules(llmviewer.device, llmviewer.refuse, True), _peer),
}


def evaluate(
    configs: pa.Table,
    ruleset: str = "default",
    *,
    with_ops: bool = True,
    hardware: HardwareRows | None = None,
    llms: Llms | None = None,
    calibrations: Iterable[Mapping[str, Any]] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Analytical totals and ops of every configuration.

    `configs` holds (some of) the configuration columns of `runs`, and `execution`, the profile of the estimate, one row a
    configuration. Totals: the columns of `configs`, unchanged and in order (others than configuration columns too), then
    RESULTS. Ops: columns of `ops`, and `config_row`, the 0-based row of `configs`; in order of (config_row, op_index); empty
    unless `with_ops`.

    Work (FLOPs and bytes) is summed over all devices; memory and a GEMM's m, n, k are of one device; seconds are of one
    execution of the phase. Tokens per second are those of the bound; energy and cost are those of the estimate. A row without
    an answer has status `unsupported`, a sentence, and no number.
    `hardware` and `llms` extend the catalogue or override it, `calibrations` (rows of that table) the shipped constants. Raises
    UnknownEntryError for an LLM or device that neither knows, ValueError for an unknown ruleset or a column of the wrong type.
    """
    if ruleset not in RULESETS:
        raise ValueError(
            f"'{ruleset}' is not a ruleset. Known: {', '.join(RULESETS)}. Add it in models/analytical/engine.py."
        )
    chosen = RULESETS[ruleset]
    brought = Brought.of(hardware, llms, calibrations)
    answers = [
        _evaluate(configs.slice(start, SLICE), start, chosen, with_ops, brought)
        for start in range(0, max(configs.num_rows, 1), SLICE)
    ]
    totals = [totals for totals, _ in answers]
    return pa.concat_tables(totals), tables.in_order([table for _, ops in answers for table in ops])


SLICE = 65_536
"""Rows evaluated together: enough to share what is alike, few enough for the memory near the processor."""


def _evaluate(
    configs: pa.Table, start: int, chosen: Ruleset, with_ops: bool, brought: Brought
) -> tuple[pa.Table, list[pa.Table]]:
    """Totals and ops of a slice of the configurations that begins at row `start`."""
    rows = Rows(configs, chosen.rules, brought)
    totals = {name: np.full(rows.num_rows, np.nan) for name in TOTALS}
    op_tables = []
    for part in rows.parts():
        for index in rows.blocks(part):
            group = rows.group(index)
            inventory = chosen.inventory(part, group)
            constants = None if rows.rules.is_peer else rows.constants(part, index)
            timed = [_times(op, group, part.execution, constants) for op in inventory.ops]
            if constants is not None and any(op.beside for op in inventory.ops):
                left = estimate.hide(inventory.ops, [times[4] for times in timed], part.execution)
                timed = [(*times[:4], seconds, times[5]) for times, seconds in zip(timed, left, strict=True)]
            answers = _sum(part.phase, inventory.ops, timed, group) | _memory(inventory)
            if constants is not None:
                answers |= _estimate(answers, inventory.passes, constants) | _limits(part, group, inventory)
            here = run_of(index)
            for name in TOTALS:
                if name in answers:
                    totals[name][here] = answers[name]
            if with_ops:
                op_tables.append(tables.op_table(part.phase, inventory.ops, timed, group, index + start))
    op_tables = _drop_unbounded(totals, op_tables, rows, start)
    price_ids = _judge(totals, rows)
    return tables.totals_table(configs, totals, rows, chosen.name, price_ids), op_tables


def _drop_unbounded(totals: dict[str, Array], op_tables: list[pa.Table], rows: Rows, start: int) -> list[pa.Table]:
    """Refuses rows that got no bound: they have no numbers and no ops. Returns the ops of the others."""
    refused = rows.refuse_unbounded(totals["roofline_s"])
    if not refused.any():
        return op_tables
    for values in totals.values():
        values[refused] = np.nan
    return [table.filter(pa.array(~refused[table.column("config_row").to_numpy() - start])) for table in op_tables]


def _times(op: Op, group: Group, execution: str, constants: estimate.Constants | None) -> tuple[Value, ...]:
    """Seconds of compute, memory, communication, the bound and the estimate of one execution of an op, and its kernels."""
    compute = op.flops / group.peak(op) if is_some(op.flops) else 0.0
    moved = op.bytes_moved
    stored = moved / group.bandwidth if is_some(moved) else 0.0
    sent = group.sent_seconds(op)
    bound = np.maximum(compute, stored) if op.seconds is None else op.seconds
    if is_some(sent):
        bound = bound + np.nan_to_num(sent)
    if is_some(op.hidden):
        bound = np.maximum(bound - op.hidden, 0.0)
    if constants is None:
        return compute, stored, sent, bound, np.nan, np.nan
    return compute, stored, sent, bound, *estimate.op_seconds(op, group, execution, constants)


def _sum(phase: str, ops: tuple[Op, ...], timed: list[tuple[Value, ...]], group: Group) -> dict[str, Value]:
    """Totals over the ops: work of all devices, seconds of one execution.

    Inference ops pass all stages of a pipeline, which work side by side on micro-batches: m of them through p stages take
    (m + p - 1) turns of a p-th. Training ops are those of the mean stage, its bubble among them.
    """
    sums = _Sums()
    for op, times in zip(ops, timed, strict=True):
        for name, field in tables.WORK.items():
            sums.add(name, getattr(op, field), op.count)
        for name, value in zip(_SECONDS, times, strict=True):
            sums.add(name, value, op.count)
        if is_some(op.hidden):
            _expose(sums, op, times)
        elif not is_some(times[2]):
            _take_sides(sums, op, times)
    work = {name: sums.total(name) for name in tables.WORK}
    seconds = {name: sums.total(name) for name in (*_SECONDS, "compute_side_s", "memory_side_s", "fixed_s")}
    stages, parts, devices = group.pipeline_parallel, group.micro_batches, sharing(phase, group)
    if phase not in TRAINING and np.any(stages > 1):
        share = (parts + stages - 1) / (parts * stages) if np.any(parts > 1) else 1.0
        seconds = {name: value * share for name, value in seconds.items()}
    if isinstance(devices, np.ndarray) or devices != 1:
        work = {name: value * devices for name, value in work.items()}
    moved = sum(value for name, value in work.items() if name != "flops")
    compute, stored, fixed = (seconds.pop(name) for name in ("compute_side_s", "memory_side_s", "fixed_s"))
    whole = seconds["roofline_s"]
    return {
        **seconds, **work, "bytes_moved": moved, "arithmetic_intensity": work["flops"] / moved,
        "compute_elasticity": np.maximum(compute / whole, 0.0), "bandwidth_elasticity": np.maximum(stored / whole, 0.0),
        "link_elasticity": np.maximum(1 - (compute + stored + fixed) / whole, 0.0),
    }  # fmt: skip


_SECONDS = ("compute_s", "memory_s", "communication_s", "roofline_s", "estimate_s", "num_kernels")
"""What `_times` gives, by the names of the totals."""


class _Sums:
    """Sums over executions. What is executed equally often is added first and multiplied once."""

    def __init__(self) -> None:
        self.counts: dict[object, Value] = {}
        self.values: dict[tuple[str, object], Value] = {}
        self.is_own: set[tuple[str, object]] = set()

    def add(self, name: str, value: Value, count: Value) -> None:
        if not is_some(value):
            return
        key: object = id(count) if isinstance(count, np.ndarray) else count
        self.counts[key] = count
        place = (name, key)
        before = self.values.get(place)
        if before is None:
            self.values[place] = value
        elif place in self.is_own and isinstance(before, np.ndarray):
            before += value
        else:
            self.values[place] = before + value
            if isinstance(self.values[place], np.ndarray):
                self.is_own.add(place)

    def total(self, name: str) -> Value:
        result: Value = 0.0
        for key, count in self.counts.items():
            if (name, key) in self.values:
                result = result + self.values[name, key] * count
        return result


def _take_sides(sums: _Sums, op: Op, times: tuple[Value, ...]) -> None:
    """An op's bound to the rate that sets it, the processor's or the memory's; of a mixture, each part to its own."""
    if op.sides is not None:
        sums.add("compute_side_s", op.sides[0], op.count)
        sums.add("memory_side_s", op.sides[1], op.count)
        sums.add("fixed_s", times[3] - sum(op.sides), op.count)
        return
    is_memory = np.asarray(times[0] < times[1])
    if is_memory.all():
        sums.add("memory_side_s", times[3], op.count)
    elif not is_memory.any():
        sums.add("compute_side_s", times[3], op.count)
    else:
        sums.add("memory_side_s", np.where(is_memory, times[3], 0.0), op.count)
        sums.add("compute_side_s", np.where(is_memory, 0.0, times[3]), op.count)


def _expose(sums: _Sums, op: Op, times: tuple[Value, ...]) -> None:
    """Where an op outlasts what hides it, the time follows its own rate, the processor's or a link's, and no longer theirs."""
    is_exposed = np.asarray(times[3]) > 0
    others = op.hidden_memory + op.hidden_link
    sides = {"compute_side_s": others - op.hidden, "memory_side_s": -op.hidden_memory}
    if not is_some(times[2]):
        sides["compute_side_s"] = others + times[3]
    for side, value in sides.items():
        sums.add(side, np.where(is_exposed, value, 0.0), op.count)


def _estimate(answers: Mapping[str, Value], passes: Value, constants: estimate.Constants) -> dict[str, Value]:
    seconds, launch = estimate.run_seconds(answers["estimate_s"], answers["num_kernels"], constants, passes)
    return {
        "estimate_s": seconds,
        "estimate_lower_s": np.maximum(seconds * constants.ratio_p05, answers["roofline_s"]),
        "estimate_upper_s": seconds * constants.ratio_p95,
        "launch_s": launch,
    }


def _memory(inventory: Inventory) -> dict[str, Value]:
    """Memory of one device by part. Logits are counted in the activations that are alive with them."""
    parts = {
        "weights_bytes": inventory.weights,
        "kv_cache_bytes": inventory.kv_cache,
        "activation_peak_bytes": inventory.activation_peak,
        "gradients_bytes": inventory.gradients,
        "optimizer_bytes": inventory.optimizer,
        "workspace_bytes": inventory.workspace,
    }
    return {**parts, "logits_bytes": inventory.logits, "memory_peak_bytes": sum(parts.values())}


def _limits(part: Part, group: Group, inventory: Inventory) -> dict[str, Value]:
    """What the rest of the memory has room for."""
    fixed = inventory.weights + inventory.gradients + inventory.optimizer + inventory.steady
    growing = inventory.kv_cache + inventory.activation_peak
    limits: dict[str, Value] = {"max_batch_size": memory.max_batch(group, fixed, growing, inventory.update)}
    if part.llm.architecture == "decoder" and part.phase in ("decode", "generate"):
        limits["max_context_tokens"] = memory.max_context(part.llm, part.phase, group, fixed, inventory)
    return limits


def _judge(totals: dict[str, Array], rows: Rows) -> list[str | None]:
    """Verdict on memory; rates, energy and cost of what is not known to exceed it. The peer gives none. Returns the price of
    every device."""
    prices = [None if rows.rules.is_peer else catalog.price(device.hardware_id) for device in rows.devices]
    price_ids = [None if price is None else str(price["price_id"]) for price in prices]
    if rows.rules.is_peer:
        return price_ids
    rows.note(totals["memory_peak_bytes"] > rows.memory, "does not fit: memory_peak_bytes is more than the device has.")
    rows.note(~rows.is_refused & np.isnan(rows.memory), "the device's memory is unknown: is_fitting is NULL.")
    inputs, outputs = rows.sizes["input_tokens"], rows.sizes["output_tokens"]
    sequences = rows.sizes["batch_size"] * rows.data_parallel
    sequences = np.where(totals["memory_peak_bytes"] > rows.memory, np.nan, sequences)
    produced, handled = np.full(rows.num_rows, np.nan), np.full(rows.num_rows, np.nan)
    for code, phase in enumerate(rows.phases.values):
        is_here = rows.phases.codes == code
        if phase == "decode":
            produced[is_here], handled[is_here] = 1.0, 1.0
        elif phase == "generate":
            produced[is_here], handled[is_here] = outputs[is_here], (inputs + outputs)[is_here]
        else:
            handled[is_here] = inputs[is_here]
    produced, handled = produced * sequences, handled * sequences
    totals["output_tokens_per_s"] = produced / totals["roofline_s"]
    totals["total_tokens_per_s"] = handled / totals["roofline_s"]
    _charge(totals, rows, produced, handled, prices)
    return price_ids


def _charge(
    totals: dict[str, Array], rows: Rows, produced: Array, handled: Array, prices: list[dict[str, Any] | None]
) -> None:
    """Energy and cost of the estimated time. Both are of all devices, waiting ones too.

    Of m micro-batches through p stages a device is at work m of (m + p - 1) turns; training ops are of one device already.
    """
    seconds = np.where(np.isnan(handled), np.nan, totals["estimate_s"])
    turns = rows.micro_batches / np.maximum(rows.micro_batches + rows.pipeline_parallel - 1, 1.0)
    for code, phase in enumerate(rows.phases.values):
        turns = np.where((rows.phases.codes == code) & (phase in TRAINING), 1.0, turns)
    busy = np.clip(turns * np.fmax(totals["compute_s"], totals["memory_s"]) / seconds, 0.0, 1.0)
    power = rows.num_devices * rows.tdp * (IDLE_POWER_SHARE + (1 - IDLE_POWER_SHARE) * busy)
    totals["power_avg_w"] = np.where(np.isnan(seconds), np.nan, power)
    totals["energy_j"] = power * seconds
    totals["energy_per_output_token_j"] = power * seconds / produced
    hourly = np.array([np.nan if price is None else price["usd_per_device_hour"] for price in prices] + [np.nan])
    cost = rows.num_devices * hourly[rows.device_codes] / 3600 * seconds
    totals["usd_per_million_tokens"] = cost * 1e6 / np.where(np.isnan(produced), handled, produced)
