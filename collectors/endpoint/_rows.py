"""Replies of one level -> columns of its run and rows of its requests. Pure arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from collectors import _timing
from collectors.endpoint._load import Level, Outcome
from collectors.endpoint._stream import Reply

LATENCIES = {
    "ttft_s": "first_nonempty_chunk",
    "tpot_s": "e2el_minus_ttft_over_n_minus_1",
    "itl_s": "per_token_split_chunks",
    "e2el_s": "last_chunk",
}
"""Latency column -> the definition it follows. Statistics are over requests; a request's ITL is the mean of its gaps."""

THROUGHPUTS = ("output_tokens_per_s", "total_tokens_per_s")


def run_columns(
    replies: Sequence[Reply], slo_ttft_s: float | None = None, slo_tpot_s: float | None = None
) -> dict[str, Any]:
    """Status, counts and metrics of the measured requests of one level; failures count in the success rate alone.

    The window runs from the first send to the last end of a measured request. Throughput is NULL where the tokens of an
    answer are unknown, goodput where no objective is given.
    """
    done = [reply for reply in replies if reply.status == "ok"]
    columns: dict[str, Any] = {
        "status": _status(replies),
        "num_samples": len(done),
        "num_requests": len(replies),
        "num_failed_requests": len(replies) - len(done),
        "success_rate": len(done) / len(replies) if replies else None,
        "duration_s": _duration(replies),
        "slo_ttft_s": slo_ttft_s,
        "slo_tpot_s": slo_tpot_s,
    }
    for name in LATENCIES:
        values = [value for reply in done if (value := getattr(reply, name)) is not None]
        columns |= _timing.summary(name, values) if values else {}
    if done:
        columns |= _rates(done, columns["duration_s"], slo_ttft_s, slo_tpot_s)
    definitions = {**LATENCIES, **dict.fromkeys(THROUGHPUTS, "tokens_over_duration")}
    columns["metric_definitions"] = {
        name: definition for name, definition in definitions.items() if columns.get(name) is not None
    }
    return columns


def remarks(outcome: Outcome, level: Level) -> list[str]:
    """Sentences a reader of the run needs: what failed, what was not sent, who counted, why a value is absent."""
    replies = outcome.measured
    done = [reply for reply in replies if reply.status == "ok"]
    said = ["Measured from the client; the environment is the client's machine."]
    if failed := [reply for reply in replies if reply.status != "ok"]:
        kinds = ", ".join(f"{count} {status}" for status, count in Counter(r.status for r in failed).most_common())
        said.append(f"{len(failed)} of {len(replies)} requests failed ({kinds}); the first: {failed[0].status_detail}")
    if len(replies) < level.num_requests:
        said.append(f"Stopped after failures in a row: {level.num_requests - len(replies)} requests were not sent.")
    if done:
        said += _token_remarks(done, level.output_tokens)
    if unknown := sum(reply.itl_s is None and len(reply.chunk_times_s) > 1 for reply in done):
        said.append(f"ITL leaves out {unknown} of {len(done)} requests: the tokens of their chunks are unknown.")
    return said


def request_rows(run_id: str, outcome: Outcome, level: Level) -> list[dict[str, Any]]:
    """Rows of `requests`, warm-up first."""
    phased = [("warmup", reply) for reply in outcome.warmup] + [("measured", reply) for reply in outcome.measured]
    names = (
        "status", "status_detail", "http_status", "scheduled_at_s", "sent_at_s", "ttft_s", "tpot_s", "e2el_s", "input_tokens",
        "output_tokens", "token_count_source", "finish_reason", "chunk_times_s", "chunk_tokens",
    )  # fmt: skip
    return [
        {
            "run_id": run_id,
            "request_index": index,
            "sample_phase": phase,
            "requested_output_tokens": level.output_tokens,
            **{name: getattr(reply, name) for name in names},
        }
        for index, (phase, reply) in enumerate(phased)
    ]


def _status(replies: Sequence[Reply]) -> str:
    counts = Counter(reply.status for reply in replies)
    return "ok" if counts["ok"] else counts.most_common(1)[0][0]


def _duration(replies: Sequence[Reply]) -> float:
    return max(reply.ended_at_s for reply in replies) - min(reply.sent_at_s for reply in replies)


def _rates(
    done: Sequence[Reply], duration_s: float, slo_ttft_s: float | None, slo_tpot_s: float | None
) -> dict[str, float | None]:
    outputs = [reply.output_tokens for reply in done if reply.output_tokens is not None]
    inputs = [reply.input_tokens for reply in done if reply.input_tokens is not None]
    has_outputs, has_inputs = len(outputs) == len(done), len(inputs) == len(done)
    has_slo = slo_ttft_s is not None or slo_tpot_s is not None
    good = sum(_is_good(reply, slo_ttft_s, slo_tpot_s) for reply in done)
    return {
        "requests_per_s": len(done) / duration_s,
        "output_tokens_per_s": sum(outputs) / duration_s if has_outputs else None,
        "total_tokens_per_s": (sum(outputs) + sum(inputs)) / duration_s if has_outputs and has_inputs else None,
        "goodput_requests_per_s": good / duration_s if has_slo else None,
    }


def _is_good(reply: Reply, slo_ttft_s: float | None, slo_tpot_s: float | None) -> bool:
    """Does it meet every objective? An unobserved latency meets none; an answer of one token has no TPOT to miss."""
    meets_ttft = slo_ttft_s is None or (reply.ttft_s is not None and reply.ttft_s <= slo_ttft_s)
    if slo_tpot_s is None or (reply.output_tokens is not None and reply.output_tokens < 2):
        return meets_ttft
    return meets_ttft and reply.tpot_s is not None and reply.tpot_s <= slo_tpot_s


def _token_remarks(done: Sequence[Reply], asked: int) -> list[str]:
    said = []
    inputs = [reply.input_tokens for reply in done if reply.input_tokens is not None]
    outputs = [reply.output_tokens for reply in done if reply.output_tokens is not None]
    if inputs:
        said.append(f"The server counted {_span(inputs)} prompt tokens a request.")
    if outputs and set(outputs) != {asked}:
        said.append(f"Answers had {_span(outputs)} tokens of {asked} asked for.")
    if counted := Counter(reply.token_count_source for reply in done)["chunks"]:
        said.append(f"Output tokens of {counted} requests are counted chunks: the server sent no usage.")
    if whole := sum(reply.ttft_s is None for reply in done):
        said.append(f"{whole} answers have no TTFT: they came in one piece or held no text.")
    return said


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
