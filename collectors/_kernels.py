"""Kernels of a model, from a pass under torch.profiler of its own: rows of `ops` at level 'kernel', and the trace kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors import _launches, _trace


@dataclass(frozen=True)
class Profile:
    """What one profiled pass saw, per execution.

    `rows` are of `ops` with run_id and op_index. `kernel_time_s` is the time in which at least one kernel ran, None on a CPU.
    `wall_s` is the wall-clock time of an execution under the profiler: over the unprofiled latency it is the overhead, and it is
    never a latency. `attributed_ratio` is the share of the rows' time that belongs to a module. `note` says what is missing.
    """

    rows: list[dict[str, Any]]
    kernel_time_s: float | None
    wall_s: float
    attributed_ratio: float | None
    note: str | None


def profile(
    call: Callable[[], Any],
    model: Any | None,
    *,
    device: str,
    prepare: Callable[[], Any] = lambda: None,
    run_id: str,
    phase: str | None = None,
    first_index: int = 0,
    trace_path: Path | None = None,
    executions: int = 3,
) -> Profile:
    """Execute `call` under torch.profiler, `prepare` before each outside of what is counted, and read the trace.

    Kernels are attributed to the modules of `model` by hooks that annotate every forward; None for no hooks (compiled models,
    where a hook would change what is compiled). On a CPU the rows are operators with the time each spent outside others.
    Rows start at `first_index`. The trace is kept at `trace_path` without host name, environment and paths. One execution
    more comes first and is not counted: it takes the profiler's own start.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints its start and end otherwise
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as torch_profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    walls = []
    with tempfile.TemporaryDirectory(prefix="rooflake-") as folder:
        with _annotated(model), torch_profile(activities=activities, record_shapes=True) as profiler:
            for index in range(executions + 1):
                prepare()
                _synchronize(device)
                began = time.perf_counter()
                with record_function(f"{_trace.STEP_PREFIX}{index}") if index else contextlib.nullcontext():
                    result = call()
                    _synchronize(device)
                walls.append(time.perf_counter() - began)
                del result
        written = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(written))
        if trace_path is not None:
            _trace.strip(written, trace_path)
        trace = _trace.read(written)
    launches = _launches.Launches(trace)
    note = "the profiler saw no kernel on the device" if device == "cuda" and not trace.is_on_device else None
    rows = launches.kernel_rows(phase) if note is None else []
    return Profile(
        rows=[{"run_id": run_id, "op_index": first_index + index, **row} for index, row in enumerate(rows)],
        kernel_time_s=launches.kernel_time_s(),
        wall_s=sum(walls[1:]) / executions,
        attributed_ratio=_attributed(rows),
        note=note,
    )


def _synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


@contextlib.contextmanager
def _annotated(model: Any | None) -> Iterator[None]:
    """While entered, every forward of a module is a range `module:<path>:<class>` of the profiler."""
    from torch.autograd.profiler import record_function

    open_ranges: list[Any] = []

    def before(name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            open_ranges.append(record_function(name))
            open_ranges[-1].__enter__()

        return enter

    def after(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    handles = []
    try:
        for path, module in model.named_modules() if model is not None else ():
            name = f"{_trace.MODULE_PREFIX}{path}:{type(module).__name__}"
            handles.append(module.register_forward_pre_hook(before(name)))
            handles.append(module.register_forward_hook(after, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attributed(rows: list[dict[str, Any]]) -> float | None:
    """Share of the rows' time that belongs to a module; None where no time was seen."""

    def spent(chosen: list[dict[str, Any]]) -> float:
        return float(sum(row["count"] * row.get("device_time_s", row.get("time_s")) for row in chosen))

    total = spent(rows)
    return spent([row for row in rows if row["parent_path"] is not None]) / total if total > 0 else None
