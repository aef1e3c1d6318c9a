"""A continuously batching engine under load: from the times of its steps to what its users wait.

A closed loop: `users` requests in flight, each followed by the next as soon as it ends. Prompts go first: the engine prefills
whoever waits, one prompt after the other, and then takes a decode step, which gives one token to every sequence. So a sequence
that decodes waits while others prefill, and a prompt waits for those that came with it. `steady` and `waves` answer for arrays of
loads at once; `simulate` plays one load step by step, and is what both are tested against.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.learned.inputs import Array


@dataclass(frozen=True)
class Load:
    """What one replica of an engine is asked to do and how long its steps take; shape (n,) each.

    step_s: one decode step of all sequences held. prefill_s: one prompt, which also gives the first token. slots: most sequences
    held at once (memory, or a setting), infinite for no limit; `held` is how many there are.
    """

    users: Array
    output_tokens: Array
    step_s: Array
    prefill_s: Array
    slots: Array

    @property
    def held(self) -> Array:
        return np.asarray(np.maximum(np.minimum(self.users, self.slots), 1.0), np.float64)

    @property
    def later(self) -> Array:
        """Output tokens after the first; 1 stands for none, so that rates by token stay finite."""
        return np.asarray(np.maximum(self.output_tokens - 1.0, 1.0), np.float64)


@dataclass(frozen=True)
class Served:
    """What comes of it; means, shape (n,) each.

    ttft_s: admission_s (waiting for a slot) + queue_s (behind the prompts of others) + the own prefill. tpot_s: the step + stall_s
    (others' prefill between two tokens). requests_per_s of all users together.
    """

    admission_s: Array
    queue_s: Array
    stall_s: Array
    ttft_s: Array
    tpot_s: Array
    requests_per_s: Array


def steady(load: Load) -> Served:
    """Requests of different lengths that have drifted apart.

    Every request is replaced by one prompt, so each of the M - 1 others brings one prompt in `later` steps: the stall a step is
    prefill (M - 1) / later. Prompts arrive only at the end of a step, those of the sequences that ended in it; beside a prompt
    (M - 1) / later others do, half of which go first.
    """
    brought = load.prefill_s * (load.held - 1.0) / load.later
    return _closed(load, brought / 2.0, brought)


def waves(load: Load) -> Served:
    """Requests of one length, all sent at once: they end in the same step, and the prompts of the next wave queue up.

    The i-th of M prompts waits for i - 1 others, and then for M - i more before its first decode step.
    """
    queue = load.prefill_s * (load.held - 1.0) / 2.0
    return _closed(load, queue, queue / load.later)


def _closed(load: Load, queue: Array, stall: Array) -> Served:
    """Closes the loop: users beyond the slots wait outside, as many as Little's law says."""
    tpot = load.step_s + stall
    inside = queue + load.prefill_s + np.maximum(load.output_tokens - 1.0, 0.0) * tpot
    rate = load.held / inside
    admission = np.maximum(load.users / rate - inside, 0.0)
    return Served(admission, queue, stall, admission + queue + load.prefill_s, tpot, rate)


@dataclass(frozen=True)
class Played:
    """Means over the requests of one played load, and its requests a second."""

    ttft_s: float
    tpot_s: float
    requests_per_s: float


def simulate(
    users: int,
    lengths: Iterator[int],
    step_s: float,
    prefill_s: float,
    *,
    requests: int,
    skip: int = 0,
    slots: float = np.inf,
) -> Played:
    """Play one load from its first burst; the first `skip` requests to end count for nothing.

    `lengths` gives the output tokens of one request after the other.
    """
    now, waiting = 0.0, deque([0.0] * users)
    active: list[_Sequence] = []
    ended: list[tuple[float, _Sequence]] = []
    while len(ended) < skip + requests:
        if waiting and len(active) < slots:
            sent, length = waiting.popleft(), next(lengths)
            now += prefill_s
            active.append(_Sequence(length - 1, max(length - 1, 1), now - sent, now))
        else:
            now += step_s
            for one in active:
                one.left -= 1
        done = [one for one in active if one.left <= 0]
        ended += [(now, one) for one in done]
        waiting.extend([now] * len(done))
        active = [one for one in active if one.left > 0]
    counted = ended[skip : skip + requests]
    span = counted[-1][0] - (ended[skip - 1][0] if skip else 0.0)
    return Played(
        float(np.mean([one.ttft for _, one in counted])),
        float(np.mean([(at - one.first) / one.later for at, one in counted])),
        requests / span,
    )


@dataclass
class _Sequence:
    """A sequence that decodes: tokens to come, tokens after its first, time to the first, when that came."""

    left: int
    later: int
    ttft: float
    first: float
