"""Parts and their total: phases of a step, operators of a phase, shares of a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from models.lint.findings import Finding
from models.lint.tables import ROUNDING, Floats, Runs, Sources, hits

PHASES = ("forward", "backward", "optimizer")


def phases_of_a_step(sources: Sources) -> Iterator[Finding]:
    """Forward, backward and optimizer take no longer than the step, and, as printed, not much less."""
    runs = sources.runs
    total = _phase_sum(runs)
    latency = runs.num("latency_s")
    for index in hits(
        runs.is_ok & ((total > latency * (1 + ROUNDING)) | (runs.is_published & (total < 0.9 * latency)))
    ):
        yield runs.finding(
            index, "sum_of_parts", "fault" if total[index] > latency[index] else "doubt",
            f"{runs.named(index)}: forward, backward and optimizer make {total[index] * 1e3:.4g} ms, the step takes {latency[index] * 1e3:.4g} ms.",
            "latency_s", value=latency[index], expected=total[index],
        )  # fmt: skip


def modules_of_a_phase(sources: Sources) -> Iterator[Finding]:
    """The modules of a phase add up to the phase, of the same run or of another table's run of the same configuration.

    A pass with hooks is slower than the step: of measured rows only a sum above the time of that pass counts.
    """
    runs = sources.runs
    for (run_id, phase), (seconds, count) in _leaf_sums(sources).items():
        index = sources.run_index.get(run_id)
        if index is None or phase not in PHASES or count < 3:
            continue
        total, where = _phase_time(runs, index, phase)
        if np.isnan(total):
            continue
        is_more = seconds > total * (1 + (ROUNDING if runs.is_published[index] else 0.1)) * _overhead(runs, index)
        if is_more or (runs.is_published[index] and seconds < total * (1 - ROUNDING)):
            yield runs.finding(
                index, "sum_of_parts", "fault" if is_more else "doubt",
                f"{runs.named(index)}: {phase} modules sum to {seconds * 1e3:.1f} of the {total * 1e3:.1f} ms of {where}.",
                value=seconds, expected=total, about=phase,
            )  # fmt: skip


def shares_of_a_whole(sources: Sources) -> Iterator[Finding]:
    """Three or more shares printed under one heading that nearly make 100 % make 100 %."""
    runs, samples = sources.runs, sources.samples
    groups: defaultdict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    rows = zip(
        samples.texts("run_id"), samples.texts("metric"), samples.num("value"), samples.texts("unit"), strict=True
    )  # fmt: skip
    for run_id, metric, value, unit in rows:
        heading, separator, _ = str(metric).rpartition(" / ")
        if unit == "%" and separator:
            groups[run_id, heading].append((metric, value))
    total_s = _phase_sum(runs)
    for (run_id, heading), shares in groups.items():
        index = sources.run_index.get(run_id)
        total = sum(value for _, value in shares)
        if index is None or len(shares) < 3 or not 100 * ROUNDING < abs(100 - total) < 3:
            continue
        implied = ""
        forward = next((value for metric, value in shares if metric.lower().endswith("/ forward")), None)
        if forward is not None and not np.isnan(total_s[index]):
            step = runs.num("forward_s")[index] / (forward / 100)
            implied = f" and imply a step of {step * 1e3:.1f} ms, the phases sum to {total_s[index] * 1e3:.1f} ms"
        yield runs.finding(
            index, "sum_of_shares", "fault",
            f"{runs.named(index)}: shares {' + '.join(f'{value:g}' for _, value in shares)} make {total:.1f} %{implied}.",
            value=total, expected=100.0, about=heading, samples=tuple(metric for metric, _ in shares),
        )  # fmt: skip


CHECKS = (phases_of_a_step, modules_of_a_phase, shares_of_a_whole)


def _phase_sum(runs: Runs) -> Floats:
    return np.asarray(runs.num("forward_s") + runs.num("backward_s") + runs.num("optimizer_s"), np.float64)


def _overhead(runs: Runs, index: int) -> float:
    ratio = float(runs.num("hooks_overhead_ratio")[index])
    return 1.0 if np.isnan(ratio) else max(ratio, 1.0)


def _phase_time(runs: Runs, index: int, phase: str) -> tuple[float, str]:
    """Time of a phase of a run's configuration, and the source that gives it; NaN where none does."""
    times = runs.num(f"{phase}_s")
    if not np.isnan(times[index]):
        return float(times[index]), "the run"
    alike = hits((runs.texts("config_id") == runs.texts("config_id")[index]) & ~np.isnan(times))
    place = next(alike, None)
    return (np.nan, "") if place is None else (float(times[place]), str(runs.texts("source_id")[place]))


def _leaf_sums(sources: Sources) -> dict[tuple[str, str], tuple[float, int]]:
    """(run, phase) -> seconds of its leaves over all their executions, and how many leaves it has."""
    ops = sources.ops
    ids, phases, paths, parents = (ops.texts(name) for name in ("run_id", "phase", "path", "parent_path"))
    seconds = ops.num("time_s") * ops.num("count")
    with_children = set(zip(ids, parents, strict=True))
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for run_id, phase, path, level, time in zip(ids, phases, paths, ops.texts("level"), seconds.tolist(), strict=True):
        if level == "kernel" or np.isnan(time) or (run_id, path) in with_children:
            continue
        total, count = found.get((run_id, phase), (0.0, 0))
        found[run_id, phase] = total + time, count + 1
    return found
