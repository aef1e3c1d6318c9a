"""What every importer of other tools' files shares: the file, what it says, what is said of it, and how rows land.

An importer is a collector module `from_<tool>` with

    TOOL                       the tool's name, as in `--tool` and in `source_id`
    SOURCE_KIND                `measured` for a tool one runs oneself, `published` for tables that others measured
    recognises(file)           does the file look like the tool's? Decided by content, never by name
    read(file, said)           the runs the file holds, one after the other
    add_arguments              = _importing.add_arguments
    collect                    = functools.partial(_importing.collect, tool=TOOL)

A file lands whole or not at all. Values are in our columns only under a definition of ours (warehouse/metrics.py), in SI units;
every other figure goes to `samples` as `tool:name` with its own unit. What a file does not say is given by the caller (`Said`)
or is NULL; only the device must be known.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
import gzip
import hashlib
import io
import json
import math
import re
import shlex
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import pyarrow as pa

import collectors
from collectors import Collected, Report, _names, silent
from warehouse import catalog, metrics, parquet, schema

HEAD_BYTES = 2**16
MAX_TEXT_BYTES = 2**30
"""Largest file that is read whole, unpacked. Importers of larger ones stream."""

MAX_DEPTH = 200
"""Brackets within brackets of a JSON file; deeper ones are no result of a benchmark."""

SETTABLE = tuple(
    name
    for name in (
        *schema.CONFIGURATION_NAMES, "task", "execution", "cache_implementation", "framework", "framework_version",
        "served_model_name", "model_revision", "is_output_fixed", "is_prefix_unique", "source_kind",
    )
    if name not in ("hardware_id", "llm_id")
)  # fmt: skip
"""Columns of `runs` that --set takes."""

Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.Table


class Unreadable(ValueError):
    """A file, or what is said of it, that gives no rows. The message is a sentence that names the file."""


class Importer(Protocol):
    """What a `from_<tool>` module offers."""

    TOOL: str
    SOURCE_KIND: str

    def recognises(self, file: File) -> bool: ...

    def read(self, file: File, said: Said) -> Iterable[Run]: ...


@dataclass(frozen=True)
class File:
    """One file to import, plain or gzip. Nothing is read before it is asked for."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> io.BufferedIOBase:
        """Its bytes, unpacked."""
        raw = self.path.open("rb")
        if raw.peek(2)[:2] == b"\x1f\x8b":
            return gzip.GzipFile(fileobj=raw)
        return raw

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits over its unpacked bytes: the same content under another name is the same source."""
        sha = hashlib.sha256()
        with self._reading(), self.open() as stream:
            while block := stream.read(2**20):
                sha.update(block)
        return sha.hexdigest()[:16]

    @functools.cached_property
    def head(self) -> str:
        """Its first 64 KiB as text; bytes that are no text become U+FFFD."""
        with self._reading(), self.open() as stream:
            return _decoded(stream.read(HEAD_BYTES), is_whole=False)

    def text(self) -> str:
        """All of it as text: UTF-8, or UTF-16 by its byte order mark. Raises Unreadable."""
        with self._reading(), self.open() as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise Unreadable(f"{self.name} is larger than {MAX_TEXT_BYTES // 2**20} MiB unpacked. Split it.")
        try:
            return _decoded(content, is_whole=True)
        except UnicodeDecodeError:
            raise Unreadable(f"{self.name} is not text: neither UTF-8 nor UTF-16.") from None

    def json(self) -> Any:
        """All of it as one JSON value; bare NaN and Infinity become floats. Raises Unreadable."""
        return self._parsed(self.text(), "")

    def json_lines(self) -> Iterator[Any]:
        """Its lines as JSON values, blank ones left out. Raises Unreadable naming the line."""
        for number, line in enumerate(io.StringIO(self.text()), 1):
            if line.strip():
                yield self._parsed(line, f", line {number}")

    def shallow(self, text: str, where: str = "") -> str:
        """The text, refused where its brackets nest deeper than a parser should be asked to go. Raises Unreadable."""
        if _depth(text) > MAX_DEPTH:
            raise Unreadable(f"{self.name}{where} nests brackets deeper than {MAX_DEPTH}: no result file does.")
        return text

    def _parsed(self, text: str, where: str) -> Any:
        try:
            return json.loads(self.shallow(text, where))
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{self.name}{where} is not JSON: {error}.") from None

    def _reading(self) -> _Reading:
        return _Reading(self)


@dataclass
class _Reading:
    """Turns what a broken file raises into a sentence."""

    file: File

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise Unreadable(f"{self.file.path} does not exist.") from None
        if isinstance(error, IsADirectoryError):
            raise Unreadable(f"{self.file.path} is a folder. Name its files.") from None
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise Unreadable(f"{self.file.name} is cut off or broken gzip: {error}.") from None
        if isinstance(error, OSError):
            raise Unreadable(f"{self.file.name} cannot be read: {error.strerror or error}.") from None


@dataclass(frozen=True)
class Said:
    """What the caller says of files, where the files do not: it never overrides what a file says, except `settings`."""

    hardware_id: str | None = None
    llm_id: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    mapping: Path | None = None
    """A TOML file that says which column of a plain CSV is what."""
    known_hardware: Collection[str] = ()
    """Ids of devices that are in no catalogue and that a lake holds."""


@dataclass
class Run:
    """One run that a file holds: columns of `runs` in SI units, only those the file says, and the rows that belong to it.

    `device` and `model` are names as the file prints them; they are looked up in the catalogue. A model that it does not know
    stays `served_model_name`, a device that it does not know refuses the file. Rows of other tables go without `run_id`;
    `op_index`, `request_index`, `kernel_index` and `sample_index` (from 0 for each metric) are counted where absent.
    """

    cell: str
    """Where in the file, in words that stay the same for the same content: `all`, `line 3`, `benchmarks[2]`."""
    columns: dict[str, Any]
    definitions: dict[str, str] = field(default_factory=dict)
    """Metric column -> definition id, for every latency, throughput, memory or energy column that is filled."""
    device: str | None = None
    model: str | None = None
    collected_at: datetime.datetime | None = None
    """When it was measured, if the file says so; else the file's own date."""
    quality_tier: int = 0
    """0 for a summary, 1 where raw samples or requests come with it."""
    status: str = "ok"
    notes: list[str] = field(default_factory=list)
    """Sentences for `status_detail`: why a value is absent, what was assumed."""
    exclusion_reason: str | None = None
    """Why the run is kept out of charts: its own source doubts it. None where it does not."""
    environment: dict[str, Any] | None = None
    samples: Rows = ()
    requests: Rows = ()
    ops: Rows = ()
    kernels: Rows = ()
    telemetry: Rows = ()
    ranks: Rows = ()
    quality: Rows = ()


def sample(name: str, value: float | None, unit: str, **columns: Any) -> list[dict[str, Any]]:
    """A figure without a column as rows of `samples`: none where the value is None, NaN or infinite.

    `name` is `tool:key`, in the tool's own spelling.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return []
    return [{"metric": name, "sample_phase": "measured", "value": float(value), "unit": unit, **columns}]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every importer takes."""
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="result files, plain or .gz")
    add("--hardware", dest="hardware_id", help="device the files were measured on, where they do not name it")
    add("--model", dest="llm_id", help="LLM that was measured, where the files do not name it: an id of the catalogue")
    add(
        "--set",
        dest="settings",
        action="append",
        metavar="COLUMN=VALUE",
        help="any other column, e.g. tensor_parallel=8",
    )
    add("--mapping", type=Path, metavar="TOML", help="which column is what, for a plain CSV")


def tools() -> list[str]:
    """Names of the tools whose files can be imported."""
    return [name.removeprefix("from_") for name in collectors.names() if name.startswith("from_")]


def importer(file: File, tool: str | None = None) -> Importer:
    """The importer of a tool, or the one that recognises a file. Raises Unreadable where none or several do, or another."""
    if tool is not None and tool not in tools():
        raise Unreadable(f"'{tool}' is not a tool whose files can be imported. Known: {', '.join(tools())}.")
    found = {one.TOOL: one for one in map(_module, tools()) if one.recognises(file)}
    if tool is not None:
        if found and tool not in found:
            raise Unreadable(f"{file.name} is a file of {' or '.join(found)}, not of {tool}.")
        return _module(tool)
    if not found:
        raise Unreadable(
            f"{file.name} is a file of no tool that is known: {', '.join(tools())}. Name one with --tool; a plain CSV needs --mapping."
        )
    if len(found) > 1:
        raise Unreadable(f"{file.name} could be of {' or '.join(found)}. Name it with --tool.")
    return next(iter(found.values()))


def _module(tool: str) -> Importer:
    return cast(Importer, collectors.find(f"from_{tool}"))


def collect(
    landing: Path,
    *,
    report: Report = silent,
    files: Path | str | Sequence[Path | str],
    tool: str | None = None,
    hardware_id: str | None = None,
    llm_id: str | None = None,
    settings: Sequence[str] | None = None,
    mapping: Path | None = None,
    known_hardware: Collection[str] = (),
) -> Collected:
    """Land every run of every file with its tool's importer, recognised where none is named; a second import adds nothing.

    Every file is tried; Unreadable then says which were refused and why. Raises LookupError for a device or an LLM given that
    is in no catalogue, Unreadable for a setting that does not exist.
    """
    said = Said(
        hardware_id
        if hardware_id is None or hardware_id in known_hardware
        else catalog.find_hardware(hardware_id).hardware_id,
        None if llm_id is None else catalog.find_llm(llm_id).llm_id,
        dict(setting(one) for one in settings or ()),
        mapping,
        known_hardware,
    )
    paths: list[Path] = []
    refused: list[str] = []
    num_runs = 0
    for file in [File(Path(one)) for one in ([files] if isinstance(files, Path | str) else files)]:
        try:
            found = importer(file, "csv" if tool is None and mapping is not None else tool)
            batch = _batch(found, file, said)
            landed = parquet.land(landing, f"from_{found.TOOL}-{file.digest}-{schema.digest(batch['runs'])[:8]}", batch)
        except (Unreadable, catalog.UnknownEntryError, parquet.ContractError) as error:
            text = str(error)
            refused.append(text if file.name in text else f"{file.name}: {text}")
            continue
        paths += landed
        num_runs += len(batch["runs"])
        failures = sum(run["status"] != "ok" for run in batch["runs"])
        report(
            f"{file.name}: {found.TOOL}, {len(batch['runs'])} runs" + (f", {failures} of failures" if failures else "")
        )
    if refused:
        raise Unreadable("\n".join(refused))
    return Collected(num_runs, tuple(paths))


def setting(text: str) -> tuple[str, Any]:
    """`tensor_parallel=8` as a column and its value. Raises Unreadable for another column or a value it does not take."""
    name, separator, value = text.partition("=")
    if not separator or name not in SETTABLE:
        raise Unreadable(f"'{text}' does not set a column that can be set. Known: {', '.join(SETTABLE)}.")
    column = schema.RUNS.column(name)
    if column.values is not None and value not in column.values:
        raise Unreadable(f"'{value}' is not a value of {name}. Known: {', '.join(column.values)}.")
    if pa.types.is_list(column.type):
        return name, sorted(value.split())
    try:
        found = pa.scalar(value).cast(column.type).as_py()
    except pa.ArrowInvalid:
        raise Unreadable(f"'{value}' is not a value of {name}: it takes {column.type}.") from None
    if isinstance(found, int | float) and not isinstance(found, bool) and not 0 <= found < float("inf"):
        raise Unreadable(f"'{value}' is not a value of {name}: it is a number from 0 on.")
    return name, found


def dtype(name: str | None) -> str | None:
    """A dtype of ours for the names tools use; None for none and for one we do not know.

    >>> dtype("torch.bfloat16"), dtype("FP8_BLOCK"), dtype("auto")
    ('bf16', 'fp8', None)
    """
    plain = re.sub(r"^torch\.", "", (name or "").strip().lower())
    return _DTYPES.get(plain) or _DTYPES.get(re.split(r"[_\-]", plain)[0])


_DTYPES = {name: name for name in schema.DTYPE_BYTES} | {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "float8": "fp8", "f16": "fp16",
    "f32": "fp32", "f8": "fp8", "q8": "int8", "q4": "int4", "float64": "fp64", "double": "fp64", "e4m3": "fp8", "w4a16": "int4",
    "w8a8": "int8", "awq": "int4", "gptq": "int4",
}  # fmt: skip


def _batch(tool: Importer, file: File, said: Said) -> dict[str, Any]:
    """All rows of one file, by table. Raises Unreadable where it holds no run."""
    batch: dict[str, Any] = {name: [] for name in ("environments", "sources", *schema.OF_A_RUN, "runs")}
    source_id = f"{tool.TOOL.replace('_', '-')}/{file.digest}"
    try:
        found = list(tool.read(file, said))
        unknown = {run.device for run in found if run.device is not None and not _is_known(run.device)}
        for run in found:
            if run.status == "ok" and not _says_something(run):
                raise Unreadable(f"{file.name} reads as a file of {tool.TOOL} and holds no figure ({run.cell}).")
            _add(batch, _row(tool, file, said, run, source_id, is_one_unknown=len(unknown) == 1), run)
    except (
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        OverflowError,
        RecursionError,
        csv.Error,
        pa.ArrowException,
    ) as error:
        if isinstance(error, Unreadable | catalog.UnknownEntryError | parquet.ContractError):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise Unreadable(f"{file.name} looks like a file of {tool.TOOL} and does not read as one: {what}.") from error
    if not batch["runs"]:
        raise Unreadable(f"{file.name} is a file of {tool.TOOL} and holds no result.")
    batch["sources"] = [
        {"source_id": source_id, "title": f"{tool.TOOL}: {file.name}", "kind": "dataset", "locator": file.name,
         "note": f"imported by collectors/from_{tool.TOOL}.py; content {file.digest}"}
    ]  # fmt: skip
    return {name: _joined(rows) for name, rows in batch.items() if rows}


_FIGURES = frozenset(column for metric in metrics.METRICS for column in metric.columns)


def _says_something(run: Run) -> bool:
    """Does it hold any figure: a metric, or a row of its own?"""
    has_metric = any(value is not None for name, value in run.columns.items() if name in _FIGURES)
    return has_metric or any(len(getattr(run, name)) for name in schema.OF_A_RUN)


def _joined(rows: list[Any]) -> Any:
    if not any(isinstance(part, pa.Table) for part in rows):
        return rows
    return pa.concat_tables(rows, promote_options="permissive")


def _row(tool: Importer, file: File, said: Said, run: Run, source_id: str, *, is_one_unknown: bool) -> dict[str, Any]:
    """The row of `runs`."""
    columns = {"optimizations": [], **run.columns, **said.settings}
    notes = list(run.notes)
    columns["hardware_id"] = _hardware(file, said, run.device, is_one_unknown=is_one_unknown)
    if run.device is not None and not _is_known(run.device):
        notes.append(
            f"The file calls the device '{run.device}', which is not in the catalogue; {said.hardware_id} was given."
        )
    columns["served_model_name"] = _names.model_name(columns.get("served_model_name"))
    columns["llm_id"], unknown = _llm(said, _names.model_name(run.model))
    if unknown is not None:
        columns["served_model_name"] = columns["served_model_name"] or unknown
        notes.append(f"'{unknown}' is not in the catalogue of LLMs: give --model.")
    if "phase" not in columns:
        raise Unreadable(
            f"{file.name} does not say what was run. Give --set phase=... Known: {', '.join(schema.PHASES)}."
        )
    if columns.get("num_devices") is None:
        notes.append("How many devices is not said: give --set num_devices=...")
    if run.collected_at is None:
        notes.append("When it was measured is not said: the date is the file's.")
    config_id = schema.config_id(columns)
    kind = columns.pop("source_kind", tool.SOURCE_KIND)
    return {
        **columns,
        "run_id": f"from_{tool.TOOL}-{schema.digest(file.digest, run.cell, config_id, said.settings)}",
        "config_id": config_id,
        "repeat_group_id": schema.digest(source_id, run.cell, config_id),
        "collector": f"from_{tool.TOOL}",
        "source_kind": kind,
        "source_id": source_id,
        "source_cell": run.cell,
        "quality_tier": run.quality_tier,
        "collected_at": run.collected_at or datetime.datetime.fromtimestamp(file.path.stat().st_mtime, datetime.UTC),
        "status": run.status,
        "status_detail": " ".join(notes) or None,
        "is_excluded": run.exclusion_reason is not None,
        "exclusion_reason": run.exclusion_reason,
        "command": _command(tool, file, said),
        "metric_definitions": run.definitions,
    }


def _add(batch: dict[str, Any], row: dict[str, Any], run: Run) -> None:
    if run.environment is not None:
        environment = {"hardware_id": row["hardware_id"], **run.environment}
        environment["environment_id"] = row["environment_id"] = schema.digest(environment)
        batch["environments"].append(environment)
    batch["runs"].append(row)
    for name in schema.OF_A_RUN:
        rows: Rows = getattr(run, name)
        if isinstance(rows, pa.Table):
            batch[name].append(_numbered(name, rows, row["run_id"]))
        else:
            batch[name] += _counted(name, rows, row["run_id"])


_INDEX = {"ops": "op_index", "requests": "request_index", "kernels": "kernel_index"}


def _numbered(name: str, rows: pa.Table, run_id: str) -> pa.Table:
    if name in _INDEX and _INDEX[name] not in rows.column_names:
        rows = rows.append_column(_INDEX[name], pa.array(np.arange(rows.num_rows)))
    return rows.append_column("run_id", pa.repeat(run_id, rows.num_rows))


def _counted(name: str, rows: Sequence[Mapping[str, Any]], run_id: str) -> Iterator[dict[str, Any]]:
    seen: dict[str, int] = {}
    for position, row in enumerate(rows):
        index = {_INDEX[name]: position} if name in _INDEX else {}
        if name == "samples":
            index = {"sample_index": seen.get(row["metric"], 0)}
            seen[row["metric"]] = index["sample_index"] + 1
        yield {"run_id": run_id, **index, **row}


@functools.cache
def _is_known(device: str) -> bool:
    try:
        return bool(catalog.find_hardware(device))
    except catalog.UnknownEntryError:
        return False


def _hardware(file: File, said: Said, device: str | None, *, is_one_unknown: bool) -> str:
    """Id of the device: the file's own, else as said; of several that nobody knows, none may be said."""
    if device is None:
        if said.hardware_id is None:
            raise Unreadable(
                f'{file.name} names no hardware. Give it with --hardware; `rooflake sql "from hardware"` lists the known ones.'
            )
        return said.hardware_id
    try:
        return catalog.find_hardware(device).hardware_id
    except catalog.UnknownEntryError as error:
        if said.hardware_id is not None and is_one_unknown:
            return said.hardware_id
        way = "Give --hardware, or add" if is_one_unknown else "It is not the only one: add"
        raise Unreadable(
            f"{file.name} was measured on '{device}', which is not in the hardware catalogue. {way} the name to an entry's aliases "
            "in warehouse/catalog/hardware.toml."
        ) from error


def _llm(said: Said, model: str | None) -> tuple[str | None, str | None]:
    """Id of the LLM, and the name the file gives it where the catalogue does not know it."""
    if model is None:
        return said.llm_id, None
    try:
        return catalog.find_llm(model).llm_id, None
    except catalog.UnknownEntryError:
        return said.llm_id, model if said.llm_id is None else None


def _command(tool: Importer, file: File, said: Said) -> str:
    """What repeats the import; the file is named without its path."""
    words = ["python", "-m", "collectors", f"from_{tool.TOOL}", file.name]
    words += ["--hardware", said.hardware_id] if said.hardware_id else []
    words += ["--model", said.llm_id] if said.llm_id else []
    for name, value in said.settings.items():
        words += ["--set", f"{name}={' '.join(value) if isinstance(value, list) else value}"]
    return shlex.join(words)


def _decoded(content: bytes, *, is_whole: bool) -> str:
    errors = "strict" if is_whole else "replace"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors)
    return content.decode("utf-8-sig", errors)


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings; stops counting once it is more than any file's."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(text):
        if match.group(1):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif match.group(2):
            depth -= 1
    return deepest
