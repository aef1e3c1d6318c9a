"""A load from several client processes: each sends its share on the one monotonic clock, and nothing it did is lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import gc
import itertools
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from collectors.endpoint._load import ENDLESS, Engine, Job, Level, Outcome, Share
from collectors.endpoint._prompts import Prompts
from collectors.endpoint._providers import Target
from collectors.endpoint._steady import Saturation
from collectors.endpoint._stream import Reply

LEAD_S = 0.05
"""Between telling the client processes when to begin and that instant."""

STREAMS_PER_PROCESS = 128
"""Requests in flight that one process takes without falling behind; more than that, and another process is started where
there are cores."""

WATCH_S = 1.0
"""How often the replies are asked whether the server still keeps up."""

STOPPED = "Stopped: the server takes less than it is offered, requests due and not answered and their TTFT kept rising."
_T = TypeVar("_T")


def num_processes(level: Level) -> int:
    """Client processes of a load unless told otherwise: one for every 128 in flight, on at most half of the cores."""
    in_flight = level.concurrency or STREAMS_PER_PROCESS
    return max(1, min((os.cpu_count() or 1) // 2, -(-in_flight // STREAMS_PER_PROCESS)))


def run(
    target: Target,
    level: Level,
    prompts: Prompts,
    due: Sequence[Job] = (),
    *,
    processes: int = 1,
    stop_when_saturated: bool = False,
) -> Outcome:
    """Warm up, wait for the answers, then send what `due` says or, without it, the closed loop of `level`.

    Each request has one reply, if its client process died too; requests that were not sent, because the load was stopped or given
    up, have none. Raises KeyboardInterrupt after ending what it started.
    """
    _raise_file_limit()
    closed = range(0 if due else level.num_requests or ENDLESS)
    warmup = range(level.num_warmup)
    whole = Share(target, prompts, level.output_tokens, level.concurrency, warmup, closed, due, level.duration_s)
    shares = _shares(whole, processes)
    gathered = _Gathered(stop_when_saturated)
    started_at, zero_s = datetime.datetime.now(datetime.UTC), time.perf_counter()
    remarks: list[str] = []
    if len(shares) == 1:
        cpu_s = run_here(_alone(shares[0], gathered, zero_s))
    else:
        cpu_s = _together(shares, gathered, zero_s, remarks)
    if gathered.is_stopped:
        remarks.append(STOPPED)
    return Outcome(
        gathered.in_order("warmup"),
        gathered.in_order("measured"),
        started_at=started_at,
        zero_s=zero_s,
        num_client_processes=len(shares),
        client_cpu_s=cpu_s,
        remarks=tuple(remarks),
    )


def run_here(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end; in a thread of its own where a loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class _Gathered:
    """Replies of all processes, and whether they say that the load is to stop."""

    def __init__(self, stop_when_saturated: bool) -> None:
        self.replies: dict[str, dict[int, Reply]] = {"warmup": {}, "measured": {}}
        self.is_stopped = False
        self._saturation = Saturation() if stop_when_saturated else None
        self._asked_s = time.monotonic()

    def take(self, phase: str, index: int, reply: Reply) -> bool:
        """Keep a reply; whether the load is to stop now."""
        if index in self.replies[phase]:
            raise RuntimeError(f"request {index} was answered twice")
        self.replies[phase][index] = reply
        if phase == "warmup" or self._saturation is None or self.is_stopped:
            return False
        self._saturation.add(reply.scheduled_at_s, reply.ended_at_s, reply.ttft_scheduled_s)
        if time.monotonic() < self._asked_s + WATCH_S:
            return False
        self._asked_s = time.monotonic()
        self.is_stopped = self._saturation.is_saturated(reply.ended_at_s)
        return self.is_stopped

    def in_order(self, phase: str) -> list[Reply]:
        return sorted(self.replies[phase].values(), key=lambda reply: (reply.scheduled_at_s, reply.sent_at_s))


async def _alone(share: Share, gathered: _Gathered, zero_s: float) -> float:
    def keep(phase: str, job: Job, reply: Reply) -> None:
        if gathered.take(phase, job.index, reply):
            engine.stop()

    engine = Engine(share, keep, zero_s)
    with _short_collections():
        cpu_s = time.process_time()
        await engine.warm_up()
        await engine.measure(time.perf_counter())
        return time.process_time() - cpu_s


@contextlib.contextmanager
def _short_collections() -> Iterator[None]:
    """While entered the garbage collector passes over what was there before: with all modules that takes tens of milliseconds, in which
    nothing is sent and the kernel joins what arrives."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _shares(whole: Share, processes: int) -> list[Share]:
    """Requests and slots dealt out in turn; no process without a slot."""
    count = processes if whole.concurrency is None else min(processes, whole.concurrency)
    return [
        replace(
            whole,
            warmup=whole.warmup[index::count],
            closed=whole.closed[index::count],
            due=whole.due[index::count],
            concurrency=None if whole.concurrency is None else len(range(index, whole.concurrency, count)),
            client_index=index,
        )
        for index in range(count)
    ]


class _Client:
    """The parent's side of one client process."""

    def __init__(self, share: Share, zero_s: float) -> None:
        self.share = share
        self.state = "starting"
        self.cpu_s = 0.0
        self.answered: dict[str, set[int]] = {"warmup": set(), "measured": set()}
        ours, theirs = socket.socketpair()
        code = "import sys; sys.path.insert(0, sys.argv[2]); from collectors.endpoint import _clients; _clients.serve(int(sys.argv[1]))"
        root = str(Path(__file__).parents[2])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), root],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self.line = Connection(ours.detach())
        with contextlib.suppress(OSError):
            self.line.send((share, zero_s))

    def tell(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # it has died; its end says so
            self.line.send(message)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.line.close()


def _together(shares: Sequence[Share], gathered: _Gathered, zero_s: float, remarks: list[str]) -> float:
    """Drive a process for each share; returns their processor time."""
    clients: list[_Client] = []
    begin_s = zero_s
    try:
        for share in shares:
            clients.append(_Client(share, zero_s))
        for state, order in (("ready", "warm up"), ("warm", "measure"), ("done", "end")):
            for dead in _until(clients, state, gathered):
                remarks.append(_bury(dead, gathered, zero_s, begin_s))
            begin_s = time.perf_counter() + LEAD_S
            for client in clients:
                client.tell(order, begin_s)
        return sum(client.cpu_s for client in clients)
    finally:
        for client in clients:
            client.end()


def _until(clients: Sequence[_Client], state: str, gathered: _Gathered) -> list[_Client]:
    """Take messages until every client process is in a state or has died; returns those that died meanwhile."""
    dead: list[_Client] = []
    while waiting := {client.line: client for client in clients if client.state not in (state, "dead")}:
        for line in wait(list(waiting)):
            client = waiting[line]  # type: ignore[index]
            try:
                kind, *content = client.line.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                client.state = "dead"
                dead.append(client)
                continue
            if kind != "reply":
                client.state, client.cpu_s = kind, content[0]
                continue
            phase, index, reply = content
            client.answered[phase].add(index)
            if gathered.take(phase, index, reply):
                for other in clients:
                    other.tell("stop", 0.0)
    return dead


def _bury(client: _Client, gathered: _Gathered, zero_s: float, begin_s: float) -> str:
    """Rows for what a dead process had to send and did not answer for, and the sentence that says so.

    Of a load that only its duration ends, these are the requests that it can have had in flight.
    """
    share, code = client.share, client.process.wait()
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    sentence = f"Client process {share.client_index} {how}; whether this request was sent or answered is not known."
    at_s = time.perf_counter() - zero_s
    num_lost = 0
    for phase, indices in (("warmup", share.warmup), ("measured", share.closed)):
        left = (index for index in indices if index not in client.answered[phase])
        most = share.concurrency if share.duration_s is not None else None
        for index in itertools.islice(left, most):
            gathered.take(phase, index, _lost(share, Job(index, share.output_tokens), at_s, at_s, sentence))
            num_lost += 1
    for job in share.due:
        if job.index not in client.answered["measured"]:
            due_s = begin_s - zero_s + (job.at_s or 0.0)
            gathered.take("measured", job.index, _lost(share, job, due_s, max(due_s, at_s), sentence))
            num_lost += 1
    return f"Client process {share.client_index} {how}: {num_lost} requests of its share failed with it."


def _lost(share: Share, job: Job, due_s: float, ended_s: float, sentence: str) -> Reply:
    return Reply(
        status="error", status_detail=sentence, http_status=None, text="", reasoning="", scheduled_at_s=due_s,
        sent_at_s=due_s, ended_at_s=ended_s, ttft_s=None, tpot_s=None, itl_s=None, e2el_s=None, input_tokens=None,
        output_tokens=None, token_count_source=None, finish_reason=None, chunk_times_s=[], chunk_tokens=None,
        requested_output_tokens=job.output_tokens, client_index=share.client_index,
    )  # fmt: skip


def serve(descriptor: int) -> None:
    """A client process's life: a share comes over the line, replies go back. It ends when its parent does."""
    line = Connection(descriptor)
    share, zero_s = line.recv()
    _raise_file_limit()
    asyncio.run(_serve(line, share, zero_s))


async def _serve(line: Connection, share: Share, zero_s: float) -> None:
    orders: asyncio.Queue[float] = asyncio.Queue()

    def listen() -> None:
        try:
            order, begin_s = line.recv()
        except (EOFError, OSError):
            os._exit(1)
        if order == "stop":
            engine.stop()
        else:
            orders.put_nowait(begin_s)

    engine = Engine(share, lambda phase, job, reply: line.send(("reply", phase, job.index, reply)), zero_s)
    asyncio.get_running_loop().add_reader(line.fileno(), listen)
    with _short_collections():
        cpu_s = time.process_time()
        line.send(("ready", 0.0))
        await orders.get()
        await engine.warm_up()
        line.send(("warm", 0.0))
        await engine.measure(await orders.get())
        line.send(("done", time.process_time() - cpu_s))


def _raise_file_limit() -> None:
    """A connection is a file: allow as many as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
