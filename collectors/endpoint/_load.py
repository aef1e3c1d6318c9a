"""The engine of one client process: sends its share of a load, keeps what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from collectors.endpoint import _providers, _replies
from collectors.endpoint._prompts import Prompts, next_num_words, tokens_per_word
from collectors.endpoint._providers import HttpRequest, Target
from collectors.endpoint._stream import Reply
from collectors.endpoint._transport import Exchange, Pool

GIVE_UP_AFTER = 3
"""Failures in a row (or as many as are in flight, if that is more) after which no further request of a level is sent: a
server that stalls costs a few timeouts and not one for each request."""

GIVE_UP_AFTER_OPEN = 50
"""The same where requests do not wait for one another."""

SIZING_ATTEMPTS = 3
MAX_UNREAD = 1000
"""Answers that may wait to be read before no further request is sent."""

COARSE_S = 0.005
"""The event loop's clock is good to a few milliseconds; the rest of a wait is slept in a thread."""


@dataclass(frozen=True)
class Level:
    """One load on the server: one run."""

    concurrency: int | None
    """Requests kept in flight in a closed loop; in an open one the most at once, None for no limit."""
    num_requests: int
    """Measured requests; 0 where only the duration ends them."""
    num_warmup: int
    output_tokens: int
    pattern: str = "closed"
    """One of warehouse.schema.LOAD_PATTERNS."""
    request_rate_per_s: float | None = None
    """Offered rate of an open loop; None where the pattern has none."""
    duration_s: float | None = None
    """No request is sent after it."""


@dataclass(frozen=True)
class Outcome:
    """What one level brought, in the order in which requests were due. Times of replies count from `started_at`."""

    warmup: list[Reply] = field(default_factory=list)
    measured: list[Reply] = field(default_factory=list)
    started_at: datetime.datetime | None = None
    """Zero of the level's times, UTC."""
    zero_s: float = 0.0
    """The same instant on this machine's monotonic clock (`time.perf_counter`, the same in every process)."""
    num_client_processes: int = 1
    client_cpu_s: float | None = None
    """Processor time of all client processes from the first send to the last end."""
    client_delay_p99_s: float | None = None
    is_client_trusted: bool | None = None
    """What the test against the null server said; None where it was not done."""
    remarks: tuple[str, ...] = ()
    """Sentences for a reader of the run: what the server refused, which client process died, why it was stopped."""


@dataclass(frozen=True)
class Job:
    """One request to be sent. `at_s` counts from the begin of its phase; None in a closed loop, where a free slot sends it."""

    index: int
    output_tokens: int
    at_s: float | None = None
    input_tokens: int | None = None


ENDLESS = 10**9
"""Requests of a closed loop that only its duration ends."""


@dataclass(frozen=True)
class Share:
    """What one client process is to send."""

    target: Target
    prompts: Prompts
    output_tokens: int
    concurrency: int | None
    warmup: range
    """Indices of warm-up requests."""
    closed: range
    """Indices of the measured requests of a closed loop; empty for an open one."""
    due: Sequence[Job] = ()
    """Measured requests of an open loop, by when they are due."""
    duration_s: float | None = None
    client_index: int = 0


Keep = Callable[[str, Job, Reply], None]
"""Receives (sample phase, job, its reply)."""


class Engine:
    """Sends a share. For one event loop; no request is retried."""

    def __init__(self, share: Share, keep: Keep, zero_s: float) -> None:
        self._share, self._keep, self._zero_s = share, keep, zero_s
        self._provider = _providers.find(share.target.provider)
        self._pool = Pool()
        self._unread: asyncio.Queue[tuple[str, Job, Exchange]] = asyncio.Queue()
        self._failures_in_a_row = 0
        self._is_stopped = False

    async def warm_up(self) -> None:
        """Send the warm-up requests as fast as they are answered and wait for their answers."""
        async with self._reading():
            await self._closed_loop("warmup", self._share.warmup, None)
        self._failures_in_a_row = 0

    async def measure(self, begin_s: float) -> None:
        """Send the measured requests from `begin_s` on (`time.perf_counter`) and wait for their answers."""
        share = self._share
        async with self._reading():
            if share.due:
                await self._open_loop(share.due, begin_s)
            else:
                await asyncio.sleep(begin_s - time.perf_counter())
                until_s = None if share.duration_s is None else begin_s + share.duration_s
                await self._closed_loop("measured", share.closed, until_s)
        self._pool.close()

    def stop(self) -> None:
        """Send no further request; those in flight are waited for."""
        self._is_stopped = True

    @property
    def _is_over(self) -> bool:
        return self._is_stopped or self._failures_in_a_row >= self._patience

    @property
    def _patience(self) -> int:
        share = self._share
        return max(GIVE_UP_AFTER_OPEN if share.due else GIVE_UP_AFTER, share.concurrency or 0)

    async def _closed_loop(self, phase: str, indices: range, until_s: float | None) -> None:
        left = iter(indices)

        async def slot() -> None:
            while not self._is_over:
                wanted_s = time.perf_counter()
                if until_s is not None and wanted_s >= until_s:
                    return
                if (index := next(left, None)) is None:
                    return
                job = Job(index, self._share.output_tokens)
                await self._send(phase, job, self._request(phase, job), wanted_s)

        slots = min(self._share.concurrency or len(indices), len(indices))
        await asyncio.gather(*(slot() for _ in range(slots)))

    async def _open_loop(self, jobs: Sequence[Job], begin_s: float) -> None:
        limit = None if self._share.concurrency is None else asyncio.Semaphore(self._share.concurrency)

        async def one(job: Job, request: HttpRequest, due_s: float) -> None:
            try:
                await self._send("measured", job, request, due_s)
            finally:
                if limit is not None:
                    limit.release()

        with ThreadPoolExecutor(1) as clock:
            async with asyncio.TaskGroup() as tasks:
                for job in jobs:
                    request = self._request("measured", job)
                    due_s = begin_s + (job.at_s or 0.0)
                    await _sleep_until(due_s, clock)
                    if limit is not None:
                        await limit.acquire()
                    if self._is_over:
                        break
                    tasks.create_task(one(job, request, due_s))

    def _request(self, phase: str, job: Job) -> HttpRequest:
        share = self._share
        number = job.index if phase == "measured" else -1 - job.index
        prompt = share.prompts.make(number, job.input_tokens)
        return self._provider.request(share.target, prompt, job.output_tokens)

    async def _send(self, phase: str, job: Job, request: HttpRequest, wanted_s: float) -> None:
        target = self._share.target
        reader = self._provider.reader(target)
        exchange = await self._pool.send(request, reader, target.timeout_s, wanted_s)
        self._unread.put_nowait((phase, job, exchange))
        if exchange.is_suspect or self._unread.qsize() > MAX_UNREAD:
            await self._unread.join()

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Reads answers while entered, one at a time with arrivals in between, and the rest before it is left."""
        async with asyncio.TaskGroup() as tasks:  # what goes wrong at reading ends the sending
            desk = tasks.create_task(self._read())
            yield
            await self._unread.join()
            desk.cancel()

    async def _read(self) -> None:
        while True:
            phase, job, exchange = await self._unread.get()
            reply = _replies.reply(
                self._share.target,
                exchange,
                zero_s=self._zero_s,
                output_tokens=job.output_tokens,
                client_index=self._share.client_index,
            )
            self._failures_in_a_row = 0 if reply.status == "ok" else self._failures_in_a_row + 1
            self._keep(phase, job, reply)
            self._unread.task_done()
            await asyncio.sleep(0)


async def _sleep_until(due_s: float, clock: ThreadPoolExecutor) -> None:
    """Wait for an instant of `time.perf_counter`, to about a tenth of a millisecond."""
    if (left := due_s - time.perf_counter()) > COARSE_S:
        await asyncio.sleep(left - COARSE_S)
    if (left := due_s - time.perf_counter()) > 0.0:
        await asyncio.get_running_loop().run_in_executor(clock, time.sleep, left)


async def ask(target: Target, prompt: str, output_tokens: int) -> Reply:
    """Send one request and read its answer. Never raises for what a server does."""
    provider = _providers.find(target.provider)
    request, reader = provider.request(target, prompt, output_tokens), provider.reader(target)
    zero_s = time.perf_counter()
    with contextlib.closing(Pool()) as pool:
        exchange = await pool.send(request, reader, target.timeout_s, zero_s)
    return _replies.reply(target, exchange, zero_s=zero_s, output_tokens=output_tokens)


async def accepted(target: Target) -> tuple[Target, str | None]:
    """The target as the server takes it: a fixed output length is no longer asked for where it is answered with HTTP 400 or 422.

    Asks for one output token, where there is something to find out. Returns the target and what a reader must know of it.
    """
    if not target.ignore_eos:
        return target, None
    plain = replace(target, ignore_eos=False)
    is_refused = (await ask(target, "Hello", 1)).http_status in (400, 422)
    if is_refused and (await ask(plain, "Hello", 1)).status == "ok":
        return plain, "The server does not know ignore_eos: answers end where the model ends them."
    return target, None


async def sized(target: Target, input_tokens: int, is_prefix_unique: bool, seed: str) -> tuple[Prompts, str | None]:
    """Prompts of about `input_tokens` tokens as the server counts them, its chat template included.

    Asks for one output token up to three times and follows the line through the last two counts; these requests are part
    of no run. Returns the prompts and, where they may be off by more than 2 %, a sentence that says so.
    """
    counts: list[tuple[int, int]] = []
    num_words = input_tokens
    for attempt in range(SIZING_ATTEMPTS):
        prompts = Prompts(None, num_words, is_prefix_unique, f"{seed}/sizing")
        reply = await ask(target, prompts.make(attempt), 1)
        if reply.status != "ok" or reply.input_tokens is None:
            why = "the server did not count them" if reply.status == "ok" else reply.status_detail
            unknown = f"Prompts have {num_words} words; their tokens are unknown: {why}"
            return Prompts(None, num_words, is_prefix_unique, seed, input_tokens), unknown
        counts.append((num_words, reply.input_tokens))
        if abs(reply.input_tokens - input_tokens) <= max(2, input_tokens // 50):
            break
        num_words = next_num_words(counts, input_tokens)
    words, tokens = min(counts, key=lambda count: abs(count[1] - input_tokens))
    is_met = abs(tokens - input_tokens) <= max(2, input_tokens // 50)
    sentence = None if is_met else f"Prompts have about {tokens} tokens; {input_tokens} could not be met."
    return Prompts(None, words, is_prefix_unique, seed, tokens, tokens_per_word(counts)), sentence
