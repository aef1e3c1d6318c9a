"""Collectives of torch.distributed among ranks, each a process: the time of the slowest, sample by sample."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from collectors import _session, _timing, _workers
from collectors.microbench._shapes import Shape

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
CPU_RANKS = 2
WINDOW_S = 1e-3
"""A sample is at least so long: several collectives one after the other, divided by their number, as nccl-tests does. The
barrier before it lets ranks start some ten microseconds apart."""

MIN_REPEATS, MAX_REPEATS, MAX_EXECUTIONS = 5, 50, 200
LIMIT_S = 60.0
"""Of one shape: a rank that waits for one that died would wait for ever."""


@dataclass
class Outcome:
    """What came of a shape: the slowest rank's time in every sample and each rank's mean, or the columns of a failure."""

    timing: _timing.Timing | None = None
    executions: int = 1
    rank_s: list[float] = field(default_factory=list)
    failure: dict[str, Any] | None = None


def num_ranks(device: str) -> int:
    """Two processes on a CPU, else one rank a GPU. Imports torch on CUDA."""
    if device != "cuda":
        return CPU_RANKS
    import torch

    return torch.cuda.device_count()


def measure(shapes: Sequence[Shape], device: str, budget_s: float) -> Iterator[tuple[Shape, Outcome]]:
    """Outcomes of shapes of the same ranks, `budget_s` seconds for each; what ends the ranks costs one shape."""
    waiting = list(shapes)
    while waiting:
        done, waiting = _round(waiting, device, budget_s)
        yield from done


def _round(shapes: list[Shape], device: str, budget_s: float) -> tuple[list[tuple[Shape, Outcome]], list[Shape]]:
    """One life of the ranks: outcomes, and the shapes they did not come to."""
    ranks = shapes[0].num_devices
    heard: dict[int, dict[int, Any]] = {index: {} for index in range(len(shapes))}
    outcomes: dict[int, Outcome] = {}

    def hear(rank: int, message: tuple[int, Any]) -> None:
        heard[message[0]][rank] = message[1]

    try:
        _workers.run(_serve, (shapes, device, budget_s), num_ranks=ranks, backend=BACKENDS[device], on_message=hear)
    except _workers.WorkerError as error:
        ended = heard if error.at is None else [error.at]  # ranks that never met will not meet next time
        outcomes = {index: Outcome(failure=_session.failure(error)) for index in ended}
    for index, answers in heard.items():
        if index not in outcomes and len(answers) == ranks:
            outcomes[index] = _outcome([answers[rank] for rank in range(ranks)])
    waiting = [shape for index, shape in enumerate(shapes) if index not in outcomes]
    return [(shapes[index], one) for index, one in sorted(outcomes.items())], waiting


def _outcome(answers: list[Any]) -> Outcome:
    """Of what every rank says of one shape."""
    failures = [answer for answer in answers if isinstance(answer, dict)]
    if failures:
        return Outcome(failure=failures[0])
    executions, _ = answers[0]
    slowest = [
        max(samples, key=lambda one: one.wall_s) for samples in zip(*(samples for _, samples in answers), strict=True)
    ]
    means = [
        sum(one.wall_s for one in samples if one.phase == "measured") / sum(one.phase == "measured" for one in samples)
        for _, samples in answers
    ]
    return Outcome(_timing.Timing(tuple(slowest), asked_precision=0.0), executions, means)


# ---- a rank


def _serve(worker: _workers.Worker, shapes: list[Shape], device: str, budget_s: float) -> None:
    import torch

    if device != "cuda":
        torch.set_num_threads(1)
    place = torch.device(device, worker.rank) if device == "cuda" else torch.device(device)
    for index, shape in enumerate(shapes):
        worker.begin(index, LIMIT_S + budget_s)
        worker.send((index, _measure(shape, place, worker.num_ranks, budget_s)))


def _measure(shape: Shape, place: Any, ranks: int, budget_s: float) -> Any:
    """Executions in a sample and the samples; or the columns of a failure that every rank meets alike, at the first call."""
    import torch

    try:
        call = _call(shape, place, ranks)
        call()
        _wait(place)
    except (RuntimeError, NotImplementedError, ValueError, MemoryError) as error:
        failure = _session.failure(error)
        return failure if failure["status"] == "oom" else {**failure, "status": "unsupported"}
    began = time.perf_counter()
    for _ in range(3):
        call()
    _wait(place)
    estimate = torch.tensor((time.perf_counter() - began) / 3, device=place)
    torch.distributed.all_reduce(estimate, torch.distributed.ReduceOp.MAX)  # all ranks must agree on how many
    one = float(estimate)
    executions = min(MAX_EXECUTIONS, max(1, math.ceil(WINDOW_S / one)))
    repeats = min(MAX_REPEATS, max(MIN_REPEATS, int(budget_s / (executions * one))))
    phases = ["warmup"] * math.ceil(repeats / 4) + ["measured"] * repeats
    return executions, [_sample(call, phase, executions, place) for phase in phases]


def _sample(call: Callable[[], Any], phase: str, executions: int, place: Any) -> _timing.Sample:
    import torch

    torch.distributed.barrier()
    _wait(place)
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(executions):
        call()
    _wait(place)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return _timing.Sample(phase, began, wall / executions, cpu / executions, None)


def _wait(place: Any) -> None:
    if place.type == "cuda":
        import torch

        torch.cuda.synchronize()


def _call(shape: Shape, place: Any, ranks: int) -> Callable[[], Any]:
    """Zeros: a sum of sums stays what it is."""
    import torch
    import torch.distributed as dist

    part = torch.zeros(shape.size_bytes // 4, device=place)
    if shape.kernel == "all_reduce":
        return functools.partial(dist.all_reduce, part)
    if shape.kernel == "broadcast":
        return functools.partial(dist.broadcast, part, 0)
    if shape.kernel == "all_gather":
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name from torch 2.13 on
        return functools.partial(gather, torch.zeros(len(part) * ranks, device=place), part)
    scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
    return functools.partial(scatter, torch.zeros(len(part) // ranks, device=place), part)
