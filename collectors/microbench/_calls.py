"""The kernels of one device as calls of torch, and how one is timed. Imports torch."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from collectors import _memory, _nvml, _session, _timing
from collectors._steps import UnsupportedError
from collectors.microbench import _shapes
from collectors.microbench._shapes import Shape

TORCH_DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8, "fp8": torch.float8_e4m3fn,
}  # fmt: skip
WINDOW_S = 1e-3
"""A repeat lasts at least so long: shorter executions are made back to back and the time divided by their number. Launching on
an idle GPU and waiting for it takes some ten microseconds; and of buffers used in turn no single lucky one makes a repeat."""

MAX_EXECUTIONS = 5000
MIN_REPEATS, MAX_REPEATS = 5, 200
GRAPH_LAUNCHES = 200
"""Kernels of one replayed CUDA graph."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Prepared:
    """A shape ready to run: calls made in turn (each on buffers of its own where the cache is to be cold), the kernels one call
    launches, and what is entered around them all."""

    calls: Sequence[Call]
    launches: int = 1
    around: AbstractContextManager[Any] = field(default_factory=contextlib.nullcontext)


def prepare(shape: Shape, device: str, cache_bytes: float) -> Prepared:
    """Buffers and calls of a shape. Raises UnsupportedError, TooLargeError or what an allocator raises."""
    if device != "cuda" and shape.kernel in _shapes.FAMILIES["memcpy"]:
        raise UnsupportedError("copies between host and device need a device with memory of its own")
    if shape.kernel != "gemm" and shape.dtype in ("int8", "fp8"):
        raise UnsupportedError(f"torch has no {shape.kernel} in {shape.dtype}")
    if shape.kernel == "launch":
        return _launch(shape, device)
    work = _shapes.work(shape)
    moved = float(shape.size_bytes) if work is None else work.bytes_moved
    sets = 1
    if shape.cache_state == "cold":
        sets = max(1, math.ceil(_shapes.RESIDENT_FACTOR * cache_bytes / moved))
    _memory.check_free(device, sets * moved)
    make = _MAKERS[shape.kernel]
    around = _forced_flash() if shape.attention == "flash" else contextlib.nullcontext()
    return Prepared([make(shape, device) for _ in range(sets)], around=around)


def measure(prepared: Prepared, device: str, budget_s: float) -> tuple[_timing.Timing, int]:
    """Times of one execution, and how many made one repeat."""
    calls = itertools.cycle(prepared.calls)

    def once() -> None:
        next(calls)()

    with torch.inference_mode(), prepared.around:
        executions = _executions(once, device)

        def repeat() -> None:
            for _ in range(executions):
                next(calls)()

        timing = _timing.measure(
            repeat,
            device=device,
            warmup=_timing.KERNEL,
            min_repeats=MIN_REPEATS,
            max_repeats=MAX_REPEATS,
            budget_s=budget_s,
        )
    divisor = executions * prepared.launches
    return replace(timing, samples=tuple(_divided(one, divisor) for one in timing.samples)), divisor


def shortest_s(timing: _timing.Timing) -> float:
    """Shortest of the measured repeats, on the device's clock where it has one."""
    return min(one.wall_s if one.device_s is None else min(one.device_s, one.wall_s) for one in timing.measured)


def failure(shape: Shape, error: Exception) -> dict[str, Any]:
    """Status columns of a shape that failed: `unsupported` where there is no such kernel, out of memory, else an error.

    What torch refuses of 8-bit GEMMs and of a forced kernel it refuses by a RuntimeError about the shape or the device.
    """
    columns = _session.failure(error)
    is_refusal = isinstance(error, RuntimeError) and ("CUDA error" not in str(error) or "NOT_SUPPORTED" in str(error))
    is_choosy = shape.dtype in ("int8", "fp8") or shape.attention == "flash"
    if columns["status"] == "error" and is_choosy and is_refusal:
        columns["status"] = "unsupported"
    return columns


def check_alive(device: str) -> None:
    """After a failure: raise DeviceLostError where a GPU answers nothing any more, as after a fault of a kernel."""
    if device != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise _nvml.DeviceLostError(str(error).partition("\n")[0]) from error


def _executions(once: Call, device: str) -> int:
    """How many make a repeat that is long enough for the clocks."""
    _elapsed(once, 1, device)  # libraries load and choose on first use
    estimates = []
    for _ in range(3):
        estimates.append(_elapsed(once, 1, device))
        if estimates[-1] > WINDOW_S:
            return 1
    count = math.ceil(WINDOW_S / min(estimates))
    return min(MAX_EXECUTIONS, max(1, math.ceil(count * WINDOW_S / _elapsed(once, count, device))))


def _elapsed(call: Call, count: int, device: str) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _divided(sample: _timing.Sample, by: int) -> _timing.Sample:
    device_s = None if sample.device_s is None else sample.device_s / by
    return replace(sample, wall_s=sample.wall_s / by, cpu_s=sample.cpu_s / by, device_s=device_s)


# ---- one call on buffers of its own


def _gemm(shape: Shape, device: str) -> Call:
    """x W^T as a Linear layer has it: the second matrix lies in memory as (n, k). fp8 accumulates fast, as inference does."""
    m, n, k = shape.m, shape.n, shape.k
    dtype = TORCH_DTYPES[shape.dtype]
    if shape.dtype == "int8":
        a, b = (torch.randint(-8, 8, size, dtype=dtype, device=device) for size in ((m, k), (n, k)))
        return functools.partial(torch._int_mm, a, b.t(), out=torch.empty(m, n, dtype=torch.int32, device=device))
    a, b = (torch.randn(size, device=device).to(dtype) for size in ((m, k), (n, k)))
    if shape.dtype != "fp8":
        return functools.partial(torch.mm, a, b.t(), out=torch.empty(m, n, dtype=dtype, device=device))
    one = torch.ones((), device=device)
    out = torch.empty(m, n, dtype=torch.bfloat16, device=device)
    return functools.partial(
        torch._scaled_mm, a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True, out=out
    )


def _attention(shape: Shape, device: str) -> Call:
    query, key, value = (
        torch.randn(shape.batch_size, heads, tokens, shape.head_dim, device=device).to(TORCH_DTYPES[shape.dtype])
        for heads, tokens in (
            (shape.num_heads, shape.queries),
            (shape.num_kv_heads, shape.keys),
            (shape.num_kv_heads, shape.keys),
        )
    )
    return functools.partial(
        F.scaled_dot_product_attention, query, key, value,
        is_causal=not shape.is_decode, enable_gqa=shape.num_heads != shape.num_kv_heads,
    )  # fmt: skip


def _norm(shape: Shape, device: str) -> Call:
    x, weight = _ones(shape, device), _ones(replace(shape, m=1), device)[0]
    if shape.kernel == "rms_norm":
        return functools.partial(F.rms_norm, x, (shape.n,), weight, 1e-5)
    return functools.partial(F.layer_norm, x, (shape.n,), weight, weight.clone(), 1e-5)


def _softmax(shape: Shape, device: str) -> Call:
    return functools.partial(torch.softmax, _ones(shape, device), -1, out=_ones(shape, device))


def _add(shape: Shape, device: str) -> Call:
    return functools.partial(torch.add, _ones(shape, device), _ones(shape, device), out=_ones(shape, device))


def _silu_mul(shape: Shape, device: str) -> Call:
    gate, up, out = (_ones(shape, device) for _ in range(3))

    def call() -> None:
        torch.ops.aten.silu.out(gate, out=out)
        torch.mul(out, up, out=out)

    return call


def _copy(shape: Shape, device: str) -> Call:
    x, y = (_array(shape, device) for _ in range(2))
    return functools.partial(y.copy_, x)


def _triad(shape: Shape, device: str) -> Call:
    x, y, z = (_array(shape, device) for _ in range(3))
    return functools.partial(torch.add, x, y, alpha=2.0, out=z)


def _read(shape: Shape, device: str) -> Call:
    return _array(shape, device).sum


def _memcpy(shape: Shape, device: str) -> Call:
    """Without waiting for each copy; from pageable memory the driver stages it and returns when the source was read."""
    host = _array(shape, "cpu")
    if shape.host_memory == "pinned":
        host = host.pin_memory()
    ends = (_array(shape, device), host) if shape.kernel == "memcpy_h2d" else (host, _array(shape, device))
    return functools.partial(ends[0].copy_, ends[1], non_blocking=True)


def _launch(shape: Shape, device: str) -> Prepared:
    """The smallest kernel, back to back: one by one from the host, or all of them in one CUDA graph."""
    one = torch.zeros(1, device=device)
    if shape.execution != "graph":
        return Prepared([functools.partial(one.add_, 1.0)])
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        one.add_(1.0)  # whatever is made on first use must not be made while capturing
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_LAUNCHES):
            one.add_(1.0)
    return Prepared([functools.partial(_replay, graph, one)], launches=GRAPH_LAUNCHES)


def _replay(graph: Any, buffer: torch.Tensor) -> None:
    """`buffer` is what the graph writes: given back, its memory would be another tensor's at the next replay."""
    graph.replay()


_MAKERS: dict[str, Callable[[Shape, str], Call]] = {
    "gemm": _gemm, "attention": _attention, "rms_norm": _norm, "layer_norm": _norm, "softmax": _softmax,
    "add": _add, "silu_mul": _silu_mul, "memcpy": _copy, "triad": _triad, "read": _read, "memcpy_h2d": _memcpy, "memcpy_d2h": _memcpy,
}  # fmt: skip


def _ones(shape: Shape, device: str) -> torch.Tensor:
    return torch.ones(shape.m, shape.n, dtype=TORCH_DTYPES[shape.dtype], device=device)


def _array(shape: Shape, device: str) -> torch.Tensor:
    return torch.ones(shape.size_bytes // 4, device=device)


@contextlib.contextmanager
def _forced_flash() -> Iterator[None]:
    """Only the flash kernel: torch raises where it does not take these inputs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield
