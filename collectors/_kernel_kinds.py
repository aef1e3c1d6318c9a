"""What a profiled kernel is and what it does: the vocabulary's word by names, FLOPs and bytes by its operator's shapes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

# ---- work in closed form


@dataclass(frozen=True)
class Work:
    """What an operator does by its shapes: FLOPs (2 per multiply-add), elements read or written once, GEMM sizes."""

    flops: float
    elements: float
    m: int | None = None
    n: int | None = None
    k: int | None = None


TYPE_BYTES = {
    "double": 8, "float": 4, "c10::Half": 2, "c10::BFloat16": 2, "half": 2, "bfloat16": 2, "signed char": 1,
    "unsigned char": 1, "c10::Float8_e4m3fn": 1, "c10::Float8_e5m2": 1, "c10::Float8_e4m3fnuz": 1,
}  # fmt: skip
"""Bytes of one element by the profiler's word for its type."""


def _gemm(a: list[int], b: list[int]) -> Work:
    """Product of (batch..., m, k) and (batch..., k, n)."""
    batch = int(np.prod(a[:-2], dtype=np.int64))
    m, k, n = a[-2], a[-1], b[-1]
    return Work(2.0 * batch * m * n * k, float(batch * (m * k + k * n + m * n)), m, n, k)


def _linear(x: list[int], weight: list[int]) -> Work:
    n, k = weight
    m = int(np.prod(x[:-1], dtype=np.int64))
    return Work(2.0 * m * n * k, float(m * k + k * n + m * n), m, n, k)


def _grouped(tokens: list[int], weights: list[int]) -> Work:
    """Products of mixed experts: each row of (tokens, k) with one matrix of (experts, k, n); every matrix is read."""
    (m, k), (experts, _, n) = tokens, weights
    return Work(2.0 * m * n * k, float(m * k + experts * k * n + m * n), m, n, k)


def _vector(a: list[int], _: list[int]) -> Work:
    return _gemm(a, [a[-1], 1])


def _attention(query: list[int], key: list[int], value: list[int]) -> Work:
    """4 b h s_q s_kv d over (b, h, s, d), masked or not; key and value heads as they are stored."""
    b, h, s, d = query
    flops = 2.0 * b * h * s * key[2] * (d + value[3])
    return Work(flops, float(sum(np.prod(one, dtype=np.int64) for one in (query, key, value)) + b * h * s * value[3]))


def _attention_backward(_: list[int], query: list[int], key: list[int], value: list[int]) -> Work:
    """Five products where the forward has two: scores again, then gradients of value, of scores, of query and of key."""
    forward = _attention(query, key, value)
    return Work(2.5 * forward.flops, 2 * forward.elements)


def _convolution(x: list[int], weight: list[int], stride: str, padding: str, dilation: str, *rest: str) -> Work:
    """A convolution that is not transposed; sizes of its output by stride, padding and dilation."""
    steps, pads, spreads = (json.loads(one) for one in (stride, padding, dilation))
    if rest[0] != "False":
        raise ValueError("a transposed convolution")
    size = [
        (one + 2 * pad - spread * (window - 1) - 1) // step + 1
        for one, window, step, pad, spread in zip(x[2:], weight[2:], steps, pads, spreads, strict=True)
    ]
    m, n, k = (int(np.prod(one, dtype=np.int64)) for one in ([x[0], *size], weight[:1], weight[1:]))
    return Work(2.0 * m * n * k, float(np.prod(x, dtype=np.int64) + n * k + m * n), m, n, k)


_FIRST, _SECOND, _THREE, _FOUR, _ALL = (0, 1), (1, 2), (0, 1, 2), (0, 1, 2, 3), ()
CLOSED_FORMS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "aten::mm": (_gemm, _FIRST), "aten::bmm": (_gemm, _FIRST), "aten::_int_mm": (_gemm, _FIRST),
    "aten::_scaled_mm": (_gemm, _FIRST), "aten::addmm": (_gemm, _SECOND), "aten::baddbmm": (_gemm, _SECOND),
    "aten::_addmm_activation": (_gemm, _SECOND), "aten::mv": (_vector, _FIRST), "aten::addmv": (_vector, _SECOND),
    "aten::linear": (_linear, _FIRST), "mkldnn::_linear_pointwise": (_linear, _FIRST),
    "aten::_grouped_mm": (_grouped, _FIRST), "transformers::grouped_mm_fallback": (_grouped, _FIRST),
    "aten::convolution": (_convolution, _ALL),
    "aten::scaled_dot_product_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_flash_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_efficient_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_cudnn_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_flash_attention_for_cpu": (_attention, _THREE),
    "aten::_scaled_dot_product_flash_attention_backward": (_attention_backward, _FOUR),
    "aten::_scaled_dot_product_efficient_attention_backward": (_attention_backward, _FOUR),
    "aten::_scaled_dot_product_cudnn_attention_backward": (_attention_backward, _FOUR),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (_attention_backward, _FOUR),
}  # fmt: skip
"""Operator -> its closed form and which of its inputs that takes; a convolution takes all, values too."""


def closed_form(operator: str, shapes: Any, values: Any) -> Work | None:
    """Work of an operator by the shapes of its inputs (of a convolution: their values too); None where nothing is known."""
    known = CLOSED_FORMS.get(operator)
    if known is None or not shapes:
        return None
    form, positions = known
    try:
        if form is _convolution:
            return _convolution(*shapes[:2], *values[3:])
        return form(*(shapes[one] for one in positions))
    except (IndexError, TypeError, ValueError):  # shapes of another version, or of lists of tensors
        return None


def element_bytes(types: Any) -> int | None:
    """Bytes of an element of the first input whose type is known."""
    return next((TYPE_BYTES[one] for one in types or () if one in TYPE_BYTES), None)


# ---- what a kernel is

COMMUNICATION = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "reduce", "communication")

_COLLECTIVES = (
    (r"all_?reduce|cross_device_reduce", "all_reduce"),
    (r"all_?gather", "all_gather"),
    (r"reduce_?scatter", "reduce_scatter"),
    (r"all_?to_?all", "all_to_all"),
    (r"send|recv", "send_recv"),
    (r"(nccl|rccl)\w*_reduce_", "reduce"),
    (r"", "communication"),
)
_SPEAKS = re.compile(
    r"nccl|rccl|gloo:|all_?reduce|all_?gather_?kernel|reduce_?scatter_?kernel|cross_device_reduce", re.I
)

_OPERATORS = (
    (r"::(_?scaled_mm|_int_mm|_?grouped_mm\w*|mm|addmm|_addmm_activation|bmm|baddbmm|matmul|linear|mv|addmv|\w*conv\w*|_linear_pointwise)$", "gemm"),
    (r"attention|flash_attn", "attention"),
    (r"softmax", "softmax"),
    (r"(layer|rms|batch|group)_?norm", "norm"),
    (r"rotary", "rope"),
    (r"::embedding", "embedding"),
    (r"::(silu|gelu|relu|sigmoid|tanh|hardtanh)", "activation"),
    (r"nll_loss|cross_entropy", "loss"),
    (r"_fused_(adam|sgd)|^Optimizer", "optimizer"),
)  # fmt: skip
"""(pattern, op_kind) searched in the name of the operator that launched a kernel; the first match decides."""

_KERNELS = (
    (r"reshape_and_cache|store_kvcache|kv_?cache_?copy", "other"),
    (r"topk_?gating|routing|moe_?gate", "router"),
    (r"softmax", "softmax"),
    (r"(layer|rms|batch|group)_?norm|rsqrt", "norm"),
    (r"flash|fmha|attention|attn", "attention"),
    (r"rotary|rope_|_rope", "rope"),
    (r"embedding|indexselect", "embedding"),
    (r"gemm|gemv|cutlass|cublas|nvjet|xmma|Cijk_|\bbmm_|matmul|splitk|s\d+816|convolve|conv[12]d", "gemm"),
    (r"silu|gelu|swiglu|act_and_mul|relu", "activation"),
    (r"quant(?!ile)", "dequantize"),
    (r"adam|sgd", "optimizer"),
    (r"moe", "experts"),
    (r"nll_loss|cross_entropy", "loss"),
    (r"elementwise|triton_poi|copy_kernel|CatArray|FillFunctor", "elementwise"),
    (r"^aten::(add|sub|mul|div|pow|rsqrt|mean|sum|neg|cat|copy|fill|zero|where|masked_fill|clone|contiguous|to|_to_copy|exp|cos|sin)_?$", "elementwise"),
)  # fmt: skip
"""The same in the name of the kernel, where its operator says nothing (or of an operator on a CPU)."""

_PROJECTIONS = (
    "qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "router", "experts",
)  # fmt: skip
_SMALL = ("norm", "rope", "embedding", "softmax", "activation")


def copy_kind(name: str) -> str:
    """The vocabulary's word for a copy: `Memcpy HtoD (Pinned -> Device)` is memcpy_h2d."""
    return next((kind for word, kind in (("HtoD", "memcpy_h2d"), ("DtoH", "memcpy_d2h")) if word in name), "memcpy")


def kernel_kind(name: str, operator: str | None = None, module_kind: str | None = None) -> str:
    """The vocabulary's word for a kernel: by what it is called, the operator that launched it, the kind of its module."""
    if _SPEAKS.search(name):
        return _first(_COLLECTIVES, name)
    by_name = _first(_KERNELS, name)
    kind = _first(_OPERATORS, operator or "")
    if kind == "other" or (kind == "gemm" and by_name == "elementwise"):
        kind = by_name
    if kind == "gemm" and module_kind == "attention":
        return "attention"
    if (kind == "gemm" and module_kind in _PROJECTIONS) or (kind in ("elementwise", "other") and module_kind in _SMALL):
        return str(module_kind)
    return kind


def _first(patterns: tuple[tuple[str, str], ...], name: str) -> str:
    return next((kind for pattern, kind in patterns if re.search(pattern, name, re.IGNORECASE)), "other")
