"""Constants of the estimate from the lake's own measurements."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from warehouse import catalog, parquet, schema
from warehouse.catalog.llm import Llm
from warehouse.store import LoadReport, Store


def calibrate(store: Store, report: Callable[[str], None], *, sources: Sequence[str] = ()) -> LoadReport:
    """Fit the constants of every device and execution profile that was measured enough, and load them with the snapshot of
    the rows behind them; reports a line a row. Returns what the load did; too few rows is a line, not an error.

    `sources`: ids whose rows count, measured or published, or the part of them before a `/`; default: every measured row. A
    latency taken on a busy machine does not count. Raises LookupError for a source that the lake has no such rows of.
    """
    from models.analytical import calibrate as constants

    snapshot = store.snapshot_id()
    _check(store, sources)
    found_rows = store.query("calibration_rows", sources=list(sources) or None)
    left_out = Counter(filter(None, found_rows.column("left_out").to_pylist()))
    for reason, count in left_out.most_common():
        report(f"{count} runs left out: {reason}.")
    measured = found_rows.filter(pc.is_null(found_rows.column("left_out")))
    is_quiet = pc.fill_null(pc.less_equal(measured.column("other_load_ratio"), schema.QUIET_LOAD_RATIO), True)
    quiet = measured.filter(is_quiet)
    if quiet.num_rows < measured.num_rows:
        report(f"{measured.num_rows - quiet.num_rows} times of a busy machine left out.")
    if quiet.num_rows == 0:
        what = f"times of {', '.join(sources)}" if sources else "measured times"
        report(f"No constants: the lake holds no {what} of configurations with an analytical twin.")
        return LoadReport()
    found = constants.fit(
        quiet,
        fitted_at=datetime.now(UTC),
        snapshot_id=snapshot,
        hardware=store.sql("SELECT * EXCLUDE (file_hash) FROM hardware"),
        llms=_llms(store, quiet),
    )
    for note in found.notes:
        report(note)
    if not found.rows:
        return LoadReport()
    for row in found.rows:
        row["source"] += f" Sources: {', '.join(_sources(quiet, row['device_class']))}."
        report(_line(row))
    name = f"calibration-{schema.digest([row['calibration_id'] for row in found.rows])}"
    parquet.land(store.home.landing, name, {"calibrations": found.rows})
    return store.load()


def fitted(store: Store) -> list[dict[str, Any]]:
    """Constants that this lake's own measurements gave, newest first; they come before the shipped ones."""
    rows = "SELECT * EXCLUDE (file_hash) FROM calibrations WHERE snapshot_id IS NOT NULL ORDER BY fitted_at DESC"
    return store.sql(rows).to_pylist()


def _check(store: Store, sources: Sequence[str]) -> None:
    rows = "SELECT DISTINCT source_id FROM runs WHERE source_kind IN ('measured', 'published') ORDER BY source_id"
    known = store.sql(rows).column("source_id").to_pylist()
    for source in sources:
        if not any(name == source or name.startswith(f"{source}/") for name in known):
            more = f" and {len(known) - catalog.MOST_NAMED} more" if len(known) > catalog.MOST_NAMED else ""
            names = f"{', '.join(known[: catalog.MOST_NAMED]) or 'none'}{more}"
            raise LookupError(f"The lake has no measured or published runs of source '{source}'. Known: {names}.")


def _llms(store: Store, measured: pa.Table) -> dict[str, Llm]:
    """LLMs of the rows that the catalogue does not have, from the lake."""
    known = catalog.llms()
    wanted = [name for name in measured.column("llm_id").unique().to_pylist() if name not in known]
    rows = store.sql("SELECT llm_id, config_json FROM llms").to_pylist()
    return {
        row["llm_id"]: Llm.from_config(row["llm_id"], json.loads(row["config_json"]))
        for row in rows
        if row["llm_id"] in wanted
    }


def _sources(measured: pa.Table, hardware_id: str) -> list[str]:
    here = measured.filter(pc.equal(measured.column("hardware_id"), hardware_id))
    return sorted(here.column("source_id").unique().to_pylist())


def _line(row: dict[str, object]) -> str:
    numbers = ", ".join(
        f"{name} {row[name]:.3g}"
        for name in ("matrix_efficiency", "bandwidth_efficiency", "kernel_s", "dispatch_s", "step_s")
    )
    return (
        f"{row['device_class']} {row['execution']}: {numbers}; measured / estimate {row['ratio_p05']:.2f} to {row['ratio_p95']:.2f} "
        f"on configurations held out ({row['num_rows']} times)."
    )
