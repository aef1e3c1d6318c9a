"""Files of SGLang's bench_serving: JSON lines, one a run, the bare word Infinity for no rate; times in ms.

Until 0.4.3 a file has few statistics and its "ITL" is the gap between chunks. From 0.4.4 on (it then prints p95_itl_ms) the native
backend splits a chunk over its tokens (itl_s); other backends still time chunks (icl_s). "E2E" ends with the response, not with
its last token. How many requests failed is not in a file without details, nor which model, device or version was measured.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from collectors import _bench_serving, _importing, _load_results
from collectors._bench_serving import Result
from collectors._figures import number
from collectors._importing import File, Run, Said
from collectors._load_results import Results, columns_of_equal_length, count, listed, mapping

TOOL = "sglang"
SOURCE_KIND = "measured"

TIMES = {word: _bench_serving.TIMES[word] for word in ("ttft", "tpot", "itl")} | {
    "e2e_latency": ("e2el_s", "end_of_response")
}
RATES = _bench_serving.RATES | {"input_throughput": "input_tokens_per_s", "total_throughput": "total_tokens_per_s"}
OTHERS = _bench_serving.OTHERS | {
    "total_output_tokens_retokenized": "tokens", "random_input_len": "tokens", "random_output_len": "tokens", "random_range_ratio": "",
    "sharegpt_output_len": "tokens", "accept_length": "tokens", "max_itl_ms": "ms",
}  # fmt: skip

NATIVE = ("sglang", "sglang-native")
ENGINES = {
    "sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang", "sglang-oai-chat": "sglang", "vllm": "vllm",
    "vllm-chat": "vllm", "lmdeploy": "lmdeploy", "lmdeploy-chat": "lmdeploy", "trt": "tensorrt-llm",
}  # fmt: skip


def recognises(file: File) -> bool:
    return all(
        key in file.head for key in ('"backend"', '"dataset_name"', '"total_output_tokens_retokenized"', '"completed"')
    )


def read(file: File, said: Said) -> Iterable[Run]:
    results = _load_results.objects(file)
    for position, result in enumerate(results, 1):
        yield _run(mapping("result", result), "all" if len(results) == 1 else f"line {position}")


def _run(result: Result, cell: str) -> Run:
    figures = Results(TOOL)
    completed = count("completed", result["completed"]) or 0
    rows = _requests(result) if listed("ttfts", result.get("ttfts")) else []
    if completed:
        _times(figures, result, completed)
    notes = _bench_serving.fill(figures, result, completed, RATES, OTHERS)
    pattern, remarks = _bench_serving.load(result)
    figures.columns |= {
        "framework": ENGINES.get(str(result.get("backend"))),
        **_load_results.requests(completed, len(rows) or None, sent_key="requests"),
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
    for word, statistics in _bench_serving.printed_times(result, TIMES).items():
        column, definition = ("itl_s", "per_token_split_chunks") if word == "itl" and _is_split(result) else TIMES[word]
        known = completed if word in ("ttft", "e2e_latency") else None
        figures.times(column, definition, f"{word}_ms", statistics, "ms", values=known, is_population=True)


def _is_split(result: Result) -> bool:
    """Whether the gaps are those between tokens."""
    return result.get("backend") in NATIVE and "p95_itl_ms" in result


def _requests(result: Result) -> list[dict[str, Any]]:
    """Rows of --output-details; where gaps are those between tokens, they are no chunks."""
    lists = columns_of_equal_length(result, "ttfts", "itls", "input_lens", "output_lens", "errors")
    rows = list(map(_bench_serving.request, *lists))
    return [_split(row) for row in rows] if _is_split(result) else rows


def _split(row: dict[str, Any]) -> dict[str, Any]:
    times: list[float] = row.pop("chunk_times_s", [])
    return row | {"itl_s": (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None}


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)
