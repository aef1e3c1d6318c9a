"""OpenAI-compatible servers: chat and completions, as vLLM, SGLang, TGI, llama.cpp, Ollama and the clouds serve them."""

from __future__ import annotations

from collectors.endpoint._providers import Asked, HttpRequest, Target, _common
from collectors.endpoint._stream import MAX_PENDING_BYTES, Answer, SseDecoder, StreamError

NAME = "openai"
ROUTES = {"chat": "/chat/completions", "completions": "/completions"}
APIS = tuple(ROUTES)
API_KEY_ENV = "OPENAI_API_KEY"


def target(asked: Asked) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env` (OPENAI_API_KEY). Sends nothing.

    Raises ValueError for a URL, an API, a timeout or a key that cannot be used.
    """
    api = _common.api(asked, APIS)
    if asked.url is None:
        raise ValueError(f"No server is named. {_common.URL_HINT}")
    name = API_KEY_ENV if asked.api_key_env is None else asked.api_key_env
    key = _common.key(name)
    return asked.target(
        provider=NAME, api=api, base_url=_common.base_url(asked.url, tuple(ROUTES.values()), "/v1"), api_key_env=name,
        secrets=() if key is None else (key,),
    )  # fmt: skip


def request(target: Target, prompt: str, output_tokens: int) -> HttpRequest:
    """The POST of one prompt. With `ignore_eos` the answer's length is fixed in the words of vLLM and SGLang."""
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if target.is_streaming else {}
    fixed = {"ignore_eos": True, "min_tokens": output_tokens} if target.ignore_eos else {}
    asked = {"messages": [{"role": "user", "content": prompt}]} if target.api == "chat" else {"prompt": prompt}
    fields = {"model": target.model, **asked, "max_tokens": output_tokens, **streaming, **fixed}
    accept = "text/event-stream" if target.is_streaming else "application/json"
    headers = {"Accept": accept, **_common.JSON_HEADERS}
    for key in target.secrets:
        headers["Authorization"] = f"Bearer {key}"
    url = target.base_url + ROUTES[target.api]
    return HttpRequest("POST", url, headers, _common.json_body(fields, target.extra_body))


class Events:
    """Reads an answer: server-sent events, or one JSON object."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._decoder = SseDecoder()
        self._whole: bytearray | None = None
        self._is_begun = False

    def feed(self, piece: bytes, at_s: float) -> None:
        if not self._is_begun and piece.strip():
            self._is_begun = True
            self._whole = bytearray() if piece.lstrip().startswith((b"{", b"[")) else None
        if self._whole is not None:
            self._whole += piece
            if len(self._whole) > MAX_PENDING_BYTES:
                raise StreamError(f"The answer holds a JSON value of over {MAX_PENDING_BYTES // 2**20} MiB.")
            return
        for data in self._decoder.feed(piece):
            self.answer.take(data, at_s)

    def close(self, at_s: float) -> None:
        if self._whole is None:
            for data in self._decoder.close():
                self.answer.take(data, at_s)
            return
        self.answer.take(self._whole.decode("utf-8", "replace"), at_s)
        self.answer.is_complete = self.answer.is_whole = True


def reader(target: Target) -> Events:
    """A reader of one answer."""
    return Events()
