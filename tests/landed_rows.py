"""What a landing folder holds, for tests of what collectors land."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warehouse import parquet


def landed(landing: Path, table: str) -> list[dict[str, Any]]:
    """Rows of a table, file by file in order of their names."""
    return [
        row for path in sorted((landing / table).glob("*.parquet")) for row in parquet.read(table, path).to_pylist()
    ]
