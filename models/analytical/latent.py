"""Latent attention (MLA, DeepSeek V2 and later): keys and values are one compressed vector a token, shared by all heads.

A prompt expands the latent to keys and values of every head. A decode step never does: what would expand the keys is
multiplied into the queries, what would expand the values into the result, and attention runs over the latents themselves.
Tensor parallel divides heads; every device holds the whole latent.
"""

from __future__ import annotations

from dataclasses import replace

from models.analytical import blocks
from models.analytical.inventory import Value
from models.analytical.trace import Span, Trace, join


def cached_width(trace: Trace) -> float:
    """Elements that the cache holds of one token and layer."""
    llm = trace.llm
    assert llm.kv_lora_rank is not None  # noqa: S101 - the caller asks
    return float(llm.kv_lora_rank + llm.rope_head_dim)


def self_attention(trace: Trace, path: str, span: Span, normed: int) -> int:
    """Compression, expansion or absorption, rope, attention, output projection."""
    llm, tokens = trace.llm, span.tokens
    heads = llm.num_heads / trace.group.tensor_parallel
    hidden, latent = float(llm.hidden_size), cached_width(trace)
    query = heads * llm.head_dim
    waiting = trace.bytes(tokens * hidden)
    live = 2 * waiting + trace.bytes(tokens * (query + latent))
    queries = _queries(trace, path, span, normed, query, live)
    cached = tokens * latent if span.is_cached else 0.0
    compressed = trace.linear(
        "k_proj", join(path, "kv_a_proj"), [normed], tokens, (hidden, latent), has_bias=False, live=live
    )
    rank = float(llm.kv_lora_rank or 0)
    compressed = trace.norm(join(path, "kv_a_norm"), [compressed], tokens * rank, int(rank), live=live)
    turned = tokens * (heads + 1) * llm.rope_head_dim
    roped = trace.add(
        "rope", join(path, "rope"), [queries, compressed], live=live,
        flops=3 * turned, read=trace.bytes(turned), written=trace.bytes(turned),
        kv_written=cached * trace.group.kv_bytes,
    )  # fmt: skip
    value = float(llm.value_head_dim or llm.head_dim)
    if span.is_step and span.is_cached:
        attended = _absorbed(trace, path, span, roped, heads, value, live)
    else:
        attended = _expanded(trace, path, span, roped, heads, value, live)
    return blocks.output(trace, path, attended, tokens, heads * value)


def _queries(trace: Trace, path: str, span: Span, normed: int, query: Value, live: Value) -> int:
    """Queries of all heads, through their own compression where the LLM has one."""
    llm, tokens, hidden = trace.llm, span.tokens, float(trace.llm.hidden_size)
    if llm.query_lora_rank is None:
        return trace.linear(
            "q_proj", join(path, "q_proj"), [normed], tokens, (hidden, query), has_bias=False, live=live
        )
    rank = float(llm.query_lora_rank)
    down = trace.linear("q_proj", join(path, "q_a_proj"), [normed], tokens, (hidden, rank), has_bias=False, live=live)
    down = trace.norm(join(path, "q_a_norm"), [down], tokens * rank, llm.query_lora_rank, live=live)
    return trace.linear("q_proj", join(path, "q_b_proj"), [down], tokens, (rank, query), has_bias=False, live=live)


def _expanded(trace: Trace, path: str, span: Span, roped: int, heads: Value, value: float, live: Value) -> int:
    """Keys and values of every head, of the cached prefix too, then ordinary attention over them."""
    llm = trace.llm
    rank = float(llm.kv_lora_rank or 0)
    memory = span.batch * span.keys
    nope = float(llm.head_dim - llm.rope_head_dim)
    expanded = trace.bytes(memory * heads * (llm.head_dim + value))
    wide = trace.linear(
        "v_proj", join(path, "kv_b_proj"), [roped], memory, (rank, heads * (nope + value)), has_bias=False,
        live=live + expanded,
    )  # fmt: skip
    if span.is_cached:
        cache = memory * cached_width(trace) * trace.group.kv_bytes
        trace.ops[wide] = replace(trace.ops[wide], read=0.0, kv_read=cache)
    return _products(
        trace, path, span, [roped, wide], heads, (float(llm.head_dim), value), live=live + expanded,
        keys=trace.bytes(memory * heads * llm.head_dim), values=trace.bytes(memory * heads * value), is_cache=False,
    )  # fmt: skip


def _absorbed(trace: Trace, path: str, span: Span, roped: int, heads: Value, value: float, live: Value) -> int:
    """One query a sequence over the latents of the cache."""
    llm, tokens = trace.llm, span.tokens
    rank, latent = float(llm.kv_lora_rank or 0), cached_width(trace)
    nope = float(llm.head_dim - llm.rope_head_dim)
    live = live + trace.bytes(tokens * heads * 2 * latent)
    queries = trace.linear(
        "k_proj", join(path, "absorb_k"), [roped], tokens * heads, (nope, rank), has_bias=False, live=live, copies=heads
    )
    cache = span.batch * span.attended * latent * trace.group.kv_bytes
    attended = _products(
        trace, path, span, [queries], heads, (latent, rank), live=live, keys=cache, values=0.0, is_cache=True
    )
    return trace.linear(
        "v_proj", join(path, "absorb_v"), [attended], tokens * heads, (rank, value), has_bias=False, live=live,
        copies=heads,
    )  # fmt: skip


def _products(
    trace: Trace, path: str, span: Span, after: list[int], heads: Value, widths: tuple[float, float], *,
    live: Value, keys: Value, values: Value, is_cache: bool,
) -> int:  # fmt: skip
    """Scores, softmax, values; `keys` and `values` bytes are read (values 0 where they are a part of the keys)."""
    key, value = widths
    given, result = trace.bytes(span.tokens * heads * key), trace.bytes(span.tokens * heads * value)
    own = {"kv_read": keys + values} if is_cache else {}
    read = given if is_cache else given + keys + values
    if trace.is_fused:
        pairs = span.batch * heads * span.pairs
        return trace.add(
            "attention", join(path, "attention"), after, live=live + result, is_matrix=True,
            flops=pairs * (2 * key + 2 * value + 5), read=read, written=result, **own,
        )  # fmt: skip
    pairs = span.batch * heads * span.queries * span.attended
    scores, rows = trace.bytes(pairs), span.tokens * heads
    first, second = keys, keys if is_cache else values
    scored = trace.add(
        "attention_scores", join(path, "scores"), after, live=live + scores, is_matrix=True,
        flops=2 * pairs * key, read=given + (0.0 if is_cache else first), kv_read=first if is_cache else 0.0,
        written=scores, gemm=(rows, span.attended, key),
    )  # fmt: skip
    weighed = trace.add(
        "softmax", join(path, "softmax"), [scored], live=live + 2 * scores, flops=5 * pairs, read=scores, written=scores
    )
    return trace.add(
        "attention_values", join(path, "values"), [weighed, *after], live=live + scores + result, is_matrix=True,
        flops=2 * pairs * value, read=scores + (0.0 if is_cache else second), kv_read=second if is_cache else 0.0,
        written=result, gemm=(rows, value, span.attended),
    )  # fmt: skip
