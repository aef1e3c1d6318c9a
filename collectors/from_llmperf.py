"""Results of ray's llmperf: `*_summary.json` and `*_individual_responses.json`; times in s.

Its "inter token latency" is the end-to-end latency over all tokens, counted by a tokenizer that need not be the model's (ntpot_s).
Latencies are those of completed requests; a request with an error code may carry zeros, or times and a sum not yet divided. Whoever
served the model is behind an API: no file can say which device it was.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from collectors import _importing, _load_results, _names
from collectors._figures import number
from collectors._importing import File, Run, Said, sample
from collectors._load_results import Results, count, mapping

TOOL = "llmperf"
SOURCE_KIND = "measured"

Object = Mapping[str, Any]

TIMES = {
    "inter_token_latency_s": ("ntpot_s", "e2el_over_n_retokenized"),
    "ttft_s": ("ttft_s", "first_nonempty_chunk"),
    "end_to_end_latency_s": ("e2el_s", "end_of_response"),
}
OTHERS = {
    "request_output_throughput_token_per_s": "tokens/s", "number_input_tokens": "tokens", "number_output_tokens": "tokens",
}  # fmt: skip

_STATISTIC = re.compile(r"results_(?P<name>.+?)_(?:quantiles_)?(?P<word>p\d+|mean|min|max|stddev)")

_FREQUENCY = re.compile(r"(-?\d+)(?:\.0+)?['\")]*\s*:\s*(?:np\.\w+\()?(\d+)")


def recognises(file: File) -> bool:
    head = file.head
    return '"results_num_requests_started"' in head or all(
        key in head for key in ('"error_code"', '"inter_token_latency_s"', '"request_output_throughput_token_per_s"')
    )


def read(file: File, said: Said) -> Iterable[Run]:
    found = file.json()
    if isinstance(found, list) and found:
        yield _individual([mapping("request", one) for one in found])
    elif found:
        yield _summary(mapping("summary", found))


def _summary(result: Object) -> Run:
    figures = Results(TOOL)
    statistics: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        if match := _STATISTIC.fullmatch(key):
            statistics.setdefault(match["name"], {})[match["word"]] = value
    started = count("results_num_requests_started", result["results_num_requests_started"])
    completed = count("results_num_completed_requests", result["results_num_completed_requests"]) or 0
    for name, (column, definition) in TIMES.items():
        if completed:
            figures.times(column, definition, name, statistics.get(name, {}), "s")
    for name, unit in OTHERS.items():
        figures.kept(name, {word: _counted(value) for word, value in statistics.get(name, {}).items()}, unit)
    per_minute = number("completed requests per minute", result.get("results_num_completed_requests_per_min"))
    if completed and per_minute:
        figures.value("requests_per_s", per_minute / 60, "tokens_over_whole_run")
        figures.columns["duration_s"] = 60 * completed / per_minute
        rate = result.get("results_mean_output_throughput_token_per_s")
        figures.value("output_tokens_per_s", rate, "tokens_over_duration_retokenized")
    for name, codes in _errors(result).items():
        figures.keep(f"errors_{name}", codes, "")
    figures.columns |= _load(result) | {
        "num_samples": completed,
        **_load_results.requests(
            completed, started, done_key="results_num_completed_requests", sent_key="results_num_requests_started"
        ),
        "num_failed_requests": count("results_number_errors", result["results_number_errors"]),
    }
    return Run(
        "all",
        figures.columns,
        figures.definitions,
        model=_names.model_name(_without_revision(result.get("model"))),
        collected_at=_load_results.instant("timestamp", result.get("timestamp")),
        status="ok" if completed else "error",
        notes=["Tokens are counted by the client's tokenizer."],
        samples=figures.samples,
    )


def _load(result: Object) -> dict[str, Any]:
    return {
        "phase": "serve",
        "load_pattern": "closed",
        "concurrency": count("num_concurrent_requests", result.get("num_concurrent_requests")),
        "input_tokens": count("mean_input_tokens", result.get("mean_input_tokens")),
        "output_tokens": count("mean_output_tokens", result.get("mean_output_tokens")),
    }


def _counted(value: Any) -> float | None:
    """The least and the most of a number of tokens stand in quotes."""
    return count("tokens", value) if isinstance(value, str) else number("tokens", value)


def _errors(result: Object) -> dict[str, int]:
    """Failures by code: `{429.0: 130}`, or `{"429": 130}`, within a string."""
    text = str(result.get("results_error_code_frequency"))
    return {code: int(times) for code, times in _FREQUENCY.findall(text[:10_000])}


def _without_revision(name: Any) -> Any:
    """`meta/llama-2-7b-chat:13c3cdee...` without the hash that a host appends."""
    return re.sub(r":[0-9a-f]{32,}$", "", name) if isinstance(name, str) else name


def _individual(requests: list[Object]) -> Run:
    """Single requests; statistics are ours over the completed ones. When each was sent is not in the file."""
    rows = [_request(one) for one in requests]
    done = [row for row in rows if row["status"] == "ok"]
    figures = Results(TOOL)
    for column, definition in TIMES.values():
        figures.computed(column, definition, [row[column] for row in done])
    for row in done:
        figures.samples += sample("ntpot_s", row["ntpot_s"], "s")
    figures.columns |= {
        "phase": "serve",
        "load_pattern": "closed",
        "input_tokens": _mean(done, "input_tokens"),
        "output_tokens": _mean(done, "output_tokens"),
        "num_samples": len(done),
        "num_requests": len(rows),
        "num_failed_requests": len(rows) - len(done),
        "success_rate": len(done) / len(rows) if rows else None,
    }
    return Run(
        "all",
        figures.columns,
        figures.definitions,
        quality_tier=1,
        status="ok" if done else "error",
        notes=[
            "Tokens are counted by the client's tokenizer. Output tokens are those answered: what was asked for is in the summary alone."
        ],
        samples=figures.samples,
        requests=[{name: value for name, value in row.items() if name != "ntpot_s"} for row in rows],
    )


def _request(request: Object) -> dict[str, Any]:
    code = number("error_code", request["error_code"])
    row: dict[str, Any] = {
        "sample_phase": "measured",
        "status": "ok" if code is None else "error",
        "status_detail": _names.sentence(request.get("error_msg")),
        "http_status": int(code) if code is not None and 100 <= code < 600 else None,
        "input_tokens": count("number_input_tokens", request.get("number_input_tokens")),
        **dict.fromkeys(("ttft_s", "e2el_s", "ntpot_s", "output_tokens")),
    }
    if code is not None:
        return row
    tokens = count("number_output_tokens", request["number_output_tokens"])
    ttft, e2el = number("ttft_s", request["ttft_s"]), number("end_to_end_latency_s", request["end_to_end_latency_s"])
    return row | {
        "ttft_s": ttft,
        "e2el_s": e2el,
        "tpot_s": _load_results.tpot(e2el, ttft, tokens),
        "ntpot_s": number("inter_token_latency_s", request["inter_token_latency_s"]),
        "output_tokens": tokens,
        "token_count_source": "tokenizer",
    }


def _mean(rows: list[dict[str, Any]], key: str) -> int | None:
    known = [row[key] for row in rows if row[key] is not None]
    return round(sum(known) / len(known)) if known else None


add_arguments = _importing.add_arguments
collect = functools.partial(_importing.collect, tool=TOOL)
