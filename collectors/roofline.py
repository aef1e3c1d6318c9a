"""Analytical rows: the least time, the work and the memory of every configuration of a sweep, per op and in total.

Needs pyarrow and numpy only. Rows are deterministic: the same sweep under the same engine revision, catalogue and ruleset
lands the same file with the same bytes.

    python -m collectors roofline --llm-id llama-2-7b --hardware-id a100-sxm-80gb h100-sxm --phase prefill decode \\
        --batch-size 1 8 --input-tokens 512 2048 --context-tokens 512 2048 --dtypes fp16 w4a16 --attention flash
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collectors import Collected, Report, silent
from models.analytical import ENGINE_REVISION, RULESETS, default, evaluate, llmviewer
from models.analytical.configs import Configs
from models.analytical.devices import Device, device_rows, find_device
from warehouse import catalog, parquet, schema
from warehouse.catalog.llm import Llm

PHASES = ("forward", "prefill", "decode", "generate")
_BITS = {"4": "int4", "8": "int8", "16": "fp16", "32": "fp32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command-line options, named like collect's keywords; every list is an axis of the cross product."""
    known = "every one of the catalogue unless given"
    parser.add_argument("--llm-id", nargs="+", metavar="ID", help=f"LLMs; {known}")
    parser.add_argument("--hardware-id", nargs="+", metavar="ID", help=f"devices; {known}")
    parser.add_argument("--phase", nargs="+", choices=PHASES, default=["prefill", "decode"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1], metavar="N")
    parser.add_argument("--input-tokens", nargs="+", type=int, default=[1024], metavar="N", help="prompt tokens")
    parser.add_argument("--output-tokens", nargs="+", type=int, default=[128], metavar="N", help="for generate")
    parser.add_argument("--context-tokens", nargs="+", type=int, default=[1024], metavar="N", help="for decode")
    parser.add_argument(
        "--dtypes", nargs="+", default=["fp16"], metavar="DTYPES",
        help="fp16, int8 ... for weights, activations and KV alike; w4a16, w8a8kv4 by bits; fp8/bf16/fp8 one by one",
    )  # fmt: skip
    parser.add_argument("--attention", nargs="+", choices=schema.ATTENTIONS, default=["flash"])
    parser.add_argument("--tensor-parallel", nargs="+", type=int, default=[1], metavar="N")
    parser.add_argument("--ruleset", choices=tuple(RULESETS), default="default")
    parser.add_argument(
        "--with-ops", default="all", metavar="all|none|N", help="land the ops of all runs, of none, or of the first N"
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
    dtypes: Sequence[str] = ("fp16",),
    attention: Sequence[str] = ("flash",),
    tensor_parallel: Sequence[int] = (1,),
    ruleset: str = "default",
    with_ops: str = "all",
) -> Collected:
    """Evaluate the cross product and land it as one batch of runs, ops and the source.

    An axis that a phase does not have is left out of it: input_tokens counts for prefill, forward and generate (and for
    the encoder in decode of an encoder-decoder), output_tokens for generate (and for the decoder in forward of one),
    context_tokens for decode. Phases that an architecture lacks, and lengths beyond an LLM's learned positions (which a peer's
    ruleset may answer), are left out and reported. What else a ruleset has no answer for lands as `unsupported`, counted in
    num_failed. Raises UnknownEntryError for an LLM or device outside the catalogue, ValueError for a value that no row can have.
    """
    if ruleset not in RULESETS:
        raise ValueError(f"'{ruleset}' is not a ruleset. Known: {', '.join(RULESETS)}.")
    llms = [catalog.find_llm(name) for name in llm_id] if llm_id is not None else list(catalog.llms().values())
    devices = list(catalog.hardware()) if hardware_id is None else [_hardware_id(name, ruleset) for name in hardware_id]
    _check_known("phase", phase, PHASES)
    _check_known("attention", attention, schema.ATTENTIONS)
    axes = {
        "hardware_id": _distinct(devices),
        "batch_size": _counts("batch_size", batch_size),
        "dtypes": [_dtypes(name) for name in _distinct(dtypes)],
        "attention": _distinct(attention),
        "tensor_parallel": _counts("tensor_parallel", tensor_parallel),
    }
    lengths = {
        "input_tokens": _counts("input_tokens", input_tokens),
        "output_tokens": _counts("output_tokens", output_tokens),
        "context_tokens": _counts("context_tokens", context_tokens),
    }
    is_peer = RULESETS[ruleset].is_peer
    blocks = [
        _possible(_block(alike, one, axes, lengths), alike, one, is_peer, report)
        for one in _distinct(phase)
        for alike in _alike(llms)
    ]
    configs = pa.concat_tables(blocks)
    report(f"{configs.num_rows} configurations under {ruleset}")
    if configs.num_rows == 0:
        return Collected(0, ())
    num_ops = _ops_limit(with_ops, configs.num_rows)
    return _land(landing, configs, ruleset, num_ops, {}, {}, report)


def twins(
    configs: pa.Table,
    landing: Path,
    *,
    report: Report = silent,
    hardware_rows: Iterable[Mapping[str, Any]] | None = None,
    llm_rows: Iterable[Mapping[str, Any]] | None = None,
) -> Collected:
    """Land the analytical row, with ops, of every distinct configuration of measured or published rows.

    `configs` holds the configuration columns, which are kept, so that config_id joins (only what config_id takes for the
    same is spelled out: an absent parallel degree of one device is 1); rows of a phase without a closed form are left out, and so is what has no answer, with a report. `hardware_rows` (rows of `hardware`) and `llm_rows` (rows of `llms`) describe what is
    not in the catalogue; a configuration of an LLM or device that neither knows is left out and reported.
    """
    configs = configs.select([name for name in schema.CONFIGURATION_NAMES if name in configs.column_names])
    configs = configs.filter(pc.is_in(configs.column("phase"), pa.array(PHASES)))
    first = np.unique(np.array(schema.config_ids(configs).to_pylist(), str), return_index=True)[1]
    configs = _spelled_out(configs.take(pa.array(np.sort(first))))
    hardware = device_rows(hardware_rows)
    llms = {row["llm_id"]: Llm.from_config(row["llm_id"], json.loads(row["config_json"])) for row in llm_rows or ()}
    finders: dict[str, Callable[[str], object]] = {
        "llm_id": lambda name: llms.get(name) or catalog.find_llm(name),
        "hardware_id": lambda name: find_device(name, RULESETS["default"].device, hardware),
    }
    for column, find in finders.items():
        names = configs.column(column).unique().drop_null().to_pylist()
        known = [name for name in names if _is_found(find, name, report)]
        configs = configs.filter(pc.is_in(configs.column(column), pa.array(known, pa.string())))
    configs = _answered(configs, hardware, llms, report)
    if configs.num_rows == 0:
        return Collected(0, ())
    return _land(landing, configs, "default", configs.num_rows, hardware, llms, report)


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
    return pa.table(columns)


def _is_found(find: Callable[[str], object], name: str, report: Report) -> bool:
    try:
        find(name)
    except (catalog.UnknownEntryError, ValueError) as error:
        report(f"left out: {error}")
        return False
    return True


# The cross product


def _alike(llms: Sequence[Llm]) -> list[list[Llm]]:
    """LLMs by what their lengths mean and where these end."""
    kinds = [(llm.architecture, default.last_position(llm)) for llm in llms]
    return [[llm for llm, own in zip(llms, kinds, strict=True) if own == kind] for kind in _distinct(kinds)]


def _possible(block: pa.Table, llms: Sequence[Llm], phase: str, is_peer: bool, report: Report) -> pa.Table:
    """The configurations of a block that its LLMs can run; how many others there are and why is reported."""
    names = f"{llms[0].llm_id} and {len(llms) - 1} more" if len(llms) > 1 else llms[0].llm_id
    reason = default.refuse(llms[0], phase)
    if reason is not None:
        report(f"{block.num_rows} left out, {names}: {reason}")
        return block.slice(0, 0)
    last = default.last_position(llms[0])
    if last is None or is_peer:
        return block
    configs = Configs(block)
    lengths = default.longest(
        llms[0], phase, {name: configs.numbers(name) for name in ("input_tokens", "output_tokens", "context_tokens")}
    )
    kept = block.filter(pa.array(lengths <= last))
    if kept.num_rows < block.num_rows:
        report(f"{block.num_rows - kept.num_rows} left out, {names}: learned positions for {last} tokens, no more.")
    return kept


def _block(
    llms: Sequence[Llm], phase: str, axes: Mapping[str, list[Any]], lengths: Mapping[str, list[int]]
) -> pa.Table:
    """The cross product over LLMs of one architecture in one phase."""
    own = {
        "prefill": ("input_tokens",),
        "decode": ("context_tokens",),
        "forward": ("input_tokens",),
        "generate": ("input_tokens", "output_tokens"),
    }[phase]
    if llms[0].architecture == "encoder_decoder":
        own += {"forward": ("output_tokens",), "decode": ("input_tokens",)}.get(phase, ())
    product = {"llm_id": _distinct(llm.llm_id for llm in llms), **axes, **{name: lengths[name] for name in own}}
    codes = np.indices([len(values) for values in product.values()]).reshape(len(product), -1)
    index = dict(zip(product, codes, strict=True))

    def column(name: str, values: Sequence[Any], arrow: pa.DataType) -> pa.Array:
        return pa.array(values, arrow).take(pa.array(index[name]))

    size = codes.shape[1]
    columns: dict[str, pa.Array] = {"phase": pa.repeat(phase, size)}
    for name, values in product.items():
        if name == "dtypes":
            for position, dtype in enumerate(("weight_dtype", "activation_dtype", "kv_dtype")):
                columns[dtype] = column(name, [triple[position] for triple in values], pa.string())
        else:
            columns[name] = column(name, values, schema.RUNS.column(name).type)
    columns["num_devices"] = columns["tensor_parallel"]
    for name in ("pipeline_parallel", "data_parallel", "expert_parallel"):
        columns[name] = pa.repeat(pa.scalar(1, pa.int64()), size)
    columns["optimizations"] = pa.ListArray.from_arrays(np.zeros(size + 1, np.int32), pa.array([], pa.string()))
    fields = [schema.RUNS.arrow.field(name) for name in schema.CONFIGURATION_NAMES]
    return pa.table([columns.get(field.name, pa.nulls(size, field.type)) for field in fields], schema=pa.schema(fields))


def _hardware_id(name: str, ruleset: str) -> str:
    """The catalogue's id; under the peer's ruleset a device is known by the peer's name too."""
    if ruleset == llmviewer.facts()["name"]:
        name = llmviewer.hardware_id(name)
    return catalog.find_hardware(name).hardware_id


def _dtypes(name: str) -> tuple[str, str, str]:
    """Dtypes of weights, activations and KV cache by a short name."""
    if name in schema.DTYPE_BYTES:
        return name, name, name
    bits = re.fullmatch(r"w(\d+)a(\d+)(?:kv(\d+))?", name)
    if bits and all(group is None or group in _BITS for group in bits.groups()):
        weights, activations, kv = bits.groups()
        return _BITS[weights], _BITS[activations], _BITS[kv or activations]
    parts = name.split("/")
    if len(parts) == 3 and all(part in schema.DTYPE_BYTES for part in parts):
        return parts[0], parts[1], parts[2]
    raise ValueError(
        f"'{name}' names no dtypes. Known: {', '.join(schema.DTYPE_BYTES)}; by bits (4, 8, 16, 32) as w4a16 or w8a8kv4; "
        "or weights/activations/KV as fp8/bf16/fp8."
    )


def _ops_limit(with_ops: str, num_rows: int) -> int:
    words = {"all": num_rows, "none": 0}
    if with_ops in words:
        return words[with_ops]
    if not str(with_ops).isdigit():
        raise ValueError(f"with_ops '{with_ops}': give all, none, or how many runs have their ops landed.")
    return min(int(with_ops), num_rows)


def _counts(name: str, values: Sequence[int]) -> list[int]:
    strange = [value for value in values if isinstance(value, bool) or not isinstance(value, int) or value < 1]
    if strange or not values:
        raise ValueError(f"{name} must be whole numbers of 1 or more, not {list(values)}.")
    return _distinct(values)


def _check_known(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    strange = [value for value in values if value not in known]
    if strange:
        raise ValueError(f"{name} {strange} cannot be swept. Known: {', '.join(known)}.")


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


# Rows


def _land(
    landing: Path,
    configs: pa.Table,
    ruleset: str,
    num_ops: int,
    hardware: Mapping[str, Mapping[str, Any]],
    llms: Mapping[str, Llm],
    report: Report,
) -> Collected:
    """Evaluate and write one batch; `num_ops`: runs whose ops are landed."""
    options: dict[str, Any] = {"hardware": hardware, "llms": llms}
    with_ops, without = configs.slice(0, num_ops), configs.slice(num_ops)
    first, ops = evaluate(with_ops, ruleset, **options)
    totals = pa.concat_tables([first, evaluate(without, ruleset, with_ops=False, **options)[0]])
    config_ids = schema.config_ids(configs)
    run_ids = pa.array(_run_ids(configs, config_ids, ruleset, hardware, llms), pa.string())
    source_id = _source_id(ruleset)
    runs = _with_columns(
        totals,
        run_id=run_ids,
        config_id=config_ids,
        collector="roofline",
        source_kind="analytical",
        source_id=source_id,
        engine_revision=ENGINE_REVISION,
        collected_at=pa.scalar(_revision_time(), schema.TIMESTAMP),
        is_excluded=False,
        metric_definitions=pa.scalar([("flops", "model_closed_form"), ("bytes_moved", "model_closed_form")], _MAP),
    )
    ops = ops.drop_columns(["config_row"]).append_column("run_id", run_ids.take(ops.column("config_row")))
    name = f"roofline-{ruleset}-{schema.digest(run_ids.to_pylist(), num_ops)}"
    paths = parquet.land(landing, name, {"runs": runs, "ops": ops, "sources": [_source(ruleset)]})
    num_failed = pc.sum(pc.not_equal(runs.column("status"), "ok")).as_py()
    report(f"{runs.num_rows} runs and {ops.num_rows} ops landed")
    return Collected(runs.num_rows, tuple(paths), num_failed)


_MAP = pa.map_(pa.string(), pa.string())


def _with_columns(table: pa.Table, **columns: Any) -> pa.Table:
    for name, value in columns.items():
        values = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.repeat(value, table.num_rows)
        table = table.append_column(name, values)
    return table


def _run_ids(
    configs: pa.Table,
    config_ids: pa.Array,
    ruleset: str,
    hardware: Mapping[str, Mapping[str, Any]],
    llms: Mapping[str, Llm],
) -> list[str]:
    """Digest of what decides a row: ruleset, engine revision, configuration, and the numbers of its LLM and its device.

    An absent tensor-parallel degree, which several devices are assumed to make, is another row than a stated 1.
    """
    own = RULESETS[ruleset].device
    devices = {name: _device_digest(find_device(name, own, hardware)) for name in _names(configs, "hardware_id")}
    shapes = {
        name: schema.digest(dict((llms.get(name) or catalog.find_llm(name)).config))
        for name in _names(configs, "llm_id")
    }
    columns = [configs.column(name).to_pylist() for name in ("llm_id", "hardware_id", "tensor_parallel")]
    return [
        schema.digest(ruleset, ENGINE_REVISION, config, shapes[llm], devices[device], tensor is None)
        for config, llm, device, tensor in zip(config_ids.to_pylist(), *columns, strict=True)
    ]


def _names(configs: pa.Table, column: str) -> list[str]:
    names: list[str] = configs.column(column).unique().to_pylist()
    return names


def _device_digest(device: Device) -> str:
    return schema.digest({name: value for name, value in asdict(device).items() if name != "hardware_id"})


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
