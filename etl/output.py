"""Rows as a table, CSV, JSON or Parquet; the lake's state as text."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from warehouse import schema

if TYPE_CHECKING:
    from warehouse.store import Store

ROWS_SHOWN = 200


def check(format: str, output: Path | None) -> None:
    """Raise ValueError where rows of this format need a file."""
    if format == "parquet" and output is None:
        raise ValueError("Parquet is binary: name a file with --output FILE.")


def check_folder(option: str, folder: Path) -> None:
    """Raise ValueError, before anything is computed, where a folder can be neither written nor made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written to" if there.is_dir() else "is a file"
        raise ValueError(f"{option} '{folder}' cannot be written: '{there}' {why}. Name another folder.")


def write(rows: pa.Table, format: str, output: Path | None) -> None:
    """Write rows to a file or stdout as `table`, `csv`, `json` or `parquet` (a file). Raises ValueError where it cannot."""
    check(format, output)
    _put(_parquet(rows) if format == "parquet" else _TEXTS[format](rows).encode(), output)


def write_tables(parts: Sequence[pa.Table], output: Path | None) -> None:
    """Write several tables for people under one another, to a file or stdout. Raises ValueError where it cannot."""
    _put("\n".join(_table(rows) for rows in parts).encode(), output)


def _put(content: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(content.decode())
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise ValueError(
            f"'{output}' cannot be written ({error.strerror}). Name a file in a folder that exists with --output FILE."
        ) from error


def status(store: Store) -> None:
    """Print what is in the lake."""
    console = Console(highlight=False)
    counts = {name: store.sql(f"SELECT count(*) AS n FROM {name}").column("n")[0].as_py() for name in schema.TABLES}
    console.print(f"{store.home.path}: snapshot {store.snapshot_id()}")
    console.print("  " + ", ".join(f"{count} {name}" for name, count in counts.items() if count))
    for row in store.query("runs_by_kind").to_pylist():
        console.print(
            f"  {row['source_kind']}: {row['num_runs']} runs, {row['num_failed']} failed, {row['num_llms']} LLMs on {row['num_devices']} device types"
        )
    last = store.sql("SELECT max(loaded_at) AS at FROM loads").column("at")[0].as_py()
    console.print(f"  last load: {last.isoformat(timespec='seconds') if last else 'never'}")
    waiting = len(list(store.home.landing.glob("*/*.parquet")))
    refused = len(list(store.home.quarantine.glob("*/*.parquet")))
    console.print(f"  {waiting} files in landing, {refused} in quarantine")


def _table(rows: pa.Table) -> str:
    table = Table(*rows.column_names, box=None, header_style="bold")
    for row in rows.slice(0, ROWS_SHOWN).to_pylist():
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 250, highlight=False)
    with console.capture() as capture:
        console.print(table)
        if rows.num_rows > ROWS_SHOWN:
            console.print(f"... {rows.num_rows - ROWS_SHOWN} more rows; use --format csv to see all")
    return capture.get()


def _csv(rows: pa.Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows([_cell(value) for value in row.values()] for row in rows.to_pylist())
    return text.getvalue()


def _json(rows: pa.Table) -> str:
    return json.dumps(rows.to_pylist(), default=_plain, indent=1) + "\n"


def _parquet(rows: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(rows, content)
    return content.getvalue()


_TEXTS = {"table": _table, "csv": _csv, "json": _json}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list | dict):
        return json.dumps(value, default=_plain)
    return str(value)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
