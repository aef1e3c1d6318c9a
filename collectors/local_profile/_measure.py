"""One case on one model: its variants timed side by side, then modules, kernels and energy in passes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from collectors import _kernels, _machine, _memory, _modules, _telemetry, _timing, _trace
from collectors import _transformers as engine
from collectors._session import Session, failure, joined
from collectors._steps import Step, make_step
from collectors.local_profile import _columns
from collectors.local_profile._cells import Cell, Job

MIN_REPEATS, MAX_REPEATS = 3, 200
LEAST_EXECUTIONS = 1 + MIN_REPEATS
"""Of a timed run: one to warm up, and the repeats."""

LONG_PASS_S = 0.5
"""A pass with hooks that takes longer needs no warm-up of its own."""


class OutOfMemoryError(Exception):
    """A batch for which there is no room."""


@dataclass
class Loaded:
    """A model on the device, its blueprint, and what was resident before it was built (None where the system does not tell)."""

    session: Session
    job: Job
    blueprint: engine.Blueprint
    model: Any
    baseline_bytes: float | None
    allocated_bytes: float = field(init=False)

    def __post_init__(self) -> None:
        self.allocated_bytes = _allocated_bytes(self.session.device)


@dataclass(frozen=True)
class Result:
    """What a cell came to: columns of its run, rows of the tables beside it."""

    index: int
    columns: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ready:
    """A variant that may be timed. `memory` is None where the warm-up of its timing is to tell."""

    step: Step
    watch: _memory.MemoryWatch
    memory: dict[str, Any] | None


@dataclass(frozen=True)
class _Timed:
    """A variant that was timed: one entry of `first_token_s` for each execution of a generate."""

    step: Step
    timing: _timing.Timing
    first_token_s: list[float]
    memory: dict[str, Any]


@dataclass(frozen=True)
class _Surroundings:
    """What happened on the machine while a group was timed."""

    telemetry: _telemetry.Telemetry
    other_load_ratio: float | None


def measure(
    loaded: Loaded, cells: dict[int, Cell], runs: dict[int, dict[str, Any]], repeats_s: float
) -> Iterator[Result]:
    """Results of variants of one case. Those that fit in memory together are timed interleaved, the others alone."""
    alone: list[int] = []
    yield from _together(loaded, cells, runs, repeats_s, alone)
    if any(cell.execution == "compiled" for cell in cells.values()):
        torch.compiler.reset()
    _memory.trim()
    for index in alone:
        yield from measure(loaded, {index: cells[index]}, runs, repeats_s)


def _together(
    loaded: Loaded, cells: dict[int, Cell], runs: dict[int, dict[str, Any]], repeats_s: float, alone: list[int]
) -> Iterator[Result]:
    """Results of the variants that run side by side; what would fit without the others is added to `alone`."""
    ready: dict[int, _Ready] = {}
    for index, cell in cells.items():
        try:
            ready[index] = _ready(loaded, cell, is_alone=len(cells) == 1)
        except Exception as error:
            outcome = failure(error)
            if ready and outcome["status"] == "oom":
                alone.append(index)
            else:
                yield Result(index, outcome)
    try:
        timed, around = _time(loaded, ready, repeats_s)
    except Exception as error:
        outcome = failure(error)
        if len(ready) > 1:
            alone += ready
        else:
            yield from (Result(index, outcome) for index in ready)
        return
    for index, one in timed.items():
        yield _result(loaded, index, cells[index], runs[index], one, around, is_single=len(timed) == 1)


def try_memory(loaded: Loaded, cell: Cell) -> None:
    """Run a cell once, on a CPU compare what it surely needs with what is free. Raises OutOfMemoryError."""
    device = loaded.session.device
    try:
        if device == "cpu":
            work = loaded.blueprint.work(cell.case)
            if isinstance(work, Exception):
                raise work
            _memory.check_free(device, work.bytes_of(cell.case.batch_size))
            return
        _run_once(loaded, cell)
    except Exception as error:
        outcome = failure(error)
        if outcome["status"] != "oom":
            raise
        raise OutOfMemoryError(outcome["status_detail"]) from error
    finally:
        _memory.trim()


def _run_once(loaded: Loaded, cell: Cell) -> None:
    with torch.inference_mode():
        step = make_step(loaded.model, cell.case, loaded.session.device, cell.cache or "dynamic", cell.execution)
        step.prepare()
        step.call()
        torch.cuda.synchronize()


def _ready(loaded: Loaded, cell: Cell, *, is_alone: bool) -> _Ready:
    """Make a variant's step. Beside others its memory is told by executions of its own, less what the others hold.

    A CUDA graph allocates when it is captured, not when it is replayed. The resident set of a process that compiled holds its
    compiler too.
    """
    device = loaded.session.device
    held = _allocated_bytes(device) - loaded.allocated_bytes
    is_graph = cell.execution == "graph"
    watch = _memory.MemoryWatch(device)
    with torch.inference_mode():
        if is_graph:
            torch.cuda.reset_peak_memory_stats()
        step = make_step(loaded.model, cell.case, device, cell.cache or "dynamic", cell.execution)
        if is_graph:
            return _Ready(step, watch, _without(watch.columns(None), held))
        if cell.execution == "compiled" and device == "cpu":
            return _Ready(step, watch, {"memory_peak_bytes": None})
        if is_alone:
            return _Ready(step, watch, None)
        with watch:
            step.prepare()
            step.call()
        if device == "cuda":
            step.prepare()
            step.call()
            torch.cuda.synchronize()
    return _Ready(step, watch, _without(watch.columns(loaded.baseline_bytes), held))


def _without(memory: dict[str, float | None], held: float) -> dict[str, Any]:
    """Memory columns less what other variants hold; what cannot be told apart is NULL."""
    peak = memory["memory_peak_bytes"]
    if held <= 0.0 or peak is None:
        return memory
    return {"memory_peak_bytes": peak - held if peak > held else None}


def _allocated_bytes(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.memory_allocated())
    resident = _memory.resident_bytes()
    return 0.0 if resident is None else resident


def _time(loaded: Loaded, ready: dict[int, _Ready], repeats_s: float) -> tuple[dict[int, _Timed], _Surroundings]:
    """Time variants, interleaved where there are several."""
    device = loaded.session.device
    rule: dict[str, Any] = {"device": device, "min_repeats": MIN_REPEATS, "max_repeats": MAX_REPEATS}
    timed: dict[int, _Timed] = {}
    telemetry = _telemetry.Telemetry(device)
    with torch.inference_mode(), telemetry, _machine.Load() as load:
        if len(ready) == 1:
            ((index, one),) = ready.items()
            watch = one.watch if one.memory is None else None
            timing = _timing.measure(one.step.call, prepare=one.step.prepare, budget_s=repeats_s, watch=watch, **rule)
            memory = one.watch.columns(loaded.baseline_bytes) if one.memory is None else one.memory
            timed[index] = _timed(one, timing, memory)
        elif ready:
            steps = {str(index): (one.step.call, one.step.prepare) for index, one in ready.items()}
            timings = _timing.measure_interleaved(steps, budget_s=repeats_s * len(steps), **rule)
            timed = {index: _timed(one, timings[str(index)], one.memory or {}) for index, one in ready.items()}
    return timed, _Surroundings(telemetry, load.other_ratio())


def _timed(one: _Ready, timing: _timing.Timing, memory: dict[str, Any]) -> _Timed:
    first_token_s = one.step.first_token_s
    return _Timed(one.step, timing, first_token_s[-len(timing.samples) :] if first_token_s else [], memory)


def _result(
    loaded: Loaded, index: int, cell: Cell, run: dict[str, Any], one: _Timed, around: _Surroundings, *, is_single: bool
) -> Result:
    """Columns and rows of a variant that was timed, with the passes beside it. A pass that fails leaves a note."""
    timing, run_id = one.timing, run["run_id"]
    columns = _columns.measured(
        loaded.session, loaded.job.target, loaded.blueprint, loaded.model, cell, run, timing, one.first_token_s
    )
    columns |= one.memory
    seen = around.telemetry.columns()
    columns |= seen if is_single else {name: seen[name] for name in ("throttled_ratio",) if name in seen}
    if columns.get("power_avg_w") is not None:
        columns["metric_definitions"]["power_avg_w"] = "telemetry_mean"
    columns["other_load_ratio"] = around.other_load_ratio
    samples = timing.rows(run_id, around.telemetry.throttled_between)
    samples += _columns.token_samples(run_id, timing, cell.case, one.first_token_s)
    if one.step.compile_s is not None:
        samples += _timing.sample_rows(run_id, "torch:compile_s", ["warmup"], [one.step.compile_s])
    ops: list[dict[str, Any]] = []
    notes = [*_notes(loaded, cell, timing, around), one.step.note]
    for wanted, do in (
        (loaded.job.passes.layers, _layers),
        (loaded.job.passes.energy, _energy),
        (loaded.job.passes.kernels, _profiled),  # last: on CUDA it slows what the process launches after it
    ):
        if not wanted:
            continue
        try:
            added, rows, note = do(loaded, cell, run, one.step, columns, len(ops))
        except Exception as error:  # the timing stands without it
            added, rows, note = {}, [], f"no {do.__name__.strip('_')}: {failure(error)['status_detail']}"
        definitions = columns["metric_definitions"] | added.pop("metric_definitions", {})
        columns |= added | {"metric_definitions": definitions}
        ops += rows
        notes.append(note)
    columns["is_host_bound"] = _timing.is_host_bound(
        columns["latency_s"], columns["device_time_s"], columns.get("kernel_time_s")
    )
    columns["status_detail"] = joined(*notes)
    return Result(index, columns, {"ops": ops, "samples": samples, "telemetry": around.telemetry.rows(run_id)})


def _notes(loaded: Loaded, cell: Cell, timing: _timing.Timing, around: _Surroundings) -> list[str | None]:
    built, published = loaded.blueprint.num_parameters, loaded.job.target.llm.num_parameters
    differs = published is not None and built != published
    work = loaded.blueprint.work(cell.case)
    is_hidden = cell.execution == "compiled" and loaded.session.device == "cpu"
    return [
        *loaded.job.disturbances,
        "no memory: the compiler's is resident too" if is_hidden else None,
        f"transformers builds {built} parameters, published are {published}" if differs else None,
        _machine.load_note(around.other_load_ratio),
        f"no FLOPs: {failure(work)['status_detail']}" if isinstance(work, Exception) else None,
        timing.note,
        around.telemetry.note,
    ]


# ---- passes of their own: (columns, rows of ops, note)

_Pass = tuple[dict[str, Any], list[dict[str, Any]], str | None]


def _layers(
    loaded: Loaded, cell: Cell, run: dict[str, Any], step: Step, columns: dict[str, Any], first_index: int
) -> _Pass:
    """Module rows of a warmed-up pass with hooks, and what the leaves add up to. Hooks see eager modules, one pass at a time."""
    if cell.execution != "eager" or cell.case.phase == "generate":
        return {}, [], None
    timer = _modules.ModuleTimer(loaded.model, loaded.session.device)
    with torch.inference_mode():
        for _ in range(2):
            timer.clear()
            step.prepare()
            with timer:
                step.call()
            if timer.total_s > LONG_PASS_S:
                break
        total = timer.total_s
        step.prepare()
        with timer.accounts():
            step.call()
    rows = timer.rows(run["run_id"], cell.case.phase)
    unprofiled = columns["latency_s"] if columns["device_time_s"] is None else columns["device_time_s"]
    return {"ops_time_s": _modules.leaves_s(rows), "hooks_overhead_ratio": total / unprofiled}, rows, None


def _profiled(
    loaded: Loaded, cell: Cell, run: dict[str, Any], step: Step, columns: dict[str, Any], first_index: int
) -> _Pass:
    """Kernel rows of a pass under torch.profiler, attributed to modules where these run one by one and each once; the trace where
    asked for, to be kept when its run lands (`keep_trace`)."""
    name = f"{run['run_id']}.json.gz" if loaded.job.passes.trace else None
    is_by_module = cell.execution == "eager" and cell.case.phase != "generate"
    with torch.inference_mode():
        seen = _kernels.profile(
            step.call, loaded.model if is_by_module else None, device=loaded.session.device,
            prepare=step.prepare, run_id=run["run_id"], phase=cell.case.phase, first_index=first_index,
            trace_path=None if name is None else _unkept(loaded.session, name), executions=1 if columns["latency_s"] > LONG_PASS_S else 3,
        )  # fmt: skip
    added: dict[str, Any] = {"profiler_overhead_ratio": seen.wall_s / columns["latency_s"]}
    if seen.kernel_time_s is not None:
        added |= {"kernel_time_s": seen.kernel_time_s, "metric_definitions": {"kernel_time_s": "profiler_busy"}}
    if name is not None:
        added["trace"] = name
    return added, seen.rows, seen.note


def _unkept(session: Session, name: str) -> Path:
    return _trace.trace_folder(session.landing) / f".{name}"


def keep_trace(session: Session, name: str) -> None:
    """Give the trace of a run that is about to land its name."""
    _unkept(session, name).replace(_trace.trace_folder(session.landing) / name)


def drop_trace(session: Session, name: str) -> None:
    """Remove the trace of a run that could not land."""
    (_trace.trace_folder(session.landing) / name).unlink(missing_ok=True)


def _energy(
    loaded: Loaded, cell: Cell, run: dict[str, Any], step: Step, columns: dict[str, Any], first_index: int
) -> _Pass:
    with torch.inference_mode():
        energy = _telemetry.measure_energy(step.call, device=loaded.session.device, prepare=step.prepare)
    added: dict[str, Any] = energy.columns()
    if energy.energy_j is not None and energy.definition is not None:
        definitions = {"energy_j": energy.definition, "power_avg_w": "energy_window"}
        for name, tokens in (
            ("energy_per_token_j", _columns.energy_tokens(cell.case)),
            ("energy_per_output_token_j", _columns.output_tokens(cell.case)),
        ):
            if tokens is not None:
                added[name] = energy.energy_j / tokens
                definitions[name] = energy.definition
        added["metric_definitions"] = definitions
    return added, [], energy.reason
