"""Providers: how each kind of server is asked and how its answer is read. One file each; the wire is the transport's.

A provider is a module with

    NAME                                   as in --provider
    APIS                                   the routes it knows, as in --api; the first is the default
    target(asked)                          checked, credentials read from the environment or the SDK's default chain
    request(target, prompt, output_tokens) the HTTP request of one prompt: made before the clock starts
    reader(target)                         takes the answer's bytes as they arrive
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast

from collectors.endpoint._stream import Answer, joined

MAX_SENTENCE = 500
SECRET_HEADERS = ("authorization", "api-key", "x-amz-security-token")


@dataclass(frozen=True)
class HttpRequest:
    """One HTTP/1.1 request. `headers` may hold a key: it is shown nowhere."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the headers hold that must not be kept: a token may be newer than the target that it was got for."""
        return tuple(
            value.removeprefix("Bearer ") for name, value in self.headers.items() if name.lower() in SECRET_HEADERS
        )


@dataclass(frozen=True)
class Asked:
    """A server, a model and how to ask it, as somebody said it: a provider checks it and makes a Target of it."""

    url: str | None
    model: str
    api: str | None = None
    """None for the provider's first."""
    timeout_s: float = 60.0
    is_streaming: bool = True
    ignore_eos: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    api_key_env: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def target(self, **found: Any) -> Target:
        """The target: what was asked, and over it what the provider found."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "url"}
        return Target(**{**said, **found})


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, a model and how to ask it. Picklable: every client process gets one. Secrets are shown nowhere."""

    provider: str
    base_url: str
    model: str
    api: str
    timeout_s: float
    is_streaming: bool = True
    ignore_eos: bool = False
    """Ask for exactly the output tokens wanted, where the server can."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Merged into each request's JSON; a null there removes a field."""
    api_key_env: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts that must not be kept, should a server repeat them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What one provider needs beyond that: project, region, api-version."""

    def hide(self, text: str) -> str:
        """The text without any secret, should somebody have repeated one."""
        for secret in self.secrets:
            for form in (secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/")):
                text = text.replace(form, "[key]")
        return text

    def also_hiding(self, secrets: tuple[str, ...]) -> Target:
        """The target that hides these too."""
        new = tuple(secret for secret in secrets if secret not in self.secrets)
        return replace(self, secrets=(*new, *self.secrets)) if new else self

    def sentence(self, text: str) -> str:
        """A text that may quote the server, fit to be kept: no secret, one line, at most 500 characters."""
        plain = " ".join(self.hide(joined([text])).split())
        return plain if len(plain) <= MAX_SENTENCE else plain[: MAX_SENTENCE - 1] + "…"


class Reader(Protocol):
    """Takes the body of one answer. Raises collectors.endpoint._stream.StreamError where it is broken or reports a failure."""

    answer: Answer

    def feed(self, piece: bytes, at_s: float) -> None:
        """A piece of the body, decoded from its transfer encoding, and when its last byte came, seconds after the send."""

    def close(self, at_s: float) -> None:
        """The body has ended."""


class FollowingReader(Reader, Protocol):
    """A reader whose answer may have to be asked for again: a long-running operation."""

    follow: HttpRequest | None
    """Once a body is closed: what to ask next of the same server, its answer for the same reader; None where nothing is missing."""
    wait_s: float
    """How long to wait before that."""
    remark: str | None
    """What a reader of the result must know of it."""


class Provider(Protocol):
    """The functions of a provider module."""

    NAME: str
    APIS: tuple[str, ...]

    def target(self, asked: Asked) -> Target: ...

    def request(self, target: Target, prompt: str, output_tokens: int) -> HttpRequest: ...

    def reader(self, target: Target) -> Reader: ...


def names() -> list[str]:
    """Every provider's name."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> Provider:
    """The provider of a name. Raises ValueError listing the known ones."""
    if name not in names():
        raise ValueError(f"'{name}' is not a provider. Known: {', '.join(names())}. Set it with --provider.")
    return cast(Provider, importlib.import_module(f"{__name__}.{name}"))
