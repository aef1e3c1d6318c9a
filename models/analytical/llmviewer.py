"""The ruleset `llmviewer-472f71f`: what LLM-Viewer answers, digit for digit, faults included.

The peer is behind the analytical table of `chilka-nyu`. Kept on purpose: an LM head of one operation per multiply-add whose
activations ignore the batch; fused attention that writes score-sized outputs and reads every query head's keys;
a gate projection in OPT; an activation over the hidden width; head width = hidden / heads; tensor-core peaks for every op;
memory without embedding and head. The default ruleset has none of these.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.analytical.inventory import Array, Group, Inventory, Op, Value
from warehouse.catalog.llm import Llm

FILE = Path(__file__).parent / "rulesets" / "llmviewer_472f71f.toml"

_MODULES = {"llama": "Llama", "opt": "opt", "chatglm": "chatglm3", "gptj": "gpt-j"}
"""model_type -> the peer's config module."""

_GPT_J_INTERMEDIATE = 16384
"""A constant of the peer's GPT-J module, whatever the config says."""


@cache
def facts() -> dict[str, Any]:
    """The ruleset's file: its source and the peer's devices."""
    with FILE.open("rb") as file:
        return tomllib.load(file)


@cache
def _devices() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in facts()["devices"].items():
        row = {column: value for column, value in entry.items() if column != "hardware_ids"}
        rows |= dict.fromkeys((name, *entry["hardware_ids"]), row)
    return rows


def device(name: str) -> dict[str, Any] | None:
    """The peer's numbers for a device, by its name there or by our id; None for a device it does not have."""
    return _devices().get(name)


def hardware_id(name: str) -> str:
    """Our id of a device that is called by the peer's name; any other name unchanged."""
    entry = facts()["devices"].get(name)
    return name if entry is None else str(entry["hardware_ids"][0])


def refuse(llm: Llm, phase: str) -> str | None:
    """Why the peer has no answer for an LLM and a phase."""
    if llm.model_type not in _MODULES:
        return f"LLM-Viewer has no config module for a {llm.model_type}; it has {', '.join(_MODULES.values())}."
    if phase not in ("prefill", "decode"):
        return f"LLM-Viewer models prefill and decode, not {phase}."
    return None


def inventory(llm: Llm, phase: str, group: Group, *, is_fused: bool) -> Inventory:
    """The peer's ops: those of one layer folded, then lm_head."""
    batch, act = group.batch, group.activation_bytes
    length = group.input_tokens if phase == "prefill" else group.context_tokens
    queries: Value = length if phase == "prefill" else 1.0
    layer = _linears(llm, phase, group, batch * queries)
    attention = _fused_attention if is_fused else _attention
    layer += attention(llm, phase, group, queries, length)
    layer += _elementwise(llm, phase, batch * queries, act)
    written = sum(op.written for op in layer)
    return Inventory(
        ops=_connected((*layer, _lm_head(llm, phase, group))),
        weights=sum(op.weights for op in layer) * llm.num_layers,
        kv_cache=2 * batch * length * _kv_width(llm) * group.kv_bytes * llm.num_layers,
        activation_peak=written,
    )


def _connected(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Ops with the graph's edges."""
    index = {op.path.rpartition(".")[2]: position for position, op in enumerate(ops)}
    return tuple(
        replace(op, inputs=tuple(index[name] for name in _EDGES.get(op.path.rpartition(".")[2], ()) if name in index))
        for op in ops
    )


_EDGES = {
    "q_proj": ("attn_norm",),
    "k_proj": ("attn_norm",),
    "v_proj": ("attn_norm",),
    "qk_matmul": ("q_proj", "k_proj"),
    "softmax": ("qk_matmul",),
    "sv_matmul": ("softmax", "v_proj"),
    "fused_attention": ("q_proj", "k_proj", "v_proj"),
    "out_proj": ("sv_matmul", "fused_attention"),
    "attn_add": ("out_proj",),
    "mlp_norm": ("attn_add",),
    "gate_proj": ("mlp_norm",),
    "up_proj": ("mlp_norm",),
    "mlp_act": ("gate_proj", "up_proj"),
    "down_proj": ("mlp_act",),
    "mlp_add": ("attn_add", "down_proj"),
    "lm_head": ("mlp_add",),
}


def _op(llm: Llm, phase: str, kind: str, name: str, **sizes: Any) -> Op:
    return Op(kind=kind, path=f"layers.*.{name}", phase=phase, count=float(llm.num_layers), **sizes)


def _kv_heads(llm: Llm) -> int:
    return llm.num_heads if llm.model_type in ("opt", "gptj") else llm.num_kv_heads


def _kv_width(llm: Llm) -> float:
    return llm.hidden_size * _kv_heads(llm) / llm.num_heads


def _linears(llm: Llm, phase: str, group: Group, tokens: Array) -> list[Op]:
    hidden, ffn = llm.hidden_size, _GPT_J_INTERMEDIATE if llm.model_type == "gptj" else llm.intermediate_size
    shapes = {
        "q_proj": (hidden, float(hidden)),
        "k_proj": (hidden, _kv_width(llm)),
        "v_proj": (hidden, _kv_width(llm)),
        "out_proj": (hidden, float(hidden)),
        "gate_proj": (hidden, float(ffn)),
        "up_proj": (hidden, float(ffn)),
        "down_proj": (ffn, float(hidden)),
    }
    if llm.model_type == "gptj":
        del shapes["gate_proj"]
    ops = []
    for name, (width_in, width_out) in shapes.items():
        is_kv = name in ("k_proj", "v_proj")
        product = tokens * width_out
        ops.append(
            _op(
                llm, phase, "o_proj" if name == "out_proj" else name, name,
                flops=2 * product * width_in,
                weights=width_in * width_out * group.weight_bytes,
                read=tokens * width_in * group.activation_bytes,
                written=0.0 if is_kv else product * group.activation_bytes,
                kv_written=product * group.kv_bytes if is_kv else 0.0,
                gemm=(tokens, width_out, float(width_in)), is_matrix=True,
            )
        )  # fmt: skip
    return ops


def _attention(llm: Llm, phase: str, group: Group, queries: Value, length: Array) -> list[Op]:
    heads, width = llm.num_heads, llm.hidden_size // llm.num_heads
    act = group.activation_bytes
    scores = group.batch * heads * queries * length
    values = group.batch * heads * queries * width * act
    kv_read = length * width * group.batch * _kv_heads(llm) * group.kv_bytes
    query_heads = _kv_heads(llm) if phase == "prefill" else heads
    query = group.batch * query_heads * queries * width * act
    product = {"flops": 2 * scores * width, "kv_read": kv_read, "is_matrix": True}
    return [
        _op(llm, phase, "attention_scores", "qk_matmul", read=query, written=scores * act, **product),
        _op(llm, phase, "attention_values", "sv_matmul", read=scores * act, written=values, **product),
        _op(llm, phase, "softmax", "softmax", flops=5 * scores, read=scores * act, written=scores * act),
    ]


def _fused_attention(llm: Llm, phase: str, group: Group, queries: Value, length: Array) -> list[Op]:
    heads, width = llm.num_heads, llm.hidden_size // llm.num_heads
    scores = group.batch * heads * queries * length
    block = np.minimum(np.ceil(group.onchip / (group.kv_bytes * width)), width)
    return [
        _op(
            llm, phase, "attention", "fused_attention",
            flops=4 * scores * width + 5 * scores,
            read=group.batch * heads * queries * width * group.activation_bytes,
            written=2 * scores * group.activation_bytes,
            kv_read=2 * np.ceil(queries / block) * length * width * group.batch * heads * group.kv_bytes,
            is_matrix=True,
        )
    ]  # fmt: skip


def _elementwise(llm: Llm, phase: str, tokens: Array, act: Value) -> list[Op]:
    size = tokens * llm.hidden_size
    norms = ["attn_norm"] if llm.model_type == "gptj" else ["attn_norm", "mlp_norm"]
    return [
        *(_op(llm, phase, "norm", name, flops=7 * size, read=size * act, written=size * act) for name in norms),
        *(
            _op(llm, phase, "residual_add", name, flops=size, read=size * act, written=size * act)
            for name in ("attn_add", "mlp_add")
        ),
        _op(llm, phase, "activation", "mlp_act", flops=2 * size, read=2 * size * act, written=size * act),
    ]


def _lm_head(llm: Llm, phase: str, group: Group) -> Op:
    weights = llm.hidden_size * llm.vocab_size
    return Op(
        kind="lm_head", path="lm_head", phase=phase,
        flops=group.batch * weights,
        weights=weights * group.weight_bytes,
        read=llm.hidden_size * group.activation_bytes,
        written=llm.vocab_size * group.activation_bytes,
        gemm=(group.batch, float(llm.vocab_size), float(llm.hidden_size)), is_matrix=True,
    )  # fmt: skip
