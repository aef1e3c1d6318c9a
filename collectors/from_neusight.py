"""Importer of NeuSight's dataset: FP32 kernels (CSV), end-to-end labels (JSON), operators of a model (CSV), and the summary of predictions.

Latencies are milliseconds of device events, means of the fastest five of 25 repeats, with TF32 off. In its matrix products N is the
contraction and K the output: our k and n. Labels name neither model nor device: the file does (`gpt2_large-train-1024-4-tp4.json`)
and its folder.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from collectors import _importing, _kernel_tables
from collectors._importing import File, Run, Said, Unreadable
from warehouse import schema

TOOL = "neusight"
SOURCE_KIND = "published"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

MS = 1e-3
DTYPE = "fp32"
_KINDS = {"bmm": "gemm", "linear": "gemm", "softmax": "softmax", "ln": "norm", "gelu": "activation", "relu": "activation",
          "tanh": "activation"}  # fmt: skip
_KERNELS = {"bmm": "gemm", "linear": "gemm", "ln": "layer_norm"}
_OPERANDS = {"add": 2, "mul": 2, "pow": 2, "div": 2}
"""Arrays that an element-wise operation reads; those that end in u, and all others, read one (and a number)."""

_NODE_KINDS = (
    (r"lm_head", "lm_head"), (r"wte|wpe|embed", "embedding"), (r"\.ln_|layer_norm|layernorm", "norm"), (r"softmax", "softmax"),
    (r"addmm|matmul|bmm|linear", "gemm"), (r"gelu|relu|tanh|activation", "activation"),
    (r"add|mul|pow|div|sub|where|dropout", "elementwise"),
)  # fmt: skip
_MODELS = {"opt_13": "opt-1.3b", "gpt2_med": "gpt2-medium"}
"""NeuSight's short names, where the catalogue has another."""

_LABEL = re.compile(
    r"(?P<model>\w+)-(?P<mode>inf|train)-(?P<seq>\d+)-(?P<batch>\d+)(?:-(?P<option>fusion|[dtp]p\d+(?:_\d+)?))?(?:\.|$)"
)
_SHORT = "Mean of the fastest 5 of 25 repeats."


def recognises(file: File) -> bool:
    """A CSV of kernels, of graph nodes or of the summary, or a label's JSON, by the names of their columns or keys."""
    head = file.head
    first = head.partition("\n")[0]
    if head.lstrip().startswith("{"):
        return '"num_layer"' in head and '"bwall_latency"' in head
    return (
        first.startswith("OPName,Latency,Device")
        or first.startswith("op,target,_input_nodes")
        or "label_all_e2e_latency,label_all_fw_latency" in first
    )


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a device and operation of a table of kernels; one a label; one a line of the summary."""
    if file.head.lstrip().startswith("{"):
        yield _label(file, said)
        return
    first = file.head.partition("\n")[0]
    if first.startswith("OPName"):
        yield from _kernels(file)
    elif first.startswith("op,target"):
        yield _nodes(file, said)
    else:
        yield from _summary(file)


# ---- kernels


def _kernels(file: File) -> Iterator[Run]:
    table = _kernel_tables.read_csv(file, text=("OPName", "Device", "Torch Version", "Kernel Name"))
    for name in ("OPName", "Latency", "Device"):
        if name not in table.column_names:
            raise Unreadable(f"{file.name} lacks the column {name} of NeuSight's kernels.")
    if "Torch Version" not in table.column_names:
        table = table.append_column("Torch Version", pa.nulls(table.num_rows, pa.string()))
    for (device, version, name), rows in _kernel_tables.groups(table, ("Device", "Torch Version", "OPName")):
        yield _run(device, version, name, rows)


def _run(device: str, version: str | None, name: str, table: pa.Table) -> Run:
    number = functools.partial(_kernel_tables.numbers, table)
    kernel = _KERNELS.get(name, name)
    columns: dict[str, Any] = {
        "kernel": kernel,
        "op_kind": _KINDS.get(name, "elementwise"),
        "name": name,
        "implementation": table["Kernel Name"] if "Kernel Name" in table.column_names else None,
        "num_devices": 1,
        "time_s": _kernel_tables.quantities(number("Latency", MS)),
    }
    if "K" in table.column_names:
        batch, m, k, n = number("B"), number("M"), number("N"), number("K")
        work = tuple(batch * one for one in _kernel_tables.gemm(m, n, k, DTYPE, DTYPE))
        columns |= {"batch_size": table["B"], "m": table["M"], "n": table["K"], "k": table["N"]}
        if name == "linear":  # one weight for all matrices of the batch
            work = _kernel_tables.gemm(batch * m, n, k, DTYPE, DTYPE)
    else:
        arrays = 1 + _OPERANDS.get(name, 1)
        elements = number("B") * number("H")
        work = (np.full(table.num_rows, np.nan), arrays * elements * schema.DTYPE_BYTES[DTYPE])
        columns |= {"m": table["B"], "n": table["H"]}
    flops, moved = work
    columns |= {"flops": _kernel_tables.quantities(flops), "bytes_moved": _kernel_tables.quantities(moved)}
    entry = _kernel_tables.hardware(device)
    if entry is not None:
        columns |= _kernel_tables.bounds((flops, moved), entry, DTYPE, DTYPE)
    return Run(
        cell=" ".join(part for part in (device, version, name) if part),
        columns={
            "phase": "microbench", "kernel": kernel, "weight_dtype": DTYPE, "activation_dtype": DTYPE, "framework": "pytorch",
            "framework_version": None if version is None else version.removeprefix("p"), "execution": "eager",
            "num_samples": table.num_rows, "num_devices": 1,
        },
        device=device,
        notes=[_SHORT, "TF32 was off."],
        kernels=_kernel_tables.rows(columns, table.num_rows),
    )  # fmt: skip


# ---- end to end


def _label(file: File, said: Said) -> Run:
    content = file.json()
    model, columns, notes = _configuration(file)
    definitions = {}
    for name, ours in (("e2e_latency", "latency_s"), ("fw_latency", "forward_s"), ("bwall_latency", "backward_s")):
        value = content[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Unreadable(f"{file.name}: {name} is {value!r}, no number.")
        if value > 0 and (ours == "latency_s" or columns["phase"] == "pretrain_step"):
            columns[ours] = value * MS
            definitions[ours] = "device_events"
    layers = content["num_layer"]
    if layers is not None and layers > 0:
        notes.append(f"One layer was timed and taken {layers} times.")
    is_timed = "latency_s" in columns
    if not is_timed:
        notes.append("It has no latency: why is not said.")
    return Run(
        cell="all",
        status="ok" if is_timed else "error",
        columns={**columns, "num_samples": 5 if is_timed else 0},
        definitions=definitions,
        device=_folder_device(file, said),
        model=model,
        notes=notes,
    )


def _folder_device(file: File, said: Said) -> str | None:
    """The device given, else the one the file's folder is named after; None where it is named after none."""
    folder = file.path.absolute().parent.name
    return None if said.hardware_id is not None or _kernel_tables.hardware(folder) is None else folder


def _configuration(file: File) -> tuple[str, dict[str, Any], list[str]]:
    """Model and columns that a label's file name says. Raises Unreadable where it is named otherwise."""
    match = _LABEL.match(file.name)
    if match is None:
        raise Unreadable(f"{file.name} is not named like a label of NeuSight: MODEL-inf|train-TOKENS-BATCH[-OPTION].")
    return _columns(match["model"], match["mode"], int(match["seq"]), int(match["batch"]), match["option"])


def _columns(
    model: str, mode: str, tokens: int, batch: int, option: str | None
) -> tuple[str, dict[str, Any], list[str]]:
    """Model and configuration of one case, and what a reader must know."""
    is_training = mode == "train"
    columns: dict[str, Any] = {
        "phase": "pretrain_step" if is_training else "forward", "input_tokens": tokens, "batch_size": batch,
        "weight_dtype": DTYPE, "activation_dtype": DTYPE, "framework": "pytorch",
        "execution": "compiled" if option == "fusion" else "eager",
    }  # fmt: skip
    notes = [_SHORT, "TF32 was off."]
    if is_training:
        notes.append("Forward and backward alone, without the optimizer.")
    parallel = re.match(r"([dtp])p(\d+)", option or "")
    if parallel is not None:
        degree = int(parallel[2])
        kind = {"d": "data_parallel", "t": "tensor_parallel", "p": "pipeline_parallel"}[parallel[1]]
        columns |= {kind: degree, "num_devices": degree}
        if kind == "data_parallel":
            columns["batch_size"] = batch // degree
            notes.append(f"A batch of {batch} over {degree} devices.")
    return _MODELS.get(model, model), columns, notes


def _nodes(file: File, said: Said) -> Run:
    """The nodes of a model's graph as ops: a row for forward, one for backward where there is one."""
    table = _kernel_tables.read_csv(file, text=("op", "target", "Name", "input_shapes", "output_shape"))
    model, columns, notes = _configuration(file)
    notes.append("Nodes of one layer and of what surrounds the layers.")
    ops = []
    for node in table.select(
        ["op", "target", "Name", "input_shapes", "fw_latency", "bw_latency", "acc_latency"]
    ).to_pylist():
        backward_ms = node["bw_latency"] + node["acc_latency"]
        for phase, milliseconds in (("forward", node["fw_latency"]), ("backward", backward_ms)):
            if milliseconds > 0:
                ops.append(
                    {
                        "path": node["Name"],
                        "op_kind": _node_kind(node),
                        "phase": phase,
                        "count": 1,
                        "device_time_s": milliseconds * MS,
                        "shapes": node["input_shapes"],
                        **_product(node),
                    }
                )
    return Run(
        cell="nodes",
        columns=columns,
        device=_folder_device(file, said),
        model=model,
        quality_tier=1,
        notes=notes,
        ops=ops,
    )


def _node_kind(node: Mapping[str, str]) -> str:
    target = re.sub(r"<.*?(?:method|function|class) '?([\w.]+).*>", r"\1", node["target"])
    is_arithmetic = "[1, " in node["input_shapes"] or ", " in node["input_shapes"].strip("[]")
    for pattern, kind in _NODE_KINDS:
        if re.search(pattern, target) and (kind != "elementwise" or is_arithmetic):
            return kind
    return "other"


def _product(node: Mapping[str, str]) -> dict[str, int]:
    """m, n and k of an `addmm`: bias, m x k, k x n."""
    if " addmm " not in node["target"]:
        return {}
    try:
        _, (m, k), (_, n) = ast.literal_eval(node["input_shapes"])
    except (ValueError, SyntaxError, TypeError):
        return {}
    return {"m": m, "n": n, "k": k}


# ---- summary


def _summary(file: File) -> Iterator[Run]:
    """The measured cases again, beside what four predictors said of them; kept out of charts, the labels are the runs."""
    table = _kernel_tables.read_csv(file, text=("model_name", "device", "mode", "option"))
    predicted = [
        name for name in table.column_names if re.match(r"(neusight|roofline|habitat|micro)_all_\w+_latency$", name)
    ]
    for index, row in enumerate(table.to_pylist()):
        model, columns, notes = _columns(row["model_name"], row["mode"], row["seqlen"], row["batch"], row["option"])
        samples = []
        for name in predicted:
            if row[name] is not None and row[name] > 0:
                samples += _importing.sample(f"neusight:{name}", row[name] * MS, "s")
        yield Run(
            cell=f"line {index + 2}",
            columns={**columns, "latency_s": row["label_all_e2e_latency"] * MS},
            definitions={"latency_s": "device_events"},
            device=row["device"],
            model=model,
            notes=notes,
            exclusion_reason="the label files hold the same measurement; here it stands beside others' predictions",
            samples=samples,
        )
