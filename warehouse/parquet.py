"""Rows -> checked Parquet, written whole or not at all.

A landing file is `<home>/landing/<table>/<name>.parquet`: checked against `warehouse.schema`, written to a temporary name
on the same filesystem, flushed to disk, then renamed. A batch shares one name over several tables; its `runs` file is
written last, and the loader leaves rows of a run waiting until that file is there, so a killed writer leaves no half run.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse import metrics, schema

Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.Table


class ContractError(ValueError):
    """Rows or a file that do not fit the table they claim to be of. The message says what, why, what is known, where."""


class UnreadableFileError(ContractError):
    """A file that is no Parquet: cut off, or still being written."""


def check(table_name: str, rows: Rows) -> pa.Table:
    """Rows as an Arrow table of exactly the declared columns and types, absent ones NULL.

    Raises ContractError for an unknown column, a value of the wrong type, a missing required value, a value outside the
    column's vocabulary, NaN, infinity, a negative quantity, a share above 1, a config_id that is not the hash of its row, or a metric
    definition that nobody declared. Only integers are converted, to float.
    """
    declared = schema.table(table_name)
    if not isinstance(rows, pa.Table):
        rows = _from_rows(declared, rows)
    unknown = [name for name in rows.column_names if name not in declared.names]
    if unknown:
        raise ContractError(
            f"{_quoted(unknown)} of {table_name}: no such column. "
            f"Known: {', '.join(declared.names)}. Add it in warehouse/schema.py."
        )
    absent = {kind: pa.chunked_array([pa.nulls(rows.num_rows, kind)]) for kind in declared.arrow.types}
    columns = []
    for column in declared.columns:
        if column.name in rows.column_names:
            columns.append(_cast(table_name, column, rows.column(column.name)))
        else:
            columns.append(absent[column.type])
    checked = pa.table(columns, schema=declared.arrow)
    _check_values(declared, checked)
    _check_numbers(declared, checked)
    if table_name == "runs":
        _check_runs(checked)
    return checked


def write(table_name: str, rows: Rows, path: Path) -> Path:
    """Check rows and write them to `path` atomically; returns `path`."""
    return _write(table_name, check(table_name, rows), path)


def _write(table_name: str, checked: pa.Table, path: Path) -> Path:
    metadata = {"rooflake.table": table_name, "rooflake.schema_version": str(schema.SCHEMA_VERSION)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(checked.replace_schema_metadata(metadata), file, compression="lz4", **_encodings(checked))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _encodings(rows: pa.Table) -> dict[str, Any]:
    """Floats rarely repeat: no dictionary, and their bytes apart by position, which is smaller and sooner written.

    No statistics, and LZ4 rather than Zstandard: a landing file is read whole and once.
    """
    flat = [field for field in rows.schema if not pa.types.is_nested(field.type)]
    floats = [field.name for field in flat if pa.types.is_floating(field.type)]
    return {
        "use_dictionary": [field.name for field in flat if field.name not in floats],
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        "write_statistics": False,
    }


def land(landing: Path, name: str, batch: Mapping[str, Rows]) -> list[Path]:
    """Write a batch, table -> rows, under one name into a landing folder; empty tables are skipped, `runs` goes last."""
    if not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
        raise ContractError(f"'{name}' cannot name a landing file. Use letters, digits, '_', '-', '.' and '+'.")
    checked = {table_name: check(table_name, rows) for table_name, rows in batch.items()}
    order = sorted(checked, key=lambda table_name: table_name == "runs")
    return [
        _write(table_name, checked[table_name], landing / table_name / f"{name}.parquet")
        for table_name in order
        if checked[table_name].num_rows
    ]


def read(table_name: str, path: Path) -> pa.Table:
    """Read a landing file and check it. Raises ContractError where it is truncated, not Parquet, or off the contract."""
    try:
        rows = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if not path.exists():
            raise
        raise UnreadableFileError(
            f"'{path.name}' is not a readable Parquet file ({str(error).splitlines()[0]})."
        ) from error
    claimed = (rows.schema.metadata or {}).get(b"rooflake.table")
    if claimed is not None and claimed.decode() != table_name:
        raise ContractError(f"'{path.name}' holds rows of '{claimed.decode()}' but lies under landing/{table_name}/.")
    return check(table_name, rows)


def _from_rows(declared: schema.Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    types = {column.name: column.type for column in declared.columns}
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        if name not in types:
            columns.append(pa.array([str(value) for value in values]))
            continue
        if pa.types.is_map(types[name]):
            values = [list(value.items()) if isinstance(value, Mapping) else value for value in values]
        try:
            # inferred first: building an int64 column from 1.5 directly would truncate it
            columns.append(pa.array(values, types[name] if pa.types.is_nested(types[name]) else None))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError) as error:
            raise ContractError(_wrong_type(declared.name, declared.column(name), str(error))) from None
    return pa.table(columns, names=names)


def _cast(table_name: str, column: schema.Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if values.type == column.type:
        return values
    widening = (
        pa.types.is_null(values.type)
        or (
            pa.types.is_integer(values.type) and (pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
        )
        or (pa.types.is_floating(values.type) and pa.types.is_floating(column.type))
        or (pa.types.is_timestamp(values.type) and pa.types.is_timestamp(column.type))
        or pa.types.is_large_string(values.type)
        or pa.types.is_dictionary(values.type)
        or pa.types.is_nested(values.type)
    )
    if not widening:
        raise ContractError(_wrong_type(table_name, column, f"the file has {values.type}"))
    try:
        return values.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ContractError(_wrong_type(table_name, column, str(error))) from None


def _check_values(declared: schema.Table, rows: pa.Table) -> None:
    for column in declared.columns:
        values = rows.column(column.name)
        if column.is_required and values.null_count:
            raise ContractError(
                f"{declared.name}.{column.name} is required and is NULL in {values.null_count} of {rows.num_rows} rows."
            )
        if column.values is not None and rows.num_rows:
            strange = [
                value for value in values.unique().to_pylist() if value is not None and value not in column.values
            ]
            if strange:
                raise ContractError(
                    f"{_quoted(strange)} is not a value of {declared.name}.{column.name}. Known: {', '.join(column.values)}. "
                    "Add it in warehouse/schema.py."
                )


def _pairs(maps: pa.ChunkedArray) -> set[tuple[str, str]]:
    """Distinct entries of a column of maps."""
    found: set[tuple[str, str]] = set()
    for chunk in maps.chunks:
        entries = pa.table([chunk.keys, chunk.items], names=["key", "value"])
        found |= {(row["key"], row["value"]) for row in entries.group_by(["key", "value"]).aggregate([]).to_pylist()}
    return found


NON_NEGATIVE = ("runs", "ops", "requests")
SHARES = frozenset({"success_rate", "goodput_ratio", "prefix_cache_hit_ratio", "throttled_ratio", "kv_cache_ratio"})
"""Columns that count a part of a whole, 0 to 1. A utilisation is none: what the peak really is, is another question."""


def _check_numbers(declared: schema.Table, rows: pa.Table) -> None:
    for column in declared.columns:
        values = rows.column(column.name)
        if not pa.types.is_floating(column.type) or values.null_count == rows.num_rows:
            continue
        if not pc.all(pc.is_finite(values)).as_py():
            raise ContractError(f"{declared.name}.{column.name} is NaN or infinite. What was not measured is NULL.")
        if declared.name in NON_NEGATIVE and pc.min(values).as_py() < 0:
            raise ContractError(
                f"{declared.name}.{column.name} is {pc.min(values).as_py()}: a quantity below zero. What was not measured is NULL."
            )
        if column.name in SHARES and not 0 <= pc.min(values).as_py() <= pc.max(values).as_py() <= 1:
            strange = next(value for value in values.unique().to_pylist() if value is not None and not 0 <= value <= 1)
            raise ContractError(f"{declared.name}.{column.name} is {strange:g}: a share is 0 to 1, and 50 % is 0.5.")


def _check_runs(rows: pa.Table) -> None:
    """The hash that joins everything is the hash of its row, and every definition named is one of ours."""
    expected = schema.config_ids(rows)
    wrong = pc.not_equal(rows.column("config_id"), expected)
    if pc.any(wrong).as_py():
        index = pc.index(wrong, pa.scalar(True)).as_py()
        raise ContractError(
            f"runs.config_id '{rows.column('config_id')[index]}' of run '{rows.column('run_id')[index]}' is not the hash of its "
            f"configuration columns ('{expected[index]}'). Make it with warehouse.schema.config_id."
        )
    for metric, definition in sorted(_pairs(rows.column("metric_definitions"))):
        if metric not in schema.RUNS.names or definition not in metrics.DEFINITIONS:
            raise ContractError(
                f"runs.metric_definitions says {metric} = '{definition}'. Known metrics: columns of runs; known definitions: "
                f"{', '.join(metrics.DEFINITIONS)}. Add it in warehouse/metrics.py."
            )


def _wrong_type(table_name: str, column: schema.Column, why: str) -> str:
    return f"{table_name}.{column.name} must be {column.type} ({column.doc}); {why}. See docs/schema.md."


def _quoted(names: Iterable[object]) -> str:
    return ", ".join(f"'{name}'" for name in names)
