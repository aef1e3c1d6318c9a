"""One LLM in one process after another: what a process was at when it ended is a row, and the next goes on behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from collectors import _session, _workers
from collectors.local_profile import _cells, _worker


class Profile:
    """The cells of one LLM. A cell is tried once: each has run, or was what a process ended at."""

    def __init__(self, session: _session.Session, job: _cells.Job) -> None:
        self._session, self._job = session, job
        self._runs: dict[int, dict[str, Any]] = {}

    def run(self) -> None:
        """Raises OSError where nothing can be landed."""
        while self._job.cells:
            arguments = (self._session.for_worker(), self._job)
            try:
                (unlanded,) = _workers.run(_worker.profile, arguments, on_message=self._receive)
            except _workers.WorkerError as error:
                self._settle(error)
                continue
            if unlanded is not None:
                raise OSError(unlanded)
            return

    def _receive(self, rank: int, message: tuple[str, Any]) -> None:
        """What a worker says: a line of progress; the identity of runs to come; cells that need no more; rows that landed."""
        kind, content = message
        if kind == "line":
            self._session.report(content)
        elif kind == "runs":
            self._runs |= content
        elif kind == "settled":
            left = {index: cell for index, cell in self._job.cells.items() if index not in content}
            self._job = replace(self._job, cells=left)
        elif kind == "landed":
            collected, outcome, index = content
            self._session.paths += collected.paths
            self._session.num_runs += collected.num_runs
            self._session.num_failed += collected.num_failed
            self._session.learn(outcome)
            self._receive(rank, ("settled", [index]))

    def _settle(self, error: _workers.WorkerError) -> None:
        """A row for each cell that the worker was at; for all of them where it did not get to one."""
        at = [index for index in (self._job.cells if error.at is None else error.at) if index in self._job.cells]
        outcome = _session.failure(error)
        if outcome["status"] == "timeout":
            outcome["duration_s"] = self._job.cell_limit_s
        for index in at:
            cell = self._job.cells[index]
            run = self._runs.get(index) or self._job.identity(self._session, cell, cell.build.attention)
            if (self._session.landing / "runs" / f"{run['run_id']}.parquet").exists():
                continue  # it ended after that
            self._session.land(run | outcome, llm=self._job.llm_row)
            self._session.report(
                f"{_cells.label(run['llm_id'], cell)}: {outcome['status']}: {outcome['status_detail']}"
            )
        self._receive(0, ("settled", at))
