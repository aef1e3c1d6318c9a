"""Every family of sources held against physics and against itself; what the checks find are rows of `findings`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from models import lint
from warehouse import parquet, schema
from warehouse.store import LoadReport, Store

FOUND_BY = "lint"


def add(store: Store, report: Callable[[str], None]) -> LoadReport:
    """Lint the families whose rows are new (or that other checks read last) and load what is found.

    A finding is one row, by what it is about: found again it stays or takes the new figures; no longer found it stays with
    `is_current` false. Returns what the load did.
    """
    from models.analytical import ENGINE_REVISION

    due = store.query("lint_due", revision=f"{lint.REVISION} {ENGINE_REVISION}").to_pylist()
    if not due:
        return LoadReport()
    now = datetime.now(UTC)
    for family in due:
        findings = lint.rows(lint.check(read(store, family["family"])), found_by=FOUND_BY, at=now)
        faults = sum(finding["severity"] == "fault" for finding in findings)
        past = _past(store, family["family"], {finding["finding_id"] for finding in findings})
        row = {**family, "num_faults": faults, "num_doubts": len(findings) - faults, "linted_at": now}
        name = f"lint-{schema.digest(row)}"
        parquet.land(store.home.landing, name, {"findings": [*findings, *past], "lints": [row]})
        if findings:
            report(
                f"{family['family']}: {faults} faults and {len(findings) - faults} doubts found in {family['num_runs']} runs."
            )
    return store.load()


def read(store: Store, family: str) -> dict[str, pa.Table]:
    """The tables that the checks read of one family."""
    names = ("runs", "twins", "ops", "samples", "kernels", "requests")
    tables = {name: store.query(f"lint_{name}", family=family) for name in names}
    tables["predictor_scores"] = store.query("lint_scores", family=family)
    for name in ("hardware", "llms"):
        tables[name] = store.sql(f"SELECT * EXCLUDE (file_hash) FROM {name} ORDER BY ALL")
    return tables


def find(store: Store, source: str, *, severity: str | None = None, with_past: bool = False) -> pa.Table:
    """Findings of a source: its id, what stands before a / in it, or the file it was imported from.

    Raises LookupError, naming the known ones, for a source that has no rows.
    """
    rows = store.sql("SELECT DISTINCT source_id FROM runs UNION SELECT source_id FROM sources ORDER BY 1")
    known = [one for one in rows.column("source_id").to_pylist() if one is not None]
    source_id = _source_of_file(Path(source), known) or source.rstrip("/")
    if not any(one == source_id or one.startswith(f"{source_id}/") for one in known):
        families = ", ".join(dict.fromkeys(one.partition("/")[0] for one in known))
        raise LookupError(
            f"'{source}' is no source of this lakehouse and no file imported into it. Known: {families or 'none'}; "
            '`rooflake sql "from sources"` lists their parts.'
        )
    return store.query("findings", source_id=source_id, severity=severity, with_past=with_past)


def _source_of_file(path: Path, known: list[str]) -> str | None:
    """The source that an imported file became: its id ends with the digest of the file's bytes."""
    from collectors._importing import File

    if not path.is_file():
        return None
    digest = File(path).digest
    return next((one for one in known if one.endswith(f"/{digest}")), None)


def _past(store: Store, family: str, current: set[str]) -> list[Mapping[str, Any]]:
    """Findings of earlier lints that this one does not find again, marked so."""
    rows = store.sql(
        "SELECT * EXCLUDE (file_hash) FROM findings "
        "WHERE is_current AND found_by = $found_by AND split_part(source_id, '/', 1) = $family",
        {"found_by": FOUND_BY, "family": family},
    ).to_pylist()
    return [{**row, "is_current": False} for row in rows if row["finding_id"] not in current]
