"""Replies of one level -> columns of its run, rows of its requests and samples. Pure arithmetic.

Where the load was steady (`_steady`), the headline columns hold the steady window: latencies of the requests due in it, tokens that
arrived and requests that ended in it over its length (`tokens_over_steady_window`); what they are over the whole run is in
`samples` as `rooflake:whole_run_*`. Where it was not, they hold the whole run (`tokens_over_duration`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from collectors import _timing
from collectors.endpoint import _steady
from collectors.endpoint._load import Level, Outcome
from collectors.endpoint._slo import NONE, Objectives
from collectors.endpoint._steady import Window
from collectors.endpoint._stream import Reply
from warehouse.metrics import metric

LATENCIES = {
    "ttft_s": "first_nonempty_chunk",
    "tpot_s": "e2el_minus_ttft_over_n_minus_1",
    "itl_s": "per_token_split_chunks",
    "e2el_s": "last_chunk",
    "ntpot_s": "e2el_over_n",
    "icl_s": "per_chunk_request_mean",
    "ttst_s": "second_chunk",
    "ttfo_s": "first_answer_chunk",
    "ttft_scheduled_s": "first_chunk_scheduled",
    "e2el_scheduled_s": "last_chunk_scheduled",
}
"""Latency column -> the definition it follows. Statistics are over requests; a request's ITL and ICL are the means of its gaps."""

RATES = (
    "output_tokens_per_s", "input_tokens_per_s", "total_tokens_per_s", "requests_per_s", "goodput_requests_per_s",
)  # fmt: skip

OPEN_PATTERNS = ("constant", "poisson", "replay", "ramp")
"""Loads that do not wait for the server, which it can fall behind of."""

UNITS_BY_SUFFIX = {"s": "s", "ms": "ms", "us": "us", "bytes": "B", "j": "J", "w": "W"}
"""Last word of a server's name for a number -> its unit; other units are not known."""


def columns(
    outcome: Outcome, level: Level, objectives: Objectives = NONE, prefix_cache_hit_ratio: float | None = None
) -> dict[str, Any]:
    """Everything that the load of one level says, as columns of `runs`.

    `prefix_cache_hit_ratio` is what the engine's own counters say (`_scrape`), for servers that do not tell it in each answer.
    """
    replies = outcome.measured
    found = {
        **run_columns(replies, objectives.ttft_s, objectives.tpot_s, slo_e2el_s=objectives.e2el_s),
        "is_saturated": _steady.is_saturated(*_due_times(replies)) if level.pattern in OPEN_PATTERNS else None,
        "num_client_processes": outcome.num_client_processes,
        "client_cpu_s": outcome.client_cpu_s,
        "client_delay_p99_s": outcome.client_delay_p99_s,
        "is_client_trusted": outcome.is_client_trusted,
    }
    if found["prefix_cache_hit_ratio"] is None:
        found["prefix_cache_hit_ratio"] = prefix_cache_hit_ratio
    return found


def run_columns(
    replies: Sequence[Reply],
    slo_ttft_s: float | None = None,
    slo_tpot_s: float | None = None,
    *,
    slo_e2el_s: float | None = None,
) -> dict[str, Any]:
    """Status, counts and metrics of the measured requests of one level; failures count in the success rate alone.

    The whole run goes from the first send to the last end of a measured request. Throughput is NULL where the tokens of an
    answer are unknown, goodput where no objective is given.
    """
    done = _done(replies)
    objectives = Objectives(slo_ttft_s, slo_tpot_s, slo_e2el_s)
    window = steady_window(replies)
    mean, most = _steady.concurrency(
        [reply.sent_at_s for reply in replies], [reply.ended_at_s for reply in replies], window
    ) or (None, None)
    found: dict[str, Any] = {
        "status": _status(replies),
        "num_requests": len(replies),
        "num_failed_requests": len(replies) - len(done),
        "success_rate": len(done) / len(replies) if replies else None,
        "duration_s": _whole(replies).length_s,
        "steady_from_s": None if window is None else window.begin_s,
        "steady_s": None if window is None else window.length_s,
        "concurrency_mean": mean,
        "concurrency_max": most,
        "prefix_cache_hit_ratio": _prefix_cache_hit_ratio(done),
        **objectives.columns(),
        **_figures(replies, window, objectives),
    }
    rate = "tokens_over_duration" if window is None else "tokens_over_steady_window"
    definitions = {**LATENCIES, **dict.fromkeys(RATES, rate)}
    found["metric_definitions"] = {name: one for name, one in definitions.items() if found.get(name) is not None}
    return found


def steady_window(replies: Sequence[Reply]) -> Window | None:
    """The steady part of the measured requests; None where no answer came in it."""
    window = _steady.steady_window(*_due_times(replies))
    return (
        window if window is not None and any(window.holds(reply.scheduled_at_s) for reply in _done(replies)) else None
    )


def samples(run_id: str, replies: Sequence[Reply], objectives: Objectives = NONE) -> list[dict[str, Any]]:
    """Rows of `samples`: where the headline columns hold the steady window, the same figures over the whole run."""
    if steady_window(replies) is None:
        return []
    figures = _figures(replies, None, objectives)
    units = {
        column: metric(key).unit for key in (*LATENCIES, *RATES, "goodput_ratio") for column in metric(key).columns
    }
    return [
        {"run_id": run_id, "metric": f"rooflake:whole_run_{name}", "sample_index": 0, "sample_phase": "measured",
         "value": float(value), "unit": units[name], "flags": []}
        for name, value in figures.items() if name in units and value is not None
    ]  # fmt: skip


def server_samples(run_id: str, provider: str, replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """Rows of `samples`: what the server said of itself with each answer, as `provider:path` and in its own units."""
    return [
        {"run_id": run_id, "metric": f"{provider}:{name}", "sample_index": index, "sample_phase": "measured",
         "value": value, "unit": UNITS_BY_SUFFIX.get(name.rpartition("_")[2]), "flags": []}
        for index, reply in enumerate(replies) for name, value in reply.server_metrics.items()
    ]  # fmt: skip


def remarks(outcome: Outcome, level: Level, objectives: Objectives = NONE, *, is_own: bool = False) -> list[str]:
    """Sentences a reader of the run needs: what failed, what was not sent, who counted, why a value is absent."""
    replies = outcome.measured
    done = _done(replies)
    said = [
        "Client and server shared one machine; the environment is the server's."
        if is_own
        else "Measured from the client; the environment is the client's machine."
    ]
    if failed := [reply for reply in replies if reply.status != "ok"]:
        kinds = ", ".join(f"{count} {status}" for status, count in Counter(r.status for r in failed).most_common())
        said.append(f"{len(failed)} of {len(replies)} requests failed ({kinds}); the first: {failed[0].status_detail}")
    if len(replies) < level.num_requests:
        why = "Stopped before the end" if outcome.remarks else "Stopped after failures in a row"
        said.append(f"{why}: {level.num_requests - len(replies)} requests were not sent.")
    if window := steady_window(replies):
        count = sum(window.holds(reply.scheduled_at_s) for reply in done)
        said.append(
            f"Latencies and rates are of the steady window from {window.begin_s:.1f} to {window.end_s:.1f} s, of {count} "
            "requests; those of the whole run are samples."
        )
    if done:
        said += _token_remarks(done, level.output_tokens)
    if joined := sum(reply.is_joined for reply in done):
        said.append(
            f"{joined} answers came in one piece: all their chunks bear one arrival time, and TPOT, ITL, ICL and TTST leave them out."
        )
    if unknown := sum(reply.itl_s is None and len(reply.chunk_times_s) > 1 and not reply.is_joined for reply in done):
        said.append(f"ITL leaves out {unknown} of {len(done)} requests: the tokens of their chunks are unknown.")
    if (
        done
        and objectives.percentile is not None
        and (verdict := objectives.verdict(_figures(replies, window, objectives)))
    ):
        said.append(verdict)
    return [*said, *outcome.remarks]


def request_rows(run_id: str, outcome: Outcome, level: Level) -> list[dict[str, Any]]:
    """Rows of `requests`, warm-up first."""
    window = steady_window(outcome.measured)
    phased = [("warmup", reply) for reply in outcome.warmup] + [("measured", reply) for reply in outcome.measured]
    names = (
        "status", "status_detail", "http_status", "scheduled_at_s", "sent_at_s", "ttft_s", "tpot_s", "itl_s", "e2el_s", "ttfo_s",
        "client_index", "cached_tokens", "prompt", "input_tokens", "output_tokens", "token_count_source", "finish_reason",
        "chunk_times_s", "chunk_tokens",
    )  # fmt: skip
    return [
        {
            "run_id": run_id,
            "request_index": index,
            "sample_phase": phase,
            "requested_output_tokens": _first(reply.requested_output_tokens, level.output_tokens),
            "is_steady": None if phase == "warmup" else window is not None and window.holds(reply.scheduled_at_s),
            "text": None if reply.prompt is None else reply.text,
            **{name: getattr(reply, name) for name in names},
        }
        for index, (phase, reply) in enumerate(phased)
    ]


def _done(replies: Sequence[Reply]) -> list[Reply]:
    return [reply for reply in replies if reply.status == "ok"]


def _due_times(replies: Sequence[Reply]) -> tuple[list[float], list[float], list[float | None]]:
    """When each was due and ended, and its TTFT from when it was due."""
    return (
        [reply.scheduled_at_s for reply in replies],
        [reply.ended_at_s for reply in replies],
        [reply.ttft_scheduled_s for reply in replies],
    )


def _whole(replies: Sequence[Reply]) -> Window:
    return Window(
        min((reply.sent_at_s for reply in replies), default=0.0),
        max((reply.ended_at_s for reply in replies), default=0.0),
    )


def _status(replies: Sequence[Reply]) -> str:
    counts = Counter(reply.status for reply in replies)
    if not counts:
        return "error"
    return "ok" if counts["ok"] else counts.most_common(1)[0][0]


def _figures(replies: Sequence[Reply], window: Window | None, objectives: Objectives) -> dict[str, Any]:
    """Latencies and rates over a steady window, or over the whole run for None."""
    done = _done(replies)
    chosen = done if window is None else [reply for reply in done if window.holds(reply.scheduled_at_s)]
    found: dict[str, Any] = {"num_samples": len(chosen)}
    for name in LATENCIES:
        values = [value for reply in chosen if (value := _latency(name, reply)) is not None]
        found |= _timing.summary(name, values) if values else {}
    if done:
        found |= _rates(done, window or _whole(replies), objectives, is_whole=window is None)
    return found


def _latency(name: str, reply: Reply) -> float | None:
    """A latency of one request; None where it was not observed."""
    times = reply.chunk_times_s
    match name:
        case "ntpot_s":
            return reply.e2el_s / reply.output_tokens if reply.e2el_s is not None and reply.output_tokens else None
        case "icl_s":
            return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 and not reply.is_joined else None
        case "ttst_s":
            return times[1] - times[0] if len(times) > 1 and times[1] > times[0] else None
    value: float | None = getattr(reply, name)
    return value


def _rates(done: Sequence[Reply], window: Window, objectives: Objectives, *, is_whole: bool) -> dict[str, float | None]:
    """Over the whole run every token of an answer counts, over a window the tokens that arrived in it: prompt tokens with the first."""
    ended = [reply for reply in done if window.brought(reply.ended_at_s)]
    outputs = _known([_outputs(reply, None if is_whole else window) for reply in done])
    inputs = _known([_inputs(reply, None if is_whole else window) for reply in done])
    good = sum(objectives.are_met(reply) for reply in ended)
    return {
        "requests_per_s": len(ended) / window.length_s,
        "output_tokens_per_s": None if outputs is None else outputs / window.length_s,
        "input_tokens_per_s": None if inputs is None else inputs / window.length_s,
        "total_tokens_per_s": None if outputs is None or inputs is None else (outputs + inputs) / window.length_s,
        "goodput_requests_per_s": good / window.length_s if objectives.is_any else None,
        "goodput_ratio": good / len(ended) if objectives.is_any and ended else None,
    }


def _known(counts: Sequence[float | None]) -> float | None:
    """Their sum; None where one is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _outputs(reply: Reply, window: Window | None) -> float | None:
    """Output tokens that arrived in a window; those of a chunk count as equal parts of all where they are unknown."""
    if reply.output_tokens is None or window is None:
        return reply.output_tokens
    at_s = reply.sent_at_s + np.asarray(reply.chunk_times_s)
    inside = (at_s > window.begin_s) & (at_s <= window.end_s)
    if reply.chunk_tokens is not None:
        return float(np.asarray(reply.chunk_tokens)[inside].sum())
    return reply.output_tokens * float(inside.mean()) if len(at_s) else 0.0


def _inputs(reply: Reply, window: Window | None) -> float | None:
    if reply.input_tokens is None or window is None:
        return reply.input_tokens
    first = reply.chunk_times_s[0] if reply.chunk_times_s else reply.ended_at_s - reply.sent_at_s
    return reply.input_tokens if window.brought(reply.sent_at_s + first) else 0


def _prefix_cache_hit_ratio(done: Sequence[Reply]) -> float | None:
    """None where the server never says, or counts more cached tokens than tokens; one that says it leaves it out where nothing was
    found (vLLM)."""
    inputs = _known([reply.input_tokens for reply in done])
    cached = [reply.cached_tokens for reply in done if reply.cached_tokens is not None]
    return sum(cached) / inputs if inputs and cached and sum(cached) <= inputs else None


def _token_remarks(done: Sequence[Reply], asked: int) -> list[str]:
    said = []
    inputs = [reply.input_tokens for reply in done if reply.input_tokens is not None]
    counted_right = [reply for reply in done if reply.token_count_source in ("usage", "tokenizer")]
    outputs = [reply.output_tokens for reply in counted_right if reply.output_tokens is not None]
    wanted = [_first(reply.requested_output_tokens, asked) for reply in counted_right]
    if inputs:
        said.append(f"The server counted {_span(inputs)} prompt tokens a request.")
    if any(reply.output_tokens not in (None, count) for reply, count in zip(counted_right, wanted, strict=True)):
        said.append(f"Answers had {_span(outputs)} tokens of {_span(wanted)} asked for.")
    counted = Counter(reply.token_count_source for reply in done)
    if counted["chunks"]:
        said.append(f"Output tokens of {counted['chunks']} requests are counted chunks: the server sent no usage.")
    if counted["tokenizer"]:
        said.append(f"Output tokens of {counted['tokenizer']} requests are a tokenizer's: the server sent no usage.")
    if whole := sum(reply.ttft_s is None for reply in done):
        said.append(f"{whole} answers have no TTFT: they came in one piece or held no text.")
    return said


def _first(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
