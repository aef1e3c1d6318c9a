"""text-generation-inference: `/generate_stream` and, without streaming, `/generate`.

Tokens and prompt tokens are counted by its `details`. It has no way to go on after an end-of-sequence token, so a fixed
length cannot be asked for: what a model writes is as long as the model makes it, up to `max_new_tokens`.
"""

from __future__ import annotations

import json

from collectors.endpoint._providers import Asked, HttpRequest, Target, _common, _formats

NAME = "tgi"
APIS = ("generate",)
API_KEY_ENV = "HF_TOKEN"
ROUTES = {True: "/generate_stream", False: "/generate"}


def target(asked: Asked) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env` (HF_TOKEN). Sends nothing.

    Raises ValueError for a URL, an API, a timeout, a key or a fixed length that cannot be used.
    """
    api = _common.api(asked, APIS)
    if asked.url is None:
        raise ValueError("No server is named. Give something like http://127.0.0.1:8080 with --url.")
    if asked.ignore_eos:
        raise ValueError(
            "text-generation-inference cannot be told to ignore the end-of-sequence token, so the length of its answers "
            "cannot be fixed. Leave out --ignore-eos, or ask its OpenAI route with --provider openai."
        )
    name = API_KEY_ENV if asked.api_key_env is None else asked.api_key_env
    key = _common.key(name)
    return asked.target(
        provider=NAME, api=api, base_url=_common.base_url(asked.url, tuple(ROUTES.values())), api_key_env=name,
        secrets=() if key is None else (key,),
    )  # fmt: skip


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
