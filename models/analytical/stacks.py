"""Stacks of layers: decoder, encoder, encoder-decoder, with their embedding, head and pooler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.analytical import blocks, bottleneck, collectives, latent
from models.analytical.inventory import Value
from models.analytical.trace import Span, Trace, join


def decoder(trace: Trace, span: Span) -> None:
    """A decoder-only LLM: embedding, layers kind by kind, head."""
    last = _embedding(trace, "", span)
    last = _layer_kinds(trace, "", span, last)
    _stage_transfers(trace, span, last)
    _head(trace, "", span, last)


def _layer_kinds(trace: Trace, path: str, span: Span, last: int) -> int:
    """All layers, equal ones folded; the order of kinds does not matter to any number."""
    kinds = trace.llm.layer_kinds
    is_mixed = len({kind.is_moe for kind in kinds}) > 1, len({kind.window for kind in kinds}) > 1
    for kind in kinds:
        names = [
            name
            for name, is_said in zip(
                ("moe" if kind.is_moe else "dense", "full" if kind.window is None else "window"), is_mixed, strict=True
            )
            if is_said
        ]
        label = f"layers.{'_'.join(names)}" if names else "layers"
        last = _layers(
            trace, join(path, label), replace(span, window=kind.window), last, kind.count, is_moe=kind.is_moe
        )
    return last


def encoder(trace: Trace, path: str, layers: int) -> int:
    """An encoder over input_tokens; returns the op that gives its output."""
    llm, group = trace.llm, trace.group
    span = Span(group.batch, group.input_tokens, group.input_tokens, is_causal=False, is_cached=False)
    last = _embedding(trace, path, span)
    if llm.bottleneck_size is not None:
        last = bottleneck.layers(trace, span, last)
    else:
        last = _layers(trace, join(path, "layers"), span, last, layers)
    if llm.has_final_norm:
        elements = span.tokens * llm.hidden_size
        last = trace.norm(join(path, "norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements))
    return last


def pooler(trace: Trace) -> None:
    """A product over the first token and a tanh."""
    llm, batch = trace.llm, trace.group.batch
    if not llm.has_pooler:
        return
    elements = batch * llm.hidden_size
    live = trace.bytes(trace.group.batch * trace.group.input_tokens * llm.hidden_size + elements)
    width = float(llm.hidden_size)
    last = trace.linear("other", "pooler", [len(trace.ops) - 1], batch, (width, width), has_bias=True, live=live)
    blocks.activation(trace, "pooler.activation", [last], elements, is_gated=False, live=live + trace.bytes(elements))


def encoder_decoder(trace: Trace) -> None:
    """Encoder (not in decode), then the decoder: all its tokens in forward, one in prefill and decode."""
    llm, group, phase = trace.llm, trace.group, trace.phase
    source = -1 if phase == "decode" else encoder(trace, "encoder", llm.num_encoder_layers)
    if phase != "decode":
        trace.held = trace.bytes(group.batch * group.input_tokens * llm.hidden_size)
    is_cached = phase != "forward"
    queries: Value = 1.0 if is_cached else group.output_tokens
    keys: Value = group.context_tokens if phase == "decode" else queries
    span = Span(group.batch, queries, keys, is_causal=True, is_cached=is_cached)
    cross = Span(group.batch, queries, group.input_tokens, is_causal=False, is_cached=is_cached)
    last = _embedding(trace, "decoder", span)
    last = _layers(trace, "decoder.layers", span, last, llm.num_layers, cross=cross, source=source)
    _head(trace, "decoder", span, last)


def _embedding(trace: Trace, path: str, span: Span) -> int:
    """Rows of the tables, added; a projection where the table is narrower than the model."""
    llm, group = trace.llm, trace.group
    tokens, width, hidden = span.tokens, float(llm.embedding_size), float(llm.hidden_size)
    elements = tokens * hidden
    rows = np.minimum(tokens, llm.vocab_size) * width / group.tensor_parallel
    tables = (llm.num_positions > 0) + (llm.num_token_types > 0)
    rows = rows + (np.minimum(span.queries, llm.num_positions) * hidden if llm.num_positions else 0.0)
    rows = rows + (hidden if llm.num_token_types else 0.0)
    looked_up = tokens * width
    last = trace.add(
        "embedding", join(path, "embed_tokens"), [],
        flops=float(tables) * elements, weights=rows * group.weight_bytes,
        written=trace.bytes(looked_up), live=trace.bytes(looked_up),
    )  # fmt: skip
    last = trace.all_reduce(join(path, "embed_tokens.all_reduce"), [last], looked_up)
    if llm.embedding_size != llm.hidden_size:
        is_trigram = llm.bottleneck_size is not None
        width_in = 3 * width if is_trigram else width
        last = trace.linear(
            "other", join(path, "project_in"), [last], tokens, (width_in, hidden),
            has_bias=is_trigram, live=trace.bytes(tokens * width_in + elements),
        )  # fmt: skip
    if llm.num_relative_buckets:
        scores = span.queries * span.keys * llm.num_heads / group.tensor_parallel
        table = llm.num_relative_buckets * llm.num_heads / group.tensor_parallel
        trace.add(
            "embedding", join(path, "position_bias"), [],
            weights=table * group.weight_bytes, written=trace.bytes(scores), live=trace.bytes(scores + elements),
        )  # fmt: skip
    if llm.has_embedding_norm:
        last = trace.norm(join(path, "embed_norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements))
    return last


def _layers(
    trace: Trace, path: str, span: Span, last: int, count: int, *,
    cross: Span | None = None, source: int = -1, is_moe: bool = False,
) -> int:  # fmt: skip
    """`count` equal layers, folded; returns the op that gives their output."""
    llm, path = trace.llm, join(path, "*")
    trace.layers = float(count)
    elements = span.tokens * llm.hidden_size
    live = 2 * trace.bytes(elements)
    attend = blocks.self_attention if llm.kv_lora_rank is None else latent.self_attention
    feed = blocks.moe if is_moe else blocks.mlp
    has_closing_norms = llm.norms_per_layer == 4 and llm.bottleneck_size is None
    normed = trace.norm(join(path, "input_norm"), [last], elements, llm.hidden_size, live=live)
    attended = attend(trace, join(path, "self_attn"), span, normed)
    if llm.is_side_by_side:
        if llm.norms_per_layer > 1:
            normed = trace.norm(
                join(path, "post_norm"), [last], elements, llm.hidden_size, live=live + trace.bytes(elements)
            )
        fed = feed(trace, join(path, "mlp"), span.tokens, normed, waiting=2.0)
        fed = trace.all_reduce(join(path, "mlp.all_reduce"), [attended, fed], elements)
        last = trace.residual(join(path, "residual_add"), [last, attended, fed], elements, operands=3)
    else:
        attended = trace.all_reduce(join(path, "self_attn.all_reduce"), [attended], elements)
        if has_closing_norms:
            attended = trace.norm(
                join(path, "self_attn.closing_norm"), [attended], elements, llm.hidden_size, live=1.5 * live
            )
        last = trace.residual(join(path, "self_attn.residual_add"), [last, attended], elements)
        if cross is not None:
            last = blocks.cross_attention(trace, join(path, "cross_attn"), cross, last, source)
        normed = trace.norm(join(path, "post_norm"), [last], elements, llm.hidden_size, live=live)
        fed = feed(trace, join(path, "mlp"), span.tokens, normed, waiting=1.0)
        fed = trace.all_reduce(join(path, "mlp.all_reduce"), [fed], elements)
        if has_closing_norms:
            fed = trace.norm(join(path, "mlp.closing_norm"), [fed], elements, llm.hidden_size, live=1.5 * live)
        last = trace.residual(join(path, "mlp.residual_add"), [last, fed], elements)
    trace.dequantize(join(path, "dequantize"))
    trace.layers = 1.0
    return last


def _stage_transfers(trace: Trace, span: Span, last: int) -> None:
    """Activations handed from stage to stage."""
    stages = trace.group.pipeline_parallel
    if not np.any(stages > 1):
        return
    payload = trace.bytes(span.tokens * trace.llm.hidden_size)
    traffic = collectives.send_recv(payload)
    index = trace.collective("send_recv", "stages.*.send_recv", [last], traffic, live=payload)
    trace.ops[index] = replace(trace.ops[index], count=stages - 1, is_far=True)


def _head(trace: Trace, path: str, span: Span, last: int) -> None:
    """Final norm and the product with the vocabulary, for the last token of a sequence or, in forward, for all."""
    llm, group = trace.llm, trace.group
    hidden = float(llm.hidden_size)
    if llm.has_final_norm:
        elements = span.tokens * hidden
        last = trace.norm(join(path, "norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements))
    width = float(llm.embedding_size)
    if llm.embedding_size != llm.hidden_size:
        last = trace.linear(
            "other", join(path, "project_out"), [last], span.tokens, (hidden, width), has_bias=False,
            live=trace.bytes(span.tokens * (hidden + width)),
        )  # fmt: skip
    tokens = span.tokens if trace.phase == "forward" else group.batch
    vocabulary = np.ceil(llm.vocab_size / group.tensor_parallel)
    live = trace.bytes(span.tokens * width + tokens * vocabulary)
    last = trace.linear(
        "lm_head", "lm_head", [last], tokens, (width, vocabulary), has_bias=llm.has_head_bias, live=live
    )
    devices = group.tensor_parallel
    if np.any(devices > 1):
        payload = trace.bytes(tokens * llm.vocab_size)
        traffic = collectives.all_gather(payload, devices)
        trace.collective("all_gather", "lm_head.all_gather", [last], traffic, live=payload)
