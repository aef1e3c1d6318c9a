"""MobileBERT's layers: attention and stacked feed-forward networks at the width of a bottleneck."""

from __future__ import annotations

from models.analytical.blocks import activation, attention
from models.analytical.trace import Span, Trace


def layers(trace: Trace, span: Span, last: int) -> int:
    """MobileBERT: a layer works at the width of its bottleneck, values read the full width, MLPs are stacked."""
    llm, path, tokens = trace.llm, "layers.*", span.tokens
    assert llm.bottleneck_size is not None  # noqa: S101 - the caller asks
    trace.layers = float(llm.num_layers)
    hidden, inner = float(llm.hidden_size), float(llm.bottleneck_size)
    narrow = tokens * inner
    waiting = trace.bytes(tokens * hidden)
    ends = []
    for name in ("input", "attention"):
        down = trace.linear(
            "other", f"{path}.bottleneck.{name}", [last], tokens, (hidden, inner), has_bias=True,
            live=waiting + 2 * trace.bytes(narrow),
        )  # fmt: skip
        ends.append(
            trace.norm(
                f"{path}.bottleneck.{name}_norm",
                [down],
                narrow,
                llm.bottleneck_size,
                live=waiting + 3 * trace.bytes(narrow),
            )
        )
    live = waiting + 5 * trace.bytes(narrow)
    query = float(llm.attention_size)
    bias = llm.has_attention_bias
    heads = [
        trace.linear(name, f"{path}.self_attn.{name}", [start], tokens, (width, query), has_bias=bias, live=live)
        for name, start, width in (("q_proj", ends[1], inner), ("k_proj", ends[1], inner), ("v_proj", last, hidden))
    ]
    attended = attention(trace, f"{path}.self_attn", span, heads, (query, query), waiting=live)
    narrow_live = waiting + 4 * trace.bytes(narrow)
    state = trace.linear(
        "o_proj",
        f"{path}.self_attn.o_proj",
        [attended],
        tokens,
        (query, inner),
        has_bias=llm.has_output_bias,
        live=narrow_live,
    )
    state = trace.residual(f"{path}.self_attn.residual_add", [ends[0], state], narrow)
    state = trace.norm(f"{path}.self_attn.norm", [state], narrow, llm.bottleneck_size, live=narrow_live)
    wide_width = float(llm.intermediate_size)
    wide = tokens * wide_width
    wide_live = waiting + trace.bytes(2 * narrow + 2 * wide)
    for number in range(llm.num_feedforward):
        mlp = f"{path}.ffn.{number}"
        up = trace.linear(
            "up_proj", f"{mlp}.up_proj", [state], tokens, (inner, wide_width), has_bias=llm.has_mlp_bias, live=wide_live
        )
        up = activation(trace, f"{mlp}.activation", [up], wide, is_gated=False, live=wide_live)
        down = trace.linear(
            "down_proj",
            f"{mlp}.down_proj",
            [up],
            tokens,
            (wide_width, inner),
            has_bias=llm.has_mlp_bias,
            live=wide_live,
        )
        down = trace.residual(f"{mlp}.residual_add", [state, down], narrow)
        state = trace.norm(f"{mlp}.norm", [down], narrow, llm.bottleneck_size, live=narrow_live)
    out = trace.linear(
        "other", f"{path}.bottleneck.output", [state], tokens, (inner, hidden), has_bias=True,
        live=2 * waiting + trace.bytes(narrow),
    )  # fmt: skip
    out = trace.residual(f"{path}.bottleneck.residual_add", [last, out], tokens * hidden)
    out = trace.norm(f"{path}.bottleneck.output_norm", [out], tokens * hidden, llm.hidden_size, live=2 * waiting)
    trace.layers = 1.0
    return out
