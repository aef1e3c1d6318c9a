"""SageMaker's runtime: InvokeEndpoint and InvokeEndpointWithResponseStream, signed with the AWS SDK's default credentials.

`--api messages` sends OpenAI chat bodies, `inputs` those of text-generation-inference and DJL serving. Options: endpoint (the
model's name unless given), region, component (an inference component). Every request is signed as it is made.
"""

from __future__ import annotations

import functools
import json
import logging
from typing import Any

from collectors.endpoint._providers import Asked, HttpRequest, Reader, Target, _cloud, _common, _formats
from collectors.endpoint._stream import StreamError, error_message

NAME = "sagemaker"
APIS = ("messages", "inputs")
ROUTES = {True: "/invocations-response-stream", False: "/invocations"}
SERVICE = "sagemaker"


def target(asked: Asked) -> Target:
    """A checked target; finds the credentials. Sends nothing to the endpoint. `url` replaces the region's service.

    Raises ValueError for what cannot be used, LookupError where botocore is missing.
    """
    told = asked.options
    api = _common.api(asked, APIS)
    if asked.api_key_env is not None:
        raise ValueError(
            "SageMaker takes no key but AWS credentials: from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or "
            "the machine's role. Leave out --api-key-env."
        )
    region = _cloud.aws_region(told)
    _cloud.name(told, "component")
    endpoint = _cloud.needed({"endpoint": asked.model, **told}, "endpoint")
    root = f"https://runtime.sagemaker.{region}.amazonaws.com" if asked.url is None else _common.base_url(asked.url)
    found = _frozen()
    return asked.target(
        provider=NAME, api=api, base_url=f"{root}/endpoints/{endpoint}", options={**told, "region": region},
        secrets=tuple(text for text in (found.secret_key, found.token, found.access_key) if text),
    )  # fmt: skip


def request(target: Target, prompt: str, output_tokens: int) -> HttpRequest:
    """The signed POST of one prompt; it must be sent within five minutes."""
    auth, awsrequest, _, _ = _import_botocore()
    fields = _formats.body(
        target.api,
        prompt,
        output_tokens,
        model=target.model,
        is_streaming=target.is_streaming,
        ignore_eos=target.ignore_eos,
    )
    content = json.dumps(_formats.merged(fields, target.extra_body)).encode()
    component = target.options.get("component")
    headers = {**_common.JSON_HEADERS, "Accept": "application/json"}
    if component is not None:
        headers["X-Amzn-SageMaker-Inference-Component"] = component
    signed = awsrequest.AWSRequest("POST", target.base_url + ROUTES[target.is_streaming], headers=headers, data=content)
    auth.SigV4Auth(_frozen(), SERVICE, target.options["region"]).add_auth(signed)
    return HttpRequest("POST", signed.url, dict(signed.headers.items()), content)


def reader(target: Target) -> Reader:
    """A reader of one answer."""
    return EventStreamReader() if target.is_streaming else _formats.FormatReader()


class EventStreamReader:
    """Takes the payload out of AWS's event stream: what the container writes, wherever the parts cut it."""

    def __init__(self) -> None:
        _, _, eventstream, exceptions = _import_botocore()
        self._messages = eventstream.EventStreamBuffer()
        self._errors = (eventstream.ParserError, exceptions.EventStreamError)
        self._payload = _formats.FormatReader()
        self.answer = self._payload.answer

    def feed(self, piece: bytes, at_s: float) -> None:
        """Take a piece of the stream. Raises StreamError where it is broken or reports a failure."""
        self._messages.add_data(piece)
        while (message := self._next()) is not None:
            kind = message.headers.get(":message-type")
            if kind != "event":
                raise StreamError(_failure(message))
            self._payload.feed(message.payload, at_s)

    def close(self, at_s: float) -> None:
        """The body has ended."""
        self._payload.close(at_s)

    def _next(self) -> Any:
        try:
            return next(self._messages, None)
        except self._errors as error:
            raise StreamError(f"The event stream is broken: {error}") from None


def _failure(message: Any) -> str:
    name = message.headers.get(":exception-type") or message.headers.get(":error-code") or "an error"
    said = message.headers.get(":error-message") or message.payload.decode("utf-8", "replace")
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        said = error_message({"message": found.get("Message", found.get("message"))}) or said
    return f"The server reports {name}: {said}"


def _frozen() -> Any:
    """The credentials that are valid now. Raises ValueError where there are none."""
    _, _, _, exceptions = _import_botocore()
    try:
        found = _chain()
        return found.get_frozen_credentials()
    except exceptions.BotoCoreError as error:
        raise ValueError(f"AWS gives no credentials: {type(error).__name__}.") from None


@functools.cache
def _chain() -> Any:
    """What the SDK's default chain finds, once a process; it renews what expires by itself."""
    import botocore.session

    if (found := botocore.session.Session().get_credentials()) is None:
        raise ValueError(
            "The AWS SDK finds no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run "
            "where a role is attached."
        )
    return found


def _import_botocore() -> tuple[Any, Any, Any, Any]:
    """The modules auth, awsrequest, eventstream and exceptions of botocore. Raises LookupError saying how to get it."""
    try:
        import botocore.auth
        import botocore.awsrequest
        import botocore.eventstream
        import botocore.exceptions
    except ImportError:
        raise LookupError(
            "SageMaker's signature needs the AWS SDK botocore, which is not installed: pip install 'rooflake[cloud]'."
        ) from None
    logging.getLogger("botocore.auth").setLevel(logging.INFO)  # at DEBUG it logs the session token
    return botocore.auth, botocore.awsrequest, botocore.eventstream, botocore.exceptions
