"""A model: the mean, in log space, of a few variants, each a base and a correction of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.learned import bases, residuals
from models.learned.inputs import Array, Inputs


@dataclass(frozen=True)
class Variant:
    """What is fitted: a base, a correction of what it leaves, and what the correction sees."""

    base: bases.Kind
    residual: residuals.Kind = "none"
    features: residuals.Features = "all"
    within: tuple[str, ...] = ()
    """Groups of which a row must belong to one that was seen; elsewhere the base stands uncorrected."""
    num_trees: int | None = None
    """Trees of the correction, where a subject needs other than `residuals.NUM_TREES`."""

    def __str__(self) -> str:
        parts = [self.base, "" if self.residual == "none" else f" + {self.residual}"]
        return "".join(parts) + (" (work alone)" if self.features == "work" else "")


Recipe = Sequence[Variant]


@dataclass(frozen=True)
class Within:
    """A correction of rows whose groups were all seen, and none of others."""

    seen: Mapping[str, tuple[str, ...]]
    residual: residuals.Residual

    def values(self, inputs: Inputs) -> Array:
        """Correction to the log of the base; shape (n,)."""
        is_seen = np.all([inputs.groups[name].among(known) for name, known in self.seen.items()], axis=0)
        found = np.zeros(len(inputs))
        if is_seen.any():
            found[is_seen] = self.residual.values(inputs.take(is_seen))
        return found

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes it of again."""
        return {
            "kind": "within",
            "seen": {name: list(known) for name, known in self.seen.items()},
            "residual": self.residual.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Within:
        """From what `to_dict` gave."""
        return cls({name: tuple(known) for name, known in data["seen"].items()}, residuals.from_dict(data["residual"]))


@dataclass(frozen=True)
class Model:
    """Fitted variants with their bases and corrections."""

    parts: tuple[tuple[Variant, bases.Base, residuals.Residual], ...]

    def log_values(self, inputs: Inputs) -> Array:
        """Log of the target; shape (n,)."""
        return self.logs(inputs)[1]

    def log_bases(self, inputs: Inputs) -> Array:
        """Log of the mean base alone, before any correction; shape (n,)."""
        return self.logs(inputs)[0]

    def logs(self, inputs: Inputs) -> tuple[Array, Array]:
        """Logs of the mean base, before any correction, and of the target; shape (n,) each."""
        known: dict[bases.Kind, Array] = {}
        for variant, base, _ in self.parts:
            if variant.base not in known:
                known[variant.base] = base.log_values(inputs)
        before: Array = np.mean([known[variant.base] for variant, _, _ in self.parts], axis=0)
        after: Array = before + np.mean([residual.values(inputs) for _, _, residual in self.parts], axis=0)
        return before, after

    def to_dict(self) -> dict[str, Any]:
        return {
            "parts": [
                {"variant": asdict(variant), "base": base.to_dict(), "residual": residual.to_dict()}
                for variant, base, residual in self.parts
            ]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Model:
        """A model from what `to_dict` gave."""
        return cls(
            tuple(
                (_variant(part["variant"]), bases.from_dict(part["base"]), _residual(part["residual"]))
                for part in data["parts"]
            )
        )


def fit(recipe: Recipe, inputs: Inputs, log_target: Array, dimension: str, weights: Array | None = None) -> Model:
    """Fit every variant of a recipe on n rows. `dimension` names the groups that a correction must not lean on; `weights` (n,)
    make some rows count more (those of a device that has few)."""
    fitted: dict[bases.Kind, bases.Base] = {}
    parts = []
    for variant in recipe:
        if variant.base not in fitted:
            fitted[variant.base] = bases.fit(variant.base, inputs, log_target, weights)
        base = fitted[variant.base]
        left = log_target - base.log_values(inputs)
        residual = residuals.fit(
            variant.residual, inputs, left, variant.features, dimension, weights, variant.num_trees
        )
        if variant.within:
            residual = Within({name: inputs.groups[name].names for name in variant.within}, residual)
        parts.append((variant, base, residual))
    return Model(tuple(parts))


def _variant(data: Mapping[str, Any]) -> Variant:
    return Variant(**{**data, "within": tuple(data.get("within", ()))})


def _residual(data: Mapping[str, Any]) -> residuals.Residual:
    return Within.from_dict(data) if data["kind"] == "within" else residuals.from_dict(data)
