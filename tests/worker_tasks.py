"""What workers do in tests: functions that a new process can import by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any


def who(worker: Any, factor: int) -> tuple[int, int, int]:
    return worker.rank, worker.num_ranks, factor * os.getpid()


def tell(worker: Any) -> str:
    worker.begin("telling", 60)
    for word in ("one", "two"):
        worker.send((word, worker.rank))
    return "told"


def tell_pid(worker: Any) -> None:
    worker.begin("long", None)
    worker.send(os.getpid())
    time.sleep(60)


def tensor(worker: Any) -> Any:
    import torch

    return torch.arange(3)


def die(worker: Any, at: str, number: int) -> None:
    worker.begin(at, 60)
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(worker: Any) -> None:
    worker.begin("leaving", 60)
    os._exit(3)


def hang(worker: Any, limit_s: float) -> None:
    worker.begin("quick", 60)
    worker.begin("hanging", limit_s)
    time.sleep(60)


def fail(worker: Any) -> None:
    worker.begin("failing", 60)
    raise MemoryError("no more\nof it")


def unpicklable(worker: Any) -> Any:
    return lambda: None


def add_up(worker: Any) -> float:
    import torch
    import torch.distributed as dist

    total = torch.tensor([1.0 + worker.rank])
    dist.all_reduce(total)
    return float(total)


def fail_while_others_wait(worker: Any, how: str) -> None:
    """The last rank fails; the others wait for it in a collective, which fails for that."""
    import torch
    import torch.distributed as dist

    worker.begin("together", 60)
    dist.barrier()
    if worker.rank == worker.num_ranks - 1:
        if how == "raise":
            raise ValueError("the cause")
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def note_pid(worker: Any, folder: str) -> None:
    """Leave the process id in a file, then work for a minute."""
    worker.begin("long", None)
    path = os.path.join(folder, f"{worker.rank}.pid")
    with open(f"{path}.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.replace(f"{path}.tmp", path)
    time.sleep(60)
