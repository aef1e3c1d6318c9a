"""What the client itself adds to a latency, found before a run: five times its load on a server of known times.

The null server says in each answer when the kernel received the request, and between which times it wrote the first chunk, all on
the clock of this machine, so that its own lateness is not the client's. What the client adds to a request is the time from when it
was due until the server's kernel had it, and from that write to the arrival that the client stamps. Both processes share the
machine: where its cores do not carry five times the load, the client is not shown to, and is not trusted.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from collectors.endpoint import _arrivals, _clients
from collectors.endpoint._load import Job, Level, Outcome
from collectors.endpoint._prompts import Prompts
from collectors.endpoint._providers import Asked, openai

FACTOR = 5
DURATION_S = 1.5
TTFT_S, GAP_S, TOKENS = 0.1, 0.02, 16
"""Times of the null server: those of a fast server under load, so that one stream is 50 chunks a second."""

REQUEST_S = TTFT_S + GAP_S * (TOKENS - 1)
MAX_STREAMS = 2000
"""Requests in flight of the test at most, whatever the load; a test that was cut short so shows less than 5 x and trusts nobody."""

LIMIT_S = 1e-3
LEAST_RATE = 0.9
"""Share of the offered rate that must have been sent."""


@dataclass(frozen=True)
class SelfTest:
    """What a client adds to a latency at p99, and whether it may be trusted with the load it was tested for."""

    delay_p99_s: float | None
    is_trusted: bool
    remark: str | None

    def beside(self, outcome: Outcome) -> Outcome:
        """The outcome of a run with what the test before it said."""
        remarks = outcome.remarks if self.remark is None else (*outcome.remarks, self.remark)
        return replace(outcome, client_delay_p99_s=self.delay_p99_s, is_client_trusted=self.is_trusted, remarks=remarks)


def run(level: Level, processes: int, due: Sequence[Job] = ()) -> SelfTest:
    """Test the client with 5 x the streams of a closed loop, or 5 x the rate of an open one, for 1.5 s.

    The rate of a burst and of a trace is that of the second in which most of their requests are `due`.
    """
    tested, due, offered_per_s, is_cut = _load(level, due)
    with _null_server() as url:
        target = openai.target(Asked(url, "null", timeout_s=30.0, api_key_env="ROOFLAKE_NO_KEY"))
        outcome = _clients.run(target, tested, Prompts("x", 0, False), due, processes=processes)
    delays = _delays(outcome)
    if not delays:
        return SelfTest(None, False, "The test of the client failed: the null server gave no answer.")
    delay_s = float(np.percentile(delays, 99))
    sent_s = [reply.sent_at_s for reply in outcome.measured]
    ended_s = max(reply.ended_at_s for reply in outcome.measured)
    rate_per_s = len(sent_s) / (ended_s - min(sent_s))
    share = rate_per_s / offered_per_s
    is_fast, is_sustained = delay_s < LIMIT_S, share >= LEAST_RATE and not is_cut
    said = f"The client is not trusted: in a test with {FACTOR} x the load it added {delay_s * 1e3:.2g} ms at p99"
    said += f" and sent {min(share, 1.0):.0%} of the requests." if not is_cut else f", cut to {MAX_STREAMS} streams."
    return SelfTest(delay_s, is_fast and is_sustained, None if is_fast and is_sustained else said)


def _load(level: Level, due: Sequence[Job] = ()) -> tuple[Level, list[Job], float, bool]:
    """The test's load, the rate it offers, and whether it is less than 5 x the level's. Its warm-up opens the connections."""
    if level.concurrency is not None and level.pattern in ("closed", "burst"):
        wanted = FACTOR * level.concurrency
        streams = min(wanted, MAX_STREAMS)
        tested = Level(streams, 0, streams, TOKENS, duration_s=DURATION_S)
        return tested, [], streams / REQUEST_S, streams < wanted
    most_per_s = MAX_STREAMS / REQUEST_S
    wanted_per_s = FACTOR * (_peak_per_s(due) if level.request_rate_per_s is None else level.request_rate_per_s)
    rate_per_s = min(wanted_per_s, most_per_s)
    count = max(1, round(rate_per_s * DURATION_S))
    arrivals = _arrivals.arrivals("constant", rate_per_s=rate_per_s, num_requests=count, duration_s=None, seed="0")
    return (
        Level(None, count, math.ceil(rate_per_s * REQUEST_S), TOKENS, "constant", rate_per_s),
        [Job(index, TOKENS, one.at_s) for index, one in enumerate(arrivals)],
        count / (arrivals[-1].at_s + REQUEST_S),
        rate_per_s < wanted_per_s,
    )


def _peak_per_s(due: Sequence[Job]) -> float:
    """Requests of the second in which most are due."""
    at_s = np.sort([job.at_s or 0.0 for job in due])
    return float(np.max(np.searchsorted(at_s, at_s + 1.0) - np.arange(len(at_s))))


def _delays(outcome: Outcome) -> list[float]:
    """What the client added to each answer, seconds. A first chunk arrived rightly when stamped between the times around its write."""
    delays = []
    for reply in outcome.measured:
        if reply.status == "ok" and reply.ttft_s is not None:
            received_s, before_s, after_s = map(float, reply.text.split()[:3])
            arrived_s = outcome.zero_s + reply.sent_at_s + reply.ttft_s
            late_s = max(arrived_s - after_s, 0.0, before_s - arrived_s)
            delays.append(received_s - outcome.zero_s - reply.scheduled_at_s + late_s)
    return delays


@contextlib.contextmanager
def _null_server() -> Iterator[str]:
    program = [sys.executable, "-m", "collectors.endpoint._null_server", str(TTFT_S), str(GAP_S)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        program, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            port = process.stdout.readline().decode().strip() if process.stdout is not None else ""
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
