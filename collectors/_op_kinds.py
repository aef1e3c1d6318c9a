"""What the vocabulary of `ops` calls a module: by its path and its class, without torch."""

from __future__ import annotations

import re

OP_KINDS: tuple[tuple[str, str], ...] = (
    (r"^loss:NoneType$", "loss"),
    (r"^optimizer:", "optimizer"),
    (r":\w*Dropout", "elementwise"),
    (r":\w*Norm", "norm"),
    (r":\w*RotaryEmbedding", "rope"),
    (r":\w*Embeddings?$", "embedding"),
    (r"bottleneck\.\w+\.dense:", "gemm"),
    (r":\w*Bottleneck\w*", "other"),
    (r"(lm_head|embed_out|vocab_projector|predictions\.decoder|output_projection):", "lm_head"),
    (r"(query_key_value|c_attn|Wqkv|qkv_proj|in_proj):", "qkv_proj"),
    (r"(\bq|q_proj|q_a_proj|q_b_proj|q_lin|query):\w*(Linear|Conv1D)", "q_proj"),
    (r"(\bk|k_proj|kv_a_proj_with_mqa|k_lin|key):\w*(Linear|Conv1D)", "k_proj"),
    (r"(\bv|v_proj|kv_b_proj|v_lin|value):\w*(Linear|Conv1D)", "v_proj"),
    (r"(o_proj|out_proj|out_lin|Attention\.o|attention\.output\.dense|attention\.dense|attn\.dense|attn\.c_proj):", "o_proj"),
    (r"shared_expert_gate:", "gemm"),
    (r"(gate_proj|wi_0|w1):", "gate_proj"),
    (r"(up_proj|fc1|lin1|c_fc|dense_h_to_4h|intermediate\.dense|wi|wi_1|w3|fc_in):", "up_proj"),
    (r"(down_proj|fc2|lin2|mlp\.c_proj|dense_4h_to_h|output\.dense|wo|w2|fc_out):", "down_proj"),
    (r"(router|mlp\.gate|moe\.gate):", "router"),
    (r":\w*Softmax", "softmax"),
    (r"(?i):\w*(gelu|relu|silu|swish|tanh|sigmoid|activation)\w*$", "activation"),
    (r":\w*Experts", "experts"),
    (r":\w*(Attention|SelfOutput)\w*$", "attention"),
    (r":\w*(MLP|FFN|FFNLayer|LayerFF|FeedForward|DenseReluDense|Dense\w*ActDense|SparseMoe\w*|Intermediate|Output)$", "mlp"),
    (r":\w*(Layer|Block)$", "layer"),
    (r":\w*(Model|Decoder|Encoder|Stack|Transformer)$", "model"),
    (r":(\w*Linear|Conv1D)$", "gemm"),
)  # fmt: skip
"""(pattern, op_kind): searched in `path:ClassName` from the top; the first match decides, none is `other`."""


def op_kind(path: str, class_name: str) -> str:
    """The vocabulary's word for a module: `op_kind('h.0.attn.c_proj', 'Conv1D')` is `o_proj`."""
    name = f"{path}:{class_name}"
    return next((kind for pattern, kind in OP_KINDS if re.search(pattern, name)), "other")


def layer_index(path: str) -> int | None:
    """First number of a path: 3 in `encoder.block.3.layer.1.DenseReluDense`; None outside layers."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)
