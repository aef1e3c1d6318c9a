"""What importers of load-test tools share: figures that must be numbers, units of time, single requests, names without secrets."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collectors import _figures, _timing
from collectors._figures import number, short
from collectors._importing import File
from warehouse.metrics import metric

SECONDS = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "usec": 1e-6, "µs": 1e-6,
    "microseconds": 1e-6, "ns": 1e-9, "nanoseconds": 1e-9,
}  # fmt: skip
"""Seconds in a unit of time as tools spell it."""

STATISTICS = {"avg": "mean", "median": "p50", "stddev": "std", "std_dev": "std"}
"""Words of tools for statistics of ours; others are kept as they are."""


class Results(_figures.Figures):
    """Figures of one run of a load test. What is neither a number nor null refuses the file."""

    def keep(self, name: str, value: Any, unit: str) -> None:
        """A figure without a column."""
        self.other(name, number(name, value), unit)

    def kept(self, name: str, statistics: Mapping[str, Any], unit: str) -> None:
        """Statistics without a column."""
        for word, value in statistics.items():
            self.keep(f"{name}_{STATISTICS.get(word, word)}", value, unit)

    def value(self, key: str, value: Any, definition: str) -> None:
        """A metric's only value, in its own unit."""
        self.metric(key, number(key, value), definition)

    def times(
        self,
        key: str,
        definition: str,
        name: str,
        statistics: Mapping[str, Any],
        unit: str,
        *,
        values: int | None = None,
        is_population: bool = False,
    ) -> None:
        """Statistics of a time: in seconds where there is a column, else (and in an unknown unit) samples `name_statistic`.

        A population's standard deviation becomes the sample's by the number of values, and stays a sample figure where that
        is unknown. A mean or median of exactly 0 is how tools write that nothing was measured: nothing is then kept.
        """
        found = {STATISTICS.get(word, word): number(f"{name} {word}", value) for word, value in statistics.items()}
        if found.get("mean", found.get("p50")) == 0:
            return
        scale = SECONDS.get(unit)
        for word, value in found.items():
            if scale is None or (word != "mean" and word not in metric(key).statistics):
                self.other(f"{name}_{word}", value, unit)
            elif word == "std" and is_population:
                self.spread(key, value, values, name=f"{name}_std", unit=unit, scale=scale)
            else:
                self.metric(key, value, definition, statistic=None if word == "mean" else word, scale=scale)

    def computed(self, key: str, definition: str, values: Iterable[float | None]) -> None:
        """Statistics of ours over requests, for a figure that the file does not give."""
        if known := [value for value in values if value is not None]:
            self.columns |= _timing.summary(key, known)
            self.definitions[key] = definition


def objects(file: File) -> list[Any]:
    """The JSON values of a file: one, or one a line. Raises Unreadable."""
    first = next((line.strip() for line in file.head.splitlines() if line.strip()), "")
    if first.startswith("{") and len(first) > 1:
        return list(file.json_lines())
    return [file.json()]


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """An object of a file, empty where it is null. Raises ValueError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"'{name}' is {short(value)}, which is no object")
    return value


def listed(name: str, value: Any) -> list[Any]:
    """A list of a file, empty where it is null. Raises ValueError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"'{name}' is {short(value)}, which is no list")
    return value


def columns_of_equal_length(result: Mapping[str, Any], *keys: str) -> list[list[Any]]:
    """Lists that say one thing each of the same requests; None for all where one is absent. Raises ValueError for others."""
    found = [listed(key, result.get(key)) for key in keys]
    length = len(found[0])
    for key, values in zip(keys, found, strict=True):
        if values and len(values) != length:
            raise ValueError(f"'{key}' has {len(values)} entries, '{keys[0]}' has {length}")
    return [values or [None] * length for values in found]


def count(name: str, value: Any) -> int | None:
    """A whole number of a file, given as a number or in digits. Raises ValueError for anything else."""
    found = number(name, value)
    if found is None:
        return None
    if found < 0 or found != int(found):
        raise ValueError(f"'{name}' is {short(value)}, which counts nothing")
    return int(found)


def requests(
    done: int, sent: int | None, *, done_key: str = "completed", sent_key: str = "num_prompts"
) -> dict[str, int | float | None]:
    """Columns of how many requests were sent and came back. Raises ValueError where more came back than were sent."""
    if sent is not None and done > sent:
        raise ValueError(f"'{done_key}' ({done}) is more than '{sent_key}' ({sent})")
    return {
        "num_requests": sent,
        "num_failed_requests": None if sent is None else sent - done,
        "success_rate": done / sent if sent else None,
    }


def each(name: str, total: Any, of: int | None) -> int | None:
    """Tokens of one of several sequences: their mean, rounded."""
    found = number(name, total)
    return None if found is None or not of else round(found / of)


def rate_limit(value: Any) -> float | None:
    """Requests a second that were offered, None for no limit: `inf` in any spelling, or 1e9 and more."""
    if isinstance(value, str) and value.lower() in ("inf", "infinity"):
        return None
    if isinstance(value, float) and math.isinf(value):
        return None
    found = number("request_rate", value)
    return None if found is None or found >= 1e9 else found


def instant(name: str, unix: Any, *, scale: float = 1.0) -> datetime.datetime | None:
    """A time given in units of `scale` s since 1970. Raises ValueError for none."""
    found = number(name, unix)
    try:
        return None if found is None else datetime.datetime.fromtimestamp(found * scale, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"'{name}' is {short(unix)}, which is no time since 1970") from None


def stamp(name: str, text: Any) -> datetime.datetime | None:
    """A time written as 20260214-214213, taken as UTC. Raises ValueError for another."""
    if text is None or text == "":
        return None
    try:
        return datetime.datetime.strptime(str(text), "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise ValueError(f"'{name}' is {short(text)}, which is no time such as 20260214-214213") from None


def tpot(e2el_s: float | None, ttft_s: float | None, output_tokens: int | None) -> float | None:
    """Time per output token after the first; None for one token or where something is unknown."""
    if e2el_s is None or ttft_s is None or output_tokens is None or output_tokens < 2:
        return None
    return max(0.0, e2el_s - ttft_s) / (output_tokens - 1)


def offsets(instants: Sequence[float | None], start: float | None) -> list[float | None]:
    """Instants of a clock as seconds from `start`, never before it; None where either is unknown."""
    return [None if one is None or start is None else max(0.0, one - start) for one in instants]
