"""What a training step works on: one micro-batch's forward ops, and the parameters, gradients and states of one device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.analytical import default, memory
from models.analytical.inventory import ATTENTION_KINDS, Array, Group, Op, Value
from models.analytical.trace import DEQUANTIZE_FLOPS
from warehouse.catalog.llm import Llm

ADAPTED = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Op kinds that get a LoRA adapter: every product of attention and MLP, as QLoRA does (arXiv:2305.14314, section 4). Routed
experts (kind `experts`) and the head get none."""

QUANT_SCALES = 0.127 / 8
"""Bytes per 4-bit weight of doubly quantized block scales: 0.127 bit a parameter (arXiv:2305.14314, section 3)."""


def zero_stage(options: frozenset[str]) -> int:
    """The ZeRO stage; 0 without."""
    return max((stage for stage in (1, 2, 3) if f"zero{stage}" in options), default=0)


def has_quantized_base(options: frozenset[str]) -> bool:
    return bool(options & {"qlora", "quantized"})


def has_adapters(options: frozenset[str]) -> bool:
    return bool(options & {"lora", "qlora"})


def is_layer(op: Op) -> bool:
    """Folded over layers, rather than run once."""
    return "*" in op.path


def is_communication(op: Op) -> bool:
    return op.kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


def is_linear(op: Op) -> bool:
    """A product with weights."""
    return op.is_matrix and op.kind not in ATTENTION_KINDS


class Model:
    """What a step works on: one micro-batch's forward ops over all layers, and the parameters of one device in bytes."""

    def __init__(self, llm: Llm, group: Group, options: frozenset[str], is_fused: bool) -> None:
        self.llm, self.group, self.zero = llm, group, zero_stage(options)
        self.is_quantized, self.has_adapters = has_quantized_base(options), has_adapters(options)
        self.is_offloaded, self.is_recomputed = "offload" in options, "recompute" in options
        one = np.ones_like(group.batch)
        self.product_bytes = group.activation_bytes if self.is_quantized else group.weight_bytes
        """Bytes of one weight as products read it: quantized ones are de-quantized first."""
        self.forward = default.execute(llm, "forward", self._micro_batch(), is_fused=is_fused)
        self.parameters: Array = memory.device_parameters(llm, group) * one
        self.adapters: Array = self._adapter_parameters() * one
        self.plain: Array = self._plain_parameters() * one

    def _micro_batch(self) -> Group:
        """One micro-batch through all layers."""
        batch = self.group.batch / self.group.micro_batches
        return replace(self.group, batch=batch, pipeline_parallel=1.0, weight_bytes=self.product_bytes)

    def _adapter_parameters(self) -> Value:
        """r (in + out) of every adapted product."""
        if not self.has_adapters:
            return 0.0
        total: Value = 0.0
        for op in self.forward:
            if self.is_adapted(op) and op.gemm is not None:
                total = total + self.group.lora_rank * (op.gemm[1] + op.gemm[2]) * op.count
        return total / self.group.pipeline_parallel

    def _plain_parameters(self) -> Value:
        """What is never quantized: tables, head and norms."""
        llm, group = self.llm, self.group
        tables = llm.vocab_size * llm.embedding_size * (1.0 if llm.is_embedding_tied else 2.0)
        norms = (llm.num_layers * llm.norms_per_layer + llm.has_final_norm) * llm.hidden_size
        norms *= 1 if llm.norm == "rms" else 2
        return tables / group.tensor_parallel + norms / group.pipeline_parallel

    @property
    def trained(self) -> Array:
        """Parameters of one device that the optimizer updates, before ZeRO divides them."""
        if self.has_adapters:
            return self.adapters
        return self.plain if self.is_quantized else self.parameters

    @property
    def trained_bytes(self) -> Value:
        """Bytes of one trained weight: adapters, and what is left unquantized, have the activation dtype."""
        return self.group.activation_bytes if self.has_adapters else self.product_bytes

    @property
    def master_bytes(self) -> Value:
        """Bytes of one master weight; 0 where the weights themselves are updated."""
        is_mixed = (self.trained_bytes <= 2) & (self.group.optimizer_bytes >= 4)
        return np.where(is_mixed, 4.0, 0.0)

    @property
    def narrow_bytes(self) -> Value:
        """Bytes of one quantized weight with its scales."""
        width = self.group.weight_bytes
        return width + np.where(width < 1, QUANT_SCALES, 0.0)

    @property
    def weights(self) -> Array:
        """Bytes of all weights of one device, before ZeRO divides them."""
        frozen = np.where(self.is_quantized, self.parameters - self.plain, 0.0)
        others = (self.parameters - frozen) * self.product_bytes + self.adapters * self.group.activation_bytes
        return frozen * self.narrow_bytes + others

    @property
    def gradients(self) -> Array:
        """Bytes of all gradients of one device, before ZeRO divides them."""
        return self.trained * self.group.gradient_bytes

    @property
    def weights_held(self) -> Array:
        is_on_host = self.is_offloaded and self.zero == 3
        return self.weights * (0.0 if is_on_host else self.share(3))

    @property
    def gradients_held(self) -> Array:
        return self.gradients * (0.0 if self.is_offloaded else self.share(2))

    @property
    def optimizer_held(self) -> Array:
        """Two states and master weights."""
        states = self.trained * (2 * self.group.optimizer_bytes + self.master_bytes)
        return states * (0.0 if self.is_offloaded else self.share(1))

    def share(self, stage: int) -> Value:
        """1/N from a ZeRO stage on, else 1."""
        return 1 / self.group.data_parallel if self.zero >= stage else 1.0

    def is_frozen(self, op: Op) -> bool:
        """Whether a product's own weights get no gradient."""
        return self.has_adapters or self.is_narrow(op)

    def is_narrow(self, op: Op) -> bool:
        """Whether a product's weights are quantized: in layers only."""
        return self.is_quantized and is_linear(op) and is_layer(op)

    def is_adapted(self, op: Op) -> bool:
        return self.has_adapters and op.kind in ADAPTED

    @property
    def head(self) -> int | None:
        """Index of the forward op that gives the logits; None without a head."""
        return next((index for index, op in enumerate(self.forward) if op.kind == "lm_head"), None)

    @property
    def scores(self) -> Value:
        """Logits of one micro-batch, tokens x vocabulary; 0 without a head."""
        head = None if self.head is None else self.forward[self.head].gemm
        return 0.0 if head is None else head[0] * self.llm.vocab_size

    @property
    def logits(self) -> Value:
        """Bytes at the start of backward: logits as the head wrote them, fp32 log-probabilities and two fp32 gradients."""
        return self.scores * (self.group.activation_bytes + 12)

    def dequantize(self, op: Op) -> Op:
        """16-bit weights of a product from its quantized ones."""
        weights = op.weights / self.product_bytes
        return Op(
            kind="dequantize", path=f"{op.path}.dequantize", phase=op.phase, count=op.count,
            flops=DEQUANTIZE_FLOPS * weights, weights=weights * self.narrow_bytes, written=op.weights, live=op.weights,
        )  # fmt: skip

    def adapter(self, op: Op) -> tuple[Op, Op, Op]:
        """The two products of rank r and the scaled sum that an adapter adds to a product."""
        assert op.gemm is not None  # noqa: S101 - the kinds that are adapted have a shape
        (m, n, k), rank, act = op.gemm, self.group.lora_rank, self.group.activation_bytes
        down = replace(
            op, path=f"{op.path}.lora_a", flops=2 * m * rank * k, weights=rank * k * act, written=m * rank * act,
            gemm=(m, rank, k),
        )  # fmt: skip
        up = replace(
            op, path=f"{op.path}.lora_b", flops=2 * m * rank * n, weights=rank * n * act, read=m * rank * act,
            written=m * n * act, gemm=(m, n, rank),
        )  # fmt: skip
        return down, up, sum_of(f"{op.path}.lora_add", op, m * n, act, flops=2.0)


def sum_of(path: str, op: Op, elements: Value, width: Value, *, flops: float) -> Op:
    """Two operands of `elements` elements of `width` bytes added."""
    size = elements * width
    return Op(
        kind="residual_add", path=path, phase=op.phase, count=op.count, flops=flops * elements, read=2 * size,
        written=size, live=3 * size,
    )  # fmt: skip
