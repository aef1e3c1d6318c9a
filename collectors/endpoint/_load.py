"""The closed loop: a fixed number of requests in flight, warm-up first, prompts of a wanted length."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from collectors.endpoint._client import Target, ask, client
from collectors.endpoint._stream import Reply

if TYPE_CHECKING:
    import httpx

GIVE_UP_AFTER = 3
"""Failures in a row (or `concurrency`, if that is more) after which no further request of a level is sent: a server
that stalls costs a few timeouts and not one for each request."""

SIZING_ATTEMPTS = 3
PREFIX_WORDS = 6
"""Words drawn for a unique beginning: 2e9 of them, each of about the same number of tokens."""

WORDS = (
    "river", "turned", "past", "an", "old", "mill", "where", "people", "met", "in", "the", "evening", "to", "talk", "about",
    "rain", "and", "work", "while", "children", "ran", "along", "bank", "a", "boat", "went", "down", "with", "wood", "stone",
    "for", "new", "bridge", "near", "town",
)  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from: a given text, or `num_words` plain words. A unique beginning keeps prefix caches out."""

    text: str | None
    num_words: int
    is_prefix_unique: bool

    def make(self) -> str:
        """The next prompt."""
        body = self.text
        if body is None:
            body = " ".join(WORDS[index % len(WORDS)] for index in range(self.num_words))
        return (
            " ".join([*(secrets.choice(WORDS) for _ in range(PREFIX_WORDS)), body]) if self.is_prefix_unique else body
        )


@dataclass(frozen=True)
class Level:
    """One load on the server: one run."""

    concurrency: int | None
    """Requests kept in flight in a closed loop; in an open one the most at once, None for no limit."""
    num_requests: int
    num_warmup: int
    output_tokens: int
    pattern: str = "closed"
    """One of warehouse.schema.LOAD_PATTERNS."""
    request_rate_per_s: float | None = None
    """Offered rate of an open loop; None where the pattern has none."""


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


async def run(target: Target, level: Level, prompts: Prompts) -> Outcome:
    """Warm up, wait for the answers, then measure. No request is retried."""
    async with client(level.concurrency or 1) as http:
        zero = time.perf_counter()
        return Outcome(
            await _closed_loop(http, target, level, prompts, count=level.num_warmup, zero=zero),
            await _closed_loop(http, target, level, prompts, count=level.num_requests, zero=zero),
        )


async def sized(target: Target, input_tokens: int, is_prefix_unique: bool) -> tuple[Prompts, str | None]:
    """Prompts of about `input_tokens` tokens as the server counts them, its chat template included.

    Asks for one output token up to three times and follows the line through the last two counts; these requests are part
    of no run. Returns the prompts and, where they may be off by more than 2 %, a sentence that says so.
    """
    counts: list[tuple[int, int]] = []
    num_words = input_tokens
    async with client(1) as http:
        for _ in range(SIZING_ATTEMPTS):
            prompts = Prompts(None, num_words, is_prefix_unique)
            reply = await ask(http, target, prompts.make(), 1, time.perf_counter())
            if reply.status != "ok" or reply.input_tokens is None:
                why = "the server did not count them" if reply.status == "ok" else reply.status_detail
                return prompts, f"Prompts have {num_words} words; their tokens are unknown: {why}"
            if abs(reply.input_tokens - input_tokens) <= max(2, input_tokens // 50):
                return prompts, None
            counts.append((num_words, reply.input_tokens))
            num_words = next_num_words(counts, input_tokens)
    words, tokens = min(counts, key=lambda count: abs(count[1] - input_tokens))
    sentence = f"Prompts have about {tokens} tokens; {input_tokens} could not be met."
    return Prompts(None, words, is_prefix_unique), sentence


def next_num_words(counts: list[tuple[int, int]], input_tokens: int) -> int:
    """Words for `input_tokens` tokens, from (words, tokens) seen: in proportion to one, on the line through the last two.

    >>> next_num_words([(100, 150)], 300)
    200
    >>> next_num_words([(100, 150), (200, 270)], 390)
    300
    """
    words, tokens = counts[-1]
    per_word = tokens / words if words and tokens else 1.0
    wanted = input_tokens / per_word
    if len(counts) > 1 and words != counts[-2][0] and tokens != counts[-2][1]:
        per_word = (tokens - counts[-2][1]) / (words - counts[-2][0])
        wanted = words + (input_tokens - tokens) / per_word
    return max(0, min(round(wanted), 8 * input_tokens))


async def _closed_loop(
    http: httpx.AsyncClient, target: Target, level: Level, prompts: Prompts, *, count: int, zero: float
) -> list[Reply]:
    replies: dict[int, Reply] = {}
    num_sent = failures_in_a_row = 0

    async def worker() -> None:
        nonlocal num_sent, failures_in_a_row
        while num_sent < count and failures_in_a_row < max(GIVE_UP_AFTER, level.concurrency or 1):
            index, num_sent = num_sent, num_sent + 1
            reply = await ask(http, target, prompts.make(), level.output_tokens, zero)
            replies[index] = reply
            failures_in_a_row = 0 if reply.status == "ok" else failures_in_a_row + 1

    await asyncio.gather(*(worker() for _ in range(level.concurrency or 1)))
    return [replies[index] for index in sorted(replies)]
