"""Figures printed in papers, with table and cell as their source (one TOML transcription a paper), and our own measured datasets.

Every row of a paper is tier 0 and keeps the value as printed. What a paper's own figures or physics contradict is excluded from charts
or noted on its table (`_checks`). Reruns land the same bytes: ids are hashes of table and cell, times are publication dates.
A folder under measured/ is a dataset that `python -m collectors pack` made; its rows land as they were measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from collectors import Collected, Report, _dataset, silent
from collectors.published import _checks, _transcription
from collectors.published._transcription import papers as known
from warehouse import parquet, schema

MEASURED = Path(__file__).parent / "measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--papers", nargs="+", metavar="PAPER", help=f"papers to land (default: all of {', '.join(known())})"
    )


def collect(landing: Path, *, report: Report = silent, papers: list[str] | None = None) -> Collected:
    """Land the figures of some papers, by default of all and every measured dataset: one batch each. Failed cells are counted.

    Raises LookupError for a paper that is not transcribed.
    """
    batches = {source: _transcription.read(source) for source in (known() if papers is None else papers)}
    runs, paths = [], []
    for source, rows in batches.items():
        found = _checks.apply(rows)
        tables = {name: rows[name] for name in schema.TABLES if name in rows}
        paths += parquet.land(landing, f"published-{source}", tables)
        runs += rows["runs"]
        excluded = sum(run["is_excluded"] for run in rows["runs"])
        report(f"{source}: {len(rows['runs'])} runs, {excluded} excluded; {len(found)} faults and doubts found")
    for folder in sorted(MEASURED.glob("*/")) if papers is None else ():
        tables = _dataset.read(folder)
        paths += parquet.land(landing, f"measured-{folder.name}", tables)
        runs += tables["runs"].select(["status"]).to_pylist()
        report(f"{folder.name}: {tables['runs'].num_rows} runs measured by Rooflake")
    return Collected(len(runs), tuple(paths), sum(run["status"] != "ok" for run in runs))
