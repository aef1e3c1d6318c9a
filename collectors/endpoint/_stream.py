"""Bytes of a server-sent event stream in, one answer with its arrival times out. Pure: no clock, no network."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

TokenCountSource = Literal["usage", "tokenizer", "chunks"]

MAX_PENDING_BYTES = 16 * 2**20
"""An event longer than this is no chunk of an answer; without a bound a broken server could fill the memory."""

MAX_COUNT = 2**31
_LINE_END = re.compile(rb"\r\n|\r|\n")


class StreamError(Exception):
    """The stream is broken or reports a failure. The message is a sentence; it may quote the server at any length."""


class SseDecoder:
    """Splits a server-sent event stream into the data of its events, wherever the network cuts it.

    Lines end in LF, CR or CRLF; comments and every field but `data` are dropped; `data` lines of one event are joined
    by LF; a byte order mark at the start is ignored (WHATWG HTML, section 9.2).
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[str] = []
        self._data_length = 0
        self._is_start = True
        self._is_after_cr = False

    def feed(self, received: bytes) -> list[str]:
        """Data of the events that `received` completes. Raises StreamError for an event of over 16 MiB."""
        if not received:
            return []
        if received.startswith(b"data: ") and received.endswith(b"\n\n") and self._is_at_event():
            data = received[6:-2]
            if b"\n" not in data and b"\r" not in data:  # one whole event: the common case
                self._is_start = self._is_after_cr = False
                return [data.decode("utf-8", "replace")]
        if self._is_after_cr:
            received = received.removeprefix(b"\n")
        self._is_after_cr = received.endswith(b"\r")
        *lines, rest = _LINE_END.split(received)
        if lines:
            lines[0], self._pending = bytes(self._pending) + lines[0], bytearray()
        self._pending += rest
        events = [event for line in lines for event in self._take(line)]
        if len(self._pending) + self._data_length > MAX_PENDING_BYTES:
            raise StreamError(f"The stream holds an event of over {MAX_PENDING_BYTES // 2**20} MiB.")
        return events

    def close(self) -> list[str]:
        """Data of an event that the end of the stream cut off before its blank line."""
        line, self._pending = bytes(self._pending), bytearray()
        return [event for last in (line, b"") for event in self._take(last)]

    def _is_at_event(self) -> bool:
        return not self._pending and not self._data

    def _take(self, line: bytes) -> list[str]:
        if self._is_start:
            line, self._is_start = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            events = ["\n".join(self._data)] if self._data else []
            self._data, self._data_length = [], 0
            return events
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            self._data_length += len(value)
        return []


@dataclass
class Answer:
    """What a server has answered so far. Times are seconds after the request was sent."""

    text_parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    chunk_times_s: list[float] = field(default_factory=list)
    """Arrival of each non-empty chunk; reasoning counts, for its tokens are generated too."""
    usage_at_chunk: list[int | None] = field(default_factory=list)
    """Output tokens that the server had counted at each non-empty chunk, where it says so in every chunk."""
    ttfo_s: float | None = None
    """Arrival of the first chunk with text that is not reasoning."""
    num_events: int = 0
    input_tokens: int | None = None
    usage_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    is_complete: bool = False
    """A finish reason, a closing usage chunk or `[DONE]` was seen: what follows cannot change the answer."""
    is_done: bool = False
    is_whole: bool = False
    """It came in one piece and not as a stream."""
    server_metrics: dict[str, float] = field(default_factory=dict)
    """Numbers that the server says of itself, by their path in the answer (`memory.peak_bytes`, `layers.0.time_ms`) and in its own
    units."""

    def take(self, data: str, at_s: float) -> None:
        """Take the data of one event. Raises StreamError where it is not JSON, not a chunk, or an error object."""
        if self.is_done or not data.strip():
            return
        self.num_events += 1
        if data.strip() == "[DONE]":
            self.is_done = self.is_complete = True
            return
        chunk = self._parsed(data)
        choices = chunk.get("choices")
        if choices is None:
            if message := error_message(chunk):
                raise StreamError(f"The server reports an error: {message}")
            choices = []
        if message := error_message({"error": chunk.get("error")}):
            raise StreamError(f"The server reports an error: {message}")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise StreamError(f"Event {self.num_events} is not a chunk of an answer: {data}")
        self._count(chunk.get("usage"), is_closing=not choices)
        for choice in choices[:1]:
            self._choose(choice, at_s, data)

    def _parsed(self, data: str) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            raise StreamError(f"Event {self.num_events} is not JSON: {data}") from None
        if not isinstance(chunk, dict):
            raise StreamError(f"Event {self.num_events} is not a chunk of an answer: {data}")
        return chunk

    def _count(self, usage: Any, *, is_closing: bool) -> None:
        if not isinstance(usage, dict):
            return
        if (count := _count_of(usage, "prompt_tokens")) is not None:
            self.input_tokens = count
        if (count := _count_of(usage, "completion_tokens")) is not None:
            self.usage_tokens = count
            self.is_complete = self.is_complete or is_closing
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and (count := _count_of(details, "cached_tokens")) is not None:
            self.cached_tokens = count

    def _choose(self, choice: dict[str, Any], at_s: float, data: str) -> None:
        part = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        if not isinstance(part, dict):
            raise StreamError(f"Event {self.num_events} is not a chunk of an answer: {data}")
        text = part.get("content")
        reasoning = part.get("reasoning_content", part.get("reasoning"))
        if not isinstance(text, str | None) or not isinstance(reasoning, str | None):
            raise StreamError(f"Event {self.num_events} holds content that is not text: {data}")
        if text:
            self.text_parts.append(text)
            self.ttfo_s = at_s if self.ttfo_s is None else self.ttfo_s
        if reasoning:
            self.reasoning_parts.append(reasoning)
        if text or reasoning:
            self.chunk_times_s.append(at_s)
            self.usage_at_chunk.append(self.usage_tokens)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason, self.is_complete = reason, True

    @property
    def text(self) -> str:
        return joined(self.text_parts)

    @property
    def reasoning(self) -> str:
        return joined(self.reasoning_parts)

    def chunk_texts(self) -> list[str] | None:
        """The text that each non-empty chunk brought, in order; None where reasoning and text are mixed."""
        parts = [*self.reasoning_parts, *self.text_parts]
        first = len(self.reasoning_parts)
        is_apart = len(parts) == len(self.chunk_times_s) and (
            not self.text_parts or self.ttfo_s == self.chunk_times_s[first]
        )
        return parts if is_apart else None

    def output_tokens(self) -> tuple[int | None, TokenCountSource | None]:
        """N and who counted it: the server's usage, else one token a non-empty chunk of a stream; (None, None) with neither."""
        num_chunks = len(self.chunk_times_s)
        if self.usage_tokens is not None and (self.usage_tokens > 0 or num_chunks == 0):
            return self.usage_tokens, "usage"
        return (num_chunks, "chunks") if num_chunks and not self.is_whole else (None, None)

    def chunk_tokens(self) -> list[int] | None:
        """Tokens n_c of each non-empty chunk, where the server's counts decide them: it counts in every chunk, or it
        counted as many tokens as there were chunks. Else None."""
        count, source = self.output_tokens()
        if source != "usage" or not self.chunk_times_s:
            return None
        if count == len(self.chunk_times_s):
            return [1] * len(self.chunk_times_s)
        counted = [0, *self.usage_at_chunk]
        if None in counted or counted[-1] != count:
            return None
        gains = [after - before for before, after in itertools.pairwise(counted)]  # type: ignore[operator]
        return gains if min(gains) > 0 else None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One request and its answer as they are kept. Latencies are seconds after the send, None where they were not observed."""

    status: str
    status_detail: str | None
    http_status: int | None
    text: str
    reasoning: str
    scheduled_at_s: float
    """When it was due (open loop) or its slot was free (closed loop); `sent_at_s` is when its first byte went out. All
    times count from the start of the level."""
    sent_at_s: float
    ended_at_s: float
    ttft_s: float | None
    tpot_s: float | None
    itl_s: float | None
    """Mean of the request's inter-token gaps."""
    e2el_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    token_count_source: TokenCountSource | None
    finish_reason: str | None
    chunk_times_s: list[float]
    chunk_tokens: list[int] | None
    ttfo_s: float | None = None
    """The first chunk that is not reasoning."""
    cached_tokens: int | None = None
    """Prompt tokens that the server took from its prefix cache, where it says so."""
    requested_output_tokens: int | None = None
    client_index: int = 0
    prompt: str | None = None
    """Kept where one request is sent by hand; None in load tests."""
    chunk_texts: list[str] | None = None
    """What a tokenizer needs to count tokens by chunk; None where the server counted them."""
    server_metrics: dict[str, float] = field(default_factory=dict)
    """As in Answer."""

    @property
    def is_joined(self) -> bool:
        """All its chunks bear one stamp: they lay at the client together, and when each came is not known."""
        return len(self.chunk_times_s) > 1 and self.chunk_times_s[0] == self.chunk_times_s[-1]

    @property
    def ttft_scheduled_s(self) -> float | None:
        """TTFT from when the request was due."""
        return None if self.ttft_s is None else self.ttft_s + self.sent_at_s - self.scheduled_at_s

    @property
    def e2el_scheduled_s(self) -> float | None:
        """The end-to-end latency from when the request was due."""
        return None if self.e2el_s is None else self.e2el_s + self.sent_at_s - self.scheduled_at_s


def tpot_s(ttft_s: float | None, e2el_s: float | None, output_tokens: int | None, num_chunks: int) -> float | None:
    """Time per output token after the first, (E2EL - TTFT) / (N - 1).

    None for N < 2, and for tokens in one chunk or in chunks of one stamp: their times were not seen, and the difference of 0 says
    nothing.

    >>> tpot_s(10.0, 40.0, 4, 4)
    10.0
    """
    if ttft_s is None or e2el_s is None or output_tokens is None or output_tokens < 2 or num_chunks < 2:
        return None
    if e2el_s <= ttft_s:
        return None
    return (e2el_s - ttft_s) / (output_tokens - 1)


def gaps_s(chunk_times_s: list[float], chunk_tokens: list[int] | None) -> list[float]:
    """Inter-token gaps: chunk c of n_c tokens gives n_c gaps of (t_c - t_{c-1}) / n_c; none where n_c is unknown
    or all chunks bear one stamp.

    >>> gaps_s([10.0, 20.0, 40.0], [1, 1, 2])
    [10.0, 10.0, 10.0]
    """
    if chunk_tokens is None or chunk_times_s[:1] == chunk_times_s[-1:]:
        return []
    pairs = zip(chunk_times_s, chunk_times_s[1:], chunk_tokens[1:], strict=False)
    return [(after - before) / count for before, after, count in pairs for _ in range(count)]


def error_message(body: Any) -> str | None:
    """The message of an error object as OpenAI, vLLM, FastAPI and others shape it; None where it is none."""
    if not isinstance(body, dict):
        return None
    for name in ("error", "message", "detail"):
        found = body.get(name)
        if isinstance(found, dict):
            inner = found.get("message")
            return inner if isinstance(inner, str) and inner else json.dumps(found)
        if found:
            return found if isinstance(found, str) else json.dumps(found)
    return None


def joined(parts: list[str]) -> str:
    """Text of all parts; a surrogate pair cut by a chunk border is mended, a lone surrogate replaced."""
    return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count_of(usage: dict[str, Any], name: str) -> int | None:
    count = usage.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < MAX_COUNT else None
