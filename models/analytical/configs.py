"""Configurations as arrays: one Arrow table with (some of) the configuration columns of `runs` in, codes and numbers out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.analytical.inventory import Array
from warehouse import schema

NULL = -1
"""Code of an absent value."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Names:
    """A text column: distinct values, and for every row the index of its value, or NULL."""

    values: list[str]
    codes: Codes


class Configs:
    """Columns of a table of configurations; an absent column is a column of NULL. Raises ValueError on a wrong type."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.num_rows: int = table.num_rows

    def names(self, column: str) -> Names:
        """A text column as codes."""
        if column not in self.table.column_names:
            return Names([], np.full(self.num_rows, NULL, np.int64))
        values = self.table.column(column).combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # an empty table, in some versions of pyarrow
            values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
        if pa.types.is_null(values.type):
            return Names([], np.full(self.num_rows, NULL, np.int64))
        if not pa.types.is_dictionary(values.type):
            values = pc.dictionary_encode(values)
        if not pa.types.is_string(values.dictionary.type) and not pa.types.is_large_string(values.dictionary.type):
            raise ValueError(_wrong_type(column, "text", values.dictionary.type))
        codes = values.indices.cast(pa.int64()).fill_null(NULL).to_numpy(zero_copy_only=False)
        return Names(values.dictionary.to_pylist(), codes)

    def numbers(self, column: str) -> Array:
        """A number column, NaN where NULL."""
        if column not in self.table.column_names:
            return np.full(self.num_rows, np.nan)
        values = self.table.column(column)
        if pa.types.is_null(values.type):
            return np.full(self.num_rows, np.nan)
        if not pa.types.is_integer(values.type) and not pa.types.is_floating(values.type):
            raise ValueError(_wrong_type(column, "a number", values.type))
        return np.array(values.cast(pa.float64()).to_numpy(), np.float64)

    def sets(self, column: str) -> tuple[list[frozenset[str]], Codes]:
        """A list column as distinct sets and, for every row, the index of its set; NULL is the empty set."""
        empty = [frozenset[str]()], np.zeros(self.num_rows, np.int64)
        if column not in self.table.column_names or not pa.types.is_list(self.table.column(column).type):
            return empty
        values = self.table.column(column)
        if not (pc.sum(pc.list_value_length(values)).as_py() or 0):
            return empty
        encoded = pc.dictionary_encode(pc.binary_join(pc.fill_null(values, []), " ")).combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().chunk(0)
        sets = [frozenset(text.split()) for text in encoded.dictionary.to_pylist()]
        return sets, encoded.indices.cast(pa.int64()).to_numpy(zero_copy_only=False)

    def degree(self, column: str) -> Array:
        """A parallel degree: 1 where NULL."""
        values = self.numbers(column)
        return np.where(np.isnan(values), 1.0, values)


LARGEST_SIZE = 2**53
"""Largest count that a float64 holds with all those below it; larger sizes are refused."""


def check_size(name: str, value: int, least: int = 1, most: int = LARGEST_SIZE) -> None:
    """Raise ValueError, with the name it is known by, for a size below `least` or above `most`."""
    if not least <= value <= most:
        bound = f"{least} or more" if value < least else f"{most} or less"
        raise ValueError(f"{name} must be {bound}, not {value}.")


def dtype_bytes(names: Names, otherwise: Array | float) -> Array:
    """Bytes of one element of a dtype column: `otherwise` where NULL, NaN where the dtype is unknown."""
    if not names.values:
        return np.broadcast_to(np.asarray(otherwise, np.float64), names.codes.shape)
    table = np.array([schema.DTYPE_BYTES.get(value, np.nan) for value in names.values] + [np.nan])
    sizes = table[names.codes]
    return sizes if names.codes.min(initial=0) > NULL else np.where(names.codes == NULL, otherwise, sizes)


def dtype_names(name: str) -> tuple[str, str, str]:
    """Dtypes of weights, activations and KV cache by a short name: fp16; w4a16 or w8a8kv8 by bits; fp8/bf16/fp8."""
    if name in schema.DTYPE_BYTES:
        return name, name, name
    bits = re.fullmatch(r"w(\d+)a(\d+)(?:kv(\d+))?", name)
    if bits and all(group is None or group in _BITS for group in bits.groups()):
        weights, activations, kv = bits.groups()
        return _BITS[weights], _BITS[activations], _BITS[kv or activations]
    parts = name.split("/")
    if len(parts) == 3 and all(part in schema.DTYPE_BYTES for part in parts):
        return parts[0], parts[1], parts[2]
    raise ValueError(
        f"'{name}' names no dtypes. Known: {', '.join(schema.DTYPE_BYTES)}; by bits (4, 8, 16, 32) as w4a16 or w8a8kv4; "
        "or weights/activations/KV as fp8/bf16/fp8."
    )


_BITS = {"4": "int4", "8": "int8", "16": "fp16", "32": "fp32"}


def _wrong_type(column: str, wanted: str, found: object) -> str:
    return f"configuration column '{column}' must be {wanted}, not {found}. See docs/schema.md, table runs."
