"""Prefect flows. Deploy them by module entrypoint: `etl.flows.refresh`, `etl.flows.retrain` (never by file path).

They run with no server (Prefect starts one for the process), against `prefect server start`, and in work pools. A task is a
whole sweep of a plan, never one configuration. Sweeps run one after another: two measurements never share a device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import collectors
from etl import lint, machine, plans, training, twins
from warehouse.store import Home, LoadReport, open_store


def _may_pass(_task: object, _run: object, state: Any) -> bool:
    """Retry what may go better a second time: not a plan that asks for something that does not exist."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, LookupError | TypeError | ValueError)


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
def load_landing(home: str) -> LoadReport:
    """Load what landed."""
    with open_store(home) as store:
        return store.load()


@task(cache_policy=NO_CACHE)
def add_twins(home: str, report: Callable[[str], None]) -> LoadReport:
    """Give every measured and published configuration its analytical row, under the same configuration key."""
    with open_store(home) as store:
        return twins.add(store, report)


@task(cache_policy=NO_CACHE)
def lint_sources(home: str, report: Callable[[str], None]) -> LoadReport:
    """Check the rows of every source that has new ones; what is found are rows, not failures."""
    with open_store(home) as store:
        return lint.add(store, report)


@task(cache_policy=NO_CACHE)
def train_predictors(home: str, report: Callable[[str], None], targets: list[str] | None = None) -> LoadReport:
    """Train on the rows of the lake and promote what is no worse; too few rows is a sentence, not a failure."""
    with open_store(home) as store:
        return training.train(store, report, targets)


@flow(name="refresh", log_prints=False)
def refresh(plan: str = "starter", home: str = "rooflake-data") -> dict[str, Any]:
    """Collect a plan's sweeps, load each as it lands, add analytical twins, train, and leave an artifact with what came in.

    A sweep that fails does not stop the others: what they collected is loaded, then the flow fails with the reasons.
    """
    chosen = plans.load(plan)
    Home.of(home).prepare()
    summary: list[dict[str, Any]] = []
    with open_store(home) as store:
        failures = _quarantined(store.load())  # what an interrupted run left behind, and the catalogue
    console = Console(stderr=True, highlight=False, markup=False)
    say = partial(console.print, soft_wrap=True)
    steps = len(chosen.sweeps) + chosen.twins + 1 + chosen.train
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed}/{task.total}", style="bold"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=steps)
        for sweep in chosen.sweeps:
            progress.update(bar, description=sweep.title)
            say(f"{chosen.sweeps.index(sweep) + 1} of {len(chosen.sweeps)}: {sweep.title}")

            def report(line: str, title: str = sweep.title) -> None:
                progress.update(bar, description=f"{title}: {line}"[:150])
                if "measured already" in line or "left out" in line:
                    say(f"{title}: {line}")

            state = collect_sweep(sweep.title, sweep.collector, sweep.options, home, report, return_state=True)
            loaded = load_landing(home)
            if state.is_completed():
                row = state.result() | {"loaded": str(loaded)}
                summary.append(row)
                say(f"{row['sweep']}: {row['runs']} runs, {row['failed']} failed, {row['seconds']} s. {row['loaded']}")
            else:
                failures.append(f"{sweep.title}: {state.message}")
            failures += _quarantined(loaded)
            progress.advance(bar)
        for title, step, is_wanted in (
            ("analytical twins", add_twins, chosen.twins),
            ("checking rows", lint_sources, True),
            ("training predictors", train_predictors, chosen.train),
        ):
            if is_wanted:
                progress.update(bar, description=title)
                done = step(home, say, return_state=True)
                failures += _quarantined(done.result()) if done.is_completed() else [f"{title}: {done.message}"]
                progress.advance(bar)
        progress.update(bar, description="done")
    with open_store(home) as store:
        store.compact()
        snapshot = store.snapshot_id()
        totals = store.sql("SELECT source_kind, count(*) AS runs FROM runs GROUP BY ALL ORDER BY ALL").to_pylist()
    create_table_artifact(
        key="refresh", table=summary, description=f"Plan `{chosen.name}`, snapshot {snapshot}: {totals}"
    )
    if failures:
        raise RuntimeError("Some of the plan failed; what the rest collected is loaded.\n" + "\n".join(failures))
    return {"snapshot_id": snapshot, "sweeps": summary, "totals": totals}


@flow(name="retrain", log_prints=False)
def retrain(home: str = "rooflake-data", targets: list[str] | None = None) -> dict[str, Any]:
    """Load what landed, give it its bounds, and train every target, or some, whose rows have changed; for a schedule of its own.

    A predictor takes over only where its leave-out scores are no worse. Returns what was said and who answers by target.
    """
    said: list[str] = []
    failures = _quarantined(load_landing(home))
    failures += _quarantined(add_twins(home, said.append))
    failures += _quarantined(train_predictors(home, said.append, targets))
    with open_store(home, read_only=True) as store:
        answering = {row["target"]: row["predictor_id"] for row in store.query("promoted_predictors").to_pylist()}
    if failures:
        raise RuntimeError("Some rows were refused; the rest is loaded and learnt from.\n" + "\n".join(failures))
    return {"said": said, "promoted": answering}


def _quarantined(loaded: LoadReport) -> list[str]:
    return [f"quarantined {name}: {reason}" for name, reason in loaded.quarantined.items()]


def _with_lake(collector: str, options: dict[str, Any], place: Home) -> dict[str, Any]:
    """A sweep's options; local measurements also learn what this machine is and what it has measured already."""
    if collector not in machine.MEASURING:
        return options
    with open_store(place) as store:
        store.load()  # on a retry: what the try before has landed needs no measuring again
        return options | machine.known(store, collector, options.get("device", "auto"))
