"""Amazon Bedrock through its OpenAI-compatible route at bedrock-runtime, with a Bedrock API key as bearer token."""

from __future__ import annotations

import dataclasses

from collectors.endpoint._providers import Asked, Target, _cloud, _common, openai

NAME = "bedrock"
APIS = ("chat",)
API_KEY_ENV = "AWS_BEARER_TOKEN_BEDROCK"

request, reader = openai.request, openai.reader


def target(asked: Asked) -> Target:
    """A checked target; reads the key from the environment variable `api_key_env` (AWS_BEARER_TOKEN_BEDROCK).

    Without `url` the server is that of the option `region`, else of AWS_REGION or AWS_DEFAULT_REGION. Sends nothing.
    Raises ValueError for an API, a region, a timeout or a key that cannot be used.
    """
    _common.api(asked, APIS)
    address = (
        f"https://bedrock-runtime.{_cloud.aws_region(asked.options)}.amazonaws.com" if asked.url is None else asked.url
    )
    name = API_KEY_ENV if asked.api_key_env is None else asked.api_key_env
    found = openai.target(
        dataclasses.replace(
            asked, url=_common.base_url(address, ("/chat/completions",), "/openai/v1"), api_key_env=name
        )
    )
    if not found.secrets:
        raise ValueError(f"Bedrock wants a key, and the environment variable {name} is not set.")
    return dataclasses.replace(found, provider=NAME)
