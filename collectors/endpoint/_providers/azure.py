"""Azure OpenAI: the `/openai/v1` path, or with the option `api-version` the older path of a deployment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from collectors.endpoint._providers import Asked, HttpRequest, Target, _cloud, _common, openai

NAME = "azure"
APIS = openai.APIS
API_KEY_ENV = "AZURE_OPENAI_API_KEY"
URL_ENV = "AZURE_OPENAI_ENDPOINT"

reader = openai.reader


def target(asked: Asked) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env` (AZURE_OPENAI_API_KEY). Sends nothing.

    `url`, else AZURE_OPENAI_ENDPOINT, is the resource, e.g. https://NAME.openai.azure.com; `model` the deployment. Raises
    ValueError for a URL, an API, a timeout or a key that cannot be used.
    """
    _common.api(asked, APIS)
    address = os.environ.get(URL_ENV) if asked.url is None else asked.url
    if not address:
        raise ValueError(
            f"No server is named. Give something like https://NAME.openai.azure.com with --url or {URL_ENV}."
        )
    name = API_KEY_ENV if asked.api_key_env is None else asked.api_key_env
    found = openai.target(
        dataclasses.replace(asked, url=_address(address, asked.model, asked.options), api_key_env=name)
    )
    if not found.secrets:
        raise ValueError(f"Azure wants a key, and the environment variable {name} is not set.")
    return dataclasses.replace(found, provider=NAME)


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
