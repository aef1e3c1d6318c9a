"""What every measurement of one call shares: the device held, its roofs, the environment, what is known already, where rows land."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import math
import signal
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from collectors import Collected, Report, _machine, _workers, silent
from models.analytical import evaluate
from warehouse import catalog, parquet, schema
from warehouse.catalog.llm import Llm

REFUSALS = ("not tried", "not started")
"""Words of a status_detail where an oom or a timeout is a reckoning of the moment: every call reckons again."""
ALLOCATORS_SAY = ("can't allocate memory", "out of memory", "cannot allocate memory")
LACKS = ("NotImplementedError", "ImportError", "ModuleNotFoundError")
"""Exceptions of what a device or a library does not have; our own UnsupportedError is a sentence already."""


@dataclass
class Session:
    """One call of a measuring collector. Picklable once `for_worker` took its report out."""

    collector: str
    source: Mapping[str, Any]
    landing: Path
    report: Report
    device: str
    hardware: dict[str, Any]
    is_hardware_new: bool
    ceilings: dict[str, Any] | None
    environment: dict[str, Any]
    known: dict[str, float]
    refused: set[str]
    paths: list[Path] = field(default_factory=list)
    num_runs: int = 0
    num_failed: int = 0

    def for_worker(self, report: Report = silent) -> Session:
        """This session for a process of its own: the same, with nothing landed yet and another report."""
        return replace(self, report=report, paths=[], num_runs=0, num_failed=0)

    def collected(self) -> Collected:
        return Collected(self.num_runs, tuple(self.paths), self.num_failed)

    def is_known(self, run: Mapping[str, Any], limit_s: float | None = None) -> bool:
        """Whether the lake or the landing folder holds a final run of the same group (see `identity`, `final_up_to`).

        A timeout is no answer to who gives more time than it had; `limit_s` None asks for any outcome.
        """
        limit = self.known.get(run["repeat_group_id"])
        return limit is not None and (limit_s is None or limit_s <= limit)

    def learn(self, run: Mapping[str, Any]) -> None:
        """Note the outcome of a run that has landed."""
        group = run["repeat_group_id"]
        if group is None:
            return
        if is_refusal(run):
            self.refused.add(group)
        limit = final_up_to(run)
        if limit is not None:
            self.known[group] = max(limit, self.known.get(group, 0.0))

    def closed_form(self, configuration: Mapping[str, Any], llm: Llm) -> dict[str, Any]:
        """Analytical totals of a configuration on this device; numbers are None where it has none."""
        row = {name: configuration[name] for name in schema.CONFIGURATION_NAMES if configuration.get(name) is not None}
        hardware = {name: self.hardware.get(name) for name in schema.table("hardware").names}
        totals, _ = evaluate(pa.Table.from_pylist([row]), with_ops=False, hardware=[hardware], llms=[llm])
        return dict(totals.to_pylist()[0])

    def shares(
        self,
        dtype: str,
        *,
        flops_per_s: float | None = None,
        bytes_per_s: float | None = None,
        num_devices: int = 1,
    ) -> dict[str, float]:
        """mfu = achieved FLOP/s over the peak of `dtype`, mbu = bytes/s over the bandwidth, of `num_devices` of this device;
        `_achievable` against the measured ceilings. Without those of an unknown rate or roof."""
        found = {}
        for suffix, roofs in (("", self.hardware), ("_achievable", self.ceilings or {})):
            peak, bandwidth = roofs.get(f"peak_{dtype}_flops_per_s"), roofs.get("memory_bandwidth_bytes_per_s")
            if flops_per_s is not None and peak is not None:
                found[f"mfu{suffix}"] = flops_per_s / (peak * num_devices)
            if bytes_per_s is not None and bandwidth is not None:
                found[f"mbu{suffix}"] = bytes_per_s / (bandwidth * num_devices)
        return found

    def identity(
        self,
        configuration: Mapping[str, Any],
        *,
        command: str,
        task: str | None = None,
        execution: str | None = "eager",
        cache_implementation: str | None = None,
    ) -> dict[str, Any]:
        """Identity columns of a new run: ids, provenance, when, on what. `configuration` gets this device and degrees of 1.

        `repeat_group_id` is the same for runs that repeat one another: configuration, task, execution and cache alike.
        """
        config = {
            "hardware_id": self.hardware["hardware_id"],
            **dict.fromkeys(schema.ONE_BY_DEFAULT, 1),
            "optimizations": [],
            **configuration,
        }
        config_id = schema.config_id(config)
        variant = [one for one in (execution, cache_implementation) if one not in ("eager", "dynamic", None)]
        return {
            "run_id": f"{self.collector}-{uuid.uuid4().hex[:16]}",
            "config_id": config_id,
            "repeat_group_id": schema.digest(self.source["source_id"], config_id, task, *variant),
            "collector": self.collector,
            "source_kind": "measured",
            "source_id": self.source["source_id"],
            "quality_tier": 2,
            "collected_at": datetime.datetime.now(datetime.UTC),
            "is_excluded": False,
            **config,
            "task": task,
            "execution": execution,
            "cache_implementation": cache_implementation,
            "framework": "pytorch",
            "framework_version": importlib.metadata.version("torch"),
            "environment_id": self.environment["environment_id"],
            "command": command,
        }

    def land(
        self,
        runs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        llm: Mapping[str, Any] | None = None,
        **tables: Sequence[Mapping[str, Any]],
    ) -> None:
        """Land runs with what belongs to them (ops, samples, telemetry, ranks) as one batch: whole or not at all.

        `llm` is an `llms` row where the catalogue has none. Names the batch after its first run. A refusal that the landing
        folder holds already (the same group) lands no second time.
        """
        rows = [runs] if isinstance(runs, Mapping) else list(runs)
        if all(is_refusal(row) and row["repeat_group_id"] in self.refused for row in rows):
            return
        batch: dict[str, parquet.Rows] = {
            "environments": [self.environment],
            "hardware": [self.hardware] if self.is_hardware_new else [],
            "llms": [] if llm is None else [llm],
            "sources": [self.source],
            **tables,
            "runs": rows,
        }
        self.paths += parquet.land(self.landing, rows[0]["run_id"], batch)
        for row in rows:
            self.learn(row)
        self.num_runs += len(rows)
        self.num_failed += sum(row["status"] != "ok" for row in rows)


@contextlib.contextmanager
def open_session(
    collector: str,
    source: Mapping[str, Any],
    landing: Path,
    *,
    device: str = "auto",
    report: Report = silent,
    hardware_row: dict[str, Any] | None = None,
    ceiling_row: dict[str, Any] | None = None,
    skip: Collection[str] | Mapping[str, float] = frozenset(),
) -> Iterator[Session]:
    """Hold the device ('auto', 'cpu', 'cuda') and yield the session of one call.

    `hardware_row` and `ceiling_row` are this device's rows where a lake knows them (catalogue or first measurement, and what
    `microbench` reached); else the landing folder's are taken. `skip` holds repeat_group_ids that need no measuring, or
    maps them to the limit up to which that is so (`final_up_to`); those of the landing folder are added. Raises ValueError for
    a device that is not there or a row of another, and OSError, before anything is measured, where nothing can be landed.
    """
    device = _machine.resolve_device(device)
    hardware_id = _machine.hardware_id(device)
    if hardware_row is not None and hardware_row["hardware_id"] != hardware_id:
        raise ValueError(
            f"The hardware row is of '{hardware_row['hardware_id']}', and this machine is '{hardware_id}'."
        )
    landing.mkdir(parents=True, exist_ok=True)
    with _machine.device_lock(device, report):
        row, is_new = (hardware_row, False) if hardware_row is not None else _hardware(landing, device, hardware_id)
        session = Session(
            collector=collector, source=source, landing=landing, report=report, device=device, hardware=row,
            is_hardware_new=is_new, ceilings=ceiling_row or _landed_ceilings(landing, row["hardware_id"]),
            environment=_machine.environment(row["hardware_id"]),
            known=dict(skip) if isinstance(skip, Mapping) else dict.fromkeys(skip, math.inf), refused=set(),
        )  # fmt: skip
        for run in _landed(landing, "runs"):
            if run["collector"] == collector:
                session.learn(run)
        yield session


def is_refusal(run: Mapping[str, Any]) -> bool:
    """Whether a run is an oom or a timeout that was reckoned and not met."""
    said = run.get("status_detail") or ""
    return run["status"] in ("oom", "timeout") and any(words in said for words in REFUSALS)


def final_up_to(run: Mapping[str, Any]) -> float | None:
    """Limit in seconds up to which another try would not change an outcome; None where every call tries again.

    A timeout has its own limit in `duration_s`; where it does not say, more time than none may help.
    """
    if run["status"] not in ("ok", "oom", "timeout", "unsupported") or is_refusal(run):
        return None
    if run["status"] != "timeout":
        return math.inf
    limit = run.get("duration_s")
    return 0.0 if limit is None else float(limit)


def failure(error: BaseException) -> dict[str, Any]:
    """Status columns of a failed execution, in this process or in a worker, with the class of its cause.

    Out of memory by that class, by what an allocator says, or by SIGKILL, with which a system ends what its memory has no room for.
    """
    if isinstance(error, _workers.WorkerTimeoutError):
        return {"status": "timeout", "status_detail": str(error)}
    if isinstance(error, _workers.WorkerDiedError):
        if error.signal_number == signal.SIGKILL:
            return {"status": "oom", "status_detail": f"{error}, as a system does whose memory has run out"}
        return {"status": "error", "status_detail": str(error)}
    cause = error.cause_type if isinstance(error, _workers.WorkerRaisedError) else type(error).__name__
    text, said = str(error).strip().partition("\n")[0], str(error).lower()
    if cause == "UnsupportedError":
        return {"status": "unsupported", "status_detail": text[:500]}
    if cause == "TooLargeError":
        return {"status": "oom", "status_detail": f"{text.removesuffix('.')}; not tried"}
    status = "error"
    if cause.endswith("MemoryError") or any(one in said for one in ALLOCATORS_SAY):
        status = "oom"
    elif cause in LACKS:
        status = "unsupported"
    return {"status": status, "status_detail": f"{cause}: {text}"[:500]}


def joined(*notes: str | None) -> str | None:
    """Notes of a status_detail in one line; None for none."""
    return "; ".join(note for note in notes if note) or None


def check(option: str, given: Iterable[Any], known: Collection[Any]) -> None:
    """Raise ValueError for a value of an option that is not among the known ones."""
    for one in given:
        if one not in known:
            a = "an" if option[0] in "aeiou" else "a"
            raise ValueError(f"'{one}' is not {a} {option} that can be measured here. Known: {', '.join(known)}.")


def check_seconds(option: str, value: float | None) -> None:
    """Raise ValueError for a limit or budget that is no number of seconds above 0; None is none."""
    if value is not None and not 0.0 < value < math.inf:
        raise ValueError(f"{option} is a number of seconds above 0, not {value:g}.")


def several(value: Any) -> list[Any]:
    """An option's values: one is a list of one."""
    return [value] if isinstance(value, str | int | float) else list(value)


def _hardware(landing: Path, device: str, hardware_id: str) -> tuple[dict[str, Any], bool]:
    """This device's row, and whether it has to be landed: measured ceilings are stored once and reused from then on."""
    landed = [row for row in _landed(landing, "hardware") if row["hardware_id"] == hardware_id]
    if landed:
        return landed[0], False
    with contextlib.suppress(catalog.UnknownEntryError):
        return dict(catalog.find_hardware(hardware_id).row), False
    return _machine.hardware_row(device), True


def _landed_ceilings(landing: Path, hardware_id: str) -> dict[str, Any] | None:
    rows = [row for row in _landed(landing, "hardware") if row["measured_of"] == hardware_id]
    return rows[-1] if rows else None


def _landed(landing: Path, table: str) -> Iterator[dict[str, Any]]:
    """Rows of a table in the landing folder, in order of writing; a file that cannot be read is the loader's to refuse."""
    for path in sorted((landing / table).glob("*.parquet"), key=lambda one: one.stat().st_mtime):
        with contextlib.suppress(parquet.ContractError, OSError):
            yield from parquet.read(table, path).to_pylist()
