"""Gather what landed into the few files of a dataset that can be shipped: one compressed Parquet file a table.

`python -m collectors pack --landing out collectors/published/measured/h100-sxm-2026-11-21` makes one that `published` lands
for everybody. Its rows keep their ids and their environment; their source becomes the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse import parquet, schema

MOST_BYTES = 16 * 2**20
"""Largest dataset that is shipped with the project."""


def pack(landing: Path, folder: Path) -> list[Path]:
    """Write every landed row into `<folder>/<table>.parquet`; returns the files. The folder's name is the dataset's.

    Catalogue-like tables keep the last row of a key. Raises ValueError where nothing landed, where the folder exists
    already, or where the dataset is larger than 16 MB (then nothing is written).
    """
    source_id = f"rooflake/measured/{folder.name}"
    tables = {name: _gathered(landing, name) for name in schema.TABLES if name != "loads"}
    runs = tables.get("runs")
    if runs is None or runs.num_rows == 0:
        raise ValueError(
            f"No runs lie in {landing}. Collect first: python -m collectors campaign NAME --landing {landing}."
        )
    if folder.exists():
        raise ValueError(f"{folder} exists already. Give another name: a dataset that was shipped does not change.")
    devices = ", ".join(sorted(set(runs.column("hardware_id").to_pylist())))
    taken = runs.column("collected_at")
    days = sorted({f"{one:%Y-%m-%d}" for one in taken.to_pylist()})
    tables["sources"] = parquet.check(
        "sources",
        [
            {
                "source_id": source_id, "title": f"Measured by Rooflake on {devices}", "kind": "dataset",
                "authors": "Rooflake", "published_at": days[-1], "locator": f"collectors/published/measured/{folder.name}",
                "licence": "Apache-2.0",
                "note": f"{runs.num_rows} runs of {days[0]} to {days[-1]}; protocols: docs/measuring.md",
            }
        ],
    )  # fmt: skip
    place = runs.column_names.index("source_id")
    tables["runs"] = runs.set_column(place, "source_id", pa.repeat(source_id, runs.num_rows))
    kept = {name: rows for name, rows in tables.items() if rows is not None and rows.num_rows}
    return _write(folder, kept)


def read(folder: Path) -> dict[str, pa.Table]:
    """Tables of a dataset, checked. Raises warehouse.parquet.ContractError."""
    return {path.stem: parquet.read(path.stem, path) for path in sorted(folder.glob("*.parquet"))}


def _gathered(landing: Path, table_name: str) -> pa.Table | None:
    files = sorted((landing / table_name).glob("*.parquet"), key=lambda one: one.stat().st_mtime)
    if not files:
        return None
    rows = pa.concat_tables([parquet.read(table_name, path) for path in files])
    key = schema.table(table_name).key
    ids = zip(*(rows.column(name).to_pylist() for name in key), strict=True)
    last = {one: index for index, one in enumerate(ids)}
    return rows.take(sorted(last.values()))


def _write(folder: Path, tables: Mapping[str, pa.Table]) -> list[Path]:
    """All files or none: written beside the folder, sized, then renamed."""
    beside = folder.with_name(f".{folder.name}.tmp")
    beside.mkdir(parents=True)
    try:
        for name, rows in tables.items():
            metadata = {"rooflake.table": name, "rooflake.schema_version": str(schema.SCHEMA_VERSION)}
            pq.write_table(
                rows.replace_schema_metadata(metadata),
                beside / f"{name}.parquet",
                compression="zstd",
                compression_level=19,
            )
        size = sum(path.stat().st_size for path in beside.iterdir())
        if size > MOST_BYTES:
            raise ValueError(
                f"The dataset has {size / 2**20:.1f} MiB, and at most {MOST_BYTES // 2**20} are shipped. Leave parts out."
            )
        beside.replace(folder)
    finally:
        if beside.exists():
            for path in beside.iterdir():
                path.unlink()
            beside.rmdir()
    return sorted(folder.iterdir())
