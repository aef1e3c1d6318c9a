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
        if how == "die later":  # the others hear that the connection is closed while this one still lives
            dist.destroy_process_group()
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def fail_alone(worker: Any) -> None:
    """The first rank fails; the other ends well just afterwards."""
    worker.begin("alone", 60)
    if worker.rank == 0:
        raise ValueError("alone")
    time.sleep(0.2)


def note_pid(worker: Any, folder: str) -> None:
    """Leave the process id in a file, then work for a minute."""
    worker.begin("long", None)
    path = os.path.join(folder, f"{worker.rank}.pid")
    with open(f"{path}.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.replace(f"{path}.tmp", path)
    time.sleep(60)


def parallel_outputs(worker: Any, jobs: list[Any], cases: list[Any]) -> list[Any]:
    worker.begin("parallel", 250)
    return outputs_of(worker.rank, worker.num_ranks, jobs, cases)


def outputs_of(rank: int, num_ranks: int, jobs: list[Any], cases: list[Any]) -> list[Any]:
    """Of every job on this rank: bytes of its weights, number of its layers, logits of every case, tokens of a generate."""
    import torch

    from collectors import _transformers
    from collectors.parallel_inference import _ranks

    torch.set_num_threads(1)
    found = []
    for job in jobs:
        part = _ranks.build(rank, num_ranks, job)
        with torch.inference_mode():
            logits = [_logits(part, case) for case in cases if case.phase != "generate"]
            tokens = [_ranks.generate(part, case)[0] for case in cases if case.phase == "generate"]
        found.append((_transformers.weights_bytes(part.model), part.num_layers, logits, tokens))
    return found


def _logits(part: Any, case: Any) -> Any:
    """Of the second execution: the KV cache was put back."""
    from collectors import _steps

    step = _steps.make_step(part.model, case, "cpu")
    for _ in range(2):
        step.prepare()
        output = step.call()
        part.link.flush()
    return output.logits
