"""Reports of guidellm, `benchmarks.json`: 0.2 and 0.3 (`args` in a benchmark), later ones (`config`), one run a benchmark.

Request latency is in s and ends with the response, the other times are in ms. What its words mean changed:

                              0.2, 0.3                          from 0.4
    time_per_output_token_ms  (E2EL - TTFT) / N, over requests  E2EL to the last token / N, over tokens: long answers weigh more
    inter_token_latency_ms    TPOT, over requests               TPOT, weighted by N - 1: its mean is that of all gaps (itl_s)

Of the newer ones TPOT and NTPOT over requests are computed where the file holds every request. Distributions per second are of
rates at instants, not of requests, and in 0.2 broken: rates of tokens are sums of tokens over the duration. Percentile p001 is 0.1 %.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from collectors import _importing, _load_results, _names
from collectors._figures import number
from collectors._importing import File, Run, Said
from collectors._load_results import Results, count, listed, mapping

TOOL = "guidellm"
SOURCE_KIND = "measured"

Object = Mapping[str, Any]

RATES = {
    "output_tokens_per_second": ("output_tokens_per_s", ("output_token_count",)),
    "prompt_tokens_per_second": ("input_tokens_per_s", ("prompt_token_count",)),
    "tokens_per_second": ("total_tokens_per_s", ("prompt_token_count", "output_token_count")),
}
"""A rate of tokens as the tool calls it -> metric, and whose sums over the duration are it."""

RATE_TOLERANCE = 0.01
"""Largest relative difference between a rate printed and the one its sums give that needs no word: it spans other instants."""

OTHERS = {
    "prompt_token_count": "tokens", "output_token_count": "tokens", "total_token_count": "tokens",
    "request_streaming_iterations_count": "", "output_tokens_per_iteration": "tokens", "iter_tokens_per_iteration": "tokens",
}  # fmt: skip
PERCENTILES = {
    "p001": "p0.1", "p01": "p1", "p05": "p5", "p10": "p10", "p25": "p25", "p50": "p50", "p75": "p75", "p90": "p90", "p95": "p95",
    "p99": "p99", "p999": "p99.9",
}  # fmt: skip

OUTCOMES = {"successful": "ok", "errored": "error", "incomplete": "timeout"}
"""Lists of requests -> status. An incomplete one was cut off by the end of the run."""

_STATUS = re.compile(r"\b([45]\d\d)\b")


def recognises(file: File) -> bool:
    head = file.head
    return '"benchmarks"' in head and (
        '"guidellm_version"' in head
        or all(key in head for key in ('"run_stats"', '"request_loader"'))
        or all(key in head for key in ('"generative_benchmark"', '"scheduler_state"'))
    )


def read(file: File, said: Said) -> Iterable[Run]:
    report = mapping("report", file.json())
    version = mapping("metadata", report.get("metadata")).get("guidellm_version")
    for position, benchmark in enumerate(listed("benchmarks", report["benchmarks"])):
        yield _run(mapping("benchmark", benchmark), f"benchmarks[{position}]", version)


def _run(benchmark: Object, cell: str, version: Any) -> Run:
    figures = Results(TOOL)
    metrics = mapping("metrics", benchmark["metrics"])
    is_old = "args" in benchmark
    rows = _requests(benchmark, is_old=is_old)
    counts = _counts(benchmark)
    ok, cut = counts["successful"], counts["incomplete"]
    sent = sum(counts.values())
    if ok:
        _times(figures, metrics, rows, ok, is_old=is_old)
        figures.value("requests_per_s", _successful(metrics, "requests_per_second").get("mean"), "tokens_over_duration")
        _rates(figures, metrics, number("duration", benchmark.get("duration")))
    for name, unit in OTHERS.items():
        figures.kept(name, _statistics(_successful(metrics, name)), unit)
    in_flight = mapping(
        "request_concurrency", mapping("request_concurrency", metrics.get("request_concurrency")).get("total")
    )
    figures.columns |= {
        "phase": "serve",
        "input_tokens": _mean_tokens(metrics, "prompt_token_count") if ok else None,
        "output_tokens": _mean_tokens(metrics, "output_token_count") if ok else None,
        "num_samples": ok,
        "num_requests": sent,
        "num_failed_requests": sent - ok,
        "success_rate": ok / sent if sent else None,
        "duration_s": number("duration", benchmark.get("duration")),
        "concurrency_mean": number("request_concurrency", in_flight.get("mean")),
        "concurrency_max": number("request_concurrency", in_flight.get("max")),
        **_load(benchmark, is_old=is_old),
    }
    notes = [f"Measured by guidellm {version}."] if isinstance(version, str) else []
    if cut:
        notes.append(f"{cut} requests were cut off by the end of the run and count as not completed.")
    if ok and not is_old and "tpot_s" not in figures.columns:
        notes.append("TPOT over requests is absent: the file gives it over tokens and does not hold every request.")
    return Run(
        cell,
        figures.columns,
        figures.definitions,
        model=_model(benchmark, is_old=is_old),
        collected_at=_load_results.instant("start_time", benchmark.get("start_time")),
        quality_tier=1 if rows else 0,
        status="ok" if ok else "error",
        notes=notes,
        samples=figures.samples,
        requests=rows,
    )


def _times(figures: Results, metrics: Object, rows: list[dict[str, Any]], ok: int, *, is_old: bool) -> None:
    """Times of completed requests. Standard deviations are of the population."""
    for name, column, definition in (
        ("request_latency", "e2el_s", "end_of_response"),
        ("time_to_first_token_ms", "ttft_s", "first_nonempty_chunk"),
        ("time_to_first_output_token_ms", "ttfo_s", "first_answer_chunk"),
    ):
        unit = "ms" if name.endswith("_ms") else "s"
        found = _successful(metrics, name)
        values = count(f"{name} count", found.get("count"))
        figures.times(column, definition, name, _statistics(found), unit, values=values, is_population=True)
    per_token, gap = _successful(metrics, "time_per_output_token_ms"), _successful(metrics, "inter_token_latency_ms")
    figures.kept("time_per_output_token_ms", _statistics(per_token), "ms")
    if is_old:
        values = count("inter_token_latency_ms count", gap.get("count"))
        figures.times(
            "tpot_s", "e2el_minus_ttft_over_n_minus_1", "inter_token_latency_ms", _statistics(gap), "ms", values=values, is_population=True
        )  # fmt: skip
        return
    figures.times("itl_s", "per_token_pooled", "inter_token_latency_ms", {"mean": gap.get("mean")}, "ms")
    figures.kept(
        "inter_token_latency_ms", {word: value for word, value in _statistics(gap).items() if word != "mean"}, "ms"
    )
    done = [row for row in rows if row["status"] == "ok" and row["sample_phase"] == "measured"]
    if len(done) == ok:
        figures.computed("tpot_s", "e2el_minus_ttft_over_n_minus_1", [row["tpot_s"] for row in done])
        figures.computed(
            "ntpot_s",
            "e2el_over_n",
            [
                row["e2el_s"] / row["output_tokens"]
                for row in done
                if row["e2el_s"] is not None and row["output_tokens"]
            ],
        )


def _rates(figures: Results, metrics: Object, duration_s: float | None) -> None:
    """Tokens a second from the sums of tokens, else as printed; what is printed and differs is a sample."""
    for name, (column, parts) in RATES.items():
        printed = number(name, _successful(metrics, name).get("mean"))
        sums = [number(f"{part} total_sum", _successful(metrics, part).get("total_sum")) for part in parts]
        known = [one for one in sums if one is not None]
        if not duration_s or len(known) < len(sums):
            figures.value(column, printed, "tokens_over_duration")
            continue
        rate = sum(known) / duration_s
        figures.value(column, rate, "tokens_over_duration")
        if printed is not None and abs(printed - rate) > RATE_TOLERANCE * rate:
            figures.keep(f"{name}_mean", printed, "tokens/s")


def _statistics(found: Object) -> dict[str, Any]:
    """Statistics of a distribution, percentiles under their numbers; none of one without values."""
    if not found.get("count"):
        return {}
    named = {
        "mean": found["mean"],
        "p50": found.get("median"),
        "std": found.get("std_dev"),
        "min": found["min"],
        "max": found["max"],
    }
    percentiles = mapping("percentiles", found.get("percentiles"))
    return {**named, **{PERCENTILES[key]: value for key, value in percentiles.items() if key in PERCENTILES}}


def _successful(metrics: Object, name: str) -> Object:
    return mapping(name, mapping(name, metrics.get(name)).get("successful"))


def _mean_tokens(metrics: Object, name: str) -> int | None:
    found = number(name, _successful(metrics, name).get("mean"))
    return None if found is None else round(found)


def _counts(benchmark: Object) -> dict[str, int]:
    """Requests by outcome, from where a generation keeps their totals."""
    found = benchmark.get("request_totals")
    if found is None:
        found = mapping("metrics", benchmark["metrics"])["request_totals"]
    totals = mapping("request_totals", found)
    return {name: count(name, totals[name]) or 0 for name in OUTCOMES}


def _load(benchmark: Object, *, is_old: bool) -> dict[str, Any]:
    """How requests were sent, as columns."""
    settings = mapping("config", benchmark["args" if is_old else "config"])
    strategy = mapping("strategy", settings["strategy"])
    kind = strategy.get("type_")
    limit = count("max_concurrency", strategy.get("max_concurrency"))
    if kind == "synchronous":
        return {"load_pattern": "closed", "concurrency": 1}
    if kind == "concurrent":
        return {"load_pattern": "closed", "concurrency": count("streams", strategy.get("streams"))}
    if kind == "throughput":
        return {"load_pattern": "closed" if limit else "burst", "concurrency": limit}
    rate = number("rate", strategy.get("rate"))
    if kind == "constant":
        return {"load_pattern": "constant", "request_rate_per_s": rate}
    if kind in ("poisson", "async"):
        return {"load_pattern": "poisson" if kind == "poisson" else None, "request_rate_per_s": rate}
    return {"load_pattern": "replay" if kind == "replay" else None}


def _model(benchmark: Object, *, is_old: bool) -> str | None:
    if is_old:
        return _names.model_name(mapping("worker", benchmark.get("worker")).get("backend_model"))
    return _names.model_name(mapping("backend", mapping("config", benchmark["config"]).get("backend")).get("model"))


def _requests(benchmark: Object, *, is_old: bool) -> list[dict[str, Any]]:
    lists = mapping("requests", benchmark.get("requests"))
    start = number("start_time", benchmark.get("start_time"))
    read_one = _old_request if is_old else _request
    rows = [
        read_one(mapping("request", request), status, start)
        for name, status in OUTCOMES.items()
        for request in listed(name, lists.get(name))
    ]
    return sorted(rows, key=lambda row: row["sent_at_s"] if row["sent_at_s"] is not None else 0.0)


def _old_request(request: Object, status: str, start: float | None) -> dict[str, Any]:
    timings = {
        **request,
        "targeted": mapping("scheduler_info", request.get("scheduler_info")).get("targeted_start_time"),
    }
    keys = {"targeted": "targeted", "sent": "start_time", "first": "first_token_time", "last": "last_token_time"}
    return _row(request, status, start, timings, keys)


def _request(request: Object, status: str, start: float | None) -> dict[str, Any]:
    info = mapping("info", request["info"])
    timings = mapping("timings", info["timings"])
    keys = {
        "targeted": "targeted_start", "sent": "request_start", "first": "first_token_iteration", "last": "last_token_iteration",
    }  # fmt: skip
    row = _row({**request, "error": info.get("error")}, status, start, timings, keys)
    counted = mapping("output_metrics", request.get("output_metrics")).get("total_tokens")
    sent = number("request_start", timings.get("request_start"))
    ttfo = number("first_output_token_iteration", timings.get("first_output_token_iteration"))
    return row | {
        "sample_phase": "warmup" if sent is not None and start is not None and sent < start else "measured",
        "ttfo_s": ttfo - sent if status == "ok" and ttfo is not None and sent is not None else None,
        "cached_tokens": count("cached_tokens", request.get("cached_tokens")),
        "token_count_source": "usage" if counted is not None else "chunks",
    }


def _row(request: Object, status: str, start: float | None, timings: Object, keys: Mapping[str, str]) -> dict[str, Any]:
    """A request; times only of a completed one. E2EL ends with the last token."""
    at = {name: number(key, timings.get(key)) for name, key in keys.items()}
    scheduled, sent = _load_results.offsets([at["targeted"], at["sent"]], start)
    detail = _names.sentence(request.get("error"))
    code = _STATUS.search(detail or "")
    row = {
        "sample_phase": "measured",
        "status": status,
        "status_detail": detail,
        "http_status": int(code[1]) if code and status == "error" else None,
        "scheduled_at_s": scheduled,
        "sent_at_s": sent,
        "input_tokens": count("prompt_tokens", request.get("prompt_tokens")),
        "ttft_s": None,
        "tpot_s": None,
        "e2el_s": None,
        "output_tokens": None,
    }
    if status != "ok" or at["sent"] is None or at["first"] is None or at["last"] is None:
        return row
    tokens = count("output_tokens", request.get("output_tokens"))
    first, last = at["first"] - at["sent"], at["last"] - at["sent"]
    return row | {
        "ttft_s": first,
        "tpot_s": _load_results.tpot(last, first, tokens),
        "e2el_s": last,
        "output_tokens": tokens,
    }


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)
