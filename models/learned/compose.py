"""The time of a run from the times of its kernels: ops of the analytical inventory become kernels, predictors time them, runs sum them.

    totals, ops = models.analytical.evaluate(configs, with_ops=True)
    found = compose(beside(totals, ops), {"gemm_time": fitted, "vector_time": fitted})

What an op launches depends on how the run is executed (`models.analytical.estimate`): eager PyTorch copies strided operands of a
batched product, scales and masks scores in kernels of their own, and writes GELU out in eight steps; a serving engine has one
product for queries, keys and values. An op that no predictor covers takes its analytical estimate, and the parts say so.

A device that waits for its host takes what the host takes: `launch_s` of the totals, where it is longer than all kernels.

Interval. Errors of one predictor on kernels of one run go the same way: within a predictor lower ends add up to the lower end,
upper ends to the upper. Errors of different predictors are taken as independent: their half-widths add up in squares. A part
without an interval of its own has that of the estimate of runs (ratio_p05 to ratio_p95 of its calibration).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.learned.fitted import Answers, Fitted
from models.learned.inputs import UNSTATED, Array, Index, Inputs, Labels, Mask, labels, number, optional
from models.learned.subjects import _estimates, devices, find
from models.learned.subjects.kernels import GEMM_KINDS
from models.learned.targets import Target
from warehouse import catalog
from warehouse.catalog.llm import Llm

GEMM, VECTOR = "gemm_time", "vector_time"
PREFILL, DECODE, COLLECTIVE = "attention_prefill_time", "attention_decode_time", "collective_time"
ESTIMATE = "analytical estimate"
"""Name of what answers where no predictor does."""
HOST = "host"
"""Kind of the part that a device waits for its host."""
RUN = "config_row"
EAGER = ("eager", "graph")
"""Execution profiles that launch every step as a kernel of its own."""
BACKENDS = {
    GEMM: {"transformers": "pytorch", "unstated": "pytorch"},
    VECTOR: {"transformers": "pytorch", "unstated": "pytorch", "vllm": "vidur", "sglang": "vidur"},
}
"""Of every target: a run's framework -> the framework under which its kernels are timed in public tables. Others are themselves."""

_CONFIGURATION = (
    "hardware_id", "framework", "framework_version", "execution", "weight_dtype", "activation_dtype", "kv_dtype",
)  # fmt: skip
"""Columns that a kernel shares with its run. Not the LLM: a kernel is the same whoever launches it."""
_RUN = ("batch_size", "input_tokens", "context_tokens", "prefix_tokens", "num_devices", "tensor_parallel", "launch_s")
"""Further columns of a run that say what its ops launch."""
_SHAPE = ("num_heads", "num_kv_heads", "head_dim")


class Timer(Protocol):
    """What times kernels: a fitted predictor, or anything with its one method."""

    def predict(self, inputs: Inputs) -> Answers:
        """Times of n kernels with their intervals."""


@dataclass(frozen=True)
class Composition:
    """Times of runs, and what they are made of.

    runs: a row a run, in order: `config_row`, `value_s`, `lower_s`, `upper_s` (90 % interval), `device_s` (all kernels, without
        waiting for the host), `predicted_share` (of the time, from predictors and not from the estimate).
    parts: a row a run, op kind and predictor: `config_row`, `op_kind`, `predictor` (a target's key, or ESTIMATE), `time_s`,
        `lower_s`, `upper_s`. The parts of a run add up to its value.
    """

    runs: pa.Table
    parts: pa.Table

    def fallbacks(self) -> list[str]:
        """Sentences on the kinds of ops that took the analytical estimate, largest first."""
        rows = self.parts.filter(pc.equal(self.parts["predictor"], ESTIMATE))
        total = float(np.sum(number(self.runs, "value_s")))
        sums = rows.group_by("op_kind").aggregate([("time_s", "sum")]).sort_by([("time_s_sum", "descending")])
        return [
            f"{row['op_kind']}: no predictor times it: its analytical estimate stands in ({row['time_s_sum'] / total:.1%} of the time)."
            for row in sums.to_pylist()
        ]


def beside(
    totals: pa.Table, ops: pa.Table, llms: Iterable[Llm] = (), hardware: Iterable[Mapping[str, Any]] = ()
) -> pa.Table:
    """Ops of `models.analytical.evaluate` beside the configuration, LLM shape and device of their run.

    `llms` and `hardware` as in `evaluate`. Runs without an answer have no ops. Raises UnknownEntryError for an LLM that neither
    they nor the catalogue know.
    """
    known = {llm.llm_id: llm for llm in llms}
    names = labels(totals, "llm_id")
    found = [known[name] if name in known else catalog.find_llm(name) for name in names.names]
    for column in _SHAPE:
        values = np.array([getattr(llm, column) for llm in found])[names.codes]
        totals = totals.append_column(column, pa.array(values)) if column not in totals.column_names else totals
    kept = [name for name in (*_CONFIGURATION, *_RUN, *_SHAPE) if name in totals.column_names]
    runs = devices.with_devices(totals.select(kept), hardware)
    runs = runs.take(ops.column(RUN))
    for name in runs.column_names:
        ops = ops.append_column(name, runs.column(name)) if name not in ops.column_names else ops
    return ops


def compose(ops: pa.Table, predictors: Mapping[str, Timer | Fitted]) -> Composition:
    """Times of runs from ops beside their run (`beside`) and predictors by the key of their target.

    Kernels of a target that no predictor is given for take the estimate of their op. Raises ValueError for a missing column.
    """
    run, kinds, count = number(ops, RUN).astype(np.int64), labels(ops, "op_kind"), number(ops, "count")
    kernels = launched(ops)
    timed = [_timed(rows, key, predictors[key]) for key, rows in kernels.items() if key in predictors]
    is_answered = np.zeros(len(run), np.bool_)
    for one in timed:
        is_answered[one.op] = True
    for one in timed:
        is_answered[one.op[~np.isfinite(one.value)]] = False
    for key, rows in kernels.items():
        if key not in predictors:
            is_answered[number(rows, "op_row").astype(np.intp)] = False
    is_part = kinds.among(FUSED) & (number(ops, "num_kernels") == 0) & (GEMM in predictors)
    parts = [one.where(is_answered) for one in timed]
    parts.append(_estimated(ops, np.flatnonzero(~is_answered & ~is_part)))
    op = np.concatenate([one.op for one in parts])
    times = [np.concatenate([getattr(one, name) for one in parts]) * count[op] for name in ("value", "lower", "upper")]
    sources = Labels.of(np.concatenate([np.full(len(one.op), one.predictor, dtype=object) for one in parts]))
    runs, where = np.unique(run, return_inverse=True)
    return _summed(runs, where[op], kinds.take(op), sources, times, _waiting(ops, where, len(runs)))


# ---- ops to kernels


@dataclass
class _Kernels:
    """Kernel rows of each target as they are found: parts of a table, to be joined."""

    ops: pa.Table
    parts: dict[str, list[pa.Table]] = field(default_factory=dict)

    def add(self, key: str, at: Index, **columns: Any) -> None:
        """Kernels of the ops at `at`, launched once or `times` times by each; columns are arrays (len(at),) or one value for all."""
        if len(at) == 0:
            return
        table = self._carried(key).take(pa.array(at))
        columns = {"op_row": at, "times": 1.0} | columns
        for name, value in columns.items():
            table = _with(table, name, _column(value, len(at)))
        self.parts.setdefault(key, []).append(table)

    def _carried(self, key: str) -> pa.Table:
        kept = [
            name for name in self.ops.column_names
            if name in _CONFIGURATION or name.startswith(devices.PREFIX)
        ]  # fmt: skip
        table = self.ops.select(kept)
        names = labels(self.ops, "framework")
        if key in (PREFILL, DECODE):  # as the inventory does where it is not stated
            stated = labels(self.ops, "kv_dtype").texts()
            kv = np.where(stated == UNSTATED, labels(self.ops, "activation_dtype").texts(), stated)
            table = _with(table, "kv_dtype", pa.array(kv, pa.string()))
        framework = np.array([BACKENDS.get(key, {}).get(name, name) for name in names.names], dtype=object)[names.codes]
        return _with(table, "framework", pa.array(framework))


def launched(ops: pa.Table) -> dict[str, pa.Table]:
    """Kernel rows by target, each with `op_row` (its op's row in `ops`) and `times` (launches by one execution of the op)."""
    found = _Kernels(ops)
    kinds, profile = labels(ops, "op_kind"), labels(ops, "execution")
    is_eager = profile.among(EAGER) | profile.mask("unstated")
    kernels = number(ops, "num_kernels")
    is_launched = kernels > 0
    sizes = _Sizes.of(ops, kinds)
    products = kinds.among(GEMM_KINDS) | (kinds.mask("other") & np.isfinite(sizes.n))
    width = _fused_width(kinds, kernels, sizes.n)
    at = np.flatnonzero(products & is_launched)
    found.add(GEMM, at, op_kind=kinds.texts()[at], m=sizes.m[at], n=width[at], k=sizes.k[at], batch_size=1)
    for kind in ("attention_scores", "attention_values"):
        at = np.flatnonzero(kinds.mask(kind))
        batch = sizes.batch[at]
        found.add(GEMM, at, op_kind="gemm", m=sizes.m[at] / batch, n=sizes.n[at], k=sizes.k[at], batch_size=batch)
    at = np.flatnonzero(kinds.among(_VECTORS) & (is_launched | kinds.mask("residual_add")))
    _vectors(found, sizes, kinds, at, np.asarray(is_eager[at], np.bool_), kernels)
    _around_attention(found, sizes, kinds, is_eager)
    _fused_attention(found, ops, kinds)
    _all_reduces(found, ops, kinds, sizes)
    return {key: pa.concat_tables(tables, promote_options="default") for key, tables in found.parts.items()}


FUSED = ("k_proj", "v_proj", "gate_proj")
"""Products that an engine runs as columns of another (q_proj, up_proj): they launch no kernel of their own."""
_VECTORS = ("norm", "q_norm", "k_norm", "softmax", "activation", "residual_add", "rope", "embedding")


@dataclass(frozen=True)
class _Sizes:
    """Of every op, on one device: m, n, k of a product, bytes read, written and cached, tokens of the pass, matrices of a batch."""

    m: Array
    n: Array
    k: Array
    read: Array
    written: Array
    cached: Array
    flops: Array
    element: Array
    tokens: Array
    batch: Array

    @classmethod
    def of(cls, ops: pa.Table, kinds: Labels) -> _Sizes:
        m, n, k = (number(ops, name) for name in "mnk")
        share = np.nan_to_num(optional(ops, "num_devices"), nan=1.0)
        read, written, cached, flops = (
            number(ops, name) / share
            for name in ("activation_bytes_read", "activation_bytes_written", "kv_bytes_read", "flops")
        )
        tokens = _spread(np.where(kinds.among(GEMM_KINDS) | kinds.mask("other"), m, np.nan), number(ops, RUN))
        element = devices.dtype_bytes(labels(ops, "activation_dtype"))
        heads = np.maximum(np.rint(m / tokens), 1.0)
        return cls(m, n, k, read, written, cached, flops, element, tokens, number(ops, "batch_size") * heads)


def _spread(values: Array, run: Array) -> Array:
    """Every NaN as the last number before it in its run, or as the first of the run."""
    at = np.arange(len(values))
    starts = np.concatenate([[True], run[1:] != run[:-1]])
    first = np.maximum.accumulate(np.where(starts, at, 0))
    last = np.maximum.accumulate(np.where(np.isfinite(values) | starts, at, 0))
    found = values[last]
    ends = np.concatenate([starts[1:], [True]])
    following = np.minimum.accumulate(np.where(np.isfinite(values) | ends, at, len(at))[::-1])[::-1]
    after = np.where(
        run[np.minimum(following, len(at) - 1)] == run[first], values[np.minimum(following, len(at) - 1)], np.nan
    )
    return np.asarray(np.where(np.isfinite(found), found, after), np.float64)


def _fused_width(kinds: Labels, kernels: Array, n: Array) -> Array:
    """Columns of products: one that an engine runs for several (no kernel of their own) has theirs too."""
    width = n.copy()
    for owner, others in (("q_proj", (1, 2)), ("up_proj", (-1,))):
        at = np.flatnonzero(kinds.mask(owner))
        for step in others:
            other = np.clip(at + step, 0, len(n) - 1)
            is_part = kinds.among(FUSED)[other] & (kernels[other] == 0)
            width[at] += np.where(is_part, n[other], 0.0)
    return width


def _vectors(found: _Kernels, sizes: _Sizes, kinds: Labels, at: Index, is_eager: Mask, kernels: Array) -> None:
    """Kernels of the ops at `at` that are no product."""
    elements = sizes.written / sizes.element
    names = kinds.texts()
    norms = np.isin(names[at], ("norm", "q_norm", "k_norm"))
    per_element = sizes.flops / np.maximum(sizes.read / sizes.element, 1.0)
    is_layer = per_element > 5.5  # 7 FLOPs an element of a layer norm, 4 of an RMS norm
    is_steps = kernels > 2

    def add(mask: Mask, kernel: str, passes: float, tensor: Array = sizes.written, *, times: float = 1.0) -> None:
        """One kernel over `tensor` (bytes), which it reads or writes `passes` times."""
        rows = at[mask]
        wide = np.maximum(tensor[rows] / sizes.element[rows] / np.maximum(sizes.tokens[rows], 1.0), 1.0)
        found.add(
            VECTOR, rows, op_kind=_kind_of(kernel), kernel=kernel, m=sizes.tokens[rows], n=wide,
            bytes_moved=passes * tensor[rows], times=times,
        )  # fmt: skip

    one_norm = norms & ~(is_steps[at] & is_eager)
    add(one_norm & is_layer[at], "layer_norm", 2.0)
    add(one_norm & ~is_layer[at], "norm", 2.0, sizes.read)
    steps = norms & is_steps[at] & is_eager
    is_narrow = sizes.element[at] < 4
    add(steps & is_narrow, "mulu", 3.0, sizes.read, times=2)
    for kernel, passes in (("powu", 2.0), ("addu", 1.0), ("mulu", 2.0), ("mulu", 2.0)):
        add(steps, kernel, passes, sizes.read * 4 / sizes.element)
    ropes = names[at] == "rope"
    add(ropes & ~is_eager, "rope", 2.0, sizes.read)
    half = sizes.read / 2  # queries, then keys
    for kernel, passes in (("mulu", 2.0), ("mulu", 1.0), ("mulu", 2.0), ("mulu", 2.0), ("add", 3.0)):
        add(ropes & is_eager, kernel, passes, half, times=2)
    add(names[at] == "residual_add", "add", 3.0)
    add(names[at] == "embedding", "embedding", 2.0)
    add((names[at] == "embedding") & is_eager & (kernels[at] > 1), "add", 3.0)
    _activations(
        add,
        names[at] == "activation",
        is_eager,
        kernels[at],
        sizes.flops[at] / elements[at],
        sizes.read[at] / sizes.written[at],
    )
    softmax = at[names[at] == "softmax"]
    rows, columns = _scores(sizes, kinds, softmax)
    found.add(
        VECTOR, softmax, op_kind="softmax", kernel="softmax", m=rows, n=columns, bytes_moved=2 * sizes.written[softmax]
    )
    add((names[at] == "softmax") & is_eager & is_narrow, "mulu", 8.0 / 2.0)


def _activations(add: Any, mask: Mask, is_eager: Mask, kernels: Array, flops: Array, operands: Array) -> None:
    """GELU in eight steps, a gated activation in one kernel or two, or one kernel; FLOPs an element tell which function."""
    composed, is_gated = mask & (kernels > 2) & is_eager, mask & (operands > 1.5)
    for kernel in ("powu", "mulu", "mulu", "tanh", "addu", "mulu"):
        add(composed, kernel, 2.0)
    for kernel in ("add", "mul"):
        add(composed, kernel, 3.0)
    add(is_gated & ~is_eager, "activation", 3.0)
    add(is_gated & is_eager, "gelu", 2.0)
    add(is_gated & is_eager, "mul", 3.0)
    plain = mask & ~composed & ~is_gated
    add(plain & (flops < 2), "relu", 2.0)
    add(plain & (flops >= 2), "gelu", 2.0)


def _scores(sizes: _Sizes, kinds: Labels, at: Index) -> tuple[Array, Array]:
    """Rows and columns of the scores that softmax ops at `at` follow: the product before them tells."""
    before = np.maximum(at - 1, 0)
    is_known = kinds.mask("attention_scores")[before]
    elements = sizes.written[at] / sizes.element[at]
    columns = np.where(is_known, sizes.n[before], np.sqrt(elements))
    return elements / columns, columns


def _around_attention(found: _Kernels, sizes: _Sizes, kinds: Labels, is_eager: Mask) -> None:
    """What eager attention launches beside its products: operands copied, scores scaled and masked, the output transposed."""
    for kind, copies in (("attention_scores", 2), ("attention_values", 2)):
        at = np.flatnonzero(kinds.mask(kind) & is_eager)
        operand = sizes.read[at] / 2 if kind == "attention_scores" else sizes.written[at]
        copied = np.where(sizes.cached[at] > 0, sizes.cached[at], operand)
        width = sizes.k[at] if kind == "attention_scores" else sizes.n[at]
        rows = copied / sizes.element[at] / width
        found.add(
            VECTOR,
            at,
            op_kind="elementwise",
            kernel="mulu",
            m=rows,
            n=width,
            bytes_moved=2 * copied,
            times=float(copies),
        )
        if kind == "attention_scores":
            for kernel in ("divu", "addu"):
                found.add(
                    VECTOR,
                    at,
                    op_kind="elementwise",
                    kernel=kernel,
                    m=sizes.m[at],
                    n=sizes.n[at],
                    bytes_moved=2 * sizes.written[at],
                )


def _fused_attention(found: _Kernels, ops: pa.Table, kinds: Labels) -> None:
    """One kernel for scores, softmax and values, of new tokens or of one token against a cache."""
    if any(name not in ops.column_names for name in _SHAPE):
        return
    phases = labels(ops, "phase")
    is_decode = phases.mask("decode")
    shards = np.nan_to_num(optional(ops, "tensor_parallel"), nan=1.0)
    heads, kv_heads, head_dim = (number(ops, name) for name in _SHAPE)
    for key, mask in ((DECODE, is_decode), (PREFILL, ~is_decode)):
        at = np.flatnonzero(kinds.mask("attention") & mask)
        cached = optional(ops, "context_tokens") - 1 if key == DECODE else np.nan_to_num(optional(ops, "prefix_tokens"))
        new = np.ones(len(heads)) if key == DECODE else optional(ops, "input_tokens")
        found.add(
            key, at, op_kind="attention", phase=phases.texts()[at], batch_size=number(ops, "batch_size")[at],
            input_tokens=new[at], context_tokens=cached[at], num_heads=(heads / shards)[at],
            num_kv_heads=np.maximum(kv_heads / shards, 1.0)[at], head_dim=head_dim[at],
        )  # fmt: skip


def _all_reduces(found: _Kernels, ops: pa.Table, kinds: Labels, sizes: _Sizes) -> None:
    """Sums over tensor-parallel devices of what the product before them gives."""
    at = np.flatnonzero(kinds.mask("all_reduce"))
    before = np.maximum(at - 1, 0)
    payload = sizes.m[before] * sizes.n[before] * sizes.element[before]
    at, payload = at[np.isfinite(payload)], payload[np.isfinite(payload)]
    devices_of = optional(ops, "tensor_parallel")
    found.add(COLLECTIVE, at, op_kind="all_reduce", kernel="all_reduce", size_bytes=payload, num_devices=devices_of[at])


def _kind_of(kernel: str) -> str:
    kinds = {"layer_norm": "norm", "norm": "norm", "rope": "rope", "embedding": "embedding"}
    return kinds.get(kernel, "activation" if kernel in ("relu", "gelu", "tanh", "activation") else "elementwise")


# ---- kernels to times


@dataclass(frozen=True)
class _Times:
    """Seconds of one execution of some ops by one predictor, (n,) each; `op` their rows."""

    predictor: str
    op: Index
    value: Array
    lower: Array
    upper: Array

    def where(self, mask: Mask) -> _Times:
        """Those of ops that `mask` (one a row of ops) keeps."""
        kept = mask[self.op]
        return _Times(self.predictor, self.op[kept], self.value[kept], self.lower[kept], self.upper[kept])


def _timed(kernels: pa.Table, key: str, predictor: Timer | Fitted) -> _Times:
    """Kernels by their predictor, summed over those of an op."""
    target: Target = find(key)
    answers = predictor.predict(target.inputs(kernels))
    op, times = number(kernels, "op_row").astype(np.intp), number(kernels, "times")
    has_interval = np.isfinite(answers.lower) & np.isfinite(answers.upper)
    low, high = _ratios(kernels)
    lower = np.where(has_interval, answers.lower, answers.value * low)
    upper = np.where(has_interval, answers.upper, answers.value * high)
    rows, where = np.unique(op, return_inverse=True)
    sums = [np.bincount(where, one * times, len(rows)) for one in (answers.value, lower, upper)]
    value, low_end, high_end = (np.asarray(one, np.float64) for one in sums)
    return _Times(key, rows, value, low_end, high_end)


def _estimated(ops: pa.Table, at: Index) -> _Times:
    """Ops by their analytical estimate."""
    rows = ops.take(pa.array(at))
    value = np.nan_to_num(number(rows, "estimate_s"), nan=0.0)
    low, high = _ratios(rows)
    return _Times(ESTIMATE, at, value, value * low, value * high)


def _ratios(rows: pa.Table) -> tuple[Array, Array]:
    """Measured over estimated runs: the ends of the estimate's 90 % interval as factors, on each row's device."""
    found = _estimates.constants(rows, ("ratio_p05", "ratio_p95"))
    return np.minimum(found["ratio_p05"], 1.0), np.maximum(found["ratio_p95"], 1.0)


def _waiting(ops: pa.Table, where: Index, num_runs: int) -> Array:
    """Seconds that the host needs to issue a run's kernels; 0 where the totals do not say; shape (runs,)."""
    host = np.zeros(num_runs)
    np.maximum.at(host, where, np.nan_to_num(optional(ops, "launch_s"), nan=0.0))
    return host


def _summed(runs: Any, where: Any, kinds: Labels, sources: Labels, times: Sequence[Array], host: Array) -> Composition:
    """Parts by run, kind and predictor, and runs."""
    shape = (len(runs), len(kinds.names), len(sources.names))
    code = np.ravel_multi_index((where, kinds.codes, sources.codes), shape)
    used, index = np.unique(code, return_inverse=True)
    value, lower, upper = (np.bincount(index, one, len(used)) for one in times)
    run, kind, source = np.unravel_index(used, shape)
    by_source = run * shape[2] + source
    sums = [
        np.bincount(by_source, one, shape[0] * shape[2]).reshape(shape[0], shape[2]) for one in (value, lower, upper)
    ]
    device = sums[0].sum(axis=1)
    below, above = (np.sqrt(((one - sums[0]) ** 2).sum(axis=1)) for one in sums[1:])
    is_predicted = np.array([name != ESTIMATE for name in sources.names])
    wait = np.maximum(host - device, 0.0)
    total = device + wait
    late = np.flatnonzero(wait > 0)
    parts = pa.table(
        {
            RUN: np.concatenate([runs[run], runs[late]]),
            "op_kind": [*(kinds.names[one] for one in kind), *[HOST] * len(late)],
            "predictor": [*(sources.names[one] for one in source), *[ESTIMATE] * len(late)],
            "time_s": np.concatenate([value, wait[late]]),
            "lower_s": np.concatenate([lower, wait[late]]),
            "upper_s": np.concatenate([upper, wait[late]]),
        }
    )
    return Composition(
        pa.table(
            {
                RUN: runs,
                "value_s": total,
                "lower_s": np.maximum(device - below, 0.0) + wait,
                "upper_s": device + above + wait,
                "device_s": device,
                "predicted_share": sums[0][:, is_predicted].sum(axis=1) / np.maximum(total, np.finfo(np.float64).tiny),
            }
        ),
        parts,
    )


def _column(value: Any, length: int) -> pa.Array:
    """An array, or one value for all; numbers as floats."""
    values = value if isinstance(value, np.ndarray) else np.full(length, value, dtype=object)
    is_text = any(isinstance(one, str) for one in values[:1])
    return pa.array(values, pa.string()) if is_text else pa.array(values.astype(np.float64))


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


# ---- what a stack adds


@dataclass(frozen=True)
class Overhead:
    """What a software stack makes of composed times: `offset_s` a step and `scale` on all its kernels."""

    offset_s: float = 0.0
    scale: float = 1.0

    def apply(self, composed_s: Array, steps: Array | float = 1.0) -> Array:
        """Times of runs of so many steps (passes through the LLM), shape (n,)."""
        return np.asarray(self.offset_s * steps + self.scale * composed_s, np.float64)


STRENGTH = 0.001
"""Weight of `no overhead` in the fit, of one row of error for every thousand: it decides only what the rows leave open."""


def calibrated(composed_s: Array, measured_s: Array, stacks: Labels, steps: Array | None = None) -> dict[str, Overhead]:
    """Offset and scale of every stack, fitted on its own measured runs: the few-shot calibration of a composition.

    Least squares of (offset steps + scale composed) / measured - 1, neither below 0. Shapes (n,). Raises ValueError for a value
    that is not a positive number.
    """
    from scipy.optimize import nnls

    step = np.ones(len(composed_s)) if steps is None else steps
    for name, values in (("composed_s", composed_s), ("measured_s", measured_s)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(
                f"{name} must be positive seconds; row {int(np.argmin(np.nan_to_num(values) > 0))} is not."
            )
    found = {}
    for name in stacks.names:
        at = stacks.mask(name)
        share = np.column_stack([step[at], composed_s[at]]) / measured_s[at, None]
        size = share.max(axis=0)
        strength = np.sqrt(STRENGTH * at.sum())
        left = np.concatenate([share / size, strength * np.eye(2)])
        right = np.concatenate([np.ones(int(at.sum())), strength * np.array([0.0, 1.0]) * size])
        offset, scale = nnls(left, right)[0] / size
        found[name] = Overhead(float(offset), float(scale))
    return found
