"""Tables of many timed kernels as rows of `kernels`: reading, closed forms of work, and the bound. Columns, never rows.

Arrays are numpy float64 or int64 of one length, times seconds, sizes bytes. Work is counted as microbench counts it: 2 FLOPs per
multiply-add; attention 4 per query-key pair and element of a head and 5 per pair for the softmax, masked pairs not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from collectors._importing import File, Unreadable
from warehouse import catalog, schema

Array: TypeAlias = NDArray[Any]
Work: TypeAlias = tuple[Any, Any]
"""FLOPs and bytes of every row."""

_BLOCK_FORMATS = {"nvfp4": "fp4", "mxfp4": "fp4"}


def read_csv(file: File, *, text: Sequence[str] = ()) -> pa.Table:
    """A CSV as an Arrow table, types inferred, `text` columns kept as strings; empty fields are NULL. Raises Unreadable."""
    with file.open() as stream:
        try:
            table = csv.read_csv(
                stream,
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=True
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError, EOFError, OSError) as error:
            raise Unreadable(f"{file.name} is not a whole CSV: {str(error).splitlines()[0]}.") from None
    return table


def groups(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """The distinct values of some columns, in order of first appearance, each with its rows."""
    codes = np.zeros(table.num_rows, np.int64)
    for name in names:
        encoded = pc.dictionary_encode(table[name].combine_chunks(), null_encoding="encode")
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
    found, first = np.unique(codes, return_index=True)
    for code, row in sorted(zip(found, first, strict=True), key=lambda pair: int(pair[1])):
        rows = table if len(found) == 1 else table.take(pa.array(np.nonzero(codes == code)[0]))
        yield tuple(table[name][int(row)].as_py() for name in names), rows


def numbers(table: pa.Table, name: str, scale: float = 1.0) -> Array:
    """A column as float64, NULL as NaN, times a scale."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), np.float64) * scale


def gemm(m: Array, n: Array, k: Array, weight: str, activation: str) -> Work:
    """Work of m x k by k x n: both operands read once, the product written, in 2 bytes where operands have fewer."""
    sizes = schema.DTYPE_BYTES
    moved = n * k * sizes[weight] + m * k * sizes[activation] + m * n * max(sizes[activation], 2.0)
    return 2.0 * m * n * k, moved


def attention(
    batch: Array,
    new: Array,
    past: Array,
    heads: Array,
    kv_heads: Array,
    head_dim: Array,
    window: Array,
    activation: str,
    kv: str,
) -> Work:
    """Work of causal attention of `new` tokens behind `past` cached ones; `window` 0 for the whole context.

    Queries read and outputs written once, keys and values of every token that some query sees read once.
    """
    sizes = schema.DTYPE_BYTES
    reach = np.where(window > 0, window, new + past)
    growing = np.clip(reach - past, 0, new)  # queries that see all before them
    pairs = growing * past + growing * (growing + 1) / 2 + (new - growing) * reach
    seen = np.minimum(new + past, reach + new - 1)
    moved = 2 * batch * new * heads * head_dim * sizes[activation] + 2 * batch * seen * kv_heads * head_dim * sizes[kv]
    return batch * heads * pairs * (4 * head_dim + 5), moved


def bounds(work: Work, device: catalog.Hardware, weight: str, activation: str) -> dict[str, Any]:
    """`roofline_s` and `bound` of every row on a device; none where it has no peak for the dtypes. FLOPs that are NaN do not bound."""
    flops, moved = work
    low = {weight, activation} <= {"nvfp4", "mxfp4", "fp4"}
    peak = device.peak("fp4" if low else _BLOCK_FORMATS.get(activation, activation))
    if peak is None and activation == "fp32":
        peak = device.vector_fp32_flops_per_s
    if peak is None:
        return {}
    compute_s, memory_s = flops / peak, moved / device.memory_bandwidth_bytes_per_s
    longest_s = np.fmax(compute_s, memory_s)
    sides = pa.DictionaryArray.from_arrays(
        pa.array((memory_s >= longest_s).astype(np.int8), mask=np.isnan(longest_s)), pa.array(["compute", "memory"])
    )
    return {"roofline_s": quantities(longest_s), "bound": sides}


def quantities(values: Array) -> pa.Array:
    """Floats, NaN as NULL."""
    return pa.array(values, pa.float64(), from_pandas=True)


def counts(values: Array) -> pa.Array:
    """Whole numbers, NaN as NULL."""
    values = np.asarray(values, np.float64)
    absent = np.isnan(values)
    return pa.array(np.where(absent, 0, values).astype(np.int64), mask=absent)


def rows(columns: Mapping[str, Any], length: int) -> pa.Table:
    """Rows of `kernels`: arrays as they are, one value for all rows repeated, None left out."""
    filled = {
        name: value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.repeat(pa.scalar(value), length)
        for name, value in columns.items()
        if value is not None
    }
    types = {column.name: column.type for column in schema.KERNELS.columns}
    return pa.table(
        {
            name: value.cast(pa.float64()) if pa.types.is_floating(types[name]) else value
            for name, value in filled.items()
        }
    )


def hardware(name: str | None) -> catalog.Hardware | None:
    """The catalogue's entry of a device, or None: then no bound is computed (and the file may be refused by its reader)."""
    try:
        return None if name is None else catalog.find_hardware(name)
    except catalog.UnknownEntryError:
        return None
