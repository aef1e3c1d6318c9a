"""What a ruleset answers: the ops of one execution and the memory it holds, as arrays over a group of configurations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Value = Array | float
"""One number for every configuration of a group, shape (configurations,), or one for all of them."""


ATTENTION_KINDS = ("attention", "attention_scores", "attention_values")
"""Op kinds that multiply activations with keys or values."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op of one device, executed `count` times. FLOPs 2 per multiply-add; sizes in bytes."""

    kind: str
    path: str
    phase: str
    count: Value = 1.0
    flops: Value = 0.0
    weights: Value = 0.0
    """Weights read."""
    read: Value = 0.0
    """Activations read."""
    written: Value = 0.0
    """Activations written."""
    kv_read: Value = 0.0
    kv_written: Value = 0.0
    sent: Value = 0.0
    """Bytes over the link between devices."""
    hops: Value = 0.0
    """Steps of a collective, each with the link's latency: 2 (N - 1) of a ring all-reduce."""
    is_far: bool = False
    """Sent among all devices (stages, replicas), not within a tensor- or expert-parallel group."""
    over_host: Value = 0.0
    """Bytes between device and host memory: streamed weights, offloaded states."""
    hidden: Value = 0.0
    """Seconds of earlier ops that this one overlaps with: only what is left of it counts."""
    hidden_memory: Value = 0.0
    """Of those, the seconds that the memory's bandwidth decides."""
    hidden_link: Value = 0.0
    """Of those, the seconds that the links decide; less than 0 where transfers before it took their time of the same link."""
    beside: tuple[int, ...] = ()
    """Indices of the ops that hide it, where the estimate hides it behind what those are estimated to take."""
    is_exposed: bool = False
    """Frameworks hide none of it unless they are told to: the bound does, the estimate does not."""
    resent: float = 1.0
    """What frameworks send over what has to be sent: 2 where they all-reduce what a reduce-scatter would do."""
    live: Value = 0.0
    """Activations alive while the op runs: what it reads, what it writes, and what waits for later ops."""
    gemm: tuple[Value, Value, Value] | None = None
    """m, n, k of a matrix product."""
    style: str = ""
    """Which of several ops of a kind: rms, layer or none of a norm, gated or composed (step by step) of an
    activation."""
    is_matrix: bool = False
    """Runs on the matrix units; else on the vector units."""
    inputs: tuple[int, ...] = ()
    """Indices of the ops it consumes."""
    seconds: Value | None = None
    """Bound of one execution, where it is not max(F / peak, B / bandwidth): a mean over many steps."""
    sides: tuple[Value, Value, Value] | None = None
    """Of `seconds`, those that the compute peak, the memory's bandwidth and the links decide; the rest follows none of them.
    Without: all of them follow the larger of F / peak and B / bandwidth."""

    def moved(self, places: int) -> Op:
        """The op where those it refers to stand `places` further on."""
        inputs, beside = (tuple(index + places for index in indices) for indices in (self.inputs, self.beside))
        return replace(self, inputs=inputs, beside=beside)

    @cached_property
    def bytes_moved(self) -> Value:
        return self.weights + self.read + self.written + self.kv_read + self.kv_written


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The ops of one execution and the memory of one device in bytes."""

    ops: tuple[Op, ...]
    weights: Value
    kv_cache: Value
    activation_peak: Value
    """Largest set of live activations, logits included where they are alive at it."""
    logits: Value = 0.0
    gradients: Value = 0.0
    optimizer: Value = 0.0
    """Optimizer states and master weights."""
    workspace: Value = 0.0
    """Communication buffers and what kernels need beside operands and results."""
    steady: Value = 0.0
    """Of the workspace, what is there whatever the batch."""
    update: Value = 0.0
    """What takes the place of the activations once backward has ended; the peak holds the larger of both."""
    passes: Value = 1.0
    """Passes through the LLM, each started by the host: 1 of a step, one a token of a generation, one a chunk of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Configurations of one LLM, phase and attention kind: arrays of shape (configurations,), NaN where not given.

    What is the same for all of them may be one number.
    """

    batch: Array
    input_tokens: Array
    output_tokens: Array
    context_tokens: Array
    weight_bytes: Value
    """Bytes of one weight; the next two likewise."""
    activation_bytes: Value
    kv_bytes: Value
    tensor_parallel: Value
    pipeline_parallel: Value
    data_parallel: Value
    expert_parallel: Value
    prefix_tokens: Value
    """Prompt tokens found in the cache; 0 without."""
    chunk_tokens: Value
    """Prompt tokens taken at a time; infinite for all."""
    micro_batches: Value
    """Parts that a batch is cut into; 1 without."""
    gradient_bytes: Value
    """Bytes of one gradient."""
    optimizer_bytes: Value
    """Bytes of one optimizer state of one parameter; Adam keeps two."""
    lora_rank: Value
    bandwidth: Value
    """B/s of one device."""
    matrix_peak: Value
    """FLOP/s of one device in the compute dtype: the wider of a product's two."""
    attention_peak: Value
    """FLOP/s of one device in the wider of activation and KV dtype."""
    vector_peak: Value
    onchip: Value
    """Bytes of registers and shared memory."""
    memory: Value
    link: Value
    """B/s between devices of a tensor- or expert-parallel group, one direction."""
    far_link: Value
    """B/s between all devices: stages, replicas."""
    host_link: Value
    """B/s between device and host, one direction."""
    num_cores: Value
    """SMs, compute units or cores."""
    l2: Value
    """Bytes of the last-level cache."""

    def sent_seconds(self, op: Op) -> Value:
        """Bound of what one execution sends over links; NaN for an unknown link, which the row says and the bound leaves out."""
        seconds: Value = 0.0
        if is_some(op.sent):
            seconds = op.sent / (self.far_link if op.is_far else self.link)
        if is_some(op.over_host):
            seconds = seconds + op.over_host / self.host_link
        return seconds

    def sides(self, op: Op) -> tuple[Value, Value, Value]:
        """Seconds that all executions of an op take, by what decides them: compute peak, bandwidth of the memory, links.

        Where it outlasts what hides it, the time follows its own rate and no longer theirs: what they took counts against it.
        """
        if op.sides is not None:
            own_side, memory_side, link_side = op.sides
            return own_side * op.count, memory_side * op.count, link_side * op.count
        compute, moved = op.flops / self.peak(op), op.bytes_moved / self.bandwidth
        own = np.maximum(compute, moved) if op.seconds is None else op.seconds
        sent = np.nan_to_num(self.sent_seconds(op))
        is_left = np.where(own + sent > op.hidden, op.count, 0.0)
        stored = np.where(compute < moved, own, 0.0)
        behind = op.hidden - op.hidden_memory - op.hidden_link
        return (
            (own - stored - behind) * is_left,
            (stored - op.hidden_memory) * is_left,
            (sent - op.hidden_link) * is_left,
        )

    def peak(self, op: Op) -> Value:
        """FLOP/s of the units that run an op."""
        if not op.is_matrix:
            return self.vector_peak
        return self.attention_peak if op.kind in ATTENTION_KINDS else self.matrix_peak


def is_some(value: Value) -> bool:
    """Whether any may differ from 0; cheap."""
    return isinstance(value, np.ndarray) or value != 0


def total(ops: tuple[Op, ...] | list[Op], name: str) -> Any:
    """Sum of a field over every execution of every op."""
    return sum(getattr(op, name) * op.count for op in ops)


def largest(*values: Value) -> Any:
    """Element-wise maximum."""
    result: Value = 0.0
    for value in values:
        result = np.maximum(result, value)
    return result
