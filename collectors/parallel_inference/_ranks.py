"""What one rank does: build its part, run every cell together with the others, and say how long it took."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from collectors import _machine, _memory, _steps, _telemetry, _timing
from collectors import _transformers as engine
from collectors._workers import Worker
from collectors.parallel_inference import _sharding

MIN_REPEATS, MAX_REPEATS, PRECISION, LINK_REPEATS = 3, 50, 0.01, 3
BUILDING = "building the model"


@dataclass(frozen=True)
class Job:
    """Cells that share a model, a strategy and a number of ranks. `cells` by the number that the parent knows them by."""

    target: engine.Target
    strategy: str
    dtype: str
    attention: str
    device: str
    threads: int
    cells: dict[int, Cell]
    repeats_s: float
    limit_s: float | None
    until: float | None
    """Reading of time.monotonic after which no cell is begun; None for never."""


@dataclass(frozen=True)
class Cell:
    """One configuration apart from the ranks."""

    case: _steps.Case
    num_micro_batches: int | None = None


@dataclass(frozen=True)
class Measured:
    """What a rank knows of a cell. Seconds by execution, warm-up first; `slowest_s` and `first_token_s` over all ranks.

    `communication_s` and `linked_s` are means of executions of a separate pass in which every call of a collective, a send or
    a receive is timed: inside them, and in all. `load` and `surroundings` are of the warm-up and the repeats.
    """

    phases: tuple[str, ...]
    slowest_s: tuple[float, ...]
    first_token_s: tuple[float, ...] | None
    began_s: tuple[float, ...]
    own_s: tuple[float, ...]
    own_cpu_s: tuple[float, ...]
    communication_s: float
    linked_s: float
    weights_bytes: float
    num_layers: int | None
    memory: dict[str, float | None]
    load: _machine.Load
    surroundings: Surroundings | None
    """What rank 0 read of the devices of all ranks."""


@dataclass(frozen=True)
class Surroundings:
    """Readings beside a timing: columns of `runs`, rows of `telemetry`, starts of executions under a throttle reason."""

    columns: dict[str, float]
    rows: list[dict[str, Any]]
    throttled: frozenset[float]
    note: str | None


@dataclass(frozen=True)
class _Run:
    """One cell ready to run: `call` returns the time at which the first token was known, where there is one."""

    call: Callable[[], float | None]
    prepare: Callable[[], None]


@dataclass
class _Rank:
    model: Any
    link: _sharding.Link
    job: Job
    num_layers: int | None
    baseline: float | None


def work(worker: Worker, job: Job) -> None:
    """Build this rank's part and measure the job's cells one after the other; a `Measured` goes to the parent after each.

    What fails is raised: the ranks are no use to each other any more.
    """
    worker.begin(BUILDING, job.limit_s)
    torch.set_num_threads(job.threads)
    rank = build(worker.rank, worker.num_ranks, job)
    for number, cell in job.cells.items():
        worker.begin(number, job.limit_s)
        if _largest(rank, float(job.until is not None and time.monotonic() > job.until))[0]:
            return
        with torch.inference_mode():
            worker.send((number, _measure(rank, cell)))
        _memory.trim()


def build(rank: int, num_ranks: int, job: Job) -> _Rank:
    """A rank's part of the job's model, on its device."""
    device = "cuda" if job.device == "cuda" else "cpu"
    link = _sharding.Link(rank, num_ranks, device)
    _memory.trim()
    baseline = _memory.resident_bytes()
    model = engine.skeleton(job.target, job.dtype, job.attention, device)
    paths = _sharding.canonical_paths(model)
    cuts, num_layers = {}, None
    if num_ranks > 1 and job.strategy == "tensor":
        cuts = _sharding.cut_by_plan(model, link)
    elif num_ranks > 1:
        num_layers = _sharding.cut_by_layers(model, link)
    _sharding.materialise(model, paths, cuts, link, device)
    return _Rank(model, link, job, num_layers, baseline)


def ready(rank: _Rank, cell: Cell) -> _Run:
    """A cell on a rank's part of the model. All ranks call it together: a KV cache may be filled by all of them."""
    case, parts = cell.case, 1 if cell.num_micro_batches is None else cell.num_micro_batches
    if case.phase == "generate":
        return _Run(lambda: generate(rank, case)[1], lambda: None)
    part = replace(case, batch_size=case.batch_size // parts)
    steps = [_steps.make_step(rank.model, part, rank.job.device) for _ in range(parts)]
    rank.link.flush()

    def call() -> None:
        for step in steps:
            step.call()
        rank.link.flush()

    def prepare() -> None:
        for step in steps:
            step.prepare()

    return _Run(call, prepare)


def generate(rank: _Rank, case: _steps.Case) -> tuple[torch.Tensor, float]:
    """Greedy tokens of a case, shape (batch_size, output_tokens), and the time of time.perf_counter at which this rank had the
    first.

    Of a layer split the last rank chooses and tells the first; those between see no tokens, theirs are zeros.
    """
    model, link = rank.model, rank.link
    kwargs: dict[str, Any] = {"use_cache": True}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kwargs["logits_to_keep"] = 1
    ids = _steps.token_ids(model, case, case.input_tokens, rank.job.device)
    first, tokens = 0.0, []
    for index in range(case.output_tokens or 1):
        output = model(input_ids=ids, **kwargs)
        kwargs["past_key_values"] = output.past_key_values
        ids = _next_token(rank, output.logits)
        tokens.append(ids)
        if index == 0:
            link.synchronize()
            first = time.perf_counter()
    link.flush()
    return torch.cat(tokens, dim=1), first


def _next_token(rank: _Rank, logits: torch.Tensor) -> torch.Tensor:
    link, last = rank.link, rank.link.num_ranks - 1
    if rank.num_layers is None:
        return logits[:, -1:].argmax(-1)
    if link.rank == last:
        chosen = logits[:, -1:].argmax(-1)
        link.send(chosen, 0)
        return chosen
    token = torch.zeros(len(logits), 1, dtype=torch.long, device=logits.device)
    return link.receive(token, last) if link.rank == 0 else token


def _measure(rank: _Rank, cell: Cell) -> Measured:
    run = ready(rank, cell)
    watch = _memory.MemoryWatch(rank.job.device)
    budget_s = rank.job.repeats_s
    slowest: list[float] = []
    firsts: list[float] = []
    own: list[tuple[float, float]] = []
    began: list[float] = []
    telemetry = _telemetry.Telemetry(rank.job.device, devices=range(rank.link.num_ranks))

    def execute() -> None:
        start, wall, used, first = _execute(rank, run)
        began.append(start)
        most, first_most = _largest(rank, wall, 0.0 if first is None else first)
        slowest.append(most)
        own.append((wall, used))
        if first is not None:
            firsts.append(first_most)

    with telemetry if rank.link.rank == 0 else contextlib.nullcontext(), _machine.Load() as load:
        with watch:
            while not _timing.MODEL.is_over(len(slowest), sum(slowest), budget_s):
                execute()
        warm = len(slowest)
        while not _is_enough(slowest[warm:], budget_s - sum(slowest[:warm])):
            execute()
    affordable = int(budget_s / slowest[-1])
    communication_s, linked_s = _timed_links(rank, run, max(1, min(LINK_REPEATS, affordable)))
    return Measured(
        phases=("warmup",) * warm + ("measured",) * (len(slowest) - warm),
        slowest_s=tuple(slowest),
        first_token_s=tuple(firsts) if firsts else None,
        began_s=tuple(began),
        own_s=tuple(wall for wall, _ in own),
        own_cpu_s=tuple(used for _, used in own),
        communication_s=communication_s,
        linked_s=linked_s,
        weights_bytes=engine.weights_bytes(rank.model),
        num_layers=rank.num_layers,
        memory=watch.columns(rank.baseline),
        load=load,
        surroundings=_surroundings(telemetry, began, slowest) if rank.link.rank == 0 else None,
    )


def _surroundings(telemetry: _telemetry.Telemetry, began: list[float], took: list[float]) -> Surroundings:
    throttled = frozenset(
        start for start, wall in zip(began, took, strict=True) if telemetry.throttled_between(start, start + wall)
    )
    return Surroundings(telemetry.columns(), telemetry.rows(""), throttled, telemetry.note)


def _execute(rank: _Rank, run: _Run) -> tuple[float, float, float, float | None]:
    """Start (of time.perf_counter), wall-clock and processor seconds of one execution begun together, and those to the first token
    where there is one."""
    run.prepare()
    dist.barrier()
    rank.link.synchronize()
    cpu, began = time.process_time(), time.perf_counter()
    first = run.call()
    rank.link.synchronize()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return began, wall, cpu, None if first is None else first - began


def _timed_links(rank: _Rank, run: _Run, repeats: int) -> tuple[float, float]:
    """Mean seconds of one execution inside communication, and in all, in a pass that times every communication."""
    total, rank.link.seconds, rank.link.is_timed = 0.0, 0.0, True
    for _ in range(repeats):
        total += _execute(rank, run)[1]
    rank.link.is_timed = False
    return rank.link.seconds / repeats, total / repeats


def _largest(rank: _Rank, *values: float) -> list[float]:
    """The largest of every value over the ranks: what all of them decide by, so that they decide alike."""
    tensor = torch.tensor(values, dtype=torch.float64, device=rank.job.device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [float(one) for one in tensor.tolist()]


def _is_enough(slowest: Sequence[float], budget_s: float) -> bool:
    if len(slowest) < MIN_REPEATS:
        return False
    width = _timing.half_width(slowest)
    return len(slowest) >= MAX_REPEATS or sum(slowest) >= budget_s or (width is not None and width < PRECISION)
