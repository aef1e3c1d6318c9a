"""Importer of aiconfigurator's tables: kernel latencies (Parquet) and end-to-end serving samples (CSV).

Kernel tables hold one shape a row, latencies in milliseconds, timed inside a serving framework; the device is the `device`
column, never the folder. Serving samples hold one load a row, TTFT and TPOT in milliseconds.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from collectors import _importing, _kernel_tables
from collectors._importing import File, Run, Said, Unreadable
from warehouse import schema

TOOL = "aiconfigurator"
SOURCE_KIND = "published"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

_NEEDED = {"framework", "version", "device", "op_name", "kernel_source", "latency"}
_SILICON = ("silicon_ttft_ms", "silicon_tpot_ms", "silicon_data_source")
FRAMEWORKS = {"trtllm": "tensorrt-llm", "vllm": "vllm", "sglang": "sglang"}

DTYPES = {
    "fp8_block": ("fp8", "fp8"), "nvfp4": ("nvfp4", "nvfp4"), "w4a16_mxfp4": ("mxfp4", "bf16"), "int4_wo": ("int4", "bf16"),
    "int8_wo": ("int8", "bf16"), "w4a8_mxfp4_mxfp8": ("mxfp4", "fp8"), "w4afp8": ("int4", "fp8"), "sq": ("int8", "int8"),
}  # fmt: skip
"""Quantization mode -> dtypes of weights and activations, where the name is not one dtype of both."""

UNGATED = ((2688, 1856), (2048, 5120), (1024, 2688))
"""Model width and width of an expert of the Nemotron-3 family: squared ReLU without a gate, so two matrices for three."""

TOKENS_OF_EACH_EXPERT = 32
"""Tokens of each expert in the mean from which on a balanced load is taken to meet every expert."""

_COLLECTIVES = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
                "alltoall": "all_to_all"}  # fmt: skip
_SHAPE = {
    "m": "m", "n": "n", "k": "k", "batch_size": "batch_size", "num_tokens": "m", "isl": "input_tokens", "step": "context_tokens",
    "num_heads": "num_heads", "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim", "num_experts": "num_experts",
    "topk": "num_active_experts", "moe_tp_size": "tensor_parallel", "moe_ep_size": "expert_parallel", "num_gpus": "num_devices",
    "tp_size": "tensor_parallel",
}  # fmt: skip
"""Column of a table -> column of `kernels`."""


def recognises(file: File) -> bool:
    """Parquet with the columns of a kernel table, or a CSV with those of the serving samples."""
    first = file.head.partition("\n")[0]
    if all(name in first for name in _SILICON):
        return True
    if not file.head.startswith("PAR1"):
        return False
    try:
        return set(pq.read_schema(file.path).names) >= _NEEDED
    except (pa.ArrowException, OSError):
        return False


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a device, framework, kernel and dtype; of serving samples one run a row."""
    if not file.head.startswith("PAR1"):
        yield from _silicon(file)
        return
    table = _table(file)
    for (framework, version, device, op_name, source), rows in _kernel_tables.groups(
        table, ("framework", "version", "device", "op_name", "backend")
    ):
        names = [name for name in rows.column_names if name.endswith(("_dtype", "num_gpus"))]
        for values, part in _kernel_tables.groups(rows, names):
            key = dict(zip(names, values, strict=True))
            yield _kernels(part, framework, version, device, op_name, source, key)


def _table(file: File) -> pa.Table:
    """The table with plain strings and, where it has none, an empty `backend`; rows without a latency left out."""
    try:
        table = pq.read_table(file.path)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"{file.name} is not a readable Parquet file: {str(error).splitlines()[0]}.") from None
    missing = sorted(_NEEDED - set(table.column_names))
    if missing:
        raise Unreadable(f"{file.name} is no kernel table of aiconfigurator: it lacks {', '.join(missing)}.")
    plain = [
        pa.field(field.name, pa.string() if pa.types.is_large_string(field.type) else field.type)
        for field in table.schema
    ]
    table = table.cast(pa.schema(plain))
    if "implementation" in table.column_names and "backend" not in table.column_names:
        table = table.rename_columns(["backend" if name == "implementation" else name for name in table.column_names])
    if "backend" not in table.column_names:
        table = table.append_column("backend", pa.nulls(table.num_rows, pa.string()))
    return table


def _kernels(
    table: pa.Table,
    framework: str,
    version: str,
    device: str,
    op_name: str,
    backend: str | None,
    key: Mapping[str, Any],
) -> Run:
    """One run: rows of one device, framework, operation, backend and dtypes."""
    latency_s = _kernel_tables.numbers(table, "latency", 1e-3)
    is_timed = np.isfinite(latency_s) & (latency_s > 0)
    notes = []
    if not is_timed.all():
        notes.append(f"{int((~is_timed).sum())} rows without a latency are left out.")
        table, latency_s = table.filter(pa.array(is_timed)), latency_s[is_timed]
    mode = next((key[name] for name in key if name.endswith("_dtype") and name != "kv_cache_dtype"), None)
    weight, activation = _dtypes(mode)
    kv = _importing.dtype(key.get("kv_cache_dtype"))
    length = table.num_rows
    columns: dict[str, Any] = {
        "op_kind": "other",
        "kernel": op_name,
        "name": op_name,
        "implementation": table["kernel_source"],
        "time_s": _kernel_tables.quantities(latency_s),
        "num_devices": 1,
        **{ours: table[theirs] for theirs, ours in _SHAPE.items() if theirs in table.column_names},
    }
    work: _kernel_tables.Work | None = None
    number = functools.partial(_kernel_tables.numbers, table)
    if "power" in table.column_names:
        columns["power_w"] = table["power"]
    if op_name == "gemm" and weight and activation:
        columns |= {"op_kind": "gemm"}
        work = _kernel_tables.gemm(number("m"), number("n"), number("k"), weight, activation)
    elif op_name in ("context_attention", "generation_attention") and activation and kv:
        window = number("window_size") if "window_size" in table.column_names else np.zeros(length)
        columns |= {
            "kernel": "attention",
            "op_kind": "attention",
            "phase": "prefill" if op_name == "context_attention" else "decode",
            "window_tokens": _kernel_tables.counts(np.where(window > 0, window, np.nan)),
        }
        work = _kernel_tables.attention(
            number("batch_size"), number("isl"), number("step"), number("num_heads"), number("num_key_value_heads"),
            number("head_dim"), window, activation, kv,
        )  # fmt: skip
    elif op_name == "moe" and weight and activation:
        columns |= {"op_kind": "experts", "n": table["inter_size"], "k": table["hidden_size"]}
        columns["distribution"] = table["distribution"]
        work = _experts(table, weight, activation)
        notes.append(
            "Rows are whole expert layers: m tokens, k model width, n width of one whole expert before it is cut. Work is that of "
            "a balanced load; NULL where experts are spread and the load is not balanced."
        )
    elif op_name in _COLLECTIVES and "message_size" in table.column_names:
        kernel = _COLLECTIVES[op_name]
        size = 1.0 if activation is None else schema.DTYPE_BYTES[activation]
        parts = number("num_gpus") if kernel == "all_gather" else 1.0
        columns |= {
            "kernel": kernel, "op_kind": kernel, "size_bytes": _kernel_tables.quantities(number("message_size") * size / parts)
        }  # fmt: skip
        notes.append("message_size counts elements; of a gather the whole is counted there and one rank's part here.")
    else:
        columns["name"] = _leftovers(table, op_name)
    if work is not None:
        columns |= {"flops": _kernel_tables.quantities(work[0]), "bytes_moved": _kernel_tables.quantities(work[1])}
        entry = _kernel_tables.hardware(device)
        if entry is not None:
            columns |= _kernel_tables.bounds(work, entry, weight or "bf16", activation or "bf16")
    if mode == "fp8_block":
        notes.append("fp8_block was timed without graphs: 0.05 to 0.28 ms of it are launches.")
    is_nccl = table["kernel_source"][0].as_py() == "NCCL" if length else False
    return Run(
        cell=" ".join(
            str(value) for value in (framework, version, op_name, backend, *key.values()) if value is not None
        ),
        columns={
            "phase": "microbench",
            "kernel": columns["kernel"],
            "weight_dtype": weight,
            "activation_dtype": activation,
            "kv_dtype": kv,
            "framework": "nccl" if is_nccl else FRAMEWORKS.get(framework.lower(), framework.lower()),
            "framework_version": version,
            "execution": _execution(backend),
            "optimizations": ["block_scales"] if mode == "fp8_block" else [],
            "num_devices": key.get("num_gpus", 1),
            "num_samples": length,
        },
        device=device,
        notes=notes,
        kernels=_kernel_tables.rows(columns, length),
    )


def _dtypes(mode: str | None) -> tuple[str | None, str | None]:
    """Dtypes of weights and activations of a quantization mode; None where it is not known."""
    if mode in DTYPES:
        return DTYPES[mode]
    found = _importing.dtype(mode)
    return found, found


def _execution(backend: str | None) -> str | None:
    ending = (backend or "").rpartition("_")[2]
    return ending if ending in ("graph", "eager") else None


def _experts(table: pa.Table, weight: str, activation: str) -> _kernel_tables.Work:
    """Work of one device's share of experts: gate (where there is one), up and down of every routed token.

    Weights are those of the experts that must be met: all of them under a balanced load of many tokens, else as many as one
    token meets, because routing by groups leaves experts out and a bound may not count them.
    """
    number = functools.partial(_kernel_tables.numbers, table)
    tokens, hidden, inner = number("num_tokens"), number("hidden_size"), number("inter_size")
    spread, experts, met = number("moe_ep_size"), number("num_experts"), number("topk")
    is_even = table["distribution"].to_numpy(zero_copy_only=False) == "balanced"
    routed = np.where(is_even | (spread == 1), tokens * met / spread, np.nan)
    matrices = np.where(np.isin(hidden * 2**20 + inner, [k * 2**20 + n for k, n in UNGATED]), 2.0, 3.0)
    weights = matrices * hidden * inner / number("moe_tp_size")
    is_full = is_even & (tokens * met >= TOKENS_OF_EACH_EXPERT * experts)
    touched = np.where(is_full, experts / spread, np.minimum(met, experts) / spread)
    sizes = schema.DTYPE_BYTES
    moved = touched * weights * sizes[weight] + 2.0 * tokens * hidden * max(sizes[activation], 2.0) / spread
    return 2.0 * routed * weights, np.where(np.isnan(routed), np.nan, moved)


def _leftovers(table: pa.Table, op_name: str) -> Any:
    """A name that tells the rows of an unknown operation apart: what no column of `kernels` holds, as `key=value`."""
    known = {*_SHAPE, *_NEEDED, "backend", "power", "power_limit"}
    others = [name for name in table.column_names if name not in known and not name.endswith("_dtype")]
    if not others:
        return op_name
    parts = [
        pc.binary_join_element_wise(name, table[name].cast(pa.string()), "=", null_handling="replace")
        for name in others
    ]
    return pc.binary_join_element_wise(op_name, *parts, " ")


# ---- serving samples


def _silicon(file: File) -> Iterator[Run]:
    reader = csv.DictReader(io.StringIO(file.text()))
    rows = list(reader)
    missing = [
        name for name in (*_SILICON, "id", "system", "model_path", "mode") if name not in (reader.fieldnames or ())
    ]
    if missing:
        raise Unreadable(f"{file.name} lacks the column {', '.join(missing)} of aiconfigurator's serving samples.")
    copies: dict[tuple[Any, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        copies[_measured(row)].append(row)
    for found in copies.values():
        kept = next((row for row in found if not _is_draft(row)), found[0])
        yield _serving(file, kept, len(found))


def _measured(row: Mapping[str, str]) -> tuple[Any, ...]:
    """What makes a line a measurement of its own: all it says but its id and where it was taken from."""
    said = _said(row["silicon_data_source"])
    names = (name for name in row if name not in ("id", "silicon_data_source"))
    return (said.get("silicon_concurrency"), *(row[name] for name in names))


def _is_draft(row: Mapping[str, str]) -> bool:
    return _said(row["silicon_data_source"]).get("wip") == "True"


def _serving(file: File, row: Mapping[str, str], times_printed: int) -> Run:
    number = functools.partial(_number, file, row)
    said = _said(row["silicon_data_source"])
    is_split = row["mode"] == "disagg"
    weight, activation = _dtypes(row["gemm_quant_mode"] or row["precision"] or None)
    notes = ["Whether TTFT and TPOT are means or medians, and whether tokens were guessed ahead, is not said."]
    if times_printed > 1:
        notes.append(f"Printed {times_printed} times, under several ids or sources.")
    columns: dict[str, Any] = {
        "phase": "serve",
        "framework": FRAMEWORKS.get(row["backend"], row["backend"]),
        "framework_version": row["backend_version"] or None,
        "execution": "engine",
        "input_tokens": number("isl"),
        "output_tokens": number("osl"),
        "concurrency": int(said["silicon_concurrency"]) if "silicon_concurrency" in said else None,
        "load_pattern": "closed" if "silicon_concurrency" in said else None,
        "weight_dtype": weight,
        "activation_dtype": activation,
        "ttft_s": number("silicon_ttft_ms", 1e-3),
        "tpot_s": number("silicon_tpot_ms", 1e-3),
    }
    columns |= _split_devices(number) if is_split else _devices(number)
    if is_split:
        notes.append("Degrees are those of the devices that decode.")
        if columns["num_devices"] is None:
            notes.append("How many workers prefill and decode is not said.")
    samples = []
    for name in ("prefill_batch_size", "decode_batch_size", "prefill_num_workers", "decode_num_workers"):
        samples += _importing.sample(f"aiconfigurator:{name}", number(name), "")
    return Run(
        cell=row["id"],
        columns=columns,
        definitions={"ttft_s": "first_nonempty_chunk", "tpot_s": "e2el_minus_ttft_over_n_minus_1"},
        device=row["system"],
        model=row["model_path"],
        collected_at=_moment(said.get("measured")),
        notes=notes,
        exclusion_reason="work in progress: its source marks it wip" if _is_draft(row) else None,
        samples=samples,
    )


def _devices(number: Any) -> dict[str, Any]:
    """Degrees of one pool of devices."""
    tensor, pipeline, data = (_degree(number(f"{name}_size")) for name in ("tp", "pp", "attention_dp"))
    return {
        "batch_size": number("batch_size"),
        "num_devices": tensor * pipeline * data,
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "data_parallel": data,
        "expert_parallel": _degree(number("moe_ep_size")),
    }


def _split_devices(number: Any) -> dict[str, Any]:
    """Devices of a pool that prefills and of one that decodes; degrees are the decoding pool's."""
    prefill, decode = _pool(number, "prefill"), _pool(number, "decode")
    return {
        "num_prefill_devices": prefill,
        "num_decode_devices": decode,
        "num_devices": None if prefill is None or decode is None else prefill + decode,
        "tensor_parallel": number("decode_tp_size"),
        "pipeline_parallel": number("decode_pp_size"),
        "data_parallel": number("decode_attention_dp_size"),
        "expert_parallel": _degree(number("decode_moe_ep_size")),
    }


def _pool(number: Any, pool: str) -> int | None:
    """Devices of a pool; None where the number of its workers is not said."""
    workers: int | None = number(f"{pool}_num_workers")
    sizes = [_degree(number(f"{pool}_{name}_size")) for name in ("tp", "pp", "attention_dp")]
    return None if workers is None else workers * math.prod(sizes)


def _degree(printed: int | None) -> int:
    """A degree left empty or printed as 0 does not apply: 1."""
    return 1 if printed is None or printed == 0 else printed


def _number(file: File, row: Mapping[str, str], name: str, scale: float | None = None) -> Any:
    """A cell as a whole number, or scaled; None where it is empty."""
    text = row.get(name) or ""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise Unreadable(f"{file.name}, {row['id']}: {name} is '{text}', no number.") from None
    return value * scale if scale is not None else int(value)


def _said(text: str) -> dict[str, str]:
    """`a=b; c=d; loose` as a mapping; loose words are left out, they are images or dumps."""
    parts = (part.strip().partition("=") for part in text.split(";"))
    return {name: value for name, separator, value in parts if separator}


def _moment(text: str | None) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
