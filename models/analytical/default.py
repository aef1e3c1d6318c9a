"""The ruleset `default`: every op that an execution needs, counted once and right.

Conventions. FLOPs: 2 per multiply-add; norm 4 (RMS) or 7 per element; softmax 5 per score; rope 3 per rotated element.
Bytes: every op reads its operands from device memory and writes its result; a fused attention kernel reads queries, keys
and values once and writes its output only. Eager attention computes all scores; a fused kernel leaves out those that the
causal mask (or a sliding window) drops. `prefill` and `decode` keep keys and values in the cache and project the last token
only; `forward` has no cache and projects every token. All weights have the weight dtype; products run on the matrix units in
the wider of their operands' dtypes, all else on the vector units where their peak is known.

Sizes are per device. Tensor parallel as Megatron does it: heads, feed-forward width and vocabulary are divided, a layer
all-reduces twice (once where attention and MLP run side by side), in a ring: 2 (N-1)/N of the payload over every link.
Expert parallel: routed experts are divided among expert_parallel of the tensor x data parallel devices; beyond one replica's
tokens travel all-to-all, twice a layer. Pipeline parallel: contiguous stages; one micro-batch passes stage after stage (a
layer split), m of them overlap and leave a bubble of (p - 1) / (m + p - 1); memory is that of the fullest stage.
Weights narrower than the products' dtype are widened on the vector units while the products run (op kind `dequantize`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.analytical import memory, stacks, stepping
from models.analytical.inventory import Array, Group, Inventory, Op, Value, largest
from models.analytical.trace import Span, Trace
from warehouse.catalog.llm import Llm

PHASES = ("forward", "prefill", "decode", "generate")
Options = frozenset[str]


def refuse(llm: Llm, phase: str) -> str | None:
    """Why an LLM and a phase have no closed form here."""
    if phase not in PHASES:
        return f"phase '{phase}' is not modelled. Known: {', '.join(PHASES)}, pretrain_step, finetune_step."
    if llm.architecture == "encoder" and phase != "forward":
        return f"an encoder has no {phase}: it has forward."
    return None


def impossible(llm: Llm, group: Group) -> list[tuple[Any, str]]:
    """Parallel degrees that an LLM cannot be divided by: (mask, sentence) pairs."""
    tensor, pipeline, expert = group.tensor_parallel, group.pipeline_parallel, group.expert_parallel
    name, heads, kv_heads = llm.llm_id, llm.num_heads, llm.num_kv_heads
    is_special = llm.architecture != "decoder"
    rules: list[tuple[Any, str]] = [
        (
            heads % tensor != 0,
            f"tensor_parallel must divide the {heads} attention heads of {name}: {_divisors(heads)}.",
        ),
        (pipeline > llm.num_layers, f"pipeline_parallel is more than the {llm.num_layers} layers of {name}."),
        ((pipeline > 1) & is_special, f"pipeline parallelism of an {llm.architecture} is not modelled."),
        ((tensor > 1) & (llm.bottleneck_size is not None), "tensor parallelism of a bottleneck layer is not modelled."),
        (group.batch % group.micro_batches != 0, "num_micro_batches must divide batch_size."),
    ]
    if llm.kv_lora_rank is None:
        is_replicable = (kv_heads % tensor != 0) & (tensor % kv_heads != 0)
        rules.append(
            (is_replicable, f"tensor_parallel neither divides nor replicates the {kv_heads} key/value heads of {name}.")
        )
    if any(not kind.is_moe for kind in llm.layer_kinds):
        width = llm.intermediate_size
        rules.append((width % tensor != 0, f"tensor_parallel does not divide the MLP width {width} of {name}."))
    if not llm.num_experts:
        return [*rules, (expert > 1, f"expert_parallel needs routed experts, which {name} has not.")]
    shards = np.maximum(1.0, tensor / expert)
    return [
        *rules,
        (
            llm.num_experts % expert != 0,
            f"expert_parallel must divide the {llm.num_experts} experts of {name}: {_divisors(llm.num_experts)}.",
        ),
        (
            (expert % tensor != 0) & (tensor % expert != 0),
            "expert_parallel must divide tensor_parallel or be a multiple.",
        ),
        (
            expert > tensor * group.data_parallel,
            "expert_parallel is more than tensor_parallel x data_parallel, the devices that share experts.",
        ),
        (
            llm.expert_size % shards != 0,
            f"tensor_parallel does not divide the expert width {llm.expert_size} of {name}.",
        ),
    ]


def _divisors(number: int) -> str:
    known = [str(one) for one in range(1, number + 1) if number % one == 0]
    return ", ".join(known)


def longest(llm: Llm, phase: str, sizes: Mapping[str, Array]) -> Array:
    """Tokens of the longest sequence that any stack of an LLM sees; of `sizes` only the lengths of the phase are read."""
    if llm.architecture == "encoder_decoder":
        names = {"prefill": ("input_tokens",), "decode": ("input_tokens", "context_tokens")}
        return np.asarray(largest(*(sizes[name] for name in names.get(phase, ("input_tokens", "output_tokens")))))
    if phase == "generate":
        return sizes["input_tokens"] + sizes["output_tokens"] - 1  # the last token is never fed back
    return sizes["context_tokens" if phase == "decode" else "input_tokens"]


def last_position(llm: Llm) -> int | None:
    """Tokens that no sequence of an LLM can exceed; None where positions are biases computed for any length."""
    return llm.max_context_tokens if llm.position in ("learned", "rope") else None


def inventory(
    llm: Llm, phase: str, group: Group, *, is_fused: bool, is_dequantized: bool = False, options: Options = frozenset()
) -> Inventory:
    """Ops and memory of a group of configurations of one LLM and phase. `options`: names of optimizations."""
    run = Run(llm, is_fused, is_dequantized)
    part = group
    if np.any(group.micro_batches > 1):
        part = replace(group, batch=group.batch / group.micro_batches)
    ops = {"prefill": _prefill, "generate": _generate}.get(phase, _once(phase))(run, part)
    if part is not group:
        ops = [replace(op, count=op.count * group.micro_batches) for op in ops]
    weights = memory.device_parameters(llm, group) * group.weight_bytes
    if "offload" in options:
        ops = _streamed(ops, phase, group, weights)
        weights = weights * np.minimum(1.0, _STREAMED_LAYERS / llm.num_layers)
    return Inventory(
        ops=tuple(ops),
        weights=weights,
        kv_cache=memory.kv_cache(llm, phase, group),
        activation_peak=largest(*(op.live for op in ops)),
        logits=memory.logits(llm, phase, part),
        passes=_passes(phase, group),
    )


def _passes(phase: str, group: Group) -> Value:
    chunks: Value = 1.0
    if phase in ("prefill", "generate") and np.any(np.isfinite(group.chunk_tokens)):
        chunks = np.ceil(group.input_tokens / np.minimum(group.chunk_tokens, group.input_tokens))
    steps = group.output_tokens - 1 if phase == "generate" else 0.0
    return (chunks + steps) * group.micro_batches


_STREAMED_LAYERS = 2.0
"""Layers resident while weights are streamed: one that runs, one that arrives."""


def _once(phase: str) -> Callable[[Run, Group], list[Op]]:
    return lambda run, group: run(phase, group)


def _streamed(ops: list[Op], phase: str, group: Group, weights: Value) -> list[Op]:
    """Every pass fetches all weights from host memory while it computes (as ZeRO-Inference does)."""
    passes = _passes(phase, group)
    compute, stored, sent = (sum(sides) for sides in zip(*(group.sides(op) for op in ops), strict=True))
    turns = np.where(group.micro_batches > 1, group.pipeline_parallel, 1.0)  # stages at work side by side share a pass
    stream = Op(
        kind="memcpy_h2d", path="weights.stream", phase=phase, count=passes, over_host=weights * turns,
        beside=tuple(range(len(ops))), hidden=(compute + stored + sent) / passes,
        hidden_memory=stored / passes, hidden_link=sent / passes,
    )  # fmt: skip
    return [*ops, stream]


# Executions


def execute(llm: Llm, phase: str, group: Group, *, is_fused: bool, is_dequantized: bool = False) -> list[Op]:
    """Ops of one pass: the whole input (forward, prefill) or one token against a cache (decode)."""
    trace = Trace(llm, phase, group, is_fused, is_dequantized)
    if llm.architecture == "encoder_decoder":
        stacks.encoder_decoder(trace)
    elif llm.architecture == "encoder":
        stacks.encoder(trace, "", llm.num_layers)
        stacks.pooler(trace)
    elif phase == "decode":
        stacks.decoder(trace, Span(group.batch, 1.0, group.context_tokens, is_causal=True, is_cached=True))
    else:
        keys = group.input_tokens + group.prefix_tokens if phase == "prefill" else group.input_tokens
        span = Span(group.batch, group.input_tokens, keys, is_causal=True, is_cached=phase != "forward")
        stacks.decoder(trace, span)
    trace.dequantize("lm_head.dequantize")
    return trace.ops


def _prefill(run: Run, group: Group) -> list[Op]:
    """A prompt, whole or chunk by chunk: every chunk reads the weights and what the chunks before it left in the cache."""
    chunk = np.minimum(group.chunk_tokens, group.input_tokens)
    whole = np.ceil(group.input_tokens / chunk) - 1  # chunks before the last
    if not np.any(whole > 0):
        return run("prefill", group)
    last = replace(
        group, input_tokens=group.input_tokens - whole * chunk, prefix_tokens=group.prefix_tokens + whole * chunk
    )
    ops = run("prefill", last)

    def step(past: Array) -> list[Op]:
        ops = run("prefill", replace(group, input_tokens=chunk, prefix_tokens=past))
        return [op for op in ops if not op.path.startswith("lm_head")]  # only the last chunk gives a token

    segments = _chunk_segments(run.llm, group.prefix_tokens, chunk, whole)
    earlier = stepping.steps(step, group, segments, index=0)
    ops = [op.moved(len(earlier)) for op in ops]
    return [*earlier, *(replace(op, path=f"last_chunk.{op.path}") for op in ops)]


def _chunk_segments(llm: Llm, before: Value, chunk: Array, whole: Array) -> list[stepping.Segment]:
    """Runs of chunks over which work is affine in what came before: a window is met by one chunk in between."""
    window = _window(llm)
    prefix = np.broadcast_to(before, whole.shape)
    ends = prefix + chunk * (whole - 1)
    if not np.isfinite(window):
        return [stepping.Segment(prefix, ends, whole)]
    inside = np.clip(np.floor((window - prefix) / chunk), 0, whole)  # chunks that end within the window
    past = np.clip(np.ceil((window - prefix) / chunk), 0, whole)  # the first chunk that starts beyond it
    low = stepping.Segment(prefix, prefix + chunk * np.maximum(inside - 1, 0), inside)
    between = stepping.Segment(prefix + chunk * inside, prefix + chunk * inside, past - inside)
    return [
        low,
        between,
        stepping.Segment(prefix + chunk * past, np.maximum(ends, prefix + chunk * past), whole - past),
    ]


def _generate(run: Run, group: Group) -> list[Op]:
    """A prefill, which gives the first token, then a decode step for every further one, summed in closed form."""
    ops = _prefill(run, group)
    prompt = 1.0 if run.llm.architecture == "encoder_decoder" else group.input_tokens + group.prefix_tokens
    count = group.output_tokens - 1.0
    first = np.broadcast_to(prompt + 1.0, count.shape).astype(np.float64)
    last = first + np.maximum(count, 1.0) - 1.0

    def step(context: Array) -> list[Op]:
        return run("decode", replace(group, context_tokens=context))

    segments = [stepping.Segment(first, last, count)]
    window = _window(run.llm)
    if np.isfinite(window):
        turn = np.clip(np.floor(window), first, last)
        low = np.where((count > 0) & (first <= window), turn - first + 1, 0.0)
        start = np.where(first > window, first, np.minimum(turn + 1, last))
        segments = [stepping.Segment(first, turn, low), stepping.Segment(start, last, count - low)]
    return ops + stepping.steps(step, group, segments, index=len(ops))


def _window(llm: Llm) -> float:
    """Tokens at which the cost of a step stops being affine: the sliding window, infinite without one."""
    windows = {kind.window for kind in llm.layer_kinds if kind.window is not None}
    return float(windows.pop()) if windows else np.inf


@dataclass(frozen=True)
class Run:
    """How one LLM is executed."""

    llm: Llm
    is_fused: bool
    is_dequantized: bool

    def __call__(self, phase: str, group: Group) -> list[Op]:
        """Ops of one pass of a phase."""
        return execute(self.llm, phase, group, is_fused=self.is_fused, is_dequantized=self.is_dequantized)
