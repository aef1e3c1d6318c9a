"""Figures printed in papers, with table and cell as their source: one TOML transcription a paper.

Every row is tier 0 and keeps the value as printed. What a paper's own figures or physics contradict is excluded from charts
or noted on its table (`_checks`). Reruns land the same bytes: ids are hashes of table and cell, times are publication dates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from collectors import Collected, Report, silent
from collectors.published import _checks, _transcription
from collectors.published._transcription import papers as known
from warehouse import parquet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--papers", nargs="+", metavar="PAPER", help=f"papers to land (default: all of {', '.join(known())})"
    )


def collect(landing: Path, *, report: Report = silent, papers: list[str] | None = None) -> Collected:
    """Land the figures of some papers (all by default), one batch a paper. Out-of-memory cells count as failed runs.

    Raises LookupError for a paper that is not transcribed.
    """
    batches = {source: _transcription.read(source) for source in (known() if papers is None else papers)}
    runs, paths = [], []
    for source, rows in batches.items():
        faults = _checks.apply(rows)
        paths += parquet.land(landing, f"published-{source}", rows)
        runs += rows["runs"]
        excluded = sum(run["is_excluded"] for run in rows["runs"])
        report(f"{source}: {len(rows['runs'])} runs, {excluded} excluded; {len(faults)} faults noted")
    return Collected(len(runs), tuple(paths), sum(run["status"] != "ok" for run in runs))
