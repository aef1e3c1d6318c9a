"""Prompts of a wanted length that begin differently, the same ones again from the same seed."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

PREFIX_WORDS = 6
"""Words of a unique beginning: 1.8e9 of them, each of about the same number of tokens."""

WORDS = (
    "river", "turned", "past", "an", "old", "mill", "where", "people", "met", "in", "the", "evening", "to", "talk", "about",
    "rain", "and", "work", "while", "children", "ran", "along", "bank", "a", "boat", "went", "down", "with", "wood", "stone",
    "for", "new", "bridge", "near", "town",
)  # fmt: skip

_NUM_PREFIXES = len(WORDS) ** PREFIX_WORDS
_STRIDE = 1_000_000_007
"""A prime, so that its multiples meet every prefix once."""


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from: a given text, or `num_words` plain words. A unique beginning keeps prefix caches out."""

    text: str | None
    num_words: int
    is_prefix_unique: bool
    seed: str = "0"
    """Prompts of different seeds begin differently, but for chance."""
    sized_tokens: int = 0
    """Tokens that `num_words` make, as the server counts them."""
    tokens_per_word: float = 1.0

    def make(self, index: int, input_tokens: int | None = None) -> str:
        """The prompt of a request; of about `input_tokens` tokens where they are given and no text is."""
        body = self.text
        if body is None:
            body = _words(self._num_words(input_tokens))
        if not self.is_prefix_unique:
            return body
        return " ".join([*_prefix(_offset(self.seed) + index * _STRIDE), body])

    def _num_words(self, input_tokens: int | None) -> int:
        if input_tokens is None:
            return self.num_words
        return max(0, round(self.num_words + (input_tokens - self.sized_tokens) / self.tokens_per_word))


@functools.lru_cache(maxsize=256)
def _words(count: int) -> str:
    return " ".join(WORDS[index % len(WORDS)] for index in range(count))


@functools.lru_cache(maxsize=8)
def _offset(seed: str) -> int:
    return random.Random(seed).randrange(_NUM_PREFIXES)  # noqa: S311 (words, not keys)


def _prefix(number: int) -> list[str]:
    """The words that write a number to the base of their count; different for different numbers below 1.8e9.

    >>> _prefix(36)
    ['turned', 'turned', 'river', 'river', 'river', 'river']
    """
    words = []
    for _ in range(PREFIX_WORDS):
        number, digit = divmod(number, len(WORDS))
        words.append(WORDS[digit])
    return words


def next_num_words(counts: list[tuple[int, int]], input_tokens: int) -> int:
    """Words for `input_tokens` tokens, from (words, tokens) seen: in proportion to one, on the line through the last two.

    >>> next_num_words([(100, 150)], 300)
    200
    >>> next_num_words([(100, 150), (200, 270)], 390)
    300
    """
    words, tokens = counts[-1]
    wanted = words + (input_tokens - tokens) / tokens_per_word(counts)
    if len(counts) == 1:
        wanted = input_tokens / tokens_per_word(counts)
    return max(0, min(round(wanted), 8 * input_tokens))


def tokens_per_word(counts: list[tuple[int, int]]) -> float:
    """Slope through the last two (words, tokens) seen; the ratio of the last one where it is alone or they are the same.

    >>> tokens_per_word([(100, 150), (200, 270)])
    1.2
    """
    words, tokens = counts[-1]
    if len(counts) > 1 and words != counts[-2][0] and tokens != counts[-2][1]:
        return (tokens - counts[-2][1]) / (words - counts[-2][0])
    return tokens / words if words and tokens else 1.0
