"""What the training rows held: labels seen in every dimension, and the range of every quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.learned import splits
from models.learned.inputs import Inputs, Labels, Mask, joined

BEYOND = 1.25
"""Factor by which a quantity may leave the training range and still count as inside."""
SHOWN = {
    "num_parameters": "parameters",
    "batch_size": "sequences a batch",
    "tokens": "tokens attended",
    "roofline_s": "s of bound",
}
"""Names of quantities in a sentence; any other is its own."""


@dataclass(frozen=True)
class Support:
    """Categories that a row must share, labels seen by dimension, and least and most of the quantities."""

    categories: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, tuple[float, float]]
    together: tuple[str, ...]
    """LLMs with the stacks they were seen on, as `stack/llm`; empty where rows have no such groups."""

    @classmethod
    def of(cls, inputs: Inputs, dimensions: Sequence[str]) -> Support:
        """The support of training rows. Shapes are many: theirs are remembered only where an interval is calibrated for new ones."""
        ranges = {
            name: (float(np.nanmin(values)), float(np.nanmax(values)))
            for name, values in zip(inputs.range_names, inputs.ranges.T, strict=True)
            if np.isfinite(values).any()
        }
        return cls(
            {name: labels.names for name, labels in inputs.categories.items()},
            {name: labels.names for name, labels in inputs.groups.items() if name != "shape" or name in dimensions},
            ranges,
            tuple(sorted(_together(inputs).names)) if inputs.groups.keys() >= _PAIR else (),
        )

    def strange(self, inputs: Inputs) -> dict[str, Mask]:
        """Of every category the rows whose label was never seen: nothing is known about them; shape (n,) each."""
        return {name: ~inputs.categories[name].among(known) for name, known in self.categories.items()}

    def unseen(self, inputs: Inputs) -> dict[str, Mask]:
        """Of every dimension of an interval the rows in a group never seen, and of `beyond_size` those out of range."""
        found = {name: ~inputs.groups[name].among(known) for name, known in self.groups.items()}
        found[splits.BEYOND] = np.any([*self.beyond(inputs).values(), np.zeros(len(inputs), np.bool_)], axis=0)
        return found

    def parted(self, inputs: Inputs) -> Mask:
        """Rows whose LLM and stack were both seen, but never together: as strange as an LLM never seen; shape (n,)."""
        if not self.together:
            return np.zeros(len(inputs), np.bool_)
        is_seen = [inputs.groups[name].among(self.groups[name]) for name in _PAIR]
        return np.asarray(np.all(is_seen, axis=0) & ~_together(inputs).among(self.together), np.bool_)

    def beyond(self, inputs: Inputs) -> dict[str, Mask]:
        """Of every quantity the rows out of the training range by more than BEYOND; shape (n,) each."""
        found = {}
        for name, values in zip(inputs.range_names, inputs.ranges.T, strict=True):
            if name in self.ranges:
                least, most = self.ranges[name]
                found[name] = np.asarray((values < least / BEYOND) | (values > most * BEYOND), np.bool_)
        return found

    def reasons(self, inputs: Inputs, row: int) -> list[str]:
        """Sentences that say what of a row lies outside the training rows."""
        one = inputs.take(np.array([row]))
        found = [
            f"{name.replace('_', ' ')} '{one.categories[name].names[0]}' is in no training row "
            f"(seen: {_several(self.categories[name])})."
            for name, mask in self.strange(one).items()
            if mask[0]
        ]
        found += [
            f"{name} '{one.groups[name].names[0]}' was never seen (seen: {_several(known)}): the interval is that of an "
            f"unseen {name}."
            for name, known in self.groups.items()
            if not one.groups[name].among(known)[0]
        ]
        if self.parted(one)[0]:
            found.append(
                f"llm '{one.groups['llm'].names[0]}' was never seen on '{one.groups['stack'].names[0]}': the interval is that of an "
                "unseen llm."
            )
        for name, mask in self.beyond(one).items():
            if mask[0]:
                least, most = self.ranges[name]
                value = float(one.ranges[0, inputs.range_names.index(name)])
                shown = SHOWN.get(name, name.replace("_", " "))
                found.append(f"{value:.4g} {shown} is outside the training rows ({least:.4g} to {most:.4g}).")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "categories": {name: list(values) for name, values in self.categories.items()},
            "groups": {name: list(values) for name, values in self.groups.items()},
            "ranges": {name: list(values) for name, values in self.ranges.items()},
            "together": list(self.together),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Support:
        """A support from what `to_dict` gave."""
        return cls(
            {name: tuple(values) for name, values in data["categories"].items()},
            {name: tuple(values) for name, values in data["groups"].items()},
            {name: (least, most) for name, (least, most) in data["ranges"].items()},
            tuple(data["together"]),
        )


_PAIR = {"stack", "llm"}


def _together(inputs: Inputs) -> Labels:
    return joined(inputs.groups["stack"], inputs.groups["llm"])


def _several(known: tuple[str, ...], most: int = 8) -> str:
    return ", ".join(sorted(known)[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")
