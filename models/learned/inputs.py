"""What every predictor needs of n rows, whatever they are about: terms, keys, features, support, groups.

A subject (`models.learned.subjects`) makes it of an Arrow table by one function that fitting and predicting share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array: TypeAlias = npt.NDArray[np.float64]
Index: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

UNSTATED = "unstated"
"""Label of a NULL."""


@dataclass(frozen=True)
class Labels:
    """One label a row: `names[codes]`, shape (n,)."""

    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def stated(self) -> tuple[str, ...]:
        """The names without that of NULL: rows that do not say whose they are are no group."""
        return tuple(name for name in self.names if name != UNSTATED)

    def take(self, index: Index) -> Labels:
        """The labels of some rows; names that none of them has are dropped."""
        used, codes = _compact(self.codes[index], len(self.names))
        return Labels(codes, tuple(self.names[code] for code in used))

    def texts(self) -> npt.NDArray[np.object_]:
        """The label of every row; shape (n,)."""
        return np.array([*self.names, ""], dtype=object)[self.codes]

    def mask(self, name: str) -> Mask:
        """Rows that have a label; shape (n,)."""
        code = self.names.index(name) if name in self.names else -1
        return np.asarray(self.codes == code, np.bool_)

    def among(self, names: Sequence[str]) -> Mask:
        """Rows whose label is one of some; shape (n,)."""
        known = set(names)
        return np.array([name in known for name in self.names] + [False], np.bool_)[self.codes]

    def lookup(self, values: Mapping[str, float], default: float = np.nan) -> Array:
        """A number for each row by its label; shape (n,)."""
        return np.array([values.get(name, default) for name in self.names] + [default], np.float64)[self.codes]

    @classmethod
    def of(cls, texts: Sequence[str] | npt.NDArray[np.object_]) -> Labels:
        """Labels of a sequence of texts."""
        names, codes = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
        return cls(codes.astype(np.int64), tuple(str(name) for name in names))


@dataclass(frozen=True)
class Inputs:
    """What a predictor needs of n rows. Absent numbers are NaN.

    terms: (n, t), non-negative, in the unit of the target: what a fitted base weighs (`bases`). `priors`: their weights where
        rows cannot tell.
    keys: labels under which a base has constants of its own, the most particular first.
    features: (n, d), what the correction depends on; `device_features` names those that describe the device and not the work.
    ranges: (n, s), quantities whose range in the training rows is remembered; the first is the size for `beyond_size`.
    categories: labels that a supported row shares with training rows.
    groups: by name of a split's dimension (llm, family, device, generation, backend, shape ...), what it holds out together.
    content: what a row is whoever it belongs to: two rows of one content are the same question.
    bound, estimate: (n,), the analytical answers in the unit of the target.
    """

    terms: Array
    term_names: tuple[str, ...]
    priors: tuple[float, ...]
    keys: tuple[Labels, ...]
    features: Array
    feature_names: tuple[str, ...]
    device_features: frozenset[str]
    ranges: Array
    range_names: tuple[str, ...]
    categories: dict[str, Labels]
    groups: dict[str, Labels]
    content: npt.NDArray[np.uint64]
    bound: Array
    estimate: Array
    extra: dict[str, Array] = field(default_factory=dict)
    """Further numbers of a row that a base of one subject needs, shape (n,) each."""

    def __len__(self) -> int:
        return len(self.terms)

    def take(self, index: Index | Mask) -> Inputs:
        """Some of the rows, by index or mask."""
        at: Index = np.flatnonzero(index) if index.dtype == np.bool_ else np.asarray(index, np.intp)
        return Inputs(
            self.terms[at],
            self.term_names,
            self.priors,
            tuple(key.take(at) for key in self.keys),
            self.features[at],
            self.feature_names,
            self.device_features,
            self.ranges[at],
            self.range_names,
            {name: labels.take(at) for name, labels in self.categories.items()},
            {name: labels.take(at) for name, labels in self.groups.items()},
            self.content[at],
            self.bound[at],
            self.estimate[at],
            {name: values[at] for name, values in self.extra.items()},
        )

    @property
    def is_complete(self) -> Mask:
        """Rows whose terms are all known and not all zero; shape (n,). Features may be NaN: trees take them."""
        return np.asarray(np.isfinite(self.terms).all(axis=1) & (self.terms > 0).any(axis=1), np.bool_)


def number(rows: pa.Table, name: str) -> Array:
    """A column as floats, NULL as NaN; shape (n,)."""
    return np.asarray(column(rows, name).cast(pa.float64()).to_numpy(), dtype=np.float64)


def optional(rows: pa.Table, name: str) -> Array:
    """A column as floats; NaN throughout where the table has none; shape (n,)."""
    return number(rows, name) if name in rows.column_names else np.full(rows.num_rows, np.nan)


def labels(rows: pa.Table, name: str) -> Labels:
    """A column as labels, NULL as `unstated`; one label throughout where the table has none."""
    if name not in rows.column_names:
        return Labels(np.zeros(rows.num_rows, np.int64), (UNSTATED,))
    texts = column(rows, name).cast(pa.string())
    encoded = pc.dictionary_encode(pc.fill_null(texts, UNSTATED).combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return Labels(
        encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), tuple(encoded.dictionary.to_pylist())
    )


def joined(*parts: Labels) -> Labels:
    """Labels of several put together as `a/b/c`."""
    whole = parts[0].take(np.arange(len(parts[0])))
    for part in parts[1:]:
        width = max(len(part.names), 1)
        used, codes = _compact(whole.codes * width + part.codes, len(whole.names) * width)
        whole = Labels(codes, tuple(f"{whole.names[code // width]}/{part.names[code % width]}" for code in used))
    return whole


def _compact(codes: npt.NDArray[np.int64], size: int) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Which of `size` codes occur, ascending, and the place of every code among them; without sorting where they are few."""
    if size > _MOST_CODES:
        used, places = np.unique(codes, return_inverse=True)
        return used.tolist(), places.reshape(len(codes)).astype(np.int64)
    is_used = np.zeros(size, np.bool_)
    is_used[codes] = True
    return np.flatnonzero(is_used).tolist(), (np.cumsum(is_used) - 1)[codes]


_MOST_CODES = 1 << 20


def digest(rows: pa.Table, names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A 64-bit content of every row over some columns, the same in every process; shape (n,). An absent column is NULL."""
    mixed = np.zeros(rows.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for position, name in enumerate(names):
            if name not in rows.column_names:
                values = np.zeros(rows.num_rows, np.uint64)
            elif pa.types.is_integer(kind := column(rows, name).type) or pa.types.is_floating(kind):
                values = np.nan_to_num(number(rows, name), nan=-1.0).view(np.uint64)
            else:
                one = labels(rows, name)
                values = np.array([_text_digest(text) for text in one.names] + [0], np.uint64)[one.codes]
            mixed = _mix(mixed ^ _mix(values + np.uint64(position + 1)))
    return mixed


def column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """A column. Raises ValueError naming one that is not there."""
    if name not in rows.column_names:
        raise ValueError(
            f"The rows have no column '{name}'. A predictor reads the rows of its query (warehouse/sql/queries/training_*.sql), "
            f"or totals of models.analytical.evaluate with the catalogue's columns. They have: {', '.join(rows.column_names)}."
        )
    return rows.column(name)


def log(values: Array) -> Array:
    """Natural logarithm; NaN for what has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(values > 0, np.log(np.where(values > 0, values, 1.0)), np.nan)
    return found


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input reaches every bit of the result."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)), np.uint64)


def _text_digest(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
