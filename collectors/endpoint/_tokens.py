"""Output tokens of answers that the server does not count, by a tokenizer: `token_count_source` says so.

The text is tokenized without special tokens, so that an end-of-text token, which servers count, is left out: a natural stop may count one
token less than the server's usage would. Counts are as good as the tokenizer is the model's own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from collectors.endpoint._load import Outcome
from collectors.endpoint._stream import Reply, gaps_s, tpot_s

Ends: TypeAlias = Callable[[str], list[int]]
"""Where each token of a text ends, in characters from its start."""


def counter(tokenizer: str | None) -> Callable[[Outcome], Outcome]:
    """What counts the answers of an outcome that the server did not count; without a tokenizer, what leaves it as it is.

    Raises LookupError for a tokenizer that cannot be loaded.
    """
    if tokenizer is None:
        return lambda outcome: outcome
    ends = load(tokenizer)

    def counted(outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            warmup=[recounted(reply, ends) for reply in outcome.warmup],
            measured=[recounted(reply, ends) for reply in outcome.measured],
        )

    return counted


def load(tokenizer: str) -> Ends:
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
    if not found.is_fast:  # it cannot say where a token ends: all at the end, so that no chunk has tokens of its own
        return lambda text: [len(text)] * len(found.encode(text, add_special_tokens=False))
    return lambda text: [
        end for _, end in found(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ]


def recounted(reply: Reply, ends: Ends) -> Reply:
    """A reply whose tokens the server did not count, counted; another, or one without text, as it is.

    Where the texts of its chunks are known, the tokens of each chunk are known too, and with them ITL.
    """
    text = reply.reasoning + reply.text
    if reply.token_count_source == "usage" or not text:  # noqa: S105
        return reply
    found, times, parts = ends(text), reply.chunk_times_s, reply.chunk_texts
    chunk_tokens = tokens_of(parts, found) if parts is not None and "".join(parts) == text else None
    gaps = gaps_s(times, chunk_tokens)
    return replace(
        reply,
        output_tokens=len(found),
        token_count_source="tokenizer",  # noqa: S106
        tpot_s=tpot_s(reply.ttft_s, reply.e2el_s, len(found), len(times)),
        itl_s=sum(gaps) / len(gaps) if gaps else None,
        chunk_tokens=chunk_tokens,
    )


def tokens_of(parts: Sequence[str], ends: Sequence[int]) -> list[int] | None:
    """Tokens that each part of a text completes; None where a part completes none: it only begins one.

    >>> tokens_of(["a b", " c"], [1, 3, 5])
    [2, 1]
    """
    borders, counts = list(accumulate(map(len, parts))), [0] * len(parts)
    for end in ends:
        counts[bisect_left(borders, end)] += 1
    return counts if counts and min(counts) > 0 else None


def _of_file(file: Path) -> Ends:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise LookupError("Counting tokens needs tokenizers, which is not installed: pip install tokenizers.") from None
    try:
        found = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise LookupError(f"{file.name} is no tokenizer: {_start(error)}. Set it with --tokenizer.") from None
    return lambda text: [end for _, end in found.encode(text, add_special_tokens=False).offsets]


def _start(error: Exception) -> str:
    """The first line of what a library says."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
