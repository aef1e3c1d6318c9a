"""One request to an OpenAI-compatible server, timed: send, read the stream, say in a sentence what failed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from collectors.endpoint._stream import (
    MAX_PENDING_BYTES,
    Answer,
    Reply,
    SseDecoder,
    StreamError,
    error_message,
    gaps_s,
    joined,
    tpot_s,
)

if TYPE_CHECKING:
    import httpx

APIS = {"chat": "/chat/completions", "completions": "/completions"}
REFUSALS = (401, 403, 429, 503)
"""HTTP statuses by which a server declines a request that it understood: status `refused`; others are `error`."""

MAX_BODY_BYTES = 2**16
MAX_SENTENCE = 500
CLOSING_S = 1.0
"""How long to wait, once the answer is complete, for its usage and for the end of the stream, which lets the connection
be used again."""


@dataclass(frozen=True)
class Target:
    """A server, a model and how to ask it. The key is shown nowhere."""

    base_url: str
    model: str
    api: str
    timeout_s: float
    api_key_env: str
    key: str | None = field(repr=False)
    extra_body: Mapping[str, Any]

    def body(self, prompt: str, output_tokens: int) -> dict[str, Any]:
        """The request's JSON; `extra_body` overrides it, a null there removes a field."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.api == "chat" else {"prompt": prompt}
        body = {
            "model": self.model,
            **asked,
            "max_tokens": output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra_body,
        }
        return {name: value for name, value in body.items() if value is not None}

    def hide(self, text: str) -> str:
        """The text without the key, should somebody have repeated it."""
        if self.key is None:
            return text
        for form in (self.key, json.dumps(self.key)[1:-1], self.key.replace("/", "\\/")):
            text = text.replace(form, "[key]")
        return text

    def sentence(self, text: str) -> str:
        """A text that may quote the server, fit to be kept: no key, one line, at most 500 characters."""
        plain = " ".join(self.hide(joined([text])).split())
        return plain if len(plain) <= MAX_SENTENCE else plain[: MAX_SENTENCE - 1] + "…"


class _RequestError(Exception):
    """The request failed for a known reason: (status, sentence)."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


def target(
    url: str,
    model: str,
    *,
    api: str = "chat",
    timeout_s: float = 60.0,
    api_key_env: str = "OPENAI_API_KEY",
    extra_body: Mapping[str, Any] | None = None,
) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env`. Sends nothing.

    Raises ValueError for a URL, an API, a timeout or a key that cannot be used; LookupError where httpx is missing.
    """
    import_httpx()
    if api not in APIS:
        raise ValueError(f"'{api}' is not an API of an endpoint. Known: {', '.join(APIS)}. Set it with --api.")
    if not model:
        raise ValueError("The model's name is empty. Give the name under which the server serves it with --model.")
    if not timeout_s > 0:
        raise ValueError(f"A timeout of {timeout_s} s lets no request answer. Give more than 0 with --timeout-s.")
    return Target(_base_url(url), model, api, timeout_s, api_key_env, _key(api_key_env), dict(extra_body or {}))


def import_httpx() -> Any:
    """The module httpx. Raises LookupError saying how to get it."""
    try:
        import httpx
    except ImportError:
        raise LookupError("The endpoint collector needs httpx, which is not installed: pip install httpx.") from None
    return httpx


def client(num_connections: int) -> httpx.AsyncClient:
    """A client with a connection for each request in flight. Deadlines are the request's own; it follows no redirect,
    for the key must not reach another host."""
    library = import_httpx()
    limits = library.Limits(max_connections=num_connections, max_keepalive_connections=num_connections)
    made: httpx.AsyncClient = library.AsyncClient(limits=limits, timeout=None, follow_redirects=False)
    return made


async def ask(client: httpx.AsyncClient, target: Target, prompt: str, output_tokens: int, clock_zero: float) -> Reply:
    """Send one request and read its answer to the end, or to its deadline. Never raises for what a server does.

    `clock_zero` is the `time.perf_counter` that `sent_at_s` counts from. The body is made before the clock starts; what
    the client itself needs before the first byte goes out is in no latency.
    """
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Content-Type": "application/json"}
    if target.key is not None:
        headers["Authorization"] = f"Bearer {target.key}"
    content = json.dumps(target.body(prompt, output_tokens))
    clock = _Clock(clock_zero)
    request = client.build_request(
        "POST", target.base_url + APIS[target.api], content=content, headers=headers, extensions={"trace": clock.trace}
    )
    answer = Answer()
    http_status, status, detail = None, "ok", None
    clock.start()
    try:
        async with _deadline(target, answer), _response(client, target, request) as response:
            http_status = response.status_code
            detail = await _read(response, target, answer, clock.sent)
    except _RequestError as error:
        status, detail = error.status, error.sentence
    return _reply(target, answer, status, detail, http_status=http_status, clock=clock)


class _Clock:
    """When a request was wanted and when its first byte went out. In between lie connecting and the client's own queue."""

    def __init__(self, zero: float) -> None:
        self.zero = zero

    def start(self) -> None:
        self.wanted = self.sent = time.perf_counter()

    async def trace(self, name: str, _: Any) -> None:
        """Called by httpx at every step of a request."""
        if name == "http11.send_request_headers.started":
            self.sent = time.perf_counter()


@contextlib.asynccontextmanager
async def _deadline(target: Target, answer: Answer) -> AsyncIterator[None]:
    """Turns every way in which a request fails into a _RequestError; what breaks after a complete answer is no failure."""
    httpx = import_httpx()
    try:
        async with asyncio.timeout(target.timeout_s):
            yield
    except TimeoutError:
        if not answer.is_complete:
            raise _RequestError("timeout", _timeout_sentence(target, answer)) from None
    except httpx.ConnectError as error:
        raise _RequestError("refused", f"Could not connect to {target.base_url}: {error}.") from None
    except StreamError as error:
        raise _RequestError(_status_of(str(error)), str(error)) from None
    except (httpx.HTTPError, httpx.StreamError, OSError) as error:
        if not answer.is_complete:
            reason = str(error) or type(error).__name__
            raise _RequestError("error", f"{_early_sentence(answer)} ({reason}).") from None


@contextlib.asynccontextmanager
async def _response(client: httpx.AsyncClient, target: Target, request: httpx.Request) -> AsyncIterator[httpx.Response]:
    response = await client.send(request, stream=True)
    try:
        yield response
    finally:
        await response.aclose()


async def _read(response: httpx.Response, target: Target, answer: Answer, sent: float) -> str | None:
    """Read the answer; returns what to remark on it. Raises _RequestError, StreamError and httpx's errors."""
    if not response.is_success:
        raise _http_error(response, target, await _start_of(response, MAX_BODY_BYTES))
    if response.headers.get("content-type", "").startswith("application/json"):
        body = await _start_of(response, MAX_PENDING_BYTES)
        answer.take(body.decode("utf-8", "replace"), time.perf_counter() - sent)
        return _whole_remark(answer)
    start = await _read_events(response, answer, sent)
    if not answer.num_events:
        kind = response.headers.get("content-type", "none")
        raise StreamError(f"The answer holds no server-sent event (content type {kind}); it begins “{start}”.")
    if not answer.is_complete:
        raise _RequestError("error", f"{_early_sentence(answer)}, without a finish reason.")
    return None if answer.chunk_times_s else "The server finished without sending any text."


async def _read_events(response: httpx.Response, answer: Answer, sent: float) -> str:
    """Take every event, stamped when the network brought its last byte; returns how the body begins."""
    decoder, start = SseDecoder(), b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as closing:
            async for piece in response.aiter_bytes():
                at_s = time.perf_counter() - sent
                start = start or piece  # whole: a cut could leave a part of a key that nobody would recognise
                for data in decoder.feed(piece):
                    answer.take(data, at_s)
                if answer.is_complete and closing.when() is None:
                    closing.reschedule(asyncio.get_running_loop().time() + CLOSING_S)
    with contextlib.suppress(*([StreamError] if answer.is_complete else [])):
        for data in decoder.close():
            answer.take(data, time.perf_counter() - sent)
    return start.decode("utf-8", "replace")


async def _start_of(response: httpx.Response, max_bytes: int) -> bytes:
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) >= max_bytes:
            break
    return body[:max_bytes]


def _whole_remark(answer: Answer) -> str | None:
    if not answer.chunk_times_s:
        raise StreamError("The answer is JSON in one piece and holds no text.")
    answer.is_complete = answer.is_whole = True
    return "The server answered in one piece instead of a stream: only the end-to-end latency was observed."


def _reply(
    target: Target,
    answer: Answer,
    status: str,
    detail: str | None,
    *,
    http_status: int | None,
    clock: _Clock,
) -> Reply:
    times = answer.chunk_times_s
    ttft = times[0] if times and not answer.is_whole else None
    e2el = times[-1] if times and status == "ok" else None
    count, source = answer.output_tokens()
    tokens = answer.chunk_tokens()
    gaps = gaps_s(times, tokens)
    return Reply(
        status=status,
        status_detail=None if detail is None else target.sentence(detail),
        http_status=http_status,
        text=target.hide(answer.text),
        reasoning=target.hide(answer.reasoning),
        scheduled_at_s=clock.wanted - clock.zero,
        sent_at_s=clock.sent - clock.zero,
        ended_at_s=time.perf_counter() - clock.zero,
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
    )


def _timeout_sentence(target: Target, answer: Answer) -> str:
    count = len(answer.chunk_times_s)
    if answer.num_events == 0:
        return f"No answer from {target.base_url} within {target.timeout_s:g} s. Raise it with --timeout-s."
    return f"The answer was not complete within {target.timeout_s:g} s: {count} chunks of text had come."


def _early_sentence(answer: Answer) -> str:
    if answer.num_events == 0:
        return "The connection ended before an answer came"
    return f"The stream ended early, after {len(answer.chunk_times_s)} chunks of text"


def _http_error(response: httpx.Response, target: Target, body: bytes) -> _RequestError:
    code = response.status_code
    said = _said(body)
    if code in (401, 403) and target.key is None:
        why = f"the server wants a key, and the environment variable {target.api_key_env} is not set"
    elif code in (401, 403):
        why = f"the server does not accept the key in the environment variable {target.api_key_env}"
    elif 300 <= code < 400:
        why = f"the server redirects to {response.headers.get('location', 'nowhere')}; give that address with --url"
    else:
        why = response.reason_phrase or "the server reports an error"
    status = "refused" if code in REFUSALS else _status_of(said)
    return _RequestError(status, f"HTTP {code}: {why}" + (f". It says: {said}" if said else "."))


def _status_of(said: str) -> str:
    return "oom" if "out of memory" in said.lower() else "error"


def _said(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        if message := error_message(json.loads(text)):
            return message
    return re.sub(r"<[^>]*>", " ", text).strip()


def _base_url(url: str) -> str:
    """The part before `/chat/completions`; `/v1` where the URL names no path."""
    httpx = import_httpx()
    hint = "Give something like http://127.0.0.1:8000/v1 with --url."
    if any(mark in url for mark in "@?#"):
        raise ValueError(
            "The URL holds a user name, a password, a query or a fragment, which would be stored with the results. "
            f"A key belongs in the environment variable that --api-key-env names. {hint}"
        )
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        host, has_port = parts.hostname, parts.port != 0
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f"'{url}' is not a URL: {error}. {hint}") from None
    if parts.scheme not in ("http", "https") or not host or not has_port:
        raise ValueError(f"'{url}' is not the http or https address of a server. {hint}")
    path = parts.path.rstrip("/")
    for ending in APIS.values():
        path = path.removesuffix(ending)
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _key(name: str) -> str | None:
    """The key in an environment variable, None where it is unset or empty. No message repeats the key, nor a name that
    could be a key given in the name's place."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise ValueError(
            "--api-key-env takes the name of an environment variable, in capitals like OPENAI_API_KEY, never the key."
        )
    key = os.environ.get(name, "").strip()
    if not key:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ValueError(
            f"The key in the environment variable {name} holds a space or another character that no HTTP header can "
            "carry. Set it again."
        )
    return key
