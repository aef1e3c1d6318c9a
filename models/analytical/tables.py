"""Arrow tables out: one row a configuration, one row an op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.analytical.configs import NULL, Codes
from models.analytical.inventory import Array, Group, Op, Value
from models.analytical.rows import Index, Rows, sharing
from warehouse import schema

WORK = {
    "flops": "flops",
    "weight_bytes_read": "weights",
    "activation_bytes_read": "read",
    "activation_bytes_written": "written",
    "kv_bytes_read": "kv_read",
    "kv_bytes_written": "kv_written",
}
"""Work column -> field of an op, for one device."""

COUNTS = ("max_batch_size", "max_context_tokens")
"""Totals that are whole numbers."""


def totals_table(
    configs: pa.Table, totals: Mapping[str, Array], rows: Rows, ruleset: str, price_ids: list[str | None]
) -> pa.Table:
    """The columns of `configs` that are no result, then every total."""
    columns: dict[str, Any] = {
        name: configs.column(name) for name in configs.column_names if name not in totals and name not in LABELS
    }
    for name, values in totals.items():
        columns[name] = _integers(values) if name in COUNTS else _nullable(values)
    peak = totals["memory_peak_bytes"]
    is_unknown = np.isnan(peak) | np.isnan(rows.memory) | rows.rules.is_peer
    columns["is_fitting"] = pa.array(peak <= rows.memory, mask=is_unknown)
    columns["bound"] = _bound(totals["flops"], totals["bytes_moved"], rows.matrix_peak, rows.bandwidth, totals)
    columns["execution"] = _labels(np.where(_has(totals, "estimate_s"), rows.execution_codes, NULL), rows.executions)
    columns["calibration_id"] = _calibration_ids(rows, totals)
    codes = np.where(_has(totals, "usd_per_million_tokens"), rows.device_codes, NULL)
    columns["price_id"] = _labels(codes, [text or "" for text in price_ids])
    columns["status"] = _labels(rows.is_refused.astype(np.int64), ["ok", "unsupported"])
    columns["status_detail"] = _details(rows)
    columns["ruleset"] = _labels(np.zeros(rows.num_rows, np.int64), [ruleset])
    return pa.table(columns)


LABELS = ("is_fitting", "bound", "execution", "calibration_id", "price_id", "status", "status_detail", "ruleset")
"""Results that are not numbers."""


def _has(totals: Mapping[str, Array], name: str) -> NDArray[np.bool_]:
    return ~np.isnan(totals[name])


def _calibration_ids(rows: Rows, totals: Mapping[str, Array]) -> pa.Array:
    """Which constants are behind every estimate."""
    names: list[str] = []
    codes = np.full(rows.num_rows, NULL, np.int64)
    has_estimate = _has(totals, "estimate_s")
    for execution, known in rows.constants_of.items():
        own = np.array([len(names) + code for code in range(len(known))] + [NULL], np.int64)
        names += [calibration_id for calibration_id, _ in known]
        is_here = has_estimate & (rows.execution_codes == rows.executions.index(execution))
        codes = np.where(is_here, own[rows.device_codes], codes)
    return _labels(codes, names)


def _bound(flops: Array, moved: Array, peak: Array, bandwidth: Array, totals: Mapping[str, Array]) -> pa.Array:
    """Which side of the ridge point; communication where it outlasts both."""
    codes = np.where(flops * bandwidth < moved * peak, 1, 0)
    other = np.maximum(totals["compute_s"], totals["memory_s"])
    codes = np.where(totals["communication_s"] > other, 2, codes)
    return _labels(np.where(np.isnan(flops), NULL, codes), ["compute", "memory", "communication"])


def _details(rows: Rows) -> pa.Array:
    """The reason of refused rows, what was assumed for the others."""
    combined = np.zeros(rows.num_rows, np.int64)
    sentences: list[str] = [""]
    for sentence, mask in rows.notes:
        known = len(sentences)
        told = np.where(mask, combined + known, combined)
        used = np.flatnonzero(np.bincount(told, minlength=2 * known))
        sentences = [
            sentences[code] if code < known else f"{sentences[code - known]} {sentence}".strip() for code in used
        ]
        renumbered = np.zeros(2 * known, np.int64)
        renumbered[used] = np.arange(used.size)
        combined = renumbered[told]
    combined = np.where(rows.is_refused, len(sentences) + rows.refusal, combined)
    texts = [*sentences, *rows.refusals]
    codes = np.array([NULL if text == "" else code for code, text in enumerate(texts)], np.int64)
    return _labels(codes[combined], texts)


def _labels(codes: Codes, names: list[str]) -> pa.Array:
    """Text of codes, NULL for -1."""
    if codes.size and (codes == codes[0]).all():
        return pa.repeat(pa.scalar(None if codes[0] == NULL else names[codes[0]], pa.string()), codes.size)
    indices = pa.array(codes.astype(np.int32), mask=codes == NULL)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())).cast(pa.string())


def _nullable(values: Array) -> pa.Array:
    """Numbers, NULL for NaN."""
    is_absent = np.isnan(values)
    if not is_absent.any():
        return pa.array(values)
    return pa.nulls(values.size, pa.float64()) if is_absent.all() else pa.array(values, mask=is_absent)


def op_table(phase: str, ops: tuple[Op, ...], timed: list[tuple[Value, ...]], group: Group, index: Index) -> pa.Table:
    """Rows of every op of every configuration of a group, in order of (configuration, op).

    `timed`: of every op, the seconds of compute, memory, communication, the bound and the estimate, and its kernels.
    """
    size, devices = index.size, sharing(phase, group)
    names = {name: _flat([getattr(op, field) * devices for op in ops], size) for name, field in WORK.items()}
    moved = sum(names[name] for name in WORK if name != "flops")
    with np.errstate(divide="ignore", invalid="ignore"):
        intensity = np.where(moved > 0, names["flops"] / moved, np.nan)
    repeat = _Repeat(len(ops), size)
    gemms = [op.gemm or (np.nan, np.nan, np.nan) for op in ops]
    sides = [_op_bound(op, times) for op, times in zip(ops, timed, strict=True)]
    return pa.table(
        {
            "config_row": np.repeat(index.astype(np.int64), len(ops)),
            "op_index": repeat.values(np.arange(len(ops))),
            "path": repeat.texts([op.path for op in ops]),
            "parent_path": repeat.texts([op.path.rpartition(".")[0] for op in ops]),
            "op_kind": repeat.texts([op.kind for op in ops]),
            "phase": repeat.texts([op.phase for op in ops]),
            "count": np.rint(_flat([op.count for op in ops], size)).astype(np.int64),
            **{
                name: _integers(_flat([gemm[position] for gemm in gemms], size))
                for position, name in enumerate(("m", "n", "k"))
            },
            "flops": names["flops"],
            "bytes_moved": moved,
            **{name: values for name, values in names.items() if name != "flops"},
            "arithmetic_intensity": _nullable(intensity),
            "roofline_s": _flat([times[3] for times in timed], size),
            "estimate_s": _nullable(_flat([times[4] for times in timed], size)),
            "num_kernels": _nullable(_flat([times[5] for times in timed], size)),
            "bound": _labels(_flat(sides, size).astype(np.int64), ["compute", "memory", "communication"]),
            "inputs": repeat.lists([op.inputs for op in ops]),
        }
    )


def _op_bound(op: Op, times: tuple[Value, ...]) -> Value:
    """0 compute, 1 memory: the side of the ridge point of the units that run the op; 2 communication."""
    if np.any(op.sent) or np.any(op.over_host):
        return np.where(np.asarray(op.sent + op.over_host) > 0, 2.0, 1.0)
    return np.where(np.asarray(times[0]) < np.asarray(times[1]), 1.0, 0.0)


def _flat(values: list[Value], size: int) -> Array:
    """Values of k ops over n configurations as one column of n x k, configuration by configuration."""
    block = np.empty((size, len(values)))
    for column, value in enumerate(values):
        block[:, column] = value
    return block.ravel()


def _integers(values: Array) -> pa.Array:
    is_absent = np.isnan(values) | (np.abs(values) >= 2.0**63)
    return pa.array(np.rint(np.where(is_absent, 0, values)).astype(np.int64), mask=is_absent)


class _Repeat:
    """Columns that are the same for every configuration of a group."""

    def __init__(self, width: int, times: int) -> None:
        self.width, self.times = width, times

    def values(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.tile(values, self.times)

    def texts(self, texts: list[str]) -> pa.Array:
        """Empty text is NULL."""
        codes = np.array([NULL if text == "" else code for code, text in enumerate(texts)], np.int64)
        return _labels(np.tile(codes, self.times), texts)

    def lists(self, lists: list[tuple[int, ...]]) -> pa.Array:
        flat = np.array([item for items in lists for item in items], np.int64)
        ends = np.cumsum([0] + [len(items) for items in lists])
        offsets = (ends[:-1] + len(flat) * np.arange(self.times)[:, None]).ravel()
        offsets = np.append(offsets, len(flat) * self.times).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.tile(flat, self.times)))


def in_order(tables: list[pa.Table]) -> pa.Table:
    if not tables:
        return _EMPTY_OPS
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables)
    rows = table.column("config_row").to_numpy()
    if np.all(rows[1:] >= rows[:-1]):
        return table
    order = np.argsort(rows, kind="stable")
    return table.take(pa.array(order))


_OP_COLUMNS = (
    "op_index", "path", "parent_path", "op_kind", "phase", "count", "m", "n", "k", "flops", "bytes_moved",
    "weight_bytes_read", "activation_bytes_read", "activation_bytes_written", "kv_bytes_read", "kv_bytes_written",
    "arithmetic_intensity", "roofline_s", "estimate_s", "num_kernels", "bound", "inputs",
)  # fmt: skip
_EMPTY_OPS = pa.schema(
    [pa.field("config_row", pa.int64())] + [schema.OPS.arrow.field(name) for name in _OP_COLUMNS]
).empty_table()
