"""Output tokens of answers that the server does not count, by a tokenizer: `token_count_source` says so.

The text is tokenized without special tokens, so that an end-of-text token, which servers count, is left out: a natural stop may count one
token less than the server's usage would. Counts are as good as the tokenizer is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from collectors.endpoint._load import Outcome
from collectors.endpoint._stream import Reply, gaps_s, tpot_s

Count: TypeAlias = Callable[[str], int]
"""Tokens of a text."""


def counter(tokenizer: str | None) -> Callable[[Outcome], Outcome]:
    """What counts the answers of an outcome that the server did not count; without a tokenizer, what leaves it as it is.

    Raises LookupError for a tokenizer that cannot be loaded.
    """
    if tokenizer is None:
        return lambda outcome: outcome
    count = load(tokenizer)

    def counted(outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            warmup=[recounted(reply, count) for reply in outcome.warmup],
            measured=[recounted(reply, count) for reply in outcome.measured],
        )

    return counted


def load(tokenizer: str) -> Count:
    """A tokenizer from a file `tokenizer.json`, a folder with one, or a hub id. Raises LookupError saying what is missing."""
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _of_file(file)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise LookupError(
            f"The tokenizer '{tokenizer}' is no folder with a tokenizer.json, and a hub id needs transformers: pip install transformers."
        ) from None
    try:
        found: Any = AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # transformers raises what its parts raise
        raise LookupError(
            f"The tokenizer '{tokenizer}' cannot be loaded: {_start(error)}. Set it with --tokenizer."
        ) from None
    return lambda text: len(found.encode(text, add_special_tokens=False))


def recounted(reply: Reply, count: Count, parts: Sequence[str] | None = None) -> Reply:
    """A reply whose tokens the server did not count, counted; another, or one without text, as it is.

    With `parts`, the texts of its chunks in order, the tokens of each chunk are known too, and with them ITL.
    """
    text = reply.reasoning + reply.text
    if reply.token_count_source == "usage" or not text:  # noqa: S105
        return reply
    output_tokens, times = count(text), reply.chunk_times_s
    chunk_tokens = None if parts is None else tokens_of(parts, count)
    gaps = gaps_s(times, chunk_tokens) if chunk_tokens is not None and len(chunk_tokens) == len(times) else []
    return replace(
        reply,
        output_tokens=output_tokens,
        token_count_source="tokenizer",  # noqa: S106
        tpot_s=tpot_s(reply.ttft_s, reply.e2el_s, output_tokens, len(times)),
        itl_s=sum(gaps) / len(gaps) if gaps else None,
        chunk_tokens=chunk_tokens if gaps else None,
    )


def tokens_of(parts: Sequence[str], count: Count) -> list[int] | None:
    """Tokens that each part of a text adds to those before it; None where a part adds none: it only finishes a token begun before.

    >>> tokens_of(["a b", " c"], lambda text: len(text.split()))
    [2, 1]
    """
    text, totals = "", [0]
    for part in parts:
        text += part
        totals.append(count(text))
    gains = [after - before for before, after in pairwise(totals)]
    return gains if gains and min(gains) > 0 else None


def _of_file(file: Path) -> Count:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise LookupError("Counting tokens needs tokenizers, which is not installed: pip install tokenizers.") from None
    try:
        found = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise LookupError(f"{file.name} is no tokenizer: {_start(error)}. Set it with --tokenizer.") from None
    return lambda text: len(found.encode(text, add_special_tokens=False).ids)


def _start(error: Exception) -> str:
    """The first line of what a library says."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
