"""Run a campaign on a bare node: sweep after sweep inside one time window, every cell landed as soon as it is measured."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import collectors
from collectors import Collected, Report, _errors, _plan, _session, silent


@dataclass(frozen=True)
class Outcome:
    """What landed, and a sentence for every sweep that failed."""

    collected: Collected
    failures: tuple[str, ...]


def run(
    name: str,
    landing: Path,
    *,
    parts: Sequence[str] = (),
    budget_s: float | None = None,
    device: str | None = None,
    report: Report = silent,
) -> Outcome:
    """Run the sweeps of a campaign, or those of some of its parts, in the file's order.

    Within `budget_s` a sweep gets what is left times its share of the shares left; nothing starts after its end. A sweep that
    fails does not stop the others. What a run before has landed is not measured again. Raises ValueError for a campaign or
    a part that is not there, or a budget that is no number of seconds.
    """
    _session.check_seconds("budget_s", budget_s)
    campaign = _plan.load(name)
    known = list(dict.fromkeys(sweep.part for sweep in campaign.sweeps))
    for part in parts:
        if part not in known:
            raise ValueError(f"The campaign '{campaign.name}' has no part '{part}'. Known: {', '.join(known)}.")
    sweeps = [sweep for sweep in campaign.sweeps if not parts or sweep.part in parts]
    deadline = None if budget_s is None else time.monotonic() + budget_s
    paths: list[Path] = []
    num_runs, num_failed, failures = 0, 0, []
    for index, sweep in enumerate(sweeps):
        options = dict(sweep.options)
        if device is not None and _plan.has_option(sweep.collector, "device"):
            options.setdefault("device", device)
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                report(f"{sweep.title}: the time is over; left out.")
                continue
            if _plan.has_option(sweep.collector, "budget_s"):
                share = left * sweep.share / sum(one.share for one in sweeps[index:])
                options["budget_s"] = min(share, options.get("budget_s", share))
        began = time.monotonic()
        try:
            with _errors.explained(landing):
                done = collectors.find(sweep.collector).collect(landing, report=_titled(sweep.title, report), **options)
        except Exception as error:  # nobody can mend it within the window: the other sweeps go on
            is_said = _errors.is_sentence(error) or isinstance(error, RuntimeError | ImportError)
            if not is_said:
                report(traceback.format_exc())
            failures.append(f"{sweep.title}: {error}" if is_said else f"{sweep.title}: {type(error).__name__}: {error}")
            report(failures[-1])
            continue
        paths += done.paths
        num_runs += done.num_runs
        num_failed += done.num_failed
        report(f"{sweep.title}: {done.num_runs} runs, {done.num_failed} failed, {time.monotonic() - began:.0f} s.")
    return Outcome(Collected(num_runs, tuple(paths), num_failed), tuple(failures))


def _titled(title: str, report: Report) -> Report:
    return lambda line: report(f"{title}: {line}")
