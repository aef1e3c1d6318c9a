"""The cells of one LLM in a process of its own: which need no running, which cannot run, and the rest on one model a dtype."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sized
from dataclasses import replace
from typing import Any

from collectors import _memory, _workers
from collectors import _transformers as engine
from collectors._session import Session, failure, joined
from collectors.local_profile import _measure
from collectors.local_profile._cells import Build, Cell, Job, label, lacking

LARGEST_BATCH = 2**16
"""Where the search for the memory's boundary ends."""
SURELY = 2.0
"""What exceeds a limit by this factor by its bound is not started."""


class UnlandedError(Exception):
    """The landing folder cannot be written to."""


class DeviceError(Exception):
    """The device answers no more in this process; another may find it again."""


def profile(worker: _workers.Worker, session: Session, job: Job) -> str | None:
    """Run the cells of a job and land them; returns why nothing can be landed any more, None where all went well."""
    session.report = lambda line: worker.send(("line", line))
    try:
        _Llm(worker, session, job).run()
    except UnlandedError as error:
        return str(error)
    return None


class _Llm:
    def __init__(self, worker: _workers.Worker, session: Session, job: Job) -> None:
        self._worker, self._session, self._job = worker, session, job
        self._name = job.target.llm.llm_id
        self._left = dict(job.cells)
        self._runs: dict[int, dict[str, Any]] = {}
        self._slowness = 2.0

    def run(self) -> None:
        for build in dict.fromkeys(cell.build for cell in self._job.cells.values()):
            if self._is_spent():
                return
            self._run_build(build, {index: cell for index, cell in self._left.items() if cell.build == build})

    def _run_build(self, build: Build, cells: dict[int, Cell]) -> None:
        self._worker.begin(tuple(cells), max(_workers.START_LIMIT_S, self._job.cell_limit_s))
        blueprint = self._blueprint(build, cells)
        if blueprint is None:
            return
        todo = self._runnable(blueprint, self._unknown(cells))
        if not todo:
            return
        _memory.trim()
        baseline = _memory.resident_bytes()
        try:
            model = engine.build(self._job.target, build.dtype, build.attention, self._session.device)
        except Exception as error:
            for index in todo:
                self._land(index, failure(error))
            return
        loaded = _measure.Loaded(self._session, self._job, blueprint, model, baseline)
        for _, members in itertools.groupby(todo.items(), key=lambda item: item[1].case):
            group = dict(members)
            if self._is_spent():
                return
            if self._job.passes.boundary:
                for index, cell in group.items():
                    self._find_boundary(loaded, index, cell)
            elif self._fits_budget(group):
                self._run_group(loaded, group)

    # ---- what needs no running

    def _blueprint(self, build: Build, cells: dict[int, Cell]) -> engine.Blueprint | None:
        """Shapes of the model, and the identity of every run; rows instead where there is no such model."""
        target = self._job.target
        blueprint, attention, outcome = None, build.attention, {}
        try:
            blueprint = engine.Blueprint(target, build.dtype, build.attention)
            attention = blueprint.attention
        except Exception as error:
            outcome = failure(error)
            if isinstance(error, ImportError | ValueError):  # transformers lacks the architecture or the attention
                outcome["status"] = "unsupported"
        self._runs |= {index: self._job.identity(self._session, cell, attention) for index, cell in cells.items()}
        self._worker.send(("runs", {index: self._runs[index] for index in cells}))
        if blueprint is None:
            for index in self._unknown(cells):
                self._land(index, outcome)
        return blueprint

    def _unknown(self, cells: dict[int, Cell]) -> dict[int, Cell]:
        limit = self._job.cell_limit_s
        known = [index for index in cells if self._session.is_known(self._runs[index], limit)]
        if known:
            self._session.report(f"{self._name}: {len(known)} of {len(cells)} are measured already.")
            self._settle(known)
        return {index: cell for index, cell in cells.items() if index not in known}

    def _runnable(self, blueprint: engine.Blueprint, cells: dict[int, Cell]) -> dict[int, Cell]:
        """The cells that may run; the others land with what speaks against them."""
        found = {}
        for index, cell in cells.items():
            outcome = self._refusal(blueprint, index, cell)
            if outcome is None:
                found[index] = cell
            else:
                self._land(index, outcome)
        return found

    def _refusal(self, blueprint: engine.Blueprint, index: int, cell: Cell) -> dict[str, Any] | None:
        """Status columns of a cell that is not to be run: unsupported, surely too large or surely too slow; else None."""
        why = lacking(self._job.target.llm, cell, self._session.device)
        if why is not None:
            return {"status": "unsupported", "status_detail": why}
        work = blueprint.work(cell.case)
        state = 0.0 if isinstance(work, Exception) else work.bytes_of(cell.case.batch_size)
        try:
            _memory.check_free(self._session.device, blueprint.weights_bytes + state)
        except Exception as error:
            return failure(error)
        least, limit = self._least_seconds(index), self._job.cell_limit_s
        if least is not None and least * _measure.LEAST_EXECUTIONS > SURELY * limit:
            return {
                "status": "timeout",
                "status_detail": f"not started: an execution takes at least {least:.3g} s by its bound, and "
                f"{_measure.LEAST_EXECUTIONS} of them exceed the limit of {limit:g} s",
            }
        return None

    def _least_seconds(self, index: int) -> float | None:
        """The bound of one execution by the closed form, s: FLOPs over peak, or weights read over bandwidth; None where unknown.

        A bound as good as the device's roofs, which are measured where the catalogue does not have it.
        """
        form = self._session.closed_form(self._runs[index], self._job.target.llm)
        bandwidth = self._session.hardware.get("memory_bandwidth_bytes_per_s")
        if form["compute_s"] is None or form["weight_bytes_read"] is None or bandwidth is None:
            return None
        return float(max(form["compute_s"], form["weight_bytes_read"] / bandwidth))

    # ---- the budget

    def _seconds_left(self) -> float | None:
        return None if self._job.until is None else self._job.until - time.monotonic()

    def _is_spent(self) -> bool:
        left = self._seconds_left()
        if left is None or left > 0.0:
            return False
        self._session.report(
            f"{self._name}: the budget is spent; {len(self._left)} of {len(self._job.cells)} left out."
        )
        return True

    def _fits_budget(self, group: dict[int, Cell]) -> bool:
        left, (index, cell) = self._seconds_left(), next(iter(group.items()))
        least = self._least_seconds(index)
        if left is None or least is None:
            return True
        if least * self._slowness * (_measure.LEAST_EXECUTIONS + 1) * len(group) <= left:
            return True
        self._session.report(
            f"{label(self._name, cell)}: would take longer than the {left:.1f} s left of the budget; left out."
        )
        self._settle(list(group))
        return False

    def _repeats_s(self, group: Sized) -> float:
        """Seconds for the repeats of one variant."""
        left = self._seconds_left()
        return self._job.run_s if left is None else max(0.0, 0.6 * left / max(len(self._left), len(group)))

    # ---- running

    def _run_group(self, loaded: _measure.Loaded, group: dict[int, Cell]) -> None:
        """The variants of one case."""
        self._worker.begin(tuple(group), self._job.cell_limit_s * len(group))
        runs = {index: self._runs[index] for index in group}
        for result in _measure.measure(loaded, group, runs, self._repeats_s(group)):
            self._land(result.index, result.columns, **result.tables)
            if result.columns["status"] == "error" and "CUDA error" in result.columns["status_detail"]:
                raise DeviceError(result.columns["status_detail"])
            latency = result.columns.get("latency_s")
            least = self._least_seconds(result.index)
            if latency is not None and least:
                self._slowness = max(2.0, latency / least)

    def _find_boundary(self, loaded: _measure.Loaded, index: int, cell: Cell) -> None:
        """Land the largest batch that fits, and the next one with status oom.

        On a GPU batches are run until one does not fit. On a CPU, where one that does not would end the process or the
        machine, what surely does not fit is counted, and one sequence is run.
        """
        self._worker.begin((index,), self._job.cell_limit_s)
        why: dict[int, str] = {}

        def fits(batch: int) -> bool:
            sized = self._sized(loaded, index, cell, batch)
            self._worker.send(("runs", {index: self._runs[index]}))
            try:
                _measure.try_memory(loaded, sized)
            except _measure.OutOfMemoryError as error:
                why[batch] = str(error)
                return False
            return True

        try:
            largest = _memory.largest(fits, 1, LARGEST_BATCH)
        except Exception as error:
            self._land(index, failure(error))
            return
        if largest > 0:
            sized = self._sized(loaded, index, cell, largest if self._session.device == "cuda" else 1)
            runs = {index: self._runs[index]}
            self._worker.send(("runs", runs))
            for result in _measure.measure(loaded, {index: sized}, runs, self._repeats_s(runs)):
                said = result.columns.get("status_detail")
                if self._session.device == "cpu":
                    said = joined(said, "max_batch_size by weights, KV cache and logits, and what is free")
                self._land(index, result.columns | {"max_batch_size": largest, "status_detail": said}, **result.tables)
        if largest + 1 in why:
            self._sized(loaded, index, cell, largest + 1)
            self._land(index, {"status": "oom", "status_detail": why[largest + 1]})

    def _sized(self, loaded: _measure.Loaded, index: int, cell: Cell, batch: int) -> Cell:
        """The cell at another batch size, which its run is from now on; of the same search, and so of the same group."""
        sized = replace(cell, case=replace(cell.case, batch_size=batch))
        group = {"repeat_group_id": self._runs[index]["repeat_group_id"]}
        self._runs[index] = self._job.identity(self._session, sized, loaded.blueprint.attention) | group
        return sized

    # ---- landing

    def _land(self, index: int, columns: dict[str, Any], **tables: Any) -> None:
        run = self._runs[index] | columns
        session, trace = self._session, run.get("trace")
        try:
            if trace is not None:
                _measure.keep_trace(session, trace)
            session.land(run, llm=self._job.llm_row, **tables)
        except OSError as error:
            if trace is not None:
                _measure.drop_trace(session, trace)
            raise UnlandedError(
                f"The landing folder cannot be written to ({error.strerror or error}); what landed before is whole."
            ) from error
        outcome = {name: run.get(name) for name in ("repeat_group_id", "status", "status_detail", "duration_s")}
        self._worker.send(("landed", (session.collected(), outcome, index)))
        session.paths, session.num_runs, session.num_failed = [], 0, 0
        self._left.pop(index, None)
        said = (
            f"{run['latency_s'] * 1e3:.1f} ms ({run['num_samples']} repeats)"
            if run["status"] == "ok"
            else f"{run['status']}: {run['status_detail']}"
        )
        cell = self._job.cells[index]
        sized = replace(cell, case=replace(cell.case, batch_size=run["batch_size"]))
        session.report(f"{label(self._name, sized)}: {said}")

    def _settle(self, indices: list[int]) -> None:
        self._worker.send(("settled", indices))
        for index in indices:
            self._left.pop(index, None)
