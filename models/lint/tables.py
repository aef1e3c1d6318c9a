"""The rows that checks read, column by column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.lint.findings import Finding
from warehouse import schema

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

ROUNDING = 0.011
"""Relative slack left for figures printed with three digits."""

EXECUTED = (
    "framework",
    "framework_version",
    "execution",
    "cache_implementation",
    "task",
    "source_kind",
    "environment_id",
)
"""How a configuration was executed: runs that differ here are no neighbours."""


_NAMING = (
    "llm_id", "served_model_name", "num_devices", "hardware_id", "phase", "batch_size", "concurrency", "input_tokens", "output_tokens",
    "context_tokens", "source_cell", "run_id",
)  # fmt: skip


class Table:
    """An Arrow table whose columns are read as numpy arrays or lists; absent ones are NULL throughout."""

    def __init__(self, rows: pa.Table | None) -> None:
        self.rows = pa.table({}) if rows is None else rows
        self._numbers: dict[str, Floats] = {}
        self._texts: dict[str, NDArray[np.object_]] = {}

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def num(self, name: str) -> Floats:
        """(rows,) numbers, NULL as NaN."""
        if name not in self._numbers:
            if name in self.rows.column_names:
                column = pc.fill_null(self.rows.column(name).cast(pa.float64()), np.nan)
                self._numbers[name] = np.asarray(column.to_numpy(), np.float64)
            else:
                self._numbers[name] = np.full(len(self), np.nan)
        return self._numbers[name]

    def one(self, name: str) -> Floats:
        """(rows,) numbers, NULL as 1: degrees of parallelism."""
        values = self.num(name)
        return np.where(np.isnan(values), 1.0, values)

    def texts(self, name: str) -> NDArray[np.object_]:
        """(rows,) values as Python objects, NULL as None."""
        if name not in self._texts:
            found = np.empty(len(self), object)
            if name in self.rows.column_names:
                found[:] = self.rows.column(name).to_pylist()
            self._texts[name] = found
        return self._texts[name]

    def is_(self, name: str, *values: Any) -> Mask:
        """(rows,) is the column one of these values."""
        return np.isin(self.texts(name).astype(str), [str(value) for value in values])


class Runs(Table):
    """Runs with what is known of their devices, LLMs and analytical twins beside them."""

    def __init__(self, found: Mapping[str, pa.Table]) -> None:
        super().__init__(found["runs"])
        self._hardware = _Lookup(found.get("hardware"), "hardware_id", self.texts("hardware_id"))
        self._llms = _Lookup(found.get("llms"), "llm_id", self.texts("llm_id"))
        self._twins = _Lookup(found.get("twins"), "config_id", self.texts("config_id"))

    def device(self, name: str) -> Floats:
        """(runs,) a number of the run's device."""
        return self._hardware.num(name)

    def llm(self, name: str) -> Floats:
        """(runs,) a number of the run's LLM."""
        return self._llms.num(name)

    def llm_text(self, name: str) -> NDArray[np.object_]:
        return self._llms.texts(name)

    def twin(self, name: str) -> Floats:
        """(runs,) a number of the analytical row of the same configuration."""
        return self._twins.num(name)

    def named(self, index: int) -> str:
        """What a sentence calls a run: LLM, devices, phase and sizes, and its place in the source or else its id."""
        text = {name: self.texts(name)[index] for name in _NAMING}
        batch, given, made, context = (
            text[name] for name in ("batch_size", "input_tokens", "output_tokens", "context_tokens")
        )
        lengths = " + ".join(str(tokens) for tokens in (given, made) if tokens is not None)
        devices = " ".join(str(part) for part in (text["num_devices"], text["hardware_id"]) if part is not None)
        parts = [
            " on ".join(part for part in (text["llm_id"] or text["served_model_name"], devices) if part),
            text["phase"],
            None if batch is None else f"batch {batch}",
            None if text["concurrency"] is None else f"concurrency {text['concurrency']}",
            f"{lengths} tokens" if lengths else None,
            None if context is None else f"context {context}",
        ]
        cell = text["run_id"] if text["source_cell"] is None else text["source_cell"]
        return ", ".join(part for part in parts if part) + f" ({cell})"

    @cached_property
    def is_ok(self) -> Mask:
        return self.is_("status", "ok")

    @cached_property
    def is_published(self) -> Mask:
        return self.is_("source_kind", "published")

    @cached_property
    def is_training(self) -> Mask:
        return self.is_("phase", "pretrain_step", "finetune_step")

    @cached_property
    def devices(self) -> Floats:
        """Devices used: as stated, else the product of the degrees."""
        product = self.one("tensor_parallel") * self.one("pipeline_parallel") * self.one("data_parallel")
        return np.where(np.isnan(self.num("num_devices")), product, self.num("num_devices"))

    @cached_property
    def sequences(self) -> Floats:
        return self.num("batch_size") * self.one("data_parallel")

    @cached_property
    def peak(self) -> Floats:
        """Peak FLOP/s of one device in the run's number format; the highest of the device where it is not stated."""
        dtypes = self.texts("activation_dtype")
        names = [name for name in self._hardware.names if name.startswith("peak_")]
        peaks = {name.removeprefix("peak_").removesuffix("_flops_per_s"): self.device(name) for name in names}
        highest = _largest(list(peaks.values()), len(self))
        found = highest.copy()
        for dtype, values in peaks.items():
            same = _largest([values, peaks["tf32"]], len(self)) if dtype == "fp32" and "tf32" in peaks else values
            found = np.where((dtypes == dtype) & ~np.isnan(same), same, found)
        return found

    @cached_property
    def bandwidth(self) -> Floats:
        return self.device("memory_bandwidth_bytes_per_s")

    @cached_property
    def has_datasheet(self) -> Mask:
        """Are the device's peaks from a datasheet? Those of a processor are reckoned from its clock and its memory's kind."""
        return np.asarray(~np.isin(self._hardware.texts("kind").astype(str), ["cpu", "None"]), bool)

    @cached_property
    def weight_bytes(self) -> Floats:
        """Bytes of one weight; NaN where not stated."""
        return np.array([schema.DTYPE_BYTES.get(str(dtype), np.nan) for dtype in self.texts("weight_dtype")])

    @cached_property
    def definitions(self) -> list[dict[str, str]]:
        """Metric -> definition id of every run."""
        return [dict(entry) if entry else {} for entry in self.texts("metric_definitions")]

    def groups(self, *without: str, of: Mask | None = None) -> list[Indices]:
        """Runs of one family alike in every configuration column but these, and in how they were executed; two or more of them.

        Without environment_id and framework_version among the differences a paper's tables would be strangers to one another:
        name them in `without` too where that is wanted.
        """
        chosen = np.flatnonzero(np.ones(len(self), bool) if of is None else of)
        if len(chosen) < 2:
            return []
        kept = [name for name in schema.CONFIGURATION_NAMES if name in self.rows.column_names and name not in without]
        keys: list[Any] = [schema.config_ids(self.rows.select(kept)).to_numpy(zero_copy_only=False)[chosen]]
        keys += [self.texts(name)[chosen] for name in EXECUTED if name not in without]
        return grouped(chosen, *keys)

    def finding(
        self,
        index: int,
        check: str,
        severity: str,
        sentence: str,
        metric: str | None = None,
        *,
        value: float | None = None,
        expected: float | None = None,
        about: str = "",
        samples: tuple[str, ...] = (),
    ) -> Finding:
        """A finding about one run."""
        source_id, run_id = self.texts("source_id")[index], self.texts("run_id")[index]
        value, expected = (None if one is None or np.isnan(one) else float(one) for one in (value, expected))
        return Finding(check, severity, source_id, sentence, run_id, metric, value, expected, about, samples)


class Sources:
    """The tables of one family of sources."""

    def __init__(self, found: Mapping[str, pa.Table]) -> None:
        self.runs = Runs(found)
        self.ops = Table(found.get("ops"))
        self.samples = Table(found.get("samples"))
        self.kernels = Table(found.get("kernels"))
        self.requests = Table(found.get("requests"))
        self.predictor_scores = Table(found.get("predictor_scores"))

    @cached_property
    def run_index(self) -> dict[str, int]:
        """Run id -> its place in `runs`."""
        return {run_id: index for index, run_id in enumerate(self.runs.texts("run_id"))}

    def placed(self, rows: Table, *columns: NDArray[Any]) -> Iterator[tuple[Any, ...]]:
        """Place of its run in `runs` and values of the columns, for each row of a table that belongs to one of them."""
        for run_id, *values in zip(rows.texts("run_id"), *columns, strict=True):
            if run_id in self.run_index:
                yield self.run_index[run_id], *values


def grouped(chosen: Indices, *keys: NDArray[Any]) -> list[Indices]:
    """Groups of two or more of the chosen indices with equal keys, in order of first appearance."""
    found: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, *key in zip(chosen.tolist(), *keys, strict=True):
        found[tuple(key)].append(index)
    return [np.array(members) for members in found.values() if len(members) > 1]


def digits(value: float) -> tuple[int, float]:
    """Significant digits of a figure as printed, and half a unit of its last one: 13.6e9 has 3 and 0.05e9.

    Zeros at its end may have been printed (13.0): half a unit is never more than 1 % of it.
    """
    mantissa, _, exponent = f"{value:.15e}".partition("e")
    shown = mantissa.replace(".", "").rstrip("0")
    places = max(len(shown), 1)
    return places, min(0.5 * 10.0 ** (int(exponent) - places + 1), 0.01 * abs(value))


def power_of_ten(ratio: float) -> int | None:
    """k where a ratio is within 5 % of 10^k, k not 0; else None."""
    if ratio <= 0:
        return None
    exponent = round(float(np.log10(ratio)))
    return exponent if exponent != 0 and abs(ratio / 10.0**exponent - 1) < 0.05 else None


class _Lookup:
    """Columns of another table, row by row of one that names its key; NULL where the key is unknown."""

    def __init__(self, rows: pa.Table | None, key: str, wanted: NDArray[np.object_]) -> None:
        self._table = Table(rows)
        self.names = self._table.rows.column_names
        places = {name: place for place, name in enumerate(self._table.texts(key))}
        self._index = np.array([places.get(name, -1) for name in wanted], np.int64)

    def num(self, name: str) -> Floats:
        if name not in self.names or len(self._table) == 0:
            return np.full(len(self._index), np.nan)
        return np.where(self._index >= 0, self._table.num(name)[self._index], np.nan)

    def texts(self, name: str) -> NDArray[np.object_]:
        found = np.empty(len(self._index), object)
        if name in self.names:
            found[self._index >= 0] = self._table.texts(name)[self._index[self._index >= 0]]
        return found


def _largest(columns: list[Floats], size: int) -> Floats:
    """(rows,) the largest number that is not NaN."""
    best = np.full(size, np.nan)
    for column in columns:
        best = np.fmax(best, column)
    return best


def hits(mask: Mask) -> Iterator[int]:
    """Indices where a mask is true."""
    yield from np.flatnonzero(mask).tolist()
