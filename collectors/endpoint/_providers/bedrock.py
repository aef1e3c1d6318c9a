"""Amazon Bedrock through its OpenAI-compatible route at bedrock-runtime, with a Bedrock API key as bearer token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from collectors.endpoint._providers import Target, _cloud, _common, openai

NAME = "bedrock"
APIS = ("chat",)
API_KEY_ENV = "AWS_BEARER_TOKEN_BEDROCK"

request, reader = openai.request, openai.reader


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
    """A checked target; reads the key from the environment variable `api_key_env` (AWS_BEARER_TOKEN_BEDROCK).

    Without `url` the server is that of the option `region`, else of AWS_REGION or AWS_DEFAULT_REGION. Sends nothing.
    Raises ValueError for an API, a region, a timeout or a key that cannot be used.
    """
    _common.check(APIS, api=api, model=model, timeout_s=timeout_s)
    address = f"https://bedrock-runtime.{_cloud.aws_region(options or {})}.amazonaws.com" if url is None else url
    asked = openai.target(
        _common.base_url(address, ("/chat/completions",), "/openai/v1"),
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
        raise ValueError(f"Bedrock wants a key, and the environment variable {asked.api_key_env} is not set.")
    return dataclasses.replace(asked, provider=NAME)
