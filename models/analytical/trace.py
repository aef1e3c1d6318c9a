"""The ops of one execution as they are met: what a block adds, and the tokens a pass works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.analytical import collectives
from models.analytical.inventory import Array, Group, Op, Value
from warehouse.catalog.llm import Llm

DEQUANTIZE_FLOPS = 2.0
"""FLOPs to widen one weight: a subtraction of the zero point, or a look-up in the code book, and a product with the scale."""


@dataclass(frozen=True)
class Span:
    """Tokens of one pass: `queries` new ones a sequence, the last of `keys` tokens in all."""

    batch: Array
    queries: Value
    keys: Value
    is_causal: bool
    is_cached: bool
    window: int | None = None

    @property
    def tokens(self) -> Array:
        return self.batch * self.queries

    @property
    def is_step(self) -> bool:
        """One query a sequence."""
        return isinstance(self.queries, float) and self.queries == 1.0

    @property
    def attended(self) -> Value:
        """Keys that any query needs."""
        return self.keys if self.window is None else np.minimum(self.keys, self.window - 1 + self.queries)

    @property
    def pairs(self) -> Value:
        """Query-key pairs that the mask leaves, of one sequence and head."""
        if not self.is_causal:
            return self.queries * self.keys
        if self.is_step:
            return self.attended
        if self.window is None:
            return self.queries * (self.keys - (self.queries - 1) / 2)
        return self._pairs_to(self.keys) - self._pairs_to(self.keys - self.queries)

    def _pairs_to(self, tokens: Value) -> Value:
        """Pairs of the first `tokens` queries under the window."""
        full = np.minimum(np.asarray(tokens), float(self.window or 0))
        return full * (full + 1) / 2 + (tokens - full) * full


@dataclass
class Trace:
    """The ops of one execution on one device. Sizes in bytes, `live` too: activations alive while an op runs."""

    llm: Llm
    phase: str
    group: Group
    is_fused: bool
    """Attention is one kernel that never writes its scores."""
    is_dequantized: bool = False
    """Weights are narrower than what products run in, and widened on the way."""
    ops: list[Op] = field(default_factory=list)
    held: Value = 0.0
    """Bytes that stay alive beside what an op touches: the encoder's output."""
    layers: float = 1.0
    """Layers that the op being added is folded over."""
    waiting_weights: list[int] = field(default_factory=list)
    """Products since the last dequantize op."""

    def add(self, kind: str, path: str, after: Sequence[int], *, live: Value, **sizes: Any) -> int:
        """Append an op; returns its index."""
        inputs = tuple(dict.fromkeys(index for index in after if index >= 0))
        self.ops.append(
            Op(kind=kind, path=path, phase=self.phase, inputs=inputs, count=self.layers, live=live + self.held, **sizes)
        )
        return len(self.ops) - 1

    def bytes(self, elements: Value) -> Value:
        """Bytes of activations."""
        return elements * self.group.activation_bytes

    def linear(
        self, kind: str, path: str, after: Sequence[int], tokens: Value, widths: tuple[Value, Value], *,
        has_bias: bool, live: Value, to_cache: Value = 0.0, copies: Value = 1.0,
    ) -> int:  # fmt: skip
        """A product of `tokens` rows with weights, or with `copies` of them in turn; `to_cache` output elements go to the cache."""
        width_in, width_out = widths
        weights = (width_in * width_out + (width_out if has_bias else 0.0)) * copies
        index = self.add(
            kind, path, after, live=live,
            flops=2 * tokens * width_in * width_out,
            weights=weights * self.group.weight_bytes,
            read=self.bytes(tokens * width_in),
            written=self.bytes(tokens * width_out - to_cache),
            kv_written=to_cache * self.group.kv_bytes,
            gemm=(tokens, width_out, width_in), is_matrix=True,
        )  # fmt: skip
        if self.is_dequantized:
            self.waiting_weights.append(index)
        return index

    def dequantize(self, path: str) -> None:
        """Widening of the weights of the products since the last call: on the vector units, while those products run."""
        if not self.waiting_weights:
            return
        products = [self.ops[index] for index in self.waiting_weights]
        elements = sum(op.weights for op in products) / self.group.weight_bytes
        bounds = [(op.flops / self.group.matrix_peak, op.bytes_moved / self.group.bandwidth) for op in products]
        self.add(
            "dequantize", path, self.waiting_weights, live=0.0, flops=DEQUANTIZE_FLOPS * elements,
            beside=tuple(self.waiting_weights), hidden=sum(np.maximum(compute, moved) for compute, moved in bounds),
            hidden_memory=sum(np.where(compute < moved, moved, 0.0) for compute, moved in bounds),
        )  # fmt: skip
        self.waiting_weights = []

    def norm(self, path: str, after: Sequence[int], elements: Value, width: int, *, live: Value) -> int:
        kind = self.llm.norm
        return self.add(
            "norm", path, after, live=live, style=kind,
            flops={"rms": 4.0, "layer": 7.0, "none": 2.0}[kind] * elements,
            weights=(width if kind == "rms" or not self.llm.has_norm_shift else 2 * width) * self.group.weight_bytes,
            read=self.bytes(elements), written=self.bytes(elements),
        )  # fmt: skip

    def residual(self, path: str, after: Sequence[int], elements: Value, *, operands: int = 2) -> int:
        return self.add(
            "residual_add", path, after,
            live=self.bytes((operands + 1) * elements),
            flops=(operands - 1) * elements, read=self.bytes(operands * elements), written=self.bytes(elements),
        )  # fmt: skip

    def all_reduce(self, path: str, after: Sequence[int], elements: Value) -> int:
        """Sum over tensor-parallel devices, in a ring; nothing on one device."""
        devices, payload = self.group.tensor_parallel, self.bytes(elements)
        if not np.any(devices > 1):
            return after[-1]
        return self.collective(
            "all_reduce", path, after, collectives.ring_all_reduce(payload, devices), live=2 * payload
        )

    def collective(
        self, kind: str, path: str, after: Sequence[int], traffic: collectives.Traffic, *, live: Value
    ) -> int:
        """An op that only sends."""
        return self.add(kind, path, after, live=live, sent=traffic.sent, hops=traffic.hops)


def join(path: str, name: str) -> str:
    """A path below another."""
    return f"{path}.{name}" if path else name
