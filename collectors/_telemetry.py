"""Counters of devices and host, read in a thread beside a measurement; and the energy of one execution.

Sources: the NVIDIA driver through `pynvml`, /proc and /sys of Linux. What is not there is NULL, with a sentence why in
`note` or `reason`; nothing here ends a measurement, and nothing is ever set.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from collectors import _memory, _nvml

PROC, SYS = Path("/proc"), Path("/sys")

HOST = -1
"""device_index of the host's readings."""

THROTTLE_REASONS = {
    0x2: "applications_clocks_setting", 0x4: "sw_power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost",
    0x20: "sw_thermal_slowdown", 0x40: "hw_thermal_slowdown", 0x80: "hw_power_brake", 0x100: "display_clock_setting",
    0x200: "board_limit", 0x400: "reliability",
}  # fmt: skip
"""Bits of NVML's clocks event reasons (nvml.h) but the first, which is idleness and holds nothing back."""

CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Names of Linux's sensors of processor temperature."""

ANSWER_LIMIT_S = 2.0
"""A driver that takes longer no longer answers; a counter that stands still for longer is stuck."""

LEAD_S = 1.0
"""Executions before an energy window opens: a power reading may be the mean of the second before."""

POLL_S = 0.01
POWER_TOLERANCE = 0.05
"""Largest relative difference of the energy counter and the integrated power readings."""

POWER_GAP_S = 3.0
"""Longest time between two power readings that may be integrated."""


class Telemetry:
    """Readings of the host, and of GPUs for device 'cuda', every `interval_s` while entered, from a thread.

    `devices` are indices as CUDA counts them ((0,) is the device of a process that uses one); None for all that are visible.
    A device that is lost or no longer answers ends its readings and leaves a sentence in `note`.
    """

    def __init__(self, device: str = "cpu", interval_s: float = 0.05, devices: Sequence[int] | None = (0,)) -> None:
        self._device, self._interval_s, self._devices = device, interval_s, devices
        self._readings: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._throttled: tuple[int, list[tuple[float, float]]] | None = None
        self._done = threading.Event()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Telemetry:
        gpus: dict[int, Gpu] = {}
        if self._device == "cuda":
            gpus, note = _gpus(self._stack, self._devices)
            self._notes += [note] if note else []
        self._readers: dict[int, _Host | Gpu] = {HOST: _Host(), **gpus}
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(ANSWER_LIMIT_S)
        if self._thread.is_alive():  # and holds the driver: leave both alone
            self._notes.append(f"telemetry: the driver did not answer for {ANSWER_LIMIT_S:g} s")
            self._stack.pop_all()
        self._stack.close()

    @property
    def note(self) -> str | None:
        """What is missing and why, for `status_detail`; None for nothing."""
        return "; ".join(self._notes) or None

    def rows(self, run_id: str, since: float | None = None) -> list[dict[str, Any]]:
        """Rows of `telemetry` from `since` (a reading of time.perf_counter; entering) on; `at_s` counts from there."""
        zero = self._began if since is None else since
        return [{**one, "run_id": run_id, "at_s": one["at_s"] - zero} for one in self._readings if one["at_s"] >= zero]

    def columns(self, since: float | None = None) -> dict[str, float]:
        """Columns of `runs` that are known, of all devices read together: throttled_ratio (of readings), power_avg_w,
        memory_process_bytes, memory_device_bytes (peaks). On a CPU power_avg_w alone, of its packages."""
        rows = self.rows("", since)
        if self._device != "cuda":
            power = _mean_power([one for one in rows if one["device_index"] == HOST])
            return {} if power is None else {"power_avg_w": power}
        readings = [one for one in rows if one["device_index"] != HOST]
        devices = [list(one) for _, one in itertools.groupby(sorted(readings, key=_device_index), _device_index)]
        known = [one["throttle_reasons"] for one in readings if one["throttle_reasons"] is not None]
        columns = {
            "throttled_ratio": sum(map(bool, known)) / len(known) if known else None,
            "power_avg_w": _total([_mean_power(device) for device in devices]),
            "memory_process_bytes": _total([_peak(device, "process_memory_bytes") for device in devices]),
            "memory_device_bytes": _total([_peak(device, "memory_used_bytes") for device in devices]),
        }
        return {name: value for name, value in columns.items() if value is not None}

    def throttled_between(self, begin: float, end: float) -> bool:
        """Whether any device was under a throttle reason at some time of [begin, end], readings of time.perf_counter.

        A reading speaks for the time to the middle between it and its neighbours.
        """
        if self._throttled is None or self._throttled[0] != len(self._readings):
            self._throttled = len(self._readings), self._throttled_spans()
        return any(first < end and begin < last for first, last in self._throttled[1])

    def _throttled_spans(self) -> list[tuple[float, float]]:
        spans: list[tuple[float, float]] = []
        for index in {one["device_index"] for one in self._readings}:
            mine = [one for one in self._readings if one["device_index"] == index]
            at = [one["at_s"] for one in mine]
            edges = [
                at[0] - self._interval_s,
                *[(a + b) / 2 for a, b in itertools.pairwise(at)],
                at[-1] + self._interval_s,
            ]
            for one, (first, last) in zip(mine, itertools.pairwise(edges), strict=True):
                if not one["throttle_reasons"]:
                    continue
                if spans and spans[-1][1] == first:
                    spans[-1] = spans[-1][0], last
                else:
                    spans.append((first, last))
        return spans

    def _sample(self) -> None:
        due = time.perf_counter()
        while True:
            is_last = self._done.is_set()
            for index, reader in list(self._readers.items()):
                self._read(index, reader)
            if is_last:
                return
            due += self._interval_s
            self._done.wait(max(0.0, due - time.perf_counter()))

    def _read(self, index: int, reader: _Host | Gpu) -> None:
        at = time.perf_counter()
        try:
            values = reader.read()
        except _nvml.DeviceLostError as error:
            values, said = {}, f" ({error})"
        else:
            said = ""
        if any(value is not None for value in values.values()):
            self._readings.append({"device_index": index, "at_s": at, **values})
        elif index != HOST:
            del self._readers[index]
            self._notes.append(f"telemetry: GPU {index} no longer answered after {at - self._began:.1f} s{said}")


@dataclass(frozen=True)
class Energy:
    """Energy of one execution (its preparation and the host's pauses included, idle power not subtracted), or why not.

    `definition` is an id of `warehouse.metrics.DEFINITIONS`.
    """

    energy_j: float | None
    power_avg_w: float | None
    window_s: float | None
    executions: int
    definition: str | None
    reason: str | None

    def columns(self) -> dict[str, float]:
        """Columns of `runs` where the energy is known, else none."""
        if self.energy_j is None or self.power_avg_w is None or self.window_s is None:
            return {}
        return {"energy_j": self.energy_j, "power_avg_w": self.power_avg_w, "energy_window_s": self.window_s}


def measure_energy(
    call: Callable[[], Any],
    *,
    device: str,
    prepare: Callable[[], Any] = lambda: None,
    devices: Sequence[int] | None = (0,),
    window_s: float = 5.0,
    limit_s: float = 30.0,
) -> Energy:
    """Energy of one execution of `call`, repeated (synchronised each time) until a window of `window_s` is full.

    The window runs from one end of an execution to another; the counter is taken between its own updates, which come every
    100 ms or so. A GPU's counter must agree with its integrated power readings; a GPU without a counter gets the integral.
    On a CPU the packages' RAPL counters. `limit_s` ends what does not fill the window. What `call` raises is raised.
    """
    with contextlib.ExitStack() as stack:
        meters, reason = _meters(stack, device, devices)
        if not meters:
            return Energy(None, None, None, 0, None, reason)
        window = EnergyWindow(meters, window_s)
        with window.polled():
            window.fill(functools.partial(_execute, call, prepare, device), limit_s)
        return window.energy()


class Meter(Protocol):
    """A device's energy counter and power, each None where it has none. `definition` is the counter's."""

    name: str
    definition: str

    def energy_j(self) -> float | None: ...

    def power_w(self) -> float | None: ...


class EnergyWindow:
    """Executions and readings of meters on one clock, and what one execution took between two of its boundaries."""

    def __init__(
        self, meters: Sequence[Meter], window_s: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._tracks = [_Track(meter) for meter in meters]
        self._window_s, self._clock = window_s, clock
        self._ends: list[float] = []
        self._limit_s: float | None = None
        self._lost: str | None = None

    def read(self) -> None:
        """Read every meter once."""
        try:
            for track in self._tracks:
                track.read(self._clock())
        except _nvml.DeviceLostError as error:
            self._lost = f"energy: the device no longer answered ({error})"

    def fill(self, execute: Callable[[], Any], limit_s: float) -> None:
        """Repeat until the window is full, the limit is reached, or the meters no longer move."""
        began = self._clock()
        self._limit_s = limit_s
        while not self._ends or self._ends[-1] - began < LEAD_S:
            execute()
            self._ends = [self._clock()]
        while not self._is_full() and self._clock() - began < limit_s and self._failure() is None:
            self._repeat(execute, POLL_S)

    def energy(self) -> Energy:
        """The result of what was read."""
        begin, end = self._span()
        reason = self._failure()
        if reason is None and not self._is_full():
            reason = (
                f"energy: {max(0.0, end - begin):.1f} s of a window of {self._window_s:g} s within {self._limit_s:g} s"
            )
        reason = reason or next(filter(None, (track.doubt(begin, end) for track in self._tracks)), None)
        if reason is not None:
            return Energy(None, None, None, 0, None, reason)
        executions = bisect.bisect_right(self._ends, end) - bisect.bisect_left(self._ends, begin) - 1
        joules = sum(track.joules_between(begin, end) for track in self._tracks)
        definitions = {track.definition for track in self._tracks}
        definition = "nvml_power_integral" if len(definitions) > 1 else definitions.pop()
        return Energy(joules / executions, joules / (end - begin), end - begin, executions, definition, None)

    @contextlib.contextmanager
    def polled(self) -> Iterator[None]:
        """Read in a thread while entered, often enough to see every update of a counter."""
        done = threading.Event()

        def poll() -> None:
            while not done.wait(POLL_S) and self._lost is None:
                self.read()

        self.read()
        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(ANSWER_LIMIT_S)

    def _repeat(self, execute: Callable[[], Any], least_s: float) -> None:
        """Short executions follow one another without a look at the meters: nothing else is in the window."""
        until = self._clock() + least_s
        while self._ends[-1] < until:
            execute()
            self._ends.append(self._clock())

    def _span(self) -> tuple[float, float]:
        """First and last end of an execution between which every track is known; equal where there is no such time."""
        ranges = [track.range for track in self._tracks]
        if any(one is None for one in ranges) or not self._ends:
            return 0.0, 0.0
        known = [one for one in ranges if one is not None]
        first = bisect.bisect_left(self._ends, max(begin for begin, _ in known))
        last = bisect.bisect_right(self._ends, min(end for _, end in known)) - 1
        return (self._ends[first], self._ends[last]) if first < last else (0.0, 0.0)

    def _is_full(self) -> bool:
        begin, end = self._span()
        return end > begin and end - begin >= self._window_s

    def _failure(self) -> str | None:
        stuck = (track.stuck(self._clock()) for track in self._tracks)
        return self._lost or next(filter(None, stuck), None)


class _Track:
    """What one meter said: the counter at the instants at which it moved, and the power readings."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._last: float | None = None
        self._began: float | None = None
        self._moves: tuple[list[float], list[float]] = ([], [])
        self._powers: tuple[list[float], list[float]] = ([], [])

    @property
    def definition(self) -> str:
        return self._meter.definition if self._has_counter else "nvml_power_integral"

    @property
    def range(self) -> tuple[float, float] | None:
        """From when to when the energy is known."""
        at = self._moves[0] if self._has_counter else self._powers[0]
        return (at[0], at[-1]) if at else None

    def read(self, now: float) -> None:
        self._began = now if self._began is None else self._began
        energy, power = self._meter.energy_j(), self._meter.power_w()
        if power is not None:
            self._powers[1].append(power)
            self._powers[0].append(now)
        if energy is not None:
            if self._last is not None and energy != self._last:
                self._moves[1].append(energy)
                self._moves[0].append(now)
            self._last = energy

    def joules_between(self, begin: float, end: float) -> float:
        if not self._has_counter:
            return self._integral(begin, end)
        count = len(self._moves[0])
        at, joules = self._moves[0][:count], self._moves[1][:count]
        return float(np.interp(end, at, joules) - np.interp(begin, at, joules))

    def stuck(self, now: float) -> str | None:
        """A sentence where nothing was said for too long."""
        known = self.range
        since = known[1] if known is not None else self._began
        if since is None or now - since <= (ANSWER_LIMIT_S if self._has_counter else POWER_GAP_S):
            return None
        return f"energy: no update of {self._meter.name} for {now - since:.1f} s"

    def doubt(self, begin: float, end: float) -> str | None:
        """Why the energy of this time is not to be believed."""
        if self._meter.definition == "rapl_package":  # counts energy alone: nothing to compare with
            return None
        at = self._powers[0]
        inside = [begin, *at[bisect.bisect_right(at, begin) : bisect.bisect_left(at, end)], end]
        gap = max(b - a for a, b in itertools.pairwise(inside))
        if gap > POWER_GAP_S:
            return f"energy: {gap:.1f} s without a power reading of {self._meter.name}"
        counted, integrated = self.joules_between(begin, end), self._integral(begin, end)
        if abs(counted - integrated) > POWER_TOLERANCE * abs(integrated):
            return (
                f"energy: {self._meter.name} counts {counted:.1f} J where its power readings make {integrated:.1f} J, "
                f"more than {POWER_TOLERANCE:.0%} apart"
            )
        return None

    @property
    def _has_counter(self) -> bool:
        return self._last is not None

    def _integral(self, begin: float, end: float) -> float:
        count = len(self._powers[0])
        at, watts = np.array(self._powers[0][:count]), np.array(self._powers[1][:count])
        inside = at[(at > begin) & (at < end)]
        points = np.concatenate([[begin], inside, [end]])
        return float(np.trapezoid(np.interp(points, at, watts), points))


class Gpu:
    """One GPU as its driver sees it."""

    definition = "nvml_total_energy"

    def __init__(self, nvml: Any, handle: Any, index: int) -> None:
        self._nvml, self._handle = nvml, handle
        self.name = f"GPU {index}"

    def read(self) -> dict[str, Any]:
        """Values of a `telemetry` row."""
        utilization, memory = self._ask("nvmlDeviceGetUtilizationRates"), self._ask("nvmlDeviceGetMemoryInfo")
        nvml = self._nvml
        return {
            "power_w": self.power_w(),
            "energy_j": self.energy_j(),
            "sm_clock_hz": _scaled(self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM), 1e6),
            "memory_clock_hz": _scaled(self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM), 1e6),
            "temperature_c": _scaled(self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU), 1.0),
            "utilization": None if utilization is None else utilization.gpu / 100,
            "memory_utilization": None if utilization is None else utilization.memory / 100,
            "memory_used_bytes": None if memory is None else float(memory.used),
            "process_memory_bytes": _nvml.process_bytes(nvml, self._handle),
            "throttle_reasons": self._throttle_reasons(),
        }

    def energy_j(self) -> float | None:
        """The energy counter, since the driver was loaded; from the Volta generation on."""
        return _scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def power_w(self) -> float | None:
        """Power now where the board tells it, else its reading, on many boards the mean of the last second."""
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        values = None if field is None else self._ask("nvmlDeviceGetFieldValues", [field])
        if values is not None and values[0].nvmlReturn == self._nvml.NVML_SUCCESS:
            return float(values[0].value.uiVal) * 1e-3
        return _scaled(self._ask("nvmlDeviceGetPowerUsage"), 1e-3)

    def _throttle_reasons(self) -> list[str] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # its name in older drivers and bindings
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else [word for bit, word in THROTTLE_REASONS.items() if bits & bit]

    def _ask(self, function: str, *arguments: Any) -> Any | None:
        return _nvml.ask(self._nvml, function, self._handle, *arguments)


class _Host:
    """The processors, and this process's memory."""

    def __init__(self) -> None:
        self._rapl = Rapl()
        self._last: tuple[float, float | None, tuple[float, float] | None] | None = None
        self._sensors = [
            path
            for name in SYS.glob("class/hwmon/hwmon*/name")
            if _read(name) in CPU_SENSORS
            for path in name.parent.glob("temp*_input")
        ]
        cores = sorted(os.sched_getaffinity(0))[:4] if hasattr(os, "sched_getaffinity") else []
        self._clocks = [SYS / f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq" for core in cores]

    def read(self) -> dict[str, Any]:
        """Values of a `telemetry` row: clock of the fastest of the first four cores of this process, hottest sensor."""
        now, energy, ticks = time.perf_counter(), self._rapl.energy_j(), _cpu_ticks()
        power = utilization = None
        if self._last is not None:
            then, energy_then, ticks_then = self._last
            if energy is not None and energy_then is not None and now > then:
                power = (energy - energy_then) / (now - then)
            if ticks is not None and ticks_then is not None and ticks[1] > ticks_then[1]:
                utilization = (ticks[0] - ticks_then[0]) / (ticks[1] - ticks_then[1])
        self._last = now, energy, ticks
        return {
            "power_w": power,
            "energy_j": energy,
            "sm_clock_hz": _scaled(_highest(self._clocks), 1e3),
            "memory_clock_hz": None,
            "temperature_c": _scaled(_highest(self._sensors), 1e-3),
            "utilization": utilization,
            "memory_utilization": None,
            "memory_used_bytes": _memory.resident_bytes(),
            "process_memory_bytes": None,
            "throttle_reasons": None,
        }


class Rapl:
    """Energy counters of the processor packages: what they counted since this was made, over their wraps, all together."""

    name = "RAPL"
    definition = "rapl_package"

    def __init__(self) -> None:
        zones = SYS.glob("class/powercap/intel-rapl:*")  # also parts of packages, and the whole board
        self._zones = [zone for zone in zones if (_read(zone / "name") or "").startswith("package")]
        self._last = [_number(zone / "energy_uj") for zone in self._zones]
        self._total_j = 0.0

    @property
    def reason(self) -> str | None:
        """Why there is no reading; None where there is one."""
        if not self._zones:
            return "energy: no RAPL counter readable here"
        if None in self._last:
            return "energy: no RAPL counter readable here (the kernel shows them to root alone)"
        return None

    def energy_j(self) -> float | None:
        if self.reason is not None:
            return None
        for place, zone in enumerate(self._zones):
            last, now = self._last[place], _number(zone / "energy_uj")
            if now is None or last is None:
                return None
            wrap = 0.0 if now >= last else (_number(zone / "max_energy_range_uj") or 0.0)
            self._total_j += (now - last + wrap) * 1e-6
            self._last[place] = now
        return self._total_j

    def power_w(self) -> float | None:
        return None


def _gpus(stack: contextlib.ExitStack, devices: Sequence[int] | None) -> tuple[dict[int, Gpu], str | None]:
    """The GPUs asked for, by index, and what to say where some are missing."""
    nvml = stack.enter_context(_nvml.opened())
    if nvml is None:
        return {}, "telemetry: no NVIDIA driver library or no pynvml"
    found = _nvml.handles(nvml)
    asked = range(len(found)) if devices is None else devices
    missing = [index for index in asked if index >= len(found)]
    note = f"telemetry: the driver shows no GPU {', '.join(map(str, missing))}" if missing else None
    return {index: Gpu(nvml, found[index], index) for index in asked if index < len(found)}, note


def _meters(
    stack: contextlib.ExitStack, device: str, devices: Sequence[int] | None
) -> tuple[Sequence[Meter], str | None]:
    """What counts energy on a device, or why nothing does."""
    if device != "cuda":
        rapl = Rapl()
        return ([rapl] if rapl.reason is None else []), rapl.reason
    gpus, note = _gpus(stack, devices)
    if note is not None:
        return [], note.replace("telemetry", "energy", 1)
    return list(gpus.values()), "energy: no GPU was asked for"


def _device_index(reading: dict[str, Any]) -> int:
    return int(reading["device_index"])


def _mean_power(readings: Sequence[dict[str, Any]]) -> float | None:
    """Mean over time of one device's power."""
    known = [(one["at_s"], one["power_w"]) for one in readings if one["power_w"] is not None]
    if len(known) < 2:
        return known[0][1] if known else None
    at, watts = zip(*known, strict=True)
    return float(np.trapezoid(watts, at) / (at[-1] - at[0]))


def _peak(readings: Sequence[dict[str, Any]], name: str) -> float | None:
    return max((one[name] for one in readings if one[name] is not None), default=None)


def _execute(call: Callable[[], Any], prepare: Callable[[], Any], device: str) -> None:
    prepare()
    call()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _cpu_ticks() -> tuple[float, float] | None:
    """Ticks that all processors were busy, and all ticks, since the machine started."""
    text = _read(PROC / "stat")
    if text is None:
        return None
    ticks = [float(value) for value in text.partition("\n")[0].split()[1:9]]  # guest time is part of user time
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _highest(paths: Sequence[Path]) -> float | None:
    return max((value for path in paths if (value := _number(path)) is not None), default=None)


def _number(path: Path) -> float | None:
    text = _read(path)
    return float(text) if text is not None and text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else float(value) * factor


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known and len(known) == len(values) else None
