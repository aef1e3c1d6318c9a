"""Fit the shipped constants of the estimate on public kernel tables, and write models/analytical/calibrations.toml.

    python benchmarks/analytical/fit_constants.py [--data FOLDER] [--report]

Reads kernel times that others measured and published (aiconfigurator, Vidur, NeuSight); writes numbers only. None of these
rows is scored in accuracy.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from models.analytical import collectives
from models.analytical.calibrate import Part, fit_parts, ratios
from models.analytical.devices import Device, find_device
from models.analytical.estimate import FILE, LAUNCHES, NAMES, Constants
from models.analytical.inventory import Array, Group, Op

ROWS = 3000
"""Rows taken of one table, evenly over it."""

BYTES = {"bf16": 2.0, "fp32": 4.0}


def data_folder() -> Path:
    """The public measured data: $ROOFLAKE_SHARED/data, or beside the repository."""
    shared = os.environ.get("ROOFLAKE_SHARED") or Path(__file__).parents[2].parent / "shared"
    return Path(shared) / "data"


def group(device: Device | str, dtype: str, rows: int, **given: Any) -> Group:
    """One device and dtype for every row of a table."""
    if isinstance(device, str):
        device = find_device(device, lambda _: None, {})
    size, peak = BYTES[dtype], device.peaks.get(dtype, device.peaks.get("fp16"))
    values: dict[str, Any] = {
        "weight_bytes": size, "activation_bytes": size, "kv_bytes": size, "matrix_peak": peak, "attention_peak": peak,
        **{name: value for name, value in vars(device).items() if isinstance(value, float)},
        "link": device.host_link if device.link is None else device.link, "far_link": device.network, **given,
    }  # fmt: skip
    given_or_unknown = {field.name: values.get(field.name) for field in fields(Group)}
    columns = {name: np.nan if value is None else value for name, value in given_or_unknown.items()}
    return Group(**{name: np.broadcast_to(np.asarray(value, np.float64), (rows,)) for name, value in columns.items()})


def sample(table: pa.Table, rows: int = ROWS) -> dict[str, Array]:
    """Number columns of evenly spaced rows; text columns are left out."""
    index = np.unique(np.linspace(0, table.num_rows - 1, min(rows, table.num_rows)).astype(np.int64))
    table = table.take(pa.array(index))
    numbers = (pa.types.is_integer, pa.types.is_floating)
    return {
        field.name: table.column(field.name).to_numpy().astype(np.float64)
        for field in table.schema
        if any(is_number(field.type) for is_number in numbers)
    }


def gemm(m: Array, n: Array, k: Array, size: float, count: Array | float = 1.0, **given: Any) -> Op:
    """A product with weights; with `count`, a batch of products of two activations."""
    return Op(
        kind="o_proj", path="", phase="forward", flops=2 * m * n * k * count, weights=n * k * size * count,
        read=m * k * size * count, written=m * n * size * count, gemm=(m, n, k), is_matrix=True, **given,
    )  # fmt: skip


# aiconfigurator: kernels inside serving engines, ms

SYSTEMS = {
    "a100_sxm": ("a100-sxm-80gb", "0.14.0"),
    "h100_sxm": ("h100-sxm", "0.24.0"),
    "h200_sxm": ("h200", "0.24.0"),
    "b200_sxm": ("b200", "0.24.0"),
    "l40s": ("l40s", "0.24.0"),
}


def engine_parts(folder: Path) -> Iterator[tuple[str, str, Part]]:
    """(hardware_id, table, part) of vLLM's kernels in bf16."""
    for system, (hardware_id, version) in SYSTEMS.items():
        base = folder / "aiconfigurator" / "data" / system
        for name, table, part in (
            ("gemm", f"gemm/vllm/{version}/gemm_perf.parquet", _aic_gemm),
            ("context attention", f"attention/vllm/{version}/context_attention_perf.parquet", _aic_context),
            ("generation attention", f"attention/vllm/{version}/generation_attention_perf.parquet", _aic_generation),
            ("custom all-reduce", f"comm/vllm/{version}/custom_allreduce_perf.parquet", _aic_all_reduce),
        ):
            if (base / table).exists():
                yield hardware_id, name, part(pa.parquet.read_table(base / table), hardware_id)


def nccl_parts(folder: Path) -> Iterator[tuple[str, str, Part]]:
    """(hardware_id, table, part) of NCCL's all-reduce."""
    for system, (hardware_id, _) in SYSTEMS.items():
        for path in (folder / "aiconfigurator" / "data" / system / "comm" / "nccl").glob("*/nccl_perf.parquet"):
            table = _where(pa.parquet.read_table(path), op_name="all_reduce", nccl_dtype="half")
            yield hardware_id, "nccl all-reduce", _all_reduce(sample(table), hardware_id, "eager")


def _where(table: pa.Table, **wanted: str) -> pa.Table:
    for name, value in wanted.items():
        table = table.filter(pa.compute.equal(table.column(name).cast(pa.string()), value))
    return table


def _aic_gemm(table: pa.Table, hardware_id: str) -> Part:
    r = sample(_where(table, gemm_dtype="bfloat16"))
    return Part(
        gemm(r["m"], r["n"], r["k"], 2.0), group(hardware_id, "bf16", r["m"].size), "engine", r["latency"] / 1e3
    )


def _aic_context(table: pa.Table, hardware_id: str) -> Part:
    r = _no_window(_where(table, attn_dtype="bfloat16", kv_cache_dtype="bfloat16"))
    return _attention(r, hardware_id, r["isl"], r["isl"] + r["step"])


def _aic_generation(table: pa.Table, hardware_id: str) -> Part:
    r = _no_window(_where(table, attn_dtype="bfloat16", kv_cache_dtype="bfloat16"))
    return _attention(r, hardware_id, np.ones_like(r["step"]), r["step"] + 1)


def _no_window(table: pa.Table) -> dict[str, Array]:
    if "window_size" in table.column_names:
        table = table.filter(pa.compute.less_equal(table.column("window_size").fill_null(0), 0))
    return sample(table)


def _attention(r: dict[str, Array], hardware_id: str, queries: Array, keys: Array) -> Part:
    pairs = r["batch_size"] * r["num_heads"] * queries * (keys - (queries - 1) / 2)
    given = r["batch_size"] * queries * r["num_heads"] * r["head_dim"] * 2.0
    cache = 2 * r["batch_size"] * keys * r["num_key_value_heads"] * r["head_dim"] * 2.0
    op = Op(
        kind="attention", path="", phase="prefill", flops=pairs * (4 * r["head_dim"] + 5), read=given, written=given,
        kv_read=cache, is_matrix=True,
    )  # fmt: skip
    return Part(op, group(hardware_id, "bf16", pairs.size), "engine", r["latency"] / 1e3)


def _aic_all_reduce(table: pa.Table, hardware_id: str) -> Part:
    return _all_reduce(sample(_where(table, backend="vllm_graph")), hardware_id, "engine")


def _all_reduce(r: dict[str, Array], hardware_id: str, execution: str) -> Part:
    traffic = collectives.ring_all_reduce(r["message_size"] * 2.0, r["num_gpus"])
    op = Op(kind="all_reduce", path="", phase="forward", sent=traffic.sent, hops=traffic.hops)
    return Part(op, group(hardware_id, "bf16", traffic.sent.size), execution, r["latency"] / 1e3)


# Vidur: layers of one model on one GPU, ms, medians of kernel times

VIDUR = {"a100": "a100-sxm-80gb", "a40": "a40", "h100": "h100-sxm"}


def vidur_parts(folder: Path) -> Iterator[tuple[str, str, Part]]:
    """(hardware_id, table, part) of products and fused element-wise kernels in 16 bit."""
    for system, hardware_id in VIDUR.items():
        tables = [
            pa.csv.read_csv(path) for path in sorted((folder / "vidur" / "compute" / system).glob("*/*/mlp.csv.gz"))
        ]
        r = sample(pa.concat_tables(tables, promote_options="permissive"))
        tokens, hidden, shards = r["num_tokens"], r["n_embd"], r["num_tensor_parallel_workers"]
        width = r["n_expanded_embd"] / shards
        head = hidden / r["n_head"]
        heads = (r["n_head"] + 2 * r["n_kv_head"]) * head / shards
        where = group(hardware_id, "bf16", tokens.size)
        for name, op in {
            "attn_pre_proj": gemm(tokens, heads, hidden, 2.0),
            "attn_post_proj": gemm(tokens, hidden, hidden / shards, 2.0),
            "mlp_up_proj": gemm(tokens, 2 * width, hidden, 2.0),
            "mlp_down_proj": gemm(tokens, hidden, width, 2.0),
            "input_layernorm": _pass("norm", tokens * hidden, 4.0, hidden, style="rms"),
            "mlp_act": _pass("activation", tokens * width, 6.0, reads=2, style="gated"),
            "add": _pass("softmax", tokens * hidden, 1.0, reads=2),
        }.items():
            seconds = r[f"time_stats.{name}.median"] / 1e3
            yield hardware_id, f"vidur {name}", _keep(Part(op, where, "engine", seconds), seconds > 0)


def _pass(
    kind: str,
    elements: Array,
    flops: float,
    weights: Array | float = 0.0,
    *,
    reads: int = 1,
    size: float = 2.0,
    style: str = "",
) -> Op:
    return Op(
        kind=kind, style=style, path="", phase="forward", flops=flops * elements, weights=weights * size,
        read=reads * elements * size, written=elements * size,
    )  # fmt: skip


def _keep(part: Part, mask: Any) -> Part:
    values = {
        field.name: value[mask] if isinstance(value := getattr(part.op, field.name), np.ndarray) else value
        for field in fields(Op)
    }
    if part.op.gemm is not None:
        values["gemm"] = tuple(side[mask] if isinstance(side, np.ndarray) else side for side in part.op.gemm)
    kept = Group(**{field.name: getattr(part.group, field.name)[mask] for field in fields(Group)})
    return Part(Op(**values), kept, part.execution, part.seconds[mask])


# NeuSight: PyTorch kernels in fp32, one at a time, ms. Its N is the inner dimension.

NEUSIGHT = {
    "Tesla P100-PCIE-16GB": "p100-pcie-16gb",
    "Tesla P4": "p4",
    "Tesla V100-PCIE-32GB": "v100-pcie-32gb",
    "Tesla T4": "t4",
    "NVIDIA A100-PCIE-40GB": "a100-pcie-40gb",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA L4": "l4",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "AMD Instinct MI100": "mi100",
    "AMD Instinct MI210": "mi210",
    "AMD Instinct MI250": "mi250",
}
SHORTEST_S = 2e-4
"""NeuSight times a call, host included: below this the host's share of a time is not small."""

LARGE_S = 1e-3
ALIGNED = 32
"""Its products have random sizes. Those that stand for LLMs': a bound above LARGE_S, and sizes that are multiples of ALIGNED
(others run at down to half the speed: no LLM has such widths)."""


def neusight_parts(folder: Path) -> Iterator[tuple[str, str, Part]]:
    """(hardware_id, table, part) of PyTorch's own kernels in fp32."""
    files = sorted((folder / "neusight" / "data").glob("dataset*/**/*.csv.gz"))
    tables: dict[tuple[str, str], list[pa.Table]] = {}
    for path in files:
        table = pa.csv.read_csv(path)
        for name in NEUSIGHT:
            rows = _where(table, Device=name)
            kind = next(
                part
                for part in ("bmm", "linear", "elem", "softmax", "ln", "gelu")
                if part in str(path.relative_to(folder)).split("/")[-1] or f"/{part}/" in str(path)
            )
            if rows.num_rows:
                tables.setdefault((name, kind), []).append(rows)
    for (name, kind), found in tables.items():
        table = pa.concat_tables(
            [
                t.select([c for c in ("OPName", "Latency", "B", "M", "N", "K", "H") if c in t.column_names])
                for t in found
            ],
            promote_options="permissive",
        )
        hardware_id = NEUSIGHT[name]
        for operation in sorted(set(table.column("OPName").to_pylist())):
            rows = sample(_where(table, OPName=operation), 10 * ROWS)
            part = Part(
                _neusight_op(kind, operation, rows),
                group(hardware_id, "fp32", rows["Latency"].size),
                "eager",
                rows["Latency"] / 1e3,
            )
            part = _keep(part, _is_telling(part))
            if part.seconds.size > 10:
                yield hardware_id, f"neusight {operation}", part


def _is_telling(part: Part) -> Any:
    if part.op.gemm is None:
        return part.seconds > SHORTEST_S
    bound = np.maximum(part.op.flops / part.group.matrix_peak, part.op.bytes_moved / part.group.bandwidth)
    return (bound > LARGE_S) & np.all([np.asarray(side) % ALIGNED == 0 for side in part.op.gemm], axis=0)


def _neusight_op(kind: str, operation: str, r: dict[str, Array]) -> Op:
    if kind == "linear":
        return gemm(r["B"] * r["M"], r["K"], r["N"], 4.0)
    if kind == "bmm":
        return gemm(r["M"], r["K"], r["N"], 4.0, r["B"])
    elements = r["B"] * r["H"]
    if kind == "ln":
        return _pass("norm", elements, 7.0, 2 * r["H"], size=4.0, style="layer")
    if kind == "softmax":
        return _pass("softmax", elements, 5.0, size=4.0)
    return _pass("residual_add", elements, 1.0, reads=2 if operation in ("add", "mul", "div", "pow") else 1, size=4.0)


# Fitting

Rows: TypeAlias = Sequence[tuple[str, str, Part]]
"""(hardware_id, table, part)."""

START = Constants(0.75, 0.5, 0.5, 0.8, 4e-6, 0.0, 0.0, 1e-6, 0.6, 0.7, 1.0, 1.4)
"""Where the search begins. vector_efficiency stays: no table has an element-wise kernel that arithmetic bounds."""

CLASSES = {
    "pascal": ("p100-pcie-16gb", "p4"),
    "volta": ("v100-pcie-32gb",),
    "turing": ("t4",),
    "ampere": ("a100-sxm-80gb", "a100-pcie-40gb", "a100-pcie-80gb", "a40"),
    "ada": ("l40s",),
    "l4": ("l4",),
    "hopper": ("h100-sxm", "h200"),
    "blackwell": ("b200",),
    "cdna1": ("mi100",),
    "cdna2": ("mi210",),
    "gpu": (),
}
"""Device class -> devices whose rows it is fitted on; none for all. L4 stands alone: its power limit of 72 W keeps it further
below its peak than the other devices of its architecture."""

FITTED = {
    "matrix_efficiency": ("gemm", "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "linear", "bmm"),
    "attention_efficiency": ("context attention",),
    "bandwidth_efficiency": (
        "gemm",
        "generation attention",
        "attn_post_proj",
        "mlp_down_proj",
        "addu",
        "mul",
        "gelu",
        "relu",
        "ln",
        "softmax",
    ),
    "kernel_s": ("gemm", "input_layernorm", "mlp_act", "add", "attn_post_proj"),
    "collective_s": ("all-reduce",),
    "link_efficiency": ("all-reduce",),
}
"""Constant -> tables that tell it."""


def table_of(name: str) -> str:
    """A table's name without the project it is from."""
    return name.removeprefix("vidur ").removeprefix("neusight ").removeprefix("custom ").removeprefix("nccl ")


def fit_class(rows: Rows) -> tuple[Constants, dict[str, int]]:
    """Constants of a device class and, of those that its rows tell, how many rows do."""
    constants, counts = START, {}
    for _ in range(2):  # the second round starts from the other constants of the first
        for constant, tables in FITTED.items():
            parts = [part for _, table, part in rows if table_of(table) in tables and _tells(constant, table)]
            if parts:
                constants = fit_parts(parts, constants, [constant])
                counts[constant] = sum(part.seconds.size for part in parts)
    return constants, counts


def _tells(constant: str, table: str) -> bool:
    """NeuSight times calls, host included: its short kernels say nothing about a kernel's own time."""
    return not (constant == "kernel_s" and table.startswith("neusight"))


HOST = {
    "eager": (
        1.56e-5, 0.0,
        "dispatch_s: decode of Llama-2-7B and 13B in fp16, batch 1, Hugging Face on one A100 (optimum-benchmark): "
        "25.8 and 33.2 ms for 1675 and 2091 kernels; their ratio leaves no step_s.",
    ),
    "compiled": (0.0, 0.0, "Graphs replay kernels: no host time is charged."),
    "graph": (0.0, 0.0, "Graphs replay kernels: no host time is charged."),
    "engine": (
        0.0, 1.8e-3,
        "step_s: vLLM on A100 at batch 8, scheduling, preparation, sampling and processing of outputs (Vidur, medians).",
    ),
}  # fmt: skip
"""Execution profile -> dispatch_s, step_s, and where they come from."""


def rows_of(found: Rows, devices: Sequence[str], execution: str) -> list[tuple[str, str, Part]]:
    """Rows of devices (all without) that speak for a profile: engines by the kernels of engines; PyTorch by its products,
    its own kernels and NCCL, and by the fused attention that it shares with engines where no scores are written."""
    tables = [row for row in found if not devices or row[0] in devices]
    if execution == "engine":
        return [row for row in tables if not row[1].startswith("neusight")]
    return [row for row in tables if row[1] not in ("generation attention", "custom all-reduce")]


def calibration_rows(found: Rows) -> list[dict[str, Any]]:
    """Rows of calibrations.toml: every device class under every profile; what its rows do not tell is that of all GPUs."""
    entries = []
    for execution in LAUNCHES:
        whole, _ = fit_class(rows_of(found, (), execution))
        for name, devices in CLASSES.items():
            rows = rows_of(found, devices, execution)
            if not rows:
                continue
            fitted, counts = fit_class(rows)
            values = {constant: getattr(fitted if constant in counts else whole, constant) for constant in NAMES}
            entries.append(_entry(name, execution, Constants(**values), rows, counts))
        source = "No rows of this class: the numbers of class gpu, the interval half as wide again on either side."
        low, high = entries[-1]["ratio_p05"] / 1.5, entries[-1]["ratio_p95"] * 1.5
        entries.append(
            entries[-1]
            | {
                "device_class": "any",
                "ratio_p05": _round(low),
                "ratio_p95": _round(high),
                "num_rows": 0,
                "source": source,
            }
        )
    return entries


def _entry(name: str, execution: str, fitted: Constants, rows: Rows, counts: dict[str, int]) -> dict[str, Any]:
    dispatch_s, step_s, host = HOST[execution]
    residuals = np.concatenate([ratios(part, fitted) for _, _, part in rows])
    low, middle, high = np.quantile(residuals, [0.05, 0.5, 0.95])
    values = replace(fitted, dispatch_s=dispatch_s, step_s=step_s, ratio_p05=low, ratio_p50=middle, ratio_p95=high)
    absent = [constant for constant in FITTED if constant not in counts]
    source = f"Kernel tables: {'; '.join(_told(rows))}."
    if absent:
        source += f" No row tells {', '.join(absent)}: those of all GPUs."
    return {
        "device_class": name, "execution": execution,
        **{constant: _round(float(getattr(values, constant))) for constant in NAMES},
        "num_rows": sum(part.seconds.size for _, _, part in rows), "source": f"{source} {host}",
    }  # fmt: skip


def _told(rows: Rows) -> list[str]:
    """Which project's tables of which devices."""
    projects: dict[str, dict[str, None]] = {}
    for hardware_id, table, _ in rows:
        project = table.split()[0] if table.startswith(("vidur", "neusight")) else "aiconfigurator"
        projects.setdefault(project, {})[hardware_id] = None
    return [f"{project} on {', '.join(devices)}" for project, devices in projects.items()]


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def write(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """calibrations.toml."""
    lines = [
        "# Constants of the estimate by device class and execution profile. Written by benchmarks/analytical/fit_constants.py;",
        "# seconds, shares of a peak, and quantiles of measured / estimate over the rows named in `source`.",
    ]
    for entry in entries:
        lines += ["", "[[calibrations]]", *(f"{name} = {json.dumps(value)}" for name, value in entry.items())]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    folder = data_folder()
    found = [*engine_parts(folder), *nccl_parts(folder), *vidur_parts(folder), *neusight_parts(folder)]
    write(calibration_rows(found), FILE)


if __name__ == "__main__":
    main()
