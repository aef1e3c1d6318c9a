"""What an importer gathers of one run: figures under a definition of ours as columns, every other one as a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from collectors import _importing
from warehouse import metrics

STATISTICS: dict[str, str | None] = {
    "mean": None, "avg": None, "p25": "p25", "median": "p50", "p50": "p50", "p75": "p75", "p90": "p90", "p95": "p95",
    "p99": "p99",
}  # fmt: skip
"""A statistic as tools call it -> ours; None is the mean. A tool's SD is no statistic of ours before its n is known."""

LARGEST = 1e20
"""Larger numbers are none of a benchmark: nanoseconds since 1970 are 2e18."""


@dataclass
class Figures:
    """Columns, their definitions and samples of one run of `tool`. No value adds nothing, what is no number refuses the file."""

    tool: str
    columns: dict[str, Any] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def metric(
        self, key: str, value: object, definition: str, *, statistic: str | None = None, scale: float = 1.0
    ) -> None:
        """One figure of a metric; `scale` turns the tool's unit into ours."""
        found = number(column := metrics.metric(key).column(statistic), value)
        if found is not None:
            self.columns[column] = found * scale
            self.definitions[key] = definition

    def distribution(
        self, key: str, found: Mapping[str, Any], definition: str, *, name: str, unit: str = "s", scale: float = 1.0
    ) -> None:
        """Mean and percentiles of a metric as columns, by `STATISTICS`; the rest as samples `name.statistic` in the tool's unit."""
        for printed, value in found.items():
            if printed in STATISTICS:
                self.metric(key, value, definition, statistic=STATISTICS[printed], scale=scale)
            else:
                self.other(f"{name}.{printed}", value, unit)

    def spread(self, key: str, value: object, n: int | None, *, name: str, unit: str = "s", scale: float = 1.0) -> None:
        """A population SD over `n` values as our sample SD, x sqrt(n / (n - 1)); a sample `name` where n is not known."""
        found = number(name, value)
        if found is not None and n is not None and n > 1:
            self.columns[metrics.metric(key).column("std")] = found * scale * math.sqrt(n / (n - 1))
        else:
            self.other(name, value, unit)

    def other(self, name: str, value: object, unit: str) -> None:
        """A figure without a column, under the tool's own name and unit."""
        self.samples += _importing.sample(f"{self.tool}:{name}", number(name, value), unit)

    def others(self, found: Mapping[str, Any], unit: str, prefix: str = "") -> None:
        """Every number of a mapping that `other` takes; what else it holds is left out."""
        for name, value in found.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.other(prefix + name, value, unit)


def number(name: str, value: object) -> float | None:
    """A number of a file, or its text; None where it has none: null, NaN, an empty cell. Raises ValueError for anything else, infinite
    and absurd ones included."""
    found = value
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            found = float(value)
        except ValueError:
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float):
        if value is None:
            return None
        raise ValueError(f"'{name}' is {short(value)}, which is no number")
    if abs(found) > LARGEST:
        raise ValueError(f"'{name}' is {short(value)}, larger than anything a benchmark counts")
    return None if math.isnan(found) else float(found)


def whole(name: str, value: object) -> int | None:
    """The nearest whole number, None for none. Raises ValueError for what is no number."""
    found = number(name, value)
    return None if found is None else round(found)


def positive(name: str, value: object) -> int | None:
    """A whole number from 1 on; None for none and for 0: where a degree or a length of 0 means that there is none. Raises ValueError
    for less."""
    found = whole(name, value)
    if found is not None and found < 0:
        raise ValueError(f"'{name}' is {short(value)}, which counts nothing")
    return found or None


def short(value: object) -> str:
    """A value as an error shows it."""
    return repr(value)[:40]


def image_version(image: str | None) -> str | None:
    """Tag of a container image without its v: `vllm/vllm-openai:v0.21.0` is 0.21.0; None without a tag."""
    tag = (image or "").rpartition(":")[2] if ":" in (image or "") else ""
    return tag.removeprefix("v") if tag and "/" not in tag else None
