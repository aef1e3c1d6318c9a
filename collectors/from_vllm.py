"""Files of vLLM's benchmarks: `bench serve` (and benchmark_serving.py), `bench throughput`, `bench latency`, and `*.pytorch.json`.

Times of `serve` are in ms, of the others in s. Its "ITL" is the gap between chunks (icl_s). Its clocks start when a request is
sent: what waits for a slot of --max-concurrency is in no latency, as in our definitions. No file says which device, engine
version or degree of parallelism was measured.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from collectors import _importing, _load_results, _names
from collectors._figures import number
from collectors._importing import File, Run, Said
from collectors._load_results import Results, columns_of_equal_length, count, each, listed, mapping, rate_limit

TOOL = "vllm"
SOURCE_KIND = "measured"

Result = Mapping[str, Any]

TIMES = {
    "ttft": ("ttft_s", "first_nonempty_chunk"),
    "tpot": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
    "itl": ("icl_s", "per_chunk_pooled"),
    "e2el": ("e2el_s", "last_chunk"),
}
"""vLLM's word for a time -> column, definition."""

RATES = {
    "request_throughput": "requests_per_s", "request_goodput": "goodput_requests_per_s", "request_goodput:": "goodput_requests_per_s",
    "output_throughput": "output_tokens_per_s", "total_token_throughput": "total_tokens_per_s",
}  # fmt: skip

OTHERS = {
    "burstiness": "", "max_output_tokens_per_s": "tokens/s", "total_input_tokens": "tokens", "total_output_tokens": "tokens",
    "ramp_up_start_rps": "1/s", "ramp_up_end_rps": "1/s",
}  # fmt: skip
"""Results without a column -> their unit."""

ENGINES = {
    "vllm": "vllm", "sglang": "sglang", "tgi": "tgi", "tensorrt-llm": "tensorrt-llm", "lmdeploy": "lmdeploy",
    "deepspeed-mii": "deepspeed",
}  # fmt: skip
"""Backends that name an engine; `openai` and `openai-chat` name a protocol."""

_TIME = re.compile(r"(mean|median|std|p\d+(?:\.\d+)?)_(ttft|tpot|itl|e2el)_ms")


def recognises(file: File) -> bool:
    head = file.head
    if '"total_output_tokens_retokenized"' in head or '"good_completed"' in head:
        return False
    return (
        all(key in head for key in ('"num_prompts"', '"model_id"', '"tokenizer_id"'))
        or all(key in head for key in ('"elapsed_time"', '"total_num_tokens"', '"requests_per_second"'))
        or all(key in head for key in ('"avg_latency"', '"latencies"'))
        or '"vLLM benchmark"' in head
    )


def read(file: File, said: Said) -> Iterable[Run]:
    results = _load_results.objects(file)
    for position, result in enumerate(results, 1):
        cell = "all" if len(results) == 1 else f"line {position}"
        yield from _pytorch(result) if isinstance(result, list) else [_run(mapping("result", result), cell)]


def _run(result: Result, cell: str) -> Run:
    if "completed" in result:
        return _serve(result, cell)
    if "avg_latency" in result:
        return _latency(result, cell)
    return _throughput(result, cell)


def _serve(result: Result, cell: str) -> Run:
    figures, notes = Results(TOOL), list[str]()
    completed = count("completed", result["completed"]) or 0
    sent = count("num_prompts", result["num_prompts"])
    rows = _requests(result) if listed("ttfts", result.get("ttfts")) else []
    pattern, remarks = _load(result)
    if completed:
        _times(figures, result, completed)
        for key, column in RATES.items():
            figures.value(column, result.get(key), "tokens_over_whole_run")
    else:
        notes.append("No request completed: latencies and rates are absent, whatever the file prints for them.")
    for key, unit in OTHERS.items():
        figures.keep(key, result.get(key), unit)
    figures.columns |= {
        "phase": "serve",
        "framework": ENGINES.get(str(result.get("backend"))),
        "input_tokens": each("total_input_tokens", result.get("total_input_tokens"), completed),
        "output_tokens": each("total_output_tokens", result.get("total_output_tokens"), completed),
        "num_samples": completed,
        **_load_results.requests(completed, sent),
        "duration_s": number("duration", result["duration"]),
        "concurrency_max": number("max_concurrent_requests", result.get("max_concurrent_requests")),
        **pattern,
    }
    return Run(
        cell,
        figures.columns,
        figures.definitions,
        model=_names.model_name(result.get("model_id")),
        collected_at=_date(result),
        quality_tier=1 if rows else 0,
        status="ok" if completed else "error",
        notes=notes + remarks,
        samples=figures.samples,
        requests=rows,
    )


def _times(figures: Results, result: Result, completed: int) -> None:
    """Statistics as printed. Standard deviations are of the population: those of TPOT and ITL need the single requests."""
    lengths = [count("output_lens", one) or 0 for one in listed("output_lens", result.get("output_lens"))]
    gaps = [len(listed("itls", one)) for one in listed("itls", result.get("itls"))]
    counts = {
        "ttft": completed,
        "e2el": completed,
        "tpot": sum(length > 1 for length in lengths) if lengths else None,
        "itl": sum(gaps) if gaps else None,
    }
    found: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        if match := _TIME.fullmatch(key):
            found.setdefault(match[2], {})[match[1]] = value
    for word, statistics in found.items():
        column, definition = TIMES[word]
        if word == "ttft" and "chat" in str(result.get("backend")):
            definition = "first_chunk"
        figures.times(column, definition, f"{word}_ms", statistics, "ms", values=counts[word], is_population=True)


def _load(result: Result) -> tuple[dict[str, Any], list[str]]:
    """How requests were sent, as columns, and what a reader must know of it."""
    rate, limit = rate_limit(result.get("request_rate")), count("max_concurrency", result.get("max_concurrency"))
    if result.get("ramp_up_strategy") is not None:
        return {"load_pattern": "ramp"}, []
    if rate is None:
        return {"load_pattern": "closed" if limit else "burst", "concurrency": limit}, []
    burstiness = number("burstiness", result.get("burstiness"))
    columns = {"load_pattern": "poisson" if burstiness in (None, 1.0) else None, "request_rate_per_s": rate}
    notes = []
    if columns["load_pattern"] is None:
        notes.append(f"Gaps between arrivals are gamma distributed with shape {burstiness:g}.")
    if limit:
        notes.append(f"At most {limit} requests were in flight: what waited for a slot is in no latency.")
    return columns, notes


def _date(result: Result) -> datetime.datetime | None:
    unix = _load_results.instant("benchmark_start_time_unix", result.get("benchmark_start_time_unix"))
    return _load_results.stamp("date", result.get("date")) if unix is None else unix


def _requests(result: Result) -> list[dict[str, Any]]:
    """Rows of --save-detailed, whose times are in seconds. A failure carries zeros there and none here."""
    ttfts, gaps, taken, given, errors, starts = columns_of_equal_length(
        result, "ttfts", "itls", "input_lens", "output_lens", "errors", "start_times"
    )
    instants = [number("start_times", one) for one in starts]
    first = min((one for one in instants if one is not None), default=None)
    sent = _load_results.offsets(instants, first)
    return [_request(*one) for one in zip(ttfts, gaps, taken, given, errors, sent, strict=True)]


def _request(ttft: Any, gaps: Any, taken: Any, given: Any, error: Any, sent_at_s: float | None) -> dict[str, Any]:
    row = {"sample_phase": "measured", "input_tokens": count("input_lens", taken), "sent_at_s": sent_at_s}
    if error:
        return row | {"status": "error", "status_detail": _names.sentence(error)}
    first = number("ttfts", ttft)
    if first is None:
        return row | {"status": "ok"}
    times = list(itertools.accumulate([number("itls", gap) or 0.0 for gap in listed("itls", gaps)], initial=first))
    tokens = count("output_lens", given)
    return row | {
        "status": "ok",
        "ttft_s": first,
        "tpot_s": _load_results.tpot(times[-1], first, tokens),
        "e2el_s": times[-1],
        "output_tokens": tokens,
        "chunk_times_s": times,
    }


def _throughput(result: Result, cell: str) -> Run:
    figures = Results(TOOL)
    figures.value("requests_per_s", result["requests_per_second"], "tokens_over_whole_run")
    figures.value("total_tokens_per_s", result["tokens_per_second"], "tokens_over_whole_run")
    figures.keep("total_num_tokens", result["total_num_tokens"], "tokens")
    figures.columns |= _OFFLINE | {
        "duration_s": number("elapsed_time", result["elapsed_time"]),
        "num_requests": count("num_requests", result["num_requests"]),
    }
    return Run(cell, figures.columns, figures.definitions, samples=figures.samples)


def _latency(result: Result, cell: str) -> Run:
    """Latencies of batches; statistics as printed, the standard deviation from the single ones."""
    figures = Results(TOOL)
    values = [
        found for one in listed("latencies", result["latencies"]) if (found := number("latencies", one)) is not None
    ]
    percentiles = {f"p{key}": value for key, value in mapping("percentiles", result.get("percentiles")).items()}
    figures.times("latency_s", "wall_clock", "latency", {"mean": result["avg_latency"], **percentiles}, "s")
    if len(values) > 1:
        figures.columns["latency_std_s"] = float(np.std(values, ddof=1))
    for value in values:
        figures.samples.append({"metric": "latency_s", "sample_phase": "measured", "value": value, "unit": "s"})
    figures.columns |= _OFFLINE | {"num_samples": len(values) or None}
    return Run(cell, figures.columns, figures.definitions, quality_tier=1 if values else 0, samples=figures.samples)


_OFFLINE = {"phase": "generate", "framework": "vllm", "execution": "engine"}

_ARGUMENTS = {
    "tensor_parallel_size": "tensor_parallel", "pipeline_parallel_size": "pipeline_parallel", "input_len": "input_tokens",
    "output_len": "output_tokens", "batch_size": "batch_size",
}  # fmt: skip


def _pytorch(records: list[Any]) -> Iterable[Run]:
    """The same figures as a list of records, one a metric; their `args` say the model and how it was cut."""
    result: dict[str, Any] = {}
    args: dict[str, Any] = {}
    model = None
    for record in records:
        metric, about = mapping("metric", record["metric"]), mapping("benchmark", record["benchmark"])
        values = listed("benchmark_values", metric["benchmark_values"])
        result |= mapping("extra_info", metric.get("extra_info"))
        result[metric["name"]] = values if metric["name"] == "latency" else values[0] if values else None
        args |= mapping("args", mapping("extra_info", about.get("extra_info")).get("args"))
        model = _names.model_name(mapping("model", record.get("model")).get("name"))
    if "latency" in result:
        result["latencies"] = result["latency"]
    run = _run(
        {**{key: args[key] for key in ("request_rate", "max_concurrency", "num_prompts") if key in args}, **result},
        "all",
    )
    for key, column in _ARGUMENTS.items():
        if (value := count(key, args.get(key))) is not None:
            run.columns[column] = value
    run.columns["num_devices"] = run.columns.get("tensor_parallel", 1) * run.columns.get("pipeline_parallel", 1)
    run.columns["weight_dtype"] = _importing.dtype(args.get("dtype") if isinstance(args.get("dtype"), str) else None)
    run.model = model
    yield run


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)
