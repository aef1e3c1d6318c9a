"""Files of SGLang's bench_serving: JSON lines, one a run, the bare word Infinity for no rate; times in ms.

Until 0.4.3 a file has few statistics and its "ITL" is the gap between chunks. From 0.4.4 on (it then prints p95_itl_ms) the native
backend splits a chunk over its tokens (itl_s); other backends still time chunks (icl_s). "E2E" ends with the response, not with
its last token. How many requests failed is not in a file without details, nor which model, device or version was measured.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from collectors import _importing, _load_results, _names
from collectors._figures import number
from collectors._importing import File, Run, Said
from collectors._load_results import Results, columns_of_equal_length, count, each, listed, mapping, rate_limit

TOOL = "sglang"
SOURCE_KIND = "measured"

Result = Mapping[str, Any]

TIMES = {
    "ttft": ("ttft_s", "first_nonempty_chunk"),
    "tpot": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
    "itl": ("icl_s", "per_chunk_pooled"),
    "e2e_latency": ("e2el_s", "end_of_response"),
}
RATES = {
    "request_throughput": "requests_per_s", "input_throughput": "input_tokens_per_s", "output_throughput": "output_tokens_per_s",
    "total_throughput": "total_tokens_per_s",
}  # fmt: skip
OTHERS = {
    "total_input_tokens": "tokens", "total_output_tokens": "tokens", "total_output_tokens_retokenized": "tokens",
    "random_input_len": "tokens", "random_output_len": "tokens", "random_range_ratio": "", "sharegpt_output_len": "tokens",
    "accept_length": "tokens", "max_itl_ms": "ms",
}  # fmt: skip

NATIVE = ("sglang", "sglang-native")
ENGINES = {
    "sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang", "sglang-oai-chat": "sglang", "vllm": "vllm",
    "vllm-chat": "vllm", "lmdeploy": "lmdeploy", "lmdeploy-chat": "lmdeploy", "trt": "tensorrt-llm",
}  # fmt: skip

_TIME = re.compile(r"(mean|median|std|p\d+)_(ttft|tpot|itl|e2e_latency)_ms")


def recognises(file: File) -> bool:
    return all(
        key in file.head for key in ('"backend"', '"dataset_name"', '"total_output_tokens_retokenized"', '"completed"')
    )


def read(file: File, said: Said) -> Iterable[Run]:
    results = _load_results.objects(file)
    for position, result in enumerate(results, 1):
        yield _run(mapping("result", result), "all" if len(results) == 1 else f"line {position}")


def _run(result: Result, cell: str) -> Run:
    figures, notes = Results(TOOL), list[str]()
    completed = count("completed", result["completed"]) or 0
    rows = _requests(result) if listed("ttfts", result.get("ttfts")) else []
    if completed:
        _times(figures, result, completed)
        for key, column in RATES.items():
            figures.value(column, result.get(key), "tokens_over_whole_run")
    else:
        notes.append("No request completed: latencies and rates are absent, whatever the file prints for them.")
    for key, unit in OTHERS.items():
        figures.keep(key, result.get(key), unit)
    pattern, remarks = _load(result)
    figures.columns |= {
        "phase": "serve",
        "framework": ENGINES.get(str(result.get("backend"))),
        "input_tokens": each("total_input_tokens", result.get("total_input_tokens"), completed),
        "output_tokens": each("total_output_tokens", result.get("total_output_tokens"), completed),
        "num_samples": completed,
        "num_requests": len(rows) or None,
        "num_failed_requests": len(rows) - completed if rows else None,
        "success_rate": completed / len(rows) if rows else None,
        "duration_s": number("duration", result["duration"]),
        "concurrency_mean": number("concurrency", result.get("concurrency")),
        **pattern,
    }
    return Run(
        cell,
        figures.columns,
        figures.definitions,
        quality_tier=1 if rows else 0,
        status="ok" if completed else "error",
        notes=notes + remarks,
        samples=figures.samples,
        requests=rows,
    )


def _times(figures: Results, result: Result, completed: int) -> None:
    """Statistics as printed. Standard deviations are of the population: those of TPOT and ITL need the single requests."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        if match := _TIME.fullmatch(key):
            found.setdefault(match[2], {})[match[1]] = value
    for word, statistics in found.items():
        column, definition = ("itl_s", "per_token_split_chunks") if word == "itl" and _is_split(result) else TIMES[word]
        known = completed if word in ("ttft", "e2e_latency") else None
        figures.times(column, definition, f"{word}_ms", statistics, "ms", values=known, is_population=True)


def _is_split(result: Result) -> bool:
    """Whether the gaps are those between tokens."""
    return result.get("backend") in NATIVE and "p95_itl_ms" in result


def _load(result: Result) -> tuple[dict[str, Any], list[str]]:
    """How requests were sent, as columns, and what a reader must know of it."""
    rate, limit = rate_limit(result.get("request_rate")), count("max_concurrency", result.get("max_concurrency"))
    if rate is None:
        return {"load_pattern": "closed" if limit else "burst", "concurrency": limit}, []
    notes = [f"At most {limit} requests were in flight: what waited for a slot is in no latency."] if limit else []
    return {"load_pattern": "poisson", "request_rate_per_s": rate}, notes


def _requests(result: Result) -> list[dict[str, Any]]:
    """Rows of --output-details, whose times are in seconds: the last token comes at TTFT and all gaps."""
    lists = columns_of_equal_length(result, "ttfts", "itls", "input_lens", "output_lens", "errors")
    return [_request(*one, is_split=_is_split(result)) for one in zip(*lists, strict=True)]


def _request(ttft: Any, itls: Any, taken: Any, given: Any, error: Any, *, is_split: bool) -> dict[str, Any]:
    row = {"sample_phase": "measured", "input_tokens": count("input_lens", taken)}
    if error:
        return row | {"status": "error", "status_detail": _names.sentence(error)}
    first = number("ttfts", ttft)
    if first is None:
        return row | {"status": "ok"}
    gaps = [number("itls", gap) or 0.0 for gap in listed("itls", itls)]
    times = list(itertools.accumulate(gaps, initial=first))
    tokens = count("output_lens", given)
    return row | {
        "status": "ok",
        "ttft_s": first,
        "tpot_s": _load_results.tpot(times[-1], first, tokens),
        "itl_s": sum(gaps) / len(gaps) if is_split and gaps else None,
        "e2el_s": times[-1],
        "output_tokens": tokens,
        "chunk_times_s": None if is_split else times,
    }


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)
