"""Figures of one run that are made of one another: rates and latencies, percentiles, a request's parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.lint.findings import Finding
from models.lint.tables import Floats, Indices, Mask, Runs, Sources, grouped, hits, power_of_ten
from warehouse import definitions, metrics

PERCENTILES = ("p25", "p50", "p75", "p90", "p95", "p99")
SLACK = 0.1
"""How far a product of means may be from the mean of products."""


def tokens_over_latency(sources: Sources) -> Iterator[Finding]:
    """tokens/s x latency = tokens of the batch."""
    runs = sources.runs
    latency, inputs = runs.num("latency_s"), runs.num("input_tokens")
    outputs = np.where(runs.is_("phase", "decode"), 1.0, runs.num("output_tokens"))
    is_whole = runs.is_("phase", "prefill", "forward", "generate", "pretrain_step", "finetune_step")
    expected: dict[str, list[Floats]] = {
        "output_tokens_per_s": [np.where(runs.is_("phase", "decode", "generate"), outputs, np.nan)],
        "total_tokens_per_s": [np.where(is_whole, inputs, np.nan), np.where(is_whole, inputs + outputs, np.nan)],
    }
    for metric, choices in expected.items():
        ratios = [runs.num(metric) * latency / (runs.sequences * tokens) for tokens in choices]
        best = ratios[0]
        for ratio in ratios[1:]:
            best = np.where(np.abs(np.log(ratio)) < np.abs(np.log(best)), ratio, best)
        for index in hits(runs.is_ok & (np.abs(best - 1) > SLACK)):
            tokens = runs.num(metric)[index] * latency[index] / best[index]
            slip = _slip(best[index])
            yield runs.finding(
                index, "tokens_over_latency", "doubt" if slip is None else "fault",
                f"{runs.named(index)}: {runs.num(metric)[index]:g} tokens/s x {latency[index]:g} s is {best[index]:.3g} times the {tokens:g} "
                f"tokens of the batch{slip or ''}.",
                metric, value=runs.num(metric)[index], expected=tokens / latency[index],
            )  # fmt: skip


def in_flight(sources: Sources) -> Iterator[Finding]:
    """Little's law: requests in flight = requests/s x end-to-end latency; failed ones are in flight and in neither factor."""
    runs = sources.runs
    is_whole = ~(runs.num("num_failed_requests") > 0)
    product = runs.num("requests_per_s") * runs.num("e2el_s")
    mean, most = runs.num("concurrency_mean"), runs.num("concurrency")
    for index in hits(runs.is_ok & is_whole & (np.abs(product / mean - 1) > 2 * SLACK)):
        yield _little(runs, index, product[index], mean[index], "on average")
    for index in hits(runs.is_ok & np.isnan(mean) & (product > most * (1 + SLACK))):
        yield _little(runs, index, product[index], most[index], "at most")


def _little(runs: Runs, index: int, product: float, known: float, how: str) -> Finding:
    slip = _slip(product / known)
    return runs.finding(
        index, "littles_law", "doubt" if slip is None else "fault",
        f"{runs.named(index)}: {runs.num('requests_per_s')[index]:g} requests/s x {runs.num('e2el_s')[index]:g} s makes {product:.3g} requests "
        f"in flight, there are {known:g} {how}{slip or ''}.",
        "requests_per_s", value=product, expected=known,
    )  # fmt: skip


def tokens_of_requests(sources: Sources) -> Iterator[Finding]:
    """tokens/s = requests/s x tokens of a request; with answers of free length at most that."""
    runs = sources.runs
    is_fixed = runs.is_("is_output_fixed", True)
    outputs = runs.num("output_tokens")
    for kind, tokens in (("output", outputs), ("total", runs.num("input_tokens") + outputs)):
        metric = f"{kind}_tokens_per_s"
        product = runs.num("requests_per_s") * tokens
        ratio = runs.num(metric) / product
        off = (ratio > 1 + 2 * SLACK) | (is_fixed & (ratio < 1 - SLACK))
        for index in hits(runs.is_ok & runs.is_("phase", "serve") & off):
            slip = _slip(ratio[index])
            yield runs.finding(
                index, "tokens_of_requests", "doubt" if slip is None else "fault",
                f"{runs.named(index)}: {runs.num(metric)[index]:g} {kind} tokens/s, but {runs.num('requests_per_s')[index]:g} "
                f"requests/s x {tokens[index]:g} tokens make {product[index]:g}{slip or ''}.",
                metric, value=runs.num(metric)[index], expected=product[index],
            )  # fmt: skip


def percentiles_out_of_order(sources: Sources) -> Iterator[Finding]:
    """A higher percentile is not smaller, and the first token does not come after the last."""
    runs = sources.runs
    for metric in metrics.METRICS:
        if "p99" not in metric.statistics:
            continue
        names = [metric.column(statistic) for statistic in PERCENTILES]
        known = [name for name in names if not np.isnan(runs.num(name)).all()]
        for low, high in pairwise(known):
            low_values, high_values = runs.num(low), runs.num(high)
            for index in hits(low_values > high_values * (1 + 1e-6)):
                yield runs.finding(
                    index, "percentiles_out_of_order", "fault",
                    f"{runs.named(index)}: {low} {low_values[index]:g} is above {high} {high_values[index]:g}.",
                    low, value=low_values[index], expected=high_values[index], about=high,
                )  # fmt: skip
    for statistic in (None, *PERCENTILES):
        first, last = (metrics.metric(name).column(statistic) for name in ("ttft_s", "e2el_s"))
        for index in hits(runs.num(first) > runs.num(last) * (1 + 1e-6)):
            yield runs.finding(
                index, "percentiles_out_of_order", "fault",
                f"{runs.named(index)}: {first} {runs.num(first)[index]:g} is above {last} {runs.num(last)[index]:g}: the first token comes after "
                f"the last.",
                first, value=runs.num(first)[index], expected=runs.num(last)[index], about=last,
            )  # fmt: skip


def parts_of_a_request(sources: Sources) -> Iterator[Finding]:
    """E2EL = TTFT + TPOT x (N - 1), on average and for every request."""
    runs, requests = sources.runs, sources.requests
    ttft, tpot, e2el, tokens = (runs.num(name) for name in ("ttft_s", "tpot_s", "e2el_s", "output_tokens"))
    is_fixed = runs.is_("is_output_fixed", True)
    for index in hits(runs.is_ok & ~np.isnan(ttft + tpot + e2el) & (tokens >= 1) & (e2el > 0)):
        figure = definitions.convert(
            "e2el_s", {"ttft_s": ttft[index], "tpot_s": tpot[index]}, tokens=int(tokens[index])
        )
        if figure.upper is None:
            continue
        ratio = e2el[index] / figure.upper
        if not (1 / 3 < ratio < 1 + SLACK if not is_fixed[index] else abs(ratio - 1) < SLACK):
            slip = _slip(ratio)
            yield runs.finding(
                index, "parts_of_a_request", "doubt" if slip is None else "fault",
                f"{runs.named(index)}: e2el_s {e2el[index]:g} is {ratio:.3g} times the {figure.upper:g} of {figure.reason}{slip or ''}.",
                "e2el_s", value=e2el[index], expected=figure.upper,
            )  # fmt: skip
    columns = requests.num("num_rows"), requests.num("num_off"), requests.num("num_late")
    for place, count, off, late in sources.placed(requests, *columns):
        if off + late > 0:
            yield runs.finding(
                place, "parts_of_a_request", "fault",
                f"{runs.named(place)}: of {count:g} requests {off:g} have another E2EL than TTFT + TPOT x (N - 1), and {late:g} a first token "
                f"after the last.",
                "e2el_s", value=off + late, expected=0.0, about="requests",
            )  # fmt: skip


def unit_slip(sources: Sources) -> Iterator[Finding]:
    """One value far from all its neighbours, or all far from the estimate: a decimal point or a unit is probably lost."""
    runs = sources.runs
    is_run = runs.is_ok & ~runs.is_("phase", "microbench")
    estimate = runs.twin("estimate_s")
    for metric in (
        "latency_s",
        "tpot_s",
        "output_tokens_per_s",
        "total_tokens_per_s",
        "memory_peak_bytes",
    ):
        values = runs.num(metric)
        per_device = values / runs.devices if metric.endswith("per_s") else values
        known = is_run & (values > 0)
        by = [
            runs.texts(name) for name in ("source_id", "llm_id", "hardware_id", "phase", "weight_dtype", "load_pattern")
        ]
        for group in _groups_of(known, *by):
            yield from _outlier(runs, group, metric, per_device)
        if metric == "latency_s":
            yield from _estimated(runs, np.where(known, values / estimate, np.nan))


def _groups_of(known: Mask, *by: NDArray[np.object_]) -> Iterator[Indices]:
    chosen = np.flatnonzero(known)
    yield from grouped(chosen, *(column[chosen] for column in by))


def _outlier(runs: Runs, group: Indices, metric: str, values: Floats) -> Iterator[Finding]:
    """The highest or lowest of a group of five or more, if it is 7 times from the next and no other gap is half as wide."""
    if len(group) < 5:
        return
    ordered = group[np.argsort(values[group])]
    logs = np.log10(values[ordered])
    gaps = np.diff(logs)
    for index, gap, others in ((ordered[-1], gaps[-1], gaps[:-1]), (ordered[0], gaps[0], gaps[1:])):
        if gap < 0.85 or others.max() > gap / 2:
            continue
        middle = float(np.median(logs))
        power = round(float(np.log10(values[index])) - middle)
        yield runs.finding(
            index, "unit_slip", "doubt",
            f"{runs.named(index)}: {metric} {runs.num(metric)[index]:g} is {10**gap:.3g} times away from the nearest of {len(group) - 1} "
            f"neighbours (median {10**middle:.4g} a device); a factor of 10^{power} is probably lost.",
            metric, value=runs.num(metric)[index], expected=runs.num(metric)[index] / 10.0**power,
        )  # fmt: skip


def _estimated(runs: Runs, ratios: Floats) -> Iterator[Finding]:
    """Sources all of whose latencies are a hundred times their estimate or more."""
    ids = runs.texts("source_id")
    for group in _groups_of(ratios > 0, ids):
        if len(group) >= 3 and ratios[group].min() > 100:
            middle = float(np.median(ratios[group]))
            yield Finding(
                "unit_slip", "doubt", ids[group[0]],
                f"All {len(group)} latencies are over 100 times their estimate (median {middle:.3g}): milliseconds may stand for seconds.",
                metric="latency_s", value=middle, about="source",
            )  # fmt: skip


CHECKS = (
    tokens_over_latency, in_flight, tokens_of_requests, percentiles_out_of_order, parts_of_a_request, unit_slip,
)  # fmt: skip


def _slip(ratio: float) -> str | None:
    power = power_of_ten(float(ratio))
    return None if power is None else f": a factor of 10^{power}"
