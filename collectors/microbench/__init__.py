"""Kernels, copies and collectives at one shape each: what the machine reaches, against its datasheet and as its measured roof.

One shape is one run of phase microbench. A sweep is a preset: `quick` (a minute on two cores), `full`, `zhang-2023` (the GEMMs,
host copies and collectives of zhang-2023-dissecting), `tiny` (to see that it works). Shapes land in batches, and a rerun skips what
landed. The best of a sweep is kept as a `hardware` row of kind `measured`, the achievable roof: the peak of a dtype is its best
GEMM, the bandwidth the best copy, triad or read from a cold cache. The peak of vector units is not measured (NULL).
A device that no catalogue knows has a `hardware` row that was measured too, perhaps in a busy hour: its roof is the better of
both, whatever kernel reached it, and at the end of a sweep its row takes the better columns.

Executions shorter than a millisecond are made back to back and the time divided by their number.
Warm repeats use the same buffers; cold ones go through buffers of four times the last-level cache. A warm run whose operands
stay in the cache and whose bound would be the memory's has no bytes_moved: nobody knows what came from device memory.

Collectives run among two processes of one thread on a CPU (gloo, whose TCP goes over loopback: interconnect 'loopback';
hardware_id is the machine's processor, two ranks share it), and on all GPUs of a machine (nccl), if there are two or more.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectors import Collected, Report, _machine, _memory, _nvml, _session, _telemetry, _timing, silent
from collectors.microbench import _collectives, _rows, _shapes
from collectors.microbench._ceilings import Ceilings
from collectors.microbench._shapes import Shape

NAME = "microbench"
SOURCE = {
    "source_id": "rooflake/microbench",
    "title": "Microbenchmarks: kernels, copies and collectives timed on the machine at hand",
    "kind": "machine",
    "locator": "collectors/microbench",
    "note": "One shape a run; FLOPs and bytes by closed form; warm-up of 25 repeats and 0.1 s, then repeats until the median is "
    "known within 1 % or the time is up.",
}
RUN_S = 0.25
"""Seconds for one shape, warm-up and repeats."""

BATCH_S = 20.0
"""Longest time that measured runs wait for their batch to land."""

LEAST_EXECUTIONS = 10
"""Executions of a shape for which there must be time: warm-up, and the fewest repeats."""

CACHE_BYTES = 64.0 * _shapes.MiB
"""Last-level cache assumed where a device does not tell."""


def add_arguments(parser: Any) -> None:
    """Command-line options of `collect`."""
    parser.add_argument("--kernel", nargs="+", help=f"of {' '.join(_shapes.FAMILIES)}; default: what the preset holds")
    parser.add_argument("--dtype", nargs="+", help=f"of {' '.join(_shapes.DTYPES)}; default: by kernel and device")
    parser.add_argument("--preset", default="quick", help=f"of {' '.join(_shapes.PRESETS)}; default: quick")
    parser.add_argument(
        "--cache-state", nargs="+", help="cold, warm or both; default: warm for GEMMs and prefill, else cold"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default: auto")
    parser.add_argument(
        "--budget-s", type=float, help="seconds for everything; what would not fit is left out and said"
    )


def collect(
    landing: Path,
    *,
    report: Report = silent,
    kernel: str | Sequence[str] | None = None,
    dtype: str | Sequence[str] | None = None,
    preset: str = "quick",
    cache_state: str | Sequence[str] | None = None,
    device: str = "auto",
    budget_s: float | None = None,
    skip: Collection[str] = frozenset(),
    hardware_row: dict[str, Any] | None = None,
    ceiling_row: dict[str, Any] | None = None,
) -> Collected:
    """Measure every shape of a preset; land them in batches of one kernel family and dtype, at most 20 s long.

    `skip`, `hardware_row` and `ceiling_row` as in `_session.open_session`. The budget starts when the device is free. A shape
    that fails, or that a device has no kernel for, is a row with its status; one that the budget does not reach is said.
    Raises ValueError for an option that is not known.
    """
    families = None if kernel is None else _session.several(kernel)
    dtypes = None if dtype is None else _session.several(dtype)
    states = None if cache_state is None else _session.several(cache_state)
    _session.check_seconds("budget_s", budget_s)
    _session.check("preset", [preset], _shapes.PRESETS)
    _session.check("kernel", families or [], tuple(_shapes.FAMILIES))
    _session.check("dtype", dtypes or [], _shapes.DTYPES)
    _session.check("cache state", states or [], ("cold", "warm"))
    with _session.open_session(
        NAME, SOURCE, landing, device=device, report=report,
        hardware_row=hardware_row, ceiling_row=ceiling_row, skip=skip,
    ) as session:  # fmt: skip
        sweep = _Sweep(session, preset, None if budget_s is None else time.monotonic() + budget_s)
        found = families or _shapes.default_families(preset, session.device)
        ranks = _collectives.num_ranks(session.device)
        if ranks < 2 and set(found) & set(_shapes.COLLECTIVES):
            report("Collectives are left out: they need two GPUs or more, and this machine shows one.")
            found = [name for name in found if name not in _shapes.COLLECTIVES]
        sweep.run(
            _shapes.shapes(
                preset, found, dtypes, states,
                device=session.device, cache_bytes=sweep.cache_bytes, num_ranks=ranks, interconnect=_interconnect(session),
            )
        )  # fmt: skip
        return session.collected()


@dataclass
class _Batch:
    """Rows that land together."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in ("ops", "samples", "telemetry", "ranks")}
    )
    began: float = field(default_factory=time.monotonic)


class _Sweep:
    """The shapes of one call, measured and landed."""

    def __init__(self, session: _session.Session, preset: str, deadline: float | None) -> None:
        self._session, self._preset, self._deadline = session, preset, deadline
        self._batch = _Batch()
        self._disturbances = _machine.isolation("cuda") if session.device == "cuda" else []
        known = session.hardware.get("l2_bytes")
        self.cache_bytes = CACHE_BYTES if known is None else float(known)
        self._ceilings = Ceilings(session, self.cache_bytes)

    def run(self, shapes: Sequence[Shape]) -> None:
        waiting = [one for one in shapes if not self._session.is_known(self._identity(one))]
        if len(waiting) < len(shapes):
            self._session.report(f"{len(shapes) - len(waiting)} shapes are measured already.")
        self._left = len(waiting)
        try:
            for _, group in itertools.groupby(waiting, lambda one: (one.family, one.dtype)):
                self._measure(list(group))
                self._land()
                _memory.trim()
        except _nvml.DeviceLostError as error:
            self._session.report(f"The device answers no more ({error}); {self._left} shapes are left out.")
            self._left = 0
        finally:
            self._land()
            self._ceilings.land_device(self._session)
        if self._left:
            self._session.report(f"{self._left} shapes are left out: the time is up. A rerun goes on with them.")

    def _measure(self, shapes: list[Shape]) -> None:
        if shapes[0].kernel in _shapes.COLLECTIVES:
            self._measure_collectives(shapes)
            return
        with _telemetry.Telemetry(self._session.device, interval_s=0.05) as telemetry:
            for shape in shapes:
                budget_s = self._budget_s(shape)
                if budget_s is None:
                    continue
                self._measure_one(shape, budget_s, telemetry)
                self._left -= 1
                if time.monotonic() - self._batch.began > BATCH_S:
                    self._land()

    def _measure_one(self, shape: Shape, budget_s: float, telemetry: _telemetry.Telemetry) -> None:
        from collectors.microbench import _calls

        run = self._identity(shape)
        device = self._session.device
        began = time.perf_counter()
        try:
            with _machine.Load() as load:
                timing, executions = _calls.measure(_calls.prepare(shape, device, self.cache_bytes), device, budget_s)
        except Exception as error:
            self._fail(shape, run, _calls.failure(shape, error))
            _calls.check_alive(device)
            _memory.trim()
            return
        run["other_load_ratio"] = load.other_ratio()
        self._ceilings.reached(shape, _calls.shortest_s(timing))
        run["throttled_ratio"] = telemetry.columns(began).get("throttled_ratio")
        self._keep(shape, run, timing, executions, telemetry.throttled_between)
        self._batch.tables["telemetry"] += telemetry.rows(run["run_id"], began)

    def _measure_collectives(self, shapes: list[Shape]) -> None:
        budget_s = self._budget_s(shapes[0])
        if budget_s is None:
            return
        for shape, outcome in _collectives.measure(shapes, self._session.device, budget_s):
            run = self._identity(shape)
            self._left -= 1
            if outcome.timing is None:
                self._fail(shape, run, outcome.failure or {})
                continue
            self._ceilings.reached(shape, min(one.wall_s for one in outcome.timing.measured))
            self._keep(shape, run, outcome.timing, outcome.executions)
            self._batch.tables["ranks"] += [
                {"run_id": run["run_id"], "rank": rank, "latency_s": mean, "communication_s": mean,
                 "device_index": rank if self._session.device == "cuda" else None}
                for rank, mean in enumerate(outcome.rank_s)
            ]  # fmt: skip

    def _keep(
        self,
        shape: Shape,
        run: dict[str, Any],
        timing: _timing.Timing,
        executions: int,
        is_throttled: Callable[[float, float], bool] = lambda begin, end: False,
    ) -> None:
        columns, note = _rows.measured(shape, timing, self._ceilings.roof(), self.cache_bytes)
        run |= columns
        repeated = f"a repeat is {executions} executions back to back, divided" if executions > 1 else None
        said = _machine.load_note(run.get("other_load_ratio"))
        run["status_detail"] = _session.joined(timing.note, repeated, note, said, *self._disturbances)
        self._batch.runs.append(run)
        self._batch.tables["ops"].append(_rows.op(shape, run))
        self._batch.tables["samples"] += timing.rows(run["run_id"], is_throttled)
        self._session.report(f"{shape.label}: {_outcome(run)}")

    def _fail(self, shape: Shape, run: dict[str, Any], columns: dict[str, Any]) -> None:
        self._batch.runs.append(run | columns)
        self._session.report(f"{shape.label}: {columns['status']}: {columns['status_detail']}")

    def _land(self) -> None:
        """The ceilings first: a kill in between leaves a roof that is too good for nobody, and not a point above its roof."""
        batch, self._batch = self._batch, _Batch()
        if not batch.runs:
            return
        self._ceilings.land(self._session)
        for run in batch.runs:
            dtype = run["activation_dtype"]
            peak = self._ceilings.get(f"peak_{dtype}_flops_per_s")
            if run.get("mfu") is not None or run["kernel"] == "gemm":
                achieved = run.get("achieved_flops_per_s")
                run["mfu_achievable"] = None if achieved is None or peak is None else achieved / peak
        tables = batch.tables
        self._session.land(
            batch.runs,
            ops=tables["ops"],
            samples=tables["samples"],
            telemetry=tables["telemetry"],
            ranks=tables["ranks"],
        )

    def _identity(self, shape: Shape) -> dict[str, Any]:
        words = ["python", "-m", "collectors", NAME, "--preset", self._preset, "--kernel", shape.family]
        if shape.cache_state is not None and shape.family != "copy":
            words += ["--dtype", shape.dtype]
        if shape.cache_state is not None:
            words += ["--cache-state", shape.cache_state]
        command = shlex.join([*words, "--device", self._session.device])
        return self._session.identity(shape.configuration(), command=command, execution=shape.execution)

    def _budget_s(self, shape: Shape) -> float | None:
        """Seconds for a shape; None where the time is up or not even a few executions would fit."""
        if self._deadline is None:
            return RUN_S
        left = self._deadline - time.monotonic()
        if left <= 0 or _least_s(shape, self._ceilings.roof()) * LEAST_EXECUTIONS > left:
            return None
        return min(RUN_S, left / self._left)


def _least_s(shape: Shape, hardware: dict[str, Any]) -> float:
    """The bound of one execution by its FLOPs; 0 where unknown."""
    work, peak = _shapes.work(shape), hardware.get(f"peak_{shape.dtype}_flops_per_s")
    return 0.0 if work is None or work.flops is None or peak is None else work.flops / peak


def _interconnect(session: _session.Session) -> str | None:
    """Between ranks: loopback on a CPU; of GPUs what the environment says of their links, NULL where it says nothing."""
    if session.device != "cuda":
        return "loopback"
    links = session.environment.get("num_nvlinks")
    return None if links is None else "nvlink" if links > 0 else "pcie"


def _outcome(run: dict[str, Any]) -> str:
    words = [f"{run['latency_s'] * 1e6:.1f} us"]
    for name, unit, factor in (
        ("achieved_flops_per_s", "GFLOP/s", 1e-9),
        ("achieved_bytes_per_s", "GB/s", 1e-9),
        ("bus_bytes_per_s", "GB/s bus", 1e-9),
    ):
        if run.get(name) is not None:
            words.append(f"{run[name] * factor:.3g} {unit}")
    return ", ".join(words)
