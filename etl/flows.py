"""Prefect flows. Deploy them by module entrypoint: `etl.flows.refresh` (never by file path).

They run with no server (Prefect starts one for the process), against `prefect server start`, and in work pools. A task is a
whole sweep of a plan, never one configuration. Sweeps run one after another: two measurements never share a device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import collectors
from etl import plans, training
from warehouse import catalog
from warehouse.store import Home, open_store


def _may_pass(_task: object, _run: object, state: Any) -> bool:
    """Retry what may go better a second time: not a plan that asks for something that does not exist."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, LookupError | ValueError)


@task(
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
    task_run_name="collect {title}",
)
def collect_sweep(
    title: str, collector: str, options: dict[str, Any], home: str, report: Callable[[str], None]
) -> dict[str, Any]:
    """Run one sweep into the landing folder. A retry lands no row twice: rows are keyed, files hashed."""
    started = time.monotonic()
    place = Home.of(home)
    collected = collectors.find(collector).collect(
        place.landing, report=report, **_with_lake(collector, options, place)
    )
    return {
        "sweep": title,
        "collector": collector,
        "runs": collected.num_runs,
        "failed": collected.num_failed,
        "seconds": round(time.monotonic() - started, 1),
    }


@task(retries=2, retry_delay_seconds=[2, 10], cache_policy=NO_CACHE)
def load_landing(home: str) -> dict[str, Any]:
    """Load what landed."""
    with open_store(home) as store:
        report = store.load()
    return {"text": str(report), "new_rows": report.new_rows, "quarantined": report.quarantined}


@task(cache_policy=NO_CACHE)
def add_twins(home: str, report: Callable[[str], None]) -> str:
    """Give every measured and published configuration its analytical row, under the same configuration key."""
    from collectors import roofline

    with open_store(home) as store:
        configs = store.query("untwinned_configurations")
        hardware_rows = store.sql("SELECT * EXCLUDE (file_hash) FROM hardware").to_pylist()
        known = catalog.llms()
        llm_rows = [
            row for row in store.sql("SELECT * EXCLUDE (file_hash) FROM llms").to_pylist() if row["llm_id"] not in known
        ]
        collected = roofline.twins(
            configs, store.home.landing, report=report, hardware_rows=hardware_rows, llm_rows=llm_rows
        )
        store.load()
    return f"{collected.num_runs} analytical twins of {configs.num_rows} configurations"


@task(cache_policy=NO_CACHE)
def train_predictors(home: str) -> list[str]:
    """Train on the measured rows of the lake; too few rows is a sentence, not a failure."""
    with open_store(home) as store:
        return training.train(store)


@flow(name="refresh", log_prints=False)
def refresh(plan: str = "starter", home: str = "rooflake-data") -> dict[str, Any]:
    """Collect a plan's sweeps, load each as it lands, add analytical twins, train, and leave an artifact with what came in.

    A sweep that fails does not stop the others: what they collected is loaded, then the flow fails with the reasons.
    """
    chosen = plans.load(plan)
    Home.of(home).prepare()
    with open_store(home) as store:
        store.load()  # what an interrupted run left behind, and the catalogue
    summary: list[dict[str, Any]] = []
    failures: list[str] = []
    console = Console(stderr=True, highlight=False)
    steps = len(chosen.sweeps) + chosen.twins + chosen.train
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.completed}/{task.total}"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=steps)
        for sweep in chosen.sweeps:
            progress.update(bar, description=sweep.title)

            def report(line: str, title: str = sweep.title) -> None:
                progress.update(bar, description=f"{title}: {line}"[:150])

            state = collect_sweep(sweep.title, sweep.collector, sweep.options, home, report, return_state=True)
            loaded = load_landing(home)
            if state.is_completed():
                row = state.result() | {"loaded": loaded["text"]}
                summary.append(row)
                console.print(
                    f"{row['sweep']}: {row['runs']} runs, {row['failed']} failed, {row['seconds']} s. {row['loaded']}"
                )
            else:
                failures.append(f"{sweep.title}: {state.message}")
            failures += [f"quarantined {name}: {reason}" for name, reason in loaded["quarantined"].items()]
            progress.advance(bar)
        if chosen.twins:
            progress.update(bar, description="analytical twins")
            console.print(add_twins(home, lambda line: console.print(line, soft_wrap=True)) + ".")
            progress.advance(bar)
        if chosen.train:
            progress.update(bar, description="training predictors")
            for line in train_predictors(home):
                console.print(line, soft_wrap=True)
            progress.advance(bar)
        progress.update(bar, description="done")
    with open_store(home, read_only=True) as store:
        snapshot = store.snapshot_id()
        totals = store.sql("SELECT source_kind, count(*) AS runs FROM runs GROUP BY ALL ORDER BY ALL").to_pylist()
    create_table_artifact(
        key="refresh", table=summary, description=f"Plan `{chosen.name}`, snapshot {snapshot}: {totals}"
    )
    if failures:
        raise RuntimeError("Some of the plan failed; what the rest collected is loaded.\n" + "\n".join(failures))
    return {"snapshot_id": snapshot, "sweeps": summary, "totals": totals}


def _with_lake(collector: str, options: dict[str, Any], place: Home) -> dict[str, Any]:
    """A sweep's options; local measurements also learn what this machine is and what it has measured already."""
    if collector != "local_profile":
        return options
    from collectors import _machine

    with open_store(place, read_only=True) as store:
        done = store.query("measured_configurations").to_pylist()
        machine = store.sql(
            "SELECT * EXCLUDE (file_hash) FROM hardware WHERE hardware_id = $id",
            {"id": _machine.hardware_id(options.get("device", "auto"))},
        ).to_pylist()
    return options | {
        "skip": {(row["config_id"], row["task"]) for row in done},
        "hardware_row": machine[0] if machine else None,
    }
