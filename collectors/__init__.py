"""Collectors: one public file or package each. They measure, compute or read, and write checked Parquet into a landing folder.

A collector is a module with two functions:

    add_arguments(parser)                       its command-line options, named like collect's keywords
    collect(landing, *, report, **options)      do the work, land the rows, return what landed

`python -m collectors NAME --landing DIR ...` runs one on a bare node. A plan (etl/plans/*.toml) names one per sweep and
passes the sweep's other keys as options. Shared helpers begin with an underscore.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

Report = Callable[[str], None]
"""Receives a line of progress."""


@dataclass(frozen=True)
class Collected:
    """What a collector landed: how many runs, in which files, and how many of them failed (rows too)."""

    num_runs: int
    paths: tuple[Path, ...]
    num_failed: int = 0

    @property
    def is_failure(self) -> bool:
        """Did nothing but failures land?"""
        return 0 < self.num_runs == self.num_failed


class Collector(Protocol):
    """The two functions of a collector module."""

    def add_arguments(self, parser: Any) -> None: ...

    def collect(self, landing: Path, *, report: Report = ..., **options: Any) -> Collected: ...


def names() -> list[str]:
    """Every collector's name, without importing any of them."""
    folder = Path(__file__).parent
    found = [path.stem for path in folder.glob("*.py")] + [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted(name for name in found if not name.startswith("_"))


def find(name: str) -> Collector:
    """The collector of a name; imports that one only. Raises LookupError listing the known ones."""
    if name not in names():
        raise LookupError(f"'{name}' is not a collector. Known: {', '.join(names())}. Add it as collectors/{name}.py.")
    return cast(Collector, importlib.import_module(f"collectors.{name}"))


def silent(_: str) -> None:
    """A report that goes nowhere."""
