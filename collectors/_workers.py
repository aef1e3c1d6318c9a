"""Work in processes of its own: one for isolation, several as ranks of torch.distributed.

A worker that dies, hangs or runs out of memory takes nothing with it: its parent learns what it was at and goes on. Workers
end when their parent does, even by SIGKILL.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

PRELOADED = (
    "torch", "numpy", "pyarrow.parquet", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
)  # fmt: skip
"""Imported once for all workers; none of them touches a device. What is not installed is left out."""

_ASKED_OF_NVML = ("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
"""Whatever is preloaded may ask torch whether there is a GPU: the driver's library answers, where CUDA, once asked, could not be
used in any process forked from there."""

START_LIMIT_S = 180.0
"""Limit of a worker before its first `begin`: imports, and the meeting of the ranks."""


DEATH_S = 0.5
"""Wait for another rank's death before an exception is believed to be its own cause."""


class WorkerError(Exception):
    """A worker that did not do what it began. `at` is what it was at: the label of its last `begin`, None before the first."""

    def __init__(self, message: str, at: Any) -> None:
        super().__init__(message)
        self.at = at


class WorkerDiedError(WorkerError):
    """A worker that ended without a result. `signal_number` is the signal that ended it (9 where memory ran out), else None."""

    def __init__(self, message: str, at: Any, signal_number: int | None) -> None:
        super().__init__(message, at)
        self.signal_number = signal_number


class WorkerTimeoutError(WorkerError):
    """A worker that took longer than the limit of what it was at; it was ended."""


class WorkerRaisedError(WorkerError):
    """An exception inside a worker; `cause_type` is the name of its class, the text its message."""

    def __init__(self, message: str, at: Any, cause_type: str) -> None:
        super().__init__(message, at)
        self.cause_type = cause_type


@dataclass
class Worker:
    """A worker's side: who it is among the ranks, and its line to the parent."""

    rank: int
    num_ranks: int
    backend: str | None
    _line: Any = field(repr=False)

    def begin(self, label: Any, limit_s: float | None = None) -> None:
        """Tell the parent what starts now and how many seconds it may take; None for any time."""
        _send(self._line, "begin", label, limit_s)

    def send(self, message: Any) -> None:
        """Hand a picklable message to the parent's `on_message`."""
        _send(self._line, "message", message)


def run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...] = (),
    *,
    num_ranks: int = 1,
    backend: str | None = None,
    on_message: Callable[[int, Any], None] = lambda rank, message: None,
) -> list[Any]:
    """`function(worker, *arguments)` in each of `num_ranks` new processes; returns their results, by rank.

    `function` is importable by name; arguments, messages and results are picklable. With a `backend` (gloo, nccl) the ranks
    meet in torch.distributed's default group over a file, no network port. All ranks are ended as soon as one fails.
    Raises WorkerDiedError, WorkerTimeoutError or WorkerRaisedError.
    """
    os.environ.setdefault(*_ASKED_OF_NVML)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory(prefix="rooflake-") as folder:
        store = str(Path(folder) / "store") if backend is not None else None
        ranks = []
        try:
            for rank in range(num_ranks):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, rank, num_ranks, backend, store, function, arguments), daemon=False
                )
                process.start()
                theirs.close()
                ranks.append(_Rank(process, ours))
            return _watch(ranks, on_message)
        finally:
            for one in ranks:
                one.end()


@dataclass
class _Rank:
    """The parent's side of a worker."""

    process: Any
    line: Any
    at: Any = None
    deadline: float | None = field(default_factory=lambda: time.monotonic() + START_LIMIT_S)
    limit_s: float | None = START_LIMIT_S
    is_done: bool = False
    result: Any = None

    def end(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.line.close()


def _watch(ranks: list[_Rank], on_message: Callable[[int, Any], None]) -> list[Any]:
    waiting = {one.line: index for index, one in enumerate(ranks)}
    while waiting:
        deadlines = [ranks[index].deadline for index in waiting.values()]
        known = [one for one in deadlines if one is not None]
        patience = None if not known else max(0.0, min(known) - time.monotonic())
        for line in connection.wait(list(waiting), patience):
            index = waiting[line]
            try:
                if _receive(ranks[index], index, on_message):
                    del waiting[line]
            except WorkerRaisedError as error:
                raise _cause(error, index, ranks) from None
        for index in waiting.values():
            one = ranks[index]
            if one.deadline is not None and time.monotonic() > one.deadline:
                raise WorkerTimeoutError(f"took longer than its limit of {one.limit_s:g} s and was ended", one.at)
    return [one.result for one in ranks]


def _receive(rank: _Rank, index: int, on_message: Callable[[int, Any], None]) -> bool:
    """Take one message of a rank; whether it was its last."""
    try:
        kind, *content = pickle.loads(rank.line.recv_bytes())  # noqa: S301 (our own process wrote it)
    except (EOFError, ConnectionResetError, pickle.UnpicklingError):
        raise _death(rank, index) from None
    if kind == "begin":
        rank.at, rank.limit_s = content
        rank.deadline = None if rank.limit_s is None else time.monotonic() + rank.limit_s
    elif kind == "message":
        on_message(index, content[0])
    elif kind == "raised":
        raise WorkerRaisedError(content[1], rank.at, content[0])
    else:
        rank.is_done, rank.result, rank.deadline = True, content[0], None
    return rank.is_done


def _death(rank: _Rank, index: int) -> WorkerDiedError:
    rank.process.join()
    code = rank.process.exitcode
    number = -code if code is not None and code < 0 else None
    how = f"was ended by {signal.Signals(number).name}" if number is not None else f"ended with exit status {code}"
    return WorkerDiedError(f"the process of rank {index} {how}", rank.at, number)


def _cause(raised: WorkerRaisedError, index: int, ranks: list[_Rank]) -> WorkerError:
    """What a rank raised, or what made it: the death of another, which its communication reports as an error of its own."""
    others = {one.process.sentinel: (one, at) for at, one in enumerate(ranks) if at != index and not one.is_done}
    until = time.monotonic() + DEATH_S
    while others and (ended := connection.wait(list(others), max(0.0, until - time.monotonic()))):
        for one, at in [others.pop(sentinel) for sentinel in ended]:
            death = _death(one, at)
            if one.process.exitcode != 0:  # else it had done its part
                return death
    return raised


def _send(line: Any, *message: Any) -> None:
    """Pickled by value: the line's own pickler hands tensors over as handles, which end with the process that made them."""
    line.send_bytes(pickle.dumps(message))


def _serve(
    line: Any,
    rank: int,
    num_ranks: int,
    backend: str | None,
    store: str | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """A worker's life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(rank, num_ranks, backend, line)
    try:
        with _group(worker, store):
            try:
                result = function(worker, *arguments)
            except Exception as error:
                _report(line, error)  # before the others see this rank leave, and fail for it
                return
        _send(line, "result", result)
    except Exception as error:
        _report(line, error)


def _report(line: Any, error: Exception) -> None:
    """Say what was raised, then wait for the end: the parent ends all ranks, and none fails for the lack of this one."""
    _send(line, "raised", type(error).__name__, str(error))
    with contextlib.suppress(EOFError, OSError):
        line.recv_bytes()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _group(worker: Worker, store: str | None) -> Any:
    """torch.distributed's default group while entered; nothing without a backend."""
    if store is None:
        yield
        return
    import torch
    import torch.distributed as dist

    if worker.backend == "nccl":
        torch.cuda.set_device(worker.rank)
    dist.init_process_group(
        worker.backend, init_method=f"file://{store}", rank=worker.rank, world_size=worker.num_ranks
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
