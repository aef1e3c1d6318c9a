"""Analytical rows: the least time, the work and the memory of every configuration of a sweep, per op and in total.

Needs pyarrow and numpy only. A sweep is made, evaluated and landed in batches, by one process a core where it is large, so
that it takes the same memory whatever its size. Rows are deterministic: the same sweep under the same engine revision,
catalogue and ruleset lands the same files with the same bytes, also after it was killed half-way.

    python -m collectors roofline --llm-id llama-2-7b --hardware-id a100-sxm-80gb h100-sxm --phase prefill decode \\
        --batch-size 1 8 --input-tokens 512 2048 --context-tokens 512 2048 --dtypes fp16 w4a16 --attention flash
    python -m collectors roofline --llm-id llama-2-7b --hardware-id a100-sxm-80gb --phase pretrain_step --batch-size 1 4 \\
        --input-tokens 350 --dtypes bf16 --data-parallel 8 --optimizations none zero2 zero3+offload --optimizer-dtype bf16
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collectors import Collected, Report, silent
from models.analytical import ENGINE_REVISION, RULESETS, default, estimate, evaluate, llmviewer
from models.analytical.configs import Configs, check_size, dtype_names
from models.analytical.devices import Device, device_rows, find_device
from models.analytical.rows import OPTIMIZATIONS, TRAINING
from warehouse import catalog, parquet, schema
from warehouse.catalog.llm import Llm

PHASES = ("forward", "prefill", "decode", "generate", *TRAINING)
INTERCONNECTS = ("nvlink", "pcie")
BATCH = 131_072
"""Configurations of one file set, and in memory at a time in each process."""
BATCH_WITH_OPS = 16_384
"""The same where ops are landed: some twenty rows each, in training some sixty."""
WORKERS = 4
"""Processes of a large sweep, where there are as many cores and no other number is asked for: together under 2 GiB."""
_ADAPTERS = ("lora", "qlora")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command-line options, named like collect's keywords; every list is an axis of the cross product."""

    def axis(name: str, default: list[Any] | None, meaning: str, **options: Any) -> None:
        told = meaning if default is None else f"{meaning} ({' '.join(map(str, default))})"
        parser.add_argument(f"--{name}", nargs="+", default=default, help=told, **options)

    def number(name: str, default: int | None, meaning: str) -> None:
        axis(name, None if default is None else [default], meaning, type=int, metavar="N")

    known = "every one of the catalogue unless given"
    parser.add_argument("--llm-id", nargs="+", metavar="ID", help=f"LLMs; {known}")
    parser.add_argument("--hardware-id", nargs="+", metavar="ID", help=f"device types; {known}")
    axis("phase", ["prefill", "decode"], "what is executed", choices=PHASES)
    number("batch-size", 1, "sequences; of one device in training")
    number("input-tokens", 1024, "prompt tokens; sequence length in training")
    number("output-tokens", 128, "generated tokens, for generate")
    number("context-tokens", 1024, "tokens attended to by the step, for decode")
    number("prefix-tokens", 0, "prompt tokens found in the cache, for prefill and generate; 0 for none")
    number("chunk-tokens", 0, "prompt tokens taken at a time, for prefill and generate; 0 for the whole prompt")
    axis(
        "dtypes", ["fp16"], metavar="DTYPES",
        meaning="fp16, int8 ... for weights, activations and KV alike; w4a16, w8a8kv4 by bits; fp8/bf16/fp8 one by one",
    )  # fmt: skip
    axis("attention", ["flash"], "attention implementation", choices=schema.ATTENTIONS)
    number("tensor-parallel", 1, "devices a layer is divided over")
    number("pipeline-parallel", 1, "stages the layers are divided into")
    number("data-parallel", 1, "copies of the LLM; devices are the product of these three")
    number("expert-parallel", 1, "devices that experts are divided over, among those")
    number("num-micro-batches", 1, "parts that a batch is cut into")
    axis("interconnect", None, "link between devices; the device's own unless given", choices=INTERCONNECTS)
    axis(
        "optimizations", ["none"], metavar="NAMES",
        meaning=f"sets of names joined by +, as zero3+offload, or none; of {', '.join(OPTIMIZATIONS['training'])}",
    )  # fmt: skip
    dtypes = tuple(schema.DTYPE_BYTES)
    axis("optimizer-dtype", None, "dtype of an optimizer state, in training", choices=dtypes, metavar="DTYPE")
    axis("gradient-dtype", None, "dtype of gradients, in training", choices=dtypes, metavar="DTYPE")
    number("lora-rank", None, "rank of adapters, for finetune_step with lora or qlora")
    axis("execution", None, "execution profile of the estimate; by attention unless given", choices=schema.EXECUTIONS)
    parser.add_argument("--ruleset", choices=tuple(RULESETS), default="default", help="how to count (%(default)s)")
    parser.add_argument(
        "--with-ops", default="all", metavar="all|none|N", help="land the ops of all runs, of none, or of the first N"
    )
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help=f"processes for a large sweep; one a core, {WORKERS} at most, unless given",
    )


def collect(
    landing: Path,
    *,
    report: Report = silent,
    llm_id: Sequence[str] | None = None,
    hardware_id: Sequence[str] | None = None,
    phase: Sequence[str] = ("prefill", "decode"),
    batch_size: Sequence[int] = (1,),
    input_tokens: Sequence[int] = (1024,),
    output_tokens: Sequence[int] = (128,),
    context_tokens: Sequence[int] = (1024,),
    prefix_tokens: Sequence[int] = (0,),
    chunk_tokens: Sequence[int] = (0,),
    dtypes: Sequence[str] = ("fp16",),
    attention: Sequence[str] = ("flash",),
    tensor_parallel: Sequence[int] = (1,),
    pipeline_parallel: Sequence[int] = (1,),
    data_parallel: Sequence[int] = (1,),
    expert_parallel: Sequence[int] = (1,),
    num_micro_batches: Sequence[int] = (1,),
    interconnect: Sequence[str] | None = None,
    optimizations: Sequence[str] = ("none",),
    optimizer_dtype: Sequence[str] | None = None,
    gradient_dtype: Sequence[str] | None = None,
    lora_rank: Sequence[int] | None = None,
    execution: Sequence[str] | None = None,
    ruleset: str = "default",
    with_ops: str = "all",
    num_workers: int | None = None,
) -> Collected:
    """Evaluate the cross product and land it, batch by batch, as runs, ops and (with the first batch) the source.

    An axis that a phase does not have is left out of it: input_tokens counts for all but decode (and for the encoder in
    decode of an encoder-decoder), output_tokens for generate (and for the decoder in forward of one), context_tokens for
    decode, prefix_tokens and chunk_tokens for prefill and generate of decoders, the dtype of KV for all but training; the
    dtypes of optimizer and gradients and the optimizations of training for training, lora_rank for fine-tuning with
    adapters. Phases that an architecture lacks are left out and reported. What else a ruleset has no answer for lands as
    `unsupported`, counted in num_failed, and the reasons are reported. Raises UnknownEntryError for an LLM or device outside the catalogue, ValueError for a value that no row can
    have.
    """
    if ruleset not in RULESETS:
        raise ValueError(f"'{ruleset}' is not a ruleset. Known: {', '.join(RULESETS)}.")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be 1 or more, not {num_workers}.")
    llms = [catalog.find_llm(name) for name in llm_id] if llm_id is not None else list(catalog.llms().values())
    devices = list(catalog.hardware()) if hardware_id is None else [_hardware_id(name, ruleset) for name in hardware_id]
    axes = _Axes(
        devices=_distinct(devices),
        batch_sizes=_counts("batch_size", batch_size),
        lengths={
            "input_tokens": _counts("input_tokens", input_tokens),
            "output_tokens": _counts("output_tokens", output_tokens),
            "context_tokens": _counts("context_tokens", context_tokens),
            "prefix_tokens": _counts("prefix_tokens", prefix_tokens, absent=0),
            "chunk_tokens": _counts("chunk_tokens", chunk_tokens, absent=0),
        },
        dtypes=_distinct(dtype_names(name) for name in dtypes),
        attentions=_known("attention", attention, schema.ATTENTIONS),
        degrees={
            "tensor_parallel": _counts("tensor_parallel", tensor_parallel),
            "pipeline_parallel": _counts("pipeline_parallel", pipeline_parallel),
            "data_parallel": _counts("data_parallel", data_parallel),
            "expert_parallel": _counts("expert_parallel", expert_parallel),
            "num_micro_batches": _counts("num_micro_batches", num_micro_batches, absent=1),
        },
        interconnects=_known("interconnect", interconnect, INTERCONNECTS),
        optimizations=[_names_of(text) for text in _distinct(optimizations)],
        training_dtypes={
            "optimizer_dtype": _known("optimizer_dtype", optimizer_dtype, tuple(schema.DTYPE_BYTES)),
            "gradient_dtype": _known("gradient_dtype", gradient_dtype, tuple(schema.DTYPE_BYTES)),
        },
        lora_ranks=[None] if lora_rank is None else _counts("lora_rank", lora_rank),
        executions=None if execution is None else _known("execution", execution, schema.EXECUTIONS),
    )
    phases = _known("phase", phase, PHASES)
    blocks = [_block(alike, one, axes, report) for one in phases for alike in _alike(llms)]
    sweep = _Sweep(ruleset, tuple(block for block in blocks if block.num_rows), _ops_limit(with_ops))
    report(f"{sweep.num_rows} configurations under {ruleset}")
    return _land_sweep(landing, sweep, num_workers or min(os.cpu_count() or 1, WORKERS), report)


def twins(
    configs: pa.Table,
    landing: Path,
    *,
    report: Report = silent,
    hardware_rows: Iterable[Mapping[str, Any]] | None = None,
    llm_rows: Iterable[Mapping[str, Any]] | None = None,
    calibrations: Sequence[Mapping[str, Any]] = (),
) -> Collected:
    """Land the analytical row, with ops, of every distinct configuration of measured or published rows.

    `configs` holds the configuration columns, which are kept, so that config_id joins (only what config_id takes for the
    same is spelled out: an absent parallel degree of one device is 1); rows of a phase without a closed form are left out, and so is what has no answer, with a report. `hardware_rows` (rows of `hardware`) and `llm_rows` (rows of `llms`) describe what is
    not in the catalogue; a configuration of an LLM or device that neither knows is left out and reported. `calibrations` (rows
    of that table) come before the shipped constants; `execution` beside the configuration is the profile of the estimate.
    """
    kept = (*schema.CONFIGURATION_NAMES, "execution")
    configs = configs.select([name for name in kept if name in configs.column_names])
    configs = configs.filter(pc.is_in(configs.column("phase"), pa.array(PHASES)))
    first = np.unique(np.array(schema.config_ids(configs).to_pylist(), str), return_index=True)[1]
    configs = _spelled_out(configs.take(pa.array(np.sort(first))))
    hardware = device_rows(hardware_rows)
    llms = {row["llm_id"]: Llm.from_config(row["llm_id"], json.loads(row["config_json"])) for row in llm_rows or ()}
    finders: dict[str, Callable[[str], object]] = {
        "llm_id": lambda name: llms.get(name) or catalog.find_llm(name),
        "hardware_id": lambda name: find_device(name, RULESETS["default"].rules.device, hardware),
    }
    for column, find in finders.items():
        names = configs.column(column).unique().drop_null().to_pylist()
        known = [name for name in names if _is_found(find, name, report)]
        configs = configs.filter(pc.is_in(configs.column(column), pa.array(known, pa.string())))
    configs = _answered(configs, hardware, llms, report)
    if configs.num_rows == 0:
        return Collected(0, ())
    landed = _land(landing, configs, "default", configs.num_rows, hardware, llms, calibrations)
    report(f"{landed.num_runs} runs and {landed.num_ops} ops landed")
    return Collected(landed.num_runs, tuple(landed.paths), landed.num_failed)


def _answered(
    configs: pa.Table, hardware: Mapping[str, Mapping[str, Any]], llms: Mapping[str, Llm], report: Report
) -> pa.Table:
    """The configurations that the default ruleset answers; how many others there are and why is reported."""
    totals, _ = evaluate(configs, with_ops=False, hardware=hardware, llms=llms)
    is_answered = pc.equal(totals.column("status"), "ok")
    reasons = totals.filter(pc.invert(is_answered)).column("status_detail").to_pylist()
    for reason, count in Counter(reasons).items():
        report(f"{count} left out: {reason}")
    return configs.filter(is_answered)


def _spelled_out(configs: pa.Table) -> pa.Table:
    """Absent degrees as 1 and absent optimizations as none, as sweeps write them, so that equal config_ids are equal rows.

    Where several devices are stated without degrees, the tensor-parallel degree stays absent: the engine takes it from them.
    """
    one = pa.scalar(1, pa.int64())
    columns = {}
    for name in schema.CONFIGURATION_NAMES:
        arrow = schema.RUNS.column(name).type
        is_here = name in configs.column_names
        columns[name] = configs.column(name).cast(arrow) if is_here else pa.nulls(configs.num_rows, arrow)
    for name in ("pipeline_parallel", "data_parallel", "expert_parallel"):
        columns[name] = pc.coalesce(columns[name], one)
    is_single = pc.equal(pc.coalesce(columns["num_devices"], one), one)
    columns["tensor_parallel"] = pc.if_else(
        is_single, pc.coalesce(columns["tensor_parallel"], one), columns["tensor_parallel"]
    )
    degrees = pc.multiply(columns["pipeline_parallel"], columns["data_parallel"])
    is_one = pc.equal(pc.multiply(degrees, pc.coalesce(columns["tensor_parallel"], one)), one)
    columns["num_devices"] = pc.if_else(is_one, pc.coalesce(columns["num_devices"], one), columns["num_devices"])
    columns["optimizations"] = pc.coalesce(columns["optimizations"], pa.scalar([], columns["optimizations"].type))
    if "execution" in configs.column_names:
        columns["execution"] = configs.column("execution")
    return pa.table(columns)


def _is_found(find: Callable[[str], object], name: str, report: Report) -> bool:
    try:
        find(name)
    except (catalog.UnknownEntryError, ValueError) as error:
        report(f"left out: {error}")
        return False
    return True


# The cross product


@dataclass(frozen=True)
class _Axes:
    """Every axis of a sweep, its values distinct and in the order given; None is an absent value."""

    devices: list[str]
    batch_sizes: list[int | None]
    lengths: dict[str, list[int | None]]
    dtypes: list[tuple[str, str, str]]
    attentions: list[str | None]
    degrees: dict[str, list[int | None]]
    interconnects: list[str | None]
    optimizations: list[list[str]]
    training_dtypes: dict[str, list[str | None]]
    lora_ranks: list[int | None]
    executions: list[str | None] | None


@dataclass(frozen=True)
class _Block:
    """The cross product of axes in one phase, or nothing without any. Columns of an axis vary together; the last axis fastest."""

    axes: tuple[pa.Table, ...]

    @property
    def num_rows(self) -> int:
        return prod(axis.num_rows for axis in self.axes) if self.axes else 0

    def rows(self, start: int, stop: int) -> pa.Table:
        """Some of its configurations, as all configuration columns; the others are not made."""
        columns = _product(self.axes, start, stop)
        fields = [*map(schema.RUNS.arrow.field, schema.CONFIGURATION_NAMES)]
        arrays = [columns.pop(field.name, None) for field in fields]
        size = stop - start
        absent = [
            pa.nulls(size, field.type) if array is None else array for field, array in zip(fields, arrays, strict=True)
        ]
        return pa.table([*absent, *columns.values()], names=[*schema.CONFIGURATION_NAMES, *columns])


@dataclass(frozen=True)
class _Sweep:
    """Blocks, one after another."""

    ruleset: str
    blocks: tuple[_Block, ...]
    ops_limit: int | None
    """Runs, from the first on, whose ops are landed; None for all."""

    @property
    def num_rows(self) -> int:
        return sum(block.num_rows for block in self.blocks)

    def rows(self, start: int, stop: int) -> pa.Table:
        """The configurations of some of its rows."""
        tables = []
        for block in self.blocks:
            if start < block.num_rows and stop > 0:
                tables.append(block.rows(max(start, 0), min(stop, block.num_rows)))
            start, stop = start - block.num_rows, stop - block.num_rows
        return pa.concat_tables(tables)

    def batches(self) -> Iterator[tuple[int, int]]:
        """Where each batch starts and stops."""
        size = BATCH if self.ops_limit == 0 else BATCH_WITH_OPS
        return ((start, min(start + size, self.num_rows)) for start in range(0, self.num_rows, size))


def _product(axes: Sequence[pa.Table], start: int, stop: int) -> dict[str, pa.ChunkedArray]:
    """Columns of rows start to stop of a cross product; the last axis varies fastest."""
    index = np.arange(start, stop)
    columns: dict[str, pa.ChunkedArray] = {}
    for axis in reversed(axes):
        index, codes = (index, np.zeros_like(index)) if axis.num_rows == 1 else np.divmod(index, axis.num_rows)
        taken = axis.take(pa.array(codes))
        columns |= {name: taken.column(name) for name in axis.column_names}
    return columns


def _crossed(**axes: Sequence[Any]) -> pa.Table:
    """The cross product of small axes as one axis."""
    tables = [_axis(**{name: values}) for name, values in axes.items()]
    columns = _product(tables, 0, prod(table.num_rows for table in tables))
    return pa.table({name: columns[name] for name in axes})


def _axis(**columns: Sequence[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, schema.RUNS.column(name).type) for name, values in columns.items()})


def _alike(llms: Sequence[Llm]) -> list[list[Llm]]:
    """LLMs by what their lengths mean."""
    kinds = _distinct(llm.architecture for llm in llms)
    return [[llm for llm in llms if llm.architecture == kind] for kind in kinds]


def _block(llms: Sequence[Llm], phase: str, axes: _Axes, report: Report) -> _Block:
    """The configurations that LLMs which are alike can run in a phase; how many others there are and why is reported."""
    is_training = phase in TRAINING
    lengths = {name: axes.lengths[name] for name in _lengths_of(llms[0], phase)}
    tables = [
        _axis(llm_id=_distinct(llm.llm_id for llm in llms)),
        _axis(hardware_id=axes.devices),
        _axis(batch_size=axes.batch_sizes),
        _dtype_axis(axes.dtypes, is_training),
        _axis(attention=axes.attentions),
        _degree_axis(axes.degrees),
        _axis(interconnect=axes.interconnects),
        _optimization_axis(phase, axes.optimizations, axes.lora_ranks),
        *([_axis(**{name: values}) for name, values in axes.training_dtypes.items()] if is_training else []),
        *([] if axes.executions is None else [_axis(execution=axes.executions)]),
        _axis(phase=[phase]),
    ]
    others = prod(table.num_rows for table in tables)
    names = f"{llms[0].llm_id} and {len(llms) - 1} more" if len(llms) > 1 else llms[0].llm_id
    reason = None if is_training else default.refuse(llms[0], phase)
    if reason is not None:
        report(f"{others * prod(map(len, lengths.values()))} left out, {names}: {reason}")
        return _Block(())
    return _Block((*tables, *(_axis(**{name: values}) for name, values in lengths.items())))


def _lengths_of(llm: Llm, phase: str) -> tuple[str, ...]:
    """The length axes that a phase has."""
    own = {"decode": ("context_tokens",), "generate": ("input_tokens", "output_tokens")}.get(phase, ("input_tokens",))
    if llm.architecture == "encoder_decoder":
        return own + {"forward": ("output_tokens",), "decode": ("input_tokens",)}.get(phase, ())
    return (*own, "prefix_tokens", "chunk_tokens") if phase in ("prefill", "generate") else own


def _dtype_axis(dtypes: list[tuple[str, str, str]], is_training: bool) -> pa.Table:
    """Dtypes of weights, activations and, outside training, the KV cache."""
    triples = _distinct((weight, activation, None if is_training else kv) for weight, activation, kv in dtypes)
    columns = ("weight_dtype", "activation_dtype", "kv_dtype")
    return _axis(**{name: [triple[position] for triple in triples] for position, name in enumerate(columns)})


def _degree_axis(degrees: Mapping[str, list[int | None]]) -> pa.Table:
    """Combinations of degrees with their devices; expert parallel divides the devices of the others."""
    axis = _crossed(**degrees)
    devices = pc.multiply(axis["tensor_parallel"], pc.multiply(axis["pipeline_parallel"], axis["data_parallel"]))
    return axis.append_column("num_devices", devices)


def _optimization_axis(phase: str, sets: list[list[str]], ranks: list[int | None]) -> pa.Table:
    """Sets of optimizations, less the names that a phase does not have, and the ranks of adapters where there are any."""
    known = set(OPTIMIZATIONS["training" if phase in TRAINING else "inference"])
    if phase == "pretrain_step":
        known -= set(_ADAPTERS)
    sets = [[name for name in names if name in known] for names in sets]
    pairs = [(names, rank) for names in sets for rank in (ranks if set(names) & set(_ADAPTERS) else [None])]
    unique = list({(*names, rank): (names, rank) for names, rank in pairs}.values())
    return _axis(optimizations=[names for names, _ in unique], lora_rank=[rank for _, rank in unique])


def _hardware_id(name: str, ruleset: str) -> str:
    """The catalogue's id; under the peer's ruleset a device is known by the peer's name too."""
    if ruleset == llmviewer.facts()["name"]:
        name = llmviewer.hardware_id(name)
    return catalog.find_hardware(name).hardware_id


def _names_of(text: str) -> list[str]:
    """A set of optimizations, sorted."""
    return [] if text == "none" else sorted(_known("optimizations", text.split("+"), OPTIMIZATIONS["training"]))


def _ops_limit(with_ops: str) -> int | None:
    words = {"all": None, "none": 0}
    if with_ops in words:
        return words[with_ops]
    if not str(with_ops).isdigit():
        raise ValueError(f"with_ops '{with_ops}': give all, none, or how many runs have their ops landed.")
    return int(with_ops)


def _counts(name: str, values: Sequence[int], absent: int | None = None) -> list[int | None]:
    """Whole numbers of 1 or more, distinct; `absent` is the value that stands for none, which is NULL."""
    least = 1 if absent is None else min(absent, 1)
    strange = [value for value in values if isinstance(value, bool) or not isinstance(value, int) or value < least]
    if strange or not values:
        raise ValueError(f"{name} must be whole numbers of {least} or more, not {list(values)}.")
    for value in values:
        check_size(name, value, least)
    return [None if value == absent else value for value in _distinct(values)]


def _known(name: str, values: Sequence[str] | None, known: Sequence[str]) -> list[Any]:
    """Distinct values of a vocabulary; one absent value where none is given."""
    if values is None:
        return [None]
    if not values:
        raise ValueError(f"{name} names nothing. Known: {', '.join(known)}.")
    strange = [value for value in values if value not in known]
    if strange:
        raise ValueError(f"{name} {strange} cannot be swept. Known: {', '.join(known)}.")
    return _distinct(values)


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


# Batches


@dataclass(frozen=True)
class _Landed:
    """What one batch landed."""

    num_runs: int
    num_ops: int
    reasons: Counter[str]
    """Why rows have no answer, and how many."""
    paths: list[Path]

    @property
    def num_failed(self) -> int:
        return self.reasons.total()


REASONS_NAMED = 5
"""Reasons for rows without an answer that a sweep reports at most."""


def _land_sweep(landing: Path, sweep: _Sweep, num_workers: int, report: Report) -> Collected:
    """Land every batch of a sweep, in order; a large sweep in several processes."""
    batches = list(sweep.batches())
    work = partial(_land_batch, landing, sweep)
    is_large = num_workers > 1 and len(batches) >= WORTH_PROCESSES
    num_runs = num_ops = 0
    reasons: Counter[str] = Counter()
    paths: list[Path] = []
    for landed in _in_processes(work, batches, num_workers, report) if is_large else map(work, batches):
        num_runs, num_ops = num_runs + landed.num_runs, num_ops + landed.num_ops
        reasons += landed.reasons
        paths += landed.paths
        if len(batches) > 1:
            report(f"{num_runs} of {sweep.num_rows} configurations")
    if batches:
        report(f"{num_runs} runs and {num_ops} ops landed")
    for reason, count in reasons.most_common(REASONS_NAMED):
        report(f"{count} without an answer: {reason}")
    if len(reasons) > REASONS_NAMED:
        report(f"{len(reasons) - REASONS_NAMED} more reasons: status_detail of the rows says them")
    return Collected(num_runs, tuple(paths), reasons.total())


WORTH_PROCESSES = 3
"""Batches that take longer than starting processes does."""

_Batch = tuple[int, int]


def _in_processes(
    work: Callable[[_Batch], _Landed], batches: Sequence[_Batch], num_workers: int, report: Report
) -> Iterator[_Landed]:
    """What `work` gives for every batch, in order; a few batches ahead of the reader, no more.

    Where a process is killed, or cannot start (a script without a `__main__` guard), the rest is done in this one.
    """
    num_workers = min(num_workers, len(batches))
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=_follow_parent)
    waiting: deque[Future[_Landed]] = deque()
    num_sent = num_done = 0
    try:
        while num_done < len(batches):
            for batch in batches[num_sent : num_done + 2 * num_workers]:
                waiting.append(pool.submit(work, batch))
                num_sent += 1
            yield waiting.popleft().result()
            num_done += 1
    except BrokenProcessPool:
        report("a process that shared the work ended early: going on in one")
        yield from map(work, batches[num_done:])
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End when the parent does, however that ends; leave an interrupt to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _land_batch(landing: Path, sweep: _Sweep, batch: _Batch) -> _Landed:
    """Evaluate and write one batch; the first brings the source along."""
    start, stop = batch
    num_ops = stop - start if sweep.ops_limit is None else min(max(sweep.ops_limit - start, 0), stop - start)
    return _land(landing, sweep.rows(start, stop), sweep.ruleset, num_ops, {}, {}, (), with_source=start == 0)


# Rows


def _land(
    landing: Path,
    configs: pa.Table,
    ruleset: str,
    num_ops: int,
    hardware: Mapping[str, Mapping[str, Any]],
    llms: Mapping[str, Llm],
    calibrations: Sequence[Mapping[str, Any]],
    *,
    with_source: bool = True,
) -> _Landed:
    """Evaluate and write one batch of configurations; `num_ops`: runs, from the first on, whose ops are landed."""
    options: dict[str, Any] = {"hardware": hardware, "llms": llms, "calibrations": calibrations}
    totals, ops = evaluate(configs.slice(0, num_ops), ruleset, **options)
    if num_ops < configs.num_rows:
        more, _ = evaluate(configs.slice(num_ops), ruleset, with_ops=False, **options)
        totals = pa.concat_tables([totals, more]) if num_ops else more
    config_ids = schema.config_ids(configs)
    run_ids = _run_ids(_with_profile(configs, totals), config_ids, ruleset, hardware, llms)
    runs = _with_columns(
        totals,
        run_id=run_ids,
        config_id=config_ids,
        collector="roofline",
        source_kind="analytical",
        source_id=_source_id(ruleset),
        engine_revision=ENGINE_REVISION,
        collected_at=pa.scalar(_revision_time(), schema.TIMESTAMP),
        is_excluded=False,
        metric_definitions=pa.scalar([("flops", "model_closed_form"), ("bytes_moved", "model_closed_form")], _MAP),
    )
    ops = ops.drop_columns(["config_row"]).append_column("run_id", run_ids.take(ops.column("config_row")))
    name = f"roofline-{ruleset}-{schema.digest(run_ids.to_pylist(), num_ops)}"
    sources = [_source(ruleset)] if with_source else []
    used = set(totals.column("calibration_id").unique().to_pylist())
    constants = [row for row in (*calibrations, *estimate.shipped()) if row["calibration_id"] in used]
    paths = parquet.land(landing, name, {"runs": runs, "ops": ops, "sources": sources, "calibrations": constants})
    failed = runs.filter(pc.not_equal(runs.column("status"), "ok")).column("status_detail")
    counts = failed.value_counts().to_pylist()
    return _Landed(runs.num_rows, ops.num_rows, Counter({one["values"]: one["counts"] for one in counts}), paths)


_MAP = pa.map_(pa.string(), pa.string())


def _with_columns(table: pa.Table, **columns: Any) -> pa.Table:
    for name, value in columns.items():
        values = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.repeat(value, table.num_rows)
        table = table.append_column(name, values)
    return table


def _with_profile(configs: pa.Table, totals: pa.Table) -> pa.Table:
    """Configurations with the execution profile and the constants of their estimate; without one, the profile asked for."""
    execution = totals.column("execution")
    if "execution" in configs.column_names:
        execution = pc.coalesce(execution, configs.column("execution"))
        configs = configs.drop_columns(["execution"])
    return configs.append_column("execution", execution).append_column("constants", totals.column("calibration_id"))


def _run_ids(
    configs: pa.Table,
    config_ids: pa.Array,
    ruleset: str,
    hardware: Mapping[str, Mapping[str, Any]],
    llms: Mapping[str, Llm],
) -> pa.Array:
    """Digest of what decides a row: ruleset, engine revision, configuration, the numbers of its LLM and its device (with
    its price), and the execution profile and constants of its estimate.

    An absent tensor-parallel degree, which several devices are assumed to make, is another row than a stated 1.
    """
    rules = RULESETS[ruleset].rules
    devices = {
        name: _device_digest(find_device(name, rules.device, hardware), None if rules.is_peer else catalog.price(name))
        for name in _names(configs, "hardware_id")
    }
    shapes = {
        name: schema.digest(dict((llms.get(name) or catalog.find_llm(name)).config))
        for name in _names(configs, "llm_id")
    }
    kinds = np.asarray(configs.column("tensor_parallel").is_null(), np.int64)
    for column in ("llm_id", "hardware_id", "execution", "constants"):
        names = Configs(configs).names(column)
        kinds = kinds * (len(names.values) + 1) + names.codes + 1
    _, first, kind_of = np.unique(kinds, return_index=True, return_inverse=True)
    beside = [
        schema.digest(
            ruleset, ENGINE_REVISION, shapes[row["llm_id"]], devices[row["hardware_id"]],
            row["tensor_parallel"] is None, row["execution"], row["constants"],
        )
        for row in configs.take(pa.array(first)).to_pylist()
    ]  # fmt: skip
    pairs = zip(np.array(beside, object)[kind_of].tolist(), config_ids.to_pylist(), strict=True)
    return pa.array([_digest(kind + config) for kind, config in pairs], pa.string())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _names(configs: pa.Table, column: str) -> list[str]:
    names: list[str] = configs.column(column).unique().to_pylist()
    return names


def _device_digest(device: Device, price: Mapping[str, Any] | None) -> str:
    return schema.digest({name: value for name, value in asdict(device).items() if name != "hardware_id"}, price)


def _revision_time() -> datetime.datetime:
    """When the numbers came to be: the date of the engine's revision, so that the same rows have the same bytes."""
    return datetime.datetime.fromisoformat(ENGINE_REVISION).replace(tzinfo=datetime.UTC)


def _source_id(ruleset: str) -> str:
    return ruleset if ruleset == llmviewer.facts()["name"] else f"rooflake/{ruleset}"


def _source(ruleset: str) -> dict[str, Any]:
    """The `sources` row of a ruleset."""
    row = {"source_id": _source_id(ruleset), "kind": "ruleset"}
    if ruleset == llmviewer.facts()["name"]:
        facts = llmviewer.facts()
        return row | {
            "title": facts["title"],
            "authors": facts["authors"],
            "published_at": facts["source_date"],
            "url": facts["url"],
            "licence": facts["licence"],
            "locator": facts["source"],
            "note": "Reproduces a peer digit for digit, its faults included: models/analytical/llmviewer.py lists them.",
        }
    return row | {
        "title": "Roofline of the default ruleset",
        "published_at": ENGINE_REVISION[:10],
        "locator": "models/analytical/default.py",
        "note": "Work summed over devices, memory of one device, seconds of one execution; assumptions in status_detail.",
    }
