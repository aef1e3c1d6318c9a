"""Does it fit? The chance that a measured peak stays within a capacity, and a bound that it is safe to promise.

Both come from what the predictor got wrong on whole groups (LLMs) it had not seen: rows of one LLM are wrong together, so every LLM
has the same say, and what counts for a promise is the worst row of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.learned import conformal, model
from models.learned.inputs import Array, Inputs, Mask

LEVEL = 0.95
"""Share of LLMs never seen of which no row exceeds the safe bound."""
TAILS = 3.0
"""Degrees of freedom of the Student kernel that smooths the errors: tails heavy enough that nothing is ever certain."""
LEAST_SPREAD = 0.002
"""Width of that kernel, in log space, below which errors are noise of the allocator (2 MiB blocks)."""


@dataclass(frozen=True)
class Errors:
    """log(measured / predicted) and measured - predicted, in bytes, of left-out rows, and the group each was left out with; (n,) each."""

    logs: Array
    differences: Array
    groups: npt.NDArray[np.int64]

    @classmethod
    def of(cls, actual: Array, value: Array, groups: Sequence[str] | npt.NDArray[Any]) -> Errors:
        """Errors of held-out rows that have a prediction."""
        known = np.isfinite(value) & (value > 0) & (actual > 0)
        _, codes = np.unique(np.asarray(groups)[known], return_inverse=True)
        actual, value = actual[known], value[known]
        return cls(np.log(actual / value), actual - value, codes.astype(np.int64))

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Errors:
        """Errors that a predictor's card holds (`held_out`): those of its first leave-out split. None at all without one."""
        held = card.get("held_out") or {"actual": [], "value": [], "fold": []}
        return cls.of(np.array(held["actual"], np.float64), np.array(held["value"], np.float64), held["fold"])

    @classmethod
    def left_out(cls, recipe: model.Recipe, inputs: Inputs, log_target: Array, dimension: str) -> Errors:
        """Errors of refits without each group of a dimension in turn."""
        logs, groups = conformal.left_out_errors(recipe, inputs, log_target, dimension, None)
        actual = np.exp(log_target)
        return cls.of(actual, actual / np.exp(logs), groups.texts())

    @property
    def num_groups(self) -> int:
        return len(np.unique(self.groups))

    def chance(self, value: Array, capacity: Array | float, is_known: Mask | None = None) -> Array:
        """Probability that the measured peak is at most `capacity` where `value` is predicted; shape (n,).

        The distribution of the errors, each group with the same weight, smoothed: it rises with the capacity and is never 0 or 1.
        NaN where the value is unknown, where `is_known` says that no error tells anything about the row, and with fewer than two
        groups.
        """
        from scipy.special import stdtr

        room = np.log(np.broadcast_to(capacity, value.shape) / value)
        if self.num_groups < 2:
            return np.full(len(value), np.nan)
        weights = self._weights()
        mean = float(weights @ self.logs)
        spread = float(np.sqrt(weights @ (self.logs - mean) ** 2))
        width = max(spread * self.num_groups**-0.2, LEAST_SPREAD)
        found = np.array([weights @ stdtr(TAILS, (one - self.logs) / width) for one in room.ravel()])
        return np.where(np.isfinite(room) & (True if is_known is None else is_known), found, np.nan)

    def safe(self, value: Array, level: float = LEVEL) -> Array:
        """The bound that may be promised: with `level` confidence no row of a group never seen needs more; shape (n,).

        An error may be a share of the peak (a term counted wrong) or bytes whatever the peak (context, fragmentation, what else the
        process holds): the larger of both bounds counts. Infinite with fewer than two groups.
        """
        share, more = self._beyond(self.logs, level), self._beyond(self.differences, level)
        return np.asarray(np.maximum(value * np.exp(share), value + more), np.float64)

    def _beyond(self, errors: Array, level: float) -> float:
        """One-sided prediction bound of the next group's worst error: `mean + t s sqrt(1 + 1/K)` over the K groups' worst errors (t of
        K - 1 degrees of freedom; Hahn and Meeker 1991, section 4.2), and no less than the worst of all, or zero."""
        from scipy.special import stdtrit

        if self.num_groups < 2:
            return float("inf")
        worst = np.array([errors[self.groups == group].max() for group in np.unique(self.groups)])
        count = len(worst)
        reach = stdtrit(count - 1, level) * worst.std(ddof=1) * np.sqrt(1 + 1 / count)
        return float(max(worst.mean() + reach, worst.max(), 0.0))

    def _weights(self) -> Array:
        sizes = np.bincount(self.groups, minlength=int(self.groups.max()) + 1)
        weights: Array = 1.0 / (self.num_groups * sizes[self.groups])
        return weights


def largest(batches: Sequence[int], safe: Array, capacity: float) -> int | None:
    """Largest of ascending batches whose safe bound, and that of every smaller one, is within a capacity; None where none is."""
    fitting = np.isfinite(safe) & (safe <= capacity)
    count = int(np.argmin(fitting)) if not fitting.all() else len(fitting)
    return None if count == 0 else int(batches[count - 1])
