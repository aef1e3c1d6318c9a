"""LLMs on the machine at hand: latency with raw samples, peak memory, FLOPs and per-module time; CUDA where present, else CPU.

Architectures of the catalogue run with random weights, which changes no speed; `--checkpoint` runs a local checkpoint folder
or a hub id. Each run lands by itself as soon as it ends, so a kill loses at most the one in progress.

On a machine shared with other processes start it with OMP_WAIT_POLICY=passive (kept with the environment): waiting threads then
sleep instead of spinning on a core that somebody else needs. A decode step of gpt2 in fp32, two threads on two cores, took 66 ms
so and 693 ms otherwise beside two busy processes; 37 ms and 34 ms alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gc
import importlib.metadata
import itertools
import shlex
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors import Collected, Report, _machine, _timing, silent
from warehouse import catalog, parquet, schema

if TYPE_CHECKING:
    from collectors import _transformers as engine

NAME = "local_profile"
SOURCE_ID = "rooflake/local_profile"
SOURCE = {
    "source_id": SOURCE_ID,
    "title": "Local profile: LLMs timed on the machine at hand",
    "kind": "machine",
    "locator": "collectors/local_profile.py",
    "note": "Synthetic token ids without padding, random weights unless a checkpoint is named; one warm-up, then repeats; "
    "per-module times from a separate pass with hooks.",
}
LLM_IDS = ("opt-350m", "bloom-560m", "t5-small", "bart-base")
PHASES = ("forward", "prefill", "decode")
DECODER_SHARE = {"summarization": 0.25, "translation": 1.0, "question_answering": 0.0625, "generation": 0.5}
"""Task -> decoder tokens per input token, where output_tokens is not given. The lengths are ours (a summary is a quarter of its
text, a translation as long, an answer short); a decoder-only or encoder model runs every task at the same shapes."""

WARMUPS, MIN_REPEATS, MAX_REPEATS, FULL_REPEATS = 1, 3, 50, 5
DEFAULT_RUN_S = 1.0
"""Time for the repeats of one run where no budget is set."""


@dataclass(frozen=True)
class _Grid:
    """What is asked for, every combination of it."""

    tasks: Sequence[str]
    batches: Sequence[int]
    phases: Sequence[str]
    inputs: Sequence[int]
    output_tokens: int | None


@dataclass
class _Session:
    """What all runs of one call share."""

    landing: Path
    report: Report
    device: str
    dtype: str
    attention: str | None
    hardware: dict[str, Any]
    is_hardware_new: bool
    environment: dict[str, Any]
    deadline: float | None
    skip: Collection[tuple[str, str | None]]
    checkpoint: str | None
    paths: list[Path] = field(default_factory=list)
    num_runs: int = 0
    num_failed: int = 0


@dataclass
class _Loaded:
    """One model on the device, its blueprint, and what was resident before it was built."""

    target: engine.Target
    blueprint: engine.Blueprint
    model: Any
    baseline_bytes: float | None


def add_arguments(parser: Any) -> None:
    """Command-line options of `collect`."""
    parser.add_argument("--llm-id", nargs="+", help=f"catalogue ids; default: {' '.join(LLM_IDS)}")
    parser.add_argument("--checkpoint", help="a local checkpoint folder or a hub id, instead of catalogue ids")
    parser.add_argument(
        "--task", nargs="+", default=["generation"], help=f"of {' '.join(DECODER_SHARE)}; default: generation"
    )
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1], help="sequences at once; default: 1")
    parser.add_argument("--phase", nargs="+", default=list(PHASES), help="of forward prefill decode; default: all")
    parser.add_argument(
        "--input-tokens", nargs="+", type=int, default=[512], help="prompt, encoder or context tokens; default: 512"
    )
    parser.add_argument("--output-tokens", type=int, help="decoder tokens of an encoder-decoder; default: by task")
    parser.add_argument("--dtype", default="fp32", help="fp32, bf16 or fp16; default: fp32")
    parser.add_argument("--attention", help="eager, sdpa or flash; default: what transformers chooses")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default: auto")
    parser.add_argument(
        "--budget-s", type=float, help="seconds for everything; what would not fit is left out and said"
    )


def collect(
    landing: Path,
    *,
    report: Report = silent,
    llm_id: str | Sequence[str] | None = None,
    task: str | Sequence[str] = "generation",
    batch_size: int | Sequence[int] = 1,
    phase: str | Sequence[str] = PHASES,
    input_tokens: int | Sequence[int] = 512,
    output_tokens: int | None = None,
    dtype: str = "fp32",
    attention: str | None = None,
    device: str = "auto",
    budget_s: float | None = None,
    checkpoint: str | None = None,
    skip: Collection[tuple[str, str | None]] = frozenset(),
    hardware_row: dict[str, Any] | None = None,
) -> Collected:
    """Measure every combination of LLM, task, batch size, phase and input tokens; one landed batch a run.

    `skip` holds (config_id, task) pairs that need no measuring. `hardware_row` is this device's row where one is known
    already (its measured ceilings stay as they are); else the catalogue's or the landing folder's is taken, else the
    ceilings are measured. The budget starts when the device is free and is shared evenly by what is left to run.
    An execution that fails is a row with its status; one left out (budget, memory, context length, a phase that the
    architecture lacks) is reported and is no row. Raises LookupError for an unknown LLM, ValueError for an unknown option.
    """
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
    grid = _Grid(_several(task), _several(batch_size), _several(phase), _several(input_tokens), output_tokens)
    _check_options(grid, dtype, attention)
    from collectors import _transformers as engine

    device = _machine.resolve_device(device)
    if checkpoint is not None and llm_id is not None:
        raise ValueError("Give either llm_id or checkpoint, not both.")
    targets = (
        [engine.from_checkpoint(checkpoint)]
        if checkpoint is not None
        else [engine.catalogued(name) for name in _several(LLM_IDS if llm_id is None else llm_id)]
    )
    with _machine.device_lock(device, report):
        began = time.monotonic()
        row, is_new = _hardware(landing, device, hardware_row)
        session = _Session(
            landing=landing, report=report, device=device, dtype=dtype, attention=attention, hardware=row,
            is_hardware_new=is_new, environment=_machine.environment(row["hardware_id"]),
            deadline=None if budget_s is None else began + budget_s, skip=skip, checkpoint=checkpoint,
        )  # fmt: skip
        for index, target in enumerate(targets):
            cases = _cases(target, grid, report)
            _profile(session, target, cases, len(targets) - index)
        report(f"{session.num_runs} runs in {time.monotonic() - began:.0f} s, {session.num_failed} of them failures.")
    return Collected(session.num_runs, tuple(session.paths), session.num_failed)


# ---- what to run


def _cases(target: engine.Target, grid: _Grid, report: Report) -> list[engine.Case]:
    """Cases in running order: every shape once per task, so that repeats of a shape lie apart in time."""
    from collectors import _transformers as engine

    llm = target.llm
    possible = [one for one in grid.phases if llm.architecture != "encoder" or one == "forward"]
    if len(possible) < len(grid.phases):
        report(
            f"{llm.llm_id}: an encoder has no {' or '.join(one for one in grid.phases if one not in possible)}; left out."
        )
    found: list[engine.Case] = []
    for task, tokens, batch, phase in itertools.product(grid.tasks, grid.inputs, grid.batches, possible):
        if llm.max_context_tokens is not None and tokens > llm.max_context_tokens and llm.position == "learned":
            report(f"{llm.llm_id}: {tokens} tokens exceed its context of {llm.max_context_tokens}; left out.")
            continue
        decoded = max(1, round(tokens * DECODER_SHARE[task])) if grid.output_tokens is None else grid.output_tokens
        case = engine.Case(phase, task, batch, tokens, None, None)
        if llm.architecture == "encoder_decoder":
            if phase == "forward":
                case = replace(case, output_tokens=decoded)
            elif phase == "decode":
                case = replace(case, context_tokens=max(2, decoded))
        elif phase == "decode":
            case = replace(case, input_tokens=None, context_tokens=tokens)
        if case not in found:
            found.append(case)
    return found


def _configuration(
    session: _Session, target: engine.Target, case: engine.Case, attention: str | None
) -> dict[str, Any]:
    """The configuration columns. Of an encoder-decoder's decode step input_tokens is what its cross-attention reads."""
    return {
        "llm_id": target.llm.llm_id,
        "hardware_id": session.hardware["hardware_id"],
        "num_devices": 1,
        "tensor_parallel": 1,
        "pipeline_parallel": 1,
        "data_parallel": 1,
        "expert_parallel": 1,
        "phase": case.phase,
        "batch_size": case.batch_size,
        "input_tokens": case.input_tokens,
        "output_tokens": case.output_tokens,
        "context_tokens": case.context_tokens,
        "weight_dtype": session.dtype,
        "activation_dtype": session.dtype,
        "kv_dtype": session.dtype,
        "attention": attention,
        "optimizations": [],
    }


# ---- running


def _profile(session: _Session, target: engine.Target, cases: list[engine.Case], num_targets: int) -> None:
    """All cases of one LLM on one model. Its share of the budget is what is left over the LLMs left."""
    from collectors import _transformers as engine

    name = target.llm.llm_id
    until = None
    if session.deadline is not None:
        until = time.monotonic() + max(0.0, session.deadline - time.monotonic()) / num_targets
    attention, todo, blueprint = session.attention, cases, None
    try:
        blueprint = engine.Blueprint(target, session.dtype, attention)
        attention = blueprint.attention
        todo = [case for case in cases if not _is_known(session, target, case, attention)]
        if len(todo) < len(cases):
            session.report(f"{name}: {len(cases) - len(todo)} of {len(cases)} are measured already.")
        if not todo:
            return
        _check_memory(session, blueprint.weights_bytes)
        _trim()
        baseline = _resident_bytes()
        model = engine.build(target, session.dtype, session.attention, session.device)
    except _TooLargeError as error:
        session.report(f"{name}: {error} Left out.")
        return
    except Exception as error:
        for case in todo:
            run = _identity(session, target, case, attention) | _failure(error)
            if blueprint is None and isinstance(error, ImportError | ValueError):
                run["status"] = "unsupported"  # transformers lacks the architecture or the attention implementation
            _land(session, target, run, [], [])
        return
    loaded = _Loaded(target, blueprint, model, baseline)
    slowness = 2.0
    for index, case in enumerate(todo):
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0.0:
            session.report(f"{name}: the budget is spent; {len(todo) - index} of {len(todo)} left out.")
            return
        least = _least_seconds(session, loaded, case)
        if left is not None and least is not None and least * slowness * (WARMUPS + MIN_REPEATS + 1) > left:
            session.report(
                f"{_label(name, case)}: would take longer than the {left:.1f} s left of the budget; left out."
            )
            continue
        share = DEFAULT_RUN_S if left is None else 0.6 * left / (len(todo) - index)
        latency = _run(session, loaded, case, share)
        if latency is not None and least is not None:
            slowness = max(2.0, latency / least)


def _run(session: _Session, loaded: _Loaded, case: engine.Case, repeats_s: float) -> float | None:
    """One run: time it, then hook it in a pass of its own, land it. Returns its mean latency, None where there is none."""
    run = _identity(session, loaded.target, case, loaded.blueprint.attention)
    work = loaded.blueprint.work(case)
    try:
        _check_memory(session, 0.0 if isinstance(work, Exception) else work.bytes_of(case.batch_size))
        timing, memory, busy = _time(session, loaded, case, repeats_s)
    except _TooLargeError as error:
        session.report(f"{_label(loaded.target.llm.llm_id, case)}: {error} Left out.")
        return None
    except Exception as error:
        _land(session, loaded.target, run | _failure(error), [], [])
        return None
    finally:
        _trim()
    run |= _measured(session, loaded, case, timing, work) | memory | {"other_load_ratio": busy}
    ops: list[dict[str, Any]] = []
    unhooked = None
    try:
        ops, hooked_s = _hook(session, loaded, case, work, run["run_id"])
        run["profiler_overhead_ratio"] = hooked_s / run["latency_s"]
    except Exception as error:  # the timing stands without its layers
        unhooked = f"no modules: {_failure(error)['status_detail']}"
    uncounted = f"no FLOPs: {_failure(work)['status_detail']}" if isinstance(work, Exception) else None
    run["status_detail"] = _joined(_parameter_note(loaded), _busy_note(busy), uncounted, unhooked)
    _land(session, loaded.target, run, ops, timing.rows(run["run_id"]))
    return float(run["latency_s"])


def _time(
    session: _Session, loaded: _Loaded, case: engine.Case, repeats_s: float
) -> tuple[_timing.Timing, dict[str, Any], float | None]:
    """Timing, memory columns, and the share of all cores that other processes kept busy meanwhile."""
    import torch

    from collectors import _transformers as engine

    watch = _MemoryWatch(session.device)
    with torch.inference_mode():
        step = engine.make_step(loaded.model, case, session.device)
        began, others = time.perf_counter(), _machine.others_cpu_s()
        timing = _timing.measure(
            step.call, device=session.device, prepare=step.prepare, num_warmup=WARMUPS, min_repeats=MIN_REPEATS,
            max_repeats=MAX_REPEATS, budget_s=repeats_s, watch=watch,
        )  # fmt: skip
        elapsed, others_after = time.perf_counter() - began, _machine.others_cpu_s()
    busy = None
    if others is not None and others_after is not None:
        busy = max(0.0, others_after - others) / elapsed / _machine.usable_cores()
    return timing, watch.columns(loaded.baseline_bytes), busy


def _hook(
    session: _Session, loaded: _Loaded, case: engine.Case, work: engine.Work | Exception, run_id: str
) -> tuple[list[dict[str, Any]], float]:
    """Rows of `ops` and the time of the pass they come from: a warmed-up pass with hooks on every module."""
    import torch

    from collectors import _modules
    from collectors import _transformers as engine

    by_module = {} if isinstance(work, Exception) else work.by_module
    synchronize = torch.cuda.synchronize if session.device == "cuda" else (lambda: None)
    with torch.inference_mode():
        step = engine.make_step(loaded.model, case, session.device)
        with _modules.ModuleTimer(loaded.model, synchronize) as timer:
            for _ in range(2):  # hooks warm up as well; a long pass needs none
                timer.clear()
                step.prepare()
                step.call()
                if timer.total_s > 0.5:
                    break
    flops = {path: value * case.batch_size for path, value in by_module.items()}
    return timer.rows(run_id, case.phase, flops), timer.total_s


# ---- rows


def _identity(session: _Session, target: engine.Target, case: engine.Case, attention: str | None) -> dict[str, Any]:
    configuration = _configuration(session, target, case, attention)
    config_id = schema.config_id(configuration)
    return {
        "run_id": f"{NAME}-{uuid.uuid4().hex[:16]}",
        "config_id": config_id,
        "repeat_group_id": schema.digest(SOURCE_ID, config_id, case.task),
        "collector": NAME,
        "source_kind": "measured",
        "source_id": SOURCE_ID,
        "quality_tier": 2,
        "collected_at": datetime.datetime.now(datetime.UTC),
        "is_excluded": False,
        **configuration,
        "task": case.task,
        "execution": "eager",
        "framework": "pytorch",
        "framework_version": importlib.metadata.version("torch"),
        "environment_id": session.environment["environment_id"],
        "command": _command(session, target, case),
    }


def _measured(
    session: _Session, loaded: _Loaded, case: engine.Case, timing: _timing.Timing, work: engine.Work | Exception
) -> dict[str, Any]:
    """The metric columns of a run that went well."""
    from collectors import _transformers as engine

    row: dict[str, Any] = {"status": "ok", "num_samples": len(timing.measured), **timing.columns()}
    latency = row["latency_s"]
    row["duration_s"] = sum(sample.wall_s for sample in timing.measured)
    row["quality_tier"] = 3 if len(timing.measured) >= FULL_REPEATS else 2
    row["weights_bytes"] = engine.weights_bytes(loaded.model)
    definitions = {"latency_s": "wall_clock"}
    if row["device_time_s"] is not None:
        definitions["device_time_s"] = "device_events"
    if case.phase == "decode":
        row["output_tokens_per_s"] = case.batch_size / latency
        definitions["output_tokens_per_s"] = "tokens_over_duration"
    else:
        tokens = sum(one for one in (case.input_tokens, case.output_tokens) if one is not None)
        row["total_tokens_per_s"] = case.batch_size * tokens / latency
        definitions["total_tokens_per_s"] = "tokens_over_duration"
    definitions["memory_peak_bytes"] = "torch_max_allocated" if session.device == "cuda" else "rss_peak_delta"
    if session.device == "cuda":
        definitions["memory_device_bytes"] = "driver_used"
    if not isinstance(work, Exception):
        row["flops"] = work.flops * case.batch_size
        row["achieved_flops_per_s"] = row["flops"] / latency
        peak = session.hardware.get(f"peak_{session.dtype}_flops_per_s")
        row["mfu"] = None if peak is None else row["achieved_flops_per_s"] / peak
        row["kv_cache_bytes"] = None if work.kv_cache_bytes is None else work.kv_cache_bytes * case.batch_size
        definitions["flops"] = "flop_counter"
        row["mbu"] = _mbu(session, loaded, case, latency, row["kv_cache_bytes"])
    return row | {"metric_definitions": definitions}


def _mbu(
    session: _Session, loaded: _Loaded, case: engine.Case, latency: float, kv_cache_bytes: float | None
) -> float | None:
    """(weights and KV cache read by one decode step) / (T x bandwidth); None for what reads them otherwise than once."""
    from collectors import _transformers as engine

    bandwidth = session.hardware.get("memory_bandwidth_bytes_per_s")
    is_read_once = case.phase == "decode" and loaded.target.llm.architecture == "decoder"
    if not is_read_once or bandwidth is None or kv_cache_bytes is None:
        return None
    return (engine.decode_weight_bytes(loaded.model) + kv_cache_bytes) / (latency * bandwidth)


def _failure(error: Exception) -> dict[str, Any]:
    """Status columns of a failed execution: out of memory by its type or by what the CPU allocator says."""
    import torch

    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    is_oom = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return {"status": "oom" if is_oom else "error", "status_detail": f"{type(error).__name__}: {text}"[:500]}


def _land(
    session: _Session,
    target: engine.Target,
    run: dict[str, Any],
    ops: list[dict[str, Any]],
    samples: list[dict[str, Any]],
) -> None:
    batch = {
        "environments": [session.environment],
        "hardware": [session.hardware] if session.is_hardware_new else [],
        "llms": [] if target.is_catalogued else [catalog.llm_row(target.llm)],
        "sources": [SOURCE],
        "ops": ops,
        "samples": samples,
        "runs": [run],
    }
    session.paths += parquet.land(session.landing, run["run_id"], batch)
    session.num_runs += 1
    session.num_failed += run["status"] != "ok"
    shape = " ".join(
        f"{run[name]} {name.removesuffix('_tokens')}"
        for name in ("input_tokens", "output_tokens", "context_tokens")
        if run[name]
    )
    outcome = (
        f"{run['latency_s'] * 1e3:.1f} ms ({run['num_samples']} repeats)"
        if run["status"] == "ok"
        else f"{run['status']}: {run['status_detail']}"
    )
    session.report(f"{run['llm_id']} {run['phase']} {run['task']} batch {run['batch_size']}, {shape}: {outcome}")


def _hardware(landing: Path, device: str, known: dict[str, Any] | None) -> tuple[dict[str, Any], bool]:
    """This device's row, and whether it has to be landed: measured ceilings are stored once and reused from then on."""
    hardware_id = _machine.hardware_id(device)
    if known is not None:
        if known["hardware_id"] != hardware_id:
            raise ValueError(f"The hardware row is of '{known['hardware_id']}', and this machine is '{hardware_id}'.")
        return known, False
    for path in sorted((landing / "hardware").glob("*.parquet")):
        for row in parquet.read("hardware", path).to_pylist():
            if row["hardware_id"] == hardware_id:
                return row, False
    return _machine.hardware_row(device), True


def _command(session: _Session, target: engine.Target, case: engine.Case) -> str:
    """What repeats the run. A checkpoint folder is named without its path."""
    which = (
        ["--llm-id", target.llm.llm_id]
        if session.checkpoint is None
        else ["--checkpoint", Path(session.checkpoint).name]
    )
    if session.checkpoint is not None and not Path(session.checkpoint).is_dir():
        which = ["--checkpoint", session.checkpoint]
    tokens = case.input_tokens if case.input_tokens is not None else case.context_tokens
    decoded = case.output_tokens if case.phase == "forward" else case.context_tokens
    words = ["python", "-m", "collectors", NAME, *which, "--phase", case.phase, "--task", case.task,
             "--batch-size", case.batch_size, "--input-tokens", tokens]  # fmt: skip
    if target.llm.architecture == "encoder_decoder" and decoded is not None:
        words += ["--output-tokens", decoded]
    words += ["--dtype", session.dtype, "--device", session.device]
    if session.attention is not None:
        words += ["--attention", session.attention]
    return shlex.join(map(str, words))


# ---- what fits, what it takes


class _TooLargeError(Exception):
    """More memory than is free now: left out without trying, because the kernel would kill the process."""


def _check_memory(session: _Session, needed_bytes: float) -> None:
    """On a CPU, ask for what is surely needed as one block, so that what cannot be had fails here and not by a kill.

    A block refused by the system raises its own error (a row with status oom); one that would be granted but exceeds what
    is free raises _TooLargeError. A GPU's allocator fails by itself.
    """
    import torch

    if session.device == "cuda":
        return
    torch.empty(int(needed_bytes), dtype=torch.uint8)
    free = _machine.available_memory_bytes()
    if free is not None and needed_bytes > 0.9 * free:
        raise _TooLargeError(f"needs at least {needed_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free.")


def _least_seconds(session: _Session, loaded: _Loaded, case: engine.Case) -> float | None:
    """The bound of one execution, s: FLOPs over peak, or weights over bandwidth; None where unknown."""
    work = loaded.blueprint.work(case)
    peak = session.hardware.get(f"peak_{session.dtype}_flops_per_s")
    if isinstance(work, Exception) or peak is None:
        return None
    bandwidth = session.hardware["memory_bandwidth_bytes_per_s"]
    return max(work.flops * case.batch_size / peak, loaded.blueprint.weights_bytes / bandwidth)


class _MemoryWatch:
    """Peak memory while entered, around the warm-up: resident set sampled every 2 ms on a CPU.

    On CUDA the peaks are reset on leaving instead, so that they are those of the measured repeats.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._peak: float | None = None
        self._done = threading.Event()

    def __enter__(self) -> None:
        if self._device != "cuda":
            self._peak = _resident_bytes()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            self._done.set()
            self._thread.join()

    def columns(self, baseline: float | None) -> dict[str, Any]:
        """Memory columns of `runs`. On a CPU: peak minus what was resident before the model was built."""
        if self._device == "cuda":
            import torch

            free, total = torch.cuda.mem_get_info()
            return {
                "memory_peak_bytes": float(torch.cuda.max_memory_allocated()),
                "memory_reserved_bytes": float(torch.cuda.max_memory_reserved()),
                "memory_device_bytes": float(total - free),
            }
        known = self._peak is not None and baseline is not None and self._peak > baseline
        return {"memory_peak_bytes": self._peak - baseline if known else None}  # type: ignore[operator]

    def _sample(self) -> None:
        while True:
            now = _resident_bytes()
            if now is not None and self._peak is not None:
                self._peak = max(self._peak, now)
            if self._done.wait(0.002):
                return


def _resident_bytes() -> float | None:
    """Resident set of this process; None without psutil."""
    try:
        import psutil
    except ImportError:
        return None
    return float(psutil.Process().memory_info().rss)


def _trim() -> None:
    """Give freed memory back to the system, so that the next run's resident set is its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


# ---- small things


def _is_known(session: _Session, target: engine.Target, case: engine.Case, attention: str | None) -> bool:
    return (schema.config_id(_configuration(session, target, case, attention)), case.task) in session.skip


def _parameter_note(loaded: _Loaded) -> str | None:
    built, published = loaded.blueprint.num_parameters, loaded.target.llm.num_parameters
    if published is None or built == published:
        return None
    return f"transformers builds {built} parameters, published are {published}"


def _busy_note(busy: float | None) -> str | None:
    if busy is None or busy <= schema.QUIET_LOAD_RATIO:
        return None
    return f"other processes kept {busy:.0%} of the cores busy meanwhile"


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note is not None) or None


def _label(name: str, case: engine.Case) -> str:
    tokens = case.input_tokens if case.input_tokens is not None else case.context_tokens
    return f"{name} {case.phase} {case.task} batch {case.batch_size} at {tokens} tokens"


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int) else list(value)


def _check_options(grid: _Grid, dtype: str, attention: str | None) -> None:
    """Raises ValueError naming the option, what was given and what is known."""
    known = (
        ("task", grid.tasks, tuple(DECODER_SHARE)),
        ("phase", grid.phases, PHASES),
        ("dtype", [dtype], ("fp32", "bf16", "fp16")),
        ("attention", [] if attention is None else [attention], ("eager", "sdpa", "flash")),
    )
    for name, given, values in known:
        for one in given:
            if one not in values:
                raise ValueError(f"'{one}' is not a {name} that can be measured here. Known: {', '.join(values)}.")
    lengths = [*grid.inputs, *([] if grid.output_tokens is None else [grid.output_tokens])]
    if min(grid.batches) < 1 or min(lengths) < 1:
        raise ValueError("batch_size, input_tokens and output_tokens are whole numbers from 1 on.")
    if "decode" in grid.phases and min(grid.inputs) < 2:
        raise ValueError("A decode step attends to at least 2 tokens: its own and one before. Give input_tokens >= 2.")
