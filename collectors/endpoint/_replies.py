"""What an exchange means: its status, a sentence on what failed, and the latencies of the answer."""

from __future__ import annotations

import contextlib
import json
import re

from collectors.endpoint._providers import Target
from collectors.endpoint._stream import Reply, StreamError, error_message, gaps_s, tpot_s
from collectors.endpoint._transport import Exchange, RefusedError

REFUSALS = (401, 403, 429, 503)
"""HTTP statuses by which a server declines a request that it understood: status `refused`; others are `error`."""


def reply(target: Target, exchange: Exchange, *, zero_s: float, output_tokens: int, client_index: int = 0) -> Reply:
    """The reply of an exchange that has ended; reads what is left of it. Its times count from `zero_s`."""
    exchange.close()
    target = target.also_hiding(exchange.secrets)
    status, detail = _judged(target, exchange)
    answer = exchange.reader.answer
    times = answer.chunk_times_s
    ttft = times[0] if times and not answer.is_whole else None
    e2el = times[-1] if times and status == "ok" else None
    count, source = answer.output_tokens()
    tokens = answer.chunk_tokens()
    gaps = gaps_s(times, tokens)
    return Reply(
        status=status,
        status_detail=None if detail is None else target.sentence(detail),
        http_status=exchange.framing.status,
        text=target.hide(answer.text),
        reasoning=target.hide(answer.reasoning),
        scheduled_at_s=exchange.wanted_s - zero_s,
        sent_at_s=exchange.sent_s - zero_s,
        ended_at_s=exchange.ended_s - zero_s,
        ttft_s=ttft,
        tpot_s=tpot_s(ttft, e2el, count, len(times)),
        itl_s=sum(gaps) / len(gaps) if gaps else None,
        e2el_s=e2el,
        input_tokens=answer.input_tokens,
        output_tokens=count,
        token_count_source=source,
        finish_reason=None if answer.finish_reason is None else target.sentence(answer.finish_reason),
        chunk_times_s=times,
        chunk_tokens=tokens,
        ttfo_s=None if answer.is_whole else answer.ttfo_s,
        cached_tokens=answer.cached_tokens,
        requested_output_tokens=output_tokens,
        client_index=client_index,
        chunk_texts=None if source == "usage" else answer.chunk_texts(),
        server_metrics={target.hide(name): number for name, number in answer.server_metrics.items()},
    )


def _judged(target: Target, exchange: Exchange) -> tuple[str, str | None]:
    """(status, what to say). Failures outrank; an answer that is right and odd is `ok` with a remark."""
    failure = exchange.failure
    if isinstance(failure, RefusedError):
        return "refused", f"Could not connect to {target.base_url}: {failure}."
    if exchange.framing.status is not None and not exchange.is_success:
        return _http_error(target, exchange)
    if isinstance(failure, TimeoutError):
        return "timeout", _timeout_sentence(target, exchange)
    if isinstance(failure, StreamError):
        return _status_of(str(failure)), str(failure)
    if failure is not None:
        return "error", f"{_early_sentence(exchange)} ({failure or type(failure).__name__})."
    return _answered(target, exchange)


def _answered(target: Target, exchange: Exchange) -> tuple[str, str | None]:
    """The same of an answer that came to its end."""
    answer = exchange.reader.answer
    if not answer.num_events:
        start = exchange.start.decode("utf-8", "replace")
        kind = exchange.framing.headers.get("content-type", "none")
        return "error", f"The answer holds no server-sent event (content type {kind}); it begins “{start}”."
    if not answer.is_complete:
        return "error", f"{_early_sentence(exchange)}, without a finish reason."
    if answer.is_whole:
        return _whole(target, exchange)
    return "ok", None if answer.chunk_times_s else "The server finished without sending any text."


def _whole(target: Target, exchange: Exchange) -> tuple[str, str | None]:
    if not exchange.reader.answer.chunk_times_s:
        return "error", "The answer is JSON in one piece and holds no text."
    if not target.is_streaming:
        return "ok", getattr(exchange.reader, "remark", None)
    return "ok", "The server answered in one piece instead of a stream: only the end-to-end latency was observed."


def _timeout_sentence(target: Target, exchange: Exchange) -> str:
    answer = exchange.reader.answer
    if answer.num_events == 0:
        return f"No answer from {target.base_url} within {target.timeout_s:g} s. Raise it with --timeout-s."
    chunks = len(answer.chunk_times_s)
    return f"The answer was not complete within {target.timeout_s:g} s: {chunks} chunks of text had come."


def _early_sentence(exchange: Exchange) -> str:
    answer = exchange.reader.answer
    if answer.num_events == 0:
        return "The connection ended before an answer came"
    return f"The stream ended early, after {len(answer.chunk_times_s)} chunks of text"


def _http_error(target: Target, exchange: Exchange) -> tuple[str, str]:
    framing = exchange.framing
    code, said = framing.status or 0, _said(exchange.error_body)
    if code in (401, 403) and not target.secrets and target.api_key_env is not None:
        why = f"the server wants a key, and the environment variable {target.api_key_env} is not set"
    elif code in (401, 403) and target.api_key_env is not None:
        why = f"the server does not accept the key in the environment variable {target.api_key_env}"
    elif 300 <= code < 400:
        why = f"the server redirects to {framing.headers.get('location', 'nowhere')}; give that address with --url"
    else:
        why = framing.reason or "the server reports an error"
    if (wait := framing.headers.get("retry-after")) is not None:
        why += f" (Retry-After: {wait})"
    status = "refused" if code in REFUSALS else _status_of(said)
    return status, f"HTTP {code}: {why}" + (f". It says: {said}" if said else ".")


def _status_of(said: str) -> str:
    return "oom" if "out of memory" in said.lower() else "error"


def _said(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        if message := error_message(json.loads(text)):
            return message
    return re.sub(r"<[^>]*>", " ", text).strip()
