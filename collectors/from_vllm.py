"""Files of vLLM's benchmarks: `bench serve` (and benchmark_serving.py), `bench throughput`, `bench latency`, and `*.pytorch.json`.

Times of `serve` are in ms, of the others in s. Its "ITL" is the gap between chunks (icl_s). Its clocks start when a request is
sent: what waits for a slot of --max-concurrency is in no latency, as in our definitions. No file says which device, engine
version or degree of parallelism was measured.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from collectors import _bench_serving, _importing, _load_results, _names
from collectors._bench_serving import TIMES, Result
from collectors._figures import number
from collectors._importing import File, Run, Said
from collectors._load_results import Results, columns_of_equal_length, count, listed, mapping

TOOL = "vllm"
SOURCE_KIND = "measured"

RATES = _bench_serving.RATES | {
    "request_goodput": "goodput_requests_per_s", "request_goodput:": "goodput_requests_per_s", "total_token_throughput": "total_tokens_per_s",
}  # fmt: skip

OTHERS = _bench_serving.OTHERS | {
    "burstiness": "", "max_output_tokens_per_s": "tokens/s", "ramp_up_start_rps": "1/s", "ramp_up_end_rps": "1/s",
}  # fmt: skip

ENGINES = {
    "vllm": "vllm", "sglang": "sglang", "tgi": "tgi", "tensorrt-llm": "tensorrt-llm", "lmdeploy": "lmdeploy",
    "deepspeed-mii": "deepspeed",
}  # fmt: skip
"""Backends that name an engine; `openai` and `openai-chat` name a protocol."""


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
    figures = Results(TOOL)
    completed = count("completed", result["completed"]) or 0
    rows = _requests(result) if listed("ttfts", result.get("ttfts")) else []
    pattern, remarks = _load(result)
    if completed:
        _times(figures, result, completed)
    notes = _bench_serving.fill(figures, result, completed, RATES, OTHERS)
    figures.columns |= {
        "framework": ENGINES.get(str(result.get("backend"))),
        **_load_results.requests(completed, count("num_prompts", result["num_prompts"])),
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
    for word, statistics in _bench_serving.printed_times(result, TIMES).items():
        column, definition = TIMES[word]
        if word == "ttft" and "chat" in str(result.get("backend")):
            definition = "first_chunk"
        figures.times(column, definition, f"{word}_ms", statistics, "ms", values=counts[word], is_population=True)


def _load(result: Result) -> tuple[dict[str, Any], list[str]]:
    """How requests were sent, as columns, and what a reader must know of it."""
    if result.get("ramp_up_strategy") is not None:
        return {"load_pattern": "ramp"}, []
    columns, notes = _bench_serving.load(result)
    burstiness = number("burstiness", result.get("burstiness"))
    if columns["load_pattern"] == "poisson" and burstiness not in (None, 1.0):
        columns["load_pattern"] = None
        notes = [f"Gaps between arrivals are gamma distributed with shape {burstiness:g}.", *notes]
    return columns, notes


def _date(result: Result) -> datetime.datetime | None:
    unix = _load_results.instant("benchmark_start_time_unix", result.get("benchmark_start_time_unix"))
    return _load_results.stamp("date", result.get("date")) if unix is None else unix


def _requests(result: Result) -> list[dict[str, Any]]:
    """Rows of --save-detailed, whose times are in seconds. A failure carries zeros there and none here."""
    *lists, starts = columns_of_equal_length(
        result, "ttfts", "itls", "input_lens", "output_lens", "errors", "start_times"
    )
    instants = [number("start_times", one) for one in starts]
    first = min((one for one in instants if one is not None), default=None)
    sent = _load_results.offsets(instants, first)
    rows = map(_bench_serving.request, *lists)
    return [row | {"sent_at_s": at} for row, at in zip(rows, sent, strict=True)]


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
