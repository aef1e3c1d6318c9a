"""Traces of torch.profiler: one run a file, its kernels (on a CPU its operators) and modules as ops.

Any Chrome trace that torch.profiler writes, .json or .json.gz: CPU, CUDA, ROCm, graph replay. A trace says which device it was taken on
and little of what ran: the rest is given here, and what is not given is NULL. Latency stays NULL, because a profiled pass has none; the
time of kernels is of one profiler step where the file marks steps (the mean of those in which anything was launched; what was launched
outside them does not count), and of the whole file where it marks none. Totals of the whole file are in `samples`, named torch_profiler:*.
The environment of the process that some producers write into a trace is never read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from collectors import Collected, Report, _importing, _launches, _trace, silent
from collectors._importing import File, Run, Said, Unreadable
from warehouse import parquet, schema

TOOL = "torch_trace"
SOURCE_KIND = "measured"


def recognises(file: File) -> bool:
    """Whether it is a Chrome trace; its events may begin behind what some producers say of the process."""
    head = file.head
    if not head.lstrip().startswith("{"):
        return False
    return '"traceEvents"' in head or (
        '"schemaVersion"' in head and ('"deviceProperties"' in head or '"baseTimeNanoseconds"' in head)
    )


def read(file: File, said: Said) -> Iterator[Run]:
    """The run of a trace. Its phase must be said. Raises Unreadable for a file that is no trace or is cut off."""
    phase = said.settings.get("phase")
    if phase is None:
        raise Unreadable(
            f"{file.name} does not say what was profiled: give --phase, or --set phase=... where there is no such option. Known: "
            f"{', '.join(schema.PHASES)}."
        )
    try:
        trace = _trace.read(file.path)
    except _trace.TraceError as error:
        raise Unreadable(str(error)) from None
    launches = _launches.Launches(trace)
    kernels, modules = launches.kernel_rows(phase), launches.module_rows(phase)
    devices = launches.device_times(counted=True)
    num_devices = said.settings.get("num_devices")
    if num_devices is None:
        num_devices = trace.world_size or max(1, len(trace.used_devices))
    yield Run(
        "all",
        {
            "num_devices": num_devices,
            "framework": "pytorch",
            "execution": "graph" if _is_replayed(kernels) else None,
            "num_samples": launches.num_executions,
            "kernel_time_s": launches.kernel_time_s(),
            "communication_s": _communication_s(devices, num_devices, launches.num_executions),
        },
        {"kernel_time_s": "profiler_busy"} if trace.is_on_device else {},
        device=trace.device_name,
        collected_at=trace.started_at,
        quality_tier=1,
        notes=_notes(trace, launches.num_steps),
        environment=_environment(trace),
        samples=_samples(launches),
        ops=modules + kernels,
        ranks=_ranks(trace, devices, launches.num_executions),
    )


def add_arguments(parser: Any) -> None:
    """The options of every importer, and those that nearly every trace needs."""
    _importing.add_arguments(parser)
    parser.add_argument("--hardware-id", dest="hardware_id", help="the same as --hardware")
    parser.add_argument("--phase", help=f"what was profiled: {' '.join(schema.PHASES)}")
    parser.add_argument("--batch-size", type=int, help="sequences at once")
    parser.add_argument("--input-tokens", type=int, help="prompt, encoder or training tokens of one sequence")
    parser.add_argument("--output-tokens", type=int, help="generated or decoder tokens of one sequence")
    parser.add_argument("--context-tokens", type=int, help="tokens that one decode step attends to")
    parser.add_argument("--dtype", help="dtype of weights, activations and KV cache")


def collect(
    landing: Path,
    *,
    report: Report = silent,
    files: Path | str | Sequence[Path | str],
    phase: str | None = None,
    batch_size: int | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    context_tokens: int | None = None,
    dtype: str | None = None,
    settings: Sequence[str] | None = None,
    known_hardware: Collection[str] = (),
    **options: Any,
) -> Collected:
    """Land one run a file; its id is made of the file's content and of what is said of it: a second import adds nothing.

    `known_hardware` are ids of devices that are in no catalogue and that a lake holds; those measured into the landing folder
    are known too. Raises like `_importing.collect`.
    """
    said = {
        "phase": phase, "batch_size": batch_size, "input_tokens": input_tokens, "output_tokens": output_tokens,
        "context_tokens": context_tokens, "weight_dtype": dtype, "activation_dtype": dtype, "kv_dtype": dtype,
    }  # fmt: skip
    for name, value in said.items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{name} is a number from 1 on, not {value}.")
    return _importing.collect(
        landing,
        report=report,
        files=files,
        tool=TOOL,
        settings=[f"{name}={value}" for name, value in said.items() if value is not None] + list(settings or ()),
        known_hardware={*known_hardware, *_landed_hardware(landing)},
        **options,
    )


def _landed_hardware(landing: Path) -> set[str]:
    """Ids of the devices that were measured into a landing folder."""
    found: set[str] = set()
    for path in (landing / "hardware").glob("*.parquet"):
        found.update(parquet.read("hardware", path).column("hardware_id").to_pylist())
    return found


def _notes(trace: _trace.Trace, num_steps: int) -> list[str]:
    notes = ["From a profiled pass: no latency."]
    if num_steps:
        notes.append(
            f"Times are means over {num_steps} profiler steps." if num_steps > 1 else "Times are of one profiler step."
        )
    else:
        notes.append("No profiler steps: times are of the whole trace.")
    if not trace.is_on_device:
        notes.append("There is no kernel in the trace: ops are operators on the host, timed outside one another.")
    if trace.world_size is not None and trace.world_size > 1:
        notes.append(f"Rank {trace.rank} of {trace.world_size}.")
    return notes


def _is_replayed(kernels: list[dict[str, Any]]) -> bool:
    """Whether most of the device's time is in graphs that were replayed."""
    times = [(row["count"] * row["device_time_s"], row) for row in kernels if "device_time_s" in row]
    replayed = sum(spent for spent, row in times if "GraphLaunch/" in row["path"])
    return replayed > 0.5 * sum(spent for spent, _ in times)


def _communication_s(devices: list[_launches.DeviceTime], num_devices: int, executions: int) -> float | None:
    """Time in collectives of the device that spent most in them, one execution; None where there is nobody to speak to."""
    spent = max((one.communication_s for one in devices), default=0.0)
    return spent / executions if devices and (num_devices > 1 or spent > 0) else None


def _samples(launches: _launches.Launches) -> list[dict[str, Any]]:
    """Totals of the whole trace under the profiler's own name: one sample a device, or a step."""
    devices = launches.device_times()
    names = ("kernel_sum_s", "memcpy_sum_s", "memset_sum_s", "busy_s", "idle_s", "span_s", "longest_gap_s",
             "communication_s", "exposed_communication_s")  # fmt: skip
    series: dict[str, list[float | None]] = {name: [getattr(one, name) for one in devices] for name in names}
    series["step_s"] = [(end - begin) / 1e6 for begin, end in launches.trace.steps()]
    series["launch_lag_s"] = [launches.launch_lag_s()]
    series["operator_sum_s"] = [launches.operator_sum_s()]
    return [
        row
        for name, values in series.items()
        for value in values
        for row in _importing.sample(f"torch_profiler:{name}", value, "s")
    ]


def _ranks(trace: _trace.Trace, devices: list[_launches.DeviceTime], executions: int) -> list[dict[str, Any]]:
    """The rank that wrote the trace, of a run on several."""
    if trace.rank is None or trace.world_size in (None, 1):
        return []
    one = devices[0] if len(devices) == 1 else None
    return [
        {
            "rank": trace.rank,
            "device_index": None if one is None else one.device,
            "communication_s": None if one is None else one.communication_s / executions,
            "compute_s": None if one is None else (one.busy_s - one.exposed_communication_s) / executions,
        }
    ]


def _environment(trace: _trace.Trace) -> dict[str, Any] | None:
    """What the trace says about its machine, as an `environments` row; None where it says nothing."""
    devices = trace.properties.get("deviceProperties") or []
    if not devices or trace.device_name is None:
        return None
    cuda, memory = trace.properties.get("cuda_runtime_version"), devices[0].get("totalGlobalMem")
    return {
        "gpu_name": trace.device_name,
        "gpu_count": len(devices),
        "gpu_memory_bytes": None if memory is None else float(memory),
        "cuda_version": None if cuda is None else f"{int(cuda) // 1000}.{int(cuda) % 1000 // 10}",
    }
