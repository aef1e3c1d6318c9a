"""Lint of performance results: what rows say about one another, and what physics says about them.

A check reads the tables of one family of sources (what stands before the / in their ids) and yields findings; it never changes a
value. `fault`: cannot be right as printed. `doubt`: needs an explanation, which may be a good one. Pure: Arrow tables in,
findings out, the same ones from the same tables.

Tables a check may meet, all but `runs` optional: `runs` (measured and published rows), `ops` and `samples` of these runs,
`predictor_scores` (with source_id), `hardware`, `llms`, `twins` (the newest analytical row of each configuration), and summaries by
SQL of tables too long to read: `kernels` and `requests` (queries lint_kernels, lint_requests).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from models.lint import copies, identities, physics, sums, tables
from models.lint.findings import Finding
from models.lint.tables import Sources

REVISION = "2026-11-21.2"
"""Changes with what the checks find; every source is linted again under a new one."""

Check: TypeAlias = Callable[[Sources], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (*physics.CHECKS, *identities.CHECKS, *sums.CHECKS, *copies.CHECKS)

__all__ = ["CHECKS", "REVISION", "Check", "Finding", "Sources", "check", "rows"]


def check(found: Mapping[str, pa.Table]) -> list[Finding]:
    """What every check finds in the tables of one family of sources, each finding once."""
    sources = tables.Sources(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        return list(dict.fromkeys(finding for one in CHECKS for finding in one(sources)))


def rows(findings: Iterable[Finding], *, found_by: str, at: datetime.datetime) -> list[dict[str, Any]]:
    """Rows of the table `findings`, of one id the first."""
    found: dict[str, dict[str, Any]] = {}
    for finding in findings:
        found.setdefault(finding.finding_id, finding.row(found_by, at))
    return list(found.values())
