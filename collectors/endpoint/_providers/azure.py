"""Azure OpenAI: the `/openai/v1` path, or with the option `api-version` the older path of a deployment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from collectors.endpoint._providers import HttpRequest, Target, _cloud, _common, openai

NAME = "azure"
APIS = openai.APIS
API_KEY_ENV = "AZURE_OPENAI_API_KEY"
URL_ENV = "AZURE_OPENAI_ENDPOINT"

reader = openai.reader


def target(
    url: str | None,
    model: str,
    *,
    api: str = "chat",
    timeout_s: float = 60.0,
    is_streaming: bool = True,
    ignore_eos: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    api_key_env: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env` (AZURE_OPENAI_API_KEY). Sends nothing.

    `url`, else AZURE_OPENAI_ENDPOINT, is the resource, e.g. https://NAME.openai.azure.com; `model` the deployment. Raises
    ValueError for a URL, an API, a timeout or a key that cannot be used.
    """
    _common.check(APIS, api=api, model=model, timeout_s=timeout_s)
    address = os.environ.get(URL_ENV) if url is None else url
    if not address:
        raise ValueError(
            f"No server is named. Give something like https://NAME.openai.azure.com with --url or {URL_ENV}."
        )
    asked = openai.target(
        _address(address, model, options or {}),
        model,
        api=api,
        timeout_s=timeout_s,
        is_streaming=is_streaming,
        ignore_eos=ignore_eos,
        extra_body=extra_body,
        api_key_env=API_KEY_ENV if api_key_env is None else api_key_env,
        options=options,
    )
    if not asked.secrets:
        raise ValueError(f"Azure wants a key, and the environment variable {asked.api_key_env} is not set.")
    return dataclasses.replace(asked, provider=NAME)


def request(target: Target, prompt: str, output_tokens: int) -> HttpRequest:
    """The POST of one prompt, its key in the header `api-key`."""
    asked = openai.request(target, prompt, output_tokens)
    headers = {name: value for name, value in asked.headers.items() if name != "Authorization"}
    version = target.options.get("api-version")
    query = "" if version is None else f"?api-version={version}"
    return dataclasses.replace(asked, url=asked.url + query, headers={**headers, "api-key": target.secrets[0]})


def _address(url: str, deployment: str, options: Mapping[str, str]) -> str:
    """The part before `/chat/completions`. Raises ValueError for a version or a deployment that no path can carry."""
    root = _common.base_url(url, tuple(openai.ROUTES.values())).removesuffix("/openai/v1").removesuffix("/openai")
    if _cloud.name(options, "api-version") is None:
        return f"{root}/openai/v1"
    return f"{root}/openai/deployments/{_cloud.needed({'deployment': deployment, **options}, 'deployment')}"
