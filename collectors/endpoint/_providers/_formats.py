"""What servers that are no OpenAI server are sent and answer: text-generation-inference, DJL serving, predictions.

Every answer is told to `Answer` as the OpenAI chunk that says the same, so that one place counts and times.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from collectors.endpoint._stream import MAX_PENDING_BYTES, Answer, SseDecoder, StreamError

FORMATS = ("messages", "prompt", "inputs")
"""Bodies: OpenAI chat; one `prompt` (Model Garden's vLLM); `inputs` and `parameters` (text-generation-inference, DJL)."""

FINISH_REASONS = {"eos_token": "stop", "stop_sequence": "stop"}
"""text-generation-inference's words for what OpenAI calls `stop`; the rest is the same."""

TEXT_KEYS = ("generated_text", "text", "content", "output", "response", "completion", "generated")
"""Where the predictions of custom containers hold their text."""

NO_METRICS = ("choices", "usage", "created", "details", "index", "token")
"""Keys of an answer whose numbers are no metrics of the server."""

MAX_SERVER_METRICS = 2000
"""A value a layer for several hundred layers; what comes after is dropped."""

MAX_METRIC_NAME = 200
"""A number whose path is longer has no name; cut, it could show half of a secret."""

_VLLM_PREDICTION = re.compile(r"\APrompt:\n.*?\nOutput:\n", re.DOTALL)
"""Model Garden's vLLM repeats the prompt before its text."""


def body(
    style: str, prompt: str, output_tokens: int, *, model: str, is_streaming: bool, ignore_eos: bool
) -> dict[str, Any]:
    """The JSON that asks for the continuation of one prompt in one of FORMATS, greedily where a server samples by itself."""
    if style == "inputs":
        parameters = {"max_new_tokens": output_tokens, "details": True, "do_sample": False}
        return {
            "inputs": prompt,
            "parameters": parameters | ({"ignore_eos_token": True} if ignore_eos else {}),
            **({"stream": True} if is_streaming else {}),
        }
    asked = {"messages": [{"role": "user", "content": prompt}]} if style == "messages" else {"prompt": prompt}
    return {
        **({"model": model} if model and style == "messages" else {}),
        **asked,
        "max_tokens": output_tokens,
        **({"ignore_eos": True, "min_tokens": output_tokens} if ignore_eos else {}),
        **({"stream": True, "stream_options": {"include_usage": True}} if is_streaming else {}),
    }


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` laid over a body, object by object; a null there removes a field.

    >>> merged({"inputs": "a", "parameters": {"details": True, "top_k": 1}}, {"parameters": {"top_k": None, "seed": 3}})
    {'inputs': 'a', 'parameters': {'details': True, 'seed': 3}}
    """
    result = dict(body)
    for name, value in extra.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            under = result.get(name)
            result[name] = merged(under if isinstance(under, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def check_style(options: Mapping[str, str], default: str) -> str:
    """The body asked for in the option `format`. Raises ValueError for one that is none of FORMATS."""
    style = options.get("format", default)
    if style not in FORMATS:
        raise ValueError(
            f"'{style}' is not a format of a request. Known: {', '.join(FORMATS)}. Set it with --provider-options format=..."
        )
    return style


class FormatReader:
    """Reads server-sent events, JSON lines, or one JSON value; which of them, it sees by the first bytes."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._decoder = SseDecoder()
        self._pending = bytearray()
        self._is_json: bool | None = None
        self._is_lines: bool | None = None
        self._num_tokens = 0

    def feed(self, piece: bytes, at_s: float) -> None:
        """Take a piece of the body. Raises StreamError where it is broken or reports a failure."""
        if self._is_json is None:
            piece = bytes(self._pending) + piece
            if not (start := piece.lstrip()[:1]):
                self._pending = bytearray(piece[-1:])
                return
            self._pending, self._is_json = bytearray(), start in b"[{"
        if not self._is_json:
            for data in self._decoder.feed(piece):
                self._take(data, at_s)
            return
        self._pending += piece
        if len(self._pending) > MAX_PENDING_BYTES:
            raise StreamError(f"The answer holds a JSON value of over {MAX_PENDING_BYTES // 2**20} MiB.")
        if b"\n" in piece and self._is_lines is not False:
            self._take_lines(at_s)

    def close(self, at_s: float) -> None:
        """The body has ended; another may follow. Raises StreamError as `feed` does."""
        for data in self._decoder.close():
            self._take(data, at_s)
        is_json, pending = self._is_json, bytes(self._pending)
        self._is_json, self._is_lines, self._pending = None, None, bytearray()
        if is_json and pending.strip():
            self._take(pending.decode("utf-8", "replace"), at_s)

    def _take_lines(self, at_s: float) -> None:
        """The complete lines of the body, unless the first is no JSON value by itself: then it is one value in many lines."""
        if self._is_lines is None:
            first, _, _ = self._pending.lstrip().partition(b"\n")
            self._is_lines = _is_json(first)
            if not self._is_lines:
                return
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            self._take(line.decode("utf-8", "replace"), at_s)

    def _take(self, data: str, at_s: float) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            self.answer.take(data, at_s)  # the end mark, nothing, or no JSON: it says which
            return
        for chunk in self._chunks(value):
            self.answer.take(json.dumps(chunk), at_s)

    def _chunks(self, value: Any) -> Iterator[Mapping[str, Any]]:
        """The OpenAI chunks that say what a value of the body says."""
        value = _only(value)
        if isinstance(value, dict) and "predictions" in value:
            self._note(value, skip=("predictions",))
            value = _only(value["predictions"])
            value = {"text": _VLLM_PREDICTION.sub("", value, count=1)} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise StreamError(f"The answer is no text and no object that holds one: {json.dumps(value)}")
        token, choices = value.get("token"), value.get("choices")
        if isinstance(token, dict):
            yield from self._token(value, token)
            return
        self._note(value)
        if choices is None and (text := _text_of(value)) is not None:
            self._whole()
            yield _chunk("message", text, _finish_of(value), _usage_of(value))
            return
        if isinstance(choices, list) and any(isinstance(choice, dict) and "message" in choice for choice in choices):
            self._whole()
        yield value

    def _token(self, value: Mapping[str, Any], token: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """One token of text-generation-inference or DJL serving; special ones are counted and are no text."""
        self._num_tokens += 1
        text = None if token.get("special") or token.get("special_token") else token.get("text")
        whole = value.get("generated_text")
        usage = _usage_of(value)
        if usage.get("completion_tokens") is None:
            usage["completion_tokens"] = self._num_tokens
        yield _chunk("delta", text, _finish_of(value) or ("stop" if isinstance(whole, str) else None), usage)

    def _whole(self) -> None:
        self.answer.is_whole = self.answer.is_complete = True

    def _note(self, value: Mapping[str, Any], skip: tuple[str, ...] = ()) -> None:
        """Keep the numbers of an answer that are neither text nor counts of tokens."""
        found = self.answer.server_metrics
        for path, number in _numbers({k: v for k, v in value.items() if k not in (*skip, *NO_METRICS)}):
            if len(found) >= MAX_SERVER_METRICS:
                return
            found[path] = number


def _only(value: Any) -> Any:
    """The one item of a list of one, or of such lists in each other; anything else as it is."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _is_json(text: bytes | bytearray) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _chunk(part: str, text: Any, finish: str | None, usage: Mapping[str, int | None]) -> dict[str, Any]:
    return {"choices": [{part: {"content": text}, "finish_reason": finish}], "usage": usage}


def _text_of(value: Mapping[str, Any]) -> str | None:
    for name in TEXT_KEYS:
        found = value.get(name)
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            found = "".join(found)
        if isinstance(found, str):
            return found
    return None


def _details(value: Mapping[str, Any]) -> Mapping[str, Any]:
    details = value.get("details")
    return details if isinstance(details, dict) else {}


def _finish_of(value: Mapping[str, Any]) -> str | None:
    found = _details(value).get("finish_reason", value.get("finish_reason"))
    if found == "error":  # DJL serving: the request, or the generation, failed after the answer had begun
        raise StreamError("The server ended its answer with the finish reason 'error'.")
    return FINISH_REASONS.get(found, found) if isinstance(found, str) else None


def _usage_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of tokens: an OpenAI usage, or text-generation-inference's details."""
    if isinstance(usage := value.get("usage"), dict):
        return dict(usage)
    details = _details(value)
    prefill = details.get("prefill")
    counted = details.get("input_length", len(prefill) if isinstance(prefill, list) and prefill else None)
    return {"prompt_tokens": counted, "completion_tokens": details.get("generated_tokens")}


def _numbers(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """Finite numbers of a JSON value by their dotted path, no longer than MAX_METRIC_NAME; true and false are none."""
    if isinstance(value, dict | list) and depth < 8:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(inner, f"{path}.{name}" if path else str(name), depth + 1)
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and len(path) <= MAX_METRIC_NAME:
        yield path, float(value)
