"""Chrome traces of torch.profiler: read as a stream, kernels attributed to operators and modules, times added up.

A trace is JSON of any size: events are decoded one at a time, and of each only what is needed is kept, in columns. Of the
file's other keys only `KEPT` are looked at: some producers write the environment of the process, host names and paths there.
Times inside are microseconds, as in the file; everything handed out is in seconds.
"""

from __future__ import annotations

import codecs
import datetime
import gzip
import hashlib
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collectors import _op_kinds

KERNEL, MEMCPY, MEMSET, OPERATOR, LAUNCH, MODULE, STEP, ANNOTATION = range(8)
ON_DEVICE = (KERNEL, MEMCPY, MEMSET)

CATEGORIES = {
    "kernel": KERNEL, "gpu_memcpy": MEMCPY, "memcpy": MEMCPY, "gpu_memset": MEMSET, "memset": MEMSET,
    "cpu_op": OPERATOR, "operator": OPERATOR, "runtime": LAUNCH, "cuda_runtime": LAUNCH, "cuda_driver": LAUNCH,
    "hip_runtime": LAUNCH, "user_annotation": ANNOTATION, "python_function": ANNOTATION,
}  # fmt: skip
"""Category of an event, in lower case, old spellings too. Annotations and Python functions are kept where their name
says a module, a step, an optimizer or a collective; all others are dropped."""

KEPT = (
    "schemaVersion", "deviceProperties", "distributedInfo", "cuda_runtime_version", "cuda_driver_version",
    "hip_runtime_version", "baseTimeNanoseconds", "displayTimeUnit", "record_shapes", "with_stack", "trace_id",
)  # fmt: skip
"""Top-level keys that are looked at; all others are dropped unread."""

MODULE_PREFIX = "module:"
"""Our annotation of a module's forward: `module:<path>:<class>`, the root's path empty."""

_NN_MODULE = "nn.Module: "
_STEP_PREFIX = "ProfilerStep#"
_OPTIMIZER_PREFIX = "Optimizer.step#"
_COLLECTIVE = re.compile(r"(?:gloo|nccl|mpi|ucc):")
_BACKWARD = "autograd::engine::evaluate_function"

_CHUNK = 1 << 20
_LARGEST_VALUE = 256 << 20
_GAP = re.compile(r"[\s,]*")
_BARE_NUMBER = re.compile(r"(?<=[:\[,])\s*-?(?:inf|nan)\b")

_Indices: TypeAlias = NDArray[np.int64]
_Floats: TypeAlias = NDArray[np.float64]


class TraceError(ValueError):
    """A file that is no trace, or one that cannot be read to its end. The message names the file and says why."""


@dataclass
class Trace:
    """What a trace holds of use: columns over its kept events, in file order; `properties` are the kept top-level keys.

    `digest` is of the uncompressed text. `correlation`, `external_id` and `sequence` are -1 where absent, `detail` an
    index into `details` (input shapes, input types, concrete inputs) or -1, `size_bytes` NaN where absent.
    """

    name: str
    digest: str
    properties: dict[str, Any]
    num_events: int
    names: list[str]
    details: list[tuple[Any, Any, Any]]
    category: NDArray[np.int8]
    name_id: _Indices
    start_us: _Floats
    duration_us: _Floats
    lane: _Indices
    device: _Indices
    correlation: _Indices
    external_id: _Indices
    sequence: _Indices
    detail: _Indices
    size_bytes: _Floats
    is_backward: NDArray[np.bool_]

    def of(self, *categories: int) -> _Indices:
        """Indices of the events of some categories, by start."""
        found = np.flatnonzero(np.isin(self.category, categories))
        return found[np.argsort(self.start_us[found], kind="stable")]

    def name_of(self, index: int) -> str:
        return self.names[self.name_id[index]]

    @property
    def end_us(self) -> _Floats:
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
        digest = reader.digest()
    trace = collected.trace(path.name, digest, properties, num_events)
    if not np.isin(trace.category, (OPERATOR, *ON_DEVICE)).any() and not len(trace.of(ANNOTATION)):
        raise TraceError(f"'{path.name}' holds neither an operator nor a kernel: no trace of torch.profiler.")
    return trace


def strip(source: Path, target: Path) -> None:
    """Write a trace again, gzip, with its events and the top-level keys of `KEPT` only: no host name, environment or path."""
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
        self._hash = hashlib.blake2b(digest_size=8)
        self._to_text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = json.JSONDecoder(strict=False)
        self._text, self._at, self._is_over = "", 0, False

    def digest(self) -> str:
        """16 hexadecimal digits over what was read, uncompressed."""
        return self._hash.hexdigest()

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
        while self._more():  # what follows belongs to the digest
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
        self._hash.update(data)
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
        category = CATEGORIES.get(str(event.get("cat")).lower())
        if category is None or event.get("ph") != "X":
            return
        name = str(event.get("name"))
        if category in (ANNOTATION, OPERATOR):
            named = _named(name)
            if named is None and category == ANNOTATION:
                return
            category = category if named is None else named
        args = event.get("args") or {}
        self.category.append(category)
        self.name_id.append(self.names.setdefault(name, len(self.names)))
        self.start_us.append(float(event["ts"]))
        self.duration_us.append(max(0.0, float(event.get("dur", 0.0))))
        self.lane.append(self.lanes.setdefault((event.get("pid"), event.get("tid")), len(self.lanes)))
        self.device.append(_whole(args.get("device", event.get("pid"))) if category in ON_DEVICE else -1)
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

    def trace(self, name: str, digest: str, properties: dict[str, Any], num_events: int) -> Trace:
        return Trace(
            name=name, digest=digest, properties=properties, num_events=num_events, names=list(self.names),
            details=self.detail_values, category=np.array(self.category, np.int8),
            start_us=np.array(self.start_us), duration_us=np.array(self.duration_us), size_bytes=np.array(self.size_bytes),
            name_id=np.array(self.name_id), lane=np.array(self.lane), device=np.array(self.device),
            detail=np.array(self.detail), correlation=np.array(self.correlation), external_id=np.array(self.external_id),
            sequence=np.array(self.sequence), is_backward=np.array(self.is_backward, np.bool_),
        )  # fmt: skip


def _named(name: str) -> int | None:
    """Category of an annotation by its name; None where it is of no use."""
    if name.startswith((MODULE_PREFIX, _NN_MODULE)):
        return MODULE
    if name.startswith(_STEP_PREFIX):
        return STEP
    return ANNOTATION if name.startswith(_OPTIMIZER_PREFIX) or _COLLECTIVE.match(name) else None


def _whole(value: Any) -> int:
    """A whole number, also one written as text; -1 for anything else."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1


# ---- time


@dataclass(frozen=True)
class DeviceTime:
    """What one device did, in seconds over the whole trace. Sums count overlapping streams twice, unions once."""

    device: int
    num_kernels: int
    kernel_sum_s: float
    kernel_s: float
    memcpy_sum_s: float
    memset_sum_s: float
    busy_s: float
    span_s: float
    longest_gap_s: float
    communication_s: float
    exposed_communication_s: float

    @property
    def idle_s(self) -> float:
        """Between the first and the last thing it did, when it did nothing."""
        return self.span_s - self.busy_s


def device_times(trace: Trace, in_steps_of: Attribution | None = None) -> list[DeviceTime]:
    """Times of every device over the whole trace, or of what was launched in its profiler steps: `busy_s` is the union of kernels, copies and fills, `exposed`
    communication what no other work of the device covers."""
    found = trace.of(*ON_DEVICE)
    if in_steps_of is not None:
        found = np.array(
            [index for index, _ in _leaves(trace, in_steps_of, _launches(trace), only_steps=True)], np.int64
        )
        found = found[np.isin(trace.category[found], ON_DEVICE)]
    is_communication = np.array([kernel_kind(KERNEL, name, None, None) in COMMUNICATION for name in trace.names], bool)
    times = []
    for device in np.unique(trace.device[found]).tolist():
        here = found[trace.device[found] == device]
        category = trace.category[here]
        kernels, copies, fills = (here[category == one] for one in ON_DEVICE)
        speaks = (category == KERNEL) & is_communication[trace.name_id[here]]
        busy = _union(trace, here)
        gaps = busy[1:, 0] - busy[:-1, 1]
        times.append(
            DeviceTime(
                device=device,
                num_kernels=len(kernels),
                kernel_sum_s=_seconds(trace.duration_us[kernels].sum()),
                kernel_s=_length(_union(trace, kernels)),
                memcpy_sum_s=_seconds(trace.duration_us[copies].sum()),
                memset_sum_s=_seconds(trace.duration_us[fills].sum()),
                busy_s=_length(busy),
                span_s=_seconds(busy[-1, 1] - busy[0, 0]),
                longest_gap_s=_seconds(gaps.max()) if len(gaps) else 0.0,
                communication_s=_length(_union(trace, here[speaks])),
                exposed_communication_s=_length(busy) - _length(_union(trace, here[~speaks])),
            )
        )
    return times


def worked_steps(trace: Trace, attribution: Attribution) -> int:
    """Profiler steps in which anything was issued: the last range of a schedule is often empty."""
    leaves = _leaves(trace, attribution, _launches(trace), only_steps=True)
    return len(np.unique(_step_of(trace, np.array([trace.start_us[anchor] for _, anchor in leaves]))))


def _step_of(trace: Trace, at_us: _Floats) -> _Indices:
    """Index of the profiler step that each moment lies in; -1 for none."""
    steps = np.array(trace.steps()).reshape(-1, 2)
    step = np.searchsorted(steps[:, 0], at_us, side="right") - 1
    return np.where((step >= 0) & (at_us <= np.append(steps[:, 1], -np.inf)[step]), step, -1)


def _seconds(microseconds: Any) -> float:
    return float(microseconds) / 1e6


def _union(trace: Trace, events: _Indices) -> _Floats:
    """Intervals in which at least one of the events ran, shape (intervals, 2), in microseconds, by start."""
    order = events[np.argsort(trace.start_us[events], kind="stable")]
    if not len(order):
        return np.empty((0, 2))
    start = trace.start_us[order]
    end = np.maximum.accumulate(start + trace.duration_us[order])
    first = np.flatnonzero(np.append(True, start[1:] > end[:-1]))
    return np.stack([start[first], end[np.append(first[1:] - 1, len(end) - 1)]], axis=1)


def _length(intervals: _Floats) -> float:
    return _seconds((intervals[:, 1] - intervals[:, 0]).sum())


# ---- who launched what


@dataclass(frozen=True)
class Attribution:
    """For every event of a trace, by index, the nearest enclosing event of a sort on its thread (itself included); -1 for none.

    `work` is the operator whose closed form counts FLOPs, `backward` the operator of a backward pass, `parent_module` of a
    module the module around it.
    """

    operator: list[int]
    module: list[int]
    work: list[int]
    backward: list[int]
    optimizer: list[int]
    parent_module: dict[int, int]
    self_us: list[float]


def attribute(trace: Trace) -> Attribution:
    """Nest the events of every thread by their times, and count the time of operators outside other operators."""
    count = len(trace.category)
    category, start, end = trace.category.tolist(), trace.start_us.tolist(), trace.end_us.tolist()
    duration = trace.duration_us.tolist()
    lane, is_backward = trace.lane.tolist(), trace.is_backward.tolist()
    host = np.flatnonzero(~np.isin(trace.category, (*ON_DEVICE, STEP)))
    order = host[np.lexsort((-trace.duration_us[host], trace.start_us[host], trace.lane[host]))].tolist()
    counts = [closed_form(trace, index) is not None for index in range(count)]
    none = [-1] * count
    result = Attribution(list(none), list(none), list(none), list(none), list(none), {}, list(duration))
    parent = [-1] * count
    stack: list[int] = []
    for index in order:
        while stack and (lane[stack[-1]] != lane[index] or end[stack[-1]] <= start[index]):
            stack.pop()
        above = stack[-1] if stack else -1
        parent[index] = above
        for found in (result.operator, result.module, result.backward, result.optimizer):
            found[index] = found[above] if above >= 0 else -1
        if category[index] == OPERATOR:
            if result.operator[index] >= 0:
                result.self_us[result.operator[index]] -= duration[index]
            result.operator[index] = index
            result.backward[index] = index if is_backward[index] else result.backward[index]
        elif category[index] == MODULE:
            result.parent_module[index] = result.module[index]
            result.module[index] = index
        elif category[index] == ANNOTATION and trace.name_of(index).startswith(_OPTIMIZER_PREFIX):
            result.optimizer[index] = index
        if category[index] != LAUNCH:
            stack.append(index)
    for index in reversed(order):  # of nested operators only the innermost counts
        above = parent[index]
        if counts[index]:
            while above >= 0:
                counts[above] = False
                above = parent[above]
    for index in order:
        above = parent[index]
        result.work[index] = index if counts[index] else (result.work[above] if above >= 0 else -1)
    return result


# ---- work in closed form


@dataclass(frozen=True)
class Work:
    """What an operator does by its shapes: FLOPs (2 per multiply-add), elements read or written once, GEMM sizes."""

    flops: float
    elements: float
    m: int | None = None
    n: int | None = None
    k: int | None = None


TYPE_BYTES = {
    "double": 8, "float": 4, "c10::Half": 2, "c10::BFloat16": 2, "half": 2, "bfloat16": 2, "signed char": 1,
    "unsigned char": 1, "c10::Float8_e4m3fn": 1, "c10::Float8_e5m2": 1, "c10::Float8_e4m3fnuz": 1,
}  # fmt: skip
"""Bytes of one element by the profiler's word for its type."""


def _gemm(a: list[int], b: list[int]) -> Work:
    """Product of (batch..., m, k) and (batch..., k, n)."""
    batch = int(np.prod(a[:-2], dtype=np.int64))
    m, k, n = a[-2], a[-1], b[-1]
    return Work(2.0 * batch * m * n * k, float(batch * (m * k + k * n + m * n)), m, n, k)


def _linear(x: list[int], weight: list[int]) -> Work:
    n, k = weight
    m = int(np.prod(x[:-1], dtype=np.int64))
    return Work(2.0 * m * n * k, float(m * k + k * n + m * n), m, n, k)


def _vector(a: list[int], _: list[int]) -> Work:
    return _gemm(a, [a[-1], 1])


def _attention(query: list[int], key: list[int], value: list[int]) -> Work:
    """4 b h s_q s_kv d over (b, h, s, d), masked or not; key and value heads as they are stored."""
    b, h, s, d = query
    flops = 2.0 * b * h * s * key[2] * (d + value[3])
    return Work(flops, float(sum(np.prod(one, dtype=np.int64) for one in (query, key, value)) + b * h * s * value[3]))


def _attention_backward(_: list[int], query: list[int], key: list[int], value: list[int]) -> Work:
    """Five products where the forward has two: scores again, then gradients of value, of scores, of query and of key."""
    forward = _attention(query, key, value)
    return Work(2.5 * forward.flops, 2 * forward.elements)


def _convolution(x: list[int], weight: list[int], _: Any, stride: str, padding: str, dilation: str, *rest: str) -> Work:
    """A convolution that is not transposed; sizes of its output by stride, padding and dilation."""
    steps, pads, spreads = (json.loads(one) for one in (stride, padding, dilation))
    if rest[0] != "False":
        raise ValueError("a transposed convolution")
    size = [
        (one + 2 * pad - spread * (window - 1) - 1) // step + 1
        for one, window, step, pad, spread in zip(x[2:], weight[2:], steps, pads, spreads, strict=True)
    ]
    m, n, k = (int(np.prod(one, dtype=np.int64)) for one in ([x[0], *size], weight[:1], weight[1:]))
    return Work(2.0 * m * n * k, float(np.prod(x, dtype=np.int64) + n * k + m * n), m, n, k)


_FIRST, _SECOND, _THREE, _FOUR, _ALL = (0, 1), (1, 2), (0, 1, 2), (0, 1, 2, 3), ()
CLOSED_FORMS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "aten::mm": (_gemm, _FIRST), "aten::bmm": (_gemm, _FIRST), "aten::_int_mm": (_gemm, _FIRST),
    "aten::_scaled_mm": (_gemm, _FIRST), "aten::addmm": (_gemm, _SECOND), "aten::baddbmm": (_gemm, _SECOND),
    "aten::_addmm_activation": (_gemm, _SECOND), "aten::mv": (_vector, _FIRST), "aten::addmv": (_vector, _SECOND),
    "aten::linear": (_linear, _FIRST), "mkldnn::_linear_pointwise": (_linear, _FIRST),
    "aten::convolution": (_convolution, _ALL),
    "aten::scaled_dot_product_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_flash_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_efficient_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_cudnn_attention": (_attention, _THREE),
    "aten::_scaled_dot_product_flash_attention_for_cpu": (_attention, _THREE),
    "aten::_scaled_dot_product_flash_attention_backward": (_attention_backward, _FOUR),
    "aten::_scaled_dot_product_efficient_attention_backward": (_attention_backward, _FOUR),
    "aten::_scaled_dot_product_cudnn_attention_backward": (_attention_backward, _FOUR),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (_attention_backward, _FOUR),
}  # fmt: skip
"""Operator -> its closed form and which of its inputs that takes; a convolution takes all, values too."""


def closed_form(trace: Trace, index: int) -> Work | None:
    """Work of an event by the shapes recorded with it; None where they are not, or nothing is known in closed form."""
    known = CLOSED_FORMS.get(trace.name_of(index))
    if known is None or trace.detail[index] < 0:
        return None
    form, positions = known
    dims, _, concrete = trace.details[trace.detail[index]]
    try:
        if form is _convolution:
            return _convolution(*dims[:2], None, *concrete[3:])
        return form(*(dims[one] for one in positions))
    except (IndexError, TypeError, ValueError):  # shapes of another version, or of tensors that hold tensors
        return None


def _moved_bytes(trace: Trace, index: int, work: Work) -> float | None:
    """Bytes of an operator's inputs and output, each once; None for a type of unknown size."""
    types = trace.details[trace.detail[index]][1] or []
    width = next((TYPE_BYTES[one] for one in types if one in TYPE_BYTES), None)
    return None if width is None else work.elements * width


# ---- what a kernel is

COMMUNICATION = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "reduce", "communication")

_COLLECTIVES = (
    (r"all_?reduce|cross_device_reduce", "all_reduce"),
    (r"all_?gather", "all_gather"),
    (r"reduce_?scatter", "reduce_scatter"),
    (r"all_?to_?all", "all_to_all"),
    (r"send|recv", "send_recv"),
    (r"(nccl|rccl)\w*_reduce_", "reduce"),
    (r"", "communication"),
)
_SPEAKS = re.compile(
    r"nccl|rccl|gloo:|all_?reduce|all_?gather_?kernel|reduce_?scatter_?kernel|cross_device_reduce", re.I
)

_OPERATORS = (
    (r"::(_?scaled_mm|_int_mm|mm|addmm|_addmm_activation|bmm|baddbmm|matmul|linear|mv|addmv|\w*conv\w*|_linear_pointwise)$", "gemm"),
    (r"attention|flash_attn", "attention"),
    (r"softmax", "softmax"),
    (r"(layer|rms|batch|group)_?norm", "norm"),
    (r"rotary", "rope"),
    (r"::embedding", "embedding"),
    (r"::(silu|gelu|relu|sigmoid|tanh|hardtanh)", "activation"),
    (r"nll_loss|cross_entropy", "loss"),
    (r"_fused_(adam|sgd)|^Optimizer", "optimizer"),
)  # fmt: skip
"""(pattern, op_kind) searched in the name of the operator that launched a kernel; the first match decides."""

_KERNELS = (
    (r"reshape_and_cache|store_kvcache|kv_?cache_?copy", "other"),
    (r"topk_?gating|routing|moe_?gate", "router"),
    (r"softmax", "softmax"),
    (r"(layer|rms|batch|group)_?norm|rsqrt", "norm"),
    (r"flash|fmha|attention|attn", "attention"),
    (r"rotary|rope_|_rope", "rope"),
    (r"embedding|indexselect", "embedding"),
    (r"gemm|gemv|cutlass|cublas|nvjet|xmma|Cijk_|\bbmm_|matmul|splitk|s\d+816|convolve|conv[12]d", "gemm"),
    (r"silu|gelu|swiglu|act_and_mul|relu", "activation"),
    (r"quant(?!ile)", "dequantize"),
    (r"adam|sgd", "optimizer"),
    (r"moe", "experts"),
    (r"nll_loss|cross_entropy", "loss"),
    (r"elementwise|triton_poi|copy_kernel|CatArray|FillFunctor", "elementwise"),
    (r"^aten::(add|sub|mul|div|pow|rsqrt|mean|sum|neg|cat|copy|fill|zero|where|masked_fill|clone|contiguous|to|_to_copy|exp|cos|sin)_?$", "elementwise"),
)  # fmt: skip
"""The same in the name of the kernel, where its operator says nothing (or of an operator on a CPU)."""

_PROJECTIONS = (
    "qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "router", "experts",
)  # fmt: skip
_SMALL = ("norm", "rope", "embedding", "softmax", "activation")


def kernel_kind(category: int, name: str, operator: str | None, module_kind: str | None) -> str:
    """The vocabulary's word for a kernel: by what it is called, the operator that launched it, the kind of its module."""
    if category == MEMCPY:
        return next((kind for word, kind in (("HtoD", "memcpy_h2d"), ("DtoH", "memcpy_d2h")) if word in name), "memcpy")
    if category == MEMSET:
        return "other"
    if _SPEAKS.search(name):
        return _first(_COLLECTIVES, name)
    by_name = _first(_KERNELS, name)
    kind = _first(_OPERATORS, operator or "")
    if kind == "other" or (kind == "gemm" and by_name == "elementwise"):
        kind = by_name
    if kind == "gemm" and module_kind == "attention":
        return "attention"
    if (kind == "gemm" and module_kind in _PROJECTIONS) or (kind in ("elementwise", "other") and module_kind in _SMALL):
        return str(module_kind)
    return kind


def _first(patterns: tuple[tuple[str, str], ...], name: str) -> str:
    return next((kind for pattern, kind in patterns if re.search(pattern, name, re.IGNORECASE)), "other")


# ---- rows


@dataclass
class _Folded:
    """Equal kernels of one module: how often, how long in all, and what each is."""

    row: dict[str, Any]
    launches: int = 0
    time_us: float = 0.0


def kernel_rows(
    trace: Trace, attribution: Attribution, *, phase: str | None, executions: int = 1, only_steps: bool = False
) -> list[dict[str, Any]]:
    """Rows of `ops` at level 'kernel', equal ones of a module folded, in order of first launch; without run_id and op_index.

    Values are of one launch and `count` of one of `executions`, so that count x time over all rows is the trace's sum over
    `executions`. On a device `device_time_s` is the kernel's; without one the rows are operators, `time_s` what each took
    outside other operators. `phase` is that of the run: in a trace with a backward pass its parts are named instead.
    """
    modules = _module_names(trace, attribution)
    is_training = any(one >= 0 for one in attribution.backward)
    forward = _forward_of_sequence(trace)
    launches = _launches(trace)
    mains = _main_kernels(trace, attribution, launches)
    is_on_device = trace.is_on_device
    column = "device_time_s" if is_on_device else "time_s"
    folded: dict[tuple[Any, ...], _Folded] = {}
    for index, anchor in _leaves(trace, attribution, launches, only_steps):
        name = trace.name_of(index)
        operator = attribution.operator[anchor] if anchor >= 0 else -1
        module, part = _place(trace, attribution, anchor, forward)
        path, class_name = modules.get(module, (None, None))
        work_at = attribution.work[anchor] if anchor >= 0 and mains.get(attribution.work[anchor]) == index else -1
        shapes = _shapes(trace, work_at if work_at >= 0 else operator) if is_on_device or work_at >= 0 else None
        key = (path, name, part, shapes, work_at >= 0)
        if key not in folded:
            module_kind = None if path is None else _op_kinds.op_kind(path, str(class_name))
            operator_name = None if operator < 0 else trace.name_of(operator)
            shown = short_name(name) if trace.category[index] == KERNEL else name
            before = path if path is not None else _replay(trace, anchor)
            folded[key] = _Folded(
                {
                    "path": "/".join(one for one in (before, shown) if one is not None),
                    "parent_path": path,
                    "level": "kernel",
                    "layer_index": None if path is None else _layer(path),
                    "op_kind": kernel_kind(int(trace.category[index]), name, operator_name, module_kind),
                    "phase": part or ("forward" if is_training else phase),
                    "shapes": shapes,
                    **_work_columns(trace, index, work_at),
                }
            )
        folded[key].launches += 1
        folded[key].time_us += float(trace.duration_us[index]) if is_on_device else attribution.self_us[index]
    return [one.row | _shared(one.launches, one.time_us, executions, column) for one in folded.values()]


def module_rows(
    trace: Trace, attribution: Attribution, *, phase: str | None, executions: int = 1, only_steps: bool = False
) -> list[dict[str, Any]]:
    """Rows of `ops` of the modules that annotations name, parents before children, their kernels' time as `device_time_s`
    (without a device: their operators' as `time_s`). What a container launches itself is a leaf `<path>.(self)`."""
    modules = _module_names(trace, attribution)
    if only_steps:
        within = _step_of(trace, trace.start_us[np.array(list(modules), np.int64)]) >= 0
        modules = {one: name for (one, name), is_within in zip(modules.items(), within, strict=True) if is_within}
    inner: dict[int, float] = {}
    launches, forward = _launches(trace), _forward_of_sequence(trace)
    is_on_device = trace.is_on_device
    for index, anchor in _leaves(trace, attribution, launches, only_steps):
        module, part = _place(trace, attribution, anchor, forward)
        if part is None:
            spent = float(trace.duration_us[index]) if is_on_device else attribution.self_us[index]
            inner[module] = inner.get(module, 0.0) + spent
    own: dict[int, float] = {}
    whole: dict[int, float] = {}
    for module in modules:
        own[module] = inner.get(module, 0.0)
        above = module
        while above >= 0:
            whole[above] = whole.get(above, 0.0) + own[module]
            above = attribution.parent_module[above]
    column = "device_time_s" if is_on_device else "time_s"
    parents = {modules[above][0] for above in attribution.parent_module.values() if above in modules}
    folded: dict[tuple[str, str | None], _Folded] = {}
    for module in sorted(modules, key=lambda one: float(trace.start_us[one])):
        path, class_name = modules[module]
        above = attribution.parent_module[module]
        parent = modules[above][0] if above >= 0 else None
        kind = _op_kinds.op_kind(path, class_name)
        rows: list[tuple[str, str | None, str | None, str, float]] = [(path, parent, class_name, kind, whole[module])]
        if path in parents:
            rows.append((f"{path}.(self)", path, None, "attention" if kind == "attention" else "other", own[module]))
        for row_path, row_parent, row_class, row_kind, spent in rows:
            one = folded.setdefault(
                (row_path, row_parent),
                _Folded(
                    {
                        "path": row_path, "parent_path": row_parent, "level": "module", "class_name": row_class,
                        "layer_index": _layer(path), "op_kind": row_kind, "phase": phase,
                    }
                ),
            )  # fmt: skip
            one.launches += 1
            one.time_us += spent
    return [one.row | _shared(one.launches, one.time_us, executions, column) for one in folded.values()]


def short_name(name: str) -> str:
    """A kernel's name without its return type and arguments, at most 200 characters."""
    name = name.removeprefix("void ").replace("(anonymous namespace)", "{anonymous}")
    depth = 0
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0 and position:
            name = name[:position]
            break
    return name if len(name) <= 200 else name[:199] + "…"


def _shared(launches: int, time_us: float, executions: int, column: str) -> dict[str, Any]:
    """Count and mean time of what was folded, per execution: their product is the sum over the executions."""
    count = max(1, round(launches / executions))
    return {"count": count, column: max(0.0, time_us) / 1e6 / executions / count}


def _leaves(
    trace: Trace, attribution: Attribution, launches: dict[int, int], only_steps: bool
) -> list[tuple[int, int]]:
    """(event, what issued it or -1) of everything whose time counts, by start: a device's work, else operators on the CPU."""
    if not trace.is_on_device:
        events = trace.of(OPERATOR, ANNOTATION)
        found = events[_step_of(trace, trace.start_us[events]) >= 0] if only_steps else events
        return [
            (index, index)
            for index in found.tolist()
            if trace.category[index] == OPERATOR or _COLLECTIVE.match(trace.name_of(index))
        ]
    events = trace.of(*ON_DEVICE)
    by_external = {
        int(trace.external_id[index]): index for index in trace.of(OPERATOR).tolist() if trace.external_id[index] >= 0
    }
    anchors = []
    for index in events.tolist():
        launch = launches.get(int(trace.correlation[index]), -1)
        operator = attribution.operator[launch] if launch >= 0 else -1
        if operator < 0:
            launch = by_external.get(int(trace.external_id[index]), launch)
        anchors.append(launch)
    leaves = list(zip(events.tolist(), anchors, strict=True))
    if not only_steps:
        return leaves
    at_us = np.array([trace.start_us[anchor] if anchor >= 0 else -np.inf for anchor in anchors])
    return [leaf for leaf, step in zip(leaves, _step_of(trace, at_us).tolist(), strict=True) if step >= 0]


def _launches(trace: Trace) -> dict[int, int]:
    """Correlation -> the call of the runtime that issued it: one kernel's launch, or the replay of a graph of many."""
    found = trace.of(LAUNCH)
    return {int(trace.correlation[index]): index for index in found.tolist() if trace.correlation[index] > 0}


def _replay(trace: Trace, anchor: int) -> str | None:
    """Name of the call that replayed a graph, the only parent its kernels have; None for other launches."""
    name = trace.name_of(anchor) if anchor >= 0 and trace.category[anchor] == LAUNCH else ""
    return name if "GraphLaunch" in name else None


def _main_kernels(trace: Trace, attribution: Attribution, launches: dict[int, int]) -> dict[int, int]:
    """Operator with a closed form -> the longest of its kernels, which its FLOPs are counted on (on a CPU: itself)."""
    mains: dict[int, int] = {}
    is_on_device = trace.is_on_device
    for index, anchor in _leaves(trace, attribution, launches, only_steps=False):
        work = attribution.work[anchor] if anchor >= 0 else -1
        if work < 0 or (not is_on_device and work != index):
            continue
        if work not in mains or trace.duration_us[index] > trace.duration_us[mains[work]]:
            mains[work] = index
    return mains


def _forward_of_sequence(trace: Trace) -> dict[int, int]:
    """Autograd's sequence number -> the forward operator that made the node: the last one that carries it."""
    operators = trace.of(OPERATOR)
    chosen = operators[(trace.sequence[operators] >= 0) & ~trace.is_backward[operators]]
    return dict(zip(trace.sequence[chosen].tolist(), chosen.tolist(), strict=True))


def _place(trace: Trace, attribution: Attribution, anchor: int, forward: dict[int, int]) -> tuple[int, str | None]:
    """(module, part of a training step or None) of what was issued at `anchor`: a backward operator belongs to the module
    of its forward."""
    if anchor < 0:
        return -1, None
    module, backward = attribution.module[anchor], attribution.backward[anchor]
    if backward >= 0:
        made_by = forward.get(int(trace.sequence[backward]), -1)
        return (attribution.module[made_by] if module < 0 <= made_by else module), "backward"
    return module, "optimizer" if attribution.optimizer[anchor] >= 0 else None


def _module_names(trace: Trace, attribution: Attribution) -> dict[int, tuple[str, str]]:
    """Module event -> (path, class), by start: our annotations say both, those of Python's stack only how classes nest."""
    found: dict[int, tuple[str, str]] = {}
    for index in sorted(attribution.parent_module, key=lambda one: float(trace.start_us[one])):
        name = trace.name_of(index)
        if name.startswith(MODULE_PREFIX):
            path, _, class_name = name.removeprefix(MODULE_PREFIX).rpartition(":")
            found[index] = path or class_name, class_name
        else:
            numbered = name.removeprefix(_NN_MODULE)
            above = found.get(attribution.parent_module[index])
            found[index] = f"{above[0]}.{numbered}" if above else numbered, numbered.rpartition("_")[0] or numbered
    return found


def _layer(path: str) -> int | None:
    """0-based layer of a module's path, also of `BertEncoder_0.BertLayer_3`."""
    numbered = re.search(r"(?:Layer|Block)_(\d+)(?:\.|$)", path)
    return int(numbered[1]) if numbered else _op_kinds.layer_index(path)


def _shapes(trace: Trace, operator: int) -> str | None:
    if operator < 0 or trace.detail[operator] < 0:
        return None
    return json.dumps(trace.details[trace.detail[operator]][0])


def _work_columns(trace: Trace, index: int, work_at: int) -> dict[str, Any]:
    """FLOPs, sizes and least traffic of a kernel; of a copy the bytes it says."""
    work = closed_form(trace, work_at) if work_at >= 0 else None
    if work is not None:
        return {
            "flops": work.flops, "m": work.m, "n": work.n, "k": work.k, "bytes_moved": _moved_bytes(trace, work_at, work),
        }  # fmt: skip
    size = float(trace.size_bytes[index])
    return {"bytes_moved": size} if size >= 0 else {}


def kernel_time_s(
    trace: Trace, attribution: Attribution, *, executions: int = 1, only_steps: bool = False
) -> float | None:
    """Time in which at least one kernel ran on any device, per execution; None for a trace without a device."""
    if not trace.is_on_device:
        return None
    chosen = [index for index, _ in _leaves(trace, attribution, _launches(trace), only_steps)]
    kernels = [index for index in chosen if trace.category[index] == KERNEL]
    return _length(_union(trace, np.array(kernels, np.int64))) / executions


def launch_lag_s(trace: Trace) -> float | None:
    """Median time from the start of a launch to the start of its kernel; None where no launch was recorded.

    Some microseconds: kernels wait for the host. Much more: they queue behind one another, and the device sets the pace.
    """
    launches = _launches(trace)
    pairs = [(index, launches.get(int(trace.correlation[index]))) for index in trace.of(KERNEL).tolist()]
    lags = [float(trace.start_us[index] - trace.start_us[launch]) for index, launch in pairs if launch is not None]
    return max(0.0, float(np.median(lags))) / 1e6 if lags else None


def operator_sum_s(trace: Trace, attribution: Attribution) -> float:
    """Time of all operators on the CPU and of collectives there, each outside those it called; threads add up."""
    return sum(attribution.self_us[index] for index, _ in _leaves(trace, attribution, {}, only_steps=False)) / 1e6
