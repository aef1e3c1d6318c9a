"""One training step: forward, loss, backward, communication of gradients and the optimizer, as ops; memory by part.

The forward ops are those of the ruleset `default`; every other op is derived from them. All are of ONE device: work over all
devices is tensor_parallel x pipeline_parallel x data_parallel times as much. With pipeline stages the device is the mean
stage: layers are divided by the stages, an op outside the layers keeps its count and has the mean of its sizes. A batch is
cut into micro-batches, each a forward and a backward pass.

Backward, op by op. A product with weights becomes two of its FLOPs: gradients of its input, and of its weights. Eager
attention becomes two products for each of its own; a fused kernel computes its scores again, 2.5 times the FLOPs. An
element-wise op reads its operands and the gradient of its result and writes the gradients of its operands. `recompute` runs
the layers (not the head) a second time. `lora`, `qlora` and `quantized` freeze the base: no weight gradients.

Optimizer: Adam. One fused kernel: gradients, states and weights are read once, states and weights written once (estimate.py
knows the unfused one). Master weights, an fp32 copy that the optimizer updates, are kept where states are fp32 and weights
have 16 bits, as mixed-precision frameworks and every ZeRO stage of DeepSpeed do. States of 16 bits mean no master weights.

Communication. Without ZeRO and with ZeRO-1, gradients are all-reduced or reduce-scattered once a step; from ZeRO-2 on a
device keeps its share only, so that every micro-batch reduce-scatters; ZeRO-3 also gathers weights in forward and again in
backward. A bound lets all of this hide behind the compute of its phase (`hidden`), but for ZeRO-1's and 2's gathering of
updated weights. Offloaded states: gradients go down to the host, the host updates (HOST_BANDWIDTH), weights come up; with
ZeRO-3 the weights live in host memory too, and come up whenever they are gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.analytical import collectives, default, memory
from models.analytical.inventory import ATTENTION_KINDS, Array, Group, Inventory, Op, Value, largest
from warehouse.catalog.llm import Llm

PHASES = ("pretrain_step", "finetune_step")

OPTIONS = ("zero1", "zero2", "zero3", "offload", "recompute", "flash", "lora", "qlora", "quantized")
"""Optimizations that change a step. `flash` is told by the attention column; here it changes nothing."""

ADAPTED = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Op kinds that get a LoRA adapter: every product of attention and MLP, as QLoRA does (arXiv:2305.14314, section 4). Routed
experts (kind `experts`) and the head get none."""

ADAM_FLOPS = 14.0
"""FLOPs of AdamW per parameter: decay 1, first moment 3, second moment 4, root, bias correction and epsilon 3, update 3."""

QUANT_SCALES = 0.127 / 8
"""Bytes per 4-bit weight of doubly quantized block scales: 0.127 bit a parameter (arXiv:2305.14314, section 3)."""

DEQUANTIZE_FLOPS = 2.0
"""Per weight: look-up in the code book, product with the block's scale."""

BUCKET = 5e8
"""Gradients reduced at a time: DeepSpeed's reduce_bucket_size. ZeRO has two buckets, one that fills while the other is reduced
(overlap_comm, which DeepSpeed itself turns on in stage 3 only)."""

REDUCED_AGAIN = 2.0
"""Bytes that DeepSpeed's ZeRO-1 and 2 send for gradients over those of a reduce-scatter: buckets of all ranks are all-reduced
(use_multi_rank_bucket_allreduce, on by default), and not beside backward (overlap_comm, off by default below stage 3)."""

LIVE_PARAMETERS = 1e9
"""Gathered weights that ZeRO-3 keeps at most: DeepSpeed's stage3_max_live_parameters; the optimizer's sub_group_size too."""

PREFETCHED = 5e7
"""Weights that ZeRO-3 gathers ahead: DeepSpeed's stage3_prefetch_bucket_size."""

RUNTIME = 5e8
"""Bytes of a CUDA context and library workspaces before the first tensor; rounded."""

COMMUNICATOR = 1.5e9
"""Bytes of a communicator of several devices, and what else a step holds that is not counted: fitted, not documented, to
`zhang-2023-dissecting` Table III, 7B, R+Z3+O (6.4 GB), where little else is left."""

HOST_BANDWIDTH = 409.6e9
"""B/s of host memory that all devices of a host share in an offloaded update: two sockets of eight DDR4-3200 channels, the
best host of the A100's time. An assumption: catalogue entries have no host. `zhang-2023-dissecting` Table III reached 7 % of
it: 14.3 s a step of Z2+O for the 13.0e9 parameters, 28 B each, of 13B."""

HOST_DEVICES = 8.0
"""Devices of one host at most."""

LOSS_FLOPS = (6.0, 3.0)
"""Per logit, forward (log-softmax 5, likelihood 1) and backward."""

BACKWARD_FLOPS = {"softmax": 0.8, "norm": 2.0, "activation": 2.0}
"""FLOPs of a backward op over those of its forward op; 1 for all others. Softmax: y (dy - sum y dy), 4 against 5."""

ADAM_TEMPORARIES = 1.0
"""Arrays as large as the updated parameters that torch's unfused Adam (foreach) allocates during a step, as torch documents."""


def refuse(llm: Llm, phase: str, options: frozenset[str]) -> str | None:
    """Why an LLM, a phase and a set of optimizations have no answer here."""
    strange = sorted(options.difference(OPTIONS))
    rules = (
        (phase not in PHASES, f"phase '{phase}' is not a training step. Known: {', '.join(PHASES)}."),
        (
            llm.architecture == "encoder" and phase == "pretrain_step",
            "an encoder's pre-training head is not modelled: an encoder has finetune_step.",
        ),
        (
            bool(strange),
            f"optimizations {', '.join(strange)} are not modelled in training. Known: {', '.join(OPTIONS)}.",
        ),
        (
            "offload" in options and not _zero(options),
            "offload needs zero1, zero2 or zero3: without ZeRO the optimizer has no share to offload.",
        ),
        (
            phase == "pretrain_step" and _has_adapters(options),
            "adapters are not pre-trained: lora and qlora are for finetune_step.",
        ),
        (
            llm.num_experts > 0 and _is_quantized(options),
            "quantized training of a mixture of experts is not modelled.",
        ),
    )
    return next((sentence for is_refused, sentence in rules if is_refused), None)


def impossible(llm: Llm, group: Group, options: frozenset[str]) -> list[tuple[Any, str]]:
    """Sizes that a step cannot have: (mask, sentence) pairs. Those of `default.impossible` hold as well."""
    is_narrow, is_wide = group.weight_bytes < 1, group.weight_bytes > 1
    is_quantized = _is_quantized(options)
    ranks = group.lora_rank if _has_adapters(options) else 1.0
    return [
        (llm.num_layers % group.pipeline_parallel != 0, f"pipeline_parallel does not divide {llm.num_layers} layers."),
        (np.logical_not(np.greater_equal(ranks, 1)), "lora and qlora need lora_rank of 1 or more."),
        (is_narrow & (not is_quantized), "weights of fewer than 8 bits are not trained: say qlora or quantized."),
        (is_wide & is_quantized, "qlora and quantized need a weight_dtype of 8 bits or fewer: nf4, int4, int8."),
    ]


def inventory(llm: Llm, phase: str, group: Group, *, is_fused: bool, options: frozenset[str]) -> Inventory:
    """Ops and memory of one device for one step of a group of configurations that neither `refuse` nor `impossible` names.

    `phase` changes nothing here: what a step updates is told by the options.
    """
    del phase
    model = _Model(llm, group, options, is_fused)
    ops = _Step(model).run()
    weights, gradients, optimizer = model.weights_held, model.gradients_held, model.optimizer_held
    activations, (steady, update) = _activations(model), _buffers(model)
    return Inventory(
        ops=ops,
        weights=weights,
        kv_cache=np.zeros_like(group.batch),
        activation_peak=activations,
        logits=model.logits,
        gradients=gradients,
        optimizer=optimizer,
        workspace=steady + _instead(model, weights + gradients + optimizer + steady, activations, update),
        steady=steady,
        update=update,
    )


def _zero(options: frozenset[str]) -> int:
    """The ZeRO stage; 0 without."""
    return max((stage for stage in (1, 2, 3) if f"zero{stage}" in options), default=0)


def _is_quantized(options: frozenset[str]) -> bool:
    return bool(options & {"qlora", "quantized"})


def _has_adapters(options: frozenset[str]) -> bool:
    return bool(options & {"lora", "qlora"})


def _is_layer(op: Op) -> bool:
    """Folded over layers, rather than run once."""
    return "*" in op.path


def _is_communication(op: Op) -> bool:
    return op.kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


def _is_linear(op: Op) -> bool:
    """A product with weights."""
    return op.is_matrix and op.kind not in ATTENTION_KINDS


class _Model:
    """What a step works on: one micro-batch's forward ops over all layers, and the parameters of one device in bytes."""

    def __init__(self, llm: Llm, group: Group, options: frozenset[str], is_fused: bool) -> None:
        self.llm, self.group, self.zero = llm, group, _zero(options)
        self.is_quantized, self.has_adapters = _is_quantized(options), _has_adapters(options)
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
        return self.is_quantized and _is_linear(op) and _is_layer(op)

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
        return down, up, _sum_of(f"{op.path}.lora_add", op, m * n, act, flops=2.0)


def _sum_of(path: str, op: Op, elements: Value, width: Value, *, flops: float) -> Op:
    """Two operands of `elements` elements of `width` bytes added."""
    size = elements * width
    return Op(
        kind="residual_add", path=path, phase=op.phase, count=op.count, flops=flops * elements, read=2 * size,
        written=size, live=3 * size,
    )  # fmt: skip


# Ops


class _Step:
    """The ops of one step of one device, in order."""

    def __init__(self, model: _Model) -> None:
        self.model, self.group, self.forward = model, model.group, model.forward
        self.ops: list[Op] = []
        self.consumers: list[list[int]] = [[] for _ in self.forward]
        for index, op in enumerate(self.forward):
            for source in op.inputs:
                self.consumers[source].append(index)

    def run(self) -> tuple[Op, ...]:
        position = self._replay("forward", range(len(self.forward)))
        loss = self._loss(position)
        self._gather("forward")
        self._backward(loss)
        self._reduce(self._gather("backward"))
        self._update()
        self._pipeline()
        return tuple(self.ops)

    def add(self, op: Op) -> int:
        """Append an op of the step; returns its index."""
        self.ops.append(op)
        return len(self.ops) - 1

    def place(self, op: Op) -> int:
        """Append an op of one micro-batch and all stages, as one of the step and the mean stage."""
        micro, stages = self.group.micro_batches, self.group.pipeline_parallel
        if _is_layer(op):
            return self.add(replace(op, count=op.count * micro / stages))
        sizes = {name: getattr(op, name) / stages for name in _SIZES} if np.any(stages > 1) else {}
        return self.add(replace(op, count=op.count * micro, **sizes))

    def _replay(self, phase: str, indices: Iterable[int], suffix: str = "") -> dict[int, int]:
        """Forward ops, with de-quantisation and adapters; returns where each one's result comes from."""
        model, position = self.model, dict[int, int]()
        for index in indices:
            op = replace(self.forward[index], phase=phase, path=f"{self.forward[index].path}{suffix}")
            inputs = tuple(position[one] for one in op.inputs if one in position)
            weights = (self.place(model.dequantize(op)),) if model.is_narrow(op) else ()
            position[index] = self.place(replace(op, inputs=(*inputs, *weights)))
            if model.is_adapted(op):
                down, up, both = model.adapter(op)
                narrow = self.place(replace(down, inputs=inputs))
                wide = self.place(replace(up, inputs=(narrow,)))
                position[index] = self.place(replace(both, inputs=(position[index], wide)))
        return position

    def _loss(self, position: dict[int, int]) -> int | None:
        """Cross entropy over every token and word: reads logits, writes fp32 log-probabilities; then its gradient."""
        model, head = self.model, self.model.head
        if head is None:
            return None
        scores, act = model.scores, self.group.activation_bytes
        source = position[max([head, *self.consumers[head]])]
        forward = Op(
            kind="loss", path="loss", phase="forward", flops=LOSS_FLOPS[0] * scores, read=scores * act,
            written=4 * scores, live=model.logits, inputs=(source,),
        )  # fmt: skip
        backward = Op(
            kind="loss", path="loss.gradient", phase="backward", flops=LOSS_FLOPS[1] * scores, read=4 * scores,
            written=scores * act, live=model.logits, inputs=(self.place(forward),),
        )  # fmt: skip
        return self.place(backward)

    def _backward(self, loss: int | None) -> None:
        """Backward ops of the forward ops, last to first; with recomputation, first the layers once more."""
        start = () if loss is None else (loss,)
        results: dict[int, tuple[int, ...]] = {}
        is_due = self.model.is_recomputed
        for index in reversed(range(len(self.forward))):
            if is_due and _is_layer(self.forward[index]):
                layers = [number for number, op in enumerate(self.forward) if _is_layer(op)]
                self._replay("backward", layers, ".recompute")
                is_due = False
            after = [one for consumer in self.consumers[index] for one in results.get(consumer, ())]
            sources = tuple(dict.fromkeys(after)) or start
            placed = [
                self.place(replace(op, phase="backward", inputs=sources)) for op in self._derive(self.forward[index])
            ]
            results[index] = (placed[0],) if placed else sources

    def _derive(self, op: Op) -> Iterator[Op]:
        """Backward ops of a forward op; the first gives the gradient of its operands."""
        if op.kind in ATTENTION_KINDS:
            yield from _attention_backward(op)
        elif _is_linear(op):
            yield from self._linear_backward(op)
        elif _is_communication(op):
            yield from _communication_backward(op, self.model)
        elif op.kind == "embedding":
            yield from self._embedding_backward(op)
        else:
            yield self._elementwise_backward(op)

    def _linear_backward(self, op: Op) -> Iterator[Op]:
        model, act = self.model, self.group.activation_bytes
        yield _product_backward(op)[0]
        if model.is_narrow(op):
            yield model.dequantize(op)
        if not model.is_frozen(op):
            yield self._weight_gradient(op, model.product_bytes)
        if model.is_adapted(op):
            down, up, _ = model.adapter(op)
            for one in (up, down):
                yield _product_backward(one)[0]
                yield self._weight_gradient(one, act)
            yield _sum_of(f"{op.path}.lora_add", op, op.read / act, act, flops=1.0)

    def _weight_gradient(self, op: Op, width: Value) -> Op:
        """Gradient of the weights of a product, which are `width` bytes each, added to that of earlier micro-batches."""
        gradients = op.weights / width * self.group.gradient_bytes
        product = _product_backward(op)[1]
        return replace(product, read=product.read + self._earlier(gradients), written=gradients)

    def _earlier(self, gradients: Value) -> Value:
        """Gradients read to be added to: all but those of the first micro-batch."""
        return gradients * (1 - 1 / self.group.micro_batches)

    def _embedding_backward(self, op: Op) -> Iterator[Op]:
        """Rows are added to a gradient as large as the table."""
        if self.model.has_adapters:
            return
        llm, group = self.model.llm, self.group
        table = (
            llm.num_relative_buckets * llm.num_heads
            if "position_bias" in op.path
            else llm.vocab_size * llm.embedding_size
        )
        gradients = table / group.tensor_parallel * group.gradient_bytes
        yield replace(
            op, flops=op.written / group.activation_bytes, weights=0.0, read=op.written + self._earlier(gradients),
            written=gradients,
        )  # fmt: skip

    def _elementwise_backward(self, op: Op) -> Op:
        """Reads operands and the gradient of the result, writes gradients of operands and of a norm's weights."""
        if op.kind in ("residual_add", "rope"):
            return op  # linear: the gradient is all it reads; of a residual, the gradients of both branches are added
        gradients: Value = 0.0
        if op.kind == "norm" and not self.model.has_adapters:
            gradients = op.weights / self.model.product_bytes * self.group.gradient_bytes
        flops = op.flops * BACKWARD_FLOPS.get(op.kind, 1.0)
        return replace(op, flops=flops, read=op.read + op.written, written=op.read + gradients)

    # Between devices, and the optimizer

    def _gather(self, phase: str) -> _Cover:
        """ZeRO-3: weights from the other devices, and this one's share from the host, layer by layer and ahead of use.

        Returns what a phase takes with it.
        """
        model, group = self.model, self.group
        cover = self._computed(phase)
        if model.zero < 3:
            return cover
        layers = model.llm.num_layers / group.pipeline_parallel
        count = layers * group.micro_batches
        traffic = collectives.all_gather(model.weights / layers, group.data_parallel)
        gather = Op(kind="all_gather", path="layers.*.weights", phase=phase, count=count, **_over(traffic))
        cover = self._hide(gather, cover)
        if model.is_offloaded:
            share = model.weights / layers * model.share(3)
            up = Op(kind="memcpy_h2d", path="layers.*.weights.host", phase=phase, count=count, over_host=share)
            cover = self._hide(up, cover)
        return cover

    def _reduce(self, cover: _Cover) -> None:
        """Gradients summed over data-parallel devices in buckets, and with offload sent to the host, behind backward.

        ZeRO copies them to a bucket first, in the order of its shares (DeepSpeed's contiguous_gradients, FSDP's copy-in);
        nothing hides behind the copies.
        """
        model, group = self.model, self.group
        buckets = np.ceil(model.trained / BUCKET)
        count = buckets * (group.micro_batches if model.zero >= 2 else 1.0)
        if model.zero:
            size = model.gradients / buckets
            self.add(Op(kind="memcpy", path="gradients.bucket", phase="backward", count=count, read=size, written=size))
        if np.any(group.data_parallel > 1):
            kind = "reduce_scatter" if model.zero else "all_reduce"
            collective = collectives.reduce_scatter if model.zero else collectives.ring_all_reduce
            traffic = collective(model.gradients / buckets, group.data_parallel)
            is_exposed = model.zero in (1, 2)
            reduce = Op(
                kind=kind, path="gradients", phase="backward", count=count, is_exposed=is_exposed,
                resent=REDUCED_AGAIN if is_exposed else 1.0, **_over(traffic),
            )  # fmt: skip
            cover = self._hide(reduce, cover, after="layers.*.weights")
        if model.is_offloaded:
            share = model.gradients / buckets * model.share(1)
            self._hide(
                Op(kind="memcpy_d2h", path="gradients.host", phase="backward", count=count, over_host=share), cover
            )

    def _hide(self, op: Op, cover: _Cover, *, after: str | None = None) -> _Cover:
        """Append a transfer that overlaps all that `cover` has but what went over the same link before it: the ops of
        the path `after`. Returns what both take."""
        before: Value = 0.0
        for other in self.ops:
            if other.path == after and other.phase == op.phase:
                before = before + np.nan_to_num(self.group.sent_seconds(other)) * other.count
        sent = before + np.nan_to_num(self.group.sent_seconds(op)) * op.count
        self.add(
            replace(
                op, hidden=(cover.seconds - before) / op.count, hidden_memory=cover.of_memory / op.count,
                hidden_link=(cover.of_link - before) / op.count,
            )
        )  # fmt: skip
        is_exposed = sent > cover.seconds
        return _Cover(
            np.maximum(cover.seconds, sent),
            np.where(is_exposed, 0.0, cover.of_memory),
            np.where(is_exposed, sent, cover.of_link),
        )

    def _update(self) -> None:
        """Adam over this device's share, here or on the host; then what brings every device the new weights."""
        model, group = self.model, self.group
        share, master, width = model.trained * model.share(1), model.master_bytes, model.trained_bytes
        update = Op(
            kind="optimizer", path="optimizer", phase="optimizer",
            flops=ADAM_FLOPS * share,
            weights=share * np.where(master > 0, master, width),
            read=share * (group.gradient_bytes + 2 * group.optimizer_bytes),
            written=share * (2 * group.optimizer_bytes + width + master),
        )  # fmt: skip
        if model.is_offloaded:
            devices = group.data_parallel * group.tensor_parallel * group.pipeline_parallel
            seconds = update.bytes_moved * np.minimum(devices, HOST_DEVICES) / HOST_BANDWIDTH
            update = Op(
                kind="optimizer", path="optimizer.host", phase="optimizer", seconds=seconds, sides=(0.0, 0.0, 0.0)
            )
        last = self.add(update)
        if model.is_offloaded and model.zero < 3:
            up = Op(kind="memcpy_h2d", path="weights.host", phase="optimizer", over_host=share * width, inputs=(last,))
            last = self.add(up)
        if model.zero in (1, 2):
            traffic = collectives.all_gather(model.trained * width, group.data_parallel)
            self.add(Op(kind="all_gather", path="weights", phase="optimizer", inputs=(last,), **_over(traffic)))

    def _pipeline(self) -> None:
        """Activations and their gradients between stages, and the time that stages wait for one another."""
        group = self.group
        if not np.any(group.pipeline_parallel > 1):
            return
        payload = collectives.send_recv(_boundary(self.forward))
        inner = 1 - 1 / group.pipeline_parallel  # one stage of p has no neighbour
        for phase in ("forward", "backward"):
            self.add(
                Op(
                    kind="send_recv", path="stages.send_recv", phase=phase, count=group.micro_batches,
                    sent=payload.sent * inner, hops=payload.hops * inner, is_far=True,
                )
            )  # fmt: skip
        sides: tuple[Value, Value, Value] = (0.0, 0.0, 0.0)
        for op in self.ops:
            if op.phase != "optimizer" and op.path not in ("gradients", "gradients.host"):
                own, memory_side, link_side = group.sides(op)
                sides = sides[0] + own, sides[1] + memory_side, sides[2] + link_side
        share = bubble(group)
        waiting = share * sides[0], share * sides[1], share * sides[2]
        self.add(Op(kind="idle", path="stages.idle", phase="idle", seconds=sum(waiting), sides=waiting))

    def _computed(self, phase: str) -> _Cover:
        """What the ops of a phase take so far but for the links."""
        compute: Value = 0.0
        stored: Value = 0.0
        for op in self.ops:
            if op.phase == phase:
                own, memory_side, _ = self.group.sides(op)
                compute, stored = compute + own, stored + memory_side
        return _Cover(compute + stored, stored, 0.0)


@dataclass(frozen=True)
class _Cover:
    """Seconds that transfers can hide behind, and those of them that the memory's bandwidth and the links decide."""

    seconds: Value
    of_memory: Value
    of_link: Value


_SIZES = ("flops", "weights", "read", "written", "sent", "hops")
"""Fields of an op that are the mean over pipeline stages where one stage alone runs it."""


def bubble(group: Group) -> Value:
    """Time that a pipeline stage waits over the time that it works: (p - 1) / m, for GPipe's schedule and for 1F1B."""
    return (group.pipeline_parallel - 1) / group.micro_batches


def _over(traffic: collectives.Traffic) -> dict[str, Any]:
    """Fields of an op that is a collective among replicas."""
    return {"sent": traffic.sent, "hops": traffic.hops, "is_far": True}


def _boundary(forward: Sequence[Op]) -> Value:
    """Bytes of activations that go from layer to layer: what the first op in layers reads."""
    return next((op.read for op in forward if _is_layer(op)), 0.0)


def _product_backward(op: Op) -> tuple[Op, Op]:
    """Products for the gradients of a product's operands: activations, then weights (of which nothing is written yet)."""
    m, n, k = (None, None, None) if op.gemm is None else op.gemm
    shapes = (None, None) if m is None or n is None or k is None else ((m, k, n), (n, k, m))
    operand = replace(op, path=f"{op.path}.input", read=op.written, written=op.read, gemm=shapes[0])
    weight = replace(op, path=f"{op.path}.weight", weights=0.0, read=op.read + op.written, written=0.0, gemm=shapes[1])
    return operand, weight


def _attention_backward(op: Op) -> Iterator[Op]:
    """Fused: scores again, and gradients of queries, keys and values. Eager: a product for each operand."""
    if op.kind == "attention":
        yield replace(op, flops=2.5 * op.flops, read=op.read + 2 * op.written, written=op.read)
        return
    shape = None if op.gemm is None else (op.gemm[0], op.gemm[2], op.gemm[1])
    for operand in ("first", "second"):
        yield replace(op, path=f"{op.path}.{operand}", read=op.written + op.read / 2, written=op.read / 2, gemm=shape)


def _communication_backward(op: Op, model: _Model) -> Iterator[Op]:
    """As many all-reduces as in forward; for gathered logits, one of the gradient of the head's input."""
    if op.kind == "all_gather" and model.head is not None:
        traffic = collectives.ring_all_reduce(model.forward[model.head].read, model.group.tensor_parallel)
        path = op.path.replace("all_gather", "all_reduce")
        yield replace(op, kind="all_reduce", path=path, sent=traffic.sent, hops=traffic.hops)
    elif "embed_tokens" not in op.path:
        yield op


# Memory


def _activations(model: _Model) -> Value:
    """Peak of the activations that backward needs: at its start, with the logits, or inside the largest layer."""
    group, layers = model.group, dict[tuple[str, float], _Kept]()
    outside: Value = 0.0
    for op, size in zip(model.forward, _saved(model), strict=True):
        if not _is_layer(op):
            outside = outside + size
            continue
        kind = op.path.partition("*")[0], float(np.max(op.count))
        known = layers.get(kind, _Kept(op.count, op.read, 0.0))
        layers[kind] = replace(known, saved=known.saved + size)
    working = largest(*(_gradients_alive(op, group) for op in model.forward if _is_layer(op)))
    if model.is_recomputed:
        working = working + largest(*(one.saved for one in layers.values()))
    kept = sum((one.count * (one.entered if model.is_recomputed else one.saved) for one in layers.values()), 0.0)
    stages = group.pipeline_parallel
    kept = kept / stages * np.minimum(stages, group.micro_batches)  # 1F1B: a stage runs ahead by the stages behind it
    return kept + outside + np.maximum(model.logits, working)


@dataclass(frozen=True)
class _Kept:
    """What layers of one kind leave for backward: `count` of them, bytes that enter one, bytes that one saves."""

    count: Value
    entered: Value
    saved: Value


def _gradients_alive(op: Op, group: Group) -> Value:
    """Gradients of an op's operands and result, while its backward runs; eager softmax has them in fp32, and one cast."""
    act = group.activation_bytes
    return op.read + op.written if op.kind != "softmax" else (op.read + op.written) / act * 4 + op.written


def _saved(model: _Model) -> list[Value]:
    """Bytes that one execution of each forward op leaves for backward. A result that is read again is counted at its maker.

    As eager PyTorch does: a product keeps its input (frozen: nothing), attention its operands, keys and values repeated for
    every query head; fused attention its result and a logarithm a row; softmax its result in fp32; RMSNorm its input in
    fp32 and the normalised one (frozen: not that), LayerNorm its input; an activation its inputs and, gated, the activated
    gate. Residuals and rope keep nothing.
    """
    is_read: list[Value] = [1.0 if op.kind in ("attention", "softmax") else 0.0 for op in model.forward]
    own: list[Value] = []
    for op in model.forward:
        is_reading, size = _kept_by(op, model)
        own.append(size)
        for source in op.inputs:
            is_read[source] = np.maximum(is_read[source], is_reading)
    return [op.written * again + more for op, again, more in zip(model.forward, is_read, own, strict=True)]


def _kept_by(op: Op, model: _Model) -> tuple[Value, Value]:
    """Whether (1 or 0) an op keeps the results of the ops before it, and bytes that it keeps beside them and its result."""
    act = model.group.activation_bytes
    is_wide = np.where(act >= 4, 1.0, 0.0)  # nothing is copied to fp32
    if op.kind == "attention":
        return 1.0, 4 * op.written / act / model.llm.head_dim
    if op.kind in ATTENTION_KINDS:
        return 1.0, np.maximum(_repeated(op, act), 0.0)
    if op.kind == "experts":
        return 0.0, op.read  # tokens are copied for every expert they go to
    if _is_linear(op):
        is_adapted = model.is_adapted(op) and op.gemm is not None
        narrow = model.adapter(op)[0].written if is_adapted else 0.0
        return float(is_adapted or not model.is_frozen(op)), narrow
    copies = {"norm": op.read if op.style == "rms" else 0.0, "softmax": op.written}
    own = copies.get(op.kind, 0.0) / act * 4 * (1 - is_wide)
    if op.kind == "norm" and op.style == "rms":
        return is_wide, own + (0.0 if model.has_adapters else op.written)
    if op.kind == "activation" and op.style == "gated":
        own = op.written
    return float(op.kind in ("norm", "activation")), own


def _repeated(op: Op, act: Value) -> Value:
    """Bytes that keys (or values) of eager attention take beyond their own, repeated for every query head."""
    if op.gemm is None:
        return 0.0
    rows, wide, deep = op.gemm  # scores: rows x keys over width; values: rows x width over keys
    if op.kind == "attention_scores":
        query = rows * deep * act
        return query - (op.read - query)
    return rows * wide * act - (op.read - rows * deep * act)


def _buffers(model: _Model) -> tuple[Value, Value]:
    """Runtime, buckets and gathered weights; and what the update needs beyond them, when no activation is left."""
    group = model.group
    is_several = group.data_parallel * group.tensor_parallel * group.pipeline_parallel > 1
    buckets = np.minimum(model.trained, BUCKET) * group.gradient_bytes * (2.0 if model.zero else 1.0)
    steady = RUNTIME + np.where(is_several, COMMUNICATOR, 0.0) + np.where(group.data_parallel > 1, buckets, 0.0)
    gathered: Value = 0.0
    if model.zero == 3:
        gathered = np.minimum(model.parameters, LIVE_PARAMETERS + PREFETCHED) * model.weights / model.parameters
    return steady + gathered, np.maximum(_update_buffers(model) - gathered, 0.0)


def _instead(model: _Model, others: Value, activations: Value, update: Value) -> Value:
    """Bytes beyond the activations, beside `others`, of what comes after them: the update, or gradients freed late.

    From ZeRO-2 on gradients are freed by the stream that reduces them, later than the next ones are made: where memory
    allows, all of them are there by the end of backward, when no activation is left. Not so where ZeRO-3 fetches weights
    from the host: backward then runs at the pace of that link. Inferred from `zhang-2023-dissecting` Table III: on 80 GB,
    Z2 and Z2+O take 5.4 and 3.7 B for every parameter that 13B has more than 7B, on 24 GB devices less.
    """
    beyond = np.maximum(update - activations, 0.0)
    if model.zero < 2 or (model.zero == 3 and model.is_offloaded):
        return beyond
    late = np.maximum(model.gradients - model.gradients_held - activations, 0.0)
    spare = model.group.memory - others - activations - 1.0  # a byte against rounding
    return np.maximum(beyond, np.fmin(late, spare))


def _update_buffers(model: _Model) -> Value:
    """Bytes that an unfused Adam needs on the device: temporaries and, with master weights, gradients in fp32."""
    if model.is_offloaded:
        return 0.0
    share = model.trained * model.share(1)
    at_once = np.minimum(share, LIVE_PARAMETERS) if model.zero == 3 else share
    updated = np.where(model.master_bytes > 0, model.master_bytes, model.trained_bytes)
    return at_once * (ADAM_TEMPORARIES * updated + model.master_bytes)
