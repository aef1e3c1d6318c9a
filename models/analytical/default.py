"""The ruleset `default`: every op that an execution needs, counted once and right.

Conventions. FLOPs: 2 per multiply-add; norm 4 (RMS) or 7 per element; softmax 5 per score; rope 3 per rotated element.
Bytes: every op reads its operands from device memory and writes its result; a fused attention kernel reads queries, keys
and values once and writes its output only. Eager attention computes all scores; a fused kernel leaves out those that the
causal mask (or a sliding window) drops. `prefill` and `decode` keep keys and values in the cache and project the last token
only; `forward` has no cache and projects every token. All weights have the weight dtype; products run on the matrix units in
the activation dtype, all else on the vector units where their peak is known.

Sizes are per device. Tensor parallel as Megatron does it: heads, feed-forward width and vocabulary are divided, a layer
all-reduces twice (once where attention and MLP run side by side), in a ring: 2 (N-1)/N of the payload over every link.
Pipeline parallel: stages run one after the other; memory is that of the fullest stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models.analytical.inventory import Array, Group, Inventory, Op, Value, largest
from models.analytical.stepping import steps
from warehouse.catalog.llm import Llm, parameter_count

_FUSED_QKV = ("bloom", "gpt2", "gpt_neox", "falcon", "chatglm")
"""model_types whose queries, keys and values come from one product."""

_SIDE_BY_SIDE = ("gptj", "gpt_neox", "phi", "falcon")
"""model_types whose attention and MLP read the same input and are added together."""

_ACTIVATION_FLOPS = {"relu": 1.0, "silu": 5.0, "gelu": 8.0}
"""FLOPs per element by the function's family; one more for the product with the gate."""


def refuse(llm: Llm, phase: str) -> str | None:
    """Why an LLM and a phase have no closed form here."""
    if phase not in ("forward", "prefill", "decode", "generate"):
        return f"phase '{phase}' is not modelled. Known: forward, prefill, decode, generate."
    if llm.architecture == "encoder" and phase != "forward":
        return f"an encoder has no {phase}: it has forward."
    return None


def impossible(llm: Llm, tensor: Array, pipeline: Array) -> list[tuple[Any, str]]:
    """Parallel degrees that an LLM cannot be divided by: (mask, sentence) pairs."""
    kv_heads = llm.num_kv_heads
    is_replicable = (kv_heads % tensor != 0) & (tensor % kv_heads != 0)
    is_special = llm.architecture != "decoder"
    return [
        (llm.num_heads % tensor != 0, f"tensor_parallel does not divide {llm.num_heads} attention heads."),
        (is_replicable, f"tensor_parallel neither divides nor replicates {kv_heads} key/value heads."),
        (
            llm.intermediate_size % tensor != 0,
            f"tensor_parallel does not divide the MLP width {llm.intermediate_size}.",
        ),
        (pipeline > llm.num_layers, f"pipeline_parallel is more than the {llm.num_layers} layers."),
        ((pipeline > 1) & is_special, f"pipeline parallelism of an {llm.architecture} is not modelled."),
        ((tensor > 1) & (llm.bottleneck_size is not None), "tensor parallelism of a bottleneck layer is not modelled."),
    ]


def longest(llm: Llm, phase: str, sizes: Mapping[str, Array]) -> Array:
    """Tokens of the longest sequence that any stack of an LLM sees; of `sizes` only the lengths of the phase are read."""
    if llm.architecture == "encoder_decoder":
        names = {"prefill": ("input_tokens",), "decode": ("input_tokens", "context_tokens")}
        return np.asarray(largest(*(sizes[name] for name in names.get(phase, ("input_tokens", "output_tokens")))))
    if phase == "generate":
        return sizes["input_tokens"] + sizes["output_tokens"] - 1  # the last token is never fed back
    return sizes["context_tokens" if phase == "decode" else "input_tokens"]


def last_position(llm: Llm) -> int | None:
    """Tokens for which an LLM has learned positions, and that no sequence can exceed; None where positions are computed."""
    return llm.max_context_tokens if llm.position == "learned" else None


def inventory(llm: Llm, phase: str, group: Group, *, is_fused: bool) -> Inventory:
    """Ops and memory of a group of configurations of one LLM and phase."""
    trace = _generate(llm, group, is_fused) if phase == "generate" else _execute(llm, phase, group, is_fused)
    return Inventory(
        ops=tuple(trace.ops),
        weights=_device_parameters(llm, group) * group.weight_bytes,
        kv_cache=_kv_cache(llm, phase, group),
        activation_peak=largest(*(op.live for op in trace.ops)),
    )


# Executions


def _execute(llm: Llm, phase: str, group: Group, is_fused: bool) -> _Trace:
    """One pass: the whole input (forward, prefill) or one token against a cache (decode)."""
    trace = _Trace(llm, phase, group, is_fused)
    if llm.architecture == "encoder_decoder":
        _encoder_decoder(trace)
    elif llm.architecture == "encoder":
        _encoder(trace, "", llm.num_layers)
        _pooler(trace)
    else:
        is_decode = phase == "decode"
        queries: Value = 1.0 if is_decode else group.input_tokens
        keys = group.context_tokens if is_decode else group.input_tokens
        _decoder(trace, _Span(group.batch, queries, keys, is_causal=True, is_cached=phase != "forward"))
    return trace


def _generate(llm: Llm, group: Group, is_fused: bool) -> _Trace:
    """A prefill, which gives the first token, then a decode step for every further one, summed in closed form."""
    trace = _execute(llm, "prefill", group, is_fused)
    is_translating = llm.architecture == "encoder_decoder"
    first = 2.0 + (0.0 if is_translating else group.input_tokens - 1.0)
    count = group.output_tokens - 1.0
    window = np.inf if llm.sliding_window is None else float(llm.sliding_window)
    trace.ops += steps(
        lambda context: _execute(llm, "decode", replace(group, context_tokens=context), is_fused).ops,
        group,
        first=np.broadcast_to(first, count.shape).astype(np.float64),
        last=first + np.maximum(count, 1.0) - 1.0,
        count=count,
        kink=window,
        index=len(trace.ops),
    )
    return trace


@dataclass(frozen=True)
class _Span:
    """Tokens of one pass: `queries` new ones a sequence, each attending to up to `keys`."""

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
    def attended(self) -> Value:
        """Keys that any query needs."""
        if self.window is None or self.is_prompt:
            return self.keys
        return np.minimum(self.keys, self.window)

    @property
    def is_prompt(self) -> bool:
        """Many queries rather than one step."""
        return not (isinstance(self.queries, float) and self.queries == 1.0)

    @property
    def pairs(self) -> Value:
        """Query-key pairs that the mask leaves, of one sequence and head."""
        if not self.is_causal:
            return self.queries * self.keys
        if not self.is_prompt:
            return self.attended
        past = self.keys - self.queries
        whole = self.queries * past + self.queries * (self.queries + 1) / 2
        if self.window is None:
            return whole
        full = np.minimum(self.keys, self.window)
        return full * (full + 1) / 2 + (self.keys - full) * full


@dataclass
class _Trace:
    """The ops of one execution as they are met."""

    llm: Llm
    phase: str
    group: Group
    is_fused: bool
    ops: list[Op] = field(default_factory=list)
    held: Value = 0.0
    """Bytes that stay alive beside what an op touches: the encoder's output."""
    layers: float = 1.0
    """Layers that the op being added is folded over."""

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
        self, kind: str, path: str, after: Sequence[int], tokens: Array, widths: tuple[Value, Value], *,
        has_bias: bool, live: Value, to_cache: Value = 0.0,
    ) -> int:  # fmt: skip
        """A product with weights; `to_cache` of its output elements go to the KV cache."""
        width_in, width_out = widths
        weights = width_in * width_out + (width_out if has_bias else 0.0)
        return self.add(
            kind, path, after, live=live,
            flops=2 * tokens * width_in * width_out,
            weights=weights * self.group.weight_bytes,
            read=self.bytes(tokens * width_in),
            written=self.bytes(tokens * width_out - to_cache),
            kv_written=to_cache * self.group.kv_bytes,
            gemm=(tokens, width_out, width_in), is_matrix=True,
        )  # fmt: skip

    def norm(self, path: str, after: Sequence[int], elements: Value, width: int, *, live: Value) -> int:
        kind = self.llm.norm
        return self.add(
            "norm", path, after, live=live,
            flops={"rms": 4.0, "layer": 7.0, "none": 2.0}[kind] * elements,
            weights=(width if kind == "rms" else 2 * width) * self.group.weight_bytes,
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
        devices = self.group.tensor_parallel
        if not np.any(devices > 1):
            return after[-1]
        payload = self.bytes(elements)
        return self.add("all_reduce", path, after, live=2 * payload, sent=2 * (devices - 1) / devices * payload)


def _prefix(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# Stacks


def _decoder(trace: _Trace, span: _Span) -> None:
    """A decoder-only LLM: embedding, layers, head."""
    llm = trace.llm
    span = replace(span, window=llm.sliding_window)
    last = _embedding(trace, "", span)
    last = _layers(trace, "", span, last, llm.num_layers)
    _stage_transfers(trace, span, last)
    _head(trace, "", span, last)


def _encoder(trace: _Trace, path: str, layers: int) -> int:
    """An encoder over input_tokens; returns the op that gives its output."""
    llm, group = trace.llm, trace.group
    span = _Span(group.batch, group.input_tokens, group.input_tokens, is_causal=False, is_cached=False)
    last = _embedding(trace, path, span)
    if llm.bottleneck_size is not None:
        last = _bottleneck_layers(trace, span, last)
    else:
        last = _layers(trace, path, span, last, layers)
    if llm.has_final_norm:
        elements = span.tokens * llm.hidden_size
        last = trace.norm(_prefix(path, "norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements))
    return last


def _pooler(trace: _Trace) -> None:
    """A product over the first token and a tanh."""
    llm, batch = trace.llm, trace.group.batch
    if not llm.has_pooler:
        return
    elements = batch * llm.hidden_size
    live = trace.bytes(trace.group.batch * trace.group.input_tokens * llm.hidden_size + elements)
    width = float(llm.hidden_size)
    last = trace.linear("other", "pooler", [len(trace.ops) - 1], batch, (width, width), has_bias=True, live=live)
    _activation(trace, "pooler.activation", [last], elements, is_gated=False, live=live + trace.bytes(elements))


def _encoder_decoder(trace: _Trace) -> None:
    """Encoder (not in decode), then the decoder: all its tokens in forward, one in prefill and decode."""
    llm, group, phase = trace.llm, trace.group, trace.phase
    source = -1 if phase == "decode" else _encoder(trace, "encoder", llm.num_encoder_layers)
    if phase != "decode":
        trace.held = trace.bytes(group.batch * group.input_tokens * llm.hidden_size)
    is_cached = phase != "forward"
    queries: Value = 1.0 if is_cached else group.output_tokens
    keys: Value = group.context_tokens if phase == "decode" else queries
    span = _Span(group.batch, queries, keys, is_causal=True, is_cached=is_cached)
    cross = _Span(group.batch, queries, group.input_tokens, is_causal=False, is_cached=is_cached)
    last = _embedding(trace, "decoder", span)
    last = _layers(trace, "decoder", span, last, llm.num_layers, cross=cross, source=source)
    _head(trace, "decoder", span, last)


def _embedding(trace: _Trace, path: str, span: _Span) -> int:
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
        "embedding", _prefix(path, "embed_tokens"), [],
        flops=float(tables) * elements, weights=rows * group.weight_bytes,
        written=trace.bytes(looked_up), live=trace.bytes(looked_up),
    )  # fmt: skip
    last = trace.all_reduce(_prefix(path, "embed_tokens.all_reduce"), [last], looked_up)
    if llm.embedding_size != llm.hidden_size:
        is_trigram = llm.bottleneck_size is not None
        width_in = 3 * width if is_trigram else width
        last = trace.linear(
            "other", _prefix(path, "project_in"), [last], tokens, (width_in, hidden),
            has_bias=is_trigram, live=trace.bytes(tokens * width_in + elements),
        )  # fmt: skip
    if llm.num_relative_buckets:
        scores = span.queries * span.keys * llm.num_heads / group.tensor_parallel
        table = llm.num_relative_buckets * llm.num_heads / group.tensor_parallel
        trace.add(
            "embedding", _prefix(path, "position_bias"), [],
            weights=table * group.weight_bytes, written=trace.bytes(scores), live=trace.bytes(scores + elements),
        )  # fmt: skip
    if llm.has_embedding_norm:
        last = trace.norm(
            _prefix(path, "embed_norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements)
        )
    return last


def _layers(
    trace: _Trace, path: str, span: _Span, last: int, count: int, *, cross: _Span | None = None, source: int = -1
) -> int:
    """`count` equal layers, folded; returns the op that gives their output."""
    llm, path = trace.llm, _prefix(path, "layers.*")
    trace.layers = float(count)
    elements = span.tokens * llm.hidden_size
    is_side_by_side = llm.model_type in _SIDE_BY_SIDE
    normed = trace.norm(_prefix(path, "input_norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements))
    attended = _self_attention(trace, _prefix(path, "self_attn"), span, normed)
    if is_side_by_side:
        if llm.norms_per_layer > 1:
            normed = trace.norm(
                _prefix(path, "post_norm"), [last], elements, llm.hidden_size, live=3 * trace.bytes(elements)
            )
        mlp = _mlp(trace, _prefix(path, "mlp"), span.tokens, normed, waiting=2.0)
        mlp = trace.all_reduce(_prefix(path, "mlp.all_reduce"), [attended, mlp], elements)
        last = trace.residual(_prefix(path, "residual_add"), [last, attended, mlp], elements, operands=3)
    else:
        attended = trace.all_reduce(_prefix(path, "self_attn.all_reduce"), [attended], elements)
        last = trace.residual(_prefix(path, "self_attn.residual_add"), [last, attended], elements)
        if cross is not None:
            last = _cross_attention(trace, _prefix(path, "cross_attn"), cross, last, source)
        normed = trace.norm(
            _prefix(path, "post_norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements)
        )
        mlp = _mlp(trace, _prefix(path, "mlp"), span.tokens, normed, waiting=1.0)
        mlp = trace.all_reduce(_prefix(path, "mlp.all_reduce"), [mlp], elements)
        last = trace.residual(_prefix(path, "mlp.residual_add"), [last, mlp], elements)
    trace.layers = 1.0
    return last


def _stage_transfers(trace: _Trace, span: _Span, last: int) -> None:
    """Activations handed from stage to stage."""
    stages = trace.group.pipeline_parallel
    if not np.any(stages > 1):
        return
    payload = trace.bytes(span.tokens * trace.llm.hidden_size)
    index = trace.add("send_recv", "stages.*.send_recv", [last], live=payload, sent=payload)
    trace.ops[index] = replace(trace.ops[index], count=stages - 1)


def _head(trace: _Trace, path: str, span: _Span, last: int) -> None:
    """Final norm and the product with the vocabulary, for the last token of a sequence or, in forward, for all."""
    llm, group = trace.llm, trace.group
    hidden = float(llm.hidden_size)
    if llm.has_final_norm:
        elements = span.tokens * hidden
        last = trace.norm(_prefix(path, "norm"), [last], elements, llm.hidden_size, live=2 * trace.bytes(elements))
    width = float(llm.embedding_size)
    if llm.embedding_size != llm.hidden_size:
        last = trace.linear(
            "other", _prefix(path, "project_out"), [last], span.tokens, (hidden, width), has_bias=False,
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
        trace.add("all_gather", "lm_head.all_gather", [last], live=payload, sent=(devices - 1) / devices * payload)


# Blocks of a layer


def _self_attention(trace: _Trace, path: str, span: _Span, normed: int) -> int:
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
    if llm.model_type in _FUSED_QKV:
        fused = trace.linear(
            "qkv_proj", _prefix(path, "qkv_proj"), [normed], tokens, (hidden, query + 2 * key),
            has_bias=bias, live=live, to_cache=cached + cached_keys,
        )  # fmt: skip
        heads = [fused, fused, fused]
    else:
        heads = [
            trace.linear(
                name,
                _prefix(path, name),
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
        heads = [
            trace.norm(_prefix(path, "q_norm"), [heads[0]], tokens * query, llm.head_dim, live=live + trace.bytes(tokens * query)),
            trace.norm(_prefix(path, "k_norm"), [heads[1]], tokens * key, llm.head_dim, live=live + trace.bytes(tokens * key)),
            heads[2],
        ]  # fmt: skip
    if is_rotated:
        turned = trace.add(
            "rope", _prefix(path, "rope"), heads[:2], live=live + trace.bytes(tokens * (query + key)),
            flops=3 * tokens * (query + key) * _rotated_share(llm),
            read=trace.bytes(tokens * (query + key)), written=trace.bytes(tokens * (query + key) - cached),
            kv_written=cached * trace.group.kv_bytes,
        )  # fmt: skip
        heads = [turned, turned, heads[2]]
        live = live - trace.bytes(cached)
    attended = _attention(trace, path, span, heads, (query, key), waiting=live)
    return _output(trace, path, attended, tokens, query)


def _cross_attention(trace: _Trace, path: str, span: _Span, last: int, source: int) -> int:
    """Attention of decoder tokens to the encoder's output, with its norm and residual. Decode finds keys and values cached."""
    llm, devices = trace.llm, trace.group.tensor_parallel
    hidden, tokens = float(llm.hidden_size), span.tokens
    elements = tokens * hidden
    query, key = llm.attention_size / devices, llm.kv_size / devices
    waiting = trace.bytes(elements)
    bias = llm.has_attention_bias
    normed = trace.norm(_prefix(path, "norm"), [last], elements, llm.hidden_size, live=2 * waiting)
    kept: Value = trace.bytes(tokens * query)
    queries = trace.linear(
        "q_proj", _prefix(path, "q_proj"), [normed], tokens, (hidden, query), has_bias=bias, live=2 * waiting + kept
    )
    heads = [queries, queries, queries]
    if trace.phase != "decode":
        memory = span.batch * span.keys
        cached = memory * key if span.is_cached else 0.0
        kept = kept + 2 * trace.bytes(memory * key - cached)
        heads[1:] = [
            trace.linear(
                name, _prefix(path, name), [source], memory, (hidden, key),
                has_bias=bias, live=waiting + kept, to_cache=cached,
            )
            for name in ("k_proj", "v_proj")
        ]  # fmt: skip
    attended = _attention(trace, path, span, heads, (query, key), waiting=waiting + kept)
    attended = _output(trace, path, attended, tokens, query)
    attended = trace.all_reduce(_prefix(path, "all_reduce"), [attended], elements)
    return trace.residual(_prefix(path, "residual_add"), [last, attended], elements)


def _output(trace: _Trace, path: str, attended: int, tokens: Array, query: Value) -> int:
    hidden = float(trace.llm.hidden_size)
    return trace.linear(
        "o_proj", _prefix(path, "o_proj"), [attended], tokens, (query, hidden),
        has_bias=trace.llm.has_output_bias, live=trace.bytes(tokens * (2 * hidden + query)),
    )  # fmt: skip


def _attention(
    trace: _Trace, path: str, span: _Span, heads: Sequence[int], widths: tuple[Value, Value], *, waiting: Value
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
            "attention", _prefix(path, "attention"), heads, live=waiting + given,
            flops=4 * pairs * width + 5 * pairs,
            read=given + 2 * from_memory, written=given, kv_read=2 * from_cache, is_matrix=True,
        )  # fmt: skip
    pairs = span.batch * num_heads * span.queries * span.attended
    scores = trace.bytes(pairs)
    depth = (float(width), span.attended)
    product = {"flops": 2 * pairs * width, "kv_read": from_cache, "is_matrix": True}
    rows = span.tokens * num_heads
    scored = trace.add(
        "attention_scores", _prefix(path, "scores"), heads[:2], live=waiting + scores,
        read=given + from_memory, written=scores, gemm=(rows, depth[1], depth[0]), **product,
    )  # fmt: skip
    weighed = trace.add(
        "softmax", _prefix(path, "softmax"), [scored], live=waiting + 2 * scores,
        flops=5 * pairs, read=scores, written=scores,
    )  # fmt: skip
    return trace.add(
        "attention_values", _prefix(path, "values"), [weighed, heads[2]], live=waiting + scores + given,
        read=scores + from_memory, written=given, gemm=(rows, depth[0], depth[1]), **product,
    )  # fmt: skip


def _mlp(trace: _Trace, path: str, tokens: Array, normed: int, *, waiting: float) -> int:
    """Up (and gate), activation, down. `waiting`: hidden-wide tensors kept for the residual."""
    llm = trace.llm
    hidden, width = float(llm.hidden_size), llm.intermediate_size / trace.group.tensor_parallel
    base = trace.bytes(tokens * hidden * waiting)
    inner = trace.bytes(tokens * width)
    names = ("gate_proj", "up_proj") if llm.is_gated_mlp else ("up_proj",)
    live = base + trace.bytes(tokens * hidden) + len(names) * inner
    wide = [
        trace.linear(name, _prefix(path, name), [normed], tokens, (hidden, width), has_bias=llm.has_mlp_bias, live=live)
        for name in names
    ]
    live = base + (len(names) + 1) * inner
    last = _activation(trace, _prefix(path, "activation"), wide, tokens * width, is_gated=llm.is_gated_mlp, live=live)
    live = base + inner + trace.bytes(tokens * hidden)
    return trace.linear(
        "down_proj", _prefix(path, "down_proj"), [last], tokens, (width, hidden), has_bias=llm.has_mlp_bias, live=live
    )


def _activation(trace: _Trace, path: str, after: Sequence[int], elements: Value, *, is_gated: bool, live: Value) -> int:
    flops = _activation_flops(trace.llm) + (1.0 if is_gated else 0.0)
    return trace.add(
        "activation", path, after, live=live,
        flops=flops * elements, read=trace.bytes((2 if is_gated else 1) * elements), written=trace.bytes(elements),
    )  # fmt: skip


def _activation_flops(llm: Llm) -> float:
    if llm.model_type == "chatglm":
        return _ACTIVATION_FLOPS["silu"]
    keys = ("hidden_act", "activation_function", "activation", "feed_forward_proj")
    name = next((str(llm.config[key]) for key in keys if llm.config.get(key)), "gelu")
    return next((flops for part, flops in _ACTIVATION_FLOPS.items() if part in name), _ACTIVATION_FLOPS["gelu"])


def _rotated_share(llm: Llm) -> float:
    """Part of a head that rope turns."""
    config = llm.config
    if config.get("rotary_dim") is not None:
        return float(config["rotary_dim"]) / llm.head_dim
    if llm.model_type == "chatglm":
        return 0.5
    share = config.get("partial_rotary_factor", config.get("rotary_pct"))
    return 1.0 if share is None else float(share)


def _bottleneck_layers(trace: _Trace, span: _Span, last: int) -> int:
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
    attended = _attention(trace, f"{path}.self_attn", span, heads, (query, query), waiting=live)
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
        up = _activation(trace, f"{mlp}.activation", [up], wide, is_gated=False, live=wide_live)
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


# Memory


def _kv_cache(llm: Llm, phase: str, group: Group) -> Value:
    """Resident KV cache of one device, self-attention and cross-attention; none in forward."""
    if phase == "forward":
        return np.zeros_like(group.batch)
    held: Value = {
        "prefill": group.input_tokens,
        "decode": group.context_tokens,
        "generate": group.input_tokens + group.output_tokens - 1,  # the last token is never fed back
    }[phase]
    if llm.architecture == "encoder_decoder":
        own: Value = {
            "prefill": np.ones_like(group.batch),
            "decode": group.context_tokens,
            "generate": group.output_tokens,
        }[phase]
        held = own + group.input_tokens
    elif llm.sliding_window is not None:
        held = np.minimum(held, llm.sliding_window)
    width = np.maximum(llm.kv_size / group.tensor_parallel, llm.head_dim)
    layers = np.ceil(llm.num_layers / group.pipeline_parallel)
    return 2 * layers * width * group.kv_bytes * group.batch * held


def _device_parameters(llm: Llm, group: Group) -> Value:
    """Parameters that the fullest device holds; all of them on one device."""
    whole = float(parameter_count(llm))
    tensor, pipeline = group.tensor_parallel, group.pipeline_parallel
    layer = float(parameter_count(llm) - parameter_count(replace(llm, num_layers=llm.num_layers - 1)))
    outside = whole - layer * llm.num_layers
    table = float(llm.vocab_size * llm.embedding_size)
    every_device = float(llm.norms_per_layer * llm.hidden_size * (1 if llm.norm == "rms" else 2))
    every_device += llm.hidden_size * (llm.has_output_bias + llm.has_mlp_bias)
    heads = 2.0 * llm.hidden_size * llm.kv_size
    heads_share = np.maximum(1 / tensor, 1 / llm.num_kv_heads)
    layer_here = every_device + heads * heads_share + (layer - every_device - heads) / tensor
    layers_here = np.ceil(llm.num_layers / pipeline)
    tables = table * (1 if llm.is_embedding_tied else 2)
    rest = outside - tables
    ends = np.where(pipeline > 1, table, tables)
    return np.where((tensor == 1) & (pipeline == 1), whole, layers_here * layer_here + rest + np.ceil(ends / tensor))
