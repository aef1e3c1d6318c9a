"""What several providers check and send alike: addresses, keys, JSON bodies."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from collectors.endpoint._providers import Asked

JSON_HEADERS = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
URL_HINT = "Give something like http://127.0.0.1:8000/v1 with --url."


def api(asked: Asked, apis: Sequence[str]) -> str:
    """The route that is asked for. Raises ValueError for one the provider does not know, an empty model, or a timeout nothing can meet."""
    chosen = apis[0] if asked.api is None else asked.api
    if chosen not in apis:
        raise ValueError(f"'{chosen}' is not an API of an endpoint. Known: {', '.join(apis)}. Set it with --api.")
    if not asked.model:
        raise ValueError("The model's name is empty. Give the name under which the server serves it with --model.")
    if not asked.timeout_s > 0:
        raise ValueError(f"A timeout of {asked.timeout_s} s lets no request answer. Give more than 0 with --timeout-s.")
    return chosen


def base_url(url: str, endings: Sequence[str] = (), default_path: str = "") -> str:
    """A server's address without the route at its end; `default_path` where it names no path.

    Raises ValueError for what is no http or https address, or holds what must not be stored.

    >>> base_url("https://h/v1/chat/completions", ["/chat/completions"], "/v1")
    'https://h/v1'
    """
    if any(mark in url for mark in "@?#"):
        raise ValueError(
            "The URL holds a user name, a password, a query or a fragment, which would be stored with the results. "
            f"A key belongs in the environment variable that --api-key-env names. {URL_HINT}"
        )
    try:
        parts = urlsplit(url)
        host, has_port = parts.hostname, parts.port != 0
    except ValueError as error:
        raise ValueError(f"'{url}' is not a URL: {error}. {URL_HINT}") from None
    is_plain = re.fullmatch(r"[\x21-\x7e]+", url) is not None
    if parts.scheme not in ("http", "https") or not host or not has_port or not is_plain:
        raise ValueError(f"'{url}' is not the http or https address of a server. {URL_HINT}")
    path = parts.path.rstrip("/")
    for ending in endings:
        path = path.removesuffix(ending)
    return f"{parts.scheme}://{parts.netloc}{path or default_path}"


def key(name: str) -> str | None:
    """The key in an environment variable, None where it is unset or empty. No message repeats the key, nor a name that
    could be a key given in the name's place."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise ValueError(
            "--api-key-env takes the name of an environment variable, in capitals like OPENAI_API_KEY, never the key."
        )
    found = os.environ.get(name, "").strip()
    if not found:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", found):
        raise ValueError(
            f"The key in the environment variable {name} holds a space or another character that no HTTP header can "
            "carry. Set it again."
        )
    return found


def json_body(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """The request's JSON; `extra` overrides a field, a null there removes it."""
    body = {**fields, **extra}
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()
