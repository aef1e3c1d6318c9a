"""Vertex AI over plain REST: the OpenAI route of an endpoint, predict, rawPredict, streamRawPredict, predictLongRunning.

Access tokens come from Google's application default credentials (package google-auth) and are renewed before they expire;
`--api-key-env NAME` takes one from an environment variable instead. Options: project, location, endpoint (`openai` on the
OpenAI route), publisher (then the model is the publisher's, not an endpoint), format, poll-s, monitoring-wait-s and monitoring-url (_monitoring).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from collectors.endpoint._providers import Asked, HttpRequest, Reader, Target, _cloud, _common, _formats, openai
from collectors.endpoint._stream import StreamError, error_message

NAME = "vertex"
METHODS = {
    "chat": "/chat/completions",
    "predict": ":predict",
    "raw-predict": ":rawPredict",
    "stream-raw-predict": ":streamRawPredict",
    "predict-long-running": ":predictLongRunning",
}
APIS = tuple(METHODS)
STREAMING = ("chat", "stream-raw-predict")
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
POLL_S = 1.0
"""How long after an answer that an operation still runs it is asked for again, unless the option poll-s says otherwise. The
end of an operation is seen late by up to as much."""


def target(asked: Asked) -> Target:
    """A checked target. Without `api_key_env` it gets an access token, so that what is wrong with it shows before a load.

    `url` replaces the address of the location's service (a dedicated endpoint, a server on loopback); one that holds
    `/projects/` is the whole address of an endpoint. `extra_body` is laid over the request's JSON; over its instance with
    predict and predict-long-running. Raises ValueError for what cannot be used, LookupError where google-auth is missing.
    """
    told = asked.options
    api = _common.api(asked, APIS)
    _formats.check_style(told, "prompt")
    seconds(told, "poll-s", POLL_S)
    seconds(told, "monitoring-wait-s", 0.0)
    if "monitoring-url" in told:
        _common.base_url(told["monitoring-url"])
    address = _address(asked.url, asked.model, api, asked.api_key_env, told)
    is_streaming = asked.is_streaming and api in STREAMING
    found = asked.target(provider=NAME, api=api, base_url=address, is_streaming=is_streaming)
    if asked.api_key_env is None:
        return dataclasses.replace(found, secrets=(authorization(found)["authorization"].removeprefix("Bearer "),))
    if (key := _common.key(asked.api_key_env)) is None:
        raise ValueError(
            f"Vertex AI wants an access token, and the environment variable {asked.api_key_env} is not set."
        )
    return dataclasses.replace(found, secrets=(key,))


def request(target: Target, prompt: str, output_tokens: int) -> HttpRequest:
    """The POST of one prompt, with a token that is valid now, or with the last where none can be had any more."""
    url = target.base_url + METHODS[target.api]
    if target.api == "chat":
        asked = openai.request(target, prompt, output_tokens)
        return dataclasses.replace(asked, url=url, headers={**asked.headers, **_headers(target)})
    is_predict = target.api.startswith("predict")
    style = _formats.check_style(target.options, "prompt" if is_predict else "messages")
    fields = _formats.body(
        style,
        prompt,
        output_tokens,
        model=target.model,
        is_streaming=target.is_streaming,
        ignore_eos=target.ignore_eos,
    )
    if is_predict and style == "messages":
        fields["@requestFormat"] = "chatCompletions"
    fields = _formats.merged(fields, target.extra_body)
    content = json.dumps({"instances": [fields]} if is_predict else fields).encode()
    accept = {"Accept": "text/event-stream" if target.is_streaming else "application/json"}
    return HttpRequest("POST", url, {**accept, **_common.JSON_HEADERS, **_headers(target)}, content)


def reader(target: Target) -> Reader:
    """A reader of one answer."""
    return openai.reader(target) if target.api == "chat" else PredictionReader(target)


class PredictionReader(_formats.FormatReader):
    """Reads predictions; an operation that is not done yet leaves in `follow` what to ask next."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        self.follow: HttpRequest | None = None
        self.remark: str | None = None
        self.wait_s = seconds(target.options, "poll-s", POLL_S)

    def _chunks(self, value: Any) -> Iterator[Mapping[str, Any]]:
        self.follow = None
        if not isinstance(value, dict) or not _is_operation(value):
            yield from super()._chunks(value)
        elif not value.get("done"):
            self.follow = _poll(self._target, value["name"])
            self.remark = (
                f"An operation that was asked for every {self.wait_s:g} s: its end was seen late by up to as much."
            )
        elif message := error_message({"error": value.get("error")}):
            raise StreamError(f"The operation failed: {message}")
        else:
            yield from super()._chunks(value.get("response"))


def seconds(options: Mapping[str, str], name: str, otherwise: float) -> float:
    """A time told by an option. Raises ValueError for what is none."""
    try:
        found = float(options.get(name, otherwise))
    except ValueError:
        found = -1.0
    if not 0 <= found < 3600:
        raise ValueError(
            f"'{options[name]}' is no time of up to an hour. Give seconds with --provider-options {name}=..."
        )
    return found


def authorization(target: Target) -> dict[str, str]:
    """The headers that prove who asks, for `target`'s service and for Cloud Monitoring.

    Raises LookupError where google-auth is missing, ValueError where it finds no credentials or gets no token.
    """
    if target.api_key_env is not None:
        return {"authorization": f"Bearer {target.secrets[0]}"}
    return _credentials(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")).headers()


def _headers(target: Target) -> dict[str, str]:
    found = authorization(target)
    return {"Authorization": found.pop("authorization"), **found}


def project(options: Mapping[str, str], api_key_env: str | None) -> str:
    """The project: told, or that of the default credentials where these are used. Raises ValueError where none names one."""
    variables = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
    if api_key_env is not None or _cloud.name(options, "project", *variables) is not None:
        return _cloud.needed(options, "project", *variables)
    of_credentials = _credentials(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")).project
    return _cloud.needed({"project": of_credentials or ""}, "project", *variables)


def location(options: Mapping[str, str]) -> str:
    """The location, e.g. us-central1 or global. Raises ValueError where nothing names one."""
    return _cloud.needed(options, "location", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "CLOUD_ML_REGION")


def _address(url: str | None, model: str, api: str, api_key_env: str | None, options: Mapping[str, str]) -> str:
    """Everything before the method: https://HOST/v1/projects/P/locations/L/endpoints/E."""
    root = None if url is None else _common.base_url(url, tuple(METHODS.values()))
    if root is not None and "/projects/" in root:
        return root
    place = location(options)
    if root is None:
        root = "https://" + ("" if place == "global" else f"{place}-") + "aiplatform.googleapis.com"
    publisher = _cloud.name(options, "publisher")
    if publisher is not None:
        named = f"publishers/{publisher}/models/{_cloud.needed({'model': model}, 'model')}"
    elif api == "chat":
        named = f"endpoints/{_cloud.name(options, 'endpoint') or 'openapi'}"
    else:
        named = f"endpoints/{_cloud.needed(options, 'endpoint')}"
    return f"{root.removesuffix('/v1')}/v1/projects/{project(options, api_key_env)}/locations/{place}/{named}"


def _is_operation(value: Mapping[str, Any]) -> bool:
    name = value.get("name")
    return isinstance(name, str) and re.fullmatch(r"projects/[\w./-]+/operations/[\w-]+", name) is not None


def _poll(target: Target, name: str) -> HttpRequest:
    """The question whether an operation is done: of its endpoint or model where it belongs to one, else of the service."""
    headers = {**_common.JSON_HEADERS, **_headers(target)}
    if re.search(r"/(endpoints|models)/[^/]+/operations/", name):
        content = json.dumps({"operationName": name}).encode()
        return HttpRequest("POST", f"{target.base_url}:fetchPredictOperation", headers, content)
    root = target.base_url.partition("/projects/")[0]
    return HttpRequest("GET", f"{root}/{name}", headers, b"")


class _Credentials:
    """Application default credentials of this process, renewed in the background while the old token still works."""

    def __init__(self) -> None:
        google, self._exceptions, self._transport = _import_google()
        try:
            self._found, self.project = google.default(scopes=[SCOPE])
        except self._exceptions.GoogleAuthError:
            raise ValueError(
                "Google finds no application default credentials. Set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth "
                "application-default login`, or name a variable that holds an access token with --api-key-env."
            ) from None
        self._lock = threading.Lock()
        self._renewal: threading.Thread | None = None

    def headers(self) -> dict[str, str]:
        """A fresh dict with `authorization`, and the project that pays where the credentials name one."""
        with self._lock:
            state = self._found.token_state.name
            if self._found.token is None:
                self._renew()
            elif state == "INVALID":
                self._try_renew()
            elif state == "STALE" and (self._renewal is None or not self._renewal.is_alive()):
                self._renewal = threading.Thread(target=self._try_renew, daemon=True)
                self._renewal.start()
            made: dict[str, str] = {}
            self._found.apply(made)
        return made

    def _renew(self) -> None:
        try:
            self._found.refresh(self._transport.Request())
        except self._exceptions.GoogleAuthError as error:
            said = str(error.args[0]) if error.args else type(error).__name__
            raise ValueError(
                f"Google gave no access token for the application default credentials: {said[:200]}"
            ) from None

    def _try_renew(self) -> None:
        """A renewal that fails is tried again with the next request. The old token is sent until then: once it has expired
        the server refuses it, which is a row of the load and not its end."""
        try:
            self._renew()
        except ValueError:
            return


@functools.cache
def _credentials(_file: str | None) -> _Credentials:
    """Those of the process, found once for each value of GOOGLE_APPLICATION_CREDENTIALS."""
    return _Credentials()


def _import_google() -> tuple[Any, Any, Any]:
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError:
        raise LookupError(
            "Access tokens of Google's application default credentials need google-auth, which is not installed: pip "
            "install 'rooflake[cloud]'. Or name a variable that holds a token with --api-key-env."
        ) from None
    return google.auth, google.auth.exceptions, google.auth.transport.requests
