"""Blocks of a layer: attention and feed-forward networks. Each returns the op that gives its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.analytical import collectives
from models.analytical.inventory import Array, Value
from models.analytical.trace import Span, Trace, join
from warehouse.catalog.llm import Llm

FUSED_QKV = ("bloom", "gpt2", "gpt_neox", "falcon", "chatglm", "phi3", "qwen", "internlm2", "baichuan")
"""model_types whose queries, keys and values come from one product."""

_ACTIVATION_FLOPS = {"relu": 1.0, "silu": 5.0, "gelu": 8.0}
"""FLOPs per element by the function's family; one more for the product with the gate."""


def self_attention(trace: Trace, path: str, span: Span, normed: int) -> int:
    """Projections, rope, attention, output projection; returns the op that gives its output (before any all-reduce)."""
    llm, devices = trace.llm, trace.group.tensor_parallel
    hidden, tokens = float(llm.hidden_size), span.tokens
    query, key = llm.attention_size / devices, np.maximum(llm.kv_size / devices, llm.head_dim)
    waiting = trace.bytes(tokens * hidden)
    is_rotated = llm.position == "rope"
    cached = tokens * key if span.is_cached else 0.0
    cached_keys: Value = 0.0 if is_rotated else cached
    kept = trace.bytes(tokens * (query + 2 * key) - cached - cached_keys)
    live = 2 * waiting + kept
    bias = llm.has_attention_bias
    if llm.model_type in FUSED_QKV:
        fused = trace.linear(
            "qkv_proj", join(path, "qkv_proj"), [normed], tokens, (hidden, query + 2 * key),
            has_bias=bias, live=live, to_cache=cached + cached_keys,
        )  # fmt: skip
        heads = [fused, fused, fused]
    else:
        heads = [
            trace.linear(
                name,
                join(path, name),
                [normed],
                tokens,
                (hidden, width),
                has_bias=bias,
                live=live,
                to_cache=to_cache,
            )
            for name, width, to_cache in (("q_proj", query, 0.0), ("k_proj", key, cached_keys), ("v_proj", key, cached))
        ]
    live = waiting + kept
    if llm.has_qk_norm:
        widths = (llm.attention_size, llm.kv_size) if llm.is_qk_norm_wide else (llm.head_dim, llm.head_dim)
        heads = [
            trace.norm(join(path, name), [head], tokens * width, scales, live=live + trace.bytes(tokens * width))
            for name, head, width, scales in zip(("q_norm", "k_norm"), heads[:2], (query, key), widths, strict=True)
        ] + heads[2:]
    if is_rotated:
        turned = trace.add(
            "rope", join(path, "rope"), heads[:2], live=live + trace.bytes(tokens * (query + key)),
            flops=3 * tokens * (query + key) * _rotated_share(llm),
            read=trace.bytes(tokens * (query + key)), written=trace.bytes(tokens * (query + key) - cached),
            kv_written=cached * trace.group.kv_bytes,
        )  # fmt: skip
        heads = [turned, turned, heads[2]]
        live = live - trace.bytes(cached)
    attended = attention(trace, path, span, heads, (query, key), waiting=live)
    return output(trace, path, attended, tokens, query)


def cross_attention(trace: Trace, path: str, span: Span, last: int, source: int) -> int:
    """Attention of decoder tokens to the encoder's output, with its norm and residual. Decode finds keys and values cached."""
    llm, devices = trace.llm, trace.group.tensor_parallel
    hidden, tokens = float(llm.hidden_size), span.tokens
    elements = tokens * hidden
    query, key = llm.attention_size / devices, llm.kv_size / devices
    waiting = trace.bytes(elements)
    bias = llm.has_attention_bias
    normed = trace.norm(join(path, "norm"), [last], elements, llm.hidden_size, live=2 * waiting)
    kept: Value = trace.bytes(tokens * query)
    queries = trace.linear(
        "q_proj", join(path, "q_proj"), [normed], tokens, (hidden, query), has_bias=bias, live=2 * waiting + kept
    )
    heads = [queries, queries, queries]
    if trace.phase != "decode":
        memory = span.batch * span.keys
        cached = memory * key if span.is_cached else 0.0
        kept = kept + 2 * trace.bytes(memory * key - cached)
        heads[1:] = [
            trace.linear(
                name, join(path, name), [source], memory, (hidden, key),
                has_bias=bias, live=waiting + kept, to_cache=cached,
            )
            for name in ("k_proj", "v_proj")
        ]  # fmt: skip
    attended = attention(trace, path, span, heads, (query, key), waiting=waiting + kept)
    attended = output(trace, path, attended, tokens, query)
    attended = trace.all_reduce(join(path, "all_reduce"), [attended], elements)
    return trace.residual(join(path, "residual_add"), [last, attended], elements)


def output(trace: Trace, path: str, attended: int, tokens: Array, query: Value) -> int:
    hidden = float(trace.llm.hidden_size)
    return trace.linear(
        "o_proj", join(path, "o_proj"), [attended], tokens, (query, hidden),
        has_bias=trace.llm.has_output_bias, live=trace.bytes(tokens * (2 * hidden + query)),
    )  # fmt: skip


def attention(
    trace: Trace, path: str, span: Span, heads: Sequence[int], widths: tuple[Value, Value], *, waiting: Value
) -> int:
    """Scores, softmax, values: one kernel that keeps the scores on chip, or three that write them."""
    (query, key), width = widths, trace.llm.head_dim
    num_heads = query / width
    operand = span.batch * span.attended * key  # elements of all keys, or of all values
    from_cache, from_memory = (operand * trace.group.kv_bytes, 0.0) if span.is_cached else (0.0, trace.bytes(operand))
    given = trace.bytes(span.tokens * query)
    if trace.is_fused:
        pairs = span.batch * num_heads * span.pairs
        return trace.add(
            "attention", join(path, "attention"), heads, live=waiting + given,
            flops=4 * pairs * width + 5 * pairs,
            read=given + 2 * from_memory, written=given, kv_read=2 * from_cache, is_matrix=True,
        )  # fmt: skip
    pairs = span.batch * num_heads * span.queries * span.attended
    scores = trace.bytes(pairs)
    depth = (float(width), span.attended)
    product = {"flops": 2 * pairs * width, "kv_read": from_cache, "is_matrix": True}
    rows = span.tokens * num_heads
    scored = trace.add(
        "attention_scores", join(path, "scores"), heads[:2], live=waiting + scores,
        read=given + from_memory, written=scores, gemm=(rows, depth[1], depth[0]), **product,
    )  # fmt: skip
    weighed = trace.add(
        "softmax", join(path, "softmax"), [scored], live=waiting + 2 * scores,
        flops=5 * pairs, read=scores, written=scores,
    )  # fmt: skip
    return trace.add(
        "attention_values", join(path, "values"), [weighed, heads[2]], live=waiting + scores + given,
        read=scores + from_memory, written=given, gemm=(rows, depth[0], depth[1]), **product,
    )  # fmt: skip


def mlp(trace: Trace, path: str, tokens: Array, normed: int, *, waiting: float, size: int | None = None) -> int:
    """Up (and gate), activation, down. `waiting`: hidden-wide tensors kept for the residual; `size`: another width."""
    llm = trace.llm
    whole = llm.intermediate_size if size is None else size
    hidden, width = float(llm.hidden_size), whole / trace.group.tensor_parallel
    base = trace.bytes(tokens * hidden * waiting)
    inner = trace.bytes(tokens * width)
    names = ("gate_proj", "up_proj") if llm.is_gated_mlp else ("up_proj",)
    live = base + trace.bytes(tokens * hidden) + len(names) * inner
    wide = [
        trace.linear(name, join(path, name), [normed], tokens, (hidden, width), has_bias=llm.has_mlp_bias, live=live)
        for name in names
    ]
    live = base + (len(names) + 1) * inner
    last = activation(trace, join(path, "activation"), wide, tokens * width, is_gated=llm.is_gated_mlp, live=live)
    live = base + inner + trace.bytes(tokens * hidden)
    return trace.linear(
        "down_proj", join(path, "down_proj"), [last], tokens, (width, hidden), has_bias=llm.has_mlp_bias, live=live
    )


def moe(trace: Trace, path: str, tokens: Array, normed: int, *, waiting: float) -> int:
    """Router, the routed experts that the tokens meet, shared experts; without the closing all-reduce.

    `tokens` spread evenly: a device's E / ep experts are met by expected (E / ep) (1 - (1 - k / E)^T) of T tokens.
    """
    llm, group = trace.llm, trace.group
    hidden, experts = float(llm.hidden_size), float(llm.num_experts)
    replicas = np.maximum(1.0, group.expert_parallel / group.tensor_parallel)
    shards = np.maximum(1.0, group.tensor_parallel / group.expert_parallel)
    met = tokens * replicas
    share = llm.experts_per_token / experts
    distinct = experts / group.expert_parallel
    if share < 1:
        distinct = distinct * -np.expm1(met * np.log1p(-share))
    pairs = met * llm.experts_per_token / group.expert_parallel
    width = llm.expert_size / shards
    base = trace.bytes(tokens * hidden * waiting)
    live = base + trace.bytes(tokens * hidden + pairs * (2 * hidden + 3 * width))
    routed = trace.linear(
        "router", join(path, "router"), [normed], tokens, (hidden, experts), has_bias=llm.has_router_bias, live=live
    )
    arrived = _exchange(trace, join(path, "dispatch"), routed, tokens, live)
    up = 2.0 if llm.is_gated_mlp else 1.0
    wide = trace.linear(
        "experts", join(path, "experts.up_proj"), [arrived, normed], pairs, (hidden, up * width),
        has_bias=llm.has_expert_bias, live=live, copies=distinct,
    )  # fmt: skip
    last = activation(
        trace, join(path, "experts.activation"), [wide], pairs * width, is_gated=llm.is_gated_mlp, live=live
    )
    last = trace.linear(
        "experts", join(path, "experts.down_proj"), [last], pairs, (width, hidden),
        has_bias=llm.has_expert_bias, live=live, copies=distinct,
    )  # fmt: skip
    last = _exchange(trace, join(path, "combine"), last, tokens, live)
    elements = tokens * hidden
    last = trace.add(
        "elementwise", join(path, "experts.weighted_sum"), [last, routed], live=live,
        flops=2 * elements * llm.experts_per_token,
        read=trace.bytes(elements * llm.experts_per_token), written=trace.bytes(elements),
    )  # fmt: skip
    if not llm.shared_expert_size:
        return last
    shared = mlp(
        trace, join(path, "shared_experts"), tokens, normed, waiting=waiting + 1.0, size=llm.shared_expert_size
    )
    if llm.has_shared_expert_gate:
        gate = trace.linear(
            "other", join(path, "shared_experts.gate"), [normed], tokens, (hidden, 1.0), has_bias=False, live=live
        )
        shared = trace.add(
            "elementwise", join(path, "shared_experts.gated"), [shared, gate], live=live,
            flops=elements, read=trace.bytes(elements + tokens), written=trace.bytes(elements),
        )  # fmt: skip
    return trace.residual(join(path, "shared_add"), [last, shared], elements)


def _exchange(trace: Trace, path: str, last: int, tokens: Array, live: Value) -> int:
    """Tokens to the devices of their experts, or back; nothing where every device of a replica sees all its tokens."""
    group = trace.group
    is_spread = group.expert_parallel > group.tensor_parallel
    if not np.any(is_spread):
        return last
    payload = trace.bytes(tokens * trace.llm.hidden_size * trace.llm.experts_per_token / group.tensor_parallel)
    devices = np.where(is_spread, group.expert_parallel, 1.0)
    return trace.collective("all_to_all", path, [last], collectives.all_to_all(payload, devices), live=live)


def activation(trace: Trace, path: str, after: Sequence[int], elements: Value, *, is_gated: bool, live: Value) -> int:
    flops = _activation_flops(trace.llm) + (1.0 if is_gated else 0.0)
    return trace.add(
        "activation", path, after, live=live, style="gated" if is_gated else _activation_style(trace.llm),
        flops=flops * elements, read=trace.bytes((2 if is_gated else 1) * elements), written=trace.bytes(elements),
    )  # fmt: skip


def _activation_style(llm: Llm) -> str:
    """`gelu_new` is GELU written out in Python step by step; every other function is one kernel."""
    return "composed" if _activation_name(llm) == "gelu_new" else ""


def _activation_name(llm: Llm) -> str:
    keys = ("hidden_act", "activation_function", "activation", "feed_forward_proj")
    return next((str(llm.config[key]) for key in keys if llm.config.get(key)), "gelu")


def _activation_flops(llm: Llm) -> float:
    if llm.model_type == "chatglm":
        return _ACTIVATION_FLOPS["silu"]
    name = _activation_name(llm)
    return next((flops for part, flops in _ACTIVATION_FLOPS.items() if part in name), _ACTIVATION_FLOPS["gelu"])


def _rotated_share(llm: Llm) -> float:
    """Part of a head that rope turns."""
    config = llm.config
    if config.get("rotary_dim") is not None:
        return float(config["rotary_dim"]) / llm.head_dim
    share = config.get("partial_rotary_factor", config.get("rotary_pct"))
    return _ROTATED_SHARES.get(llm.model_type, 1.0) if share is None else float(share)


_ROTATED_SHARES = {
    "chatglm": 0.5,
    "glm": 0.5,
    "glm4": 0.5,
    "glm4_moe": 0.5,
    "stablelm": 0.25,
    "phi": 0.5,
    "gpt_neox": 0.25,
}
"""Part of a head that rope turns where a config.json leaves it to Hugging Face."""
