"""Names that may be kept: of a model without the paths, hosts and credentials around it, of a failure without secrets."""

from __future__ import annotations

import re
from typing import Any

_HUBS = ("hf.co", "huggingface.co", "www.huggingface.co", "hf-mirror.com", "modelscope.cn", "www.modelscope.cn")
"""Hosts whose addresses begin with owner and model."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://(?:[^/?#]*@)?([^/?#]*)([^?#]*).*", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"[^/\s@:]+:[^/\s@]*@")
_QUERY = re.compile(r"[?#].*=.*", re.DOTALL)


def model_name(text: Any) -> str | None:
    """The name in what a tool calls its model: of a path the last part that means something, of an address no credentials.

    A name that is one already stays as it is.

    >>> model_name("/models/models--Qwen--Qwen3-0.6B/snapshots/c1899de2/"), model_name("Qwen/Qwen3-0.6B"), model_name("/mnt/a/tiny/")
    ('Qwen/Qwen3-0.6B', 'Qwen/Qwen3-0.6B', 'tiny')
    """
    if not isinstance(text, str):
        return None
    plain = text.strip()
    if address := _ADDRESS.fullmatch(plain):
        parts = _parts(address[2])
        name = "/".join(parts[:2]) if address[1].lower() in _HUBS else "/".join(parts[-1:])
        return _cached(address[2]) or name or None
    plain = _QUERY.sub("", _USER.sub("", plain, count=1)).strip()
    parts = _parts(plain)
    is_path = re.match(r"[/\\.~]|[A-Za-z][A-Za-z+]*:[/\\]", plain) is not None
    return _cached(plain) or "/".join(parts[-1:] if is_path else parts) or None


def _cached(path: str) -> str | None:
    """Owner and model of a folder of the hub's cache."""
    found = re.search(r"models--([^/\\]+?)--([^/\\]+)", path)
    return f"{found[1]}/{found[2]}" if found else None


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..", "~")]


def sentence(text: Any) -> str | None:
    """What a tool says of a failure: its first line without addresses, paths and keys, cut to what a person reads.

    Rather a word too many is hidden than one too few: what follows a word for a secret goes where it holds a digit or is long.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    line = text.strip().splitlines()[0][:2000]
    for pattern, replacement in _HIDDEN:
        line = pattern.sub(replacement, line)
    return line[:300]


_WORD = r"[\w-]*(?:key|token|secret|password|passwd|credential|signature|cookie|authorization)[\w-]*"
_HIDDEN = (
    (re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+", re.IGNORECASE), "<url>"),
    (re.compile(r"[^\s/@:'\"]+:[^\s/@'\"]*@[\w.-]+(?::\d+)?"), "<host>"),
    (re.compile(r"\b((?:set-)?cookie|(?:proxy-)?authorization)['\"]?\s*[:=].*", re.IGNORECASE), r"\1: <hidden>"),
    (re.compile(r"\b(bearer|basic)\s+[^\s'\"]+", re.IGNORECASE), r"\1 <hidden>"),
    (re.compile(rf"({_WORD}['\"]?\s*[:=]\s*['\"]?)[^\s'\",}}&<][^\s'\",}}&]*", re.IGNORECASE), r"\1<hidden>"),
    (
        re.compile(
            rf"\b({_WORD}(?:\s+(?:provided|given|supplied|is|was))*['\"]?\s*[:=]?\s*['\"]?)"
            r"(?!(?:provided|given|supplied|exceeded|required)\b)(?=\S{8}|\S*\d\S*[a-z_-]|\S*[a-z_-]\S*\d)"
            r"[^\s'\",}<]+",
            re.IGNORECASE,
        ),
        r"\1<hidden>",
    ),
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*)*"), "<hidden>"),
    (re.compile(r"\bAIza[\w-]{6,}"), "<hidden>"),
    (re.compile(r"\b(?:sk|hf|ghp|gho|xox|AKIA|ASIA)[-_A-Za-z0-9]{12,}"), "<hidden>"),
    (re.compile(r"(?<![\w<])/(?:[\w.-]+/)+"), ""),
)  # fmt: skip
