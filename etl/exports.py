"""Runs of the lake as files of other tools: which runs a layout can hold, and who writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from collectors import from_vidur
from etl import reports
from warehouse.store import Store


def llmd_reports(store: Store, run_ids: Sequence[str] | None, folder: Path) -> list[Path]:
    """One llm-d Benchmark Report a served load; all of them without ids. Raises LookupError, and ValueError for none."""
    if not run_ids:
        run_ids = _ids(store, "phase = 'serve' AND status = 'ok' AND source_kind IN ('measured', 'published')")
    return reports.export(store, run_ids, folder)


def vidur_profiles(store: Store, run_ids: Sequence[str] | None, folder: Path) -> list[Path]:
    """Layer profiles of measured runs in Vidur's layout. Raises LookupError for a run that is not here, ValueError for none."""
    if not run_ids:
        run_ids = _ids(
            store, "source_kind = 'measured' AND run_id IN (SELECT run_id FROM ops WHERE time_s IS NOT NULL)"
        )
    runs, ops = _rows(store, "runs", run_ids), _rows(store, "ops", run_ids)
    if missing := sorted(set(run_ids) - set(runs.column("run_id").to_pylist())):
        raise LookupError(
            f"'{missing[0]}' is not a run of this lake. `rooflake sql \"SELECT run_id FROM runs\"` lists them."
        )
    return from_vidur.write_profiles(runs.to_pylist(), ops.to_pylist(), folder)


LAYOUTS: dict[str, Callable[[Store, Sequence[str] | None, Path], list[Path]]] = {
    "llmd-report": llmd_reports,
    "vidur": vidur_profiles,
}
"""Layout as in `rooflake export` -> what writes it."""


def _ids(store: Store, condition: str) -> list[str]:
    found = store.sql(f"SELECT run_id FROM runs WHERE {condition} ORDER BY run_id").column("run_id").to_pylist()
    if not found:
        raise ValueError("This lake holds no run that the layout can hold: nothing was written.")
    return list(found)


def _rows(store: Store, table: str, run_ids: Sequence[str]) -> pa.Table:
    return store.sql(f"SELECT * FROM {table} WHERE list_contains($ids, run_id)", {"ids": list(run_ids)})
