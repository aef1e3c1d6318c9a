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

from models.analytical import collectives, training_memory
from models.analytical.inventory import ATTENTION_KINDS, Group, Inventory, Op, Value
from models.analytical.training_model import (
    Model,
    has_adapters,
    has_quantized_base,
    is_communication,
    is_layer,
    is_linear,
    sum_of,
    zero_stage,
)
from warehouse.catalog.llm import Llm

PHASES = ("pretrain_step", "finetune_step")

OPTIONS = ("zero1", "zero2", "zero3", "offload", "recompute", "flash", "lora", "qlora", "quantized")
"""Optimizations that change a step. `flash` is told by the attention column; here it changes nothing."""

ADAM_FLOPS = 14.0
"""FLOPs of AdamW per parameter: decay 1, first moment 3, second moment 4, root, bias correction and epsilon 3, update 3."""

REDUCED_AGAIN = 2.0
"""Bytes that DeepSpeed's ZeRO-1 and 2 send for gradients over those of a reduce-scatter: buckets of all ranks are all-reduced
(use_multi_rank_bucket_allreduce, on by default), and not beside backward (overlap_comm, off by default below stage 3)."""

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
            "offload" in options and not zero_stage(options),
            "offload needs zero1, zero2 or zero3: without ZeRO the optimizer has no share to offload.",
        ),
        (
            phase == "pretrain_step" and has_adapters(options),
            "adapters are not pre-trained: lora and qlora are for finetune_step.",
        ),
        (
            llm.num_experts > 0 and has_quantized_base(options),
            "quantized training of a mixture of experts is not modelled.",
        ),
    )
    return next((sentence for is_refused, sentence in rules if is_refused), None)


def impossible(llm: Llm, group: Group, options: frozenset[str]) -> list[tuple[Any, str]]:
    """Sizes that a step cannot have: (mask, sentence) pairs. Those of `default.impossible` hold as well."""
    is_narrow, is_wide = group.weight_bytes < 1, group.weight_bytes > 1
    is_quantized = has_quantized_base(options)
    ranks = group.lora_rank if has_adapters(options) else 1.0
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
    model = Model(llm, group, options, is_fused)
    ops = _Step(model).run()
    weights, gradients, optimizer = model.weights_held, model.gradients_held, model.optimizer_held
    activations = training_memory.activation_peak(model)
    steady, update = training_memory.buffers(model)
    others = weights + gradients + optimizer + steady
    return Inventory(
        ops=ops,
        weights=weights,
        kv_cache=np.zeros_like(group.batch),
        activation_peak=activations,
        logits=model.logits,
        gradients=gradients,
        optimizer=optimizer,
        workspace=steady + training_memory.after_backward(model, others, activations, update),
        steady=steady,
        update=update,
    )


# Ops


class _Step:
    """The ops of one step of one device, in order."""

    def __init__(self, model: Model) -> None:
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
        if is_layer(op):
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
            if is_due and is_layer(self.forward[index]):
                layers = [number for number, op in enumerate(self.forward) if is_layer(op)]
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
        elif is_linear(op):
            yield from self._linear_backward(op)
        elif is_communication(op):
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
            yield sum_of(f"{op.path}.lora_add", op, op.read / act, act, flops=1.0)

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
        buckets = np.ceil(model.trained / training_memory.BUCKET)
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
    return next((op.read for op in forward if is_layer(op)), 0.0)


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


def _communication_backward(op: Op, model: Model) -> Iterator[Op]:
    """As many all-reduces as in forward; for gathered logits, one of the gradient of the head's input."""
    if op.kind == "all_gather" and model.head is not None:
        traffic = collectives.ring_all_reduce(model.forward[model.head].read, model.group.tensor_parallel)
        path = op.path.replace("all_gather", "all_reduce")
        yield replace(op, kind="all_reduce", path=path, sent=traffic.sent, hops=traffic.hops)
    elif "embed_tokens" not in op.path:
        yield op
