"""Chrome traces of torch.profiler, read as a stream and written again without what is private.

A trace is JSON of any size: events are decoded one at a time, and of each only what is needed is kept, in columns. Of the
file's other keys only `KEPT` are looked at: some producers write the environment of the process, host names and paths there.
Times are microseconds, as in the file.
"""

from __future__ import annotations

import codecs
import datetime
import gzip
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

KERNEL, MEMCPY, MEMSET, OPERATOR, COLLECTIVE, LAUNCH, MODULE, STEP, OPTIMIZER = range(9)
ON_DEVICE = (KERNEL, MEMCPY, MEMSET)

CATEGORIES = {
    "kernel": KERNEL, "gpu_memcpy": MEMCPY, "memcpy": MEMCPY, "gpu_memset": MEMSET, "memset": MEMSET,
    "cpu_op": OPERATOR, "operator": OPERATOR, "runtime": LAUNCH, "cuda_runtime": LAUNCH, "cuda_driver": LAUNCH,
    "hip_runtime": LAUNCH, "user_annotation": None, "python_function": None,
}  # fmt: skip
"""Kind of an event by its category in lower case, old spellings too. Annotations and Python functions are kept where their
name says a module, a step, an optimizer or a collective (`_named`); all others are dropped."""

KEPT = (
    "schemaVersion", "deviceProperties", "distributedInfo", "cuda_runtime_version", "cuda_driver_version",
    "hip_runtime_version", "baseTimeNanoseconds", "displayTimeUnit", "record_shapes", "with_stack", "trace_id",
)  # fmt: skip
"""Top-level keys that are looked at; all others are dropped unread."""

MODULE_PREFIX = "module:"
"""Our annotation of a module's forward: `module:<path>:<class>`, the root's path empty."""

NN_MODULE = "nn.Module: "
"""The profiler's own mark of a module where it records Python's stack: `nn.Module: <class>_<number>`."""

STEP_PREFIX = "ProfilerStep#"

_NAMED = ((MODULE, re.compile(f"{MODULE_PREFIX}|{NN_MODULE}")), (STEP, re.compile(STEP_PREFIX)),
          (OPTIMIZER, re.compile(r"Optimizer\.step#")), (COLLECTIVE, re.compile(r"(?:gloo|nccl|mpi|ucc):")))  # fmt: skip
_BACKWARD = "autograd::engine::evaluate_function"

_CHUNK = 1 << 20
_LARGEST_VALUE = 256 << 20
_GAP = re.compile(r"[\s,]*")
_BARE_NUMBER = re.compile(r"(?<=[:\[,])\s*-?(?:inf|nan)\b")

Indices: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


class TraceError(ValueError):
    """A file that is no trace, or one that cannot be read to its end. The message names the file and says why."""


@dataclass
class Trace:
    """What a trace holds of use: columns over its kept events, in file order; `properties` are the kept top-level keys.

    `correlation`, `external_id` and `sequence` are -1 where absent, `detail` an
    index into `details` (input shapes, input types, concrete inputs) or -1, `size_bytes` NaN where absent.
    """

    name: str
    properties: dict[str, Any]
    num_events: int
    names: list[str]
    details: list[tuple[Any, Any, Any]]
    category: NDArray[np.int8]
    name_id: Indices
    start_us: Floats
    duration_us: Floats
    lane: Indices
    device: Indices
    correlation: Indices
    external_id: Indices
    sequence: Indices
    detail: Indices
    size_bytes: Floats
    is_backward: NDArray[np.bool_]

    def of(self, *categories: int) -> Indices:
        """Indices of the events of some categories, by start."""
        found = np.flatnonzero(np.isin(self.category, categories))
        return found[np.argsort(self.start_us[found], kind="stable")]

    def name_of(self, index: int) -> str:
        return self.names[self.name_id[index]]

    @property
    def end_us(self) -> Floats:
        return self.start_us + self.duration_us

    @property
    def is_on_device(self) -> bool:
        """Whether a device did anything; else the operators on the CPU are all there is."""
        return bool(np.isin(self.category, ON_DEVICE).any())

    @property
    def device_name(self) -> str | None:
        """Name of the device that worked, as its driver writes it; None where the file names none."""
        known = {one.get("id"): one.get("name") for one in self.properties.get("deviceProperties") or []}
        names = [known[one] for one in self.used_devices if one in known] or list(known.values())
        return str(names[0]) if names and names[0] else None

    @property
    def used_devices(self) -> list[int]:
        """Devices that did anything, as the trace numbers them."""
        return [int(one) for one in np.unique(self.device[self.of(*ON_DEVICE)])]

    @property
    def rank(self) -> int | None:
        """Rank of the process among those of its job; None where the file does not say."""
        rank = _whole((self.properties.get("distributedInfo") or {}).get("rank"))
        return rank if rank >= 0 else None

    @property
    def world_size(self) -> int | None:
        """Processes of the job; None where the file does not say."""
        size = _whole((self.properties.get("distributedInfo") or {}).get("world_size"))
        return size if size > 0 else None

    @property
    def started_at(self) -> datetime.datetime | None:
        """When the first kept event began: after the base that newer files state, or since 1970 in older ones."""
        first_us = float(self.start_us.min())
        base_ns = _whole(self.properties.get("baseTimeNanoseconds"))
        if base_ns < 0 and first_us < 1e15:  # since the machine started
            return None
        return datetime.datetime.fromtimestamp(max(0, base_ns) / 1e9 + first_us / 1e6, datetime.UTC)

    def steps(self) -> list[tuple[float, float]]:
        """Profiler steps, (start, end) in microseconds, by start; a step that several threads mark is one."""
        found: dict[str, tuple[float, float]] = {}
        for index in self.of(STEP).tolist():
            begin, end = float(self.start_us[index]), float(self.end_us[index])
            known = found.get(self.name_of(index), (begin, end))
            found[self.name_of(index)] = (min(begin, known[0]), max(end, known[1]))
        return sorted(found.values())


def trace_folder(landing: Path) -> Path:
    """Folder of kept traces, named <run_id>.json.gz: the home's `traces` beside `landing`, else one below any other folder."""
    return landing.parent / "traces" if landing.name == "landing" else landing / "traces"


def read(path: Path) -> Trace:
    """Read a trace, plain or gzip. Memory grows with what is kept, not with the file.

    Raises TraceError for a file that is no trace, is cut off, or holds neither operator nor kernel.
    """
    collected = _Columns()
    properties: dict[str, Any] = {}
    num_events = 0
    with _opened(path) as file:
        reader = _Reader(file, path.name)
        for key, value in reader.members():
            if key is not None:
                properties |= {key: value} if key in KEPT else {}
                continue
            num_events += 1
            try:
                collected.add(value)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise TraceError(f"'{path.name}': event {num_events} has no time, or one that is no number.") from None
    trace = collected.trace(path.name, properties, num_events)
    if not len(trace.of(OPERATOR, COLLECTIVE, *ON_DEVICE)):
        raise TraceError(f"'{path.name}' holds neither an operator nor a kernel: no trace of torch.profiler.")
    return trace


def strip(source: Path, target: Path) -> None:
    """Write a trace again, gzip, with its events and the top-level keys of `KEPT` only: no host name, no environment.

    Paths of source files stay where Python's stack was recorded; our own passes record none.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with _opened(source) as file, gzip.open(temporary, "wt", encoding="utf-8", compresslevel=5) as out:
            kept, separator = {}, ""
            out.write('{"traceEvents": [')
            for key, value in _Reader(file, source.name).members():
                if key is None:
                    out.write(f"{separator}\n{json.dumps(value)}")
                    separator = ","
                elif key in KEPT:
                    kept[key] = value
            out.write("\n]" + "".join(f",\n{json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items()))
            out.write("}\n")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


# ---- the file


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_packed else path.open("rb")  # type: ignore[return-value]


class _Reader:
    """Decodes a trace value by value out of a window of its text."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._to_text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = json.JSONDecoder(strict=False)
        self._text, self._at, self._is_over = "", 0, False

    def members(self) -> Iterator[tuple[str | None, Any]]:
        """(key, value) of every top-level key, and (None, event) of every event; to the end of the file."""
        if self._peek() == "[":
            yield from ((None, event) for event in self._events())
        elif self._peek() == "{":
            self._at += 1
            while self._peek() != "}":
                key = self._value()
                if self._peek() != ":":
                    raise TraceError(f"'{self._name}' is no Chrome trace: it is not JSON.")
                self._at += 1
                if self._peek() == "[" and key == "traceEvents":
                    yield from ((None, event) for event in self._events())
                else:
                    yield key, self._value()
        else:
            raise TraceError(f"'{self._name}' is no Chrome trace: it is not JSON.")
        while self._more():  # a file that is cut off behind its last event is found out too
            self._at = len(self._text)

    def _events(self) -> Iterator[dict[str, Any]]:
        """Events of the list that begins here."""
        self._at += 1
        while self._peek() != "]":
            event = self._value()
            if not isinstance(event, dict) or "ph" not in event:
                raise TraceError(
                    f"'{self._name}' is no Chrome trace: its list holds no events (a timeline of memory, perhaps)."
                )
            yield event
        self._at += 1

    def _peek(self) -> str:
        """Next character that is neither space nor comma."""
        while True:
            gap = _GAP.match(self._text, self._at)
            self._at = gap.end() if gap else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise TraceError(f"'{self._name}' is cut off: it ends before its list of events does.")

    def _value(self) -> Any:
        """The value that begins here, whole; `_peek` has moved to its first character."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                if _BARE_NUMBER.search(self._text, self._at):  # infinities that C++ printed
                    rest = _BARE_NUMBER.sub(" null", self._text[self._at :])
                    self._text, self._at = rest, 0
                elif len(self._text) - self._at > _LARGEST_VALUE:
                    raise TraceError(f"'{self._name}' is no Chrome trace: it is not JSON.") from None
                elif not self._more():
                    raise TraceError(f"'{self._name}' is cut off, or not JSON.") from None
                continue
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def _more(self) -> bool:
        """Move the window on by a chunk, by more where one value fills it; whether there was any."""
        if self._is_over:
            return False
        rest = self._text[self._at :]
        try:
            data = self._file.read(max(_CHUNK, len(rest)))
        except (EOFError, OSError) as error:
            raise TraceError(f"'{self._name}' cannot be read to its end ({error}).") from None
        self._is_over = not data
        self._text, self._at = rest + self._to_text.decode(data, final=self._is_over), 0
        return not self._is_over


class _Columns:
    """Events while they come in."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.lanes: dict[tuple[Any, Any], int] = {}
        self.details: dict[str, int] = {}
        self.detail_values: list[tuple[Any, Any, Any]] = []
        self.start_us, self.duration_us, self.size_bytes = (array("d") for _ in range(3))
        self.category, self.name_id, self.lane, self.device, self.detail = (array("q") for _ in range(5))
        self.correlation, self.external_id, self.sequence, self.is_backward = (array("q") for _ in range(4))

    def add(self, event: dict[str, Any]) -> None:
        """Keep what an event tells, if it is of use."""
        category = str(event.get("cat")).lower()
        if category not in CATEGORIES or event.get("ph") != "X":
            return
        kind, name = CATEGORIES[category], str(event.get("name"))
        if kind is None or kind == OPERATOR:
            kind = _named(name, kind)
            if kind is None:
                return
        args = event.get("args") or {}
        self.category.append(kind)
        self.name_id.append(self.names.setdefault(name, len(self.names)))
        self.start_us.append(float(event["ts"]))
        self.duration_us.append(max(0.0, float(event.get("dur", 0.0))))
        self.lane.append(self.lanes.setdefault((event.get("pid"), event.get("tid")), len(self.lanes)))
        self.device.append(_whole(args.get("device", event.get("pid"))) if kind in ON_DEVICE else -1)
        self.correlation.append(_whole(args.get("correlation")))
        self.external_id.append(_whole(args.get("External id", args.get("external id"))))
        self.sequence.append(_whole(args.get("Sequence number")))
        self.detail.append(self._detail(name, args))
        size = args.get("bytes")
        self.size_bytes.append(float("nan") if size is None else float(size))
        self.is_backward.append(name.startswith(_BACKWARD) or _whole(args.get("Fwd thread id")) > 0)

    def _detail(self, name: str, args: dict[str, Any]) -> int:
        """Input shapes, types and, of a convolution, values: each combination is kept once."""
        dims = args.get("Input Dims", args.get("Input dims"))
        if not dims:
            return -1
        types = args.get("Input type")
        concrete = args.get("Concrete Inputs") if "conv" in name else None
        key = f"{dims}{types}{concrete}"
        if key not in self.details:
            self.details[key] = len(self.detail_values)
            self.detail_values.append((dims, types, concrete))
        return self.details[key]

    def trace(self, name: str, properties: dict[str, Any], num_events: int) -> Trace:
        return Trace(
            name=name, properties=properties, num_events=num_events, names=list(self.names),
            details=self.detail_values, category=np.array(self.category, np.int8),
            start_us=np.array(self.start_us), duration_us=np.array(self.duration_us), size_bytes=np.array(self.size_bytes),
            name_id=np.array(self.name_id), lane=np.array(self.lane), device=np.array(self.device),
            detail=np.array(self.detail), correlation=np.array(self.correlation), external_id=np.array(self.external_id),
            sequence=np.array(self.sequence), is_backward=np.array(self.is_backward, np.bool_),
        )  # fmt: skip


def _named(name: str, otherwise: int | None) -> int | None:
    """Kind of an annotation by its name; `otherwise` where it says nothing."""
    return next((kind for kind, pattern in _NAMED if pattern.match(name)), otherwise)


def _whole(value: Any) -> int:
    """A whole number, also one written as text; -1 for anything else."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1
