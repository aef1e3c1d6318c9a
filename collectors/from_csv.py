"""Importer of any CSV or TSV with a mapping file (--mapping) that says which column is what: one run a line.

    ignore = ["comment"]                      columns that nothing is made of
    missing = ["n/a"]                         texts that mean "not measured", beside the empty one
    [columns."Latency (ms)"]                  a column of the file
    column = "latency_s"                      ... is this column of `runs`, or `hardware`, or `model`
    unit = "ms"                               ... in this unit; needed where ours has one
    definition = "wall_clock"                 ... under this definition; needed for a metric
    [columns."Fan speed"]
    sample = "fan_speed"                      ... has no column: it becomes the sample `csv:fan_speed`
    unit = "1/min"
    [constants]                               what holds for every line
    hardware = "h100-sxm"
    phase = "generate"

Nothing is guessed: a column that the mapping does not name, an unknown unit and a metric without a definition are refused.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from collectors import _importing
from collectors._importing import File, Run, Said, Unreadable
from warehouse import metrics, schema

TOOL = "csv"
SOURCE_KIND = "measured"

add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
}
_JOULES = {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6}
_THOUSANDS = {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12}
_PER_SECOND = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}

UNITS: dict[str, dict[str, float]] = {
    "s": _SECONDS,
    "B": _BYTES,
    "B/s": {f"{unit}/s": factor for unit, factor in _BYTES.items()},
    "FLOP": {f"{prefix}FLOP": factor for prefix, factor in _THOUSANDS.items()},
    "FLOP/s": {f"{prefix}FLOP/s": factor for prefix, factor in _THOUSANDS.items()},
    "FLOP/B": {"FLOP/B": 1.0},
    "tokens/s": {f"tokens{rate}": factor for rate, factor in _PER_SECOND.items()},
    "1/s": {f"1{rate}": factor for rate, factor in _PER_SECOND.items()},
    "W": {"W": 1.0, "mW": 1e-3, "kW": 1e3},
    "J": _JOULES,
    "J/token": {f"{unit}/token": factor for unit, factor in _JOULES.items()},
    "USD": {"USD": 1.0},
    "": {"1": 1.0, "%": 0.01},
}
"""Unit of ours -> unit of a file -> factor to ours."""

_METRIC_UNITS = {column: metric.unit for metric in metrics.METRICS for column in metric.columns}
_OTHER_UNITS = {"request_rate_per_s": "1/s", "duration_s": "s", "concurrency_mean": None, "concurrency_max": None}
_PLAIN = ("status", "num_samples", "num_requests", "num_failed_requests")
_NAMES = ("hardware", "model", "collected_at")
MISSING = ("", "NA", "N/A", "NaN", "nan", "None", "null", "-")


@dataclass(frozen=True)
class _Meaning:
    """What a column of the file is: a column of ours or a sample, with the factor to our unit."""

    target: str
    is_sample: bool = False
    factor: float = 1.0
    unit: str = ""
    definition: str | None = None


@dataclass(frozen=True)
class _Mapping:
    path: Path
    columns: dict[str, _Meaning]
    constants: dict[str, str]
    missing: frozenset[str]
    ignored: frozenset[str]


def recognises(file: File) -> bool:
    """Never: a plain CSV is read with --mapping (or `--tool csv`) alone."""
    return False


def read(file: File, said: Said) -> Iterator[Run]:
    """One run a line that is not blank."""
    if said.mapping is None:
        raise Unreadable(f"{file.name} is a plain CSV: say which column is what with --mapping FILE.toml.")
    mapping = _mapping(said.mapping)
    text = file.text()
    first = next((line for line in text.splitlines() if line.strip(", \t")), "")
    delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    lines = csv.reader(io.StringIO(text), delimiter=delimiter)
    headings: list[str] | None = None
    for index, cells in enumerate(lines, 1):
        if not any(cell.strip() for cell in cells):
            continue
        if headings is None:
            headings = [cell.strip() for cell in cells]
            _check_headings(file, mapping, headings)
            continue
        if len(cells) != len(headings):
            raise Unreadable(f"{file.name}, line {index} has {len(cells)} cells under {len(headings)} headings.")
        yield _run(file, mapping, index, dict(zip(headings, (cell.strip() for cell in cells), strict=True)))


def _check_headings(file: File, mapping: _Mapping, headings: list[str]) -> None:
    absent = [name for name in mapping.columns if name not in headings]
    if absent:
        raise Unreadable(
            f"{file.name} has no column {_quoted(absent)} that {mapping.path.name} maps. It has: {', '.join(headings)}."
        )
    unknown = [name for name in headings if name and name not in mapping.columns and name not in mapping.ignored]
    if unknown:
        raise Unreadable(
            f"{mapping.path.name} does not say what {_quoted(unknown)} of {file.name} is. Map it, or name it in `ignore`."
        )


def _run(file: File, mapping: _Mapping, index: int, row: Mapping[str, str]) -> Run:
    found: dict[str, Any] = dict(mapping.constants)
    definitions, samples = {}, []
    for heading, meaning in mapping.columns.items():
        text = row[heading]
        if text in mapping.missing:
            continue
        if meaning.is_sample:
            value = _number(file, index, heading, text)
            samples += _importing.sample(f"csv:{meaning.target}", value, meaning.unit)
        elif meaning.target in _METRIC_UNITS or meaning.target in _OTHER_UNITS:
            found[meaning.target] = _number(file, index, heading, text) * meaning.factor
            if meaning.definition is not None:
                definitions[meaning.target] = meaning.definition
        else:
            found[meaning.target] = text
    device, model, collected_at = (found.pop(name, None) for name in _NAMES)
    try:
        columns = dict(_value(name, value) for name, value in found.items())
        moment = None if collected_at is None else datetime.datetime.fromisoformat(collected_at)
    except ValueError as error:
        raise Unreadable(f"{file.name}, line {index}: {error}") from None
    return Run(
        cell=f"line {index}",
        status=columns.pop("status", "ok"),
        columns=columns,
        definitions=definitions,
        device=device,
        model=model,
        collected_at=moment if moment is None or moment.tzinfo else moment.replace(tzinfo=datetime.UTC),
        samples=samples,
    )


def _value(name: str, value: Any) -> tuple[str, Any]:
    """A value of a column of ours from text. Raises Unreadable where it does not take it."""
    if not isinstance(value, str):
        return name, value
    if name.endswith("_dtype"):
        known = _importing.dtype(value)
        return _importing.setting(f"{name}={value if known is None else known}")
    if name in _PLAIN:
        column = schema.RUNS.column(name)
        if column.values is not None:
            if value not in column.values:
                raise Unreadable(f"'{value}' is not a value of {name}. Known: {', '.join(column.values)}.")
            return name, value
        return name, int(float(value))
    if pa.types.is_integer(schema.RUNS.column(name).type):
        value = value.removesuffix(".0")
    return _importing.setting(f"{name}={value}")


def _number(file: File, index: int, heading: str, text: str) -> float:
    try:
        return float(text.replace(",", "")) if text.count(",") and "." in text else float(text)
    except ValueError:
        raise Unreadable(
            f"{file.name}, line {index}: {heading} is '{text}', no number. Name it in `missing` if it means none."
        ) from None


# ---- the mapping


def _mapping(path: Path) -> _Mapping:
    """A checked mapping. Raises Unreadable naming the entry."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unreadable(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be read as TOML: {error}.") from None
    unknown = sorted(content.keys() - {"columns", "constants", "ignore", "missing"})
    if unknown:
        raise Unreadable(f"{path.name}: no such key {_quoted(unknown)}. Known: columns, constants, ignore, missing.")
    columns = {heading: _meaning(path, heading, entry) for heading, entry in content.get("columns", {}).items()}
    constants = {name: str(value) for name, value in content.get("constants", {}).items()}
    for name in constants:
        if name not in (*_importing.SETTABLE, *_NAMES):
            raise Unreadable(
                f"{path.name} [constants]: '{name}' cannot be set. Known: {', '.join((*_NAMES, *_importing.SETTABLE))}."
            )
    targets = [meaning.target for meaning in columns.values() if not meaning.is_sample]
    if len(set(targets)) < len(targets):
        raise Unreadable(
            f"{path.name} maps two columns to one: {_quoted({one for one in targets if targets.count(one) > 1})}."
        )
    if not columns:
        raise Unreadable(f'{path.name} maps no column. Add [columns."..."] entries.')
    return _Mapping(
        path,
        columns,
        constants,
        frozenset((*MISSING, *content.get("missing", ()))),
        frozenset(content.get("ignore", ())),
    )


def _meaning(path: Path, heading: str, entry: Any) -> _Meaning:
    label = f'{path.name} [columns."{heading}"]'
    if not isinstance(entry, dict) or ("column" in entry) == ("sample" in entry):
        raise Unreadable(f"{label} needs either `column` or `sample`.")
    unit = entry.get("unit")
    if "sample" in entry:
        return _Meaning(str(entry["sample"]), is_sample=True, unit=str(unit if unit is not None else ""))
    target = str(entry["column"])
    if target not in _METRIC_UNITS:
        return _other(label, target, unit)
    definition = entry.get("definition")
    if definition not in metrics.DEFINITIONS:
        raise Unreadable(
            f"{label}: {target} needs a `definition`, and {definition!r} is none that is known. Known: {', '.join(metrics.DEFINITIONS)}. "
            "A figure under another definition is a `sample`."
        )
    return _Meaning(target, factor=_factor(label, _METRIC_UNITS[target], unit), definition=definition)


def _other(label: str, target: str, unit: Any) -> _Meaning:
    """A column without a definition: of the configuration, or a name."""
    known = (*_NAMES, *_PLAIN, *_OTHER_UNITS, *_importing.SETTABLE)
    if target not in known:
        raise Unreadable(
            f"{label}: '{target}' is not a column that can be mapped. Known: {', '.join((*known, *_METRIC_UNITS))}."
        )
    ours = _OTHER_UNITS.get(target)
    if ours is not None:
        return _Meaning(target, factor=_factor(label, ours, unit))
    if unit is not None:
        raise Unreadable(f"{label}: {target} has no unit, and the mapping says {unit!r}.")
    return _Meaning(target)


def _factor(label: str, ours: str, unit: Any) -> float:
    known = UNITS[ours]
    if unit not in known:
        raise Unreadable(f"{label}: {unit!r} is no unit of it. Known: {', '.join(known)}.")
    return known[unit]


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
