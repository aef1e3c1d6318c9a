"""Figures that stand where they were not measured: copied tables, repeated rates, targets that never vary."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from models.lint.findings import Finding
from models.lint.tables import Runs, Sources, digits, grouped, hits

RATES = ("total_tokens_per_s", "output_tokens_per_s", "latency_s", "ttft_s", "tpot_s", "e2el_s")
VARYING = (
    "achieved_bytes_per_s", "achieved_flops_per_s", "mfu", "mbu", "latency_s", "ttft_s", "tpot_s", "e2el_s",
    "output_tokens_per_s", "total_tokens_per_s",
)  # fmt: skip
NAMED = re.compile(r"bandwidth|latency|throughput|ttft|tpot|per_s(econd)?$", re.IGNORECASE)
SETTING = re.compile(r"rate|limit|max|min|slo|target|timeout|config|std|error|fail", re.IGNORECASE)


def repeated_figure(sources: Sources) -> Iterator[Finding]:
    """One figure of five digits printed for two LLMs or two devices is likelier a copy than a coincidence."""
    runs = sources.runs
    models, devices = runs.texts("llm_id"), runs.texts("hardware_id")
    is_known = runs.is_ok & ~runs.is_("phase", "microbench") & ~runs.is_("llm_id", None)
    pairs: defaultdict[tuple[object, ...], list[tuple[int, int, str]]] = defaultdict(list)
    for metric in RATES:
        values = runs.num(metric)
        chosen = np.flatnonzero(is_known & (values > 0))
        for group in grouped(chosen, values[chosen]):
            first = int(group[0])
            for index in group[1:].tolist() if digits(values[first])[0] >= 5 else ():
                both = {(models[first], devices[first]), (models[index], devices[index])}
                if len(both) > 1:
                    pairs[runs.texts("source_id")[index], frozenset(both)].append((first, index, metric))
    for found in pairs.values():
        first, index, metric = found[0]
        value = runs.num(metric)[index]
        more = "" if len(found) == 1 else f" So do {len(found) - 1} more figures of these two."
        yield runs.finding(
            index,
            "repeated_figure",
            "doubt",
            f"{runs.named(index)} prints {metric} {value:.10g}, as does {runs.named(first)} in {runs.texts('source_id')[first]}, of "
            f"{_other(runs, first, index)}: one of them may be a copy.{more}",
            metric,
            value=value,
        )


def _other(runs: Runs, first: int, index: int) -> str:
    names = ("llm_id", "hardware_id")
    return ", ".join(
        str(runs.texts(name)[first]) for name in names if runs.texts(name)[first] != runs.texts(name)[index]
    )


def printed_twice(sources: Sources) -> Iterator[Finding]:
    """One configuration printed twice by one source, with figures more than 5 % apart; rows that are kept out are known already."""
    runs = sources.runs
    is_shown = runs.is_ok & runs.is_published & ~runs.is_("is_excluded", True) & ~runs.is_("phase", "microbench")
    worst: dict[str, tuple[float, int, int, str]] = {}
    counts: Counter[str] = Counter()
    for metric in RATES:
        values = runs.num(metric)
        for group in runs.groups(of=is_shown & (values > 0)):
            for same in grouped(group, runs.texts("source_id")[group]):
                low, high = int(same[values[same].argmin()]), int(same[values[same].argmax()])
                ratio = values[high] / values[low]
                if ratio > 1.05:
                    source_id = runs.texts("source_id")[high]
                    counts[source_id] += 1
                    worst[source_id] = max(worst.get(source_id, (0.0, 0, 0, "")), (ratio, low, high, metric))
    for source_id, (ratio, low, high, metric) in worst.items():
        first, second = runs.num(metric)[low], runs.num(metric)[high]
        yield runs.finding(
            high,
            "printed_twice",
            "doubt",
            f"{runs.named(high)} and {runs.named(low)} are one configuration with {metric} {second:g} and {first:g} ({ratio:.3g} times), the "
            f"worst of {counts[source_id]} such pairs of the source. What tells them apart is in no column.",
            metric,
            value=second,
            expected=first,
        )


def duplicate_rows(sources: Sources) -> Iterator[Finding]:
    """Published rows of one source that are the same in every figure: counted twice."""
    runs = sources.runs
    chosen = runs.is_ok & runs.is_published & ~runs.is_("is_excluded", True)
    known = [name for name in RATES if (runs.num(name) > 0).any()]
    copies: defaultdict[str, list[int]] = defaultdict(list)
    for group in runs.groups(of=chosen):
        keys = [runs.texts("source_id")[group], *(np.nan_to_num(runs.num(name)[group], nan=-1.0) for name in known)]
        for same in grouped(group, *keys):
            figures = [runs.num(name)[same[0]] for name in known]
            if sum(digits(figure)[0] for figure in figures if figure > 0) >= 8:
                copies[runs.texts("source_id")[same[0]]] += same[1:].tolist()
    for source_id, found in copies.items():
        yield Finding(
            "duplicate_rows", "doubt", source_id,
            f"{len(found)} of {int(runs.is_('source_id', source_id).sum())} rows repeat another in configuration and every figure, the first "
            f"of them {runs.named(found[0])}.",
            value=float(len(found)), expected=0.0,
        )  # fmt: skip


def copied_tables(sources: Sources) -> Iterator[Finding]:
    """Two tables of kernels with the same shapes and the same times, of two devices or versions: one was never measured."""
    runs, kernels = sources.runs, sources.kernels
    prints, ids, names = kernels.texts("fingerprint"), kernels.texts("run_id"), kernels.texts("kernel")
    chosen = np.flatnonzero(kernels.num("num_rows") >= 8)
    for group in grouped(chosen, prints[chosen], names[chosen]):
        places = [(index, sources.run_index[ids[index]]) for index in group.tolist() if ids[index] in sources.run_index]
        for (index, place), (_, first) in ((other, places[0]) for other in places[1:]):
            names_of = ("hardware_id", "interconnect", "num_devices", "framework", "framework_version")
            differs = [name for name in names_of if runs.texts(name)[place] != runs.texts(name)[first]]
            severity = "fault" if {"hardware_id", "interconnect"} & set(differs) else "doubt"
            what = ", ".join(
                f"{name} {runs.texts(name)[first]} there, {runs.texts(name)[place]} here" for name in differs
            )
            yield runs.finding(
                place, "copied_table", severity,
                f"{runs.named(place)}: all {kernels.num('num_rows')[index]:g} {names[index]} rows are those of {runs.named(first)} in "
                f"{runs.texts('source_id')[first]} to the last digit ({what or 'the same table twice'}).",
                "time_s", about=str(names[index]),
            )  # fmt: skip


def kernels_out_of_order(sources: Sources) -> Iterator[Finding]:
    """The mean and the median of a kernel's times lie between the least and the most."""
    runs, kernels = sources.runs, sources.kernels
    columns = kernels.texts("kernel"), kernels.num("num_rows"), kernels.num("num_disordered")
    for index, kernel, count, disordered in sources.placed(kernels, *columns):
        if disordered > 0:
            yield runs.finding(
                index, "percentiles_out_of_order", "fault",
                f"{runs.named(index)}: of {count:g} {kernel} rows {disordered:g} have a mean or a median outside their least and most time.",
                "time_s", value=disordered, expected=0.0, about=str(kernel),
            )  # fmt: skip


def constant_target(sources: Sources) -> Iterator[Finding]:
    """A measured quantity that is the same in eight or more different configurations was not measured."""
    runs = sources.runs
    chosen = np.flatnonzero(runs.is_ok)
    for group in grouped(chosen, runs.texts("source_id")[chosen], runs.texts("phase")[chosen]):
        if len(set(runs.texts("config_id")[group])) < 8:
            continue
        for metric in VARYING:
            values = runs.num(metric)[group]
            values = values[~np.isnan(values)]
            if len(values) >= 8 and values.min() == values.max():
                yield _constant(
                    runs.texts("source_id")[group[0]],
                    metric,
                    len(values),
                    float(values[0]),
                    str(runs.texts("phase")[group[0]]),
                )
    for source_id, metric, sampled in _sampled(sources):
        if len(sampled) >= 8 and min(sampled) == max(sampled):
            yield _constant(source_id, metric, len(sampled), sampled[0], "")


def _sampled(sources: Sources) -> Iterator[tuple[str, str, list[float]]]:
    """Values of every sample that is named like a speed, one a run: source, name, values."""
    samples = sources.samples
    found: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for index, metric, value in sources.placed(samples, samples.texts("metric"), samples.num("value")):
        if NAMED.search(metric) and not SETTING.search(metric) and not np.isnan(value):
            of_source = found[sources.runs.texts("source_id")[index], metric]
            of_source.setdefault(sources.runs.texts("config_id")[index], value)
    for (source_id, metric), values in found.items():
        yield source_id, metric, list(values.values())


def _constant(source_id: str, metric: str, count: int, value: float, about: str) -> Finding:
    return Finding(
        "constant_target", "doubt", source_id,
        f"{metric} is {value:g} in all {count} configurations: a constant, no measurement, and nothing to learn from.",
        metric=metric, value=value, about=about,
    )  # fmt: skip


def scores_too_good(sources: Sources) -> Iterator[Finding]:
    """A predictor without any error predicts a constant, or has its target among its features."""
    scores = sources.predictor_scores
    for index in hits((scores.num("mae") == 0) | (scores.num("r2") == 1)):
        yield Finding(
            "constant_target", "fault", scores.texts("source_id")[index],
            f"{scores.texts('name')[index]}: errors of {scores.num('mae')[index]:g} and R2 {scores.num('r2')[index]:g}: its target is constant or "
            f"among its features.",
            metric=scores.texts("metric")[index], value=float(scores.num("r2")[index]), about=str(scores.texts("predictor_id")[index]),
        )  # fmt: skip


CHECKS = (
    repeated_figure, printed_twice, duplicate_rows, copied_tables, kernels_out_of_order, constant_target, scores_too_good,
)  # fmt: skip
