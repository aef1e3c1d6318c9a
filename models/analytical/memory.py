"""Memory of one device: weights, KV cache, logits, and what the rest leaves room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from models.analytical.inventory import Array, Group, Inventory, Op, Value, largest
from warehouse.catalog.llm import LayerKind, Llm, parameter_count


def kv_cache(llm: Llm, phase: str, group: Group) -> Value:
    """Resident KV cache, self-attention and cross-attention; none in forward and training."""
    if phase not in ("prefill", "decode", "generate"):
        return 0.0
    if llm.architecture == "encoder_decoder":
        lengths: dict[str, Value] = {"decode": group.context_tokens, "generate": group.output_tokens}
        own = lengths.get(phase, 1.0)
        return group.batch * (own + group.input_tokens) * token_bytes(llm, group) * llm.num_layers
    share = np.ceil(llm.num_layers / group.pipeline_parallel) / llm.num_layers
    held = group.context_tokens if phase == "decode" else group.input_tokens + group.prefix_tokens
    if phase == "generate":
        held = held + group.output_tokens - 1  # the last is never fed back
    tokens = sum(_held(kind, held) * kind.count for kind in llm.layer_kinds)
    return group.batch * tokens * token_bytes(llm, group) * share


def _held(kind: LayerKind, tokens: Value) -> Value:
    return tokens if kind.window is None else np.minimum(tokens, kind.window)


def token_bytes(llm: Llm, group: Group) -> Value:
    """Bytes that one token leaves in the cache of one layer of one device."""
    if llm.kv_lora_rank is not None:
        return (llm.kv_lora_rank + llm.rope_head_dim) * group.kv_bytes
    return 2 * np.maximum(llm.kv_size / group.tensor_parallel, llm.head_dim) * group.kv_bytes


def logits(llm: Llm, phase: str, group: Group) -> Value:
    """Scores over the vocabulary: of the last token of a sequence or, in forward, of all."""
    if llm.architecture == "encoder":
        return 0.0
    tokens: Value = group.batch
    if phase == "forward":
        tokens = tokens * (group.output_tokens if llm.architecture == "encoder_decoder" else group.input_tokens)
    return tokens * np.ceil(llm.vocab_size / group.tensor_parallel) * group.activation_bytes


def max_batch(group: Group, fixed: Value, growing: Value, least: Value = 0.0) -> Array:
    """Sequences that fit at these lengths, in as many micro-batches; NaN for unknown memory.

    Beside `fixed` bytes there is the larger of `growing`, those of the group's batch, and `least`, those of any.
    """
    room = group.memory - fixed
    sequences = np.floor(room / (growing / group.batch) / group.micro_batches * (1 + 1e-12)) * group.micro_batches
    return np.asarray(np.where(room < least, 0.0, np.maximum(sequences, 0.0)))


_SCORES: dict[str, Callable[[Op], Value]] = {
    "attention_scores": lambda op: op.written,
    "softmax": lambda op: op.read + op.written,
    "attention_values": lambda op: op.read,
}
"""Ops of a step that hold scores, as many as tokens are attended to: op_kind -> bytes of those."""


def max_context(llm: Llm, phase: str, group: Group, fixed: Value, inventory: Inventory) -> Array:
    """Longest cache that fits at this batch beside `fixed` bytes and activations, at most what the LLM is made for.

    Activations are those of the run; of a decode step that writes its scores, they grow with the cache.
    """
    growing = [op for op in inventory.ops if phase == "decode" and op.kind in _SCORES]
    resting: Value = inventory.activation_peak
    if growing:
        resting = largest(*(op.live for op in inventory.ops if op.kind not in _SCORES))
    tokens = _context_beside(llm, group, fixed + resting, 0.0)
    if growing:
        kind = next((kind for kind in llm.layer_kinds if kind.window is None), llm.layer_kinds[0])
        attended = _held(kind, group.context_tokens)
        for op in growing:
            scores = _SCORES[op.kind](op)
            tokens = np.minimum(tokens, _context_beside(llm, group, fixed + op.live - scores, scores / attended))
    limit = np.inf if llm.max_context_tokens is None else float(llm.max_context_tokens)
    return np.minimum(np.floor(tokens * (1 + 1e-12)), limit)


def _context_beside(llm: Llm, group: Group, others: Value, scores: Value) -> Array:
    """Tokens for which cache and `scores` bytes a token fit beside `others` bytes.

    Layers with a window stop growing at it, so the answer is one of two linear equations.
    """
    share = np.ceil(llm.num_layers / group.pipeline_parallel) / llm.num_layers
    slope = group.batch * token_bytes(llm, group) * share
    room = np.maximum(group.memory - others, 0.0)
    tokens = np.asarray(room / (slope * llm.num_layers + scores))
    windows = [kind for kind in llm.layer_kinds if kind.window is not None]
    if not windows:
        return tokens
    window = float(windows[0].window or 0)
    full = sum(kind.count for kind in llm.layer_kinds if kind.window is None)
    limited = slope * window * sum(kind.count for kind in windows)
    beyond = (room - limited) / (slope * full + scores) if full else np.full_like(tokens, np.inf)
    return np.where(tokens <= window, tokens, beyond)


def device_parameters(llm: Llm, group: Group) -> Value:
    """Parameters that the fullest device holds; all of them on one device.

    Tensor parallel divides heads, feed-forward widths and the vocabulary; what a device cannot divide (norms, router,
    latent projections, key/value heads below one a device) it holds whole. Expert parallel divides routed experts.
    Pipeline parallel: the first or last stage, with layers of the mean size.
    """
    tensor, expert = group.tensor_parallel, group.expert_parallel
    stages = group.pipeline_parallel
    whole = float(parameter_count(llm))
    if llm.architecture == "encoder_decoder" or llm.bottleneck_size is not None:
        kinds: tuple[LayerKind, ...] = (LayerKind(llm.num_layers),)
    else:
        kinds = llm.layer_kinds
    layers: Value = 0.0
    inside = 0.0
    for kind in kinds:
        one = layer_parameters(llm, kind)
        inside += one * kind.count
        layers = layers + kind.count * _divided(llm, kind, one, tensor, expert)
    tables = float(llm.vocab_size * llm.embedding_size) * (1 if llm.is_embedding_tied else 2)
    rest = whole - inside - tables
    layers_here = np.ceil(llm.num_layers / stages) / llm.num_layers
    ends = np.where(stages > 1, float(llm.vocab_size * llm.embedding_size), tables)
    is_whole = (tensor == 1) & (stages == 1) & (expert == 1)
    return np.where(is_whole, whole, layers_here * layers + rest + np.ceil(ends / tensor))


def layer_parameters(llm: Llm, kind: LayerKind) -> float:
    """Parameters of one layer of a kind."""
    more = replace(kind, count=1)
    longer = replace(llm, num_layers=llm.num_layers + 1, layer_kinds=(*llm.layer_kinds, more))
    return float(parameter_count(longer) - parameter_count(llm))


def _divided(llm: Llm, kind: LayerKind, whole: float, tensor: Value, expert: Value) -> Value:
    """Parameters of one layer on one device."""
    hidden = float(llm.hidden_size)
    up = 3.0 if llm.is_gated_mlp else 2.0
    if llm.kv_lora_rank is not None:
        value = llm.value_head_dim or llm.head_dim
        nope = llm.head_dim - llm.rope_head_dim
        from_width = hidden if llm.query_lora_rank is None else float(llm.query_lora_rank)
        heads = llm.num_heads * (from_width * llm.head_dim + llm.kv_lora_rank * (nope + value) + value * hidden)
        keys = 0.0
    else:
        heads = (2.0 * hidden + llm.has_attention_bias) * llm.attention_size
        keys = 2.0 * (hidden + llm.has_attention_bias) * llm.kv_size
    keys_share = np.maximum(1 / tensor, 1 / llm.num_kv_heads)
    if kind.is_moe:
        routed = (up * hidden + (up - 1) * llm.has_expert_bias) * llm.expert_size * llm.num_experts
        closing = float(hidden * llm.num_experts * llm.has_expert_bias)  # the last bias is as wide as the model
        dense = up * hidden * llm.shared_expert_size
    else:
        routed, closing, dense = 0.0, 0.0, (up * hidden + (up - 1) * llm.has_mlp_bias) * llm.intermediate_size
    replicated = whole - heads - keys - routed - closing - dense
    divided = heads / tensor + keys * keys_share + dense / tensor + routed / np.maximum(tensor, expert)
    return replicated + divided + closing / expert
