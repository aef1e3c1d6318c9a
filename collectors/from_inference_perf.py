"""Lifecycle metrics of kubernetes-sigs inference-perf, of a stage or of all stages, and what it scrapes from Prometheus.

Times are seconds and begin at the actual send. `normalized_time_per_output_token` is E2EL / N. `inter_token_latency` pools the gaps
between the events of a stream, microseconds between events of one chunk included: it is our ICL. `time_per_output_token` divides by
the events too, which some servers send several of for one token; it is our TPOT only where the means of the same file bear that
out, and a sample elsewhere. Figures that Prometheus gave are the server's own and are samples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from collectors import _importing
from collectors._figures import Figures, number, whole
from collectors._importing import File, Run, Said

TOOL = "inference_perf"
SOURCE_KIND = "measured"

LATENCIES = {
    "request_latency": ("e2el_s", "last_chunk"),
    "time_to_first_token": ("ttft_s", "first_nonempty_chunk"),
    "normalized_time_per_output_token": ("ntpot_s", "e2el_over_n"),
    "inter_token_latency": ("icl_s", "per_chunk_pooled"),
}
"""A latency as the tool calls it -> metric and definition."""

THROUGHPUTS = {
    "input_tokens_per_sec": "input_tokens_per_s",
    "output_tokens_per_sec": "output_tokens_per_s",
    "total_tokens_per_sec": "total_tokens_per_s",
    "requests_per_sec": "requests_per_s",
}

TPOT_TOLERANCE = 0.1
"""Largest relative difference between the mean TPOT printed and the one that the means of E2EL, TTFT and N give: a mean of
quotients is not the quotient of means."""

_MARKS = ('"load_summary"', '"successes"', '"failures"')


def recognises(file: File) -> bool:
    """Whether it is a report of requests, by its three parts."""
    return file.head.lstrip().startswith("{") and all(mark in file.head for mark in _MARKS)


def read(file: File, said: Said) -> Iterator[Run]:
    """The one run a file holds."""
    found = file.json()
    done, failed = found["successes"], found["failures"]
    figures = Figures(TOOL, {"phase": "serve", "execution": "engine"})
    notes = []
    if "latency" in done:
        notes += _latencies(figures, done)
        for name, metric in THROUGHPUTS.items():
            figures.metric(metric, done["throughput"].get(name), "tokens_over_whole_run")
    else:
        notes.append("Latencies are the server's own, from Prometheus: they are in samples.")
        _scraped(figures, done)
    _load(figures, found["load_summary"])
    _lengths(figures, done, failed)
    yield Run("all", figures.columns, figures.definitions, notes=notes, samples=figures.samples)


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)


def _latencies(figures: Figures, done: Mapping[str, Any]) -> list[str]:
    """Latencies as columns and samples; sentences about what is no column."""
    for name, found in done["latency"].items():
        if not isinstance(found, Mapping):
            continue
        if name in LATENCIES:
            metric, definition = LATENCIES[name]
            figures.distribution(metric, found, definition, name=name)
        elif name == "time_per_output_token" and _is_per_token(done):
            figures.distribution("tpot_s", found, "e2el_minus_ttft_over_n_minus_1", name=name)
        else:
            figures.others(found, "s", f"{name}.")
    if "tpot_s" not in figures.columns and "time_per_output_token" in done["latency"]:
        return [
            "time_per_output_token is not (E2EL - TTFT) / (N - 1) of the same file: it counts events of the stream."
        ]
    return []


def _is_per_token(done: Mapping[str, Any]) -> bool:
    """Whether the mean of time_per_output_token agrees with the means of what it should be made of."""
    latency = done["latency"]
    e2el, ttft, printed = (
        number(name, (latency.get(name) or {}).get("mean"))
        for name in ("request_latency", "time_to_first_token", "time_per_output_token")
    )
    tokens = number("output_len", (done.get("output_len") or {}).get("mean"))
    if e2el is None or ttft is None or printed is None or tokens is None or tokens <= 1:
        return False
    return abs((e2el - ttft) / (tokens - 1) / printed - 1) <= TPOT_TOLERANCE if printed else False


def _scraped(figures: Figures, done: Mapping[str, Any]) -> None:
    for name, found in done.items():
        if isinstance(found, Mapping):
            unit = _SCRAPED_UNITS.get(name, "s" if "latency" in name or "time" in name else "1")
            figures.others({key: value for key, value in found.items() if key != "rate"}, unit, f"prometheus.{name}.")
            figures.other(f"prometheus.{name}.rate", found.get("rate"), f"{unit}/s")
    figures.other("prometheus.rate", done.get("rate"), "1/s")


_SCRAPED_UNITS = {"prompt_len": "tokens", "output_len": "tokens"}


def _load(figures: Figures, load: Mapping[str, Any]) -> None:
    """What was asked for, and how late it was sent."""
    if (rate := number("requested_rate", load.get("requested_rate"))) is not None:
        figures.columns["request_rate_per_s"] = rate
    figures.other("achieved_rate", load.get("achieved_rate"), "1/s")
    figures.other("send_duration", load.get("send_duration"), "s")
    figures.others(load.get("schedule_delay") or {}, "s", "schedule_delay.")


def _lengths(figures: Figures, done: Mapping[str, Any], failed: Mapping[str, Any]) -> None:
    """How many requests, and of what lengths: the mean over requests, rounded."""
    succeeded, lost = whole("successes.count", done.get("count")), whole("failures.count", failed.get("count"))
    if succeeded is not None and lost is not None:
        figures.columns |= {"num_requests": succeeded + lost, "num_failed_requests": lost}
        figures.columns["success_rate"] = succeeded / (succeeded + lost) if succeeded + lost else None
    elif succeeded is not None:
        figures.other("successes.count", succeeded, "1")
    for name, column in (("prompt_len", "input_tokens"), ("output_len", "output_tokens")):
        lengths = done.get(name) or {}
        figures.columns[column] = whole(name, lengths.get("mean"))
        if "latency" in done:
            figures.others(lengths, "tokens", f"{name}.")
    figures.others(failed.get("request_latency") or {}, "s", "failures.request_latency.")
