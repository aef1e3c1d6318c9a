"""What importing a file lands, for tests of importers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landed_rows import landed

from collectors import _importing


def imported(landing: Path, file: Path, **options: Any) -> list[dict[str, Any]]:
    """Rows of `runs` of one file, its tool recognised by content, each with its samples by metric: {name: [(value, unit)]}."""
    assert _importing.collect(landing, files=file, **options).num_runs
    runs = {
        run["run_id"]: run | {"definitions": dict(run["metric_definitions"]), "of": {}}
        for run in landed(landing, "runs")
    }
    for row in landed(landing, "samples") if (landing / "samples").exists() else ():
        runs[row["run_id"]]["of"].setdefault(row["metric"], []).append((row["value"], row["unit"]))
    return list(runs.values())
