"""Importer, and writer, of Vidur's profiles: layers, attention and collectives timed on one GPU, CSV, plain or gzip.

Times are milliseconds with a resolution of 1 us, sizes of collectives bytes. No file names its device: it is given, or is the folder's
(`compute/a100/...`, `network/h100_dgx/...`). `write_profiles` writes our own layer profiles in the same layout.
"""

from __future__ import annotations

import csv
import functools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collectors import _importing, _kernel_tables
from collectors._importing import File, Run, Said, Unreadable
from warehouse import catalog

TOOL = "vidur"
SOURCE_KIND = "published"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

MS = 1e-3
DTYPE = "fp16"
STATISTICS = ("min", "max", "mean", "median", "std")
_SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size", "use_gated_mlp", "num_tokens")  # fmt: skip
_LAYERS = {
    "emb": ("embedding", "embedding"), "input_layernorm": ("norm", "norm"), "attn_pre_proj": ("gemm", "qkv_proj"),
    "attn_rope": ("rope", "rope"), "attn_post_proj": ("gemm", "o_proj"), "post_attention_layernorm": ("norm", "norm"),
    "mlp_up_proj": ("gemm", "up_proj"), "mlp_act": ("activation", "activation"), "mlp_down_proj": ("gemm", "down_proj"),
    "add": ("add", "residual_add"),
}  # fmt: skip
"""Vidur's name of a layer -> kernel and op kind."""

COPIES = {"b962137cf047ab0b": "a100_pairwise_nvlink"}
"""Digest of a file that its repository holds under several devices -> the folder it was measured in."""


def recognises(file: File) -> bool:
    """A CSV with columns `time_stats.<layer>.<statistic>`, or the one of CPU overheads."""
    first = file.head.partition("\n")[0]
    return bool(re.match(r"\W?,?time_stats\.\w+\.min,", first)) or ",schedule_mean,sampler_launch_mean" in first


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a table of layers or of attention, one a number of workers and of devices on a node of a collective."""
    table = _kernel_tables.read_csv(file)
    names = set(table.column_names)
    if "schedule_mean" in names:
        return _overheads(file, said, table)
    if "collective" in names:
        return _network(file, said, table)
    if "is_prefill" in names:
        return _attention(file, said, table)
    missing = [name for name in (*_SHAPE, "num_tensor_parallel_workers") if name not in names]
    if missing:
        raise Unreadable(f"{file.name} is no table of layers of Vidur: it lacks {', '.join(missing)}.")
    return _layers(file, said, table)


def _device(file: File, said: Said) -> str | None:
    """The device given, else the one whose folder the file lies in; None where no folder is named like a device."""
    if said.hardware_id is not None:
        return None
    for part in reversed(file.path.absolute().parts):
        entry = _kernel_tables.hardware(re.split(r"[_.]", part)[0])
        if entry is not None:
            return entry.hardware_id
    return None


def _entry(said: Said, device: str | None) -> catalog.Hardware | None:
    return _kernel_tables.hardware(device if device is not None else said.hardware_id)


def _run(cell: str, device: str | None, kernel: str, parts: Sequence[pa.Table], **columns: Any) -> Run:
    table = pa.concat_tables(parts, promote_options="default")
    notes = ["Times have a resolution of 1 us; rows printed as 0 are left out."]
    if device is not None:
        notes.append("The device is the one the file's folder is named after.")
    return Run(
        cell=cell,
        columns={
            "phase": "microbench", "kernel": kernel, "weight_dtype": DTYPE, "activation_dtype": DTYPE, "framework": "vidur",
            "num_samples": table.num_rows, "num_devices": 1, **columns,
        },
        device=device,
        notes=notes,
        kernels=table,
    )  # fmt: skip


def _times(table: pa.Table, name: str) -> dict[str, Any]:
    ours = {"mean": "time_s", "median": "time_p50_s", "min": "time_min_s", "max": "time_max_s", "std": "time_std_s"}
    return {
        column: _kernel_tables.quantities(_kernel_tables.numbers(table, f"time_stats.{name}.{statistic}", MS))
        for statistic, column in ours.items()
    }


def _timed(table: pa.Table, name: str) -> pa.Table:
    """Rows that have a time of a layer; below the clock's resolution it is printed as 0."""
    return table.filter(pc.fill_null(pc.greater(table[f"time_stats.{name}.mean"], 0.0), False))


def _rows(table: pa.Table, columns: dict[str, Any], work: _kernel_tables.Work | None, entry: Any) -> pa.Table:
    if work is not None:
        columns |= {
            "flops": _kernel_tables.quantities(work[0]),
            "bytes_moved": _kernel_tables.quantities(work[1]),
        }
        if entry is not None:
            columns |= _kernel_tables.bounds(work, entry, DTYPE, DTYPE)
    return _kernel_tables.rows(columns, table.num_rows)


# ---- layers


def _layers(file: File, said: Said, table: pa.Table) -> Iterator[Run]:
    device = _device(file, said)
    entry = _entry(said, device)
    model = "/".join(file.path.absolute().parts[-3:-1])
    llm_id = said.llm_id if said.llm_id is not None else _known_llm(model)
    parts = []
    for name in _LAYERS:
        if f"time_stats.{name}.mean" in table.column_names:
            parts.append(_layer(_timed(table, name), name, entry, llm_id))
    run = _run("layers", device, "layer", parts)
    run.model = None if llm_id is None else llm_id
    run.notes += [
        "Layers cut for several devices were timed on one, with the slice of weights one device holds.",
        "mlp_up_proj of a gated model is gate and up in one product: twice the width.",
    ]
    yield run


def _known_llm(name: str) -> str | None:
    try:
        return catalog.find_llm(name).llm_id
    except catalog.UnknownEntryError:
        return None


def _layer(table: pa.Table, name: str, entry: catalog.Hardware | None, llm_id: str | None) -> pa.Table:
    """One layer's rows, of every number of tokens and every cut."""
    number = functools.partial(_kernel_tables.numbers, table)
    kernel, op_kind = _LAYERS[name]
    tokens, width, workers = number("num_tokens"), number("n_embd"), number("num_tensor_parallel_workers")
    inner = number("n_expanded_embd") / workers
    doubled = np.where(table["use_gated_mlp"].to_numpy(zero_copy_only=False), 2.0, 1.0)
    heads, kv_heads = number("n_head"), number("n_kv_head")
    n, k = {
        "attn_pre_proj": (width / heads * (heads + 2 * kv_heads) / workers, width),
        "attn_post_proj": (width, width / workers),
        "mlp_up_proj": (doubled * inner, width),
        "mlp_down_proj": (width, inner),
        "mlp_act": (inner, np.full(len(width), np.nan)),
        "attn_rope": (width / heads * (heads + kv_heads) / workers, np.full(len(width), np.nan)),
    }.get(name, (width, np.full(len(width), np.nan)))
    operands = {"norm": 1.0, "add": 2.0, "rope": 1.0}.get(kernel)
    if kernel == "gemm":
        work: _kernel_tables.Work | None = _kernel_tables.gemm(tokens, n, k, DTYPE, DTYPE)
    elif kernel == "activation":
        work = (np.full(len(n), np.nan), (doubled + 1) * tokens * n * 2.0)
    elif operands is not None:
        work = (np.full(len(n), np.nan), (operands + 1) * tokens * n * 2.0)
    else:
        work = None
    columns = {
        "kernel": kernel, "op_kind": op_kind, "name": name, "phase": "forward", "llm_id": llm_id, "num_devices": 1,
        "m": _kernel_tables.counts(tokens), "n": _kernel_tables.counts(n), "k": _kernel_tables.counts(k),
        "tensor_parallel": table["num_tensor_parallel_workers"], **_times(table, name),
    }  # fmt: skip
    return _rows(table, columns, work, entry)


# ---- attention


def _attention(file: File, said: Said, table: pa.Table) -> Iterator[Run]:
    device = _device(file, said)
    entry = _entry(said, device)
    parts = []
    for name in ("attn_input_reshape", "attn_prefill", "attn_decode", "attn_output_reshape"):
        part = _timed(table, name)
        if part.num_rows:
            parts.append(_attention_rows(part, name, entry))
    run = _run("attention", device, "attention", parts, kv_dtype=DTYPE)
    run.notes.append("Heads are those of one device; context_tokens those already in the cache.")
    yield run


def _attention_rows(table: pa.Table, name: str, entry: catalog.Hardware | None) -> pa.Table:
    number = functools.partial(_kernel_tables.numbers, table)
    batch, past, workers = number("batch_size"), number("kv_cache_size"), number("num_tensor_parallel_workers")
    is_prefill = table["is_prefill"].to_numpy(zero_copy_only=False).astype(bool)
    new = np.where(is_prefill, number("prefill_chunk_size"), 1.0)
    heads, kv_heads = number("n_q_head") / workers, number("n_kv_head") / workers
    head_dim = number("n_embd") / number("n_q_head")
    is_attention = name in ("attn_prefill", "attn_decode")
    work = None
    if is_attention:
        none = np.zeros(len(batch))
        work = _kernel_tables.attention(batch, new, past, heads, kv_heads, head_dim, none, DTYPE, DTYPE)
    backend = pc.replace_substring(table["attention_backend"], "AttentionBackend.", "")
    columns = {
        "kernel": "attention" if is_attention else "reshape",
        "op_kind": "attention" if is_attention else "other",
        "name": name,
        "implementation": pc.utf8_lower(backend),
        "phase": pc.if_else(pa.array(is_prefill), "prefill", "decode"),
        "num_devices": 1,
        "batch_size": table["batch_size"],
        "input_tokens": _kernel_tables.counts(new),
        "context_tokens": _kernel_tables.counts(past),
        "num_heads": _kernel_tables.counts(heads),
        "num_kv_heads": _kernel_tables.counts(kv_heads),
        "head_dim": _kernel_tables.counts(head_dim),
        "tensor_parallel": table["num_tensor_parallel_workers"],
        **_times(table, name),
    }
    return _rows(table, columns, work, entry)


# ---- collectives


def _network(file: File, said: Said, table: pa.Table) -> Iterator[Run]:
    folder = file.path.absolute().parent.name
    if COPIES.get(file.digest, folder) != folder and said.hardware_id is None:
        raise Unreadable(
            f"{folder}/{file.name} is byte for byte {COPIES[file.digest]}/{file.name}: it was copied, not measured there. "
            "Import that one, or say where it was measured with --hardware."
        )
    device = _device(file, said)
    keys = ("collective", "num_workers", "devices_per_node")
    for (collective, workers, per_node), part in _kernel_tables.groups(table, keys):
        timed = _timed(part, collective)
        if not timed.num_rows:
            continue
        columns = {
            "kernel": collective,
            "op_kind": collective,
            "name": collective,
            "num_devices": timed["num_workers"],
            "size_bytes": timed["size"],
            **_times(timed, collective),
        }
        rows = _kernel_tables.rows(columns, timed.num_rows)
        cell = f"{collective} num_workers={workers} devices_per_node={per_node}"
        run = _run(cell, device, collective, [rows], num_devices=workers, interconnect=_link(folder, workers, per_node))
        run.columns["framework"] = "nccl"
        run.notes.append(f"{per_node} devices of a node took part; sizes are bytes.")
        yield run


def _link(folder: str, workers: int, per_node: int) -> str | None:
    """The link of devices of one node of a DGX; a pair's link where two took part; else unknown."""
    if workers != per_node:
        return None
    return "nvlink" if "dgx" in folder or ("pairwise_nvlink" in folder and workers == 2) else None


# ---- time of the host


def _overheads(file: File, said: Said, table: pa.Table) -> Iterator[Run]:
    device = _device(file, said)
    for index, row in enumerate(table.to_pylist()):
        samples = []
        for name, value in row.items():
            if name.endswith(("_mean", "_median")) and value is not None:
                samples += _importing.sample(f"vidur:{name}", value * MS, "s")
        degree = int(row["tensor_parallel_degree"])
        yield Run(
            cell=f"line {index + 2}",
            columns={
                "phase": "decode", "batch_size": int(row["batch_size"]), "num_devices": degree, "tensor_parallel": degree,
                "weight_dtype": DTYPE, "activation_dtype": DTYPE, "framework": "vllm", "execution": "engine",
            },
            device=device,
            model=row["model_name"],
            notes=["Times of the host around one iteration; its latency is not printed."],
            samples=samples,
        )  # fmt: skip


# ---- writing


def write_profiles(runs: Iterable[Mapping[str, Any]], ops: Iterable[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Our layer profiles as Vidur reads them: `<folder>/<hardware_id>/<LLM>/mlp.csv`, and `attention.csv` where attention was timed.

    `runs` are rows of `runs`, `ops` the rows of `ops` that belong to them; runs without a latency or without ops are left out.
    A run gives one line; its statistics are over the layers, and a layer that was not timed leaves its columns empty. Raises
    ValueError where no run can be written.
    """
    of_run: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for op in ops:
        of_run[op["run_id"]].append(op)
    tables: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        profiled = _leaves(of_run.get(run["run_id"], ()))
        tokens = _tokens(run)
        if not profiled or tokens is None or run.get("llm_id") is None:
            continue
        llm = catalog.find_llm(run["llm_id"])
        place = folder / run["hardware_id"] / (llm.hf_id or llm.llm_id)
        tables[place / "mlp.csv"].append(_layer_line(run, llm, profiled, tokens))
        attention_s = _layer_times(profiled, _is_attention)
        if attention_s:
            tables[place / "attention.csv"].append(_attention_line(run, llm, attention_s))
    if not tables:
        raise ValueError("None of these runs has timed layers, an LLM and token counts: nothing to write for Vidur.")
    for path, lines in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    return sorted(tables)


def _leaves(ops: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    modules = [op for op in ops if op.get("level") in (None, "module") and op.get("time_s") is not None]
    parents = {op.get("parent_path") for op in modules}
    return [op for op in modules if op["path"] not in parents]


def _tokens(run: Mapping[str, Any]) -> int | None:
    """Tokens of one execution over the batch; None where the run does not say."""
    batch, tokens = run.get("batch_size"), run.get("input_tokens")
    if run["phase"] == "decode":
        return batch
    if run["phase"] not in ("prefill", "forward") or batch is None or tokens is None:
        return None
    return int(batch * tokens)


def _is_attention(op: Mapping[str, Any]) -> bool:
    return op["op_kind"] in ("attention", "attention_scores", "softmax", "attention_values")


_WRITTEN: dict[str, tuple[str, ...]] = {
    "emb": ("embedding",), "attn_pre_proj": ("qkv_proj", "q_proj", "k_proj", "v_proj"), "attn_rope": ("rope",),
    "attn_post_proj": ("o_proj",), "mlp_up_proj": ("gate_proj", "up_proj"), "mlp_act": ("activation",),
    "mlp_down_proj": ("down_proj",), "add": ("residual_add",),
}  # fmt: skip


def _belongs(op: Mapping[str, Any], name: str) -> bool:
    if name in _WRITTEN:
        return op["op_kind"] in _WRITTEN[name]
    is_second = "post" in op["path"].rpartition(".")[2] or op["path"].endswith("ln_2")
    return (
        op["op_kind"] == "norm" and ".layers." in f".{op['path']}" and is_second == (name == "post_attention_layernorm")
    )


def _layer_times(ops: Iterable[Mapping[str, Any]], belongs: Any) -> list[float]:
    """Seconds of every layer: the sum over its ops that belong; ops of folded layers share one."""
    seconds: dict[Any, float] = defaultdict(float)
    for op in ops:
        if belongs(op):
            seconds[op.get("layer_index")] += op["time_s"]
    return list(seconds.values())


def _columns(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """The five statistics in milliseconds; the spread of one value is not known."""
    if not seconds:
        return {f"time_stats.{name}.{statistic}": None for statistic in STATISTICS}
    milliseconds = [one / MS for one in seconds]
    values = {
        "min": min(milliseconds),
        "max": max(milliseconds),
        "mean": statistics.fmean(milliseconds),
        "median": statistics.median(milliseconds),
        "std": statistics.pstdev(milliseconds) if len(milliseconds) > 1 else None,
    }
    return {f"time_stats.{name}.{statistic}": values[statistic] for statistic in STATISTICS}


def _degree(run: Mapping[str, Any]) -> int:
    degree = run.get("tensor_parallel")
    return 1 if degree is None else int(degree)


def _layer_line(run: Mapping[str, Any], llm: Any, ops: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name in _LAYERS:
        line |= _columns(name, _layer_times(ops, functools.partial(_belongs, name=name)))
    return line | {
        "n_head": llm.num_heads,
        "n_kv_head": llm.num_kv_heads,
        "n_embd": llm.hidden_size,
        "n_expanded_embd": llm.intermediate_size,
        "vocab_size": llm.vocab_size,
        "use_gated_mlp": any(op["op_kind"] == "gate_proj" for op in ops),
        "num_tokens": tokens,
        "num_tensor_parallel_workers": _degree(run),
    }


def _attention_line(run: Mapping[str, Any], llm: Any, seconds: Sequence[float]) -> dict[str, Any]:
    is_decode = run["phase"] == "decode"
    context, prefix = run.get("context_tokens"), run.get("prefix_tokens")
    cached = (None if context is None else context - 1) if is_decode else (0 if prefix is None else prefix)
    return {
        **_columns("attn_prefill", [] if is_decode else seconds),
        **_columns("attn_decode", seconds if is_decode else []),
        "n_embd": llm.hidden_size,
        "n_q_head": llm.num_heads,
        "n_kv_head": llm.num_kv_heads,
        "block_size": None,
        "num_tensor_parallel_workers": _degree(run),
        "max_model_len": llm.max_context_tokens,
        "batch_size": run["batch_size"],
        "prefill_chunk_size": 0 if is_decode else run["input_tokens"],
        "kv_cache_size": cached,
        "is_prefill": not is_decode,
    }
