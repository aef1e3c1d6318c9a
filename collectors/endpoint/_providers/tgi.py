"""text-generation-inference: `/generate_stream` and, without streaming, `/generate`.

Tokens and prompt tokens are counted by its `details`. It has no way to go on after an end-of-sequence token, so a fixed
length cannot be asked for: what a model writes is as long as the model makes it, up to `max_new_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from collectors.endpoint._providers import HttpRequest, Target, _common, _formats

NAME = "tgi"
APIS = ("generate",)
API_KEY_ENV = "HF_TOKEN"
ROUTES = {True: "/generate_stream", False: "/generate"}


def target(
    url: str | None,
    model: str,
    *,
    api: str = "generate",
    timeout_s: float = 60.0,
    is_streaming: bool = True,
    ignore_eos: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    api_key_env: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env` (HF_TOKEN). Sends nothing.

    Raises ValueError for a URL, an API, a timeout, a key or a fixed length that cannot be used.
    """
    _common.check(APIS, api=api, model=model, timeout_s=timeout_s)
    if url is None:
        raise ValueError("No server is named. Give something like http://127.0.0.1:8080 with --url.")
    if ignore_eos:
        raise ValueError(
            "text-generation-inference cannot be told to ignore the end-of-sequence token, so the length of its answers "
            "cannot be fixed. Leave out --ignore-eos, or ask its OpenAI route with --provider openai."
        )
    name = API_KEY_ENV if api_key_env is None else api_key_env
    key = _common.key(name)
    return Target(
        provider=NAME,
        base_url=_common.base_url(url, tuple(ROUTES.values())),
        model=model,
        api=api,
        timeout_s=timeout_s,
        is_streaming=is_streaming,
        extra_body=dict(extra_body or {}),
        api_key_env=name,
        secrets=() if key is None else (key,),
        options=dict(options or {}),
    )


def request(target: Target, prompt: str, output_tokens: int) -> HttpRequest:
    """The POST of one prompt."""
    fields = _formats.body("inputs", prompt, output_tokens, model="", is_streaming=False, ignore_eos=False)
    accept = "text/event-stream" if target.is_streaming else "application/json"
    headers = {"Accept": accept, **_common.JSON_HEADERS}
    for key in target.secrets:
        headers["Authorization"] = f"Bearer {key}"
    content = json.dumps(_formats.merged(fields, target.extra_body)).encode()
    return HttpRequest("POST", target.base_url + ROUTES[target.is_streaming], headers, content)


def reader(target: Target) -> _formats.FormatReader:
    """A reader of one answer."""
    return _formats.FormatReader()
