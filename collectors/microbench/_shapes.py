"""What is timed: one kernel at one shape, the work it does by closed form, and the presets that list shapes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

from warehouse import schema

KiB, MiB, GiB = 2**10, 2**20, 2**30

OP_KIND = {
    "gemm": "gemm", "attention": "attention", "rms_norm": "norm", "layer_norm": "norm", "softmax": "softmax",
    "add": "elementwise", "silu_mul": "elementwise", "memcpy": "memcpy", "triad": "elementwise", "read": "elementwise",
    "memcpy_h2d": "memcpy_h2d", "memcpy_d2h": "memcpy_d2h", "launch": "other",
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter", "broadcast": "communication",
}  # fmt: skip
"""Kernel (a value of `runs.kernel`) -> its word in the vocabulary of `ops.op_kind`."""

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
FAMILIES: dict[str, tuple[str, ...]] = {
    "gemm": ("gemm",),
    "copy": ("memcpy", "triad", "read"),
    "attention": ("attention",),
    "norm": ("rms_norm", "layer_norm"),
    "softmax": ("softmax",),
    "elementwise": ("add", "silu_mul"),
    "memcpy": ("memcpy_h2d", "memcpy_d2h"),
    "launch": ("launch",),
    **{name: (name,) for name in COLLECTIVES},
}
"""What `--kernel` names -> kernels. GEMMs and copies come first: their ceilings are what the others are compared with."""

PRESETS = ("tiny", "quick", "full", "zhang-2023")
DTYPES = ("fp32", "bf16", "fp16", "int8", "fp8")
ROWWISE_FLOPS = {"rms_norm": 4.0, "layer_norm": 7.0, "softmax": 5.0, "add": 1.0, "silu_mul": 6.0}
"""FLOPs of one element, those of `models.analytical`."""

RESIDENT_FACTOR = 4
"""A working set of this many times the last-level cache leaves nothing there for its next use."""


@dataclass(frozen=True)
class Shape:
    """One cell: the configuration columns of a run; a size of 0 means nothing for the kernel and is NULL there.

    A GEMM is (m, k) x (k, n). Attention is of `batch_size` sequences: prefill has input_tokens, one decode step
    context_tokens. Row-wise kernels work on m rows of n elements. `execution` is no part of the key.
    """

    kernel: str
    dtype: str
    m: int = 0
    n: int = 0
    k: int = 0
    batch_size: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    input_tokens: int = 0
    context_tokens: int = 0
    attention: str | None = None
    size_bytes: int = 0
    host_memory: str | None = None
    cache_state: str | None = None
    num_devices: int = 1
    interconnect: str | None = None
    execution: str = "eager"

    @property
    def family(self) -> str:
        return next(name for name, kernels in FAMILIES.items() if self.kernel in kernels)

    @property
    def is_decode(self) -> bool:
        return self.context_tokens > 0

    @property
    def queries(self) -> int:
        return 1 if self.is_decode else self.input_tokens

    @property
    def keys(self) -> int:
        return self.context_tokens if self.is_decode else self.input_tokens

    def configuration(self) -> dict[str, Any]:
        """Configuration columns for `Session.identity`."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("dtype", "execution")}
        own = {name: None if value == 0 else value for name, value in own.items()}
        dtypes = {"activation_dtype": self.dtype}
        if self.kernel == "gemm":
            dtypes["weight_dtype"] = self.dtype
        if self.kernel == "attention":
            dtypes["kv_dtype"] = self.dtype
        return {"phase": "microbench", **own, **dtypes}

    @property
    def label(self) -> str:
        """The shape in words: 'gemm 4096 x 4096 x 4096 bf16, warm'."""
        sizes = " x ".join(str(one) for one in (self.m, self.n, self.k) if one)
        words = [self.kernel, sizes]
        if self.num_heads:
            words.append(f"{self.num_heads}/{self.num_kv_heads} heads of {self.head_dim}, batch {self.batch_size},")
            words.append(f"{self.input_tokens} in" if self.input_tokens else f"{self.context_tokens} context")
        if self.size_bytes:
            words.append(_size(self.size_bytes))
        words.append(self.dtype)
        named = " ".join(word for word in words if word)
        extra = (
            self.attention,
            self.host_memory,
            self.cache_state,
            self.execution if self.execution != "eager" else None,
        )
        return ", ".join([named, *(one for one in extra if one is not None)])


class Work(NamedTuple):
    """FLOPs (2 per multiply-add; None where there are none to speak of) and bytes, every operand once."""

    flops: float | None
    weight_bytes_read: float
    activation_bytes_read: float
    kv_bytes_read: float
    activation_bytes_written: float

    @property
    def bytes_moved(self) -> float:
        """Device-memory traffic where nothing is found in a cache."""
        return sum(self[1:])


def work(shape: Shape) -> Work | None:
    """The work of one execution; None of a launch, of a copy to or from the host and of a collective, which others bound.

    Attention counts 4 FLOPs per query-key pair and element of a head and 5 per pair for the softmax; pairs that the causal
    mask drops are not counted, because one fused kernel need not make them (`models.analytical` does alike; counted full,
    a kernel that skips them would lie above its roof). The product within silu x mul is an operand once: what a fused kernel
    moves. A GEMM writes int32 from int8 and bf16 from fp8.
    """
    size = schema.DTYPE_BYTES[shape.dtype]
    if shape.kernel == "gemm":
        m, n, k = float(shape.m), float(shape.n), float(shape.k)
        written = {"int8": 4.0, "fp8": 2.0}.get(shape.dtype, size)
        return Work(2 * m * n * k, n * k * size, m * k * size, 0.0, m * n * written)
    if shape.kernel == "attention":
        return _attention_work(shape, size)
    if shape.kernel in ROWWISE_FLOPS:
        rows, columns = float(shape.m), float(shape.n)
        vectors = {"rms_norm": 1, "layer_norm": 2}.get(shape.kernel, 0)
        operands = 2 if shape.kernel in ("add", "silu_mul") else 1
        tensor = rows * columns * size
        return Work(
            ROWWISE_FLOPS[shape.kernel] * rows * columns, vectors * columns * size, operands * tensor, 0.0, tensor
        )
    if shape.kernel in FAMILIES["copy"]:
        array = float(shape.size_bytes)
        flops, read, written = {"memcpy": (None, 1, 1), "triad": (2.0, 2, 1), "read": (1.0, 1, 0)}[shape.kernel]
        return Work(None if flops is None else flops * array / size, 0.0, read * array, 0.0, written * array)
    return None


def bus_bytes(shape: Shape) -> float:
    """Bytes over the busiest link of a collective of n ranks in a ring, as nccl-tests counts them: of the whole tensor
    2 (n - 1) / n for all_reduce, (n - 1) / n for all_gather (the whole is n parts of size_bytes) and reduce_scatter, 1 for broadcast.
    """
    ranks, size = shape.num_devices, float(shape.size_bytes)
    share = (ranks - 1) / ranks
    return {"all_reduce": 2 * share, "all_gather": ranks * share, "reduce_scatter": share, "broadcast": 1.0}[
        shape.kernel
    ] * size


def shapes(
    preset: str,
    families: Sequence[str],
    dtypes: Sequence[str] | None,
    cache_states: Sequence[str] | None,
    *,
    device: str,
    cache_bytes: float,
    num_ranks: int,
    interconnect: str | None,
) -> list[Shape]:
    """Every cell of a preset, once, for a device ('cpu', 'cuda'), family by family and dtype by dtype.

    `dtypes` and `cache_states` None for the family's own. A working set far beyond the cache has its default state alone.
    """
    found: list[Shape] = []
    for family in families:
        plain = [one for kernel in FAMILIES[family] for one in _plain(preset, kernel, device, num_ranks)]
        if family in COLLECTIVES:
            found += [replace(one, interconnect=interconnect) for one in plain]
        elif family in ("memcpy", "launch"):
            found += plain
        else:
            chosen = ["fp32"] if family == "copy" else dtypes or _default_dtypes(preset, family, device)
            found += [
                replace(one, dtype=dtype, cache_state=state)
                for dtype, one in itertools.product(chosen, plain)
                for state in _states(replace(one, dtype=dtype), cache_states, cache_bytes)
            ]
    return list(dict.fromkeys(found))


def default_families(preset: str, device: str) -> list[str]:
    """What a preset holds: of zhang-2023 its GEMMs, copies to and from the host and collectives."""
    names = ["gemm", "memcpy", *COLLECTIVES] if preset == "zhang-2023" else list(FAMILIES)
    return [name for name in names if device == "cuda" or name != "memcpy"]


def is_resident(moved: float, cache_bytes: float) -> bool:
    """Whether some of a working set can still be in the last-level cache when it is used again."""
    return moved < RESIDENT_FACTOR * cache_bytes


def _states(shape: Shape, asked: Sequence[str] | None, cache_bytes: float) -> Sequence[str]:
    is_matrix = shape.kernel == "gemm" or (shape.kernel == "attention" and not shape.is_decode)
    default = "warm" if is_matrix else "cold"
    done = work(shape)
    if asked is None or done is None or not is_resident(done.bytes_moved, cache_bytes):
        return (default,)
    return asked


def _default_dtypes(preset: str, family: str, device: str) -> list[str]:
    if preset == "zhang-2023":
        return ["bf16"]
    if preset == "tiny":
        return ["fp32"]
    if family == "gemm":
        return ["fp32", "bf16", "int8"] if device == "cpu" else ["bf16", "fp16", "fp8", "int8", "fp32"]
    return ["fp32", "bf16"] if device == "cpu" else ["bf16"]


# ---- presets: without dtype and cache state


def _plain(preset: str, kernel: str, device: str, num_ranks: int) -> list[Shape]:
    found: list[dict[str, Any]]
    if kernel == "gemm":
        found = [{"m": m, "n": n, "k": k} for m, n, k in _gemms(preset, device)]
    elif kernel == "attention":
        found = _attentions(preset, device)
    elif kernel in ROWWISE_FLOPS:
        found = [{"m": m, "n": n} for m, n in _planes(preset, kernel, device)]
    elif kernel in FAMILIES["copy"]:
        found = [{"size_bytes": size} for size in _copies(preset, device)]
    elif kernel in FAMILIES["memcpy"]:
        pairs = itertools.product(("pinned", "pageable"), _host_copies(preset))
        found = [{"host_memory": memory, "size_bytes": size} for memory, size in pairs]
    elif kernel == "launch":
        found = [{"execution": one} for one in (("eager", "graph") if device == "cuda" else ("eager",))]
    else:
        found = [{"size_bytes": size, "num_devices": num_ranks} for size in _messages(preset, device)]
    return [Shape(kernel, "fp32", **sizes) for sizes in found]


def _gemms(preset: str, device: str) -> list[tuple[int, int, int]]:
    """(m, n, k), large ones first: their peak is what the others are compared with."""
    if preset == "zhang-2023":
        return _zhang_gemms()
    if preset == "tiny":
        return [(96, 64, 32), (97, 64, 32)]
    sizes = _CPU_GEMMS if device == "cpu" else _CUDA_GEMMS
    squares, rows, layers = sizes["quick" if preset == "quick" else "full"]
    found = [(size, size, size) for size in squares] + [(m, n, k) for (n, k), m in itertools.product(layers, rows)]
    return [*found, (squares[0] + 13, squares[0], squares[0])]


_LAYERS = [
    (4096, 4096), (11008, 4096), (4096, 11008), (32000, 4096),
    (6144, 4096), (28672, 4096), (4096, 14336), (128256, 4096),
    (10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672),
]  # fmt: skip
"""(n, k) of the projections of Llama-2-7B, Llama-3.1-8B and Llama-3.1-70B (query, key and value, and gate and up, as one)."""


_Gemms: TypeAlias = dict[str, tuple[Sequence[int], Sequence[int], Sequence[tuple[int, int]]]]
_CPU_GEMMS: _Gemms = {
    "quick": ((1024, 768, 512, 256), (1, 16, 128), [(4096, 4096)]),
    "full": (
        (2048, 1536, 1024, 768, 512, 384, 256, 128, 64),
        (1, 4, 16, 64, 128, 256, 512),
        [(4096, 4096), (11008, 4096), (4096, 11008)],
    ),
}
_CUDA_GEMMS: _Gemms = {
    "quick": ((8192, 4096, 2048, 1024), (1, 16, 128, 2048), [(14336, 4096)]),
    "full": (
        (16384, 8192, 4096, 2048, 1024, 512, 256),
        (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
        _LAYERS,
    ),
}
"""Preset -> squares, then rows m of each (n, k)."""


def _zhang_gemms() -> list[tuple[int, int, int]]:
    """The two shapes of Table XII of zhang-2023-dissecting, and its Figure 11: m from 4096 to 16384 in steps of 512 on three
    (n, k), and on one of them 13 rows more, which no tile of a tensor core divides."""
    curves = ((11008, 4096, 0), (11008, 4096, 13), (4096, 4096, 0), (16384, 16384, 0))
    swept = [(m + more, n, k) for n, k, more in curves for m in range(4096, 16384 + 1, 512)]
    return [(666, 11008, 4096), (10624, 11008, 4096), *swept]


def _attentions(preset: str, device: str) -> list[dict[str, Any]]:
    """Heads of llama-2-7b (32/32), llama-3.1-8b (32/8) and qwen2.5-7b (28/4), all 128 wide."""
    if preset == "tiny":
        heads, inputs, contexts, batches = [(4, 2, 64)], [24], [512], [2]
    elif device == "cpu":
        heads = [(32, 8, 128)] if preset == "quick" else [(32, 32, 128), (32, 8, 128), (28, 4, 128)]
        inputs, contexts = ([128, 512], [512, 2048]) if preset == "quick" else ([128, 512, 1024], [512, 2048, 8192])
        batches = [1] if preset == "quick" else [1, 4]
    else:
        heads = [(32, 32, 128), (32, 8, 128)] + ([] if preset == "quick" else [(28, 4, 128)])
        inputs, contexts = ([512, 2048, 8192],) * 2 if preset == "quick" else ([128, 512, 2048, 4096, 8192, 16384],) * 2
        batches = [1, 16] if preset == "quick" else [1, 4, 16, 64]
    kernels = ("sdpa", "flash") if device == "cuda" and preset == "full" else ("sdpa",)
    return [
        {"batch_size": batch, "num_heads": query, "num_kv_heads": key, "head_dim": width, "attention": one, **tokens}
        for one, (query, key, width) in itertools.product(kernels, heads)
        for batch, tokens in [
            *((1, {"input_tokens": length}) for length in inputs),
            *((batch, {"context_tokens": length}) for batch, length in itertools.product(batches, contexts)),
        ]
    ]  # fmt: skip


def _planes(preset: str, kernel: str, device: str) -> list[tuple[int, int]]:
    """(m, n): tokens by hidden size, by vocabulary for the softmax, by the inner size of an MLP for element-wise kernels."""
    if preset == "tiny":
        return [(128, 512)]
    width = {"softmax": 32000, "add": 4096, "silu_mul": 11008}.get(kernel, 4096)
    rows = ([128, 512] if kernel == "softmax" else [128, 1024]) if device == "cpu" else [16, 2048, 8192]
    more = [] if preset == "quick" else [1, 4096 if device == "cpu" else 32768]
    return [(m, width) for m in (*rows, *more)]


def _copies(preset: str, device: str) -> list[int]:
    if preset == "tiny":
        return [MiB]
    if device == "cpu":
        return [128 * MiB, 16 * MiB, 1 * MiB] if preset == "quick" else [MiB * 4**step for step in range(5)]
    return [GiB, 64 * MiB, MiB] if preset == "quick" else [MiB * 2**step for step in range(12)]


def _host_copies(preset: str) -> list[int]:
    """4 KiB to 1 GiB, as Figure 12 of zhang-2023-dissecting shows them (it prints no list of sizes)."""
    if preset == "tiny":
        return [64 * KiB]
    return [256 * MiB, 16 * MiB, 256 * KiB, 4 * KiB] if preset == "quick" else [4 * KiB * 4**step for step in range(10)]


def _messages(preset: str, device: str) -> list[int]:
    if preset == "tiny":
        return [4 * KiB, 64 * KiB]
    largest = 16 * MiB if device == "cpu" else GiB
    sizes = [KiB * (16 if preset == "quick" else 4) ** step for step in range(12)]
    return [one for one in sizes if one <= largest]


def _attention_work(shape: Shape, size: float) -> Work:
    queries, keys = shape.queries, shape.keys
    pairs = shape.batch_size * shape.num_heads * (float(keys) if shape.is_decode else queries * (queries + 1) / 2)
    query = shape.batch_size * shape.num_heads * queries * shape.head_dim * size
    cache = 2 * shape.batch_size * shape.num_kv_heads * keys * shape.head_dim * size
    read = (query, cache) if shape.is_decode else (query + cache, 0.0)
    return Work(pairs * (4 * shape.head_dim + 5), 0.0, *read, query)


def _size(value: int) -> str:
    for unit, name in ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value} B"
