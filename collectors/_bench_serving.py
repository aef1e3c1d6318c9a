"""What the files of vLLM's and SGLang's bench_serving share, which began as one script: names of figures, load, single requests."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from collectors._figures import number
from collectors._load_results import Results, count, each, listed, rate_limit, tpot
from collectors._names import sentence

Result = Mapping[str, Any]

TIMES = {
    "ttft": ("ttft_s", "first_nonempty_chunk"),
    "tpot": ("tpot_s", "e2el_minus_ttft_over_n_minus_1"),
    "itl": ("icl_s", "per_chunk_pooled"),
    "e2el": ("e2el_s", "last_chunk"),
}
"""Word for a time -> metric, definition."""

RATES = {"request_throughput": "requests_per_s", "output_throughput": "output_tokens_per_s"}
OTHERS = {"total_input_tokens": "tokens", "total_output_tokens": "tokens"}
"""Results without a column -> their unit."""


def fill(
    figures: Results, result: Result, completed: int, rates: Mapping[str, str], others: Mapping[str, str]
) -> list[str]:
    """Rates where a request completed, other figures, and the columns of a served run. Returns what a reader must know."""
    for key, column in rates.items():
        if completed:
            figures.value(column, result.get(key), "tokens_over_whole_run")
    for key, unit in others.items():
        figures.keep(key, result.get(key), unit)
    figures.columns |= {
        "phase": "serve",
        "input_tokens": each("total_input_tokens", result.get("total_input_tokens"), completed),
        "output_tokens": each("total_output_tokens", result.get("total_output_tokens"), completed),
        "num_samples": completed,
        "duration_s": number("duration", result["duration"]),
    }
    return (
        []
        if completed
        else ["No request completed: latencies and rates are absent, whatever the file prints for them."]
    )


def printed_times(result: Result, words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Statistics by time: `p99_ttft_ms` is the p99 of ttft."""
    known = re.compile(rf"(mean|median|std|p\d+(?:\.\d+)?)_({'|'.join(words)})_ms")
    found: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        if match := known.fullmatch(key):
            found.setdefault(match[2], {})[match[1]] = value
    return found


def load(result: Result) -> tuple[dict[str, Any], list[str]]:
    """How requests were sent, as columns, and what a reader must know of it."""
    rate, limit = rate_limit(result.get("request_rate")), count("max_concurrency", result.get("max_concurrency"))
    if rate is None:
        return {"load_pattern": "closed" if limit else "burst", "concurrency": limit}, []
    notes = [f"At most {limit} requests were in flight: what waited for a slot is in no latency."] if limit else []
    return {"load_pattern": "poisson", "request_rate_per_s": rate}, notes


def request(ttft: Any, gaps: Any, taken: Any, given: Any, error: Any) -> dict[str, Any]:
    """A row of `requests`, whose times are in seconds: the last chunk comes at TTFT and all gaps. A failure has none."""
    row = {"sample_phase": "measured", "input_tokens": count("input_lens", taken)}
    if error:
        return row | {"status": "error", "status_detail": sentence(error)}
    first = number("ttfts", ttft)
    if first is None:
        return row | {"status": "ok"}
    times = list(itertools.accumulate([number("itls", gap) or 0.0 for gap in listed("itls", gaps)], initial=first))
    tokens = count("output_lens", given)
    return row | {
        "status": "ok",
        "ttft_s": first,
        "tpot_s": tpot(times[-1], first, tokens),
        "e2el_s": times[-1],
        "output_tokens": tokens,
        "chunk_times_s": times,
    }
