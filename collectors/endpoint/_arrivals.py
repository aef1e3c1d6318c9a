"""When requests are due: at a constant rate, as a Poisson process, all at once, at a rising rate, or as a trace says."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PATTERNS = ("closed", "constant", "poisson", "burst", "ramp", "replay")
RATED = ("constant", "poisson", "ramp")
"""Patterns that need a rate; of `ramp` it is the rate at the end."""

SECONDS = ("at_s", "timestamp_s", "arrived_at", "timestamp")
MILLISECONDS = ("timestamp_ms", "at_ms")
INPUTS = ("input_tokens", "input_length", "contexttokens", "request tokens", "num_prefill_tokens", "prompt_tokens")
OUTPUTS = ("output_tokens", "output_length", "generatedtokens", "response tokens", "num_decode_tokens")
"""Column names of traces, in lower case: our own; Mooncake's (its `timestamp` is in milliseconds); Azure's (dates and
times); BurstGPT's; Vidur's."""


@dataclass(frozen=True)
class Arrival:
    """When a request is due, seconds after the first could be, and its lengths where a trace says them."""

    at_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None


def arrivals(
    pattern: str, *, rate_per_s: float | None, num_requests: int | None, duration_s: float | None, seed: str
) -> list[Arrival]:
    """Due times of an open-loop pattern other than replay: `num_requests` of them, those before `duration_s`, or both.

    Poisson: gaps are exponential with mean 1 / rate, the same ones for the same seed. Ramp: the rate rises from 0 to
    `rate_per_s` on a straight line, n requests lasting 2 n / rate: t_i = sqrt(2 i / slope).
    """
    if pattern == "burst":
        return [Arrival(0.0)] * (num_requests or 0)
    if rate_per_s is None:
        raise ValueError(f"The load '{pattern}' needs a rate. Give requests per second with --request-rate.")
    most = math.inf if num_requests is None else num_requests
    span_s = math.inf if duration_s is None else duration_s
    if num_requests is None and duration_s is None:
        raise ValueError("Neither a number of requests nor a duration is given.")
    if pattern == "ramp":
        length_s = 2 * most / rate_per_s if duration_s is None else span_s
        count = int(most if duration_s is None else min(most, rate_per_s * length_s / 2))
        times = np.sqrt(2 * np.arange(count) * length_s / rate_per_s)
    elif pattern == "constant":
        count = int(min(most, np.ceil(rate_per_s * span_s)))
        times = np.arange(count) / rate_per_s
    else:
        times = _poisson(rate_per_s, most, span_s, seed)
    return [Arrival(float(at_s)) for at_s in times]


def _poisson(rate_per_s: float, most: float, span_s: float, seed: str) -> Any:
    generator = np.random.default_rng(list(seed.encode()))
    if span_s == math.inf:
        return np.cumsum(generator.exponential(1 / rate_per_s, int(most)))
    expected = rate_per_s * span_s
    times = np.cumsum(generator.exponential(1 / rate_per_s, int(expected + 10 * math.sqrt(expected) + 20)))
    times = times[times < span_s]
    return times if most == math.inf else times[: int(most)]


def replayed(path: Path) -> list[Arrival]:
    """Arrivals of a trace: JSON lines, or CSV with a header. The first is due at 0.

    Raises ValueError naming the line, or the file, that cannot be read.
    """
    rows = _rows(path)
    if not rows:
        raise ValueError(f"'{path.name}' holds no request.")
    read_time = _clock(path, rows[0][1])
    found = []
    for line, row in rows:
        try:
            arrival = (read_time(row), _count(row, INPUTS), _count(row, OUTPUTS))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"Line {line} of '{path.name}' is not a request of a trace: {error}.") from None
        found.append(arrival)
    found.sort(key=lambda arrival: arrival[0])
    return [Arrival(at_s - found[0][0], inputs, outputs) for at_s, inputs, outputs in found]


def _rows(path: Path) -> Sequence[tuple[int, Mapping[str, Any]]]:
    """(line, columns in lower case)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"'{path.name}' is not UTF-8 text, so it is no trace of requests.") from None
    except OSError as error:
        raise ValueError(
            f"The file of arrivals '{path.name}' cannot be read: {error.strerror or error}. Set it with --replay."
        ) from None
    if not text.lstrip().startswith("{"):
        reader = csv.DictReader(io.StringIO(text))
        return [(reader.line_num, {str(name).strip().lower(): v for name, v in row.items()}) for row in reader]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Line {number} of '{path.name}' is not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of '{path.name}' is not a JSON object.")
        rows.append((number, {name.lower(): value for name, value in row.items()}))
    return rows


def _clock(path: Path, row: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], float]:
    """How times are read, from the first row."""
    for name in MILLISECONDS:
        if name in row:
            return lambda row: _finite(row[name]) / 1e3
    for name in SECONDS:
        if name not in row:
            continue
        if name == "timestamp" and "input_length" in row:
            return lambda row: _finite(row[name]) / 1e3
        try:
            float(row[name])
        except (ValueError, TypeError):
            return lambda row: _instant(row[name])
        return lambda row: _finite(row[name])
    known = ", ".join([*SECONDS, *MILLISECONDS])
    raise ValueError(f"'{path.name}' has no column that says when a request came. Known: {known}.")


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"its time is {value!r}")
    return number


def _instant(value: Any) -> float:
    """Seconds of a date and time; of more digits than a microsecond's the rest is dropped."""
    head, point, fraction = str(value).strip().partition(".")
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    zone = fraction[len(digits) :]
    at = datetime.datetime.fromisoformat(f"{head}{point}{digits[:6].ljust(6, '0') if point else ''}{zone}")
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()


def _count(row: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """A count of tokens, at least 1: a server is asked for no less."""
    for name in names:
        if (value := row.get(name)) not in (None, ""):
            number = _finite(value)
            if number < 0 or number != int(number):
                raise ValueError(f"{name} is {value!r}")
            return max(1, int(number))
    return None
