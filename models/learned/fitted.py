"""A model with what it needs to be trusted: support and intervals. Vectorised; reasons are made for one row when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.learned import conformal, model
from models.learned.inputs import Array, Inputs, Mask
from models.learned.support import Support


@dataclass(frozen=True)
class Answers:
    """Predictions of n rows in the unit of the target, shape (n,) each; NaN where there is none.

    is_supported: every category was seen, and no quantity is out of range; a group never seen (device, LLM family ...) widens the
    interval and stays supported where an error on unseen groups was measured. interval: `same` for the interval of rows like
    those seen, `unseen` for that of a group never seen or a size beyond range.
    """

    value: Array
    lower: Array
    upper: Array
    base: Array
    bound: Array
    is_supported: Mask
    is_unseen: Mask

    @property
    def interval(self) -> list[str]:
        return ["unseen" if unseen else "same" for unseen in self.is_unseen]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, what its rows held, and how wrong it was on rows it had not seen."""

    fitted: model.Model
    support: Support
    intervals: conformal.Intervals

    @classmethod
    def on(
        cls,
        recipe: model.Recipe,
        inputs: Inputs,
        log_target: Array,
        dimensions: Sequence[str],
        weights: Array | None = None,
    ) -> Fitted:
        """Fit on n complete rows; `dimensions` of the intervals, the first is what corrections are chosen on."""
        inner = next((name for name in dimensions if name in inputs.groups), next(iter(inputs.groups)))
        return cls(
            model.fit(recipe, inputs, log_target, inner, weights),
            Support.of(inputs, dimensions),
            conformal.fit(recipe, inputs, log_target, dimensions, weights),
        )

    def predict(self, inputs: Inputs) -> Answers:
        """Predict n rows. A row with an unseen category has a value and no interval: no error was ever measured there."""
        is_complete = inputs.is_complete
        log_base, log_value = np.full((2, len(inputs)), np.nan)
        if is_complete.any():
            complete = inputs if is_complete.all() else inputs.take(is_complete)
            log_base[is_complete], log_value[is_complete] = self.fitted.logs(complete)
        unseen = self.support.unseen(inputs)
        width = self.intervals.half_widths(inputs, unseen)
        is_parted = self.support.parted(inputs) & ("llm" in self.intervals.widths)
        width[is_parted] = np.fmax(width[is_parted], self.intervals.widths.get("llm", np.nan))
        is_strange = _any(self.support.strange(inputs), len(inputs))
        is_known = is_complete & ~is_strange & np.isfinite(width)
        width = np.where(is_known, width, np.nan)
        value = np.exp(log_value)
        return Answers(
            value,
            value * np.exp(-width),
            value * np.exp(width),
            np.exp(log_base),
            inputs.bound,
            np.asarray(is_known & ~_any(self.support.beyond(inputs), len(inputs)), np.bool_),
            _any(unseen, len(inputs)) | is_parted,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.fitted.to_dict(),
            "support": self.support.to_dict(),
            "intervals": self.intervals.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fitted:
        """A fitted model from what `to_dict` gave."""
        return cls(
            model.Model.from_dict(data["model"]),
            Support.from_dict(data["support"]),
            conformal.Intervals.from_dict(data["intervals"]),
        )


def _any(masks: Mapping[str, Mask], length: int) -> Mask:
    return np.any([*masks.values(), np.zeros(length, np.bool_)], axis=0)
