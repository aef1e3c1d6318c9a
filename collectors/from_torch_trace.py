"""Traces of torch.profiler: one run a file, its kernels (on a CPU its operators) and modules as ops.

Any Chrome trace that torch.profiler writes, .json or .json.gz: CPU, CUDA, ROCm, graph replay. A trace says which device it was taken on
and little of what ran: the rest is given here, and what is not given is NULL. Latency stays NULL, because a profiled pass has none; the
time of kernels is of one profiler step where the file marks steps (the mean of those in which anything was launched; what was launched
outside them does not count), and of the whole file where it marks none. Totals of the whole file are in `samples`, named torch_profiler:*.
The environment of the process that some producers write into a trace is never read.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from collectors import Collected, Report, _launches, _trace, silent
from warehouse import catalog, parquet, schema

NAME = "from_torch_trace"
SETTABLE = tuple(
    name for name in (*schema.CONFIGURATION_NAMES, "task", "execution", "cache_implementation", "framework", "framework_version")
    if name not in ("hardware_id", "llm_id", "phase")
)  # fmt: skip
"""Columns of `runs` that --set takes."""


def add_arguments(parser: Any) -> None:
    """Command-line options of `collect`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="traces, .json or .json.gz; one run each")
    parser.add_argument("--phase", help=f"what was profiled: {' '.join(schema.PHASES)}")
    parser.add_argument("--llm-id", help="catalogue id of the LLM; default: not known")
    parser.add_argument("--hardware-id", help="catalogue id of the device; default: the one the trace names")
    parser.add_argument("--batch-size", type=int, help="sequences at once")
    parser.add_argument("--input-tokens", type=int, help="prompt, encoder or training tokens of one sequence")
    parser.add_argument("--output-tokens", type=int, help="generated or decoder tokens of one sequence")
    parser.add_argument("--context-tokens", type=int, help="tokens that one decode step attends to")
    parser.add_argument("--dtype", help="dtype of weights, activations and KV cache")
    parser.add_argument(
        "--set", dest="settings", action="append", metavar="COLUMN=VALUE", help="any other column, e.g. tensor_parallel=8"
    )  # fmt: skip


def collect(
    landing: Path,
    *,
    report: Report = silent,
    files: Path | str | Sequence[Path | str],
    phase: str | None = None,
    llm_id: str | None = None,
    hardware_id: str | None = None,
    batch_size: int | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    context_tokens: int | None = None,
    dtype: str | None = None,
    settings: Sequence[str] | None = None,
    known_hardware: Collection[str] = (),
) -> Collected:
    """Land one run a file; its id is made of the file's content and of what is said of it: a second import adds nothing.

    `known_hardware` are ids of devices that are in no catalogue and that a lake holds.
    Every file is tried; ValueError then says which were refused and why (no trace, no phase, a device that nobody knows).
    Raises LookupError for an LLM or a device that is in no catalogue.
    """
    asked: dict[str, Any] = {
        "llm_id": None if llm_id is None else catalog.find_llm(llm_id).llm_id,
        "batch_size": batch_size, "input_tokens": input_tokens, "output_tokens": output_tokens,
        "context_tokens": context_tokens, "weight_dtype": dtype, "activation_dtype": dtype, "kv_dtype": dtype,
    }  # fmt: skip
    asked |= dict(_setting(one) for one in settings or ())
    for name, value in asked.items():
        if isinstance(value, int | float) and value < 1:
            raise ValueError(f"{name} is a number from 1 on, not {value}.")
    hardware = hardware_id
    if hardware_id is not None and hardware_id not in known_hardware:
        hardware = _known_hardware(hardware_id, landing)
    paths: list[Path] = []
    refused: list[str] = []
    given = [Path(one) for one in ([files] if isinstance(files, Path | str) else files)]
    for file in given:
        try:
            batch = _batch(file, phase, hardware, asked)
        except ValueError as error:
            refused.append(str(error))
            continue
        paths += parquet.land(landing, batch["runs"][0]["run_id"], batch)
        report(f"{file.name}: {len(batch['ops'])} ops, {batch['runs'][0]['status_detail'] or 'complete'}")
    if refused:
        raise ValueError("\n".join(refused))
    return Collected(len(given), tuple(paths))


def _batch(file: Path, phase: str | None, hardware: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    """All rows of one file, by table."""
    if phase is None:
        raise ValueError(
            f"{file.name} does not say what was profiled: give --phase. Known: {', '.join(schema.PHASES)}."
        )
    trace = _trace.read(file)
    config = _configuration(trace, phase, _hardware(trace, hardware), asked)
    launches = _launches.Launches(trace)
    kernels, modules = launches.kernel_rows(phase), launches.module_rows(phase)
    devices = launches.device_times(counted=True)
    environment = _environment(trace, config["hardware_id"])
    source_id = f"torch-trace/{trace.digest}"
    config_id = schema.config_id(config)
    run_id = f"{NAME}-{schema.digest(trace.digest, config_id)}"
    run = {
        "run_id": run_id,
        "config_id": config_id,
        "repeat_group_id": schema.digest(source_id, config_id),
        "collector": NAME,
        "source_kind": "measured",
        "source_id": source_id,
        "quality_tier": 1,
        "collected_at": trace.started_at or datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC),
        "status": "ok",
        "status_detail": _notes(trace, launches.num_steps),
        "is_excluded": False,
        "framework": "pytorch",
        "execution": "graph" if _is_replayed(kernels) else None,
        **config,
        "environment_id": None if environment is None else environment["environment_id"],
        "command": _command(file, config),
        "num_samples": launches.num_executions,
        "kernel_time_s": launches.kernel_time_s(),
        "communication_s": _communication_s(devices, config["num_devices"], launches.num_executions),
        "metric_definitions": {"kernel_time_s": "profiler_busy"} if trace.is_on_device else {},
    }
    ops = [{"run_id": run_id, "op_index": index, **row} for index, row in enumerate(modules + kernels)]
    return {
        "environments": [] if environment is None else [environment],
        "sources": [_source(trace, source_id)],
        "ops": ops,
        "samples": _samples(run_id, launches),
        "ranks": _ranks(run_id, trace, devices, launches.num_executions),
        "runs": [run],
    }


def _configuration(trace: _trace.Trace, phase: str, hardware: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Configuration columns: what was asked, and the number of devices as the trace says it where it was not."""
    if phase not in schema.PHASES:
        raise ValueError(f"'{phase}' is not a phase. Known: {', '.join(schema.PHASES)}.")
    config = {"hardware_id": hardware, "phase": phase, "optimizations": [], **asked}
    if config.get("num_devices") is None:
        config["num_devices"] = trace.world_size or max(1, len(trace.used_devices))
    return config


def _hardware(trace: _trace.Trace, given: str | None) -> str:
    """Id of the device a trace was taken on: as given, else by the name it holds. Raises ValueError."""
    if given is not None:
        return given
    if trace.device_name is None:
        raise ValueError(f"{trace.name} names no hardware: give --hardware-id.")
    try:
        return catalog.find_hardware(trace.device_name).hardware_id
    except catalog.UnknownEntryError as error:
        raise ValueError(
            f"{trace.name} was taken on '{trace.device_name}', which is not in the hardware catalogue: "
            "give --hardware-id, or add the name to an entry's aliases in warehouse/catalog/hardware.toml."
        ) from error


def _known_hardware(hardware_id: str, landing: Path) -> str:
    """Id of a device of the catalogue, or of one measured into the landing folder. Raises catalog.UnknownEntryError."""
    try:
        return catalog.find_hardware(hardware_id).hardware_id
    except catalog.UnknownEntryError:
        for path in (landing / "hardware").glob("*.parquet"):
            if hardware_id in parquet.read("hardware", path).column("hardware_id").to_pylist():
                return hardware_id
        raise


def _setting(text: str) -> tuple[str, Any]:
    """`tensor_parallel=8` as a column and its value. Raises ValueError for another column or a value it does not take."""
    name, separator, value = text.partition("=")
    if not separator or name not in SETTABLE:
        raise ValueError(f"'{text}' does not set a column that can be set. Known: {', '.join(SETTABLE)}.")
    column = schema.RUNS.column(name)
    if column.values is not None and value not in column.values:
        raise ValueError(f"'{value}' is not a value of {name}. Known: {', '.join(column.values)}.")
    if pa.types.is_list(column.type):
        return name, sorted(value.split())
    try:
        return name, pa.scalar(value).cast(column.type).as_py()
    except pa.ArrowInvalid:
        raise ValueError(f"'{value}' is not a value of {name}: it takes {column.type}.") from None


def _notes(trace: _trace.Trace, num_steps: int) -> str:
    notes = ["from a profiled pass: no latency"]
    if num_steps:
        notes.append(
            f"times are means over {num_steps} profiler steps" if num_steps > 1 else "times are of one profiler step"
        )
    else:
        notes.append("no profiler steps: times are of the whole trace")
    if not trace.is_on_device:
        notes.append("no kernel in the trace: ops are operators on the host, timed outside one another")
    if trace.world_size is not None and trace.world_size > 1:
        notes.append(f"rank {trace.rank} of {trace.world_size}")
    return "; ".join(notes)


def _is_replayed(kernels: list[dict[str, Any]]) -> bool:
    """Whether most of the device's time is in graphs that were replayed."""
    times = [(row["count"] * row["device_time_s"], row) for row in kernels if "device_time_s" in row]
    replayed = sum(spent for spent, row in times if "GraphLaunch/" in row["path"])
    return replayed > 0.5 * sum(spent for spent, _ in times)


def _communication_s(devices: list[_launches.DeviceTime], num_devices: int, executions: int) -> float | None:
    """Time in collectives of the device that spent most in them, one execution; None where there is nobody to speak to."""
    spent = max((one.communication_s for one in devices), default=0.0)
    return spent / executions if devices and (num_devices > 1 or spent > 0) else None


def _samples(run_id: str, launches: _launches.Launches) -> list[dict[str, Any]]:
    """Totals of the whole trace under the profiler's own name: one sample a device, or a step."""
    devices = launches.device_times()
    names = ("kernel_sum_s", "memcpy_sum_s", "memset_sum_s", "busy_s", "idle_s", "span_s", "longest_gap_s",
             "communication_s", "exposed_communication_s")  # fmt: skip
    series: dict[str, list[float | None]] = {name: [getattr(one, name) for one in devices] for name in names}
    series["step_s"] = [(end - begin) / 1e6 for begin, end in launches.trace.steps()]
    series["launch_lag_s"] = [launches.launch_lag_s()]
    series["operator_sum_s"] = [launches.operator_sum_s()]
    return [
        {"run_id": run_id, "metric": f"torch_profiler:{name}", "sample_index": index, "sample_phase": "measured",
         "value": value, "unit": "s"}
        for name, values in series.items()
        for index, value in enumerate(values)
        if value is not None
    ]  # fmt: skip


def _ranks(
    run_id: str, trace: _trace.Trace, devices: list[_launches.DeviceTime], executions: int
) -> list[dict[str, Any]]:
    """The rank that wrote the trace, of a run on several."""
    if trace.rank is None or trace.world_size in (None, 1):
        return []
    one = devices[0] if len(devices) == 1 else None
    return [
        {
            "run_id": run_id,
            "rank": trace.rank,
            "device_index": None if one is None else one.device,
            "communication_s": None if one is None else one.communication_s / executions,
            "compute_s": None if one is None else (one.busy_s - one.exposed_communication_s) / executions,
        }
    ]


def _environment(trace: _trace.Trace, hardware_id: str) -> dict[str, Any] | None:
    """What the trace says about its machine, as an `environments` row; None where it says nothing."""
    devices = trace.properties.get("deviceProperties") or []
    if not devices or trace.device_name is None:
        return None
    cuda, memory = trace.properties.get("cuda_runtime_version"), devices[0].get("totalGlobalMem")
    content = {
        "hardware_id": hardware_id,
        "gpu_name": trace.device_name,
        "gpu_count": len(devices),
        "gpu_memory_bytes": None if memory is None else float(memory),
        "cuda_version": None if cuda is None else f"{int(cuda) // 1000}.{int(cuda) % 1000 // 10}",
    }
    return {"environment_id": schema.digest(content), **content}


def _source(trace: _trace.Trace, source_id: str) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "title": f"torch.profiler trace {trace.digest}",
        "kind": "dataset",
        "locator": f"{trace.num_events} events",
        "note": "Chrome trace; times of a profiled pass. Kernels belong to the module whose annotation encloses their launch.",
    }


def _command(file: Path, config: dict[str, Any]) -> str:
    """What repeats the import; the file is named without its path."""
    words = [
        "python",
        "-m",
        "collectors",
        NAME,
        file.name,
        "--phase",
        config["phase"],
        "--hardware-id",
        config["hardware_id"],
    ]
    words += [word for name in ("llm_id",) if config[name] for word in (f"--{name.replace('_', '-')}", config[name])]
    shown = [name for name in SETTABLE if name in config and config[name] not in (None, [])]
    for name in shown:
        value = " ".join(config[name]) if isinstance(config[name], list) else config[name]
        words += ["--set", f"{name}={value}"]
    return shlex.join(map(str, words))
